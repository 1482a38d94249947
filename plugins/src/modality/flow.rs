//! Clips of optical flow, from pictures or arrays.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;

use super::util::wrong_kind;
use super::video::{self, Evaluation, Sampling, Short, Training};
use crate::formats::npy;

/// Cuts a window in time and a square from the optical flow of a video.
///
/// Channel 0 is the displacement to the right, channel 1 that downwards, in pixels from a frame to
/// the next. Several files are 8-bit grey pictures, those of channel 0 in order and then as many
/// of channel 1. With `byte` their values and `b` = `bound_pixels`:
///
/// ```text
/// pixels   = 2 b byte / 255 - b, of pictures; as they are, of an array
/// unit     value = factor pixels / b, cut to [-1, 1]
/// pixels   value = factor pixels
/// ```
///
/// `factor` is that of the channel in `factors`. Stills lie between the bytes 127 and 128, so they
/// are `b / 255` from 0 at least. One file is an array in the format of `NumPy` (`.npy`) with
/// its dimensions in `order`, as the released code of MIE has them; it takes the values as they
/// are: `scale = "pixels"`. I3D's weights were learnt with `unit`.
///
/// Frames are stretched, windows and squares chosen and drawn as by `clip`: with equal options
/// both see the same place at the same time, as far as the lengths of their clips allow.
/// Stretching leaves the values alone. A mirrored clip has the opposite displacements to the right.
/// The released code takes all frames of the flow while it cuts 64 of 80 from the other
/// modalities, and its pooling sees the first 64 of them: `training = "start"`,
/// `evaluation = "start"`. By default flow gets the window of the others.
///
/// Shapes: `value` `[2, frames, crop_pixels, crop_pixels]` f32, `[2, 64, 224, 224]` by default.
/// Resized frames are kept in the cache, all of a clip: 10 MB for 80 of pictures, 42 MB for 80 of
/// an array, whose numbers have 32 bits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// Frames of a clip, from 1 to 4096. Default 64, as the released code trains on.
    pub frames: usize,
    /// Distance between frames, from 1 to 4096 frames of the video. Default 1, each.
    pub every: usize,
    /// What a clip with too few frames goes on with. Default `repeat`, as I3D was trained.
    pub short: Short,
    /// Where the window begins in training. Default `drawn`.
    pub training: Training,
    /// Which frames are taken in evaluation. Default `centre`.
    pub evaluation: Evaluation,
    /// Side to which frames are stretched, in pixels, from 1 to 4096. Default 256, that of the
    /// released code.
    pub resize_pixels: usize,
    /// Side of the square, in pixels, from 1 to `resize_pixels`. Default 224, that of I3D.
    pub crop_pixels: usize,
    /// Displacement `b` of the bytes 0 and 255 of pictures and of -1 and 1 in `unit`, in pixels,
    /// above 0. Default 20, that of I3D.
    pub bound_pixels: f64,
    /// Scale of the values. Default `unit`, that of I3D.
    pub scale: Scale,
    /// What displacements to the right and downwards are multiplied by, finite. Default `[1, 1]`;
    /// `[1.6, 2.1333]` would make displacements in frames of 160 x 120 pixels those in frames of
    /// 256 x 256.
    pub factors: [f64; 2],
    /// Order of the dimensions of an array. Default `height_width_channel_time`, that of the
    /// released code.
    pub order: Order,
    /// Probability that a training clip is mirrored, in `[0, 1]`. Default 0: it would make another
    /// class of some gestures.
    pub flip_probability: f64,
}

/// Scale of displacements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Parts of `bound_pixels`, cut to `[-1, 1]`.
    Unit,
    /// Pixels, uncut.
    Pixels,
}

/// Order of the dimensions of an array of flow, the slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// `[height, width, 2, frames]`.
    HeightWidthChannelTime,
    /// `[frames, 2, height, width]`.
    TimeChannelHeightWidth,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            frames: 64,
            every: 1,
            short: Short::Repeat,
            training: Training::Drawn,
            evaluation: Evaluation::Centre,
            resize_pixels: 256,
            crop_pixels: 224,
            bound_pixels: 20.0,
            scale: Scale::Unit,
            factors: [1.0, 1.0],
            order: Order::HeightWidthChannelTime,
            flip_probability: 0.0,
        }
    }
}

