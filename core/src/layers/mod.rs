//! Layers that core and the encoders share; they hand their inputs to a probe when one asks.

mod conv3d;
mod embedding;
mod layer_norm;

pub use conv3d::{Conv3d, Conv3dShape};
pub use embedding::Embedding;
pub use layer_norm::LayerNorm;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::parameters::{Builder, Initial, ParamId};

/// What normalisation layers do with their statistics in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statistics {
    /// Normalise by the batch and update the running statistics (first training pass).
    Update,
    /// Normalise by the batch and leave the running statistics alone (further training passes).
    Keep,
    /// Normalise by the running statistics (evaluation).
    Running,
}

/// Receives the input of every layer during a pass.
pub trait Probe {
    /// Sees `input` of `layer` (`[batch, …]`) just before the layer uses it.
    ///
    /// # Errors
    /// Whatever the probe finds wrong; ends the pass.
    fn see(&mut self, layer: &Layer, input: &Tensor) -> Result<()>;
}

/// How a forward pass is to be made.
pub struct Pass<'a> {
    /// What normalisation layers do.
    pub statistics: Statistics,
    /// Receives layer inputs.
    pub probe: Option<&'a mut dyn Probe>,
    /// What a pass for a gradient knows besides its inputs; absent in evaluation.
    pub training: Option<TrainingPass<'a>>,
}

/// What a pass for a gradient knows besides its inputs.
#[derive(Debug, Clone, Copy)]
pub struct TrainingPass<'a> {
    /// Classes of the batch. `[batch]` i64
    pub labels: &'a Tensor,
    /// Names the random draws of this pass: a [`crate::random::Seed`] of its own.
    pub draw: u64,
}

impl<'a> Pass<'a> {
    /// A pass that does this to statistics, without probe, and without knowing of a step.
    pub fn of(statistics: Statistics) -> Self {
        Pass { statistics, probe: None, training: None }
    }

    /// An evaluation pass: running statistics, no dropout, no probe.
    pub fn evaluation() -> Self {
        Pass::of(Statistics::Running)
    }

    /// The same pass with a probe.
    #[must_use]
    pub fn probed(self, probe: Option<&'a mut dyn Probe>) -> Self {
        Pass { probe, ..self }
    }

    /// Whether layers behave as in training (dropout on).
    pub fn training(&self) -> bool {
        self.statistics != Statistics::Running
    }

    /// Drops a share of `x` in training: `x m / (1 - share)`, each entry of `m` 0 with
    /// probability `share` and else 1; in evaluation `x` as it is.
    ///
    /// Source: Srivastava et al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn dropout(&self, x: Tensor, share: f64) -> Result<Tensor> {
        if self.training() && share > 0.0 { Ok(x.f_dropout(share, true)?) } else { Ok(x) }
    }

    fn show(&mut self, layer: &Layer, input: &Tensor) -> Result<()> {
        match self.probe.as_deref_mut() {
            Some(probe) => probe.see(layer, input),
            None => Ok(()),
        }
    }
}

/// What kind of layer it is, with what a gradient modifier must know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerKind {
    /// `y = x W^T + b`, weight `[out, in]`.
    Linear,
    /// 2-D convolution, weight `[out, in, height, width]`.
    Conv2d {
        /// Kernel height and width.
        kernel: [i64; 2],
        /// Stride.
        stride: [i64; 2],
        /// Zero padding.
        padding: [i64; 2],
    },
    /// 3-D convolution of an input that is already padded, weight
    /// `[out, in, frames, height, width]`.
    Conv3d {
        /// Kernel frames, height and width.
        kernel: [i64; 3],
        /// Stride.
        stride: [i64; 3],
    },
}

/// A layer with a weight matrix, as encoders and heads list them, in forward order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Path without `.weight`, e.g. `head.audio.fc1`.
    pub name: String,
    /// Its weight.
    pub weight: ParamId,
    /// Shape of the weight.
    pub shape: Vec<i64>,
    /// Its kind.
    pub kind: LayerKind,
}

