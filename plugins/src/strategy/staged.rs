//! Trains one modality at a time, in stages that learn from those before.

use mie_core::catalogue::Example;
use mie_core::prelude::*;

use super::order::{ensure_distinct, in_order};

/// Trains one modality after another, in a cycle of stages.
///
/// With `M` modalities in `order` and stages counted from 0:
///
/// ```text
/// trained in stage s = order[s mod M]         for epochs[s] epochs
/// source of stage s  = order[(s - 1) mod M]   for s > 0 (source = "previous")
/// ```
///
/// The source is what gradient modifiers learn from; the first stage has none. Every stage loads
/// weights (`load`), then starts with a fresh optimizer and fresh schedules. The fused decision
/// picks the best checkpoint, over all stages together: a stage that never beats it is discarded
/// when the next one loads it.
///
/// Source: MIE (Jiang et al. 2024), Algorithm 1, with the stage lists of its released code.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StagedConfig {
    /// All modalities of the run in the order of training. Alphabetical by default.
    #[serde(default)]
    pub order: Vec<String>,
    /// Passes over the training data in each stage, at least 1; as many entries as there are
    /// stages. The method's experiments take `[25, 50, 25, 50]` for Kinetics-Sounds.
    pub epochs: Vec<usize>,
    /// How often the list of stages is run through, at least 1; the cycle of modalities goes on
    /// meanwhile. Once by default.
    #[serde(default = "once")]
    pub repeat: usize,
    /// Weights that a stage starts from. The best so far by default, as in the released code.
    #[serde(default)]
    pub load: Load,
    /// Modalities that gradient modifiers learn from. The previous one by default.
    #[serde(default)]
    pub source: Source,
}

fn once() -> usize {
    1
}

/// Modalities that gradient modifiers learn from in a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The one trained in the stage before.
    #[default]
    Previous,
    /// All others of the run, trained or not.
    Others,
}

impl Example for StagedConfig {
    fn example() -> Self {
        Self {
            order: Vec::new(),
            epochs: vec![25, 50, 25, 50],
            repeat: once(),
            load: Load::default(),
            source: Source::default(),
        }
    }
}

#[typetag::serde(name = "staged")]
impl StrategyConfig for StagedConfig {
    fn validate(&self) -> Result<()> {
        ensure_distinct("order", &self.order)?;
        let stages = self.epochs.len();
        ensure_range("epochs", "a list of at least 1 stage", format!("{stages} long"), stages > 0)?;
        for (stage, &epochs) in self.epochs.iter().enumerate() {
            ensure_range(&format!("epochs[{stage}]"), "at least 1", epochs, epochs >= 1)?;
        }
        ensure_range("repeat", "at least 1", self.repeat, self.repeat >= 1)
    }

    fn build(&self) -> Result<Box<dyn Strategy>> {
        self.validate()?;
        Ok(Box::new(Staged { config: self.clone() }))
    }
}
register!(strategy::<StagedConfig>, source = "Jiang et al. 2024, arXiv:2407.04587");

struct Staged {
    config: StagedConfig,
}

impl Persist for Staged {}

