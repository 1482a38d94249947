//! `cargo xtask demo`: the baseline against MIE on the synthetic data set, on the processor.

use crate::error::{Error, Result};
use crate::setup;
use crate::shell::{self, cargo};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the runs go, from the repository's root.
const RUNS: &str = "runs/demo";

/// Builds the program, trains both methods with every seed and prints the table.
///
/// Runs that are finished are left as they are, so that a demonstration cut short goes on where
/// it was.
pub(crate) fn run(root: &Path, quick: bool) -> Result<()> {
    setup::ensure(root)?;
    shell::run(cargo(root).args(["build", "--release", "--package", "mie"]))?;
    let program = target_folder(root)?.join("release").join("mie");
    let seeds: &[&str] = if quick { &["0"] } else { &["0", "1", "2"] };
    for method in ["baseline", "mie"] {
        let config = format!("configs/experiments/synthetic/{method}.toml");
        for seed in seeds {
            let mut train = Command::new(&program);
            train.current_dir(root).args(["train", &config, "--seed", seed]);
            shell::run(train.args(["--runs-dir", RUNS, "--device", "cpu"]))?;
        }
    }
    shell::run(Command::new(&program).current_dir(root).args(["table", RUNS]))?;

    let program = program.strip_prefix(root).unwrap_or(&program).display();
    println!();
    println!("The run directories lie in {RUNS}. What to try next, in the repository's root:");
    println!("  {program} train configs/experiments/synthetic/mie.toml --seed 3 --runs-dir {RUNS}");
    println!("  {program} table {RUNS}");
    println!("  {program} plugins");
    Ok(())
}

/// Asks cargo where it builds, which the user may have changed in several ways.
pub(crate) fn target_folder(root: &Path) -> Result<PathBuf> {
    let mut command = cargo(root);
    let output = shell::capture(command.args(["metadata", "--no-deps", "--format-version", "1"]))?;
    parse_target_folder(&output.stdout)
}

fn parse_target_folder(metadata: &[u8]) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let metadata: Metadata =
        serde_json::from_slice(metadata).map_err(|source| Error::Metadata { source })?;
    Ok(metadata.target_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_is_found_among_the_rest() {
        let metadata = br#"{"packages":[],"target_directory":"/elsewhere/target","version":1}"#;
        assert_eq!(parse_target_folder(metadata).unwrap(), Path::new("/elsewhere/target"));
        assert!(matches!(parse_target_folder(b""), Err(Error::Metadata { .. })));
    }
}
