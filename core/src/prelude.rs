//! What a plugin file imports: `use mie_core::prelude::*;`.

pub use crate::batch::{
    Batch, ByModality, MixedTargets, Named, Outputs, Spec, Targets, probabilities, share,
};
pub use crate::error::{Error, Result, ensure_range};
pub use crate::family::*;
pub use crate::layers::{
    BatchNorm, Conv2d, Conv2dShape, Conv3d, Conv3dShape, Embedding, Layer, LayerKind, LayerNorm,
    Linear, Pass, Probe, Statistics, TrainingPass, global_average_pool,
};
pub use crate::parameters::{
    Builder, ByParam, Grads, GroupId, Initial, ParamId, Parameters, global_norm,
};
pub use crate::random::{Purpose, Seed, Stream, permutation};
pub use crate::register;
// Macros of these crates expand to bare paths, so a plugin crate needs them in scope.
pub use inventory;
pub use schemars::{self, JsonSchema};
pub use serde::{Deserialize, Serialize};
pub use tch::{self, Device, Kind, Tensor, no_grad_guard};
pub use typetag;