impl Layer {
    fn new(at: &Builder<'_>, shape: &[i64], kind: LayerKind) -> Self {
        let name = at.path().to_owned();
        let weight = ParamId { group: at.group().clone(), path: format!("{name}.weight").into() };
        Self { name, weight, shape: shape.to_vec(), kind }
    }

    /// Width of the matrix that multiplies inputs: `in`, or `in * height * width` for a convolution.
    pub fn input_width(&self) -> i64 {
        self.shape.iter().skip(1).product()
    }

    /// Name relative to the group, e.g. `fc1` of `head.audio.fc1`: what pairs across modalities.
    pub fn local_name(&self) -> &str {
        let group = self.weight.group.to_string();
        self.name.strip_prefix(&group).map_or(&*self.name, |rest| rest.trim_start_matches('.'))
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for any text.
pub fn matches_glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Fully connected layer.
#[derive(Debug)]
pub struct Linear {
    layer: Layer,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Creates a layer with bias, both uniform in `±1/sqrt(inputs)` (PyTorch's default).
    ///
    /// # Errors
    /// When the path is taken or memory runs out.
    pub fn new(at: &Builder<'_>, inputs: i64, outputs: i64) -> Result<Self> {
        let initial = Initial::Uniform { bound: 1.0 / (inputs as f64).sqrt() };
        Self::with(at, inputs, outputs, initial, Some(initial))
    }

    /// Creates a layer that starts as given; without bias where `bias` is absent.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn with(
        at: &Builder<'_>,
        inputs: i64,
        outputs: i64,
        weight: Initial,
        bias: Option<Initial>,
    ) -> Result<Self> {
        let shape = [outputs, inputs];
        Ok(Self {
            layer: Layer::new(at, &shape, LayerKind::Linear),
            weight: at.param("weight", &shape, weight)?,
            bias: bias.map(|bias| at.param("bias", &[outputs], bias)).transpose()?,
        })
    }

    /// Maps `[batch, inputs]` to `[batch, outputs]`.
    ///
    /// # Errors
    /// When the input has another width.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let inputs = self.layer.shape[1];
        if x.size().last() != Some(&inputs) {
            return Err(Error::shape(
                format!("input of layer `{}`", self.layer.name),
                format!("[…, {inputs}]"),
                x.size(),
            ));
        }
        pass.show(&self.layer, x)?;
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }

    /// The layer's entry for layer lists.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Weight `[outputs, inputs]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Bias `[outputs]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

/// Options of a [`Conv2d`].
#[derive(Debug, Clone, Copy)]
pub struct Conv2dShape {
    /// Input channels.
    pub inputs: i64,
    /// Output channels.
    pub outputs: i64,
    /// Kernel height and width.
    pub kernel: [i64; 2],
    /// Stride.
    pub stride: [i64; 2],
    /// Zero padding.
    pub padding: [i64; 2],
}

/// 2-D convolution without bias (a normalisation layer follows it).
#[derive(Debug)]
pub struct Conv2d {
    layer: Layer,
    weight: Tensor,
    shape: Conv2dShape,
}

impl Conv2d {
    /// Creates a layer, Gaussian with variance `2 / (outputs * kernel area)` (He et al. 2015,
    /// fan-out, gain of ReLU), as the published ResNets start.
    ///
    /// # Errors
    /// When the path is taken or memory runs out.
    pub fn new(at: &Builder<'_>, shape: Conv2dShape) -> Result<Self> {
        let Conv2dShape { inputs, outputs, kernel, stride, padding } = shape;
        let size = [outputs, inputs, kernel[0], kernel[1]];
        let fan_out = (outputs * kernel[0] * kernel[1]) as f64;
        let initial = Initial::Normal { mean: 0.0, deviation: (2.0 / fan_out).sqrt() };
        let kind = LayerKind::Conv2d { kernel, stride, padding };
        Ok(Self {
            layer: Layer::new(at, &size, kind),
            weight: at.param("weight", &size, initial)?,
            shape,
        })
    }

    /// Maps `[batch, inputs, height, width]` to `[batch, outputs, height', width']`.
    ///
    /// # Errors
    /// When the input has another number of channels or is smaller than the kernel.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.show(&self.layer, x)?;
        Ok(x.f_conv2d(
            &self.weight,
            None::<&Tensor>,
            self.shape.stride,
            self.shape.padding,
            [1, 1],
            1,
        )?)
    }

    /// The layer's entry for layer lists.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }
}

/// Batch normalisation over `[batch, channels, …]` (Ioffe and Szegedy 2015).
#[derive(Debug)]
pub struct BatchNorm {
    /// Path of the layer, for errors.
    name: String,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: f64,
    epsilon: f64,
}

impl BatchNorm {
    /// Creates a layer with PyTorch's momentum 0.1 and epsilon 1e-5; `weight` gives the start of
    /// the scale.
    ///
    /// # Errors
    /// When the path is taken or memory runs out.
    pub fn new(at: &Builder<'_>, channels: i64, weight: Initial) -> Result<Self> {
        Self::with(at, channels, weight, 0.1, 1e-5)
    }