impl FlowConfig {
    fn sampling(&self) -> Sampling {
        Sampling {
            frames: self.frames,
            every: self.every,
            short: self.short,
            training: self.training,
            evaluation: self.evaluation,
            resize_pixels: self.resize_pixels,
            crop_pixels: self.crop_pixels,
            flip_probability: self.flip_probability,
        }
    }
}

#[typetag::serde(name = "flow")]
impl ModalityConfig for FlowConfig {
    fn validate(&self) -> Result<()> {
        self.sampling().validate(CHANNELS)?;
        let bound = self.bound_pixels;
        let usable = bound > 0.0 && bound.is_finite();
        ensure_range("bound_pixels", "(0, inf)", bound, usable)?;
        for factor in self.factors {
            ensure_range("factors", "finite numbers", factor, factor.is_finite())?;
        }
        Ok(())
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        Ok(Box::new(Flow { config: self.clone(), sampling: self.sampling() }))
    }

    fn mirrors(&self) -> Option<&'static str> {
        (self.flip_probability > 0.0).then_some("flip_probability")
    }
}
register!(
    modality::<FlowConfig>,
    source = "Carreira and Zisserman 2017 (I3D); https://github.com/njustkmg/IJCAI25-IGM"
);

/// To the right, and downwards.
const CHANNELS: usize = 2;

struct Flow {
    config: FlowConfig,
    sampling: Sampling,
}

/// The pictures of a clip, for each frame one of either channel.
struct Pictures<'a> {
    right: &'a [PathBuf],
    down: &'a [PathBuf],
}

impl<'a> Pictures<'a> {
    fn of(files: &'a [PathBuf]) -> Result<Self> {
        if files.is_empty() || !files.len().is_multiple_of(CHANNELS) {
            return Err(Error::refused(
                format!("a clip for modality `flow` has {} pictures", files.len()),
                "bring one of the flow to the right and one of that downwards for each frame, or \
                 leave the sample out",
            ));
        }
        let (right, down) = files.split_at(files.len() / CHANNELS);
        Ok(Self { right, down })
    }

    /// A frame, `[side, side, 2]`.
    fn frame(&self, place: usize, side: usize) -> Result<Vec<u8>> {
        let right = video::grey(&self.right[place], side)?;
        let down = video::grey(&self.down[place], side)?;
        Ok(right.into_iter().zip(down).flat_map(<[u8; CHANNELS]>::from).collect())
    }
}

/// The flow of a clip in an array.
struct Stored {
    array: npy::Array,
    order: Order,
    /// Frames, height and width, none of them 0.
    sizes: [usize; 3],
}

impl Stored {
    fn read(file: &Path, order: Order) -> Result<Self> {
        let array = npy::read(file)?;
        let (sizes, expected) = match (order, array.shape.as_slice()) {
            (Order::HeightWidthChannelTime, &[height, width, CHANNELS, frames])
            | (Order::TimeChannelHeightWidth, &[frames, CHANNELS, height, width]) => {
                ([frames, height, width], "no dimension of 0")
            }
            (Order::HeightWidthChannelTime, _) => ([0; 3], "[height, width, 2, frames]"),
            (Order::TimeChannelHeightWidth, _) => ([0; 3], "[frames, 2, height, width]"),
        };
        if sizes.contains(&0) {
            let problem = format!("has shape {:?}, expected {expected} (`order`)", array.shape);
            return Err(Error::data(file, problem));
        }
        Ok(Self { array, order, sizes })
    }

    /// A frame, `[side, side, 2]`.
    fn frame(&self, place: usize, side: usize) -> Vec<f32> {
        let [frames, height, width] = self.sizes;
        let mut values = Vec::with_capacity(height * width * CHANNELS);
        for pixel in 0..height * width {
            for channel in 0..CHANNELS {
                let at = match self.order {
                    Order::HeightWidthChannelTime => (pixel * CHANNELS + channel) * frames + place,
                    Order::TimeChannelHeightWidth => {
                        (place * CHANNELS + channel) * height * width + pixel
                    }
                };
                values.push(self.array.values[at]);
            }
        }
        video::resize(values, [height, width], CHANNELS, side)
    }
}

