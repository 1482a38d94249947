//! Whole runs: they repeat themselves, and go on with the same bits where they were broken off.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mie_core::config::Resolved;
use mie_core::data::data_dir;
use mie_core::engine::{Existing, Observer, Outcome, StepProgress, TrainOptions, train};
use mie_core::prelude::*;
use mie_record::RunDir;

use crate::Finding;

/// Fails with all findings about an experiment; see [`check_run`].
pub fn assert_run_conforms(experiment: impl AsRef<Path>) {
    let findings: Vec<String> =
        check_run(experiment.as_ref()).iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Trains an experiment five times on the CPU, in temporary folders.
///
/// A second run, one with another number of workers, and one that is broken off half-way and
/// resumed must leave the same bits in its last checkpoint. The experiment should be short; its
/// data are looked for where `mie` looks for them.
pub fn check_run(experiment: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |rule, found: String| {
        let plugin = format!("experiment {}", experiment.display());
        findings.push(Finding { plugin, rule, found });
    };
    let rule = "an experiment trains to its end";
    let (steps, bits) = match trained(experiment, &[], None) {
        Ok(run) => run,
        Err(error) => {
            add(rule, error.to_string());
            return findings;
        }
    };
    let mut same =
        |rule, assignments: &[&str], stop_after| match trained(experiment, assignments, stop_after)
        {
            Ok((_, again)) => {
                let differs = bits.iter().find(|(name, bits)| again.get(*name) != Some(bits));
                if let Some((name, _)) = differs {
                    add(rule, format!("`{name}` differs"));
                }
            }
            Err(error) => add(rule, error.to_string()),
        };
    same("a run repeats itself bit for bit", &[], None);
    same("the number of workers changes nothing", &["run.workers=0"], None);
    same("the number of workers changes nothing", &["run.workers=2"], None);
    same("a resumed run ends with the same bits", &[], Some((steps / 2).max(1)));
    findings
}

/// Bits of every tensor in the last checkpoint, by name.
type Bits = BTreeMap<String, Vec<u64>>;

fn trained(
    experiment: &Path,
    assignments: &[&str],
    stop_after: Option<u64>,
) -> Result<(u64, Bits)> {
    let assignments: Vec<String> = assignments.iter().map(|&text| text.to_owned()).collect();
    let resolved = Resolved::read(experiment, &assignments)?;
    let folder = tempfile::tempdir().map_err(Error::io("create", Path::new("a folder")))?;
    let mut options = TrainOptions {
        runs_dir: folder.path().to_owned(),
        data_dir: data_dir(),
        device: Device::Cpu,
        existing: Existing::Refuse,
        commit: None,
    };
    let mut watcher = Watcher { stop_after, steps: 0, run: PathBuf::new() };
    if let Outcome::Interrupted = train(&resolved, &options, &mut watcher)? {
        options.existing = Existing::Resume;
        watcher.stop_after = None;
        train(&resolved, &options, &mut watcher)?;
    }
    let last = RunDir::open(&watcher.run)?.checkpoints_path().join("last.safetensors");
    let tensors = Tensor::read_safetensors(&last)?;
    let bits = tensors.into_iter().map(|(name, tensor)| (name, crate::stand_in::bits(&tensor)));
    Ok((watcher.steps, bits.collect()))
}

/// Breaks a run off after a number of steps.
struct Watcher {
    stop_after: Option<u64>,
    steps: u64,
    run: PathBuf,
}

impl Observer for Watcher {
    fn step(&mut self, progress: &StepProgress) -> ControlFlow<()> {
        self.steps = self.steps.max(progress.global_step);
        match self.stop_after {
            Some(limit) if progress.global_step >= limit => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn started(&mut self, run: &RunDir, _finished: bool) {
        run.path().clone_into(&mut self.run);
    }
}
