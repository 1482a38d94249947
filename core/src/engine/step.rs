//! One step: gradients, displaced gradients, and the only places that write weights.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tch::{Tensor, no_grad_guard};

use super::assembly::Plugged;
use crate::batch::{Batch, ByModality, Outputs, Spec, Targets, share};
use crate::error::{Error, Result, guarded};
use crate::family::{
    Ask, AskPurpose, Forward, GradientModifier, Inner, Need, Notes, Objective, Problem, Rule,
    RuleContext, Site, StepView, Term,
};
use crate::layers::Statistics;
use crate::model::Model;
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
    pub(super) objectives: &'a [Plugged<dyn Objective>],
    pub(super) modifiers: &'a mut [Plugged<dyn GradientModifier>],
    pub(super) factors: &'a Factors,
    pub(super) term_weights: &'a BTreeMap<String, f64>,
    pub(super) seed: Seed,
    pub(super) epoch: usize,
    pub(super) number: u64,
    pub(super) part: u64,
    /// Whether to note which modifiers change something.
    pub(super) watch_modifiers: bool,
    /// Whether to note the gradients of groups and heads.
    pub(super) watch_gradients: bool,
    pub(super) left: Left,
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
    /// What objectives noted in the first pass, in their order.
    pub(super) notes: Vec<Notes>,
    /// Norm of the descent gradient before modifiers.
    pub(super) gradient_norm: Option<Tensor>,
    /// The same by group, when watched.
    pub(super) group_norms: Vec<(GroupId, Tensor)>,
    /// Gradient of each modality's head as one vector, when watched.
    pub(super) head_gradients: Vec<(String, Tensor)>,
    /// Time in passes at displaced weights.
    pub(super) displaced: Duration,
    /// Time in modifiers.
    pub(super) modify: Duration,
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
    made: BTreeMap<Spec, Outputs>,
    count: u64,
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
        let plain = if *spec == self.full() { self.statistics } else { Statistics::Keep };
        let statistics = spec.statistics.unwrap_or(plain);
        let outputs = self.model.forward(self.batch, spec, statistics, Some(self.active), None)?;
        self.count += 1;
        self.made.insert(spec.clone(), outputs.share());
        Ok(outputs)
    }

    fn targets(&self) -> Targets {
        self.batch.targets.share(self.original_labels)
    }
}

