//! Pictures, resized, augmented and normalised.

use mie_core::prelude::*;
use rand::RngExt;

use super::util::{add_noise, ensure_noise, wrong_kind};
use crate::pictures::augment::RandAugment;
use crate::pictures::crop::TrainingCrop;
use crate::pictures::normalise::{self, Normalise, Planes, Table};
use crate::pictures::resize::{Filter, Region, resize};
use crate::pictures::{self, LONGEST_SIDE, Picture, ensure_flip, ensure_sides};

/// Resizes, augments and normalises 8-bit pictures, grey or in colour.
///
/// A picture is brought to `height` x `width`; in training a part of it may be cut out
/// (`training_crop`), mirrored (`flip_probability`), changed (`rand_augment`) and moved by up to
/// `shift_pixels` in each direction, in this order; what moves in from outside is black. With `p`
/// the pixels that come out and `n` Gaussian values of deviation `noise_deviation`:
///
/// ```text
/// value = (p / 255 + n - mean) / deviation
/// ```
///
/// The noise belongs to the sample: it is drawn once from the seed of the run and the same in
/// every epoch and mode.
///
/// A file is read as PNG, JPEG or PNM. With `channels = "grey"` colours become luma (ITU-R
/// BT.709), with `"rgb"` grey is repeated; transparency is dropped without a background, as
/// Pillow's `convert("RGB")` does. The defaults are for MNIST. For photographs and an encoder
/// trained on ImageNet, as the released code of MIE takes them for its text-image sets (there
/// with `normalise = "clip"`):
///
/// ```text
/// channels = "rgb"
/// height = 224
/// width = 224
/// resize = "stretch"
/// filter = "bicubic"
/// normalise = "imagenet"
/// training_crop = { random_resized = { scale = [0.5, 1.0] } }
/// flip_probability = 0.5
/// rand_augment = { operations = 2 }
/// ```
///
/// Shapes: `value` `[1, height, width]` f32, or `[3, height, width]` with `"rgb"`, red first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// What a pixel holds. Default `grey`.
    pub channels: Channels,
    /// Height of the pictures in pixels, at least 1. Default 28, that of MNIST.
    pub height: usize,
    /// Width of the pictures in pixels, at least 1. Default 28, that of MNIST.
    pub width: usize,
    /// How pictures of another size are brought to `height` x `width`. Default `none`.
    pub resize: Resize,
    /// How the pixels of a resized picture are weighed. Default `bilinear`.
    pub filter: Filter,
    /// Published means and deviations of the channels of `rgb` in place of `mean` and `deviation`.
    /// By default absent.
    pub normalise: Option<Normalise>,
    /// Mean of all channels on the scale `[0, 1]`. Default 0.1307, that of MNIST's training
    /// pictures.
    pub mean: f64,
    /// Deviation of all channels on the scale `[0, 1]`, above 0. Default 0.3081, that of MNIST's
    /// training pictures.
    pub deviation: f64,
    /// Deviation of the added noise on the scale `[0, 1]`, at least 0. Default 0, no noise.
    pub noise_deviation: f64,
    /// Which part of a training picture is seen. Default `none`, the whole one.
    pub training_crop: TrainingCrop,
    /// Probability that a training picture is mirrored, in `[0, 1]`. Default 0, never.
    pub flip_probability: f64,
    /// Random operations on the colours and places of a training picture. By default absent, none.
    pub rand_augment: Option<RandAugment>,
    /// Furthest that a training picture moves, in pixels. Default 0, not at all.
    pub shift_pixels: usize,
}

/// What a pixel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Its brightness.
    Grey,
    /// Red, green and blue.
    Rgb,
}

/// How a picture of another size is brought to that of the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Not at all: it is refused.
    None,
    /// By stretching it, whatever its shape, antialiased, as Pillow's `resize`.
    Stretch,
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            channels: Channels::Grey,
            height: 28,
            width: 28,
            resize: Resize::None,
            filter: Filter::Bilinear,
            normalise: None,
            mean: 0.1307,
            deviation: 0.3081,
            noise_deviation: 0.0,
            training_crop: TrainingCrop::None,
            flip_probability: 0.0,
            rand_augment: None,
            shift_pixels: 0,
        }
    }
}

