//! `manifest.json`: what a run was made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Mark of a run whose weights were selected on the test split.
pub const ORACLE: &str = "oracle";

/// Mark of a run that left out missing or broken samples.
pub const SKIPPED_DATA: &str = "skipped data";

/// Records what a run was made of: enough to repeat it and to judge its numbers.
///
/// Written once, before the first step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the directory's formats: [`Manifest::FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Name of the experiment, with slashes between its parts: `cremad/mie`.
    pub experiment: String,
    /// Name of the run within its experiment: its seed and its settings.
    pub fingerprint: String,
    /// Hash of everything but the seed that can change results: runs of equal settings differ in
    /// their seed alone.
    #[serde(default)]
    pub settings: String,
    /// Seed every random draw follows from.
    pub seed: u64,
    /// When the run was created, in seconds since 1970-01-01 UTC.
    pub created_unix_seconds: u64,
    /// Versions of the programs at work, by name: `mie`, `tch`, `libtorch`.
    pub versions: BTreeMap<String, String>,
    /// Commit of the source tree, where it was built from one.
    pub commit: Option<String>,
    /// Device the run computes on: `cpu` or `cuda:N`.
    pub device: String,
    /// Threads one tensor operation may use; results on CPU are exact for equal numbers only.
    pub threads: usize,
    /// Operating system of the host: `linux`.
    pub host_os: String,
    /// The data, one record a split.
    pub data: Vec<DataRecord>,
    /// What every table must say about the run: [`ORACLE`], [`SKIPPED_DATA`] or words of a plugin.
    pub marks: Vec<String>,
    /// Names of the plugins taking part, by family.
    pub plugins: BTreeMap<String, Vec<String>>,
    /// Where the run departs from what is published, by topic, and what it does instead.
    pub deviations: BTreeMap<String, String>,
    /// Published weights that encoders started from, by modality.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, WeightsRecord>,
    /// Files beside the data that decoding depends on, such as vocabularies: the SHA-256 of each,
    /// by modality and by its path as the configuration names it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub input_files: BTreeMap<String, BTreeMap<String, String>>,
}

impl Manifest {
    /// Version of the formats this crate writes, and the highest it reads.
    pub const FORMAT: u32 = 1;
}

/// Records one split of one dataset as a run saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRecord {
    /// Name of the dataset.
    pub dataset: String,
    /// Name of the split: `train`, `valid` or `test`.
    pub split: String,
    /// Number of samples used.
    pub samples: u64,
    /// Hash of the samples and labels used; equal exactly when scores can be compared.
    pub fingerprint: String,
    /// Identifiers of the samples left out because something of theirs is missing or broken.
    pub skipped: Vec<String>,
    /// Names of the classes, in the order of their indices.
    pub classes: Vec<String>,
}

/// Records the published weights that one encoder started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsRecord {
    /// The file, as the configuration names it.
    pub file: String,
    /// Hash of its content: runs with other weights differ here.
    pub sha256: String,
    /// Number of tensors taken from it.
    pub tensors: u64,
    /// What was done about a first layer for another number of channels, in words.
    #[serde(default)]
    pub first_layer: Option<String>,
    /// Tensors of the encoder that the file does not have; they start from the seed.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Tensors of the file that the encoder does not have.
    #[serde(default)]
    pub unexpected: Vec<String>,
    /// Tensors that have other shapes in the file, in words; they start from the seed.
    #[serde(default)]
    pub reshaped: Vec<String>,
}
