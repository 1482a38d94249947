//! BERT: a text's tokens, each seeing all others, to one feature.

use mie_core::prelude::*;

use super::transformer::{
    Activation, FeedForward, MASK, SelfAttention, Stack, at_least_one, embed, expect_text,
    hide_padding, linear, look_up, normal, text_layout, with_mask,
};
use super::util::no_stage;

/// Reads a text with BERT, a transformer whose tokens see each other.
///
/// ```text
/// x_0  = drop(norm(word(ids) + position(0 … tokens - 1) + type(types)))
/// a_k  = norm(x_(k-1) + drop(attention(x_(k-1))))
/// x_k  = norm(a_k + drop(W_2 gelu(W_1 a_k + b_1) + b_2))              k = 1 … layers
///
/// attention(x) = W_o (for each head drop(softmax(Q K^T / sqrt(width / heads))) V) + b_o
/// feature      = x_layers of the first token, or its mean over the tokens of the text
/// ```
///
/// `Q`, `K` and `V` are affine maps of `x` (`query`, `key`, `value`), `W_o` is
/// `attention.output.dense`, `W_1` `intermediate.dense`, `W_2` `output.dense`;
/// `gelu(x) = x Phi(x)` with `Phi` the share of a standard normal distribution below `x`, `norm` is
/// layer normalisation with `1e-12` added to variances, `drop` dropout of the share `dropout`. No
/// token sees padding; a text of nothing but padding has a finite feature all the same. Matrices
/// and tables start Gaussian with deviation 0.02, biases at 0, as Hugging Face's model does (the
/// published code draws again beyond two deviations). The defaults are BERT base, 108,891,648
/// parameters; they are made to go on from published weights.
///
/// Parameters have the names of Hugging Face's model, without the start `bert.` that files may
/// have; the older `gamma` and `beta` are understood. The pooler and heads for pre-training are
/// left out: the feature is the last layer's, as in the released code of MIE.
///
/// Shapes: `ids` and `mask` (1 for tokens, 0 for padding) `[batch, tokens]` i64, and `types`
/// alike, 0 where absent; feature `[batch, width]`. Stages: the embeddings, then each layer;
/// between them `value` is `[batch, tokens, width]`, beside `mask`. Layers see padding among their
/// inputs, which a covariance of these then holds. A token's number that is not in the vocabulary
/// is refused on the CPU; on a GPU the device stops the program.
///
/// Layers with a weight matrix, as scopes name and count them, from the output backwards; share of
/// the parameters up to each, with a head 768-256-64-3:
///
/// ```text
/// fc3, fc2, fc1                               0.00 %   0.02 %   0.20 %
/// encoder.layer.11.output.dense               2.36 %
/// encoder.layer.11.intermediate.dense         4.52 %
/// encoder.layer.11.attention.output.dense     5.06 %
/// encoder.layer.11.attention.self.value       5.60 %
/// encoder.layer.11.attention.self.key         6.14 %
/// encoder.layer.11.attention.self.query       6.68 %
/// encoder.layer.10.output.dense               8.85 %
/// encoder.layer.10.intermediate.dense        11.01 %
/// encoder.layer.10.attention.self.query      13.17 %, 6.49 % more a further layer
/// encoder.layer.0.attention.self.query       78.04 %; the rest are tables, biases and scales
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BertConfig {
    /// Layers, at least 1. Default 12, BERT base.
    pub layers: i64,
    /// Numbers that stand for a token, at least 1. Default 768, BERT base.
    pub width: i64,
    /// Heads of the attention, a divisor of `width`. Default 12, BERT base.
    pub heads: i64,
    /// Neurons between the two maps that follow attention, at least 1. Default 3072, BERT base.
    pub intermediate: i64,
    /// Entries of the vocabulary, at least 1. Default 30522, that of `bert-base-uncased`.
    pub vocabulary: i64,
    /// Places in a text, at least 1; no text may have more tokens. Default 512, as published.
    pub positions: i64,
    /// Kinds of segment that a token may be in, at least 1. Default 2, as published.
    pub types: i64,
    /// Share of the embeddings, of attention and of what each half of a layer adds that is dropped
    /// in training, in `[0, 1)`. Default 0.1, as published.
    pub dropout: f64,
    /// What of the last layer is the feature. Default `cls`, as in the released code of MIE.
    pub feature: BertFeature,
}

