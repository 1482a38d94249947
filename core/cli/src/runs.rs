//! `mie runs`.

mod compare;
mod list;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use mie_core::{Error, Result};
use mie_record::RunDir;

use crate::arguments::runs_dir;
use crate::terminal::Shell;

#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    List(list::List),
    Compare(compare::Compare),
}

impl Runs {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        match self {
            Self::List(command) => command.run(shell),
            Self::Compare(command) => command.run(shell),
        }
    }
}

/// Finds the runs in these folders, or else in that of all runs, each once and in their order.
pub(crate) fn found(folders: &[PathBuf]) -> Result<Vec<RunDir>> {
    let all = vec![runs_dir(None)];
    let mut found = Vec::new();
    for folder in if folders.is_empty() { &all } else { folders } {
        if !folder.is_dir() {
            return Err(Error::refused(
                format!("there is no folder `{}`", folder.display()),
                "name run directories or a folder of them, or start a run with `mie train`",
            ));
        }
        for run in RunDir::list(folder)? {
            if !found.contains(&run) {
                found.push(run);
            }
        }
    }
    Ok(found)
}
