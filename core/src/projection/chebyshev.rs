//! The solver of matrix products: `P` as a polynomial in the covariance.
//!
//! On an interval `[lo, hi]` that holds the spectrum, with `t` running from -1 to 1 over it and
//! `b = a (hi - lo) / 2`,
//!
//! ```text
//! exp(-a (s - m)) = g (I_0(b) + 2 sum_k (-1)^k I_k(b) T_k(t))      g = exp(-a ((hi + lo) / 2 - m))
//! ```
//!
//! with modified Bessel functions `I_k` and Chebyshev polynomials `T_k`, `|T_k| <= 1`. What is cut
//! off after degree `n` is therefore at most `2 g sum_(k > n) I_k(b)`, which falls like
//! `(b / 2)^k / k!`: for `alpha` 0.4 a degree of 6 reaches f32.
//!
//! The whole `P` takes few products of matrices: the exponent is halved `q` times, the polynomial
//! put together from powers (Paterson and Stockmeyer 1973) and the result squared `q` times. Where
//! `P` is used too seldom for that, it is left as a series: `G P` by Clenshaw's recurrence takes
//! `n` products of the size of `G`.

use tch::{Device, Kind, Tensor};

use super::exact::format_name;
use super::lanczos;
use super::map::{SpectralMap, Spectrum};
use super::operator::{Projection, symmetric};
use super::{Solved, Work};
use crate::error::{Error, Result};
use crate::random::{Purpose, Seed};

/// Most squarings: each doubles the error. They bound the exponent too, and so keep the Bessel
/// functions far within the range of f64.
const MOST_SQUARINGS: i32 = 6;

/// Tolerance below which products are in f64.
const SINGLE: f64 = 2e-7;

/// `sum_k c_k T_k(t)` in a matrix `t` whose eigenvalues lie in `[-1, 1]`.
#[derive(Debug)]
pub struct Series {
    variable: Tensor,
    coefficients: Vec<f64>,
}

impl Series {
    /// Takes a symmetric matrix `[width, width]` and the coefficients from `c_0` on.
    pub(super) fn new(variable: Tensor, coefficients: Vec<f64>) -> Result<Self> {
        let size = variable.size();
        if size.len() != 2 || size[0] != size[1] || coefficients.is_empty() {
            return Err(Error::shape("a series", "[width, width] and coefficients", size));
        }
        Ok(Self { variable, coefficients })
    }

    pub(super) fn variable(&self) -> &Tensor {
        &self.variable
    }

    pub(super) fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }

    /// Degree of the polynomial.
    pub fn degree(&self) -> usize {
        self.coefficients.len() - 1
    }

    pub(super) fn with_variable(self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { variable: change(&self.variable)?, coefficients: self.coefficients })
    }

    /// Multiplies `[rows, width]` by the polynomial from the right.
    pub(super) fn apply(&self, rows: &Tensor) -> Result<Tensor> {
        clenshaw(rows, &self.coefficients, &|rows| Ok(rows.f_matmul(&self.variable)?))
    }
}

/// Clenshaw's recurrence: `b_k = c_k g + 2 b_(k+1) t - b_(k+2)`, `sum = c_0 g + b_1 t - b_2`.
fn clenshaw(
    rows: &Tensor,
    coefficients: &[f64],
    times: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (mut one, mut two): (Option<Tensor>, Option<Tensor>) = (None, None);
    for (k, coefficient) in coefficients.iter().enumerate().rev() {
        let mut sum = rows.f_mul_scalar(*coefficient)?;
        if let Some(one) = &one {
            let factor = if k == 0 { 1.0 } else { 2.0 };
            sum = sum.f_add(&times(one)?.f_mul_scalar(factor)?)?;
        }
        if let Some(two) = &two {
            sum = sum.f_sub(two)?;
        }
        two = one.replace(sum);
    }
    one.ok_or_else(|| Error::Bug("a series without coefficients".to_owned()))
}

/// `exp(-rate (s - start))` on an interval, as a Chebyshev series.
#[derive(Debug, Clone, Copy)]
struct Exponential {
    start: f64,
    rate: f64,
    interval: (f64, f64),
}

impl Exponential {
    /// `b`: half of what the exponent runs through.
    fn argument(&self) -> f64 {
        self.rate * (self.interval.1 - self.interval.0) / 2.0
    }

