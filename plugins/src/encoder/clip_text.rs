//! The text tower of CLIP.

use mie_core::prelude::*;

use super::transformer::{
    CLIP_EPSILON, ClipFeature, ClipLayer, MASK, Stack, at_least_one, embed, expect_text,
    hide_later, hide_padding, normal, text_layout, with_mask,
};
use super::util::no_stage;

/// Reads a text with the text tower of CLIP, whose tokens see those before them.
///
/// ```text
/// x_0 = token(ids) + position(0 … tokens - 1)
/// a_k = x_(k-1) + attention(norm(x_(k-1)))
/// x_k = a_k + W_2 g(W_1 norm(a_k) + b_1) + b_2                        k = 1 … layers
///
/// attention(x) = W_o (for each head softmax(Q K^T / sqrt(width / heads)) V) + b_o
/// feature      = text_projection norm(x_layers of the last token)
/// ```
///
/// `Q`, `K` and `V` are affine maps of `x` (`q_proj`, `k_proj`, `v_proj`), `W_o` is `out_proj`,
/// `W_1` and `W_2` are `mlp.fc1` and `mlp.fc2`; `g(x) = x / (1 + exp(-1.702 x))`, `norm` is layer
/// normalisation with `1e-5` added to variances. The softmax leaves out later tokens and padding.
/// The last token is the last one that `mask` has at 1: where tokenizers end a text with a token
/// for this, that token, as published (found there as the largest number of a token); a text cut
/// off without one has a feature too, and so has a text of nothing but padding, that of its first
/// place.
///
/// Starts Gaussian, with deviation 0.02 for tables, `1 / sqrt(width)` for `out_proj` and
/// `text_projection`, `1 / sqrt(2 width)` for `fc1` and `1 / sqrt(2 layers width)` for the rest,
/// biases at 0, as Hugging Face's model does. The defaults are the tower of CLIP `ViT-B/32`,
/// 63,428,096 parameters; they are made to go on from published weights.
///
/// Parameters have the names of Hugging Face's model, whose files hold both towers: that of images
/// is passed over. Files of the original release, which name parameters otherwise
/// (`in_proj_weight`), are not understood.
///
/// Shapes: `ids` and `mask` (1 for tokens, 0 for padding) `[batch, tokens]` i64; feature
/// `[batch, projection]`, not normalised. Stages: the embeddings, then each layer; between them
/// `value` is `[batch, tokens, width]`, beside `mask`. Layers see padding among their inputs,
/// which a covariance of these then holds. A token's number that is not in the vocabulary is
/// refused on the CPU; on a GPU the device stops the program.
///
/// Layers with a weight matrix, as scopes name and count them, from the output backwards; share of
/// the parameters up to each, with a head 512-256-64-3. The towers have other widths, so none of
/// them but the head's pairs with one of `clip_image`:
///
/// ```text
/// fc3, fc2, fc1                                       0.00 %   0.03 %   0.23 %
/// text_projection                                     0.64 %
/// text_model.encoder.layers.11.mlp.fc2                2.29 %
/// text_model.encoder.layers.11.mlp.fc1                3.94 %
/// text_model.encoder.layers.11.self_attn.out_proj     4.36 %
/// text_model.encoder.layers.11.self_attn.v_proj       4.77 %
/// text_model.encoder.layers.11.self_attn.k_proj       5.18 %
/// text_model.encoder.layers.11.self_attn.q_proj       5.59 %
/// text_model.encoder.layers.10.mlp.fc2                7.24 %
/// text_model.encoder.layers.10.self_attn.q_proj      10.54 %, 4.95 % more a further layer
/// text_model.encoder.layers.0.self_attn.q_proj       60.02 %; the rest are tables, biases, scales
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Layers, at least 1. Default 12, as published.
    pub layers: i64,
    /// Numbers that stand for a token, at least 1. Default 512, `ViT-B/32`.
    pub width: i64,
    /// Heads of the attention, a divisor of `width`. Default 8, `ViT-B/32`.
    pub heads: i64,
    /// Neurons between the two maps that follow attention, at least 1. Default 2048, `ViT-B/32`.
    pub intermediate: i64,
    /// Entries of the vocabulary, at least 1. Default 49408, as published.
    pub vocabulary: i64,
    /// Places in a text, at least 1; no text may have more tokens. Default 77, as published.
    pub positions: i64,
    /// Width of the projected feature, at least 1. Default 512, `ViT-B/32`.
    pub projection: i64,
    /// Which vector is the feature. Default `projected`.
    pub feature: ClipFeature,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            layers: 12,
            width: 512,
            heads: 8,
            intermediate: 2048,
            vocabulary: 49_408,
            positions: 77,
            projection: 512,
            feature: ClipFeature::Projected,
        }
    }
}