#[typetag::serde(name = "image")]
impl ModalityConfig for ImageConfig {
    fn validate(&self) -> Result<()> {
        ensure_sides(self.height, self.width)?;
        ensure_range("mean", "a finite number", self.mean, self.mean.is_finite())?;
        let usable = self.deviation > 0.0 && self.deviation.is_finite();
        ensure_range("deviation", "(0, inf)", self.deviation, usable)?;
        if self.normalise.is_some() {
            let usual = Self::default();
            for (field, found, usual) in
                [("mean", self.mean, usual.mean), ("deviation", self.deviation, usual.deviation)]
            {
                let unused = found.to_bits() == usual.to_bits();
                ensure_range(field, "to be left out beside `normalise`", found, unused)?;
            }
            let usable = self.channels == Channels::Rgb;
            ensure_range("channels", "\"rgb\" with `normalise`", "\"grey\"", usable)?;
        }
        ensure_noise(self.noise_deviation)?;
        self.training_crop.validate()?;
        ensure_flip(self.flip_probability)?;
        if let Some(augment) = &self.rand_augment {
            augment.validate()?;
        }
        let shift = self.shift_pixels;
        ensure_range("shift_pixels", "[0, 16384]", shift, shift <= LONGEST_SIDE)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        let own = (self.mean as f32, self.deviation as f32);
        let statistics = match (self.channels, self.normalise) {
            (Channels::Grey, _) => vec![own],
            (Channels::Rgb, None) => vec![own; 3],
            (Channels::Rgb, Some(published)) => published.statistics().to_vec(),
        };
        let tables = statistics.iter().copied().map(normalise::table).collect();
        Ok(Box::new(Image { config: self.clone(), statistics, tables }))
    }

    fn mirrors(&self) -> Option<&'static str> {
        (self.flip_probability > 0.0).then_some("flip_probability")
    }
}
register!(
    modality::<ImageConfig>,
    source = "LeCun et al. 1998 (MNIST); https://github.com/njustkmg/IJCAI25-IGM (photographs)"
);

struct Image {
    config: ImageConfig,
    /// Mean and deviation of each channel.
    statistics: Vec<(f32, f32)>,
    /// What each 8-bit value becomes, for each channel.
    tables: Vec<Table>,
}

impl Modality for Image {
    fn layout(&self) -> Vec<TensorLayout> {
        let ImageConfig { height, width, .. } = self.config;
        TensorLayout::value(&[self.tables.len() as i64, height as i64, width as i64])
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        self.write(&self.prepared(raw, mode)?, mode, draw, out.f32_to_overwrite(0)?)
    }

    fn cacheable(&self) -> Option<&dyn Decode> {
        Some(self)
    }
}

impl Decode for Image {
    fn recipe(&self, mode: Mode) -> String {
        let ImageConfig { channels, height, width, filter, .. } = &self.config;
        if self.needs_whole(mode) {
            format!("image 1 {channels:?} whole")
        } else {
            format!("image 1 {channels:?} {height}x{width} {filter:?}")
        }
    }

    fn decode(&self, raw: &Raw<'_>, mode: Mode) -> Result<Decoded> {
        Ok(self.prepared(raw, mode)?.into_decoded())
    }

    fn finish(
        &self,
        decoded: DecodedView<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        self.write(&Picture::of(decoded)?, mode, draw, out.f32_to_overwrite(0)?)
    }
}

impl Image {
    fn size(&self) -> [usize; 2] {
        [self.config.height, self.config.width]
    }

    /// Whether a picture is needed in its own size, for its size to be looked at or parts of it to
    /// be taken.
    fn needs_whole(&self, mode: Mode) -> bool {
        let parts = mode == Mode::Training && self.config.training_crop.takes_parts();
        self.config.resize == Resize::None || parts
    }

    /// The picture as far as it does not depend on chance.
    fn prepared<'r>(&self, raw: &'r Raw<'_>, mode: Mode) -> Result<Picture<'r>> {
        let picture = self.read(raw)?;
        if self.needs_whole(mode) {
            return Ok(picture);
        }
        let whole = Region::whole(picture.size());
        Ok(resize(&picture, whole, self.size(), self.config.filter)?.into_owned())
    }

    fn read<'r>(&self, raw: &'r Raw<'_>) -> Result<Picture<'r>> {
        match (raw, self.config.channels) {
            (&Raw::Grey { width, height, pixels }, Channels::Grey) => {
                Picture::new([height, width], 1, pixels)
            }
            (&Raw::Grey { width, height, pixels }, Channels::Rgb) => {
                let repeated: Vec<u8> = pixels.iter().flat_map(|&pixel| [pixel; 3]).collect();
                Picture::new([height, width], 3, repeated)
            }
            (Raw::File(file), Channels::Grey) => pictures::grey(file),
            (Raw::File(file), Channels::Rgb) => pictures::rgb(file),
            _ => Err(wrong_kind("image", "grey pixels or a picture", raw)),
        }
    }

