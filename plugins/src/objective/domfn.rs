//! Trains modalities to differ where they are fused, and alone where they are not.

use mie_core::prelude::*;

use crate::fusion::domfn_gate::ProbabilityMap;

/// Losses of divergence-oriented fusion (DOMFN), for the fusion `domfn_gate`.
///
/// With `q` the gate's map of logits to `[0, 1]`, `ce_m` the cross-entropy of modality `m` for a
/// sample, `pen_m` its divergence from the mean of all and `f` 1 for samples that the gate fuses,
/// else 0, averaged over the batch:
///
/// ```text
/// pen_m = max_c (q_m[c] - qbar[c])^2        qbar = (1/M) sum_m q_m
/// L     = sum_m ce_m + f (ce_joint + sum_m (ce_m^2 / 2 - eta pen_m))
/// ```
///
/// Cross-entropies are taken of `q` itself, as in the released code (`map = "sigmoid"`: a softmax
/// over values in `[0, 1]`), or of the logits (`map = "softmax"`). `pen` carries gradient: a larger
/// divergence is rewarded. The released code trains single samples; the mean over a batch has the
/// mean of their gradients. Train heads alone first, with `unimodal_ce`, by the strategy `phased`.
///
/// Terms: `unimodal.M`, `amended.M` and `fused`. Needs a head for each modality.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DomfnConfig {
    /// Reward of divergence, at least 0. Default 0.5, the released code's.
    pub eta: f64,
    /// How logits become values in `[0, 1]`: as in the gate.
    pub map: ProbabilityMap,
}

impl Default for DomfnConfig {
    fn default() -> Self {
        Self { eta: 0.5, map: ProbabilityMap::default() }
    }
}

#[typetag::serde(name = "domfn")]
impl ObjectiveConfig for DomfnConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("eta", "[0, inf)", self.eta, self.eta >= 0.0 && self.eta.is_finite())
    }

    fn build(&self) -> Result<Box<dyn Objective>> {
        self.validate()?;
        Ok(Box::new(Domfn { eta: self.eta, map: self.map }))
    }
}
register!(objective::<DomfnConfig>, source = "Yang et al. 2022, doi:10.1145/3503161.3547919");

struct Domfn {
    eta: f64,
    map: ProbabilityMap,
}

impl Persist for Domfn {}

impl Objective for Domfn {
    fn needs(&self) -> &'static [Need] {
        &[Need::JointLogits, Need::UnimodalHeads, Need::SeveralModalities]
    }

    fn terms(&self, forward: &mut dyn Forward, _notes: &mut Notes) -> Result<Vec<Term>> {
        let outputs = forward.run(&forward.full())?;
        let targets = forward.targets();
        let joint = outputs.joint_logits()?;
        // A fusion that chooses no samples fuses all.
        let fused = match &outputs.rows {
            Some(rows) => rows.f_to_kind(joint.kind())?,
            None => Tensor::f_ones([joint.size()[0]], (joint.kind(), joint.device()))?,
        };
        let loss = |logits| targets.cross_entropy_by_sample(&self.map.logits(logits)?);
        let mean = |values: &Tensor| values.f_mean(None::<Kind>);
        let mut terms = Vec::new();
        let divergences = self.map.divergences(&outputs.logits)?;
        for (name, logits) in &outputs.logits {
            let own = loss(logits)?;
            terms.push(Term::new(Term::unimodal(name), mean(&own)?));
            let reward = divergences[name].f_mul_scalar(self.eta)?;
            let amended = own.f_square()?.f_mul_scalar(0.5)?.f_sub(&reward)?.f_mul(&fused)?;
            terms.push(Term::new(format!("amended.{name}"), mean(&amended)?));
        }
        let together = loss(joint)?.f_mul(&fused)?;
        terms.push(Term::new("fused", mean(&together)?));
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixed, one_label, one_row};
    use super::*;

    fn model(fused: f32) -> Fixed {
        let logit = |q: [f64; 3]| one_row(&q.map(|q| (q / (1.0 - q)).ln()));
        let logits = ByModality::from([
            ("audio".to_owned(), logit([0.9, 0.2, 0.1])),
            ("text".to_owned(), logit([0.6, 0.5, 0.3])),
            ("video".to_owned(), logit([0.3, 0.8, 0.2])),
        ]);
        Fixed {
            modalities: logits.keys().cloned().collect(),
            outputs: Outputs {
                logits,
                joint: Some(logit([0.9, 0.2, 0.1])),
                rows: Some(Tensor::from_slice(&[fused])),
                ..Outputs::default()
            },
            targets: one_label(0),
        }
    }

    fn terms(fused: f32) -> Vec<(String, f64)> {
        let objective = DomfnConfig::default().build().unwrap();
        let terms = objective.terms(&mut model(fused), &mut Notes::new()).unwrap();
        terms.into_iter().map(|term| (term.name, term.value.double_value(&[]))).collect()
    }

    #[test]
    fn the_terms_of_a_fused_sample_are_those_of_the_worked_example() {
        let expected = [
            ("unimodal.audio", 0.665_732),
            ("amended.audio", 0.176_599),
            ("unimodal.text", 0.972_919),
            ("amended.text", 0.468_286),
            ("unimodal.video", 1.267_950),
            ("amended.video", 0.758_848),
            ("fused", 0.665_732),
        ];
        for ((name, found), (expected_name, expected)) in terms(1.0).iter().zip(expected) {
            assert_eq!(name, expected_name);
            assert!((found - expected).abs() < 1e-6, "{name}: {found}, expected {expected}");
        }
    }

    #[test]
    fn a_sample_that_is_not_fused_trains_each_modality_alone() {
        for (name, value) in terms(0.0) {
            assert_eq!(name.starts_with("unimodal."), value != 0.0, "{name} is {value}");
        }
    }
}
