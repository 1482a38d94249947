//! Classifies the features of all modalities side by side.

use mie_core::prelude::*;

use super::util::joint_or_error;

/// Concatenates features and classifies them by one joint head.
///
/// With `h_1 … h_M` the features in alphabetical order of their modalities:
///
/// ```text
/// joint      z = W [h_1; …; h_M] + b
/// split      z_m = W_m h_m + b / M          W = [W_1 … W_M]
/// decision   p = softmax(z)
/// ```
///
/// `hidden` puts rectified layers before the last one; `z` then is no sum over modalities and has
/// no split. The parameters `fc1` … `fcN` are the group `joint_head`; they start uniform in
/// `±1/sqrt(inputs)`. All modalities must run: without one there are no joint logits, and deciding
/// is an error.
///
/// Shapes: features `[batch, width]` of each modality; joint logits and decision
/// `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConcatConfig {
    /// Neurons of each layer before the last, at least 1 each. Default empty: one linear layer,
    /// as in the released code of the compared methods.
    pub hidden: Vec<i64>,
}

#[typetag::serde(name = "concat")]
impl FusionConfig for ConcatConfig {
    fn validate(&self) -> Result<()> {
        let hidden = format!("{:?}", self.hidden);
        ensure_range("hidden", "a list of [1, inf)", hidden, self.hidden.iter().all(|&n| n >= 1))
    }

    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        self.validate()?;
        let at = context.at.at(GroupId::JointHead);
        let mut inputs = context.widths.values().sum();
        let mut layers = Vec::new();
        for (index, &outputs) in self.hidden.iter().chain([&context.classes]).enumerate() {
            layers.push(Linear::new(&at.sub(&format!("fc{}", index + 1)), inputs, outputs)?);
            inputs = outputs;
        }
        Ok(Box::new(Concat { widths: context.widths.clone(), layers }))
    }
}
register!(fusion::<ConcatConfig>, source = "Baltrusaitis et al. 2019, arXiv:1705.09406");

struct Concat {
    widths: ByModality<i64>,
    layers: Vec<Linear>,
}

impl Concat {
    /// The features of all modalities, alphabetically; `None` when one did not run.
    fn inputs<'a>(&self, features: &'a ByModality<Tensor>) -> Option<Vec<&'a Tensor>> {
        self.widths.keys().map(|modality| features.get(modality)).collect()
    }
}

impl Persist for Concat {}

impl Fusion for Concat {
    fn additive(&self) -> bool {
        self.layers.len() == 1
    }

