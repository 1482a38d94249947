//! What the transformers share: attention, the layers of CLIP, texts as numbers of tokens.

use mie_core::prelude::*;

/// Lowers the score of a token that is not to be seen: so far that the softmax gives exactly 0, and
/// finite, so that a text of nothing but padding has a finite feature too.
const HIDING: f64 = 1e9;

/// Sizes of a stack of layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack {
    pub(super) layers: i64,
    pub(super) width: i64,
    pub(super) heads: i64,
    pub(super) intermediate: i64,
}

impl Stack {
    /// Checks the options of these names.
    pub(super) fn validate(self) -> Result<()> {
        at_least_one("layers", self.layers)?;
        at_least_one("width", self.width)?;
        let divides = self.heads >= 1 && self.width % self.heads == 0;
        ensure_range("heads", "a divisor of `width`", self.heads, divides)?;
        at_least_one("intermediate", self.intermediate)
    }
}

/// Expects an option to be at least 1.
pub(super) fn at_least_one(option: &str, value: i64) -> Result<()> {
    ensure_range(option, "[1, inf)", value, value >= 1)
}

/// Gaussian around 0.
pub(super) fn normal(deviation: f64) -> Initial {
    Initial::Normal { mean: 0.0, deviation }
}

/// A layer whose weights start Gaussian around 0, and its biases at 0.
pub(super) fn linear(
    at: &Builder<'_>,
    inputs: i64,
    outputs: i64,
    deviation: f64,
) -> Result<Linear> {
    Linear::with(at, inputs, outputs, normal(deviation), Some(Initial::Constant(0.0)))
}

/// Scaled dot-product attention of several heads, of tokens to tokens of the same sample.
pub(super) struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: i64,
    dropout: f64,
}

impl SelfAttention {
    /// Takes the maps to queries, keys and values and that of what was seen, in this order.
    pub(super) fn new(layers: [Linear; 4], heads: i64, dropout: f64) -> Self {
        let [query, key, value, output] = layers;
        Self { query, key, value, output, heads, dropout }
    }

    /// Maps `[batch, tokens, width]` to the same; `hidden` is added to the scores
    /// `[batch, heads, tokens that look, tokens seen]`.
    ///
    /// Written out instead of libtorch's fused kernels: these add up gradients in an order of
    /// chance on a GPU, and with the short texts and few patches here they save 1 % of a layer's
    /// time on a CPU.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        hidden: Option<&Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let size = x.size();
        let &[batch, tokens, width] = size.as_slice() else {
            return Err(Error::shape("input of attention", "[batch, tokens, width]", size));
        };
        let mut by_head = |map: &Linear| -> Result<Tensor> {
            let mapped = map.forward(x, pass)?.f_reshape([batch, tokens, self.heads, -1])?;
            Ok(mapped.f_transpose(1, 2)?)
        };
        let (query, key, value) =
            (by_head(&self.query)?, by_head(&self.key)?, by_head(&self.value)?);
        let scale = (self.heads as f64 / width as f64).sqrt();
        let mut scores = query.f_mul_scalar(scale)?.f_matmul(&key.f_transpose(2, 3)?)?;
        if let Some(hidden) = hidden {
            scores = scores.f_add(hidden)?;
        }
        let shares = pass.dropout(scores.f_softmax(-1, None::<Kind>)?, self.dropout)?;
        let seen = shares.f_matmul(&value)?.f_transpose(1, 2)?;
        self.output.forward(&seen.f_reshape([batch, tokens, width])?, pass)
    }

    /// Layers in forward order.
    pub(super) fn layers(&self) -> [&Linear; 4] {
        [&self.query, &self.key, &self.value, &self.output]
    }
}

/// The rectifier between the two layers of a [`FeedForward`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Activation {
    /// `x` times the share of a standard normal distribution below `x`.
    Gelu,
    /// `x / (1 + exp(-1.702 x))`, close to it.
    QuickGelu,
}

impl Activation {
    fn of(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Gelu => x.f_gelu("none")?,
            Self::QuickGelu => x.f_mul(&x.f_mul_scalar(1.702)?.f_sigmoid()?)?,
        })
    }
}

/// Two layers that map each token by itself.
pub(super) struct FeedForward {
    pub(super) first: Linear,
    pub(super) second: Linear,
    pub(super) activation: Activation,
}

impl FeedForward {
    /// Maps `[batch, tokens, width]` to the same.
    pub(super) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let inner = self.activation.of(&self.first.forward(x, pass)?)?;
        self.second.forward(&inner, pass)
    }

    /// Layers in forward order.
    pub(super) fn layers(&self) -> [&Linear; 2] {
        [&self.first, &self.second]
    }
}

