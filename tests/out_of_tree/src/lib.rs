//! A gradient modifier that mie knows nothing of.

pub mod centralise;
