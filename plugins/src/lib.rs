//! The plugins that come with mie: a folder a family, a file a plugin.
//!
//! Linking this crate puts them into the catalogue; nothing calls them by name.

pub mod controller;
pub mod dataset;
pub mod encoder;
pub mod formats;
pub mod fusion;
pub mod gradient;
pub mod modality;
pub mod objective;
pub mod optimizer;
pub mod pictures;
pub mod strategy;