impl Strategy for Staged {
    fn next(&mut self, report: &Report) -> Result<Option<Phase>> {
        let StagedConfig { order, epochs, repeat, load, source } = &self.config;
        let order = in_order(order, &report.modalities)?;
        let stage = report.phase;
        let stages = epochs.len().saturating_mul(*repeat);
        let (Some(modality), Some(&epochs)) =
            (order.iter().cycle().nth(stage), epochs.iter().cycle().take(stages).nth(stage))
        else {
            return Ok(None);
        };
        let source: Vec<String> = match (stage.checked_sub(1), source) {
            (None, _) => Vec::new(),
            (Some(before), Source::Previous) => order
                .iter()
                .cycle()
                .nth(before)
                .filter(|&m| m != modality)
                .cloned()
                .into_iter()
                .collect(),
            (Some(_), Source::Others) => order.iter().filter(|&m| m != modality).cloned().collect(),
        };
        let label = if source.is_empty() {
            format!("stage {}: {modality}", stage + 1)
        } else {
            format!("stage {}: {modality} (source {})", stage + 1, source.join(", "))
        };
        Ok(Some(Phase {
            label,
            sub_steps: vec![SubStep { modalities: vec![modality.clone()] }],
            epochs,
            load: *load,
            reset_optimizer: true,
            source,
            objectives: Vec::new(),
            score: Score::Fused,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::phases;

    fn staged(order: &[&str], epochs: &[usize]) -> StagedConfig {
        StagedConfig {
            order: order.iter().map(|&name| name.to_owned()).collect(),
            epochs: epochs.to_vec(),
            ..StagedConfig::example()
        }
    }

    /// Modality, epochs and source of every stage.
    fn table(config: &StagedConfig, modalities: &[&str]) -> Vec<(String, usize, String)> {
        let row = |phase: Phase| (phase.trained().join("+"), phase.epochs, phase.source.join("+"));
        phases(config, modalities).unwrap().into_iter().map(row).collect()
    }

    fn rows<const STAGES: usize>(
        rows: [(&str, usize, &str); STAGES],
    ) -> [(String, usize, String); STAGES] {
        rows.map(|(modality, epochs, source)| (modality.to_owned(), epochs, source.to_owned()))
    }

    #[test]
    fn kinetics_sounds_is_trained_as_released() {
        let expected = rows([
            ("audio", 25, ""),
            ("video", 50, "audio"),
            ("audio", 25, "video"),
            ("video", 50, "audio"),
        ]);
        assert_eq!(table(&staged(&[], &[25, 50, 25, 50]), &["audio", "video"]), expected);
        let repeated = StagedConfig { repeat: 2, ..staged(&["audio", "video"], &[25, 50]) };
        assert_eq!(table(&repeated, &["audio", "video"]), expected);
    }

    #[test]
    fn gestures_are_trained_as_released() {
        let expected = rows([
            ("depth", 50, ""),
            ("rgb", 50, "depth"),
            ("flow", 50, "rgb"),
            ("depth", 50, "flow"),
            ("rgb", 50, "depth"),
            ("flow", 50, "rgb"),
        ]);
        let config = StagedConfig { repeat: 6, ..staged(&["depth", "rgb", "flow"], &[50]) };
        assert_eq!(table(&config, &["depth", "flow", "rgb"]), expected);
    }

    #[test]
    fn every_stage_starts_from_the_best_fused_weights_with_a_fresh_optimizer() {
        let found = phases(&staged(&["video", "audio"], &[1, 2]), &["audio", "video"]).unwrap();
        let labels: Vec<_> = found.iter().map(|phase| &*phase.label).collect();
        assert_eq!(labels, ["stage 1: video", "stage 2: audio (source video)"]);
        for phase in found {
            assert_eq!(
                (phase.load, phase.score, phase.reset_optimizer),
                (Load::Best, Score::Fused, true)
            );
        }
    }

    #[test]
    fn all_others_can_be_the_source_and_a_lone_modality_has_none() {
        let config = StagedConfig { source: Source::Others, ..staged(&["b", "c", "a"], &[1; 3]) };
        let expected = rows([("b", 1, ""), ("c", 1, "b+a"), ("a", 1, "b+c")]);
        assert_eq!(table(&config, &["a", "b", "c"]), expected);
        let lone = table(&staged(&[], &[1, 1]), &["audio"]);
        assert_eq!(lone, rows([("audio", 1, ""), ("audio", 1, "")]));
    }

    #[test]
    fn stages_are_required_and_need_epochs() {
        let empty = serde_json::json!({ "name": "staged" });
        let error = serde_json::from_value::<Box<dyn StrategyConfig>>(empty).unwrap_err();
        assert!(error.to_string().contains("missing field `epochs`"), "{error}");
        for (bad, start) in [
            (staged(&[], &[]), "`epochs` is 0 long"),
            (staged(&[], &[25, 0]), "`epochs[1]` is 0"),
            (staged(&["audio", "audio"], &[1]), "`order` is `audio`, `audio`"),
            (StagedConfig { repeat: 0, ..staged(&[], &[1]) }, "`repeat` is 0"),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn an_order_that_is_not_that_of_the_run_is_refused() {
        let error = phases(&staged(&["audio"], &[1]), &["audio", "video"]).unwrap_err();
        assert!(error.to_string().starts_with("`order` lacks `video`"), "{error}");
    }
}
