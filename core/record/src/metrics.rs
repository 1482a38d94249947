//! `metrics.jsonl`: everything that happened in a run, one line an event.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{files, number};

/// Places an event in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct At {
    /// Phase of the strategy, counted from 0.
    pub phase: usize,
    /// Epoch within the phase, counted from 0.
    pub epoch: usize,
    /// Optimizer steps taken since the start of the run.
    pub step: u64,
}

/// Tells one thing that happened in a run.
///
/// On disk an object of one line: the variant's name under `event`, the fields of [`At`], then
/// the others, so that a line reads
/// `{"event":"best","phase":0,"epoch":3,"step":1200,"score_name":"valid accuracy","score":0.6}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A phase begins.
    PhaseStart {
        /// Where.
        #[serde(flatten)]
        at: At,
        /// What the strategy calls the phase.
        label: String,
        /// Modalities it trains.
        modalities: Vec<String>,
        /// Modalities or phases its starting weights come from, where it loads any.
        source: Option<Vec<String>>,
        /// Number of epochs planned.
        epochs: usize,
    },
    /// An optimizer step was taken.
    Step {
        /// Where; the step counts itself.
        #[serde(flatten)]
        at: At,
        /// Loss terms by name, in nats where they are cross-entropies.
        #[serde(with = "number::map")]
        terms: BTreeMap<String, f64>,
        /// L2 norm over all gradients before any modifier, where it was computed.
        #[serde(default, with = "number::option")]
        gradient_norm: Option<f64>,
        /// The same for each group of parameters that was trained.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "number::map")]
        group_gradient_norms: BTreeMap<String, f64>,
        /// Cosine between the gradients of two modalities' heads, by `audio|image`, where both
        /// were trained on the batch and their gradients have equal sizes.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "number::map")]
        head_gradient_cosines: BTreeMap<String, f64>,
        /// Learning rate the step used.
        #[serde(with = "number")]
        learning_rate: f64,
    },
    /// An epoch of training ended.
    Epoch {
        /// Where.
        #[serde(flatten)]
        at: At,
        /// Means over the epoch, by name.
        #[serde(with = "number::map")]
        train: BTreeMap<String, f64>,
        /// Time it took, in seconds.
        #[serde(with = "number")]
        seconds: f64,
        /// Samples it saw.
        samples: u64,
        /// Part of the time spent waiting for data, in seconds.
        #[serde(with = "number")]
        data_wait_seconds: f64,
    },
    /// A split was evaluated.
    Evaluation {
        /// Where.
        #[serde(flatten)]
        at: At,
        /// Name of the split.
        split: String,
        /// Scores by output: a modality (`audio`), the joint decision (`fused`) or a further
        /// decision rule (`fused.entropy_weighted`).
        outputs: BTreeMap<String, OutputMetrics>,
        /// Time it took, in seconds.
        #[serde(with = "number")]
        seconds: f64,
    },
    /// A plugin recomputed what it learns by looking at the data.
    Refresh {
        /// Where.
        #[serde(flatten)]
        at: At,
        /// Name of the plugin.
        plugin: String,
        /// What the plugin found. JSON values cannot hold NaN: write numbers that may not be
        /// finite with [`number`].
        report: serde_json::Value,
        /// Time it took, in seconds.
        #[serde(with = "number")]
        seconds: f64,
    },
    /// The best weights so far were reached.
    Best {
        /// Where.
        #[serde(flatten)]
        at: At,
        /// Score the weights are selected by.
        score_name: String,
        /// Its value.
        #[serde(with = "number")]
        score: f64,
    },
    /// Something the reader should know of, which does not stop the run.
    Warning {
        /// Where.
        #[serde(flatten)]
        at: At,
        /// What it is and what to do about it.
        message: String,
    },
    /// The run continues from a checkpoint.
    Resumed {
        /// Where.
        #[serde(flatten)]
        at: At,
        /// Name of the checkpoint.
        from: String,
    },
}

/// Scores one output of a model on one split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputMetrics {
    /// Share of samples whose class was predicted, in `[0, 1]`.
    #[serde(with = "number")]
    pub accuracy: f64,
    /// Unweighted mean of the F1 scores of the classes, in `[0, 1]`.
    #[serde(with = "number")]
    pub macro_f1: f64,
    /// Unweighted mean of the average precisions of the classes, in `[0, 1]`.
    #[serde(with = "number")]
    pub mean_average_precision: f64,
    /// Mean cross-entropy of a sample, in nats.
    #[serde(with = "number")]
    pub loss: f64,
    /// Number of samples.
    pub samples: u64,
}

impl OutputMetrics {
    /// Lists the scores by the names that selection and controllers know them by.
    pub fn named(&self) -> [(&'static str, f64); 4] {
        [
            ("accuracy", self.accuracy),
            ("macro_f1", self.macro_f1),
            ("mean_average_precision", self.mean_average_precision),
            ("loss", self.loss),
        ]
    }
}

/// Appends events to `metrics.jsonl`.
///
/// An event written has left the process: a kill loses none. A crash of the machine can lose the
/// last ones, never one before a [`position`](MetricsWriter::position).
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
    length: u64,
}

