//! What the modalities of pictures share: size, crops, augmentation and normalisation.

pub mod augment;
pub mod crop;
pub mod normalise;
pub mod resize;

use std::borrow::Cow;
use std::path::Path;

use mie_core::prelude::*;

use crate::formats::picture;

/// Longest side of a picture, in pixels, so that its size never overflows.
pub const LONGEST_SIDE: usize = 1 << 14;

/// An 8-bit picture of one or three channels: row by row, the channels of a pixel side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture<'a> {
    height: usize,
    width: usize,
    channels: usize,
    pixels: Cow<'a, [u8]>,
}

impl<'a> Picture<'a> {
    /// Makes a picture of `[height, width]`.
    ///
    /// # Errors
    /// When a side is 0 or above [`LONGEST_SIDE`], or the pixels are not as many as the sides say.
    pub fn new(
        [height, width]: [usize; 2],
        channels: usize,
        pixels: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Self> {
        let pixels = pixels.into();
        let usable = [height, width].iter().all(|side| (1..=LONGEST_SIDE).contains(side));
        if !usable || !matches!(channels, 1 | 3) {
            let expected = "sides in [1, 16384] and 1 or 3 channels";
            return Err(Error::Shape {
                what: "picture, [height, width, channels]".to_owned(),
                expected: expected.to_owned(),
                found: format!("{:?}", [height, width, channels]),
            });
        }
        let count = height * width * channels;
        if pixels.len() != count {
            let what = format!("values of a picture of {height} x {width} pixels");
            return Err(Error::shape(what, count, pixels.len()));
        }
        Ok(Self { height, width, channels, pixels })
    }

    /// Lends a decoded array `[height, width, channels]`.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(decoded: DecodedView<'a>) -> Result<Self> {
        match *decoded.shape {
            [height, width, channels] => Self::new([height, width], channels, decoded.u8()?),
            ref shape => Err(Error::Bug(format!("a decoded picture has the shape {shape:?}"))),
        }
    }

    /// The picture as an array `[height, width, channels]`.
    pub fn into_decoded(self) -> Decoded {
        Decoded {
            shape: vec![self.height, self.width, self.channels],
            values: Values::U8(self.pixels.into_owned()),
        }
    }

    /// The picture with pixels of its own.
    pub fn into_owned(self) -> Picture<'static> {
        let Self { height, width, channels, pixels } = self;
        Picture { height, width, channels, pixels: Cow::Owned(pixels.into_owned()) }
    }

    /// The same picture, its pixels lent.
    pub fn lend(&self) -> Picture<'_> {
        let pixels = Cow::Borrowed(&*self.pixels);
        Picture { height: self.height, width: self.width, channels: self.channels, pixels }
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Values of a pixel: 1 or 3.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The values, row by row.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The values, to be changed.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        self.pixels.to_mut()
    }

    /// Swaps left and right.
    pub fn mirror(&mut self) {
        let (length, channels) = (self.width * self.channels, self.channels);
        for line in self.pixels_mut().chunks_exact_mut(length) {
            if channels == 3 {
                line.as_chunks_mut::<3>().0.reverse();
            } else {
                line.reverse();
            }
        }
    }
}

/// Reads a file as grey, see [`picture::grey`].
///
/// # Errors
/// Names the file that cannot be read or is no picture.
pub fn grey(file: &Path) -> Result<Picture<'static>> {
    let read = picture::grey(file)?;
    of_file(file, read.dimensions(), 1, read.into_raw())
}

/// Reads a file as red, green and blue, see [`picture::rgb`].
///
/// # Errors
/// Names the file that cannot be read or is no picture.
pub fn rgb(file: &Path) -> Result<Picture<'static>> {
    let read = picture::rgb(file)?;
    of_file(file, read.dimensions(), 3, read.into_raw())
}

fn of_file(
    file: &Path,
    (width, height): (u32, u32),
    channels: usize,
    pixels: Vec<u8>,
) -> Result<Picture<'static>> {
    Picture::new([height as usize, width as usize], channels, pixels)
        .map_err(|problem| Error::data(file, problem.to_string()))
}