/// What of the last layer is the feature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BertFeature {
    /// The first token, which tokenizers set to `[CLS]`.
    #[default]
    Cls,
    /// The mean over all tokens but padding; 0 where there is no token.
    Mean,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            layers: 12,
            width: 768,
            heads: 12,
            intermediate: 3072,
            vocabulary: 30_522,
            positions: 512,
            types: 2,
            dropout: 0.1,
            feature: BertFeature::Cls,
        }
    }
}

#[typetag::serde(name = "bert")]
impl EncoderConfig for BertConfig {
    fn validate(&self) -> Result<()> {
        self.stack().validate()?;
        at_least_one("vocabulary", self.vocabulary)?;
        at_least_one("positions", self.positions)?;
        at_least_one("types", self.types)?;
        ensure_range("dropout", "[0, 1)", self.dropout, (0.0..1.0).contains(&self.dropout))
    }

    fn published(&self) -> Published {
        Published {
            prefixes: &["bert."],
            unused: &["cls.", "pooler.", "embeddings.position_ids"],
            renames: &[
                ("LayerNorm.gamma", "LayerNorm.weight"),
                ("LayerNorm.beta", "LayerNorm.bias"),
            ],
            first_layer: None,
        }
    }

    fn small(&self) -> Option<Box<dyn EncoderConfig>> {
        let narrow = Self { layers: 2, width: 32, heads: 4, intermediate: 64, ..self.clone() };
        Some(Box::new(Self { vocabulary: 50, positions: 16, ..narrow }))
    }

    fn example_input(&self) -> Vec<TensorLayout> {
        text_layout(8)
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        expect_text("bert", inputs, &[TYPES], self.positions)?;
        let embeddings = at.sub("embeddings");
        let table = |name: &str, rows: i64| {
            let at = embeddings.sub(&format!("{name}_embeddings"));
            Embedding::new(&at, rows, self.width, normal(DEVIATION))
        };
        let blocks = at.sub("encoder.layer");
        Ok(Box::new(Bert {
            words: table("word", self.vocabulary)?,
            positions: table("position", self.positions)?,
            types: table("token_type", self.types)?,
            norm: LayerNorm::new(&embeddings.sub("LayerNorm"), self.width, EPSILON)?,
            blocks: (0..self.layers)
                .map(|index| Block::new(&blocks.sub(&index.to_string()), self))
                .collect::<Result<_>>()?,
            width: self.width,
            dropout: self.dropout,
            feature: self.feature,
        }))
    }
}
register!(encoder::<BertConfig>, source = "Devlin et al. 2019, arXiv:1810.04805");

impl BertConfig {
    fn stack(&self) -> Stack {
        let &Self { layers, width, heads, intermediate, .. } = self;
        Stack { layers, width, heads, intermediate }
    }
}

/// Name of the tensor of segments.
const TYPES: &str = "types";
/// Spread of initial weights.
const DEVIATION: f64 = 0.02;
/// Added to variances.
const EPSILON: f64 = 1e-12;

/// A layer, which normalises after each of its two halves.
struct Block {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    feed: FeedForward,
    norm: LayerNorm,
    dropout: f64,
}

