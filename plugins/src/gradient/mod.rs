//! Gradient modifiers.

pub mod clip_norm;
pub mod svd_flat;

#[cfg(test)]
mod fixture;
