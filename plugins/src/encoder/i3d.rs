//! The Inception network inflated to three dimensions, on clips.

use mie_core::prelude::*;

use super::util::{no_stage, value_shape};

/// Passes clips through the Inception network inflated to three dimensions (I3D).
///
/// ```text
/// unit_k/s(x) = max(0, bn(conv3d_k/s * x))
/// mixed(x)    = [ b0(x), b1b(b1a(x)), b2b(b2a(x)), b3b(maxpool_3/1(x)) ]    by channels
///
/// stage 0     Conv3d_1a_7x7 (64, k = 7, s = 2), maxpool_133/122,
///             Conv3d_2b_1x1 (64, k = 1), Conv3d_2c_3x3 (192, k = 3)
/// stage 1     maxpool_133/122, Mixed_3b (256), Mixed_3c (480)
/// stage 2     maxpool_3/2, Mixed_4b, Mixed_4c, Mixed_4d (512 each), Mixed_4e (528), Mixed_4f (832)
/// stage 3     maxpool_2/2, Mixed_5b (832), Mixed_5c (1024), mean
/// ```
///
/// `_k/s` is a kernel of `k x k x k` with stride s (1 where none is given), `_133/122` one of one
/// frame and 3 x 3 pixels with stride 1, 2, 2. Units `b1b` and `b2b` have `k = 3`, other branches
/// `k = 1`. Convolutions and maxima pad with zeros as each input needs, so that sizes are divided
/// by the stride and rounded up. Normalisation has epsilon 1e-3 and takes 0.01 of each batch into
/// its running statistics. The published network ends in a dropout and a classifier (`logits`),
/// which heads replace.
///
/// Starts as the published PyTorch version: convolutions uniform in `±1/sqrt(inputs * k^3)`,
/// normalisation as the plain one. Parameters have its names: 12,287,264 for 3 channels.
///
/// Shapes: `value` `[batch, channels, frames, height, width]` f32, with 3 channels for colour, 2
/// for optical flow, 1 for depth; the feature is `[batch, 1024]`. After the stages frames are
/// divided by 2, 2, 4 and 8 and pixels by 4, 8, 16 and 32.
///
/// Layers, for scopes of gradient modifiers: `Conv3d_1a_7x7.conv3d`, `Mixed_3b.b1a.conv3d` and so
/// on, in the order above. With a head 1024-256-64-25 the weights from the output backwards make up
/// these shares of a modality's 12,567,737 parameters, in percent:
///
/// ```text
/// fc3                   0.01    Mixed_5c.b1b.conv3d  20.55    Mixed_5b.b1b.conv3d  37.31
/// fc2                   0.14    Mixed_5c.b1a.conv3d  21.82    Mixed_5b.b1a.conv3d  38.36
/// fc1                   2.23    Mixed_5c.b0.conv3d   24.37    Mixed_5b.b0.conv3d   40.06
/// Mixed_5c.b3b.conv3d   3.08    Mixed_5b.b3b.conv3d  25.21    Mixed_4f.b3b.conv3d  40.60
/// Mixed_5c.b2b.conv3d   4.40    Mixed_5b.b2b.conv3d  26.09    Mixed_4f.b2b.conv3d  41.48
/// Mixed_5c.b2a.conv3d   4.71    Mixed_5b.b2a.conv3d  26.31    Mixed_4f.b2a.conv3d  41.61
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct I3dConfig {
    /// Which of the last maps make up the feature. Default `global`: all frames of a clip count.
    pub pool: ClipPool,
    /// Divides the channels of every layer, and so the feature's width; 1, 2, 4 or 8. Default 1,
    /// the published network; more make one for tests and small machines, which takes no published
    /// weights.
    pub width_divisor: i64,
}

/// Which of the last maps an inflated Inception network averages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClipPool {
    /// All of them, whatever the size of the clip.
    #[default]
    Global,
    /// The first 8 frames of 7 x 7, as in the released code of the flat-gradient method: of a clip
    /// of 80 frames, which leaves 10, the end is not seen. Needs 57 to 120 frames of 193 to 416
    /// pixels a side.
    Released,
}

impl Default for I3dConfig {
    fn default() -> Self {
        Self { pool: ClipPool::default(), width_divisor: 1 }
    }
}

