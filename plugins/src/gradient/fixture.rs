//! What the tests of gradient modifiers share.

use std::collections::{BTreeMap, BTreeSet};

use mie_core::prelude::*;

/// Names gradients `head.audio.<name>`.
pub(super) fn grads(tensors: &[(&str, Tensor)]) -> Grads {
    let id = |name: &str| ParamId {
        group: GroupId::Head("audio".to_owned()),
        path: format!("head.audio.{name}").into(),
    };
    let sum = tensors.iter().map(|(name, tensor)| (id(name), tensor.copy())).collect();
    Grads { sum, by_term: BTreeMap::new() }
}

/// Calls `run` with a view of a step in which nothing is to be seen.
pub(super) fn with_step_view<T>(run: impl FnOnce(&StepView<'_>) -> T) -> T {
    let parameters = Parameters::default();
    let outputs = Outputs::default();
    let labels = Tensor::zeros([0], (Kind::Int64, Device::Cpu));
    run(&blank_view(&parameters, &outputs, &labels, &BTreeMap::new(), &BTreeSet::new()))
}

/// A view of the first step of a run, on the given parts of it.
pub(super) fn blank_view<'a>(
    parameters: &'a Parameters,
    outputs: &'a Outputs,
    labels: &'a Tensor,
    layer_inputs: &'a BTreeMap<String, Tensor>,
    trained: &'a BTreeSet<String>,
) -> StepView<'a> {
    StepView {
        parameters,
        outputs,
        split: None,
        responses: None,
        layer_inputs,
        labels,
        trained,
        seed: Seed(0),
        epoch: 0,
        batch: 0,
        batches: 1,
        step: 0,
        part: 0,
    }
}

/// A problem whose gradients pass a modifier before the rule, as the engine's do.
pub(super) struct Modified<'a> {
    pub(super) inner: &'a mut dyn Problem,
    pub(super) modifier: &'a mut dyn GradientModifier,
}

impl Problem for Modified<'_> {
    fn gradients(&mut self, ask: Ask) -> Result<Grads> {
        self.inner.gradients(ask)
    }

    fn displaced(&mut self, displacement: &ByParam, inner: &mut Inner<'_>) -> Result<Grads> {
        self.inner.displaced(displacement, inner)
    }

    fn apply(&mut self, mut gradients: Grads, rule: &mut Rule<'_>) -> Result<()> {
        with_step_view(|view| self.modifier.modify(&mut gradients, view))?;
        self.inner.apply(gradients, rule)
    }

    fn active(&self) -> Vec<GroupId> {
        self.inner.active()
    }

    fn value(&self, id: &ParamId) -> Option<Tensor> {
        self.inner.value(id)
    }
}
