//! Averages what the modalities say, each by its own head.

use mie_core::prelude::*;

use super::util::{mean_over_modalities, stack};

/// Averages probabilities or logits over the modalities.
///
/// With `z_m` the logits of modality `m` and `M` the number of modalities that ran:
///
/// ```text
/// joint         z = (1/M) sum_m z_m
/// decision      p = (1/M) sum_m softmax(z_m)       decide = "probabilities"
///               p = softmax(z)                     decide = "logits"
/// ```
///
/// The two decisions differ. A joint loss is always taken on `z`, which splits into `z_m / M`;
/// where no objective asks for one, `z` trains nothing. Needs a head for each modality.
///
/// Shapes: logits `[batch, classes]` of each modality; decision `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AverageConfig {
    /// What is averaged for the decision. Default `probabilities`, as the released code of the
    /// flat-gradient method does; joint training by averaged logits goes with `logits`.
    pub decide: Averaged,
}

/// What an average decision is the mean of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Averaged {
    /// The probabilities of each modality.
    #[default]
    Probabilities,
    /// The logits of each modality, of which the softmax is taken.
    Logits,
}

#[typetag::serde(name = "average")]
impl FusionConfig for AverageConfig {
    fn build(&self, _context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        Ok(Box::new(Average { decide: self.decide }))
    }
}
register!(fusion::<AverageConfig>, source = "Kittler et al. 1998, doi:10.1109/34.667881");

struct Average {
    decide: Averaged,
}

impl Persist for Average {}

impl Fusion for Average {
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
        Ok(Some(Joint::of(mean_over_modalities(&stack(logits)?)?)))
    }

    fn split(&self, outputs: &Outputs) -> Result<Option<ByModality<Tensor>>> {
        let modalities = outputs.logits.len() as f64;
        let mut split = share(&outputs.logits);
        for logits in split.values_mut() {
            *logits = logits.f_div_scalar(modalities)?;
        }
        Ok(Some(split))
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        let logits = stack(&outputs.logits)?;
        match self.decide {
            Averaged::Probabilities => mean_over_modalities(&probabilities(&logits)?),
            Averaged::Logits => probabilities(&mean_over_modalities(&logits)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        assert_close, assert_decides_on_whatever_ran, build, by_modality, decide, rows,
    };
    use super::*;

    fn average(decide: Averaged) -> Box<dyn Fusion> {
        build(&AverageConfig { decide }, &[2, 2], 2).0
    }

    #[test]
    fn averaging_probabilities_and_averaging_logits_differ_as_in_the_worked_example() {
        let z = || [rows(&[[2.0, 0.0]]), rows(&[[0.0, 3.0]])];
        let found = decide(average(Averaged::Logits).as_ref(), z());
        assert_close(&found, &rows(&[[0.377_541, 0.622_459]]), 1e-6);
        let found = decide(average(Averaged::Probabilities).as_ref(), z());
        assert_close(&found, &rows(&[[0.464_111, 0.535_889]]), 1e-6);
    }

    #[test]
    fn three_classes_average_as_in_the_worked_example() {
        let z = [rows(&[[2.0, 0.0, 0.0]]), rows(&[[0.5, 0.5, 0.0]])];
        let found = decide(average(Averaged::default()).as_ref(), z);
        let expected = rows(&[[0.585_318_886_7, 0.245_079_355_1, 0.169_601_758_3]]);
        assert_close(&found, &expected, 1e-9);
    }

    #[test]
    fn a_joint_loss_gives_every_branch_the_same_gradient() {
        let z = [[2.0, 0.0], [0.0, 3.0]].map(|row| rows(&[row]).set_requires_grad(true));
        let leaves: Vec<Tensor> = z.iter().map(Tensor::shallow_clone).collect();
        let joint = average(Averaged::default())
            .joint(&ByModality::new(), &by_modality(z), &mut Pass::evaluation())
            .unwrap()
            .unwrap();
        let targets = Targets { labels: Tensor::from_slice(&[0i64]), mixed: None };
        let loss = targets.cross_entropy(&joint.logits).unwrap();
        for gradient in Tensor::run_backward(&[loss], &leaves, false, false) {
            assert_close(&gradient, &rows(&[[-0.311_230, 0.311_230]]), 1e-6);
        }
    }

    #[test]
    fn the_split_sums_to_the_joint_logits() {
        let fusion = average(Averaged::default());
        let logits = by_modality([rows(&[[2.0, 0.5]]), rows(&[[-1.0, 3.0]]), rows(&[[0.3, 0.2]])]);
        let joint = fusion.joint(&ByModality::new(), &logits, &mut Pass::evaluation()).unwrap();
        let outputs = Outputs { logits, ..Outputs::default() };
        let split = fusion.split(&outputs).unwrap().unwrap();
        let sum: Tensor = split.values().sum();
        assert!(fusion.additive());
        assert_close(&sum, &joint.unwrap().logits, 1e-12);
    }

    #[test]
    fn it_decides_on_whatever_ran() {
        assert_decides_on_whatever_ran(average(Averaged::Probabilities).as_ref());
        assert_decides_on_whatever_ran(average(Averaged::Logits).as_ref());
    }

    #[test]
    fn without_any_logits_there_is_no_joint() {
        let none = ByModality::new();
        let fusion = average(Averaged::default());
        assert!(fusion.joint(&none, &none, &mut Pass::evaluation()).unwrap().is_none());
    }
}
