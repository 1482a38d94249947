//! Lookup of rows by number.

use tch::Tensor;

use crate::error::Result;
use crate::parameters::{Builder, Initial};

/// A table of vectors, looked up by number; it multiplies no input, so layer lists leave it out.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Creates a table of `rows` vectors.
    ///
    /// # Errors
    /// When the path is taken or memory runs out.
    pub fn new(at: &Builder<'_>, rows: i64, width: i64, weight: Initial) -> Result<Self> {
        Ok(Self { weight: at.param("weight", &[rows, width], weight)? })
    }

    /// Looks up `[…]` i64, each at least 0 and below the number of rows: `[…, width]`.
    ///
    /// # Errors
    /// When a number lies outside the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_embedding(&self.weight, ids, -1, false, false)?)
    }

    /// The table `[rows, width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}
