//! Controllers: feedback after a step, an epoch or a phase.

use std::fmt::Debug;

use super::{Boundary, Need, Persist, RunOps, RunShape};
use crate::catalogue::plugin_family;
use crate::error::Result;
use crate::parameters::GroupId;

/// Configuration of a controller.
#[typetag::serde(tag = "name")]
pub trait ControllerConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Builds the controller.
    ///
    /// # Errors
    /// When an option is out of range.
    fn build(&self) -> Result<Box<dyn Controller>>;

    /// Options that make it change nothing, where there are such: numbers by their keys.
    ///
    /// Held against its word by the conformance checks: factors and weights then are 1, and
    /// nothing is frozen or ended.
    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[]
    }
}

/// What a controller wants done before the next step.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Directive {
    /// Sets this controller's factor of the learning rate; factors of several controllers
    /// multiply. It holds until replaced, or until the optimizer is reset.
    LearningRateFactor {
        /// Group concerned; `None` means all.
        group: Option<GroupId>,
        /// Factor, at least 0.
        factor: f64,
    },
    /// Stops training a group until it is thawed.
    Freeze(GroupId),
    /// Trains a frozen group again.
    Thaw(GroupId),
    /// Sets the factor of the loss terms of this name.
    TermWeight {
        /// Name of the term.
        term: String,
        /// Factor, at least 0; 0 leaves the term out.
        weight: f64,
    },
    /// Shields a modality from what the others tell it between stages, from the next step on until
    /// replaced; `None` shields none.
    Isolate(Option<String>),
    /// Ends the phase after this epoch.
    EndPhase,
}

/// Watches a run and steers it.
pub trait Controller: Persist + Send {
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

    /// Reacts to a boundary.
    ///
    /// # Errors
    /// When a quantity it watches does not exist, or a pass it asks for fails.
    fn after(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>>;
}

plugin_family!(Controller, ControllerConfig);
