//! Controllers: feedback after a step, an epoch or a phase.

pub mod early_stop;
pub mod gradient_blending;
pub mod greedy;
pub mod group_rates;
pub mod mses;
pub mod mslr;
pub mod plateau;
mod schedule;
pub mod step_lr;
pub mod warmup;
mod watch;

pub use schedule::Stepped;
pub use watch::Goal;
