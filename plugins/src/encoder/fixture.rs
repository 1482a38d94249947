//! What the tests of several encoders share.

use std::cell::RefCell;

use mie_core::prelude::*;

/// Builds the encoder of modality `video` for one tensor of `shape`, always from the same seed.
pub(super) fn build(
    config: &dyn EncoderConfig,
    shape: &[i64],
) -> Result<(Box<dyn Encoder>, Parameters)> {
    let store = RefCell::new(Parameters::default());
    let group = GroupId::Encoder("video".to_owned());
    let at = Builder::new(&store, Seed(0), Device::Cpu, group);
    let encoder = config.build(&TensorLayout::value(shape), &at)?;
    Ok((encoder, store.into_inner()))
}

/// Runs the first `stages` stages.
pub(super) fn run(
    encoder: &dyn Encoder,
    stages: usize,
    x: &Tensor,
    statistics: Statistics,
) -> Tensor {
    let mut pass = Pass::of(statistics);
    let mut x = Named::value_of(x.shallow_clone());
    for index in 0..stages {
        x = encoder.stage(index, x, &mut pass).unwrap();
    }
    x.value().unwrap().shallow_clone()
}

/// Computes the feature in evaluation.
pub(super) fn feature(encoder: &dyn Encoder, x: &Tensor) -> Tensor {
    run(encoder, encoder.stages(), x, Statistics::Running)
}

/// A tensor of varied numbers in `[-1, 1]`.
pub(super) fn wave(shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7).sin().view(shape)
}
