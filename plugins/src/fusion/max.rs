//! Lets the most confident modality speak for each class.

use mie_core::prelude::*;

use super::util::stack;

/// Takes the largest probability that any modality gives a class.
///
/// With `z_m` the logits of modality `m`, over the modalities that ran:
///
/// ```text
/// p_c = max_m softmax(z_m)_c / sum_k max_m softmax(z_m)_k
/// ```
///
/// A rule for decisions only: there are no joint logits, so nothing can be trained through it.
/// Needs a head for each modality.
///
/// Shapes: logits `[batch, classes]` of each modality; decision `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaxConfig {}

#[typetag::serde(name = "max")]
impl FusionConfig for MaxConfig {
    fn build(&self, _context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        Ok(Box::new(Max))
    }
}
register!(fusion::<MaxConfig>, source = "Kittler et al. 1998, doi:10.1109/34.667881");

struct Max;

impl Persist for Max {}

impl Fusion for Max {
    fn needs(&self) -> &'static [Need] {
        &[Need::UnimodalHeads]
    }

    fn joint(
        &self,
        _features: &ByModality<Tensor>,
        _logits: &ByModality<Tensor>,
        _pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        Ok(None)
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        let largest = probabilities(&stack(&outputs.logits)?)?.f_amax([0], false)?;
        let total = largest.f_sum_dim_intlist(-1i64, true, None::<Kind>)?;
        Ok(largest.f_div(&total)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        assert_close, assert_decides_on_whatever_ran, build, decide, rows,
    };
    use super::*;

    #[test]
    fn every_class_gets_its_largest_probability_rescaled() {
        let fusion = build(&MaxConfig {}, &[2, 2], 3).0;
        // Logarithms of probabilities (0.7, 0.2, 0.1) and (0.3, 0.3, 0.4): maxima 0.7, 0.3, 0.4.
        let z = [rows(&[[0.7, 0.2, 0.1]]).log(), rows(&[[0.3, 0.3, 0.4]]).log()];
        let expected = rows(&[[0.5, 3.0 / 14.0, 2.0 / 7.0]]);
        assert_close(&decide(fusion.as_ref(), z), &expected, 1e-12);
    }

    #[test]
    fn it_decides_on_whatever_ran() {
        assert_decides_on_whatever_ran(build(&MaxConfig {}, &[2, 2], 3).0.as_ref());
    }
}