impl MetricsWriter {
    /// Opens the file for appending, creating it when missing.
    ///
    /// Half a line left at its end by a killed process is cut off.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, read or cut.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io("open", path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        let mut writer = Self { path: path.to_owned(), file, length: 0 };
        writer.cut(whole_lines(&bytes).len() as u64).map_err(Error::io("cut", path))?;
        Ok(writer)
    }

    /// Appends one event as one line.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses, a full disk for instance; the file then ends as
    /// before, as far as the system lets it be cut.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event).map_err(Error::json(&self.path))?;
        line.push(b'\n');
        if let Err(source) = self.file.write_all(&line) {
            // Half a line followed by later events would make the file unreadable.
            let _ = self.cut(self.length);
            return Err(Error::io("append to", &self.path)(source));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Syncs what was written and tells where it ends, in bytes, for a checkpoint.
    ///
    /// The sync comes first, or a crash could leave a checkpoint beyond the end of the file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be synced.
    pub fn position(&self) -> Result<u64> {
        self.file.sync_data().map_err(Error::io("sync", &self.path))?;
        Ok(self.length)
    }

    /// Cuts the file back to a [`position`](MetricsWriter::position) told earlier.
    ///
    /// # Errors
    /// [`Error::Offset`] when the file is shorter or no line ends there.
    pub fn truncate_to(&mut self, offset: u64) -> Result<()> {
        let bytes = files::read(&self.path)?;
        let kept = usize::try_from(offset).ok().and_then(|offset| bytes.get(..offset));
        let ends_a_line = kept.is_some_and(|kept| kept.is_empty() || kept.ends_with(b"\n"));
        if !ends_a_line {
            return Err(Error::Offset { path: self.path.clone(), offset, length: self.length });
        }
        self.cut(offset).map_err(Error::io("cut", &self.path))
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::Start(length))?;
        self.length = length;
        Ok(())
    }
}

/// Holds what `metrics.jsonl` told.
#[derive(Debug, Clone, PartialEq)]
pub struct EventLog {
    /// Every whole event, in the order written.
    pub events: Vec<Event>,
    /// Number of the last line, counted from 1, when it breaks off: a process was killed while
    /// writing it, or is writing it now.
    pub half_line: Option<usize>,
}

/// Reads `metrics.jsonl`, also while the run goes on.
///
/// # Errors
/// [`Error::Line`] for the first whole line that is not an event; [`Error::Io`] when the file
/// cannot be read.
pub fn read_events(path: &Path) -> Result<EventLog> {
    let bytes = files::read(path)?;
    let whole = whole_lines(&bytes);
    let mut events = Vec::new();
    for (index, line) in whole.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let event = serde_json::from_slice(line).map_err(|source| Error::Line {
            path: path.to_owned(),
            line: index + 1,
            source,
        })?;
        events.push(event);
    }
    let half_line = (whole.len() < bytes.len()).then_some(events.len() + 1);
    Ok(EventLog { events, half_line })
}

