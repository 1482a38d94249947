//! What the tests of several fusions share.

use std::cell::RefCell;

use mie_core::prelude::*;

const MODALITIES: [&str; 3] = ["audio", "flow", "video"];

/// Builds a fusion of the first modalities, one for each width, always from the same seed.
pub(super) fn build(
    config: &dyn FusionConfig,
    widths: &[i64],
    classes: i64,
) -> (Box<dyn Fusion>, Parameters) {
    let stages: Vec<[Option<i64>; 1]> = widths.iter().map(|width| [Some(*width)]).collect();
    let stages: Vec<&[Option<i64>]> = stages.iter().map(|stage| &stage[..]).collect();
    build_with_channels(config, widths, &stages, classes).unwrap()
}

/// Builds a fusion for encoders whose stages leave the given channels.
pub(super) fn build_with_channels(
    config: &dyn FusionConfig,
    widths: &[i64],
    channels: &[&[Option<i64>]],
    classes: i64,
) -> Result<(Box<dyn Fusion>, Parameters)> {
    let store = RefCell::new(Parameters::default());
    let at = Builder::new(&store, Seed(0), Device::Cpu, GroupId::Fusion);
    let names = || MODALITIES.map(str::to_owned).into_iter();
    let widths = names().zip(widths.iter().copied()).collect();
    let channels = names().zip(channels.iter().map(|stages| stages.to_vec())).collect();
    let fusion = config.build(&FusionContext { widths, channels, classes, at })?;
    Ok((fusion, store.into_inner()))
}

/// What a fusion says that cannot be built.
pub(super) fn refusal(config: &dyn FusionConfig, widths: &[i64], classes: i64) -> String {
    let stages: Vec<[Option<i64>; 1]> = widths.iter().map(|width| [Some(*width)]).collect();
    let stages: Vec<&[Option<i64>]> = stages.iter().map(|stage| &stage[..]).collect();
    build_with_channels(config, widths, &stages, classes).err().unwrap().to_string()
}

/// Overwrites a parameter.
pub(super) fn set(store: &Parameters, path: &str, values: &Tensor) {
    let _guard = no_grad_guard();
    store.find(path).unwrap().1.shallow_clone().copy_(values);
}

/// In f32, as parameters are.
pub(super) fn single(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::Float)
}

/// Names tensors after the first modalities.
pub(super) fn by_modality<const COUNT: usize>(tensors: [Tensor; COUNT]) -> ByModality<Tensor> {
    MODALITIES.map(str::to_owned).into_iter().zip(tensors).collect()
}

/// Makes an f64 matrix.
pub(super) fn rows<const WIDTH: usize>(rows: &[[f64; WIDTH]]) -> Tensor {
    Tensor::from_slice(rows.as_flattened()).view([rows.len() as i64, WIDTH as i64])
}

/// Decides on logits alone.
pub(super) fn decide<const COUNT: usize>(fusion: &dyn Fusion, logits: [Tensor; COUNT]) -> Tensor {
    let outputs = Outputs { logits: by_modality(logits), ..Outputs::default() };
    fusion.decide(&outputs).unwrap()
}

/// Holds every entry of `found` against `expected`, to an absolute `tolerance`.
pub(super) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size());
    let error = (found - expected).abs().max().double_value(&[]);
    assert!(error <= tolerance, "off by {error}: found {found}, expected {expected}");
}

/// Holds a decision on logits to what every decision must be, for one to three modalities.
pub(super) fn assert_decides_on_whatever_ran(fusion: &dyn Fusion) {
    let z = |shift: f64| {
        let values: Vec<f64> = (0..12).map(|i| 3.0 * (f64::from(i) + shift).sin()).collect();
        Tensor::from_slice(&values).view([4, 3])
    };
    for decision in [
        decide(fusion, [z(0.1)]),
        decide(fusion, [z(0.1), z(0.2)]),
        decide(fusion, [z(0.1), z(0.2), z(0.7)]),
        decide(fusion, [z(0.1) * 1e4, z(0.2)]),
    ] {
        let ones = Tensor::ones([4], (Kind::Double, Device::Cpu));
        assert_close(&decision.sum_dim_intlist(-1i64, false, Kind::Double), &ones, 1e-12);
        assert!(decision.min().double_value(&[]) >= 0.0);
    }
    assert_close(&decide(fusion, [z(0.1)]), &z(0.1).softmax(-1, Kind::Double), 1e-12);
    let error = fusion.decide(&Outputs::default()).unwrap_err().to_string();
    assert!(error.contains("at least one modality"), "{error}");
}
