//! The training loop: phases, epochs and steps, resumable between any two steps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use mie_record::{
    At, Cost, Event, EventWriter, MetricsWriter, PhaseSummary, RunDir, RunLock, Summary,
};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::assembly::Assembly;
use super::checkpoint::{self, Bundle};
use super::checks;
use super::evaluate::{Evaluation, Settings, evaluate, output_of};
use super::operations::{Operations, Said, Training};
use super::step::{ALL_GROUPS, Clock, Factors, Left, Spent, Step, factor};
use super::{Existing, Observer, StepProgress, TrainOptions};
use crate::batch::{Batch, Outputs};
use crate::config::{Resolved, SelectionSplit};
use crate::data::{Batches, DataSource, Request, TestAccess, mix};
use crate::error::{Error, Result, guarded};
use crate::family::{
    Boundary, Directive, GroupNorms, Load, Mode, Moment, Need, Phase, Report, Score, Split, SubStep,
};
use crate::parameters::GroupId;
use crate::random::{Purpose, Seed};
use crate::weights::Loaded;

/// How a call to train ended.
#[derive(Debug)]
pub enum Outcome {
    /// The run is finished; this is its summary.
    Finished(Box<Summary>),
    /// The observer broke it off; a checkpoint is saved.
    Interrupted,
}

/// Where a run stands; everything but tensors and plugin state that a resumed run needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) phase_index: usize,
    pub(super) phase: Option<Phase>,
    pub(super) epoch: usize,
    pub(super) step: u64,
    pub(super) global_step: u64,
    /// Epochs of each modality since the optimizer was last reset: what schedules count.
    pub(super) trained_epochs: BTreeMap<String, usize>,
    /// Passes over training data begun: names order and augmentation of the current one.
    pub(super) epochs_drawn: u64,
    /// Passes that plugins asked for.
    pub(super) plugin_passes: u64,
    pub(super) best: Option<Best>,
    pub(super) end_phase: bool,
    pub(super) factors: Factors,
    pub(super) term_weights: BTreeMap<String, f64>,
    /// Modality that the fusion shields from the others.
    pub(super) isolated: Option<String>,
    pub(super) scores: BTreeMap<String, f64>,
    pub(super) epoch_sums: BTreeMap<String, f64>,
    pub(super) epoch_samples: u64,
    pub(super) epoch_seconds: f64,
    pub(super) epoch_wait_seconds: f64,
    pub(super) cost: Cost,
    /// The phases begun so far, for the summary.
    pub(super) phases: Vec<PhaseSummary>,
    pub(super) metrics_position: u64,
    /// Modifiers that have changed a gradient so far.
    pub(super) modifiers_changed: BTreeSet<usize>,
    /// Refreshes in force: modifier and name of the file.
    pub(super) refreshed: BTreeMap<usize, String>,
    pub(super) warned: BTreeSet<String>,
    pub(super) marks: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    score: f64,
    name: String,
    pub(super) at: At,
}

/// Values of a step that are still on the device.
struct Pending {
    at: At,
    learning_rate: f64,
    samples: u64,
    terms: Vec<(String, Tensor)>,
    /// Of the first pass, to say where a value stopped being finite.
    outputs: Outputs,
    correct: Vec<(String, Tensor)>,
    gradient_norm: Option<Tensor>,
    group_norms: Vec<(GroupId, Tensor)>,
    cosines: Vec<(String, Tensor)>,
}

pub(super) struct Trainer<'a> {
    pub(super) resolved: &'a Resolved,
    pub(super) device: Device,
    pub(super) run: RunDir,
    _lock: RunLock,
    pub(super) source: Arc<DataSource>,
    pub(super) built: Assembly,
    /// Folder of the data, and of published weights.
    pub(super) data_dir: PathBuf,
    /// The published weights that were read; none where the run goes on from a checkpoint.
    pub(super) loaded: Loaded,
    pub(super) cursor: Cursor,
    /// Selection on the test split was asked for.
    access: Option<TestAccess>,
    pub(super) metrics: MetricsWriter,
    /// Open once the run is known to go on.
    pub(super) board: Option<EventWriter>,
    pending: Vec<Pending>,
    latest_loss: Option<f64>,
    /// Samples of this epoch whose values were read back.
    read_samples: u64,
    /// Gradients of heads on the current batch, when watched.
    head_gradients: Vec<(String, Tensor)>,
    /// Norms of the groups trained on the current batch, when a controller needs them.
    group_norms: BTreeMap<GroupId, GroupNorms>,
    /// What the parts of steps took, since it was last taken out.
    pub(super) spent: Spent,
    /// How that is measured.
    pub(super) clock: Clock,
    finished: Option<Summary>,
    pub(super) last_wall: Instant,
    /// Files that the checkpoint before the last one refers to.
    pub(super) kept: BTreeSet<PathBuf>,
    settings: Settings,
}

