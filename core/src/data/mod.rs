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

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::SystemTime;

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

/// Part of the name of something that is being made, unlike any other's: containers and hosts that
/// share a disk have processes of equal numbers.
pub(crate) fn name_of_its_own() -> String {
    // Its keys are random, and others at each call.
    format!("{}_{:016x}", std::process::id(), RandomState::new().hash_one(SystemTime::now()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_of_what_is_being_made_are_unlike_over_all_threads() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| [(); 500].map(|()| name_of_its_own()))).collect();
        let names: Vec<String> = threads.into_iter().flat_map(|it| it.join().unwrap()).collect();
        // Apart from the number of the process, which another container has too.
        let own: BTreeSet<_> = names.iter().map(|name| name.split_once('_').unwrap().1).collect();
        assert_eq!(own.len(), 2_000);
        // What stands around them in names of files is told apart by this.
        assert!(!names.iter().any(|name| name.contains('-')), "{names:?}");
    }
}
