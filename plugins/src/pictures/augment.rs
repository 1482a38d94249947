//! Random changes of colour and place of a training picture.

use mie_core::prelude::*;
use rand::RngExt;

use super::Picture;

/// A few operations, drawn from ten, on a training picture after crop and flip.
///
/// As the released code of MIE for its text-image sets (`RandAugment`, Cubuk et al. 2020, in a form
/// with an own probability of each operation): `operations` are drawn with replacement from
/// identity, automatic contrast, equalisation, brightness, sharpness, shear and translation in
/// either direction, and rotation, and each is applied with `probability`. With `s = level / 10`:
///
/// ```text
/// brightness, sharpness   factor 0.1 + 1.8 s         1.36 at level 7
/// shear                   +-0.3 s                    +-0.21
/// translation             +-10 s pixels              +-7
/// rotation                +-30 s degrees             +-21, about (width / 2, height / 2)
/// ```
///
/// Signs are drawn. Moved pixels are interpolated bilinearly, the way OpenCV does it; what comes in
/// from outside has the value 128. One deviation: the released sharpening wraps values above 255
/// around to 0, here they are cut off at 255, as in Pillow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operations drawn for a picture, at most 16. Default 2, that of the released code.
    pub operations: usize,
    /// Strength on the scale `[0, 10]`. Default 7, that of the released code.
    pub level: f64,
    /// Probability with which a drawn operation is applied. Default 0.5, that of the released code.
    pub probability: f64,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { operations: 2, level: 7.0, probability: 0.5 }
    }
}

/// Value of what comes in from outside.
const OUTSIDE: f32 = 128.0;

/// An operation with its parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Operation {
    Identity,
    AutoContrast,
    Equalize,
    /// By this factor.
    Brightness(f64),
    /// By this factor, away from a blurred picture.
    Sharpness(f64),
    /// To the right by this many pixels a row.
    ShearX(f64),
    /// Downwards by this many pixels a column.
    ShearY(f64),
    /// To the right by this many pixels.
    TranslateX(f64),
    /// Downwards by this many pixels.
    TranslateY(f64),
    /// Against the clock by this many degrees.
    Rotate(f64),
}

/// Operations to draw from.
const OPERATIONS: usize = 10;

impl RandAugment {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the option that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let count = self.operations;
        ensure_range("rand_augment.operations", "[0, 16]", count, count <= 16)?;
        let usable = (0.0..=10.0).contains(&self.level);
        ensure_range("rand_augment.level", "[0, 10]", self.level, usable)?;
        let usable = (0.0..=1.0).contains(&self.probability);
        ensure_range("rand_augment.probability", "[0, 1]", self.probability, usable)
    }

    /// Draws operations and applies them.
    pub fn apply(&self, picture: &mut Picture<'_>, stream: &mut Stream) {
        for _ in 0..self.operations {
            let number = stream.random_range(0..OPERATIONS);
            let applied = stream.random::<f64>() < self.probability;
            let sign = if stream.random::<f64>() < 0.5 { -1.0 } else { 1.0 };
            if applied {
                operation(number, self.level / 10.0, sign).apply(picture);
            }
        }
    }
}

/// The operation of this number, from 0, at a strength in `[0, 1]`.
fn operation(number: usize, strength: f64, sign: f64) -> Operation {
    let factor = 0.1 + 1.8 * strength;
    match number {
        0 => Operation::AutoContrast,
        1 => Operation::Equalize,
        2 => Operation::Brightness(factor),
        3 => Operation::Sharpness(factor),
        4 => Operation::ShearX(sign * 0.3 * strength),
        5 => Operation::ShearY(sign * 0.3 * strength),
        6 => Operation::TranslateX(sign * 10.0 * strength),
        7 => Operation::TranslateY(sign * 10.0 * strength),
        8 => Operation::Rotate(sign * 30.0 * strength),
        _ => Operation::Identity,
    }
}

impl Operation {
    fn apply(self, picture: &mut Picture<'_>) {
        match self {
            Self::Identity => {}
            Self::AutoContrast => by_histogram(picture, stretched),
            Self::Equalize => by_histogram(picture, equalised),
            Self::Brightness(factor) => {
                let brighter = |value: usize| (value as f32 * factor as f32).min(255.0) as u8;
                let table: [u8; 256] = std::array::from_fn(brighter);
                for value in picture.pixels_mut() {
                    *value = table[usize::from(*value)];
                }
            }
            Self::Sharpness(factor) => sharpen(picture, factor as f32),
            // Where a pixel of the result comes from is the inverse of where one goes to.
            Self::ShearX(shear) => warp(picture, [[1.0, -shear, 0.0], [0.0, 1.0, 0.0]]),
            Self::ShearY(shear) => warp(picture, [[1.0, 0.0, 0.0], [-shear, 1.0, 0.0]]),
            Self::TranslateX(right) => warp(picture, [[1.0, 0.0, -right], [0.0, 1.0, 0.0]]),
            Self::TranslateY(down) => warp(picture, [[1.0, 0.0, 0.0], [0.0, 1.0, -down]]),
            Self::Rotate(degrees) => {
                let (sine, cosine) = degrees.to_radians().sin_cos();
                let [y, x] = picture.size().map(|side| side as f64 / 2.0);
                warp(
                    picture,
                    [
                        [cosine, -sine, x - cosine * x + sine * y],
                        [sine, cosine, y - sine * x - cosine * y],
                    ],
                );
            }
        }
    }
}

