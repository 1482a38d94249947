//! Lets one modality gate the features of the others.

use mie_core::prelude::*;

use super::util::{Conditioned, joint_or_error};

/// Gates the features of the other modalities by one of them.
///
/// With `h_1` the feature of the gating modality and `h_m` those of the others:
///
/// ```text
/// u = A_1 h_1          w = sum_(m > 1) A_m h_m
/// joint      z = O (sigmoid(u) * w) + o          * entry by entry
/// decision   p = softmax(z)
/// ```
///
/// The linear layers `A_m` (`inputs.M`, group `fusion`) have biases and map every feature to the
/// width of the widest; `O` (`classifier`) is the group `joint_head`. All start uniform in
/// `±1/sqrt(inputs)`. For two modalities it is the published form; the sum over more is ours.
///
/// `z` is no sum over modalities, so it has no unimodal split. All modalities must run.
///
/// Shapes: features `[batch, width]` of each modality; joint logits and decision
/// `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatedConfig {
    /// Modality that is the gate; the first in alphabetical order when absent, as in the released
    /// code of the compared methods, where it is audio.
    pub gate: Option<String>,
}

#[typetag::serde(name = "gated")]
impl FusionConfig for GatedConfig {
    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        let roles = Conditioned::mapping_all("gate", self.gate.as_deref(), context)?;
        let head = context.at.at(GroupId::JointHead);
        let classifier = Linear::new(&head.sub("classifier"), roles.width(), context.classes)?;
        Ok(Box::new(Gated { roles, classifier }))
    }
}
register!(fusion::<GatedConfig>, source = "Kiela et al. 2018, arXiv:1802.02892");

struct Gated {
    roles: Conditioned,
    classifier: Linear,
}

impl Persist for Gated {}

impl Fusion for Gated {
    fn joint(
        &self,
        features: &ByModality<Tensor>,
        _logits: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        let Some((gate, others)) = self.roles.mapped(features, pass)? else { return Ok(None) };
        let gated = gate.f_sigmoid()?.f_mul(&others)?;
        Ok(Some(Joint::of(self.classifier.forward(&gated, pass)?)))
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        probabilities(joint_or_error("gated", outputs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_close, build, by_modality, rows, set, single};
    use super::*;

    #[test]
    fn the_worked_example_is_met() {
        let (fusion, store) = build(&GatedConfig::default(), &[2, 2], 2);
        let zeros = Tensor::from_slice(&[0.0, 0.0]);
        for name in ["fusion.inputs.audio.bias", "fusion.inputs.flow.bias"] {
            set(&store, name, &zeros);
        }
        set(&store, "fusion.inputs.audio.weight", &rows(&[[1.0, -1.0], [0.0, 0.5]]));
        set(&store, "fusion.inputs.flow.weight", &rows(&[[2.0, 0.0], [1.0, 1.0]]));
        set(&store, "joint_head.classifier.weight", &rows(&[[1.0, 1.0], [1.0, -1.0]]));
        set(&store, "joint_head.classifier.bias", &zeros);
        let features = by_modality([rows(&[[1.0, 2.0]]), rows(&[[3.0, -1.0]])].map(|x| single(&x)));
        let none = ByModality::new();
        let joint = fusion.joint(&features, &none, &mut Pass::evaluation()).unwrap().unwrap();
        assert_close(&joint.logits, &rows(&[[3.075_766, 0.151_531]]), 1e-5);
    }

    #[test]
    fn a_third_modality_adds_to_what_is_gated() {
        let (fusion, store) = build(&GatedConfig::default(), &[2, 3, 4], 3);
        assert_eq!(store.find("fusion.inputs.audio.weight").unwrap().1.size(), [4, 2]);
        let sizes = [[2i64, 2], [2, 3], [2, 4]];
        let ones = |size| Tensor::ones(size, (Kind::Float, Device::Cpu));
        let joint = |features: ByModality<Tensor>| {
            let none = ByModality::new();
            fusion.joint(&features, &none, &mut Pass::evaluation()).unwrap()
        };
        let all = joint(by_modality(sizes.map(ones))).unwrap().logits;
        let mut louder = by_modality(sizes.map(ones));
        *louder.get_mut("video").unwrap() *= 2.0;
        assert_ne!(all, joint(louder).unwrap().logits);
        let mut fewer = by_modality(sizes.map(ones));
        fewer.remove("video");
        assert!(joint(fewer).is_none());
    }
}
