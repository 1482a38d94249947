//! `P` as something that multiplies gradients.

use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::chebyshev::Series;
use crate::error::{Error, Result};
use crate::family::State;

/// A projection, ready to be applied to gradients.
#[derive(Debug)]
pub enum Projection {
    /// The whole matrix, `[width, width]`.
    Dense(Tensor),
    /// `P = scale (I - B^T B)` with few rows in `B`.
    Thin {
        /// `B`, `[rows, width]`; without rows `P` is a multiple of the identity.
        basis: Tensor,
        /// Factor of the whole, 1 unless a norm was divided by.
        scale: f64,
    },
    /// A polynomial in the covariance, which is never multiplied out.
    Series(Series),
}

impl Projection {
    /// The identity of a width.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn identity(width: i64, format: (Kind, Device)) -> Result<Self> {
        Ok(Self::Thin { basis: Tensor::f_zeros([0, width], format)?, scale: 1.0 })
    }

    /// Multiplies a gradient `[out, in]` (or `[out, in, height, width]`) by `P` on its input side.
    ///
    /// # Errors
    /// When the width is another one.
    pub fn apply(&self, gradient: &Tensor) -> Result<Tensor> {
        let size = gradient.size();
        let flat = gradient.f_reshape([size.first().copied().unwrap_or(1), -1])?;
        let product = match self {
            Self::Dense(matrix) => flat.f_matmul(matrix)?,
            Self::Thin { basis, scale } => {
                let kept = if basis.size()[0] == 0 {
                    flat
                } else {
                    let shares = flat.f_matmul(&basis.f_tr()?)?;
                    flat.f_sub(&shares.f_matmul(basis)?)?
                };
                if (scale - 1.0).abs() < f64::EPSILON { kept } else { kept.f_mul_scalar(*scale)? }
            }
            Self::Series(series) => series.apply(&flat)?,
        };
        Ok(product.f_reshape(size.as_slice())?)
    }

    /// The whole matrix, `[width, width]`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn matrix(&self) -> Result<Tensor> {
        let _guard = no_grad_guard();
        let eye = |like: &Tensor, width| Tensor::f_eye(width, (like.kind(), like.device()));
        match self {
            Self::Dense(matrix) => Ok(matrix.shallow_clone()),
            Self::Thin { basis, scale } => {
                let eye = eye(basis, basis.size()[1])?;
                Ok(eye.f_sub(&basis.f_tr()?.f_matmul(basis)?)?.f_mul_scalar(*scale)?)
            }
            Self::Series(series) => {
                let matrix = series.apply(&eye(series.variable(), series.variable().size()[0])?)?;
                symmetric(&matrix)
            }
        }
    }

    /// What it is made of, for the record: `dense`, `thin (12 rows)`, `series (degree 7)`.
    pub fn form(&self) -> String {
        match self {
            Self::Dense(_) => "dense".to_owned(),
            Self::Thin { basis, .. } => format!("thin ({} rows)", basis.size()[0]),
            Self::Series(series) => format!("series (degree {})", series.degree()),
        }
    }

    /// Number format and device of its numbers.
    pub fn format(&self) -> (Kind, Device) {
        let tensor = match self {
            Self::Dense(matrix) => matrix,
            Self::Thin { basis, .. } => basis,
            Self::Series(series) => series.variable(),
        };
        (tensor.kind(), tensor.device())
    }

    /// Moves it to a number format and device.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn to(self, kind: Kind, device: Device) -> Result<Self> {
        let moved = |tensor: &Tensor| -> Result<Tensor> {
            Ok(tensor.f_to_device(device)?.f_to_kind(kind)?)
        };
        Ok(match self {
            Self::Dense(matrix) => Self::Dense(moved(&matrix)?),
            Self::Thin { basis, scale } => Self::Thin { basis: moved(&basis)?, scale },
            Self::Series(series) => Self::Series(series.with_variable(moved)?),
        })
    }

    /// Multiplies a thin one out where that makes applying it cheaper.
    pub(super) fn settled(self) -> Result<Self> {
        match &self {
            Self::Thin { basis, .. } if 2 * basis.size()[0] > basis.size()[1] => {
                Ok(Self::Dense(self.matrix()?))
            }
            _ => Ok(self),
        }
    }

    /// Copies it out under a name.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn save(&self, name: &str, state: &mut State) -> Result<()> {
        let (form, tensor, numbers) = match self {
            Self::Dense(matrix) => ("dense", matrix, json!(null)),
            Self::Thin { basis, scale } => ("thin", basis, json!(scale)),
            Self::Series(series) => ("series", series.variable(), json!(series.coefficients())),
        };
        state.put(name.to_owned(), tensor)?;
        state.values.insert(name.to_owned(), json!({ "form": form, "numbers": numbers }));
        Ok(())
    }

    /// Takes back what [`Projection::save`] wrote under a name.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no such projection.
    pub fn load(name: &str, state: &mut State) -> Result<Self> {
        let tensor = state.tensors.remove(name);
        let value = state.values.remove(name).unwrap_or_default();
        let form = value["form"].as_str().unwrap_or_default().to_owned();
        let numbers = &value["numbers"];
        match (form.as_str(), tensor) {
            ("dense", Some(matrix)) => Ok(Self::Dense(matrix)),
            ("thin", Some(basis)) => {
                Ok(Self::Thin { basis, scale: numbers.as_f64().unwrap_or(1.0) })
            }
            ("series", Some(variable)) => {
                let coefficients = numbers.as_array().into_iter().flatten();
                let coefficients = coefficients.filter_map(serde_json::Value::as_f64).collect();
                Ok(Self::Series(Series::new(variable, coefficients)?))
            }
            _ => Err(Error::shape(
                format!("saved projection `{name}`"),
                "a tensor with its form",
                format!("form `{form}`"),
            )),
        }
    }
}

/// Takes off the asymmetry of one unit in the last place that rounding leaves.
pub(super) fn symmetric(matrix: &Tensor) -> Result<Tensor> {
    Ok(matrix.f_add(&matrix.f_tr()?)?.f_mul_scalar_(0.5)?)
}
