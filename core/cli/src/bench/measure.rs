//! Measures one way to compute a projection on one input.

use std::time::Instant;

use clap::ValueEnum;
use mie_core::layers::LayerKind;
use mie_core::projection::{
    Covariance, CovarianceKind, Precision, Projection, Solver, Solving, SpectralMap,
    SpectrumReport, project,
};
use mie_core::random::{Purpose, Seed, standard_normal};
use mie_core::{Error, Result, device};
use serde_json::{Value, json};
use tch::{Cuda, Device, Kind, Tensor};

use super::spectra::{self, Spectrum};

/// How a projection is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Way {
    /// As the paper's released code: dense sums and a full SVD, all in f32
    Released,
    /// Full singular value decomposition
    Svd,
    /// Symmetric eigendecomposition
    Eigh,
    /// Eigendecomposition in as many dimensions as there are batches
    Gram,
    /// A polynomial: products of matrices alone
    Chebyshev,
    /// What mie takes by itself
    Auto,
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self.solver() {
            Some(solver) => solver.name(),
            None => "released",
        }
    }

    /// The solver of mie; `None` for the released code.
    const fn solver(self) -> Option<Solver> {
        match self {
            Self::Released => None,
            Self::Svd => Some(Solver::Svd),
            Self::Eigh => Some(Solver::Eigh),
            Self::Gram => Some(Solver::Gram),
            Self::Chebyshev => Some(Solver::Chebyshev),
            Self::Auto => Some(Solver::Auto),
        }
    }
}

/// Number format that covariances are summed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Dtype {
    /// 32 bits
    #[value(name = "f32")]
    F32,
    /// 64 bits
    #[value(name = "f64")]
    F64,
}

impl Dtype {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    pub(super) const fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::F64 => Precision::F64,
        }
    }
}

/// What all ways are asked to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) alpha: f64,
    pub(super) tolerance: f64,
    /// Rows of the gradient that `P` is applied to.
    pub(super) gradient_rows: i64,
    pub(super) repeats: usize,
}

/// A covariance to be computed with.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) width: i64,
    pub(super) source: Source,
}

/// Where a covariance comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// So many batches of made-up features, which are summed.
    Features(u64),
    /// The matrix itself, on the CPU.
    Matrix(Tensor),
    /// Its factor `X`, `C = X^T X`, on the CPU.
    Factor(Tensor),
}

impl Input {
    /// Makes a spectrum; of so many batches where it is one of batches.
    pub(super) fn made(spectrum: Spectrum, width: i64, batches: u64) -> Result<Self> {
        let source = match spectrum.eigenvalues(width) {
            Some(values) => Source::Matrix(spectra::matrix(&values)?),
            None => Source::Features(batches),
        };
        Ok(Self { width, source })
    }

    /// Takes a covariance of a run, with its factor as long as it is kept.
    pub(super) fn of(covariance: &Covariance) -> Result<Self> {
        let source = match covariance.factor()? {
            Some(factor) => Source::Factor(factor.f_to_device(Device::Cpu)?),
            None => Source::Matrix(covariance.matrix()?.f_to_device(Device::Cpu)?),
        };
        Ok(Self { width: covariance.width(), source })
    }

    fn batches(&self) -> Option<u64> {
        match self.source {
            Source::Features(batches) => Some(batches),
            _ => None,
        }
    }

    /// Sums as mie does; also the seconds that adding took.
    fn sum(&self, precision: Precision, device: Device) -> Result<(Covariance, f64)> {
        let start = |kind| Covariance::new(self.width, kind, precision, device);
        match &self.source {
            Source::Features(batches) => {
                let (mut sum, mut seconds) = (start(CovarianceKind::BatchMean), 0.0);
                spectra::features(self.width, *batches, device, &mut |batches| {
                    seconds += clocked(device, &mut || {
                        batches.iter().try_for_each(|batch| sum.add(&LayerKind::Linear, batch))
                    })?;
                    Ok(())
                })?;
                Ok((sum, seconds))
            }
            Source::Matrix(matrix) => {
                let matrix = matrix.f_to_device(device)?.f_to_kind(precision.kind())?;
                Ok((Covariance::from_matrix(&matrix, 1)?, 0.0))
            }
            Source::Factor(factor) => {
                let mut sum = start(CovarianceKind::SecondMoment);
                sum.add(&LayerKind::Linear, &factor.f_to_device(device)?)?;
                Ok((sum, 0.0))
            }
        }
    }