impl<'a> Trainer<'a> {
    /// Builds everything, checks that it fits together, and opens or resumes the run directory.
    pub(super) fn open(
        resolved: &'a Resolved,
        options: &TrainOptions,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let started = Instant::now();
        let experiment = &resolved.experiment;
        let device = options.device;
        let source = Arc::new(super::open_data(experiment, &options.data_dir)?);
        let built = Assembly::build(
            experiment,
            &source.layouts,
            &source.fillers,
            source.classes().len(),
            device,
        )?;
        built.check(experiment, Some(&source))?;
        let oracle = experiment.selection.split == SelectionSplit::Test;
        let run = open_directory(resolved, options)?;
        let lock = run.lock()?;
        run.remove_temporaries()?;
        let cursor =
            Cursor { factors: vec![BTreeMap::new(); built.controllers.len()], ..Cursor::default() };
        let finished = run.read_summary()?;
        observer.started(&run, finished.is_some());
        let mut trainer = Self {
            resolved,
            device,
            settings: Settings::of(experiment, device),
            metrics: MetricsWriter::open(&run.metrics_path())?,
            board: None,
            run,
            _lock: lock,
            source,
            built,
            data_dir: options.data_dir.clone(),
            loaded: Loaded::default(),
            cursor,
            access: oracle.then(TestAccess::granted),
            pending: Vec::new(),
            latest_loss: None,
            read_samples: 0,
            head_gradients: Vec::new(),
            group_norms: BTreeMap::new(),
            spent: Spent::default(),
            clock: Clock::default(),
            finished,
            last_wall: started,
            kept: BTreeSet::new(),
        };
        if oracle {
            trainer.cursor.marks.insert(mie_record::ORACLE.to_owned());
        }
        if trainer.source.records().iter().any(|record| !record.skipped.is_empty()) {
            trainer.cursor.marks.insert(mie_record::SKIPPED_DATA.to_owned());
        }
        if trainer.finished.is_none() {
            // Before anything is cut back: a refusal must leave the run as it is.
            if !trainer.has_checkpoint() {
                trainer.load_weights()?;
            }
            trainer.start_record(options)?;
            trainer.resume(observer)?;
            trainer.note_place(observer)?;
            let first_step = match trainer.cursor.global_step {
                0 => 0,
                step => step + 1,
            };
            trainer.board = Some(EventWriter::create(&trainer.run.events_path(), first_step)?);
        }
        Ok(trainer)
    }

    /// Runs to the end, or until the observer breaks it off.
    pub(super) fn run(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        if let Some(summary) = self.finished.take() {
            return Ok(Outcome::Finished(Box::new(summary)));
        }
        for warning in self.resolved.experiment.optimizer.warnings() {
            self.warn(&warning, observer)?;
        }
        let warnings = std::mem::take(&mut self.loaded.warnings);
        self.warn_all(warnings, observer)?;
        loop {
            if self.cursor.phase.is_none() {
                let report = Report {
                    phase: self.cursor.phase_index,
                    modalities: self.built.model.modalities(),
                    best: self.cursor.best.as_ref().map(|best| best.score),
                };
                let strategy = &mut self.built.strategy;
                let next = guarded(&strategy.name, || strategy.plugin.next(&report))?;
                let Some(phase) = next else { break };
                self.start_phase(
                    checks::checked(phase, &self.built.model.modalities())?,
                    observer,
                )?;
            }
            let epochs = self.cursor.phase.as_ref().map_or(0, |phase| phase.epochs);
            while self.cursor.epoch < epochs && !self.cursor.end_phase {
                if self.run_epoch(observer)?.is_break() {
                    return Ok(Outcome::Interrupted);
                }
            }
            self.cursor.phase = None;
            self.cursor.phase_index += 1;
        }
        self.finish(observer)
    }

    pub(super) fn start_phase(&mut self, phase: Phase, observer: &mut dyn Observer) -> Result<()> {
        if self.cursor.phase_index > 0 && phase.load == Load::Best {
            if self.cursor.best.is_none() {
                self.warn(
                    "the strategy asks for the best weights, and nothing selects them: phases \
                     start from the last ones; set selection.split = \"valid\" to select",
                    observer,
                )?;
            }
            self.load_best()?;
        }
        let contest = self.score_name(&phase.score);
        if self.cursor.best.as_ref().is_some_and(|best| best.name != contest) {
            self.cursor.best = None;
        }
        if phase.reset_optimizer {
            self.built.optimizer.plugin.reset();
            self.cursor.factors.iter_mut().for_each(BTreeMap::clear);
            self.cursor.trained_epochs.clear();
        }
        // What training reached belongs to the phase before: other modalities, other weights.
        self.cursor.scores.retain(|name, _| !name.starts_with("train."));
        self.cursor.epoch = 0;
        self.cursor.step = 0;
        self.cursor.end_phase = false;
        let event = Event::PhaseStart {
            at: self.at(),
            label: phase.label.clone(),
            modalities: phase.trained(),
            source: (!phase.source.is_empty()).then(|| phase.source.clone()),
            epochs: phase.epochs,
        };
        self.cursor.phases.push(PhaseSummary {
            label: phase.label.clone(),
            modalities: phase.trained(),
            source: phase.source.clone(),
            ..PhaseSummary::default()
        });
        self.cursor.phase = Some(phase);
        self.record(&event, observer)?;
        self.refresh(Moment::PhaseStart, observer)?;
        self.control(Moment::PhaseStart, observer)
    }

