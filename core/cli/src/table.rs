//! `mie table`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mie_core::{Error, Result};

use crate::runs::found;
use crate::terminal::Shell;

/// Compares finished runs, each experiment over its seeds
///
/// The experiment of the first run is what the others are compared with: name its directory first
/// to choose another one.
#[derive(Debug, Args)]
pub(crate) struct Table {
    /// Run directories, or folders of them [default: `MIE_RUNS_DIR`, or else `runs`]
    #[arg(value_name = "RUNS")]
    runs: Vec<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For a terminal
    Text,
    /// For a document
    Markdown,
    /// One line a metric, fractions in full precision
    Csv,
    /// Everything
    Json,
}

impl Table {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let comparison = mie_report::compare(&found(&self.runs)?);
        let text = match self.format {
            Format::Text => comparison.text(shell.width()),
            Format::Markdown => comparison.markdown(),
            Format::Csv => comparison.csv(),
            Format::Json => comparison
                .json()
                .map_err(|error| Error::Bug(format!("a table is not JSON: {error}")))?,
        };
        shell.text(&text);
        Ok(ExitCode::SUCCESS)
    }
}
