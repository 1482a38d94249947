//! Datasets: samples, labels, splits and where each raw thing lies.

pub mod av_digits;
mod clips;
pub mod cremad;
pub mod emoji_imgtext;
pub mod kinetics_sounds;
pub mod nvgesture;
pub mod sarcasm;
pub mod synthetic;
mod text_image;
pub mod twitter2015;
mod util;