    /// Creates a layer with `momentum`, the share of a batch in the running statistics, and
    /// `epsilon`, added to variances.
    ///
    /// # Errors
    /// As [`BatchNorm::new`].
    pub fn with(
        at: &Builder<'_>,
        channels: i64,
        weight: Initial,
        momentum: f64,
        epsilon: f64,
    ) -> Result<Self> {
        Ok(Self {
            name: at.path().to_owned(),
            weight: at.param("weight", &[channels], weight)?,
            bias: at.param("bias", &[channels], Initial::Constant(0.0))?,
            running_mean: at.buffer("running_mean", &[channels], 0.0)?,
            running_var: at.buffer("running_var", &[channels], 1.0)?,
            momentum,
            epsilon,
        })
    }

    /// Normalises `x`, as the pass says.
    ///
    /// # Errors
    /// When the input has another number of channels; [`Error::Refused`] when it is to be
    /// normalised by a batch that has a single value in each channel.
    pub fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let size = x.size();
        let channels = self.weight.size()[0];
        if size.get(1) != Some(&channels) {
            return Err(Error::Shape {
                what: format!("input of layer `{}`", self.name),
                expected: format!("[batch, {channels}, …]"),
                found: format!("{size:?}"),
            });
        }
        // One value is its own mean: the output would be the bias whatever the input, and the
        // unbiased variance that is kept would be 0 / 0.
        if pass.training() && x.numel() as i64 <= channels {
            return Err(Error::refused(
                format!(
                    "layer `{}` normalises by its batch, and an input of shape {size:?} has a \
                     single value in each channel",
                    self.name
                ),
                "set data.drop_last = true, so that no smaller batch is left at the end of an \
                 epoch, or a larger data.batch_size",
            ));
        }
        // With no running buffers passed the batch's statistics are used and none are kept: same
        // bits as an updating pass. Momentum 0 would turn the buffers into NaN on an infinity.
        let (mean, variance) = match pass.statistics {
            Statistics::Keep => (None, None),
            _ => (Some(&self.running_mean), Some(&self.running_var)),
        };
        Ok(x.f_batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            mean,
            variance,
            pass.training(),
            self.momentum,
            self.epsilon,
            true,
        )?)
    }
}

