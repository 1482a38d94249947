//! What a person, or a program, sees of a run while it goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mie_core::config::Experiment;
use mie_core::device;
use mie_core::engine::{Observer, StepProgress};
use mie_core::family::{Phase, Split};
use mie_record::{At, DataRecord, Event, OutputMetrics, RunDir};
use tch::Device;

use crate::format::count;
use crate::phases;
use crate::tables::in_order;
use crate::terminal::Shell;

/// Passes every event on as one line of JSON.
pub(crate) struct JsonLines<'a> {
    shell: &'a mut Shell,
}

impl<'a> JsonLines<'a> {
    /// Starts.
    pub(crate) fn new(shell: &'a mut Shell) -> Self {
        Self { shell }
    }
}

impl Observer for JsonLines<'_> {
    fn event(&mut self, event: &Event) {
        self.shell.json_line(event);
    }

    fn started(&mut self, run: &RunDir, _finished: bool) {
        self.shell.note(&format!("run {}", run.path().display()));
    }
}

/// Shows one line an epoch and, where somebody watches, a bar while the epoch goes on.
pub(crate) struct Progress<'a> {
    shell: &'a mut Shell,
    device: Device,
    batch_size: usize,
    /// As planned; empty when the strategy does not fit, which the engine refuses.
    phases: Vec<Phase>,
    run: Option<RunDir>,
    /// Whether the data were described.
    described: bool,
    place: Place,
    bar: Option<ProgressBar>,
    /// The epoch that ended last, until it is known whether its weights are the best.
    ended: Option<EndedEpoch>,
}

impl<'a> Progress<'a> {
    /// Starts watching a run of `experiment` on `device`.
    pub(crate) fn new(shell: &'a mut Shell, experiment: &Experiment, device: Device) -> Self {
        Self {
            shell,
            device,
            batch_size: experiment.data.batch_size,
            phases: phases::list(experiment).unwrap_or_default(),
            run: None,
            described: false,
            place: Place::default(),
            bar: None,
            ended: None,
        }
    }

    /// Stops watching: prints what is left, removes the bar and gives the run directory.
    pub(crate) fn close(mut self) -> Option<RunDir> {
        self.end_epoch();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.run
    }

    /// Prints without leaving pieces of the bar behind.
    fn print(&mut self, print: impl FnOnce(&mut Shell)) {
        let shell = &mut *self.shell;
        match &self.bar {
            Some(bar) => bar.suspend(|| print(shell)),
            None => print(shell),
        }
    }

    /// Prints the line of the epoch that ended last.
    fn end_epoch(&mut self) {
        let Some(ended) = self.ended.take() else { return };
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let line = ended.line(self.shell.width());
        self.shell.line(&line);
    }

    /// Says once which data the run uses; its manifest is written after it has started.
    fn describe_data(&mut self) {
        if std::mem::replace(&mut self.described, true) {
            return;
        }
        let manifest = self.run.as_ref().and_then(|run| run.read_manifest().ok());
        if let Some(manifest) = manifest {
            self.shell.line(&describe(&manifest.data));
        }
    }

    fn draw(&mut self, progress: &StepProgress) {
        let place = &self.place;
        let bar = self.bar.get_or_insert_with(|| epoch_bar(place, progress));
        bar.set_position(progress.done);
        let loss = progress.loss.map_or_else(String::new, |loss| format!("loss {loss:.3}  "));
        let samples_per_second = bar.per_sec() * self.batch_size as f64;
        let accuracies: Vec<String> = progress
            .accuracy
            .iter()
            .map(|(modality, share)| format!("{modality} {:.1} %  ", 100.0 * share))
            .collect();
        let accuracies = accuracies.concat();
        bar.set_message(format!("{loss}{accuracies}{samples_per_second:.0} samples/s"));
    }

    /// Characters of the longest label, so that lines align.
    fn label_width(&self) -> usize {
        self.phases.iter().map(|phase| phase.label.chars().count()).max().unwrap_or_default()
    }

    /// Says whether the epoch that ended last did so here.
    fn has_ended(&self, at: &At) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.at == *at)
    }
}

