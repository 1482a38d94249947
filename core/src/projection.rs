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
    /// Solver that succeeded, with its number format and device.
    pub solver: String,
    /// Residual `||C V - V diag(s)||_F / ||C||_F`: how exact the decomposition is.
    pub residual: f64,
    /// Attempts that failed before, with libtorch's reason.
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

/// Computes `P` from a covariance.
///
/// Tries the named solver in the covariance's own number format, then in f64, then on the CPU,
/// then the other solver; never falls back to the identity.
///
/// # Errors
/// [`Error::Range`] for a negative `alpha`; [`Error::NonFinite`] when the covariance is not
/// finite; [`Error::Torch`] when every attempt failed.
pub fn project(
    covariance: &Covariance,
    alpha: f64,
    solver: Solver,
) -> Result<(Projection, SpectrumReport)> {
    ensure_range("alpha", "[0, inf)", alpha, alpha >= 0.0 && alpha.is_finite())?;
    let _guard = no_grad_guard();
    let started = Instant::now();
    let matrix = covariance.matrix();
    if !matrix.f_norm()?.double_value(&[]).is_finite() {
        return Err(Error::NonFinite {
            what: "covariance of a layer's inputs".to_owned(),
            step: 0,
            detail: "the model's features have diverged; lower the learning rate".to_owned(),
        });
    }
    let mut failed = Vec::new();
    for attempt in Attempt::ladder(matrix, solver) {
        match attempt.decompose(matrix) {
            Ok((values, vectors)) => {
                let spectrum = Spectrum::new(values)?;
                let residual = residual(matrix, &spectrum.values, &vectors)?;
                let projection = spectrum.projection(&vectors, alpha)?;
                let report = SpectrumReport {
                    width: matrix.size()[0],
                    batches: covariance.batches(),
                    largest: spectrum.largest,
                    mean: spectrum.mean,
                    smallest: spectrum.smallest,
                    rank: spectrum.rank()?,
                    largest_share: (spectrum.mean > 0.0)
                        .then(|| spectrum.largest / (spectrum.mean * matrix.size()[0] as f64)),
                    flat: spectrum.flat,
                    solver: attempt.to_string(),
                    residual,
                    failed,
                    seconds: started.elapsed().as_secs_f64(),
                };
                return Ok((Projection::Dense(projection), report));
            }
            Err(error) => failed.push(format!("{attempt}: {error}")),
        }
    }
    Err(Error::Torch(format!("no decomposition converged: {}", failed.join("; "))))
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

    /// Eigenvalues `[width]`, clamped at 0, and eigenvectors `[width, width]` in columns.
    fn decompose(&self, matrix: &Tensor) -> Result<(Tensor, Tensor)> {
        let matrix = matrix.f_to_device(self.device)?.f_to_kind(self.kind)?;
        let (values, vectors) = match self.solver {
            Solver::Svd => {
                let (_, values, vectors) = matrix.f_svd(true, true)?;
                (values, vectors)
            }
            Solver::Auto | Solver::Eigh => matrix.f_linalg_eigh("L")?,
        };
        let values = values.f_clamp_min(0.0)?;
        // Some LAPACK builds report convergence with NaN inside.
        if !values.f_sum(None::<Kind>)?.double_value(&[]).is_finite() {
            return Err(Error::Torch("eigenvalues are not finite".to_owned()));
        }
        Ok((values, vectors))
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
    flat: bool,
}

impl Spectrum {
    fn new(values: Tensor) -> Result<Self> {
        let number = |tensor: Tensor| tensor.double_value(&[]);
        let largest = number(values.f_max()?);
        let smallest = number(values.f_min()?);
        let mean = number(values.f_mean(Kind::Double)?);
        let width = values.size()[0] as f64;
        // A multiple of the identity carries rounding noise, which min-max would blow up to the
        // whole range.
        let tolerance = match values.kind() {
            Kind::Double => (4.0 * width * f64::EPSILON).max(1e-12),
            _ => 4.0 * width * f64::from(f32::EPSILON),
        };
        let flat = largest - smallest <= tolerance * largest;
        Ok(Self { values, largest, smallest, mean, flat })
    }

    fn rank(&self) -> Result<i64> {
        let epsilon = match self.values.kind() {
            Kind::Double => f64::EPSILON,
            _ => f64::from(f32::EPSILON),
        };
        let threshold = self.values.size()[0] as f64 * epsilon * self.largest;
        let above = self.values.f_gt(threshold)?.f_sum(Kind::Int64)?;
        Ok(above.int64_value(&[]))
    }

    fn projection(&self, vectors: &Tensor, alpha: f64) -> Result<Tensor> {
        // A factor of 1 everywhere is the identity, to the bit.
        if self.flat || alpha <= 0.0 {
            return Ok(Tensor::f_eye(
                self.values.size()[0],
                (self.values.kind(), self.values.device()),
            )?);
        }
        let share =
            self.values.f_sub_scalar(self.smallest)?.f_div_scalar(self.largest - self.smallest)?;
        let factors = share.f_mul_scalar(-alpha)?.f_exp()?;
        let matrix = vectors.f_mul(&factors.f_unsqueeze(0)?)?.f_matmul(&vectors.f_tr()?)?;
        // Rounding leaves an asymmetry of one unit in the last place.
        Ok(matrix.f_add(&matrix.f_tr()?)?.f_mul_scalar(0.5)?)
    }
}

fn residual(matrix: &Tensor, values: &Tensor, vectors: &Tensor) -> Result<f64> {
    let matrix = matrix.f_to_device(values.device())?.f_to_kind(values.kind())?;
    let norm = matrix.f_norm()?.double_value(&[]);
    if norm <= 0.0 {
        return Ok(0.0);
    }
    let difference = matrix.f_matmul(vectors)?.f_sub(&vectors.f_mul(&values.f_unsqueeze(0)?)?)?;
    Ok(difference.f_norm()?.double_value(&[]) / norm)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CPU: Device = Device::Cpu;
    const ALPHA: f64 = 0.4;

    fn matrix(values: &[f64], width: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, width])
    }

    fn of(c: &Tensor) -> Covariance {
        Covariance { kind: CovarianceKind::BatchMean, sum: c.shallow_clone(), batches: 1 }
    }

    fn p(c: &Tensor, alpha: f64) -> Tensor {
        project(&of(c), alpha, Solver::Eigh).unwrap().0.matrix().shallow_clone()
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
                let (found, report) = project(&of(&c), alpha, solver).unwrap();
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
    fn a_covariance_that_is_not_finite_is_refused() {
        let c = matrix(&[1., f64::NAN, f64::NAN, 1.], 2);
        let error = project(&of(&c), ALPHA, Solver::Auto).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
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
