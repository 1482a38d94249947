//! Fusions: features and logits to a joint decision.

use std::fmt::Debug;

use tch::Tensor;

use super::{Need, Persist};
use crate::batch::{ByModality, Named, Outputs};
use crate::catalogue::plugin_family;
use crate::error::Result;
use crate::layers::Pass;
use crate::parameters::Builder;

/// What a fusion knows of the model when it is built.
pub struct FusionContext<'a> {
    /// Width of each modality's feature.
    pub widths: ByModality<i64>,
    /// Channels that each stage of a modality's encoder leaves in `value`, `[batch, channels, …]`;
    /// absent for stages that leave something else.
    pub channels: ByModality<Vec<Option<i64>>>,
    /// Number of classes.
    pub classes: i64,
    /// Creates parameters; start at a group with [`Builder::at`].
    pub at: Builder<'a>,
}

/// Configuration of a fusion.
#[typetag::serde(tag = "name")]
pub trait FusionConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Creates the fusion, with its parameters if it has any.
    ///
    /// # Errors
    /// When the widths do not fit, or an option is out of range.
    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>>;
}

/// Logits on which a joint loss is taken.
#[derive(Debug)]
pub struct Joint {
    /// Joint logits. `[batch, classes]`
    pub logits: Tensor,
    /// Samples for which they count, 1 or 0 each; all where absent. `[batch]` f32
    pub rows: Option<Tensor>,
}

impl Joint {
    /// Logits that count for every sample.
    pub fn of(logits: Tensor) -> Self {
        Self { logits, rows: None }
    }
}

/// Joins modalities, for a loss and for the decision.
pub trait Fusion: Persist + Send {
    /// What it cannot do without.
    fn needs(&self) -> &'static [Need] {
        &[]
    }

    /// Whether its joint logits are exactly the sum of [`Fusion::split`].
    fn additive(&self) -> bool {
        false
    }

    /// Whether it acts between stages, so that what one modality's encoder computes depends on the
    /// others.
    fn taps(&self) -> bool {
        false
    }

    /// Acts on the tensors of all running modalities after stage `stage` of their encoders, for a
    /// batch of `samples`; called where [`Fusion::taps`] is true.
    ///
    /// # Errors
    /// When the tensors do not fit.
    fn tap(
        &self,
        _stage: usize,
        _x: &mut ByModality<Named>,
        _samples: i64,
        _pass: &mut Pass<'_>,
    ) -> Result<()> {
        Ok(())
    }

    /// Whether [`Fusion::isolate`] does something.
    fn isolates(&self) -> bool {
        false
    }

    /// Shields a modality, in passes for gradients, from what the others tell it between stages;
    /// `None` shields none.
    fn isolate(&mut self, _modality: Option<&str>) {}

    /// Computes the logits `[batch, classes]` on which a joint loss is taken; `None` for a fusion
    /// that only decides, or when not all the modalities it needs have run.
    ///
    /// # Errors
    /// When the tensors do not fit.
    fn joint(
        &self,
        features: &ByModality<Tensor>,
        logits: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>>;

    /// Splits the joint logits into unimodal ones, `[batch, classes]` each; `None` where no exact
    /// split exists.
    ///
    /// # Errors
    /// When the tensors do not fit.
    fn split(&self, _outputs: &Outputs) -> Result<Option<ByModality<Tensor>>> {
        Ok(None)
    }

    /// Decides: class probabilities `[batch, classes]`, rows summing to 1.
    ///
    /// # Errors
    /// When an output it needs is missing.
    fn decide(&self, outputs: &Outputs) -> Result<Tensor>;
}

plugin_family!(Fusion, FusionConfig);
