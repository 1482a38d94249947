//! Counts for how many epochs a score has not improved.

use mie_core::prelude::*;

/// Which way a score improves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Higher is better: accuracies.
    #[default]
    Max,
    /// Lower is better: losses.
    Min,
}

/// Watches one score over the epochs of a phase.
///
/// A score `s` improves on the best so far, `b`, by more than a share of it:
///
/// ```text
/// max: s > b + threshold |b|        min: s < b - threshold |b|
/// ```
pub(super) struct Watch {
    name: String,
    goal: Goal,
    threshold: f64,
    memory: Memory,
}

/// What a watch has seen.
#[derive(Default, Serialize, Deserialize)]
struct Memory {
    best: Option<f64>,
    stale_epochs: usize,
}

impl Watch {
    pub(super) fn new(name: &str, goal: Goal, threshold: f64) -> Self {
        Self { name: name.to_owned(), goal, threshold, memory: Memory::default() }
    }

    /// Checks the options that every watching controller has.
    pub(super) fn validate(name: &str, threshold: f64) -> Result<()> {
        ensure_range("watch", "the name of a score", format!("`{name}`"), !name.is_empty())?;
        let share = threshold >= 0.0 && threshold.is_finite();
        ensure_range("threshold", "[0, inf)", threshold, share)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn needs(&self) -> &'static [Need] {
        if self.name.starts_with("valid.") { &[Need::ValidationSplit] } else { &[] }
    }

    /// Looks at the score after an epoch and counts the epochs since it last improved.
    ///
    /// # Errors
    /// [`Error::Refused`] that lists the scores there are when there is none of this name.
    pub(super) fn look(&mut self, at: &Boundary) -> Result<usize> {
        let score = *at.scores.get(&self.name).ok_or_else(|| {
            let known: Vec<_> = at.scores.keys().map(|name| format!("`{name}`")).collect();
            Error::refused(
                format!("`watch` is `{}`, but no such score is measured", self.name),
                format!("name one of {}", known.join(", ")),
            )
        })?;
        if self.improves(score) {
            self.memory = Memory { best: Some(score), stale_epochs: 0 };
        } else {
            self.memory.stale_epochs += 1;
        }
        Ok(self.memory.stale_epochs)
    }

    fn improves(&self, score: f64) -> bool {
        let Some(best) = self.memory.best else {
            return score.is_finite();
        };
        let margin = self.threshold * best.abs();
        score.is_finite()
            && match self.goal {
                Goal::Max => score > best + margin,
                Goal::Min => score < best - margin,
            }
    }

    /// Starts counting again, against the same best score.
    pub(super) fn forgive(&mut self) {
        self.memory.stale_epochs = 0;
    }

    /// Forgets the best score too.
    pub(super) fn reset(&mut self) {
        self.memory = Memory::default();
    }
}

impl Persist for Watch {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        state.values.insert("watch".to_owned(), serde_json::json!(self.memory));
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let memory = state.values.remove("watch").unwrap_or_default();
        self.memory = serde_json::from_value(memory)
            .map_err(|error| Error::Bug(format!("saved state of a watched score: {error}")))?;
        state.expect_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::boundary;

    fn stale_epochs(goal: Goal, threshold: f64, scores: &[f64]) -> Vec<usize> {
        let mut watch = Watch::new("valid.loss", goal, threshold);
        let look = |(epoch, &score): (usize, &f64)| {
            watch.look(&boundary(Moment::EpochEnd, epoch, &[("valid.loss", score)])).unwrap()
        };
        scores.iter().enumerate().map(look).collect()
    }

    #[test]
    fn equal_scores_and_gains_within_the_threshold_are_no_improvement() {
        assert_eq!(stale_epochs(Goal::Max, 0.0, &[0.5, 0.5, 0.51, 0.4]), [0, 1, 0, 1]);
        assert_eq!(stale_epochs(Goal::Min, 0.0, &[0.5, 0.5, 0.49, 0.6]), [0, 1, 0, 1]);
        assert_eq!(stale_epochs(Goal::Max, 0.1, &[0.5, 0.54, 0.56]), [0, 1, 0]);
        // A share of the size of the best score, so that it works below zero too.
        assert_eq!(stale_epochs(Goal::Max, 0.1, &[-0.5, -0.46, -0.44]), [0, 1, 0]);
    }

    #[test]
    fn a_score_that_is_not_a_number_never_improves_and_is_never_the_best() {
        let scores = [f64::NAN, 0.5, f64::INFINITY, 0.6];
        assert_eq!(stale_epochs(Goal::Max, 0.0, &scores), [1, 0, 1, 0]);
    }

    #[test]
    fn an_unknown_score_is_refused_with_the_names_there_are() {
        let mut watch = Watch::new("valid.accuracy", Goal::Max, 0.0);
        let scores = [("train.loss", 1.0), ("valid.fused.accuracy", 0.5)];
        let error = watch.look(&boundary(Moment::EpochEnd, 0, &scores)).unwrap_err().to_string();
        assert!(error.contains("`valid.accuracy`"), "{error}");
        assert!(error.contains("name one of `train.loss`, `valid.fused.accuracy`"), "{error}");
    }

    #[test]
    fn only_a_validation_score_needs_the_split() {
        assert!(
            Watch::new("valid.fused.accuracy", Goal::Max, 0.0)
                .needs()
                .contains(&Need::ValidationSplit)
        );
        assert!(!Watch::new("train.loss", Goal::Min, 0.0).needs().contains(&Need::ValidationSplit));
    }
}
