//! Gradient modifiers.

pub mod clip_norm;
pub mod mmpareto;
pub mod ogm_ge;
pub mod rls_projection;
pub mod svd_flat;

#[cfg(test)]
mod fixture;
