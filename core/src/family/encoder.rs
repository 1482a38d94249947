//! Encoders: tensors to a feature, stage by stage.

use std::fmt::Debug;

use super::TensorLayout;
use crate::batch::Named;
use crate::catalogue::plugin_family;
use crate::error::Result;
use crate::layers::{Layer, Pass};
use crate::parameters::Builder;

/// Sizes of a sample's tensors, without the batch dimension.
pub type Sizes = [TensorLayout];

/// How files of published weights differ from the names that an encoder gives its tensors.
///
/// A tensor of a file is looked for under its name without the first of `prefixes` that it starts
/// with, with `renames` applied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Published {
    /// Starts of names that some files have, such as `bert.`; the plain name is always tried.
    pub prefixes: &'static [&'static str],
    /// Starts of names, prefix aside, of tensors that the encoder has no use for, such as those of
    /// a classifier; a tensor named `…num_batches_tracked` is never used.
    pub unused: &'static [&'static str],
    /// Parts of names that files spell otherwise, as (in the file, here), such as `gamma` for
    /// `weight` in older files of BERT.
    pub renames: &'static [(&'static str, &'static str)],
    /// The first convolution, `[out, in, …]`, where an input of another number of channels than the
    /// published one may take its weights over.
    pub first_layer: Option<&'static str>,
}

/// Configuration of an encoder.
#[typetag::serde(tag = "name")]
pub trait EncoderConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Creates the layers for inputs of the given sizes.
    ///
    /// # Errors
    /// When the sizes do not fit, or an option is out of range.
    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>>;

    /// How published weights for it are named; the encoder's own names by default.
    fn published(&self) -> Published {
        Published::default()
    }

    /// The same encoder with few weights, for checks; absent where it is small as it is.
    fn small(&self) -> Option<Box<dyn EncoderConfig>> {
        None
    }

    /// Sizes of a small input that it can take, for checks; a vector by default.
    fn example_input(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[8])
    }
}

/// Maps the tensors of a modality to its feature.
pub trait Encoder: Send {
    /// Number of stages; a fusion may act between them.
    fn stages(&self) -> usize {
        1
    }

    /// Runs stage `index`; the last one leaves the feature `[batch, width]` in `value`.
    ///
    /// # Errors
    /// When the tensors do not fit.
    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named>;

    /// Width of the feature.
    fn width(&self) -> i64;

    /// Channels that stage `index` leaves in `value` (`[batch, channels, …]`, or that many samples
    /// for each of the batch, side by side); `None` where a stage leaves something else. The last
    /// stage leaves its feature.
    fn channels(&self, index: usize) -> Option<i64> {
        (index + 1 == self.stages()).then(|| self.width())
    }

    /// Layers with a weight matrix, in forward order.
    fn layers(&self) -> Vec<Layer>;
}

plugin_family!(Encoder, EncoderConfig);
