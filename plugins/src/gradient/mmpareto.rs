//! Joins the joint and the unimodal gradient of each encoder to one that hurts neither.

use mie_core::prelude::*;

/// Weights the joint and the unimodal gradient of each encoder by whether they agree.
///
/// With `g_J` and `g_m` the gradients of the joint loss and of modality `m`'s own with respect to
/// the encoder of `m`, all its tensors as one vector:
///
/// ```text
/// a = 1/2                                                          if g_J . g_m > 0
/// a = clip(g_m . (g_m - g_J) / ||g_J - g_m||^2, 0.001, 0.999)      else (least norm)
/// h = 2 a g_J + 2 (1 - a) g_m
/// g <- gamma max(1, ||g_J + g_m|| / ||h||) h                       norms tensor by tensor
/// ```
///
/// Heads and fusions keep the summed gradient. Train with `joint_ce` and `unimodal_ce` together;
/// every loss term has a backward pass of its own.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MmparetoConfig {
    /// Factor of the joined gradient, greater than 0. Default 1.5, the released code's.
    pub gamma: f64,
}

impl Default for MmparetoConfig {
    fn default() -> Self {
        Self { gamma: 1.5 }
    }
}

#[typetag::serde(name = "mmpareto")]
impl GradientModifierConfig for MmparetoConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("gamma", "(0, inf)", self.gamma, self.gamma > 0.0 && self.gamma.is_finite())
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(Mmpareto { config: self.clone() }))
    }
}

register!(gradient_modifier::<MmparetoConfig>, source = "Wei and Hu 2024, arXiv:2405.17730");

struct Mmpareto {
    config: MmparetoConfig,
}

impl Persist for Mmpareto {}

/// Sum over tensors of their inner products, 0-d.
fn inner(pairs: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let each = pairs.iter().map(|(a, b)| Ok(a.f_mul(b)?.f_sum(None::<Kind>)?));
    let each = each.collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&each, 0)?.f_sum(None::<Kind>)?)
}

/// Weight of the joint gradient, 0-d, on the device throughout.
fn weight(joint: &[&Tensor], own: &[&Tensor]) -> Result<Tensor> {
    let pairs: Vec<_> = joint.iter().copied().zip(own.iter().copied()).collect();
    let same: Vec<_> = own.iter().map(|own| (*own, *own)).collect();
    let whole: Vec<_> = joint.iter().map(|joint| (*joint, *joint)).collect();
    let (cross, own, joint) = (inner(&pairs)?, inner(&same)?, inner(&whole)?);
    let distance = joint.f_add(&own)?.f_sub(&cross.f_mul_scalar(2.0)?)?.f_clamp_min(1e-30)?;
    let least = own.f_sub(&cross)?.f_div(&distance)?.f_clamp(0.001, 0.999)?;
    Ok(least.f_full_like(0.5)?.f_where_self(&cross.f_gt(0.0)?, &least)?)
}

impl GradientModifier for Mmpareto {
    fn needs(&self) -> &'static [Need] {
        &[Need::GradientsByTerm, Need::UnimodalHeads, Need::JointLogits]
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        run.expect_joint_and_unimodal_terms()
    }

    fn modify(&mut self, gradients: &mut Grads, step: &StepView<'_>) -> Result<()> {
        let Grads { sum, by_term } = gradients;
        let Some(joint) = by_term.get(Term::JOINT) else { return Ok(()) };
        for modality in step.trained {
            let encoder = GroupId::Encoder(modality.clone());
            let Some(own) = by_term.get(&Term::unimodal(modality)) else { continue };
            let ids: Vec<&ParamId> =
                joint.keys().filter(|id| id.group == encoder && own.contains_key(id)).collect();
            if ids.is_empty() {
                continue;
            }
            let of = |term: &'_ ByParam| ids.iter().map(|id| term[*id].shallow_clone()).collect();
            let (joint, own): (Vec<Tensor>, Vec<Tensor>) = (of(joint), of(own));
            let a = weight(&joint.iter().collect::<Vec<_>>(), &own.iter().collect::<Vec<_>>())?;
            let rest = a.f_neg()?.f_add_scalar(1.0)?;
            for ((id, joint), own) in ids.into_iter().zip(&joint).zip(&own) {
                let joined = joint.f_mul(&a)?.f_add(&own.f_mul(&rest)?)?.f_mul_scalar(2.0)?;
                let plain = joint.f_add(own)?.f_norm()?;
                let scale = plain.f_div(&joined.f_norm()?.f_clamp_min(1e-30)?)?.f_clamp_min(1.0)?;
                let scale = scale.f_mul_scalar(self.config.gamma)?;
                sum.insert(id.clone(), joined.f_mul(&scale)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::gradient::fixture::blank_view;
    use mie_conformance::stand_in::{TinyRun, assert_close};

    fn id(group: GroupId) -> ParamId {
        let path = format!("{group}.w").into();
        ParamId { group, path }
    }

    /// The gradient of an encoder and of its head after the modifier.
    fn joined(joint: [f64; 2], own: [f64; 2]) -> (Tensor, Tensor) {
        let (encoder, head) =
            (id(GroupId::Encoder("audio".to_owned())), id(GroupId::Head("audio".to_owned())));
        let sum = [joint[0] + own[0], joint[1] + own[1]];
        let tensor = |values: &[f64]| Tensor::from_slice(values);
        let mut gradients = Grads {
            sum: ByParam::from([(encoder.clone(), tensor(&sum)), (head.clone(), tensor(&own))]),
            by_term: BTreeMap::from([
                ("joint".to_owned(), ByParam::from([(encoder.clone(), tensor(&joint))])),
                (
                    "unimodal.audio".to_owned(),
                    ByParam::from([(encoder.clone(), tensor(&own)), (head.clone(), tensor(&own))]),
                ),
            ]),
        };
        let (parameters, outputs) = (Parameters::default(), Outputs::default());
        let (labels, inputs) = (Tensor::from_slice(&[0i64]), BTreeMap::new());
        let trained = BTreeSet::from(["audio".to_owned()]);
        let view = blank_view(&parameters, &outputs, &labels, &inputs, &trained);
        let mut plugin = MmparetoConfig::default().build().unwrap();
        plugin.modify(&mut gradients, &view).unwrap();
        (gradients.sum.remove(&encoder).unwrap(), gradients.sum.remove(&head).unwrap())
    }

    #[test]
    fn gradients_in_conflict_are_joined_as_in_the_worked_example() {
        let (encoder, head) = joined([1.0, 0.0], [-0.5, 1.0]);
        assert_close(&encoder, &[0.930_261, 1.395_391], 1e-6);
        assert_close(&head, &[-0.5, 1.0], 0.0);
    }

    #[test]
    fn gradients_that_agree_are_added_and_scaled() {
        let (encoder, _) = joined([1.0, 0.0], [0.5, 1.0]);
        assert_close(&encoder, &[2.25, 1.5], 1e-12);
    }

    #[test]
    fn gradients_of_nothing_stay_finite() {
        let (encoder, _) = joined([0.0, 0.0], [0.0, 0.0]);
        assert_close(&encoder, &[0.0, 0.0], 0.0);
    }

    #[test]
    fn a_run_without_the_two_losses_is_refused() {
        let plugin = MmparetoConfig::default().build().unwrap();
        let mut shape = TinyRun::new(Seed(0)).shape();
        plugin.check(&shape).unwrap();
        shape.terms.remove("joint");
        let error = plugin.check(&shape).unwrap_err().to_string();
        assert!(error.contains("the loss term `joint` is needed"), "{error}");
    }
}
