//! Fully connected layers on whatever a modality gives, flattened.

use mie_core::prelude::*;

use super::util::value_shape;

/// Flattens a sample and passes it through fully connected layers.
///
/// ```text
/// h_0 = flatten(x),   h_k = max(0, W_k h_(k-1) + b_k),   feature = h_N
/// ```
///
/// with `W_k`, `b_k` the parameters `fc1` … `fcN`; `hidden` gives the sizes of `h_1` … `h_(N-1)`
/// and `width` that of `h_N`. Every layer is rectified, the last one too: the feature is not
/// negative, like that of the convolutional encoders. Weights and biases start uniform in
/// `±1/sqrt(inputs)`.
///
/// Shapes: `value` `[batch, …]` f32 with at least one dimension beside the batch; feature
/// `[batch, width]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Neurons of each layer before the last, at least 1 each; empty for a single layer.
    /// Default `[64]`, ours.
    pub hidden: Vec<i64>,
    /// Width of the feature in neurons, at least 1. Default 64, ours.
    pub width: i64,
    /// Share of each layer's inputs but the first's that is dropped in training, in `[0, 1)`.
    /// Default 0.
    pub dropout: f64,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self { hidden: vec![64], width: 64, dropout: 0.0 }
    }
}

#[typetag::serde(name = "mlp")]
impl EncoderConfig for MlpConfig {
    fn validate(&self) -> Result<()> {
        let hidden = format!("{:?}", self.hidden);
        ensure_range("hidden", "a list of [1, inf)", hidden, self.hidden.iter().all(|&n| n >= 1))?;
        ensure_range("width", "[1, inf)", self.width, self.width >= 1)?;
        ensure_range("dropout", "[0, 1)", self.dropout, (0.0..1.0).contains(&self.dropout))
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        let shape = value_shape("mlp", inputs, "[size, …]", |rank| rank >= 1)?;
        let mut width = shape.iter().product();
        let mut layers = Vec::new();
        for (index, &outputs) in self.hidden.iter().chain([&self.width]).enumerate() {
            layers.push(Linear::new(&at.sub(&format!("fc{}", index + 1)), width, outputs)?);
            width = outputs;
        }
        Ok(Box::new(Mlp { layers, width, dropout: self.dropout }))
    }
}
register!(encoder::<MlpConfig>, source = "Rumelhart et al. 1986, doi:10.1038/323533a0");

struct Mlp {
    layers: Vec<Linear>,
    width: i64,
    dropout: f64,
}

impl Encoder for Mlp {
    fn stage(&self, _index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let mut x = x.value()?.f_flatten(1, -1)?;
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                x = pass.dropout(x, self.dropout)?;
            }
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
mod tests {
    use super::super::fixture::{build, feature, run, wave};
    use super::*;

    #[test]
    fn one_layer_computes_a_rectified_affine_map() {
        let config = MlpConfig { hidden: vec![], width: 2, ..MlpConfig::default() };
        let (encoder, store) = build(&config, &[2]).unwrap();
        let set = |name: &str, values: &[f32], shape: &[i64]| {
            let _guard = no_grad_guard();
            let path = format!("encoder.video.fc1.{name}");
            let mut live = store.find(&path).unwrap().1.shallow_clone();
            live.copy_(&Tensor::from_slice(values).view(shape));
        };
        set("weight", &[1.0, -1.0, 2.0, 0.5], &[2, 2]);
        set("bias", &[0.0, -3.0], &[2]);
        let x = Tensor::from_slice(&[3.0f32, 1.0, 1.0, 2.0]).view([2, 2]);
        // W x + b = (2, 3.5) and (-1, 0): small integers and halves are exact in f32.
        let expected = Tensor::from_slice(&[2.0f32, 3.5, 0.0, 0.0]).view([2, 2]);
        assert_eq!(feature(encoder.as_ref(), &x), expected);
    }

    #[test]
    fn dropout_acts_between_layers_in_training_alone() {
        let with = |dropout| MlpConfig { hidden: vec![50], width: 4, dropout };
        let (dropping, _) = build(&with(0.5), &[6]).unwrap();
        let (plain, _) = build(&with(0.0), &[6]).unwrap();
        let x = wave(&[3, 6]);
        let expected = feature(plain.as_ref(), &x);
        assert_eq!(feature(dropping.as_ref(), &x), expected);
        assert_ne!(run(dropping.as_ref(), 1, &x, Statistics::Update), expected);
        assert_eq!(run(plain.as_ref(), 1, &x, Statistics::Update), expected);
        // The inputs themselves are whole: one layer has nothing to drop.
        let single = MlpConfig { hidden: vec![], width: 4, dropout: 0.5 };
        let (single, _) = build(&single, &[6]).unwrap();
        let found = run(single.as_ref(), 1, &x, Statistics::Update);
        assert_eq!(found, feature(single.as_ref(), &x));
        assert!(with(1.0).validate().unwrap_err().to_string().contains("[0, 1)"));
    }

    #[test]
    fn any_shape_is_flattened_and_the_last_layer_is_rectified_too() {
        let (encoder, _) = build(&MlpConfig::default(), &[2, 3, 4]).unwrap();
        let x = wave(&[5, 2, 3, 4]);
        let found = feature(encoder.as_ref(), &x);
        assert_eq!(found.size(), [5, encoder.width()]);
        assert!(found.min().double_value(&[]) >= 0.0);
        assert!(found.max().double_value(&[]) > 0.0);
        assert_eq!(found, feature(encoder.as_ref(), &x.view([5, 24, 1])));
    }

    #[test]
    fn layers_are_listed_in_forward_order_with_their_shapes() {
        let config = MlpConfig { hidden: vec![7, 5], width: 3, ..MlpConfig::default() };
        let (encoder, _) = build(&config, &[4]).unwrap();
        let found: Vec<_> = encoder
            .layers()
            .iter()
            .map(|layer| (layer.local_name().to_owned(), layer.shape.clone()))
            .collect();
        let expected = [("fc1", [7i64, 4]), ("fc2", [5, 7]), ("fc3", [3, 5])]
            .map(|(name, shape)| (name.to_owned(), shape.to_vec()));
        assert_eq!(found, expected);
    }

    #[test]
    fn layers_without_neurons_and_samples_without_dimensions_are_refused() {
        let config = MlpConfig { hidden: vec![8, 0], width: 3, ..MlpConfig::default() };
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "`hidden` is [8, 0], expected a list of [1, inf)");
        let error = build(&MlpConfig::default(), &[]).err().unwrap().to_string();
        assert!(error.contains("input of encoder `mlp`"), "{error}");
    }
}
