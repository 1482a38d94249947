//! The nine families of plugins, each with a configuration trait and a runtime trait.
//!
//! A configuration is pure data (`Send + Sync`): it validates itself and builds the runtime half.
//! A runtime half owns tensors (`Send`): it saves and loads its state and says what it needs.

pub mod controller;
pub mod dataset;
pub mod encoder;
pub mod fusion;
pub mod gradient_modifier;
pub mod modality;
pub mod objective;
pub mod optimizer;
pub mod strategy;

pub use controller::{Controller, ControllerConfig, Directive};
pub use dataset::{
    Dataset, DatasetConfig, Expected, Fetch, FetchFile, OpenContext, Preparation, Preparer, Raw,
    Sample, Split, Unpack,
};
pub use encoder::{Encoder, EncoderConfig, Published, Sizes};
pub use fusion::{Fusion, FusionConfig, FusionContext, Joint};
pub use gradient_modifier::{GradientModifier, GradientModifierConfig, Site, StepView};
pub use modality::{
    Buffer, Decode, Decoded, DecodedView, Draw, Element, Modality, ModalityConfig, Mode,
    SampleBuffers, TensorLayout, Values, ValuesView,
};
pub use objective::{Forward, Notes, Objective, ObjectiveConfig, Term};
pub use optimizer::{
    Ask, AskPurpose, Inner, Optimizer, OptimizerConfig, Problem, Rule, RuleContext,
};
pub use strategy::{Load, Phase, Report, Score, Strategy, StrategyConfig, SubStep};

use std::collections::{BTreeMap, BTreeSet};

use tch::Tensor;

use crate::batch::{Outputs, Spec};
use crate::error::{Error, Result};
use crate::layers::{Layer, Probe};
use crate::parameters::GroupId;
use crate::random::Seed;

/// What a plugin must save to go on exactly where it stopped.
#[derive(Debug, Default)]
pub struct State {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Everything else, as JSON.
    pub values: serde_json::Map<String, serde_json::Value>,
}

impl State {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty() && self.values.is_empty()
    }

    /// Adds a tensor, copied so that later training does not change it.
    ///
    /// # Errors
    /// When libtorch cannot copy.
    pub fn put(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        self.tensors.insert(name.into(), tensor.f_detach_copy()?);
        Ok(())
    }

    /// Takes a value out.
    ///
    /// # Errors
    /// [`Error::Bug`] when there is none of this name and kind.
    pub fn take<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        let value = self.values.remove(name).unwrap_or_default();
        serde_json::from_value(value)
            .map_err(|error| Error::Bug(format!("saved state `{name}`: {error}")))
    }

    /// Refuses any content: what a stateless plugin does on loading.
    ///
    /// # Errors
    /// [`Error::Bug`] when there is content.
    pub fn expect_empty(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        Err(Error::Bug("state was saved for a plugin that keeps none".to_owned()))
    }
}

/// Saves and loads what a plugin remembers between steps; stateless by default.
pub trait Persist {
    /// Copies the state out.
    ///
    /// # Errors
    /// When libtorch cannot copy.
    fn state(&self) -> Result<State> {
        Ok(State::default())
    }

    /// Replaces the state by one that [`Persist::state`] gave.
    ///
    /// # Errors
    /// When the state is not of this plugin.
    fn load_state(&mut self, state: State) -> Result<()> {
        state.expect_empty()
    }
}

/// What a plugin cannot do without; checked before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// A fusion whose joint logits are a sum of unimodal ones.
    AdditiveFusion,
    /// A fusion with joint logits to take a loss on.
    JointLogits,
    /// A head for each modality.
    UnimodalHeads,
    /// A validation split.
    ValidationSplit,
    /// At least two modalities.
    SeveralModalities,
    /// Gradients of each loss term apart; the engine computes them when a modifier says so.
    GradientsByTerm,
    /// Joint logits for each modality alone, the features of the others set to 0; the engine
    /// computes them when a modifier says so.
    UnimodalResponses,
    /// Norms of each group's gradient and weights at every [`Moment::StepEnd`]; the engine reads
    /// them back when a controller says so.
    GroupNorms,
    /// A fusion that can shield a modality from the others.
    IsolatingFusion,
    /// One head that all modalities share.
    SharedHead,
}

/// What is known of a run before its first step, for plugins to hold their options against.
#[derive(Debug, Clone, Default)]
pub struct RunShape {
    /// Layers of each modality in forward order: encoder, projection, head.
    pub layers: BTreeMap<String, Vec<Layer>>,
    /// Groups of parameters.
    pub groups: BTreeSet<GroupId>,
    /// The phases, as if no phase ended early.
    pub phases: Vec<Phase>,
    /// Names of the loss terms.
    pub terms: BTreeSet<String>,
    /// Names of the scores that controllers can watch.
    pub scores: BTreeSet<String>,
    /// Layers of the head that all modalities share; empty where they have heads of their own.
    pub shared_head: Vec<Layer>,
    /// Samples of a training batch.
    pub batch_size: usize,
    /// Training samples; absent where a configuration is checked without its data.
    pub training_samples: Option<usize>,
}

