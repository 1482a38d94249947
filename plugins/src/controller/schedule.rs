//! When learning-rate schedules count an epoch.

use mie_core::prelude::*;

/// When a schedule counts an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stepped {
    /// Before it: the first epoch counts as one already, as in the released code of MIE.
    #[default]
    BeforeEpoch,
    /// After it: the first epoch counts as none, as schedulers are usually stepped.
    AfterEpoch,
}

impl Stepped {
    /// Sets the factor for an epoch that is about to start; `factor` gets the epochs counted.
    pub(super) fn direct(self, at: &Boundary, factor: impl FnOnce(usize) -> f64) -> Vec<Directive> {
        if at.moment != Moment::EpochStart {
            return Vec::new();
        }
        let counted = match self {
            Self::BeforeEpoch => at.schedule_epoch + 1,
            Self::AfterEpoch => at.schedule_epoch,
        };
        vec![Directive::LearningRateFactor { group: None, factor: factor(counted) }]
    }
}