    /// `t` of a matrix: -1 at the lower end of the interval, 1 at the upper.
    fn variable(&self, matrix: &Tensor, kind: Kind) -> Result<Tensor> {
        let (low, high) = self.interval;
        let scaled = matrix.f_mul_scalar(2.0 / (high - low))?;
        let _ = scaled.f_diagonal(0, 0, 1)?.f_sub_scalar_((high + low) / (high - low))?;
        Ok(scaled.f_to_kind(kind)?)
    }

    fn halved(self, times: i32) -> Self {
        Self { rate: self.rate / 2f64.powi(times), ..self }
    }

    /// Coefficients up to the first degree whose rest is below `tolerance`, and that rest.
    fn series(&self, tolerance: f64) -> (Vec<f64>, f64) {
        let argument = self.argument();
        let middle = f64::midpoint(self.interval.0, self.interval.1);
        let factor = (-self.rate * (middle - self.start)).exp();
        let mut coefficients = Vec::new();
        loop {
            let degree = coefficients.len();
            let twice = if degree == 0 { 1.0 } else { 2.0 };
            let sign = if degree % 2 == 0 { 1.0 } else { -1.0 };
            coefficients.push(sign * twice * factor * bessel(degree, argument));
            let rest = 2.0 * factor * bessel_rest(degree + 1, argument);
            if rest <= tolerance {
                return (coefficients, rest);
            }
        }
    }
}

/// `I_k(x)` for `x >= 0`, by its power series, whose terms are all positive.
fn bessel(order: usize, x: f64) -> f64 {
    let half = x / 2.0;
    let mut term = (1..=order).fold(1.0, |term, k| term * half / k as f64);
    let mut sum = 0.0;
    let mut index = 0u32;
    while term > sum * 1e-17 {
        sum += term;
        index += 1;
        term *= half * half / (f64::from(index) * (f64::from(index) + order as f64));
    }
    sum
}

/// `sum_(k >= order) I_k(x)`: each is less than `x / (2 k)` of the one before.
fn bessel_rest(order: usize, x: f64) -> f64 {
    let mut sum = 0.0;
    let mut order = order;
    loop {
        let value = bessel(order, x);
        sum += value;
        let ratio = x / (2.0 * (order + 1) as f64);
        if ratio <= 0.5 && value * ratio <= 1e-3 * sum {
            return sum + value * ratio / (1.0 - ratio);
        }
        order += 1;
    }
}

/// How a whole `P` is put together.
#[derive(Debug, Clone)]
struct Plan {
    squarings: i32,
    coefficients: Vec<f64>,
    /// Powers of the variable that are formed, from the second on.
    powers: usize,
    products: usize,
    error: f64,
}

impl Plan {
    /// The cheapest way to `exponential` within `tolerance`.
    fn best(exponential: &Exponential, tolerance: f64) -> Option<Self> {
        (0..=MOST_SQUARINGS)
            .filter_map(|squarings| Self::with(exponential, squarings, tolerance))
            .min_by_key(|plan| plan.products)
    }

    fn with(exponential: &Exponential, squarings: i32, tolerance: f64) -> Option<Self> {
        let halved = exponential.halved(squarings);
        // The powers of a longer series would cancel each other.
        if halved.argument() > 2.0 {
            return None;
        }
        // Factors are at most 1 and a little more where the interval goes below the spectrum, so
        // a squaring doubles the error and that little.
        let growth = 2f64.powi(squarings);
        let (coefficients, rest) = halved.series(tolerance / growth);
        let degree = coefficients.len() - 1;
        let (powers, products) = (1..=degree.max(1))
            .map(|powers| (powers, powers - 1 + degree.div_ceil(powers).saturating_sub(1)))
            .min_by_key(|(_, products)| *products)?;
        let products = products + squarings as usize;
        Some(Self { squarings, coefficients, powers, products, error: rest * growth })
    }

