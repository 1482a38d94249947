//! What clips of pictures and of optical flow share: windows in time, squares, resizing.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;
use rand::RngExt;

use super::util::wrong_kind;
use crate::formats::picture;

/// What a clip with fewer frames than wanted goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Short {
    /// Its frames from the first on, over and over.
    Repeat,
    /// Its last frame.
    PadLast,
}

/// Where the window of a longer clip begins in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Training {
    /// Anywhere, drawn anew in every epoch.
    Drawn,
    /// At its start.
    Start,
}

/// Which frames of a longer clip are taken in evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Evaluation {
    /// Those in the middle, as far from each other as in training.
    Centre,
    /// Those at the start, as far from each other as in training.
    Start,
    /// Those in the middle of equal parts of the whole clip, whatever `every` says.
    Spread,
}

/// The options by which frames and a square of them are chosen.
#[derive(Debug, Clone)]
pub(super) struct Sampling {
    pub(super) frames: usize,
    pub(super) every: usize,
    pub(super) short: Short,
    pub(super) training: Training,
    pub(super) evaluation: Evaluation,
    pub(super) resize_pixels: usize,
    pub(super) crop_pixels: usize,
    pub(super) flip_probability: f64,
}

/// What is seen of a clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// Positions in the clip, one for each frame wanted.
    pub(super) frames: Vec<usize>,
    /// Upper and left side of the square.
    pub(super) corner: [usize; 2],
    /// Whether left and right are swapped.
    pub(super) flipped: bool,
}

/// Longest side of a frame and most frames of a clip.
const MOST: usize = 1 << 12;

/// Most values of a clip: 1 GiB of 32-bit ones.
const MOST_VALUES: usize = 1 << 28;

impl Sampling {
    /// Checks the options, for clips of so many channels.
    pub(super) fn validate(&self, channels: usize) -> Result<()> {
        let (side, crop) = (self.resize_pixels, self.crop_pixels);
        for (field, value) in
            [("frames", self.frames), ("every", self.every), ("resize_pixels", side)]
        {
            ensure_range(field, "[1, 4096]", value, (1..=MOST).contains(&value))?;
        }
        let usable = (1..=side).contains(&crop);
        ensure_range("crop_pixels", "[1, resize_pixels]", crop, usable)?;
        let values = channels * self.frames * crop * crop;
        let expected = "small enough for 2^28 values of a clip";
        ensure_range("frames", expected, self.frames, values <= MOST_VALUES)?;
        let flip = self.flip_probability;
        ensure_range("flip_probability", "[0, 1]", flip, (0.0..=1.0).contains(&flip))
    }

    /// Shape of a clip of so many channels.
    pub(super) fn shape(&self, channels: usize) -> [i64; 4] {
        [channels, self.frames, self.crop_pixels, self.crop_pixels].map(|side| side as i64)
    }

    /// Chooses what is seen of a clip of `available` frames, at least one.
    ///
    /// In training it draws four shares, always and in this order: time, down, right, flip. So
    /// what all modalities of a sample see has the same place in time and space, even where their
    /// clips differ in length.
    pub(super) fn view(&self, available: usize, mode: Mode, draw: &Draw<'_>) -> View {
        let margin = self.resize_pixels - self.crop_pixels;
        let span = (self.frames - 1) * self.every + 1;
        let slack = available.saturating_sub(span);
        let (start, corner, flipped) = match mode {
            Mode::Training => {
                let mut stream = draw.shared();
                let [time, down, right, flip] = [(); 4].map(|()| stream.random::<f64>());
                let corner = [down, right].map(|share| part(share, margin));
                let start = match self.training {
                    Training::Drawn => part(time, slack),
                    Training::Start => 0,
                };
                (start, corner, flip < self.flip_probability)
            }
            Mode::Evaluation => {
                let start = if self.evaluation == Evaluation::Start { 0 } else { slack / 2 };
                (start, [margin / 2; 2], false)
            }
        };
        let spread = mode == Mode::Evaluation && self.evaluation == Evaluation::Spread;
        let place = |frame: usize| {
            let steps = start + frame * self.every;
            match self.short {
                _ if spread => (2 * frame + 1) * available / (2 * self.frames),
                Short::Repeat => steps % available,
                Short::PadLast => steps.min(available - 1),
            }
        };
        View { frames: (0..self.frames).map(place).collect(), corner, flipped }
    }

