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

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result, ensure_range};
use crate::layers::LayerKind;

/// What is summed over batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CovarianceKind {
    /// Outer product of the batch mean with itself (Eq. 5): `C += m^T m`.
    #[default]
    BatchMean,
    /// All samples: `C += H^T H`.
    SecondMoment,
    /// Spread within the batch: `C += (H - m)^T (H - m) / B`.
    Centred,
}

/// Number format of covariances and decompositions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits: half the memory and time of large layers.
    F32,
    /// 64 bits.
    #[default]
    F64,
}

impl Precision {
    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::F64 => Kind::Double,
        }
    }
}

/// A running covariance of a layer's inputs.
#[derive(Debug)]
pub struct Covariance {
    kind: CovarianceKind,
    sum: Tensor,
    batches: u64,
}

impl Covariance {
    /// Starts at zero, `[width, width]`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(
        width: i64,
        kind: CovarianceKind,
        precision: Precision,
        device: Device,
    ) -> Result<Self> {
        let sum = Tensor::f_zeros([width, width], (precision.kind(), device))?;
        Ok(Self { kind, sum, batches: 0 })
    }

    /// Adds the input of a layer for one batch: `[batch, width]`, or `[batch, channels, height,
    /// width]` for a convolution, which is unfolded into patches as the layer sees them.
    ///
    /// # Errors
    /// [`Error::Shape`] when the width is another one.
    pub fn add(&mut self, layer: &LayerKind, input: &Tensor) -> Result<()> {
        let _guard = no_grad_guard();
        let input = input.f_detach()?.f_to_kind(self.sum.kind())?;
        let rows = match layer {
            LayerKind::Linear => {
                let width = input.size().last().copied().unwrap_or_default();
                self.rows(&input.f_reshape([-1, width])?)?
            }
            LayerKind::Conv2d { kernel, stride, padding } => match self.kind {
                // Unfolding is linear, so the mean is taken first, on one map instead of all.
                CovarianceKind::BatchMean => {
                    let mean = input.f_mean_dim(0i64, true, None::<Kind>)?;
                    patches(&mean, *kernel, *stride, *padding)?
                }
                _ => self.rows(&patches(&input, *kernel, *stride, *padding)?)?,
            },
            LayerKind::Conv3d { kernel, stride } => match self.kind {
                CovarianceKind::BatchMean => {
                    let mean = input.f_mean_dim(0i64, true, None::<Kind>)?;
                    blocks(&mean, *kernel, *stride)?
                }
                _ => self.rows(&blocks(&input, *kernel, *stride)?)?,
            },
        };
        let expected = self.sum.size()[0];
        if rows.size()[1] != expected {
            return Err(Error::shape("rows of a covariance", expected, rows.size()));
        }
        let product = rows.f_tr()?.f_matmul(&rows)?;
        let scale = match self.kind {
            CovarianceKind::Centred => 1.0 / rows.size()[0] as f64,
            _ => 1.0,
        };
        let _ = self.sum.f_add_(&product.f_mul_scalar(scale)?)?;
        self.batches += 1;
        Ok(())
    }

    fn rows(&self, samples: &Tensor) -> Result<Tensor> {
        let mean = || samples.f_mean_dim(0i64, true, None::<Kind>);
        Ok(match self.kind {
            CovarianceKind::BatchMean => mean()?,
            CovarianceKind::SecondMoment => samples.shallow_clone(),
            CovarianceKind::Centred => samples.f_sub(&mean()?)?,
        })
    }

    /// Divides the sum by the number of batches.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn normalise(&mut self) -> Result<()> {
        let batches = self.batches.max(1) as f64;
        let _ = self.sum.f_div_scalar_(batches)?;
        Ok(())
    }

    /// The sum so far, `[width, width]`.
    pub fn matrix(&self) -> &Tensor {
        &self.sum
    }

    /// Batches added.
    pub fn batches(&self) -> u64 {
        self.batches
    }
}

/// Unfolds `[batch, channels, height, width]` into the patches a convolution multiplies,
/// `[batch * places, channels * kernel height * kernel width]`, channel-major as its weight.
fn patches(
    input: &Tensor,
    kernel: [i64; 2],
    stride: [i64; 2],
    padding: [i64; 2],
) -> Result<Tensor> {
    let columns = input.f_im2col(kernel, [1, 1], padding, stride)?;
    let width = columns.size()[1];
    Ok(columns.f_transpose(1, 2)?.f_reshape([-1, width])?)
}

