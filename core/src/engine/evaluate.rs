//! Evaluation of a model on a split.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mie_record::OutputMetrics;
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::batch::{Outputs, Spec, probabilities};
use crate::config::Experiment;
use crate::data::{Batches, DataSource, Request, TestAccess};
use crate::error::{Error, Result};
use crate::family::{Mode, Score, Split};
use crate::layers::Statistics;
use crate::metrics::{Report, Scores};
use crate::model::{Model, Running};

/// Name of the decision that selects and is reported.
pub const FUSED: &str = "fused";

/// Name of the output that a score is taken from.
pub(super) fn output_of(score: &Score) -> &str {
    match score {
        Score::Fused => FUSED,
        Score::Modality(name) => name,
    }
}

/// How to pass over a split.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Samples a batch.
    pub batch_size: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Batches decoded ahead.
    pub prefetch: usize,
    /// Device of the model.
    pub device: Device,
}

impl Settings {
    /// Takes the settings of an experiment.
    pub fn of(experiment: &Experiment, device: Device) -> Self {
        Self {
            batch_size: experiment.data.evaluation_batch_size,
            workers: experiment.run.workers,
            prefetch: experiment.run.prefetch_batches,
            device,
        }
    }
}

/// Metrics of every output on a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Split evaluated.
    pub split: Split,
    /// Report by output: each modality, `fused`, and `fused.<rule>` for further decision rules.
    pub outputs: BTreeMap<String, Report>,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl Evaluation {
    /// The figures for the record.
    pub fn metrics(&self) -> BTreeMap<String, OutputMetrics> {
        self.outputs
            .iter()
            .map(|(name, report)| {
                let metrics = OutputMetrics {
                    accuracy: report.accuracy,
                    macro_f1: report.macro_f1,
                    mean_average_precision: report.mean_average_precision,
                    loss: report.loss,
                    samples: report.samples as u64,
                };
                (name.clone(), metrics)
            })
            .collect()
    }
}

/// Evaluates every modality, the fused decision and further decision rules on a split.
///
/// # Errors
/// On a broken file, an empty or locked split, or outputs that are not finite.
pub fn evaluate(
    model: &Model,
    source: &Arc<DataSource>,
    split: Split,
    settings: &Settings,
    access: Option<TestAccess>,
) -> Result<Evaluation> {
    let started = Instant::now();
    let (outputs, labels) = score(model, source, split, settings, access)?;
    let outputs = outputs
        .into_iter()
        .map(|(name, scores)| Ok((name, Report::compute(&scores, &labels)?)))
        .collect::<Result<_>>()?;
    Ok(Evaluation { split, outputs, seconds: started.elapsed().as_secs_f64() })
}

/// Probabilities of every output for every sample, in the order of the split, and their labels.
///
/// # Errors
/// As [`evaluate`].
pub(super) fn score(
    model: &Model,
    source: &Arc<DataSource>,
    split: Split,
    settings: &Settings,
    access: Option<TestAccess>,
) -> Result<(BTreeMap<String, Scores>, Vec<usize>)> {
    let _guard = no_grad_guard();
    let request = Request {
        split,
        mode: Mode::Evaluation,
        shuffled: false,
        epoch: 0,
        batch_size: settings.batch_size,
        drop_last: false,
        modalities: model.modalities(),
        start: 0,
        workers: settings.workers,
        prefetch: settings.prefetch,
        access,
    };
    let mut batches = Batches::start(source, request)?;
    let spec = Spec::evaluation(model.modalities());
    let mut scores: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    let mut labels: Vec<Tensor> = Vec::new();
    while let Some(host) = batches.next_batch()? {
        let batch = host.to_device(settings.device)?;
        batches.recycle(host);
        let outputs = model.forward(&batch, &spec, Running::of(Statistics::Running))?;
        for (name, part) in decisions(model, &outputs)? {
            scores.entry(name).or_default().push(part);
        }
        labels.push(batch.targets.labels);
    }
    if labels.is_empty() {
        return Err(Error::refused(
            format!("the {} split has no samples", split.name()),
            "choose another split, or set data.validation_share to split one off",
        ));
    }
    let labels: Vec<i64> = Vec::try_from(Tensor::f_cat(&labels, 0)?.f_to_device(Device::Cpu)?)?;
    let labels: Vec<usize> = labels.into_iter().map(|label| label as usize).collect();
    let scores = scores
        .into_iter()
        .map(|(name, parts)| {
            let what = || format!("output `{name}` on the {} split", split.name());
            let rows = rows(&Tensor::f_cat(&parts, 0)?, what)?;
            Ok((name, rows))
        })
        .collect::<Result<_>>()?;
    Ok((scores, labels))
}

/// Probabilities `[batch, classes]` of every output: modalities, `fused`, `fused.<rule>`.
///
/// # Errors
/// When the fusion needs a modality that did not run.
pub(super) fn decisions(model: &Model, outputs: &Outputs) -> Result<BTreeMap<String, Tensor>> {
    let mut decisions = BTreeMap::new();
    for (name, logits) in model.unimodal_logits(outputs)? {
        decisions.insert(name, probabilities(&logits)?);
    }
    decisions.insert(FUSED.to_owned(), model.fusion.decide(outputs)?);
    for (name, rule) in &model.also {
        decisions.insert(format!("{FUSED}.{name}"), rule.decide(outputs)?);
    }
    Ok(decisions)
}

/// Reads probabilities `[samples, classes]` back from their device.
///
/// # Errors
/// [`Error::NonFinite`] with `what` they are.
pub(super) fn rows(table: &Tensor, what: impl Fn() -> String) -> Result<Scores> {
    let table = table.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let classes = table.size()[1] as usize;
    let flat: Vec<f32> = Vec::try_from(table.f_reshape([-1])?)?;
    let mut scores = Scores::new(classes);
    for row in flat.chunks_exact(classes) {
        scores.push_row(row).map_err(|error| Error::NonFinite {
            what: what(),
            step: 0,
            detail: error.to_string(),
        })?;
    }
    Ok(scores)
}