impl Block {
    fn new(at: &Builder<'_>, config: &BertConfig) -> Result<Self> {
        let &BertConfig { width, heads, intermediate, dropout, .. } = config;
        let map = |name: &str, inputs, outputs| linear(&at.sub(name), inputs, outputs, DEVIATION);
        let attention = [
            map("attention.self.query", width, width)?,
            map("attention.self.key", width, width)?,
            map("attention.self.value", width, width)?,
            map("attention.output.dense", width, width)?,
        ];
        let norm = |name: &str| LayerNorm::new(&at.sub(name), width, EPSILON);
        Ok(Self {
            attention: SelfAttention::new(attention, heads, dropout),
            attention_norm: norm("attention.output.LayerNorm")?,
            feed: FeedForward {
                first: map("intermediate.dense", width, intermediate)?,
                second: map("output.dense", intermediate, width)?,
                activation: Activation::Gelu,
            },
            norm: norm("output.LayerNorm")?,
            dropout,
        })
    }

    fn forward(&self, x: &Tensor, hidden: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let seen = self.attention.forward(x, Some(hidden), pass)?;
        let x = self.attention_norm.forward(&x.f_add(&pass.dropout(seen, self.dropout)?)?)?;
        let fed = self.feed.forward(&x, pass)?;
        self.norm.forward(&x.f_add(&pass.dropout(fed, self.dropout)?)?)
    }
}

struct Bert {
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: LayerNorm,
    blocks: Vec<Block>,
    width: i64,
    dropout: f64,
    feature: BertFeature,
}

impl Bert {
    fn enter(&self, x: &Named, pass: &Pass<'_>) -> Result<Named> {
        let types = match x.0.get(TYPES) {
            Some(types) => look_up("types", types, &self.types)?,
            None => self.types.weight().f_select(0, 0)?,
        };
        let embedded = embed(x, &self.words, &self.positions)?.f_add(&types)?;
        let value = pass.dropout(self.norm.forward(&embedded)?, self.dropout)?;
        Ok(with_mask(value, x.tensor(MASK)?))
    }

    /// The feature of the last layer's `[batch, tokens, width]`.
    fn leave(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        if self.feature == BertFeature::Cls {
            return Ok(x.f_select(1, 0)?);
        }
        let weights = mask.f_to_kind(x.kind())?.f_unsqueeze(-1)?;
        let sum = x.f_mul(&weights)?.f_sum_dim_intlist(1i64, false, None::<Kind>)?;
        let count = weights.f_sum_dim_intlist(1i64, false, None::<Kind>)?.f_clamp_min(1.0)?;
        Ok(sum.f_div(&count)?)
    }
}

