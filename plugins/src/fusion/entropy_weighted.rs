//! Weights the logits of each modality by how certain it is.

use mie_core::prelude::*;

use super::util::stack;

/// Sums logits, those of certain modalities counting more.
///
/// With `z_m` the logits of modality `m`, over the modalities that ran, for each sample:
///
/// ```text
/// q_m = softmax(z_m)                     over the classes
/// H_m = - sum_c q_m,c log q_m,c
/// w_m = exp(-H_m) / sum_n exp(-H_n)
/// p   = softmax(sum_m w_m z_m)
/// ```
///
/// `weights = "batch"` repeats what the released code of alternating unimodal adaptation (MLA)
/// computes instead: `q_m` is a softmax over the *samples* of a batch and `H_m` sums over samples
/// and classes, so a batch has one weight for each modality and the decision for a sample depends
/// on the batch size and on the other samples. Use it to compare with that code's numbers only.
///
/// A rule for decisions only: there are no joint logits. Needs a head for each modality.
///
/// Shapes: logits `[batch, classes]` of each modality; decision `[batch, classes]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EntropyWeightedConfig {
    /// What shares a weight. Default `per_sample`, as the method's paper defines it.
    pub weights: Weights,
}

/// What shares one weight for each modality.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Each sample has weights of its own, by the entropy over its classes.
    #[default]
    PerSample,
    /// The samples of a batch share theirs, by the released code's axis; depends on batch size.
    Batch,
}

#[typetag::serde(name = "entropy_weighted")]
impl FusionConfig for EntropyWeightedConfig {
    fn build(&self, _context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        Ok(Box::new(EntropyWeighted { weights: self.weights }))
    }
}
register!(fusion::<EntropyWeightedConfig>, source = "Zhang et al. 2024, arXiv:2311.10707");

struct EntropyWeighted {
    weights: Weights,
}

impl EntropyWeighted {
    /// Computes weights that sum to 1 over the modalities of `[modalities, batch, classes]`:
    /// `[modalities, batch, 1]` by sample, `[modalities, 1, 1]` by batch.
    fn weights(&self, logits: &Tensor) -> Result<Tensor> {
        let (classes, summed): (i64, &[i64]) = match self.weights {
            Weights::PerSample => (2, &[2]),
            Weights::Batch => (1, &[1, 2]),
        };
        // Logarithms straight from the logits: those of underflowed probabilities are infinite.
        let log = logits.f_log_softmax(classes, None::<Kind>)?;
        let negative_entropy =
            log.f_exp()?.f_mul(&log)?.f_sum_dim_intlist(summed, true, None::<Kind>)?;
        Ok(negative_entropy.f_softmax(0, None::<Kind>)?)
    }
}

impl Persist for EntropyWeighted {}

impl Fusion for EntropyWeighted {
    fn needs(&self) -> &'static [Need] {
        &[Need::UnimodalHeads]
    }

    fn joint(
        &self,
        _features: &ByModality<Tensor>,
        _logits: &ByModality<Tensor>,
        _pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        Ok(None)
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        let logits = stack(&outputs.logits)?;
        let weighted = logits.f_mul(&self.weights(&logits)?)?;
        probabilities(&weighted.f_sum_dim_intlist(0i64, false, None::<Kind>)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        assert_close, assert_decides_on_whatever_ran, by_modality, decide, rows,
    };
    use super::*;

    const PER_SAMPLE: EntropyWeighted = EntropyWeighted { weights: Weights::PerSample };
    const BATCH: EntropyWeighted = EntropyWeighted { weights: Weights::Batch };

    fn weights<const COUNT: usize>(fusion: &EntropyWeighted, logits: [Tensor; COUNT]) -> Tensor {
        fusion.weights(&stack(&by_modality(logits)).unwrap()).unwrap().squeeze_dim(-1)
    }

    #[test]
    fn one_sample_is_weighted_as_in_the_worked_example() {
        let z = || [rows(&[[2.0, 0.0, 0.0]]), rows(&[[0.5, 0.5, 0.0]])];
        let expected = rows(&[[0.600_799_069_1], [0.399_200_930_9]]);
        assert_close(&weights(&PER_SAMPLE, z()), &expected, 1e-9);
        let fused = rows(&[[1.401_198_603_7, 0.199_600_465_4, 0.0]]);
        let expected = fused.softmax(-1, Kind::Double);
        assert_close(&decide(&PER_SAMPLE, z()), &expected, 1e-9);
        let expected = rows(&[[0.646_406_220_6, 0.194_382_913_1, 0.159_210_866_3]]);
        assert_close(&decide(&PER_SAMPLE, z()), &expected, 1e-9);
    }

    #[test]
    fn a_third_modality_is_weighted_as_in_the_worked_example() {
        let z = [[2.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0; 3]].map(|row| rows(&[row]));
        let expected = rows(&[[0.432_341_797_3], [0.287_269_499_5], [0.280_388_703_2]]);
        assert_close(&weights(&PER_SAMPLE, z), &expected, 1e-9);
    }

    fn batch() -> [Tensor; 2] {
        [rows(&[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), rows(&[[0.5, 0.5, 0.0], [0.0, 0.0, 3.0]])]
    }

    #[test]
    fn weights_by_sample_do_not_depend_on_the_rest_of_the_batch() {
        let together = weights(&PER_SAMPLE, batch());
        let first = rows(&[[0.600_799_069_1, 0.352_348_073_8]]);
        assert_close(&together.narrow(0, 0, 1), &first, 1e-9);
        for sample in 0..2 {
            let alone = weights(&PER_SAMPLE, batch().map(|z| z.narrow(0, sample, 1)));
            assert_close(&alone, &together.narrow(1, sample, 1), 1e-12);
        }
    }

    #[test]
    fn weights_by_batch_match_the_released_code_and_depend_on_the_batch() {
        let together = weights(&BATCH, batch());
        assert_close(&together, &rows(&[[0.469_008_645_8], [0.530_991_354_2]]), 1e-9);
        let fused = rows(&[
            [1.203_512_968_7, 0.265_495_677_1, 0.0],
            [0.0, 0.469_008_645_8, 1.592_974_062_7],
        ]);
        let expected = fused.softmax(-1, Kind::Double);
        assert_close(&decide(&BATCH, batch()), &expected, 1e-9);
        let alone = weights(&BATCH, batch().map(|z| z.narrow(0, 0, 1)));
        assert_close(&alone, &rows(&[[0.5], [0.5]]), 1e-12);
    }

    #[test]
    fn it_decides_on_whatever_ran_however_large_the_logits() {
        assert_decides_on_whatever_ran(&PER_SAMPLE);
        assert_decides_on_whatever_ran(&BATCH);
    }
}
