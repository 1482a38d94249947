//! Controllers: feedback after a step, an epoch or a phase.

pub mod early_stop;
pub mod plateau;
mod schedule;
pub mod step_lr;
pub mod warmup;
mod watch;

pub use schedule::Stepped;
pub use watch::Goal;
