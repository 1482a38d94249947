//! An opened dataset with its splits, decoders and what was left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use mie_record::DataRecord;
use sha2::{Digest, Sha256};

use super::cache::{Cache, cache_dir};
use super::check::{Obstacle, first_file, obstacle};
use crate::config::{DataSection, Experiment, OnMissing, closest};
use crate::error::{Error, Result, guarded};
use crate::family::{
    Dataset, Draw, Modality, Mode, OpenContext, Sample, SampleBuffers, Split, TensorLayout,
};
use crate::random::{Purpose, Seed, permutation};
use crate::weights::sha256;

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
    /// Where decoded files are kept between epochs.
    cache: Option<Cache>,
    /// SHA-256 of the files beside the data that inputs name, by modality and path.
    pub(crate) input_files: BTreeMap<String, BTreeMap<String, String>>,
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
        let mut input_files = BTreeMap::new();
        for (name, section) in &experiment.modalities {
            if !known.contains(name) {
                let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                return Err(Error::refused(
                    format!("dataset `{dataset_name}` has no modality `{name}`"),
                    format!("rename the table `modalities.{name}` to one of {}", known.join(", ")),
                ));
            }
            let plugin = format!("modality `{}` of `{name}`", section.input.typetag_name());
            let opened = guarded(&plugin, || {
                let mut modality = section.input.build()?;
                modality.open(context)?;
                Ok(modality)
            });
            modalities.insert(name.clone(), Arc::from(opened?));
            let hash =
                |file: PathBuf| Ok((file.display().to_string(), sha256(&context.resolve(&file))?));
            let hashes: BTreeMap<String, String> =
                section.input.files().into_iter().map(hash).collect::<Result<_>>()?;
            if !hashes.is_empty() {
                input_files.insert(name.clone(), hashes);
            }
        }
        let source =
            Self::lay_out(&dataset_name, dataset, modalities, context.seed, &experiment.data)?;
        let limit_bytes = (experiment.run.cache_gigabytes * 1e9) as u64;
        Ok(Self {
            cache: (limit_bytes > 0).then(|| Cache::new(cache_dir(), limit_bytes)),
            input_files,
            ..source
        })
    }

    /// Lays out the splits of an opened dataset.
    pub(super) fn lay_out(
        name: &str,
        dataset: Arc<dyn Dataset>,
        modalities: BTreeMap<String, Arc<dyn Modality>>,
        seed: Seed,
        options: &DataSection,
    ) -> Result<Self> {
        let layouts = modalities.iter().map(|(name, m)| (name.clone(), m.layout())).collect();
        let fillers = modalities.iter().map(|(name, m)| (name.clone(), m.filler())).collect();
        let mut source = Self {
            dataset,
            modalities,
            layouts,
            fillers,
            seed,
            splits: BTreeMap::new(),
            skipped: BTreeMap::new(),
            dataset_name: name.to_owned(),
            cache: None,
            input_files: BTreeMap::new(),
        };
        source.check_names(options)?;
        source.read_lists(options)?;
        if source.dataset.samples(Split::Valid).is_empty() && options.validation_share > 0.0 {
            source.split_off_validation(options.validation_share);
        }
        source.check_classes(options)?;
        if let Some(count) = options.train_per_class {
            source.keep_per_class(count)?;
        }
        Ok(source)
    }

    /// Refuses names that stand for two samples, and excluded ones that stand for none.
    fn check_names(&self, options: &DataSection) -> Result<()> {
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
        let Some(unknown) = options.exclude.iter().find(|id| !seen.contains_key(id.as_str()))
        else {
            return Ok(());
        };
        let meant = closest(unknown, seen.into_keys())
            .map_or_else(String::new, |meant| format!(" (did you mean `{meant}`?)"));
        Err(Error::refused(
            format!(
                "data.exclude names `{unknown}`, and dataset `{}` has no such sample{meant}",
                self.dataset_name
            ),
            "write ids as `mie data check` and error messages show them",
        ))
    }

    /// Takes the samples that can be used from the lists of the dataset.
    fn read_lists(&mut self, options: &DataSection) -> Result<()> {
        let excluded: BTreeSet<&str> = options.exclude.iter().map(String::as_str).collect();
        let plugin = format!("dataset `{}`", self.dataset_name);
        for modality in self.modalities.keys() {
            guarded(&plugin, || self.dataset.reachable(modality))?;
        }
        let mut problems = Vec::new();
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
                    continue;
                }
                let found = self.modalities.keys().find_map(|modality| {
                    let found = guarded(&plugin, || {
                        Ok(obstacle(&self.dataset.raw(split, index, modality)?))
                    });
                    found.unwrap_or_else(|error| Some(error.into())).map(|it| (modality, it))
                });
                match found {
                    Some((_, Obstacle { absent: true, reason, .. }))
                        if options.on_missing == OnMissing::Skip =>
                    {
                        skipped.push(format!("{}: {reason}", sample.id));
                    }
                    Some((modality, Obstacle { reason, .. })) => {
                        problems.push((split, &sample.id, modality, reason));
                    }
                    None => entries.push(Entry {
                        split,
                        index,
                        label: sample.label,
                        identity: identity(&sample.id),
                    }),
                }
            }
            self.splits.insert(split, entries);
            self.skipped.insert(split, skipped);
        }
        let Some((split, id, modality, reason)) = problems.first() else { return Ok(()) };
        Err(Error::refused(
            format!(
                "dataset `{}` is incomplete: {} cannot be read, the first is {reason}, the \
                 `{modality}` of sample `{id}` in the {} split",
                self.dataset_name,
                match problems.len() {
                    1 => "1 file".to_owned(),
                    count => format!("{count} files"),
                },
                split.name()
            ),
            format!(
                "complete it (`mie data check` lists what is missing; `mie data fetch {}` brings \
                 it where it is published freely; MIE_DATA_DIR names the data folder), or train \
                 without these samples: data.on_missing = \"skip\" leaves out those whose files \
                 are absent, data.exclude = [{id:?}] this one",
                self.dataset_name
            ),
        ))
    }

    /// Refuses a run in which a class or the validation split has lost all its samples.
    fn check_classes(&self, options: &DataSection) -> Result<()> {
        let listed = self.dataset.samples(Split::Train);
        if listed.is_empty() {
            return Err(Error::refused(
                format!("dataset `{}` has no training sample", self.dataset_name),
                "check its lists with `mie data check`",
            ));
        }
        let validated = self.by_class(Split::Valid);
        for (label, members) in self.by_class(Split::Train).into_iter().enumerate() {
            if !members.is_empty() {
                continue;
            }
            let all: Vec<&Sample> = listed.iter().filter(|it| it.label == label).collect();
            // A class that the lists never had is the dataset's own affair.
            if all.is_empty() {
                continue;
            }
            let excluded = all.iter().filter(|it| options.exclude.contains(&it.id)).count();
            let moved = validated[label].iter().filter(|it| it.split == Split::Train).count();
            let causes = [
                (excluded, "excluded by data.exclude", "exclude fewer of its samples"),
                (all.len() - excluded - moved, "without their files", "bring its files"),
                (moved, "moved to the validation split", "lower data.validation_share"),
            ];
            let causes = causes.iter().filter(|(count, ..)| *count > 0);
            let found: Vec<String> =
                causes.clone().map(|(count, what, _)| format!("{count} {what}")).collect();
            let remedies: Vec<&str> = causes.map(|(.., remedy)| *remedy).collect();
            return Err(Error::refused(
                format!(
                    "class `{}` of dataset `{}` has no training sample left; of {} there are {}",
                    self.dataset.classes()[label],
                    self.dataset_name,
                    all.len(),
                    found.join(", ")
                ),
                remedies.join(", or "),
            ));
        }
        let listed = self.dataset.samples(Split::Valid).len();
        if listed > 0 && self.splits[&Split::Valid].is_empty() {
            return Err(Error::refused(
                format!(
                    "all {listed} validation samples of dataset `{}` are left out",
                    self.dataset_name
                ),
                "bring their files, or exclude fewer of them",
            ));
        }
        Ok(())
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

    /// Names of the samples of a split, in its order.
    pub(crate) fn ids(&self, split: Split) -> Vec<&str> {
        let entries = self.splits.get(&split).into_iter().flatten();
        entries.map(|entry| &*self.dataset.samples(entry.split)[entry.index].id).collect()
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

    /// Adds to an error of decoding which sample it is about and, for a file, what to do.
    pub(super) fn blame(&self, entry: &Entry, modality: &str, error: Error) -> Error {
        let Entry { split, index, .. } = *entry;
        let id = self.dataset.samples(split).get(index).map_or("", |sample| sample.id.as_str());
        let remedy = format!(
            "\n  what to do: mend the file, or train without the sample: data.exclude = [{id:?}]; \
             `mie data check EXPERIMENT --decode` lists all that cannot be decoded"
        );
        let cause = match error {
            Error::Plugin { source, .. } => *source,
            other => other,
        };
        let cause = match cause {
            Error::Data { file, problem } => Error::data(file, problem + &remedy),
            Error::Io { operation, path, source } => {
                Error::data(path, format!("cannot {operation} it: {source}{remedy}"))
            }
            // What a decoder stumbles over is the file it was given.
            Error::Torch(_) | Error::Shape { .. } => {
                let raw = || Ok(first_file(&self.dataset.raw(split, index, modality)?));
                match guarded(modality, raw).ok().flatten() {
                    Some(file) => Error::data(file, format!("{cause}{remedy}")),
                    None => cause,
                }
            }
            other => other,
        };
        cause.in_plugin(&format!("modality `{modality}` of sample `{id}`, {} split", split.name()))
    }

    /// Decodes the modality `name` of a sample, or takes what an earlier epoch decoded.
    pub(super) fn load(
        &self,
        entry: &Entry,
        name: &str,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let raw = self.dataset.raw(entry.split, entry.index, name)?;
        let modality = &self.modalities[name];
        match (&self.cache, modality.cacheable()) {
            (Some(cache), Some(halves)) => cache.with(
                &halves.recipe(mode),
                &raw,
                || halves.decode(&raw, mode),
                |decoded| halves.finish(decoded, mode, draw, out),
            ),
            _ => modality.load(&raw, mode, draw, out),
        }
    }

    /// Why decoded files are no longer kept, once that is so.
    pub fn cache_stopped(&self) -> Option<String> {
        self.cache.as_ref()?.stopped()
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

/// Identity of a sample in random draws: the same on every machine.
pub(crate) fn identity(id: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(id.as_bytes())[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Decoder, Files};
    use super::*;

    /// Four training samples, three of them `yes`, and one to validate with.
    const SAMPLES: [(Split, &str, usize); 5] = [
        (Split::Train, "a", 0),
        (Split::Train, "b", 1),
        (Split::Train, "c", 1),
        (Split::Train, "d", 1),
        (Split::Valid, "e", 1),
    ];

    fn open(samples: &[(Split, &str, usize)], options: &DataSection) -> Result<Arc<DataSource>> {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Files::new(folder.path(), samples);
        drop(std::fs::remove_file(folder.path().join("absent")));
        if folder.path().join("hollow").exists() {
            std::fs::write(folder.path().join("hollow"), "").unwrap();
        }
        dataset.open(Decoder::default(), options)
    }

    fn refusal(samples: &[(Split, &str, usize)], options: &DataSection) -> String {
        open(samples, options).map(|_| ()).unwrap_err().to_string()
    }

    fn without(ids: &[&str]) -> DataSection {
        let exclude = ids.iter().map(|&id| id.to_owned()).collect();
        DataSection { exclude, ..DataSection::default() }
    }

    #[test]
    fn a_class_that_lost_all_its_training_samples_is_refused_by_name() {
        assert_eq!(
            refusal(&SAMPLES, &without(&["a"])),
            "class `no` of dataset `made_up` has no training sample left; of 1 there are 1 \
             excluded by data.exclude\n  what to do: exclude fewer of its samples"
        );
        let skip = DataSection { on_missing: OnMissing::Skip, ..without(&["b", "c"]) };
        let samples = SAMPLES.map(|(split, id, label)| match id {
            "d" => (split, "absent", label),
            _ => (split, id, label),
        });
        let error = refusal(&samples, &skip);
        assert!(error.contains("class `yes`"), "{error}");
        assert!(error.contains("of 3 there are 2 excluded by data.exclude, 1 without"), "{error}");
        // Half of a class of one sample is all of it, by rounding.
        let share = DataSection { validation_share: 0.5, ..DataSection::default() };
        let error = refusal(&SAMPLES[..4], &share);
        assert!(error.contains("class `no`") && error.contains("1 moved to"), "{error}");
        assert!(error.ends_with("lower data.validation_share"), "{error}");
    }

    #[test]
    fn few_labels_and_exclusion_together_name_the_class_that_has_too_few() {
        let options = DataSection { train_per_class: Some(2), ..without(&["b"]) };
        let error = refusal(&SAMPLES, &options);
        assert!(error.contains("class `no` has 1 training samples"), "{error}");
        let options = DataSection { train_per_class: Some(1), ..without(&["b"]) };
        assert_eq!(open(&SAMPLES, &options).unwrap().len(Split::Train), 2);
    }

    #[test]
    fn a_class_that_was_never_listed_stands_in_no_one_s_way() {
        assert_eq!(open(&SAMPLES[1..], &DataSection::default()).unwrap().len(Split::Train), 3);
    }

    #[test]
    fn an_unknown_id_to_exclude_is_refused_with_the_nearest() {
        let samples = [(Split::Train, "3_theo_37", 0), (Split::Train, "4_lucas_1", 1)];
        let error = refusal(&samples, &without(&["4_lucas_1", "3_teho_37"]));
        assert!(error.contains("no such sample (did you mean `3_theo_37`?)"), "{error}");
        let error = refusal(&samples, &without(&["cat"]));
        assert!(error.contains("data.exclude names `cat`, and") && !error.contains("did you"));
    }

    #[test]
    fn only_absent_and_empty_files_are_skipped() {
        let skip = DataSection { on_missing: OnMissing::Skip, ..DataSection::default() };
        let mut samples = SAMPLES.to_vec();
        samples.push((Split::Train, "absent", 1));
        let source = open(&samples, &skip).unwrap();
        assert!(source.records()[0].skipped[0].starts_with("absent: "));
        let hollow = [&SAMPLES[..], &[(Split::Train, "hollow", 1)]].concat();
        let skipped = &open(&hollow, &skip).unwrap().records()[0].skipped;
        assert!(skipped[0].starts_with("hollow: ") && skipped[0].ends_with("(empty)"));
        let error = refusal(&hollow, &DataSection::default());
        assert!(error.contains("hollow (empty), the `file` of sample `hollow`"), "{error}");
        let error = refusal(&samples, &DataSection::default());
        assert!(error.contains("absent (not found), the `file` of sample `absent` in the train"));
        // What the dataset itself cannot find its way to is broken.
        samples.push((Split::Train, "unreachable", 1));
        let error = refusal(&samples, &skip);
        assert!(error.contains("made_up.list: line 3 names no file"), "{error}");
        assert!(error.contains("data.exclude = [\"unreachable\"]"), "{error}");
        let mut skip = skip;
        skip.exclude.push("unreachable".to_owned());
        let skipped = &open(&samples, &skip).unwrap().records()[0].skipped;
        assert_eq!(skipped[1], "unreachable: excluded by data.exclude");
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_not_absent() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Files::new(folder.path(), &SAMPLES);
        std::fs::remove_file(folder.path().join("b")).unwrap();
        std::fs::create_dir(folder.path().join("b")).unwrap();
        let skip = DataSection { on_missing: OnMissing::Skip, ..DataSection::default() };
        let error = dataset.open(Decoder::default(), &skip).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("/b: is not a file, the `file` of sample `b`"), "{error}");
    }

    #[test]
    fn a_validation_split_that_lost_everything_is_not_made_up_from_training_samples() {
        let options = DataSection { validation_share: 0.3, ..without(&["e"]) };
        let error = refusal(&SAMPLES, &options);
        assert!(error.starts_with("all 1 validation samples of dataset `made_up`"), "{error}");
    }
}
