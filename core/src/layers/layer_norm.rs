//! Layer normalisation.

use tch::Tensor;

use crate::error::Result;
use crate::parameters::{Builder, Initial};

/// Layer normalisation over the last axis (Ba et al. 2016, arXiv:1607.06450).
///
/// ```text
/// y = weight (x - mean) / sqrt(variance + epsilon) + bias
/// ```
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    /// Creates a layer of `width` values that starts as the plain normalisation.
    ///
    /// # Errors
    /// When the path is taken or memory runs out.
    pub fn new(at: &Builder<'_>, width: i64, epsilon: f64) -> Result<Self> {
        Ok(Self {
            weight: at.param("weight", &[width], Initial::Constant(1.0))?,
            bias: at.param("bias", &[width], Initial::Constant(0.0))?,
            epsilon,
        })
    }

    /// Normalises `[…, width]`.
    ///
    /// # Errors
    /// When the input has another width.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        Ok(x.f_layer_norm(self.weight.size(), weight, bias, self.epsilon, true)?)
    }
}
