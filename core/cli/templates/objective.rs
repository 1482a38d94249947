//! Cross-entropy of each modality against softened labels.

use mie_core::prelude::*;

/// Takes a loss on each modality's own logits, with a share of every label spread over all classes.
///
/// With `z_m` the logits of modality `m`, `y` the label, `K` the number of classes and `s` =
/// `smoothing`,
///
/// ```text
/// unimodal.m = (1 - s) CE(z_m, y) - (s / K) sum_k log softmax(z_m)_k        mean over the batch
/// ```
///
/// Needs a head for each modality. Shapes: logits `[batch, classes]`; each term one number.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {
    /// Share of the label that is spread, in `[0, 1)`. The default, 0.1, is a common choice.
    pub smoothing: f64,
}

impl Default for TemplateNameConfig {
    fn default() -> Self {
        Self { smoothing: 0.1 }
    }
}

#[typetag::serde(name = "template_name")]
impl ObjectiveConfig for TemplateNameConfig {
    fn validate(&self) -> Result<()> {
        let share = (0.0..1.0).contains(&self.smoothing);
        ensure_range("smoothing", "[0, 1)", self.smoothing, share)
    }

    fn build(&self) -> Result<Box<dyn Objective>> {
        self.validate()?;
        Ok(Box::new(TemplateName { smoothing: self.smoothing }))
    }
}

register!(objective::<TemplateNameConfig>, source = "Szegedy et al. 2016, arXiv:1512.00567");

struct TemplateName {
    smoothing: f64,
}

// Yours: `state` and `load_state`, once it remembers something between steps.
impl Persist for TemplateName {}

impl Objective for TemplateName {
    fn needs(&self) -> &'static [Need] {
        &[Need::UnimodalHeads]
    }

    fn terms(&self, forward: &mut dyn Forward, _notes: &mut Notes) -> Result<Vec<Term>> {
        let outputs = forward.run(&forward.full())?;
        let targets = forward.targets();
        let term = |(modality, logits): (&String, &Tensor)| {
            let hard = targets.cross_entropy(logits)?.f_mul_scalar(1.0 - self.smoothing)?;
            let even = logits.f_log_softmax(-1, None::<Kind>)?.f_mean(None::<Kind>)?;
            let loss = hard.f_sub(&even.f_mul_scalar(self.smoothing)?)?;
            Ok(Term::new(format!("unimodal.{modality}"), loss))
        };
        outputs.logits.iter().map(term).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::TinyRun;

    fn losses(smoothing: f64) -> Vec<f64> {
        let objective = TemplateNameConfig { smoothing }.build().unwrap();
        let run = TinyRun::new(Seed(0));
        let terms = objective.terms(&mut run.forward(0), &mut Notes::new()).unwrap();
        terms.iter().map(|term| term.value.double_value(&[])).collect()
    }

    #[test]
    fn without_smoothing_it_is_cross_entropy_and_with_it_another_loss() {
        let run = TinyRun::new(Seed(0));
        let outputs = run.forward(0).run(&Spec::evaluation(run.modalities())).unwrap();
        let targets = run.forward(0).targets();
        for (found, logits) in losses(0.0).iter().zip(outputs.logits.values()) {
            let expected = targets.cross_entropy(logits).unwrap().double_value(&[]);
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
        assert_ne!(losses(0.0), losses(0.1));
    }
}