/// Maps the values of each channel by a table made of how often each occurs.
fn by_histogram(picture: &mut Picture<'_>, table: impl Fn(&[usize; 256]) -> Option<[u8; 256]>) {
    let channels = picture.channels();
    for channel in 0..channels {
        let mut histogram = [0; 256];
        for &value in picture.pixels().iter().skip(channel).step_by(channels) {
            histogram[usize::from(value)] += 1;
        }
        let Some(table) = table(&histogram) else { continue };
        for value in picture.pixels_mut().iter_mut().skip(channel).step_by(channels) {
            *value = table[usize::from(*value)];
        }
    }
}

/// Stretches what lies between the least and the largest value to `[0, 255]`.
fn stretched(histogram: &[usize; 256]) -> Option<[u8; 256]> {
    let least = histogram.iter().position(|&count| count > 0)?;
    let most = histogram.iter().rposition(|&count| count > 0)?;
    if least >= most {
        return None;
    }
    let scale = 255.0 / (most - least) as f64;
    let offset = -(least as f64) * scale;
    // Casts cut off the fraction and what lies outside [0, 255].
    Some(std::array::from_fn(|value| (value as f64 * scale + offset) as u8))
}

/// Spreads the values so that each occurs about as often.
fn equalised(histogram: &[usize; 256]) -> Option<[u8; 256]> {
    let last = histogram.iter().rfind(|&&count| count > 0)?;
    let step = (histogram.iter().sum::<usize>() - last) / 255;
    if step == 0 {
        return None;
    }
    let mut below = step / 2;
    let mut table = [0; 256];
    for (entry, count) in table.iter_mut().zip(histogram) {
        *entry = (below / step).min(255) as u8;
        below += count;
    }
    Some(table)
}

/// Moves each pixel but those of the border away from a blurred one (3 x 3, the middle weighs 5).
fn sharpen(picture: &mut Picture<'_>, factor: f32) {
    let channels = picture.channels();
    let [height, width] = picture.size();
    let line = width * channels;
    let old = picture.pixels().to_vec();
    let new = picture.pixels_mut();
    for row in 1..height.saturating_sub(1) {
        for place in row * line + channels..(row + 1) * line - channels {
            let around = |middle: usize| {
                [middle - channels, middle, middle + channels]
                    .map(|place| u32::from(old[place]))
                    .iter()
                    .sum::<u32>()
            };
            let sum = around(place - line) + around(place) + around(place + line);
            let sum = sum + 4 * u32::from(old[place]);
            // Rounded to the nearest; 13 is odd, so none lies half-way.
            let blurred = ((2 * sum + 13) / 26) as f32;
            new[place] = (blurred + factor * (f32::from(old[place]) - blurred)) as u8;
        }
    }
}

