//! The project's own commands, run as `cargo xtask <command>` from anywhere in the repository.
//!
//! `setup` fetches libtorch, `test` runs every check, `gen` rewrites the generated files and
//! `demo` trains two small models. Nothing here links libtorch, so that all of it works in a
//! fresh clone.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to the terminal"
)]

#[cfg(not(unix))]
compile_error!("`cargo xtask` needs a Unix system; libtorch is set up for Linux on x86_64 only");

mod checks;
mod demo;
mod error;
mod existing;
mod outside;
mod python;
mod recipe;
mod setup;
mod shell;
mod stamp;
mod wheel;

use clap::{Parser, Subcommand};
use error::{Result, io_error};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The project's own commands; start with `cargo xtask setup`.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
#[command(after_help = "\
Environment:
  MIE_CACHE_DIR         where libtorch is kept [default: $XDG_CACHE_HOME/mie, else ~/.cache/mie]
  LIBTORCH              a folder of your own with include/ and lib/ of the wanted libtorch
  LIBTORCH_USE_PYTORCH  set it to 1 to build against the torch package of your Python

A new clone needs `cargo xtask setup` once; plain `cargo build` and `cargo test` work after it.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Fetches libtorch, checks it and links it as `.libtorch`; does nothing if it is there
    Setup {
        /// Fetch the CUDA libraries too (2.5 GB to download, 9 GB of disk while unpacking)
        #[arg(long)]
        cuda: bool,
        /// Fetch and unpack again even if a complete copy is there
        #[arg(long)]
        force: bool,
    },
    /// Runs every check, cheapest first, and stops at the first that fails
    Test {
        /// Leave out clippy and the documentation build
        #[arg(long)]
        fast: bool,
    },
    /// Rewrites the generated files (plugin examples, schema, catalogue)
    Gen,
    /// Trains the baseline and MIE on the synthetic data set and compares them
    Demo {
        /// Train with one seed instead of three
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let root = project_root()?;
    match *task {
        Task::Setup { cuda, force } => {
            let recipe = if cuda { &recipe::CUDA } else { &recipe::CPU };
            setup::run(&root, recipe, force)
        }
        Task::Test { fast } => checks::run(&root, fast),
        Task::Gen => checks::rewrite_generated_files(&root),
        Task::Demo { quick } => demo::run(&root, quick),
    }
}

/// Finds the repository, so that a command does the same from every folder in it.
fn project_root() -> Result<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    root.canonicalize().map_err(io_error("find the repository at", root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_repository_is_where_the_workspace_manifest_lies() {
        let manifest = std::fs::read_to_string(project_root().unwrap().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }
}
