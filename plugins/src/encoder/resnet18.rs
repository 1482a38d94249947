//! The residual network of 18 layers, on images, spectrograms or frames of a video.

use mie_core::prelude::*;

use super::residual::{BlockKind, Plan, ensure_base_channels, published};

/// Passes images or frames through the residual network of 18 layers.
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
/// torchvision's model, 11,176,512 of them for 3 channels; in its files `fc` is left aside.
///
/// Shapes: `value` is `[batch, channels, height, width]` f32, or
/// `[batch, channels, frames, height, width]`, whose frames pass through the network as samples of
/// their own; the feature is `[batch, 512]`. Stages: the stem, then each layer; between them the
/// tensor is `[batch * frames, …]`, the frames of a sample side by side.
///
/// Layers, for scopes of gradient modifiers: `conv1`, then of each block `layer1.0.conv1`,
/// `layer1.0.conv2` and, where there is one, `layer2.0.downsample.0`. With a head 512-256-64-31 the
/// weights from the output backwards make up these shares of a modality's 11,326,303 parameters, in
/// percent:
///
/// ```text
/// fc3              0.02    layer4.0.downsample.0  44.14    layer3.0.downsample.0  86.09
/// fc2              0.16    layer4.0.conv2         64.97    layer3.0.conv2         91.29
/// fc1              1.32    layer4.0.conv1         75.38    layer3.0.conv1         93.90
/// layer4.1.conv2  22.15    layer3.1.conv2         80.59    …
/// layer4.1.conv1  42.98    layer3.1.conv1         85.80    conv1                  99.91
/// ```
///
/// The rest are biases and normalisation, which no share counts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resnet18Config {
    /// Channels of the stem and of `layer1`, in `[1, 1024]`; the layers after it have 2, 4 and 8
    /// times as many, and so has the feature. Default 64, the published one; fewer make a network
    /// for tests and small machines, which takes no published weights.
    pub base_channels: i64,
}

impl Default for Resnet18Config {
    fn default() -> Self {
        Self { base_channels: 64 }
    }
}

#[typetag::serde(name = "resnet18")]
impl EncoderConfig for Resnet18Config {
    fn validate(&self) -> Result<()> {
        ensure_base_channels(self.base_channels)
    }

    fn example_input(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[3, 32, 32])
    }

    fn published(&self) -> Published {
        published(&["fc."])
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        let plan = Plan {
            encoder: "resnet18",
            block: BlockKind::Basic,
            blocks: [2, 2, 2, 2],
            base_channels: self.base_channels,
            scale: Initial::Normal { mean: 1.0, deviation: 0.02 },
            classes: None,
        };
        plan.build(inputs, at)
    }
}
register!(encoder::<Resnet18Config>, source = "He et al. 2016, arXiv:1512.03385");

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        build, chirp, compare, difference, feature, fill_by_chirp, reference, run, wave,
    };
    use super::*;

    #[test]
    fn it_has_the_published_number_of_parameters_and_names() {
        let (encoder, store) = build(&Resnet18Config::default(), &[3, 32, 32]).unwrap();
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
        let (_, store) = build(&Resnet18Config::default(), &[1, 32, 32]).unwrap();
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
    fn outputs_and_statistics_are_those_of_torchvision() {
        let [evaluation, training, statistics] =
            compare(&Resnet18Config::default(), "resnet18", &chirp(&[2, 3, 64, 64]));
        assert!(evaluation < 1e-5, "{evaluation}");
        assert!(training < 1e-4, "{training}");
        assert!(statistics < 1e-4, "{statistics}");
    }

    #[test]
    fn the_feature_of_frames_is_that_of_torchvision() {
        let (encoder, store) = build(&Resnet18Config::default(), &[3, 2, 40, 56]).unwrap();
        fill_by_chirp(&store);
        let found = feature(encoder.as_ref(), &chirp(&[2, 3, 2, 40, 56]));
        let error = difference(&found, &reference("cnn.safetensors")["resnet18.frames.eval"]);
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn fewer_channels_make_every_layer_narrower() {
        let config = Resnet18Config { base_channels: 3 };
        let (encoder, store) = build(&config, &[1, 32, 32]).unwrap();
        let size = |name: &str| store.find(&format!("encoder.video.{name}")).unwrap().1.size();
        assert_eq!(size("conv1.weight"), [3, 1, 7, 7]);
        assert_eq!(size("layer4.0.conv1.weight"), [24, 12, 3, 3]);
        let channels: Vec<Option<i64>> =
            (0..encoder.stages()).map(|stage| encoder.channels(stage)).collect();
        assert_eq!(channels, [3, 3, 6, 12, 24].map(Some));
        assert_eq!(feature(encoder.as_ref(), &wave(&[2, 1, 32, 32])).size(), [2, 24]);
        for base_channels in [0, -1, 1025, i64::MAX] {
            let error = build(&Resnet18Config { base_channels }, &[1, 32, 32]).err().unwrap();
            assert!(error.to_string().starts_with("`base_channels` is"), "{error}");
        }
    }

    #[test]
    fn layers_are_listed_in_forward_order_each_downsampling_after_its_second_convolution() {
        let (encoder, _) = build(&Resnet18Config::default(), &[3, 32, 32]).unwrap();
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
            let (encoder, _) = build(&Resnet18Config::default(), &[channels, 64, 40]).unwrap();
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
        let (single, _) = build(&Resnet18Config::default(), &[3, 32, 32]).unwrap();
        let (several, _) = build(&Resnet18Config::default(), &[3, 4, 32, 32]).unwrap();
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
        let (encoder, store) = build(&Resnet18Config::default(), &[3, 2, 32, 32]).unwrap();
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
        let error = build(&Resnet18Config::default(), &[32, 32]).err().unwrap().to_string();
        assert!(error.contains("input of encoder `resnet18`"), "{error}");
        assert!(error.contains("[channels, frames, height, width]"), "{error}");
    }
}
