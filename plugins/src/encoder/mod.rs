//! Encoders: the tensors of a modality to its feature.

pub mod bag_of_words;
pub mod bert;
pub mod clip_image;
pub mod clip_text;
#[cfg(test)]
mod fixture;
pub mod i3d;
pub mod mlp;
mod residual;
pub mod resnet18;
pub mod resnet50;
pub mod small_cnn;
mod transformer;
mod util;
