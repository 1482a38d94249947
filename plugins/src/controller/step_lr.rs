//! Lowers the learning rate in equal intervals.

use mie_core::prelude::*;

use super::Stepped;

/// Multiplies the learning rate by a factor every so many epochs.
///
/// With `k` the epochs counted so far (see `stepped`):
///
/// ```text
/// learning rate = that of the optimizer * factor^floor(k / step_epochs)
/// ```
///
/// The count starts afresh with the optimizer: in every stage of `staged`. Where modalities take
/// turns by epochs and the optimizer goes on, each counts its own. With the defaults, epochs 0 to
/// 38 run at the full rate and epochs from 39 on at a tenth, as in the audio-video and gesture
/// experiments of the released code of MIE; with `stepped = "after_epoch"` the drop comes at
/// epoch 40.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StepLrConfig {
    /// Epochs between two drops, at least 1. The default, 40, is the released code's.
    pub step_epochs: usize,
    /// What a drop multiplies by, in `(0, 1]`. The default, 0.1, is the released code's.
    pub factor: f64,
    /// When an epoch is counted. Before it by default, as in the released code.
    pub stepped: Stepped,
}

impl Default for StepLrConfig {
    fn default() -> Self {
        Self { step_epochs: 40, factor: 0.1, stepped: Stepped::default() }
    }
}

#[typetag::serde(name = "step_lr")]
impl ControllerConfig for StepLrConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("step_epochs", "at least 1", self.step_epochs, self.step_epochs >= 1)?;
        let lowers = self.factor > 0.0 && self.factor <= 1.0;
        ensure_range("factor", "(0, 1]", self.factor, lowers)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(StepLr { config: self.clone() }))
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("factor", 1.0)]
    }
}
register!(
    controller::<StepLrConfig>,
    source = "https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.StepLR.html"
);

struct StepLr {
    config: StepLrConfig,
}

impl Persist for StepLr {}

impl Controller for StepLr {
    fn after(&mut self, at: &Boundary, _run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let StepLrConfig { step_epochs, factor, stepped } = self.config;
        let drops = |epochs: usize| i32::try_from(epochs / step_epochs).unwrap_or(i32::MAX);
        Ok(stepped.direct(at, |epochs| factor.powi(drops(epochs))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::learning_rate_factors;

    #[test]
    fn the_released_schedule_drops_one_epoch_early() {
        for (stepped, first_low) in [(Stepped::BeforeEpoch, 39), (Stepped::AfterEpoch, 40)] {
            let config = StepLrConfig { stepped, ..StepLrConfig::default() };
            let factors = learning_rate_factors(&config, 50);
            for (epoch, factor) in factors.iter().enumerate() {
                let expected = if epoch < first_low { 1.0 } else { 0.1 };
                assert!((factor - expected).abs() < 1e-15, "epoch {epoch}: {factor}");
            }
        }
    }

    #[test]
    fn drops_multiply() {
        let config = StepLrConfig { step_epochs: 2, factor: 0.5, stepped: Stepped::AfterEpoch };
        assert_eq!(learning_rate_factors(&config, 6), [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
    }

    #[test]
    fn an_interval_of_no_epochs_and_a_rising_factor_are_refused() {
        let none = StepLrConfig { step_epochs: 0, ..StepLrConfig::default() };
        assert!(none.validate().unwrap_err().to_string().starts_with("`step_epochs` is 0"));
        let rising = StepLrConfig { factor: 1.5, ..StepLrConfig::default() };
        assert!(rising.validate().unwrap_err().to_string().starts_with("`factor` is 1.5"));
    }
}