    /// Sums as the released code does: for each batch `C += m^T m`, dense and in f32. (That code
    /// makes a new matrix for the result; here it is added in place, which is faster.)
    fn released_sum(&self, device: Device) -> Result<(Tensor, f64)> {
        let single = |tensor: &Tensor| -> Result<Tensor> {
            Ok(tensor.f_to_device(device)?.f_to_kind(Kind::Float)?)
        };
        match &self.source {
            Source::Features(batches) => {
                let mut sum = Tensor::f_zeros([self.width, self.width], (Kind::Float, device))?;
                let mut seconds = 0.0;
                spectra::features(self.width, *batches, device, &mut |batches| {
                    seconds += clocked(device, &mut || {
                        for batch in batches {
                            let mean = batch.f_mean_dim(0i64, true, None::<Kind>)?;
                            let _ = sum.f_add_(&mean.f_tr()?.f_matmul(&mean)?)?;
                        }
                        Ok(())
                    })?;
                    Ok(())
                })?;
                Ok((sum, seconds))
            }
            Source::Matrix(matrix) => Ok((single(matrix)?, 0.0)),
            Source::Factor(factor) => {
                let factor = single(factor)?;
                Ok((factor.f_tr()?.f_matmul(&factor)?, 0.0))
            }
        }
    }
}

/// `P` as the released code computes it: a full SVD in f32, and the product of its parts.
fn released(sum: &Tensor, alpha: f64) -> Result<Tensor> {
    let (_, values, vectors) = sum.f_svd(false, true)?;
    by_formula(&values, &vectors, alpha)
}

/// `V diag(exp(-alpha (s - s_d) / (s_1 - s_d))) V^T`.
fn by_formula(values: &Tensor, vectors: &Tensor, alpha: f64) -> Result<Tensor> {
    let (smallest, largest) = ends(values)?;
    let rate = alpha / (largest - smallest);
    let factors = values.f_sub_scalar(smallest)?.f_mul_scalar(-rate)?.f_exp()?;
    Ok(vectors.f_mul(&factors.f_unsqueeze(0)?)?.f_matmul(&vectors.f_tr()?)?)
}

fn ends(values: &Tensor) -> Result<(f64, f64)> {
    Ok((values.f_min()?.double_value(&[]), values.f_max()?.double_value(&[])))
}

/// What errors are measured against: the formula on an eigendecomposition, all in f64 on the CPU.
#[derive(Debug)]
pub(super) struct Reference {
    matrix: Tensor,
    norm: f64,
    /// Time of decomposition and product.
    pub(super) seconds: f64,
}

impl Reference {
    pub(super) fn of(input: &Input, alpha: f64) -> Result<Self> {
        let matrix = input.sum(Precision::F64, Device::Cpu)?.0.matrix()?;
        // LAPACK might never return from it.
        if matrix.f_isfinite()?.f_all()?.int64_value(&[]) == 0 {
            return Err(Error::Torch("the covariance has entries that are not finite".to_owned()));
        }
        let started = Instant::now();
        let (values, vectors) = matrix.f_linalg_eigh("L")?;
        let values = values.f_clamp_min(0.0)?;
        let (smallest, largest) = ends(&values)?;
        // Where all eigenvalues are equal there is nothing to tell apart.
        let matrix = if largest - smallest <= 1e-12 * largest {
            Tensor::f_eye(input.width, (Kind::Double, Device::Cpu))?
        } else {
            by_formula(&values, &vectors, alpha)?
        };
        let seconds = started.elapsed().as_secs_f64();
        Ok(Self { norm: norm(&matrix)?, matrix, seconds })
    }

    /// `||P - Pref||_F / ||Pref||_F`.
    fn error_of(&self, found: &Tensor) -> Result<f64> {
        let found = found.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        Ok(norm(&found.f_sub(&self.matrix)?)? / self.norm)
    }
}

fn norm(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.f_norm()?.double_value(&[]))
}

/// Seconds of several runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timing {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) runs: usize,
}