impl Observer for Progress<'_> {
    fn event(&mut self, event: &Event) {
        self.describe_data();
        let continues = match event {
            Event::Evaluation { at, .. } | Event::Best { at, .. } => self.has_ended(at),
            _ => false,
        };
        if !continues {
            self.end_epoch();
        }
        match event {
            Event::PhaseStart { label, epochs, .. } => {
                self.place = Place { label: label.clone(), epoch: 0, epochs: *epochs };
            }
            Event::Resumed { at, from } => {
                self.place = Place::planned(*at, &self.phases);
                let title = self.place.to_string();
                self.shell.line(&format!("resumed  from `{from}`, {title}, step {}", at.step));
            }
            Event::Epoch { at, train, seconds, data_wait_seconds, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_message("evaluating");
                }
                self.ended = Some(EndedEpoch {
                    at: *at,
                    place: Place { epoch: at.epoch, ..self.place.clone() },
                    label_width: self.label_width(),
                    loss: loss(train),
                    seconds: *seconds,
                    data_wait_seconds: *data_wait_seconds,
                    evaluation: None,
                    best: false,
                });
                self.place.epoch = at.epoch + 1;
            }
            Event::Evaluation { split, outputs, .. } => {
                if let Some(ended) = &mut self.ended {
                    ended.evaluation = Some((split.clone(), outputs.clone()));
                }
            }
            Event::Best { .. } => {
                if let Some(ended) = &mut self.ended {
                    ended.best = true;
                }
            }
            Event::Warning { message, .. } => self.print(|shell| shell.warning(message)),
            Event::Refresh { plugin, report, .. } => {
                // What a plugin wants read is in words; the rest is for the record.
                if let Some(words) = report["words"].as_str() {
                    self.print(|shell| shell.line(&format!("note     {plugin}: {words}")));
                }
            }
            Event::Step { .. } => {}
        }
    }

    fn step(&mut self, progress: &StepProgress) -> ControlFlow<()> {
        self.end_epoch();
        if self.shell.shows_bars() {
            self.draw(progress);
        }
        ControlFlow::Continue(())
    }

    fn started(&mut self, run: &RunDir, finished: bool) {
        self.run = Some(run.clone());
        self.shell.line(&format!("run      {}", run.path().display()));
        if finished {
            self.shell.line(
                "         is finished already: nothing is trained, these are its scores\n         for \
                 a new run change the seed or a setting, or remove the folder",
            );
            return;
        }
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or_default();
        let device = device::name(self.device);
        self.shell.line(&format!("device   {device}, {}", count(threads, "thread")));
        self.shell.line(&format!("phases   {}", phases::describe(&self.phases)));
    }
}

/// Where a run stands, for people.
#[derive(Debug, Clone, Default)]
struct Place {
    label: String,
    /// Epoch within the phase, from 0.
    epoch: usize,
    epochs: usize,
}

impl Place {
    /// Finds the place in the phases as planned.
    fn planned(at: At, phases: &[Phase]) -> Self {
        let phase = phases.get(at.phase);
        Self {
            label: phase.map_or_else(|| format!("phase {}", at.phase + 1), |p| p.label.clone()),
            epoch: at.epoch,
            epochs: phase.map_or(0, |phase| phase.epochs),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, epoch, epochs } = self;
        // A checkpoint after the last epoch of a phase stands behind it.
        write!(f, "{label}, epoch {}/{epochs}", (epoch + 1).min(*epochs))
    }
}

/// Makes a bar on standard error; `template` is in indicatif's language.
pub(crate) fn bar(template: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─");
    ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()).with_style(style)
}

fn epoch_bar(place: &Place, progress: &StepProgress) -> ProgressBar {
    let template = "{prefix}  {bar:24}  {pos}/{len}  {msg}  eta {eta}";
    let bar = bar(template, progress.total).with_prefix(place.to_string());
    // A resumed epoch starts in its middle, which must not count as speed.
    bar.set_position(progress.done);
    bar.reset_eta();
    bar
}

/// Sums the loss terms among the means of an epoch.
fn loss(train: &BTreeMap<String, f64>) -> f64 {
    train.iter().filter(|(name, _)| !name.ends_with(".accuracy")).map(|(_, mean)| mean).sum()
}

