//! The plugins and the model of an experiment, built and held against each other.

use std::collections::{BTreeMap, BTreeSet};

use tch::Device;

use super::checks::{self, Wanted};
use crate::config::Experiment;
use crate::data::{DataSource, check_mixup};
use crate::error::{Result, guarded};
use crate::family::{
    Controller, GradientModifier, Need, Objective, Optimizer, Phase, RunShape, Split, Strategy,
    TensorLayout,
};
use crate::model::{Branches, Model};
use crate::parameters::Parameters;

/// A plugin with the words that name it in errors and records.
pub(super) struct Plugged<T: ?Sized> {
    /// Family and name.
    pub(super) name: String,
    /// Name alone, as configurations have it.
    pub(super) key: String,
    pub(super) plugin: Box<T>,
}

impl<T: ?Sized> Plugged<T> {
    fn build(family: &str, key: &str, build: impl FnOnce() -> Result<Box<T>>) -> Result<Self> {
        let name = format!("{family} `{key}`");
        let plugin = guarded(&name, build)?;
        Ok(Self { name, key: key.to_owned(), plugin })
    }
}

/// Everything that is built from an experiment before data are read.
pub(super) struct Assembly {
    pub(super) model: Model,
    pub(super) parameters: Parameters,
    pub(super) objectives: Vec<Plugged<dyn Objective>>,
    pub(super) optimizer: Plugged<dyn Optimizer>,
    pub(super) modifiers: Vec<Plugged<dyn GradientModifier>>,
    pub(super) controllers: Vec<Plugged<dyn Controller>>,
    pub(super) strategy: Plugged<dyn Strategy>,
    /// What the plugins need.
    pub(super) wanted: Vec<Wanted>,
    /// Names of the outputs that evaluation reports.
    pub(super) outputs: Vec<String>,
    /// The phases, as if no phase ended early.
    pub(super) phases: Vec<Phase>,
    /// Names of the loss terms, with the objectives that give them.
    pub(super) terms: BTreeMap<String, usize>,
}

impl Assembly {
    /// Builds everything and makes a trial pass on made-up inputs.
    ///
    /// # Errors
    /// When an option is out of range or parts do not fit together.
    pub(super) fn build(
        experiment: &Experiment,
        layouts: &BTreeMap<String, Vec<TensorLayout>>,
        fillers: &BTreeMap<String, f64>,
        classes: usize,
        device: Device,
    ) -> Result<Self> {
        checks::check_names(experiment)?;
        let (model, parameters) = Model::build(experiment, layouts, fillers, classes, device)?;
        let objectives = experiment
            .objectives
            .iter()
            .map(|c| Plugged::build("objective", c.typetag_name(), || c.build()))
            .collect::<Result<Vec<Plugged<dyn Objective>>>>()?;
        let modifiers = experiment
            .gradient_modifiers
            .iter()
            .map(|c| Plugged::build("gradient modifier", c.typetag_name(), || c.build()))
            .collect::<Result<Vec<Plugged<dyn GradientModifier>>>>()?;
        let controllers = experiment
            .controllers
            .iter()
            .map(|c| Plugged::build("controller", c.typetag_name(), || c.build()))
            .collect::<Result<Vec<Plugged<dyn Controller>>>>()?;
        let optimizer = Plugged::build("optimizer", experiment.optimizer.typetag_name(), || {
            experiment.optimizer.build()
        })?;
        let new_strategy = || {
            let name = experiment.strategy.typetag_name();
            Plugged::build("strategy", name, || experiment.strategy.build())
        };
        // Asking a strategy for all its phases may move its state: that one is thrown away.
        let phases = checks::phases(new_strategy()?.plugin.as_mut(), &model.modalities())?;
        let strategy = new_strategy()?;
        let mut wanted = vec![Wanted {
            plugin: format!("fusion `{}`", experiment.fusion.typetag_name()),
            needs: model.fusion.needs(),
        }];
        let mut add =
            |plugin: &str, needs| wanted.push(Wanted { plugin: plugin.to_owned(), needs });
        for (name, rule) in &model.also {
            add(&format!("fusion `{name}`"), rule.needs());
        }
        for objective in &objectives {
            add(&objective.name, objective.plugin.needs());
        }
        for modifier in &modifiers {
            add(&modifier.name, modifier.plugin.needs());
        }
        for controller in &controllers {
            add(&controller.name, controller.plugin.needs());
        }
        checks::check_fusion_is_trained(experiment, &parameters, &wanted)?;
        let batch = checks::trial_batch(layouts, device)?;
        let mut branches = Branches::default();
        let outputs = checks::dry_run(&model, &batch, classes, &wanted, &mut branches)?;
        checks::check_scores(&phases, &outputs)?;
        let terms = checks::try_objectives(&model, &batch, &objectives, &phases, &mut branches)?;
        Ok(Self {
            model,
            parameters,
            objectives,
            optimizer,
            modifiers,
            controllers,
            strategy,
            wanted,
            outputs,
            phases,
            terms,
        })
    }

    /// Whether a controller needs something.
    pub(super) fn wants(&self, need: Need) -> bool {
        self.controllers.iter().any(|controller| controller.plugin.needs().contains(&need))
    }

    /// Holds the splits, where they are at hand, and the options of plugins against the run.
    ///
    /// # Errors
    /// When a split is missing or an option names what the run does not have.
    pub(super) fn check(&self, experiment: &Experiment, source: Option<&DataSource>) -> Result<()> {
        if let Some(source) = source {
            checks::check_splits(experiment, &self.wanted, source)?;
            checks::check_mirroring(experiment, source)?;
        }
        let modalities = self.model.modalities();
        if let Some(options) = &experiment.data.mixup {
            check_mixup(options, &modalities, &self.phases)?;
        }
        let terms: BTreeSet<String> = self.terms.keys().cloned().collect();
        let shape = RunShape {
            layers: modalities.iter().map(|name| (name.clone(), self.model.layers(name))).collect(),
            groups: self.parameters.ids().into_iter().collect(),
            phases: self.phases.clone(),
            scores: checks::known_scores(experiment, &self.outputs, &terms, &modalities),
            shared_head: self.model.shared_head(),
            terms,
            batch_size: experiment.data.batch_size,
            training_samples: source.map(|source| source.len(Split::Train)),
        };
        for Plugged { name, plugin, .. } in &self.objectives {
            guarded(name, || plugin.check(&shape))?;
        }
        for Plugged { name, plugin, .. } in &self.modifiers {
            guarded(name, || plugin.check(&shape))?;
        }
        for Plugged { name, plugin, .. } in &self.controllers {
            guarded(name, || plugin.check(&shape))?;
        }
        Ok(())
    }
}
