//! One step: gradients, displaced gradients, and the only places that write weights.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use tch::{Cuda, Device, Tensor, no_grad_guard};

use super::assembly::Plugged;
use crate::batch::{Batch, Outputs, Spec, Targets};
use crate::error::{Error, Result, guarded};
use crate::family::{
    Ask, AskPurpose, Forward, GradientModifier, Inner, Need, Notes, Objective, Problem, Rule,
    RuleContext, Site, StepView, Term,
};
use crate::layers::{Layer, Probe, Statistics};
use crate::model::{Branches, Model, Running};
use crate::parameters::{ByParam, Grads, GroupId, ParamId, Parameters, global_norm};
use crate::random::{Purpose, Seed};

/// Learning rate factors of all controllers.
pub(super) type Factors = Vec<BTreeMap<String, f64>>;

/// Key of a factor that holds for every group.
pub(super) const ALL_GROUPS: &str = "";

/// Everything a step reads, and what it leaves behind for the record.
pub(super) struct Step<'a> {
    pub(super) model: &'a Model,
    pub(super) parameters: &'a Parameters,
    pub(super) batch: &'a Batch,
    pub(super) active: &'a BTreeSet<GroupId>,
    pub(super) run: BTreeSet<String>,
    pub(super) objectives: Vec<&'a Plugged<dyn Objective>>,
    pub(super) modifiers: &'a mut [Plugged<dyn GradientModifier>],
    pub(super) factors: &'a Factors,
    pub(super) term_weights: &'a BTreeMap<String, f64>,
    pub(super) seed: Seed,
    pub(super) epoch: usize,
    /// Batch within the epoch, and how many it has.
    pub(super) place: (u64, u64),
    pub(super) number: u64,
    pub(super) part: u64,
    /// Whether to note which modifiers change something.
    pub(super) watch_modifiers: bool,
    /// Whether to note the gradients of groups and heads.
    pub(super) watch_gradients: bool,
    /// Whether to note the norms of groups, whatever is watched.
    pub(super) group_norms: bool,
    pub(super) clock: Clock,
    pub(super) left: Left,
}

/// What readings of the time wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Clock {
    /// Nothing: on a CUDA device, times are those until work was queued.
    #[default]
    Running,
    /// The device: times are those of the work, and queueing no longer runs ahead of it.
    Waiting,
}

impl Clock {
    pub(super) fn now(self, device: Device) -> Instant {
        if self == Self::Waiting
            && let Device::Cuda(index) = device
        {
            Cuda::synchronize(index as i64);
        }
        Instant::now()
    }
}

/// What the parts of a step took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    /// Forward passes at the weights themselves, with the loss.
    pub(super) forward: Duration,
    /// Backward passes at the weights themselves.
    pub(super) backward: Duration,
    /// Making a displacement from the gradient.
    pub(super) search: Duration,
    /// Everything at displaced weights, moving them there and back as well.
    pub(super) displaced: Duration,
    /// Modifiers.
    pub(super) modify: Duration,
    /// The update rule and writing the weights.
    pub(super) update: Duration,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.forward += other.forward;
        self.backward += other.backward;
        self.search += other.search;
        self.displaced += other.displaced;
        self.modify += other.modify;
        self.update += other.update;
    }
}

/// What a step leaves behind.
#[derive(Default)]
pub(super) struct Left {
    gradients_asked: u64,
    pub(super) forward_passes: u64,
    pub(super) backward_passes: u64,
    /// Weighted terms of the first pass, detached.
    pub(super) terms: Vec<(String, Tensor)>,
    /// Outputs of the first pass, detached.
    pub(super) outputs: Outputs,
    /// Layer inputs of the first pass that modifiers watch.
    pub(super) layer_inputs: BTreeMap<String, Tensor>,
    /// What objectives noted in the first pass, in their order.
    pub(super) notes: Vec<Notes>,
    /// Norm of the descent gradient before modifiers.
    pub(super) gradient_norm: Option<Tensor>,
    /// The same by group, when watched.
    pub(super) group_norms: Vec<(GroupId, Tensor)>,
    /// Norm of each group's weights before the step, when wanted.
    pub(super) weight_norms: BTreeMap<GroupId, Tensor>,
    /// Gradient of each modality's head as one vector, when watched.
    pub(super) head_gradients: Vec<(String, Tensor)>,
    pub(super) spent: Spent,
    /// When the optimizer got its latest gradient.
    handed_over: Option<Instant>,
    /// Modifiers that changed something, when watched.
    pub(super) changed: Vec<bool>,
    /// Active parameters without a gradient, when watched.
    pub(super) without_gradient: Vec<String>,
}

