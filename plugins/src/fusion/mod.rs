//! Fusions: the features and logits of all modalities to one decision.

pub mod average;
pub mod concat;
pub mod entropy_weighted;
#[cfg(test)]
mod fixture;
pub mod max;
pub mod sum;
mod util;
