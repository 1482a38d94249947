//! The mean of what the words of a text stand for.

use mie_core::prelude::*;

use super::transformer::{IDS, MASK, at_least_one, look_up, text_layout};

/// Averages what the words of a text stand for, whatever their order.
///
/// ```text
/// h_0 = sum_t mask_t E(ids_t) / max(1, sum_t mask_t)
/// h_k = max(0, W_k h_(k-1) + b_k),   feature = h_N
/// ```
///
/// with `E` the table `words`, `W_k`, `b_k` the parameters `fc1` … `fcN`, and `hidden` the sizes of
/// `h_1` … `h_N`; without any, the mean is the feature, and not rectified. A text without words has
/// a mean of 0. The table starts Gaussian with deviation 1, weights and biases uniform in
/// `±1/sqrt(inputs)`, as PyTorch's. A small baseline for texts without published weights; it reads
/// what `hashed_words` gives, and pieces of words as well.
///
/// Shapes: `ids` and `mask` (1 for words, 0 for padding) `[batch, tokens]` i64, further tensors are
/// passed over; feature `[batch, width]`, or as wide as the last of `hidden`. A number that is not
/// in the table is refused on the CPU; on a GPU the device stops the program.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BagOfWordsConfig {
    /// Rows of the table, at least 1. Default 4096, the `buckets` of `hashed_words`.
    pub vocabulary: i64,
    /// Numbers that stand for a word, at least 1. Default 128, ours.
    pub width: i64,
    /// Neurons of each layer after the mean, at least 1 each; empty for no layer. Default `[]`, as
    /// in fastText.
    pub hidden: Vec<i64>,
}

impl Default for BagOfWordsConfig {
    fn default() -> Self {
        Self { vocabulary: 4096, width: 128, hidden: vec![] }
    }
}

#[typetag::serde(name = "bag_of_words")]
impl EncoderConfig for BagOfWordsConfig {
    fn validate(&self) -> Result<()> {
        at_least_one("vocabulary", self.vocabulary)?;
        at_least_one("width", self.width)?;
        let hidden = format!("{:?}", self.hidden);
        ensure_range("hidden", "a list of [1, inf)", hidden, self.hidden.iter().all(|&n| n >= 1))
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        expect_ids_and_mask(inputs)?;
        let initial = Initial::Normal { mean: 0.0, deviation: 1.0 };
        let words = Embedding::new(&at.sub("words"), self.vocabulary, self.width, initial)?;
        let mut width = self.width;
        let mut layers = Vec::new();
        for (index, &outputs) in self.hidden.iter().enumerate() {
            layers.push(Linear::new(&at.sub(&format!("fc{}", index + 1)), width, outputs)?);
            width = outputs;
        }
        Ok(Box::new(BagOfWords { words, layers, width }))
    }

    fn example_input(&self) -> Vec<TensorLayout> {
        text_layout(8)
    }
}
register!(encoder::<BagOfWordsConfig>, source = "Joulin et al. 2017, arXiv:1607.01759");

/// Expects the numbers of a text and its mask, of one size.
fn expect_ids_and_mask(inputs: &Sizes) -> Result<()> {
    let tokens = |name: &str| {
        let found = inputs.iter().find(|layout| layout.name == name);
        let found = found.filter(|layout| layout.element == Element::I64 && !layout.is_empty());
        found.and_then(|layout| <[i64; 1]>::try_from(layout.shape.as_slice()).ok())
    };
    if tokens(IDS).is_some() && tokens(IDS) == tokens(MASK) {
        return Ok(());
    }
    let expected = "tensors `ids` and `mask`, i64 of one shape [tokens], batch aside";
    Err(Error::shape("input of encoder `bag_of_words`", expected, inputs))
}

struct BagOfWords {
    words: Embedding,
    layers: Vec<Linear>,
    width: i64,
}

