//! Optimizers: gradients to new parameters.

pub mod adam;
pub mod adamw;
pub mod asam;
mod memory;
mod moments;
pub mod sam;
pub mod sgd;
mod sharp;
