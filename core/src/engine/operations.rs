//! What plugins may do to a run between steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tch::{Device, Tensor};

use super::assembly::Plugged;
use super::evaluate::{Settings, evaluate};
use super::step::{Clock, Left, Step};
use super::trainer::Cursor;
use crate::batch::Outputs;
use crate::config::Experiment;
use crate::data::{Batches, DataSource, Request};
use crate::error::{Error, Result};
use crate::family::{Mode, Objective, Optimizer, PassRequest, RunOps, Split, State, Trial};
use crate::layers::{Layer, Probe, Statistics};
use crate::model::{Model, Running};
use crate::parameters::{GroupId, Parameters};
use crate::random::Seed;

/// A run between two steps.
pub(super) struct Operations<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) source: &'a Arc<DataSource>,
    pub(super) model: &'a mut Model,
    pub(super) parameters: &'a Parameters,
    pub(super) settings: &'a Settings,
    /// What passes cost is booked here.
    pub(super) cursor: &'a mut Cursor,
    /// What a trial trains with; absent while objectives are at work themselves.
    pub(super) training: Option<Training<'a>>,
    pub(super) said: Said,
}

/// What plugins said meanwhile.
#[derive(Default)]
pub(super) struct Said {
    pub(super) warnings: Vec<String>,
    pub(super) findings: Vec<serde_json::Value>,
}

/// What a trial trains with.
pub(super) struct Training<'a> {
    pub(super) objectives: &'a [Plugged<dyn Objective>],
    pub(super) optimizer: &'a mut Plugged<dyn Optimizer>,
    /// Which objective gives each loss term.
    pub(super) terms: &'a BTreeMap<String, usize>,
}

impl Operations<'_> {
    fn device(&self) -> Device {
        self.settings.device
    }

    /// Opens a pass over data whose draws no other pass has.
    fn batches(&mut self, request: &PassRequest, modalities: Vec<String>) -> Result<Batches> {
        self.cursor.plugin_passes += 1;
        if let Some(unknown) = modalities.iter().find(|name| !self.modalities().contains(name)) {
            return Err(Error::refused(
                format!("a pass asks for modality `{unknown}`, which the run does not have"),
                format!("name some of {:?}", self.modalities()),
            ));
        }
        Batches::start(
            self.source,
            Request {
                split: request.split,
                mode: request.mode,
                shuffled: request.shuffled,
                // Epochs of training count from 0 up.
                epoch: u64::MAX - self.cursor.plugin_passes,
                batch_size: request.batch_size.unwrap_or(self.experiment.data.batch_size),
                drop_last: request.drop_last,
                modalities,
                start: 0,
                workers: self.settings.workers,
                prefetch: self.settings.prefetch,
                access: None,
            },
        )
    }

    fn train(&mut self, trial: &Trial) -> Result<()> {
        let run: BTreeSet<String> = trial.modalities.iter().cloned().collect();
        let mut active = self.model.groups_of(&trial.modalities, self.parameters);
        active.retain(|id| self.parameters.group(id).is_some_and(|group| !group.frozen));
        let request = PassRequest {
            split: Split::Train,
            batch_size: None,
            drop_last: self.experiment.data.drop_last,
            mode: Mode::Training,
            shuffled: true,
            samples: None,
            spec: crate::batch::Spec::evaluation(run.clone()),
        };
        for epoch in 0..trial.epochs {
            let mut batches = self.batches(&request, trial.modalities.clone())?;
            let (total, mut place) = (batches.total() as u64, 0);
            let Some(Training { objectives, optimizer, terms }) = &mut self.training else {
                return Err(Error::Bug("only controllers can ask for a trial".to_owned()));
            };
            let objective = terms.get(&trial.term).and_then(|index| objectives.get(*index));
            let Some(objective) = objective else {
                return Err(Error::Bug(format!("a trial of the unknown term `{}`", trial.term)));
            };
            let weights = terms
                .keys()
                .map(|term| (term.clone(), if *term == trial.term { 1.0 } else { 0.0 }))
                .collect();
            while let Some(host) = batches.next_batch()? {
                let batch = host.to_device(self.settings.device)?;
                batches.recycle(host);
                let mut step = Step {
                    model: self.model,
                    parameters: self.parameters,
                    batch: &batch,
                    active: &active,
                    run: run.clone(),
                    objectives: vec![objective],
                    modifiers: &mut [],
                    factors: &self.cursor.factors,
                    term_weights: &weights,
                    seed: Seed(self.experiment.seed),
                    epoch,
                    place: (place, total),
                    number: place,
                    // No step of the run itself has a part like this.
                    part: u64::MAX - self.cursor.plugin_passes,
                    watch_modifiers: false,
                    watch_gradients: false,
                    group_norms: false,
                    clock: Clock::Running,
                    left: Left::default(),
                };
                optimizer.plugin.step(&mut step)?;
                let left = step.left;
                self.cursor.cost.forward_passes += left.forward_passes;
                self.cursor.cost.backward_passes += left.backward_passes;
                place += 1;
            }
        }
        Ok(())
    }
}

