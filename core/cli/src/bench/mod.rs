//! `mie bench`.

mod chart;
mod findings;
mod fit;
mod measure;
mod projection;
mod spectra;
mod step;

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use mie_core::{Error, Result};

use crate::terminal::Shell;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Projection(Box<projection::Projection>),
    Step(step::Step),
}

/// Refuses a file that could not be written, before anything is measured.
fn ensure_writable(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) || file.is_dir() {
        return Err(Error::refused(
            format!("{} cannot be written: no such folder, or a folder", file.display()),
            "name a file in a folder that is there",
        ));
    }
    Ok(())
}

impl Bench {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        match self {
            Self::Projection(command) => command.run(shell),
            Self::Step(command) => command.run(shell),
        }
    }
}
