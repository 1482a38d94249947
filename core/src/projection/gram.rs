//! The solver for few rows: works in as many dimensions as the covariance has rows.
//!
//! With `C = X^T X`, `X: [n, d]`, `n < d`, the spectrum of `C` is that of `K = X X^T = W S W^T` and
//! `d - n` zeros, and for a map `f` with `f(0) = 1`
//!
//! ```text
//! P = f(C) = I - X^T h(K) X = I - B^T B      h(s) = (1 - f(s)) / s     B = sqrt(h(S)) W^T X
//! ```
//!
//! No eigenvector of `C` is formed and nothing is divided by a small eigenvalue: `h` tends to the
//! rate of the exponential.

use tch::{Kind, Tensor};

use super::exact::{Attempt, Taken, first_exact, format_name, rank};
use super::map::{SpectralMap, Spectrum};
use super::operator::Projection;
use super::{Solved, Solver};
use crate::error::Result;

/// Computes `P` from a factor `[rows, width]` with fewer rows than columns. Directions that `P`
/// shrinks by less than a quarter of `tolerance` are left out.
pub(super) fn solve(
    layer: &str,
    factor: &Tensor,
    map: SpectralMap,
    tolerance: f64,
) -> Result<Solved> {
    let size = factor.size();
    let (rows, width) = (size[0], size[1]);
    let format = (factor.kind(), factor.device());
    if rows == 0 {
        let spectrum = Spectrum::new((0.0, 0.0), 0.0, width, format.0);
        return Ok(Solved {
            projection: Projection::identity(width, format)?,
            rank: Some(0),
            spectrum,
            solver: format!("gram {}", format_name(format)),
            error_bound: Some(0.0),
            measured_error: None,
            residuals: None,
            failed: Vec::new(),
        });
    }
    // In f64 whatever the sum is in: the matrix is small.
    let wide = factor.f_to_kind(Kind::Double)?;
    let matrix = wide.f_matmul(&wide.f_tr()?)?;
    let ladder = Attempt::ladder(&matrix, Solver::Eigh, false);
    let Taken { found, residuals, failed, .. } =
        first_exact(layer, &matrix, ladder, &Attempt::decompose)?;
    let (values, vectors) = (found.values.f_clamp_min(0.0)?, found.vectors);
    let largest = values.f_max()?.double_value(&[]);
    let trace = values.f_sum(Kind::Double)?.double_value(&[]);
    // The rows are taken as they are: nothing was summed in less than f64.
    let spectrum = Spectrum::new((0.0, largest), trace, width, Kind::Double);
    let (weights, scale, error_bound) = match map {
        SpectralMap::Exponential { alpha, exponent } => {
            let rate = spectrum.exponential(alpha, exponent).map_or(0.0, |(_, rate)| rate);
            let shrunk = values.f_mul_scalar(-rate)?.f_expm1()?.f_neg()?;
            let dropped = tolerance / 4.0;
            let limit = spectrum.unused(rate).unwrap_or(0.0);
            let left_out = values.f_le(limit)?.f_logical_or(&shrunk.f_le(dropped)?)?;
            let weights = shrunk.f_div(&values)?.f_masked_fill(&left_out, 0.0)?;
            (weights, 1.0, Some(residuals.error_bound(rate, largest) + dropped))
        }
        SpectralMap::NullSpace { multiple, unit_norm } => {
            let left_out = values.f_le(spectrum.null_space_limit(multiple))?;
            let weights = values.f_reciprocal()?.f_masked_fill(&left_out, 0.0)?;
            let kept = width - weights.f_gt(0.0)?.f_sum(Kind::Int64)?.int64_value(&[]);
            (weights, if unit_norm { 1.0 / (kept as f64).sqrt() } else { 1.0 }, None)
        }
    };
    // A row that is left out is one of zeros; they stand together or apart, so rows are picked.
    let picked = weights.f_gt(0.0)?.f_nonzero()?.f_reshape([-1])?;
    let roots = weights.f_index_select(0, &picked)?.f_sqrt()?.f_unsqueeze(1)?;
    let coordinates = vectors.f_tr()?.f_index_select(0, &picked)?.f_mul(&roots)?;
    let device = wide.device();
    let basis = coordinates.f_to_device(device)?.f_matmul(&wide)?.f_to_kind(format.0)?;
    Ok(Solved {
        projection: Projection::Thin { basis, scale }.settled()?,
        rank: Some(rank(&values, largest, width, Kind::Double)?),
        spectrum,
        solver: format!("gram {}", format_name(format)),
        error_bound,
        measured_error: None,
        residuals: Some(residuals),
        failed,
    })
}