struct Passes<'a> {
    model: &'a Model,
    batch: &'a Batch,
    active: &'a BTreeSet<GroupId>,
    run: &'a BTreeSet<String>,
    statistics: Statistics,
    original_labels: bool,
    /// Names the random draws of these passes; absent in a trial.
    draw: Option<u64>,
    /// Layer inputs of the plain pass, where some are watched.
    inputs: Option<Inputs>,
    made: BTreeMap<Spec, Outputs>,
    branches: Branches,
}

/// Keeps the inputs of the layers of some groups.
#[derive(Default)]
struct Inputs {
    groups: BTreeSet<GroupId>,
    seen: BTreeMap<String, Tensor>,
}

impl Probe for Inputs {
    fn see(&mut self, layer: &Layer, input: &Tensor) -> Result<()> {
        if self.groups.contains(&layer.weight.group) {
            self.seen.insert(layer.name.clone(), input.f_detach()?);
        }
        Ok(())
    }
}

impl Passes<'_> {
    /// Passes made, those that share what a modality gives counted by their share.
    fn count(&self) -> u64 {
        self.branches.computed.div_ceil(self.run.len().max(1) as u64)
    }
}

impl Forward for Passes<'_> {
    fn full(&self) -> Spec {
        Spec { run: self.run.clone(), present: self.run.clone(), statistics: None, gradients: true }
    }

    fn run(&mut self, spec: &Spec) -> Result<Outputs> {
        if let Some(outputs) = self.made.get(spec) {
            return Ok(outputs.share());
        }
        // Normalisation learns from the plain pass alone: one batch, one update.
        let plain = *spec == self.full();
        let statistics = if plain { self.statistics } else { Statistics::Keep };
        let watched = self.inputs.as_mut().filter(|_| plain);
        let running = Running {
            statistics: spec.statistics.unwrap_or(statistics),
            active: Some(self.active),
            probe: watched.map(|inputs| inputs as &mut dyn Probe),
            draw: self.draw,
            branches: Some(&mut self.branches),
        };
        let outputs = self.model.forward(self.batch, spec, running)?;
        self.made.insert(spec.clone(), outputs.share());
        Ok(outputs)
    }

    fn targets(&self) -> Targets {
        self.batch.targets.share(self.original_labels)
    }
}

/// Names of the loss terms that objectives give when `run` is trained on `batch`, with their
/// positions among `objectives`.
///
/// # Errors
/// Whatever an objective returns: what it needs is missing, sizes do not fit.
pub(super) fn trial(
    model: &Model,
    batch: &Batch,
    run: &BTreeSet<String>,
    objectives: &[&Plugged<dyn Objective>],
    branches: &mut Branches,
) -> Result<BTreeMap<String, usize>> {
    // Nothing is derived from these terms; the graph of a large network would fill the memory.
    let _guard = no_grad_guard();
    let active = BTreeSet::new();
    let mut passes = Passes {
        model,
        batch,
        active: &active,
        run,
        statistics: Statistics::Running,
        original_labels: false,
        draw: None,
        inputs: None,
        made: BTreeMap::new(),
        branches: std::mem::take(branches),
    };
    let mut names = BTreeMap::new();
    for (index, objective) in objectives.iter().enumerate() {
        let terms =
            guarded(&objective.name, || objective.plugin.terms(&mut passes, &mut Notes::new()))?;
        for term in terms {
            if names.insert(term.name.clone(), index).is_some() {
                return Err(twice(&term.name));
            }
        }
    }
    *branches = passes.branches;
    Ok(names)
}

fn twice(name: &str) -> Error {
    Error::refused(
        format!("two loss terms are called `{name}`"),
        "name each objective once: records and weights tell terms apart by their names",
    )
}

