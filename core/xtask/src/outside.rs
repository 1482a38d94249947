//! Packages outside of the workspace, as plugin authors have them.

use crate::demo::target_folder;
use crate::error::{Error, Result};
use crate::shell::{self, cargo};
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

const FAMILIES: [&str; 9] = [
    "dataset",
    "modality",
    "encoder",
    "fusion",
    "objective",
    "optimizer",
    "gradient_modifier",
    "controller",
    "strategy",
];

/// Tests the package that brings a plugin from outside.
pub(crate) fn existing(root: &Path) -> Result<()> {
    let folder = root.join("tests/out_of_tree");
    // The versions that the workspace is tested with.
    let lock = folder.join("Cargo.lock");
    fs::copy(root.join("Cargo.lock"), &lock).map_err(|source| Error::Io {
        action: "write",
        path: lock,
        source,
    })?;
    test(root, &folder)
}

/// Lets the program write a plugin of every family, and tests them as they stand.
pub(crate) fn new(root: &Path) -> Result<()> {
    let target = target_folder(root)?;
    let folder = target.join("new_plugins");
    match fs::remove_dir_all(&folder) {
        Err(source) if folder.exists() => {
            return Err(Error::Io { action: "remove", path: folder, source });
        }
        _ => {}
    }
    shell::run(cargo(root).args(["build", "--package", "mie"]))?;
    for family in FAMILIES {
        let mut new = Command::new(target.join("debug/mie"));
        new.current_dir(root).args(["new", "plugin", family, &format!("my_{family}")]);
        shell::run(new.arg("--package").arg(&folder))?;
    }
    test(root, &folder)
}

/// Tests a package with what the workspace has built already.
fn test(root: &Path, package: &Path) -> Result<()> {
    let mut command = cargo(package);
    command.arg("test").env("CARGO_TARGET_DIR", target_folder(root)?);
    // Spelt as for the workspace: spelt in another way, it would be built against anew.
    let libtorch = env::var_os("LIBTORCH").unwrap_or_else(|| root.join(".libtorch").into());
    shell::run(command.env("LIBTORCH", libtorch))
}
