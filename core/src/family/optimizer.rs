//! Optimizers: gradients to new parameters.

use std::fmt::Debug;

use tch::Tensor;

use super::Persist;
use crate::catalogue::plugin_family;
use crate::error::Result;
use crate::parameters::{ByParam, Grads, GroupId, ParamId};

/// Configuration of an optimizer.
#[typetag::serde(tag = "name")]
pub trait OptimizerConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Builds the optimizer.
    ///
    /// # Errors
    /// When an option is out of range.
    fn build(&self) -> Result<Box<dyn Optimizer>>;

    /// The optimizer that it lets make the step, for one around another.
    fn base(&self) -> Option<&dyn OptimizerConfig> {
        None
    }

    /// Options that make it change nothing, where there are such: numbers by their keys.
    ///
    /// Held against its word by the conformance checks: it then steps as its
    /// [`OptimizerConfig::base`] does, bit for bit.
    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[]
    }

    /// Modalities that its options name; held against those of the run.
    fn modalities(&self) -> Vec<String> {
        Vec::new()
    }

    /// Things that are allowed but almost surely not meant, in words for the user.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a gradient is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskPurpose {
    /// To find where to evaluate; never seen by gradient modifiers.
    Ascent,
    /// To step by.
    Descent,
}

/// Which gradient is wanted. New needs become new fields with a neutral default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// What it is for.
    pub purpose: AskPurpose,
    /// Hold outputs against the unmixed labels although inputs are mixed.
    pub original_labels: bool,
    /// Draw the same dropout masks as the step's first pass.
    pub replay_noise: bool,
}

impl Ask {
    /// The gradient to step by.
    pub const DESCENT: Self =
        Self { purpose: AskPurpose::Descent, original_labels: false, replay_noise: false };

    /// The gradient to look around by.
    pub const ASCENT: Self =
        Self { purpose: AskPurpose::Ascent, original_labels: false, replay_noise: false };
}

/// What an update rule knows besides the gradient.
#[derive(Debug, Clone, Copy)]
pub struct RuleContext<'a> {
    /// The parameter.
    pub id: &'a ParamId,
    /// Its current value.
    pub value: &'a Tensor,
    /// Learning rate as a multiple of the optimizer's own (schedules, per-group factors).
    pub learning_rate_factor: f64,
}

/// Turns a parameter's gradient into its step `w_new - w`, in place.
pub type Rule<'r> = dyn FnMut(RuleContext<'_>, &mut Tensor) -> Result<()> + 'r;

/// What happens at displaced weights.
pub type Inner<'r> = dyn FnMut(&mut dyn Problem) -> Result<Grads> + 'r;

/// The step to make, as an optimizer sees it. Wrappers such as SAM wrap the problem.
pub trait Problem {
    /// Computes gradients of the current batch at the current weights.
    ///
    /// # Errors
    /// When a pass fails or the loss has no graph.
    fn gradients(&mut self, ask: Ask) -> Result<Grads>;

    /// Runs `inner` at `w + displacement` and puts `w` back bit for bit, whatever happens.
    ///
    /// # Errors
    /// Whatever `inner` returns.
    fn displaced(&mut self, displacement: &ByParam, inner: &mut Inner<'_>) -> Result<Grads>;

    /// Applies modifiers, `rule`, modifiers on the step, and adds the step to the weights.
    ///
    /// # Errors
    /// Whatever a modifier or the rule returns; no weight is changed then.
    fn apply(&mut self, gradients: Grads, rule: &mut Rule<'_>) -> Result<()>;

    /// Modalities whose own groups are trained in this step; for per-modality settings.
    fn active(&self) -> Vec<GroupId>;

    /// Current value of a parameter.
    fn value(&self, id: &ParamId) -> Option<Tensor>;
}

/// Makes steps.
pub trait Optimizer: Persist + Send {
    /// Makes one step on `problem`.
    ///
    /// # Errors
    /// Whatever the problem returns.
    fn step(&mut self, problem: &mut dyn Problem) -> Result<()>;

    /// Forgets everything learnt from earlier steps.
    fn reset(&mut self);

    /// Learning rate before schedules; per step, dimensionless.
    fn learning_rate(&self) -> f64;
}

plugin_family!(Optimizer, OptimizerConfig);
