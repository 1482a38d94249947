//! How far modalities are apart: what several methods against imbalance measure.

use tch::{Kind, Tensor};

use crate::batch::ByModality;
use crate::error::Result;

/// Sums, over a batch, the probability that each modality gives the right class, without gradient.
///
/// ```text
/// s_m = sum_k softmax(z_m,k)_(y_k)
/// ```
///
/// `logits` are `[batch, classes]` each, `labels` `[batch]` i64; the result is `[modalities]`, in
/// the order of the map.
///
/// # Errors
/// When the sizes do not fit.
pub fn scores(logits: &ByModality<Tensor>, labels: &Tensor) -> Result<Tensor> {
    let right = labels.f_unsqueeze(1)?;
    let score = |logits: &Tensor| -> Result<Tensor> {
        let probabilities = logits.f_detach()?.f_softmax(-1, None::<Kind>)?;
        Ok(probabilities.f_gather(1, &right, false)?.f_sum(None::<Kind>)?)
    };
    let scores = logits.values().map(score).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&scores, 0)?)
}

/// Divides each modality's score by the mean of the others': above 1 it leads.
///
/// ```text
/// rho_m = s_m / mean_(n != m) s_n
/// ```
///
/// `scores` and the result are `[modalities]`. For two modalities these are `s_1 / s_2` and
/// `s_2 / s_1`. A score of 0 is taken as the smallest positive number, so that nothing is divided
/// by 0.
///
/// # Errors
/// When libtorch refuses.
pub fn against_the_others(scores: &Tensor) -> Result<Tensor> {
    let count = scores.size().first().copied().unwrap_or(1);
    let others = scores.f_sum(None::<Kind>)?.f_sub(scores)?;
    let mean =
        others.f_div_scalar((count - 1).max(1))?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
    // The difference of a sum rounds; of two modalities the other one is known exactly.
    if count == 2 {
        let other = scores.f_flip([0])?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
        return Ok(scores.f_div(&other)?);
    }
    Ok(scores.f_div(&mean)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
    }

    #[test]
    fn two_modalities_have_the_worked_example_s_ratio() {
        let z = |rows: [f64; 4]| Tensor::from_slice(&rows).view([2, 2]);
        let logits = ByModality::from([
            ("audio".to_owned(), z([2.0, 0.0, 1.0, 0.0])),
            ("video".to_owned(), z([0.0; 4])),
        ]);
        let scores = scores(&logits, &Tensor::from_slice(&[0i64, 0])).unwrap();
        let found = values(&scores);
        assert!((found[0] - 1.611_856).abs() < 1e-6 && (found[1] - 1.0).abs() < 1e-12);
        let ratios = values(&against_the_others(&scores).unwrap());
        assert!((ratios[0] - 1.611_856).abs() < 1e-6, "{ratios:?}");
        assert!((ratios[1] - 1.0 / 1.611_856).abs() < 1e-6, "{ratios:?}");
    }

    #[test]
    fn three_modalities_are_held_against_the_mean_of_the_others() {
        let ratios = against_the_others(&Tensor::from_slice(&[12.0, 6.0, 3.0])).unwrap();
        for (found, expected) in values(&ratios).into_iter().zip([8.0 / 3.0, 0.8, 1.0 / 3.0]) {
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn scores_of_nothing_give_finite_ratios() {
        let ratios = against_the_others(&Tensor::from_slice(&[0.0f32, 0.0])).unwrap();
        assert_eq!(values(&ratios), [0.0, 0.0]);
    }
}
