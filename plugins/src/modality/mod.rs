//! Modalities: raw things to tensors of a fixed layout.

pub mod clip;
pub mod fbank;
pub mod flow;
pub mod frames;
pub mod image;
mod sound;
pub mod spectrogram;
mod util;
pub mod vector;
mod video;
