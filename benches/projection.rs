//! How the flat-gradient projection scales with the width of a layer.
//!
//! `cargo bench --bench projection`. Widths are those of the paper's heads (64, 256, 512, 768) and
//! 1024; covariances are made of batch means of rectified Gaussian features, 558 batches of 12 as
//! on CREMA-D, so that one direction dominates as in training.

#![allow(missing_docs, reason = "criterion's macros write functions without documentation")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mie_core::layers::LayerKind;
use mie_core::projection::{Covariance, CovarianceKind, Precision, Solver, SpectralMap, project};
use tch::{Device, Kind, Tensor};

const WIDTHS: [i64; 5] = [64, 256, 512, 768, 1024];

fn covariance(width: i64, batches: u64) -> Covariance {
    tch::manual_seed(1);
    let mut sum =
        Covariance::new(width, CovarianceKind::BatchMean, Precision::F64, Device::Cpu).unwrap();
    for _ in 0..batches {
        let batch = Tensor::randn([12, width], (Kind::Float, Device::Cpu)).relu();
        sum.add(&LayerKind::Linear, &batch).unwrap();
    }
    sum
}

fn update(c: &mut Criterion) {
    let mut group = c.benchmark_group("covariance_update");
    for width in WIDTHS {
        let batch = Tensor::randn([12, width], (Kind::Float, Device::Cpu)).relu();
        let mut sum = covariance(width, 1);
        group.bench_function(BenchmarkId::from_parameter(width), |b| {
            b.iter(|| sum.add(&LayerKind::Linear, &batch).unwrap());
        });
    }
}

fn refresh(c: &mut Criterion) {
    let mut group = c.benchmark_group("refresh");
    group.sample_size(10);
    for width in WIDTHS {
        let sum = covariance(width, 558);
        for (name, solver) in [("eigh", Solver::Eigh), ("svd", Solver::Svd)] {
            group.bench_function(BenchmarkId::new(name, width), |b| {
                b.iter(|| {
                    project("bench", &sum, SpectralMap::Flat { alpha: 0.4 }, solver).unwrap()
                });
            });
        }
    }
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    for width in WIDTHS {
        let (projection, _) = project(
            "bench",
            &covariance(width, 64),
            SpectralMap::Flat { alpha: 0.4 },
            Solver::Auto,
        )
        .unwrap();
        let gradient = Tensor::randn([256, width], (Kind::Double, Device::Cpu));
        group.bench_function(BenchmarkId::from_parameter(width), |b| {
            b.iter(|| projection.apply(&gradient).unwrap());
        });
    }
}

criterion_group!(benches, update, refresh, apply);
criterion_main!(benches);
