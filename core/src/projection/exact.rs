//! Decompositions: `eigh` and `svd`, tried in turn until one is exact.

use std::fmt;

use tch::{Device, Kind, Tensor};

use super::map::{SpectralMap, Spectrum};
use super::operator::{Projection, symmetric};
use super::{Solved, Solver, Solving, epsilon};
use crate::error::{Error, Result};

/// Eigenvalues `[width]` and eigenvectors `[width, width]` in columns.
///
/// Rounding leaves the zeros of a singular matrix on both sides of zero.
pub(super) struct Decomposition {
    pub(super) values: Tensor,
    pub(super) vectors: Tensor,
}

impl Decomposition {
    /// Measures how far it is from `matrix`, and its vectors from an orthonormal basis.
    fn residuals(&self, matrix: &Tensor) -> Result<Residuals> {
        let Self { values, vectors } = self;
        let (kind, device) = (values.kind(), values.device());
        let width = values.size()[0];
        let matrix = matrix.f_to_device(device)?.f_to_kind(kind)?;
        let norm = |tensor: Tensor| -> Result<f64> { Ok(tensor.f_norm()?.double_value(&[])) };
        let transposed = vectors.f_tr()?;
        let rebuilt = vectors.f_mul(&values.f_unsqueeze(0)?)?.f_matmul(&transposed)?;
        let off = norm(matrix.f_sub(&rebuilt)?)?;
        let size = norm(matrix)?;
        let eye = Tensor::f_eye(width, (kind, device))?;
        let skew = norm(transposed.f_matmul(vectors)?.f_sub(&eye)?)?;
        let root = (width as f64).sqrt();
        Ok(Residuals {
            residual: if size > 0.0 { off / size } else { off },
            orthogonality: skew / root,
            tolerance: 100.0 * root * epsilon(kind),
            norm: size,
            width,
        })
    }
}

/// How exact a decomposition is; see [`super::SpectrumReport`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Residuals {
    pub(super) residual: f64,
    pub(super) orthogonality: f64,
    pub(super) tolerance: f64,
    /// Frobenius norm of the matrix.
    norm: f64,
    width: i64,
}

impl Residuals {
    /// Some LAPACK builds report success with NaN inside: that is not below any tolerance.
    fn exact(&self) -> bool {
        self.residual <= self.tolerance && self.orthogonality <= self.tolerance
    }

    /// Bounds the error of `exp(-a (C - m))` made of the decomposition, with the largest
    /// eigenvalue `largest`.
    ///
    /// With `w = ||V^T V - I||` there is an orthogonal `Q` within `w` of `V`, so that
    /// `V f(S) V^T` is within `2 w` of `f(C + E)`, `||E|| <= ||C - V S V^T|| + 2 w s_1`. The
    /// exponential of a negative matrix moves by no more than its exponent, and that by
    /// `4 a ||E||`: once for `C`, once for `m`, twice for the range that `a` divides by.
    pub(super) fn error_bound(&self, rate: f64, largest: f64) -> f64 {
        let skew = self.orthogonality * (self.width as f64).sqrt();
        2.0 * skew + 4.0 * rate * (self.residual * self.norm + 2.0 * skew * largest)
    }
}

impl fmt::Display for Residuals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { residual, orthogonality, tolerance, .. } = self;
        write!(
            f,
            "residual {residual:.1e}, orthogonality {orthogonality:.1e}, allowed {tolerance:.1e}"
        )
    }
}

/// Tolerance below which decompositions are in f64: their bound in f32 is about that.
pub(super) const SINGLE: f64 = 1e-4;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Attempt {
    solver: Solver,
    kind: Kind,
    device: Device,
}

impl Attempt {
    /// The solver in the matrix's own format if that is exact enough, in f64, on the CPU, then the
    /// other solver there.
    pub(super) fn ladder(matrix: &Tensor, solver: Solver, single: bool) -> Vec<Self> {
        let first = if solver == Solver::Svd { Solver::Svd } else { Solver::Eigh };
        let other = if first == Solver::Eigh { Solver::Svd } else { Solver::Eigh };
        let kind = if single { matrix.kind() } else { Kind::Double };
        let device = matrix.device();
        let mut ladder = vec![
            Self { solver: first, kind, device },
            Self { solver: first, kind: Kind::Double, device },
            Self { solver: first, kind: Kind::Double, device: Device::Cpu },
            Self { solver: other, kind: Kind::Double, device: Device::Cpu },
        ];
        ladder.dedup();
        ladder
    }

    pub(super) fn decompose(&self, matrix: &Tensor) -> Result<Decomposition> {
        let matrix = matrix.f_to_device(self.device)?.f_to_kind(self.kind)?;
        let (values, vectors) = if self.solver == Solver::Svd {
            let (left, values, right) = matrix.f_svd(true, true)?;
            // An eigenvalue below zero turns the left vector round.
            let signs =
                left.f_mul(&right)?.f_sum_dim_intlist(0i64, false, None::<Kind>)?.f_sign()?;
            (values.f_mul(&signs)?, right)
        } else {
            matrix.f_linalg_eigh("L")?
        };
        Ok(Decomposition { values, vectors })
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let solver = if self.solver == Solver::Svd { "svd" } else { "eigh" };
        write!(f, "{solver} {}", format_name((self.kind, self.device)))
    }
}