impl Encoder for Bert {
    fn stages(&self) -> usize {
        1 + self.blocks.len()
    }

    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        if index == 0 {
            return self.enter(&x, pass);
        }
        let block = self.blocks.get(index - 1).ok_or_else(|| no_stage("bert", index))?;
        let mask = x.tensor(MASK)?;
        let value = block.forward(x.value()?, &hide_padding(mask)?, pass)?;
        if index == self.blocks.len() {
            return Ok(Named::value_of(self.leave(&value, mask)?));
        }
        Ok(with_mask(value, mask))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn layers(&self) -> Vec<Layer> {
        let of = |block: &Block| {
            let maps = block.attention.layers().into_iter().chain(block.feed.layers());
            maps.map(|map| map.layer().clone()).collect::<Vec<_>>()
        };
        self.blocks.iter().flat_map(of).collect()
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

    fn tiny() -> BertConfig {
        BertConfig {
            layers: 3,
            width: 32,
            heads: 4,
            intermediate: 64,
            vocabulary: 50,
            positions: 16,
            dropout: 0.0,
            ..BertConfig::default()
        }
    }

    fn built(config: &BertConfig) -> (Box<dyn Encoder>, Parameters) {
        let (encoder, store) = build(config, &text_layout(9)).unwrap();
        fill_by_chirp(&store);
        (encoder, store)
    }

    #[test]
    fn features_and_gradients_are_those_of_transformers() {
        let wide = BertConfig {
            layers: 2,
            vocabulary: 60,
            positions: 32,
            dropout: 0.0,
            ..BertConfig::default()
        };
        for (name, config) in [("bert.tiny", tiny()), ("bert.wide", wide)] {
            let (encoder, store) = built(&config);
            let expected = case(name);
            let mut x = text_of(&expected);
            for statistics in [Statistics::Running, Statistics::Update] {
                let found = feature(encoder.as_ref(), x.clone(), statistics);
                expect_near(name, &found, &expected["cls"]);
            }
            x.0.insert(TYPES.to_owned(), expected[TYPES].shallow_clone());
            let typed = feature(encoder.as_ref(), x, Statistics::Update);
            expect_near(name, &typed, &expected["cls_of_types"]);
            expect_near_gradients(&typed, &store, &expected);
        }
    }

    #[test]
    fn the_mean_over_tokens_is_that_of_transformers_and_leaves_padding_out() {
        let (encoder, _) = built(&BertConfig { feature: BertFeature::Mean, ..tiny() });
        let expected = case("bert.tiny");
        let found = feature(encoder.as_ref(), text_of(&expected), Statistics::Running);
        expect_near("mean", &found, &expected["mean"]);
    }

    #[test]
    fn padding_does_not_change_the_feature() {
        for kind in [BertFeature::Cls, BertFeature::Mean] {
            let (encoder, _) = built(&BertConfig { feature: kind, ..tiny() });
            let of = |ids: Tensor, mask: Tensor| {
                feature(encoder.as_ref(), text(&ids, &mask), Statistics::Running)
            };
            let plain = of(rows(&[[7, 8, 9]]), rows(&[[1, 1, 1]]));
            let padded = of(rows(&[[7, 8, 9, 44, 0]]), rows(&[[1, 1, 1, 0, 0]]));
            // Hidden tokens have a share of exactly 0; sums may be made in another order.
            assert!(difference(&padded, &plain) < 1e-5);
            let seen = of(rows(&[[7, 8, 9, 44, 0]]), rows(&[[1, 1, 1, 1, 0]]));
            assert!(difference(&seen, &plain) > 1e-3);
        }
    }

    #[test]
    fn a_text_without_tokens_has_a_finite_feature_and_finite_gradients() {
        for kind in [BertFeature::Cls, BertFeature::Mean] {
            let (encoder, store) = built(&BertConfig { feature: kind, ..tiny() });
            let x = text(&rows(&[[0, 0, 0], [4, 5, 0]]), &rows(&[[0, 0, 0], [1, 1, 0]]));
            let found = feature(encoder.as_ref(), x, Statistics::Update);
            let finite = |x: &Tensor| x.isfinite().all().int64_value(&[]) == 1;
            assert!(finite(&found));
            let words = store.find("encoder.video.embeddings.word_embeddings.weight").unwrap().1;
            let loss = found.square().sum(Kind::Float);
            assert!(finite(&Tensor::run_backward(&[loss], &[words], false, false)[0]));
        }
    }

    #[test]
    fn dropout_acts_in_training_alone() {
        let (plain, _) = built(&tiny());
        let (dropping, _) = built(&BertConfig { dropout: 0.5, ..tiny() });
        let x = || text(&rows(&[[7, 8, 9]]), &rows(&[[1, 1, 1]]));
        let expected = feature(plain.as_ref(), x(), Statistics::Running);
        assert_eq!(feature(dropping.as_ref(), x(), Statistics::Running), expected);
        assert_ne!(feature(dropping.as_ref(), x(), Statistics::Keep), expected);
        assert_eq!(feature(plain.as_ref(), x(), Statistics::Keep), expected);
    }

    #[test]
    fn the_base_size_has_the_published_number_of_weights() {
        // Built small and counted, so that the count of the default size needs no such encoder.
        let count = |config: &BertConfig| {
            let &BertConfig { width, intermediate, .. } = config;
            let attention = 4 * (width * width + width) + 2 * width;
            let feed = 2 * width * intermediate + intermediate + width + 2 * width;
            let tables = (config.vocabulary + config.positions + config.types + 2) * width;
            tables + config.layers * (attention + feed)
        };
        let other = BertConfig { layers: 1, width: 12, heads: 3, types: 5, ..tiny() };
        for config in [tiny(), other] {
            assert_eq!(size(&built(&config).1), count(&config));
        }
        assert_eq!(count(&BertConfig::default()), 108_891_648);
    }

    #[test]
    fn names_are_those_of_published_files_and_layers_come_in_forward_order() {
        let (encoder, store) = built(&tiny());
        for (name, shape) in [
            ("embeddings.word_embeddings.weight", vec![50, 32]),
            ("embeddings.position_embeddings.weight", vec![16, 32]),
            ("embeddings.token_type_embeddings.weight", vec![2, 32]),
            ("embeddings.LayerNorm.bias", vec![32]),
            ("encoder.layer.2.attention.output.LayerNorm.weight", vec![32]),
            ("encoder.layer.0.output.LayerNorm.bias", vec![32]),
            ("encoder.layer.1.intermediate.dense.weight", vec![64, 32]),
        ] {
            let found = store.find(&format!("encoder.video.{name}")).unwrap().1.size();
            assert_eq!(found, shape, "{name}");
        }
        assert_eq!(store.export().unwrap().len(), 5 + 3 * 16);
        expect_in_use(&tiny(), &store);
        let names = layer_names(encoder.as_ref());
        assert_eq!(names.len(), 3 * 6);
        let last = [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        ];
        assert_eq!(names[12..], last.map(|name| format!("encoder.layer.2.{name}")));
    }

    #[test]
    fn between_stages_every_token_stands_beside_the_mask() {
        let (encoder, _) = built(&tiny());
        let x = || text(&rows(&[[7, 8, 9], [1, 2, 0]]), &rows(&[[1, 1, 1], [1, 1, 0]]));
        assert_eq!((encoder.stages(), encoder.width()), (4, 32));
        for stages in 1..4 {
            let found = run(encoder.as_ref(), stages, x(), Statistics::Running);
            assert_eq!(found.value().unwrap().size(), [2, 3, 32]);
            assert_eq!(found.tensor(MASK).unwrap().size(), [2, 3]);
            assert_eq!(encoder.channels(stages - 1), None);
        }
        let last = run(encoder.as_ref(), 4, x(), Statistics::Running);
        assert_eq!(last.value().unwrap().size(), [2, 32]);
        assert_eq!(encoder.channels(3), Some(32));
    }

    #[test]
    fn inputs_that_are_no_text_and_numbers_that_are_no_token_are_refused() {
        let refusal =
            |inputs: &Sizes| build(&tiny(), inputs).err().map(|error| error.to_string()).unwrap();
        let long = refusal(&text_layout(17));
        assert!(long.contains("input of encoder `bert`"), "{long}");
        assert!(long.contains("at most 16 tokens (option `positions`)"), "{long}");
        let picture = refusal(&TensorLayout::value(&[3, 8, 8]));
        assert!(picture.contains("`ids`, `mask`, `types`"), "{picture}");
        assert!(build(&tiny(), &text_layout(4)[..1]).is_err());
        let (encoder, _) = built(&tiny());
        let error_of = |x: Named| {
            encoder.stage(0, x, &mut Pass::evaluation()).err().map(|error| error.to_string())
        };
        for id in [50, -1] {
            let error = error_of(text(&rows(&[[3, id]]), &rows(&[[1, 1]]))).unwrap();
            assert!(error.contains("knows 0 to 49 (option `vocabulary`)"), "{error}");
        }
        let mut typed = text(&rows(&[[3, 4]]), &rows(&[[1, 1]]));
        typed.0.insert(TYPES.to_owned(), rows(&[[0, 2]]));
        assert!(error_of(typed).unwrap().contains("knows 0 to 1 (option `types`)"));
        assert!(error_of(text(&rows(&[[3, 4]]), &rows(&[[1]]))).unwrap().contains("`mask`"));
    }
}
