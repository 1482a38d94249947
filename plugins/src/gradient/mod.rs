//! Gradient modifiers.

pub mod clip_norm;
mod learnt;
pub mod mmpareto;
pub mod null_space;
pub mod ogm_ge;
pub mod rls_projection;
mod scope;
pub mod svd_flat;

#[cfg(test)]
mod fixture;