    /// Writes what is seen into `out`, `[channels, frames, crop_pixels, crop_pixels]`.
    ///
    /// `frame` gives a frame of the clip, `[resize_pixels, resize_pixels, channels]`; `values` make
    /// of a pixel what belongs into each channel of `out`.
    pub(super) fn fill<'a, P: Copy + 'a, const CHANNELS: usize>(
        &self,
        view: &View,
        out: &mut [f32],
        mut frame: impl FnMut(usize) -> Result<Cow<'a, [P]>>,
        values: &[impl Fn(&[P; CHANNELS]) -> f32; CHANNELS],
    ) -> Result<()> {
        let (side, crop) = (self.resize_pixels, self.crop_pixels);
        let room = CHANNELS * self.frames * crop * crop;
        if out.len() != room {
            return Err(Error::Bug(format!("a clip has room for {}, not {room}", out.len())));
        }
        // A frame that is seen several times is made once.
        let mut places = view.frames.clone();
        places.sort_unstable();
        places.dedup();
        for place in places {
            let pixels = frame(place)?;
            if pixels.len() != side * side * CHANNELS {
                let what = format!("{} values, not of {side} x {side} pixels", pixels.len());
                return Err(Error::Bug(format!("a frame of a clip has {what}")));
            }
            let (pixels, _) = pixels.as_chunks::<CHANNELS>();
            let seen = view.frames.iter().enumerate().filter(|(_, seen)| **seen == place);
            for (time, _) in seen {
                for row in 0..crop {
                    let source = &pixels[(view.corner[0] + row) * side + view.corner[1]..][..crop];
                    for (channel, value) in values.iter().enumerate() {
                        let to = ((channel * self.frames + time) * crop + row) * crop;
                        let target = &mut out[to..to + crop];
                        let write = |(to, from): (&mut f32, &[P; CHANNELS])| *to = value(from);
                        if view.flipped {
                            target.iter_mut().rev().zip(source).for_each(write);
                        } else {
                            target.iter_mut().zip(source).for_each(write);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Shape of a decoded clip of `count` frames, if it is not too large to be kept.
    pub(super) fn decoded_shape(&self, count: usize, channels: usize) -> Result<Vec<usize>> {
        let side = self.resize_pixels;
        if count.saturating_mul(side * side * channels) > MOST_VALUES {
            return Err(Error::refused(
                format!("a clip of {count} frames of {side} x {side} pixels is over 2^28 values"),
                "choose smaller `resize_pixels`, or shorter clips",
            ));
        }
        Ok(vec![count, side, side, channels])
    }

    /// Frames of a decoded clip of this shape.
    pub(super) fn decoded_frames(&self, shape: &[usize], channels: usize) -> Result<usize> {
        let side = self.resize_pixels;
        match *shape {
            [count, ref frame @ ..] if count > 0 && frame == [side, side, channels] => Ok(count),
            _ => Err(Error::Bug(format!("a decoded clip has shape {shape:?}"))),
        }
    }
}

/// The whole number in `0..=most` at a share of them.
fn part(share: f64, most: usize) -> usize {
    ((share * (most as f64 + 1.0)) as usize).min(most)
}

/// The pictures of a clip, at least one.
pub(super) fn pictures<'a>(modality: &str, raw: &'a Raw<'_>) -> Result<&'a [PathBuf]> {
    match raw {
        Raw::Files(files) if files.is_empty() => Err(Error::refused(
            format!("a clip for modality `{modality}` has no frames"),
            "bring its pictures, or leave the sample out",
        )),
        Raw::Files(files) => Ok(files),
        Raw::File(file) => Ok(std::slice::from_ref(file)),
        _ => Err(wrong_kind(modality, "pictures", raw)),
    }
}

/// Reads a picture in grey and brings it to `side` by `side` pixels.
pub(super) fn grey(file: &Path, side: usize) -> Result<Vec<u8>> {
    let read = picture::grey(file)?;
    let size = [read.height(), read.width()];
    square(file, read.into_raw(), size, 1, side)
}

/// Reads a picture in colour and brings it to `side` by `side` pixels.
pub(super) fn rgb(file: &Path, side: usize) -> Result<Vec<u8>> {
    let read = picture::rgb(file)?;
    let size = [read.height(), read.width()];
    square(file, read.into_raw(), size, 3, side)
}

fn square(
    file: &Path,
    pixels: Vec<u8>,
    size: [u32; 2],
    channels: usize,
    side: usize,
) -> Result<Vec<u8>> {
    if size.contains(&0) {
        return Err(Error::data(file, "is a picture without pixels"));
    }
    Ok(resize(pixels, size.map(|side| side as usize), channels, side))
}

/// A value that can be mixed with others.
pub(super) trait Pixel: Copy {
    /// Makes it a number.
    fn number(self) -> f32;

    /// Makes the nearest value of a number.
    fn nearest(number: f32) -> Self;
}

impl Pixel for u8 {
    fn number(self) -> f32 {
        f32::from(self)
    }

    fn nearest(number: f32) -> Self {
        (number + 0.5) as Self
    }
}

impl Pixel for f32 {
    fn number(self) -> f32 {
        self
    }

    fn nearest(number: f32) -> Self {
        number
    }
}

/// Stretches `[height, width, channels]` to `[side, side, channels]`, no side 0.
///
/// Bilinear between the middles of pixels, without a filter before a reduction: the resizing of
/// OpenCV (`INTER_LINEAR`).
pub(super) fn resize<P: Pixel>(
    pixels: Vec<P>,
    size: [usize; 2],
    channels: usize,
    side: usize,
) -> Vec<P> {
    if size == [side; 2] {
        return pixels;
    }
    let [rows, columns] = size.map(|from| neighbours(from, side));
    let mut resized = Vec::with_capacity(side * side * channels);
    for &(upper, lower, down) in &rows {
        for &(left, right, across) in &columns {
            for channel in 0..channels {
                let row = |row: usize| {
                    let start = row * size[1];
                    let [first, second] =
                        [left, right].map(|column| pixels[(start + column) * channels + channel]);
                    mix(first.number(), second.number(), across)
                };
                resized.push(P::nearest(mix(row(upper), row(lower), down)));
            }
        }
    }
    resized
}

fn mix(first: f32, second: f32, share: f32) -> f32 {
    first + (second - first) * share
}

/// The two of `from` pixels between which each of `to` lies, and the share of the second.
fn neighbours(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let last = from - 1;
    let step = from as f64 / to as f64;
    let place = |at: usize| ((at as f64 + 0.5) * step - 0.5).clamp(0.0, last as f64);
    let pair = |place: f64| {
        let first = (place as usize).min(last);
        (first, (first + 1).min(last), (place - first as f64) as f32)
    };
    (0..to).map(|at| pair(place(at))).collect()
}

/// Pictures for tests.
#[cfg(test)]
pub(super) mod fixture {
    use std::path::{Path, PathBuf};

    /// A picture without structure; `picture` of `tests/reference/video.py`.
    pub(crate) fn picture([height, width]: [usize; 2], channels: usize, seed: usize) -> Vec<u8> {
        let pixel = |at: usize| {
            let (row, column) = (at / channels / width, at / channels % width);
            (row * row * 31 + column * 17 + row * column * 7 + at % channels * 89 + seed * 53) % 256
        };
        (0..height * width * channels).map(|at| pixel(at) as u8).collect()
    }

    /// Stores a picture of one or three channels as PNM.
    pub(crate) fn stored(file: &Path, [height, width]: [usize; 2], pixels: &[u8]) {
        let kind = if pixels.len() == height * width { 5 } else { 6 };
        let header = format!("P{kind} {width} {height} 255\n");
        std::fs::write(file, [header.as_bytes(), pixels].concat()).unwrap();
    }

    /// Stores `count` grey pictures of the same size.
    pub(crate) fn clip(folder: &Path, size: [usize; 2], count: usize) -> Vec<PathBuf> {
        let store = |seed| {
            let file = folder.join(format!("{seed:05}.pnm"));
            stored(&file, size, &picture(size, 1, seed));
            file
        };
        (0..count).map(store).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::super::sound::fixture::reference;
    use super::super::util::draw;
    use super::*;

    /// Four frames of 3 x 3 from frames of 5 x 5.
    fn small() -> Sampling {
        Sampling {
            frames: 4,
            every: 1,
            short: Short::Repeat,
            training: Training::Drawn,
            evaluation: Evaluation::Centre,
            resize_pixels: 5,
            crop_pixels: 3,
            flip_probability: 0.0,
        }
    }

    #[test]
    fn evaluation_takes_the_middle_or_the_whole() {
        let seen = |sampling: &Sampling, available| {
            let view = sampling.view(available, Mode::Evaluation, &draw(0, 0));
            assert_eq!((view.corner, view.flipped), ([1, 1], false));
            view.frames
        };
        let centre = small();
        assert_eq!(seen(&centre, 4), [0, 1, 2, 3]);
        assert_eq!(seen(&centre, 9), [2, 3, 4, 5]);
        assert_eq!(seen(&Sampling { every: 2, ..small() }, 9), [1, 3, 5, 7]);
        let spread = Sampling { evaluation: Evaluation::Spread, every: 3, ..small() };
        assert_eq!(seen(&spread, 4), [0, 1, 2, 3]);
        assert_eq!(seen(&spread, 12), [1, 4, 7, 10]);
        assert_eq!(seen(&spread, 2), [0, 0, 1, 1]);
    }

    #[test]
    fn short_clips_are_repeated_or_end_in_their_last_frame() {
        let seen = |short, every, available| {
            let sampling = Sampling { every, short, ..small() };
            sampling.view(available, Mode::Training, &draw(0, 0)).frames
        };
        assert_eq!(seen(Short::Repeat, 1, 3), [0, 1, 2, 0]);
        assert_eq!(seen(Short::PadLast, 1, 3), [0, 1, 2, 2]);
        assert_eq!(seen(Short::Repeat, 2, 5), [0, 2, 4, 1]);
        assert_eq!(seen(Short::PadLast, 2, 5), [0, 2, 4, 4]);
        assert_eq!(seen(Short::Repeat, 7, 1), [0; 4]);
        assert_eq!(seen(Short::PadLast, 7, 1), [0; 4]);
    }

    #[test]
    fn training_reaches_every_start_and_corner_equally() {
        // The released code: 64 of 80 frames, 224 of 256 pixels.
        let sampling = Sampling {
            frames: 64,
            resize_pixels: 256,
            crop_pixels: 224,
            flip_probability: 0.25,
            ..small()
        };
        let (mut starts, mut rows, mut flips) = ([0; 17], [0; 33], 0);
        for epoch in 0..6_600 {
            let view = sampling.view(80, Mode::Training, &draw(epoch, 3));
            starts[view.frames[0]] += 1;
            rows[view.corner[0]] += 1;
            flips += u32::from(view.flipped);
            assert_eq!(view.frames[63], view.frames[0] + 63);
            // Another length and another modality see the same place.
            let other = Draw { modality: "other", ..draw(epoch, 3) };
            let other = sampling.view(79, Mode::Training, &other);
            assert_eq!((other.corner, other.flipped), (view.corner, view.flipped));
            assert!(other.frames[0].abs_diff(view.frames[0]) <= 1);
        }
        // 388 and 200 expected, deviations 19 and 14; 1650 flips, deviation 35: five of each.
        assert!(starts.iter().all(|count| (293..=483).contains(count)), "{starts:?}");
        assert!(rows.iter().all(|count| (130..=270).contains(count)), "{rows:?}");
        assert!((1_475..=1_825).contains(&flips), "{flips}");
    }

    #[test]
    fn a_square_is_cut_out_of_each_channel_and_mirrored() {
        let sampling = Sampling { frames: 2, resize_pixels: 3, crop_pixels: 2, ..small() };
        // Channel 0 counts the pixels, channel 1 is 100 above it; the second frame 10 above.
        let frame = |place: usize| -> Result<Cow<'static, [u8]>> {
            let pair = |at: usize| [at as u8, 100 + at as u8].map(|value| value + 10 * place as u8);
            Ok(Cow::Owned((0..9).flat_map(pair).collect::<Vec<u8>>()))
        };
        let filled = |flipped| {
            let view = View { frames: vec![1, 0], corner: [1, 0], flipped };
            let mut out = [f32::NAN; 16];
            let values =
                [0, 1].map(|of| move |pixel: &[u8; 2]| f32::from(pixel[of]) - 100.0 * of as f32);
            sampling.fill(&view, &mut out, frame, &values).unwrap();
            out.map(|value| value as i32)
        };
        let half = [13, 14, 16, 17, 3, 4, 6, 7];
        assert_eq!(filled(false), [half, half].concat()[..]);
        let half = [14, 13, 17, 16, 4, 3, 7, 6];
        assert_eq!(filled(true), [half, half].concat()[..]);
    }

    #[test]
    fn resizing_mixes_neighbours_by_their_distance() {
        // Places -0.25, 0.25, 0.75, 1.25 between two pixels.
        let row: [u8; 4] = [0, 25, 75, 100];
        assert_eq!(resize(vec![0u8, 100], [1, 2], 1, 4), [row; 4].concat());
        // A place in the middle of a reduction by two mixes four.
        assert_eq!(resize(vec![0u8, 10, 20, 31], [2, 2], 1, 1), [15]);
        let wide = resize(vec![-1.0f32, 8.0, 1.0, 4.0], [1, 2], 2, 2);
        assert_eq!(
            wide.iter().map(|value| *value as i32).collect::<Vec<_>>(),
            [-1, 8, 1, 4, -1, 8, 1, 4]
        );
    }

    #[test]
    fn resizing_is_that_of_opencv() {
        for (name, size, channels, side) in [
            ("resize_37_53_3_to_64", [37, 53], 3, 64),
            ("resize_120_160_1_to_64", [120, 160], 1, 64),
            ("resize_64_64_1_to_32", [64, 64], 1, 32),
            ("resize_50_31_1_to_48", [50, 31], 1, 48),
        ] {
            let (shape, expected) = reference("video.safetensors", name);
            assert_eq!(shape, [side as i64, side as i64, channels as i64]);
            let found = resize(fixture::picture(size, channels, 0), size, channels, side);
            let apart = |(found, expected): (&u8, &f32)| (f32::from(*found) - expected).abs();
            // OpenCV computes in whole numbers: an eighth of the pixels is a level apart.
            assert!(found.iter().zip(&expected).map(apart).all(|apart| apart <= 1.0), "{name}");
            let unequal = found.iter().zip(&expected).map(apart).filter(|apart| *apart > 0.5);
            assert!(unequal.count() * 6 < expected.len(), "{name}");
        }
        let (_, expected) = reference("video.safetensors", "resize_flow_15_20_2_to_32");
        let picture = fixture::picture([15, 20], 2, 0);
        let flow = picture.iter().map(|&p| f32::from(p) / 8.0 - 16.0);
        let found = resize(flow.collect(), [15, 20], 2, 32);
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn unusable_options_and_clips_are_refused() {
        let refusal = |sampling: Sampling| sampling.validate(3).unwrap_err().to_string();
        let none = refusal(Sampling { frames: 0, ..small() });
        assert_eq!(none, "`frames` is 0, expected [1, 4096]");
        let wide = refusal(Sampling { crop_pixels: 6, ..small() });
        assert_eq!(wide, "`crop_pixels` is 6, expected [1, resize_pixels]");
        let large = Sampling { frames: 4096, resize_pixels: 4096, crop_pixels: 4096, ..small() };
        assert!(refusal(large.clone()).contains("`frames` is 4096, expected small enough"));
        assert!(large.decoded_shape(usize::MAX, 1).is_err());
        assert!(refusal(Sampling { flip_probability: f64::NAN, ..small() }).contains("is NaN"));
        let empty = Raw::Files(Vec::new());
        let error = pictures("clip", &empty).unwrap_err().to_string();
        assert!(error.starts_with("a clip for modality `clip` has no frames"), "{error}");
        assert!(pictures("clip", &Raw::Text("a film")).is_err());
        assert!(small().decoded_frames(&[0, 5, 5, 3], 3).is_err());
        assert_eq!(small().decoded_frames(&[7, 5, 5, 3], 3).unwrap(), 7);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_view_lies_within_the_clip(
            (frames, every, available) in (1usize..70, 1usize..9, 1usize..400),
            (crop, margin) in (1usize..9, 0usize..9),
            (repeat, training, from_start) in any::<(bool, bool, bool)>(),
            evaluation in 0..3_usize,
            epoch in any::<u64>(),
        ) {
            let sampling = Sampling {
                frames,
                every,
                short: if repeat { Short::Repeat } else { Short::PadLast },
                training: if from_start { Training::Start } else { Training::Drawn },
                evaluation: [Evaluation::Centre, Evaluation::Start, Evaluation::Spread][evaluation],
                resize_pixels: crop + margin,
                crop_pixels: crop,
                flip_probability: 0.5,
            };
            let mode = if training { Mode::Training } else { Mode::Evaluation };
            let view = sampling.view(available, mode, &draw(epoch, 1));
            prop_assert_eq!(view.frames.len(), frames);
            prop_assert!(view.frames.iter().all(|&place| place < available));
            prop_assert!(view.corner.iter().all(|&side| side <= margin));
        }

        #[test]
        fn any_picture_can_be_resized(
            (height, width, channels, side) in (1usize..20, 1usize..20, 1usize..4, 1usize..40),
        ) {
            let pixels = fixture::picture([height, width], channels, 1);
            let (least, most) = (pixels.iter().min().copied(), pixels.iter().max().copied());
            let resized = resize(pixels, [height, width], channels, side);
            prop_assert_eq!(resized.len(), side * side * channels);
            prop_assert!(resized.iter().min() >= least.as_ref());
            prop_assert!(resized.iter().max() <= most.as_ref());
        }
    }
}
