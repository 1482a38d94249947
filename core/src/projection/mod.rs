//! The flat-gradient projection: from layer inputs to `P`.
//!
//! With `C` the cumulative, uncentred covariance of a layer's inputs, `C = V diag(s) V^T` with
//! eigenvalues `s_1 >= … >= s_d >= 0`,
//!
//! ```text
//! r_k = (s_k - s_d) / (s_1 - s_d)      l_k = exp(-alpha r_k)      P = V diag(l) V^T
//! ```
//!
//! so directions that the inputs use most are shrunk by `exp(-alpha)` and unused ones are kept
//! (Eq. 5 to 7 of the paper, as its released code computes them). `P` is symmetric, has its
//! eigenvalues in `[exp(-alpha), 1]` and does not change when `C` is multiplied by a positive
//! number. Where the spectrum is flat (`C = 0`, `C = k I`, `d = 1`) `P` is the identity.
//!
//! `P` is a matrix function of `C`, an exponential, so a full decomposition is one way among
//! several: see [`Solver`]. `benches/README.md` has what each costs.

mod chebyshev;
mod covariance;
mod exact;
mod gram;
mod lanczos;
mod map;
mod operator;

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result, ensure_range};

pub use chebyshev::Series;
pub use covariance::{Covariance, CovarianceKind, Covariances, Precision};
use exact::{Decomposition, Residuals};
use map::Spectrum;
pub use map::{Exponent, SpectralMap};
pub use operator::Projection;

/// How `P` is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// The one that is fastest for the layer at hand; never `svd`.
    #[default]
    Auto,
    /// Symmetric eigendecomposition.
    Eigh,
    /// Full singular value decomposition, as the released code does: a reference, not a choice.
    Svd,
    /// Eigendecomposition in as many dimensions as the covariance has rows, for fewer rows than the
    /// layer is wide; `eigh` where there are more.
    Gram,
    /// A polynomial in the covariance: products of matrices, and the two extreme eigenvalues.
    /// `eigh` for null spaces, for an `alpha` above about 250, and where eigenvalues crowd so much at
    /// an end of the spectrum that it is not resolved.
    Chebyshev,
}

impl Solver {
    /// All that compute by themselves.
    pub const EACH: [Self; 4] = [Self::Svd, Self::Eigh, Self::Gram, Self::Chebyshev];

    /// Its name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Eigh => "eigh",
            Self::Svd => "svd",
            Self::Gram => "gram",
            Self::Chebyshev => "chebyshev",
        }
    }
}

/// What a projection will be used for, which decides whether it is worth multiplying out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Rows of each gradient: outputs of the layer.
    pub rows: i64,
    /// Gradients until the next refresh.
    pub uses: f64,
}

/// How projections are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solving {
    /// The solver.
    pub solver: Solver,
    /// Error of `P` that is allowed, in the spectral norm, in `(0, 1e-2]`: what `gram` leaves out and
    /// `chebyshev` cuts off. It also decides on number formats: from 2e-7 up `chebyshev` multiplies
    /// in f32, from 1e-4 up sums in f32 are decomposed in f32.
    pub tolerance: f64,
}

impl Default for Solving {
    fn default() -> Self {
        Self { solver: Solver::Auto, tolerance: Self::TOLERANCE }
    }
}

impl Solving {
    /// A few units of the rounding of f32, which gradients have anyway.
    pub const TOLERANCE: f64 = 1e-6;

    /// With a solver and the usual tolerance.
    pub fn with(solver: Solver) -> Self {
        Self { solver, ..Self::default() }
    }

    /// Checks the range of the tolerance.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn validate(&self) -> Result<()> {
        let tolerance = self.tolerance;
        let holds = tolerance > 0.0 && tolerance <= 1e-2;
        ensure_range("tolerance", "(0, 0.01]", tolerance, holds)
    }
}