/// A displacement as it is stored.
trait Displacement: Copy {
    /// Makes it a displacement in pixels, where the largest byte is one of `bound` pixels.
    fn pixels(self, bound: f64) -> f64;
}

impl Displacement for u8 {
    fn pixels(self, bound: f64) -> f64 {
        2.0 * bound * f64::from(self) / 255.0 - bound
    }
}

impl Displacement for f32 {
    fn pixels(self, _bound: f64) -> f64 {
        f64::from(self)
    }
}

impl Flow {
    /// Writes what is seen of `count` frames into `out`; `frame` gives each.
    fn show<'a, P: Displacement + 'a>(
        &self,
        frame: impl FnMut(usize) -> Result<Cow<'a, [P]>>,
        count: usize,
        (mode, draw): (Mode, &Draw<'_>),
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let bound = self.config.bound_pixels;
        let view = self.sampling.view(count, mode, draw);
        let mut factors = self.config.factors;
        if view.flipped {
            factors[0] = -factors[0];
        }
        let values = [0, 1].map(|channel| {
            let factor = factors[channel];
            move |stored: &[P; CHANNELS]| {
                let pixels = factor * stored[channel].pixels(bound);
                let scaled = match self.config.scale {
                    Scale::Unit => (pixels / bound).clamp(-1.0, 1.0),
                    Scale::Pixels => pixels,
                };
                scaled as f32
            }
        });
        self.sampling.fill(&view, out.f32_to_overwrite(0)?, frame, &values)
    }
}

impl Modality for Flow {
    fn layout(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&self.sampling.shape(CHANNELS))
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let side = self.sampling.resize_pixels;
        match raw {
            Raw::Files(files) => {
                let pictures = Pictures::of(files)?;
                let count = pictures.right.len();
                let frame = |place: usize| -> Result<Cow<'_, [u8]>> {
                    pictures.frame(place, side).map(Cow::Owned)
                };
                self.show(frame, count, (mode, draw), out)
            }
            Raw::File(file) => {
                let stored = Stored::read(file, self.config.order)?;
                let count = stored.sizes[0];
                let frame = |place: usize| -> Result<Cow<'_, [f32]>> {
                    Ok(Cow::Owned(stored.frame(place, side)))
                };
                self.show(frame, count, (mode, draw), out)
            }
            _ => Err(wrong_kind("flow", "pictures or an array", raw)),
        }
    }

    fn cacheable(&self) -> Option<&dyn Decode> {
        Some(self)
    }
}

impl Decode for Flow {
    fn recipe(&self, _mode: Mode) -> String {
        format!("flow 1, {:?}, {} pixels", self.config.order, self.sampling.resize_pixels)
    }

    fn decode(&self, raw: &Raw<'_>, _mode: Mode) -> Result<Decoded> {
        let side = self.sampling.resize_pixels;
        match raw {
            Raw::Files(files) => {
                let pictures = Pictures::of(files)?;
                let count = pictures.right.len();
                let shape = self.sampling.decoded_shape(count, CHANNELS)?;
                let mut values = Vec::new();
                for place in 0..count {
                    values.extend(pictures.frame(place, side)?);
                }
                Ok(Decoded { shape, values: Values::U8(values) })
            }
            Raw::File(file) => {
                let stored = Stored::read(file, self.config.order)?;
                let count = stored.sizes[0];
                let shape = self.sampling.decoded_shape(count, CHANNELS)?;
                let values = (0..count).flat_map(|place| stored.frame(place, side)).collect();
                Ok(Decoded { shape, values: Values::F32(values) })
            }
            _ => Err(wrong_kind("flow", "pictures or an array", raw)),
        }
    }

