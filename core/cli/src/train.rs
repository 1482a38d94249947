//! `mie train`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use mie_core::Result;
use mie_core::config::{Resolved, Setting, settings};
use mie_core::engine::{self, Existing, Outcome, TrainOptions};
use mie_record::{Cost, RunDir, Summary};

use crate::arguments::{DataDir, DeviceChoice, Overrides, runs_dir};
use crate::config::diff::{self, differences};
use crate::config::value_in_words;
use crate::format::{duration, grouped, shell_path, shell_word};
use crate::interrupt::Interruptible;
use crate::progress::{JsonLines, Progress};
use crate::tables;
use crate::terminal::Shell;

/// Trains an experiment, or continues it
///
/// A run lies in a directory of its own, named by the experiment, the seed and a hash of every
/// setting that can change results. One that is finished is not trained again: its scores are
/// printed. One that was cut off goes on with --resume and ends as if it had not been.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Train {
    /// Experiment: a TOML file
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// Seed of every random draw; the same as `--set seed=N`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=LARGEST_SEED))]
    seed: Option<u64>,
    #[command(flatten)]
    device: DeviceChoice,
    /// Go on with a run that was cut off, from its last checkpoint
    #[arg(long)]
    resume: bool,
    /// Folder that gets the run directories [default: `MIE_RUNS_DIR`, or else `runs`]
    #[arg(long, value_name = "DIR")]
    runs_dir: Option<PathBuf>,
    #[command(flatten)]
    data_dir: DataDir,
    /// Threads of one tensor operation; results on the CPU are exact for equal numbers only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: Option<i32>,
    /// Print every event as a line of JSON, the summary last
    #[arg(long)]
    json: bool,
}

/// Largest whole number that TOML can hold.
const LARGEST_SEED: u64 = i64::MAX as u64;

const EXAMPLES: &str = "\
Examples:
  mie train experiment.toml
  mie train experiment.toml --seed 1 --set data.batch_size=32
  mie train experiment.toml --seed 2 --device cuda:1 --runs-dir /big/runs
  mie train experiment.toml --resume";

impl Train {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let mut assignments = self.overrides.set.clone();
        assignments.extend(self.seed.map(|seed| format!("seed={seed}")));
        let resolved = Resolved::read(&self.config, &assignments)?;
        let device = self.device.find()?;
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
        let options = TrainOptions {
            runs_dir: runs_dir(self.runs_dir.as_deref()),
            data_dir: self.data_dir.folder(),
            device,
            existing: if self.resume { Existing::Resume } else { Existing::Refuse },
            commit: option_env!("MIE_COMMIT").map(str::to_owned),
        };
        if self.resume
            && let Some(warning) = left_behind(&resolved, &options)?
        {
            shell.warning(&warning);
        }
        if self.json {
            let mut lines = JsonLines::new(shell);
            let outcome = engine::train(&resolved, &options, &mut Interruptible::new(&mut lines)?)?;
            return Ok(match outcome {
                Outcome::Finished(summary) => {
                    shell.json_line(&summary);
                    ExitCode::SUCCESS
                }
                Outcome::Interrupted => interrupted(shell),
            });
        }
        let mut progress = Progress::new(shell, &resolved.experiment, device);
        let outcome = Interruptible::new(&mut progress)
            .and_then(|mut observer| engine::train(&resolved, &options, &mut observer));
        let run = progress.close();
        Ok(match outcome? {
            Outcome::Finished(summary) => {
                shell.line(&ending(&summary));
                if let Some(run) = run {
                    shell.line(&format!("run       {}", run.path().display()));
                    shell.line(&format!("next      {}", self.next_command(run.path())));
                }
                ExitCode::SUCCESS
            }
            Outcome::Interrupted => interrupted(shell),
        })
    }

    /// The command that evaluates the run, to be typed as it is.
    fn next_command(&self, run: &Path) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "mie".to_owned());
        let mut words = vec![shell_word(&program), "eval".to_owned(), shell_path(run)];
        if let Some(folder) = self.data_dir.given() {
            words.extend(["--data-dir".to_owned(), shell_path(folder)]);
        }
        words.join(" ")
    }
}

