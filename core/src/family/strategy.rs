//! Strategies: the order of work, phase by phase.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::Persist;
use crate::catalogue::plugin_family;
use crate::error::Result;

/// Configuration of a strategy.
#[typetag::serde(tag = "name")]
pub trait StrategyConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Builds the strategy.
    ///
    /// # Errors
    /// When an option is out of range.
    fn build(&self) -> Result<Box<dyn Strategy>>;
}

/// Weights that a phase starts from.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// The best checkpoint so far.
    #[default]
    Best,
    /// The weights as the phase before left them.
    Last,
}

/// What decides which checkpoint is best.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// The fused decision.
    Fused,
    /// One modality's own decision.
    Modality(String),
}

/// The modalities trained together on a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubStep {
    /// Modalities that run and whose groups are active.
    pub modalities: Vec<String>,
}

/// A stretch of training with one setting; data, not control flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Name for people, e.g. `audio 1`.
    pub label: String,
    /// What is trained on each batch, one after another.
    pub sub_steps: Vec<SubStep>,
    /// Passes over the training data.
    pub epochs: usize,
    /// Weights to start from; ignored in the first phase.
    pub load: Load,
    /// Whether optimizer and schedules start afresh.
    pub reset_optimizer: bool,
    /// Modalities that gradient modifiers learn from; empty for none.
    pub source: Vec<String>,
    /// Names of the objectives that give the loss; all of the experiment when empty.
    #[serde(default)]
    pub objectives: Vec<String>,
    /// What decides which checkpoint is best. A phase with another score than the one before it
    /// starts a contest of its own.
    pub score: Score,
}

impl Phase {
    /// Modalities trained in this phase.
    pub fn trained(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.sub_steps.iter().flat_map(|sub| sub.modalities.clone()).collect();
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|modality| seen.insert(modality.clone()));
        all
    }
}

/// What a strategy may base its next phase on.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Index of the phase wanted, from 0.
    pub phase: usize,
    /// Modalities of the run, in alphabetical order.
    pub modalities: Vec<String>,
    /// Best score of the phase before.
    pub best: Option<f64>,
}

/// Hands out phases.
pub trait Strategy: Persist + Send {
    /// Gives phase number `report.phase`, or `None` when the run is complete.
    ///
    /// # Errors
    /// When a modality it names does not exist.
    fn next(&mut self, report: &Report) -> Result<Option<Phase>>;
}

plugin_family!(Strategy, StrategyConfig);