/// Checks the height and width that pictures get.
///
/// # Errors
/// Names the side that is 0 or too long.
pub fn ensure_sides(height: usize, width: usize) -> Result<()> {
    for (field, side) in [("height", height), ("width", width)] {
        ensure_range(field, "[1, 16384]", side, (1..=LONGEST_SIDE).contains(&side))?;
    }
    Ok(())
}

/// Checks how often training pictures are mirrored.
///
/// # Errors
/// When it is no probability.
pub fn ensure_flip(probability: f64) -> Result<()> {
    let usable = (0.0..=1.0).contains(&probability);
    ensure_range("flip_probability", "[0, 1]", probability, usable)
}

/// Pictures for tests and what other programs make of them.
#[cfg(test)]
pub(crate) mod fixture {
    use mie_core::prelude::*;

    use super::Picture;

    /// The picture without meaning of `tests/reference/pictures.py`.
    pub(crate) fn picture(height: usize, width: usize, smooth: bool) -> Picture<'static> {
        let value = |y: usize, x: usize, c: usize| {
            // `11 - 2 c` may not be computed first: c is unsigned.
            let value = x * (7 + 3 * c) + y * 11 - y * 2 * c + x * y / (2 + c);
            let folded = value % 512;
            let value = if smooth { folded.min(511 - folded) } else { value * 3 % 256 };
            value as u8
        };
        let mut pixels = Vec::new();
        for y in 0..height {
            for x in 0..width {
                pixels.extend((0..3).map(|c| value(y, x, c)));
            }
        }
        Picture::new([height, width], 3, pixels).unwrap()
    }

    /// Its first channel.
    pub(crate) fn grey(height: usize, width: usize) -> Picture<'static> {
        let colours = picture(height, width, false);
        let pixels: Vec<u8> = colours.pixels().iter().copied().step_by(3).collect();
        Picture::new([height, width], 1, pixels).unwrap()
    }

    /// What Pillow, torchvision and OpenCV made of them, by name.
    pub(crate) fn reference() -> Vec<(String, Tensor)> {
        let file =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/data/pictures.safetensors");
        Tensor::read_safetensors(file).unwrap()
    }

    /// The 8-bit values of one of them.
    pub(crate) fn bytes(reference: &[(String, Tensor)], name: &str) -> Vec<u8> {
        let (_, tensor) = reference.iter().find(|(found, _)| found == name).unwrap();
        Vec::try_from(tensor.reshape([-1])).unwrap()
    }

    /// Largest difference, and the share of values that differ.
    pub(crate) fn differences(found: &[u8], expected: &[u8]) -> (u8, f64) {
        assert_eq!(found.len(), expected.len());
        let apart = || found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
        let different = apart().filter(|&apart| apart > 0).count();
        (apart().max().unwrap_or(0), different as f64 / found.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_swaps_pixels_and_keeps_their_channels() {
        let mut colours = Picture::new([2, 2], 3, (0..12).collect::<Vec<u8>>()).unwrap();
        colours.mirror();
        assert_eq!(colours.pixels(), [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
        let lent = [1_u8, 2, 3];
        let mut grey = Picture::new([1, 3], 1, &lent[..]).unwrap();
        grey.mirror();
        assert_eq!((grey.pixels(), lent), (&[3, 2, 1][..], [1, 2, 3]));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let refusal =
            |size, channels| Picture::new(size, channels, vec![0_u8; 12]).unwrap_err().to_string();
        assert_eq!(
            refusal([0, 4], 3),
            "picture, [height, width, channels]: expected sides in [1, 16384] and 1 or 3 \
             channels, found [0, 4, 3]"
        );
        assert!(refusal([3, 2], 2).contains("found [3, 2, 2]"));
        assert!(refusal([usize::MAX, usize::MAX], 3).contains("16384"));
        assert_eq!(
            refusal([5, 1], 3),
            "values of a picture of 5 x 1 pixels: expected 15, found 12"
        );
        let decoded = Decoded { shape: vec![12], values: Values::U8(vec![0; 12]) };
        assert!(matches!(Picture::of(decoded.view()), Err(Error::Bug(_))));
    }

    #[test]
    fn an_array_holds_what_the_picture_did() {
        let picture = fixture::picture(3, 5, true);
        let decoded = picture.lend().into_decoded();
        assert_eq!(decoded.shape, [3, 5, 3]);
        assert_eq!(Picture::of(decoded.view()).unwrap(), picture);
    }
}
