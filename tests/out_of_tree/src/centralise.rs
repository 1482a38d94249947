//! Takes the mean out of gradients.

use mie_core::prelude::*;

/// Centralises the gradient of every weight matrix and convolution, output by output.
///
/// With `g_o` the gradient of all weights that lead to output `o`, and `s` = `strength`,
///
/// ```text
/// g_o <- g_o - s mean(g_o)
/// ```
///
/// Shapes stay; gradients of biases and of normalisation keep their bits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CentraliseConfig {
    /// Share of the mean that is taken out, in `[0, 1]`. The default, 1, is Yong et al.'s.
    pub strength: f64,
}

impl Default for CentraliseConfig {
    fn default() -> Self {
        Self { strength: 1.0 }
    }
}

#[typetag::serde(name = "centralise")]
impl GradientModifierConfig for CentraliseConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("strength", "[0, 1]", self.strength, (0.0..=1.0).contains(&self.strength))
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(Centralise { strength: self.strength }))
    }
}
register!(gradient_modifier::<CentraliseConfig>, source = "Yong et al. 2020, arXiv:2004.01461");

struct Centralise {
    strength: f64,
}

impl Persist for Centralise {}

impl GradientModifier for Centralise {
    fn modify(&mut self, gradients: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        for gradient in gradients.sum.values_mut().filter(|gradient| gradient.dim() > 1) {
            let inputs: Vec<i64> = (1..gradient.dim() as i64).collect();
            let mean = gradient.f_mean_dim(inputs, true, None::<Kind>)?;
            let _ = gradient.f_sub_(&mean.f_mul_scalar(self.strength)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::TinyRun;

    #[test]
    fn matrices_lose_their_mean_and_biases_keep_their_bits() {
        let run = TinyRun::new(Seed(1));
        let before = run.gradients(0).unwrap();
        let mut gradients = run.gradients(0).unwrap();
        let mut plugin = CentraliseConfig::default().build().unwrap();
        run.with_view(0, |view| plugin.modify(&mut gradients, view)).unwrap();
        for (id, gradient) in &gradients.sum {
            if gradient.dim() > 1 {
                let mean = gradient.mean_dim(1i64, false, Kind::Float).abs().max();
                assert!(mean.double_value(&[]) < 1e-7, "{id}");
                assert_ne!(gradient, &before.sum[id]);
            } else {
                assert_eq!(gradient, &before.sum[id]);
            }
        }
    }
}