/// Which vector of a tower of CLIP is its feature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClipFeature {
    /// The one that is compared between images and texts, `projection` wide.
    #[default]
    Projected,
    /// The one before the projection, `width` wide; there is no projection then.
    Pooled,
}

/// A layer of either tower of CLIP, which normalises before it maps.
pub(super) struct ClipLayer {
    first_norm: LayerNorm,
    attention: SelfAttention,
    second_norm: LayerNorm,
    feed: FeedForward,
}

/// Added to variances in CLIP.
pub(super) const CLIP_EPSILON: f64 = 1e-5;

impl ClipLayer {
    /// Creates the layers `0`, `1` … of `stack` below `at`.
    pub(super) fn stack(at: &Builder<'_>, stack: Stack) -> Result<Vec<Self>> {
        (0..stack.layers).map(|index| Self::new(&at.sub(&index.to_string()), stack)).collect()
    }

    fn new(at: &Builder<'_>, stack: Stack) -> Result<Self> {
        let Stack { layers, width, heads, intermediate } = stack;
        let across = 1.0 / (width as f64).sqrt();
        let along = across / (2.0 * layers as f64).sqrt();
        let attention = |name: &str, deviation: f64| {
            linear(&at.sub(&format!("self_attn.{name}_proj")), width, width, deviation)
        };
        let attention = [
            attention("q", along)?,
            attention("k", along)?,
            attention("v", along)?,
            attention("out", across)?,
        ];
        Ok(Self {
            first_norm: LayerNorm::new(&at.sub("layer_norm1"), width, CLIP_EPSILON)?,
            attention: SelfAttention::new(attention, heads, 0.0),
            second_norm: LayerNorm::new(&at.sub("layer_norm2"), width, CLIP_EPSILON)?,
            feed: FeedForward {
                first: linear(&at.sub("mlp.fc1"), width, intermediate, across / 2f64.sqrt())?,
                second: linear(&at.sub("mlp.fc2"), intermediate, width, along)?,
                activation: Activation::QuickGelu,
            },
        })
    }

    /// Maps `[batch, tokens, width]` to the same.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        hidden: Option<&Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let x = x.f_add(&self.attention.forward(&self.first_norm.forward(x)?, hidden, pass)?)?;
        Ok(x.f_add(&self.feed.forward(&self.second_norm.forward(&x)?, pass)?)?)
    }

    /// Layers in forward order.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Linear> {
        self.attention.layers().into_iter().chain(self.feed.layers())
    }
}

/// Name of the tensor of a text's numbers of tokens.
pub(super) const IDS: &str = "ids";
/// Name of the tensor that is 1 where there is a token and 0 where there is padding.
pub(super) const MASK: &str = "mask";

/// Layout of a text of so many tokens.
pub(super) fn text_layout(tokens: i64) -> Vec<TensorLayout> {
    let tensor = |name: &str| TensorLayout {
        name: name.to_owned(),
        shape: vec![tokens],
        element: Element::I64,
    };
    vec![tensor(IDS), tensor(MASK)]
}

/// Expects the tensors of a text, with those of `optional` names or without.
pub(super) fn expect_text(
    encoder: &str,
    inputs: &Sizes,
    optional: &[&str],
    positions: i64,
) -> Result<()> {
    let tokens = inputs.first().and_then(|layout| layout.shape.first()).copied();
    let has = |name: &str| inputs.iter().any(|layout| layout.name == name);
    let fits = |layout: &TensorLayout| {
        let name = layout.name.as_str();
        (name == IDS || name == MASK || optional.contains(&name))
            && layout.element == Element::I64
            && layout.shape.len() == 1
            && layout.shape.first().copied() == tokens
    };
    let few_enough = tokens.is_some_and(|tokens| (1..=positions).contains(&tokens));
    if has(IDS) && has(MASK) && few_enough && inputs.iter().all(fits) {
        return Ok(());
    }
    let names: Vec<String> =
        [IDS, MASK].iter().chain(optional).map(|name| format!("`{name}`")).collect();
    Err(Error::shape(
        format!("input of encoder `{encoder}`"),
        format!(
            "tensors of a text {}, i64 of one shape [tokens] with at most {positions} tokens \
             (option `positions`), batch aside",
            names.join(", ")
        ),
        inputs,
    ))
}