impl RunShape {
    /// Expects `found`, the value of `option`, to be a modality of the run.
    ///
    /// # Errors
    /// [`Error::Refused`] that lists the modalities there are.
    pub fn expect_modality(&self, option: &str, found: &str) -> Result<()> {
        expect_known(option, found, "modality", self.layers.keys())
    }

    /// Expects `found`, the value of `option`, to be a group of parameters of the run.
    ///
    /// # Errors
    /// [`Error::Refused`] that lists the groups there are.
    pub fn expect_group(&self, option: &str, found: &str) -> Result<GroupId> {
        let names: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        expect_known(option, found, "group of parameters", &names)?;
        let group = self.groups.iter().find(|group| group.to_string() == found);
        group.cloned().ok_or_else(|| Error::Bug(format!("the group `{found}` is lost")))
    }

    /// Expects `found`, the value of `option`, to be a score of the run.
    ///
    /// # Errors
    /// [`Error::Refused`] that lists the scores there are.
    pub fn expect_score(&self, option: &str, found: &str) -> Result<()> {
        expect_known(option, found, "score", &self.scores)
    }

    /// Expects every step of the run to train all its modalities together.
    ///
    /// # Errors
    /// [`Error::Refused`] that names a step which does not.
    pub fn expect_joint_steps(&self) -> Result<()> {
        let mut steps = self.phases.iter().flat_map(|phase| &phase.sub_steps);
        match steps.find(|sub_step| sub_step.modalities.len() < self.layers.len()) {
            None => Ok(()),
            Some(sub_step) => Err(Error::refused(
                format!(
                    "it compares modalities that are trained together, and a step trains {:?}",
                    sub_step.modalities
                ),
                "choose a strategy that trains all modalities together, such as `joint`",
            )),
        }
    }

    /// Expects the run to train on the joint cross-entropy and on that of every modality.
    ///
    /// # Errors
    /// [`Error::Refused`] that names the term that is missing.
    pub fn expect_joint_and_unimodal_terms(&self) -> Result<()> {
        let unimodal = self.layers.keys().map(|modality| Term::unimodal(modality));
        let mut wanted = [Term::JOINT.to_owned()].into_iter().chain(unimodal);
        match wanted.find(|term| !self.terms.contains(term)) {
            None => Ok(()),
            Some(term) => Err(Error::refused(
                format!("the loss term `{term}` is needed, and the run has {:?}", self.terms),
                "give it the objectives `joint_ce` and `unimodal_ce`",
            )),
        }
    }

    /// Expects `found`, the value of `option`, to be a loss term of the run.
    ///
    /// # Errors
    /// [`Error::Refused`] that lists the terms there are.
    pub fn expect_term(&self, option: &str, found: &str) -> Result<()> {
        expect_known(option, found, "loss term", &self.terms)
    }
}

fn expect_known<'a>(
    option: &str,
    found: &str,
    what: &str,
    known: impl IntoIterator<Item = &'a String>,
) -> Result<()> {
    let known: Vec<&str> = known.into_iter().map(String::as_str).collect();
    if known.contains(&found) {
        return Ok(());
    }
    let meant = crate::config::closest(found, known.iter().copied());
    let meant = meant.map_or_else(String::new, |name| format!("did you mean `{name}`? "));
    let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    Err(Error::refused(
        format!("`{option}` names `{found}`, and the run has no {what} of this name"),
        format!("{meant}name one of {}", known.join(", ")),
    ))
}

/// Where a run stands when plugins are called between steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Boundary {
    /// What just happened, or is about to.
    pub moment: Moment,
    /// Phase, from 0.
    pub phase: usize,
    /// Epoch within the phase, from 0.
    pub epoch: usize,
    /// Epochs of the phase.
    pub epochs: usize,
    /// Epochs for which the modalities of this phase have been trained since optimizer and
    /// schedules last started afresh, the current one not counted: what schedules count. The same
    /// as `epoch` where every phase starts them afresh.
    pub schedule_epoch: usize,
    /// Whether optimizer and schedules started afresh with this phase.
    pub fresh: bool,
    /// Step within the epoch, from 0.
    pub step: u64,
    /// Steps made since the start of the run.
    pub global_step: u64,
    /// Modalities trained in this phase.
    pub trained: Vec<String>,
    /// Modalities that a modifier learns from in this phase.
    pub source: Vec<String>,
    /// Latest value of each watched quantity, e.g. `valid.fused.accuracy`, `train.loss`.
    pub scores: BTreeMap<String, f64>,
    /// After a step, where a controller has [`Need::GroupNorms`]: of each group that was trained.
    pub group_norms: BTreeMap<GroupId, GroupNorms>,
}

