//! Encoders: the tensors of a modality to its feature.

#[cfg(test)]
mod fixture;
pub mod mlp;
pub mod resnet18;
pub mod small_cnn;
mod util;
