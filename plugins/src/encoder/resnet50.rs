//! The residual network of 50 layers, on images, spectrograms or frames of a video.

use mie_core::prelude::*;

use super::residual::{BlockKind, Plan, ensure_base_channels, published};

/// Passes images or frames through the residual network of 50 layers.
///
/// ```text
/// stem(x)  = maxpool_3/2(max(0, bn1(conv1_7/2 * x)))
/// inner(x) = max(0, bn2(conv2_3/s * max(0, bn1(conv1_1 * x))))
/// block(x) = max(0, bn3(conv3_1 * inner(x)) + shortcut(x))
/// pooled   = mean over frames, height and width of layer4(layer3(layer2(layer1(stem(x)))))
/// feature  = pooled                                         feature = "pooled"
///            fc.weight pooled + fc.bias                     feature = "logits"
/// ```
///
/// `_k/s` is a square kernel of k pixels with stride s (1 where none is given), padded to lose no
/// more than the stride takes. `layer1` … `layer4` are 3, 4, 6 and 3 blocks with 64, 128, 256 and
/// 512 inner channels, and leave four times as many. The first block of each has a shortcut of a
/// 1 x 1 convolution and a normalisation (`downsample`), other shortcuts are the identity; in
/// `layer2`, `layer3` and `layer4` that block has `s = 2`. The stride stands in the 3 x 3
/// convolution, as in torchvision's weights ("version 1.5"), and not in the first one of the paper.
///
/// Starts as torchvision's model: convolutions Gaussian with variance
/// `2 / (outputs * kernel^2)` (He et al. 2015), normalisation as the plain one, `fc` uniform in
/// `±1/sqrt(inputs)`. Parameters have its names: 25,557,032 for 3 channels, 2,049,000 of them in
/// `fc`.
///
/// Shapes: `value` is `[batch, channels, height, width]` f32, or
/// `[batch, channels, frames, height, width]`, whose frames pass through the network as samples of
/// their own; the feature is `[batch, 1000]`, or `[batch, 2048]` where it is pooled. Stages: the
/// stem, then each layer, the last one with all that follows; between them the tensor is
/// `[batch * frames, …]`, the frames of a sample side by side.
///
/// Layers, for scopes of gradient modifiers: `conv1`, then of each block `layer1.0.conv1`,
/// `layer1.0.conv2`, `layer1.0.conv3` and, where there is one, `layer1.0.downsample.0`; at last
/// `fc`. The weights from the output backwards make up these shares of a modality's parameters, in
/// percent; a: 25,829,931 with a head 1000-256-64-3; b: 26,539,307 with `projection = 768` and a
/// head 768-256-64-3:
///
/// ```text
///                     a      b                               a      b
/// fc3              0.00   0.00    layer4.2.conv1         26.24  28.21
/// fc2              0.06   0.06    layer4.1.conv3         30.30  32.16
/// fc1              1.06   0.80    layer4.1.conv2         39.43  41.05
/// projection          -   3.70    layer4.1.conv1         43.49  45.00
/// fc               8.98  11.41    layer4.0.downsample.0  51.61  52.90
/// layer4.2.conv3  13.04  15.36    layer4.0.conv3         55.67  56.85
/// layer4.2.conv2  22.18  24.25    layer4.0.conv2         64.80  65.74
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resnet50Config {
    /// What the feature is. Default `logits`, as in the released code of the flat-gradient method
    /// for pictures with text: the only runnable evidence of its published numbers. With
    /// `projection = 768` all layers of its head then have a partner in that of a text encoder of
    /// width 768.
    pub feature: Resnet50Feature,
    /// Channels of the stem and inner channels of `layer1`, in `[1, 1024]`; the inner channels of
    /// the layers after it are 2, 4 and 8 times as many, and the pooled feature has 32 times as
    /// many. Default 64, the published one; fewer make a network for tests and small machines,
    /// which takes no published weights.
    pub base_channels: i64,
}

