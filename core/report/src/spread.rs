//! Mean and spread over seeds.

use mie_record::number;
use serde::{Deserialize, Serialize};

/// Describes a handful of values: mean, deviation and number.
///
/// ```text
/// mean = 1/n sum_i x_i
/// standard_deviation = sqrt(1/(n - 1) sum_i (x_i - mean)^2)      the sample's, for n > 1
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean of the values, in their unit.
    #[serde(with = "number")]
    pub mean: f64,
    /// Sample standard deviation, in the unit of the values; none for a single value.
    #[serde(default, with = "number::option")]
    pub standard_deviation: Option<f64>,
    /// Number of values.
    pub count: usize,
}

impl Spread {
    /// Describes `values`; there is nothing to say about none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        Some(Self { mean, standard_deviation, count })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mean_and_sample_deviation_follow_their_formulas() {
        let spread = Spread::of(&[2.0, 4.0, 9.0]).unwrap();
        // Squares 9 + 1 + 16 = 26, over n - 1 = 2.
        let expected = Spread { mean: 5.0, standard_deviation: Some(13.0_f64.sqrt()), count: 3 };
        assert_eq!(spread, expected);
    }

    #[test]
    fn one_value_has_no_deviation_and_none_has_no_spread() {
        let single = Spread { mean: 0.25, standard_deviation: None, count: 1 };
        assert_eq!(Spread::of(&[0.25]), Some(single));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_value_that_is_not_a_number_shows_in_the_mean() {
        assert!(Spread::of(&[0.5, f64::NAN]).unwrap().mean.is_nan());
    }

    proptest! {
        #[test]
        fn a_shift_moves_the_mean_and_leaves_the_deviation(
            values in prop::collection::vec(0.0..1.0_f64, 2..9),
            shift in -10.0..10.0_f64,
        ) {
            let shifted: Vec<_> = values.iter().map(|value| value + shift).collect();
            let (before, after) = (Spread::of(&values).unwrap(), Spread::of(&shifted).unwrap());
            let moved = after.standard_deviation.unwrap() - before.standard_deviation.unwrap();
            // Eight values of size up to 11: their rounding stays far below 1e-12.
            prop_assert!((after.mean - before.mean - shift).abs() < 1e-12);
            prop_assert!(moved.abs() < 1e-12);
        }
    }
}
