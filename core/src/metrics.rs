//! Measures predictions against labels: accuracy, macro-F1, mean average precision, loss.
//!
//! Every number follows the definition of scikit-learn, ties included, and none depends on the
//! order of the samples (the loss up to rounding). Sums run in f64. Nothing is ever NaN: no
//! samples, a NaN score or a label without a class is an error.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Smallest probability the loss tells apart from zero; one sample costs at most 27.6.
const SMALLEST_PROBABILITY: f64 = 1e-12;

/// Largest score still taken for a probability: half-precision sums exceed 1 by this little.
const LARGEST_PROBABILITY: f64 = 1.001;

/// Holds the class scores of many samples, one row a sample.
///
/// Any score that ranks will do for accuracy, F1 and average precision, infinite ones included;
/// the loss wants probabilities. Scores are widened to f64 on entry, which keeps ties ties.
#[derive(Debug, Clone)]
pub struct Scores {
    classes: usize,
    values: Vec<f64>,
}

impl Scores {
    /// Starts an empty table of rows of `classes` scores.
    pub fn new(classes: usize) -> Self {
        Self { classes, values: Vec::new() }
    }

    /// Appends the scores of one sample: `[classes]`.
    ///
    /// # Errors
    /// As [`Scores::extend`], and when the row holds more than one sample or none.
    pub fn push_row(&mut self, row: &[f32]) -> Result<()> {
        if row.len() != self.classes {
            return Err(self.wrong_length("row of class scores", row.len()));
        }
        self.extend(row)
    }

    /// Appends the scores of several samples, row-major: `[samples, classes]`.
    ///
    /// # Errors
    /// When `rows` is not a whole number of rows, when the table has no classes, or when a score
    /// is NaN (named by its sample, counted from the first one stored, and class). Nothing is
    /// stored then.
    pub fn extend(&mut self, rows: &[f32]) -> Result<()> {
        if self.classes == 0 || !rows.len().is_multiple_of(self.classes) {
            return Err(self.wrong_length("rows of class scores", rows.len()));
        }
        if let Some(position) = rows.iter().position(|score| score.is_nan()) {
            let sample = self.samples() + position / self.classes;
            let class = position % self.classes;
            return Err(Error::Shape {
                what: format!("score of sample {sample} for class {class}"),
                expected: "a number".to_owned(),
                found: "NaN; look for a diverged loss or a broken input".to_owned(),
            });
        }
        self.values.extend(rows.iter().copied().map(f64::from));
        Ok(())
    }

    /// Counts the classes, the length of a row.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Counts the samples stored so far.
    pub fn samples(&self) -> usize {
        self.values.len().checked_div(self.classes).unwrap_or(0)
    }

    /// Shows the scores of one sample: `[classes]`.
    ///
    /// # Panics
    /// When `sample` is not below [`Scores::samples`].
    pub fn row(&self, sample: usize) -> &[f64] {
        &self.values[sample * self.classes..][..self.classes]
    }

    /// Finds the class with the highest score, the lowest index among equals.
    ///
    /// # Panics
    /// When `sample` is not below [`Scores::samples`].
    pub fn predicted(&self, sample: usize) -> usize {
        let row = self.row(sample);
        let mut best = 0;
        for (class, score) in row.iter().enumerate() {
            if *score > row[best] {
                best = class;
            }
        }
        best
    }

    fn wrong_length(&self, what: &str, found: usize) -> Error {
        let expected = match self.classes {
            0 => "a table with at least one class".to_owned(),
            classes => format!("{classes} scores a sample, one for each class"),
        };
        Error::Shape { what: what.to_owned(), expected, found: format!("{found} scores") }
    }
}

/// Counts how often each class was taken for each class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    counts: Vec<Vec<u64>>,
}

impl ConfusionMatrix {
    /// Compares the predicted class of every sample with its label.
    ///
    /// # Errors
    /// When there are no samples, not one label for each, or a label without a class.
    pub fn compute(scores: &Scores, labels: &[usize]) -> Result<Self> {
        check_labels(scores, labels)?;
        let mut counts = vec![vec![0; scores.classes]; scores.classes];
        for (sample, &label) in labels.iter().enumerate() {
            counts[label][scores.predicted(sample)] += 1;
        }
        Ok(Self { counts })
    }

