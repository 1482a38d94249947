//! The two extreme eigenvalues of a symmetric matrix, by Lanczos's method.

use rand_distr::{Distribution as _, StandardNormal};
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::random::{Purpose, Seed};

/// Steps after which a spectrum counts as too even to be resolved.
const MOST_STEPS: i64 = 192;

/// Error relative to the largest eigenvalue below which nothing can be proven in f64.
const ROUNDING: f64 = 1e-12;

/// Steps between looks at the result: each look waits for the device.
const STEPS_PER_LOOK: i64 = 8;

/// How much larger than the allowed error a residual may be when it is worth proving that the error
/// is not: residuals overstate errors, by far where the spectrum is dense.
const OVERSTATED: f64 = 4.0;

/// What was found of a spectrum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extremes {
    /// Largest eigenvalue, or less by no more than `error`.
    pub(super) largest: f64,
    /// Smallest eigenvalue, or more by no more than `error`; below 0 by what rounding did.
    pub(super) smallest: f64,
    pub(super) error: f64,
    /// Interval that holds the whole spectrum.
    pub(super) interval: (f64, f64),
    pub(super) steps: i64,
}

/// Finds the extreme eigenvalues of a symmetric f64 matrix `[width, width]` to within `accuracy` of
/// their distance; `None` where that takes too long. `positive` says that none is below zero by
/// more than the rounding of f64.
///
/// Ritz values `t` lie inside the spectrum, and may stay away from an end for long when the start
/// has little of its vector. So the error is proven, apart from the rounding of f64, rather than
/// believed: `s_d >= t_d - e` where `C - (t_d - e) I` has a Cholesky factor, `s_1 <= t_1 + e` where
/// `(t_1 + e) I - C` has one. The first is not needed where `t_d <= e` and none is negative, the
/// second not where the other eigenvalues are too small to reach `t_1` together: for the residual
/// `r` of `t_1`, `2 t_1^2 >= ||C||_F^2` gives `s_1 <= t_1 + r`.
///
/// Every vector is made orthogonal to all before, twice, which rounding asks for. The start is the
/// same at every call for a width.
pub(super) fn extremes(matrix: &Tensor, accuracy: f64, positive: bool) -> Result<Option<Extremes>> {
    let width = matrix.size()[0];
    let format = (Kind::Double, matrix.device());
    let most = MOST_STEPS.min(width);
    let basis = Tensor::f_zeros([most, width], format)?;
    let mut vector = start(width).f_to_device(format.1)?;
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    let norm = matrix.f_norm()?.double_value(&[]);
    for step in 0..most {
        basis.f_select(0, step)?.f_copy_(&vector)?;
        let used = basis.f_narrow(0, 0, step + 1)?;
        let across = used.f_tr()?;
        let mut next = matrix.f_mv(&vector)?;
        for pass in 0..2 {
            let shares = used.f_mv(&next)?.f_neg()?;
            let _ = next.f_addmv_(&across, &shares)?;
            if pass == 0 {
                diagonal.push(shares.f_select(0, step)?);
            }
        }
        let length = next.f_norm()?;
        vector = next.f_div(&length)?;
        beside.push(length);
        let last = step + 1 == most;
        if !last && (step + 1) % STEPS_PER_LOOK != 0 {
            continue;
        }
        let ritz = Ritz::of(&diagonal, &beside)?;
        if let Some(found) = ritz.proven(matrix, norm, accuracy, positive)? {
            return Ok(Some(found));
        }
        if ritz.exhausted {
            break;
        }
    }
    Ok(None)
}

/// Whether `sign C + shift I` is positive definite.
fn definite(matrix: &Tensor, sign: f64, shift: f64) -> Result<bool> {
    let shifted = matrix.f_mul_scalar(sign)?;
    let _ = shifted.f_diagonal(0, 0, 1)?.f_add_scalar_(shift)?;
    let (_, failed_at) = shifted.f_linalg_cholesky_ex(false, false)?;
    Ok(failed_at.int64_value(&[]) == 0)
}

/// A unit vector of a uniformly random direction.
fn start(width: i64) -> Tensor {
    let mut stream = Seed(0).stream(Purpose::Plugin, "lanczos", &[width as u64]);
    let values: Vec<f64> = (0..width).map(|_| StandardNormal.sample(&mut stream)).collect();
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let values: Vec<f64> = values.iter().map(|value| value / length).collect();
    Tensor::from_slice(&values)
}

/// Extreme eigenvalues of the tridiagonal matrix, with their residuals.
struct Ritz {
    largest: f64,
    smallest: f64,
    residuals: (f64, f64),
    steps: i64,
    /// Whether the last vector is nothing but rounding.
    exhausted: bool,
}

