//! Frames of a clip, chosen, cut, resized and normalised.

use std::ops::Range;
use std::path::PathBuf;

use mie_core::prelude::*;
use rand::RngExt;

use super::util::wrong_kind;
use crate::pictures::crop::{RandomResized, TrainingCrop};
use crate::pictures::normalise::{self, Normalise, Planes, Table};
use crate::pictures::resize::{Filter, Region, resize};
use crate::pictures::{self, Picture, ensure_flip, ensure_sides};

/// Decodes a few frames of a clip as colour pictures.
///
/// The frames of a clip are the files its dataset gives, in that order; a single picture is a clip
/// of one. Of `n` frames `count` are taken, by `choice`:
///
/// ```text
/// segments   one of each range [k n / count, (k + 1) n / count), k = 0 … count - 1, rounded down:
///            at random in training, the middle one in evaluation
/// starts     the first one of each of these ranges
/// first      frames 0 … count - 1
/// ```
///
/// Of a clip with fewer frames all are taken and the last one is repeated. In training a part is
/// cut out (`training_crop`) and mirrored with `flip_probability`, in evaluation whole frames are
/// resized to `height` x `width` whatever their shape. Then
/// `value = (p / 255 - mean) / deviation`.
///
/// The defaults are those of the released code of MIE for CREMA-D, with two deviations. There
/// frames are the first ones of an unsorted listing, since the drawn ones are not used: `choice =
/// "first"` is nearest to it. There each frame has a crop and flip of its own, which tears clips of
/// several frames apart: `independent = true`. For Kinetics-Sounds it takes 3 frames.
///
/// Shapes: `value` `[3, count, height, width]` f32, red first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FramesConfig {
    /// Frames taken of a clip, from 1 to 1024. Default 1, that of the released code for CREMA-D.
    pub count: usize,
    /// Which frames are taken. Default `segments`.
    pub choice: Choice,
    /// Height to which frames are brought, in pixels, at least 1. Default 224.
    pub height: usize,
    /// Width to which frames are brought, in pixels, at least 1. Default 224.
    pub width: usize,
    /// How frames are resized. Default `bilinear`, that of the released code.
    pub filter: Filter,
    /// Which part of a training frame is seen. Default `random_resized` with the defaults of
    /// torchvision, as the released code.
    pub training_crop: TrainingCrop,
    /// Probability that a training clip is mirrored, in `[0, 1]`. Default 0.5, that of the
    /// released code.
    pub flip_probability: f64,
    /// Whether each frame of a clip has a crop and flip of its own. Default false, all have the
    /// same; the released code's is true.
    pub independent: bool,
    /// Whose means and deviations normalise the channels. Default `imagenet`.
    pub normalise: Normalise,
}

/// Which frames of a clip are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// One of each of `count` equal ranges, at random in training, in the middle in evaluation.
    Segments,
    /// The first one of each of `count` equal ranges.
    Starts,
    /// The first `count`.
    First,
}

impl Default for FramesConfig {
    fn default() -> Self {
        Self {
            count: 1,
            choice: Choice::Segments,
            height: 224,
            width: 224,
            filter: Filter::Bilinear,
            training_crop: TrainingCrop::RandomResized(RandomResized::default()),
            flip_probability: 0.5,
            independent: false,
            normalise: Normalise::Imagenet,
        }
    }
}

/// Most values of a sample, and most bytes of the frames that are kept of a clip: 1 GiB of either.
const MOST_VALUES: usize = 1 << 28;
const MOST_BYTES: usize = 1 << 30;

#[typetag::serde(name = "frames")]
impl ModalityConfig for FramesConfig {
    fn validate(&self) -> Result<()> {
        let count = self.count;
        ensure_range("count", "[1, 1024]", count, (1..=1024).contains(&count))?;
        ensure_sides(self.height, self.width)?;
        let usable = 3 * count * self.height * self.width <= MOST_VALUES;
        ensure_range("count", "small enough for at most 2^28 values", count, usable)?;
        self.training_crop.validate()?;
        ensure_flip(self.flip_probability)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        let tables = self.normalise.statistics().map(normalise::table);
        Ok(Box::new(Frames { config: self.clone(), tables }))
    }

    fn mirrors(&self) -> Option<&'static str> {
        (self.flip_probability > 0.0).then_some("flip_probability")
    }
}
register!(
    modality::<FramesConfig>,
    source = "https://github.com/njustkmg/IJCAI25-IGM (datasets/CREMA.py, KS.py)"
);

