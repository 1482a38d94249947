//! Adds the logits of the modalities up, each from its own head.

use mie_core::prelude::*;

use super::util::stack;

/// Sums logits over the modalities.
///
/// With `z_m` the logits of modality `m`, over the modalities that ran:
///
/// ```text
/// joint      z = sum_m z_m
/// decision   p = softmax(z)
/// ```
///
/// The class decided on is that of the averaged logits, but a joint loss sees logits that are as
/// many times larger as there are modalities. The split is `z_m` itself, the whole bias of each
/// head included. Needs a head for each modality.
///
/// Shapes: logits `[batch, classes]` of each modality; decision `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SumConfig {}

#[typetag::serde(name = "sum")]
impl FusionConfig for SumConfig {
    fn build(&self, _context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        Ok(Box::new(Sum))
    }
}
register!(fusion::<SumConfig>, source = "Peng et al. 2022, arXiv:2203.15332");

struct Sum;

impl Persist for Sum {}

impl Fusion for Sum {
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
        Ok(Some(Joint::of(total(logits)?)))
    }

    fn split(&self, outputs: &Outputs) -> Result<Option<ByModality<Tensor>>> {
        Ok(Some(share(&outputs.logits)))
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        probabilities(&total(&outputs.logits)?)
    }
}

fn total(logits: &ByModality<Tensor>) -> Result<Tensor> {
    Ok(stack(logits)?.f_sum_dim_intlist(0i64, false, None::<Kind>)?)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        assert_close, assert_decides_on_whatever_ran, build, by_modality, rows,
    };
    use super::*;

    fn sum() -> Box<dyn Fusion> {
        build(&SumConfig {}, &[2, 2], 2).0
    }

    #[test]
    fn the_joint_logits_are_the_sum_of_the_split() {
        let logits = by_modality([rows(&[[2.0, 0.5]]), rows(&[[-1.0, 3.0]])]);
        let joint = sum().joint(&ByModality::new(), &logits, &mut Pass::evaluation()).unwrap();
        let joint = joint.map(|joint| joint.logits);
        let outputs = Outputs { logits, joint, ..Outputs::default() };
        assert_close(outputs.joint.as_ref().unwrap(), &rows(&[[1.0, 3.5]]), 0.0);
        let split = sum().split(&outputs).unwrap().unwrap();
        assert!(sum().additive());
        assert_close(&split["audio"], &rows(&[[2.0, 0.5]]), 0.0);
        assert_close(&split["flow"], &rows(&[[-1.0, 3.0]]), 0.0);
        let expected = rows(&[[1.0, 3.5]]).softmax(-1, Kind::Double);
        assert_close(&sum().decide(&outputs).unwrap(), &expected, 1e-12);
    }

    #[test]
    fn it_decides_on_whatever_ran() {
        assert_decides_on_whatever_ran(sum().as_ref());
    }
}
