//! Lowers the learning rate after every epoch.

use mie_core::prelude::*;

/// Multiplies the learning rate by the same factor epoch by epoch.
///
/// With `k` the epochs since optimizer and schedules last started afresh and `d` = `decay`,
///
/// ```text
/// learning rate = that of the optimizer * d^k
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {
    /// Factor of an epoch, in `(0, 1]`; 1 keeps the rate. The default, 0.9, is ours.
    pub decay: f64,
}

impl Default for TemplateNameConfig {
    fn default() -> Self {
        Self { decay: 0.9 }
    }
}

#[typetag::serde(name = "template_name")]
impl ControllerConfig for TemplateNameConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("decay", "(0, 1]", self.decay, self.decay > 0.0 && self.decay <= 1.0)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(TemplateName { decay: self.decay }))
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("decay", 1.0)]
    }
}

// Yours: where the schedule comes from.
register!(controller::<TemplateNameConfig>, source = "Ours");

struct TemplateName {
    decay: f64,
}

// Yours: `state` and `load_state`, once it remembers something between epochs.
impl Persist for TemplateName {}

impl Controller for TemplateName {
    fn after(&mut self, at: &Boundary, _run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        if at.moment != Moment::EpochStart {
            return Ok(Vec::new());
        }
        let epochs = i32::try_from(at.schedule_epoch).unwrap_or(i32::MAX);
        let factor = self.decay.powi(epochs);
        Ok(vec![Directive::LearningRateFactor { group: None, factor }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::learning_rate_factors;

    #[test]
    fn the_rate_halves_from_epoch_to_epoch() {
        let config = TemplateNameConfig { decay: 0.5 };
        assert_eq!(learning_rate_factors(&config, 4), [1.0, 0.5, 0.25, 0.125]);
    }
}