struct Frames {
    config: FramesConfig,
    tables: [Table; 3],
}

impl Modality for Frames {
    fn layout(&self) -> Vec<TensorLayout> {
        let FramesConfig { count, height, width, .. } = self.config;
        TensorLayout::value(&[3, count as i64, height as i64, width as i64])
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let files = files(raw)?;
        let mut stream = draw.own();
        let positions = if self.draws_frames(mode) {
            self.positions(files.len(), |range| stream.random_range(range))
        } else {
            self.positions(files.len(), middle)
        };
        // Unlike `decode`, which cannot know what will be drawn, only what is seen is read.
        let mut kept = positions.clone();
        kept.dedup();
        let frames = self.read(files, &kept, mode)?;
        let slot = |position: &usize| kept.partition_point(|kept| kept < position);
        let clip: Vec<&Picture<'_>> = positions.iter().map(|at| &frames[slot(at)]).collect();
        self.write(&clip, mode, &mut stream, out.f32_to_overwrite(0)?)
    }

    fn cacheable(&self) -> Option<&dyn Decode> {
        Some(self)
    }
}

impl Decode for Frames {
    fn recipe(&self, mode: Mode) -> String {
        let FramesConfig { count, choice, height, width, filter, .. } = &self.config;
        let which =
            if self.draws_frames(mode) { "all".to_owned() } else { format!("{count} {choice:?}") };
        let size = if self.needs_whole(mode) {
            "whole".to_owned()
        } else {
            format!("{height}x{width} {filter:?}")
        };
        format!("frames 1 {which} {size}")
    }

    fn decode(&self, raw: &Raw<'_>, mode: Mode) -> Result<Decoded> {
        let files = files(raw)?;
        let kept = if self.draws_frames(mode) {
            (0..files.len()).collect()
        } else {
            let mut positions = self.positions(files.len(), middle);
            positions.dedup();
            positions
        };
        let frames = self.read(files, &kept, mode)?;
        let [height, width] = frames.first().map_or([0, 0], Picture::size);
        let mut values = Vec::with_capacity(frames.len() * height * width * 3);
        for frame in &frames {
            values.extend_from_slice(frame.pixels());
        }
        Ok(Decoded { shape: vec![frames.len(), height, width, 3], values: Values::U8(values) })
    }

    fn finish(
        &self,
        decoded: DecodedView<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let wrong = || Error::Bug(format!("decoded frames have the shape {:?}", decoded.shape));
        let &[_, height, width, channels] = decoded.shape else { return Err(wrong()) };
        let length = height.saturating_mul(width).saturating_mul(channels).max(1);
        let frames = decoded
            .u8()?
            .chunks_exact(length)
            .map(|pixels| Picture::new([height, width], channels, pixels))
            .collect::<Result<Vec<_>>>()?;
        let last = frames.len().checked_sub(1).ok_or_else(wrong)?;
        let mut stream = draw.own();
        let positions = if self.draws_frames(mode) {
            self.positions(frames.len(), |range| stream.random_range(range))
        } else {
            (0..self.config.count).map(|position| position.min(last)).collect()
        };
        let clip: Vec<&Picture<'_>> = positions.iter().map(|&at| &frames[at]).collect();
        self.write(&clip, mode, &mut stream, out.f32_to_overwrite(0)?)
    }
}

impl Frames {
    /// Whether chance says which frames are taken.
    fn draws_frames(&self, mode: Mode) -> bool {
        mode == Mode::Training && self.config.choice == Choice::Segments
    }

    /// Whether frames are needed in their own size, since parts of them are taken later.
    fn needs_whole(&self, mode: Mode) -> bool {
        mode == Mode::Training && self.config.training_crop.takes_parts()
    }

    /// Positions of the frames taken of `available`, in order; `pick` takes one of a range.
    fn positions(
        &self,
        available: usize,
        mut pick: impl FnMut(Range<usize>) -> usize,
    ) -> Vec<usize> {
        let FramesConfig { count, choice, .. } = self.config;
        let start = |segment: usize| segment * available / count;
        (0..count)
            .map(|position| match choice {
                _ if available <= count => position.min(available.saturating_sub(1)),
                Choice::Segments => pick(start(position)..start(position + 1)),
                Choice::Starts => start(position),
                Choice::First => position,
            })
            .collect()
    }