    /// Evaluates the polynomial in a matrix `[width, width]`.
    fn evaluate(&self, variable: &Tensor) -> Result<Tensor> {
        let coefficients = monomials(&self.coefficients);
        let degree = coefficients.len() - 1;
        let mut powers = vec![variable.shallow_clone()];
        while powers.len() < self.powers {
            powers.push(powers[powers.len() - 1].f_matmul(variable)?);
        }
        let number = |value: f64| Tensor::f_full([0i64; 0], value, (variable.kind(), Device::Cpu));
        // sum_i c_(from + i) t^i, in as many passes over the memory as there are powers.
        let combined = |from: usize, to: usize| -> Result<Tensor> {
            let mut sum: Option<Tensor> = None;
            for index in from + 1..=to {
                let power = &powers[index - from - 1];
                match &mut sum {
                    None => sum = Some(power.f_mul_scalar(coefficients[index])?),
                    Some(sum) => {
                        let _ = sum.f_addcmul_(power, &number(coefficients[index])?)?;
                    }
                }
            }
            let sum = match sum {
                Some(sum) => sum,
                None => variable.f_zeros_like()?,
            };
            let _ = sum.f_diagonal(0, 0, 1)?.f_add_scalar_(coefficients[from])?;
            Ok(sum)
        };
        // The topmost block reaches up to the highest power that there is.
        let top = degree.div_ceil(self.powers).saturating_sub(1) * self.powers;
        let mut result = combined(top, degree)?;
        let mut from = top;
        while from > 0 {
            from -= self.powers;
            let mut block = combined(from, from + self.powers - 1)?;
            let _ = block.f_addmm_(&result, &powers[self.powers - 1])?;
            result = block;
        }
        for _ in 0..self.squarings {
            result = result.f_matmul(&result)?;
        }
        symmetric(&result)
    }
}

/// Coefficients of powers from those of Chebyshev polynomials.
fn monomials(chebyshev: &[f64]) -> Vec<f64> {
    let count = chebyshev.len();
    let mut sum = vec![0.0; count];
    let (mut before, mut now) = (vec![0.0; count], vec![0.0; count]);
    now[0] = 1.0;
    for (k, coefficient) in chebyshev.iter().enumerate() {
        for (sum, value) in sum.iter_mut().zip(&now) {
            *sum += coefficient * value;
        }
        // T_(k+1) = 2 t T_k - T_(k-1), and T_1 = t.
        let factor = if k == 0 { 1.0 } else { 2.0 };
        let mut next: Vec<f64> = before.iter().map(|value| -value).collect();
        for (index, value) in now.iter().enumerate().take(count - 1) {
            next[index + 1] += factor * value;
        }
        before = std::mem::replace(&mut now, next);
    }
    sum
}

/// Computes `P` of a matrix `[width, width]`, within `tolerance`; says why not where it cannot.
pub(super) fn solve(
    matrix: &Tensor,
    map: SpectralMap,
    tolerance: f64,
    work: Option<Work>,
) -> Result<Solved> {
    let declined = |reason: String| Err(Error::Torch(reason));
    let SpectralMap::Exponential { alpha, exponent } = map else {
        return declined("a null space is no smooth function of the spectrum".to_owned());
    };
    let (width, summed_in) = (matrix.size()[0], matrix.kind());
    // Eigenvalues are wanted more exactly than f32 has them.
    let matrix = &matrix.f_to_kind(Kind::Double)?;
    let trace = matrix.f_trace()?.double_value(&[]);
    // What was summed in f32 may have eigenvalues a little below zero.
    let positive = summed_in == Kind::Double;
    let for_extremes = if positive { FOR_EXTREMES } else { FOR_EXTREMES - FOR_NEGATIVE };
    // An end that is off by `e` moves the exponent by no more than `rate e`.
    let accuracy = (tolerance * for_extremes / alpha.max(f64::MIN_POSITIVE)).min(LEAST_ACCURACY);
    let Some(found) = lanczos::extremes(matrix, accuracy, positive)? else {
        return declined("the extreme eigenvalues were not resolved".to_owned());
    };
    let below_zero = (-found.smallest).max(0.0);
    let ends = (found.smallest.max(0.0), found.largest);
    let spectrum = Spectrum::new(ends, trace, width, summed_in);
    let solved = |projection: Projection, how: &str, error_bound, measured_error| Solved {
        solver: format!("chebyshev {}{how}", format_name(projection.format())),
        projection,
        rank: None,
        spectrum,
        error_bound: Some(error_bound),
        measured_error,
        residuals: None,
        failed: Vec::new(),
    };
    let Some((start, rate)) = spectrum.exponential(alpha, exponent) else {
        let identity = Projection::identity(width, (summed_in, matrix.device()))?;
        return Ok(solved(identity, "", 0.0, None));
    };
    if rate * below_zero > FOR_NEGATIVE * tolerance {
        return declined(format!(
            "an eigenvalue is below zero by {:.1e} of the largest",
            below_zero / found.largest
        ));
    }
    if spectrum.unused(rate).is_some() {
        return declined(format!("alpha {alpha} tells apart what only rounding does"));
    }
    let exponential = Exponential { start, rate, interval: found.interval };
    let Some(plan) = Plan::best(&exponential, tolerance * FOR_SERIES) else {
        return declined(format!(
            "the exponent runs through {:.1e}, which takes more than {MOST_SQUARINGS} squarings",
            2.0 * exponential.argument()
        ));
    };
    let (series, rest) = exponential.series(tolerance * FOR_SERIES);
    let as_series = work.is_some_and(|work| {
        let whole = 2.0 * plan.products as f64 * (width as f64).powi(3);
        let degree = series.len() as f64 - 1.0;
        let each = 2.0 * work.rows as f64 * (width as f64).powi(2);
        work.uses * each * degree < whole + work.uses * each
    });
    let kinds =
        if tolerance >= SINGLE { &[Kind::Float, Kind::Double][..] } else { &[Kind::Double] };
    let mut failed = Vec::new();
    for kind in kinds {
        let variable = exponential.variable(matrix, *kind)?;
        let (projection, degree, cut) = if as_series {
            let degree = series.len() - 1;
            (Projection::Series(Series::new(variable, series.clone())?), degree, rest)
        } else {
            let matrix = plan.evaluate(&variable)?;
            (Projection::Dense(matrix), plan.coefficients.len() - 1, plan.error)
        };
        let measured = measured(matrix, &exponential, &projection)?;
        if measured <= tolerance {
            let how = format!(", degree {degree}, {} Lanczos steps", found.steps);
            return Ok(solved(
                projection,
                &how,
                cut + rate * (found.error + below_zero),
                Some(measured),
            ));
        }
        let format = format_name(projection.format());
        failed.push(format!("{format}: an error of {measured:.1e} was measured"));
    }
    declined(failed.join("; "))
}

