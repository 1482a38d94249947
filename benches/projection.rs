//! What the flat-gradient projection costs, by the width of a layer and within a training step.
//!
//! `cargo bench --bench projection`. Widths are those of the paper's heads (64, 256, 512, 768),
//! further ones, and the 4608 of the patches of the last convolutions; covariances are made of batch
//! means of rectified Gaussian features, 558 batches of 12 as on CREMA-D, so that one direction
//! dominates as in training. `mie bench projection` measures more, and compares with the released
//! code.

#![allow(missing_docs, reason = "criterion's macros write functions without documentation")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mie_core::config::Resolved;
use mie_core::engine::{StepRequest, measure_steps};
use mie_core::layers::LayerKind;
use mie_core::projection::{
    Covariance, CovarianceKind, Precision, Solver, Solving, SpectralMap, project,
};
use mie_plugins as _;
use tch::{Device, Kind, Tensor};

const WIDTHS: [i64; 7] = [64, 256, 512, 768, 1024, 2048, 4608];

/// Width above which decompositions of the whole matrix take more than seconds.
const SLOW: i64 = 1024;

const BATCHES: u64 = 558;

fn covariance(width: i64, batches: u64) -> Covariance {
    tch::manual_seed(1);
    let mut sum = Covariance::new(width, CovarianceKind::BatchMean, Precision::F64, Device::Cpu);
    for _ in 0..batches {
        let batch = Tensor::randn([12, width], (Kind::Float, Device::Cpu)).relu();
        sum.add(&LayerKind::Linear, &batch).unwrap();
    }
    sum
}

/// A whole pass of batches: some updates only keep a row, others multiply all that were kept.
fn update(c: &mut Criterion) {
    let mut group = c.benchmark_group("covariance_of_558_batches");
    group.sample_size(10);
    for width in WIDTHS {
        let batch = Tensor::randn([12, width], (Kind::Float, Device::Cpu)).relu();
        group.bench_function(BenchmarkId::from_parameter(width), |b| {
            b.iter(|| {
                let mut sum = covariance(width, 0);
                for _ in 0..BATCHES {
                    sum.add(&LayerKind::Linear, &batch).unwrap();
                }
                sum
            });
        });
    }
    // The input of the last convolutions for pictures of 224: 7 x 7 places of 512 channels.
    let maps = Tensor::randn([12, 512, 7, 7], (Kind::Float, Device::Cpu)).relu();
    let layer = LayerKind::Conv2d { kernel: [3, 3], stride: [1, 1], padding: [1, 1] };
    group.bench_function("convolution_4608", |b| {
        b.iter(|| {
            let mut sum = covariance(4608, 0);
            for _ in 0..BATCHES {
                sum.add(&layer, &maps).unwrap();
            }
            sum
        });
    });
}

fn refresh(c: &mut Criterion) {
    let mut group = c.benchmark_group("refresh");
    group.sample_size(10);
    for width in WIDTHS {
        let sum = covariance(width, BATCHES);
        for solver in Solver::EACH.into_iter().chain([Solver::Auto]) {
            let whole = matches!(solver, Solver::Svd | Solver::Eigh | Solver::Chebyshev);
            // With as many batches as that `gram` would be `eigh`.
            let full = solver == Solver::Gram && sum.factor_rows().is_none();
            if full || (whole && width > SLOW) {
                continue;
            }
            let solving = Solving::with(solver);
            group.bench_function(BenchmarkId::new(solver.name(), width), |b| {
                b.iter(|| project("bench", &sum, SpectralMap::flat(0.4), solving).unwrap());
            });
        }
    }
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    for width in WIDTHS {
        let sum = covariance(width, BATCHES);
        let map = SpectralMap::flat(0.4);
        let (projection, _) = project("bench", &sum, map, Solving::default()).unwrap();
        let projection = projection.to(Kind::Float, Device::Cpu).unwrap();
        let gradient = Tensor::randn([256, width], (Kind::Float, Device::Cpu));
        group.bench_function(BenchmarkId::from_parameter(width), |b| {
            b.iter(|| projection.apply(&gradient).unwrap());
        });
    }
}

/// SAM around SGD on `ResNet18` and spectrograms, without and with the modification.
fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    group.sample_size(10).measurement_time(Duration::from_secs(30));
    for name in ["step_audio", "step_audio_mie", "step_audio_scope_30"] {
        let file = format!("benches/configs/{name}.toml");
        let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let resolved = Resolved::read(&file, &[]).unwrap();
        group.bench_function(name, |b| {
            b.iter_custom(|steps| {
                let request = StepRequest {
                    steps: usize::try_from(steps).unwrap(),
                    warm_up: 2,
                    ..StepRequest::default()
                };
                let found =
                    measure_steps(&resolved, Path::new("."), Device::Cpu, &request, &mut |_| {
                        ControlFlow::Continue(())
                    });
                Duration::from_secs_f64(found.unwrap().seconds_per_step.median * steps as f64)
            });
        });
    }
}

criterion_group!(benches, update, refresh, apply, step);
criterion_main!(benches);
