//! Sums what modalities say with weights that are given.

use std::collections::BTreeMap;

use mie_core::prelude::*;

use super::util::stack;

/// Sums logits with one weight for each modality.
///
/// With `a_m` the weights, over the modalities that ran:
///
/// ```text
/// w_m = a_m / sum_n a_n        z = sum_m w_m z_m
/// joint   z                    decision   p = softmax(z)
/// ```
///
/// Weights are normalised over what ran, so that a modality may be missing. Equal weights are the
/// average of the logits. The released code of alternating unimodal adaptation (MLA) decides by
/// 0.55 for audio and 0.45 for video, and by 0.35, 0.25 and 0.4 for audio, video and text, unless
/// told to weight by entropy. The unimodal split is `w_m z_m`. Needs a head for each modality.
///
/// Shapes: logits `[batch, classes]` of each modality; decision `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WeightedConfig {
    /// Weight of each modality, greater than 0; 1 for those that are not named.
    pub weights: BTreeMap<String, f64>,
}

#[typetag::serde(name = "weighted")]
impl FusionConfig for WeightedConfig {
    fn validate(&self) -> Result<()> {
        for (name, &weight) in &self.weights {
            let positive = weight > 0.0 && weight.is_finite();
            ensure_range(&format!("weights.{name}"), "(0, inf)", weight, positive)?;
        }
        Ok(())
    }

    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        self.validate()?;
        let known: Vec<&String> = context.widths.keys().collect();
        if let Some(unknown) = self.weights.keys().find(|name| !known.contains(name)) {
            return Err(Error::refused(
                format!("`weights` names `{unknown}`, which the run does not have"),
                format!("name some of {known:?}"),
            ));
        }
        Ok(Box::new(Weighted { weights: self.weights.clone() }))
    }
}
register!(fusion::<WeightedConfig>, source = "Zhang et al. 2024, arXiv:2311.10707 (released code)");

struct Weighted {
    weights: BTreeMap<String, f64>,
}

impl Weighted {
    fn parts(&self, logits: &ByModality<Tensor>) -> Result<ByModality<Tensor>> {
        let weight = |name: &String| self.weights.get(name).copied().unwrap_or(1.0);
        let total: f64 = logits.keys().map(weight).sum();
        let part = |(name, logits): (&String, &Tensor)| {
            Ok((name.clone(), logits.f_mul_scalar(weight(name) / total)?))
        };
        logits.iter().map(part).collect()
    }

    fn sum(&self, logits: &ByModality<Tensor>) -> Result<Tensor> {
        Ok(stack(&self.parts(logits)?)?.f_sum_dim_intlist(0i64, false, None::<Kind>)?)
    }
}

impl Persist for Weighted {}

impl Fusion for Weighted {
    fn needs(&self) -> &'static [Need] {
        &[Need::UnimodalHeads]
    }

    fn additive(&self) -> bool {
        true
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
        Ok(Some(Joint::of(self.sum(logits)?)))
    }

    fn split(&self, outputs: &Outputs) -> Result<Option<ByModality<Tensor>>> {
        self.parts(&outputs.logits).map(Some)
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        probabilities(&self.sum(&outputs.logits)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        assert_close, assert_decides_on_whatever_ran, build, decide, refusal, rows,
    };
    use super::*;

    #[test]
    fn weights_are_shares_of_what_ran() {
        let config = WeightedConfig { weights: BTreeMap::from([("audio".to_owned(), 3.0)]) };
        let fusion = build(&config, &[2, 2], 2).0;
        let found = decide(&*fusion, [rows(&[[4.0, 0.0]]), rows(&[[0.0, 8.0]])]);
        assert_close(&found, &rows(&[[3.0, 2.0]]).softmax(-1, Kind::Double), 1e-12);
        assert_decides_on_whatever_ran(&*fusion);
    }

    #[test]
    fn weights_of_nothing_or_of_nobody_are_refused() {
        let config = |name: &str, weight| WeightedConfig {
            weights: BTreeMap::from([(name.to_owned(), weight)]),
        };
        let error = config("audio", 0.0).validate().unwrap_err().to_string();
        assert_eq!(error, "`weights.audio` is 0, expected (0, inf)");
        let error = refusal(&config("smell", 1.0), &[2, 2], 2);
        assert!(error.contains("`weights` names `smell`"), "{error}");
    }
}