    /// Shows the counts: one row for each true class, one column for each predicted class.
    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    /// Computes the share of samples whose class was predicted, in `[0, 1]`.
    pub fn accuracy(&self) -> f64 {
        let correct: u64 = self.counts.iter().enumerate().map(|(class, row)| row[class]).sum();
        let samples: u64 = self.counts.iter().flatten().sum();
        correct as f64 / samples as f64
    }

    /// Computes the unweighted mean of the F1 scores of the classes, in `[0, 1]`.
    ///
    /// ```text
    /// F1_k = 2 TP_k / (2 TP_k + FP_k + FN_k)
    /// ```
    ///
    /// with the true positives `TP`, false positives `FP` and false negatives `FN` of class `k`.
    /// The mean is over the classes met in labels or predictions (scikit-learn's `f1_score`).
    pub fn macro_f1(&self) -> f64 {
        let mut scores = Vec::with_capacity(self.counts.len());
        for (class, row) in self.counts.iter().enumerate() {
            let labelled: u64 = row.iter().sum();
            let predicted: u64 = self.counts.iter().map(|row| row[class]).sum();
            // Each of the two counts holds the true positives once.
            let met = labelled + predicted;
            if met > 0 {
                scores.push(2.0 * row[class] as f64 / met as f64);
            }
        }
        mean(&scores)
    }
}

/// Computes the share of samples whose class was predicted, in `[0, 1]`.
///
/// # Errors
/// As [`ConfusionMatrix::compute`].
pub fn accuracy(scores: &Scores, labels: &[usize]) -> Result<f64> {
    Ok(ConfusionMatrix::compute(scores, labels)?.accuracy())
}

/// Computes the mean F1 score of the classes; see [`ConfusionMatrix::macro_f1`].
///
/// # Errors
/// As [`ConfusionMatrix::compute`].
pub fn macro_f1(scores: &Scores, labels: &[usize]) -> Result<f64> {
    Ok(ConfusionMatrix::compute(scores, labels)?.macro_f1())
}

/// Holds the average precision of every class and their mean.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanAveragePrecision {
    /// Unweighted mean over all classes, in `[0, 1]`.
    pub mean: f64,
    /// Average precision of each class against all others, in `[0, 1]`.
    pub by_class: Vec<f64>,
    /// Classes that no label names; each counts as 0 and so lowers the mean.
    pub classes_without_samples: Vec<usize>,
}

/// Computes the mean over all classes of the average precision of each against the others.
///
/// A class that no label names counts as 0, as in scikit-learn, and is listed. Takes
/// `O(classes * samples * log(samples))`.
///
/// # Errors
/// When there are no samples, not one label for each, or a label without a class.
pub fn mean_average_precision(scores: &Scores, labels: &[usize]) -> Result<MeanAveragePrecision> {
    check_labels(scores, labels)?;
    let mut by_class = Vec::with_capacity(scores.classes);
    for class in 0..scores.classes {
        let column: Vec<f64> = (0..labels.len()).map(|sample| scores.row(sample)[class]).collect();
        let positive: Vec<bool> = labels.iter().map(|label| *label == class).collect();
        by_class.push(average_precision(&column, &positive)?);
    }
    Ok(MeanAveragePrecision {
        mean: mean(&by_class),
        by_class,
        classes_without_samples: (0..scores.classes)
            .filter(|class| !labels.contains(class))
            .collect(),
    })
}