/// Looks up the tokens and places of a text `[batch, tokens]`: `[batch, tokens, width]`.
pub(super) fn embed(x: &Named, tokens: &Embedding, positions: &Embedding) -> Result<Tensor> {
    let (ids, mask) = (x.tensor(IDS)?, x.tensor(MASK)?);
    let size = ids.size();
    if size.len() != 2 || mask.size() != size {
        return Err(Error::shape(
            "tensors `ids` and `mask`",
            "[batch, tokens]",
            (size, mask.size()),
        ));
    }
    let places = positions.weight().f_narrow(0, 0, size[1])?;
    Ok(look_up("vocabulary", ids, tokens)?.f_add(&places)?)
}

/// Looks numbers up in a table whose number of rows is `option`.
///
/// Whether they are rows is looked at on the CPU; on a GPU that would make the host wait, and the
/// device stops the program by an assertion of its own.
pub(super) fn look_up(option: &str, numbers: &Tensor, table: &Embedding) -> Result<Tensor> {
    let rows = table.weight().size()[0];
    if numbers.device() == Device::Cpu && numbers.numel() > 0 {
        let least = numbers.f_min()?.f_int64_value(&[])?;
        let largest = numbers.f_max()?.f_int64_value(&[])?;
        if least < 0 || largest >= rows {
            return Err(Error::refused(
                format!(
                    "a text has numbers from {least} to {largest}, and the encoder knows 0 to {} \
                     (option `{option}`)",
                    rows - 1
                ),
                "name the vocabulary file that the encoder's weights were made with, or set \
                 the encoder's option to its number of entries",
            ));
        }
    }
    table.forward(numbers)
}

/// A text on its way through the layers: what the tokens have become, and which are none.
pub(super) fn with_mask(value: Tensor, mask: &Tensor) -> Named {
    let mut named = Named::value_of(value);
    named.0.insert(MASK.to_owned(), mask.shallow_clone());
    named
}

/// What is added to scores so that padding is not seen, from `mask` `[batch, tokens]`:
/// `[batch, 1, 1, tokens]`.
pub(super) fn hide_padding(mask: &Tensor) -> Result<Tensor> {
    hide(&mask.f_unsqueeze(1)?.f_unsqueeze(1)?)
}

/// What is added to scores so that no token sees a later one: `[tokens, tokens]`.
pub(super) fn hide_later(tokens: i64, device: Device) -> Result<Tensor> {
    hide(&Tensor::f_ones([tokens, tokens], (Kind::Float, device))?.f_tril(0)?)
}

/// 0 where `seen` is 1, far below 0 where it is 0.
fn hide(seen: &Tensor) -> Result<Tensor> {
    Ok(seen.f_to_kind(Kind::Float)?.f_sub_scalar(1.0)?.f_mul_scalar(HIDING)?)
}

/// What the tests of the transformers share.
#[cfg(test)]
pub(super) mod testing {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::super::fixture::{difference, reference};
    use super::*;

    /// Largest difference to transformers' features, as a share of the largest value: three times
    /// what 64-bit numbers make of it, and less than any mistake tried (see the script).
    const NEAR: f64 = 1e-5;
    /// The same for gradients, whose sums are longer.
    const NEAR_GRADIENT: f64 = 3e-5;
    /// Entries of a gradient that the script stores, spread evenly over it.
    const LONGEST_GRADIENT: usize = 1024;

    /// Builds the encoder of modality `video`, always from the same seed.
    pub(crate) fn build(
        config: &dyn EncoderConfig,
        inputs: &Sizes,
    ) -> Result<(Box<dyn Encoder>, Parameters)> {
        let store = RefCell::new(Parameters::default());
        let group = GroupId::Encoder("video".to_owned());
        let at = Builder::new(&store, Seed(0), Device::Cpu, group);
        let encoder = config.build(inputs, &at)?;
        Ok((encoder, store.into_inner()))
    }

    /// Number of weights.
    pub(crate) fn size(store: &Parameters) -> i64 {
        store.size(&GroupId::Encoder("video".to_owned())) as i64
    }

    /// Tensors of one case of the reference file.
    pub(crate) fn case(name: &str) -> BTreeMap<String, Tensor> {
        let all = reference("transformers_encoders.safetensors");
        let of_case = |(key, value): (String, Tensor)| {
            let key = key.strip_prefix(name)?.strip_prefix('.')?.to_owned();
            Some((key, value))
        };
        all.into_iter().filter_map(of_case).collect()
    }

    /// A text from its numbers and its mask.
    pub(crate) fn text(ids: &Tensor, mask: &Tensor) -> Named {
        let tensors = [(IDS, ids), (MASK, mask)];
        Named(tensors.map(|(name, x)| (name.to_owned(), x.shallow_clone())).into())
    }

    /// A text of a case.
    pub(crate) fn text_of(case: &BTreeMap<String, Tensor>) -> Named {
        text(&case[IDS], &case[MASK])
    }

