//! Modalities: raw things to tensors of a fixed layout.

pub mod image;
pub mod spectrogram;
mod util;
pub mod vector;
