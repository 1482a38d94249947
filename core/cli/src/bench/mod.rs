//! `mie bench`.

mod chart;
mod findings;
mod fit;
mod measure;
mod projection;
mod spectra;
mod step;

use std::process::ExitCode;

use clap::Subcommand;
use mie_core::Result;

use crate::terminal::Shell;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Projection(Box<projection::Projection>),
    Step(step::Step),
}

impl Bench {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        match self {
            Self::Projection(command) => command.run(shell),
            Self::Step(command) => command.run(shell),
        }
    }
}