#[typetag::serde(name = "i3d")]
impl EncoderConfig for I3dConfig {
    fn validate(&self) -> Result<()> {
        let divides = [1, 2, 4, 8].contains(&self.width_divisor);
        ensure_range("width_divisor", "1, 2, 4 or 8", self.width_divisor, divides)
    }

    fn small(&self) -> Option<Box<dyn EncoderConfig>> {
        Some(Box::new(Self { width_divisor: 8, ..self.clone() }))
    }

    fn example_input(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[3, 8, 32, 32])
    }

    fn published(&self) -> Published {
        Published {
            prefixes: &["module.", "model."],
            unused: &["logits."],
            renames: &[],
            first_layer: Some("Conv3d_1a_7x7.conv3d"),
        }
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        let expected = "[channels, frames, height, width]";
        let shape = value_shape("i3d", inputs, expected, |rank| rank == 4)?;
        self.pool.ensure_takes(&shape[1..])?;
        let mut width = shape[0];
        let mut stages = Vec::new();
        for parts in STAGES {
            let mut steps = Vec::new();
            for part in parts {
                let (step, outputs) = self.step(part, width, at)?;
                steps.push(step);
                width = outputs;
            }
            stages.push(Stage { steps, width });
        }
        Ok(Box::new(I3d { stages, width, pool: self.pool }))
    }
}
register!(
    encoder::<I3dConfig>,
    source = "Carreira and Zisserman 2017, arXiv:1705.07750; Szegedy et al. 2015, arXiv:1409.4842"
);

impl I3dConfig {
    /// Creates a part, and says how many channels it leaves.
    fn step(&self, part: &Part, inputs: i64, at: &Builder<'_>) -> Result<(Step, i64)> {
        match *part {
            Part::Max(pool) => Ok((Step::Max(pool), inputs)),
            Part::Unit(name, outputs, kernel, stride) => {
                let outputs = outputs / self.width_divisor;
                Ok((Step::unit(&at.sub(name), inputs, outputs, kernel, stride)?, outputs))
            }
            Part::Mixed(name, outputs) => {
                let at = at.sub(name);
                let unit = |name: &str, inputs, outputs, kernel| {
                    Step::unit(&at.sub(name), inputs, outputs, kernel, 1)
                };
                let [b0, b1a, b1b, b2a, b2b, b3b] = outputs.map(|n| n / self.width_divisor);
                let branches = [
                    vec![unit("b0", inputs, b0, 1)?],
                    vec![unit("b1a", inputs, b1a, 1)?, unit("b1b", b1a, b1b, 3)?],
                    vec![unit("b2a", inputs, b2a, 1)?, unit("b2b", b2a, b2b, 3)?],
                    vec![
                        Step::Max(MaxPool { kernel: [3; 3], stride: [1; 3] }),
                        unit("b3b", inputs, b3b, 1)?,
                    ],
                ];
                Ok((Step::Mixed(branches), b0 + b1b + b2b + b3b))
            }
        }
    }
}

impl ClipPool {
    /// Refuses clips of `[frames, height, width]` whose last maps have another size than the
    /// released code can average.
    fn ensure_takes(self, clip: &[i64]) -> Result<()> {
        let maps: Vec<i64> =
            clip.iter().zip([8, 32, 32]).map(|(size, by)| (size - 1) / by + 1).collect();
        let fits = maps.iter().zip(RELEASED).all(|(size, first)| (first..2 * first).contains(size));
        if fits || self == Self::Global {
            return Ok(());
        }
        Err(Error::refused(
            format!(
                "`pool` is \"released\", which averages the first {RELEASED:?} of the last maps, \
                 and clips of {clip:?} leave {maps:?}"
            ),
            "give it clips of 57 to 120 frames and 193 to 416 pixels a side, or set pool = \
             \"global\"",
        ))
    }

    /// Averages `[batch, channels, frames, height, width]` to `[batch, channels]`.
    fn average(self, maps: &Tensor) -> Result<Tensor> {
        let mut maps = maps.shallow_clone();
        if self == Self::Released {
            for (axis, first) in (2..).zip(RELEASED) {
                maps = maps.f_narrow(axis, 0, first)?;
            }
        }
        global_average_pool(&maps)
    }
}

/// Frames, height and width of the one field that the released code's last average has.
const RELEASED: [i64; 3] = [8, 7, 7];

