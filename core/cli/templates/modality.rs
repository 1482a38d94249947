//! Numbers, multiplied.

use mie_core::prelude::*;

/// Multiplies a sample's numbers by a factor.
///
/// With `s` = `scale`,
///
/// ```text
/// value = s * raw numbers
/// ```
///
/// Shapes: `value` `[dimensions]` f32.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {
    /// Numbers a sample has, at least 1. The default, 32, is that of our experiment.
    pub dimensions: usize,
    /// Factor of every number, finite. The default, 1, leaves them as they are.
    pub scale: f32,
}

impl Default for TemplateNameConfig {
    fn default() -> Self {
        Self { dimensions: 32, scale: 1.0 }
    }
}

#[typetag::serde(name = "template_name")]
impl ModalityConfig for TemplateNameConfig {
    fn validate(&self) -> Result<()> {
        let usable = (1..=1 << 30).contains(&self.dimensions);
        ensure_range("dimensions", "[1, 2^30]", self.dimensions, usable)?;
        ensure_range("scale", "a finite number", self.scale, self.scale.is_finite())
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        Ok(Box::new(TemplateName { config: self.clone() }))
    }
}

// Yours: where the preparation comes from.
register!(modality::<TemplateNameConfig>, source = "Ours");

struct TemplateName {
    config: TemplateNameConfig,
}

impl Modality for TemplateName {
    fn layout(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[self.config.dimensions as i64])
    }

    // Yours: other kinds of raw thing; draws in training come from `draw.own()`.
    fn load(
        &self,
        raw: &Raw<'_>,
        _mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let Raw::Values(values) = raw else {
            return Err(Error::refused(
                format!("`template_name` decodes numbers, the dataset gives {}", raw.kind()),
                "choose the `input` of a modality that decodes what the dataset gives",
            ));
        };
        if values.len() != self.config.dimensions {
            let what = format!("numbers of modality `{}` (option `dimensions`)", draw.modality);
            return Err(Error::shape(what, self.config.dimensions, values.len()));
        }
        for (to, from) in out.f32(0)?.iter_mut().zip(*values) {
            *to = self.config.scale * from;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_multiplied() {
        let config = TemplateNameConfig { dimensions: 2, scale: 0.5 };
        let mut room = [0.0; 2];
        let draw = Draw { seed: Seed(0), modality: "made_up", epoch: 0, sample: 0 };
        let mut out = SampleBuffers::new(vec![Buffer::F32(&mut room)]);
        let raw = Raw::Values(&[4.0, -1.0]);
        config.build().unwrap().load(&raw, Mode::Evaluation, &draw, &mut out).unwrap();
        assert_eq!(room, [2.0, -0.5]);
    }
}