    fn joint(
        &self,
        features: &ByModality<Tensor>,
        _logits: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        let Some(inputs) = self.inputs(features) else {
            return Ok(None);
        };
        let mut x = Tensor::f_cat(&inputs, 1)?;
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                x = x.f_relu_()?;
            }
            x = layer.forward(&x, pass)?;
        }
        Ok(Some(Joint::of(x)))
    }

    fn split(&self, outputs: &Outputs) -> Result<Option<ByModality<Tensor>>> {
        let (Some(inputs), [layer]) = (self.inputs(&outputs.features), self.layers.as_slice())
        else {
            return Ok(None);
        };
        let modalities = self.widths.len() as f64;
        let bias = layer.bias().map(|bias| bias.f_div_scalar(modalities)).transpose()?;
        let mut split = ByModality::new();
        let mut start = 0;
        for ((modality, &width), feature) in self.widths.iter().zip(inputs) {
            let weight = layer.weight().f_narrow(1, start, width)?;
            split.insert(modality.clone(), feature.f_linear(&weight, bias.as_ref())?);
            start += width;
        }
        Ok(Some(split))
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        probabilities(joint_or_error("concat", outputs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_close, build, by_modality, rows};
    use super::*;

    /// Features and joint logits of a batch, in f32 as the parameters are.
    fn outputs<const COUNT: usize>(fusion: &dyn Fusion, features: [Tensor; COUNT]) -> Outputs {
        let features = by_modality(features.map(|feature| feature.to_kind(Kind::Float)));
        let joint = fusion.joint(&features, &ByModality::new(), &mut Pass::evaluation()).unwrap();
        let joint = joint.map(|joint| joint.logits);
        Outputs { features, joint, ..Outputs::default() }
    }

    fn total(split: &ByModality<Tensor>) -> Tensor {
        split.values().sum()
    }

    #[test]
    fn joint_logits_and_their_split_match_the_worked_example() {
        let (fusion, store) = build(&ConcatConfig::default(), &[2, 2], 2);
        let set = |name: &str, values: &Tensor| {
            let _guard = no_grad_guard();
            let path = format!("joint_head.fc1.{name}");
            store.find(&path).unwrap().1.shallow_clone().copy_(values);
        };
        set("weight", &rows(&[[1.0, 0.0, 0.5, -1.0], [0.0, 1.0, -0.5, 2.0]]));
        set("bias", &Tensor::from_slice(&[0.2, -0.2]));
        let outputs = outputs(fusion.as_ref(), [rows(&[[1.0, 2.0]]), rows(&[[3.0, -1.0]])]);
        let joint = outputs.joint.as_ref().unwrap();
        assert_close(joint, &rows(&[[3.7, -1.7]]), 1e-5);
        let split = fusion.split(&outputs).unwrap().unwrap();
        assert_close(&split["audio"], &rows(&[[1.1, 1.9]]), 1e-5);
        assert_close(&split["flow"], &rows(&[[2.6, -3.6]]), 1e-5);
        assert_close(&total(&split), joint, 1e-5);
        let expected = rows(&[[3.7, -1.7]]).softmax(-1, Kind::Double);
        assert_close(&fusion.decide(&outputs).unwrap(), &expected, 1e-5);
    }

    #[test]
    fn the_split_sums_to_the_joint_logits_for_unequal_widths() {
        let (fusion, _) = build(&ConcatConfig::default(), &[3, 1, 2], 4);
        let features = [
            rows(&[[0.1, -0.2, 0.3], [1.0, 2.0, -3.0]]),
            rows(&[[0.7], [-0.4]]),
            rows(&[[5.0, 0.5], [0.0, 0.9]]),
        ];
        let outputs = outputs(fusion.as_ref(), features);
        assert!(fusion.additive());
        let split = fusion.split(&outputs).unwrap().unwrap();
        assert_eq!(split.len(), 3);
        assert_close(&total(&split), outputs.joint.as_ref().unwrap(), 1e-5);
    }

    #[test]
    fn hidden_layers_end_the_additive_split() {
        let config = ConcatConfig { hidden: vec![5, 3] };
        let (fusion, store) = build(&config, &[2, 2], 4);
        let outputs = outputs(fusion.as_ref(), [rows(&[[1.0, 2.0]]), rows(&[[3.0, -1.0]])]);
        assert_eq!(outputs.joint.as_ref().unwrap().size(), [1, 4]);
        assert!(!fusion.additive());
        assert!(fusion.split(&outputs).unwrap().is_none());
        assert_eq!(store.size(&GroupId::JointHead), (4 + 1) * 5 + (5 + 1) * 3 + (3 + 1) * 4);
        let sum = fusion.decide(&outputs).unwrap().sum(Kind::Double).double_value(&[]);
        assert!((sum - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_modality_that_did_not_run_leaves_no_joint_logits_to_decide_on() {
        let (fusion, _) = build(&ConcatConfig::default(), &[2, 2], 2);
        let outputs = outputs(fusion.as_ref(), [rows(&[[1.0, 2.0]])]);
        assert!(outputs.joint.is_none());
        assert!(fusion.split(&outputs).unwrap().is_none());
        let error = fusion.decide(&outputs).unwrap_err().to_string();
        assert_eq!(
            error,
            "features for the joint logits of fusion `concat`: \
             expected \"all modalities of the run\", found [\"audio\"]"
        );
    }

    #[test]
    fn a_layer_without_neurons_is_refused() {
        let error = ConcatConfig { hidden: vec![0] }.validate().unwrap_err().to_string();
        assert_eq!(error, "`hidden` is [0], expected a list of [1, inf)");
    }
}
