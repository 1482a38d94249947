//! Clips of pictures: the frames of a video.

use std::borrow::Cow;
use std::path::Path;

use mie_core::prelude::*;

use super::video::{self, Evaluation, Sampling, Short, Training, View};
use crate::pictures::normalise::{self, Normalise, Table};

/// Cuts a window in time and a square from the frames of a video.
///
/// Each frame is stretched to `resize_pixels` by `resize_pixels`, bilinearly as OpenCV does. Of
/// the frames, `frames` are taken that lie `every` apart, and of each the same square of
/// `crop_pixels`. With `p` its pixels on the scale `[0, 1]`:
///
/// ```text
/// imagenet    value = (p - mean) / deviation    (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
/// scale       value = p
/// symmetric   value = 2 p - 1
/// ```
///
/// In training start, square and flip are drawn; modalities of the kinds `clip` and `flow` of a
/// sample draw the same, so that with equal options they see the same place at the same time. In
/// evaluation the square is the middle one and nothing is flipped.
///
/// The released code of MIE gives OpenCV's order of colours to weights that were learnt with red
/// first: `colour_order = "bgr"`. It evaluates all 80 frames of `NVGesture` after it trained on 64; of
/// what I3D makes of them its pooling takes no more than the first eight steps, which are those of
/// 64 frames: `evaluation = "start"`.
///
/// Files are read as PNG, JPEG or PNM; one file is a clip of one frame. Shapes: `value`
/// `[channels, frames, crop_pixels, crop_pixels]` f32, `[3, 64, 224, 224]` by default, that of the
/// released code. Resized frames are kept in the cache, all of a clip: 16 MB for 80 in colour.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipConfig {
    /// What is taken of a picture. Default `rgb`.
    pub channels: Channels,
    /// Order of the colours; means and deviations keep theirs. Default `rgb`.
    pub colour_order: ColourOrder,
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
    /// How pixels become numbers. Default `imagenet`, that of the released code for colour; it
    /// takes `scale` for depth, and I3D's weights were learnt with `symmetric`.
    pub normalise: Normalisation,
    /// Probability that a training clip is mirrored, in `[0, 1]`. Default 0: it would make another
    /// class of some gestures.
    pub flip_probability: f64,
}

/// What is taken of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Red, green and blue; of a grey picture three times the same.
    Rgb,
    /// Grey, such as depth; colours become luma (ITU-R BT.709).
    Grey,
}

/// Order of the colours in the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColourOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red, as OpenCV reads pictures; only for `rgb`.
    Bgr,
}

/// How pixels become numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Normalised by mean and deviation of ImageNet; only for `rgb`.
    Imagenet,
    /// To `[0, 1]`.
    Scale,
    /// To `[-1, 1]`.
    Symmetric,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            channels: Channels::Rgb,
            colour_order: ColourOrder::Rgb,
            frames: 64,
            every: 1,
            short: Short::Repeat,
            training: Training::Drawn,
            evaluation: Evaluation::Centre,
            resize_pixels: 256,
            crop_pixels: 224,
            normalise: Normalisation::Imagenet,
            flip_probability: 0.0,
        }
    }
}

impl ClipConfig {
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

    fn channel_count(&self) -> usize {
        match self.channels {
            Channels::Rgb => 3,
            Channels::Grey => 1,
        }
    }

    /// The number that each pixel of a channel becomes.
    fn table(&self, channel: usize) -> Table {
        normalise::table(match self.normalise {
            Normalisation::Imagenet => Normalise::Imagenet.statistics()[channel],
            Normalisation::Scale => (0.0, 1.0),
            Normalisation::Symmetric => (0.5, 0.5),
        })
    }
}

#[typetag::serde(name = "clip")]
impl ModalityConfig for ClipConfig {
    fn validate(&self) -> Result<()> {
        let fitting = self.normalise != Normalisation::Imagenet || self.channels == Channels::Rgb;
        let expected = "\"scale\" or \"symmetric\" with channels = \"grey\"";
        ensure_range("normalise", expected, "\"imagenet\"", fitting)?;
        let fitting = self.colour_order != ColourOrder::Bgr || self.channels == Channels::Rgb;
        ensure_range("colour_order", "\"rgb\" with channels = \"grey\"", "\"bgr\"", fitting)?;
        self.sampling().validate(self.channel_count())
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        Ok(Box::new(Clip {
            channels: self.channels,
            colour_order: self.colour_order,
            sampling: self.sampling(),
            tables: (0..self.channel_count()).map(|channel| self.table(channel)).collect(),
        }))
    }