/// Describes the data of a run: `data     digits: 2400 train, 300 valid, 300 test; 10 classes`.
fn describe(data: &[DataRecord]) -> String {
    let Some(first) = data.first() else { return "data     none".to_owned() };
    let splits: Vec<String> = data
        .iter()
        .filter(|record| record.samples > 0 || !record.skipped.is_empty())
        .map(|record| match record.skipped.len() {
            0 => format!("{} {}", record.samples, record.split),
            skipped => format!("{} {} ({skipped} left out)", record.samples, record.split),
        })
        .collect();
    let (dataset, classes) = (&first.dataset, first.classes.len());
    format!("data     {dataset}: {}; {classes} classes", splits.join(", "))
}

/// What is printed of an epoch.
struct EndedEpoch {
    at: At,
    place: Place,
    label_width: usize,
    loss: f64,
    seconds: f64,
    data_wait_seconds: f64,
    /// Split and its outputs.
    evaluation: Option<(String, BTreeMap<String, OutputMetrics>)>,
    best: bool,
}

/// Fewest characters that a label is cut to.
const SHORTEST_LABEL: usize = 8;

impl EndedEpoch {
    /// Describes the epoch in one line of at most `columns`, where they are known.
    ///
    /// What does not fit goes in this order: further decision rules, the times, a part of the
    /// label.
    fn line(&self, columns: Option<u16>) -> String {
        let mut label = format!("{:width$}", self.place.label, width = self.label_width);
        let columns = columns.map_or(usize::MAX, usize::from);
        let fits = |line: &String| line.chars().count() <= columns;
        for (rules, times) in [(true, true), (false, true), (false, false)] {
            let line = self.write(&label, rules, times);
            if fits(&line) {
                return line;
            }
        }
        let over = self.write(&label, false, false).chars().count() - columns;
        let kept = label.chars().count().saturating_sub(over + 1).max(SHORTEST_LABEL);
        label = label.chars().take(kept).chain(['…']).collect();
        self.write(&label, false, false)
    }

