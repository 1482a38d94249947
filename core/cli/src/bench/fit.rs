//! How times grow: fitted powers, and where one way overtakes another.

/// Width from which powers are fitted: below it a call costs more than the arithmetic.
pub(super) const FROM_WIDTH: f64 = 256.0;

/// `time ~ width^exponent`, by least squares of the logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Power {
    pub(super) exponent: f64,
    /// Points it was fitted to.
    pub(super) points: usize,
}

/// Fits the points `(width, seconds)` from [`FROM_WIDTH`] on; `None` for less than two widths.
pub(super) fn power(points: &[(f64, f64)]) -> Option<Power> {
    let logarithms: Vec<(f64, f64)> = points
        .iter()
        .filter(|(width, seconds)| *width >= FROM_WIDTH && *seconds > 0.0)
        .map(|(width, seconds)| (width.ln(), seconds.ln()))
        .collect();
    let count = logarithms.len() as f64;
    let mean_x = logarithms.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = logarithms.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = logarithms.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let shared: f64 = logarithms.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let exponent = shared / spread;
    (spread > 1e-9 && exponent.is_finite()).then_some(Power { exponent, points: logarithms.len() })
}

/// Where the faster of two changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Crossing {
    pub(super) width: f64,
    /// Whether the first is the faster one from there on.
    pub(super) first_wins: bool,
}

/// Finds where two lines of `(width, seconds)`, each in the order of its widths, cross: straight
/// between the widths that both have, in logarithms.
pub(super) fn crossings(first: &[(f64, f64)], second: &[(f64, f64)]) -> Vec<Crossing> {
    let mut found = Vec::new();
    let mut before: Option<(f64, f64)> = None;
    for (width, seconds) in first {
        let same = |(other, _): &&(f64, f64)| (other - width).abs() < 0.5;
        let Some((_, others)) = second.iter().find(same) else { continue };
        let (x, ahead) = (width.ln(), seconds.ln() - others.ln());
        // Equal times are no change yet.
        if !ahead.is_finite() || ahead.abs() < 1e-12 {
            continue;
        }
        if let Some((x_before, ahead_before)) = before
            && (ahead_before < 0.0) != (ahead < 0.0)
        {
            let share = ahead_before / (ahead_before - ahead);
            let width = (x_before + share * (x - x_before)).exp();
            found.push(Crossing { width, first_wins: ahead < 0.0 });
        }
        before = Some((x, ahead));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(factor: f64, exponent: f64, widths: &[f64]) -> Vec<(f64, f64)> {
        widths.iter().map(|width| (*width, factor * width.powf(exponent))).collect()
    }

    #[test]
    fn a_power_law_gives_its_exponent_and_small_widths_do_not_count() {
        let mut points = line(3e-9, 2.7, &[256.0, 512.0, 1024.0, 2048.0]);
        points.insert(0, (64.0, 1.0));
        let found = power(&points).unwrap();
        assert!((found.exponent - 2.7).abs() < 1e-12, "{found:?}");
        assert_eq!(found.points, 4);
    }

    #[test]
    fn least_squares_weighs_all_points() {
        // In logarithms to base 2: (8, 0), (9, 3), (10, 3): a slope of 1.5.
        let points = [(256.0, 1.0), (512.0, 8.0), (1024.0, 8.0)];
        assert!((power(&points).unwrap().exponent - 1.5).abs() < 1e-12);
    }

    #[test]
    fn one_width_has_no_exponent() {
        assert_eq!(power(&[]), None);
        assert_eq!(power(&[(512.0, 1.0)]), None);
        assert_eq!(power(&[(512.0, 1.0), (512.0, 2.0)]), None);
        assert_eq!(power(&[(64.0, 1.0), (128.0, 8.0), (256.0, 64.0)]), None);
    }

    #[test]
    fn lines_cross_where_their_powers_are_equal() {
        let widths = [64.0, 128.0, 256.0, 512.0];
        // 1e-6 w^3 = 2e-4 w^2 at 200.
        let (cubic, square) = (line(1e-6, 3.0, &widths), line(2e-4, 2.0, &widths));
        let found = crossings(&cubic, &square);
        assert_eq!(found.len(), 1);
        assert!((found[0].width - 200.0).abs() < 1e-9 && !found[0].first_wins, "{found:?}");
        let found = crossings(&square, &cubic);
        assert!((found[0].width - 200.0).abs() < 1e-9 && found[0].first_wins, "{found:?}");
    }

    #[test]
    fn lines_that_stay_apart_or_share_no_widths_do_not_cross() {
        let widths = [64.0, 128.0, 256.0];
        let slow = line(2.0, 2.0, &widths);
        assert!(crossings(&line(1.0, 2.0, &widths), &slow).is_empty());
        assert!(crossings(&line(1.0, 3.0, &[512.0, 1024.0]), &slow).is_empty());
        assert!(crossings(&slow, &slow).is_empty());
    }
}
