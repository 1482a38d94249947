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

    /// Acts on the tensors of all running modalities after stage `stage` of their encoders.
    ///
    /// # Errors
    /// When the tensors do not fit.
    fn tap(&self, _stage: usize, _x: &mut ByModality<Named>, _pass: &mut Pass<'_>) -> Result<()> {
        Ok(())
    }

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
    ) -> Result<Option<Tensor>>;

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
