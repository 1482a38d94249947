//! One fully connected layer.

use mie_core::prelude::*;

/// Flattens a sample and passes it through one fully connected layer.
///
/// With `x` the input, and `W` and `b` the parameters `fc`,
///
/// ```text
/// feature = max(0, W flatten(x) + b)
/// ```
///
/// Shapes: `value` `[batch, …]` f32; feature `[batch, width]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {
    /// Width of the feature in neurons, at least 1. The default, 32, is ours.
    pub width: i64,
}

impl Default for TemplateNameConfig {
    fn default() -> Self {
        Self { width: 32 }
    }
}

#[typetag::serde(name = "template_name")]
impl EncoderConfig for TemplateNameConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("width", "[1, inf)", self.width, self.width >= 1)
    }

    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        self.validate()?;
        let [TensorLayout { shape, element: Element::F32, .. }] = inputs else {
            return Err(Error::shape("input of encoder `template_name`", "one f32 tensor", inputs));
        };
        let layer = Linear::new(&at.sub("fc"), shape.iter().product(), self.width)?;
        Ok(Box::new(TemplateName { layer, width: self.width }))
    }

    // Yours: sizes of a small input that it can take, if vectors are none.
    fn example_input(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[8])
    }
}

// Yours: where the architecture comes from.
register!(encoder::<TemplateNameConfig>, source = "Ours");

struct TemplateName {
    layer: Linear,
    width: i64,
}

impl Encoder for TemplateName {
    fn stage(&self, _index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        let x = x.value()?.f_flatten(1, -1)?;
        Ok(Named::value_of(self.layer.forward(&x, pass)?.f_relu()?))
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn layers(&self) -> Vec<Layer> {
        vec![self.layer.layer().clone()]
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_picture_becomes_a_feature_that_is_not_negative() {
        let store = RefCell::new(Parameters::default());
        let group = GroupId::Encoder("video".to_owned());
        let at = Builder::new(&store, Seed(0), Device::Cpu, group);
        let config = TemplateNameConfig { width: 5 };
        let encoder = config.build(&TensorLayout::value(&[2, 3]), &at).unwrap();
        let x = Named::value_of(Tensor::ones([4, 2, 3], (Kind::Float, Device::Cpu)));
        let feature = encoder.stage(0, x, &mut Pass::evaluation()).unwrap();
        let feature = feature.value().unwrap();
        assert_eq!(feature.size(), [4, 5]);
        assert!(feature.min().double_value(&[]) >= 0.0);
    }

    #[test]
    fn a_width_of_zero_is_refused() {
        let error = TemplateNameConfig { width: 0 }.validate().unwrap_err().to_string();
        assert_eq!(error, "`width` is 0, expected [1, inf)");
    }
}