    fn write(&self, label: &str, rules: bool, times: bool) -> String {
        let Place { epoch, epochs, .. } = &self.place;
        let digits = epochs.to_string().len();
        let mut parts = vec![
            format!("{label}   epoch {:>digits$}/{epochs}", epoch + 1),
            format!("loss {:.3}", self.loss),
        ];
        if let Some((split, outputs)) = &self.evaluation {
            let accuracies: Vec<String> = in_order(outputs)
                .into_iter()
                .filter(|(output, _)| rules || !output.starts_with("fused."))
                .map(|(output, metrics)| format!("{output} {:.1}", 100.0 * metrics.accuracy))
                .collect();
            // Scores of another split than usual must not pass for the usual ones.
            let usual = split == Split::Valid.name();
            let split = if usual { String::new() } else { format!("{split}: ") };
            parts.push(format!("{split}{} %", accuracies.join("  ")));
        }
        if times {
            let waited = 100.0 * self.data_wait_seconds / self.seconds.max(f64::MIN_POSITIVE);
            parts.push(format!("{:.1} s (data {waited:.0} %)", self.seconds));
        }
        parts.extend(self.best.then(|| "* best".to_owned()));
        parts.join("   ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::tests::paper;

    fn accuracy(accuracy: f64) -> OutputMetrics {
        OutputMetrics { accuracy, ..OutputMetrics::default() }
    }

    fn ended() -> EndedEpoch {
        let outputs = [("audio", 0.61), ("fused", 0.707), ("image", 0.483)];
        let outputs =
            outputs.map(|(name, value)| (name.to_owned(), accuracy(value))).into_iter().collect();
        EndedEpoch {
            at: At { phase: 1, epoch: 2, step: 600 },
            place: Place { label: "stage 2: video".to_owned(), epoch: 2, epochs: 10 },
            label_width: 14,
            loss: 0.4123,
            seconds: 12.34,
            data_wait_seconds: 0.5,
            evaluation: Some(("valid".to_owned(), outputs)),
            best: true,
        }
    }

    #[test]
    fn an_epoch_is_one_line_with_modalities_before_the_joint_decision() {
        assert_eq!(
            ended().line(None),
            "stage 2: video   epoch  3/10   loss 0.412   audio 61.0  image 48.3  fused 70.7 %   \
             12.3 s (data 4 %)   * best"
        );
    }

    #[test]
    fn an_epoch_without_evaluation_has_no_scores_and_labels_align() {
        let ended = EndedEpoch { evaluation: None, best: false, label_width: 16, ..ended() };
        assert_eq!(
            ended.line(None),
            "stage 2: video     epoch  3/10   loss 0.412   12.3 s (data 4 %)"
        );
    }

    #[test]
    fn a_line_that_does_not_fit_loses_rules_then_times_then_a_part_of_its_label() {
        let mut ended = ended();
        let outputs = &mut ended.evaluation.as_mut().unwrap().1;
        outputs.insert("fused.max".to_owned(), accuracy(0.5));
        assert!(ended.line(None).contains("fused.max 50.0"), "{}", ended.line(None));
        let whole =
            "stage 2: video   epoch  3/10   loss 0.412   audio 61.0  image 48.3  fused 70.7 %";
        assert_eq!(ended.line(Some(110)), format!("{whole}   12.3 s (data 4 %)   * best"));
        assert_eq!(ended.line(Some(100)), format!("{whole}   * best"));
        let columns = whole.len() + "   * best".len() - 4;
        let short = ended.line(Some(u16::try_from(columns).unwrap()));
        assert_eq!(short, format!("stage 2: …{}   * best", &whole[14..]));
        assert_eq!(short.chars().count(), columns);
    }

    #[test]
    fn scores_of_the_test_split_say_so() {
        let outputs = BTreeMap::from([("fused".to_owned(), accuracy(0.5))]);
        let evaluation = Some(("test".to_owned(), outputs));
        let text = EndedEpoch { evaluation, ..ended() }.line(None);
        assert!(text.contains("   test: fused 50.0 %   "), "{text}");
    }

    #[test]
    fn data_are_described_with_what_was_left_out() {
        let record = |split: &str, samples, skipped: &[&str]| DataRecord {
            dataset: "digits".to_owned(),
            split: split.to_owned(),
            samples,
            fingerprint: String::new(),
            skipped: skipped.iter().map(|&id| id.to_owned()).collect(),
            classes: vec![String::new(); 10],
        };
        assert_eq!(
            describe(&[
                record("train", 2399, &["a"]),
                record("valid", 0, &[]),
                record("test", 300, &[])
            ]),
            "data     digits: 2399 train (1 left out), 300 test; 10 classes"
        );
    }

    #[test]
    fn the_line_of_an_epoch_waits_for_its_evaluation_and_is_printed_once() {
        let (mut shell, out, err) = paper();
        let mut progress = Progress {
            shell: &mut shell,
            device: Device::Cpu,
            batch_size: 12,
            phases: Vec::new(),
            run: None,
            described: true,
            place: Place::default(),
            bar: None,
            ended: None,
        };
        let at = At { phase: 0, epoch: 0, step: 100 };
        progress.event(&Event::PhaseStart {
            at: At::default(),
            label: "all".to_owned(),
            modalities: vec!["audio".to_owned()],
            source: None,
            epochs: 1,
        });
        progress.event(&Event::Epoch {
            at,
            train: BTreeMap::from([("ce".to_owned(), 1.0), ("fused.accuracy".to_owned(), 0.9)]),
            seconds: 2.0,
            samples: 1200,
            data_wait_seconds: 1.0,
        });
        let evaluation = |at, accuracy_found| Event::Evaluation {
            at,
            split: "valid".to_owned(),
            outputs: BTreeMap::from([("fused".to_owned(), accuracy(accuracy_found))]),
            seconds: 1.0,
        };
        progress.event(&evaluation(at, 0.75));
        progress.event(&Event::Best { at, score_name: "valid".to_owned(), score: 0.75 });
        assert_eq!(out.text(), "");
        progress.event(&Event::Warning { at, message: "slow disk".to_owned() });
        // The evaluation of the selected weights at the end of a run belongs to no epoch.
        progress.event(&evaluation(At { phase: 1, epoch: 1, step: 100 }, 0.25));
        progress.close();
        assert_eq!(
            out.text(),
            "all   epoch 1/1   loss 1.000   fused 75.0 %   2.0 s (data 50 %)   * best\n"
        );
        assert_eq!(err.text(), "warning: slow disk\n");
    }
}
