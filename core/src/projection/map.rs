//! What becomes of the eigenvalues of a covariance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::epsilon;
use crate::error::{Result, ensure_range};

/// What an eigenvalue is divided by, and whether the smallest is taken off first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exponent {
    /// `(s_k - s_d) / (s_1 - s_d)`, from 0 to 1 (Eq. 7).
    #[default]
    MinMax,
    /// `s_k / s_1`: the flattest direction is shrunk too where the inputs use it.
    Max,
    /// `s_k / sum_j s_j`: the share in the trace, so that even spectra change little.
    Sum,
}

/// What becomes of the eigenvalues `s_1 >= … >= s_d` of a covariance: `P = V diag(f(s)) V^T`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SpectralMap {
    /// `exp(-alpha r_k)` with `r_k` by the exponent (Eq. 7); the identity for `alpha` 0.
    Exponential {
        /// Scaling factor, at least 0.
        alpha: f64,
        /// What `r_k` is.
        exponent: Exponent,
    },
    /// 1 where `s_k <= multiple s_d`, up to rounding, else 0: the hard null space of Adam-NSCL.
    NullSpace {
        /// Multiple of the smallest eigenvalue, at least 1.
        multiple: f64,
        /// Whether the matrix is divided by its Frobenius norm.
        unit_norm: bool,
    },
}

impl SpectralMap {
    /// The map of Eq. 7.
    pub fn flat(alpha: f64) -> Self {
        Self::Exponential { alpha, exponent: Exponent::MinMax }
    }

    pub(super) fn validate(self) -> Result<()> {
        match self {
            Self::Exponential { alpha, .. } => {
                ensure_range("alpha", "[0, inf)", alpha, alpha >= 0.0 && alpha.is_finite())
            }
            Self::NullSpace { multiple, .. } => {
                let holds = multiple >= 1.0 && multiple.is_finite();
                ensure_range("multiple", "[1, inf)", multiple, holds)
            }
        }
    }
}

/// Change of an exponent by rounding from which on that matters.
const NOTICEABLE: f64 = 0.01;

/// The numbers of a spectrum that maps and reports need.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spectrum {
    pub(super) largest: f64,
    pub(super) smallest: f64,
    pub(super) mean: f64,
    pub(super) width: i64,
    /// Share of the largest eigenvalue below which differences may be rounding noise.
    pub(super) noise: f64,
    /// The same as rounding usually is, with a margin.
    pub(super) rounding: f64,
}

impl Spectrum {
    /// Takes extreme eigenvalues and trace of a covariance that was summed in the format
    /// `summed_in`.
    pub(super) fn new(
        (smallest, largest): (f64, f64),
        trace: f64,
        width: i64,
        summed_in: Kind,
    ) -> Self {
        // A multiple of the identity carries rounding noise, which min-max would blow up to the
        // whole range. What was rounded to f32 once stays so, whatever it is decomposed in.
        let noise = 4.0 * width as f64 * epsilon(summed_in);
        let noise = if summed_in == Kind::Double { noise.max(1e-12) } else { noise };
        let rounding = 4.0 * (width as f64).sqrt() * epsilon(summed_in);
        Self { largest, smallest, mean: trace / width as f64, width, noise, rounding }
    }

    /// Takes eigenvalues `[width]`.
    pub(super) fn of(values: &Tensor, summed_in: Kind) -> Result<Self> {
        let number = |tensor: Tensor| tensor.double_value(&[]);
        let ends = (number(values.f_min()?), number(values.f_max()?));
        let trace = number(values.f_sum(Kind::Double)?);
        Ok(Self::new(ends, trace, values.size()[0], summed_in))
    }

    /// Whether all eigenvalues are equal up to rounding.
    pub(super) fn flat(&self) -> bool {
        self.largest - self.smallest <= self.noise * self.largest
    }

    /// `(m, a)` of a map `exp(-a (s - m))`; `None` where it is 1 for every eigenvalue.
    pub(super) fn exponential(&self, alpha: f64, exponent: Exponent) -> Option<(f64, f64)> {
        if alpha <= 0.0 || self.largest <= 0.0 {
            return None;
        }
        match exponent {
            Exponent::MinMax if self.flat() => None,
            Exponent::MinMax => Some((self.smallest, alpha / (self.largest - self.smallest))),
            Exponent::Max => Some((0.0, alpha / self.largest)),
            Exponent::Sum => Some((0.0, alpha / (self.mean * self.width as f64))),
        }
    }

    /// Factors `f(s)` of eigenvalues `[width]`, in f64; `None` where all are 1.
    pub(super) fn factors(&self, values: &Tensor, map: SpectralMap) -> Result<Option<Tensor>> {
        // In f64 whatever the vectors are in: it is one vector, and `alpha` may be beyond f32.
        let values = values.f_to_kind(Kind::Double)?;
        Ok(match map {
            SpectralMap::Exponential { alpha, exponent } => {
                let Some((start, rate)) = self.exponential(alpha, exponent) else {
                    return Ok(None);
                };
                let exponent = values.f_sub_scalar(start)?.f_mul_scalar(rate)?;
                let exponent = match self.unused(rate) {
                    Some(limit) => exponent.f_threshold(limit * rate, 0.0)?,
                    None => exponent,
                };
                Some(exponent.f_neg()?.f_exp()?)
            }
            SpectralMap::NullSpace { .. } if self.flat() => None,
            SpectralMap::NullSpace { multiple, .. } => {
                let limit = self.null_space_limit(multiple);
                Some(values.f_le(limit)?.f_to_kind(Kind::Double)?)
            }
        })
    }

    /// Eigenvalue, above the start of an exponential of this rate, up to which a direction counts as
    /// unused: those that no input uses are equally flat, and a rate that tells apart what only
    /// rounding does must not. `None` for rates that do not.
    pub(super) fn unused(&self, rate: f64) -> Option<f64> {
        let limit = self.rounding * self.largest;
        (rate * limit > NOTICEABLE).then_some(limit)
    }

    /// Eigenvalue up to which a direction counts as unused.
    pub(super) fn null_space_limit(&self, multiple: f64) -> f64 {
        (multiple * self.smallest).max(self.noise * self.largest)
    }
}