/// Share of the tolerance that the extreme eigenvalues may take, and that of the series.
const FOR_EXTREMES: f64 = 0.75;
const FOR_SERIES: f64 = 0.2;

/// Share of it that eigenvalues below zero may take, off that of the extremes.
const FOR_NEGATIVE: f64 = 0.3;

/// Accuracy of the extreme eigenvalues that the record is owed, relative to their distance.
const LEAST_ACCURACY: f64 = 1e-5;

/// Vectors that a result is measured with.
const PROBES: i64 = 4;

/// Measures `||P - exp(…)||_F / ||exp(…)||_F` with a few random vectors, in f64, by the recurrence,
/// which takes only products with vectors. Rounding shows here, and a mistake would.
fn measured(matrix: &Tensor, exponential: &Exponential, projection: &Projection) -> Result<f64> {
    let width = matrix.size()[0];
    let mut stream = Seed(0).stream(Purpose::Plugin, "projection probes", &[width as u64]);
    let signs: Vec<f64> = (0..PROBES * width)
        .map(|_| if rand::RngExt::random::<bool>(&mut stream) { 1.0 } else { -1.0 })
        .collect();
    let probes = Tensor::f_from_slice(&signs)?.f_view([PROBES, width])?;
    let probes = probes.f_to_device(matrix.device())?;
    let (low, high) = exponential.interval;
    let (coefficients, _) = exponential.series(1e-11);
    let expected = clenshaw(&probes, &coefficients, &|rows| {
        let product = rows.f_matmul(matrix)?;
        let shifted = product.f_mul_scalar(2.0 / (high - low))?;
        Ok(shifted.f_sub(&rows.f_mul_scalar((high + low) / (high - low))?)?)
    })?;
    let found =
        projection.apply(&probes.f_to_kind(projection.format().0)?)?.f_to_kind(Kind::Double)?;
    let norm = |tensor: &Tensor| -> Result<f64> { Ok(tensor.f_norm()?.double_value(&[])) };
    Ok(norm(&found.f_sub(&expected)?)? / norm(&expected)?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `P` by the polynomial for what Lanczos is said to have found.
    pub(in crate::projection) fn by_extremes(
        matrix: &Tensor,
        (smallest, largest): (f64, f64),
        interval: (f64, f64),
    ) -> Tensor {
        let exponential =
            Exponential { start: smallest, rate: 0.4 / (largest - smallest), interval };
        let (low, high) = interval;
        let eye = Tensor::eye(matrix.size()[0], (Kind::Double, Device::Cpu));
        let variable = (matrix * 2.0 - eye * (high + low)) / (high - low);
        Plan::best(&exponential, 1e-9).unwrap().evaluate(&variable).unwrap()
    }

    #[test]
    fn bessel_functions_are_those_of_the_tables() {
        // Abramowitz and Stegun, tables 9.8 and 9.10.
        for (order, x, expected) in [
            (0, 1.0, 1.266_065_877_75),
            (1, 1.0, 0.565_159_103_99),
            (0, 10.0, 2_815.716_628_47),
            (1, 10.0, 2_670.988_303_70),
            (2, 1.0, 0.135_747_669_77),
            (5, 0.2, 8.347_2e-8),
        ] {
            let found = bessel(order, x);
            assert!((found / expected - 1.0).abs() < 1e-4, "I_{order}({x}) = {found}");
        }
        assert!((bessel(0, 0.0) - 1.0).abs() < 1e-16 && bessel(3, 0.0).abs() < 1e-16);
        // e^x = I_0 + 2 sum I_k.
        for x in [0.1f64, 3.0, 40.0] {
            let sum = bessel(0, x) + 2.0 * bessel_rest(1, x);
            assert!((sum / x.exp() - 1.0).abs() < 1e-3, "{x}: {sum}");
            assert!(sum >= x.exp() * (1.0 - 1e-14), "a bound is above: {x}");
        }
    }

    #[test]
    fn what_is_cut_off_is_below_the_bound_and_the_bound_not_far_above() {
        for (rate, interval) in [(0.4, (0.0, 1.0)), (3.0, (0.2, 1.3)), (20.0, (0.0, 1.0))] {
            let exponential = Exponential { start: interval.0, rate, interval };
            for tolerance in [1e-3, 1e-7, 1e-12] {
                let (coefficients, bound) = exponential.series(tolerance);
                assert!(bound <= tolerance);
                let mut worst = 0f64;
                for step in 0..=1000 {
                    let t = f64::from(step) / 500.0 - 1.0;
                    let s =
                        f64::midpoint(interval.0, interval.1) + t * (interval.1 - interval.0) / 2.0;
                    let sum: f64 = coefficients
                        .iter()
                        .enumerate()
                        .map(|(k, c)| c * (k as f64 * t.acos()).cos())
                        .sum();
                    worst = worst.max((sum - (-rate * (s - interval.0)).exp()).abs());
                }
                assert!(worst <= bound + 1e-14, "{rate} {tolerance}: {worst:e} above {bound:e}");
                assert!(worst >= 0.2 * bound - 1e-14, "{rate} {tolerance}: {worst:e} {bound:e}");
            }
        }
    }

    #[test]
    fn alpha_of_the_paper_takes_three_products_for_f32() {
        let exponential = Exponential { start: 0.0, rate: 0.4, interval: (0.0, 1.02) };
        let plan = Plan::best(&exponential, 2.5e-8).unwrap();
        assert_eq!(plan.products, 3);
        assert!(plan.error <= 2.5e-8);
        assert!(exponential.series(2.5e-8).0.len() <= 7);
    }

    #[test]
    fn powers_say_the_same_as_chebyshev_polynomials() {
        // 1 + 2 t + 3 (2 t^2 - 1) + 4 (4 t^3 - 3 t)
        assert_eq!(monomials(&[1.0, 2.0, 3.0, 4.0]), [-2.0, -10.0, 6.0, 16.0]);
        assert_eq!(monomials(&[5.0]), [5.0]);
    }

    #[test]
    fn every_degree_and_number_of_powers_evaluates_to_the_polynomial() {
        tch::manual_seed(3);
        let root = Tensor::randn([9, 9], (Kind::Double, Device::Cpu));
        let variable = (&root + root.tr()) * 0.1;
        for degree in 0..9 {
            let coefficients: Vec<f64> = (0..=degree).map(|k| 1.0 / f64::from(k + 1)).collect();
            let eye = Tensor::eye(9, (Kind::Double, Device::Cpu));
            let times = |rows: &Tensor| Ok(rows.matmul(&variable));
            let expected = clenshaw(&eye, &coefficients, &times).unwrap();
            for powers in 1..=coefficients.len() {
                let plan = Plan {
                    squarings: 0,
                    coefficients: coefficients.clone(),
                    powers,
                    products: 0,
                    error: 0.0,
                };
                let off = (plan.evaluate(&variable).unwrap() - &expected).abs().max();
                assert!(off.double_value(&[]) < 1e-12, "degree {degree}, {powers} powers");
            }
        }
    }
}
