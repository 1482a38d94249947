//! Ends a phase when a score stops improving.

use mie_core::prelude::*;

use super::Goal;
use super::watch::Watch;

/// Ends the phase when a score has not improved for some epochs.
///
/// After every epoch the score `s` is compared with the best of the phase so far, `b`; it
/// improves when it is better by more than `threshold |b|`. The phase ends after the first epoch
/// at which it has not improved for more than `patience_epochs` epochs in a row. Every phase
/// starts with no best score.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStopConfig {
    /// Score to watch; one that starts with `valid.` needs a validation split. The accuracy of
    /// the fused decision by default.
    pub watch: String,
    /// Which way the score improves. Upwards by default.
    pub mode: Goal,
    /// Epochs without improvement that are put up with; the next one ends the phase. The default,
    /// 10, is ours.
    pub patience_epochs: usize,
    /// Smallest gain that counts, as a share of the best score, at least 0. Any gain by default.
    pub threshold: f64,
}

impl Default for EarlyStopConfig {
    fn default() -> Self {
        Self {
            watch: "valid.fused.accuracy".to_owned(),
            mode: Goal::default(),
            patience_epochs: 10,
            threshold: 0.0,
        }
    }
}

#[typetag::serde(name = "early_stop")]
impl ControllerConfig for EarlyStopConfig {
    fn validate(&self) -> Result<()> {
        Watch::validate(&self.watch, self.threshold)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(EarlyStop {
            patience_epochs: self.patience_epochs,
            watch: Watch::new(&self.watch, self.mode, self.threshold),
        }))
    }
}
register!(
    controller::<EarlyStopConfig>,
    source = "Prechelt 1998, https://doi.org/10.1007/3-540-49430-8_3"
);

struct EarlyStop {
    patience_epochs: usize,
    watch: Watch,
}

impl Controller for EarlyStop {
    fn needs(&self) -> &'static [Need] {
        self.watch.needs()
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        run.expect_score("watch", self.watch.name())
    }

    fn after(&mut self, at: &Boundary, _run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let ends = match at.moment {
            Moment::PhaseStart => {
                self.watch.reset();
                false
            }
            Moment::EpochEnd => self.watch.look(at)? > self.patience_epochs,
            Moment::EpochStart | Moment::StepEnd => false,
        };
        Ok(if ends { vec![Directive::EndPhase] } else { Vec::new() })
    }
}

impl Persist for EarlyStop {
    fn state(&self) -> Result<State> {
        self.watch.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.watch.load_state(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{ScoresOnly, boundary};

    /// Runs epochs with the given scores; returns after which ones the phase was ended.
    fn ends(controller: &mut dyn Controller, scores: &[f64]) -> Vec<bool> {
        let run = |(epoch, &score): (usize, &f64)| {
            let at = boundary(Moment::EpochEnd, epoch, &[("valid.fused.accuracy", score)]);
            controller.after(&at, &mut ScoresOnly).unwrap() == [Directive::EndPhase]
        };
        scores.iter().enumerate().map(run).collect()
    }

    #[test]
    fn the_epoch_after_the_last_patient_one_ends_the_phase() {
        let config = EarlyStopConfig { patience_epochs: 1, ..EarlyStopConfig::default() };
        let mut stop = config.build().unwrap();
        assert_eq!(
            ends(&mut *stop, &[0.5, 0.5, 0.6, 0.6, 0.6]),
            [false, false, false, false, true]
        );
        stop.after(&boundary(Moment::PhaseStart, 0, &[]), &mut ScoresOnly).unwrap();
        assert_eq!(ends(&mut *stop, &[0.1, 0.1, 0.1]), [false, false, true]);
    }

    #[test]
    fn a_saved_one_goes_on_where_it_stopped() {
        let config = EarlyStopConfig { patience_epochs: 1, ..EarlyStopConfig::default() };
        let mut first = config.build().unwrap();
        assert_eq!(ends(&mut *first, &[0.5, 0.4]), [false, false]);
        let mut second = config.build().unwrap();
        second.load_state(first.state().unwrap()).unwrap();
        assert_eq!(ends(&mut *second, &[0.45]), [true]);
    }
}
