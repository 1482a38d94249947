//! 8-bit values to normalised planes.

use mie_core::prelude::*;

use super::Picture;

/// Whose means and deviations normalise the three channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// Nobody's: values stay in `[0, 1]`.
    Unit,
    /// Those of ImageNet, which its encoders were trained with: means 0.485, 0.456, 0.406,
    /// deviations 0.229, 0.224, 0.225.
    Imagenet,
    /// Those of CLIP: means 0.48145466, 0.4578275, 0.40821073, deviations 0.26862954, 0.26130258,
    /// 0.27577711. The released code of MIE takes them for its text-image sets, though the encoder
    /// was trained on ImageNet.
    Clip,
}

impl Normalise {
    /// Mean and deviation of red, green and blue.
    pub fn statistics(self) -> [(f32, f32); 3] {
        let published: [(f64, f64); 3] = match self {
            Self::Unit => [(0.0, 1.0); 3],
            Self::Imagenet => [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)],
            Self::Clip => [
                (0.481_454_66, 0.268_629_54),
                (0.457_827_5, 0.261_302_58),
                (0.408_210_73, 0.275_777_11),
            ],
        };
        published.map(|(mean, deviation)| (mean as f32, deviation as f32))
    }
}

/// What each 8-bit value becomes.
pub type Table = [f32; 256];

/// The table of `(value / 255 - mean) / deviation`.
pub fn table((mean, deviation): (f32, f32)) -> Table {
    std::array::from_fn(|value| (value as f32 / 255.0 - mean) / deviation)
}

/// Where the planes of a picture's channels lie.
#[derive(Debug, Clone, Copy)]
pub struct Planes {
    /// Position of the first plane.
    pub first: usize,
    /// Distance from plane to plane.
    pub distance: usize,
}

/// Writes the channels of a picture as planes, each by its table.
///
/// The picture is moved by `shift` pixels down and to the right; what comes in is black.
///
/// # Errors
/// When tables or planes do not fit the picture.
pub fn write(
    picture: &Picture<'_>,
    tables: &[Table],
    shift: [isize; 2],
    planes: Planes,
    out: &mut [f32],
) -> Result<()> {
    match picture.channels() {
        1 => write_channels::<1>(picture, tables, shift, planes, out),
        _ => write_channels::<3>(picture, tables, shift, planes, out),
    }
}

fn write_channels<const CHANNELS: usize>(
    picture: &Picture<'_>,
    tables: &[Table],
    [down, right]: [isize; 2],
    planes: Planes,
    out: &mut [f32],
) -> Result<()> {
    let unfit = || Error::Bug("the planes of a picture do not fit".to_owned());
    let tables: &[Table; CHANNELS] = tables.try_into().map_err(|_| unfit())?;
    let [height, width] = picture.size();
    let (pixels, _) = picture.pixels().as_chunks::<CHANNELS>();
    // Columns that stay empty on the left, and that are lost there.
    let empty = usize::try_from(right).unwrap_or(0).min(width);
    let lost = usize::try_from(right.saturating_neg()).unwrap_or(0).min(width);
    let kept = width - empty.max(lost);
    for row in 0..height {
        let source = row
            .checked_add_signed(down.saturating_neg())
            .filter(|&source| source < height)
            .map(|source| &pixels[source * width + lost..][..kept]);
        for (channel, table) in tables.iter().enumerate() {
            let start = planes.first + channel * planes.distance + row * width;
            let line = out.get_mut(start..start + width).ok_or_else(unfit)?;
            let Some(source) = source else {
                line.fill(table[0]);
                continue;
            };
            let (before, line) = line.split_at_mut(empty);
            let (line, after) = line.split_at_mut(kept);
            before.fill(table[0]);
            after.fill(table[0]);
            for (value, pixel) in line.iter_mut().zip(source) {
                *value = table[usize::from(pixel[channel])];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{picture, reference};
    use super::*;

    fn written(picture: &Picture<'_>, tables: &[Table], shift: [isize; 2]) -> Vec<f32> {
        let distance = picture.size()[0] * picture.size()[1];
        let mut out = vec![f32::NAN; picture.pixels().len()];
        write(picture, tables, shift, Planes { first: 0, distance }, &mut out).unwrap();
        out
    }

    #[test]
    fn planes_hold_what_torchvision_makes_of_the_picture() {
        let tables = Normalise::Imagenet.statistics().map(table);
        let found = written(&picture(5, 6, false), &tables, [0, 0]);
        let reference = reference();
        let (_, expected) = reference.iter().find(|(name, _)| name == "normalised").unwrap();
        let expected: Vec<f32> = Vec::try_from(expected.reshape([-1])).unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn a_moved_picture_leaves_black_behind() {
        let grey = Picture::new([2, 3], 1, vec![1_u8, 2, 3, 4, 5, 6]).unwrap();
        let tables: [Table; 1] = [std::array::from_fn(|value| value as f32)];
        let moved = |shift| -> Vec<u8> {
            written(&grey, &tables, shift).into_iter().map(|value| value as u8).collect()
        };
        assert_eq!(moved([0, 1]), [0, 1, 2, 0, 4, 5]);
        assert_eq!(moved([0, -2]), [3, 0, 0, 6, 0, 0]);
        assert_eq!(moved([1, 0]), [0, 0, 0, 1, 2, 3]);
        assert_eq!(moved([-1, 1]), [0, 4, 5, 0, 0, 0]);
        assert_eq!(moved([isize::MIN, isize::MAX]), [0; 6]);
        assert_eq!(moved([0, isize::MIN]), [0; 6]);
    }

    #[test]
    fn planes_that_do_not_fit_are_an_error() {
        let picture = picture(2, 2, false);
        let tables = Normalise::Clip.statistics().map(table);
        let planes = Planes { first: 1, distance: 4 };
        let mut out = vec![0.0; 12];
        assert!(write(&picture, &tables, [0, 0], planes, &mut out).is_err());
        let planes = Planes { first: 0, distance: 4 };
        assert!(write(&picture, &tables[..1], [0, 0], planes, &mut out).is_err());
        assert!(write(&picture, &tables, [0, 0], planes, &mut out).is_ok());
    }
}
