//! Commands of others, each shown before it runs.

use crate::error::{Error, Result};
use crate::existing;
use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// Prepares a cargo command in the repository, as if it were typed there.
///
/// `cargo run` hands variables about this package and its own `LIBTORCH` to the program it
/// starts. Passed on, they would count as changes: libtorch's bindings would be built anew (two
/// minutes) whenever one goes from `cargo xtask test` to `cargo test` and back.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    for (name, value) in env::vars_os() {
        let of_this_package = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        let of_this_repository =
            name == "LIBTORCH" && existing::is_project_link(root, Path::new(&value));
        if of_this_package || of_this_repository {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command on this terminal; errs if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    println!("$ {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Failed { line, status }),
        Err(source) => Err(Error::Start { line, source }),
    }
}

/// Runs a command quietly and keeps what it printed; errs only if it cannot start.
pub(crate) fn capture(command: &mut Command) -> Result<Output> {
    command.output().map_err(|source| Error::Start { line: line(command), source })
}

/// Writes a command as one would type it in its folder.
fn line(command: &Command) -> String {
    let settings = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.display(), quoted(value)))
    });
    let program = Path::new(command.get_program());
    let inside = command.get_current_dir().and_then(|folder| program.strip_prefix(folder).ok());
    let shown = inside.map(Path::as_os_str).or_else(|| program.file_name()).unwrap_or_default();
    settings
        .chain([quoted(shown)])
        .chain(command.get_args().map(quoted))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.display().to_string();
    if word.contains(char::is_whitespace) { format!("'{word}'") } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.current_dir("/repository").arg("doc").env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(line(&command), "RUSTDOCFLAGS='-D warnings' cargo doc");

        let mut command = Command::new("/repository/target/release/mie");
        command.current_dir("/repository").arg("plugins").env_remove("HOME");
        assert_eq!(line(&command), "target/release/mie plugins");
    }

    #[test]
    fn cargo_starts_without_the_variables_of_this_package() {
        let command = cargo(Path::new("/"));
        let removed =
            command.get_envs().any(|(name, value)| name == "CARGO_PKG_NAME" && value.is_none());
        assert!(removed, "`cargo test` sets CARGO_PKG_NAME, which must not be passed on");
    }

    #[test]
    fn a_failing_command_is_an_error_that_shows_its_line() {
        let message = run(&mut Command::new("false")).unwrap_err().to_string();
        assert!(message.starts_with("`false` failed"), "{message}");
        let message = run(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(message.starts_with("could not start `no-such-program`"), "{message}");
    }
}
