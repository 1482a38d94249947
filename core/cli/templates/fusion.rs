//! Multiplies what the modalities say.

use mie_core::prelude::*;

/// Takes the product of the modalities' probabilities, each weighted the same.
///
/// With `z_m` the logits of modality `m` and `M` the number of modalities that ran,
///
/// ```text
/// joint         z = (1/M) sum_m log softmax(z_m)
/// decision      p = softmax(z)
/// ```
///
/// Needs a head for each modality.
///
/// Shapes: logits `[batch, classes]` of each modality; decision `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {}

#[typetag::serde(name = "template_name")]
impl FusionConfig for TemplateNameConfig {
    // Yours: weights of its own, created by `context.at.at(GroupId::Fusion)`.
    fn build(&self, _context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        Ok(Box::new(TemplateName))
    }
}

// Yours: where the mathematics comes from.
register!(fusion::<TemplateNameConfig>, source = "Ours");

struct TemplateName;

impl Persist for TemplateName {}

impl Fusion for TemplateName {
    fn needs(&self) -> &'static [Need] {
        &[Need::UnimodalHeads]
    }

    fn joint(
        &self,
        _features: &ByModality<Tensor>,
        logits: &ByModality<Tensor>,
        _pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        if logits.is_empty() {
            return Ok(None);
        }
        let shares = logits.values().map(|z| Ok(z.f_log_softmax(-1, None::<Kind>)?));
        let shares: Vec<Tensor> = shares.collect::<Result<_>>()?;
        let mean = Tensor::f_stack(&shares, 0)?.f_mean_dim(0i64, false, None::<Kind>)?;
        Ok(Some(Joint::of(mean)))
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        let joint = self.joint(&outputs.features, &outputs.logits, &mut Pass::evaluation())?;
        let joint = joint.ok_or_else(|| {
            Error::shape("unimodal logits to join", "at least one modality", "none")
        })?;
        probabilities(&joint.logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_equal_opinions_stay_and_opposite_ones_cancel() {
        let decide = |first: f64, second: f64| {
            let logits = |z: f64| Tensor::from_slice(&[z, 0.0]).view([1, 2]);
            let logits =
                [("audio", first), ("video", second)].map(|(name, z)| (name.to_owned(), logits(z)));
            let outputs = Outputs { logits: logits.into(), ..Outputs::default() };
            TemplateName.decide(&outputs).unwrap().double_value(&[0, 0])
        };
        assert!((decide(1.0, 1.0) - 1.0 / (1.0 + (-1.0f64).exp())).abs() < 1e-9);
        assert!((decide(2.0, -2.0) - 0.5).abs() < 1e-9);
    }
}
