//! Objectives: outputs to named loss terms.

use std::collections::BTreeMap;
use std::fmt::Debug;

use tch::Tensor;

use super::{Boundary, Need, Persist, RunOps, RunShape};
use crate::batch::{Outputs, Spec, Targets};
use crate::catalogue::plugin_family;
use crate::error::Result;
use crate::parameters::GroupId;

/// Configuration of an objective.
#[typetag::serde(tag = "name")]
pub trait ObjectiveConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Builds the objective.
    ///
    /// # Errors
    /// When an option is out of range.
    fn build(&self) -> Result<Box<dyn Objective>>;
}

/// A part of the loss.
#[derive(Debug)]
pub struct Term {
    /// Name in records, unique within a step, e.g. `unimodal.audio`.
    pub name: String,
    /// Mean over the batch, 0-d.
    pub value: Tensor,
    /// Factor in the sum; a term of weight 0 is left out.
    pub weight: f64,
    /// Groups that get its gradient; `None` means all active ones.
    pub route: Option<Vec<GroupId>>,
}

impl Term {
    /// Name of the cross-entropy of the joint logits, by which plugins find it.
    pub const JOINT: &'static str = "joint"; // given by `joint_ce`

    /// Name of the cross-entropy of a modality's own logits, by which plugins find it.
    pub fn unimodal(modality: &str) -> String {
        format!("unimodal.{modality}")
    }

    /// A term of weight 1 for all active groups.
    pub fn new(name: impl Into<String>, value: Tensor) -> Self {
        Self { name: name.into(), value, weight: 1.0, route: None }
    }
}

/// What an objective computed on the way and wants to remember.
pub type Notes = BTreeMap<String, Tensor>;

/// Gives objectives forward passes of the current batch.
pub trait Forward {
    /// The plain pass of this step: all modalities of the sub-step, present, with gradients.
    fn full(&self) -> Spec;

    /// Makes a pass; equal requests within a step's pass are computed once.
    ///
    /// # Errors
    /// When a modality is unknown or a layer refuses its input.
    fn run(&mut self, spec: &Spec) -> Result<Outputs>;

    /// What the outputs are held against.
    fn targets(&self) -> Targets;
}

/// Turns outputs into loss terms.
pub trait Objective: Persist + Send {
    /// What it cannot do without.
    fn needs(&self) -> &'static [Need] {
        &[]
    }

    /// Holds its options against the run, before the first step.
    ///
    /// # Errors
    /// When an option names what the run does not have.
    fn check(&self, _run: &RunShape) -> Result<()> {
        Ok(())
    }

    /// Computes the terms; called once for every gradient, so twice a step under SAM.
    ///
    /// # Errors
    /// When an output it needs is missing.
    fn terms(&self, forward: &mut dyn Forward, notes: &mut Notes) -> Result<Vec<Term>>;

    /// Learns from the notes of a step's first pass; called once, when the step is made.
    ///
    /// # Errors
    /// When libtorch refuses.
    fn observe(&mut self, _notes: &Notes) -> Result<()> {
        Ok(())
    }

    /// Recomputes what it derives from the data (prototypes …) at a boundary.
    ///
    /// # Errors
    /// On a broken file, or when libtorch refuses.
    fn refresh(&mut self, _run: &mut dyn RunOps, _at: &Boundary) -> Result<()> {
        Ok(())
    }
}

plugin_family!(Objective, ObjectiveConfig);
