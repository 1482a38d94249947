//! The one training engine: phases, steps, evaluation, checkpoints and the run record.
//!
//! It names no plugin. What differs between methods is said in configurations and done by
//! plugins; what a run must never do wrong is here.

mod assembly;
mod bench;
mod checkpoint;
mod checks;
mod covariances;
mod evaluate;
mod operations;
mod persist;
mod predict;
mod record;
mod step;
mod trainer;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mie_record::{Event, RunDir, Summary};
use tch::Device;

use crate::config::{Experiment, Resolved};
use crate::data::{DataSource, TestAccess};
use crate::error::{Error, Result};
use crate::family::{OpenContext, Split};
use crate::model::Model;
use crate::random::Seed;
use evaluate::Settings;

pub use bench::{Shares, Spread, StepMeasurement, StepRequest, measure_steps};
pub use checks::{Plan, plan};
pub use covariances::{CovarianceRequest, covariances};
pub use evaluate::{Evaluation, FUSED, evaluate};
pub use predict::{FileSample, Prediction, Predictions, predict_files, predict_split};
pub use trainer::Outcome;

/// How and where to run an experiment; nothing here changes results on one kind of device.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Folder that gets run directories.
    pub runs_dir: PathBuf,
    /// Folder against which relative dataset paths are resolved.
    pub data_dir: PathBuf,
    /// Device to train on.
    pub device: Device,
    /// What to do with an unfinished run of the same experiment.
    pub existing: Existing,
    /// Commit that the program was built from, for the record.
    pub commit: Option<String>,
}

/// What to do with an unfinished run of the same experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Refuse,
    /// Go on from its last checkpoint; start when there is no run.
    Resume,
}

/// Watches a run, for a terminal or a test.
pub trait Observer {
    /// Something was recorded.
    fn event(&mut self, _event: &Event) {}

    /// A step is done. `Break` saves a checkpoint and ends the run unfinished.
    fn step(&mut self, _progress: &StepProgress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// The run directory is known; `finished` when there is nothing left to do.
    fn started(&mut self, _run: &RunDir, _finished: bool) {}
}

/// Where an epoch stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepProgress {
    /// Name of the phase.
    pub phase: String,
    /// Epoch within the phase, from 0.
    pub epoch: usize,
    /// Steps of this epoch that are done.
    pub done: u64,
    /// Steps of this epoch.
    pub total: u64,
    /// Steps since the start of the run.
    pub global_step: u64,
    /// Training samples of this epoch that were seen.
    pub samples: u64,
    /// Sum of the weighted loss terms of the latest step that was read back.
    pub loss: Option<f64>,
    /// Training accuracy of each modality over the epoch so far, in `[0, 1]`.
    pub accuracy: BTreeMap<String, f64>,
}

/// Trains an experiment, or continues it.
///
/// # Errors
/// [`Error::Refused`] before the first step when parts do not fit together or a run directory is
/// in the way; later, whatever ends a run: a broken file, a loss that is not finite, a full disk.
pub fn train(
    resolved: &Resolved,
    options: &TrainOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    trainer::Trainer::open(resolved, options, observer)?.run(observer)
}

/// Evaluates the selected weights of a finished run on a split.
///
/// # Errors
/// When the run has no selected weights yet, or its data cannot be read.
pub fn evaluate_run(
    run: &Path,
    split: Split,
    data_dir: &Path,
    device: Device,
    assignments: &[String],
) -> Result<(Evaluation, Vec<String>)> {
    let run = RunDir::open(run)?;
    let (model, source, settings) = selected(&run, split, data_dir, device, assignments)?;
    let access = (split == Split::Test).then(TestAccess::granted);
    let evaluation = evaluate(&model, &source, split, &settings, access)?;
    Ok((evaluation, source.classes().to_vec()))
}

/// Opens the selected weights of a run, and its data to hold them against.
///
/// # Errors
/// As [`evaluate_run`]; the test split of a run that is not finished is refused.
fn selected(
    run: &RunDir,
    split: Split,
    data_dir: &Path,
    device: Device,
    assignments: &[String],
) -> Result<(Model, Arc<DataSource>, Settings)> {
    let summary: Option<Summary> = run.read_summary()?;
    if summary.is_none() && split == Split::Test {
        return Err(Error::refused(
            format!(
                "run {} is not finished, so its test split is still locked",
                run.path().display()
            ),
            "finish it with `mie train CONFIG --resume`, or take `--split valid`",
        ));
    }
    let resolved = Resolved::read(&run.config_path(), assignments)?;
    let experiment = &resolved.experiment;
    let source = Arc::new(open_data(experiment, data_dir)?);
    let (layouts, fillers) = (&source.layouts, &source.fillers);
    let classes = source.classes().len();
    let (mut model, parameters) = Model::build(experiment, layouts, fillers, classes, device)?;
    checkpoint::load_model(&checkpoint::latest_best(run)?, &mut model, &parameters, device)?;
    let settings = Settings::of(experiment, device);
    Ok((model, source, settings))
}

/// Opens the dataset of an experiment.
///
/// # Errors
/// As [`DataSource::open`].
pub fn open_data(experiment: &Experiment, data_dir: &Path) -> Result<DataSource> {
    let context = OpenContext { base: data_dir.to_owned(), seed: Seed(experiment.seed) };
    DataSource::open(experiment, &context)
}
