//! Grey pictures, normalised.

use mie_core::prelude::*;
use rand::RngExt;

use crate::formats::picture;

use super::util::{add_noise, ensure_noise, wrong_kind};

/// Scales and normalises 8-bit grey pictures.
///
/// With `p` the pixels and `n` a Gaussian picture of deviation `noise_deviation`:
///
/// ```text
/// value = (p / 255 + n - mean) / deviation
/// ```
///
/// The noise belongs to the sample: it is drawn once from the seed of the run and the same in
/// every epoch and mode. In training the picture moves by up to `shift_pixels` in each direction;
/// what comes in from outside is black.
///
/// A file is read as PNG, JPEG or PNM; colours become luma (ITU-R BT.709).
///
/// Shapes: `value` `[1, height, width]` f32.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// Height of the pictures in pixels, at least 1. Default 28, that of MNIST.
    pub height: usize,
    /// Width of the pictures in pixels, at least 1. Default 28, that of MNIST.
    pub width: usize,
    /// Mean grey value on the scale `[0, 1]`. Default 0.1307, that of MNIST's training pictures.
    pub mean: f64,
    /// Deviation of the grey values on the scale `[0, 1]`, above 0. Default 0.3081, that of
    /// MNIST's training pictures.
    pub deviation: f64,
    /// Deviation of the added noise on the scale `[0, 1]`, at least 0. Default 0, no noise.
    pub noise_deviation: f64,
    /// Furthest that a training picture moves, in pixels. Default 0, not at all.
    pub shift_pixels: usize,
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            height: 28,
            width: 28,
            mean: 0.1307,
            deviation: 0.3081,
            noise_deviation: 0.0,
            shift_pixels: 0,
        }
    }
}

/// Longest side, so that a picture's size never overflows.
const LONGEST_SIDE: usize = 1 << 14;

#[typetag::serde(name = "image")]
impl ModalityConfig for ImageConfig {
    fn validate(&self) -> Result<()> {
        for (field, side) in [("height", self.height), ("width", self.width)] {
            ensure_range(field, "[1, 16384]", side, (1..=LONGEST_SIDE).contains(&side))?;
        }
        ensure_range("mean", "a finite number", self.mean, self.mean.is_finite())?;
        let usable = self.deviation > 0.0 && self.deviation.is_finite();
        ensure_range("deviation", "(0, inf)", self.deviation, usable)?;
        ensure_noise(self.noise_deviation)?;
        let shift = self.shift_pixels;
        ensure_range("shift_pixels", "[0, 16384]", shift, shift <= LONGEST_SIDE)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        Ok(Box::new(Image { config: self.clone() }))
    }
}
register!(modality::<ImageConfig>, source = "LeCun et al. 1998 (MNIST); normalisation: ours");

struct Image {
    config: ImageConfig,
}

impl Modality for Image {
    fn layout(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[1, self.config.height as i64, self.config.width as i64])
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let read;
        let (width, height, pixels) = match raw {
            &Raw::Grey { width, height, pixels } => (width, height, pixels),
            Raw::File(file) => {
                read = picture::grey(file)?;
                let (width, height) = read.dimensions();
                (width as usize, height as usize, read.as_raw().as_slice())
            }
            _ => return Err(wrong_kind("image", "grey pixels or a picture", raw)),
        };
        let expected = [self.config.height, self.config.width];
        if [height, width] != expected || pixels.len() != height * width {
            let what = format!("picture of `{}` (options `height`, `width`)", draw.modality);
            return Err(Error::shape(what, expected, [height, width]));
        }
        let mut picture: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        add_noise(&mut picture, self.config.noise_deviation, draw);
        let [down, right] = self.shift(mode, draw);
        let (mean, deviation) = (self.config.mean as f32, self.config.deviation as f32);
        for (position, value) in out.f32(0)?.iter_mut().enumerate() {
            let row = (position / width).checked_add_signed(-down).filter(|&row| row < height);
            let column = (position % width).checked_add_signed(-right).filter(|&c| c < width);
            let grey = match (row, column) {
                (Some(row), Some(column)) => picture[row * width + column],
                _ => 0.0,
            };
            *value = (grey - mean) / deviation;
        }
        Ok(())
    }
}