/// `f32 cpu`.
pub(super) fn format_name((kind, device): (Kind, Device)) -> String {
    let kind = if kind == Kind::Double { "f64" } else { "f32" };
    format!("{kind} {}", crate::device::name(device))
}

/// A result that was taken, and the way to it.
pub(super) struct Taken {
    pub(super) found: Decomposition,
    pub(super) attempt: Attempt,
    pub(super) residuals: Residuals,
    pub(super) failed: Vec<String>,
}

/// Makes the attempts in order until a result is exact.
pub(super) fn first_exact(
    layer: &str,
    matrix: &Tensor,
    ladder: Vec<Attempt>,
    decompose: &dyn Fn(&Attempt, &Tensor) -> Result<Decomposition>,
) -> Result<Taken> {
    let mut failed = Vec::new();
    for attempt in ladder {
        let measured = decompose(&attempt, matrix).and_then(|found| {
            let residuals = found.residuals(matrix)?;
            Ok((found, residuals))
        });
        match measured {
            Ok((found, residuals)) if residuals.exact() => {
                return Ok(Taken { found, attempt, residuals, failed });
            }
            Ok((_, residuals)) => failed.push(format!("{attempt}: {residuals}")),
            Err(error) => failed.push(format!("{attempt}: {error}")),
        }
    }
    Err(Error::Torch(format!(
        "no decomposition of the covariance of layer `{layer}` (width {}) is exact: {}; leave the \
         layer out of `scope`, or run with another build of libtorch: its LAPACK is at fault",
        matrix.size()[0],
        failed.join("; ")
    )))
}

/// Computes `P` of a matrix `[width, width]` from its decomposition, `ready` if there is one.
pub(super) fn solve(
    layer: &str,
    matrix: &Tensor,
    map: SpectralMap,
    solving: Solving,
    ready: Option<Decomposition>,
) -> Result<Solved> {
    let ladder = Attempt::ladder(matrix, solving.solver, solving.tolerance >= SINGLE);
    let first = ladder.first().copied();
    let ready = std::cell::RefCell::new(ready);
    let taken = first_exact(layer, matrix, ladder, &|attempt, matrix| {
        let ready = if Some(*attempt) == first { ready.take() } else { None };
        ready.map_or_else(|| attempt.decompose(matrix), Ok)
    })?;
    let Taken { mut found, attempt, residuals, failed } = taken;
    found.values = found.values.f_clamp_min(0.0)?;
    let spectrum = Spectrum::of(&found.values, matrix.kind())?;
    let error_bound = match map {
        SpectralMap::Exponential { alpha, exponent } => {
            let rate = spectrum.exponential(alpha, exponent).map_or(0.0, |(_, rate)| rate);
            Some(if rate > 0.0 {
                let equal = spectrum.unused(rate).map_or(0.0, |limit| -(-rate * limit).exp_m1());
                residuals.error_bound(rate, spectrum.largest) + equal
            } else {
                0.0
            })
        }
        SpectralMap::NullSpace { .. } => None,
    };
    Ok(Solved {
        projection: projection(&found, &spectrum, map)?,
        rank: Some(rank(&found.values, spectrum.largest, spectrum.width, matrix.kind())?),
        spectrum,
        solver: attempt.to_string(),
        error_bound,
        measured_error: None,
        residuals: Some(residuals),
        failed,
    })
}

/// Eigenvalues above what rounding makes of zero, in a sum of the format `summed_in`.
pub(super) fn rank(values: &Tensor, largest: f64, width: i64, summed_in: Kind) -> Result<i64> {
    let threshold = width as f64 * epsilon(summed_in) * largest;
    let above = values.f_to_kind(Kind::Double)?.f_gt(threshold)?.f_sum(Kind::Int64)?;
    Ok(above.int64_value(&[]))
}

pub(super) fn projection(
    found: &Decomposition,
    spectrum: &Spectrum,
    map: SpectralMap,
) -> Result<Projection> {
    let Decomposition { values, vectors } = found;
    let (kind, device) = (vectors.kind(), vectors.device());
    let unit_norm = matches!(map, SpectralMap::NullSpace { unit_norm: true, .. });
    let matrix = match spectrum.factors(values, map)? {
        // A factor of 1 everywhere is the identity, to the bit.
        None => Tensor::f_eye(spectrum.width, (kind, device))?,
        Some(factors) => {
            let factors = factors.f_to_kind(kind)?;
            let scaled = vectors.f_mul(&factors.f_unsqueeze(0)?)?;
            symmetric(&scaled.f_matmul(&vectors.f_tr()?)?)?
        }
    };
    let matrix = if unit_norm { matrix.f_div(&matrix.f_norm()?)? } else { matrix };
    Ok(Projection::Dense(matrix))
}
