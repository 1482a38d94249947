//! What every plugin of mie must be: documented, exact, resumable.

use mie_plugins as _;
use PACKAGE as _;

#[test]
fn the_plugins_of_this_package_conform() {
    mie_conformance::assert_conform("PACKAGE");
}

#[test]
fn every_experiment_of_this_package_repeats_itself_and_can_be_resumed() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/experiments")).unwrap() {
        mie_conformance::assert_run_conforms(entry.unwrap().path());
    }
}