impl Image {
    /// How far the picture moves down and to the right, in pixels.
    fn shift(&self, mode: Mode, draw: &Draw<'_>) -> [isize; 2] {
        let furthest = self.config.shift_pixels as i64;
        match mode {
            Mode::Training if furthest > 0 => {
                let mut stream = draw.own();
                [(); 2].map(|()| stream.random_range(-furthest..=furthest) as isize)
            }
            _ => [0, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::util::{decode, draw};
    use super::*;

    const PIXELS: [u8; 6] = [0, 51, 102, 153, 204, 255];

    fn picture() -> Raw<'static> {
        Raw::Grey { width: 3, height: 2, pixels: &PIXELS }
    }

    /// Options that leave the values on the scale `[0, 1]`.
    fn plain() -> ImageConfig {
        ImageConfig { height: 2, width: 3, mean: 0.0, deviation: 1.0, ..ImageConfig::default() }
    }

    fn close(found: &[f32], expected: &[f32]) -> bool {
        found.len() == expected.len()
            && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn grey_values_are_scaled_and_normalised() {
        let config = ImageConfig { mean: 0.2, deviation: 0.4, ..plain() };
        let values = decode(&config, &picture(), Mode::Training, &draw(0, 0)).unwrap();
        assert!(close(&values, &[-0.5, 0.0, 0.5, 1.0, 1.5, 2.0]), "{values:?}");
        assert_eq!(config.build().unwrap().layout()[0].shape, [1, 2, 3]);
    }

    #[test]
    fn noise_has_its_deviation_and_stays_with_the_sample() {
        let pixels = [128; 4096];
        let raw = Raw::Grey { width: 64, height: 64, pixels: &pixels };
        let config = ImageConfig { height: 64, width: 64, noise_deviation: 0.5, ..plain() };
        let noisy = |mode, at: Draw<'_>| decode(&config, &raw, mode, &at).unwrap();
        let first = noisy(Mode::Training, draw(0, 1));
        assert!(close(&first, &noisy(Mode::Evaluation, draw(0, 1))));
        assert!(close(&first, &noisy(Mode::Training, draw(9, 1))));
        assert!(!close(&first, &noisy(Mode::Training, draw(0, 2))));
        let grey = 128.0 / 255.0;
        let mean = first.iter().sum::<f32>() / 4096.0;
        let variance = first.iter().map(|value| (value - grey).powi(2)).sum::<f32>() / 4096.0;
        // Standard errors: 0.5 / sqrt(4096) = 0.008 and 0.25 sqrt(2 / 4096) = 0.0055; five of each.
        assert!((mean - grey).abs() < 0.04, "{mean}");
        assert!((variance - 0.25).abs() < 0.028, "{variance}");
    }

    #[test]
    fn training_pictures_move_and_black_comes_in() {
        let config = ImageConfig { shift_pixels: 1, ..plain() };
        let still = decode(&config, &picture(), Mode::Evaluation, &draw(3, 0)).unwrap();
        assert!(close(&still, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]));
        let mut right_alone = false;
        for epoch in 0..64 {
            let moved = decode(&config, &picture(), Mode::Training, &draw(epoch, 0)).unwrap();
            right_alone |= close(&moved, &[0.0, 0.0, 0.2, 0.0, 0.6, 0.8]);
            // Moving loses light at the edges and adds none.
            assert!(moved.iter().sum::<f32>() <= 3.0 + 1e-6);
        }
        // One of nine moves, drawn 64 times: missed with probability 0.0005, and the seed is fixed.
        assert!(right_alone);
    }

    #[test]
    fn other_sizes_and_other_kinds_are_refused() {
        let refusal = |raw: Raw<'_>| {
            let config = ImageConfig::default();
            decode(&config, &raw, Mode::Evaluation, &draw(0, 0)).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(picture()),
            "picture of `made_up` (options `height`, `width`): expected [28, 28], found [2, 3]"
        );
        assert!(
            refusal(Raw::Text("cat"))
                .contains("decodes grey pixels or a picture, the dataset gives text")
        );
        let config = ImageConfig { deviation: 0.0, ..plain() };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "`deviation` is 0, expected (0, inf)"
        );
    }
}
