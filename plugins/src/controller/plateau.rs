//! Lowers the learning rate when a score stops improving.

use mie_core::prelude::*;

use super::Goal;
use super::watch::Watch;

/// Multiplies the learning rate by a factor when a score has not improved for some epochs.
///
/// After every epoch the score `s` is compared with the best so far, `b`; it
/// improves when it is better by more than `threshold |b|`. When it has not improved for more
/// than `patience_epochs` epochs in a row:
///
/// ```text
/// learning rate factor <- max(factor * learning rate factor, minimum_factor)
/// ```
///
/// These are PyTorch's semantics, with the threshold taken of the size of the best score. It
/// starts at factor 1 with no best score whenever the optimizer starts afresh: in every stage of
/// `staged`. Where modalities take turns by epochs and the optimizer goes on, every turn counts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlateauConfig {
    /// Score to watch; one that starts with `valid.` needs a validation split. The accuracy of
    /// the fused decision by default.
    pub watch: String,
    /// Which way the score improves. Upwards by default.
    pub mode: Goal,
    /// Epochs without improvement that are put up with; the next one lowers the rate. The
    /// default, 5, is ours.
    pub patience_epochs: usize,
    /// What the rate is multiplied by, in `(0, 1)`. The default, 0.1, is PyTorch's.
    pub factor: f64,
    /// Smallest gain that counts, as a share of the best score, at least 0. The default, 1e-4, is
    /// PyTorch's.
    pub threshold: f64,
    /// Lowest factor of the optimizer's learning rate, in `[0, 1]`. The default, 1e-3, is ours.
    pub minimum_factor: f64,
    /// Epochs after a drop in which nothing is counted. None by default, as in PyTorch's.
    pub cooldown_epochs: usize,
}

impl Default for PlateauConfig {
    fn default() -> Self {
        Self {
            watch: "valid.fused.accuracy".to_owned(),
            mode: Goal::default(),
            patience_epochs: 5,
            factor: 0.1,
            threshold: 1e-4,
            minimum_factor: 1e-3,
            cooldown_epochs: 0,
        }
    }
}

#[typetag::serde(name = "plateau")]
impl ControllerConfig for PlateauConfig {
    fn validate(&self) -> Result<()> {
        Watch::validate(&self.watch, self.threshold)?;
        let lowers = self.factor > 0.0 && self.factor < 1.0;
        ensure_range("factor", "(0, 1)", self.factor, lowers)?;
        let share = (0.0..=1.0).contains(&self.minimum_factor);
        ensure_range("minimum_factor", "[0, 1]", self.minimum_factor, share)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(Plateau {
            config: self.clone(),
            watch: Watch::new(&self.watch, self.mode, self.threshold),
            factor: 1.0,
            cooldown_epochs_left: 0,
        }))
    }
}
register!(
    controller::<PlateauConfig>,
    source =
        "https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html"
);

struct Plateau {
    config: PlateauConfig,
    watch: Watch,
    factor: f64,
    cooldown_epochs_left: usize,
}

impl Plateau {
    /// Looks at an epoch's score; returns the new factor if it changes.
    fn lower(&mut self, at: &Boundary) -> Result<Option<f64>> {
        let stale_epochs = self.watch.look(at)?;
        if self.cooldown_epochs_left > 0 {
            self.cooldown_epochs_left -= 1;
            self.watch.forgive();
            return Ok(None);
        }
        if stale_epochs <= self.config.patience_epochs {
            return Ok(None);
        }
        self.watch.forgive();
        self.cooldown_epochs_left = self.config.cooldown_epochs;
        let lowered = (self.factor * self.config.factor).max(self.config.minimum_factor);
        if lowered >= self.factor {
            return Ok(None);
        }
        self.factor = lowered;
        Ok(Some(lowered))
    }
}

impl Controller for Plateau {
    fn needs(&self) -> &'static [Need] {
        self.watch.needs()
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        run.expect_score("watch", self.watch.name())
    }

    fn after(&mut self, at: &Boundary, _run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let factor = match at.moment {
            Moment::PhaseStart if at.fresh => {
                self.watch.reset();
                self.cooldown_epochs_left = 0;
                self.factor = 1.0;
                Some(1.0)
            }
            Moment::EpochEnd => self.lower(at)?,
            Moment::PhaseStart | Moment::EpochStart | Moment::StepEnd => None,
        };
        let directive = |factor| Directive::LearningRateFactor { group: None, factor };
        Ok(factor.map(directive).into_iter().collect())
    }
}