    fn finish(
        &self,
        decoded: DecodedView<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let count = self.sampling.decoded_frames(decoded.shape, CHANNELS)?;
        let size = self.sampling.resize_pixels.pow(2) * CHANNELS;
        match decoded.values {
            ValuesView::U8(values) => {
                self.show(|place| part(values, place, size), count, (mode, draw), out)
            }
            ValuesView::F32(values) => {
                self.show(|place| part(values, place, size), count, (mode, draw), out)
            }
        }
    }
}

/// The part of so many values at a place.
fn part<P: Copy>(values: &[P], place: usize, size: usize) -> Result<Cow<'_, [P]>> {
    let found = values.get(place * size..(place + 1) * size);
    found.map(Cow::Borrowed).ok_or_else(|| Error::Bug("a decoded clip is too short".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::clip::{Channels, ClipConfig, Normalisation};
    use super::super::util::{decode, draw};
    use super::super::video::fixture;
    use super::*;
    use crate::formats::real_data;

    /// Two frames of 2 x 2 pixels from frames of 4 x 4, in pixels.
    fn small() -> FlowConfig {
        FlowConfig {
            frames: 2,
            resize_pixels: 4,
            crop_pixels: 2,
            scale: Scale::Pixels,
            ..FlowConfig::default()
        }
    }

    /// One frame of one pixel.
    fn single() -> FlowConfig {
        FlowConfig { frames: 1, resize_pixels: 1, crop_pixels: 1, ..small() }
    }

    fn close(found: &[f32], expected: &[f32]) -> bool {
        found.len() == expected.len()
            && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4)
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn shown(config: &FlowConfig, raw: &Raw<'_>, mode: Mode, epoch: u64) -> Vec<f32> {
        decode(config, raw, mode, &draw(epoch, 0)).unwrap()
    }

    /// Stores an array of 32-bit numbers.
    fn array(file: &Path, shape: &[usize], values: &[f32]) -> Raw<'static> {
        std::fs::write(file, npy::fixture::floats(shape, values)).unwrap();
        Raw::File(file.to_owned())
    }

    /// The arrays of both orders with `value(frame, channel, pixel)`.
    fn arrays(
        folder: &Path,
        [frames, height, width]: [usize; 3],
        value: impl Fn(usize, usize, usize) -> f32,
    ) -> [(Order, Raw<'static>); 2] {
        let (mut late, mut early) = (Vec::new(), Vec::new());
        for pixel in 0..height * width {
            for channel in 0..2 {
                late.extend((0..frames).map(|frame| value(frame, channel, pixel)));
            }
        }
        for frame in 0..frames {
            for channel in 0..2 {
                early.extend((0..height * width).map(|pixel| value(frame, channel, pixel)));
            }
        }
        let late = array(&folder.join("late.npy"), &[height, width, 2, frames], &late);
        let early = array(&folder.join("early.npy"), &[frames, 2, height, width], &early);
        [(Order::HeightWidthChannelTime, late), (Order::TimeChannelHeightWidth, early)]
    }

    #[test]
    fn mirroring_is_declared_where_it_is_switched_on() {
        let config = |flip_probability| FlowConfig { flip_probability, ..FlowConfig::default() };
        assert_eq!(config(0.25).mirrors(), Some("flip_probability"));
        assert_eq!(config(0.0).mirrors(), None);
    }

    #[test]
    fn bytes_become_displacements() {
        let folder = tempfile::tempdir().unwrap();
        let value = |config: &FlowConfig, right: u8, down: u8| {
            let files = [("x.pnm", right), ("y.pnm", down)].map(|(name, byte)| {
                let file = folder.path().join(name);
                fixture::stored(&file, [1, 1], &[byte]);
                file
            });
            shown(config, &Raw::Files(files.to_vec()), Mode::Evaluation, 0)
        };
        assert!(close(&value(&single(), 0, 255), &[-20.0, 20.0]));
        // 40 * 128 / 255 - 20, and 5 pixels are round(5 * 127.5 / 20 + 127.5) = 159.
        assert!(close(&value(&single(), 128, 159), &[0.078_431, 4.941_176]));
        let unit = FlowConfig { scale: Scale::Unit, ..single() };
        assert!(close(&value(&unit, 0, 159), &[-1.0, 0.247_059]));
        // Twice the displacement is cut.
        let twice = FlowConfig { factors: [2.0, -0.5], ..unit.clone() };
        assert!(close(&value(&twice, 0, 255), &[-1.0, -0.5]));
        // The bound of the bytes is that of the unit.
        let bound = FlowConfig { bound_pixels: 8.0, ..unit };
        assert!(close(&value(&bound, 0, 159), &[-1.0, 0.247_059]));
    }

    #[test]
    fn arrays_of_either_order_hold_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let value = |frame: usize, channel: usize, pixel: usize| {
            (100 * frame + 50 * channel + pixel) as f32 - 25.0
        };
        for (order, raw) in arrays(folder.path(), [3, 2, 2], value) {
            let config = FlowConfig { order, resize_pixels: 2, ..small() };
            let found = shown(&config, &raw, Mode::Evaluation, 0);
            // Frames 0 and 1 of three.
            let frame = |start: f32| [start, start + 1.0, start + 2.0, start + 3.0];
            assert!(close(&found, &[-25.0, 75.0, 25.0, 125.0].map(frame).concat()), "{order:?}");
            let unit = FlowConfig { scale: Scale::Unit, bound_pixels: 50.0, ..config };
            let found = shown(&unit, &raw, Mode::Evaluation, 0);
            assert!(close(&found[..4], &[-0.5, -0.48, -0.46, -0.44]), "{order:?}");
            assert!(close(&found[12..], &[1.0; 4]), "{order:?}");
        }
    }

    #[test]
    fn flow_and_pictures_see_the_same_place_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let files = fixture::clip(folder.path(), [5, 7], 6);
        let raw = Raw::Files(files.clone());
        let double = Raw::Files([files.clone(), files].concat());
        // A byte is a pixel: what the flow has is the byte less 127.5.
        let flow = FlowConfig { bound_pixels: 127.5, flip_probability: 0.5, ..small() };
        let clip = ClipConfig {
            channels: Channels::Grey,
            normalise: Normalisation::Scale,
            frames: 2,
            resize_pixels: 4,
            crop_pixels: 2,
            flip_probability: 0.5,
            ..ClipConfig::default()
        };
        let mut mirrored = 0;
        for epoch in 0..32 {
            let pictures = decode(&clip, &raw, Mode::Training, &draw(epoch, 0)).unwrap();
            let expected: Vec<f32> = pictures.iter().map(|value| value * 255.0 - 127.5).collect();
            let at = Draw { modality: "flow", ..draw(epoch, 0) };
            let found = decode(&flow, &double, Mode::Training, &at).unwrap();
            assert!(close(&found[8..], &expected), "epoch {epoch}");
            // A mirrored clip has the opposite displacements to the right.
            let opposite: Vec<f32> = expected.iter().map(|value| -value).collect();
            let is_mirrored = close(&found[..8], &opposite);
            assert!(is_mirrored || close(&found[..8], &expected), "epoch {epoch}");
            mirrored += usize::from(is_mirrored);
        }
        // All or none of 32 with probability 2^-31, and the seed is fixed.
        assert!((1..32).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn both_halves_together_are_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let value = |frame: usize, channel: usize, pixel: usize| {
            ((frame * 37 + channel * 17 + pixel * pixel * 5) % 41) as f32 - 20.0
        };
        let [_, (order, stored)] = arrays(folder.path(), [4, 3, 7], value);
        let pictures = Raw::Files(fixture::clip(folder.path(), [3, 8], 8));
        for raw in [stored, pictures] {
            for frames in [1, 3, 9] {
                let config = FlowConfig { frames, order, flip_probability: 0.5, ..small() };
                let modality = config.build().unwrap();
                let halves = modality.cacheable().unwrap();
                for (epoch, mode) in
                    [(0, Mode::Training), (1, Mode::Training), (1, Mode::Evaluation)]
                {
                    let decoded = halves.decode(&raw, mode).unwrap();
                    assert_eq!(decoded.shape, [4, 4, 4, 2]);
                    let mut values = vec![f32::NAN; modality.layout()[0].len()];
                    let mut out = SampleBuffers::new(vec![Buffer::F32(&mut values)]);
                    halves.finish(decoded.view(), mode, &draw(epoch, 0), &mut out).unwrap();
                    assert_eq!(bits(&values), bits(&shown(&config, &raw, mode, epoch)));
                }
            }
        }
    }

    #[test]
    fn evaluation_is_the_same_in_every_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let raw = Raw::Files(fixture::clip(folder.path(), [6, 5], 10));
        let found = |epoch, mode| bits(&shown(&small(), &raw, mode, epoch));
        assert_eq!(found(0, Mode::Evaluation), found(5, Mode::Evaluation));
        assert_eq!(found(2, Mode::Training), found(2, Mode::Training));
        assert!((0..8).any(|epoch| found(epoch, Mode::Training) != found(0, Mode::Evaluation)));
    }

    #[test]
    fn windows_may_begin_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let raw = Raw::Files(fixture::clip(folder.path(), [6, 5], 20));
        let config = FlowConfig {
            training: Training::Start,
            evaluation: Evaluation::Start,
            crop_pixels: small().resize_pixels,
            ..small()
        };
        let first = bits(&shown(&config, &raw, Mode::Evaluation, 0));
        for epoch in 0..4 {
            assert_eq!(bits(&shown(&config, &raw, Mode::Training, epoch)), first);
        }
        let middle = FlowConfig { evaluation: Evaluation::Centre, ..config };
        assert_ne!(bits(&shown(&middle, &raw, Mode::Evaluation, 0)), first);
    }

    #[test]
    fn unusable_options_and_raw_things_are_refused() {
        let refusal = |config: FlowConfig| config.validate().unwrap_err().to_string();
        let bound = refusal(FlowConfig { bound_pixels: 0.0, ..small() });
        assert_eq!(bound, "`bound_pixels` is 0, expected (0, inf)");
        let factor = refusal(FlowConfig { factors: [1.0, f64::INFINITY], ..small() });
        assert!(factor.contains("`factors` is inf"), "{factor}");

        let folder = tempfile::tempdir().unwrap();
        let problem = |raw: &Raw<'_>| {
            decode(&small(), raw, Mode::Training, &draw(0, 0)).unwrap_err().to_string()
        };
        let odd = Raw::Files(fixture::clip(folder.path(), [2, 2], 3));
        assert!(problem(&odd).starts_with("a clip for modality `flow` has 3 pictures"));
        assert!(problem(&Raw::Files(Vec::new())).contains("has 0 pictures"));
        assert!(problem(&Raw::Text("left")).contains("`flow` decodes pictures or an array"));
        let file = folder.path().join("one.npy");
        let three = array(&file, &[1, 1, 3, 1], &[0.0; 3]);
        let expected = "one.npy: has shape [1, 1, 3, 1], expected [height, width, 2, frames]";
        assert!(problem(&three).contains(expected), "{}", problem(&three));
        let none = array(&file, &[1, 0, 2, 1], &[]);
        assert!(problem(&none).contains("expected no dimension of 0"), "{}", problem(&none));
    }

    #[test]
    fn real_gestures_have_flow_within_its_bound() {
        let Some(folder) = real_data::folder("nvgesture_mini") else { return };
        let folder = folder.join("frames/class_01/subject3_r0");
        let mut files = Vec::new();
        for name in ["flow_x", "flow_y"] {
            let entries = std::fs::read_dir(folder.join(name)).unwrap();
            let mut listed: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
            listed.sort();
            assert_eq!(listed.len(), 20);
            files.extend(listed);
        }
        let config = FlowConfig { frames: 20, scale: Scale::Pixels, ..FlowConfig::default() };
        let found = shown(&config, &Raw::Files(files), Mode::Evaluation, 0);
        assert_eq!(found.len(), 2 * 20 * 224 * 224);
        assert!(found.iter().all(|value| value.abs() <= 20.0));
        // Most of the picture stands still, and something moves.
        let still = found.iter().filter(|value| value.abs() < 1.0).count();
        assert!(still * 2 > found.len(), "{still} of {}", found.len());
        assert!(found.iter().any(|value| value.abs() > 2.0));
    }
}
