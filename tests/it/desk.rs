//! A folder in which the program runs, as a user would run it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mie_core::engine::Existing;
use mie_record::{Event, RunDir, read_events};

use crate::support::{SMALL, Watcher, experiment, train_in};

/// A folder in which the program runs, away from everything the user has set.
pub(crate) struct Desk(tempfile::TempDir);

/// What the program wrote.
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Desk {
    /// Lays out a folder that holds the small experiment, and no data.
    pub(crate) fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("experiment.toml", SMALL);
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.path("runs")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes the small experiment with a mistake in it.
    pub(crate) fn write_faulty(&self, name: &str, right: &str, wrong: &str) {
        assert!(SMALL.contains(right), "{right}");
        self.write(name, &SMALL.replace(right, wrong));
    }

    /// A path as the program prints it, which runs in this folder.
    pub(crate) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(self.0.path()).unwrap().display().to_string()
    }

    pub(crate) fn start(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MIE_") {
                command.env_remove(name);
            }
        }
        command.env_remove("RUST_BACKTRACE").env_remove("COLUMNS");
        command
            .env("MIE_RUNS_DIR", "runs")
            .env("MIE_DATA_DIR", "data")
            .env("MIE_CACHE_DIR", "cache");
        // Tests run side by side and would only wait for each other's threads.
        command.env("OMP_NUM_THREADS", "1");
        command
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.start(env!("CARGO_BIN_EXE_mie"), arguments)
    }

    /// Runs the program to its end, which must be with this exit status.
    pub(crate) fn run(&self, arguments: &[&str], status: i32) -> Ran {
        ended(self.command(arguments).output().unwrap(), status)
    }

    /// Trains without the program, for commands that want a run.
    pub(crate) fn trained(&self, assignments: &[&str], stop_after: Option<u64>) -> RunDir {
        let resolved = experiment(SMALL, assignments).unwrap();
        let mut watcher = Watcher { stop_after, ..Watcher::default() };
        train_in(&self.runs(), &resolved, Existing::Refuse, &mut watcher).unwrap();
        let folder = self.runs().join("test/small").join(resolved.fingerprint().unwrap());
        RunDir::open(&folder).unwrap()
    }
}

pub(crate) fn ended(output: Output, status: i32) -> Ran {
    let ran = Ran {
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert_eq!(output.status.code(), Some(status), "printed:\n{}\n{}", ran.out, ran.err);
    ran
}

/// Waits until a run has recorded a step.
pub(crate) fn wait_for_step(step: u64, runs: &Path, child: &mut Child) {
    // What is about to be created cannot be read yet.
    let latest = || {
        let run = RunDir::list(runs).ok()?.into_iter().next()?;
        let events = read_events(&run.metrics_path()).ok()?.events;
        events.iter().rev().find_map(|event| match event {
            Event::Step { at, .. } => Some(at.step),
            _ => None,
        })
    };
    let started = Instant::now();
    while latest().is_none_or(|latest| latest < step) {
        assert_eq!(child.try_wait().unwrap(), None, "the run ended before step {step}");
        assert!(started.elapsed() < Duration::from_mins(2), "step {step} is never reached");
        sleep(Duration::from_millis(5));
    }
}
