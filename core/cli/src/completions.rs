//! `mie completions`.

use std::process::ExitCode;

use clap::Args;
use clap_complete::{Shell as Kind, generate};
use mie_core::{Error, Result};

use crate::terminal::Shell;

/// Prints what makes a shell complete the commands and options of mie
#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Kind,
}

const WHERE: &str = "\
Where the output goes:
  bash   ~/.local/share/bash-completion/completions/mie
  zsh    a file `_mie` in a folder of `fpath`
  fish   ~/.config/fish/completions/mie.fish";

impl Completions {
    pub(crate) fn run(&self, mut command: clap::Command, shell: &mut Shell) -> Result<ExitCode> {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "mie", &mut script);
        let script = String::from_utf8(script)
            .map_err(|error| Error::Bug(format!("a completion is not text: {error}")))?;
        shell.text(&script);
        Ok(ExitCode::SUCCESS)
    }
}