    fn run_epoch(&mut self, observer: &mut dyn Observer) -> Result<ControlFlow<()>> {
        let Some(phase) = self.cursor.phase.clone() else {
            return Err(Error::Bug("an epoch was started outside a phase".to_owned()));
        };
        if self.cursor.step == 0 {
            self.start_epoch(observer)?;
        }
        self.read_samples = self.cursor.epoch_samples;
        let started = Instant::now();
        let mut batches = self.batches(&phase)?;
        let total = batches.total() as u64;
        let mut flow = ControlFlow::Continue(());
        while let Some(host) = batches.next_batch()? {
            let batch = host.to_device(self.device)?;
            batches.recycle(host);
            self.train_on(&batch, &phase, total, observer)?;
            let progress = self.progress(total);
            flow = observer.step(&progress);
            let every = self.resolved.experiment.run.checkpoint_every_steps;
            let due = every > 0 && self.cursor.global_step.is_multiple_of(every);
            if flow.is_break() || (due && self.cursor.step < total) {
                self.flush(observer)?;
                self.tick(started.elapsed().as_secs_f64(), batches.waited().as_secs_f64());
                self.save()?;
                self.untick(started.elapsed().as_secs_f64(), batches.waited().as_secs_f64());
            }
            if flow.is_break() {
                return Ok(flow);
            }
        }
        self.flush(observer)?;
        self.tick(started.elapsed().as_secs_f64(), batches.waited().as_secs_f64());
        drop(batches);
        self.end_epoch(&phase, observer)?;
        Ok(flow)
    }

    pub(super) fn start_epoch(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.cursor.epoch_sums.clear();
        self.cursor.epoch_samples = 0;
        self.cursor.epoch_seconds = 0.0;
        self.cursor.epoch_wait_seconds = 0.0;
        self.latest_loss = None;
        self.refresh(Moment::EpochStart, observer)?;
        self.control(Moment::EpochStart, observer)
    }

    /// Opens the training data of an epoch, at the step where it stands.
    pub(super) fn batches(&self, phase: &Phase) -> Result<Batches> {
        let data = &self.resolved.experiment.data;
        Batches::start(
            &self.source,
            Request {
                split: Split::Train,
                mode: Mode::Training,
                shuffled: true,
                epoch: self.cursor.epochs_drawn,
                batch_size: data.batch_size,
                drop_last: data.drop_last,
                modalities: phase.trained(),
                start: self.cursor.step as usize,
                workers: self.settings.workers,
                prefetch: self.settings.prefetch,
                access: None,
            },
        )
    }

    /// Trains everything that the phase trains on a batch.
    pub(super) fn train_on(
        &mut self,
        batch: &Batch,
        phase: &Phase,
        total: u64,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.group_norms.clear();
        for (index, sub_step) in phase.sub_steps.iter().enumerate() {
            self.step(batch, sub_step, (index as u64, total), observer)?;
        }
        self.head_gradients.clear();
        self.cursor.step += 1;
        self.cursor.global_step += 1;
        self.cursor.cost.samples_seen += batch.len() as u64;
        self.cursor.epoch_samples += batch.len() as u64;
        let every = self.resolved.experiment.run.log_every_steps;
        // On a CUDA device reading a value waits for it, so it is done now and then.
        if self.device == Device::Cpu || self.cursor.global_step.is_multiple_of(every) {
            self.flush(observer)?;
        }
        self.control(Moment::StepEnd, observer)
    }

    fn progress(&self, total: u64) -> StepProgress {
        let read = self.read_samples.max(1) as f64;
        let accuracy = |(name, sum): (&String, &f64)| {
            let output = name.strip_suffix(".accuracy")?;
            Some((output.to_owned(), sum / read))
        };
        StepProgress {
            phase: self.cursor.phase.as_ref().map(|phase| phase.label.clone()).unwrap_or_default(),
            epoch: self.cursor.epoch,
            done: self.cursor.step,
            total,
            global_step: self.cursor.global_step,
            samples: self.cursor.epoch_samples,
            loss: self.latest_loss,
            accuracy: self.cursor.epoch_sums.iter().filter_map(accuracy).collect(),
        }
    }

