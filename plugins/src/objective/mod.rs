//! Objectives: what a model computed to the terms of its loss.

#[cfg(test)]
mod fixture;
pub mod joint_ce;
pub mod unimodal_ce;
