//! The image tower of CLIP, a vision transformer.

use mie_core::prelude::*;

use super::transformer::{CLIP_EPSILON, ClipFeature, ClipLayer, Stack, at_least_one, normal};
use super::util::{no_stage, value_shape};

/// Looks at an image with the image tower of CLIP, a transformer over patches.
///
/// ```text
/// x_0 = pre_norm([class, patches of the image * patch_embedding] + position)
/// a_k = x_(k-1) + attention(norm(x_(k-1)))
/// x_k = a_k + W_2 g(W_1 norm(a_k) + b_1) + b_2                        k = 1 … layers
///
/// attention(x) = W_o (for each head softmax(Q K^T / sqrt(width / heads)) V) + b_o
/// feature      = visual_projection post_norm(x_layers of the place of `class`)
/// ```
///
/// `*` is a convolution whose kernel and stride are `patch` pixels, so that each patch becomes one
/// token; `class` is a token of its own. `Q`, `K` and `V` are affine maps of `x` (`q_proj`,
/// `k_proj`, `v_proj`), `W_o` is `out_proj`, `W_1` and `W_2` are `mlp.fc1` and `mlp.fc2`;
/// `g(x) = x / (1 + exp(-1.702 x))`, norms are layer normalisation with `1e-5` added to variances.
/// The published one of patches of 32 has been trained on images of 224 x 224 pixels, 49 patches;
/// its table `position` fits no other size, and pixels are expected with CLIP's mean and spread.
///
/// Starts Gaussian, with deviation 0.02 for `position`, `1 / sqrt(width)` for `class`, `out_proj`
/// and `visual_projection`, `1 / sqrt(2 width)` for `fc1` and `1 / sqrt(2 layers width)` for the
/// rest, biases at 0, as Hugging Face's model does; patches start as other convolutions here
/// (variance `2 / (width * patch^2)`). The defaults are CLIP `ViT-B/32`, 87,849,216 parameters for
/// images of 224 pixels in 3 channels; they are made to go on from published weights.
///
/// Parameters have the names of Hugging Face's model, whose files hold both towers: that of texts
/// is passed over. Files of the original release, which name parameters otherwise
/// (`in_proj_weight`), are not understood.
///
/// Shapes: `value` `[batch, channels, height, width]` f32, height and width multiples of `patch`;
/// feature `[batch, projection]`, not normalised. Stages: the embeddings, then each layer; between
/// them `value` is `[batch, 1 + patches, width]`, that of `class` first.
///
/// Layers with a weight matrix, as scopes name and count them, from the output backwards; share of
/// the parameters up to each, with a head 512-256-64-3. The towers have other widths, so none of
/// them but the head's pairs with one of `clip_text`:
///
/// ```text
/// fc3, fc2, fc1                                         0.00 %   0.02 %   0.17 %
/// visual_projection                                     0.61 %
/// vision_model.encoder.layers.11.mlp.fc2                3.30 %
/// vision_model.encoder.layers.11.mlp.fc1                5.98 %
/// vision_model.encoder.layers.11.self_attn.out_proj     6.65 %
/// vision_model.encoder.layers.11.self_attn.v_proj       7.32 %
/// vision_model.encoder.layers.11.self_attn.k_proj       7.99 %
/// vision_model.encoder.layers.11.self_attn.q_proj       8.66 %
/// vision_model.encoder.layers.10.mlp.fc2               11.34 %
/// vision_model.encoder.layers.10.self_attn.q_proj      16.70 %, 8.04 % more a further layer
/// vision_model.encoder.layers.0.self_attn.q_proj       97.13 %
/// vision_model.embeddings.patch_embedding              99.81 %
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipImageConfig {
    /// Height and width of a patch in pixels, at least 1. Default 32, `ViT-B/32`.
    pub patch: i64,
    /// Layers, at least 1. Default 12, `ViT-B/32`.
    pub layers: i64,
    /// Numbers that stand for a patch, at least 1. Default 768, `ViT-B/32`.
    pub width: i64,
    /// Heads of the attention, a divisor of `width`. Default 12, `ViT-B/32`.
    pub heads: i64,
    /// Neurons between the two maps that follow attention, at least 1. Default 3072, `ViT-B/32`.
    pub intermediate: i64,
    /// Width of the projected feature, at least 1. Default 512, `ViT-B/32`.
    pub projection: i64,
    /// Which vector is the feature. Default `projected`.
    pub feature: ClipFeature,
}

