//! An opened dataset with its splits, decoders and what was left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mie_record::DataRecord;
use sha2::{Digest, Sha256};

use crate::config::{DataSection, Experiment, OnMissing};
use crate::error::{Error, Result, guarded};
use crate::family::{Dataset, Modality, OpenContext, Raw, Split, TensorLayout};
use crate::random::{Purpose, Seed, permutation};

/// A sample's place in the dataset and its identity in random draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) split: Split,
    pub(crate) index: usize,
    pub(crate) label: usize,
    pub(crate) identity: u64,
}

/// Permission to read the test split.
///
/// Training code holds none, so selection and controllers cannot see the test split by mistake.
#[derive(Debug, Clone, Copy)]
pub struct TestAccess(());

impl TestAccess {
    /// Opens the test split: once selection is over, or for a run marked `oracle`.
    pub(crate) fn granted() -> Self {
        Self(())
    }
}

/// A dataset ready to be loaded.
pub struct DataSource {
    pub(crate) dataset: Arc<dyn Dataset>,
    pub(crate) modalities: BTreeMap<String, Arc<dyn Modality>>,
    pub(crate) layouts: BTreeMap<String, Vec<TensorLayout>>,
    pub(crate) fillers: BTreeMap<String, f64>,
    pub(crate) seed: Seed,
    splits: BTreeMap<Split, Vec<Entry>>,
    skipped: BTreeMap<Split, Vec<String>>,
    dataset_name: String,
}

impl DataSource {
    /// Opens the dataset of an experiment and lays out its splits.
    ///
    /// # Errors
    /// When lists or files are missing or broken, a modality does not exist in the dataset, or a
    /// class is left without training samples.
    pub fn open(experiment: &Experiment, context: &OpenContext) -> Result<Self> {
        let dataset_name = experiment.dataset.typetag_name().to_owned();
        let plugin = format!("dataset `{dataset_name}`");
        let dataset: Arc<dyn Dataset> =
            Arc::from(guarded(&plugin, || experiment.dataset.open(context))?);
        let known = dataset.modalities();
        let mut modalities: BTreeMap<String, Arc<dyn Modality>> = BTreeMap::new();
        for (name, section) in &experiment.modalities {
            if !known.contains(name) {
                return Err(Error::refused(
                    format!("dataset `{dataset_name}` has no modality `{name}`, but {known:?}"),
                    format!("rename the table `modalities.{name}` to one of them"),
                ));
            }
            let plugin = format!("modality `{}` of `{name}`", section.input.typetag_name());
            modalities.insert(name.clone(), Arc::from(guarded(&plugin, || section.input.build())?));
        }
        let layouts = modalities.iter().map(|(name, m)| (name.clone(), m.layout())).collect();
        let fillers = modalities.iter().map(|(name, m)| (name.clone(), m.filler())).collect();
        let mut source = Self {
            dataset,
            modalities,
            layouts,
            fillers,
            seed: context.seed,
            splits: BTreeMap::new(),
            skipped: BTreeMap::new(),
            dataset_name,
        };
        source.lay_out(&experiment.data)?;
        Ok(source)
    }

