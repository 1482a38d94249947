//! What several test modules share.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mie_core::config::Resolved;
use mie_core::engine::{Existing, Observer, Outcome, StepProgress, TrainOptions, train};
use mie_core::error::Result;
use mie_core::prelude::*;
use mie_record::{Event, RunDir, Summary};

/// Root of the project.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Folder with real data; `None`, said aloud, where there is none. In CI there must be.
pub(crate) fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("MIE_TEST_DATA")
        .map_or_else(|| root().join("../shared/data"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "real data are missing at {}", folder.display());
    eprintln!("skipped: no real data at {}; MIE_TEST_DATA names the folder", folder.display());
    None
}

/// A small experiment on generated data that trains in well under a second.
pub(crate) const SMALL: &str = r#"
name = "test/small"
[dataset]
name = "synthetic"
classes = 4
samples = { train = 120, valid = 40, test = 40 }
[data]
batch_size = 12
[modalities.strong]
input = { name = "vector", dimensions = 32 }
encoder = { name = "mlp", hidden = [16], width = 16 }
[modalities.weak]
input = { name = "vector", dimensions = 64 }
encoder = { name = "mlp", hidden = [16], width = 16 }
[head]
hidden = [16, 8]
[fusion]
name = "average"
[[objectives]]
name = "unimodal_ce"
[optimizer]
name = "sgd"
learning_rate = 0.05
[strategy]
name = "staged"
epochs = [2, 2, 1]
[run]
workers = 1
log_every_steps = 1
"#;

/// The paper's method on it.
pub(crate) const MIE: &str = r#"
gradient_modifiers=[{ name = "svd_flat", alpha = 0.4 }]
optimizer={ name = "sam", rho = 0.05, base = { name = "sgd", learning_rate = 0.05 } }
"#;

/// Reads an experiment from text, with further assignments.
pub(crate) fn experiment(text: &str, assignments: &[&str]) -> Result<Resolved> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experiment.toml");
    std::fs::write(&file, text).unwrap();
    let assignments: Vec<String> = assignments
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect();
    Resolved::read(&file, &assignments)
}

/// Breaks a run off after a number of steps, and keeps its warnings.
#[derive(Default)]
pub(crate) struct Watcher {
    /// Steps after which to break off.
    pub(crate) stop_after: Option<u64>,
    /// Events seen.
    pub(crate) events: Vec<Event>,
}

impl Observer for Watcher {
    fn event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }

    fn step(&mut self, progress: &StepProgress) -> ControlFlow<()> {
        match self.stop_after {
            Some(limit) if progress.global_step >= limit => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Trains into `runs`.
pub(crate) fn train_in(
    runs: &Path,
    resolved: &Resolved,
    existing: Existing,
    watcher: &mut Watcher,
) -> Result<Outcome> {
    let options = TrainOptions {
        runs_dir: runs.to_owned(),
        data_dir: data().unwrap_or_default(),
        device: Device::Cpu,
        existing,
        commit: None,
    };
    train(resolved, &options, watcher)
}

/// Trains to the end in a folder of its own; gives the summary, the run and the events.
pub(crate) fn finished(resolved: &Resolved) -> (Summary, tempfile::TempDir, Vec<Event>) {
    let runs = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::default();
    match train_in(runs.path(), resolved, Existing::Refuse, &mut watcher).unwrap() {
        Outcome::Finished(summary) => (*summary, runs, watcher.events),
        Outcome::Interrupted => unreachable!("nothing broke the run off"),
    }
}

/// The only run below a folder.
pub(crate) fn only_run(runs: &Path) -> RunDir {
    let found = RunDir::list(runs).unwrap();
    assert_eq!(found.len(), 1);
    found.into_iter().next().unwrap()
}

/// Every tensor of a checkpoint as bits, by name.
pub(crate) fn checkpoint_bits(run: &RunDir, name: &str) -> BTreeMap<String, Vec<u8>> {
    let file = run.checkpoints_path().join(format!("{name}.safetensors"));
    let bytes = std::fs::read(&file).unwrap();
    let content = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    content.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

/// Bits of the weights that a finished run leaves in `last`.
pub(crate) fn final_bits(resolved: &Resolved) -> BTreeMap<String, Vec<u8>> {
    let (_, runs, _) = finished(resolved);
    checkpoint_bits(&only_run(runs.path()), "last")
}
