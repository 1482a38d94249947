//! `mie config`.

mod check;
pub(crate) mod diff;
mod explain;
mod resolve;
mod schema;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use mie_core::Result;
use mie_core::config::Origin;
use mie_record::RunDir;
use serde_json::Value;

use crate::format::inline_toml;
use crate::terminal::Shell;

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    Check(check::Check),
    Resolve(resolve::Resolve),
    Explain(explain::Explain),
    Diff(diff::Diff),
    Schema(schema::Schema),
}

impl Config {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        match self {
            Self::Check(command) => match command.failures(shell) {
                0 => Ok(ExitCode::SUCCESS),
                _ => Ok(ExitCode::from(2)),
            },
            Self::Resolve(command) => command.run(shell),
            Self::Explain(command) => command.run(shell),
            Self::Diff(command) => command.run(shell),
            Self::Schema(command) => command.run(shell),
        }
    }
}

/// Finds the experiment to read: the file itself, or that of a run directory.
fn experiment_file(path: &Path) -> PathBuf {
    RunDir::open(path).map_or_else(|_| path.to_owned(), |run| run.config_path())
}

/// Writes a value for people; an optional one can be absent.
pub(crate) fn value_in_words(value: &Value) -> String {
    if value.is_null() { "absent".to_owned() } else { inline_toml(value) }
}

/// Says who set a value.
fn setter_in_words(origin: Option<&Origin>) -> String {
    origin.map_or_else(|| "default".to_owned(), Origin::to_string)
}
