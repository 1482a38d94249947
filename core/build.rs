//! Writes the folder of the linked libtorch into every binary, test and bench of this package,
//! so that they start with no environment variable set.

fn main() {
    // Several packages share this file, so no path to it holds for all; cargo builds it anew when it
    // changes, and runs it again when that of libtorch did.
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