impl RunOps for Operations<'_> {
    fn pass(
        &mut self,
        request: &PassRequest,
        mut probe: Option<&mut dyn Probe>,
        each: &mut dyn FnMut(&Outputs, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let modalities: Vec<String> = request.spec.run.iter().cloned().collect();
        let mut batches = self.batches(request, modalities)?;
        let statistics = request.spec.statistics.unwrap_or(Statistics::Running);
        let mut seen = 0;
        while request.samples.is_none_or(|samples| seen < samples)
            && let Some(host) = batches.next_batch()?
        {
            let batch = host.to_device(self.device())?;
            batches.recycle(host);
            let probe: Option<&mut dyn Probe> = match &mut probe {
                Some(probe) => Some(&mut **probe),
                None => None,
            };
            let running = Running::of(statistics).probed(probe);
            let outputs = self.model.forward(&batch, &request.spec, running)?;
            self.cursor.cost.forward_passes += 1;
            seen += batch.len();
            each(&outputs, &batch.targets.labels)?;
        }
        Ok(())
    }

    fn samples(&self, split: Split) -> usize {
        self.source.len(split)
    }

    fn evaluate(&mut self, split: Split) -> Result<BTreeMap<String, f64>> {
        let evaluation = evaluate(self.model, self.source, split, self.settings, None)?;
        self.cursor.cost.evaluate_seconds += evaluation.seconds;
        let scores = evaluation.metrics().into_iter().flat_map(|(output, metrics)| {
            metrics.named().map(|(metric, value)| (format!("{output}.{metric}"), value))
        });
        Ok(scores.collect())
    }

    fn trial(
        &mut self,
        trial: &Trial,
        see: &mut dyn FnMut(&mut dyn RunOps) -> Result<()>,
    ) -> Result<()> {
        let weights = self.parameters.export()?;
        let Some(Training { optimizer, .. }) = &self.training else {
            return Err(Error::Bug("only controllers can ask for a trial".to_owned()));
        };
        let memory = optimizer.plugin.state()?;
        let fusion = self.model.fusion.state()?;
        let result = self.train(trial).and_then(|()| see(self));
        // Whatever happened, the run itself stays where it was.
        self.parameters.import(&weights)?;
        self.model.fusion.load_state(fusion)?;
        if let Some(Training { optimizer, .. }) = &mut self.training {
            optimizer.plugin.load_state(memory)?;
        }
        result
    }

    fn snapshot(&self, groups: &[GroupId]) -> Result<State> {
        let tensors = self.parameters.export_of(groups)?;
        Ok(State { tensors, values: serde_json::Map::new() })
    }

    fn restore(&mut self, snapshot: &State) -> Result<()> {
        self.parameters.overwrite(&snapshot.tensors)
    }

    fn note(&mut self, finding: serde_json::Value) {
        self.said.findings.push(finding);
    }

    fn layers(&self, modality: &str) -> Vec<Layer> {
        self.model.layers(modality)
    }

    fn parameter_count(&self, modality: &str) -> usize {
        let mut groups: BTreeSet<GroupId> =
            [GroupId::Encoder(modality.to_owned()), GroupId::Head(modality.to_owned())].into();
        if self.parameters.group(&GroupId::Head(modality.to_owned())).is_none() {
            groups.insert(GroupId::SharedHead);
        }
        groups.iter().map(|group| self.parameters.size(group)).sum()
    }

    fn modalities(&self) -> Vec<String> {
        self.model.modalities()
    }

    fn groups(&self) -> Vec<GroupId> {
        self.parameters.ids().into_iter().collect()
    }

    fn device(&self) -> Device {
        self.settings.device
    }

    fn seed(&self) -> Seed {
        Seed(self.experiment.seed)
    }

    fn warn(&mut self, message: &str) {
        self.said.warnings.push(message.to_owned());
    }
}
