//! What the residual networks share: their blocks, and the way from frames to a feature.

use mie_core::prelude::*;

use super::util::{no_stage, square, value_shape};

/// What tells one residual network from another.
pub(super) struct Plan {
    /// Name of the encoder, for errors.
    pub(super) encoder: &'static str,
    pub(super) block: BlockKind,
    /// Blocks of each layer.
    pub(super) blocks: [usize; 4],
    /// Channels of the stem; the inner channels of the layers are 1, 2, 4 and 8 times as many.
    pub(super) base_channels: i64,
    /// Start of the normalisation scales.
    pub(super) scale: Initial,
    /// Outputs of the classifier `fc`; without it the feature is the pooled maps.
    pub(super) classes: Option<i64>,
}

/// What a block is made of.
#[derive(Debug, Clone, Copy)]
pub(super) enum BlockKind {
    /// Two convolutions of 3 x 3.
    Basic,
    /// A convolution of 3 x 3 between two of 1 x 1, the last of which widens.
    Bottleneck,
}

impl BlockKind {
    /// Output channels of a block, as a multiple of its inner ones.
    fn expansion(self) -> i64 {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }

    /// Convolutions of a block; the first one of 3 x 3 has the stride.
    fn convolutions(self, inputs: i64, inner: i64, stride: i64) -> Vec<Conv2dShape> {
        match self {
            Self::Basic => vec![square(inputs, inner, 3, stride), square(inner, inner, 3, 1)],
            Self::Bottleneck => vec![
                square(inputs, inner, 1, 1),
                square(inner, inner, 3, stride),
                square(inner, inner * self.expansion(), 1, 1),
            ],
        }
    }
}

/// Checks an option `base_channels`.
pub(super) fn ensure_base_channels(base_channels: i64) -> Result<()> {
    let holds = (1..=1024).contains(&base_channels);
    ensure_range("base_channels", "[1, 1024]", base_channels, holds)
}

/// How files of torchvision's networks name their tensors, and what is of no use in them.
pub(super) fn published(unused: &'static [&'static str]) -> Published {
    let prefixes = &["module.", "model."];
    Published { prefixes, unused, renames: &[], first_layer: Some("conv1") }
}

impl Plan {
    /// Creates the network for images or for frames.
    pub(super) fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        let expected = "[channels, height, width] or [channels, frames, height, width]";
        let shape = value_shape(self.encoder, inputs, expected, |rank| matches!(rank, 3 | 4))?;
        let stem = square(shape[0], self.base_channels, 7, 2);
        let stem = Unit::new(&at.sub("conv1"), &at.sub("bn1"), stem, self.scale)?;
        let mut width = self.base_channels;
        let (mut layers, mut channels) = (Vec::new(), vec![width]);
        for (index, &count) in self.blocks.iter().enumerate() {
            let at = at.sub(&format!("layer{}", index + 1));
            let inner = self.base_channels << index;
            let mut blocks = Vec::new();
            for number in 0..count {
                // The first block of every layer but the first halves the maps.
                let stride = if index > 0 && number == 0 { 2 } else { 1 };
                blocks.push(Block::new(&at.sub(&number.to_string()), self, width, inner, stride)?);
                width = inner * self.block.expansion();
            }
            layers.push(blocks);
            channels.push(width);
        }
        let fc = self.classes.map(|classes| Linear::new(&at.sub("fc"), width, classes));
        Ok(Box::new(ResidualNetwork {
            encoder: self.encoder,
            frames: (shape.len() == 4).then(|| shape[1]),
            stem,
            layers,
            classifier: fc.transpose()?,
            channels,
            width: self.classes.unwrap_or(width),
        }))
    }
}

