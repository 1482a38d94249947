//! The commands of mie, for any program that links plugins.
//!
//! Nothing here knows a plugin by name: a program is the plugins it links and a call of [`main`].
//!
//! ```ignore
//! use my_plugins as _;
//!
//! fn main() -> std::process::ExitCode {
//!     mie_cli::main()
//! }
//! ```
//!
//! The exit status is 0 when a command did what it was asked, 1 for a run or check that failed,
//! 2 for a command line or configuration at fault, and 101 for an error in mie itself.

mod arguments;
mod bench;
mod cache;
mod completions;
mod config;
mod data;
mod doctor;
mod environment;
mod eval;
mod format;
mod interrupt;
mod new;
mod panics;
mod phases;
mod plugins;
mod predict;
mod progress;
mod runs;
mod table;
mod tables;
mod terminal;
mod train;
mod weights;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use mie_core::Result;

use terminal::Shell;

/// Multimodal classification under modality imbalance: train, evaluate, compare
#[derive(Debug, Parser)]
#[command(name = "mie", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mie plugins                           what experiments can be made of
  mie config check experiment.toml      whether its parts fit together
  mie train experiment.toml --seed 1    train it; --resume goes on where it stopped
  mie table                             compare the finished runs

Environment:
  MIE_DATA_DIR     folder of the datasets [default: ~/.local/share/mie]
  MIE_RUNS_DIR     folder of the runs [default: runs]
  MIE_CACHE_DIR    folder of decoded files [default: ~/.cache/mie/decoded]
  RUST_BACKTRACE   set it to 1 to see where a plugin panicked";

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Train),
    Eval(eval::Eval),
    Predict(predict::Predict),
    Table(table::Table),
    /// Lists runs, or compares some of them
    #[command(subcommand)]
    Runs(runs::Runs),
    Plugins(plugins::Plugins),
    /// Checks, explains and compares configurations
    #[command(subcommand)]
    Config(config::Config),
    /// Fetches, prepares and checks datasets; shows the cache of decoded files
    #[command(subcommand)]
    Data(data::Data),
    /// Lists what files of published weights hold, or converts them
    #[command(subcommand)]
    Weights(weights::Weights),
    /// Writes what a plugin of your own starts from
    #[command(subcommand)]
    New(new::New),
    /// Measures the steps of an experiment, or the flat-gradient projection
    #[command(subcommand)]
    Bench(Box<bench::Bench>),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
}

/// Runs the command that the process was started with.
///
/// Errors go to standard error, once, and become the exit status.
pub fn main() -> ExitCode {
    panics::keep_quiet();
    let arguments = Arguments::parse();
    let computes = matches!(
        arguments.command,
        Command::Train(_) | Command::Eval(_) | Command::Predict(_) | Command::Bench(_)
    );
    if computes {
        environment::complete();
    }
    let mut shell = Shell::of_process();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&arguments.command, &mut shell)));
    match outcome {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            shell.error(&error.to_string());
            ExitCode::from(error.exit_status())
        }
        Err(_) => {
            shell.error(&format!(
                "internal error: {}; please report it with the command that shows it",
                panics::latest()
            ));
            ExitCode::from(101)
        }
    }
}

fn run(command: &Command, shell: &mut Shell) -> Result<ExitCode> {
    let status = match command {
        Command::Train(command) => command.run(shell)?,
        Command::Eval(command) => command.run(shell)?,
        Command::Predict(command) => command.run(shell)?,
        Command::Table(command) => command.run(shell)?,
        Command::Runs(command) => command.run(shell)?,
        Command::Plugins(command) => command.run(shell)?,
        Command::Config(command) => command.run(shell)?,
        Command::Data(command) => command.run(shell)?,
        Command::Weights(command) => command.run(shell)?,
        Command::New(command) => command.run(shell)?,
        Command::Bench(command) => command.run(shell)?,
        Command::Doctor(command) => command.run(shell),
        Command::Completions(command) => command.run(Arguments::command(), shell)?,
    };
    shell.finish()?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_gives_every_command_one_line() {
        let help = Arguments::command().render_help().to_string();
        for command in Arguments::command().get_subcommands() {
            let about = command.get_about().unwrap().to_string();
            assert!(about.len() <= 80, "{about}");
            assert!(help.contains(&about), "{help}");
        }
    }

    #[test]
    fn a_seed_that_a_configuration_cannot_hold_is_refused() {
        let seed = |text| Arguments::try_parse_from(["mie", "train", "a.toml", "--seed", text]);
        assert!(seed("9223372036854775807").is_ok());
        assert!(seed("9223372036854775808").is_err());
        assert!(seed("-1").is_err());
    }
}