impl Ritz {
    fn of(diagonal: &[Tensor], beside: &[Tensor]) -> Result<Self> {
        let host = |values: &[Tensor]| -> Result<Vec<f64>> {
            let stacked = Tensor::f_stack(values, 0)?.f_to_kind(Kind::Double)?;
            Ok(Vec::<f64>::try_from(stacked.f_to_device(tch::Device::Cpu)?)?)
        };
        // The shares were negated.
        let diagonal: Vec<f64> = host(diagonal)?.into_iter().map(|share| -share).collect();
        let beside = host(beside)?;
        let scale = diagonal.iter().filter(|a| a.is_finite()).fold(0.0f64, |a, b| a.max(b.abs()));
        // After a vector of nothing all further numbers are noise.
        let end = beside.iter().position(|length| length.is_nan() || *length <= 1e-14 * scale);
        let steps = end.map_or(beside.len(), |end| end + 1);
        let mut dense = vec![0.0; steps * steps];
        for k in 0..steps {
            dense[k * steps + k] = diagonal[k];
            if k + 1 < steps {
                dense[k * steps + k + 1] = beside[k];
                dense[(k + 1) * steps + k] = beside[k];
            }
        }
        let count = steps as i64;
        let (values, vectors) =
            Tensor::f_from_slice(&dense)?.f_view([count, count])?.f_linalg_eigh("L")?;
        let value = |k: i64| values.double_value(&[k]);
        let left = if end.is_some() { 0.0 } else { beside[steps - 1] };
        let residual = |k: i64| left * vectors.double_value(&[count - 1, k]).abs();
        Ok(Self {
            largest: value(count - 1),
            smallest: value(0),
            residuals: (residual(0), residual(count - 1)),
            steps: count,
            exhausted: end.is_some(),
        })
    }

    /// The extremes, where their errors can be proven to be within `accuracy` of their distance.
    fn proven(
        &self,
        matrix: &Tensor,
        norm: f64,
        accuracy: f64,
        positive: bool,
    ) -> Result<Option<Extremes>> {
        let Self { largest, residuals, .. } = *self;
        let smallest = if positive { self.smallest.max(0.0) } else { self.smallest };
        let error = (accuracy * (largest - smallest)).max(ROUNDING * largest);
        let hopeful = residuals.0.max(residuals.1) <= OVERSTATED * error;
        if !hopeful && !self.exhausted {
            return Ok(None);
        }
        let alone = 2.0 * largest * largest >= norm * norm && residuals.1 <= error;
        let near_zero = positive && smallest <= error;
        let holds = (near_zero || definite(matrix, 1.0, error - smallest)?)
            && (alone || definite(matrix, -1.0, largest + error)?);
        Ok(holds.then_some(Extremes {
            largest,
            smallest,
            error,
            interval: (if near_zero { 0.0 } else { smallest - error }, largest + error),
            steps: self.steps,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_within_their_error_of_those_of_a_decomposition() {
        for (width, rows) in [(64, 100), (64, 70), (48, 49), (128, 300), (200, 210), (16, 30)] {
            for seed in 0..20 {
                tch::manual_seed(seed);
                let device = (Kind::Double, tch::Device::Cpu);
                let batches = Tensor::randn([rows, 12, width], device).relu();
                let means = batches.mean_dim(1i64, false, Kind::Double);
                let matrix = means.tr().matmul(&means);
                let values = matrix.linalg_eigvalsh("L");
                let ends = (values.min().double_value(&[]), values.max().double_value(&[]));
                for accuracy in [1e-5, 1e-7, 1e-10] {
                    let Some(found) = extremes(&matrix, accuracy, true).unwrap() else {
                        continue;
                    };
                    let case = format!("{width} {rows} {seed} {accuracy}: {found:?} {ends:?}");
                    let room = found.error + 1e-12 * ends.1;
                    assert!((found.largest - ends.1).abs() <= room, "{case}");
                    assert!((found.smallest - ends.0).abs() <= room, "{case}");
                    assert!(found.interval.0 <= ends.0 && ends.1 <= found.interval.1, "{case}");
                }
            }
        }
    }

    #[test]
    fn an_end_that_the_start_has_nothing_of_is_never_overlooked() {
        let width = 96;
        tch::manual_seed(8);
        let device = (Kind::Double, tch::Device::Cpu);
        let start = start(width);
        // A direction without any part of the start, and a matrix that keeps to the others.
        let hidden = Tensor::randn([width], device);
        let hidden = &hidden - &start * hidden.dot(&start);
        let hidden = &hidden / hidden.norm();
        let rows = Tensor::randn([2 * width, width], device);
        let rows = &rows - rows.mv(&hidden).unsqueeze(1) * hidden.unsqueeze(0);
        let others = rows.tr().matmul(&rows) / (2 * width) as f64 + Tensor::eye(width, device)
            - hidden.unsqueeze(1) * hidden.unsqueeze(0);
        for value in [9.0, 0.3] {
            let matrix = &others + hidden.unsqueeze(1) * hidden.unsqueeze(0) * value;
            let exact = matrix.linalg_eigvalsh("L");
            let end = if value > 1.0 { exact.max() } else { exact.min() }.double_value(&[]);
            assert!((end - value).abs() < 1e-9);
            if let Some(found) = extremes(&matrix, 1e-6, true).unwrap() {
                let seen = if value > 1.0 { found.largest } else { found.smallest };
                assert!((seen - value).abs() <= found.error, "{value}: {found:?}");
            }
        }
    }
}
