//! Fusions: the features and logits of all modalities to one decision.

pub mod average;
pub mod concat;
pub mod domfn_gate;
pub mod entropy_weighted;
pub mod film;
#[cfg(test)]
mod fixture;
pub mod gated;
pub mod max;
pub mod mmtm;
pub mod opm;
pub mod sum;
mod util;
pub mod weighted;