    fn lay_out(&mut self, options: &DataSection) -> Result<()> {
        let excluded: BTreeSet<&str> = options.exclude.iter().map(String::as_str).collect();
        let mut problems = Vec::new();
        let mut seen: BTreeMap<&str, Split> = BTreeMap::new();
        for split in Split::ALL {
            for sample in self.dataset.samples(split) {
                if let Some(other) = seen.insert(&sample.id, split) {
                    return Err(Error::refused(
                        format!(
                            "sample `{}` of dataset `{}` stands in the {} split and again in the \
                             {} split",
                            sample.id,
                            self.dataset_name,
                            other.name(),
                            split.name()
                        ),
                        "splits must not share samples: mend the lists; `mie data check` lists all",
                    ));
                }
            }
        }
        if let Some(unknown) = options.exclude.iter().find(|id| !seen.contains_key(id.as_str())) {
            return Err(Error::refused(
                format!(
                    "data.exclude names `{unknown}`, and dataset `{}` has no such sample",
                    self.dataset_name
                ),
                "write ids as `mie data check` and error messages show them",
            ));
        }
        for split in Split::ALL {
            let mut entries = Vec::new();
            let mut skipped = Vec::new();
            for (index, sample) in self.dataset.samples(split).iter().enumerate() {
                if sample.label >= self.dataset.classes().len() {
                    return Err(Error::Bug(format!(
                        "sample `{}` has label {} of {} classes",
                        sample.id,
                        sample.label,
                        self.dataset.classes().len()
                    )));
                }
                if excluded.contains(sample.id.as_str()) {
                    skipped.push(format!("{}: excluded by data.exclude", sample.id));
                } else if let Some(problem) = self.missing(split, index) {
                    match options.on_missing {
                        OnMissing::Error => problems.push(problem),
                        OnMissing::Skip => skipped.push(format!("{}: {problem}", sample.id)),
                    }
                } else {
                    entries.push(Entry {
                        split,
                        index,
                        label: sample.label,
                        identity: identity(&sample.id),
                    });
                }
            }
            self.splits.insert(split, entries);
            self.skipped.insert(split, skipped);
        }
        if let Some(first) = problems.first() {
            return Err(Error::refused(
                format!(
                    "dataset `{}` is incomplete: {} cannot be read, the first is {first}",
                    self.dataset_name,
                    match problems.len() {
                        1 => "1 file".to_owned(),
                        count => format!("{count} files"),
                    }
                ),
                format!(
                    "complete it (`mie data check` lists what is missing; `mie data fetch {}` \
                     brings it where it is published freely; MIE_DATA_DIR names the data \
                     folder), or set data.on_missing = \"skip\" to train without these samples",
                    self.dataset_name
                ),
            ));
        }
        self.check_classes()?;
        if self.splits[&Split::Valid].is_empty() && options.validation_share > 0.0 {
            self.split_off_validation(options.validation_share);
        }
        if let Some(count) = options.train_per_class {
            self.keep_per_class(count)?;
        }
        if self.splits[&Split::Train].is_empty() {
            return Err(Error::refused(
                format!("dataset `{}` has no training sample", self.dataset_name),
                "check its lists with `mie data check`",
            ));
        }
        Ok(())
    }

    /// Refuses a class whose training samples were all left out.
    fn check_classes(&self) -> Result<()> {
        let listed: BTreeSet<usize> =
            self.dataset.samples(Split::Train).iter().map(|sample| sample.label).collect();
        let left: BTreeSet<usize> =
            self.splits[&Split::Train].iter().map(|entry| entry.label).collect();
        let Some(&lost) = listed.difference(&left).next() else { return Ok(()) };
        Err(Error::refused(
            format!(
                "class `{}` of dataset `{}` has lost all its training samples to \
                 data.on_missing = \"skip\" or data.exclude",
                self.dataset.classes()[lost],
                self.dataset_name
            ),
            "complete the data (`mie data check` lists what is missing), or exclude less",
        ))
    }

    fn missing(&self, split: Split, index: usize) -> Option<String> {
        let absent = |file: &std::path::Path| {
            (!file.is_file()).then(|| format!("{} (not found)", file.display()))
        };
        self.modalities.keys().find_map(|modality| match self.dataset.raw(split, index, modality) {
            Err(error) => Some(error.to_string()),
            Ok(Raw::File(file)) => absent(&file),
            Ok(Raw::Files(files)) => files.iter().find_map(|file| absent(file)),
            Ok(_) => None,
        })
    }

    fn by_class(&self, split: Split) -> Vec<Vec<Entry>> {
        let mut classes = vec![Vec::new(); self.dataset.classes().len()];
        for entry in &self.splits[&split] {
            classes[entry.label].push(*entry);
        }
        classes
    }

