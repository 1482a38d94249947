//! The residual network of 18 layers, on images, spectrograms or frames of a video.

use mie_core::prelude::*;

use super::util::{no_stage, square, value_shape};

/// Residual network of 18 layers, trained from random weights.
///
/// ```text
/// stem(x)  = maxpool_3/2(max(0, bn1(conv1_7/2 * x)))
/// block(x) = max(0, bn2(conv2_3 * max(0, bn1(conv1_3 * x))) + shortcut(x))
/// feature  = mean over frames, height and width of layer4(layer3(layer2(layer1(stem(x)))))
/// ```
///
/// `_k/s` is a square kernel of k pixels with stride s, padded to lose no more than the stride
/// takes. `layer1` … `layer4` are two blocks each, of 64, 128, 256 and 512 channels. The first
/// block of `layer2`, `layer3` and `layer4` has stride 2 and a shortcut of a 1 x 1 convolution and
/// a normalisation (`downsample`); other shortcuts are the identity. There is no final classifier.
///
/// Starts as He et al. 2015 for convolutions (Gaussian, variance `2 / (outputs * kernel^2)`), as
/// Gaussian of mean 1 and deviation 0.02 for normalisation scales and at 0 for their biases: what
/// the released code of the compared audio-video methods does. Parameters have the names of
/// torchvision's model, 11,176,512 of them for 3 channels.
///
/// Shapes: `value` is `[batch, channels, height, width]` f32, or
/// `[batch, channels, frames, height, width]`, whose frames pass through the network as samples of
/// their own; the feature is `[batch, 512]`. Stages: the stem, then each layer; between them the
/// tensor is `[batch * frames, …]`, the frames of a sample side by side.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resnet18Config {}

#[typetag::serde(name = "resnet18")]
impl EncoderConfig for Resnet18Config {
    fn example_input(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[3, 32, 32])
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        let expected = "[channels, height, width] or [channels, frames, height, width]";
        let shape = value_shape("resnet18", inputs, expected, |rank| matches!(rank, 3 | 4))?;
        let mut width = WIDTHS[0];
        let stem = Unit::new(&at.sub("conv1"), &at.sub("bn1"), square(shape[0], width, 7, 2))?;
        let mut layers = Vec::new();
        for (index, outputs) in WIDTHS.into_iter().enumerate() {
            let at = at.sub(&format!("layer{}", index + 1));
            layers.push([
                Block::new(&at.sub("0"), width, outputs)?,
                Block::new(&at.sub("1"), outputs, outputs)?,
            ]);
            width = outputs;
        }
        let frames = (shape.len() == 4).then(|| shape[1]);
        Ok(Box::new(Resnet18 { frames, stem, layers, width }))
    }
}
register!(encoder::<Resnet18Config>, source = "He et al. 2016, arXiv:1512.03385");

/// Channels of the four layers.
const WIDTHS: [i64; 4] = [64, 128, 256, 512];