    /// Cuts, augments and normalises a prepared picture.
    fn write(
        &self,
        picture: &Picture<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        if self.config.resize == Resize::None && picture.size() != self.size() {
            let what = format!("picture of `{}` (options `height`, `width`)", draw.modality);
            return Err(Error::shape(what, self.size(), picture.size()));
        }
        if mode == Mode::Evaluation {
            return self.normalise(picture, [0, 0], draw, out);
        }
        let mut stream = draw.own();
        let region = self.config.training_crop.draw(picture.size(), &mut stream);
        let mut seen = resize(picture, region, self.size(), self.config.filter)?;
        let flip = self.config.flip_probability;
        if flip > 0.0 && stream.random::<f64>() < flip {
            seen.mirror();
        }
        if let Some(augment) = &self.config.rand_augment {
            augment.apply(&mut seen, &mut stream);
        }
        let furthest = self.config.shift_pixels as i64;
        let shift = if furthest > 0 {
            [(); 2].map(|()| stream.random_range(-furthest..=furthest) as isize)
        } else {
            [0, 0]
        };
        self.normalise(&seen, shift, draw, out)
    }

    /// Adds the noise and writes the normalised channels, moved down and to the right by `shift`.
    fn normalise(
        &self,
        picture: &Picture<'_>,
        shift: [isize; 2],
        draw: &Draw<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        let [height, width] = self.size();
        if picture.size() != [height, width] || picture.channels() != self.tables.len() {
            let found = (picture.size(), picture.channels());
            return Err(Error::Bug(format!("a decoded picture has size and channels {found:?}")));
        }
        if self.config.noise_deviation > 0.0 {
            self.write_noisy(picture, shift, draw, out);
            return Ok(());
        }
        let planes = Planes { first: 0, distance: height * width };
        normalise::write(picture, &self.tables, shift, planes, out)
    }

