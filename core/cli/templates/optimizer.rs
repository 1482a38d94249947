//! Steps by the signs of gradients.

use mie_core::prelude::*;

/// Moves every weight by the same distance, downhill.
///
/// With `w` a weight, `g` its gradient and `l` = `learning_rate` times the factor of schedules,
///
/// ```text
/// w <- w - l sign(g)
/// ```
///
/// Shapes stay.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {
    /// Distance of a step, in the unit of the weights, greater than 0. The default, 1e-3, is ours.
    pub learning_rate: f64,
}

impl Default for TemplateNameConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3 }
    }
}

#[typetag::serde(name = "template_name")]
impl OptimizerConfig for TemplateNameConfig {
    fn validate(&self) -> Result<()> {
        let above_zero = self.learning_rate > 0.0 && self.learning_rate.is_finite();
        ensure_range("learning_rate", "(0, inf)", self.learning_rate, above_zero)
    }

    fn build(&self) -> Result<Box<dyn Optimizer>> {
        self.validate()?;
        Ok(Box::new(TemplateName { learning_rate: self.learning_rate }))
    }
}

register!(
    optimizer::<TemplateNameConfig>,
    source = "Bernstein et al. 2018, arXiv:1802.04434 (signSGD)"
);

struct TemplateName {
    learning_rate: f64,
}

// Yours: `state` and `load_state`, once it remembers something between steps.
impl Persist for TemplateName {}

impl Optimizer for TemplateName {
    fn step(&mut self, problem: &mut dyn Problem) -> Result<()> {
        let gradients = problem.gradients(Ask::DESCENT)?;
        problem.apply(gradients, &mut |context, gradient| {
            // What is left in `gradient` is added to the weight.
            let rate = -self.learning_rate * context.learning_rate_factor;
            let _ = gradient.f_sign_()?.f_mul_scalar_(rate)?;
            Ok(())
        })
    }

    fn reset(&mut self) {}

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{assert_close, given_gradients};

    #[test]
    fn steps_have_the_same_length_whatever_the_gradient() {
        let mut landscape = given_gradients([1.0, 1.0], [[5.0, -0.1], [0.0, 2.0]]);
        let mut plugin = TemplateNameConfig { learning_rate: 0.25 }.build().unwrap();
        plugin.step(&mut landscape).unwrap();
        assert_close(landscape.weight("head.audio.w"), &[0.75, 1.25], 1e-12);
        plugin.step(&mut landscape).unwrap();
        assert_close(landscape.weight("head.audio.w"), &[0.75, 1.0], 1e-12);
    }
}