    fn mirrors(&self) -> Option<&'static str> {
        (self.flip_probability > 0.0).then_some("flip_probability")
    }
}
register!(
    modality::<ClipConfig>,
    source = "Carreira and Zisserman 2017 (I3D); https://github.com/njustkmg/IJCAI25-IGM"
);

struct Clip {
    channels: Channels,
    colour_order: ColourOrder,
    sampling: Sampling,
    /// The number that each pixel becomes, for each channel.
    tables: Vec<Table>,
}

impl Clip {
    fn frame(&self, file: &Path) -> Result<Vec<u8>> {
        match self.channels {
            Channels::Rgb => video::rgb(file, self.sampling.resize_pixels),
            Channels::Grey => video::grey(file, self.sampling.resize_pixels),
        }
    }

    /// Writes what is seen; `frame` gives each frame.
    fn show<'a>(
        &self,
        view: &View,
        frame: impl FnMut(usize) -> Result<Cow<'a, [u8]>>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let out = out.f32_to_overwrite(0)?;
        match &self.tables[..] {
            [first, second, third] => {
                let values = match self.colour_order {
                    ColourOrder::Rgb => [(first, 0), (second, 1), (third, 2)],
                    ColourOrder::Bgr => [(first, 2), (second, 1), (third, 0)],
                };
                self.sampling.fill(view, out, frame, &values.map(number))
            }
            tables => self.sampling.fill(view, out, frame, &[number((&tables[0], 0))]),
        }
    }
}

/// What turns a channel of pixels into numbers.
fn number<const CHANNELS: usize>(
    (table, channel): (&Table, usize),
) -> impl Fn(&[u8; CHANNELS]) -> f32 {
    move |pixel| table[usize::from(pixel[channel])]
}

impl Modality for Clip {
    fn layout(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&self.sampling.shape(self.tables.len()))
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let files = video::pictures("clip", raw)?;
        let view = self.sampling.view(files.len(), mode, draw);
        let frame =
            |place: usize| -> Result<Cow<'_, [u8]>> { self.frame(&files[place]).map(Cow::Owned) };
        self.show(&view, frame, out)
    }

    fn cacheable(&self) -> Option<&dyn Decode> {
        Some(self)
    }
}

impl Decode for Clip {
    fn recipe(&self, _mode: Mode) -> String {
        format!("clip 1, {:?}, {} pixels", self.channels, self.sampling.resize_pixels)
    }

    fn decode(&self, raw: &Raw<'_>, _mode: Mode) -> Result<Decoded> {
        let files = video::pictures("clip", raw)?;
        let shape = self.sampling.decoded_shape(files.len(), self.tables.len())?;
        let mut values = Vec::new();
        for file in files {
            values.extend(self.frame(file)?);
        }
        Ok(Decoded { shape, values: Values::U8(values) })
    }

    fn finish(
        &self,
        decoded: DecodedView<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let count = self.sampling.decoded_frames(decoded.shape, self.tables.len())?;
        let view = self.sampling.view(count, mode, draw);
        let pixels = decoded.u8()?;
        let size = pixels.len() / count;
        let frame = |place: usize| -> Result<Cow<'_, [u8]>> {
            Ok(Cow::Borrowed(&pixels[place * size..(place + 1) * size]))
        };
        self.show(&view, frame, out)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::util::{decode, draw};
    use super::super::video::fixture;
    use super::*;
    use crate::formats::real_data;

