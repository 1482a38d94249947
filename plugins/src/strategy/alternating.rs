//! Alternates between modalities, batch by batch or epoch by epoch.

use mie_core::prelude::*;

use super::order::{ensure_distinct, in_order};

/// Trains the modalities in turns.
///
/// With `unit = "batch"` every batch is trained on once by each modality, one after another, in a
/// single phase. With `unit = "epoch"` each epoch of one modality is a phase, and `epochs` such
/// rounds are made; weights and optimizer are carried on from phase to phase. Schedules (`step_lr`,
/// `warmup`) count the epochs of each modality, `plateau` those of all; `early_stop` ends no more
/// than the turn at hand. The fused decision picks the best checkpoint.
///
/// Source: MLA (Zhang et al. 2024) alternates by batch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlternatingConfig {
    /// What a turn is. A batch by default, as in MLA.
    pub unit: Unit,
    /// Passes over the training data for each modality, at least 1. The default, 20, is ours.
    pub epochs: usize,
    /// All modalities of the run in the order of their turns. Alphabetical by default.
    pub order: Vec<String>,
    /// Whether gradient modifiers learn from the modality whose turn was before, in all phases
    /// but the first; needs `unit = "epoch"`. Off by default.
    pub source_previous: bool,
}

/// What a turn is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A batch.
    #[default]
    Batch,
    /// A pass over the training data.
    Epoch,
}

impl Default for AlternatingConfig {
    fn default() -> Self {
        Self { unit: Unit::default(), epochs: 20, order: Vec::new(), source_previous: false }
    }
}

#[typetag::serde(name = "alternating")]
impl StrategyConfig for AlternatingConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("epochs", "at least 1", self.epochs, self.epochs >= 1)?;
        ensure_distinct("order", &self.order)?;
        // A phase has one source, while its batches are trained on by every modality.
        let possible = !self.source_previous || self.unit == Unit::Epoch;
        let expected = "false while `unit` is \"batch\"";
        ensure_range("source_previous", expected, self.source_previous, possible)
    }

    fn build(&self) -> Result<Box<dyn Strategy>> {
        self.validate()?;
        Ok(Box::new(Alternating { config: self.clone() }))
    }
}
register!(strategy::<AlternatingConfig>, source = "Zhang et al. 2024, arXiv:2311.10707");

struct Alternating {
    config: AlternatingConfig,
}

impl Alternating {
    fn by_batch(&self, order: Vec<String>) -> Phase {
        let turn = |modality| SubStep { modalities: vec![modality] };
        Phase {
            label: "alternating".to_owned(),
            sub_steps: order.into_iter().map(turn).collect(),
            epochs: self.config.epochs,
            load: Load::Last,
            reset_optimizer: true,
            source: Vec::new(),
            objectives: Vec::new(),
            score: Score::Fused,
        }
    }

    fn by_epoch(&self, order: &[String], turn: usize) -> Option<Phase> {
        let turns = self.config.epochs.saturating_mul(order.len());
        let mut in_turn = order.iter().cycle().take(turns);
        // The one before is skipped over on the way to the modality whose turn it is.
        let before = turn.checked_sub(1).and_then(|last| in_turn.nth(last));
        let modality = in_turn.next()?;
        let source = before.filter(|&other| self.config.source_previous && other != modality);
        Some(Phase {
            label: format!("epoch {}: {modality}", turn / order.len() + 1),
            sub_steps: vec![SubStep { modalities: vec![modality.clone()] }],
            epochs: 1,
            load: Load::Last,
            reset_optimizer: turn == 0,
            source: source.cloned().into_iter().collect(),
            objectives: Vec::new(),
            score: Score::Fused,
        })
    }
}

impl Persist for Alternating {}

impl Strategy for Alternating {
    fn next(&mut self, report: &Report) -> Result<Option<Phase>> {
        let order = in_order(&self.config.order, &report.modalities)?;
        Ok(match self.config.unit {
            Unit::Batch => (report.phase == 0).then(|| self.by_batch(order)),
            Unit::Epoch => self.by_epoch(&order, report.phase),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::phases;

    #[test]
    fn by_batch_every_modality_trains_on_each_batch_in_turn() {
        let order = vec!["video".to_owned(), "audio".to_owned()];
        let config = AlternatingConfig { order, ..AlternatingConfig::default() };
        let found = phases(&config, &["audio", "video"]).unwrap();
        assert_eq!(found.len(), 1);
        let turns: Vec<_> = found[0].sub_steps.iter().map(|sub| &sub.modalities[..]).collect();
        assert_eq!(turns, [["video"], ["audio"]]);
        assert_eq!((found[0].epochs, found[0].source.len()), (20, 0));
    }

    #[test]
    fn by_epoch_weights_and_optimizer_are_carried_on() {
        let config = AlternatingConfig {
            unit: Unit::Epoch,
            epochs: 2,
            source_previous: true,
            ..AlternatingConfig::default()
        };
        let found = phases(&config, &["audio", "video"]).unwrap();
        let row = |p: &Phase| (p.label.clone(), p.source.join("+"), p.reset_optimizer);
        let expected = [
            ("epoch 1: audio", "", true),
            ("epoch 1: video", "audio", false),
            ("epoch 2: audio", "video", false),
            ("epoch 2: video", "audio", false),
        ]
        .map(|(label, source, reset)| (label.to_owned(), source.to_owned(), reset));
        assert_eq!(found.iter().map(row).collect::<Vec<_>>(), expected);
        assert!(found.iter().all(|phase| phase.epochs == 1 && phase.load == Load::Last));
        let quiet = AlternatingConfig { source_previous: false, ..config };
        assert!(phases(&quiet, &["audio", "video"]).unwrap().iter().all(|p| p.source.is_empty()));
    }

    #[test]
    fn a_source_needs_phases_of_one_modality() {
        let config = AlternatingConfig { source_previous: true, ..AlternatingConfig::default() };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("`source_previous` is true"), "{error}");
        assert!(
            AlternatingConfig { epochs: 0, ..AlternatingConfig::default() }.validate().is_err()
        );
    }
}
