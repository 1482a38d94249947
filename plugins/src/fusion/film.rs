//! Lets one modality scale and shift the features of the others.

use mie_core::prelude::*;

use super::util::{Conditioned, joint_or_error};

/// Modulates features of the other modalities by one of them (feature-wise linear modulation).
///
/// With `h_1` the feature of the conditioning modality and `h_2` that of the other:
///
/// ```text
/// (gamma, beta) = halves of G h_1 + g_0
/// joint           z = O (gamma * h_2 + beta) + o          * entry by entry
/// decision        p = softmax(z)
/// ```
///
/// `G` (`modulation`, group `fusion`) has twice as many rows as `h_2` is wide, `O` (`classifier`,
/// group `joint_head`) one for each class; both start uniform in `±1/sqrt(inputs)`. With more than
/// two modalities `h_2` is the mean of the others, each mapped to the width of the widest of them
/// by a linear layer of its own (`inputs.M`): our extension, there is no published one.
///
/// `z` is no sum over modalities, so it has no unimodal split. All modalities must run.
///
/// Shapes: features `[batch, width]` of each modality; joint logits and decision
/// `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FilmConfig {
    /// Modality that modulates the others; the first in alphabetical order when absent, as in the
    /// released code of the compared methods, where it is audio.
    pub conditioner: Option<String>,
}

#[typetag::serde(name = "film")]
impl FusionConfig for FilmConfig {
    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        let roles = Conditioned::new("conditioner", self.conditioner.as_deref(), context)?;
        let width = roles.width();
        let (own, head) = (context.at.at(GroupId::Fusion), context.at.at(GroupId::JointHead));
        Ok(Box::new(Film {
            modulation: Linear::new(&own.sub("modulation"), roles.first_width(), 2 * width)?,
            classifier: Linear::new(&head.sub("classifier"), width, context.classes)?,
            roles,
        }))
    }
}
register!(fusion::<FilmConfig>, source = "Perez et al. 2018, arXiv:1709.07871");

struct Film {
    roles: Conditioned,
    modulation: Linear,
    classifier: Linear,
}

impl Persist for Film {}

impl Fusion for Film {
    fn joint(
        &self,
        features: &ByModality<Tensor>,
        _logits: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        let Some((first, others)) = self.roles.of(features, pass)? else { return Ok(None) };
        let halves = self.modulation.forward(first, pass)?.f_chunk(2, 1)?;
        let modulated = halves[0].f_mul(&others)?.f_add(&halves[1])?;
        Ok(Some(Joint::of(self.classifier.forward(&modulated, pass)?)))
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        probabilities(joint_or_error("film", outputs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_close, build, by_modality, rows, set, single};
    use super::*;

    #[test]
    fn the_worked_example_is_met() {
        let (fusion, store) = build(&FilmConfig::default(), &[2, 2], 2);
        let g = rows(&[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0, -1.0]]);
        set(&store, "fusion.modulation.weight", &g);
        set(&store, "fusion.modulation.bias", &Tensor::from_slice(&[0.0, 0.0, 0.0, 0.1]));
        set(&store, "joint_head.classifier.weight", &rows(&[[1.0, 1.0], [1.0, -1.0]]));
        set(&store, "joint_head.classifier.bias", &Tensor::from_slice(&[0.0, 0.0]));
        let features = by_modality([rows(&[[1.0, 2.0]]), rows(&[[3.0, -1.0]])].map(|x| single(&x)));
        let outputs = Outputs { features, ..Outputs::default() };
        let mut pass = Pass::evaluation();
        let joint = fusion.joint(&outputs.features, &outputs.logits, &mut pass).unwrap().unwrap();
        assert_close(&joint.logits, &rows(&[[1.6, 7.4]]), 1e-5);
        assert!(!fusion.additive() && fusion.split(&outputs).unwrap().is_none());
    }

    #[test]
    fn three_modalities_of_unequal_width_join_and_the_conditioner_can_be_chosen() {
        let config = FilmConfig { conditioner: Some("video".to_owned()) };
        let (fusion, store) = build(&config, &[3, 5, 2], 4);
        assert_eq!(store.find("fusion.modulation.weight").unwrap().1.size(), [10, 2]);
        assert_eq!(store.find("fusion.inputs.audio.weight").unwrap().1.size(), [5, 3]);
        let features = by_modality(
            [[2i64, 3], [2, 5], [2, 2]].map(|size| Tensor::ones(size, (Kind::Float, Device::Cpu))),
        );
        let none = ByModality::new();
        let joint = fusion.joint(&features, &none, &mut Pass::evaluation()).unwrap().unwrap();
        assert_eq!(joint.logits.size(), [2, 4]);
        let mut fewer = features;
        fewer.remove("flow");
        assert!(fusion.joint(&fewer, &none, &mut Pass::evaluation()).unwrap().is_none());
    }

    #[test]
    fn a_conditioner_that_is_no_modality_is_refused() {
        let config = FilmConfig { conditioner: Some("smell".to_owned()) };
        let error = super::super::fixture::refusal(&config, &[2, 2], 2);
        assert!(
            error.contains("`conditioner` names `smell`") && error.contains("audio"),
            "{error}"
        );
    }
}
