//! What encoders of one dense tensor share.

use mie_core::prelude::*;

/// Shape of a modality's one f32 tensor `value`, if `fits` accepts its number of dimensions.
pub(super) fn value_shape<'a>(
    encoder: &str,
    inputs: &'a Sizes,
    expected: &str,
    fits: fn(usize) -> bool,
) -> Result<&'a [i64]> {
    match inputs {
        [TensorLayout { name, shape, element: Element::F32 }]
            if name == Named::VALUE && fits(shape.len()) && shape.iter().all(|&size| size > 0) =>
        {
            Ok(shape)
        }
        _ => Err(Error::shape(
            format!("input of encoder `{encoder}`"),
            format!("one f32 tensor `value` of shape {expected}, batch aside"),
            inputs,
        )),
    }
}

/// A square convolution, padded so that only its stride makes the maps smaller.
pub(super) fn square(inputs: i64, outputs: i64, kernel: i64, stride: i64) -> Conv2dShape {
    Conv2dShape {
        inputs,
        outputs,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [kernel / 2; 2],
    }
}

/// The error of asking for a stage that an encoder does not have.
pub(super) fn no_stage(encoder: &str, index: usize) -> Error {
    Error::Bug(format!("encoder `{encoder}` has no stage {index}"))
}
