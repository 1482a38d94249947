//! Where the time of training steps goes.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tch::Device;

use super::step::{Clock, Spent};
use super::trainer::Trainer;
use super::{Existing, Observer, TrainOptions};
use crate::config::Resolved;
use crate::data::{Batches, HostBatch};
use crate::error::{Error, Result, ensure_range};
use crate::family::{Load, Phase};

/// Which steps to measure.
#[derive(Debug, Clone, Default)]
pub struct StepRequest {
    /// Index of their phase, from 0. Absent, it is the first one with a source for gradient
    /// modifiers, or else the first.
    pub phase: Option<usize>,
    /// Modality that the phase must train; absent means any.
    pub modality: Option<String>,
    /// Steps before those measured, which count for nothing.
    pub warm_up: usize,
    /// Steps measured, at least 1.
    pub steps: usize,
}

/// Records what training steps took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepMeasurement {
    /// Name of the experiment.
    pub experiment: String,
    /// Name of the phase.
    pub phase: String,
    /// Modalities that it trains.
    pub modalities: Vec<String>,
    /// Modalities that gradient modifiers learnt from.
    pub source: Vec<String>,
    /// Device, as the command line names it.
    pub device: String,
    /// Threads of one tensor operation.
    pub threads: usize,
    /// Threads that decode.
    pub loader_workers: usize,
    /// Samples of a step; the last one of an epoch may have fewer.
    pub batch_size: usize,
    /// Steps measured.
    pub steps: usize,
    /// Median over the steps.
    pub samples_per_second: f64,
    /// What a step took from waiting for its batch to its last record.
    pub seconds_per_step: Spread,
    /// Where this went, over all steps.
    pub shares: Shares,
    /// Most memory that the process has held, in bytes, where the system tells. That of a CUDA
    /// device is not among it.
    pub peak_memory_bytes: Option<u64>,
}

/// Describes how numbers are spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Half of them are no larger.
    pub median: f64,
    /// Smallest.
    pub minimum: f64,
    /// Largest.
    pub maximum: f64,
}

/// Splits the time of steps into parts that sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shares {
    /// Waiting for the loader, and copying to the device.
    pub data: f64,
    /// Forward passes with their losses, at the weights themselves.
    pub forward: f64,
    /// Backward passes at the weights themselves.
    pub backward: f64,
    /// What a look around costs, such as that of SAM: finding the displacement, and everything at
    /// displaced weights.
    pub displaced: f64,
    /// Gradient modifiers.
    pub modifiers: f64,
    /// The update rule and writing the weights.
    pub optimizer: f64,
    /// Everything else: mixing samples, norms and scores for the record, controllers.
    pub rest: f64,
}

