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
/// Shapes stay; a gradient shorter than `c` keeps its bits. With `when_head_entry_above` it acts
/// only in steps where an entry of a head's weight gradient is larger than that: what the released
/// code of adaptive gradient modulation (AGM) does, with 1 for both.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipNormConfig {
    /// Largest norm allowed, greater than 0. The default is a common choice, ours.
    pub max_norm: f64,
    /// Size that an entry of a head's weight gradient must exceed for a step to be clipped, at
    /// least 0; absent by default: every step is.
    pub when_head_entry_above: Option<f64>,
}

impl Default for ClipNormConfig {
    fn default() -> Self {
        Self { max_norm: 1.0, when_head_entry_above: None }
    }
}

#[typetag::serde(name = "clip_norm")]
impl GradientModifierConfig for ClipNormConfig {
    fn validate(&self) -> Result<()> {
        let holds = self.max_norm > 0.0 && self.max_norm.is_finite();
        ensure_range("max_norm", "(0, inf)", self.max_norm, holds)?;
        let above = self.when_head_entry_above.unwrap_or_default();
        ensure_range("when_head_entry_above", "[0, inf)", above, above >= 0.0 && above.is_finite())
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(ClipNorm { config: self.clone() }))
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
    config: ClipNormConfig,
}

impl ClipNorm {
    /// Largest size of an entry among the weight gradients of heads, 0-d; `None` without any.
    fn largest_head_entry(gradients: &Grads) -> Result<Option<Tensor>> {
        let is_head = |id: &ParamId| {
            matches!(id.group, GroupId::Head(_) | GroupId::SharedHead | GroupId::JointHead)
        };
        let weights = gradients.sum.iter().filter(|(id, g)| is_head(id) && g.dim() >= 2);
        let largest = weights.map(|(_, gradient)| Ok(gradient.f_abs()?.f_max()?));
        let largest = largest.collect::<Result<Vec<_>>>()?;
        if largest.is_empty() {
            return Ok(None);
        }
        Ok(Some(Tensor::f_stack(&largest, 0)?.f_max()?))
    }
}

impl Persist for ClipNorm {}

impl GradientModifier for ClipNorm {
    fn acts_in_need(&self) -> bool {
        true
    }

    fn modify(&mut self, gradients: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        // On the device throughout: a comparison on the host would wait for it.
        let norm = gradients.norm()?;
        let scale = norm.f_reciprocal()?.f_mul_scalar(self.config.max_norm)?.f_clamp_max(1.0)?;
        let scale = match self.config.when_head_entry_above {
            None => scale,
            Some(above) => match Self::largest_head_entry(gradients)? {
                Some(largest) => {
                    scale.f_where_self(&largest.f_gt(above)?, &scale.f_ones_like()?)?
                }
                None => return Ok(()),
            },
        };
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
        let mut plugin = ClipNormConfig::default().build().unwrap();
        with_step_view(|view| plugin.modify(&mut gradients, view).unwrap());
        Vec::try_from(gradients.sum.values().next().unwrap()).unwrap()
    }

    #[test]
    fn a_norm_of_5_is_scaled_to_1_and_the_direction_is_kept() {
        let found = clipped(&[3.0, -4.0]);
        assert!((found[0] - 0.6).abs() < 1e-6 && (found[1] + 0.8).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn with_a_trigger_only_steps_with_a_large_head_entry_are_clipped() {
        let clipped = |entry: f32| -> Vec<f32> {
            let weight = Tensor::from_slice(&[entry, 2.0]).view([2, 1]);
            let bias = Tensor::from_slice(&[9.0f32]);
            let mut gradients = grads(&[("w", weight), ("zbias", bias)]);
            let above = Some(3.0);
            let config =
                ClipNormConfig { when_head_entry_above: above, ..ClipNormConfig::default() };
            let mut plugin = config.build().unwrap();
            with_step_view(|view| plugin.modify(&mut gradients, view).unwrap());
            Vec::try_from(gradients.sum.values().next().unwrap().flatten(0, -1)).unwrap()
        };
        assert_eq!(clipped(3.0), [3.0, 2.0]);
        assert!(clipped(-3.1)[1] < 0.3);
    }

    #[test]
    fn a_short_gradient_and_a_zero_one_keep_their_bits() {
        assert_eq!(clipped(&[0.3, -0.4]), [0.3, -0.4]);
        assert_eq!(clipped(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
