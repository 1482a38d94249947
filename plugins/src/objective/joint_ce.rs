//! Trains all modalities on the cross-entropy of the joint logits.

use mie_core::prelude::*;

/// Takes the cross-entropy of the fusion's joint logits.
///
/// With `z` the joint logits, `y` the labels and `B` the batch size, one term `joint`:
///
/// ```text
/// L = (1/B) sum_k -log softmax(z_k)_(y_k)
/// ```
///
/// Where the fusion keeps only some samples for its joint logits, it is their mean. Mixed inputs give mixed targets. Needs a fusion with joint logits; rules that only decide
/// (`max`, `entropy_weighted`) have none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JointCeConfig {}

#[typetag::serde(name = "joint_ce")]
impl ObjectiveConfig for JointCeConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(JointCe))
    }
}
register!(
    objective::<JointCeConfig>,
    source = "Baltrusaitis et al. 2019, arXiv:1705.09406 (joint representations)"
);

struct JointCe;

impl Persist for JointCe {}

impl Objective for JointCe {
    fn needs(&self) -> &'static [Need] {
        &[Need::JointLogits]
    }

    fn terms(&self, forward: &mut dyn Forward, _notes: &mut Notes) -> Result<Vec<Term>> {
        let spec = forward.full();
        let outputs = forward.run(&spec)?;
        let rows = outputs.rows.as_ref();
        let loss = forward.targets().cross_entropy_of_rows(outputs.joint_logits()?, rows)?;
        Ok(vec![Term::new(Term::JOINT, loss)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixed, one_label, one_row};
    use super::*;

    fn model(joint: Option<Tensor>) -> Fixed {
        Fixed {
            modalities: vec!["audio".to_owned()],
            outputs: Outputs {
                features: ByModality::from([("audio".to_owned(), one_row(&[0.0]))]),
                joint,
                ..Outputs::default()
            },
            targets: one_label(0),
        }
    }

    fn terms(model: &mut Fixed) -> Result<Vec<Term>> {
        JointCeConfig {}.build().unwrap().terms(model, &mut Notes::new())
    }

    #[test]
    fn the_term_is_the_cross_entropy_of_the_joint_logits_mixed_as_the_inputs_were() {
        let mut model = model(Some(one_row(&[1.0, 0.0, -1.0])));
        let check = |model: &mut Fixed, expected: f64| {
            let found = terms(model).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].name, "joint");
            assert!((found[0].value.double_value(&[]) - expected).abs() < 1e-9);
        };
        check(&mut model, 0.407_605_964_4);
        let labels = Tensor::from_slice(&[2i64]);
        model.targets.mixed = Some(MixedTargets { labels, lambda: 0.3 });
        check(&mut model, 1.807_605_964_4);
    }

    #[test]
    fn a_fusion_without_joint_logits_is_refused_with_a_remedy() {
        let error = terms(&mut model(None)).unwrap_err().to_string();
        assert!(error.contains("no joint logits") && error.contains("audio"), "{error}");
        assert!(error.contains("what to do"), "{error}");
    }
}