/// Computes the average precision of a ranking, in `[0, 1]`.
///
/// ```text
/// AP = sum_n (R_n - R_(n-1)) P_n,    R_0 = 0
/// ```
///
/// with recall `R_n` and precision `P_n` when every sample that scores at least the n-th highest
/// distinct score is called positive. Nothing is interpolated and equal scores enter together
/// (scikit-learn's `average_precision_score`). Without any positive sample the result is 0.
///
/// **Shapes** `scores` and `positive`: `[samples]`.
///
/// # Errors
/// When there are no samples, the lengths differ or a score is NaN.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> Result<f64> {
    check_samples(scores.len(), positive.len())?;
    if let Some(sample) = scores.iter().position(|score| score.is_nan()) {
        return Err(Error::Shape {
            what: format!("score of sample {sample}"),
            expected: "a number".to_owned(),
            found: "NaN".to_owned(),
        });
    }
    let positives = positive.iter().filter(|is_positive| **is_positive).count();
    if positives == 0 {
        return Ok(0.0);
    }
    let mut ranked: Vec<(f64, bool)> =
        scores.iter().copied().zip(positive.iter().copied()).collect();
    ranked.sort_unstable_by(|left, right| right.0.total_cmp(&left.0));
    let mut called = 0_usize;
    let mut found = 0_usize;
    let mut area = 0.0;
    // In falling order "not above the next" means equal, for 0 and -0 too.
    for tied in ranked.chunk_by(|score, next| score.0 <= next.0) {
        let gained = tied.iter().filter(|(_, is_positive)| *is_positive).count();
        called += tied.len();
        found += gained;
        area += gained as f64 * (found as f64 / called as f64);
    }
    Ok(area / positives as f64)
}

/// Computes the mean natural-log loss of the probabilities given to the true classes.
///
/// ```text
/// L = -(1/n) sum_k ln(max(p_k, 1e-12))
/// ```
///
/// with `p_k` the probability that the k-th of `n` rows gives to its label. Rows need not sum to
/// 1, as those of some fusions do not.
///
/// # Errors
/// When there are no samples, not one label for each, a label without a class, or a score that
/// is no probability.
pub fn negative_log_likelihood(probabilities: &Scores, labels: &[usize]) -> Result<f64> {
    check_labels(probabilities, labels)?;
    let allowed = 0.0..=LARGEST_PROBABILITY;
    let mut losses = Vec::with_capacity(labels.len());
    for (sample, &label) in labels.iter().enumerate() {
        let row = probabilities.row(sample);
        // The whole row, so that logits are refused whatever the labels are.
        if let Some(score) = row.iter().find(|score| !allowed.contains(*score)) {
            return Err(Error::Shape {
                what: format!("scores of sample {sample} for the log loss"),
                expected: "probabilities in [0, 1]; apply softmax to logits first".to_owned(),
                found: score.to_string(),
            });
        }
        // The reciprocal and not a minus sign: certainty costs 0, never -0.
        losses.push(row[label].clamp(SMALLEST_PROBABILITY, 1.0).recip().ln());
    }
    Ok(mean(&losses))
}

/// Sums up how well one set of predictions fits its labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Number of samples measured.
    pub samples: usize,
    /// Share of samples whose class was predicted, in `[0, 1]`.
    pub accuracy: f64,
    /// Mean F1 score of the classes met in labels or predictions, in `[0, 1]`.
    pub macro_f1: f64,
    /// Mean over all classes of the average precision, in `[0, 1]`.
    pub mean_average_precision: f64,
    /// Mean negative log-likelihood of the true classes, natural logarithm.
    pub loss: f64,
    /// Counts by true class (rows) and predicted class (columns).
    pub confusion: Vec<Vec<u64>>,
    /// Classes that no label names; each adds 0 to the mean average precision.
    pub classes_without_samples: Vec<usize>,
}

impl Report {
    /// Measures class probabilities against labels, all numbers at once.
    ///
    /// # Errors
    /// As [`negative_log_likelihood`].
    pub fn compute(probabilities: &Scores, labels: &[usize]) -> Result<Self> {
        let confusion = ConfusionMatrix::compute(probabilities, labels)?;
        let precision = mean_average_precision(probabilities, labels)?;
        Ok(Self {
            samples: labels.len(),
            accuracy: confusion.accuracy(),
            macro_f1: confusion.macro_f1(),
            mean_average_precision: precision.mean,
            loss: negative_log_likelihood(probabilities, labels)?,
            confusion: confusion.counts,
            classes_without_samples: precision.classes_without_samples,
        })
    }
}

/// Refuses anything but one label with a class for each of at least one sample.
fn check_labels(scores: &Scores, labels: &[usize]) -> Result<()> {
    check_samples(scores.samples(), labels.len())?;
    let classes = scores.classes;
    match labels.iter().enumerate().find(|(_, label)| **label >= classes) {
        None => Ok(()),
        Some((sample, label)) => Err(Error::Shape {
            what: format!("label of sample {sample}"),
            expected: format!("one of {classes} classes, counted from 0"),
            found: label.to_string(),
        }),
    }
}