/// A part of the published network, before channels are divided.
enum Part {
    /// Name, outputs, size of the kernel and stride on each axis.
    Unit(&'static str, i64, i64, i64),
    Max(MaxPool),
    /// Name and outputs of the branches `b0`, `b1a`, `b1b`, `b2a`, `b2b` and `b3b`.
    Mixed(&'static str, [i64; 6]),
}

/// Halves pixels and leaves frames.
const MAX_OF_PIXELS: Part = Part::Max(MaxPool { kernel: [1, 3, 3], stride: [1, 2, 2] });

const STAGES: [&[Part]; 4] = [
    &[
        Part::Unit("Conv3d_1a_7x7", 64, 7, 2),
        MAX_OF_PIXELS,
        Part::Unit("Conv3d_2b_1x1", 64, 1, 1),
        Part::Unit("Conv3d_2c_3x3", 192, 3, 1),
    ],
    &[
        MAX_OF_PIXELS,
        Part::Mixed("Mixed_3b", [64, 96, 128, 16, 32, 32]),
        Part::Mixed("Mixed_3c", [128, 128, 192, 32, 96, 64]),
    ],
    &[
        Part::Max(MaxPool { kernel: [3; 3], stride: [2; 3] }),
        Part::Mixed("Mixed_4b", [192, 96, 208, 16, 48, 64]),
        Part::Mixed("Mixed_4c", [160, 112, 224, 24, 64, 64]),
        Part::Mixed("Mixed_4d", [128, 128, 256, 24, 64, 64]),
        Part::Mixed("Mixed_4e", [112, 144, 288, 32, 64, 64]),
        Part::Mixed("Mixed_4f", [256, 160, 320, 32, 128, 128]),
    ],
    &[
        Part::Max(MaxPool { kernel: [2; 3], stride: [2; 3] }),
        Part::Mixed("Mixed_5b", [256, 160, 320, 32, 128, 128]),
        Part::Mixed("Mixed_5c", [384, 192, 384, 48, 128, 128]),
    ],
];

/// Maximum over fields of zero-padded maps.
#[derive(Clone, Copy)]
struct MaxPool {
    kernel: [i64; 3],
    stride: [i64; 3],
}

impl MaxPool {
    /// The zeros take part in the maximum, as published; maps that were rectified have none below.
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        let x = Conv3d::pad_same(x, self.kernel, self.stride)?;
        Ok(x.f_max_pool3d(self.kernel, self.stride, [0i64; 3], [1i64; 3], false)?)
    }
}

/// A convolution, its normalisation and a rectifier.
struct Unit {
    conv: Conv3d,
    norm: BatchNorm,
}

impl Unit {
    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = self.conv.forward(x, pass)?;
        Ok(self.norm.forward(&x, pass)?.f_relu_()?)
    }
}

/// A part as it runs.
enum Step {
    Unit(Box<Unit>),
    Max(MaxPool),
    /// Branches side by side, joined by channels.
    Mixed([Vec<Step>; 4]),
}

impl Step {
    fn unit(at: &Builder<'_>, inputs: i64, outputs: i64, kernel: i64, stride: i64) -> Result<Self> {
        let shape = Conv3dShape { inputs, outputs, kernel: [kernel; 3], stride: [stride; 3] };
        let scale = Initial::Constant(1.0);
        Ok(Self::Unit(Box::new(Unit {
            conv: Conv3d::new(&at.sub("conv3d"), shape)?,
            norm: BatchNorm::with(&at.sub("bn"), outputs, scale, 0.01, 1e-3)?,
        })))
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        match self {
            Self::Unit(unit) => unit.forward(x, pass),
            Self::Max(pool) => pool.forward(x),
            Self::Mixed(branches) => {
                let mut maps = Vec::with_capacity(branches.len());
                for steps in branches {
                    maps.push(chain(steps, x, pass)?);
                }
                Ok(Tensor::f_cat(&maps, 1)?)
            }
        }
    }

    /// Layers in forward order.
    fn layers(&self) -> Vec<Layer> {
        match self {
            Self::Unit(unit) => vec![unit.conv.layer().clone()],
            Self::Max(_) => Vec::new(),
            Self::Mixed(branches) => branches.iter().flatten().flat_map(Self::layers).collect(),
        }
    }
}

/// Runs one step after the other.
fn chain(steps: &[Step], x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
    let mut x = x.shallow_clone();
    for step in steps {
        x = step.forward(&x, pass)?;
    }
    Ok(x)
}