/// A convolution and its normalisation.
struct Unit {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Unit {
    fn new(
        conv: &Builder<'_>,
        norm: &Builder<'_>,
        shape: Conv2dShape,
        scale: Initial,
    ) -> Result<Self> {
        Ok(Self {
            conv: Conv2d::new(conv, shape)?,
            norm: BatchNorm::new(norm, shape.outputs, scale)?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = self.conv.forward(x, pass)?;
        self.norm.forward(&x, pass)
    }
}

/// Units one after the other, and a way past them.
struct Block {
    units: Vec<Unit>,
    downsample: Option<Unit>,
}

impl Block {
    fn new(at: &Builder<'_>, plan: &Plan, inputs: i64, inner: i64, stride: i64) -> Result<Self> {
        let unit = |conv: &str, norm: &str, shape| {
            Unit::new(&at.sub(conv), &at.sub(norm), shape, plan.scale)
        };
        let mut units = Vec::new();
        for (index, shape) in plan.block.convolutions(inputs, inner, stride).iter().enumerate() {
            let number = index + 1;
            units.push(unit(&format!("conv{number}"), &format!("bn{number}"), *shape)?);
        }
        let outputs = inner * plan.block.expansion();
        let shortcut = square(inputs, outputs, 1, stride);
        let downsample = (stride > 1 || inputs != outputs)
            .then(|| unit("downsample.0", "downsample.1", shortcut))
            .transpose()?;
        Ok(Self { units, downsample })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut sum = x.shallow_clone();
        for (index, unit) in self.units.iter().enumerate() {
            if index > 0 {
                sum = sum.f_relu_()?;
            }
            sum = unit.forward(&sum, pass)?;
        }
        let _ = match &self.downsample {
            Some(unit) => sum.f_add_(&unit.forward(x, pass)?)?,
            None => sum.f_add_(x)?,
        };
        Ok(sum.f_relu_()?)
    }

    /// Units in forward order.
    fn in_order(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().chain(&self.downsample)
    }
}

struct ResidualNetwork {
    encoder: &'static str,
    frames: Option<i64>,
    stem: Unit,
    layers: Vec<Vec<Block>>,
    classifier: Option<Linear>,
    /// Of the maps after each stage.
    channels: Vec<i64>,
    width: i64,
}

impl ResidualNetwork {
    /// Folds frames into the batch and applies the stem.
    fn enter(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = match self.frames {
            Some(_) => x.f_transpose(1, 2)?.f_flatten(0, 1)?,
            None => x.shallow_clone(),
        };
        let x = self.stem.forward(&x, pass)?.f_relu_()?;
        Ok(x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?)
    }

    /// Averages the last maps, and the frames of a sample, and classifies the mean if it is to.
    fn leave(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut feature = global_average_pool(maps)?;
        if let Some(frames) = self.frames {
            let by_sample = feature.f_unflatten(0, [-1, frames])?;
            feature = by_sample.f_mean_dim(1i64, false, None::<Kind>)?;
        }
        match &self.classifier {
            Some(fc) => fc.forward(&feature, pass),
            None => Ok(feature),
        }
    }
}

impl Encoder for ResidualNetwork {
    fn stages(&self) -> usize {
        1 + self.layers.len()
    }

    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let x = x.value()?;
        if index == 0 {
            return Ok(Named::value_of(self.enter(x, pass)?));
        }
        let blocks = self.layers.get(index - 1).ok_or_else(|| no_stage(self.encoder, index))?;
        let mut maps = x.shallow_clone();
        for block in blocks {
            maps = block.forward(&maps, pass)?;
        }
        let last = index == self.layers.len();
        Ok(Named::value_of(if last { self.leave(&maps, pass)? } else { maps }))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn channels(&self, index: usize) -> Option<i64> {
        if index == self.layers.len() {
            Some(self.width)
        } else {
            self.channels.get(index).copied()
        }
    }

    fn layers(&self) -> Vec<Layer> {
        let blocks = self.layers.iter().flatten().flat_map(Block::in_order);
        let units = std::iter::once(&self.stem).chain(blocks).map(|unit| unit.conv.layer());
        units.chain(self.classifier.iter().map(Linear::layer)).cloned().collect()
    }
}