/// Averages `[batch, channels, …]` over everything but batch and channels.
///
/// # Errors
/// When the tensor has fewer than three dimensions.
pub fn global_average_pool(x: &Tensor) -> Result<Tensor> {
    let size = x.size();
    if size.len() < 3 {
        return Err(Error::shape("global average pooling", "[batch, channels, …]", size));
    }
    let over: Vec<i64> = (2..size.len() as i64).collect();
    Ok(x.f_mean_dim(over, false, None::<Kind>)?)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tch::{Device, kind::FLOAT_CPU};

    use super::*;
    use crate::parameters::{GroupId, Parameters};
    use crate::random::Seed;

    fn with_builder<T>(run: impl FnOnce(&Builder<'_>) -> T) -> T {
        let store = RefCell::new(Parameters::default());
        run(&Builder::new(&store, Seed(1), Device::Cpu, GroupId::Encoder("audio".to_owned())))
    }

    #[test]
    fn keeping_statistics_gives_the_same_output_and_leaves_the_buffers() {
        with_builder(|at| {
            let layer = BatchNorm::new(&at.sub("bn"), 3, Initial::Constant(1.0)).unwrap();
            let x = Tensor::randn([4, 3, 5, 5], FLOAT_CPU) * 3.0 + 1.0;
            let run = |statistics| layer.forward(&x, &Pass::of(statistics)).unwrap();
            let kept = run(Statistics::Keep);
            assert_eq!(layer.running_mean, Tensor::zeros([3], FLOAT_CPU));
            let updated = run(Statistics::Update);
            assert_eq!(kept, updated);
            assert_ne!(layer.running_mean, Tensor::zeros([3], FLOAT_CPU));
        });
    }

    #[test]
    fn a_batch_of_one_value_for_each_channel_is_refused_in_training_with_the_way_out() {
        with_builder(|at| {
            let layer = BatchNorm::new(&at.sub("bn"), 3, Initial::Constant(1.0)).unwrap();
            let run = |size: &[i64], statistics| {
                let x = Tensor::ones(size, FLOAT_CPU);
                layer.forward(&x, &Pass::of(statistics))
            };
            for size in [&[1i64, 3][..], &[1, 3, 1, 1], &[0, 3, 4, 4]] {
                for statistics in [Statistics::Update, Statistics::Keep] {
                    let error = run(size, statistics).unwrap_err().to_string();
                    assert!(error.contains("layer `encoder.audio.bn`"), "{error}");
                    assert!(error.contains(&format!("{size:?}")), "{error}");
                    assert!(error.contains("data.drop_last = true"), "{error}");
                }
            }
            // The statistics are as they were, and evaluation and larger batches go through.
            assert_eq!(layer.running_var, Tensor::ones([3], FLOAT_CPU));
            for size in [&[1i64, 3, 2, 1][..], &[2, 3, 1, 1]] {
                let _ = run(size, Statistics::Keep).unwrap();
            }
            let _ = run(&[1, 3, 1, 1], Statistics::Running).unwrap();
        });
    }

    #[test]
    fn a_normalisation_names_itself_when_its_input_has_other_channels() {
        with_builder(|at| {
            let layer = BatchNorm::new(&at.sub("bn"), 3, Initial::Constant(1.0)).unwrap();
            let x = Tensor::zeros([2, 4, 1, 1], FLOAT_CPU);
            let error = layer.forward(&x, &Pass::evaluation()).unwrap_err().to_string();
            let expected =
                "input of layer `encoder.audio.bn`: expected [batch, 3, …], found [2, 4, 1, 1]";
            assert_eq!(error, expected);
        });
    }

    #[test]
    fn a_linear_layer_names_itself_when_its_input_has_another_width() {
        with_builder(|at| {
            let layer = Linear::new(&at.sub("fc"), 3, 2).unwrap();
            let x = Tensor::zeros([1, 4], FLOAT_CPU);
            let error = layer.forward(&x, &mut Pass::evaluation()).unwrap_err().to_string();
            assert_eq!(
                error,
                "input of layer `encoder.audio.fc`: expected \"[…, 3]\", found [1, 4]"
            );
            assert_eq!(layer.layer().local_name(), "fc");
        });
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("fc1", "fc1", true),
            ("fc1", "fc12", false),
            ("layer4.*", "layer4.1.conv2", true),
            ("*conv*", "layer4.1.conv2", true),
            ("l*.conv1", "layer4.1.conv2", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("a*a", "aba", true),
        ] {
            assert_eq!(matches_glob(pattern, name), expected, "{pattern} {name}");
        }
    }
}