impl Encoder for BagOfWords {
    fn stage(&self, _index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let words = look_up("vocabulary", x.tensor(IDS)?, &self.words)?;
        let mask = x.tensor(MASK)?.f_to_kind(words.kind())?.f_unsqueeze(-1)?;
        let over_tokens = |x: &Tensor| x.f_sum_dim_intlist(1i64, false, None::<Kind>);
        let count = over_tokens(&mask)?.f_clamp_min(1.0)?;
        let mut x = over_tokens(&words.f_mul(&mask)?)?.f_div(&count)?;
        for layer in &self.layers {
            x = layer.forward(&x, pass)?.f_relu_()?;
        }
        Ok(Named::value_of(x))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn layers(&self) -> Vec<Layer> {
        self.layers.iter().map(|layer| layer.layer().clone()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "small integers and halves are exact")]
mod tests {
    use super::super::transformer::testing::{build, feature, layer_names, rows, text};
    use super::*;

    fn set(store: &Parameters, name: &str, values: &[f32]) {
        let _guard = no_grad_guard();
        let mut live = store.find(&format!("encoder.video.{name}")).unwrap().1.shallow_clone();
        let size = live.size();
        live.copy_(&Tensor::from_slice(values).view(size.as_slice()));
    }

    /// Three words: (0, 9), (1, 2), (-4, 6).
    fn small(hidden: &[i64]) -> (Box<dyn Encoder>, Parameters) {
        let config = BagOfWordsConfig { vocabulary: 3, width: 2, hidden: hidden.to_vec() };
        let (encoder, store) = build(&config, &text_layout(3)).unwrap();
        set(&store, "words.weight", &[0.0, 9.0, 1.0, 2.0, -4.0, 6.0]);
        (encoder, store)
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        Vec::try_from(x.flatten(0, -1)).unwrap()
    }

    #[test]
    fn words_are_averaged_and_padding_is_not() {
        let (encoder, _) = small(&[]);
        let x = || text(&rows(&[[1, 2, 0], [2, 2, 2]]), &rows(&[[1, 1, 0], [0, 1, 0]]));
        for statistics in [Statistics::Running, Statistics::Update] {
            let found = feature(encoder.as_ref(), x(), statistics);
            assert_eq!(found.size(), [2, encoder.width()]);
            // ((1, 2) + (-4, 6)) / 2 and (-4, 6): halves are exact.
            assert_eq!(numbers(&found), [-1.5, 4.0, -4.0, 6.0]);
        }
    }

    #[test]
    fn layers_are_rectified_and_listed_in_forward_order() {
        let (encoder, store) = small(&[2, 1]);
        set(&store, "fc1.weight", &[1.0, 0.0, 0.0, 1.0]);
        set(&store, "fc1.bias", &[1.0, -1.0]);
        set(&store, "fc2.weight", &[10.0, 1.0]);
        set(&store, "fc2.bias", &[0.5]);
        let x = text(&rows(&[[1, 2, 0]]), &rows(&[[1, 1, 0]]));
        // (-1.5, 4) becomes (-0.5, 3), rectified (0, 3), and 3.5.
        assert_eq!(numbers(&feature(encoder.as_ref(), x, Statistics::Running)), [3.5]);
        assert_eq!(layer_names(encoder.as_ref()), ["fc1", "fc2"]);
        assert_eq!(encoder.width(), 1);
    }

    #[test]
    fn a_text_without_words_has_a_feature_of_zeros_and_finite_gradients() {
        let (encoder, store) = small(&[]);
        let x = text(&rows(&[[0, 0, 0], [1, 0, 0]]), &rows(&[[0, 0, 0], [1, 0, 0]]));
        let found = feature(encoder.as_ref(), x, Statistics::Update);
        assert_eq!(numbers(&found), [0.0, 0.0, 1.0, 2.0]);
        let words = store.find("encoder.video.words.weight").unwrap().1;
        let gradient = Tensor::run_backward(&[found.sum(Kind::Float)], &[words], false, false);
        assert_eq!(numbers(&gradient[0]), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn other_tensors_numbers_and_options_are_refused() {
        let (encoder, _) = small(&[]);
        let x = text(&rows(&[[1, 3, 0]]), &rows(&[[1, 1, 0]]));
        let mut pass = Pass::evaluation();
        let error = encoder.stage(0, x, &mut pass).err().unwrap().to_string();
        assert!(error.contains("knows 0 to 2 (option `vocabulary`)"), "{error}");

        let config = BagOfWordsConfig::default();
        let mut uneven = text_layout(3);
        uneven[1].shape = vec![4];
        for inputs in [TensorLayout::value(&[8]), text_layout(0), uneven] {
            let error = build(&config, &inputs).err().unwrap().to_string();
            assert!(error.contains("input of encoder `bag_of_words`"), "{error}");
        }
        let mut more = text_layout(3);
        more.extend(TensorLayout::value(&[8]));
        assert!(build(&config, &more).is_ok());
        let config = BagOfWordsConfig { hidden: vec![0], ..config };
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "`hidden` is [0], expected a list of [1, inf)");
    }
}