#[typetag::serde(name = "clip_text")]
impl EncoderConfig for ClipTextConfig {
    fn validate(&self) -> Result<()> {
        self.stack().validate()?;
        at_least_one("vocabulary", self.vocabulary)?;
        at_least_one("positions", self.positions)?;
        at_least_one("projection", self.projection)
    }

    fn published(&self) -> Published {
        const OTHERS: &[&str] = &[
            "logit_scale",
            "vision_model.",
            "visual_projection.",
            "text_model.embeddings.position_ids",
            "text_projection.",
        ];
        // The last one is the encoder's own where it projects.
        let unused = match self.feature {
            ClipFeature::Projected => &OTHERS[..OTHERS.len() - 1],
            ClipFeature::Pooled => OTHERS,
        };
        Published { unused, ..Published::default() }
    }

    fn small(&self) -> Option<Box<dyn EncoderConfig>> {
        let narrow = Self { layers: 2, width: 32, heads: 4, intermediate: 64, ..self.clone() };
        Some(Box::new(Self { vocabulary: 50, positions: 16, projection: 24, ..narrow }))
    }

    fn example_input(&self) -> Vec<TensorLayout> {
        text_layout(8)
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        expect_text("clip_text", inputs, &[], self.positions)?;
        let tower = at.sub("text_model");
        let table = |name: &str, rows: i64| {
            let at = tower.sub(&format!("embeddings.{name}_embedding"));
            Embedding::new(&at, rows, self.width, normal(0.02))
        };
        let projection = || {
            let start = normal(1.0 / (self.width as f64).sqrt());
            Linear::with(&at.sub("text_projection"), self.width, self.projection, start, None)
        };
        let projected = self.feature == ClipFeature::Projected;
        Ok(Box::new(ClipText {
            tokens: table("token", self.vocabulary)?,
            positions: table("position", self.positions)?,
            layers: ClipLayer::stack(&tower.sub("encoder.layers"), self.stack())?,
            norm: LayerNorm::new(&tower.sub("final_layer_norm"), self.width, CLIP_EPSILON)?,
            projection: projected.then(projection).transpose()?,
            width: if projected { self.projection } else { self.width },
        }))
    }
}
register!(encoder::<ClipTextConfig>, source = "Radford et al. 2021, arXiv:2103.00020");

impl ClipTextConfig {
    fn stack(&self) -> Stack {
        let &Self { layers, width, heads, intermediate, .. } = self;
        Stack { layers, width, heads, intermediate }
    }
}

struct ClipText {
    tokens: Embedding,
    positions: Embedding,
    layers: Vec<ClipLayer>,
    norm: LayerNorm,
    projection: Option<Linear>,
    width: i64,
}

impl ClipText {
    /// The feature of the last layer's `[batch, tokens, width]`.
    fn leave(&self, x: &Tensor, mask: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let size = x.size();
        let &[_, tokens, width] = size.as_slice() else {
            return Err(Error::shape("tokens of `clip_text`", "[batch, tokens, width]", size));
        };
        let places = Tensor::f_arange(tokens, (Kind::Int64, mask.device()))?;
        let last = mask.f_mul(&places)?.f_amax(1i64, false)?;
        let last = last.f_view([-1, 1, 1])?.f_expand([-1, 1, width], false)?;
        let pooled = self.norm.forward(&x.f_gather(1, &last, false)?.f_squeeze_dim(1)?)?;
        match &self.projection {
            Some(projection) => projection.forward(&pooled, pass),
            None => Ok(pooled),
        }
    }
}