struct Stage {
    steps: Vec<Step>,
    width: i64,
}

struct I3d {
    stages: Vec<Stage>,
    width: i64,
    pool: ClipPool,
}

impl Encoder for I3d {
    fn stages(&self) -> usize {
        self.stages.len()
    }

    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let stage = self.stages.get(index).ok_or_else(|| no_stage("i3d", index))?;
        let maps = chain(&stage.steps, x.value()?, pass)?;
        let last = index + 1 == self.stages.len();
        Ok(Named::value_of(if last { self.pool.average(&maps)? } else { maps }))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn channels(&self, index: usize) -> Option<i64> {
        self.stages.get(index).map(|stage| stage.width)
    }

    fn layers(&self) -> Vec<Layer> {
        self.stages.iter().flat_map(|stage| &stage.steps).flat_map(Step::layers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{build, chirp, compare, feature, run, wave};
    use super::*;

    fn narrow() -> I3dConfig {
        I3dConfig { width_divisor: 8, ..I3dConfig::default() }
    }

    #[test]
    fn it_has_the_published_number_of_parameters_and_names() {
        let (encoder, store) = build(&I3dConfig::default(), &[3, 8, 32, 32]).unwrap();
        // 12,697,264 with a classifier of 400 classes, less 1025 * 400.
        assert_eq!(store.size(&GroupId::Encoder("video".to_owned())), 12_287_264);
        assert_eq!((encoder.stages(), encoder.width()), (4, 1024));
        let size = |name: &str| Some(store.find(&format!("encoder.video.{name}"))?.1.size());
        for (name, expected) in [
            ("Conv3d_1a_7x7.conv3d.weight", vec![64, 3, 7, 7, 7]),
            ("Conv3d_1a_7x7.bn.weight", vec![64]),
            ("Conv3d_2b_1x1.conv3d.weight", vec![64, 64, 1, 1, 1]),
            ("Conv3d_2c_3x3.bn.bias", vec![192]),
            ("Mixed_3b.b0.conv3d.weight", vec![64, 192, 1, 1, 1]),
            ("Mixed_3c.b2b.conv3d.weight", vec![96, 32, 3, 3, 3]),
            ("Mixed_4e.b1b.conv3d.weight", vec![288, 144, 3, 3, 3]),
            ("Mixed_4f.b3b.conv3d.weight", vec![128, 528, 1, 1, 1]),
            ("Mixed_5c.b1b.conv3d.weight", vec![384, 192, 3, 3, 3]),
        ] {
            assert_eq!(size(name), Some(expected), "{name}");
        }
        for name in ["Conv3d_1a_7x7.conv3d.bias", "logits.conv3d_1x1.weight"] {
            assert_eq!(size(name), None, "{name}");
        }
        let names: Vec<String> =
            encoder.layers().iter().map(|layer| layer.local_name().to_owned()).collect();
        assert_eq!(names.len(), 3 + 9 * 6);
        assert_eq!(
            names[..4],
            [
                "Conv3d_1a_7x7.conv3d",
                "Conv3d_2b_1x1.conv3d",
                "Conv3d_2c_3x3.conv3d",
                "Mixed_3b.b0.conv3d",
            ]
        );
        assert_eq!(
            names[51..],
            ["b0", "b1a", "b1b", "b2a", "b2b", "b3b"].map(|unit| format!("Mixed_5c.{unit}.conv3d"))
        );
        let kind = LayerKind::Conv3d { kernel: [7; 3], stride: [2; 3] };
        assert_eq!(encoder.layers()[0].kind, kind);
    }

    #[test]
    fn outputs_and_statistics_are_those_of_another_implementation() {
        let [evaluation, training, statistics] =
            compare(&I3dConfig::default(), "i3d", &chirp(&[2, 3, 9, 72, 88]));
        assert!(evaluation < 1e-5, "{evaluation}");
        // 57 normalisations enlarge rounding: PyTorch's own is 7e-5.
        assert!(training < 5e-4, "{training}");
        assert!(statistics < 1e-4, "{statistics}");
    }

    #[test]
    fn stages_divide_sizes_and_round_up() {
        let (encoder, _) = build(&narrow(), &[2, 17, 50, 70]).unwrap();
        let x = wave(&[2, 2, 17, 50, 70]);
        let sizes =
            [vec![2, 24, 9, 13, 18], vec![2, 60, 9, 7, 9], vec![2, 104, 5, 4, 5], vec![2, 128]];
        for (index, size) in sizes.into_iter().enumerate() {
            assert_eq!(encoder.channels(index), Some(size[1]));
            let found = run(encoder.as_ref(), index + 1, &x, Statistics::Running);
            assert_eq!(found.size(), size);
        }
        assert_eq!(encoder.channels(4), None);
    }

    #[test]
    fn padding_takes_part_in_a_maximum() {
        let x = Tensor::full([1, 1, 1, 1, 4], -2.0, (Kind::Float, Device::Cpu));
        let pool = MaxPool { kernel: [1, 1, 3], stride: [1, 1, 2] };
        // Fields are (-2, -2, -2) and (-2, -2, 0).
        let found = pool.forward(&x).unwrap();
        assert_eq!(Vec::<f32>::try_from(found.flatten(0, -1)).unwrap(), [-2.0, 0.0]);
    }

    #[test]
    fn the_released_average_sees_the_first_eight_frames_of_seven_by_seven() {
        let range = |count: i64| Tensor::arange(count, (Kind::Float, Device::Cpu));
        let maps = range(10).view([10, 1, 1]) + range(8).view([8, 1]) * 10.0 + range(9) * 100.0;
        let maps = maps.view([1, 1, 10, 8, 9]);
        let mean = |pool: ClipPool| pool.average(&maps).unwrap().double_value(&[0, 0]);
        assert!((mean(ClipPool::Global) - (4.5 + 35.0 + 400.0)).abs() < 1e-3);
        assert!((mean(ClipPool::Released) - (3.5 + 30.0 + 300.0)).abs() < 1e-3);
    }

    #[test]
    fn the_released_average_refuses_clips_that_it_cannot_make_one_feature_of() {
        let config = I3dConfig { pool: ClipPool::Released, ..narrow() };
        for clip in [[57, 193, 193], [80, 224, 224], [120, 416, 416]] {
            assert!(build(&config, &[1, clip[0], clip[1], clip[2]]).is_ok(), "{clip:?}");
        }
        for clip in [[56, 224, 224], [64, 192, 224], [121, 224, 224], [64, 224, 417]] {
            let shape = [1, clip[0], clip[1], clip[2]];
            let error = build(&config, &shape).err().unwrap().to_string();
            assert!(error.contains("57 to 120 frames"), "{error}");
            assert!(error.contains(&format!("{clip:?}")), "{error}");
            assert!(build(&narrow(), &shape).is_ok());
        }
    }

    #[test]
    fn the_gradient_reaches_the_first_convolution_for_any_number_of_channels() {
        for channels in [1, 2, 3] {
            let (encoder, store) = build(&narrow(), &[channels, 8, 32, 32]).unwrap();
            let x = wave(&[4, channels, 8, 32, 32]);
            let found = run(encoder.as_ref(), 4, &x, Statistics::Update);
            assert_eq!(found.size(), [4, 128]);
            let first = store.find("encoder.video.Conv3d_1a_7x7.conv3d.weight").unwrap().1;
            let loss = found.square().sum(Kind::Float);
            let gradients = Tensor::run_backward(&[loss], &[first], false, false);
            let norm = gradients[0].norm().double_value(&[]);
            assert!(norm.is_finite() && norm > 0.0, "{norm}");
        }
    }

    #[test]
    fn samples_do_not_meet_in_evaluation() {
        let (encoder, _) = build(&narrow(), &[1, 5, 33, 33]).unwrap();
        let x = wave(&[2, 1, 5, 33, 33]);
        let both = feature(encoder.as_ref(), &x);
        let one = feature(encoder.as_ref(), &x.narrow(0, 1, 1));
        assert!(both.narrow(0, 1, 1).allclose(&one, 1e-4, 1e-6, false));
    }

    #[test]
    fn pictures_and_odd_divisors_are_refused_with_what_is_wanted() {
        let error = build(&narrow(), &[3, 32, 32]).err().unwrap().to_string();
        assert!(error.contains("input of encoder `i3d`"), "{error}");
        assert!(error.contains("[channels, frames, height, width]"), "{error}");
        for width_divisor in [0, 3, 16, -2] {
            let config = I3dConfig { width_divisor, ..I3dConfig::default() };
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`width_divisor` is {width_divisor}")), "{error}");
        }
    }
}