impl Step<'_> {
    fn first(&self) -> bool {
        self.left.gradients_asked == 0
    }

    fn now(&self) -> Instant {
        self.clock.now(self.batch.targets.labels.device())
    }

    fn leaves(&self) -> Vec<(ParamId, Tensor)> {
        self.parameters
            .trainable(self.active)
            .map(|(id, value)| (id, value.shallow_clone()))
            .collect()
    }

    fn terms(&mut self, ask: Ask) -> Result<Vec<Term>> {
        let first = self.first();
        // libtorch's generator serves dropout alone; what it draws depends on the step and pass.
        let pass = if ask.replay_noise { 0 } else { self.left.backward_passes };
        let counters = [self.number, self.part, pass];
        let draw = self.seed.number(Purpose::Forward, "", &counters);
        tch::manual_seed(draw as i64);
        let watched: BTreeSet<GroupId> =
            self.modifiers.iter().flat_map(|m| m.plugin.watches()).cloned().collect();
        let inputs = (first && !watched.is_empty())
            .then(|| Inputs { groups: watched, seen: BTreeMap::new() });
        let mut passes = Passes {
            model: self.model,
            batch: self.batch,
            active: self.active,
            run: &self.run,
            statistics: if first { Statistics::Update } else { Statistics::Keep },
            original_labels: ask.original_labels,
            draw: Some(draw),
            inputs,
            made: BTreeMap::new(),
            branches: Branches::default(),
        };
        let mut terms = Vec::new();
        for objective in &self.objectives {
            let mut notes = Notes::new();
            terms.extend(guarded(&objective.name, || {
                objective.plugin.terms(&mut passes, &mut notes)
            })?);
            if first {
                self.left.notes.push(notes);
            }
        }
        let mut names = BTreeSet::new();
        if let Some(term) = terms.iter().find(|term| !names.insert(&term.name)) {
            return Err(twice(&term.name));
        }
        for term in &mut terms {
            term.weight *= self.term_weights.get(&term.name).copied().unwrap_or(1.0);
        }
        terms.retain(|term| term.weight != 0.0);
        self.left.forward_passes += passes.count();
        if first {
            self.left.layer_inputs =
                passes.inputs.take().map(|inputs| inputs.seen).unwrap_or_default();
            let full = passes.full();
            if let Some(outputs) = passes.made.get(&full) {
                self.left.outputs = outputs.detached()?;
            }
            for term in &terms {
                let value = term.value.f_detach()?.f_mul_scalar(term.weight)?;
                self.left.terms.push((term.name.clone(), value));
            }
        }
        Ok(terms)
    }

    fn backward(
        &mut self,
        loss: &Tensor,
        name: &str,
        route: Option<&[GroupId]>,
        leaves: &[(ParamId, Tensor)],
        keep_graph: bool,
    ) -> Result<ByParam> {
        let routed: Vec<&(ParamId, Tensor)> = leaves
            .iter()
            .filter(|(id, _)| route.is_none_or(|groups| groups.contains(&id.group)))
            .collect();
        if routed.is_empty() {
            return Ok(ByParam::new());
        }
        // Without a graph, libtorch would end the process.
        if !loss.requires_grad() {
            return Err(Error::refused(
                format!("loss term `{name}` does not depend on any parameter being trained"),
                "check the objective, or give the term weight 0",
            ));
        }
        let inputs: Vec<&Tensor> = routed.iter().map(|(_, value)| value).collect();
        let gradients = Tensor::f_run_backward(&[loss], &inputs, keep_graph, false)?;
        self.left.backward_passes += 1;
        let mut seen = BTreeSet::new();
        let mut found = ByParam::new();
        for ((id, _), gradient) in routed.into_iter().zip(gradients) {
            if !gradient.defined() {
                continue;
            }
            // Modifiers and rules write in place: a gradient must own its memory.
            let gradient = gradient.f_contiguous()?;
            let own = seen.insert(gradient.data_ptr() as usize);
            found.insert(id.clone(), if own { gradient } else { gradient.f_detach_copy()? });
        }
        Ok(found)
    }
}