/// What a solver found out, for the record.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct SpectrumReport {
    /// Width of the layer's input.
    pub width: i64,
    /// Batches summed.
    pub batches: u64,
    /// Largest eigenvalue.
    pub largest: f64,
    /// Mean eigenvalue.
    pub mean: f64,
    /// Smallest eigenvalue.
    pub smallest: f64,
    /// Eigenvalues above `width * epsilon * largest`, where the solver sees all of them.
    pub rank: Option<i64>,
    /// Share of the largest eigenvalue in the trace; `None` when the trace is 0.
    pub largest_share: Option<f64>,
    /// Whether the spectrum is flat, so that `P` of Eq. 7 is the identity.
    pub flat: bool,
    /// Solver whose result was taken, with its number format and device.
    pub solver: String,
    /// What `P` is made of.
    pub form: String,
    /// Bound on the error of `P` in the spectral norm, rounding in products left aside: what was
    /// cut off, and what the error of eigenvalues does. `None` for null spaces.
    pub error_bound: Option<f64>,
    /// Error of `P` in the Frobenius norm, relative, as a few random vectors show it against f64.
    /// Measured for `chebyshev`.
    pub measured_error: Option<f64>,
    /// Residual `||C - V diag(s) V^T||_F / ||C||_F`: how exact a decomposition is.
    pub residual: Option<f64>,
    /// Distance `||V^T V - I||_F / sqrt(width)` of eigenvectors from an orthonormal basis.
    pub orthogonality: Option<f64>,
    /// Largest residual and distance that are taken for exact (see [`project`]).
    pub residual_tolerance: Option<f64>,
    /// Attempts passed over before, with the reason.
    pub failed: Vec<String>,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// What a solver returns; eigenvalues are those of the scaled covariance.
struct Solved {
    projection: Projection,
    spectrum: Spectrum,
    rank: Option<i64>,
    solver: String,
    error_bound: Option<f64>,
    measured_error: Option<f64>,
    residuals: Option<Residuals>,
    failed: Vec<String>,
}

/// A layer whose projection is to be computed.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Name of the layer, for errors.
    pub layer: &'a str,
    /// Covariance of its inputs.
    pub covariance: &'a Covariance,
    /// What the projection is for; absent where it is used for long, and so multiplied out.
    pub work: Option<Work>,
}

/// Computes `P` from the covariance of the inputs of `layer`.
///
/// Tries the solver; where that cannot give `P` to the tolerance, a decomposition (in f32 where sum
/// and tolerance allow it, else in f64), then on the CPU, then the other decomposition, and takes
/// the first result that is exact; never the identity in place of one. With `e` the spacing
/// of numbers at 1 in the format of the attempt and `d` the width, a decomposition is exact if
///
/// ```text
/// ||C - V diag(s) V^T||_F / ||C||_F <= t    ||V^T V - I||_F / sqrt(d) <= t    t = 100 sqrt(d) e
/// ```
///
/// which a working LAPACK keeps with a wide margin (measured: 13 where this has 100).
///
/// # Errors
/// [`Error::Range`] for a map out of its range; [`Error::Shape`], before any decomposition, when the
/// covariance has entries that are not finite; [`Error::Torch`] when no attempt was exact. The
/// last two name the layer.
pub fn project(
    layer: &str,
    covariance: &Covariance,
    map: SpectralMap,
    solving: Solving,
) -> Result<(Projection, SpectrumReport)> {
    project_asked(Asked { layer, covariance, work: None }, map, solving, None)
}

