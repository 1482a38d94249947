//! `mie config schema`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mie_core::config::schema;
use mie_core::{Error, Result};

use crate::terminal::Shell;

/// Prints the JSON schema of experiments, for editors and other programs
///
/// It is made from the plugins that are linked into this program.
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Write it to this file instead
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Schema {
    pub(super) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        match &self.output {
            None => shell.json_page(&schema()),
            Some(file) => {
                let text = serde_json::to_string_pretty(&schema())
                    .map_err(|error| Error::Bug(format!("a schema is not JSON: {error}")))?;
                mie_record::atomic_write(file, format!("{text}\n").as_bytes())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