/// Trains some steps of an experiment as a run does, and measures them.
///
/// Data, modifiers and controllers are real, and so is what comes before the first step of a phase:
/// published weights are read, and modifiers learn from their pass over the data. Weights are those
/// of the start of the run. The record goes to a temporary folder; nothing is evaluated or saved.
/// `each` is told the number of steps done, after each; where it breaks off, what was measured until
/// then is returned. On a CUDA device the parts of a step wait
/// for each other, so it takes a little longer than in a run.
///
/// # Errors
/// As [`train`](super::train); [`Error::Refused`] when no phase is the one asked for.
pub fn measure_steps(
    resolved: &Resolved,
    data_dir: &Path,
    device: Device,
    request: &StepRequest,
    each: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<StepMeasurement> {
    ensure_range("steps", "at least 1", request.steps, request.steps > 0)?;
    let folder =
        tempfile::tempdir().map_err(Error::io("make a folder in", &std::env::temp_dir()))?;
    let options = TrainOptions {
        runs_dir: folder.path().to_owned(),
        data_dir: data_dir.to_owned(),
        device,
        existing: Existing::Refuse,
        commit: None,
    };
    let mut trainer = Trainer::open(resolved, &options, &mut Unwatched)?;
    let (index, phase) = chosen(&trainer.built.phases, request)?;
    let laps = trainer.laps(index, &phase, request, each)?;
    let experiment = &resolved.experiment;
    Ok(StepMeasurement {
        experiment: experiment.name.clone(),
        modalities: phase.trained(),
        source: phase.source,
        phase: phase.label,
        device: crate::device::name(device),
        threads: tch::get_num_threads() as usize,
        loader_workers: experiment.run.workers,
        batch_size: experiment.data.batch_size,
        steps: laps.len(),
        samples_per_second: Spread::of(laps.iter().map(Lap::samples_per_second)).median,
        seconds_per_step: Spread::of(laps.iter().map(|lap| lap.whole.as_secs_f64())),
        shares: Shares::of(&laps),
        peak_memory_bytes: crate::device::peak_memory_bytes(),
    })
}

struct Unwatched;

impl Observer for Unwatched {}

/// What one step took.
struct Lap {
    samples: usize,
    whole: Duration,
    data: Duration,
    spent: Spent,
}

impl Lap {
    fn samples_per_second(&self) -> f64 {
        self.samples as f64 / self.whole.as_secs_f64()
    }
}

/// Finds the phase to measure, with its index.
fn chosen(phases: &[Phase], request: &StepRequest) -> Result<(usize, Phase)> {
    let fits = |(index, phase): &(usize, &Phase)| {
        request.phase.is_none_or(|wanted| wanted == *index)
            && request.modality.as_ref().is_none_or(|name| phase.trained().contains(name))
    };
    let fitting: Vec<(usize, &Phase)> = phases.iter().enumerate().filter(fits).collect();
    let with_source = fitting.iter().find(|(_, phase)| !phase.source.is_empty());
    match with_source.or(fitting.first()) {
        Some((index, phase)) => Ok((*index, (*phase).clone())),
        None => Err(unknown(phases, request)),
    }
}

/// Most phases that a refusal lists.
const LISTED: usize = 8;

fn unknown(phases: &[Phase], request: &StepRequest) -> Error {
    let mut wanted = Vec::new();
    wanted.extend(request.phase.map(|index| format!("phase {}", index + 1)));
    wanted.extend(request.modality.as_ref().map(|name| format!("a phase that trains `{name}`")));
    let mut labels: Vec<String> =
        phases.iter().take(LISTED).map(|phase| format!("`{}`", phase.label)).collect();
    if phases.len() > LISTED {
        labels.push(format!("{} more", phases.len() - LISTED));
    }
    Error::refused(
        format!("the experiment does not have {}", wanted.join(" as ")),
        format!("choose another of its {}: {}", phases.len(), labels.join(", ")),
    )
}

impl Trainer<'_> {
    /// Enters a phase as a run does, and times its steps one by one.
    fn laps(
        &mut self,
        index: usize,
        phase: &Phase,
        request: &StepRequest,
        each: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Lap>> {
        self.clock = Clock::Waiting;
        self.cursor.phase_index = index;
        // There is no phase before it whose best weights could be loaded.
        self.start_phase(Phase { load: Load::Last, ..phase.clone() }, &mut Unwatched)?;
        self.start_epoch(&mut Unwatched)?;
        let mut batches = self.batches(phase)?;
        let mut laps = Vec::new();
        for number in 1..=request.warm_up.saturating_add(request.steps) {
            let started = self.clock.now(self.device);
            let host = self.next_host(&mut batches, phase)?;
            let batch = host.to_device(self.device)?;
            batches.recycle(host);
            let data = self.clock.now(self.device) - started;
            self.spent = Spent::default();
            self.train_on(&batch, phase, batches.total() as u64, &mut Unwatched)?;
            let whole = self.clock.now(self.device) - started;
            if number > request.warm_up {
                laps.push(Lap { samples: batch.len(), whole, data, spent: self.spent });
            }
            if each(number).is_break() {
                break;
            }
        }
        if laps.is_empty() {
            return Err(Error::refused(
                "the measurement was broken off before its first step",
                "let it run longer, or take a smaller `warm_up`",
            ));
        }
        Ok(laps)
    }

    /// The next batch of the phase; of its next epoch, where one ends.
    fn next_host(&mut self, batches: &mut Batches, phase: &Phase) -> Result<HostBatch> {
        if let Some(host) = batches.next_batch()? {
            return Ok(host);
        }
        self.cursor.epochs_drawn += 1;
        self.cursor.step = 0;
        *batches = self.batches(phase)?;
        batches.next_batch()?.ok_or_else(|| {
            Error::refused(
                "the training split gives no batch",
                "`mie data check EXPERIMENT` says what is missing of the dataset",
            )
        })
    }
}

impl Spread {
    /// Describes at least one number.
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let last = sorted.len().saturating_sub(1);
        Self {
            // The middle one, or the mean of the two in the middle.
            median: at(last / 2).midpoint(at(sorted.len() / 2)),
            minimum: at(0),
            maximum: at(last),
        }
    }
}

