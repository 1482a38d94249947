//! Decides for each sample whether modalities agree enough to be fused.

use mie_core::prelude::*;

/// Fuses the samples on whose classes the modalities agree, and leaves the others to one modality.
///
/// With `z_m` the logits of modality `m`, `q` the map of logits to values in `[0, 1]`:
///
/// ```text
/// z       = O max(0, A [h_1; …; h_M] + a) + o                    joint logits
/// q_m     = q(z_m)             qbar = (1/M) sum_m q_m
/// pen_m   = max_c (q_m[c] - qbar[c])^2                           divergence of modality m
/// fused   = all_m (pen_m / temperature < threshold)              for each sample
/// decision   p = softmax(q(z)) where fused, else softmax(q_n) of the modality n with the largest
///                max_c q_n[c]
/// ```
///
/// `q` is the logistic function (`map = "sigmoid"`, as in the released code, which then takes the
/// cross-entropy of these values) or the softmax (`map = "softmax"`; decisions are then `q` itself).
/// Use the same `map` here and in the objective `domfn`. In a joint loss only fused samples count.
///
/// `pen` is at most 1, and for two modalities at most 0.25: with the published values for two,
/// `temperature threshold` = 0.4, fusion is never rejected, so choose them on validation data.
///
/// The layers `fc1`, `fc2` are the group `joint_head`. Needs a head for each modality; all must run.
///
/// Shapes: features `[batch, width]`, logits and decision `[batch, classes]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DomfnGateConfig {
    /// Neurons of the joint head's hidden layer, at least 1. Default 64, the released code's.
    pub hidden: i64,
    /// What divergences are divided by, greater than 0. Default 0.5, the released code's.
    pub temperature: f64,
    /// What they must stay below, greater than 0. Default 0.8, the released code's.
    pub threshold: f64,
    /// How logits become values in `[0, 1]`. The logistic function by default, as released.
    pub map: ProbabilityMap,
}

/// How logits become values in `[0, 1]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbabilityMap {
    /// Each entry by the logistic function; cross-entropies are taken of the softmax of these.
    #[default]
    Sigmoid,
    /// The softmax over the classes; cross-entropies are those of the logits.
    Softmax,
}

impl ProbabilityMap {
    /// Maps logits `[…, classes]` to values in `[0, 1]`.
    pub(crate) fn values(self, logits: &Tensor) -> Result<Tensor> {
        match self {
            Self::Sigmoid => Ok(logits.f_sigmoid()?),
            Self::Softmax => probabilities(logits),
        }
    }

    /// What a softmax over the classes turns into class probabilities.
    pub(crate) fn logits(self, logits: &Tensor) -> Result<Tensor> {
        match self {
            Self::Sigmoid => Ok(logits.f_sigmoid()?),
            Self::Softmax => Ok(logits.shallow_clone()),
        }
    }

    /// Divergence of each modality from the mean of all: `[batch]` each, with gradient.
    pub(crate) fn divergences(self, logits: &ByModality<Tensor>) -> Result<ByModality<Tensor>> {
        let values: Vec<Tensor> =
            logits.values().map(|logits| self.values(logits)).collect::<Result<_>>()?;
        let mean = Tensor::f_stack(&values, 0)?.f_mean_dim(0i64, false, None::<Kind>)?;
        let each = logits.keys().zip(&values).map(|(name, values)| {
            Ok((name.clone(), values.f_sub(&mean)?.f_square()?.f_amax(-1i64, false)?))
        });
        each.collect()
    }
}

impl Default for DomfnGateConfig {
    fn default() -> Self {
        Self { hidden: 64, temperature: 0.5, threshold: 0.8, map: ProbabilityMap::default() }
    }
}

#[typetag::serde(name = "domfn_gate")]
impl FusionConfig for DomfnGateConfig {
    fn validate(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        ensure_range("hidden", "at least 1", self.hidden, self.hidden >= 1)?;
        ensure_range("temperature", "(0, inf)", self.temperature, positive(self.temperature))?;
        ensure_range("threshold", "(0, inf)", self.threshold, positive(self.threshold))
    }

    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        self.validate()?;
        let at = context.at.at(GroupId::JointHead);
        let inputs = context.widths.values().sum();
        Ok(Box::new(DomfnGate {
            first: Linear::new(&at.sub("fc1"), inputs, self.hidden)?,
            second: Linear::new(&at.sub("fc2"), self.hidden, context.classes)?,
            modalities: context.widths.keys().cloned().collect(),
            config: self.clone(),
        }))
    }
}
register!(fusion::<DomfnGateConfig>, source = "Yang et al. 2022, doi:10.1145/3503161.3547919");

struct DomfnGate {
    first: Linear,
    second: Linear,
    modalities: Vec<String>,
    config: DomfnGateConfig,
}

