//! A few convolutions: enough for small images and spectrograms, quick on a CPU.

use mie_core::prelude::*;

use super::util::{no_stage, square, value_shape};

/// Stacks blocks of convolution, normalisation and pooling.
///
/// ```text
/// x_k     = pool(max(0, bn_k(conv_k * x_(k-1))))        k = 1 … number of `channels`
/// feature = means of the last x_k over the fields of a `grid`
/// ```
///
/// with `*` a convolution of stride 1, zero-padded to keep the size, `bn_k` batch normalisation
/// and `pool` the maximum over 2 x 2 fields, left out where a map is thinner than 2. Convolutions
/// start Gaussian with variance `2 / (outputs * kernel^2)` (He et al. 2015), scales at 1.
/// Each block is a stage; the last one also averages.
///
/// Shapes: `value` `[batch, channels, height, width]` f32; feature
/// `[batch, last of channels * grid height * grid width]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SmallCnnConfig {
    /// Output channels of each block, at least one block of at least 1. Default `[16, 32, 64]`,
    /// ours.
    pub channels: Vec<i64>,
    /// Height and width of the kernels in pixels, odd. Default 3, ours.
    pub kernel: i64,
    /// Rows and columns of the grid over which the last maps are averaged, each at least 1. With
    /// more than one row a spectrogram's feature keeps apart what is high and what is low. Default
    /// `[1, 1]`, the mean of the whole map.
    pub grid: [i64; 2],
}

impl Default for SmallCnnConfig {
    fn default() -> Self {
        Self { channels: vec![16, 32, 64], kernel: 3, grid: [1, 1] }
    }
}

#[typetag::serde(name = "small_cnn")]
impl EncoderConfig for SmallCnnConfig {
    fn validate(&self) -> Result<()> {
        let usable = !self.channels.is_empty() && self.channels.iter().all(|&n| n >= 1);
        let channels = format!("{:?}", self.channels);
        ensure_range("channels", "a list of [1, inf), not empty", channels, usable)?;
        let odd = self.kernel >= 1 && self.kernel % 2 == 1;
        ensure_range("kernel", "an odd number in [1, inf)", self.kernel, odd)?;
        let [rows, columns] = self.grid;
        ensure_range("grid", "[1, inf) twice", rows.min(columns), rows >= 1 && columns >= 1)
    }

    fn example_input(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[1, 16, 16])
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        let expected = "[channels, height, width]";
        let shape = value_shape("small_cnn", inputs, expected, |rank| rank == 3)?;
        let (mut width, mut smaller_side) = (shape[0], shape[1].min(shape[2]));
        let mut blocks = Vec::new();
        for (index, &outputs) in self.channels.iter().enumerate() {
            let number = index + 1;
            let convolution = square(width, outputs, self.kernel, 1);
            let scale = Initial::Constant(1.0);
            blocks.push(Block {
                conv: Conv2d::new(&at.sub(&format!("conv{number}")), convolution)?,
                norm: BatchNorm::new(&at.sub(&format!("bn{number}")), outputs, scale)?,
                pool: smaller_side >= 2,
            });
            width = outputs;
            smaller_side /= 2;
        }
        let width = width * self.grid[0] * self.grid[1];
        Ok(Box::new(SmallCnn { blocks, width, grid: self.grid }))
    }
}
register!(
    encoder::<SmallCnnConfig>,
    source = "Ours, after LeCun et al. 1998 and Ioffe and Szegedy 2015, arXiv:1502.03167"
);

struct Block {
    conv: Conv2d,
    norm: BatchNorm,
    pool: bool,
}

struct SmallCnn {
    blocks: Vec<Block>,
    width: i64,
    grid: [i64; 2],
}

impl Encoder for SmallCnn {
    fn stages(&self) -> usize {
        self.blocks.len()
    }

    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let block = self.blocks.get(index).ok_or_else(|| no_stage("small_cnn", index))?;
        let x = block.conv.forward(x.value()?, pass)?;
        let mut x = block.norm.forward(&x, pass)?.f_relu_()?;
        if block.pool {
            x = x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
        }
        if index + 1 == self.blocks.len() {
            x = x.f_adaptive_avg_pool2d(self.grid)?.f_flatten(1, -1)?;
        }
        Ok(Named::value_of(x))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn channels(&self, index: usize) -> Option<i64> {
        match self.blocks.get(index + 1) {
            Some(_) => self.blocks.get(index).map(|block| block.conv.layer().shape[0]),
            None => Some(self.width),
        }
    }