/// Leaves out what follows the last line end.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    &bytes[..length]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn at(step: u64) -> At {
        At { phase: 1, epoch: 2, step }
    }

    fn warning(step: u64) -> Event {
        Event::Warning { at: at(step), message: "two\nlines".to_owned() }
    }

    /// Holds one event of each kind.
    fn one_of_each() -> Vec<Event> {
        let metrics = OutputMetrics {
            accuracy: 0.1 + 0.2,
            macro_f1: 1.0 / 3.0,
            mean_average_precision: 1.0,
            loss: f64::NEG_INFINITY,
            samples: 744,
        };
        vec![
            Event::PhaseStart {
                at: at(0),
                label: "audio".to_owned(),
                modalities: vec!["audio".to_owned()],
                source: Some(vec!["best".to_owned()]),
                epochs: 3,
            },
            Event::Step {
                at: at(1),
                terms: [("audio".to_owned(), f64::INFINITY), ("joint".to_owned(), 1.25)].into(),
                gradient_norm: None,
                group_gradient_norms: BTreeMap::new(),
                head_gradient_cosines: BTreeMap::new(),
                learning_rate: 1e-3,
            },
            Event::Epoch {
                at: at(2),
                train: [("loss".to_owned(), 0.7)].into(),
                seconds: 1.5,
                samples: 64,
                data_wait_seconds: 0.25,
            },
            Event::Evaluation {
                at: at(2),
                split: "valid".to_owned(),
                outputs: [("fused.entropy_weighted".to_owned(), metrics)].into(),
                seconds: 0.5,
            },
            Event::Refresh {
                at: at(2),
                plugin: "svd_flat".to_owned(),
                report: json!({ "layers": [{ "rank": 512, "largest": 0.125, "note": null }] }),
                seconds: 2.0,
            },
            Event::Best { at: at(2), score_name: "valid accuracy".to_owned(), score: 0.625 },
            warning(2),
            Event::Resumed { at: at(2), from: "last".to_owned() },
        ]
    }

    #[test]
    fn every_kind_of_event_is_read_back_as_written_one_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::open(&path).unwrap();
        for event in &one_of_each() {
            writer.write(event).unwrap();
        }
        let log = read_events(&path).unwrap();
        assert_eq!(log, EventLog { events: one_of_each(), half_line: None });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), one_of_each().len());
        assert_eq!(writer.position().unwrap(), text.len() as u64);
    }

    #[test]
    fn a_line_starts_with_the_event_and_its_place() {
        let best = Event::Best { at: at(9), score_name: "valid accuracy".to_owned(), score: 0.5 };
        assert_eq!(
            serde_json::to_string(&best).unwrap(),
            concat!(
                r#"{"event":"best","phase":1,"epoch":2,"step":9,"#,
                r#""score_name":"valid accuracy","score":0.5}"#
            )
        );
        let step = Event::Step {
            at: at(9),
            terms: [("joint".to_owned(), f64::NAN)].into(),
            gradient_norm: Some(f64::INFINITY),
            group_gradient_norms: BTreeMap::new(),
            head_gradient_cosines: BTreeMap::new(),
            learning_rate: 0.5,
        };
        let line = serde_json::to_string(&step).unwrap();
        assert_eq!(
            line,
            concat!(
                r#"{"event":"step","phase":1,"epoch":2,"step":9,"#,
                r#""terms":{"joint":"NaN"},"gradient_norm":"inf","learning_rate":0.5}"#
            )
        );
        let Event::Step { terms, gradient_norm, .. } = serde_json::from_str(&line).unwrap() else {
            unreachable!("a step was written: {line}");
        };
        assert!(terms["joint"].is_nan());
        assert_eq!(gradient_norm, Some(f64::INFINITY));
    }

    #[test]
    fn a_resumed_run_cuts_back_to_the_checkpoint_and_ends_as_if_never_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let (straight, resumed) = (directory.path().join("a"), directory.path().join("b"));
        let mut writer = MetricsWriter::open(&straight).unwrap();
        for step in 1..=5 {
            writer.write(&warning(step)).unwrap();
        }

        let mut writer = MetricsWriter::open(&resumed).unwrap();
        writer.write(&warning(1)).unwrap();
        writer.write(&warning(2)).unwrap();
        let checkpoint = writer.position().unwrap();
        writer.write(&warning(3)).unwrap();
        drop(writer);

        let mut writer = MetricsWriter::open(&resumed).unwrap();
        writer.truncate_to(checkpoint).unwrap();
        assert_eq!(writer.position().unwrap(), checkpoint);
        for step in 3..=5 {
            writer.write(&warning(step)).unwrap();
        }
        assert_eq!(fs::read(&resumed).unwrap(), fs::read(&straight).unwrap());
    }

    #[test]
    fn a_cut_beyond_the_end_or_inside_a_line_is_refused_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::open(&path).unwrap();
        writer.write(&warning(1)).unwrap();
        let length = writer.position().unwrap();
        for offset in [length + 1, length - 1, 1, u64::MAX] {
            let error = writer.truncate_to(offset).unwrap_err().to_string();
            let said = format!("cannot cut at byte {offset} of {length}");
            assert!(error.contains(&said) && error.contains("metrics.jsonl"), "{error}");
        }
        writer.write(&warning(2)).unwrap();
        assert_eq!(read_events(&path).unwrap().events, [warning(1), warning(2)]);
        writer.truncate_to(0).unwrap();
        assert_eq!(read_events(&path).unwrap(), EventLog { events: Vec::new(), half_line: None });
    }

    #[test]
    fn half_a_last_line_is_reported_by_the_reader_and_cut_off_by_the_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        MetricsWriter::open(&path).unwrap().write(&warning(1)).unwrap();
        let whole = fs::read(&path).unwrap();
        // A whole object without its line end may still be missing bytes of a number.
        for half in [&b"{\"event\":\"warn"[..], &whole[..whole.len() - 1], &[0, 0xff][..]] {
            fs::write(&path, [whole.as_slice(), half].concat()).unwrap();
            let log = read_events(&path).unwrap();
            assert_eq!(log, EventLog { events: vec![warning(1)], half_line: Some(2) });
            MetricsWriter::open(&path).unwrap().write(&warning(2)).unwrap();
            assert_eq!(read_events(&path).unwrap().events, [warning(1), warning(2)]);
        }
    }

    #[test]
    fn a_broken_line_in_the_middle_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let line = serde_json::to_string(&warning(1)).unwrap();
        for broken in ["{\"event\":\"warn", "", "{\"event\":\"party\",\"step\":1}"] {
            fs::write(&path, format!("{line}\n{broken}\n{line}\n")).unwrap();
            let error = read_events(&path).unwrap_err().to_string();
            assert!(error.contains("metrics.jsonl: line 2 is not an event"), "{error}");
        }
    }
}
