//! `cargo xtask test` and `cargo xtask gen`.

use crate::error::{Error, Result};
use crate::outside;
use crate::setup;
use crate::shell::{self, cargo};
use std::path::Path;
use std::time::Instant;

/// Runs every check, cheapest first, and stops at the first that fails.
pub(crate) fn run(root: &Path, fast: bool) -> Result<()> {
    let started = Instant::now();
    step("format", || shell::run(cargo(root).args(["fmt", "--all", "--check"])))?;
    step("libtorch", || setup::ensure(root))?;
    if !fast {
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        step("clippy", || shell::run(cargo(root).args(clippy)))?;
        let documentation = ["doc", "--workspace", "--no-deps"];
        step("documentation", || {
            shell::run(cargo(root).args(documentation).env("RUSTDOCFLAGS", "-D warnings"))
        })?;
    }
    step("tests", || shell::run(cargo(root).args(["test", "--workspace"])))?;
    step("nothing is built twice", || nothing_left_to_build(root))?;
    if !fast {
        step("a plugin from outside", || outside::existing(root))?;
        step("new plugins of every family", || outside::new(root))?;
    }
    println!("all checks passed in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Fails where the tests would be compiled anew though nothing has changed: then so would every
/// `cargo run`, which takes minutes. A build script that watches a file which is not there does it.
fn nothing_left_to_build(root: &Path) -> Result<()> {
    let again = ["test", "--workspace", "--no-run", "--color", "never"];
    let output = shell::capture(cargo(root).args(again).env("CARGO_TERM_QUIET", "false"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Error::BuiltTwice(told.trim().to_owned()));
    }
    match told.lines().map(str::trim).find(|line| line.starts_with("Compiling ")) {
        Some(line) => Err(Error::BuiltTwice(line.to_owned())),
        None => Ok(()),
    }
}

/// Rewrites the generated files, by the test that otherwise compares them.
pub(crate) fn rewrite_generated_files(root: &Path) -> Result<()> {
    setup::ensure(root)?;
    let test = ["test", "--package", "mie", "--test", "it", "generated"];
    shell::run(cargo(root).args(test).env("MIE_BLESS", "1"))
}

/// Runs one check between its announcement and its time.
fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let started = Instant::now();
    let outcome = check();
    let verdict = if outcome.is_ok() { "passed" } else { "failed" };
    println!("== {name} {verdict} after {:.1} s", started.elapsed().as_secs_f64());
    outcome
}