impl Default for ClipImageConfig {
    fn default() -> Self {
        Self {
            patch: 32,
            layers: 12,
            width: 768,
            heads: 12,
            intermediate: 3072,
            projection: 512,
            feature: ClipFeature::Projected,
        }
    }
}

#[typetag::serde(name = "clip_image")]
impl EncoderConfig for ClipImageConfig {
    fn validate(&self) -> Result<()> {
        at_least_one("patch", self.patch)?;
        self.stack().validate()?;
        at_least_one("projection", self.projection)
    }

    fn published(&self) -> Published {
        const OTHERS: &[&str] = &[
            "logit_scale",
            "text_model.",
            "text_projection.",
            "vision_model.embeddings.position_ids",
            "visual_projection.",
        ];
        // The last one is the encoder's own where it projects.
        let unused = match self.feature {
            ClipFeature::Projected => &OTHERS[..OTHERS.len() - 1],
            ClipFeature::Pooled => OTHERS,
        };
        let first_layer = Some("vision_model.embeddings.patch_embedding");
        Published { unused, first_layer, ..Published::default() }
    }

    fn small(&self) -> Option<Box<dyn EncoderConfig>> {
        let narrow = Self { layers: 2, width: 32, heads: 4, intermediate: 64, ..self.clone() };
        Some(Box::new(Self { patch: 4, projection: 24, ..narrow }))
    }

    fn example_input(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[3, 2 * self.patch, 2 * self.patch])
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        let expected = format!("[channels, height, width], both sides multiples of {}", self.patch);
        let shape = value_shape("clip_image", inputs, &expected, |rank| rank == 3)?;
        if shape[1..].iter().any(|side| side % self.patch != 0) {
            return Err(Error::shape("input of encoder `clip_image`", expected, shape));
        }
        let width = self.width;
        let across = normal(1.0 / (width as f64).sqrt());
        let tower = at.sub("vision_model");
        let embeddings = tower.sub("embeddings");
        let norm = |name: &str| LayerNorm::new(&tower.sub(name), width, CLIP_EPSILON);
        let places = 1 + shape[1] / self.patch * (shape[2] / self.patch);
        let patches = Conv2dShape {
            inputs: shape[0],
            outputs: width,
            kernel: [self.patch; 2],
            stride: [self.patch; 2],
            padding: [0; 2],
        };
        let projection =
            || Linear::with(&at.sub("visual_projection"), width, self.projection, across, None);
        let projected = self.feature == ClipFeature::Projected;
        Ok(Box::new(ClipImage {
            class: embeddings.param("class_embedding", &[width], across)?,
            patches: Conv2d::new(&embeddings.sub("patch_embedding"), patches)?,
            positions: Embedding::new(
                &embeddings.sub("position_embedding"),
                places,
                width,
                normal(0.02),
            )?,
            // So spelt in every published file.
            first_norm: norm("pre_layrnorm")?,
            layers: ClipLayer::stack(&tower.sub("encoder.layers"), self.stack())?,
            last_norm: norm("post_layernorm")?,
            projection: projected.then(projection).transpose()?,
            width: if projected { self.projection } else { width },
        }))
    }
}
register!(encoder::<ClipImageConfig>, source = "Radford et al. 2021, arXiv:2103.00020");

