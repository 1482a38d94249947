//! Which part of a training picture is seen.

use mie_core::prelude::*;
use rand::RngExt;

use super::resize::Region;

/// Which part of a training picture is seen; in evaluation it is the whole one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TrainingCrop {
    /// The whole picture.
    None,
    /// A part of random size, shape and place, resized to `height` x `width`, as torchvision's
    /// `RandomResizedCrop`. `scale` is the least and the largest share of the area, by default
    /// `[0.08, 1.0]`; `ratio` the least and the largest width over height, by default 3/4 and 4/3.
    /// The area is drawn uniformly, the logarithm of the ratio too; after ten parts that do not
    /// fit it is the largest one in the middle that has an allowed ratio.
    RandomResized(RandomResized),
}

/// Part of random size, shape and place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RandomResized {
    /// Least and largest share of the picture's area, in `(0, 1]`. Default `[0.08, 1.0]`.
    pub scale: [f64; 2],
    /// Least and largest width over height, in `[0.01, 100]`. Default `[0.75, 1.3333333333333333]`.
    pub ratio: [f64; 2],
}

impl Default for RandomResized {
    fn default() -> Self {
        Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// Parts that are drawn before the one in the middle is taken.
const TRIES: usize = 10;

impl TrainingCrop {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the range that is none.
    pub fn validate(&self) -> Result<()> {
        let Self::RandomResized(RandomResized { scale, ratio }) = self else { return Ok(()) };
        let inside = |[low, high]: [f64; 2], [least, most]: [f64; 2]| {
            least <= low && low <= high && high <= most
        };
        let usable = inside(*scale, [f64::MIN_POSITIVE, 1.0]);
        let expected = "[low, high] with 0 < low <= high <= 1";
        ensure_range("training_crop.random_resized.scale", expected, pair(*scale), usable)?;
        let usable = inside(*ratio, [0.01, 100.0]);
        let expected = "[low, high] with 0.01 <= low <= high <= 100";
        ensure_range("training_crop.random_resized.ratio", expected, pair(*ratio), usable)
    }

    /// Draws the part of a picture of `[height, width]`, of at least a pixel.
    pub fn draw(&self, size: [usize; 2], stream: &mut Stream) -> Region {
        match self {
            Self::None => Region::whole(size),
            Self::RandomResized(crop) => crop.draw(size, stream),
        }
    }

    /// Whether it takes parts, for which the picture is needed in its own size.
    pub fn takes_parts(&self) -> bool {
        matches!(self, Self::RandomResized(_))
    }
}

impl RandomResized {
    fn draw(&self, [height, width]: [usize; 2], stream: &mut Stream) -> Region {
        let pixels = (height * width) as f64;
        for _ in 0..TRIES {
            let area = pixels * uniform(self.scale, stream);
            let ratio = uniform(self.ratio.map(f64::ln), stream).exp();
            let columns = (area * ratio).sqrt().round_ties_even() as usize;
            let rows = (area / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&columns) && (1..=height).contains(&rows) {
                return Region {
                    top: stream.random_range(0..=height - rows),
                    left: stream.random_range(0..=width - columns),
                    height: rows,
                    width: columns,
                };
            }
        }
        self.middle([height, width])
    }

    /// The largest part in the middle whose ratio is allowed.
    fn middle(&self, [height, width]: [usize; 2]) -> Region {
        let [narrowest, widest] = self.ratio;
        let ratio = width as f64 / height as f64;
        let rounded = |side: f64, all: usize| (side.round_ties_even() as usize).clamp(1, all);
        let (rows, columns) = if ratio < narrowest {
            (rounded(width as f64 / narrowest, height), width)
        } else if ratio > widest {
            (height, rounded(height as f64 * widest, width))
        } else {
            (height, width)
        };
        Region {
            top: (height - rows) / 2,
            left: (width - columns) / 2,
            height: rows,
            width: columns,
        }
    }
}

/// A number between two others.
fn uniform([low, high]: [f64; 2], stream: &mut Stream) -> f64 {
    low + (high - low) * stream.random::<f64>()
}

fn pair([low, high]: [f64; 2]) -> String {
    format!("[{low}, {high}]")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    fn stream(number: u64) -> Stream {
        Seed(0).stream(Purpose::Augmentation, "made_up", &[number])
    }

    fn crop(scale: [f64; 2], ratio: [f64; 2]) -> TrainingCrop {
        TrainingCrop::RandomResized(RandomResized { scale, ratio })
    }

    #[test]
    fn parts_have_the_shares_and_ratios_that_were_asked_for() {
        let crop = crop([0.2, 0.6], [0.5, 2.0]);
        let mut shares = Vec::new();
        let mut wide = 0_u32;
        for number in 0..2_000 {
            let Region { top, left, height, width } = crop.draw([300, 400], &mut stream(number));
            assert!(top + height <= 300 && left + width <= 400);
            let share = (height * width) as f64 / 120_000.0;
            let ratio = width as f64 / height as f64;
            // Sides are rounded to whole pixels.
            assert!((0.195..0.605).contains(&share) && (0.49..2.05).contains(&ratio));
            shares.push(share);
            wide += u32::from(ratio > 1.0);
        }
        let mean = shares.iter().sum::<f64>() / 2_000.0;
        // Uniform would have the mean 0.4, but large high parts have no room in 300 rows and are
        // drawn anew: by a simulation of 20,000 the mean is 0.387 and 0.557 of the parts are wide.
        // Standard errors: 0.0026 and 0.011; five of each.
        assert!((mean - 0.387).abs() < 0.013, "{mean}");
        assert!((f64::from(wide) / 2_000.0 - 0.557).abs() < 0.056, "{wide}");
    }

    #[test]
    fn the_middle_is_taken_when_nothing_fits() {
        // As torchvision 0.26: 1000 x 4 pixels, ratio in [3/4, 4/3] and no less than half of it.
        let crop = crop([0.5, 1.0], [0.75, 4.0 / 3.0]);
        let found = crop.draw([1_000, 4], &mut stream(0));
        assert_eq!(found, Region { top: 497, left: 0, height: 5, width: 4 });
        let found = crop.draw([4, 1_000], &mut stream(0));
        assert_eq!(found, Region { top: 0, left: 497, height: 4, width: 5 });
    }

    #[test]
    fn the_same_stream_gives_the_same_part() {
        let crop = TrainingCrop::RandomResized(RandomResized::default());
        let drawn = |number| crop.draw([300, 400], &mut stream(number));
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
        assert_eq!(TrainingCrop::None.draw([3, 4], &mut stream(0)), Region::whole([3, 4]));
    }

    proptest! {
        #[test]
        fn a_part_lies_in_the_picture_whatever_its_shape(
            (height, width) in (1..20_000_usize, 1..20_000_usize),
            (low, high) in (0.001..1.0, 0.001..1.0),
            (first, second) in (0.01..100.0, 0.01..100.0),
            number in any::<u64>(),
        ) {
            let sorted = |a: f64, b: f64| [a.min(b), a.max(b)];
            let crop = crop(sorted(low, high), sorted(first, second));
            crop.validate().unwrap();
            for size in [[height, width], [1, width], [height, 1], [1, 1]] {
                let part = crop.draw(size, &mut stream(number));
                prop_assert!(part.height >= 1 && part.top + part.height <= size[0]);
                prop_assert!(part.width >= 1 && part.left + part.width <= size[1]);
            }
        }
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        let refusal = |scale, ratio| crop(scale, ratio).validate().unwrap_err().to_string();
        assert_eq!(
            refusal([0.0, 1.0], [1.0, 1.0]),
            "`training_crop.random_resized.scale` is [0, 1], expected [low, high] with \
             0 < low <= high <= 1"
        );
        assert!(refusal([0.5, f64::NAN], [1.0, 1.0]).contains("scale"));
        assert!(refusal([0.5, 1.0], [2.0, 1.0]).contains("ratio` is [2, 1]"));
        assert!(refusal([0.5, 1.0], [1.0, f64::INFINITY]).contains("ratio"));
    }
}
