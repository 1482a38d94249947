//! Raises the learning rate from a fraction in the first epochs.

use mie_core::prelude::*;

use super::Stepped;

/// Raises the learning rate linearly in the first epochs.
///
/// With `k` the epochs counted so far (see `stepped`):
///
/// ```text
/// factor(k)     = start_factor + (1 - start_factor) min(k, epochs) / epochs
/// learning rate = that of the optimizer * factor(k)
/// ```
///
/// The count starts afresh with the optimizer: in every stage of `staged`. Where modalities take
/// turns by epochs and the optimizer goes on, each counts its own. With the defaults the first
/// epoch runs at two thirds of the rate and the second already at all of it, as in the image-text
/// experiments of the released code of MIE; with `stepped = "after_epoch"` they run at one third
/// and two thirds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WarmupConfig {
    /// Epochs until the full rate, at least 1. The default, 2, is the released code's.
    pub epochs: usize,
    /// Factor before the first epoch is counted, in `(0, 1]`. The default, a third, is the
    /// released code's.
    pub start_factor: f64,
    /// When an epoch is counted. Before it by default, as in the released code.
    pub stepped: Stepped,
}

impl Default for WarmupConfig {
    fn default() -> Self {
        Self { epochs: 2, start_factor: 1.0 / 3.0, stepped: Stepped::default() }
    }
}

#[typetag::serde(name = "warmup")]
impl ControllerConfig for WarmupConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("epochs", "at least 1", self.epochs, self.epochs >= 1)?;
        let fraction = self.start_factor > 0.0 && self.start_factor <= 1.0;
        ensure_range("start_factor", "(0, 1]", self.start_factor, fraction)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(Warmup { config: self.clone() }))
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("start_factor", 1.0)]
    }
}
register!(controller::<WarmupConfig>, source = "Goyal et al. 2017, arXiv:1706.02677");

struct Warmup {
    config: WarmupConfig,
}

impl Persist for Warmup {}

impl Controller for Warmup {
    fn after(&mut self, at: &Boundary, _run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let WarmupConfig { epochs, start_factor, stepped } = self.config;
        Ok(stepped.direct(at, |counted| {
            if counted >= epochs {
                // Exactly 1, so that later epochs equal training without a warm-up.
                return 1.0;
            }
            start_factor + (1.0 - start_factor) * counted as f64 / epochs as f64
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::learning_rate_factors;

    fn assert_factors(config: &WarmupConfig, expected: &[f64]) {
        let found = learning_rate_factors(config, expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-15, "found {found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn the_released_warm_up_takes_one_epoch() {
        assert_factors(&WarmupConfig::default(), &[2.0 / 3.0, 1.0, 1.0]);
        let usual = WarmupConfig { stepped: Stepped::AfterEpoch, ..WarmupConfig::default() };
        assert_factors(&usual, &[1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0]);
    }

    #[test]
    fn the_ramp_is_straight() {
        let config = WarmupConfig { epochs: 4, start_factor: 0.2, stepped: Stepped::AfterEpoch };
        assert_factors(&config, &[0.2, 0.4, 0.6, 0.8, 1.0, 1.0]);
    }

    #[test]
    fn no_epochs_and_a_start_at_zero_are_refused() {
        let none = WarmupConfig { epochs: 0, ..WarmupConfig::default() };
        assert!(none.validate().unwrap_err().to_string().starts_with("`epochs` is 0"));
        let still = WarmupConfig { start_factor: 0.0, ..WarmupConfig::default() };
        assert!(still.validate().unwrap_err().to_string().starts_with("`start_factor` is 0"));
    }
}