impl ClipImageConfig {
    fn stack(&self) -> Stack {
        let &Self { layers, width, heads, intermediate, .. } = self;
        Stack { layers, width, heads, intermediate }
    }
}

struct ClipImage {
    class: Tensor,
    patches: Conv2d,
    positions: Embedding,
    first_norm: LayerNorm,
    layers: Vec<ClipLayer>,
    last_norm: LayerNorm,
    projection: Option<Linear>,
    width: i64,
}

impl ClipImage {
    fn enter(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let patches = self.patches.forward(x, pass)?.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let class = self.class.f_expand([x.size()[0], 1, -1], false)?;
        let tokens = Tensor::f_cat(&[class, patches], 1)?.f_add(self.positions.weight())?;
        self.first_norm.forward(&tokens)
    }

    /// The feature of the last layer's `[batch, 1 + patches, width]`.
    fn leave(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let pooled = self.last_norm.forward(&x.f_select(1, 0)?)?;
        match &self.projection {
            Some(projection) => projection.forward(&pooled, pass),
            None => Ok(pooled),
        }
    }
}

impl Encoder for ClipImage {
    fn stages(&self) -> usize {
        1 + self.layers.len()
    }

    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let x = x.value()?;
        if index == 0 {
            return Ok(Named::value_of(self.enter(x, pass)?));
        }
        let layer = self.layers.get(index - 1).ok_or_else(|| no_stage("clip_image", index))?;
        let mut x = layer.forward(x, None, pass)?;
        if index == self.layers.len() {
            x = self.leave(&x, pass)?;
        }
        Ok(Named::value_of(x))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn layers(&self) -> Vec<Layer> {
        let linear = self.layers.iter().flat_map(ClipLayer::layers).chain(&self.projection);
        let linear = linear.map(Linear::layer);
        std::iter::once(self.patches.layer()).chain(linear).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{build, chirp, feature, fill_by_chirp, run};
    use super::super::transformer::testing::{
        case, expect_in_use, expect_near, expect_near_gradients, layer_names, size,
    };
    use super::*;

    fn tiny() -> ClipImageConfig {
        ClipImageConfig {
            patch: 4,
            layers: 3,
            width: 32,
            heads: 4,
            intermediate: 64,
            projection: 24,
            ..ClipImageConfig::default()
        }
    }

    fn built(config: &ClipImageConfig, shape: &[i64]) -> (Box<dyn Encoder>, Parameters) {
        let (encoder, store) = build(config, shape).unwrap();
        fill_by_chirp(&store);
        (encoder, store)
    }

    #[test]
    fn features_and_gradients_are_those_of_transformers() {
        let wide = ClipImageConfig { layers: 2, ..ClipImageConfig::default() };
        for (name, config, side) in [("clip_image.tiny", tiny(), 16), ("clip_image.wide", wide, 64)]
        {
            let (encoder, store) = built(&config, &[3, side, side]);
            let expected = case(name);
            let x = chirp(&[2, 3, side, side]);
            let evaluated = feature(encoder.as_ref(), &x);
            expect_near(name, &evaluated, &expected["projected"]);
            let trained = run(encoder.as_ref(), encoder.stages(), &x, Statistics::Update);
            assert_eq!(trained, evaluated);
            expect_near_gradients(&trained, &store, &expected);
        }
    }

    #[test]
    fn the_pooled_feature_is_that_of_transformers_and_needs_no_projection() {
        let config = ClipImageConfig { feature: ClipFeature::Pooled, ..tiny() };
        let (encoder, store) = built(&config, &[3, 16, 16]);
        let found = feature(encoder.as_ref(), &chirp(&[2, 3, 16, 16]));
        expect_near("pooled", &found, &case("clip_image.tiny")["pooled"]);
        assert_eq!(encoder.width(), 32);
        assert!(store.find("encoder.video.visual_projection.weight").is_none());
        assert!(config.published().unused.contains(&"visual_projection."));
        expect_in_use(&config, &store);
    }

    #[test]
    fn the_default_size_has_the_published_number_of_weights() {
        // Built small and counted, so that the count of the default size needs no such encoder.
        let count = |config: &ClipImageConfig, [channels, high, wide]: [i64; 3]| {
            let &ClipImageConfig { width, intermediate, patch, .. } = config;
            let attention = 4 * (width * width + width) + 2 * width;
            let feed = 2 * width * intermediate + intermediate + width + 2 * width;
            let places = 1 + (high / patch) * (wide / patch);
            let start = width + width * channels * patch * patch + places * width + 2 * width;
            let end = 2 * width + width * config.projection;
            start + config.layers * (attention + feed) + end
        };
        let other = ClipImageConfig { layers: 1, width: 12, heads: 3, patch: 5, ..tiny() };
        for (config, shape) in [(tiny(), [3, 16, 16]), (other, [1, 10, 25])] {
            assert_eq!(size(&built(&config, &shape).1), count(&config, shape));
        }
        assert_eq!(count(&ClipImageConfig::default(), [3, 224, 224]), 87_849_216);
    }

    #[test]
    fn names_are_those_of_published_files_and_layers_come_in_forward_order() {
        let (encoder, store) = built(&tiny(), &[3, 16, 16]);
        for (name, shape) in [
            ("vision_model.embeddings.class_embedding", vec![32]),
            ("vision_model.embeddings.patch_embedding.weight", vec![32, 3, 4, 4]),
            ("vision_model.embeddings.position_embedding.weight", vec![17, 32]),
            ("vision_model.pre_layrnorm.weight", vec![32]),
            ("vision_model.encoder.layers.2.layer_norm2.weight", vec![32]),
            ("vision_model.encoder.layers.1.mlp.fc2.weight", vec![32, 64]),
            ("vision_model.post_layernorm.bias", vec![32]),
            ("visual_projection.weight", vec![24, 32]),
        ] {
            let found = store.find(&format!("encoder.video.{name}")).unwrap().1.size();
            assert_eq!(found, shape, "{name}");
        }
        assert_eq!(store.export().unwrap().len(), 3 + 2 + 3 * 16 + 2 + 1);
        expect_in_use(&tiny(), &store);
        let names = layer_names(encoder.as_ref());
        assert_eq!(names.len(), 1 + 3 * 6 + 1);
        assert_eq!(names[0], "vision_model.embeddings.patch_embedding");
        assert_eq!(names[1], "vision_model.encoder.layers.0.self_attn.q_proj");
        assert_eq!(names[18..], ["vision_model.encoder.layers.2.mlp.fc2", "visual_projection"]);
    }

    #[test]
    fn between_stages_every_patch_stands_behind_the_class() {
        let (encoder, _) = built(&tiny(), &[3, 8, 12]);
        let x = chirp(&[2, 3, 8, 12]);
        assert_eq!((encoder.stages(), encoder.width()), (4, 24));
        for stages in 1..4 {
            let found = run(encoder.as_ref(), stages, &x, Statistics::Running);
            assert_eq!(found.size(), [2, 1 + 6, 32]);
            assert_eq!(encoder.channels(stages - 1), None);
        }
        assert_eq!(feature(encoder.as_ref(), &x).size(), [2, 24]);
        assert_eq!(encoder.channels(3), Some(24));
    }

    #[test]
    fn images_that_patches_do_not_fill_are_refused_with_what_is_wanted() {
        for shape in [&[3, 16, 18][..], &[16, 16]] {
            let error = build(&tiny(), shape).err().unwrap().to_string();
            assert!(error.contains("input of encoder `clip_image`"), "{error}");
            assert!(error.contains("both sides multiples of 4"), "{error}");
        }
        let none = ClipImageConfig { patch: 0, ..tiny() };
        assert!(none.validate().unwrap_err().to_string().starts_with("`patch` is 0"));
    }
}