/// Names of the loss terms that objectives give when `run` is trained on `batch`.
///
/// # Errors
/// Whatever an objective returns: what it needs is missing, sizes do not fit.
pub(super) fn trial(
    model: &Model,
    batch: &Batch,
    run: &BTreeSet<String>,
    objectives: &[Plugged<dyn Objective>],
) -> Result<BTreeSet<String>> {
    let active = BTreeSet::new();
    let mut passes = Passes {
        model,
        batch,
        active: &active,
        run,
        statistics: Statistics::Running,
        original_labels: false,
        made: BTreeMap::new(),
        count: 0,
    };
    let mut names = BTreeSet::new();
    for objective in objectives {
        let terms =
            guarded(&objective.name, || objective.plugin.terms(&mut passes, &mut Notes::new()))?;
        for term in terms {
            if !names.insert(term.name.clone()) {
                return Err(twice(&term.name));
            }
        }
    }
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
        tch::manual_seed(self.seed.number(Purpose::Forward, "", &counters) as i64);
        let mut passes = Passes {
            model: self.model,
            batch: self.batch,
            active: self.active,
            run: &self.run,
            statistics: if first { Statistics::Update } else { Statistics::Keep },
            original_labels: ask.original_labels,
            made: BTreeMap::new(),
            count: 0,
        };
        let mut terms = Vec::new();
        for objective in self.objectives {
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
        self.left.forward_passes += passes.count;
        if first {
            let full = passes.full();
            if let Some(outputs) = passes.made.get(&full) {
                self.left.outputs = detached(outputs)?;
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
        let terms = self.terms(ask)?;
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
        Ok(grads)
    }

    fn displaced(&mut self, displacement: &ByParam, inner: &mut Inner<'_>) -> Result<Grads> {
        let started = Instant::now();
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
        self.left.displaced += started.elapsed();
        result
    }

    fn apply(&mut self, mut gradients: Grads, rule: &mut Rule<'_>) -> Result<()> {
        let _guard = no_grad_guard();
        if gradients.sum.is_empty() {
            return Ok(());
        }
        self.left.gradient_norm = Some(gradients.norm()?);
        if self.watch_gradients {
            self.watch(&gradients.sum)?;
        }
        self.left.changed = vec![false; self.modifiers.len()];
        self.modify(&mut gradients, Site::Gradient)?;
        for (id, gradient) in &mut gradients.sum {
            let value = self.parameters.value(id).ok_or_else(|| {
                Error::Bug(format!("a gradient names the unknown parameter `{id}`"))
            })?;
            let learning_rate_factor = factor(self.factors, &id.group);
            rule(RuleContext { id, value, learning_rate_factor }, gradient)?;
        }
        self.modify(&mut gradients, Site::Update)?;
        for (id, step) in &gradients.sum {
            if let Some(value) = self.parameters.value(id) {
                let _ = value.shallow_clone().f_add_(step)?;
            }
        }
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
    /// Notes the norms of groups and the gradients of heads, before modifiers change them.
    fn watch(&mut self, gradients: &ByParam) -> Result<()> {
        let mut by_group: BTreeMap<&GroupId, Vec<&Tensor>> = BTreeMap::new();
        for (id, gradient) in gradients {
            by_group.entry(&id.group).or_default().push(gradient);
        }
        for (group, gradients) in by_group {
            self.left.group_norms.push((group.clone(), global_norm(gradients.iter().copied())?));
            // A shared head has the gradient of one modality where that trains alone.
            let modality = match group {
                GroupId::Head(name) => Some(name),
                GroupId::SharedHead if self.run.len() == 1 => self.run.first(),
                _ => None,
            };
            if let Some(modality) = modality {
                let flat = gradients
                    .iter()
                    .map(|gradient| Ok(gradient.f_detach()?.f_reshape([-1])?))
                    .collect::<Result<Vec<_>>>()?;
                self.left.head_gradients.push((modality.clone(), Tensor::f_cat(&flat, 0)?));
            }
        }
        Ok(())
    }

    fn modify(&mut self, gradients: &mut Grads, site: Site) -> Result<()> {
        if !self.modifiers.iter().any(|m| m.plugin.site() == site) {
            return Ok(());
        }
        let started = Instant::now();
        let wanted =
            |m: &Plugged<dyn GradientModifier>| m.plugin.needs().contains(&Need::AdditiveFusion);
        let split = if self.modifiers.iter().any(wanted) {
            self.model.fusion.split(&self.left.outputs)?
        } else {
            None
        };
        let view = StepView {
            parameters: self.parameters,
            outputs: &self.left.outputs,
            split: split.as_ref(),
            labels: &self.batch.targets.labels,
            epoch: self.epoch,
            step: self.number,
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
        self.left.modify += started.elapsed();
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

fn detached(outputs: &Outputs) -> Result<Outputs> {
    let each = |tensors: &ByModality<Tensor>| -> Result<ByModality<Tensor>> {
        let mut tensors = share(tensors);
        for tensor in tensors.values_mut() {
            *tensor = tensor.f_detach()?;
        }
        Ok(tensors)
    };
    Ok(Outputs {
        features: each(&outputs.features)?,
        logits: each(&outputs.logits)?,
        joint: outputs.joint.as_ref().map(Tensor::f_detach).transpose()?,
    })
}

fn copied(tensors: &ByParam) -> Result<ByParam> {
    tensors.iter().map(|(id, tensor)| Ok((id.clone(), tensor.f_detach_copy()?))).collect()
}