impl DomfnGate {
    /// Samples that are fused: `[batch]`, true or false, without gradient.
    fn fused(&self, logits: &ByModality<Tensor>) -> Result<Tensor> {
        let _guard = no_grad_guard();
        let divergences: Vec<Tensor> = self.config.map.divergences(logits)?.into_values().collect();
        let largest = Tensor::f_stack(&divergences, 0)?.f_amax(0i64, false)?;
        Ok(largest.f_div_scalar(self.config.temperature)?.f_lt(self.config.threshold)?)
    }

    fn complete<'a>(&self, tensors: &'a ByModality<Tensor>) -> Option<Vec<&'a Tensor>> {
        self.modalities.iter().map(|name| tensors.get(name)).collect()
    }
}

impl Persist for DomfnGate {}

impl Fusion for DomfnGate {
    fn needs(&self) -> &'static [Need] {
        &[Need::UnimodalHeads, Need::SeveralModalities]
    }

    fn joint(
        &self,
        features: &ByModality<Tensor>,
        logits: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        let (Some(inputs), Some(_)) = (self.complete(features), self.complete(logits)) else {
            return Ok(None);
        };
        let hidden = self.first.forward(&Tensor::f_cat(&inputs, 1)?, pass)?.f_relu()?;
        let rows = self.fused(logits)?.f_to_kind(Kind::Float)?;
        Ok(Some(Joint { logits: self.second.forward(&hidden, pass)?, rows: Some(rows) }))
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        let (Some(joint), Some(logits)) = (&outputs.joint, self.complete(&outputs.logits)) else {
            return Err(Error::shape(
                "logits for the decision of fusion `domfn_gate`",
                &self.modalities,
                outputs.logits.keys().collect::<Vec<_>>(),
            ));
        };
        let map = self.config.map;
        let stacked = Tensor::f_stack(&logits, 0)?;
        let surest = map.values(&stacked)?.f_amax(-1i64, false)?.f_argmax(0, true)?;
        let index = surest.f_unsqueeze(2)?.f_expand([1, -1, joint.size()[1]], false)?;
        let alone =
            probabilities(&map.logits(&stacked)?)?.f_gather(0, &index, false)?.f_squeeze_dim(0)?;
        let together = probabilities(&map.logits(joint)?)?;
        let fused = self.fused(&outputs.logits)?.f_unsqueeze(1)?;
        Ok(together.f_where_self(&fused, &alone)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{build, by_modality, rows};
    use super::*;
    use mie_conformance::stand_in::assert_close;

    /// Logits whose logistic values are the worked example's.
    pub(crate) fn logits() -> ByModality<Tensor> {
        by_modality([[0.9, 0.2, 0.1], [0.3, 0.8, 0.2], [0.6, 0.5, 0.3]].map(|q| {
            let q = rows(&[q]);
            (&q / (q.ones_like() - &q)).log()
        }))
    }

    fn gate(temperature: f64) -> Box<dyn Fusion> {
        let config = DomfnGateConfig { temperature, ..DomfnGateConfig::default() };
        build(&config, &[2, 2, 2], 3).0
    }

    fn outputs() -> Outputs {
        Outputs { logits: logits(), joint: Some(rows(&[[0.0, 0.0, 3.0]])), ..Outputs::default() }
    }

    #[test]
    fn divergences_are_those_of_the_worked_example() {
        let found = ProbabilityMap::Sigmoid.divergences(&logits()).unwrap();
        for (found, expected) in found.values().zip([0.09, 0.09, 0.01]) {
            assert_close(found, &[expected], 1e-9);
        }
    }

    #[test]
    fn samples_that_agree_are_decided_together_and_others_by_the_surest_modality() {
        let fused = gate(0.5).decide(&outputs()).unwrap();
        assert_eq!(fused.argmax(-1, false).int64_value(&[0]), 2);
        let alone = gate(0.1).decide(&outputs()).unwrap();
        let expected = rows(&[[0.9, 0.2, 0.1]]).softmax(-1, Kind::Double);
        let expected: Vec<f64> = Vec::try_from(expected.flatten(0, -1)).unwrap();
        assert_close(&alone, &expected, 1e-9);
    }

    #[test]
    fn only_fused_samples_count_in_a_joint_loss() {
        let features =
            by_modality([0, 1, 2].map(|_| Tensor::ones([1, 2], (Kind::Float, Device::Cpu))));
        for (temperature, expected) in [(0.5, 1.0), (0.1, 0.0)] {
            let mut pass = Pass::evaluation();
            let joint = gate(temperature).joint(&features, &logits(), &mut pass).unwrap().unwrap();
            assert_close(&joint.rows.unwrap(), &[expected], 0.0);
        }
    }
}