/// What a residual network of 50 layers leaves as its feature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resnet50Feature {
    /// The 1000 outputs of its classifier of the classes of ImageNet, `fc`, trained with the rest.
    #[default]
    Logits,
    /// The mean of the last maps, 2048 wide; there is no `fc`.
    Pooled,
}

impl Default for Resnet50Config {
    fn default() -> Self {
        Self { feature: Resnet50Feature::default(), base_channels: 64 }
    }
}

/// Classes of ImageNet.
const CLASSES: i64 = 1000;

#[typetag::serde(name = "resnet50")]
impl EncoderConfig for Resnet50Config {
    fn validate(&self) -> Result<()> {
        ensure_base_channels(self.base_channels)
    }

    fn small(&self) -> Option<Box<dyn EncoderConfig>> {
        Some(Box::new(Self { base_channels: 8, ..self.clone() }))
    }

    fn example_input(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[3, 32, 32])
    }

    fn published(&self) -> Published {
        match self.feature {
            Resnet50Feature::Logits => published(&[]),
            Resnet50Feature::Pooled => published(&["fc."]),
        }
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        let plan = Plan {
            encoder: "resnet50",
            block: BlockKind::Bottleneck,
            blocks: [3, 4, 6, 3],
            base_channels: self.base_channels,
            scale: Initial::Constant(1.0),
            classes: (self.feature == Resnet50Feature::Logits).then_some(CLASSES),
        };
        plan.build(inputs, at)
    }
}
register!(encoder::<Resnet50Config>, source = "He et al. 2016, arXiv:1512.03385");

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        build, chirp, compare, difference, feature, fill_by_chirp, reference, run, wave,
    };
    use super::*;

    /// A network an eighth as wide, whose pooled feature has 256 entries.
    fn narrow(feature: Resnet50Feature) -> Resnet50Config {
        Resnet50Config { feature, base_channels: 8 }
    }

    #[test]
    fn it_has_the_published_number_of_parameters_and_names() {
        let (encoder, store) = build(&Resnet50Config::default(), &[3, 32, 32]).unwrap();
        assert_eq!(store.size(&GroupId::Encoder("video".to_owned())), 25_557_032);
        assert_eq!((encoder.stages(), encoder.width()), (5, 1000));
        let size = |name: &str| Some(store.find(&format!("encoder.video.{name}"))?.1.size());
        for (name, expected) in [
            ("conv1.weight", vec![64, 3, 7, 7]),
            ("layer1.0.conv1.weight", vec![64, 64, 1, 1]),
            ("layer1.0.downsample.0.weight", vec![256, 64, 1, 1]),
            ("layer2.0.conv1.weight", vec![128, 256, 1, 1]),
            ("layer3.5.bn3.bias", vec![1024]),
            ("layer4.0.downsample.1.weight", vec![2048]),
            ("layer4.2.conv2.weight", vec![512, 512, 3, 3]),
            ("fc.weight", vec![1000, 2048]),
            ("fc.bias", vec![1000]),
        ] {
            assert_eq!(size(name), Some(expected), "{name}");
        }
        for name in ["layer1.1.downsample.0.weight", "layer1.3.conv1.weight", "bn2.weight"] {
            assert_eq!(size(name), None, "{name}");
        }
    }

    #[test]
    fn outputs_and_statistics_are_those_of_torchvision() {
        let [evaluation, training, statistics] =
            compare(&Resnet50Config::default(), "resnet50", &chirp(&[2, 3, 64, 64]));
        assert!(evaluation < 1e-5, "{evaluation}");
        // Normalisation by 8 values a channel enlarges rounding: torchvision's own is 2e-5.
        assert!(training < 1e-4, "{training}");
        assert!(statistics < 1e-4, "{statistics}");
    }

    #[test]
    fn the_logits_of_frames_are_those_of_torchvision() {
        let (encoder, store) = build(&Resnet50Config::default(), &[3, 2, 40, 56]).unwrap();
        fill_by_chirp(&store);
        let found = feature(encoder.as_ref(), &chirp(&[2, 3, 2, 40, 56]));
        let error = difference(&found, &reference("cnn.safetensors")["resnet50.frames.eval"]);
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn logits_classify_the_pooled_feature() {
        // Initial values depend on seed and name alone: both networks have the same weights.
        let (logits, store) = build(&narrow(Resnet50Feature::Logits), &[3, 2, 32, 32]).unwrap();
        let (pooled, without) = build(&narrow(Resnet50Feature::Pooled), &[3, 2, 32, 32]).unwrap();
        assert_eq!((logits.width(), pooled.width()), (1000, 256));
        assert!(without.find("encoder.video.fc.weight").is_none());
        let x = wave(&[2, 3, 2, 32, 32]);
        let mean = feature(pooled.as_ref(), &x);
        assert_eq!(mean.size(), [2, 256]);
        let value = |name: &str| store.find(&format!("encoder.video.fc.{name}")).unwrap().1;
        let expected = mean.matmul(&value("weight").tr()) + value("bias");
        assert!(difference(&feature(logits.as_ref(), &x), &expected) < 1e-5);
    }

    #[test]
    fn files_with_a_classifier_are_taken_with_or_without_it() {
        let unused = |feature| narrow(feature).published().unused;
        assert!(unused(Resnet50Feature::Logits).is_empty());
        assert_eq!(unused(Resnet50Feature::Pooled), ["fc."]);
        let published = Resnet50Config::default().published();
        assert_eq!(published.first_layer, Some("conv1"));
    }

    #[test]
    fn normalisation_starts_as_the_plain_one_and_convolutions_with_the_published_spread() {
        let (_, store) = build(&narrow(Resnet50Feature::Pooled), &[3, 32, 32]).unwrap();
        let value = |name: &str| store.find(&format!("encoder.video.{name}")).unwrap().1;
        let scales = value("layer3.2.bn3.weight");
        assert_eq!(scales, &Tensor::ones([128], (Kind::Float, Device::Cpu)));
        // 36,864 draws: the deviation is known to 0.4 %.
        let found = value("layer4.1.conv2.weight").std(true).double_value(&[]);
        let expected = (2.0 / (64.0 * 9.0f64)).sqrt();
        assert!((found / expected - 1.0).abs() < 0.02, "{found} {expected}");
    }

    #[test]
    fn stages_have_the_published_sizes() {
        let (encoder, _) = build(&narrow(Resnet50Feature::Pooled), &[1, 2, 64, 40]).unwrap();
        let x = wave(&[2, 1, 2, 64, 40]);
        let sizes = [
            vec![4, 8, 16, 10],
            vec![4, 32, 16, 10],
            vec![4, 64, 8, 5],
            vec![4, 128, 4, 3],
            vec![2, 256],
        ];
        for (index, size) in sizes.into_iter().enumerate() {
            assert_eq!(encoder.channels(index), Some(size[1]));
            let found = run(encoder.as_ref(), index + 1, &x, Statistics::Running);
            assert_eq!(found.size(), size);
        }
    }

    #[test]
    fn layers_are_listed_in_forward_order_the_classifier_last() {
        let (encoder, _) = build(&narrow(Resnet50Feature::Logits), &[3, 32, 32]).unwrap();
        let names: Vec<String> =
            encoder.layers().iter().map(|layer| layer.local_name().to_owned()).collect();
        assert_eq!(names.len(), 1 + 3 * (3 + 4 + 6 + 3) + 4 + 1);
        assert_eq!(
            names[..6],
            [
                "conv1",
                "layer1.0.conv1",
                "layer1.0.conv2",
                "layer1.0.conv3",
                "layer1.0.downsample.0",
                "layer1.1.conv1",
            ]
        );
        assert_eq!(names[52..], ["layer4.2.conv3", "fc"]);
    }

    #[test]
    fn what_is_no_image_and_what_has_no_channels_is_refused() {
        let error = build(&Resnet50Config::default(), &[32, 32]).err().unwrap().to_string();
        assert!(error.contains("input of encoder `resnet50`"), "{error}");
        let none = Resnet50Config { base_channels: 0, ..Resnet50Config::default() };
        let error = none.validate().unwrap_err().to_string();
        assert!(error.starts_with("`base_channels` is 0"), "{error}");
    }
}
