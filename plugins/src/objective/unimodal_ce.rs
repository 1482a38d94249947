//! Trains every modality on its own head's cross-entropy.

use mie_core::prelude::*;

/// Takes the cross-entropy of each modality's own logits.
///
/// With `z_m` the logits of modality `m`, `y` the labels and `B` the batch size, one term
/// `unimodal.m` for each modality of the step:
///
/// ```text
/// L_m = weight * (1/B) sum_k -log softmax(z_m,k)_(y_k)
/// ```
///
/// Terms are summed, not averaged, over modalities: with heads of their own, what a modality
/// learns does not depend on how many others there are. Mixed inputs give mixed targets. Needs a
/// head for each modality, its own or a shared one.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UnimodalCeConfig {
    /// Factor of every term, at least 0; 0 leaves them out. Default 1: the plain loss.
    pub weight: f64,
}

impl Default for UnimodalCeConfig {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

#[typetag::serde(name = "unimodal_ce")]
impl ObjectiveConfig for UnimodalCeConfig {
    fn validate(&self) -> Result<()> {
        let usable = self.weight.is_finite() && self.weight >= 0.0;
        ensure_range("weight", "[0, inf)", self.weight, usable)
    }

    fn build(&self) -> Result<Box<dyn Objective>> {
        self.validate()?;
        Ok(Box::new(UnimodalCe { weight: self.weight }))
    }
}
register!(
    objective::<UnimodalCeConfig>,
    source = "Baltrusaitis et al. 2019, arXiv:1705.09406 (late fusion)"
);

struct UnimodalCe {
    weight: f64,
}

impl Persist for UnimodalCe {}

impl Objective for UnimodalCe {
    fn needs(&self) -> &'static [Need] {
        &[Need::UnimodalHeads]
    }

    fn terms(&self, forward: &mut dyn Forward, _notes: &mut Notes) -> Result<Vec<Term>> {
        let spec = forward.full();
        let outputs = forward.run(&spec)?;
        let targets = forward.targets();
        spec.run
            .iter()
            .map(|modality| {
                let loss = targets.cross_entropy(outputs.logits_of(modality)?)?;
                let term = Term::new(Term::unimodal(modality), loss);
                Ok(Term { weight: self.weight, ..term })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixed, one_label, one_row};
    use super::*;

    fn model(modalities: &[&str]) -> Fixed {
        let logits = ByModality::from([
            ("audio".to_owned(), one_row(&[1.0, 0.0, -1.0])),
            ("video".to_owned(), one_row(&[0.0, 0.0, 0.0])),
        ]);
        Fixed {
            modalities: modalities.iter().copied().map(str::to_owned).collect(),
            outputs: Outputs { logits, ..Outputs::default() },
            targets: one_label(0),
        }
    }

    #[test]
    fn every_modality_of_the_step_has_its_own_term() {
        let objective = UnimodalCeConfig { weight: 0.5 }.build().unwrap();
        let terms = objective.terms(&mut model(&["audio", "video"]), &mut Notes::new()).unwrap();
        // log(1 + e^-1 + e^-2) and log 3.
        let expected = [("unimodal.audio", 0.407_605_964_4), ("unimodal.video", 3.0_f64.ln())];
        assert_eq!(terms.len(), expected.len());
        for (term, (name, value)) in terms.iter().zip(expected) {
            assert_eq!(term.name, name);
            assert!((term.value.double_value(&[]) - value).abs() < 1e-9, "{term:?}");
            assert!((term.weight - 0.5).abs() < f64::EPSILON);
            assert!(term.route.is_none());
        }
    }

    #[test]
    fn modalities_outside_the_step_have_none() {
        let objective = UnimodalCeConfig::default().build().unwrap();
        let terms = objective.terms(&mut model(&["video"]), &mut Notes::new()).unwrap();
        assert_eq!(terms.len(), 1);
        assert_eq!(terms[0].name, "unimodal.video");
    }

    #[test]
    fn a_modality_without_head_is_named() {
        let objective = UnimodalCeConfig::default().build().unwrap();
        let result = objective.terms(&mut model(&["flow"]), &mut Notes::new());
        let error = result.unwrap_err().to_string();
        assert!(error.contains("unimodal logits of `flow`"), "{error}");
    }

    #[test]
    fn a_negative_or_unbounded_weight_is_refused() {
        for weight in [-1.0, f64::INFINITY, f64::NAN] {
            let error = UnimodalCeConfig { weight }.validate().unwrap_err().to_string();
            assert!(error.ends_with("expected [0, inf)"), "{error}");
        }
    }
}
