//! Whether differences over seeds are more than chance.

use statrs::distribution::{ContinuousCDF as _, StudentsT};

use crate::spread::Spread;

/// Probability, were there no difference, of paired differences as far from zero as these
/// (two-sided paired t-test).
///
/// ```text
/// t = mean / (standard deviation / sqrt(n))        Student's t of n - 1 degrees of freedom
/// ```
///
/// `None` for fewer than two pairs. Differences that are all equal give 1 where they are zero, and
/// 0 elsewhere.
pub fn paired_p_value(differences: Spread) -> Option<f64> {
    let deviation = differences.standard_deviation?;
    let mean = differences.mean;
    if !(mean.is_finite() && deviation.is_finite()) {
        return None;
    }
    if deviation <= 0.0 {
        return Some(if mean.abs() > 0.0 { 0.0 } else { 1.0 });
    }
    let t = mean / (deviation / (differences.count as f64).sqrt());
    let distribution = StudentsT::new(0.0, 1.0, differences.count as f64 - 1.0).ok()?;
    Some((2.0 * distribution.cdf(-t.abs())).min(1.0))
}

/// Corrects p-values for their number (Holm 1979): the chance that any of the true nulls among
/// them is rejected at a level is at most that level.
///
/// With `p_(1) <= … <= p_(n)`, in the order that they came in:
///
/// ```text
/// p'_(k) = max_(j <= k) min(1, (n - j + 1) p_(j))
/// ```
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut corrected = vec![1.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        let factor = (p_values.len() - rank) as f64;
        largest = largest.max((factor * p_values[index]).min(1.0));
        corrected[index] = largest;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_the_tails_of_student_s_distribution() {
        // Student's density integrated by Simpson's rule in 20,000 steps.
        for (values, expected) in
            [(&[1.0, 2.0, 4.0, 3.0, 2.5][..], 0.007_490_433_9), (&[0.1, -0.2, 0.3], 0.691_393_300)]
        {
            let found = paired_p_value(Spread::of(values).unwrap()).unwrap();
            assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
        }
        assert_eq!(paired_p_value(Spread::of(&[0.5]).unwrap()), None);
        assert_eq!(paired_p_value(Spread::of(&[0.0, 0.0]).unwrap()), Some(1.0));
        assert_eq!(paired_p_value(Spread::of(&[0.1, 0.1]).unwrap()), Some(0.0));
    }

    #[test]
    fn corrected_values_are_those_of_the_published_procedure() {
        let found = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
