//! Shortens all gradients by the same factor.

use mie_core::prelude::*;

/// Multiplies every gradient by a factor.
///
/// With `g` the gradient of a parameter and `f` = `factor`,
///
/// ```text
/// g <- f g
/// ```
///
/// Shapes stay.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {
    /// Factor of every gradient, in `(0, 1]`; 1 changes nothing. The default, 0.5, is ours.
    pub factor: f64,
}

impl Default for TemplateNameConfig {
    fn default() -> Self {
        Self { factor: 0.5 }
    }
}

#[typetag::serde(name = "template_name")]
impl GradientModifierConfig for TemplateNameConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("factor", "(0, 1]", self.factor, self.factor > 0.0 && self.factor <= 1.0)
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(TemplateName { factor: self.factor }))
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("factor", 1.0)]
    }
}

// Yours: where the mathematics comes from.
register!(gradient_modifier::<TemplateNameConfig>, source = "Ours");

struct TemplateName {
    factor: f64,
}

// Yours: `state` and `load_state`, once it remembers something between steps.
impl Persist for TemplateName {}

impl GradientModifier for TemplateName {
    fn modify(&mut self, gradients: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        for gradient in gradients.sum.values_mut() {
            let _ = gradient.f_mul_scalar_(self.factor)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::TinyRun;

    #[test]
    fn a_factor_of_a_half_halves_the_norm_of_the_gradients() {
        let run = TinyRun::new(Seed(0));
        let mut gradients = run.gradients(0).unwrap();
        let before = gradients.norm().unwrap().double_value(&[]);
        let mut plugin = TemplateNameConfig { factor: 0.5 }.build().unwrap();
        run.with_view(0, |view| plugin.modify(&mut gradients, view)).unwrap();
        let after = gradients.norm().unwrap().double_value(&[]);
        assert!((after / before - 0.5).abs() < 1e-6, "{before} became {after}");
    }

    #[test]
    fn a_factor_of_zero_is_refused() {
        let error = TemplateNameConfig { factor: 0.0 }.validate().unwrap_err().to_string();
        assert_eq!(error, "`factor` is 0, expected (0, 1]");
    }
}