impl Timing {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let runs = seconds.len();
        let at = |index: usize| seconds.get(index).copied().unwrap_or(f64::NAN);
        let median = f64::midpoint(at(runs.saturating_sub(1) / 2), at(runs / 2));
        Self { median, least: at(0), most: at(runs.saturating_sub(1)), runs }
    }

    fn divided(self, by: f64) -> Self {
        let Self { median, least, most, runs } = self;
        Self { median: median / by, least: least / by, most: most / by, runs }
    }

    pub(super) fn json(&self) -> Value {
        let Self { median, least, most, runs } = self;
        json!({ "median": median, "minimum": least, "maximum": most, "runs": runs })
    }
}

/// Seconds from which a run is not repeated, and from which not even one goes before it to warm up.
const LONG: f64 = 10.0;
const TOO_LONG_TO_WARM_UP: f64 = 20.0;

/// Shortest time that is clocked; shorter work is done several times in a row.
const SHORTEST: f64 = 2e-3;

/// Runs work that says how many seconds it took, the first time for nothing unless that is long.
fn repeated(repeats: usize, run: &mut dyn FnMut() -> Result<f64>) -> Result<Timing> {
    let first = run()?;
    if first > TOO_LONG_TO_WARM_UP {
        return Ok(Timing::of(vec![first]));
    }
    let mut seconds = Vec::new();
    while seconds.len() < repeats {
        let took = run()?;
        seconds.push(took);
        if took > LONG {
            break;
        }
    }
    Ok(Timing::of(seconds))
}

/// Clocks work on a device.
fn timed(repeats: usize, device: Device, work: &mut dyn FnMut() -> Result<()>) -> Result<Timing> {
    let mut calls = 1;
    repeated(repeats, &mut || {
        let seconds = clocked(device, &mut || (0..calls).try_for_each(|_| work()))?;
        let each = seconds / f64::from(calls);
        calls = (SHORTEST / each).clamp(1.0, 1000.0) as u32;
        Ok(each)
    })
}

fn clocked(device: Device, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    synchronise(device);
    let started = Instant::now();
    work()?;
    synchronise(device);
    Ok(started.elapsed().as_secs_f64())
}