impl Shares {
    fn of(laps: &[Lap]) -> Self {
        let whole: Duration = laps.iter().map(|lap| lap.whole).sum();
        let data: Duration = laps.iter().map(|lap| lap.data).sum();
        let mut spent = Spent::default();
        for lap in laps {
            spent += lap.spent;
        }
        let displaced = spent.search + spent.displaced;
        let known = data + spent.forward + spent.backward + displaced + spent.modify + spent.update;
        let share = |part: Duration| part.as_secs_f64() / whole.as_secs_f64();
        Self {
            data: share(data),
            forward: share(spent.forward),
            backward: share(spent.backward),
            displaced: share(displaced),
            modifiers: share(spent.modify),
            optimizer: share(spent.update),
            rest: share(whole.saturating_sub(known)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Score, SubStep};

    fn phase(modality: &str, source: &[&str]) -> Phase {
        Phase {
            label: format!("{modality} after {source:?}"),
            sub_steps: vec![SubStep { modalities: vec![modality.to_owned()] }],
            epochs: 1,
            load: Load::Best,
            reset_optimizer: true,
            source: source.iter().map(|&name| name.to_owned()).collect(),
            objectives: Vec::new(),
            score: Score::Fused,
        }
    }

    fn stages() -> [Phase; 4] {
        [phase("a", &[]), phase("b", &["a"]), phase("a", &["b"]), phase("b", &["a"])]
    }

    fn index(phases: &[Phase], phase: Option<usize>, modality: Option<&str>) -> Result<usize> {
        let modality = modality.map(str::to_owned);
        let request = StepRequest { phase, modality, ..StepRequest::default() };
        chosen(phases, &request).map(|(index, _)| index)
    }

    #[test]
    fn the_first_phase_with_a_source_is_measured_unless_another_is_asked_for() {
        assert_eq!(index(&stages(), None, None).unwrap(), 1);
        assert_eq!(index(&stages(), None, Some("a")).unwrap(), 2);
        assert_eq!(index(&stages(), Some(0), None).unwrap(), 0);
        assert_eq!(index(&stages(), Some(3), Some("b")).unwrap(), 3);
        assert_eq!(index(&stages()[..1], None, None).unwrap(), 0);
    }

    #[test]
    fn a_phase_that_does_not_exist_is_refused_with_those_that_do() {
        let error = index(&stages(), Some(4), None).unwrap_err().to_string();
        assert!(error.starts_with("the experiment does not have phase 5\n"), "{error}");
        assert!(error.contains("of its 4: `a after []`, `b after [\"a\"]`, "), "{error}");
        let error = index(&stages(), Some(0), Some("b")).unwrap_err().to_string();
        assert!(error.contains("have phase 1 as a phase that trains `b`\n"), "{error}");
        let many = [stages(), stages(), stages()].concat();
        let error = index(&many, None, Some("c")).unwrap_err().to_string();
        assert!(error.ends_with("`b after [\"a\"]`, 4 more"), "{error}");
    }

    #[test]
    fn the_shares_of_two_steps_are_those_of_their_sum() {
        let milliseconds = Duration::from_millis;
        let first = Lap {
            samples: 12,
            whole: milliseconds(100),
            data: milliseconds(10),
            spent: Spent {
                forward: milliseconds(20),
                backward: milliseconds(30),
                update: milliseconds(40),
                ..Spent::default()
            },
        };
        let second = Lap {
            samples: 6,
            whole: milliseconds(300),
            data: milliseconds(30),
            spent: Spent {
                forward: milliseconds(20),
                search: milliseconds(40),
                displaced: milliseconds(100),
                modify: milliseconds(50),
                ..Spent::default()
            },
        };
        let speeds = Spread::of([&first, &second].into_iter().map(Lap::samples_per_second));
        let Spread { median, minimum, maximum } = speeds;
        assert!([median - 70.0, minimum - 20.0, maximum - 120.0].iter().all(|e| e.abs() < 1e-9));
        let found = Shares::of(&[first, second]);
        let expected = Shares {
            data: 0.1,
            forward: 0.1,
            backward: 0.075,
            displaced: 0.35,
            modifiers: 0.125,
            optimizer: 0.1,
            rest: 0.15,
        };
        let numbers = |shares: &Shares| {
            let Shares { data, forward, backward, displaced, modifiers, optimizer, rest } = *shares;
            [data, forward, backward, displaced, modifiers, optimizer, rest]
        };
        for (found, expected) in numbers(&found).into_iter().zip(numbers(&expected)) {
            assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
        }
    }

    #[test]
    fn the_median_of_an_odd_number_of_steps_is_the_middle_one() {
        let Spread { median, minimum, maximum } = Spread::of([5.0, 1.0, 2.0].into_iter());
        assert!([median - 2.0, minimum - 1.0, maximum - 5.0].iter().all(|e| e.abs() < 1e-12));
    }
}