/// Says when there is nothing to resume, but an unfinished run of other settings.
///
/// No error: a job of a sweep that always asks to resume starts beside the others.
fn left_behind(resolved: &Resolved, options: &TrainOptions) -> Result<Option<String>> {
    let runs = options.runs_dir.join(&resolved.experiment.name);
    if !runs.is_dir() || RunDir::open(&runs.join(resolved.fingerprint()?)).is_ok() {
        return Ok(None);
    }
    let here = settings(&resolved.tree()?, &resolved.source);
    for run in RunDir::list(&runs)? {
        let (Ok(manifest), Ok(None)) = (run.read_manifest(), run.read_summary()) else { continue };
        if manifest.seed != resolved.experiment.seed {
            continue;
        }
        // A damaged run is not what was meant.
        let Ok(there) = diff::read(run.path()) else { continue };
        let differing: Vec<String> = differences(&[&there, &here])
            .into_iter()
            .map(|difference| {
                let value = |side: Option<&Setting>| {
                    side.map_or_else(|| "absent".to_owned(), |it| value_in_words(&it.value))
                };
                let [there, here] = [0, 1].map(|side| value(difference.sides[side]));
                format!("{} ({there} there, {here} here)", difference.path)
            })
            .collect();
        return Ok(Some(format!(
            "nothing to resume, so a new run is started: {} is not finished, but differs in {}",
            run.path().display(),
            differing.join(", ")
        )));
    }
    Ok(None)
}

fn interrupted(shell: &mut Shell) -> ExitCode {
    shell.note("interrupted: a checkpoint is saved, and --resume goes on from it");
    ExitCode::FAILURE
}

/// Describes how a run ended: its scores, what weakens them, and what they cost.
fn ending(summary: &Summary) -> String {
    let splits: Vec<_> = ["test", "valid"]
        .into_iter()
        .filter_map(|split| Some((split, summary.outputs.get(split)?)))
        .collect();
    let mut lines = vec![String::new(), tables::scores(&splits)];
    let step = grouped(summary.best.step);
    lines.push(format!("selected  {} (step {step})", summary.selection));
    if !summary.marks.is_empty() {
        lines.push(format!("marks     {}", summary.marks.join(", ")));
    }
    lines.push(format!("cost      {}", cost(&summary.cost)));
    lines.join("\n")
}

/// Describes what a run took, in three lines.
fn cost(cost: &Cost) -> String {
    let memory = cost.peak_memory_bytes.map_or_else(String::new, |bytes| {
        format!(", at most {:.1} GB of memory", bytes as f64 / 1e9)
    });
    format!(
        "{}: training {}, evaluation {}, refreshes {}, saving {}\n          \
         of the training {} waiting for data, {} at displaced weights, {} in modifiers\n          \
         steps {}, forward passes {}, backward passes {}{memory}",
        duration(cost.wall_seconds),
        duration(cost.train_seconds),
        duration(cost.evaluate_seconds),
        duration(cost.refresh_seconds),
        duration(cost.save_seconds),
        share(cost.data_wait_seconds, cost.train_seconds),
        share(cost.displaced_seconds, cost.train_seconds),
        share(cost.modify_seconds, cost.train_seconds),
        grouped(cost.steps),
        grouped(cost.forward_passes),
        grouped(cost.backward_passes),
    )
}

/// Writes a part of a time as a percentage of it.
fn share(part: f64, whole: f64) -> String {
    let percent = if whole > 0.0 { 100.0 * part / whole } else { 0.0 };
    format!("{percent:.1} %")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mie_record::{At, OutputMetrics};

    use super::*;

    #[test]
    fn a_run_ends_with_scores_of_the_test_split_first_then_marks_and_cost() {
        let outputs = BTreeMap::from([("fused".to_owned(), OutputMetrics::default())]);
        let summary = Summary {
            experiment: "a/b".to_owned(),
            fingerprint: "seed0-5f".to_owned(),
            seed: 0,
            finished_unix_seconds: 0,
            selection: "test accuracy fused".to_owned(),
            marks: vec!["oracle".to_owned(), "skipped data".to_owned()],
            best: At { phase: 1, epoch: 7, step: 8400 },
            outputs: [("test".to_owned(), outputs.clone()), ("valid".to_owned(), outputs)].into(),
            confusion: BTreeMap::new(),
            phases: Vec::new(),
            cost: Cost {
                wall_seconds: 83.0,
                train_seconds: 70.0,
                evaluate_seconds: 10.0,
                data_wait_seconds: 3.5,
                refresh_seconds: 2.0,
                displaced_seconds: 33.0,
                modify_seconds: 0.7,
                save_seconds: 0.4,
                samples_seen: 100_800,
                forward_passes: 16_800,
                backward_passes: 16_800,
                steps: 8400,
                peak_memory_bytes: Some(1_230_000_000),
            },
        };
        let text = ending(&summary);
        assert!(text.find("test ").unwrap() < text.find("valid ").unwrap(), "{text}");
        let (_, below) = text.split_once("selected").unwrap();
        assert_eq!(
            below,
            "  test accuracy fused (step 8,400)\n\
             marks     oracle, skipped data\n\
             cost      1 min 23 s: training 1 min 10 s, evaluation 10.0 s, refreshes 2.0 s, \
             saving 0.4 s\n          of the training 5.0 % waiting for data, 47.1 % at displaced \
             weights, 1.0 % in modifiers\n          steps 8,400, forward passes 16,800, backward \
             passes 16,800, at most 1.2 GB of memory"
        );
    }
}