    /// Books time spent in the current epoch.
    fn tick(&mut self, seconds: f64, waited: f64) {
        self.cursor.epoch_seconds += seconds;
        self.cursor.epoch_wait_seconds += waited;
        self.cursor.cost.train_seconds += seconds;
        self.cursor.cost.data_wait_seconds += waited;
    }

    /// Takes a booking back: the time goes on.
    fn untick(&mut self, seconds: f64, waited: f64) {
        self.tick(-seconds, -waited);
    }

    fn step(
        &mut self,
        batch: &Batch,
        sub_step: &SubStep,
        (index, total): (u64, u64),
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mut active = self.built.model.groups_of(&sub_step.modalities, &self.built.parameters);
        // A frozen group keeps its normalisation statistics as well.
        active.retain(|id| self.built.parameters.group(id).is_some_and(|group| !group.frozen));
        if self.built.parameters.trainable(&active).next().is_none() {
            return Ok(());
        }
        let mixed = self.mixed(batch, sub_step, index)?;
        let batch = mixed.as_ref().unwrap_or(batch);
        let first_of_phase = self.cursor.epoch == 0 && self.cursor.step == 0;
        // A modifier may be idle at first: it is watched until it has changed something.
        let every = self.resolved.experiment.run.log_every_steps;
        let idle = self.cursor.modifiers_changed.len() < self.built.modifiers.len();
        let watch = first_of_phase || (idle && self.cursor.global_step.is_multiple_of(every));
        let phase = self.cursor.phase.as_ref();
        let in_force = phase.map(|phase| checks::in_force(&self.built.objectives, phase));
        let in_force = in_force.unwrap_or_default();
        let group_norms = self.built.wants(Need::GroupNorms);
        let mut step = Step {
            model: &self.built.model,
            parameters: &self.built.parameters,
            batch,
            active: &active,
            run: sub_step.modalities.iter().cloned().collect(),
            objectives: in_force.iter().map(|(_, objective)| *objective).collect(),
            modifiers: &mut self.built.modifiers,
            factors: &self.cursor.factors,
            term_weights: &self.cursor.term_weights,
            seed: Seed(self.resolved.experiment.seed),
            epoch: self.cursor.epoch,
            place: (self.cursor.step, total),
            number: self.cursor.global_step,
            part: index,
            watch_modifiers: watch,
            // A step counts itself in the record.
            watch_gradients: (self.cursor.global_step + 1).is_multiple_of(every),
            group_norms,
            clock: self.clock,
            left: Left::default(),
        };
        let optimizer = &mut self.built.optimizer;
        guarded(&optimizer.name, || optimizer.plugin.step(&mut step))?;
        let mut left = step.left;
        let positions: Vec<usize> = in_force.iter().map(|(index, _)| *index).collect();
        for (index, notes) in positions.into_iter().zip(left.notes.drain(..)) {
            if let Some(objective) = self.built.objectives.get_mut(index) {
                guarded(&objective.name, || objective.plugin.observe(&notes))?;
            }
        }
        if group_norms {
            self.read_group_norms(&left);
        }
        let cost = &mut self.cursor.cost;
        cost.steps += 1;
        cost.forward_passes += left.forward_passes;
        cost.backward_passes += left.backward_passes;
        cost.displaced_seconds += left.spent.displaced.as_secs_f64();
        cost.modify_seconds += left.spent.modify.as_secs_f64();
        self.spent += left.spent;
        for (index, _) in left.changed.iter().enumerate().filter(|(_, changed)| **changed) {
            self.cursor.modifiers_changed.insert(index);
        }
        if !left.without_gradient.is_empty() {
            let names = left.without_gradient.join(", ");
            self.warn(
                &format!("these parameters are trained but get no gradient: {names}"),
                observer,
            )?;
        }
        self.remember(batch, left, &active)
    }

    fn read_group_norms(&mut self, left: &Left) {
        for (group, gradient) in &left.group_norms {
            let Some(weights) = left.weight_norms.get(group) else { continue };
            let squared = |norm: &Tensor| norm.double_value(&[]).powi(2);
            let norms = GroupNorms {
                gradient_squared: squared(gradient),
                weights_squared: squared(weights),
            };
            self.group_norms.insert(group.clone(), norms);
        }
    }

    fn mixed(&self, batch: &Batch, sub_step: &SubStep, index: u64) -> Result<Option<Batch>> {
        let Some(options) = &self.resolved.experiment.data.mixup else { return Ok(None) };
        let counters = [self.cursor.global_step, index];
        let seed = Seed(self.resolved.experiment.seed);
        let mut stream = seed.stream(Purpose::Mixup, "", &counters);
        mix(batch, options, &sub_step.modalities, &mut stream)
    }