impl Problem for Step<'_> {
    fn gradients(&mut self, ask: Ask) -> Result<Grads> {
        let first = self.first();
        let leaves = self.leaves();
        let started = self.now();
        let terms = self.terms(ask)?;
        let forward_done = self.now();
        self.left.gradients_asked += 1;
        let by_term = ask.purpose == AskPurpose::Descent
            && self.modifiers.iter().any(|m| m.plugin.needs().contains(&Need::GradientsByTerm));
        // Terms of one route share a backward pass, unless a modifier wants them apart.
        let mut losses: Vec<(String, Option<Vec<GroupId>>, Tensor)> = Vec::new();
        for term in terms {
            let value = if (term.weight - 1.0).abs() < f64::EPSILON {
                term.value
            } else {
                term.value.f_mul_scalar(term.weight)?
            };
            match losses.iter_mut().find(|(_, route, _)| !by_term && *route == term.route) {
                Some((_, _, sum)) => *sum = sum.f_add(&value)?,
                None => losses.push((term.name, term.route, value)),
            }
        }
        let mut grads = Grads::default();
        let count = losses.len();
        for (index, (name, route, loss)) in losses.into_iter().enumerate() {
            let found =
                self.backward(&loss, &name, route.as_deref(), &leaves, index + 1 < count)?;
            for (id, gradient) in &found {
                match grads.sum.get(id) {
                    Some(sum) => {
                        let sum = sum.f_add(gradient)?;
                        grads.sum.insert(id.clone(), sum);
                    }
                    None if by_term => {
                        // The sum is changed in place later; the term's own gradient is not.
                        grads.sum.insert(id.clone(), gradient.f_detach_copy()?);
                    }
                    None => {
                        grads.sum.insert(id.clone(), gradient.shallow_clone());
                    }
                }
            }
            if by_term {
                grads.by_term.insert(name, found);
            }
        }
        if first && self.watch_modifiers {
            self.left.without_gradient = leaves
                .iter()
                .filter(|(id, _)| !grads.sum.contains_key(id))
                .map(|(id, _)| id.to_string())
                .collect();
        }
        let done = self.now();
        self.left.spent.forward += forward_done - started;
        self.left.spent.backward += done - forward_done;
        self.left.handed_over = Some(done);
        Ok(grads)
    }

    fn displaced(&mut self, displacement: &ByParam, inner: &mut Inner<'_>) -> Result<Grads> {
        let started = self.now();
        if let Some(handed_over) = self.left.handed_over.take() {
            self.left.spent.search += started - handed_over;
        }
        let before = self.left.spent;
        let mut restore = Restore(Vec::new());
        {
            let _guard = no_grad_guard();
            for (id, shift) in displacement {
                let value = self.parameters.value(id).ok_or_else(|| {
                    Error::Bug(format!("an optimizer displaced the unknown parameter `{id}`"))
                })?;
                let mut live = value.shallow_clone();
                let copy = live.f_detach_copy()?;
                restore.0.push((live.shallow_clone(), copy));
                let _ = live.f_add_(shift)?;
            }
        }
        let result = inner(self);
        drop(restore);
        let displaced = before.displaced + (self.now() - started);
        // The passes within are part of it.
        self.left.spent = Spent { displaced, ..before };
        result
    }

    fn apply(&mut self, mut gradients: Grads, rule: &mut Rule<'_>) -> Result<()> {
        let _guard = no_grad_guard();
        if gradients.sum.is_empty() {
            return Ok(());
        }
        self.left.gradient_norm = Some(gradients.norm()?);
        if self.watch_gradients || self.group_norms {
            self.note_group_norms(&gradients.sum)?;
        }
        if self.watch_gradients {
            self.note_head_gradients(&gradients.sum)?;
        }
        self.left.changed = vec![false; self.modifiers.len()];
        self.modify(&mut gradients, Site::Gradient)?;
        let started = self.now();
        for (id, gradient) in &mut gradients.sum {
            let value = self.parameters.value(id).ok_or_else(|| {
                Error::Bug(format!("a gradient names the unknown parameter `{id}`"))
            })?;
            let learning_rate_factor = factor(self.factors, &id.group);
            rule(RuleContext { id, value, learning_rate_factor }, gradient)?;
        }
        let ruled = self.now() - started;
        self.modify(&mut gradients, Site::Update)?;
        let resumed = self.now();
        for (id, step) in &gradients.sum {
            if let Some(value) = self.parameters.value(id) {
                let _ = value.shallow_clone().f_add_(step)?;
            }
        }
        let written = self.now() - resumed;
        self.left.spent.update += ruled + written;
        Ok(())
    }

    fn active(&self) -> Vec<GroupId> {
        self.active.iter().cloned().collect()
    }

    fn value(&self, id: &ParamId) -> Option<Tensor> {
        self.parameters.value(id).map(Tensor::shallow_clone)
    }
}

