//! Trains all modalities together, then each alone.

use mie_core::prelude::*;

/// Trains all modalities together, then each alone in alphabetical order.
///
/// ```text
/// phase 0: all, for joint_epochs      phase i: modality i alone, for alone_epochs
/// ```
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {
    /// Passes over the data in the first phase, at least 1. The default, 2, is ours.
    pub joint_epochs: usize,
    /// Passes over the data in each later phase, at least 1. The default, 1, is ours.
    pub alone_epochs: usize,
}

impl Default for TemplateNameConfig {
    fn default() -> Self {
        Self { joint_epochs: 2, alone_epochs: 1 }
    }
}

#[typetag::serde(name = "template_name")]
impl StrategyConfig for TemplateNameConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("joint_epochs", "at least 1", self.joint_epochs, self.joint_epochs >= 1)?;
        ensure_range("alone_epochs", "at least 1", self.alone_epochs, self.alone_epochs >= 1)
    }

    fn build(&self) -> Result<Box<dyn Strategy>> {
        self.validate()?;
        Ok(Box::new(TemplateName { config: self.clone() }))
    }
}

// Yours: where the order of work comes from.
register!(strategy::<TemplateNameConfig>, source = "Ours");

struct TemplateName {
    config: TemplateNameConfig,
}

// Yours: `state` and `load_state`, once a phase depends on more than its number.
impl Persist for TemplateName {}

impl Strategy for TemplateName {
    fn next(&mut self, report: &Report) -> Result<Option<Phase>> {
        let all = &report.modalities;
        let (label, modalities, epochs) = match report.phase.checked_sub(1) {
            None => ("all".to_owned(), all.clone(), self.config.joint_epochs),
            Some(index) => match all.get(index) {
                Some(one) => (one.clone(), vec![one.clone()], self.config.alone_epochs),
                None => return Ok(None),
            },
        };
        Ok(Some(Phase {
            label,
            sub_steps: vec![SubStep { modalities }],
            epochs,
            load: Load::Last,
            reset_optimizer: true,
            source: Vec::new(),
            objectives: Vec::new(),
            score: Score::Fused,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::phases;

    #[test]
    fn all_come_first_and_then_each() {
        let found = phases(&TemplateNameConfig::default(), &["audio", "video"]).unwrap();
        let trained: Vec<Vec<String>> = found.iter().map(Phase::trained).collect();
        assert_eq!(trained, [vec!["audio", "video"], vec!["audio"], vec!["video"]]);
        let epochs: Vec<usize> = found.iter().map(|phase| phase.epochs).collect();
        assert_eq!(epochs, [2, 1, 1]);
    }
}
