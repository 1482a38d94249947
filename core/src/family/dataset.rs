//! Datasets: samples, labels, splits and where each raw thing lies.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ModalityConfig;
use crate::catalogue::plugin_family;
use crate::error::Result;
use crate::random::Seed;

/// A part of a dataset.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Samples to learn from.
    Train,
    /// Samples to choose by: checkpoints, schedules, hyper-parameters.
    Valid,
    /// Samples to report on, once. Locked during training.
    Test,
}

impl Split {
    /// All splits.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// Name used in records and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// A labelled sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Name that is unique in the dataset and stable over versions.
    pub id: String,
    /// Class, from 0.
    pub label: usize,
}

/// The raw thing of a modality, before it is decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw<'a> {
    /// A file.
    File(PathBuf),
    /// Several files in order, such as frames.
    Files(Vec<PathBuf>),
    /// Text.
    Text(&'a str),
    /// 8-bit grey pixels, row by row.
    Grey {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// `width * height` values.
        pixels: &'a [u8],
    },
    /// Numbers.
    Values(&'a [f32]),
}

impl Raw<'_> {
    /// Says what kind of thing this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "a file",
            Self::Files(_) => "several files",
            Self::Text(_) => "text",
            Self::Grey { .. } => "grey pixels",
            Self::Values(_) => "numbers",
        }
    }
}

/// What a complete copy of the dataset holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Samples of each split.
    pub samples: BTreeMap<Split, usize>,
    /// Samples of each class in each split, where published.
    pub classes: BTreeMap<Split, Vec<usize>>,
}

/// A file that `mie data fetch` brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchFile {
    /// Public address.
    pub address: String,
    /// Where it goes, relative to the dataset's folder.
    pub path: String,
    /// SHA-256 in hexadecimal, when it is published or was recorded.
    pub sha256: Option<String>,
    /// For an archive: how its entries are placed; `None` keeps the file as it is.
    pub unpack: Option<Unpack>,
}

/// How entries of a fetched archive are placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpack {
    /// Only entries whose path contains this are taken.
    pub containing: String,
    /// Folder, relative to the dataset's folder, that gets them under their file names.
    pub into: String,
}

/// How to get a dataset that is published freely.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetch {
    /// Folder to fill.
    pub root: PathBuf,
    /// What to bring.
    pub files: Vec<FetchFile>,
    /// Licence and origin, shown before anything is fetched.
    pub notice: String,
}

/// A file or folder that `mie data prepare` makes from raw media.
#[derive(Clone)]
pub struct Preparation {
    /// What it is made from: a file or folder.
    pub source: PathBuf,
    /// What is made; left alone where it is there already.
    pub target: PathBuf,
    /// How it is made.
    pub by: std::sync::Arc<dyn Preparer>,
}

/// Makes files from raw media.
pub trait Preparer: Send + Sync {
    /// Says what it makes and how, e.g. `sound by ffmpeg`; equal names are equal in all.
    fn name(&self) -> String;

    /// Looks for the programs it needs; called once before the first file.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) that says what to install.
    fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// Makes `target`, a name of its own in the folder where the result goes, from `source`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it. What was written by then is removed.
    fn make(&self, source: &Path, target: &Path) -> Result<()>;
}

/// What a dataset knows when it is opened.
#[derive(Debug, Clone)]
pub struct OpenContext {
    /// Folder against which relative paths of the configuration are resolved.
    pub base: PathBuf,
    /// Seed of the run.
    pub seed: Seed,
}

impl OpenContext {
    /// Resolves a configured path.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        if path.is_absolute() { path.to_owned() } else { self.base.join(path) }
    }
}

/// Configuration of a dataset.
#[typetag::serde(tag = "name")]
pub trait DatasetConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Number of classes of a complete copy, where that is known without its files.
    ///
    /// Experiments are checked with it where the files are not there.
    fn class_count(&self) -> Option<usize> {
        None
    }

    /// Reads lists and labels; leaves media alone.
    ///
    /// # Errors
    /// Names the file and position that is missing or broken.
    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>>;

    /// Says how to get the files, for a dataset that is published freely.
    fn fetch(&self, _context: &OpenContext) -> Option<Fetch> {
        None
    }

    /// Lists what can be made from the raw media of the dataset; nothing by default.
    ///
    /// Raw files that are not there may be listed: they count as failures.
    ///
    /// # Errors
    /// When lists cannot be read.
    fn preparations(&self, _context: &OpenContext) -> Result<Vec<Preparation>> {
        Ok(Vec::new())
    }
}

/// An opened dataset; shared by the loader's workers.
pub trait Dataset: Send + Sync {
    /// Class names, in label order.
    fn classes(&self) -> &[String];

    /// Samples of a split in their published order; empty when there is no such split.
    fn samples(&self, split: Split) -> &[Sample];

    /// Names of the modalities it holds.
    fn modalities(&self) -> Vec<String>;

    /// Finds the raw thing of `modality` of the sample at `index` of `split`.
    ///
    /// # Errors
    /// When there is no such modality, or reading fails.
    fn raw(&self, split: Split, index: usize, modality: &str) -> Result<Raw<'_>>;

    /// Looks for what all raw things of `modality` lie in, such as a folder of pictures; there is
    /// nothing to look for by default.
    ///
    /// A folder that is missing is one fault, not one of each sample.
    ///
    /// # Errors
    /// Names what is missing and says how to get it.
    fn reachable(&self, _modality: &str) -> Result<()> {
        Ok(())
    }

    /// Looks at a raw thing of `modality` without decoding it: whether it is of the right kind and
    /// whole, as far as the start and the end of its files tell. Nothing is looked at by default.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    fn inspect(&self, _modality: &str, _raw: &Raw<'_>) -> Result<()> {
        Ok(())
    }

    /// What a complete copy holds.
    fn expected(&self) -> Expected {
        Expected::default()
    }

    /// Compares what no raw thing shows, such as files of labels, with a complete copy.
    ///
    /// Gives a line for each difference.
    fn differences(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is worth knowing of samples and is no difference from a complete copy, such as files
    /// that are faulty where they are published.
    ///
    /// Gives a line for each thing.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Pairs of classes that mirroring a sample turns into each other, such as movements to the
    /// left and to the right; none by default.
    fn mirrored_classes(&self) -> Vec<[usize; 2]> {
        Vec::new()
    }

    /// Inputs that can decode its modalities, for checks without an experiment.
    fn inputs(&self) -> BTreeMap<String, Box<dyn ModalityConfig>> {
        BTreeMap::new()
    }

    /// Facts worth recording with a run, e.g. the best accuracy possible on generated data.
    fn facts(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }
}

plugin_family!(Dataset, DatasetConfig);