/// Unfolds padded clips into the blocks that a 3-D convolution multiplies, a row each, in the order
/// of its weight.
fn blocks(input: &Tensor, kernel: [i64; 3], stride: [i64; 3]) -> Result<Tensor> {
    let mut folded = input.shallow_clone();
    for axis in 0..3 {
        folded = folded.f_unfold(2 + axis as i64, kernel[axis], stride[axis])?;
    }
    let width = input.size().get(1).copied().unwrap_or(1) * kernel.iter().product::<i64>();
    Ok(folded.f_permute([0, 2, 3, 4, 1, 5, 6, 7])?.f_reshape([-1, width])?)
}

/// How `P` is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// The fastest exact one for the size at hand; today `eigh`.
    #[default]
    Auto,
    /// Symmetric eigendecomposition.
    Eigh,
    /// Full singular value decomposition, as the released code does: a reference, not a choice.
    Svd,
}

/// What becomes of the eigenvalues `s_1 >= … >= s_d` of a covariance: `P = V diag(f(s)) V^T`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SpectralMap {
    /// `exp(-alpha (s_k - s_d) / (s_1 - s_d))` (Eq. 7); the identity for `alpha` 0.
    Flat {
        /// Scaling factor, at least 0.
        alpha: f64,
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
    fn validate(self) -> Result<()> {
        match self {
            Self::Flat { alpha } => {
                ensure_range("alpha", "[0, inf)", alpha, alpha >= 0.0 && alpha.is_finite())
            }
            Self::NullSpace { multiple, .. } => {
                let holds = multiple >= 1.0 && multiple.is_finite();
                ensure_range("multiple", "[1, inf)", multiple, holds)
            }
        }
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
    /// Eigenvalues above `width * epsilon * largest`.
    pub rank: i64,
    /// Share of the largest eigenvalue in the trace; `None` when the trace is 0.
    pub largest_share: Option<f64>,
    /// Whether the spectrum is flat, so that `P` is the identity.
    pub flat: bool,
    /// Solver whose result was taken, with its number format and device.
    pub solver: String,
    /// Residual `||C - V diag(s) V^T||_F / ||C||_F`: how exact the decomposition is.
    pub residual: f64,
    /// Distance `||V^T V - I||_F / sqrt(width)` of the eigenvectors from an orthonormal basis.
    pub orthogonality: f64,
    /// Largest residual and distance that are taken for exact (see [`project`]).
    pub tolerance: f64,
    /// Attempts passed over before, with the reason.
    pub failed: Vec<String>,
    /// Wall time of the decomposition in seconds.
    pub seconds: f64,
}

/// A projection, ready to be applied to gradients.
#[derive(Debug)]
pub enum Projection {
    /// The whole matrix, `[width, width]`.
    Dense(Tensor),
}

impl Projection {
    /// Multiplies a gradient `[out, in]` (or `[out, in, height, width]`) by `P` on its input side.
    ///
    /// # Errors
    /// When the width is another one.
    pub fn apply(&self, gradient: &Tensor) -> Result<Tensor> {
        let Self::Dense(matrix) = self;
        let size = gradient.size();
        let flat = gradient.f_reshape([size[0], -1])?;
        Ok(flat.f_matmul(matrix)?.f_reshape(size.as_slice())?)
    }

    /// The whole matrix, for tests and figures.
    pub fn matrix(&self) -> &Tensor {
        let Self::Dense(matrix) = self;
        matrix
    }
}

/// Computes `P` from the covariance of the inputs of `layer`.
///
/// Tries the named solver in the covariance's own number format, then in f64, then on the CPU,
/// then the other solver, and takes the first result that is exact; never the identity in place
/// of one. With `e` the spacing of numbers at 1 in the format of the attempt and `d` the width,
/// exact means
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
    solver: Solver,
) -> Result<(Projection, SpectrumReport)> {
    map.validate()?;
    let _guard = no_grad_guard();
    let started = Instant::now();
    let matrix = covariance.matrix();
    ensure_finite(layer, matrix)?;
    let scale = power_of_two(matrix)?;
    let matrix = matrix.f_div_scalar(scale)?;
    let ladder = Attempt::ladder(&matrix, solver);
    let taken = first_exact(layer, &matrix, ladder, &Attempt::decompose)?;
    let spectrum = Spectrum::new(taken.found.values, matrix.kind())?;
    let projection = spectrum.projection(&taken.found.vectors, map)?;
    let report = SpectrumReport {
        width: matrix.size()[0],
        batches: covariance.batches(),
        largest: spectrum.largest * scale,
        mean: spectrum.mean * scale,
        smallest: spectrum.smallest * scale,
        rank: spectrum.rank()?,
        largest_share: (spectrum.mean > 0.0)
            .then(|| spectrum.largest / (spectrum.mean * matrix.size()[0] as f64)),
        flat: spectrum.flat,
        solver: taken.attempt.to_string(),
        residual: taken.residuals.residual,
        orthogonality: taken.residuals.orthogonality,
        tolerance: taken.residuals.tolerance,
        failed: taken.failed,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((Projection::Dense(projection), report))
}

/// Refuses a covariance that LAPACK might never return from.
fn ensure_finite(layer: &str, matrix: &Tensor) -> Result<()> {
    let finite = matrix.f_isfinite()?.f_sum(Kind::Int64)?.int64_value(&[]);
    let entries = matrix.numel() as i64;
    if finite == entries {
        return Ok(());
    }
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

/// Finds the power of two just below the largest entry; 1 for a matrix of zeros.
///
/// `P` does not depend on the scale of `C`, and dividing by a power of two loses no bit, while
/// norms of very large or small entries would leave the range of their format.
fn power_of_two(matrix: &Tensor) -> Result<f64> {
    let largest = matrix.f_abs()?.f_max()?.double_value(&[]);
    Ok(if largest > 0.0 { largest.log2().floor().exp2() } else { 1.0 })
}

/// A result that was taken, and the way to it.
struct Taken {
    found: Decomposition,
    attempt: Attempt,
    residuals: Residuals,
    failed: Vec<String>,
}

/// Makes the attempts in order until a result is exact.
fn first_exact(
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

/// Eigenvalues `[width]`, at least 0, and eigenvectors `[width, width]` in columns.
struct Decomposition {
    values: Tensor,
    vectors: Tensor,
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
        })
    }
}

