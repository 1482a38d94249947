//! Trains each modality by itself, one after another.

use std::collections::BTreeMap;

use mie_core::prelude::*;

use super::order::{ensure_distinct, ensure_known, in_order};

/// Trains each modality in a phase of its own, by its own decision.
///
/// Every phase has a fresh optimizer and its own contest for the best checkpoint; the next one
/// starts from the winner, so that each modality ends with its best weights.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IndependentConfig {
    /// Passes over the training data for each modality, at least 1. The default, 20, is ours.
    pub epochs: usize,
    /// Passes for single modalities, in place of `epochs`.
    pub epochs_by_modality: BTreeMap<String, usize>,
    /// All modalities of the run in the order of training. Alphabetical by default.
    pub order: Vec<String>,
}

impl Default for IndependentConfig {
    fn default() -> Self {
        Self { epochs: 20, epochs_by_modality: BTreeMap::new(), order: Vec::new() }
    }
}

#[typetag::serde(name = "independent")]
impl StrategyConfig for IndependentConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("epochs", "at least 1", self.epochs, self.epochs >= 1)?;
        for (modality, &epochs) in &self.epochs_by_modality {
            let field = format!("epochs_by_modality.{modality}");
            ensure_range(&field, "at least 1", epochs, epochs >= 1)?;
        }
        ensure_distinct("order", &self.order)
    }

    fn build(&self) -> Result<Box<dyn Strategy>> {
        self.validate()?;
        Ok(Box::new(Independent { config: self.clone() }))
    }
}
register!(strategy::<IndependentConfig>, source = "Wang et al. 2020, arXiv:1905.12681");

struct Independent {
    config: IndependentConfig,
}

impl Persist for Independent {}

impl Strategy for Independent {
    fn next(&mut self, report: &Report) -> Result<Option<Phase>> {
        let IndependentConfig { epochs, epochs_by_modality, order } = &self.config;
        ensure_known("epochs_by_modality", epochs_by_modality.keys(), &report.modalities)?;
        let order = in_order(order, &report.modalities)?;
        Ok(order.get(report.phase).map(|modality| Phase {
            label: modality.clone(),
            sub_steps: vec![SubStep { modalities: vec![modality.clone()] }],
            epochs: *epochs_by_modality.get(modality).unwrap_or(epochs),
            load: Load::Best,
            reset_optimizer: true,
            source: Vec::new(),
            objectives: Vec::new(),
            score: Score::Modality(modality.clone()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::phases;

    #[test]
    fn each_modality_gets_a_phase_its_epochs_and_its_own_score() {
        let config = IndependentConfig {
            epochs: 7,
            epochs_by_modality: BTreeMap::from([("audio".to_owned(), 3)]),
            order: vec!["video".to_owned(), "audio".to_owned()],
        };
        let found = phases(&config, &["audio", "video"]).unwrap();
        let found: Vec<_> =
            found.iter().map(|p| (p.trained(), p.epochs, p.score.clone())).collect();
        let expected = [("video", 7), ("audio", 3)].map(|(modality, epochs)| {
            (vec![modality.to_owned()], epochs, Score::Modality(modality.to_owned()))
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn the_alphabet_decides_by_default() {
        let found = phases(&IndependentConfig::default(), &["depth", "flow", "rgb"]).unwrap();
        let labels: Vec<_> = found.iter().map(|phase| &*phase.label).collect();
        assert_eq!(labels, ["depth", "flow", "rgb"]);
    }

    #[test]
    fn names_and_epochs_that_do_not_fit_are_refused() {
        let epochs_by_modality = BTreeMap::from([("text".to_owned(), 0)]);
        let mut config = IndependentConfig { epochs_by_modality, ..IndependentConfig::default() };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("`epochs_by_modality.text` is 0"), "{error}");
        config.epochs_by_modality.insert("text".to_owned(), 1);
        let error = phases(&config, &["audio", "video"]).unwrap_err().to_string();
        assert!(error.starts_with("`epochs_by_modality` names `text`"), "{error}");
    }
}