    fn remember(&mut self, batch: &Batch, left: Left, active: &BTreeSet<GroupId>) -> Result<()> {
        let _guard = no_grad_guard();
        let mut correct = Vec::new();
        for (name, logits) in &left.outputs.logits {
            let hits = logits.f_argmax(-1, false)?.f_eq_tensor(&batch.targets.labels)?;
            correct.push((format!("{name}.accuracy"), hits.f_sum(Kind::Double)?));
        }
        let mut cosines = Vec::new();
        for (name, gradient) in left.head_gradients {
            for (other, before) in &self.head_gradients {
                if *other != name && gradient.size() == before.size() {
                    let (first, second) =
                        if *other < name { (other, &name) } else { (&name, other) };
                    let cosine = Tensor::f_cosine_similarity(&gradient, before, 0, 1e-12)?;
                    cosines.push((format!("{first}|{second}"), cosine));
                }
            }
            self.head_gradients.push((name, gradient));
        }
        let scale = active.iter().next().map_or(1.0, |group| factor(&self.cursor.factors, group));
        // A step counts itself, as evaluations after it do.
        let at = At { step: self.cursor.global_step + 1, ..self.at() };
        self.pending.push(Pending {
            at,
            learning_rate: self.built.optimizer.plugin.learning_rate() * scale,
            samples: batch.len() as u64,
            terms: left.terms,
            outputs: left.outputs,
            correct,
            gradient_norm: left.gradient_norm,
            group_norms: left.group_norms,
            cosines,
        });
        Ok(())
    }

    /// Reads back what steps left on the device; stops the run at the first value that is not
    /// finite.
    fn flush(&mut self, observer: &mut dyn Observer) -> Result<()> {
        for pending in std::mem::take(&mut self.pending) {
            let mut terms = BTreeMap::new();
            let mut loss = 0.0;
            for (name, value) in &pending.terms {
                let value = value.double_value(&[]);
                finite(&format!("loss term `{name}`"), value, &pending)?;
                loss += value;
                *self.cursor.epoch_sums.entry(name.clone()).or_default() +=
                    value * pending.samples as f64;
                terms.insert(name.clone(), value);
            }
            for (name, hits) in &pending.correct {
                *self.cursor.epoch_sums.entry(name.clone()).or_default() += hits.double_value(&[]);
            }
            let gradient_norm = pending.gradient_norm.as_ref().map(|norm| norm.double_value(&[]));
            if let Some(norm) = gradient_norm {
                finite("gradient norm", norm, &pending)?;
            }
            self.latest_loss = Some(loss);
            let read = |(name, value): (String, Tensor)| (name, value.double_value(&[]));
            let groups = pending.group_norms.into_iter();
            if pending.at.step.is_multiple_of(self.resolved.experiment.run.log_every_steps) {
                let event = Event::Step {
                    at: pending.at,
                    terms,
                    gradient_norm,
                    group_gradient_norms: groups
                        .map(|(group, norm)| read((group.to_string(), norm)))
                        .collect(),
                    head_gradient_cosines: pending.cosines.into_iter().map(read).collect(),
                    learning_rate: pending.learning_rate,
                };
                self.record(&event, observer)?;
            }
        }
        self.read_samples = self.cursor.epoch_samples;
        Ok(())
    }

    fn end_epoch(&mut self, phase: &Phase, observer: &mut dyn Observer) -> Result<()> {
        let count = self.cursor.epoch_samples.max(1) as f64;
        let train: BTreeMap<String, f64> =
            self.cursor.epoch_sums.iter().map(|(name, sum)| (name.clone(), sum / count)).collect();
        let loss =
            train.iter().filter(|(name, _)| !name.ends_with(".accuracy")).map(|(_, v)| v).sum();
        self.cursor.scores.insert("train.loss".to_owned(), loss);
        for (name, value) in &train {
            self.cursor.scores.insert(format!("train.{name}"), *value);
        }
        let event = Event::Epoch {
            at: self.at(),
            train,
            seconds: self.cursor.epoch_seconds,
            samples: self.cursor.epoch_samples,
            data_wait_seconds: self.cursor.epoch_wait_seconds,
        };
        self.record(&event, observer)?;
        if let Some(split) = self.resolved.experiment.selection.split.split() {
            self.evaluate(split, self.access, observer)?;
            self.select(phase, split, observer)?;
        }
        self.note_phase();
        self.control(Moment::EpochEnd, observer)?;
        self.cursor.epoch += 1;
        self.cursor.step = 0;
        self.cursor.epochs_drawn += 1;
        for modality in phase.trained() {
            *self.cursor.trained_epochs.entry(modality).or_default() += 1;
        }
        let every = self.resolved.experiment.run.checkpoint_every_epochs;
        if self.cursor.epoch.is_multiple_of(every) || self.cursor.epoch == phase.epochs {
            self.save()?;
        }
        Ok(())
    }