/// Refuses no samples, and not one label for each.
fn check_samples(samples: usize, labels: usize) -> Result<()> {
    if samples > 0 && labels == samples {
        return Ok(());
    }
    Err(Error::Shape {
        what: "samples to measure".to_owned(),
        expected: "at least one, and one label for each".to_owned(),
        found: format!("{samples} rows of scores and {labels} labels"),
    })
}

/// Averages numbers of which there is at least one.
fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both sides round: the longest mean, of 70 losses below 28, by at most 3e-13.
    const TOLERANCE: f64 = 1e-12;

    fn assert_close(found: f64, expected: f64, what: &str) {
        let distance = (found - expected).abs();
        assert!(distance <= TOLERANCE, "{what}: found {found}, expected {expected}");
    }

    fn table(classes: usize, rows: &[f32]) -> Scores {
        let mut scores = Scores::new(classes);
        scores.extend(rows).unwrap();
        scores
    }

    fn five_samples_of_three_classes() -> (Scores, Vec<usize>) {
        let mut scores = Scores::new(3);
        scores.push_row(&[0.7, 0.2, 0.1]).unwrap();
        scores.push_row(&[0.4, 0.5, 0.1]).unwrap();
        scores.push_row(&[0.2, 0.3, 0.5]).unwrap();
        scores.push_row(&[0.1, 0.6, 0.3]).unwrap();
        scores.push_row(&[0.5, 0.3, 0.2]).unwrap();
        (scores, vec![0, 0, 2, 1, 1])
    }

    #[test]
    fn average_precision_matches_hand_computed_rankings() {
        let compute = |scores: &[f64], positive: &[u8]| {
            let positive: Vec<bool> = positive.iter().map(|flag| *flag == 1).collect();
            average_precision(scores, &positive).unwrap()
        };
        let distinct = compute(&[0.9, 0.8, 0.7, 0.4, 0.2], &[1, 0, 1, 1, 0]);
        assert_close(distinct, 29.0 / 36.0, "distinct scores");
        let tied = compute(&[0.8, 0.5, 0.5, 0.1], &[1, 0, 1, 0]);
        assert_close(tied, 5.0 / 6.0, "two tied scores");
        assert_close(compute(&[0.5; 4], &[1, 0, 0, 0]), 0.25, "all tied");
        assert_close(compute(&[0.3, 0.2, 0.1], &[0, 0, 0]), 0.0, "no positive");
    }

    #[test]
    fn zero_and_minus_zero_are_a_tie() {
        let precision = average_precision(&[-0.0, 0.0], &[true, false]).unwrap();
        assert_close(precision, 0.5, "positive at -0");
        let precision = average_precision(&[0.0, -0.0], &[true, false]).unwrap();
        assert_close(precision, 0.5, "positive at 0");
    }

    #[test]
    fn infinite_scores_rank_above_and_below_all_others() {
        let scores = [f64::NEG_INFINITY, 3.0, f64::INFINITY, f64::INFINITY];
        let precision = average_precision(&scores, &[true, false, true, false]).unwrap();
        assert_close(precision, 0.5, "positives at both ends");
    }

    #[test]
    fn five_samples_of_three_classes_match_hand_computed_numbers() {
        let (scores, labels) = five_samples_of_three_classes();
        let precision = mean_average_precision(&scores, &labels).unwrap();
        for (found, expected) in precision.by_class.iter().zip([5.0 / 6.0, 0.75, 1.0]) {
            assert_close(*found, expected, "average precision");
        }
        assert_close(precision.mean, 31.0 / 36.0, "mean average precision");
        assert_close(accuracy(&scores, &labels).unwrap(), 0.6, "accuracy");
        assert_close(macro_f1(&scores, &labels).unwrap(), 2.0 / 3.0, "macro-F1");
        let confusion = ConfusionMatrix::compute(&scores, &labels).unwrap();
        assert_eq!(confusion.counts(), [[1_u64, 1, 0], [1, 1, 0], [0, 0, 1]]);
    }

    #[test]
    fn equal_highest_scores_predict_the_lowest_class() {
        let scores = table(3, &[0.2, 0.4, 0.4, 0.1, 0.1, 0.1, -0.0, 0.0, -1.0]);
        assert_eq!([0, 1, 2].map(|sample| scores.predicted(sample)), [1, 0, 0]);
    }

    #[test]
    fn the_loss_is_a_mean_of_natural_logarithms_with_a_floor() {
        let scores = table(2, &[0.5, 0.5, 0.25, 0.75]);
        let loss = negative_log_likelihood(&scores, &[0, 1]).unwrap();
        assert_close(loss, f64::midpoint(2.0_f64.ln(), (4.0_f64 / 3.0).ln()), "loss");
        let sure_and_wrong = table(2, &[1.0, 0.0]);
        let loss = negative_log_likelihood(&sure_and_wrong, &[1]).unwrap();
        assert_close(loss, 12.0 * 10.0_f64.ln(), "loss of probability 0");
        let rounded_up = table(2, &[1.0 + f32::EPSILON, 0.0]);
        let loss = negative_log_likelihood(&rounded_up, &[0]).unwrap();
        assert_eq!(loss.to_string(), "0", "loss of a probability just above 1");
    }

    #[derive(Deserialize)]
    struct References {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        classes: usize,
        grid: i32,
        scores: Vec<i32>,
        labels: Vec<usize>,
        accuracy: f64,
        macro_f1: f64,
        average_precisions: Vec<f64>,
        mean_average_precision: f64,
        loss: Option<f64>,
        confusion: Vec<Vec<u64>>,
        classes_without_samples: Vec<usize>,
    }

    #[test]
    fn every_number_agrees_with_scikit_learn() {
        let text = include_str!("../../tests/reference/metrics.json");
        let references: References = serde_json::from_str(text).unwrap();
        assert!(references.cases.len() > 20, "only {} cases", references.cases.len());
        for case in references.cases {
            let values: Vec<f32> =
                case.scores.iter().map(|score| *score as f32 / case.grid as f32).collect();
            let (scores, labels, name) = (table(case.classes, &values), case.labels, case.name);

            let found = accuracy(&scores, &labels).unwrap();
            assert_close(found, case.accuracy, &format!("{name}: accuracy"));
            let found = macro_f1(&scores, &labels).unwrap();
            assert_close(found, case.macro_f1, &format!("{name}: macro-F1"));
            let precision = mean_average_precision(&scores, &labels).unwrap();
            assert_eq!(precision.by_class.len(), case.average_precisions.len(), "{name}");
            for (class, found) in precision.by_class.iter().enumerate() {
                let what = format!("{name}: average precision of class {class}");
                assert_close(*found, case.average_precisions[class], &what);
            }
            let what = format!("{name}: mean average precision");
            assert_close(precision.mean, case.mean_average_precision, &what);
            assert_eq!(precision.classes_without_samples, case.classes_without_samples, "{name}");
            let confusion = ConfusionMatrix::compute(&scores, &labels).unwrap();
            assert_eq!(confusion.counts(), case.confusion, "{name}");

            match case.loss {
                None => assert!(Report::compute(&scores, &labels).is_err(), "{name}"),
                Some(loss) => {
                    let report = Report::compute(&scores, &labels).unwrap();
                    assert_close(report.loss, loss, &format!("{name}: loss"));
                    let expected = Report {
                        samples: labels.len(),
                        accuracy: accuracy(&scores, &labels).unwrap(),
                        macro_f1: macro_f1(&scores, &labels).unwrap(),
                        mean_average_precision: precision.mean,
                        loss: report.loss,
                        confusion: case.confusion,
                        classes_without_samples: case.classes_without_samples,
                    };
                    assert_eq!(report, expected, "{name}");
                }
            }
        }
    }

    /// Averages, over the positives, the precision at the score of each; quadratic.
    fn slow_average_precision(scores: &[f64], positive: &[bool]) -> f64 {
        let mut precisions = Vec::new();
        for lowest in (0..scores.len()).filter(|sample| positive[*sample]) {
            let is_called = |sample: &usize| scores[*sample] >= scores[lowest];
            let called: Vec<usize> = (0..scores.len()).filter(is_called).collect();
            let found = called.iter().filter(|sample| positive[**sample]).count();
            precisions.push(found as f64 / called.len() as f64);
        }
        if precisions.is_empty() { 0.0 } else { mean(&precisions) }
    }

    proptest! {
        #[test]
        fn the_sorted_and_the_quadratic_average_precision_agree(
            levels in 1_u32..40,
            samples in prop::collection::vec((any::<u32>(), any::<bool>()), 1..80),
        ) {
            let scores: Vec<f64> =
                samples.iter().map(|(score, _)| f64::from(score % levels) - 9.0).collect();
            let positive: Vec<bool> = samples.iter().map(|(_, flag)| *flag).collect();
            let found = average_precision(&scores, &positive).unwrap();
            let expected = slow_average_precision(&scores, &positive);
            prop_assert!((found - expected).abs() <= TOLERANCE, "{found} against {expected}");
        }

        #[test]
        fn the_order_of_the_samples_does_not_matter(
            (samples, shuffled) in
                prop::collection::vec((prop::array::uniform4(0_u8..5), 0_usize..4), 1..60)
                    .prop_flat_map(|samples| (Just(samples.clone()), Just(samples).prop_shuffle()))
        ) {
            let compute = |samples: &[([u8; 4], usize)]| {
                let values: Vec<f32> = samples
                    .iter()
                    .flat_map(|(levels, _)| levels.map(|level| f32::from(level) / 4.0))
                    .collect();
                let labels: Vec<usize> = samples.iter().map(|(_, label)| *label).collect();
                Report::compute(&table(4, &values), &labels).unwrap()
            };
            let (report, mut other) = (compute(&samples), compute(&shuffled));
            prop_assert!((report.loss - other.loss).abs() <= TOLERANCE);
            // All but the loss agree to the last bit.
            other.loss = report.loss;
            prop_assert_eq!(report, other);
        }
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_nan_score_is_refused_with_its_sample_and_nothing_is_stored() {
        let mut scores = table(2, &[0.1, 0.9, 0.2, 0.8]);
        let text = message(scores.extend(&[0.5, 0.5, 0.5, f32::NAN]));
        assert!(text.contains("sample 3 for class 1") && text.contains("NaN"), "{text}");
        let text = message(scores.push_row(&[f32::NAN, 0.5]));
        assert!(text.contains("sample 2 for class 0"), "{text}");
        assert_eq!(scores.samples(), 2);
        let text = message(average_precision(&[0.1, f64::NAN], &[true, false]));
        assert!(text.contains("sample 1"), "{text}");
    }

    #[test]
    fn rows_of_another_length_are_refused() {
        let mut scores = Scores::new(2);
        let text = message(scores.push_row(&[0.1, 0.2, 0.3, 0.4]));
        assert!(text.contains("2 scores a sample") && text.contains("found 4"), "{text}");
        let text = message(scores.extend(&[0.1, 0.2, 0.3]));
        assert!(text.contains("2 scores a sample") && text.contains("found 3"), "{text}");
        let text = message(Scores::new(0).push_row(&[]));
        assert!(text.contains("at least one class"), "{text}");
    }

    #[test]
    fn no_samples_are_an_error_and_not_nan() {
        for classes in [0, 3] {
            let text = message(Report::compute(&Scores::new(classes), &[]));
            assert!(text.contains("at least one") && text.contains("0 rows"), "{text}");
        }
        assert!(average_precision(&[], &[]).is_err());
    }

    #[test]
    fn labels_that_do_not_fit_are_refused() {
        let (scores, mut labels) = five_samples_of_three_classes();
        labels[3] = 3;
        let text = message(Report::compute(&scores, &labels));
        assert!(text.contains("sample 3") && text.contains("3 classes"), "{text}");
        let text = message(accuracy(&scores, &labels[..4]));
        assert!(text.contains("5 rows of scores and 4 labels"), "{text}");
        assert!(average_precision(&[0.5, 0.5], &[true]).is_err());
    }

    #[test]
    fn logits_are_refused_by_the_loss_whatever_the_labels() {
        for (row, found) in [([0.5_f32, -1.5], "-1.5"), ([0.5, 4.0], "4")] {
            let text = message(negative_log_likelihood(&table(2, &row), &[0]));
            assert!(text.contains("sample 0") && text.ends_with(found), "{text}");
            assert!(text.contains("softmax"), "{text}");
        }
    }

    #[test]
    fn a_report_survives_a_file() {
        let (scores, labels) = five_samples_of_three_classes();
        let report = Report::compute(&scores, &labels).unwrap();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