    fn write_noisy(
        &self,
        picture: &Picture<'_>,
        [down, right]: [isize; 2],
        draw: &Draw<'_>,
        out: &mut [f32],
    ) {
        let [height, width] = picture.size();
        let channels = picture.channels();
        let scaled = picture.pixels().iter().map(|&pixel| f32::from(pixel) / 255.0);
        let mut values: Vec<f32> = scaled.collect();
        add_noise(&mut values, self.config.noise_deviation, draw);
        for (plane, (channel, &(mean, deviation))) in
            out.chunks_mut(height * width).zip(self.statistics.iter().enumerate())
        {
            for (position, value) in plane.iter_mut().enumerate() {
                let row = (position / width).checked_add_signed(-down).filter(|&row| row < height);
                let column = (position % width).checked_add_signed(-right).filter(|&c| c < width);
                let light = match (row, column) {
                    (Some(row), Some(column)) => {
                        values[(row * width + column) * channels + channel]
                    }
                    _ => 0.0,
                };
                *value = (light - mean) / deviation;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::super::util::{decode, draw};
    use super::*;
    use crate::formats::real_data;
    use crate::pictures::crop::RandomResized;
    use crate::pictures::fixture;

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
    fn mirroring_is_declared_where_it_is_switched_on() {
        let config = |flip_probability| ImageConfig { flip_probability, ..ImageConfig::default() };
        assert_eq!(config(0.25).mirrors(), Some("flip_probability"));
        assert_eq!(config(0.0).mirrors(), None);
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

    #[test]
    fn every_grey_value_has_the_bits_of_the_formula() {
        let pixels: Vec<u8> = (0..=255).collect();
        let raw = Raw::Grey { width: 16, height: 16, pixels: &pixels };
        let config = ImageConfig { height: 16, width: 16, ..ImageConfig::default() };
        let values = decode(&config, &raw, Mode::Training, &draw(0, 0)).unwrap();
        for (value, pixel) in values.iter().zip(0_u8..=255) {
            let expected = (f32::from(pixel) / 255.0 - 0.1307_f32) / 0.3081_f32;
            assert_eq!(value.to_bits(), expected.to_bits(), "{pixel}");
        }
    }

    /// The options that the documentation shows, for small pictures.
    fn photographs(height: usize, width: usize) -> ImageConfig {
        ImageConfig {
            channels: Channels::Rgb,
            height,
            width,
            resize: Resize::Stretch,
            filter: Filter::Bicubic,
            normalise: Some(Normalise::Imagenet),
            training_crop: TrainingCrop::RandomResized(RandomResized {
                scale: [0.5, 1.0],
                ..RandomResized::default()
            }),
            flip_probability: 0.5,
            rand_augment: Some(RandAugment::default()),
            ..ImageConfig::default()
        }
    }

    /// Writes the picture of `tests/reference/pictures.py` as PNM.
    fn file(folder: &std::path::Path, [height, width]: [usize; 2]) -> Raw<'static> {
        let file = folder.join("picture.ppm");
        let picture = fixture::picture(height, width, false);
        let header = format!("P6 {width} {height} 255\n");
        std::fs::write(&file, [header.as_bytes(), picture.pixels()].concat()).unwrap();
        Raw::File(file)
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn photographs_are_stretched_as_pillow_does_it_and_laid_out_in_planes() {
        let folder = tempfile::tempdir().unwrap();
        let raw = file(folder.path(), [30, 40]);
        let config = photographs(48, 56);
        let values = decode(&config, &raw, Mode::Evaluation, &draw(0, 0)).unwrap();
        let expected = fixture::bytes(&fixture::reference(), "resize bicubic 48x56");
        let statistics = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];
        for (position, &value) in values.iter().enumerate() {
            let (channel, place) = (position / (48 * 56), position % (48 * 56));
            let (mean, deviation) = statistics[channel];
            let level = (value * deviation + mean) * 255.0;
            // A level is what resizing may differ by.
            let apart = (level - f32::from(expected[place * 3 + channel])).abs();
            assert!(apart < 1.001, "{position}: {apart}");
        }
    }

    #[test]
    fn training_pictures_are_new_in_every_epoch_and_the_same_for_the_same_draw() {
        let folder = tempfile::tempdir().unwrap();
        let raw = file(folder.path(), [30, 40]);
        let config = photographs(12, 16);
        let seen = |mode, epoch| bits(&decode(&config, &raw, mode, &draw(epoch, 3)).unwrap());
        for epoch in 0..8 {
            assert_eq!(seen(Mode::Training, epoch), seen(Mode::Training, epoch));
            assert_ne!(seen(Mode::Training, epoch), seen(Mode::Training, epoch + 1));
            assert_eq!(seen(Mode::Evaluation, epoch), seen(Mode::Evaluation, 0));
        }
    }

    #[test]
    fn pictures_are_mirrored_as_often_as_asked() {
        let config = ImageConfig { flip_probability: 0.25, ..plain() };
        let mirrored = |epoch: &u64| {
            let values = decode(&config, &picture(), Mode::Training, &draw(*epoch, 0)).unwrap();
            let found = close(&values, &[0.4, 0.2, 0.0, 1.0, 0.8, 0.6]);
            assert!(found || close(&values, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), "{values:?}");
            found
        };
        let share = (0..1_000).filter(mirrored).count() as f64 / 1_000.0;
        // Standard error 0.0137; five of it.
        assert!((share - 0.25).abs() < 0.069, "{share}");
    }

    #[test]
    fn noise_of_colours_stays_with_the_sample_and_moves_with_the_picture() {
        let config = ImageConfig {
            channels: Channels::Rgb,
            noise_deviation: 0.1,
            shift_pixels: 1,
            ..plain()
        };
        let still = decode(&config, &picture(), Mode::Evaluation, &draw(0, 7)).unwrap();
        // The three channels of a grey pixel have noise of their own.
        assert!((still[1] - still[7]).abs() > 1e-4 && (still[1] - still[13]).abs() > 1e-4);
        let moved = (0..64).any(|epoch| {
            let values = decode(&config, &picture(), Mode::Training, &draw(epoch, 7)).unwrap();
            (0..3).all(|channel| {
                let [still, values] = [&still, &values].map(|all| &all[6 * channel..][..6]);
                close(values, &[0.0, still[0], still[1], 0.0, still[3], still[4]])
            })
        });
        // One of nine moves, drawn 64 times: missed with probability 0.0005, and the seed is fixed.
        assert!(moved);
    }

    #[test]
    fn both_halves_give_the_bits_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let raw = file(folder.path(), [30, 40]);
        let colours = photographs(12, 16);
        let uncut = ImageConfig { training_crop: TrainingCrop::None, ..colours.clone() };
        let grey = ImageConfig { noise_deviation: 0.8, shift_pixels: 2, ..ImageConfig::default() };
        let grey = ImageConfig { height: 30, width: 40, ..grey };
        for config in [colours, uncut, grey] {
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
                    assert_eq!(bits(&values), bits(&whole), "{mode:?}, {config:?}");
                }
            }
        }
    }