/// Squared L2 norms of a group in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorms {
    /// Of the gradient, before modifiers.
    pub gradient_squared: f64,
    /// Of the weights, before the step.
    pub weights_squared: f64,
}

/// Kinds of boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// Weights are loaded and the optimizer is fresh; no step made yet.
    PhaseStart,
    /// Before the first step of an epoch.
    EpochStart,
    /// After a step.
    StepEnd,
    /// After an epoch and its evaluation.
    EpochEnd,
}

/// A pass over data that a plugin asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct PassRequest {
    /// Split to pass over; the test split is refused.
    pub split: Split,
    /// Samples a batch; `None` takes the training batch size.
    pub batch_size: Option<usize>,
    /// Whether an incomplete last batch is left out.
    pub drop_last: bool,
    /// Whether inputs are augmented as in training.
    pub mode: Mode,
    /// Whether samples come in random order, a new one for every pass, or in that of the lists
    /// (which often go class by class).
    pub shuffled: bool,
    /// Samples after which the pass ends, rounded up to whole batches; absent for no such end.
    pub samples: Option<usize>,
    /// The forward pass wanted for each batch.
    pub spec: Spec,
}

/// A short training on a copy of a run, to see where it leads.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The only loss term.
    pub term: String,
    /// Modalities that run; their groups are trained, and shared ones that get a gradient.
    pub modalities: Vec<String>,
    /// Passes over the training data, at least 1.
    pub epochs: usize,
}

/// What plugins may do to a run between steps.
///
/// What a stand-in for tests does not offer is an error by default.
pub trait RunOps {
    /// Passes over data; `each` sees outputs and labels of every batch in order.
    ///
    /// # Errors
    /// On a broken file, or whatever `each` or `probe` returns.
    fn pass(
        &mut self,
        request: &PassRequest,
        probe: Option<&mut dyn Probe>,
        each: &mut dyn FnMut(&Outputs, &Tensor) -> Result<()>,
    ) -> Result<()>;

    /// Number of samples of a split.
    fn samples(&self, _split: Split) -> usize {
        0
    }

    /// Evaluates a split: scores by `output.metric`, e.g. `fused.loss`.
    ///
    /// # Errors
    /// On a broken file; the test split is refused.
    fn evaluate(&mut self, _split: Split) -> Result<BTreeMap<String, f64>> {
        Err(not_offered("evaluate"))
    }

    /// Trains a copy of the run without modifiers and controllers, shows it to `see`, and puts
    /// weights, statistics and the optimizer back bit for bit.
    ///
    /// # Errors
    /// When no term has the name, and whatever training or `see` returns.
    fn trial(
        &mut self,
        _trial: &Trial,
        _see: &mut dyn FnMut(&mut dyn RunOps) -> Result<()>,
    ) -> Result<()> {
        Err(not_offered("trial"))
    }

    /// Copies weights and statistics of the given groups out, by their paths.
    ///
    /// # Errors
    /// When a group does not exist.
    fn snapshot(&self, _groups: &[GroupId]) -> Result<State> {
        Err(not_offered("snapshot"))
    }

    /// Puts weights and statistics back that [`RunOps::snapshot`] gave.
    ///
    /// # Errors
    /// When the state is of another model.
    fn restore(&mut self, _snapshot: &State) -> Result<()> {
        Err(not_offered("restore"))
    }

    /// Writes what a plugin found or decided into the record; what stands under `words` is shown
    /// to the user as well.
    fn note(&mut self, _finding: serde_json::Value) {}

    /// Layers of a modality in forward order: encoder, projection, head.
    fn layers(&self, modality: &str) -> Vec<Layer>;

    /// Number of scalar parameters of a modality's encoder and head.
    fn parameter_count(&self, modality: &str) -> usize;

    /// All modalities of the run, in alphabetical order.
    fn modalities(&self) -> Vec<String>;

    /// Groups of parameters of the run.
    fn groups(&self) -> Vec<GroupId> {
        Vec::new()
    }

    /// Device of the model.
    fn device(&self) -> tch::Device;

    /// Seed of the run.
    fn seed(&self) -> Seed;

    /// Tells the user, once, on the terminal and in the record.
    fn warn(&mut self, message: &str);
}

fn not_offered(what: &str) -> Error {
    Error::Bug(format!("this run does not offer `{what}`"))
}

/// Groups that take part in a step.
pub type Active = BTreeSet<GroupId>;
