//! Optimizers: gradients to new parameters.

pub mod adam;
pub mod adamw;
mod memory;
mod moments;
pub mod sam;
pub mod sgd;