    /// Two frames of 2 x 2 pixels from frames of 4 x 4.
    fn small() -> ClipConfig {
        ClipConfig {
            channels: Channels::Grey,
            frames: 2,
            resize_pixels: 4,
            crop_pixels: 2,
            normalise: Normalisation::Scale,
            ..ClipConfig::default()
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// What the two halves make of a raw thing.
    fn in_halves(config: &ClipConfig, raw: &Raw<'_>, mode: Mode, draw: &Draw<'_>) -> Vec<f32> {
        let modality = config.build().unwrap();
        let halves = modality.cacheable().unwrap();
        let decoded = halves.decode(raw, mode).unwrap();
        let mut values = vec![f32::NAN; modality.layout()[0].len()];
        let mut out = SampleBuffers::new(vec![Buffer::F32(&mut values)]);
        halves.finish(decoded.view(), mode, draw, &mut out).unwrap();
        values
    }

    #[test]
    fn mirroring_is_declared_where_it_is_switched_on() {
        let config = |flip_probability| ClipConfig { flip_probability, ..ClipConfig::default() };
        assert_eq!(config(0.25).mirrors(), Some("flip_probability"));
        assert_eq!(config(0.0).mirrors(), None);
    }

    #[test]
    fn pixels_are_normalised_by_channel() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.pnm");
        fixture::stored(&file, [1, 1], &[255, 0, 51]);
        let value = |channels, normalise| {
            let config = ClipConfig {
                channels,
                normalise,
                frames: 1,
                resize_pixels: 1,
                crop_pixels: 1,
                ..ClipConfig::default()
            };
            decode(&config, &Raw::File(file.clone()), Mode::Training, &draw(0, 0)).unwrap()
        };
        let close = |found: &[f32], expected: &[f32]| {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5)
        };
        assert!(close(&value(Channels::Rgb, Normalisation::Scale), &[1.0, 0.0, 0.2]));
        assert!(close(&value(Channels::Rgb, Normalisation::Symmetric), &[1.0, -1.0, -0.6]));
        // (1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225.
        let found = value(Channels::Rgb, Normalisation::Imagenet);
        assert!(close(&found, &[2.248_908, -2.035_714, -0.915_556]), "{found:?}");
        // Blue first, by the statistics of red: (0.2 - 0.485) / 0.229, (1 - 0.406) / 0.225.
        let config = ClipConfig {
            colour_order: ColourOrder::Bgr,
            frames: 1,
            resize_pixels: 1,
            crop_pixels: 1,
            ..ClipConfig::default()
        };
        let raw = Raw::File(file.clone());
        let found = decode(&config, &raw, Mode::Training, &draw(0, 0)).unwrap();
        assert!(close(&found, &[-1.244_541, -2.035_714, 2.64]), "{found:?}");
        // 0.2126 * 255 + 0.0722 * 51 = 57.9, rounded.
        assert!(close(&value(Channels::Grey, Normalisation::Scale), &[58.0 / 255.0]));
    }