/// Takes each pixel from where `origin` says, `[x, y] = origin [x', y', 1]`.
fn warp(picture: &mut Picture<'_>, origin: [[f64; 3]; 2]) {
    let channels = picture.channels();
    let [height, width] = picture.size();
    let old = picture.pixels().to_vec();
    let at = |x: i64, y: i64, channel: usize| {
        let inside = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
        if inside {
            f32::from(old[(y as usize * width + x as usize) * channels + channel])
        } else {
            OUTSIDE
        }
    };
    for (position, pixel) in picture.pixels_mut().chunks_exact_mut(channels).enumerate() {
        let (row, column) = ((position / width) as f64, (position % width) as f64);
        let [x, y] = origin.map(|[a, b, c]| a * column + b * row + c);
        let (left, top) = (x.floor(), y.floor());
        let (right_share, low_share) = ((x - left) as f32, (y - top) as f32);
        let (left, top) = (left as i64, top as i64);
        for (channel, value) in pixel.iter_mut().enumerate() {
            let row = |y: i64| {
                let (a, b) = (at(left, y, channel), at(left + 1, y, channel));
                a + right_share * (b - a)
            };
            let (high, low) = (row(top), row(top + 1));
            *value = (high + low_share * (low - high)).round() as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::super::fixture::{bytes, differences, picture, reference};
    use super::*;

    fn stream(number: u64) -> Stream {
        Seed(0).stream(Purpose::Augmentation, "made_up", &[number])
    }

    /// The dim picture of `tests/reference/pictures.py`.
    fn dim() -> Picture<'static> {
        let mut dim = picture(30, 40, true);
        for value in dim.pixels_mut() {
            *value = (u16::from(*value) * 5 / 8 + 20) as u8;
        }
        dim
    }

    #[test]
    fn operations_give_what_pillow_and_opencv_give() {
        let reference = reference();
        let colour = [
            ("auto_contrast", Operation::AutoContrast),
            ("equalize", Operation::Equalize),
            ("brightness", Operation::Brightness(1.36)),
            ("sharpness", Operation::Sharpness(1.36)),
        ];
        let place = [
            ("shear_x", Operation::ShearX(0.21)),
            ("shear_y", Operation::ShearY(-0.21)),
            ("translate_x", Operation::TranslateX(-7.0)),
            ("translate_y", Operation::TranslateY(7.0)),
            ("rotate", Operation::Rotate(21.0)),
        ];
        for (kind, original) in [("dim", dim()), ("sharp", picture(30, 40, false))] {
            let found = |name: &str, operation: Operation| {
                let mut changed = original.clone();
                operation.apply(&mut changed);
                // The sharp picture has full contrast already.
                let same = kind == "sharp" && name == "auto_contrast";
                assert_eq!(changed == original, same, "{kind} {name}");
                differences(changed.pixels(), &bytes(&reference, &format!("{kind} {name}")))
            };
            for (name, operation) in colour {
                // Of Pillow 12.3. Sharpness is arithmetic of f32, which may be cut off elsewhere.
                let (largest, share) = found(name, operation);
                assert!(largest <= 1 && share <= 0.001, "{kind} {name}: {largest}, {share}");
            }
            for (name, operation) in place {
                // Of OpenCV 5.0, whose weights are f32; halves are rounded to one side or another.
                let (largest, share) = found(name, operation);
                assert!(largest <= 1 && share <= 0.02, "{kind} {name}: {largest}, {share}");
            }
        }
    }

    #[test]
    fn level_seven_means_what_the_released_code_takes() {
        let at = |number, sign| operation(number, 0.7, sign);
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12);
        for (number, expected) in [(2, 1.36), (3, 1.36), (4, 0.21), (5, 0.21), (6, 7.0), (7, 7.0)] {
            match at(number, 1.0) {
                Operation::Brightness(found)
                | Operation::Sharpness(found)
                | Operation::ShearX(found)
                | Operation::ShearY(found)
                | Operation::TranslateX(found)
                | Operation::TranslateY(found) => close(found, expected),
                other => panic!("{other:?}"),
            }
        }
        let Operation::Rotate(degrees) = at(8, -1.0) else { panic!("it does not rotate") };
        close(degrees, -21.0);
        assert_eq!(at(OPERATIONS - 1, 1.0), Operation::Identity);
    }

    #[test]
    fn every_operation_is_drawn_as_often_and_half_of_them_applied() {
        let original = picture(12, 15, true);
        let unchanged = |config: &RandAugment| {
            let same = |number: &u64| {
                let mut changed = original.clone();
                config.apply(&mut changed, &mut stream(*number));
                changed == original
            };
            (0..2_000).filter(same).count() as f64 / 2_000.0
        };
        let one = RandAugment { operations: 1, ..RandAugment::default() };
        // Not applied, or the identity, or an equalisation of too few pixels; the deviation of a
        // share of 2,000 draws is at most 0.0112.
        assert!((unchanged(&one) - (0.5 + 0.5 * 0.2)).abs() < 0.056);
        let two = RandAugment { operations: 2, ..one };
        assert!((unchanged(&two) - 0.6 * 0.6).abs() < 0.056);
        assert!(unchanged(&RandAugment { probability: 0.0, ..two }) > 0.999);
    }

    proptest! {
        #[test]
        fn pictures_of_any_shape_are_changed_the_same_way_twice(
            (height, width) in (1..24_usize, 1..24_usize),
            grey in any::<bool>(),
            number in any::<u64>(),
        ) {
            let channels = if grey { 1 } else { 3 };
            let config = RandAugment { operations: 16, level: 10.0, probability: 1.0 };
            for size @ [height, width] in [[height, width], [1, width], [height, 1], [1, 1]] {
                let count = height * width * channels;
                let pixels: Vec<u8> = (0..count).map(|place| (place * 37 % 256) as u8).collect();
                let changed = || {
                    let mut picture = Picture::new(size, channels, pixels.clone()).unwrap();
                    config.apply(&mut picture, &mut stream(number));
                    picture
                };
                prop_assert_eq!(changed(), changed());
            }
        }
    }

    #[test]
    fn one_colour_has_no_contrast_to_stretch() {
        for operation in [Operation::AutoContrast, Operation::Equalize, Operation::Sharpness(1.9)] {
            let mut plain = Picture::new([9, 40], 3, [7_u8, 70, 200].repeat(360)).unwrap();
            let before = plain.clone();
            operation.apply(&mut plain);
            assert_eq!(plain, before, "{operation:?}");
        }
    }

    #[test]
    fn options_out_of_their_range_are_refused() {
        let usual = RandAugment::default();
        usual.validate().unwrap();
        let wrong = [
            RandAugment { operations: 17, ..usual },
            RandAugment { level: -1.0, ..usual },
            RandAugment { probability: f64::NAN, ..usual },
        ];
        for (config, field) in wrong.iter().zip(["operations", "level", "probability"]) {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`rand_augment.{field}` is ")), "{error}");
        }
    }
}
