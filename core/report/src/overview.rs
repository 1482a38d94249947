//! Where a run stands, finished or not.

use std::collections::BTreeMap;

use mie_record::{Event, Manifest, OutputMetrics, Result, RunDir, Summary, read_events};
use serde::Serialize;
use serde_json::Value;

/// Describes one run, wherever it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// Its directory.
    pub path: String,
    /// What it was made of.
    pub manifest: Manifest,
    /// How far it is.
    pub state: State,
    /// Epochs made, over all phases.
    pub epochs: usize,
    /// Latest scores of the split that selects, by output; of the selected weights once finished.
    pub scores: BTreeMap<String, OutputMetrics>,
    /// How it ended, once it has.
    pub summary: Option<Summary>,
    /// What plugins found when they looked at the data, in order.
    pub refreshes: Vec<Refresh>,
    /// Mean over the recorded steps of the cosine between the gradients of two modalities' heads,
    /// by `audio|image`.
    pub head_gradient_cosines: BTreeMap<String, f64>,
    /// Mean over the recorded steps of the L2 norm of each group's gradients before any modifier.
    pub gradient_norms: BTreeMap<String, f64>,
    /// When its record was last written to, in seconds since 1970-01-01 UTC.
    pub changed_unix_seconds: Option<u64>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has a summary.
    Finished,
    /// A process writes to it now: which one.
    Running(String),
    /// It was broken off; training it again with `--resume` goes on.
    Stopped,
}

/// What a plugin found when it looked at the data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refresh {
    /// Phase, from 0.
    pub phase: usize,
    /// Name of the plugin.
    pub plugin: String,
    /// What it found: for a gradient modifier what is modified by what.
    pub report: Value,
}

impl Overview {
    /// Reads what is known of a run, also while it goes on.
    ///
    /// # Errors
    /// When a file of the run is damaged or cannot be read.
    pub fn read(run: &RunDir) -> Result<Self> {
        let manifest = run.read_manifest()?;
        let summary = run.read_summary()?;
        let state = match (&summary, run.holder()) {
            (Some(_), _) => State::Finished,
            (None, Some(holder)) => State::Running(holder),
            (None, None) => State::Stopped,
        };
        let metrics = run.metrics_path();
        // A run that has just been made may have no record yet.
        let events = if metrics.exists() { read_events(&metrics)?.events } else { Vec::new() };
        let changed = std::fs::metadata(&metrics).and_then(|file| file.modified()).ok();
        let changed = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let mut overview = Self {
            path: run.path().display().to_string(),
            manifest,
            state,
            epochs: 0,
            scores: BTreeMap::new(),
            summary: None,
            refreshes: Vec::new(),
            head_gradient_cosines: BTreeMap::new(),
            gradient_norms: BTreeMap::new(),
            changed_unix_seconds: changed.map(|since| since.as_secs()),
        };
        overview.take_in(events);
        if let Some(summary) = &summary {
            let selected = summary.selection.split(' ').next().unwrap_or_default();
            if let Some(outputs) = summary.outputs.get(selected) {
                overview.scores.clone_from(outputs);
            }
        }
        overview.summary = summary;
        Ok(overview)
    }

    fn take_in(&mut self, events: Vec<Event>) {
        let (mut cosines, mut norms) = (Means::default(), Means::default());
        for event in events {
            match event {
                Event::Epoch { .. } => self.epochs += 1,
                Event::Evaluation { outputs, .. } => self.scores = outputs,
                Event::Refresh { at, plugin, report, .. } => {
                    self.refreshes.push(Refresh { phase: at.phase, plugin, report });
                }
                Event::Step { group_gradient_norms, head_gradient_cosines, .. } => {
                    cosines.add(head_gradient_cosines);
                    norms.add(group_gradient_norms);
                }
                _ => {}
            }
        }
        self.head_gradient_cosines = cosines.take();
        self.gradient_norms = norms.take();
    }
}

/// Means of numbers by name, of which not all are there every time.
#[derive(Default)]
struct Means(BTreeMap<String, (f64, u64)>);

impl Means {
    fn add(&mut self, numbers: BTreeMap<String, f64>) {
        for (name, number) in numbers {
            let (sum, count) = self.0.entry(name).or_default();
            *sum += number;
            *count += 1;
        }
    }

    fn take(self) -> BTreeMap<String, f64> {
        self.0.into_iter().map(|(name, (sum, count))| (name, sum / count as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use mie_record::MetricsWriter;
    use serde_json::json;

    use super::*;
    use crate::samples::Sample;

    #[test]
    fn a_run_is_running_while_somebody_holds_it_and_stopped_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let run = Sample::new("cremad/mie", 3).start(&folder);
        assert_eq!(Overview::read(&run).unwrap().state, State::Stopped);
        let lock = run.lock().unwrap();
        let State::Running(holder) = Overview::read(&run).unwrap().state else {
            panic!("nobody is said to hold it")
        };
        assert!(holder.starts_with(&format!("process {} on ", std::process::id())), "{holder}");
        drop(lock);
        assert_eq!(Overview::read(&run).unwrap().state, State::Stopped);
    }

    #[test]
    fn epochs_scores_refreshes_and_means_come_from_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let run = Sample::new("cremad/mie", 3).start(&folder);
        let mut writer = MetricsWriter::open(&run.metrics_path()).unwrap();
        let events = [
            json!({ "event": "refresh", "phase": 1, "epoch": 0, "step": 0, "plugin": "p",
                    "report": [1], "seconds": 0.5 }),
            json!({ "event": "step", "phase": 1, "epoch": 0, "step": 1, "terms": {},
                    "group_gradient_norms": { "head.audio": 1.0 },
                    "head_gradient_cosines": { "audio|video": 0.5 }, "learning_rate": 0.1 }),
            json!({ "event": "step", "phase": 1, "epoch": 0, "step": 2, "terms": {},
                    "group_gradient_norms": { "head.audio": 3.0 }, "learning_rate": 0.1 }),
            json!({ "event": "epoch", "phase": 1, "epoch": 0, "step": 2, "train": {},
                    "seconds": 1.0, "samples": 8, "data_wait_seconds": 0.0 }),
        ];
        for event in events {
            writer.write(&serde_json::from_value(event).unwrap()).unwrap();
        }
        let found = Overview::read(&run).unwrap();
        assert_eq!(found.epochs, 1);
        assert_eq!(found.refreshes[0].report, json!([1]));
        assert_eq!(found.gradient_norms, BTreeMap::from([("head.audio".to_owned(), 2.0)]));
        let cosines = BTreeMap::from([("audio|video".to_owned(), 0.5)]);
        assert_eq!(found.head_gradient_cosines, cosines);
        assert!(found.changed_unix_seconds.is_some());
    }
}
