//! Modalities: raw things to tensors of a fixed layout.

pub mod clip;
pub mod clip_tokens;
pub mod fbank;
pub mod flow;
pub mod frames;
pub mod hashed_words;
pub mod image;
mod sound;
pub mod spectrogram;
mod text;
mod util;
pub mod vector;
mod video;
pub mod word_pieces;