impl Step<'_> {
    /// Notes the norms of groups, before modifiers change them.
    fn note_group_norms(&mut self, gradients: &ByParam) -> Result<()> {
        let mut by_group: BTreeMap<&GroupId, Vec<&Tensor>> = BTreeMap::new();
        for (id, gradient) in gradients {
            by_group.entry(&id.group).or_default().push(gradient);
        }
        for (group, gradients) in by_group {
            self.left.group_norms.push((group.clone(), global_norm(gradients.iter().copied())?));
            if self.group_norms
                && let Some(weights) = self.parameters.group(group)
            {
                let norm = global_norm(weights.params.values())?;
                self.left.weight_norms.insert(group.clone(), norm);
            }
        }
        Ok(())
    }

    /// Notes the gradients of heads, before modifiers change them.
    fn note_head_gradients(&mut self, gradients: &ByParam) -> Result<()> {
        let mut by_head: BTreeMap<&String, Vec<Tensor>> = BTreeMap::new();
        for (id, gradient) in gradients {
            // A shared head has the gradient of one modality where that trains alone.
            let modality = match &id.group {
                GroupId::Head(name) => Some(name),
                GroupId::SharedHead if self.run.len() == 1 => self.run.first(),
                _ => None,
            };
            if let Some(modality) = modality {
                by_head.entry(modality).or_default().push(gradient.f_detach()?.f_reshape([-1])?);
            }
        }
        for (modality, flat) in by_head {
            self.left.head_gradients.push((modality.clone(), Tensor::f_cat(&flat, 0)?));
        }
        Ok(())
    }

    fn modify(&mut self, gradients: &mut Grads, site: Site) -> Result<()> {
        if !self.modifiers.iter().any(|m| m.plugin.site() == site) {
            return Ok(());
        }
        let started = self.now();
        let wanted = |need| self.modifiers.iter().any(|m| m.plugin.needs().contains(&need));
        let split = if wanted(Need::AdditiveFusion) {
            self.model.fusion.split(&self.left.outputs)?
        } else {
            None
        };
        let responses = wanted(Need::UnimodalResponses)
            .then(|| self.model.responses(&self.left.outputs))
            .transpose()?;
        let view = StepView {
            parameters: self.parameters,
            outputs: &self.left.outputs,
            split: split.as_ref(),
            responses: responses.as_ref(),
            layer_inputs: &self.left.layer_inputs,
            labels: &self.batch.targets.labels,
            trained: &self.run,
            seed: self.seed,
            epoch: self.epoch,
            batch: self.place.0,
            batches: self.place.1,
            step: self.number,
            part: self.part,
        };
        for (index, modifier) in self.modifiers.iter_mut().enumerate() {
            if modifier.plugin.site() != site {
                continue;
            }
            let before = if self.watch_modifiers { Some(copied(&gradients.sum)?) } else { None };
            guarded(&modifier.name, || modifier.plugin.modify(gradients, &view))?;
            if let Some(before) = before {
                self.left.changed[index] = before != gradients.sum;
            }
        }
        let spent = self.now() - started;
        self.left.spent.modify += spent;
        Ok(())
    }
}

/// Puts displaced weights back when it is dropped: on return, on error and on panic.
struct Restore(Vec<(Tensor, Tensor)>);

impl Drop for Restore {
    fn drop(&mut self) {
        let _guard = no_grad_guard();
        // In reverse, should one parameter ever be displaced twice.
        for (live, copy) in self.0.iter_mut().rev() {
            // Same shape, kind and device: this copy cannot be refused.
            let _ = live.f_copy_(copy);
        }
    }
}

/// Product of all controllers' factors for a group.
pub(super) fn factor(factors: &Factors, group: &GroupId) -> f64 {
    let group = group.to_string();
    factors.iter().flat_map(|own| [own.get(ALL_GROUPS), own.get(&group)]).flatten().product()
}

fn copied(tensors: &ByParam) -> Result<ByParam> {
    tensors.iter().map(|(id, tensor)| Ok((id.clone(), tensor.f_detach_copy()?))).collect()
}
