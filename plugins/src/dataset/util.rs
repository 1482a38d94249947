//! What several datasets share.

use std::path::Path;

use mie_core::prelude::*;

/// The error of a folder of data that is missing; `guide` says how to get it.
pub(super) fn no_folder(folder: &Path, guide: &str) -> Error {
    Error::data(folder, format!("there is no such folder; {guide}"))
}

/// The error of asking for a modality that a dataset does not have.
pub(super) fn no_modality(dataset: &str, modality: &str, known: &[String]) -> Error {
    Error::refused(
        format!("dataset `{dataset}` has no modality `{modality}`, but {known:?}"),
        "use one of these names",
    )
}

/// The error of asking for a sample past the end of a split.
pub(super) fn no_sample(dataset: &str, split: Split, index: usize) -> Error {
    Error::Bug(format!("dataset `{dataset}` has no sample {index} in split {}", split.name()))
}
