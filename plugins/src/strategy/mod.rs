//! Strategies: the order of work, phase by phase.

pub mod alternating;
pub mod independent;
pub mod joint;
mod order;
pub mod phased;
pub mod staged;