/// How exact a decomposition is; see [`SpectrumReport`].
struct Residuals {
    residual: f64,
    orthogonality: f64,
    tolerance: f64,
}

impl Residuals {
    /// Some LAPACK builds report success with NaN inside: that is not below any tolerance.
    fn exact(&self) -> bool {
        self.residual <= self.tolerance && self.orthogonality <= self.tolerance
    }
}

impl std::fmt::Display for Residuals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { residual, orthogonality, tolerance } = self;
        write!(
            f,
            "residual {residual:.1e}, orthogonality {orthogonality:.1e}, allowed {tolerance:.1e}"
        )
    }
}

/// Spacing of numbers at 1.
fn epsilon(kind: Kind) -> f64 {
    match kind {
        Kind::Double => f64::EPSILON,
        _ => f64::from(f32::EPSILON),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Attempt {
    solver: Solver,
    kind: Kind,
    device: Device,
}

impl Attempt {
    fn ladder(matrix: &Tensor, solver: Solver) -> Vec<Self> {
        let first = match solver {
            Solver::Auto | Solver::Eigh => Solver::Eigh,
            Solver::Svd => Solver::Svd,
        };
        let other = if first == Solver::Eigh { Solver::Svd } else { Solver::Eigh };
        let (kind, device) = (matrix.kind(), matrix.device());
        let mut ladder = vec![
            Self { solver: first, kind, device },
            Self { solver: first, kind: Kind::Double, device },
            Self { solver: first, kind: Kind::Double, device: Device::Cpu },
            Self { solver: other, kind: Kind::Double, device: Device::Cpu },
        ];
        ladder.dedup();
        ladder
    }

    fn decompose(&self, matrix: &Tensor) -> Result<Decomposition> {
        let matrix = matrix.f_to_device(self.device)?.f_to_kind(self.kind)?;
        let (values, vectors) = match self.solver {
            Solver::Svd => {
                let (_, values, vectors) = matrix.f_svd(true, true)?;
                (values, vectors)
            }
            Solver::Auto | Solver::Eigh => matrix.f_linalg_eigh("L")?,
        };
        // Rounding leaves the zeros of a singular matrix on both sides of zero.
        Ok(Decomposition { values: values.f_clamp_min(0.0)?, vectors })
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let solver = if self.solver == Solver::Svd { "svd" } else { "eigh" };
        let kind = if self.kind == Kind::Double { "f64" } else { "f32" };
        write!(f, "{solver} {kind} {}", crate::device::name(self.device))
    }
}

struct Spectrum {
    values: Tensor,
    largest: f64,
    smallest: f64,
    mean: f64,
    /// Number format that the covariance was summed in.
    summed_in: Kind,
    /// Share of the largest eigenvalue below which differences are rounding noise.
    tolerance: f64,
    flat: bool,
}

impl Spectrum {
    /// Takes eigenvalues `[width]` of a covariance that was summed in the format `summed_in`.
    fn new(values: Tensor, summed_in: Kind) -> Result<Self> {
        let number = |tensor: Tensor| tensor.double_value(&[]);
        let largest = number(values.f_max()?);
        let smallest = number(values.f_min()?);
        let mean = number(values.f_mean(Kind::Double)?);
        // A multiple of the identity carries rounding noise, which min-max would blow up to the
        // whole range. What was rounded to f32 once stays so, whatever it is decomposed in.
        let noise = 4.0 * values.size()[0] as f64 * epsilon(summed_in);
        let tolerance = if summed_in == Kind::Double { noise.max(1e-12) } else { noise };
        let flat = largest - smallest <= tolerance * largest;
        Ok(Self { values, largest, smallest, mean, summed_in, tolerance, flat })
    }

    fn rank(&self) -> Result<i64> {
        let threshold = self.values.size()[0] as f64 * epsilon(self.summed_in) * self.largest;
        let above = self.values.f_to_kind(Kind::Double)?.f_gt(threshold)?.f_sum(Kind::Int64)?;
        Ok(above.int64_value(&[]))
    }

    fn projection(&self, vectors: &Tensor, map: SpectralMap) -> Result<Tensor> {
        let kind = self.values.kind();
        let unit_norm = matches!(map, SpectralMap::NullSpace { unit_norm: true, .. });
        let matrix = match self.factors(map)? {
            // A factor of 1 everywhere is the identity, to the bit.
            None => Tensor::f_eye(self.values.size()[0], (kind, self.values.device()))?,
            Some(factors) => {
                let factors = factors.f_to_kind(kind)?;
                let matrix = vectors.f_mul(&factors.f_unsqueeze(0)?)?.f_matmul(&vectors.f_tr()?)?;
                // Rounding leaves an asymmetry of one unit in the last place.
                matrix.f_add(&matrix.f_tr()?)?.f_mul_scalar(0.5)?
            }
        };
        Ok(if unit_norm { matrix.f_div(&matrix.f_norm()?)? } else { matrix })
    }

    /// Factors `f(s)`, `[width]`; `None` where all are 1.
    fn factors(&self, map: SpectralMap) -> Result<Option<Tensor>> {
        // In f64 whatever the vectors are in: it is one vector, and `alpha` may be beyond f32.
        let values = || self.values.f_to_kind(Kind::Double);
        Ok(match map {
            _ if self.flat => None,
            SpectralMap::Flat { alpha } if alpha <= 0.0 => None,
            SpectralMap::Flat { alpha } => {
                let share = values()?
                    .f_sub_scalar(self.smallest)?
                    .f_div_scalar(self.largest - self.smallest)?
                    // Directions that no input uses are equally flat: a large `alpha` must not
                    // tell apart what only rounding does.
                    .f_threshold(self.tolerance, 0.0)?;
                Some(share.f_mul_scalar(-alpha)?.f_exp()?)
            }
            SpectralMap::NullSpace { multiple, .. } => {
                let limit = (multiple * self.smallest).max(self.tolerance * self.largest);
                Some(values()?.f_le(limit)?.f_to_kind(Kind::Double)?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CPU: Device = Device::Cpu;
    const ALPHA: f64 = 0.4;
    const LAYER: &str = "head.audio.fc1";

    fn flat(alpha: f64) -> SpectralMap {
        SpectralMap::Flat { alpha }
    }

    #[test]
    fn the_null_space_keeps_what_is_no_larger_than_a_multiple_of_the_smallest() {
        let c = Tensor::from_slice(&[10.0, 4.0, 1.0, 1.5]).diag(0);
        let found = |multiple, unit_norm| {
            let map = SpectralMap::NullSpace { multiple, unit_norm };
            project(LAYER, &of(&c), map, Solver::Eigh).unwrap().0.matrix().shallow_clone()
        };
        close(&found(1.0, false), &Tensor::from_slice(&[0.0, 0.0, 1.0, 0.0]).diag(0), 1e-12);
        close(&found(2.0, false), &Tensor::from_slice(&[0.0, 0.0, 1.0, 1.0]).diag(0), 1e-12);
        let half = 0.5f64.sqrt();
        close(&found(2.0, true), &Tensor::from_slice(&[0.0, 0.0, half, half]).diag(0), 1e-12);
        // What no input uses is kept although the smallest eigenvalue is nothing.
        let c = Tensor::from_slice(&[10.0, 0.0, 0.0]).diag(0);
        let map = SpectralMap::NullSpace { multiple: 10.0, unit_norm: false };
        let (found, _) = project(LAYER, &of(&c), map, Solver::Eigh).unwrap();
        close(found.matrix(), &Tensor::from_slice(&[0.0, 1.0, 1.0]).diag(0), 1e-12);
        let error = project(
            LAYER,
            &of(&c),
            SpectralMap::NullSpace { multiple: 0.5, unit_norm: false },
            Solver::Eigh,
        );
        assert!(error.unwrap_err().to_string().contains("`multiple` is 0.5"));
    }

    fn matrix(values: &[f64], width: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, width])
    }

    fn of(c: &Tensor) -> Covariance {
        Covariance { kind: CovarianceKind::BatchMean, sum: c.shallow_clone(), batches: 1 }
    }

    fn p(c: &Tensor, alpha: f64) -> Tensor {
        project(LAYER, &of(c), flat(alpha), Solver::Eigh).unwrap().0.matrix().shallow_clone()
    }

    fn close(found: &Tensor, expected: &Tensor, tolerance: f64) {
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference <= tolerance, "differs by {difference}: {found:?} {expected:?}");
    }

    /// The paper's three batches of two features.
    fn batches() -> [Tensor; 3] {
        [&[1., 2., 3., 0.], &[0., 1., 2., 3.], &[1., 1., 1., -1.]].map(|rows| matrix(rows, 2))
    }

    fn covariance(kind: CovarianceKind) -> Tensor {
        let mut sum = Covariance::new(2, kind, Precision::F64, CPU).unwrap();
        for batch in batches() {
            sum.add(&LayerKind::Linear, &batch).unwrap();
        }
        sum.matrix().shallow_clone()
    }

    #[test]
    fn v1_covariances_of_three_batches() {
        close(&covariance(CovarianceKind::BatchMean), &matrix(&[6., 4., 4., 5.], 2), 1e-12);
        close(&covariance(CovarianceKind::SecondMoment), &matrix(&[16., 8., 8., 16.], 2), 1e-12);
        close(&covariance(CovarianceKind::Centred), &matrix(&[2., 0., 0., 3.], 2), 1e-12);
    }

    #[test]
    fn v2_projection_of_two_features() {
        let c = covariance(CovarianceKind::BatchMean);
        let expected = [
            (0.4, [0.814_714_140_2, -0.163_567_062_4, -0.163_567_062_4, 0.855_605_906_4]),
            (1.0, [0.644_737_267_7, -0.313_619_623_0, -0.313_619_623_0, 0.723_142_173_5]),
            (10.0, [0.438_008_148_3, -0.496_116_413_7, -0.496_116_413_7, 0.562_037_251_7]),
        ];
        for (alpha, values) in expected {
            for solver in [Solver::Eigh, Solver::Svd] {
                let (found, report) = project(LAYER, &of(&c), flat(alpha), solver).unwrap();
                close(found.matrix(), &matrix(&values, 2), 1e-9);
                assert!((report.largest - 9.531_128_874_1).abs() < 1e-9);
                assert!((report.smallest - 1.468_871_125_9).abs() < 1e-9);
                assert_eq!(report.rank, 2);
            }
        }
        close(&p(&(&c / 3.0), ALPHA), &p(&c, ALPHA), 1e-12);
    }

    #[test]
    fn v3_projection_of_three_features_and_of_a_gradient() {
        let c = matrix(&[29., -22., -4., -22., 44., 26., -4., 26., 53.], 3) / 9.0;
        let found = p(&c, ALPHA);
        let expected = matrix(
            &[
                0.901_461_328_0,
                0.104_215_995_0,
                0.011_354_646_0,
                0.104_215_995_0,
                0.837_998_684_5,
                -0.115_570_641_0,
                0.011_354_646_0,
                -0.115_570_641_0,
                0.791_568_010_0,
            ],
            3,
        );
        close(&found, &expected, 1e-9);
        assert!((found.trace().double_value(&[]) - 2.531_028_022_5).abs() < 1e-9);
        let gradient = matrix(&[1., 2., 3., -1., 0., 1.], 3);
        let projected = Projection::Dense(found).apply(&gradient).unwrap();
        let expected = matrix(
            &[
                1.143_957_255_9,
                1.433_501_441_1,
                2.154_917_394_0,
                -0.890_106_682_0,
                -0.219_786_636_0,
                0.780_213_364_0,
            ],
            3,
        );
        close(&projected, &expected, 1e-9);
        let sharpest = matrix(&[1., -2., -2.], 3).tr() / 3.0;
        close(
            &projected.matmul(&sharpest),
            &matrix(&[-2.010_960_138_1, -0.670_320_046_0], 1),
            1e-9,
        );
    }

    #[test]
    fn v9_a_convolution_is_unfolded_into_its_patches() {
        let map = Tensor::arange(9, (Kind::Double, CPU)).view([1, 1, 3, 3]) + 1.0;
        let layer = LayerKind::Conv2d { kernel: [2, 2], stride: [1, 1], padding: [0, 0] };
        let mut sum = Covariance::new(4, CovarianceKind::BatchMean, Precision::F64, CPU).unwrap();
        sum.add(&layer, &map).unwrap();
        let expected = [
            46., 58., 82., 94., 58., 74., 106., 122., 82., 106., 154., 178., 94., 122., 178., 206.,
        ];
        close(sum.matrix(), &matrix(&expected, 4), 1e-12);
    }

    #[test]
    fn a_clip_is_unfolded_as_its_convolution_multiplies_it() {
        let clip = Tensor::randn([2, 3, 5, 4, 6], (Kind::Double, CPU));
        let weight = Tensor::randn([7, 3, 3, 2, 2], (Kind::Double, CPU));
        let rows = blocks(&clip, [3, 2, 2], [1, 2, 1]).unwrap();
        let product = rows.matmul(&weight.view([7, -1]).tr());
        let none = None::<&Tensor>;
        let maps = clip.conv3d(&weight, none, [1, 2, 1], [0i64; 3], [1i64; 3], 1);
        close(&product.view([2, 3, 2, 5, 7]), &maps.permute([0, 2, 3, 4, 1]), 1e-12);
        // The mean over samples is taken first: unfolding is linear.
        let layer = LayerKind::Conv3d { kernel: [3, 2, 2], stride: [1, 2, 1] };
        let mut sum = Covariance::new(36, CovarianceKind::BatchMean, Precision::F64, CPU).unwrap();
        sum.add(&layer, &clip).unwrap();
        let mean = rows.view([2, 30, 36]).mean_dim(0i64, false, Kind::Double);
        close(sum.matrix(), &mean.tr().matmul(&mean), 1e-12);
    }

    #[test]
    fn a_convolution_s_gradient_is_projected_over_channels_and_kernel() {
        let gradient = Tensor::randn([5, 2, 2, 2], (Kind::Double, CPU));
        let root = Tensor::randn([8, 8], (Kind::Double, CPU));
        let matrix = p(&root.matmul(&root.tr()), ALPHA);
        let found = Projection::Dense(matrix.shallow_clone()).apply(&gradient).unwrap();
        close(&found.view([5, 8]), &gradient.view([5, 8]).matmul(&matrix), 1e-12);
    }

    #[test]
    fn flat_spectra_give_the_identity() {
        let eye = |d| Tensor::eye(d, (Kind::Double, CPU));
        for c in [eye(3) * 0.0, eye(3) * 4.2, Tensor::ones([1, 1], (Kind::Double, CPU))] {
            close(&p(&c, ALPHA), &eye(c.size()[0]), 0.0);
        }
        // A multiple of the identity with rounding noise, in both number formats.
        for kind in [Kind::Double, Kind::Float] {
            let root = Tensor::randn([40, 40], (kind, CPU));
            let (_, v) = root.matmul(&root.tr()).linalg_eigh("L");
            let noisy = v.matmul(&v.tr()) * 4.2;
            close(&p(&noisy, ALPHA), &Tensor::eye(40, (kind, CPU)), 0.0);
        }
    }

    #[test]
    fn a_covariance_that_is_not_finite_is_refused_by_its_layer_and_not_decomposed() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let c = matrix(&[1., bad, bad, 1.], 2);
            let error = project(LAYER, &of(&c), flat(ALPHA), Solver::Auto).unwrap_err().to_string();
            let start = "covariance of the inputs of layer `head.audio.fc1`: expected finite \
                         entries, found 2 of 4 that are not finite";
            assert!(error.starts_with(start), "{error}");
            assert!(error.contains("lower the learning rate"), "{error}");
        }
    }

    /// A symmetric matrix with a full spectrum, `[6, 6]`.
    fn full() -> Tensor {
        tch::manual_seed(3);
        let root = Tensor::randn([6, 6], (Kind::Double, CPU));
        root.matmul(&root.tr())
    }

    #[test]
    fn a_decomposition_that_is_not_exact_is_passed_over_for_the_next_rung() {
        let c = full().to_kind(Kind::Float);
        let ladder = Attempt::ladder(&c, Solver::Auto);
        let names: Vec<String> = ladder.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["eigh f32 cpu", "eigh f64 cpu", "svd f64 cpu"]);
        // Eigenvalues that are wrong, vectors that are no basis, NaN, and an outright failure:
        // each is passed over once on the first rung and twice on the first two.
        for fault in 0..4 {
            for broken in 1..=2 {
                let spoilt = |attempt: &Attempt, matrix: &Tensor| -> Result<Decomposition> {
                    let mut found = attempt.decompose(matrix)?;
                    if names[..broken].contains(&attempt.to_string()) {
                        match fault {
                            0 => found.values = &found.values * 1.01,
                            // Both at once leave the residual alone.
                            1 => {
                                found.vectors = &found.vectors * 2.0;
                                found.values = &found.values / 4.0;
                            }
                            2 => found.vectors = &found.vectors * f64::NAN,
                            _ => return Err(Error::Torch("failed to converge".to_owned())),
                        }
                    }
                    Ok(found)
                };
                let taken = first_exact(LAYER, &c, ladder.clone(), &spoilt).unwrap();
                assert_eq!(taken.attempt.to_string(), names[broken], "fault {fault}");
                assert_eq!(taken.failed.len(), broken);
                assert!(taken.failed[0].starts_with("eigh f32 cpu: "), "{:?}", taken.failed);
                let spectrum = Spectrum::new(taken.found.values, Kind::Float).unwrap();
                let found = spectrum.projection(&taken.found.vectors, flat(ALPHA)).unwrap();
                close(&found, &p(&c.to_kind(Kind::Double), ALPHA), 1e-5);
            }
        }
    }

    #[test]
    fn when_no_rung_is_exact_the_error_names_layer_width_residuals_and_a_way_out() {
        let c = full();
        let skewed = |attempt: &Attempt, matrix: &Tensor| -> Result<Decomposition> {
            let mut found = attempt.decompose(matrix)?;
            found.vectors = &found.vectors * 2.0;
            Ok(found)
        };
        let ladder = Attempt::ladder(&c, Solver::Svd);
        let error = first_exact(LAYER, &c, ladder, &skewed).map(|_| ()).unwrap_err().to_string();
        for part in [
            "`head.audio.fc1` (width 6)",
            "svd f64 cpu: residual 3.0e0, orthogonality 3.0e0",
            "eigh f64 cpu: residual",
            "leave the layer out of `scope`",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_report_says_which_rung_was_taken_and_how_exact_it_is() {
        let (_, report) = project(LAYER, &of(&full()), flat(ALPHA), Solver::Auto).unwrap();
        assert_eq!(report.solver, "eigh f64 cpu");
        assert_eq!(report.failed, Vec::<String>::new());
        assert!(report.residual <= report.tolerance && report.orthogonality <= report.tolerance);
        assert!((report.tolerance - 100.0 * 6f64.sqrt() * f64::EPSILON).abs() < 1e-20);
        let single = of(&full().to_kind(Kind::Float));
        let (_, report) = project(LAYER, &single, flat(ALPHA), Solver::Svd).unwrap();
        assert_eq!(report.solver, "svd f32 cpu");
        assert!(report.tolerance > 1e-5, "{}", report.tolerance);
    }

    #[test]
    fn what_was_summed_in_f32_is_as_noisy_when_decomposed_in_f64() {
        let values = || Tensor::from_slice(&[1.0, 1.0 + 1e-7, 1.0 - 1e-7]);
        assert!(Spectrum::new(values(), Kind::Float).unwrap().flat);
        assert!(!Spectrum::new(values(), Kind::Double).unwrap().flat);
        let singular = || Tensor::from_slice(&[1e-9, 0.5, 1.0]);
        assert_eq!(Spectrum::new(singular(), Kind::Float).unwrap().rank().unwrap(), 2);
        assert_eq!(Spectrum::new(singular(), Kind::Double).unwrap().rank().unwrap(), 3);
    }

    #[test]
    fn a_boundless_alpha_keeps_every_direction_that_no_input_uses_and_no_other() {
        tch::manual_seed(5);
        let used = Tensor::randn([3, 8], (Kind::Double, CPU));
        let c = used.tr().matmul(&used);
        let (_, _, v) = used.svd(true, true);
        let onto_unused = Tensor::eye(8, (Kind::Double, CPU)) - v.matmul(&v.tr());
        for alpha in [1e6, 1e30, 1e300] {
            close(&p(&c, alpha), &onto_unused, 1e-10);
            let single = p(&c.to_kind(Kind::Float), alpha).to_kind(Kind::Double);
            close(&single, &onto_unused, 1e-4);
        }
    }

    #[test]
    fn the_projection_does_not_depend_on_the_scale_down_to_the_ends_of_the_format() {
        let c = full();
        let expected = p(&c, ALPHA);
        for scale in [1e-300, 1e300] {
            close(&p(&(&c * scale), ALPHA), &expected, 1e-9);
        }
        // A power of two changes no bit.
        close(&p(&(&c * 1024.0), ALPHA), &expected, 0.0);
        let single = c.to_kind(Kind::Float);
        for scale in [1e-36, 1e36] {
            let found = p(&(&single * scale), ALPHA).to_kind(Kind::Double);
            close(&found, &expected, 1e-4);
        }
        let (_, report) = project(LAYER, &of(&(&c * 1e-300)), flat(ALPHA), Solver::Auto).unwrap();
        assert!((report.mean * 6e300 / c.trace().double_value(&[]) - 1.0).abs() < 1e-9);
    }

    /// Slow reference: `P = sum_k exp(-alpha r_k) v_k v_k^T`, term by term, from an SVD.
    fn slow_reference(c: &Tensor, alpha: f64) -> Tensor {
        let (_, s, v) = c.svd(true, true);
        let d = c.size()[0];
        let s: Vec<f64> = (0..d).map(|k| s.double_value(&[k])).collect();
        let (low, high) = (s[d as usize - 1], s[0]);
        let mut sum = Tensor::zeros([d, d], (Kind::Double, CPU));
        for (k, value) in s.iter().enumerate() {
            let column = v.narrow(1, k as i64, 1);
            sum += column.matmul(&column.tr()) * (-alpha * (value - low) / (high - low)).exp();
        }
        sum
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn v4_invariants_hold_on_random_inputs(
            seed in 0i64..10_000, d in 2i64..24, rows in 1i64..30, alpha in 0.0f64..8.0,
            scale in 1e-3f64..1e3,
        ) {
            tch::manual_seed(seed);
            let x = Tensor::randn([rows, d], (Kind::Double, CPU));
            let c = x.tr().matmul(&x);
            let found = p(&c, alpha);
            close(&found, &found.tr(), 0.0);
            let (values, _) = found.linalg_eigh("L");
            prop_assert!(values.min().double_value(&[]) >= (-alpha).exp() - 1e-10);
            prop_assert!(values.max().double_value(&[]) <= 1.0 + 1e-10);
            close(&p(&(&c * scale), alpha), &found, 1e-8);
            close(&p(&c, 0.0), &Tensor::eye(d, (Kind::Double, CPU)), 1e-12);
            // Exact with room to spare, by either solver and in either format.
            for c in [c.shallow_clone(), c.to_kind(Kind::Float)] {
                for solver in [Solver::Eigh, Solver::Svd] {
                    let (_, report) = project(LAYER, &of(&c), flat(alpha), solver).unwrap();
                    prop_assert!(report.failed.is_empty(), "{:?}", report.failed);
                    let worst = report.residual.max(report.orthogonality);
                    prop_assert!(worst <= 0.5 * report.tolerance, "{report:?}");
                }
            }
            close(&found, &slow_reference(&c, alpha), 1e-8);
            // f32 stays close to f64.
            let single = p(&c.to_kind(Kind::Float), alpha).to_kind(Kind::Double);
            close(&single, &found, 1e-4 * (1.0 + alpha));
            // Left multiplication in the transposed layout is the same thing.
            let g = Tensor::randn([3, d], (Kind::Double, CPU));
            let right = Projection::Dense(found.shallow_clone()).apply(&g).unwrap();
            close(&right, &found.matmul(&g.tr()).tr(), 1e-12);
        }

        #[test]
        fn a_covariance_does_not_depend_on_the_order_of_batches(seed in 0i64..10_000) {
            tch::manual_seed(seed);
            let batches: Vec<_> =
                (0..5).map(|_| Tensor::randn([4, 6], (Kind::Double, CPU))).collect();
            let sum = |order: &mut dyn Iterator<Item = &Tensor>| {
                let mut c =
                    Covariance::new(6, CovarianceKind::BatchMean, Precision::F64, CPU).unwrap();
                order.for_each(|batch| c.add(&LayerKind::Linear, batch).unwrap());
                c.matrix().shallow_clone()
            };
            close(&sum(&mut batches.iter()), &sum(&mut batches.iter().rev()), 1e-12);
        }
    }
}
