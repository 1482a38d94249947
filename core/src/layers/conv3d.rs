//! Convolution over frames, height and width.

use tch::Tensor;

use super::{Layer, LayerKind, Pass};
use crate::error::{Error, Result};
use crate::parameters::{Builder, Initial};

/// Options of a [`Conv3d`].
#[derive(Debug, Clone, Copy)]
pub struct Conv3dShape {
    /// Input channels.
    pub inputs: i64,
    /// Output channels.
    pub outputs: i64,
    /// Kernel frames, height and width.
    pub kernel: [i64; 3],
    /// Stride.
    pub stride: [i64; 3],
}

/// 3-D convolution without bias (a normalisation layer follows it), padded as its input needs.
///
/// On each axis of size `s` with kernel `k` and stride `t` zeros are added, half of them in front
/// and the odd one behind:
///
/// ```text
/// max(0, k - t) zeros where t divides s, else max(0, k - s mod t)
/// ```
///
/// so that the output has `ceil(s / t)` values (`SAME` padding, Abadi et al. 2016).
#[derive(Debug)]
pub struct Conv3d {
    layer: Layer,
    weight: Tensor,
    shape: Conv3dShape,
}

impl Conv3d {
    /// Creates a layer, uniform in `±1/sqrt(inputs * kernel volume)` (PyTorch's default).
    ///
    /// # Errors
    /// When the path is taken or memory runs out.
    pub fn new(at: &Builder<'_>, shape: Conv3dShape) -> Result<Self> {
        let Conv3dShape { inputs, outputs, kernel, stride } = shape;
        let size = [outputs, inputs, kernel[0], kernel[1], kernel[2]];
        let fan_in = (inputs * kernel.iter().product::<i64>()) as f64;
        let initial = Initial::Uniform { bound: 1.0 / fan_in.sqrt() };
        Ok(Self {
            layer: Layer::new(at, &size, LayerKind::Conv3d { kernel, stride }),
            weight: at.param("weight", &size, initial)?,
            shape,
        })
    }

    /// Maps `[batch, inputs, frames, height, width]` to `[batch, outputs, frames', height',
    /// width']`, sizes divided by the strides and rounded up.
    ///
    /// # Errors
    /// When the input has another rank or number of channels.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let size = x.size();
        if size.len() != 5 || size[1] != self.shape.inputs {
            return Err(Error::shape(
                format!("input of layer `{}`", self.layer.name),
                format!("[batch, {}, frames, height, width]", self.shape.inputs),
                size,
            ));
        }
        let x = pad_same(x, self.shape.kernel, self.shape.stride)?;
        pass.show(&self.layer, &x)?;
        let none = None::<&Tensor>;
        Ok(x.f_conv3d(&self.weight, none, self.shape.stride, [0i64; 3], [1i64; 3], 1)?)
    }

    /// The layer's entry for layer lists.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Pads the last three axes of `x` as a convolution or pooling of this kernel and stride does.
    ///
    /// # Errors
    /// When `x` has fewer than three axes.
    pub fn pad_same(x: &Tensor, kernel: [i64; 3], stride: [i64; 3]) -> Result<Tensor> {
        pad_same(x, kernel, stride)
    }
}

fn pad_same(x: &Tensor, kernel: [i64; 3], stride: [i64; 3]) -> Result<Tensor> {
    let size = x.size();
    let Some(first) = size.len().checked_sub(3) else {
        return Err(Error::shape("padding", "[…, frames, height, width]", size));
    };
    // libtorch takes the last axis first, the zeros in front and behind of each.
    let mut padding = Vec::with_capacity(6);
    for axis in (0..3).rev() {
        let rest = size[first + axis] % stride[axis];
        let all = (kernel[axis] - if rest == 0 { stride[axis] } else { rest }).max(0);
        padding.extend([all / 2, all - all / 2]);
    }
    if padding.iter().all(|&zeros| zeros == 0) {
        return Ok(x.shallow_clone());
    }
    Ok(x.f_constant_pad_nd(padding)?)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tch::{Device, Kind};

    use super::*;
    use crate::parameters::{GroupId, Parameters};
    use crate::random::Seed;

    #[test]
    fn outputs_have_the_size_divided_by_the_stride_rounded_up() {
        let store = RefCell::new(Parameters::default());
        let group = GroupId::Encoder("clip".to_owned());
        let at = Builder::new(&store, Seed(0), Device::Cpu, group);
        let shape = Conv3dShape { inputs: 2, outputs: 3, kernel: [7, 3, 1], stride: [2, 2, 1] };
        let layer = Conv3d::new(&at.sub("conv"), shape).unwrap();
        let run = |size: [i64; 3]| {
            let x = Tensor::ones([1, 2, size[0], size[1], size[2]], (Kind::Float, Device::Cpu));
            layer.forward(&x, &mut Pass::evaluation()).unwrap().size()
        };
        assert_eq!(run([8, 9, 5]), [1, 3, 4, 5, 5]);
        assert_eq!(run([1, 1, 1]), [1, 3, 1, 1, 1]);
        let flat = Tensor::ones([1, 2, 4, 4], (Kind::Float, Device::Cpu));
        let error = layer.forward(&flat, &mut Pass::evaluation()).unwrap_err().to_string();
        assert!(error.contains("layer `encoder.clip.conv`"), "{error}");
    }

    #[test]
    fn the_odd_zero_stands_behind() {
        let x = Tensor::ones([1, 1, 4], (Kind::Float, Device::Cpu));
        let padded = Conv3d::pad_same(&x, [1, 1, 3], [1, 1, 2]).unwrap();
        assert_eq!(Vec::<f32>::try_from(padded.flatten(0, -1)).unwrap(), [1.0, 1.0, 1.0, 1.0, 0.0]);
    }
}