    #[test]
    fn evaluation_sees_the_middle_frames_and_square_in_every_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let raw = Raw::Files(fixture::clip(folder.path(), [4, 4], 5));
        let found = decode(&small(), &raw, Mode::Evaluation, &draw(0, 0)).unwrap();
        // Frames 1 and 2 of five, rows and columns 1 and 2 of four.
        let expected = [1, 2].map(|seed| {
            let pixels = fixture::picture([4, 4], 1, seed);
            [5, 6, 9, 10].map(|at: usize| f32::from(pixels[at]) / 255.0)
        });
        assert_eq!(bits(&found), bits(&expected.concat()));
        let later = decode(&small(), &raw, Mode::Evaluation, &draw(9, 7)).unwrap();
        assert_eq!(bits(&found), bits(&later));
        let training = |epoch| decode(&small(), &raw, Mode::Training, &draw(epoch, 0)).unwrap();
        assert_eq!(bits(&training(3)), bits(&training(3)));
        assert!((0..8).any(|epoch| bits(&training(epoch)) != bits(&found)));
        assert_eq!(small().build().unwrap().layout()[0].shape, [1, 2, 2, 2]);
    }

    #[test]
    fn windows_may_begin_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let raw = Raw::Files(fixture::clip(folder.path(), [4, 4], 5));
        let config = ClipConfig {
            training: Training::Start,
            evaluation: Evaluation::Start,
            crop_pixels: 4,
            ..small()
        };
        let frames = [0, 1].map(|seed| fixture::picture([4, 4], 1, seed));
        let expected = frames.concat().iter().map(|&it| f32::from(it) / 255.0).collect::<Vec<_>>();
        for mode in [Mode::Training, Mode::Evaluation] {
            for epoch in 0..4 {
                let found = decode(&config, &raw, mode, &draw(epoch, 0)).unwrap();
                assert_eq!(bits(&found), bits(&expected), "{mode:?}, {epoch}");
            }
        }
    }

    #[test]
    fn colour_and_grey_clips_see_the_same_place() {
        let folder = tempfile::tempdir().unwrap();
        let grey = Raw::Files(fixture::clip(folder.path(), [5, 7], 6));
        let config = ClipConfig { flip_probability: 0.5, ..small() };
        let colour = ClipConfig { channels: Channels::Rgb, ..config.clone() };
        for epoch in 0..16 {
            let at = draw(epoch, 2);
            let one = decode(&config, &grey, Mode::Training, &at).unwrap();
            let other = Draw { modality: "depth", ..at };
            let three = decode(&colour, &grey, Mode::Training, &other).unwrap();
            // A grey picture has three equal channels.
            assert_eq!(bits(&three), bits(&[one.clone(), one.clone(), one].concat()));
        }
    }

    #[test]
    fn both_halves_together_are_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let raw = Raw::Files(fixture::clip(folder.path(), [3, 8], 4));
        for frames in [1, 3, 9] {
            let config = ClipConfig { frames, flip_probability: 0.5, ..small() };
            for mode in [Mode::Training, Mode::Evaluation] {
                for epoch in 0..4 {
                    let whole = decode(&config, &raw, mode, &draw(epoch, 0)).unwrap();
                    let halves = in_halves(&config, &raw, mode, &draw(epoch, 0));
                    assert_eq!(bits(&whole), bits(&halves));
                }
            }
        }
        let modality = small().build().unwrap();
        let halves = modality.cacheable().unwrap();
        assert_eq!(halves.recipe(Mode::Training), "clip 1, Grey, 4 pixels");
        assert_eq!(halves.decode(&raw, Mode::Training).unwrap().shape, [4, 4, 4, 1]);
    }

    #[test]
    fn unusable_options_and_raw_things_are_refused() {
        let config = ClipConfig { normalise: Normalisation::Imagenet, ..small() };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "`normalise` is \"imagenet\", expected \"scale\" or \"symmetric\" with channels = \
             \"grey\""
        );
        let refusal = |raw: Raw<'_>| {
            decode(&small(), &raw, Mode::Training, &draw(0, 0)).unwrap_err().to_string()
        };
        assert!(refusal(Raw::Files(Vec::new())).contains("has no frames"));
        assert!(refusal(Raw::Values(&[1.0])).contains("`clip` decodes pictures"));
        let absent = refusal(Raw::Files(vec![PathBuf::from("/absent/00001.jpg")]));
        assert!(absent.contains("/absent/00001.jpg"), "{absent}");
    }

    #[test]
    fn real_gestures_decode_in_colour_and_depth() {
        let Some(folder) = real_data::folder("nvgesture_mini") else { return };
        let folder = folder.join("frames/class_01/subject3_r0");
        for (channels, normalise, name) in [
            (Channels::Rgb, Normalisation::Symmetric, "rgb"),
            (Channels::Grey, Normalisation::Scale, "depth"),
        ] {
            let entries = std::fs::read_dir(folder.join(name)).unwrap();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
            files.sort();
            assert_eq!(files.len(), 20);
            let config = ClipConfig { channels, normalise, frames: 24, ..ClipConfig::default() };
            let raw = Raw::Files(files);
            let found = decode(&config, &raw, Mode::Evaluation, &draw(0, 0)).unwrap();
            assert_eq!(found.len(), config.channel_count() * 24 * 224 * 224);
            let lowest = if channels == Channels::Rgb { -1.0 } else { 0.0 };
            assert!(found.iter().all(|value| (lowest..=1.0).contains(value)), "{name}");
            assert!(found.iter().any(|value| *value > lowest + 0.3), "{name}");
            // The clip of 20 frames starts again.
            let plane = 224 * 224;
            assert_eq!(bits(&found[..4 * plane]), bits(&found[20 * plane..24 * plane]));
        }
    }
}