    #[test]
    fn recipes_differ_where_decoded_pictures_do() {
        let recipe =
            |config: &ImageConfig, mode| config.build().unwrap().cacheable().unwrap().recipe(mode);
        let colours = photographs(12, 16);
        assert_eq!(recipe(&colours, Mode::Training), "image 1 Rgb whole");
        assert_eq!(recipe(&colours, Mode::Evaluation), "image 1 Rgb 12x16 Bicubic");
        let uncut = ImageConfig { training_crop: TrainingCrop::None, ..colours };
        assert_eq!(recipe(&uncut, Mode::Training), "image 1 Rgb 12x16 Bicubic");
        assert_eq!(recipe(&ImageConfig::default(), Mode::Evaluation), "image 1 Grey whole");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pictures_of_any_shape_are_decoded(
            (height, width) in (1..40_usize, 1..3_000_usize),
            upright in any::<bool>(),
            epoch in any::<u64>(),
        ) {
            let (height, width) = if upright { (width, height) } else { (height, width) };
            let pixels: Vec<u8> = (0..height * width).map(|place| (place % 251) as u8).collect();
            let raw = Raw::Grey { width, height, pixels: &pixels };
            for channels in [Channels::Grey, Channels::Rgb] {
                let normalise = (channels == Channels::Rgb).then_some(Normalise::Clip);
                let config = ImageConfig { channels, normalise, ..photographs(9, 7) };
                let seen = |mode| decode(&config, &raw, mode, &draw(epoch, 1)).unwrap();
                let values = seen(Mode::Training);
                prop_assert!(values.iter().all(|value| value.abs() < 4.0));
                prop_assert_eq!(bits(&values), bits(&seen(Mode::Training)));
                prop_assert!(seen(Mode::Evaluation).iter().all(|value| value.abs() < 4.0));
            }
        }
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let usual = photographs(12, 16);
        usual.validate().unwrap();
        let refusal = |config: ImageConfig| config.validate().unwrap_err().to_string();
        assert_eq!(
            refusal(ImageConfig { mean: 0.5, ..usual.clone() }),
            "`mean` is 0.5, expected to be left out beside `normalise`"
        );
        assert_eq!(
            refusal(ImageConfig { channels: Channels::Grey, ..usual.clone() }),
            "`channels` is \"grey\", expected \"rgb\" with `normalise`"
        );
        let wrong = RandAugment { level: 11.0, ..RandAugment::default() };
        let error = refusal(ImageConfig { rand_augment: Some(wrong), ..usual.clone() });
        assert!(error.contains("rand_augment.level"), "{error}");
        let error = refusal(ImageConfig { flip_probability: -0.1, ..usual });
        assert!(error.contains("`flip_probability` is -0.1"), "{error}");
    }

    #[test]
    fn options_are_written_as_the_documentation_shows_them() {
        let table = serde_json::json!({
            "name": "image",
            "training_crop": { "random_resized": { "scale": [0.5, 1.0] } },
            "normalise": "clip",
            "channels": "rgb",
            "rand_augment": { "operations": 2 },
        });
        let config: Box<dyn ModalityConfig> = serde_json::from_value(table).unwrap();
        config.validate().unwrap();
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(written["training_crop"]["random_resized"]["ratio"][0], 0.75);
        assert_eq!(written["rand_augment"]["level"], 7.0);
        assert_eq!(serde_json::to_value(ImageConfig::default()).unwrap()["training_crop"], "none");
    }

    #[test]
    fn real_photographs_are_decoded() {
        let Some(folder) = real_data::folder("tweet_sentiment_sample") else { return };
        let raw = Raw::File(folder.join("data/100.jpg"));
        for mode in [Mode::Training, Mode::Evaluation] {
            let values = decode(&photographs(224, 224), &raw, mode, &draw(0, 0)).unwrap();
            assert_eq!(values.len(), 3 * 224 * 224);
            // Black and white are -2.12 and 2.64 by the statistics of ImageNet.
            assert!(values.iter().all(|value| (-2.2..2.7).contains(value)));
        }
    }
}
