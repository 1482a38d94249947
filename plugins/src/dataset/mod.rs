//! Datasets: samples, labels, splits and where each raw thing lies.

pub mod av_digits;
pub mod synthetic;
mod util;
