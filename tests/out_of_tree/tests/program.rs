//! The program with a plugin from outside, used as a researcher would.

use std::path::Path;
use std::process::Command;

use mie_plugins as _;
use out_of_tree as _;

/// Runs the program in a folder; gives what it printed on both streams.
fn run(folder: &Path, arguments: &[&str], status: i32) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_out_of_tree"))
        .args(arguments)
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{printed}");
    printed
}

const EXPERIMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/experiment.toml");

#[test]
fn the_plugin_conforms() {
    mie_conformance::assert_conform("out_of_tree");
}

#[test]
fn an_experiment_with_it_repeats_itself_and_can_be_resumed() {
    mie_conformance::assert_run_conforms(EXPERIMENT);
}

#[test]
fn it_shows_up_wherever_plugins_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(run(folder, &["plugins"], 0).contains("\n  centralise "));
    let page = run(folder, &["plugins", "centralise"], 0);
    assert!(page.contains("    g_o <- g_o - s mean(g_o)\n"), "{page}");
    assert!(page.contains("arXiv:2004.01461"), "{page}");
    assert!(run(folder, &["config", "schema"], 0).contains("Share of the mean that is taken out"));
    let misspelt = "gradient_modifiers=[{ name = \"centralize\" }]";
    let refused = run(folder, &["config", "check", EXPERIMENT, "--set", misspelt], 2);
    assert!(refused.contains("did you mean `centralise`?"), "{refused}");
    let misspelt = "gradient_modifiers.0.strenght=1";
    let refused = run(folder, &["config", "check", EXPERIMENT, "--set", misspelt], 2);
    assert!(refused.contains("did you mean `strength`?"), "{refused}");
    let too_much = "gradient_modifiers.0.strength=2";
    let refused = run(folder, &["config", "check", EXPERIMENT, "--set", too_much], 2);
    assert!(refused.contains("expected [0, 1]"), "{refused}");
}

#[test]
fn it_trains_through_the_program_and_is_in_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let trained = run(folder.path(), &["train", EXPERIMENT, "--device", "cpu"], 0);
    assert!(trained.contains("\nrun       runs/out_of_tree/seed0-"), "{trained}");
    let run = std::fs::read_dir(folder.path().join("runs/out_of_tree")).unwrap().next().unwrap();
    let manifest = std::fs::read_to_string(run.unwrap().path().join("manifest.json")).unwrap();
    assert!(manifest.contains("\"centralise\""), "{manifest}");
}