    fn split_off_validation(&mut self, share: f64) {
        let (mut train, mut valid) = (Vec::new(), Vec::new());
        for (label, members) in self.by_class(Split::Train).into_iter().enumerate() {
            let mut stream = self.seed.stream(Purpose::Split, "validation", &[label as u64]);
            let taken = (members.len() as f64 * share).round() as usize;
            for (rank, member) in permutation(members.len(), &mut stream).into_iter().enumerate() {
                if rank < taken { &mut valid } else { &mut train }.push(members[member]);
            }
        }
        for part in [&mut train, &mut valid] {
            part.sort_by_key(|entry| entry.index);
        }
        self.splits.insert(Split::Train, train);
        self.splits.insert(Split::Valid, valid);
    }

    fn keep_per_class(&mut self, count: usize) -> Result<()> {
        let mut kept = Vec::new();
        for (label, members) in self.by_class(Split::Train).into_iter().enumerate() {
            if members.len() < count {
                return Err(Error::refused(
                    format!(
                        "data.train_per_class is {count}, but class `{}` has {} training samples",
                        self.dataset.classes()[label],
                        members.len()
                    ),
                    "lower data.train_per_class",
                ));
            }
            let mut stream = self.seed.stream(Purpose::Split, "train_per_class", &[label as u64]);
            let order = permutation(members.len(), &mut stream);
            kept.extend(order.into_iter().take(count).map(|member| members[member]));
        }
        kept.sort_by_key(|entry| (entry.split, entry.index));
        self.splits.insert(Split::Train, kept);
        Ok(())
    }

    /// Number of samples of a split; counting does not open it.
    pub fn len(&self, split: Split) -> usize {
        self.splits.get(&split).map_or(0, Vec::len)
    }

    /// Whether a split has no samples.
    pub fn is_empty(&self, split: Split) -> bool {
        self.len(split) == 0
    }

    /// Class names, in label order.
    pub fn classes(&self) -> &[String] {
        self.dataset.classes()
    }

    /// Facts the dataset wants recorded.
    pub fn facts(&self) -> serde_json::Map<String, serde_json::Value> {
        self.dataset.facts()
    }

    pub(crate) fn entries(&self, split: Split, access: Option<TestAccess>) -> Result<&[Entry]> {
        if split == Split::Test && access.is_none() {
            return Err(Error::refused(
                "the test split is locked during training",
                "select and adapt on the validation split; `selection.split = \"test\"` exists \
                 for comparison with published numbers and marks the run as oracle",
            ));
        }
        Ok(self.splits.get(&split).map_or(&[], Vec::as_slice))
    }

    /// Says in which sample an error arose.
    pub(super) fn in_sample(&self, entry: &Entry, modality: &str, error: Error) -> Error {
        let sample = self.dataset.samples(entry.split).get(entry.index);
        Error::Sample {
            sample: sample.map(|sample| sample.id.clone()).unwrap_or_default(),
            split: entry.split.name(),
            modality: modality.to_owned(),
            source: Box::new(error),
        }
    }

    /// Describes each split for the record.
    pub fn records(&self) -> Vec<DataRecord> {
        Split::ALL
            .into_iter()
            .map(|split| {
                let mut hash = Sha256::new();
                for entry in &self.splits[&split] {
                    hash.update(entry.identity.to_le_bytes());
                    hash.update((entry.label as u64).to_le_bytes());
                }
                let hash = hash.finalize();
                DataRecord {
                    dataset: self.dataset_name.clone(),
                    split: split.name().to_owned(),
                    samples: self.len(split) as u64,
                    fingerprint: crate::hash::hex(&hash[..8]),
                    skipped: self.skipped[&split].clone(),
                    classes: self.dataset.classes().to_vec(),
                }
            })
            .collect()
    }
}

fn identity(id: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(id.as_bytes())[..8]);
    u64::from_le_bytes(first)
}