    /// Reads the frames at these positions; all get one size.
    fn read(
        &self,
        files: &[PathBuf],
        positions: &[usize],
        mode: Mode,
    ) -> Result<Vec<Picture<'static>>> {
        let FramesConfig { height, width, filter, .. } = self.config;
        let mut frames: Vec<Picture<'static>> = Vec::with_capacity(positions.len());
        for file in positions.iter().filter_map(|&position| files.get(position)) {
            let mut frame = pictures::rgb(file)?;
            if !self.needs_whole(mode) {
                let whole = Region::whole(frame.size());
                frame = resize(&frame, whole, [height, width], filter)?.into_owned();
            }
            let [rows, columns] = frame.size();
            let first = frames.first().map_or([rows, columns], Picture::size);
            if first != [rows, columns] {
                let [first_rows, first_columns] = first;
                let problem = format!(
                    "has {rows} x {columns} pixels, an earlier frame of the clip {first_rows} x \
                     {first_columns}; bring the frames of a clip to one size"
                );
                return Err(Error::data(file, problem));
            }
            if rows * columns * 3 * (frames.len() + 1) > MOST_BYTES {
                let problem = "makes the frames of its clip larger than 2^30 bytes; keep fewer or \
                               smaller frames of a clip";
                return Err(Error::data(file, problem));
            }
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Cuts, mirrors and normalises the frames of a sample.
    fn write(
        &self,
        clip: &[&Picture<'_>],
        mode: Mode,
        stream: &mut Stream,
        out: &mut [f32],
    ) -> Result<()> {
        let FramesConfig { height, width, filter, .. } = self.config;
        let area = height * width;
        let mut drawn = None;
        for (time, frame) in clip.iter().enumerate() {
            let seen = match (mode, drawn) {
                (Mode::Evaluation, _) => (Region::whole(frame.size()), false),
                (Mode::Training, Some(seen)) if !self.config.independent => seen,
                (Mode::Training, _) => (
                    self.config.training_crop.draw(frame.size(), stream),
                    stream.random::<f64>() < self.config.flip_probability,
                ),
            };
            drawn = Some(seen);
            let (region, mirrored) = seen;
            let mut frame = resize(frame, region, [height, width], filter)?;
            if mirrored {
                frame.mirror();
            }
            let planes = Planes { first: time * area, distance: clip.len() * area };
            normalise::write(&frame, &self.tables, [0, 0], planes, out)?;
        }
        Ok(())
    }
}

/// The frames of a clip, at least one.
fn files<'r>(raw: &'r Raw<'_>) -> Result<&'r [PathBuf]> {
    match raw {
        Raw::File(file) => Ok(std::slice::from_ref(file)),
        Raw::Files(files) if files.is_empty() => Err(Error::refused(
            "a clip has no frames",
            "leave samples without frames out of the dataset, or say that they lack the modality",
        )),
        Raw::Files(files) => Ok(files),
        _ => Err(wrong_kind("frames", "picture files", raw)),
    }
}

/// The position in the middle of a range that is not empty.
fn middle(range: Range<usize>) -> usize {
    usize::midpoint(range.start, range.end)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::util::{decode, draw};
    use super::*;
    use crate::formats::real_data;
    use crate::pictures::fixture;

    /// Writes frames of `[height, width]`; the blue of frame `k` starts with `k`.
    fn clip(folder: &Path, frames: usize, [height, width]: [usize; 2]) -> Raw<'static> {
        let write = |number: usize| {
            let file = folder.join(format!("{number:05}.ppm"));
            let mut pixels = fixture::picture(height, width, true).pixels().to_vec();
            pixels[2] = number as u8;
            std::fs::write(
                &file,
                [format!("P6 {width} {height} 255\n").as_bytes(), &pixels].concat(),
            )
            .unwrap();
            file
        };
        Raw::Files((0..frames).map(write).collect())
    }

    /// Options under which a value is that of a pixel over 255.
    fn plain(count: usize, [height, width]: [usize; 2]) -> FramesConfig {
        FramesConfig {
            count,
            height,
            width,
            training_crop: TrainingCrop::None,
            flip_probability: 0.0,
            normalise: Normalise::Unit,
            ..FramesConfig::default()
        }
    }

    /// Numbers of the frames a sample is made of.
    fn numbers(config: &FramesConfig, raw: &Raw<'_>, mode: Mode, draw: &Draw<'_>) -> Vec<u8> {
        let values = decode(config, raw, mode, draw).unwrap();
        let area = config.height * config.width;
        let blue = &values[2 * config.count * area..];
        blue.chunks(area).map(|frame| (frame[0] * 255.0).round() as u8).collect()
    }

    #[test]
    fn mirroring_is_declared_where_it_is_switched_on() {
        let config =
            |flip_probability| FramesConfig { flip_probability, ..FramesConfig::default() };
        assert_eq!(config(0.25).mirrors(), Some("flip_probability"));
        assert_eq!(config(0.0).mirrors(), None);
    }

    #[test]
    fn frames_are_chosen_of_the_segments_of_a_clip() {
        let folder = tempfile::tempdir().unwrap();
        let raw = clip(folder.path(), 10, [2, 3]);
        let still = draw(0, 0);
        let chosen = |count, choice| {
            let config = FramesConfig { choice, ..plain(count, [2, 3]) };
            numbers(&config, &raw, Mode::Evaluation, &still)
        };
        // Segments [0, 3), [3, 6), [6, 10).
        assert_eq!(chosen(3, Choice::Segments), [1, 4, 8]);
        assert_eq!(chosen(3, Choice::Starts), [0, 3, 6]);
        assert_eq!(chosen(3, Choice::First), [0, 1, 2]);
        assert_eq!(chosen(1, Choice::Segments), [5]);
        assert_eq!(chosen(10, Choice::Segments), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let mut seen = [false; 10];
        for epoch in 0..64 {
            let config = plain(3, [2, 3]);
            let found = numbers(&config, &raw, Mode::Training, &draw(epoch, 0));
            assert!(found[0] < 3 && (3..6).contains(&found[1]) && (6..10).contains(&found[2]));
            for number in found {
                seen[usize::from(number)] = true;
            }
        }
        // A given one of four is missed 64 times with probability 1e-8.
        assert_eq!(seen, [true; 10]);
    }

    #[test]
    fn short_clips_repeat_their_last_frame() {
        let folder = tempfile::tempdir().unwrap();
        let raw = clip(folder.path(), 2, [2, 3]);
        for choice in [Choice::Segments, Choice::Starts, Choice::First] {
            for mode in [Mode::Training, Mode::Evaluation] {
                let config = FramesConfig { choice, ..plain(4, [2, 3]) };
                assert_eq!(numbers(&config, &raw, mode, &draw(1, 2)), [0, 1, 1, 1]);
            }
        }
        let Raw::Files(files) = raw else { unreachable!() };
        let single = Raw::File(files[1].clone());
        assert_eq!(numbers(&plain(2, [2, 3]), &single, Mode::Training, &draw(0, 0)), [1, 1]);
    }

    #[test]
    fn values_are_channels_then_frames_then_rows() {
        let folder = tempfile::tempdir().unwrap();
        let raw = clip(folder.path(), 2, [2, 3]);
        let config = plain(2, [2, 3]);
        let values = decode(&config, &raw, Mode::Evaluation, &draw(0, 0)).unwrap();
        assert_eq!(config.build().unwrap().layout()[0].shape, [3, 2, 2, 3]);
        let frame = fixture::picture(2, 3, true);
        for (position, value) in values.iter().enumerate() {
            let (channel, time, place) = (position / 12, position / 6 % 2, position % 6);
            let pixel = match (channel, place) {
                (2, 0) => time as u8,
                _ => frame.pixels()[place * 3 + channel],
            };
            assert!((value - f32::from(pixel) / 255.0).abs() < 1e-6, "{position}");
        }
    }

    #[test]
    fn frames_of_a_clip_share_crop_and_flip_unless_they_are_independent() {
        let folder = tempfile::tempdir().unwrap();
        let raw = clip(folder.path(), 1, [60, 80]);
        // One frame, repeated: what differs is crop and flip.
        let config = FramesConfig { count: 4, height: 8, width: 8, ..FramesConfig::default() };
        let apart = FramesConfig { independent: true, ..config.clone() };
        let alike = |config: &FramesConfig, epoch| {
            let values = decode(config, &raw, Mode::Training, &draw(epoch, 0)).unwrap();
            let red: Vec<u32> = values[..4 * 64].iter().map(|value| value.to_bits()).collect();
            red.chunks(64).all(|frame| frame == &red[..64])
        };
        assert!((0..8).all(|epoch| alike(&config, epoch)));
        assert!((0..8).all(|epoch| !alike(&apart, epoch)));
    }

    #[test]
    fn both_halves_give_the_bits_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let raw = clip(folder.path(), 7, [24, 33]);
        let few = FramesConfig { count: 3, height: 16, width: 12, ..FramesConfig::default() };
        let many = FramesConfig { count: 9, independent: true, ..few.clone() };
        let uncut = FramesConfig { training_crop: TrainingCrop::None, ..few.clone() };
        let first = FramesConfig { choice: Choice::First, ..few.clone() };
        for config in [few, many, uncut, first] {
            let modality = config.build().unwrap();
            let halves = modality.cacheable().unwrap();
            for mode in [Mode::Training, Mode::Evaluation] {
                let decoded = halves.decode(&raw, mode).unwrap();
                for epoch in 0..6 {
                    let at = draw(epoch, 5);
                    let mut values = vec![f32::NAN; modality.layout()[0].len()];
                    let mut out = SampleBuffers::new(vec![Buffer::F32(&mut values)]);
                    halves.finish(decoded.view(), mode, &at, &mut out).unwrap();
                    let whole = decode(&config, &raw, mode, &at).unwrap();
                    let bits = |values: &[f32]| -> Vec<u32> {
                        values.iter().map(|value| value.to_bits()).collect()
                    };
                    assert_eq!(bits(&values), bits(&whole), "{mode:?}, {config:?}");
                    assert_eq!(bits(&whole), bits(&decode(&config, &raw, mode, &at).unwrap()));
                }
            }
        }
    }

    #[test]
    fn recipes_differ_where_decoded_frames_do() {
        let recipe =
            |config: &FramesConfig, mode| config.build().unwrap().cacheable().unwrap().recipe(mode);
        let usual = FramesConfig::default();
        assert_eq!(recipe(&usual, Mode::Training), "frames 1 all whole");
        assert_eq!(recipe(&usual, Mode::Evaluation), "frames 1 1 Segments 224x224 Bilinear");
        let flipped = FramesConfig { flip_probability: 0.25, ..usual.clone() };
        assert_eq!(recipe(&usual, Mode::Training), recipe(&flipped, Mode::Training));
        let uncut = FramesConfig { training_crop: TrainingCrop::None, ..usual };
        assert_eq!(recipe(&uncut, Mode::Training), "frames 1 all 224x224 Bilinear");
    }

    #[test]
    fn files_that_are_no_frames_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let Raw::Files(mut files) = clip(folder.path(), 3, [2, 3]) else { unreachable!() };
        let config = FramesConfig { count: 3, height: 2, width: 2, ..FramesConfig::default() };
        let refusal =
            |raw: &Raw<'_>, mode| decode(&config, raw, mode, &draw(0, 0)).unwrap_err().to_string();
        std::fs::write(&files[1], b"P6 1 1 255\nabc").unwrap();
        let error = refusal(&Raw::Files(files.clone()), Mode::Training);
        assert!(error.contains("00001.ppm: has 1 x 1 pixels, an earlier frame"), "{error}");
        decode(&config, &Raw::Files(files.clone()), Mode::Evaluation, &draw(0, 0)).unwrap();
        std::fs::write(&files[2], b"broken").unwrap();
        let error = refusal(&Raw::Files(files.clone()), Mode::Evaluation);
        assert!(error.contains("00002.ppm: is no picture"), "{error}");
        files.clear();
        assert!(refusal(&Raw::Files(files), Mode::Evaluation).contains("a clip has no frames"));
        let error = refusal(&Raw::Text("cat"), Mode::Evaluation);
        assert!(error.contains("decodes picture files, the dataset gives text"), "{error}");
    }

    #[test]
    fn options_out_of_their_range_are_refused() {
        let usual = FramesConfig::default();
        usual.validate().unwrap();
        let wrong = [
            FramesConfig { count: 0, ..usual.clone() },
            FramesConfig { height: 0, ..usual.clone() },
            FramesConfig { count: 1024, height: 16_384, width: 16_384, ..usual.clone() },
            FramesConfig { flip_probability: 1.5, ..usual },
        ];
        for (config, field) in wrong.iter().zip(["count", "height", "count", "flip_probability"]) {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
    }

    #[test]
    fn real_frames_are_decoded() {
        let Some(folder) = real_data::folder("av_clips_sample") else { return };
        let clip = folder.join("Image-01-FPS/00W1lcxW-WU_40.000");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(clip).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let config = FramesConfig { count: 3, ..FramesConfig::default() };
        let raw = Raw::Files(files);
        for mode in [Mode::Training, Mode::Evaluation] {
            let values = decode(&config, &raw, mode, &draw(0, 0)).unwrap();
            assert_eq!(values.len(), 3 * 3 * 224 * 224);
            // Black and white are -2.12 and 2.64 by the statistics of ImageNet.
            assert!(values.iter().all(|value| (-2.2..2.7).contains(value)));
        }
    }
}