/// A convolution and its normalisation.
struct Unit {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Unit {
    fn new(conv: &Builder<'_>, norm: &Builder<'_>, shape: Conv2dShape) -> Result<Self> {
        let scale = Initial::Normal { mean: 1.0, deviation: 0.02 };
        Ok(Self {
            conv: Conv2d::new(conv, shape)?,
            norm: BatchNorm::new(norm, shape.outputs, scale)?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = self.conv.forward(x, pass)?;
        self.norm.forward(&x, pass)
    }
}

/// Two units and a way past them.
struct Block {
    first: Unit,
    second: Unit,
    downsample: Option<Unit>,
}

impl Block {
    /// A block that widens halves the maps.
    fn new(at: &Builder<'_>, inputs: i64, outputs: i64) -> Result<Self> {
        let unit = |conv, norm, shape| Unit::new(&at.sub(conv), &at.sub(norm), shape);
        let widens = inputs != outputs;
        let stride = if widens { 2 } else { 1 };
        let shortcut = square(inputs, outputs, 1, stride);
        Ok(Self {
            first: unit("conv1", "bn1", square(inputs, outputs, 3, stride))?,
            second: unit("conv2", "bn2", square(outputs, outputs, 3, 1))?,
            downsample: widens
                .then(|| unit("downsample.0", "downsample.1", shortcut))
                .transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let inner = self.first.forward(x, pass)?.f_relu_()?;
        let mut sum = self.second.forward(&inner, pass)?;
        let _ = match &self.downsample {
            Some(unit) => sum.f_add_(&unit.forward(x, pass)?)?,
            None => sum.f_add_(x)?,
        };
        Ok(sum.f_relu_()?)
    }

    /// Convolutions in forward order.
    fn convolutions(&self) -> impl Iterator<Item = &Conv2d> {
        [&self.first, &self.second].into_iter().chain(&self.downsample).map(|unit| &unit.conv)
    }
}

struct Resnet18 {
    frames: Option<i64>,
    stem: Unit,
    layers: Vec<[Block; 2]>,
    width: i64,
}

impl Resnet18 {
    /// Folds frames into the batch and applies the stem.
    fn enter(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = match self.frames {
            Some(_) => x.f_transpose(1, 2)?.f_flatten(0, 1)?,
            None => x.shallow_clone(),
        };
        let x = self.stem.forward(&x, pass)?.f_relu_()?;
        Ok(x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?)
    }

    /// Averages the last maps, and the frames of a sample: `[batch, 512]`.
    fn leave(&self, maps: &Tensor) -> Result<Tensor> {
        let pooled = global_average_pool(maps)?;
        match self.frames {
            Some(frames) => {
                let by_sample = pooled.f_reshape([-1, frames, self.width])?;
                Ok(by_sample.f_mean_dim(1i64, false, None::<Kind>)?)
            }
            None => Ok(pooled),
        }
    }
}

impl Encoder for Resnet18 {
    fn stages(&self) -> usize {
        1 + self.layers.len()
    }

    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let x = x.value()?;
        if index == 0 {
            return Ok(Named::value_of(self.enter(x, pass)?));
        }
        let [first, second] =
            self.layers.get(index - 1).ok_or_else(|| no_stage("resnet18", index))?;
        let mut x = second.forward(&first.forward(x, pass)?, pass)?;
        if index == self.layers.len() {
            x = self.leave(&x)?;
        }
        Ok(Named::value_of(x))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn channels(&self, index: usize) -> Option<i64> {
        if index == 0 { Some(WIDTHS[0]) } else { WIDTHS.get(index - 1).copied() }
    }

    fn layers(&self) -> Vec<Layer> {
        let blocks = self.layers.iter().flatten().flat_map(Block::convolutions);
        std::iter::once(&self.stem.conv).chain(blocks).map(|conv| conv.layer().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{build, feature, run, wave};
    use super::*;

    #[test]
    fn it_has_the_published_number_of_parameters_and_names() {
        let (encoder, store) = build(&Resnet18Config {}, &[3, 32, 32]).unwrap();
        assert_eq!(store.size(&GroupId::Encoder("video".to_owned())), 11_176_512);
        for name in ["conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer4.1.bn2.weight"] {
            assert!(store.find(&format!("encoder.video.{name}")).is_some(), "{name}");
        }
        for (name, shape) in [
            ("layer2.0.downsample.0.weight", vec![128, 64, 1, 1]),
            ("layer4.0.downsample.1.weight", vec![512]),
        ] {
            assert_eq!(store.find(&format!("encoder.video.{name}")).unwrap().1.size(), shape);
        }
        assert!(store.find("encoder.video.layer1.0.downsample.0.weight").is_none());
        assert_eq!((encoder.stages(), encoder.width()), (5, 512));
    }

    #[test]
    fn weights_start_with_the_published_spreads() {
        let (_, store) = build(&Resnet18Config {}, &[1, 32, 32]).unwrap();
        let check = |name: &str, mean: f64, deviation: f64| {
            let values = store.find(&format!("encoder.video.{name}")).unwrap().1;
            let (found_mean, found) = (values.mean(Kind::Float), values.std(true));
            let error = (found_mean.double_value(&[]) - mean).abs();
            // Five standard errors of the mean; the deviation to 15 %.
            assert!(error < 5.0 * deviation / (values.numel() as f64).sqrt(), "{name}: {error}");
            let ratio = found.double_value(&[]) / deviation;
            assert!((ratio - 1.0).abs() < 0.15, "{name}: {ratio}");
        };
        check("conv1.weight", 0.0, (2.0 / (64.0 * 49.0f64)).sqrt());
        check("layer3.0.conv2.weight", 0.0, (2.0 / (256.0 * 9.0f64)).sqrt());
        check("layer2.0.downsample.0.weight", 0.0, (2.0 / 128.0f64).sqrt());
        check("layer4.1.bn2.weight", 1.0, 0.02);
    }

    #[test]
    fn layers_are_listed_in_forward_order_each_downsampling_after_its_second_convolution() {
        let (encoder, _) = build(&Resnet18Config {}, &[3, 32, 32]).unwrap();
        let names: Vec<String> =
            encoder.layers().iter().map(|layer| layer.local_name().to_owned()).collect();
        assert_eq!(names.len(), 20);
        assert_eq!(names[..3], ["conv1", "layer1.0.conv1", "layer1.0.conv2"]);
        assert_eq!(
            names[15..],
            [
                "layer4.0.conv1",
                "layer4.0.conv2",
                "layer4.0.downsample.0",
                "layer4.1.conv1",
                "layer4.1.conv2",
            ]
        );
    }

    #[test]
    fn stages_have_the_published_sizes_for_any_number_of_channels() {
        for channels in [1, 3, 5] {
            let (encoder, _) = build(&Resnet18Config {}, &[channels, 64, 40]).unwrap();
            let x = wave(&[2, channels, 64, 40]);
            let sizes = [
                vec![2, 64, 16, 10],
                vec![2, 64, 16, 10],
                vec![2, 128, 8, 5],
                vec![2, 256, 4, 3],
                vec![2, 512],
            ];
            for (index, size) in sizes.into_iter().enumerate() {
                let found = run(encoder.as_ref(), index + 1, &x, Statistics::Running);
                assert_eq!(found.size(), size);
            }
        }
    }

    #[test]
    fn the_feature_of_frames_is_the_mean_of_the_features_of_each_frame() {
        // Initial values depend on seed and name alone: both networks have the same weights.
        let (single, _) = build(&Resnet18Config {}, &[3, 32, 32]).unwrap();
        let (several, _) = build(&Resnet18Config {}, &[3, 4, 32, 32]).unwrap();
        let x = wave(&[2, 3, 4, 32, 32]);
        let stem = run(several.as_ref(), 1, &x, Statistics::Running);
        assert_eq!(stem.size(), [8, 64, 8, 8]);
        let frames: Vec<Tensor> =
            (0..4).map(|frame| feature(single.as_ref(), &x.select(2, frame))).collect();
        let expected = Tensor::stack(&frames, 0).mean_dim(0i64, false, Kind::Float);
        let found = feature(several.as_ref(), &x);
        assert_eq!(found.size(), [2, 512]);
        // Batches of 8 and of 2 may be summed in another order.
        assert!(found.allclose(&expected, 1e-4, 1e-5, false));
        assert!(!found.get(0).allclose(&found.get(1), 1e-4, 1e-5, false));
    }

    #[test]
    fn the_gradient_reaches_the_stem() {
        let (encoder, store) = build(&Resnet18Config {}, &[3, 2, 32, 32]).unwrap();
        let x = wave(&[2, 3, 2, 32, 32]);
        let found = run(encoder.as_ref(), 5, &x, Statistics::Update);
        let stem = store.find("encoder.video.conv1.weight").unwrap().1;
        let loss = found.square().sum(Kind::Float);
        let gradients = Tensor::run_backward(&[loss], &[stem], false, false);
        let norm = gradients[0].norm().double_value(&[]);
        assert!(norm.is_finite() && norm > 0.0, "{norm}");
    }

    #[test]
    fn inputs_of_another_rank_are_refused_with_what_is_wanted() {
        let error = build(&Resnet18Config {}, &[32, 32]).err().unwrap().to_string();
        assert!(error.contains("input of encoder `resnet18`"), "{error}");
        assert!(error.contains("[channels, frames, height, width]"), "{error}");
    }
}