impl Persist for Plateau {
    fn state(&self) -> Result<State> {
        let mut state = self.watch.state()?;
        let progress = serde_json::json!([self.factor, self.cooldown_epochs_left]);
        state.values.insert("progress".to_owned(), progress);
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let progress = state.values.remove("progress").unwrap_or_default();
        let (factor, cooldown_epochs_left): (f64, usize) = serde_json::from_value(progress)
            .map_err(|error| Error::Bug(format!("saved state of a plateau: {error}")))?;
        (self.factor, self.cooldown_epochs_left) = (factor, cooldown_epochs_left);
        self.watch.load_state(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{ScoresOnly, boundary};

    /// Runs epochs with the given scores; returns the factor set after each, if any.
    fn epochs(controller: &mut dyn Controller, scores: &[f64]) -> Vec<Option<f64>> {
        let run = |(epoch, &score): (usize, &f64)| {
            let at = boundary(Moment::EpochEnd, epoch, &[("valid.fused.accuracy", score)]);
            match controller.after(&at, &mut ScoresOnly).unwrap()[..] {
                [Directive::LearningRateFactor { group: None, factor }] => Some(factor),
                [] => None,
                ref other => panic!("unexpected {other:?}"),
            }
        };
        scores.iter().enumerate().map(run).collect()
    }

    fn halving(patience_epochs: usize) -> PlateauConfig {
        PlateauConfig { patience_epochs, factor: 0.5, ..PlateauConfig::default() }
    }

    #[test]
    fn the_epoch_after_the_last_patient_one_lowers_the_rate() {
        let mut plateau = halving(2).build().unwrap();
        let found = epochs(&mut *plateau, &[0.5, 0.5, 0.4, 0.5, 0.5, 0.5, 0.5, 0.6]);
        assert_eq!(found, [None, None, None, Some(0.5), None, None, Some(0.25), None]);
    }

    #[test]
    fn the_factor_stops_at_its_minimum_and_a_cooldown_counts_nothing() {
        let config = PlateauConfig { minimum_factor: 0.4, cooldown_epochs: 2, ..halving(0) };
        let mut plateau = config.build().unwrap();
        let found = epochs(&mut *plateau, &[0.5; 8]);
        assert_eq!(found, [None, Some(0.5), None, None, Some(0.4), None, None, None]);
    }

    #[test]
    fn a_phase_starts_afresh() {
        let mut plateau = halving(0).build().unwrap();
        assert_eq!(epochs(&mut *plateau, &[0.9, 0.8]), [None, Some(0.5)]);
        let start = boundary(Moment::PhaseStart, 0, &[]);
        let directives = plateau.after(&start, &mut ScoresOnly).unwrap();
        assert_eq!(directives, [Directive::LearningRateFactor { group: None, factor: 1.0 }]);
        assert_eq!(epochs(&mut *plateau, &[0.1, 0.1]), [None, Some(0.5)]);
        // A phase that carries the optimizer on carries the factor and the best score on.
        let next = Boundary { fresh: false, ..boundary(Moment::PhaseStart, 0, &[]) };
        assert!(plateau.after(&next, &mut ScoresOnly).unwrap().is_empty());
        assert_eq!(epochs(&mut *plateau, &[0.1]), [Some(0.25)]);
    }

    #[test]
    fn a_saved_one_goes_on_where_it_stopped() {
        let config = PlateauConfig { cooldown_epochs: 1, ..halving(1) };
        let scores = [0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5, 0.4, 0.3];
        for stop in 0..scores.len() {
            let mut straight = config.build().unwrap();
            let whole = epochs(&mut *straight, &scores);
            let mut first = config.build().unwrap();
            let mut found = epochs(&mut *first, &scores[..stop]);
            let mut second = config.build().unwrap();
            second.load_state(first.state().unwrap()).unwrap();
            found.extend(epochs(&mut *second, &scores[stop..]));
            assert_eq!(found, whole, "stopped after {stop} epochs");
        }
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let good = PlateauConfig::default;
        for (bad, field) in [
            (PlateauConfig { watch: String::new(), ..good() }, "watch"),
            (PlateauConfig { factor: 1.0, ..good() }, "factor"),
            (PlateauConfig { threshold: f64::NAN, ..good() }, "threshold"),
            (PlateauConfig { minimum_factor: 2.0, ..good() }, "minimum_factor"),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
    }
}
