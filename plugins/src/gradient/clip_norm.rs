//! Rescales all gradients together when their joint norm is too large.

use mie_core::prelude::*;

/// Clips the joint L2 norm of all gradients.
///
/// With `g` all gradients of the active groups taken together and `c` = `max_norm`,
///
/// ```text
/// g <- g * min(1, c / ||g||_2)
/// ```
///
/// Shapes stay; a gradient shorter than `c` keeps its bits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipNormConfig {
    /// Largest norm allowed, greater than 0. The default is a common choice, ours.
    pub max_norm: f64,
}

impl Default for ClipNormConfig {
    fn default() -> Self {
        Self { max_norm: 1.0 }
    }
}

#[typetag::serde(name = "clip_norm")]
impl GradientModifierConfig for ClipNormConfig {
    fn validate(&self) -> Result<()> {
        let holds = self.max_norm > 0.0 && self.max_norm.is_finite();
        ensure_range("max_norm", "(0, inf)", self.max_norm, holds)
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(ClipNorm { max_norm: self.max_norm }))
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("max_norm", 1e30)]
    }
}

register!(
    gradient_modifier::<ClipNormConfig>,
    source = "Pascanu et al. 2013, Algorithm 1, arXiv:1211.5063"
);

struct ClipNorm {
    max_norm: f64,
}

impl Persist for ClipNorm {}

impl GradientModifier for ClipNorm {
    fn modify(&mut self, gradients: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        // On the device throughout: a comparison on the host would wait for it.
        let norm = gradients.norm()?;
        let scale = norm.f_reciprocal()?.f_mul_scalar(self.max_norm)?.f_clamp_max(1.0)?;
        for gradient in gradients.sum.values_mut() {
            let _ = gradient.f_mul_(&scale)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient::fixture::{grads, with_step_view};

    fn clipped(values: &[f32]) -> Vec<f32> {
        let mut gradients = grads(&[("a", Tensor::from_slice(values))]);
        let mut plugin = ClipNormConfig { max_norm: 1.0 }.build().unwrap();
        with_step_view(|view| plugin.modify(&mut gradients, view).unwrap());
        Vec::try_from(gradients.sum.values().next().unwrap()).unwrap()
    }

    #[test]
    fn a_norm_of_5_is_scaled_to_1_and_the_direction_is_kept() {
        let found = clipped(&[3.0, -4.0]);
        assert!((found[0] - 0.6).abs() < 1e-6 && (found[1] + 0.8).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn a_short_gradient_and_a_zero_one_keep_their_bits() {
        assert_eq!(clipped(&[0.3, -0.4]), [0.3, -0.4]);
        assert_eq!(clipped(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