/// Waits for a device: what is asked of CUDA is done later.
fn synchronise(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// A covariance that is summed and ready for solvers.
#[derive(Debug)]
pub(super) struct Summed {
    sum: Sum,
    device: Device,
    width: i64,
    /// Adding a batch, where there are batches: the mean over all of a pass.
    update: Option<Timing>,
}

#[derive(Debug)]
enum Sum {
    Mie(Covariance),
    Released(Tensor),
}

impl Summed {
    /// Sums as mie does.
    pub(super) fn of(input: &Input, dtype: Dtype, device: Device, task: &Task) -> Result<Self> {
        Self::by(input, device, task, &|| {
            let (sum, seconds) = input.sum(dtype.precision(), device)?;
            Ok((Sum::Mie(sum), seconds))
        })
    }

    /// Sums as the released code does.
    pub(super) fn released(input: &Input, device: Device, task: &Task) -> Result<Self> {
        Self::by(input, device, task, &|| {
            let (sum, seconds) = input.released_sum(device)?;
            Ok((Sum::Released(sum), seconds))
        })
    }

    fn by(
        input: &Input,
        device: Device,
        task: &Task,
        pass: &dyn Fn() -> Result<(Sum, f64)>,
    ) -> Result<Self> {
        let width = input.width;
        let Some(batches) = input.batches() else {
            return Ok(Self { sum: pass()?.0, device, width, update: None });
        };
        let mut kept = None;
        let timing = repeated(task.repeats, &mut || {
            // Two would take twice the memory.
            drop(kept.take());
            let (sum, seconds) = pass()?;
            kept = Some(sum);
            Ok(seconds)
        })?;
        let sum = kept.ok_or_else(|| Error::Bug("a covariance that was not summed".to_owned()))?;
        Ok(Self { sum, device, width, update: Some(timing.divided(batches as f64)) })
    }

    fn bytes(&self) -> u64 {
        match &self.sum {
            Sum::Released(sum) => sum.numel() as u64 * 4,
            Sum::Mie(sum) => {
                let numbers = sum.factor_rows().unwrap_or(self.width) * self.width;
                numbers as u64 * if sum.format().0 == Kind::Double { 8 } else { 4 }
            }
        }
    }

    fn solve(&self, way: Way, task: &Task) -> Result<(Projection, Option<SpectrumReport>)> {
        match &self.sum {
            Sum::Released(sum) => Ok((Projection::Dense(released(sum, task.alpha)?), None)),
            Sum::Mie(sum) => {
                let solver = way.solver().unwrap_or_default();
                let solving = Solving { solver, tolerance: task.tolerance };
                let (projection, report) =
                    project("bench", sum, SpectralMap::flat(task.alpha), solving)?;
                Ok((projection, Some(report)))
            }
        }
    }

    /// Measures one way.
    pub(super) fn measure(&self, way: Way, reference: &Reference, task: &Task) -> Result<Found> {
        let before = Memory::now();
        let mut kept = None;
        let refresh = timed(task.repeats, self.device, &mut || {
            drop(kept.take());
            kept = Some(self.solve(way, task)?);
            Ok(())
        })?;
        // On CUDA the matrices are not in the memory that the system tells of.
        let rise = before.filter(|_| self.device == Device::Cpu).and_then(Memory::rise);
        let (projection, report) =
            kept.ok_or_else(|| Error::Bug("a projection that was not computed".to_owned()))?;
        let error = reference.error_of(&projection.matrix()?)?;
        if !error.is_finite() {
            return Err(Error::Torch("`P` has entries that are not finite".to_owned()));
        }
        let projection = projection.to(Kind::Float, self.device)?;
        let size = [task.gradient_rows, self.width];
        let like = Tensor::f_zeros(size, (Kind::Float, Device::Cpu))?;
        let number = Seed(0).number(Purpose::Synthesis, "bench gradient", &[self.width as u64]);
        let gradient = standard_normal(number, &like)?.f_to_device(self.device)?;
        let apply = timed(task.repeats, self.device, &mut || {
            drop(projection.apply(&gradient)?);
            Ok(())
        })?;
        let numbers = match &projection {
            Projection::Thin { basis, .. } => basis.numel() as u64,
            _ => (self.width * self.width) as u64,
        };
        let ran = report.as_ref().map_or_else(
            || format!("svd f32 {}", device::name(self.device)),
            |report| report.solver.clone(),
        );
        Ok(Found {
            refresh,
            update: self.update,
            apply,
            error,
            bound: report.as_ref().and_then(|report| report.error_bound),
            form: projection.form(),
            fell_back: match way {
                Way::Released | Way::Auto => false,
                _ => ran.split(' ').next() != Some(way.name()),
            } || report.as_ref().is_some_and(|report| !report.failed.is_empty()),
            ran,
            failed: report.map(|report| report.failed).unwrap_or_default(),
            covariance_bytes: self.bytes(),
            projection_bytes: 4 * numbers,
            rise,
        })
    }
}

/// What was measured of one way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// From the covariance to `P`.
    pub(super) refresh: Timing,
    /// Adding one batch to the covariance.
    pub(super) update: Option<Timing>,
    /// Multiplying a gradient by `P` in f32.
    pub(super) apply: Timing,
    /// Against the reference, in the Frobenius norm, relative.
    pub(super) error: f64,
    /// Bound that the solver itself gives, in the spectral norm.
    pub(super) bound: Option<f64>,
    pub(super) form: String,
    /// What really ran, with its number format and device.
    pub(super) ran: String,
    /// Whether that is not what was asked for, or not at once.
    pub(super) fell_back: bool,
    pub(super) failed: Vec<String>,
    /// Numbers that the covariance is kept as, and `P` in f32, in bytes.
    pub(super) covariance_bytes: u64,
    pub(super) projection_bytes: u64,
    pub(super) rise: Option<Rise>,
}

impl Found {
    pub(super) fn json(&self) -> Value {
        json!({
            "refresh_seconds": self.refresh.json(),
            "update_seconds_per_batch": self.update.map(|update| update.json()),
            "apply_seconds": self.apply.json(),
            "relative_error": self.error,
            "error_bound": self.bound,
            "form": self.form,
            "ran": self.ran,
            "fell_back": self.fell_back,
            "failed_attempts": self.failed,
            "covariance_bytes": self.covariance_bytes,
            "projection_bytes": self.projection_bytes,
            "refresh_memory_rise_bytes": self.rise.map(|rise| rise.bytes),
            "refresh_memory_rise_is_exact": self.rise.map(|rise| rise.exact),
        })
    }
}

/// Memory that the system says the process holds, and has held at most.
#[derive(Debug, Clone, Copy)]
struct Memory {
    held: u64,
    most: u64,
}