    /// Notes how far the phase has come.
    fn note_phase(&mut self) {
        let split = self.resolved.experiment.selection.split.split();
        let prefix = split.map(|split| format!("{}.", split.name()));
        let accuracy = self.cursor.scores.iter().filter_map(|(name, value)| {
            let output = name.strip_prefix(prefix.as_deref()?)?.strip_suffix(".accuracy")?;
            Some((output.to_owned(), *value))
        });
        let accuracy = accuracy.collect();
        let epochs = self.cursor.epoch + 1;
        if let Some(phase) = self.cursor.phases.last_mut() {
            (phase.epochs, phase.accuracy) = (epochs, accuracy);
        }
    }

    fn evaluate(
        &mut self,
        split: Split,
        access: Option<TestAccess>,
        observer: &mut dyn Observer,
    ) -> Result<Evaluation> {
        let evaluation = evaluate(&self.built.model, &self.source, split, &self.settings, access)?;
        self.cursor.cost.evaluate_seconds += evaluation.seconds;
        let outputs = evaluation.metrics();
        for (name, metrics) in &outputs {
            for (metric, value) in metrics.named() {
                let key = format!("{}.{name}.{metric}", split.name());
                self.cursor.scores.insert(key, value);
            }
        }
        let event = Event::Evaluation {
            at: self.at(),
            split: split.name().to_owned(),
            outputs,
            seconds: evaluation.seconds,
        };
        self.record(&event, observer)?;
        Ok(evaluation)
    }

    /// Keeps the weights whose score, just evaluated on `split`, is the best so far.
    fn select(&mut self, phase: &Phase, split: Split, observer: &mut dyn Observer) -> Result<()> {
        let metric = self.resolved.experiment.selection.metric.name();
        let key = format!("{}.{}.{metric}", split.name(), output_of(&phase.score));
        let score = self
            .cursor
            .scores
            .get(&key)
            .copied()
            .ok_or_else(|| Error::Bug(format!("`{key}` selects and was not evaluated")))?;
        if self.cursor.best.as_ref().is_some_and(|best| score <= best.score) {
            return Ok(());
        }
        let name = self.score_name(&phase.score);
        let started = Instant::now();
        let file = checkpoint::best_path(&self.run, self.cursor.global_step);
        self.model_state()?.write(&file)?;
        self.cursor.cost.save_seconds += started.elapsed().as_secs_f64();
        let at = self.at();
        self.record(&Event::Best { at, score_name: name.clone(), score }, observer)?;
        self.cursor.best = Some(Best { score, name, at });
        Ok(())
    }

    fn score_name(&self, score: &Score) -> String {
        let selection = &self.resolved.experiment.selection;
        let output = output_of(score);
        match selection.split.split() {
            Some(split) => format!("{} {} {output}", split.name(), selection.metric.name()),
            None => "last weights".to_owned(),
        }
    }

    /// Loads the best weights so far; leaves the current ones where nothing was selected.
    fn load_best(&mut self) -> Result<()> {
        let Some(best) = &self.cursor.best else { return Ok(()) };
        let file = checkpoint::best_path(&self.run, best.at.step);
        checkpoint::load_model(&file, &mut self.built.model, &self.built.parameters, self.device)
    }

    fn finish(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        self.load_best()?;
        self.model_state()?.write(&checkpoint::selected_path(&self.run))?;
        let inert: Vec<String> = self
            .built
            .modifiers
            .iter()
            .enumerate()
            .filter(|(index, modifier)| {
                !self.cursor.modifiers_changed.contains(index) && !modifier.plugin.acts_in_need()
            })
            .map(|(_, modifier)| modifier.name.clone())
            .collect();
        for name in inert {
            self.warn(
                &format!("{name} changed no gradient in this run: it did nothing"),
                observer,
            )?;
            self.cursor.marks.insert("inert modifier".to_owned());
        }
        if let Some(reason) = self.source.cache_stopped() {
            self.warn(&reason, observer)?;
        }
        let mut outputs = BTreeMap::new();
        let mut confusion = BTreeMap::new();
        for split in [Split::Valid, Split::Test] {
            if self.source.is_empty(split) {
                continue;
            }
            // Selection is over.
            let evaluation = self.evaluate(split, Some(TestAccess::granted()), observer)?;
            outputs.insert(split.name().to_owned(), evaluation.metrics());
            if split == Split::Test {
                for (name, report) in evaluation.outputs {
                    confusion.insert(name, report.confusion);
                }
            }
        }
        self.book_wall();
        self.cursor.cost.peak_memory_bytes = crate::device::peak_memory_bytes();
        let best = self.cursor.best.clone();
        let summary = Summary {
            experiment: self.resolved.experiment.name.clone(),
            fingerprint: self.resolved.fingerprint()?,
            seed: self.resolved.experiment.seed,
            finished_unix_seconds: super::record::now(),
            selection: best.as_ref().map_or("last weights".to_owned(), |best| best.name.clone()),
            marks: self.cursor.marks.iter().cloned().collect(),
            best: best.map_or_else(|| self.at(), |best| best.at),
            outputs,
            confusion,
            phases: std::mem::take(&mut self.cursor.phases),
            cost: self.cursor.cost,
        };
        self.run.write_summary(&summary)?;
        checkpoint::keep_only(&self.run.checkpoints_path(), "best-", &BTreeSet::new())?;
        Ok(Outcome::Finished(Box::new(summary)))
    }