/// Computes `P` of several layers; small ones of equal width are decomposed together.
///
/// # Errors
/// As [`project`].
pub fn project_each(
    asked: &[Asked<'_>],
    map: SpectralMap,
    solving: Solving,
) -> Result<Vec<(Projection, SpectrumReport)>> {
    let mut ready = decomposed_together(asked, map, solving)?;
    let each = asked.iter().zip(&mut ready);
    each.map(|(asked, ready)| project_asked(*asked, map, solving, ready.take())).collect()
}

/// Width up to which matrices are decomposed together: larger ones fill a device alone.
const TOGETHER: i64 = 256;

/// Decomposes in one call what has the same width and format and goes to `eigh` anyway. On CUDA
/// each call costs more than a small matrix does.
fn decomposed_together(
    asked: &[Asked<'_>],
    map: SpectralMap,
    solving: Solving,
) -> Result<Vec<Option<Decomposition>>> {
    let _guard = no_grad_guard();
    let mut ready: Vec<Option<Decomposition>> = asked.iter().map(|_| None).collect();
    let alike = |covariance: &Covariance| {
        let (kind, device) = covariance.format();
        (covariance.width(), kind, device)
    };
    let fits = |index: &usize| {
        let covariance = asked[*index].covariance;
        // Alone, they would be decomposed in the same format.
        let format = covariance.format().0 == Kind::Double || solving.tolerance >= exact::SINGLE;
        format
            && covariance.width() <= TOGETHER
            && chosen(covariance, map, solving.solver) == Solver::Eigh
    };
    let mut left: Vec<usize> = (0..asked.len()).filter(fits).collect();
    while let Some(&first) = left.first() {
        let (group, others): (Vec<usize>, Vec<usize>) = left
            .into_iter()
            .partition(|index| alike(asked[*index].covariance) == alike(asked[first].covariance));
        left = others;
        if group.len() < 2 {
            continue;
        }
        let mut matrices = Vec::new();
        for index in &group {
            // One matrix that is not finite would fail all: it is left to be refused by its name.
            if let Ok((matrix, _)) = scaled_matrix(asked[*index].layer, asked[*index].covariance) {
                matrices.push((*index, matrix));
            }
        }
        let stacked: Vec<&Tensor> = matrices.iter().map(|(_, matrix)| matrix).collect();
        if stacked.len() < 2 {
            continue;
        }
        // Should it fail, each is tried by itself.
        let Ok((values, vectors)) = Tensor::f_stack(&stacked, 0)?.f_linalg_eigh("L") else {
            continue;
        };
        for (place, (index, _)) in matrices.iter().enumerate() {
            let place = place as i64;
            ready[*index] = Some(Decomposition {
                values: values.f_select(0, place)?,
                vectors: vectors.f_select(0, place)?,
            });
        }
    }
    Ok(ready)
}

fn project_asked(
    asked: Asked<'_>,
    map: SpectralMap,
    solving: Solving,
    ready: Option<Decomposition>,
) -> Result<(Projection, SpectrumReport)> {
    map.validate()?;
    solving.validate()?;
    let _guard = no_grad_guard();
    let started = Instant::now();
    let Asked { layer, covariance, work } = asked;
    let chosen = chosen(covariance, map, solving.solver);
    let mut failed = Vec::new();
    let mut solved = None;
    if chosen == Solver::Gram {
        match covariance.factor()?.filter(|factor| factor.size()[0] < covariance.width()) {
            Some(factor) => {
                let (factor, scale) = scaled_factor(layer, factor)?;
                match gram::solve(layer, &factor, map, solving.tolerance) {
                    Ok(found) => solved = Some((found, scale * scale)),
                    Err(error) => failed.push(format!("gram: {error}")),
                }
            }
            None => failed.push("gram: as many rows as the layer is wide".to_owned()),
        }
    }
    let (solved, scale) = if let Some(solved) = solved {
        solved
    } else {
        let (matrix, scale) = scaled_matrix(layer, covariance)?;
        let polynomial = (chosen == Solver::Chebyshev)
            .then(|| chebyshev::solve(&matrix, map, solving.tolerance, work));
        let found = match polynomial {
            Some(Ok(found)) => found,
            other => {
                if let Some(Err(error)) = other {
                    failed.push(format!("chebyshev: {error}"));
                }
                exact::solve(layer, &matrix, map, Solving { solver: chosen, ..solving }, ready)?
            }
        };
        (found, scale)
    };
    let (spectrum, residuals) = (solved.spectrum, solved.residuals);
    failed.extend(solved.failed);
    let report = SpectrumReport {
        width: covariance.width(),
        batches: covariance.batches(),
        largest: spectrum.largest * scale,
        mean: spectrum.mean * scale,
        smallest: spectrum.smallest * scale,
        rank: solved.rank,
        largest_share: (spectrum.mean > 0.0)
            .then(|| spectrum.largest / (spectrum.mean * spectrum.width as f64)),
        flat: spectrum.flat(),
        solver: solved.solver,
        form: solved.projection.form(),
        error_bound: solved.error_bound,
        measured_error: solved.measured_error,
        residual: residuals.map(|found| found.residual),
        orthogonality: residuals.map(|found| found.orthogonality),
        residual_tolerance: residuals.map(|found| found.tolerance),
        failed,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((solved.projection, report))
}

/// Width from which a polynomial is faster than a decomposition (`benches/README.md`).
const POLYNOMIAL: i64 = 192;

/// The solver to start with.
fn chosen(covariance: &Covariance, map: SpectralMap, solver: Solver) -> Solver {
    if solver != Solver::Auto {
        return solver;
    }
    let width = covariance.width();
    match covariance.factor_rows() {
        Some(rows) if 2 * rows <= width => Solver::Gram,
        _ if matches!(map, SpectralMap::NullSpace { .. }) || width < POLYNOMIAL => Solver::Eigh,
        _ => Solver::Chebyshev,
    }
}

/// Computes the exponent `A` of `P = exp(-A)`, `[width, width]` in f32; `None` for maps that are no
/// exponential, and zero where `P` is the identity.
///
/// # Errors
/// As [`project`].
pub fn exponent(layer: &str, covariance: &Covariance, map: SpectralMap) -> Result<Option<Tensor>> {
    let SpectralMap::Exponential { alpha, exponent } = map else { return Ok(None) };
    let _guard = no_grad_guard();
    let (matrix, _) = scaled_matrix(layer, covariance)?;
    let matrix = matrix.f_to_kind(Kind::Double)?;
    let trace = matrix.f_trace()?.double_value(&[]);
    let ends = if let Some(found) = lanczos::extremes(&matrix, Solving::TOLERANCE, false)? {
        (found.smallest.max(0.0), found.largest)
    } else {
        let values = matrix.f_linalg_eigvalsh("L")?.f_clamp_min(0.0)?;
        (values.f_min()?.double_value(&[]), values.f_max()?.double_value(&[]))
    };
    let spectrum = Spectrum::new(ends, trace, covariance.width(), covariance.format().0);
    let (start, rate) = spectrum.exponential(alpha, exponent).unwrap_or((0.0, 0.0));
    let _ = matrix.f_diagonal(0, 0, 1)?.f_sub_scalar_(start)?;
    Ok(Some(matrix.f_mul_scalar(rate)?.f_to_kind(Kind::Float)?))
}

/// Bounds how much `P` differs, in the spectral norm, between two exponents without negative
/// eigenvalues: `||exp(-A) - exp(-B)|| <= ||A - B||_F`.
///
/// # Errors
/// When their sizes differ.
pub fn drift(before: &Tensor, after: &Tensor) -> Result<f64> {
    Ok(before.f_sub(after)?.f_norm()?.double_value(&[]))
}

/// Counts the finite entries, unless all are.
fn finite(tensor: &Tensor) -> Result<Option<i64>> {
    // What is not finite makes a sum so: one pass, and no second tensor.
    if tensor.f_sum(Kind::Double)?.double_value(&[]).is_finite() {
        return Ok(None);
    }
    let finite = tensor.f_isfinite()?.f_sum(Kind::Int64)?.int64_value(&[]);
    Ok((finite < tensor.numel() as i64).then_some(finite))
}

/// Refuses a covariance that LAPACK might never return from.
fn ensure_finite(layer: &str, matrix: &Tensor) -> Result<()> {
    let Some(finite) = finite(matrix)? else { return Ok(()) };
    let entries = matrix.numel() as i64;
    Err(Error::Shape {
        what: format!("covariance of the inputs of layer `{layer}`"),
        expected: "finite entries".to_owned(),
        found: format!(
            "{} of {entries} that are not finite; the features have diverged (lower the learning \
             rate or the SAM radius, or check the inputs), or their squares do not fit into f32 \
             (set `precision` to \"f64\")",
            entries - finite
        ),
    })
}

/// Divides by the power of two just below `largest`, if that is not 0; returns that too.
///
/// `P` does not depend on the scale of `C`, and dividing by a power of two loses no bit, while
/// norms of very large or small entries would leave the range of their format.
fn scaled(mut tensor: Tensor, largest: &Tensor) -> Result<(Tensor, f64)> {
    let largest = largest.double_value(&[]);
    let scale = if largest > 0.0 { largest.log2().floor().exp2() } else { 1.0 };
    let _ = tensor.f_div_scalar_(scale)?;
    Ok((tensor, scale))
}

/// A covariance as a matrix that is known to be finite, scaled.
fn scaled_matrix(layer: &str, covariance: &Covariance) -> Result<(Tensor, f64)> {
    let matrix = covariance.matrix()?;
    ensure_finite(layer, &matrix)?;
    // No entry is larger than the largest of the diagonal.
    let largest = matrix.f_diagonal(0, 0, 1)?.f_max()?;
    scaled(matrix, &largest)
}

/// A factor that is known to be finite, scaled.
fn scaled_factor(layer: &str, factor: Tensor) -> Result<(Tensor, f64)> {
    ensure_finite(layer, &factor)?;
    let largest = if factor.numel() == 0 { Tensor::from(0.0) } else { factor.f_abs()?.f_max()? };
    scaled(factor, &largest)
}

/// Spacing of numbers at 1.
fn epsilon(kind: Kind) -> f64 {
    match kind {
        Kind::Double => f64::EPSILON,
        _ => f64::from(f32::EPSILON),
    }
}

#[cfg(test)]
mod tests;