impl Encoder for ClipText {
    fn stages(&self) -> usize {
        1 + self.layers.len()
    }

    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let mask = x.tensor(MASK)?;
        if index == 0 {
            return Ok(with_mask(embed(&x, &self.tokens, &self.positions)?, mask));
        }
        let layer = self.layers.get(index - 1).ok_or_else(|| no_stage("clip_text", index))?;
        let tokens = mask.size().last().copied().unwrap_or_default();
        let hidden = hide_later(tokens, mask.device())?.f_add(&hide_padding(mask)?)?;
        let value = layer.forward(x.value()?, Some(&hidden), pass)?;
        if index == self.layers.len() {
            return Ok(Named::value_of(self.leave(&value, mask, pass)?));
        }
        Ok(with_mask(value, mask))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn layers(&self) -> Vec<Layer> {
        let layers = self.layers.iter().flat_map(ClipLayer::layers).chain(&self.projection);
        layers.map(|linear| linear.layer().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{difference, fill_by_chirp};
    use super::super::transformer::testing::{
        build, case, expect_in_use, expect_near, expect_near_gradients, feature, layer_names, rows,
        run, size, text, text_of,
    };
    use super::*;

    fn tiny() -> ClipTextConfig {
        ClipTextConfig {
            layers: 3,
            width: 32,
            heads: 4,
            intermediate: 64,
            vocabulary: 50,
            positions: 12,
            projection: 24,
            ..ClipTextConfig::default()
        }
    }

    fn built(config: &ClipTextConfig) -> (Box<dyn Encoder>, Parameters) {
        let (encoder, store) = build(config, &text_layout(9)).unwrap();
        fill_by_chirp(&store);
        (encoder, store)
    }

    #[test]
    fn features_and_gradients_are_those_of_transformers() {
        let wide = ClipTextConfig { layers: 2, vocabulary: 60, ..ClipTextConfig::default() };
        for (name, config) in [("clip_text.tiny", tiny()), ("clip_text.wide", wide)] {
            let (encoder, store) = built(&config);
            let expected = case(name);
            let x = text_of(&expected);
            let evaluated = feature(encoder.as_ref(), x.clone(), Statistics::Running);
            expect_near(name, &evaluated, &expected["projected"]);
            let trained = feature(encoder.as_ref(), x, Statistics::Update);
            assert_eq!(trained, evaluated);
            expect_near_gradients(&trained, &store, &expected);
        }
    }

    #[test]
    fn the_pooled_feature_is_that_of_transformers_and_needs_no_projection() {
        let config = ClipTextConfig { feature: ClipFeature::Pooled, ..tiny() };
        let (encoder, store) = built(&config);
        let expected = case("clip_text.tiny");
        let found = feature(encoder.as_ref(), text_of(&expected), Statistics::Running);
        expect_near("pooled", &found, &expected["pooled"]);
        assert_eq!(encoder.width(), 32);
        assert!(store.find("encoder.video.text_projection.weight").is_none());
        assert!(config.published().unused.contains(&"text_projection."));
        expect_in_use(&config, &store);
    }

    #[test]
    fn padding_does_not_change_the_feature_and_the_last_token_is_what_the_mask_says() {
        let (encoder, _) = built(&tiny());
        let of = |ids: Tensor, mask: Tensor| {
            feature(encoder.as_ref(), text(&ids, &mask), Statistics::Running)
        };
        let plain = of(rows(&[[1, 8, 49]]), rows(&[[1, 1, 1]]));
        for padding in [0, 49, 7] {
            let ids = rows(&[[1, 8, 49, padding, padding]]);
            let padded = of(ids.shallow_clone(), rows(&[[1, 1, 1, 0, 0]]));
            // Hidden tokens have a share of exactly 0; sums may be made in another order.
            assert!(difference(&padded, &plain) < 1e-5);
            assert!(difference(&of(ids, rows(&[[1, 1, 1, 1, 0]])), &plain) > 1e-3);
        }
    }

    #[test]
    fn no_token_sees_a_later_one() {
        let (encoder, _) = built(&tiny());
        let at_last = |ids: Tensor| {
            let x = text(&ids, &rows(&[[1, 1, 1, 1]]));
            let x = run(encoder.as_ref(), 3, x, Statistics::Running);
            x.value().unwrap().select(0, 0)
        };
        let (one, two) = (at_last(rows(&[[3, 4, 5, 6]])), at_last(rows(&[[3, 4, 9, 6]])));
        let far = |place: i64| difference(&one.get(place), &two.get(place));
        assert!(far(0) < 1e-6 && far(1) < 1e-6, "{} {}", far(0), far(1));
        assert!(far(2) > 1e-3 && far(3) > 1e-3, "{} {}", far(2), far(3));
    }

    #[test]
    fn a_text_without_tokens_has_a_finite_feature_and_finite_gradients() {
        let (encoder, store) = built(&tiny());
        let x = text(&rows(&[[0, 0, 0], [4, 5, 0]]), &rows(&[[0, 0, 0], [1, 1, 0]]));
        let found = feature(encoder.as_ref(), x, Statistics::Update);
        let finite = |x: &Tensor| x.isfinite().all().int64_value(&[]) == 1;
        assert!(finite(&found));
        let name = "encoder.video.text_model.embeddings.token_embedding.weight";
        let loss = found.square().sum(Kind::Float);
        let tokens = store.find(name).unwrap().1;
        assert!(finite(&Tensor::run_backward(&[loss], &[tokens], false, false)[0]));
    }

    #[test]
    fn the_default_size_has_the_published_number_of_weights() {
        // Built small and counted, so that the count of the default size needs no such encoder.
        let count = |config: &ClipTextConfig| {
            let &ClipTextConfig { width, intermediate, .. } = config;
            let attention = 4 * (width * width + width) + 2 * width;
            let feed = 2 * width * intermediate + intermediate + width + 2 * width;
            let tables = (config.vocabulary + config.positions) * width;
            let end = 2 * width + width * config.projection;
            tables + config.layers * (attention + feed) + end
        };
        let other = ClipTextConfig { layers: 1, width: 12, heads: 3, projection: 5, ..tiny() };
        for config in [tiny(), other] {
            assert_eq!(size(&built(&config).1), count(&config));
        }
        assert_eq!(count(&ClipTextConfig::default()), 63_428_096);
    }

    #[test]
    fn names_are_those_of_published_files_and_layers_come_in_forward_order() {
        let (encoder, store) = built(&tiny());
        for (name, shape) in [
            ("text_model.embeddings.token_embedding.weight", vec![50, 32]),
            ("text_model.embeddings.position_embedding.weight", vec![12, 32]),
            ("text_model.encoder.layers.2.layer_norm1.weight", vec![32]),
            ("text_model.encoder.layers.1.mlp.fc1.weight", vec![64, 32]),
            ("text_model.final_layer_norm.bias", vec![32]),
            ("text_projection.weight", vec![24, 32]),
        ] {
            let found = store.find(&format!("encoder.video.{name}")).unwrap().1.size();
            assert_eq!(found, shape, "{name}");
        }
        assert_eq!(store.export().unwrap().len(), 2 + 3 * 16 + 3);
        expect_in_use(&tiny(), &store);
        let names = layer_names(encoder.as_ref());
        assert_eq!(names.len(), 3 * 6 + 1);
        let last =
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"];
        let last = last.into_iter().chain(["mlp.fc1", "mlp.fc2"]);
        let mut expected: Vec<String> =
            last.map(|name| format!("text_model.encoder.layers.2.{name}")).collect();
        expected.push("text_projection".to_owned());
        assert_eq!(names[12..], expected);
    }

    #[test]
    fn inputs_that_are_no_text_are_refused_with_what_is_wanted() {
        for inputs in [text_layout(13), TensorLayout::value(&[3, 8, 8])] {
            let error = build(&tiny(), &inputs).err().unwrap().to_string();
            assert!(error.contains("input of encoder `clip_text`"), "{error}");
            assert!(error.contains("at most 12 tokens"), "{error}");
        }
        let (encoder, _) = built(&tiny());
        let x = text(&rows(&[[3, 50]]), &rows(&[[1, 1]]));
        let error = encoder.stage(0, x, &mut Pass::evaluation()).err().unwrap().to_string();
        assert!(error.contains("knows 0 to 49 (option `vocabulary`)"), "{error}");
    }
}