    fn refresh(&mut self, moment: Moment, observer: &mut dyn Observer) -> Result<()> {
        let started = Instant::now();
        let at = self.boundary(moment);
        let mut fresh = Vec::new();
        let Assembly { model, parameters, objectives, modifiers, .. } = &mut self.built;
        let mut run = Operations {
            experiment: &self.resolved.experiment,
            source: &self.source,
            model,
            parameters,
            settings: &self.settings,
            cursor: &mut self.cursor,
            training: None,
            said: Said::default(),
        };
        for objective in objectives {
            guarded(&objective.name, || objective.plugin.refresh(&mut run, &at))?;
        }
        for (index, modifier) in modifiers.iter_mut().enumerate() {
            let started = Instant::now();
            let report = guarded(&modifier.name, || modifier.plugin.refresh(&mut run, &at))?;
            if let Some(report) = report {
                let (name, state) = (modifier.name.clone(), modifier.plugin.refreshed()?);
                fresh.push((index, name, state, report, started.elapsed().as_secs_f64()));
            }
        }
        let Said { warnings, .. } = run.said;
        self.cursor.cost.refresh_seconds += started.elapsed().as_secs_f64();
        for (index, plugin, state, report, seconds) in fresh {
            let file = format!("phase{}-epoch{}-modifier{index}", at.phase, at.epoch);
            let mut bundle = Bundle::default();
            bundle.put("refreshed", state);
            bundle.write(&checkpoint::refresh_path(&self.run, &file))?;
            self.cursor.refreshed.insert(index, file);
            self.record(&Event::Refresh { at: self.at(), plugin, report, seconds }, observer)?;
        }
        self.warn_all(warnings, observer)
    }

    fn control(&mut self, moment: Moment, observer: &mut dyn Observer) -> Result<()> {
        if self.built.controllers.is_empty() {
            return Ok(());
        }
        let at = self.boundary(moment);
        let Assembly { model, parameters, objectives, optimizer, terms, controllers, .. } =
            &mut self.built;
        let mut run = Operations {
            experiment: &self.resolved.experiment,
            source: &self.source,
            model,
            parameters,
            settings: &self.settings,
            cursor: &mut self.cursor,
            training: Some(Training { objectives, optimizer, terms }),
            said: Said::default(),
        };
        let (mut directives, mut findings) = (Vec::new(), Vec::new());
        let (began, evaluated) = (Instant::now(), run.cursor.cost.evaluate_seconds);
        for (index, controller) in controllers.iter_mut().enumerate() {
            let started = Instant::now();
            let asked = guarded(&controller.name, || controller.plugin.after(&at, &mut run))?;
            directives.extend(asked.into_iter().map(|ask| (index, controller.name.clone(), ask)));
            let seconds = started.elapsed().as_secs_f64();
            let found = std::mem::take(&mut run.said.findings).into_iter();
            findings.extend(found.map(|found| (controller.name.clone(), found, seconds)));
        }
        let Said { warnings, .. } = run.said;
        if moment != Moment::StepEnd {
            // Evaluations that controllers ask for are booked as such.
            let cost = &mut self.cursor.cost;
            let evaluations = cost.evaluate_seconds - evaluated;
            cost.refresh_seconds += (began.elapsed().as_secs_f64() - evaluations).max(0.0);
        }
        for (plugin, report, seconds) in findings {
            self.record(&Event::Refresh { at: self.at(), plugin, report, seconds }, observer)?;
        }
        for (index, name, directive) in directives {
            self.obey(index, &name, directive)?;
        }
        self.warn_all(warnings, observer)
    }

