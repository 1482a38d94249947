//! What the tests of several encoders share.

use std::cell::RefCell;
use std::collections::BTreeMap;

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

/// A tensor of numbers in `[-1, 1]` that no shift repeats: `sin(0.001 i^2)`.
pub(super) fn chirp(shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let value = |i: i64| (0.001 * (i as f64) * (i as f64)).sin() as f32;
    Tensor::from_slice(&(0..count).map(value).collect::<Vec<f32>>()).view(shape)
}

/// Fills all parameters and buffers by a formula that the scripts of `tests/reference` know too, so
/// that networks of full size can be compared without files of their weights.
///
/// ```text
/// value i of tensor t = centre + amplitude sin(0.001 i^2 + 0.37 i + phase)
/// phase               = (sum over bytes of t's name of (position + 1) byte) mod 1000 / 100
/// ```
///
/// Positions start at 0, names leave the group out. Tensors of two and more dimensions have centre
/// 0 and amplitude `2 / sqrt(product of the sizes after the first)`; others have amplitude 0.1 and
/// centre 1 where the name ends in `weight` or `running_var`, else 0. A plain sine would give
/// matrices of rank 2, whose rounding batch normalisation enlarges.
pub(super) fn fill_by_chirp(store: &Parameters) {
    let mut tensors = store.export().unwrap();
    for (path, tensor) in &mut tensors {
        let name = path.strip_prefix("encoder.video.").unwrap();
        let bytes = name.bytes().enumerate();
        let sum: usize = bytes.map(|(position, byte)| (position + 1) * usize::from(byte)).sum();
        let phase = (sum % 1000) as f64 / 100.0;
        let size = tensor.size();
        let scales = name.ends_with("weight") || name.ends_with("running_var");
        let (centre, amplitude) = match size.get(1..) {
            Some(rest) if !rest.is_empty() => {
                (0.0, 2.0 / (rest.iter().product::<i64>() as f64).sqrt())
            }
            _ => (if scales { 1.0 } else { 0.0 }, 0.1),
        };
        let value = |i: usize| {
            let i = i as f64;
            (centre + amplitude * (0.001 * i * i + 0.37 * i + phase).sin()) as f32
        };
        let values: Vec<f32> = (0..tensor.numel()).map(value).collect();
        *tensor = Tensor::from_slice(&values).view(size.as_slice());
    }
    store.import(&tensors).unwrap();
}

/// Tensors by name of a file that a script of `tests/reference` wrote.
pub(super) fn reference(file: &str) -> BTreeMap<String, Tensor> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/data/");
    Tensor::read_safetensors(format!("{folder}{file}")).unwrap().into_iter().collect()
}

/// Largest difference between two tensors, as a share of the largest expected value.
pub(super) fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let largest = |x: &Tensor| x.abs().max().double_value(&[]);
    largest(&(found - expected)) / largest(expected)
}

/// Holds an encoder filled by formula against `cnn.safetensors`: the differences in evaluation, in
/// a training pass, and of the running statistics that this leaves.
pub(super) fn compare(config: &dyn EncoderConfig, name: &str, x: &Tensor) -> [f64; 3] {
    let (encoder, store) = build(config, &x.size()[1..]).unwrap();
    fill_by_chirp(&store);
    let wanted = reference("cnn.safetensors");
    let evaluation = difference(&feature(encoder.as_ref(), x), &wanted[&format!("{name}.eval")]);
    let trained = run(encoder.as_ref(), encoder.stages(), x, Statistics::Update);
    let training = difference(&trained, &wanted[&format!("{name}.train")]);
    let mut statistics = Vec::new();
    for (path, found) in store.export().unwrap() {
        let Some(wanted) = wanted.get(&path.replacen("encoder.video", name, 1)) else { continue };
        statistics.push(difference(&found, wanted));
    }
    assert!(statistics.len() > 1, "the file has no running statistics of `{name}`");
    [evaluation, training, statistics.into_iter().fold(0.0, f64::max)]
}
