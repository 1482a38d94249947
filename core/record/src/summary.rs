//! `summary.json`: how a run ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::{At, OutputMetrics};
use crate::number;

/// Records how a run ended; a run directory without one has not finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the experiment.
    pub experiment: String,
    /// Hash of the resolved configuration.
    pub fingerprint: String,
    /// Seed every random draw follows from.
    pub seed: u64,
    /// When the run ended, in seconds since 1970-01-01 UTC.
    pub finished_unix_seconds: u64,
    /// Score the best weights were selected by: `valid accuracy fused`.
    pub selection: String,
    /// What every table must say about the run; as [`Manifest::marks`](crate::Manifest::marks),
    /// and what came to light while it ran.
    pub marks: Vec<String>,
    /// Where the selected weights were reached.
    pub best: At,
    /// Scores of the selected weights, by split and output.
    pub outputs: BTreeMap<String, BTreeMap<String, OutputMetrics>>,
    /// Confusion on the test split, by output: `[classes][classes]` counts of samples, one row
    /// for each true class and one column for each predicted class.
    pub confusion: BTreeMap<String, Vec<Vec<u64>>>,
    /// How far each phase came, in order.
    #[serde(default)]
    pub phases: Vec<PhaseSummary>,
    /// What the run took.
    pub cost: Cost,
}

/// Records what a phase trained and what accuracy it ended with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSummary {
    /// What the strategy calls the phase.
    pub label: String,
    /// Modalities it trained.
    pub modalities: Vec<String>,
    /// Modalities that gradient modifiers learnt from.
    pub source: Vec<String>,
    /// Epochs made.
    pub epochs: usize,
    /// Accuracy after its last epoch by output, in `[0, 1]`, on the split that selects; empty
    /// where no split is evaluated.
    #[serde(with = "number::map")]
    pub accuracy: BTreeMap<String, f64>,
}

/// Counts what a run took, over all of its sessions when it was resumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Time from start to end, in seconds, without the time between sessions.
    #[serde(with = "number")]
    pub wall_seconds: f64,
    /// Part of it in training steps.
    #[serde(with = "number")]
    pub train_seconds: f64,
    /// Part of it in evaluation.
    #[serde(with = "number")]
    pub evaluate_seconds: f64,
    /// Part of it waiting for data.
    #[serde(with = "number")]
    pub data_wait_seconds: f64,
    /// Part of it in refreshes of modifiers and objectives, and in controllers between epochs: their
    /// trials.
    #[serde(with = "number")]
    pub refresh_seconds: f64,
    /// Part of the training steps in passes at displaced weights: the second pass of SAM.
    ///
    /// On a CUDA device this and the next are the times until the work was queued.
    #[serde(default, with = "number")]
    pub displaced_seconds: f64,
    /// Part of the training steps in gradient modifiers.
    #[serde(default, with = "number")]
    pub modify_seconds: f64,
    /// Part of it in saving checkpoints and best weights.
    #[serde(default, with = "number")]
    pub save_seconds: f64,
    /// Training samples seen, repetitions counted.
    pub samples_seen: u64,
    /// Forward passes over a batch; a step of SAM takes two.
    pub forward_passes: u64,
    /// Backward passes over a batch.
    pub backward_passes: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Most memory in use at a time, in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_back_as_written_with_an_infinite_loss() {
        let metrics = OutputMetrics {
            accuracy: 0.1 + 0.2,
            macro_f1: 1.0 / 3.0,
            mean_average_precision: 0.5,
            loss: f64::INFINITY,
            samples: 744,
        };
        let summary = Summary {
            experiment: "cremad/mie".to_owned(),
            fingerprint: "5f1d2c".to_owned(),
            seed: u64::MAX,
            finished_unix_seconds: 1_700_000_000,
            selection: "valid accuracy fused".to_owned(),
            marks: vec![crate::ORACLE.to_owned()],
            best: At { phase: 1, epoch: 7, step: 8400 },
            outputs: [("test".to_owned(), [("fused".to_owned(), metrics)].into())].into(),
            confusion: [("fused".to_owned(), vec![vec![3, 1], vec![0, 4]])].into(),
            phases: vec![PhaseSummary {
                label: "audio 1".to_owned(),
                modalities: vec!["audio".to_owned()],
                epochs: 5,
                accuracy: [("audio".to_owned(), 0.5)].into(),
                ..PhaseSummary::default()
            }],
            cost: Cost { wall_seconds: 12.5, steps: 8400, ..Cost::default() },
        };
        let text = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
        assert!(text.contains(r#""loss":"inf""#), "{text}");
    }
}
