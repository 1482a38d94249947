//! Core of `mie`: traits, catalogue, configuration, data pipeline and the one training engine.
//!
//! A tour, in the order in which a run lives:
//!
//! 1. [`config`] reads TOML files into an [`config::Experiment`], which names plugins.
//! 2. [`catalogue`] knows every plugin that is linked in; [`family`] holds the traits of the nine
//!    families they belong to.
//! 3. [`data`] turns a dataset and its modalities into batches, in an order that depends on the
//!    seed alone.
//! 4. [`model`] assembles encoders, heads and a fusion from [`layers`], their weights in the
//!    groups of [`parameters`].
//! 5. [`engine`] runs phases: steps, evaluation with [`metrics`], checkpoints, the run record.
//! 6. [`projection`] computes the flat-gradient projection from a covariance.
//!
//! [`imbalance`] measures how far modalities are apart; [`landscape`] looks at the loss around finished weights. Plugins import [`prelude`].

pub mod batch;
pub mod catalogue;
pub mod config;
pub mod data;
pub mod device;
pub mod engine;
pub mod error;
pub mod family;
mod hash;
pub mod imbalance;
pub mod landscape;
pub mod layers;
pub mod metrics;
pub mod model;
pub mod parameters;
pub mod prelude;
pub mod projection;
pub mod random;
mod schema;
mod system;
pub mod weights;

pub use error::{Error, Result};