    /// Numbers of tokens in rows.
    pub(crate) fn rows<const N: usize>(rows: &[[i64; N]]) -> Tensor {
        Tensor::from_slice(rows.as_flattened()).view([-1, N as i64])
    }

    /// Runs the first `stages` stages.
    pub(crate) fn run(
        encoder: &dyn Encoder,
        stages: usize,
        mut x: Named,
        statistics: Statistics,
    ) -> Named {
        let mut pass = Pass::of(statistics);
        for index in 0..stages {
            x = encoder.stage(index, x, &mut pass).unwrap();
        }
        x
    }

    /// Computes the feature.
    pub(crate) fn feature(encoder: &dyn Encoder, x: Named, statistics: Statistics) -> Tensor {
        run(encoder, encoder.stages(), x, statistics).value().unwrap().shallow_clone()
    }

    /// Expects a feature to be that of transformers.
    pub(crate) fn expect_near(what: &str, found: &Tensor, expected: &Tensor) {
        let difference = difference(found, expected);
        assert!(difference < NEAR, "{what}: {difference}");
    }

    /// Expects the gradients of the sum of the squared feature to be those of transformers.
    pub(crate) fn expect_near_gradients(
        feature: &Tensor,
        store: &Parameters,
        case: &BTreeMap<String, Tensor>,
    ) {
        let stored: Vec<(&str, &Tensor)> = case
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("gradient.")?, value)))
            .collect();
        assert_eq!(stored.len(), 3);
        let weights: Vec<&Tensor> = stored
            .iter()
            .map(|(name, _)| store.find(&format!("encoder.video.{name}")).unwrap().1)
            .collect();
        let loss = feature.square().sum(Kind::Float);
        let found = Tensor::run_backward(&[loss], &weights, false, false);
        for ((name, expected), found) in stored.into_iter().zip(found) {
            let count = found.numel();
            let step = count.div_ceil(LONGEST_GRADIENT) as i64;
            let found = found.flatten(0, -1).slice(0, 0, count as i64, step);
            let difference = difference(&found, expected);
            assert!(difference < NEAR_GRADIENT, "gradient of {name}: {difference}");
        }
    }

    /// Expects no weight to be among those that published files have and the encoder does not.
    pub(crate) fn expect_in_use(config: &dyn EncoderConfig, store: &Parameters) {
        let unused = config.published().unused;
        for path in store.export().unwrap().keys() {
            let name = path.strip_prefix("encoder.video.").unwrap();
            assert!(!unused.iter().any(|start| name.starts_with(start)), "{name}");
        }
    }

    /// Names of the layers, in forward order.
    pub(crate) fn layer_names(encoder: &dyn Encoder) -> Vec<String> {
        encoder.layers().iter().map(|layer| layer.local_name().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::rows;
    use super::*;

    #[test]
    fn hidden_tokens_are_far_below_the_others() {
        let padding = hide_padding(&rows(&[[1, 1, 0]])).unwrap();
        assert_eq!(padding.size(), [1, 1, 1, 3]);
        assert_eq!(Vec::<f32>::try_from(padding.flatten(0, -1)).unwrap(), [0.0, 0.0, -1e9]);
        let later = hide_later(2, Device::Cpu).unwrap();
        assert_eq!(Vec::<f32>::try_from(later.flatten(0, -1)).unwrap(), [0.0, -1e9, 0.0, 0.0]);
    }

    #[test]
    fn rectifiers_have_their_known_values() {
        let x = Tensor::from_slice(&[-1.0f64, 0.0, 1.0]);
        let check = |activation: Activation, expected: [f64; 3]| {
            let found = Vec::<f64>::try_from(activation.of(&x).unwrap()).unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-9, "{activation:?}: {found}");
            }
        };
        // A standard normal distribution has a share of 0.841344746069 below 1.
        check(Activation::Gelu, [-0.158_655_253_931, 0.0, 0.841_344_746_069]);
        let quick = 1.0 / (1.0 + (-1.702f64).exp());
        check(Activation::QuickGelu, [quick - 1.0, 0.0, quick]);
    }

    #[test]
    fn heads_must_divide_the_width() {
        let stack = Stack { layers: 1, width: 10, heads: 4, intermediate: 8 };
        let error = stack.validate().unwrap_err().to_string();
        assert_eq!(error, "`heads` is 4, expected a divisor of `width`");
        let error = Stack { heads: 5, layers: 0, ..stack }.validate().unwrap_err().to_string();
        assert!(error.starts_with("`layers` is 0"), "{error}");
        Stack { heads: 5, ..stack }.validate().unwrap();
    }
}
