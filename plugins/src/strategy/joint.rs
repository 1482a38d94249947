//! Trains all modalities together, in one phase.

use mie_core::prelude::*;

use super::order::{ensure_distinct, ensure_known};

/// Trains all modalities on every batch, in one phase.
///
/// With `modalities` naming one of them this is training of that modality alone, and its own
/// decision picks the best checkpoint; otherwise the fused decision does.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JointConfig {
    /// Passes over the training data, at least 1. The default, 20, is ours.
    pub epochs: usize,
    /// Modalities to train. All by default.
    pub modalities: Vec<String>,
}

impl Default for JointConfig {
    fn default() -> Self {
        Self { epochs: 20, modalities: Vec::new() }
    }
}

#[typetag::serde(name = "joint")]
impl StrategyConfig for JointConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("epochs", "at least 1", self.epochs, self.epochs >= 1)?;
        ensure_distinct("modalities", &self.modalities)
    }

    fn build(&self) -> Result<Box<dyn Strategy>> {
        self.validate()?;
        Ok(Box::new(Joint { config: self.clone() }))
    }
}
register!(strategy::<JointConfig>, source = "Wang et al. 2020, arXiv:1905.12681");

struct Joint {
    config: JointConfig,
}

impl Persist for Joint {}

impl Strategy for Joint {
    fn next(&mut self, report: &Report) -> Result<Option<Phase>> {
        if report.phase > 0 {
            return Ok(None);
        }
        let wanted = &self.config.modalities;
        ensure_known("modalities", wanted, &report.modalities)?;
        let mut modalities = report.modalities.clone();
        modalities.retain(|name| wanted.is_empty() || wanted.contains(name));
        let (label, score) = match &modalities[..] {
            [only] => (only.clone(), Score::Modality(only.clone())),
            _ => ("joint".to_owned(), Score::Fused),
        };
        Ok(Some(Phase {
            label,
            sub_steps: vec![SubStep { modalities }],
            epochs: self.config.epochs,
            load: Load::default(),
            reset_optimizer: true,
            source: Vec::new(),
            objectives: Vec::new(),
            score,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::phases;

    #[test]
    fn all_modalities_share_one_phase_by_default() {
        let found = phases(&JointConfig::default(), &["audio", "text", "video"]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].sub_steps.len(), 1);
        assert_eq!(found[0].trained(), ["audio", "text", "video"]);
        assert_eq!((found[0].epochs, &found[0].score), (20, &Score::Fused));
    }

    #[test]
    fn a_single_modality_is_judged_by_its_own_decision() {
        let config = JointConfig { epochs: 3, modalities: vec!["video".to_owned()] };
        let found = phases(&config, &["audio", "video"]).unwrap();
        assert_eq!(found[0].trained(), ["video"]);
        assert_eq!(found[0].score, Score::Modality("video".to_owned()));
    }

    #[test]
    fn an_unknown_modality_is_refused_with_those_of_the_run() {
        let config = JointConfig { modalities: vec!["vidoe".to_owned()], ..JointConfig::default() };
        let error = phases(&config, &["audio", "video"]).unwrap_err().to_string();
        assert!(error.starts_with("`modalities` names `vidoe`"), "{error}");
        assert!(error.contains("`audio`, `video`"), "{error}");
        assert!(JointConfig { epochs: 0, ..JointConfig::default() }.validate().is_err());
    }
}