    fn layers(&self) -> Vec<Layer> {
        self.blocks.iter().map(|block| block.conv.layer().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{build, feature, run, wave};
    use super::*;

    #[test]
    fn blocks_halve_the_maps_and_the_last_one_averages() {
        let (encoder, _) = build(&SmallCnnConfig::default(), &[1, 12, 20]).unwrap();
        let x = wave(&[2, 1, 12, 20]);
        let sizes = [vec![2, 16, 6, 10], vec![2, 32, 3, 5], vec![2, 64]];
        assert_eq!(encoder.stages(), sizes.len());
        for (index, size) in sizes.into_iter().enumerate() {
            let found = run(encoder.as_ref(), index + 1, &x, Statistics::Running);
            assert_eq!(found.size(), size);
        }
        assert_eq!(encoder.width(), 64);
    }

    #[test]
    fn a_grid_keeps_places_apart() {
        let config = SmallCnnConfig { grid: [2, 3], ..SmallCnnConfig::default() };
        let (encoder, _) = build(&config, &[1, 16, 24]).unwrap();
        assert_eq!(encoder.width(), 64 * 6);
        let x = wave(&[2, 1, 16, 24]);
        let maps = run(encoder.as_ref(), 3, &x, Statistics::Running).view([2, 64, 2, 3]);
        let (plain, _) = build(&SmallCnnConfig::default(), &[1, 16, 24]).unwrap();
        let mean = run(plain.as_ref(), 3, &x, Statistics::Running);
        // Equal fields: their mean is the mean of the whole map.
        let means = maps.mean_dim([2i64, 3].as_slice(), false, None::<Kind>);
        assert!((means - mean).abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn maps_thinner_than_two_are_not_pooled() {
        let (encoder, _) = build(&SmallCnnConfig::default(), &[1, 2, 9]).unwrap();
        let second = run(encoder.as_ref(), 2, &wave(&[2, 1, 2, 9]), Statistics::Running);
        assert_eq!(second.size(), [2, 32, 1, 4]);
        assert_eq!(feature(encoder.as_ref(), &wave(&[2, 1, 2, 9])).size(), [2, 64]);
    }

    #[test]
    fn a_block_computes_convolution_rectifier_and_maximum() {
        let config = SmallCnnConfig { channels: vec![1], kernel: 1, ..SmallCnnConfig::default() };
        let (encoder, store) = build(&config, &[1, 2, 2]).unwrap();
        let path = "encoder.video.conv1.weight";
        {
            let _guard = no_grad_guard();
            let _ = store.find(path).unwrap().1.shallow_clone().fill_(-2.0);
        }
        // -2 x = (-2, 6, 4, -8), its maximum 6; untrained running statistics divide by
        // sqrt(1 + 1e-5).
        let x = Tensor::from_slice(&[1.0f32, -3.0, -2.0, 4.0]).view([1, 1, 2, 2]);
        let found = feature(encoder.as_ref(), &x).double_value(&[0, 0]);
        assert!((found - 6.0 / 1.000_01_f64.sqrt()).abs() < 1e-5, "{found}");
    }

    #[test]
    fn inputs_that_are_no_images_are_refused_with_what_is_wanted() {
        let error = build(&SmallCnnConfig::default(), &[3, 4, 32, 32]).err().unwrap().to_string();
        assert!(error.contains("input of encoder `small_cnn`"), "{error}");
        assert!(error.contains("[channels, height, width]"), "{error}");
        assert!(error.contains("[3, 4, 32, 32]"), "{error}");
    }

    #[test]
    fn an_even_kernel_and_an_empty_list_of_channels_are_refused() {
        let even = SmallCnnConfig { kernel: 4, ..SmallCnnConfig::default() };
        assert!(even.validate().unwrap_err().to_string().starts_with("`kernel` is 4"));
        let empty = SmallCnnConfig { channels: vec![], ..SmallCnnConfig::default() };
        assert!(empty.validate().unwrap_err().to_string().starts_with("`channels` is []"));
    }
}
