//! Gradient modifiers: change gradients before the update rule, or steps after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use tch::Tensor;

use super::{Boundary, Need, Persist, RunOps, RunShape, State};
use crate::batch::{ByModality, Outputs};
use crate::catalogue::plugin_family;
use crate::error::Result;
use crate::parameters::{Grads, GroupId, Parameters};
use crate::random::Seed;

/// Where a modifier acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// On the gradient, before the update rule (and before its weight decay).
    Gradient,
    /// On the step that the rule made.
    Update,
}

/// What a modifier may look at during a step.
pub struct StepView<'a> {
    /// The model's parameters.
    pub parameters: &'a Parameters,
    /// Outputs of the step's first pass, detached; all that the objectives asked for in full.
    pub outputs: &'a Outputs,
    /// Unimodal split of the joint logits, for modifiers that need an additive fusion.
    pub split: Option<&'a ByModality<Tensor>>,
    /// Joint logits for each modality alone, for modifiers that need unimodal responses.
    pub responses: Option<&'a ByModality<Tensor>>,
    /// Input of each layer in the step's first pass, `[batch, …]` by the layer's name, for the
    /// groups that a modifier [watches](GradientModifier::watches).
    pub layer_inputs: &'a BTreeMap<String, Tensor>,
    /// Classes of the batch. `[batch]` i64
    pub labels: &'a Tensor,
    /// Modalities trained in this step.
    pub trained: &'a BTreeSet<String>,
    /// Seed of the run.
    pub seed: Seed,
    /// Epoch within the phase, from 0.
    pub epoch: usize,
    /// Batch within the epoch, from 0.
    pub batch: u64,
    /// Batches of the epoch.
    pub batches: u64,
    /// Global step, from 0.
    pub step: u64,
    /// Which of the trainings on this batch it is, from 0.
    pub part: u64,
}

/// Configuration of a gradient modifier.
#[typetag::serde(tag = "name")]
pub trait GradientModifierConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Builds the modifier.
    ///
    /// # Errors
    /// When an option is out of range.
    fn build(&self) -> Result<Box<dyn GradientModifier>>;

    /// Options that make it change nothing, where there are such: numbers by their keys.
    ///
    /// Held against its word by the conformance checks: gradients then keep their bits.
    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[]
    }
}

/// Changes gradients or steps in place.
pub trait GradientModifier: Persist + Send {
    /// What it cannot do without.
    fn needs(&self) -> &'static [Need] {
        &[]
    }

    /// Holds its options against the run, before the first step.
    ///
    /// # Errors
    /// When an option names what the run does not have.
    fn check(&self, _run: &RunShape) -> Result<()> {
        Ok(())
    }

    /// Groups whose layers' inputs it wants to see.
    fn watches(&self) -> &[GroupId] {
        &[]
    }

    /// Whether it may well change nothing in a whole run, acting only in need; others that change
    /// nothing are warned about.
    fn acts_in_need(&self) -> bool {
        false
    }

    /// Where it acts.
    fn site(&self) -> Site {
        Site::Gradient
    }

    /// Changes the tensors of `gradients`; shapes stay, and nothing is added or removed.
    ///
    /// # Errors
    /// When libtorch refuses.
    fn modify(&mut self, gradients: &mut Grads, step: &StepView<'_>) -> Result<()>;

    /// Recomputes what it derives from the data at a boundary; returns a report for the record
    /// when it did.
    ///
    /// # Errors
    /// On a broken file, or when a decomposition fails for good.
    fn refresh(
        &mut self,
        _run: &mut dyn RunOps,
        _at: &Boundary,
    ) -> Result<Option<serde_json::Value>> {
        Ok(None)
    }

    /// What [`GradientModifier::refresh`] computed: written once to a file of its own beside the
    /// checkpoints, since it can be large.
    ///
    /// # Errors
    /// When libtorch cannot copy.
    fn refreshed(&self) -> Result<State> {
        Ok(State::default())
    }

    /// Replaces what a refresh computed.
    ///
    /// # Errors
    /// When the state is not of this plugin.
    fn load_refreshed(&mut self, state: State) -> Result<()> {
        state.expect_empty()
    }
}

plugin_family!(GradientModifier, GradientModifierConfig);