/// How far the process's memory rose above what it held before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rise {
    pub(super) bytes: u64,
    /// Whether the mark of the most memory moved. Otherwise it was set earlier, and the true rise
    /// is no more than this.
    pub(super) exact: bool,
}

impl Memory {
    fn now() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Self { held: kibibytes * 1024, most: device::peak_memory_bytes()? })
    }

    fn rise(self) -> Option<Rise> {
        let most = device::peak_memory_bytes()?;
        Some(Rise { bytes: most.saturating_sub(self.held), exact: most > self.most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: Task = Task { alpha: 0.4, tolerance: 1e-7, gradient_rows: 8, repeats: 2 };

    fn found(input: &Input, way: Way, dtype: Dtype) -> Found {
        let reference = Reference::of(input, TASK.alpha).unwrap();
        let summed = match way {
            Way::Released => Summed::released(input, Device::Cpu, &TASK),
            _ => Summed::of(input, dtype, Device::Cpu, &TASK),
        };
        summed.unwrap().measure(way, &reference, &TASK).unwrap()
    }

    #[test]
    fn every_way_gives_the_projection_to_its_format() {
        let input = Input::made(Spectrum::Features, 64, 100).unwrap();
        for way in Way::value_variants() {
            let found = found(&input, *way, Dtype::F64);
            assert!(found.error < 1e-5, "{way:?}: {found:?}");
            assert_eq!(found.refresh.runs, 2);
            assert!(found.update.is_some() && found.apply.median > 0.0, "{found:?}");
            assert_eq!(found.projection_bytes, 4 * 64 * 64);
            // 100 rows of 64 are no factor.
            assert_eq!(found.fell_back, *way == Way::Gram, "{way:?}: {found:?}");
        }
    }

    #[test]
    fn few_batches_keep_a_factor_and_gram_takes_it() {
        let input = Input::made(Spectrum::Features, 64, 10).unwrap();
        let found = found(&input, Way::Gram, Dtype::F32);
        assert!(!found.fell_back && found.ran.starts_with("gram"), "{found:?}");
        assert_eq!(found.covariance_bytes, 4 * 10 * 64);
        assert!(found.projection_bytes <= 4 * 10 * 64 && found.error < 1e-5, "{found:?}");
    }

    #[test]
    fn a_covariance_of_a_run_is_measured_as_it_was_kept() {
        let mut sum =
            Covariance::new(64, CovarianceKind::SecondMoment, Precision::F64, Device::Cpu);
        spectra::features(64, 2, Device::Cpu, &mut |batches| {
            batches.iter().try_for_each(|batch| sum.add(&LayerKind::Linear, batch))
        })
        .unwrap();
        let input = Input::of(&sum).unwrap();
        assert!(matches!(input.source, Source::Factor(_)));
        let found = found(&input, Way::Auto, Dtype::F64);
        assert!(found.ran.starts_with("gram") && found.update.is_none(), "{found:?}");
    }

    #[test]
    fn the_reference_is_the_exponential_of_a_known_spectrum() {
        let input = Input::made(Spectrum::Deficient, 64, 0).unwrap();
        let values: Vec<f64> = (0..64)
            .map(|index| if index < 16 { (-0.4 * f64::from(16 - index) / 16.0).exp() } else { 1.0 })
            .collect();
        let reference = Reference::of(&input, 0.4).unwrap();
        // The same basis, whose vectors are those of the spectrum.
        assert!(reference.error_of(&spectra::matrix(&values).unwrap()).unwrap() < 1e-13);
    }

    #[test]
    fn medians_lie_in_the_middle() {
        let timing = Timing::of(vec![3.0, 1.0, 2.0, 10.0]);
        assert_eq!(timing, Timing { median: 2.5, least: 1.0, most: 10.0, runs: 4 });
        assert!((Timing::of(vec![7.0]).median - 7.0).abs() < 1e-12);
    }

    #[test]
    fn long_work_is_not_repeated() {
        let clock = |seconds: &[f64]| {
            let mut left = seconds.iter();
            let timing = repeated(3, &mut || Ok(*left.next().unwrap())).unwrap();
            (timing.runs, timing.median, left.len())
        };
        assert_eq!(clock(&[9.0, 1.0, 1.0, 1.0]), (3, 1.0, 0));
        assert_eq!(clock(&[15.0, 12.0, 1.0]), (1, 12.0, 1));
        assert_eq!(clock(&[25.0, 12.0]), (1, 25.0, 1));
    }
}
