//! From a dataset and its modalities to batches, in an order that depends on the seed alone.

pub mod cache;
pub mod check;
pub mod fetch;
#[cfg(test)]
mod fixture;
mod host_batch;
mod loader;
mod mixup;
pub mod prepare;
mod source;

pub use host_batch::HostBatch;
pub use loader::{Batches, Request};
pub use mixup::{check_mixup, mix};
pub(crate) use source::identity;
pub use source::{DataSource, TestAccess};

use std::path::PathBuf;

/// Folder against which relative dataset paths are resolved.
///
/// `MIE_DATA_DIR`, or else `mie` in the user's data folder (`XDG_DATA_HOME`, `~/.local/share`).
/// It never depends on the current folder, so a run does not either.
pub fn data_dir() -> PathBuf {
    let from = |key| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("MIE_DATA_DIR")
        .or_else(|| from("XDG_DATA_HOME").map(|folder| folder.join("mie")))
        .or_else(|| from("HOME").map(|home| home.join(".local/share/mie")))
        .unwrap_or_else(|| PathBuf::from("data"))
}
