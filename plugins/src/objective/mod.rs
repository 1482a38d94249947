//! Objectives: what a model computed to the terms of its loss.

pub mod agm;
pub mod domfn;
#[cfg(test)]
mod fixture;
pub mod joint_ce;
pub mod pmr;
pub mod unimodal_ce;