    fn obey(&mut self, controller: usize, name: &str, directive: Directive) -> Result<()> {
        let impossible = |what: String| Err(Error::Bug(format!("{name} asks for {what}")));
        match directive {
            Directive::LearningRateFactor { group, factor } => {
                if !(factor >= 0.0 && factor.is_finite()) {
                    return impossible(format!("the learning rate factor {factor}"));
                }
                let key = group.map_or_else(|| ALL_GROUPS.to_owned(), |group| group.to_string());
                self.cursor.factors[controller].insert(key, factor);
            }
            Directive::Freeze(group) | Directive::Thaw(group)
                if self.built.parameters.group(&group).is_none() =>
            {
                return impossible(format!("the unknown group `{group}`"));
            }
            Directive::Freeze(group) => self.set_frozen(&group, true),
            Directive::Thaw(group) => self.set_frozen(&group, false),
            Directive::TermWeight { term, weight } if !(weight >= 0.0 && weight.is_finite()) => {
                return impossible(format!("the weight {weight} for loss term `{term}`"));
            }
            Directive::TermWeight { term, .. } if !self.built.terms.contains_key(&term) => {
                return impossible(format!(
                    "a weight for the unknown loss term `{term}`; there are {:?}",
                    self.built.terms.keys()
                ));
            }
            Directive::TermWeight { term, weight } => {
                self.cursor.term_weights.insert(term, weight);
            }
            Directive::Isolate(modality) => self.isolate(modality),
            Directive::EndPhase => self.cursor.end_phase = true,
        }
        Ok(())
    }

    pub(super) fn isolate(&mut self, modality: Option<String>) {
        self.built.model.fusion.isolate(modality.as_deref());
        self.cursor.isolated = modality;
    }

    pub(super) fn set_frozen(&mut self, group: &GroupId, frozen: bool) {
        if let Some(group) = self.built.parameters.group_mut(group) {
            group.frozen = frozen;
        }
    }

    fn boundary(&self, moment: Moment) -> Boundary {
        let phase = self.cursor.phase.as_ref();
        let trained = phase.map(Phase::trained).unwrap_or_default();
        let counted = trained.iter().filter_map(|name| self.cursor.trained_epochs.get(name));
        let schedule_epoch = counted.max().copied().unwrap_or_default();
        Boundary {
            moment,
            phase: self.cursor.phase_index,
            epoch: self.cursor.epoch,
            epochs: phase.map_or(0, |phase| phase.epochs),
            step: self.cursor.step,
            global_step: self.cursor.global_step,
            schedule_epoch,
            fresh: self.cursor.phase_index == 0 || phase.is_some_and(|phase| phase.reset_optimizer),
            trained,
            source: phase.map(|phase| phase.source.clone()).unwrap_or_default(),
            scores: self.cursor.scores.clone(),
            group_norms: match moment {
                Moment::StepEnd => self.group_norms.clone(),
                _ => BTreeMap::new(),
            },
        }
    }

    pub(super) fn at(&self) -> At {
        At {
            phase: self.cursor.phase_index,
            epoch: self.cursor.epoch,
            step: self.cursor.global_step,
        }
    }

    pub(super) fn book_wall(&mut self) {
        self.cursor.cost.wall_seconds += self.last_wall.elapsed().as_secs_f64();
        self.last_wall = Instant::now();
    }
}

fn open_directory(resolved: &Resolved, options: &TrainOptions) -> Result<RunDir> {
    let fingerprint = resolved.fingerprint()?;
    let name = &resolved.experiment.name;
    let path = options.runs_dir.join(name).join(&fingerprint);
    let Ok(run) = RunDir::open(&path) else {
        crate::weights::expect_present(&resolved.experiment, &options.data_dir)?;
        return Ok(RunDir::create(&options.runs_dir, name, &fingerprint)?);
    };
    for folder in [run.checkpoints_path(), run.refresh_path()] {
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    }
    if options.existing == Existing::Refuse && run.read_summary()?.is_none() {
        return Err(Error::refused(
            format!("run {} exists and is not finished", path.display()),
            "add --resume to go on from its last checkpoint, or remove the folder to start over",
        ));
    }
    Ok(run)
}

fn finite(what: &str, value: f64, pending: &Pending) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite {
        what: what.to_owned(),
        step: pending.at.step,
        detail: format!(
            "it is {value}, and {}; lower the learning rate or the SAM radius, or check the \
             inputs. No checkpoint holds this step",
            first_not_finite(pending)?
        ),
    })
}

/// Names the first tensor on a step's way from features to gradients that is not finite.
fn first_not_finite(pending: &Pending) -> Result<String> {
    let outputs = &pending.outputs;
    let features = outputs.features.iter().map(|(name, x)| (format!("the feature of `{name}`"), x));
    let logits = outputs.logits.iter().map(|(name, x)| (format!("the logits of `{name}`"), x));
    let joint = outputs.joint.iter().map(|x| ("the joint logits".to_owned(), x));
    let gradients =
        pending.group_norms.iter().map(|(group, x)| (format!("the gradient of `{group}`"), x));
    for (name, tensor) in features.chain(logits).chain(joint).chain(gradients) {
        if tensor.f_isfinite()?.f_all()?.int64_value(&[]) == 0 {
            return Ok(format!("so is {name}"));
        }
    }
    Ok("features and logits are finite".to_owned())
}
