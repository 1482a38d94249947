//! Compares a dataset on disk with what a complete copy holds.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::{Error, Result, guarded};
use crate::family::{
    Buffer, Dataset, Draw, Element, Modality, Mode, Raw, SampleBuffers, Split, TensorLayout,
};
use crate::random::Seed;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Numbers of each split.
    pub splits: BTreeMap<Split, SplitReport>,
    /// Names that more than one sample has.
    pub duplicates: Vec<String>,
    /// Files that do not exist.
    pub missing: Vec<Fault>,
    /// Raw things that cannot be read or decoded.
    pub broken: Vec<Fault>,
    /// Raw things that were decoded without a fault.
    pub decoded: usize,
    /// Modalities that nobody says how to decode, when decoding was asked for.
    pub not_decoded: Vec<String>,
    /// What is worth knowing and no difference, in words.
    pub notes: Vec<String>,
    /// Everything that differs from a complete copy, in words; faults are summed up.
    pub differences: Vec<String>,
}

impl CheckReport {
    /// Whether nothing differs.
    pub fn ok(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Numbers of a split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SplitReport {
    /// Samples found.
    pub samples: usize,
    /// Samples of a complete copy, where known.
    pub expected_samples: Option<usize>,
    /// Samples found of each class.
    pub classes: Vec<usize>,
    /// Samples of each class of a complete copy, where known.
    pub expected_classes: Option<Vec<usize>>,
}

/// A raw thing that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Split of the sample.
    pub split: Split,
    /// Name of the sample.
    pub sample: String,
    /// Its modality.
    pub modality: String,
    /// The file, where it is one.
    pub file: Option<PathBuf>,
    /// What is wrong with it.
    pub reason: String,
}

/// Counts samples, looks for their files and, with `decode`, decodes them by `modalities`.
///
/// Files of all modalities of the dataset are looked for, and looked at as far as the dataset can
/// tell what is cut off or no such file; those without a decoder in `modalities` are not decoded.
/// Where a folder is missing that all files of a modality lie in, that is the only difference.
/// `progress` sees the samples done and their number.
///
/// # Errors
/// When a decoder belongs to a modality that the dataset does not have. Faults of the data are no
/// errors: they are in the report.
pub fn check(
    dataset: &dyn Dataset,
    modalities: &[(String, Box<dyn Modality>)],
    decode: bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<CheckReport> {
    let known = dataset.modalities();
    if let Some((name, _)) = modalities.iter().find(|(name, _)| !known.contains(name)) {
        return Err(Error::refused(
            format!("the dataset has no modality `{name}`, but {known:?}"),
            "use one of these names",
        ));
    }
    let mut decoders: BTreeMap<&str, Decoder<'_>> = if decode {
        modalities.iter().map(|(name, m)| (name.as_str(), Decoder::new(name, m.as_ref()))).collect()
    } else {
        BTreeMap::new()
    };
    let mut report = CheckReport::default();
    if decode {
        report.not_decoded.clone_from(&known);
        report.not_decoded.retain(|name| !decoders.contains_key(name.as_str()));
    }
    count(dataset, &mut report);
    report.differences.extend(dataset.differences());
    report.notes = dataset.notes();
    let mut reachable = Vec::with_capacity(known.len());
    // What several modalities lie in is one fault.
    let mut lost: Vec<(Vec<&str>, String)> = Vec::new();
    for modality in &known {
        match dataset.reachable(modality).map_err(|error| error.to_string()) {
            Ok(()) => reachable.push(modality),
            Err(reason) => match lost.iter_mut().find(|(_, other)| *other == reason) {
                Some((modalities, _)) => modalities.push(modality),
                None => lost.push((vec![modality], reason)),
            },
        }
    }
    let lost = lost.into_iter();
    report.differences.extend(lost.map(|(them, why)| format!("{}: {why}", them.join(", "))));
    let total: usize = Split::ALL.map(|split| dataset.samples(split).len()).iter().sum();
    let mut done = 0;
    for split in Split::ALL {
        for (index, sample) in dataset.samples(split).iter().enumerate() {
            for &modality in &reachable {
                let mut add = |Obstacle { file, reason, absent }| {
                    let (sample, modality) = (sample.id.clone(), modality.clone());
                    let list = if absent { &mut report.missing } else { &mut report.broken };
                    list.push(Fault { split, sample, modality, file, reason });
                };
                let raw = match dataset.raw(split, index, modality) {
                    Ok(raw) => raw,
                    Err(error) => {
                        add(error.into());
                        continue;
                    }
                };
                if let Some(found) = obstacle(&raw) {
                    add(found);
                } else if let Err(error) = dataset.inspect(modality, &raw) {
                    let file = first_file(&raw);
                    add(Obstacle { file, reason: error.to_string(), absent: false });
                } else if let Some(decoder) = decoders.get_mut(modality.as_str()) {
                    match decoder.decode(&raw) {
                        Ok(()) => report.decoded += 1,
                        Err(error) => add(Obstacle {
                            file: first_file(&raw),
                            reason: error.to_string(),
                            absent: false,
                        }),
                    }
                }
            }
            done += 1;
            progress(done, total);
        }
    }
    sum_up(&mut report);
    Ok(report)
}

/// Counts samples by split and class and compares them with a complete copy.
fn count(dataset: &dyn Dataset, report: &mut CheckReport) {
    let expected = dataset.expected();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for split in Split::ALL {
        let name = split.name();
        let samples = dataset.samples(split);
        let mut found = SplitReport {
            samples: samples.len(),
            expected_samples: expected.samples.get(&split).copied(),
            classes: vec![0; dataset.classes().len()],
            expected_classes: expected.classes.get(&split).cloned(),
        };
        for sample in samples {
            *names.entry(&sample.id).or_default() += 1;
            match found.classes.get_mut(sample.label) {
                Some(members) => *members += 1,
                None => report.differences.push(format!(
                    "{name}: sample `{}` has class {} of {}",
                    sample.id,
                    sample.label,
                    dataset.classes().len()
                )),
            }
        }
        if let Some(wanted) = found.expected_samples.filter(|&wanted| wanted != found.samples) {
            let difference = format!("{name}: {} samples, expected {wanted}", found.samples);
            report.differences.push(difference);
        }
        let wanted = found.expected_classes.iter().flatten();
        for (class, (members, wanted)) in found.classes.iter().zip(wanted).enumerate() {
            if members != wanted {
                let class = &dataset.classes()[class];
                report.differences.push(format!(
                    "{name}: class `{class}` has {members} samples, expected {wanted}"
                ));
            }
        }
        report.splits.insert(split, found);
    }
    let repeated = names.into_iter().filter(|&(_, times)| times > 1);
    report.duplicates = repeated.map(|(name, _)| name.to_owned()).collect();
}

/// Adds what was found about files to the differences, a line a kind and modality.
fn sum_up(report: &mut CheckReport) {
    if let Some(first) = report.duplicates.first() {
        let count = report.duplicates.len();
        let line = format!("{count} names belong to several samples, the first is `{first}`");
        report.differences.push(line);
    }
    for (faults, what) in [(&report.missing, "missing"), (&report.broken, "broken")] {
        let mut by_modality: BTreeMap<&str, Vec<&Fault>> = BTreeMap::new();
        for fault in faults {
            by_modality.entry(&fault.modality).or_default().push(fault);
        }
        for (modality, faults) in by_modality {
            let Fault { sample, reason, .. } = faults[0];
            report.differences.push(format!(
                "{modality}: {} {what}, the first is that of `{sample}`: {reason}",
                faults.len()
            ));
        }
    }
}

fn files<'a>(raw: &'a Raw<'_>) -> &'a [PathBuf] {
    match raw {
        Raw::File(file) => std::slice::from_ref(file),
        Raw::Files(files) => files,
        _ => &[],
    }
}

/// The file of a raw thing, the first of several; `None` for what lies in memory.
pub(super) fn first_file(raw: &Raw<'_>) -> Option<PathBuf> {
    files(raw).first().cloned()
}

/// What keeps a raw thing from being read, as far as can be told without opening it.
pub(super) struct Obstacle {
    pub(super) file: Option<PathBuf>,
    /// What is wrong, with the file.
    pub(super) reason: String,
    /// Whether there is no such file; otherwise what is there cannot be used.
    pub(super) absent: bool,
}

impl From<Error> for Obstacle {
    /// Judges the error of a dataset that could not say where a raw thing lies.
    fn from(error: Error) -> Self {
        let cause = match &error {
            Error::Plugin { source, .. } => source,
            other => other,
        };
        let (file, absent) = match cause {
            Error::Io { path, source, .. } => (Some(path.clone()), is_absent(source)),
            Error::Data { file, .. } => (Some(file.clone()), false),
            _ => (None, false),
        };
        Self { file, reason: error.to_string(), absent }
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Looks for the files of a raw thing, and gives the first that cannot be read.
pub(super) fn obstacle(raw: &Raw<'_>) -> Option<Obstacle> {
    if matches!(raw, Raw::Files(files) if files.is_empty()) {
        let reason = "there are no files".to_owned();
        return Some(Obstacle { file: None, reason, absent: true });
    }
    files(raw).iter().find_map(|file| {
        let shown = file.display();
        let (reason, absent) = match std::fs::metadata(file) {
            Ok(found) if found.is_file() && found.len() > 0 => return None,
            Ok(found) if found.is_file() => (format!("{shown} (empty)"), true),
            Ok(_) => (format!("{shown}: is not a file"), false),
            Err(error) if is_absent(&error) => (format!("{shown} (not found)"), true),
            Err(error) => (format!("{shown}: cannot be read: {error}"), false),
        };
        Some(Obstacle { file: Some(file.clone()), reason, absent })
    })
}

/// A modality with memory for a sample.
struct Decoder<'a> {
    name: &'a str,
    modality: &'a dyn Modality,
    tensors: Vec<Memory>,
}

enum Memory {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl<'a> Decoder<'a> {
    fn new(name: &'a str, modality: &'a dyn Modality) -> Self {
        let memory = |layout: &TensorLayout| match layout.element {
            Element::F32 => Memory::Floats(vec![0.0; layout.len()]),
            Element::I64 => Memory::Integers(vec![0; layout.len()]),
        };
        Self { name, modality, tensors: modality.layout().iter().map(memory).collect() }
    }

    /// Decodes as for evaluation and refuses values that are not finite.
    fn decode(&mut self, raw: &Raw<'_>) -> Result<()> {
        let buffers = self.tensors.iter_mut().map(|memory| match memory {
            Memory::Floats(values) => {
                // What a decoder leaves out altogether is no number and found below.
                values.fill(f32::NAN);
                Buffer::F32(values)
            }
            Memory::Integers(values) => Buffer::I64(values),
        });
        let mut buffers = SampleBuffers::new(buffers.collect());
        let draw = Draw { seed: Seed(0), modality: self.name, epoch: 0, sample: 0 };
        guarded(&format!("modality `{}`", self.name), || {
            self.modality.load(raw, Mode::Evaluation, &draw, &mut buffers)
        })?;
        for memory in &self.tensors {
            if let Memory::Floats(values) = memory
                && let Some(position) = values.iter().position(|value| !value.is_finite())
            {
                return Err(Error::shape(
                    format!("value {position} of modality `{}`", self.name),
                    "a finite number",
                    values[position],
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::family::{Expected, Sample};

    /// Two samples to train with and one to test with, each a text and a file `<id>.txt`.
    struct Texts {
        folder: PathBuf,
        classes: Vec<String>,
        train: Vec<Sample>,
        test: Vec<Sample>,
        noted: Vec<String>,
        /// Whether the folder of the files is missing, and whether texts lie in it, too.
        lost: bool,
        all_lost: bool,
    }

    impl Texts {
        fn new(folder: &Path) -> Self {
            let sample = |id: &str, label| Sample { id: id.to_owned(), label };
            for name in ["a", "b", "c"] {
                std::fs::write(folder.join(name).with_extension("txt"), name).unwrap();
            }
            Self {
                folder: folder.to_owned(),
                classes: vec!["no".to_owned(), "yes".to_owned()],
                train: vec![sample("a", 0), sample("b", 1)],
                test: vec![sample("c", 1)],
                noted: Vec::new(),
                lost: false,
                all_lost: false,
            }
        }
    }

    impl Dataset for Texts {
        fn classes(&self) -> &[String] {
            &self.classes
        }

        fn samples(&self, split: Split) -> &[Sample] {
            match split {
                Split::Train => &self.train,
                Split::Valid => &[],
                Split::Test => &self.test,
            }
        }

        fn modalities(&self) -> Vec<String> {
            vec!["file".to_owned(), "text".to_owned()]
        }

        fn raw(&self, split: Split, index: usize, modality: &str) -> Result<Raw<'_>> {
            let id = &self.samples(split)[index].id;
            Ok(match modality {
                "file" => Raw::File(self.folder.join(id).with_extension("txt")),
                _ => Raw::Text(id),
            })
        }

        fn notes(&self) -> Vec<String> {
            self.noted.clone()
        }

        fn reachable(&self, modality: &str) -> Result<()> {
            let lost = self.lost && (modality == "file" || self.all_lost);
            if lost { Err(Error::data("texts", "there is no such folder")) } else { Ok(()) }
        }

        /// Finds those that end in the middle.
        fn inspect(&self, _modality: &str, raw: &Raw<'_>) -> Result<()> {
            let Raw::File(file) = raw else { return Ok(()) };
            let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
            if text == "cut" { Err(Error::data(file, "ends in the middle")) } else { Ok(()) }
        }

        fn expected(&self) -> Expected {
            Expected {
                samples: [(Split::Train, 2), (Split::Test, 1)].into(),
                classes: [(Split::Train, vec![1, 1]), (Split::Test, vec![0, 1])].into(),
            }
        }
    }

    /// Gives the length of a text or of a file's name; fails, panics or stays silent on request.
    struct Length;

    impl Modality for Length {
        fn layout(&self) -> Vec<TensorLayout> {
            TensorLayout::value(&[1])
        }

        fn load(
            &self,
            raw: &Raw<'_>,
            _mode: Mode,
            _draw: &Draw<'_>,
            out: &mut SampleBuffers<'_>,
        ) -> Result<()> {
            let length = match raw {
                Raw::Text("fails") => return Err(Error::data("fails.txt", "is broken")),
                Raw::Text("silent") => return Ok(()),
                Raw::Text(text) => {
                    assert!(*text != "panics", "no such length");
                    text.len()
                }
                other => files(other)[0].as_os_str().len(),
            };
            out.f32(0)?[0] = length as f32;
            Ok(())
        }
    }

    fn decoders(names: &[&str]) -> Vec<(String, Box<dyn Modality>)> {
        names.iter().map(|&name| (name.to_owned(), Box::new(Length) as Box<dyn Modality>)).collect()
    }

    #[test]
    fn a_complete_copy_has_no_differences() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Texts::new(folder.path());
        let mut seen = Vec::new();
        let report = check(&dataset, &decoders(&["file", "text"]), true, &mut |done, total| {
            seen.push((done, total));
        })
        .unwrap();
        assert!(report.ok(), "{:?}", report.differences);
        assert_eq!(report.decoded, 6);
        assert_eq!(seen, [(1, 3), (2, 3), (3, 3)]);
        assert_eq!(report.splits[&Split::Train].classes, [1, 1]);
        assert_eq!(report.splits[&Split::Valid].expected_samples, None);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["splits"]["test"]["samples"], 1);
    }

    #[test]
    fn notes_are_passed_on_and_are_no_differences() {
        let folder = tempfile::tempdir().unwrap();
        let mut dataset = Texts::new(folder.path());
        dataset.noted.push("file: `b` is short where it is published".to_owned());
        let report = check(&dataset, &[], false, &mut |_, _| {}).unwrap();
        assert_eq!(report.notes, dataset.noted);
        assert!(report.ok(), "{:?}", report.differences);
    }

    #[test]
    fn other_numbers_are_differences() {
        let folder = tempfile::tempdir().unwrap();
        let mut dataset = Texts::new(folder.path());
        dataset.train[1].label = 0;
        dataset.test.clear();
        let report = check(&dataset, &[], false, &mut |_, _| {}).unwrap();
        assert_eq!(
            report.differences,
            [
                "train: class `no` has 2 samples, expected 1",
                "train: class `yes` has 0 samples, expected 1",
                "test: 0 samples, expected 1",
                "test: class `yes` has 0 samples, expected 1",
            ]
        );
        dataset.train[0].label = 7;
        let report = check(&dataset, &[], false, &mut |_, _| {}).unwrap();
        assert_eq!(report.differences[0], "train: sample `a` has class 7 of 2");
    }

    #[test]
    fn a_name_in_two_splits_is_a_difference() {
        let folder = tempfile::tempdir().unwrap();
        let mut dataset = Texts::new(folder.path());
        dataset.test[0].id = "b".to_owned();
        let report = check(&dataset, &[], false, &mut |_, _| {}).unwrap();
        assert_eq!(report.duplicates, ["b"]);
        assert_eq!(report.differences, ["1 names belong to several samples, the first is `b`"]);
    }

    #[test]
    fn missing_files_are_listed_with_or_without_decoding() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Texts::new(folder.path());
        let absent = folder.path().join("b.txt");
        std::fs::remove_file(&absent).unwrap();
        for decode in [false, true] {
            let report = check(&dataset, &decoders(&["file"]), decode, &mut |_, _| {}).unwrap();
            assert_eq!(report.missing.len(), 1);
            assert_eq!(report.missing[0].file.as_ref(), Some(&absent));
            assert_eq!(report.decoded, if decode { 2 } else { 0 });
            let line = format!(
                "file: 1 missing, the first is that of `b`: {} (not found)",
                absent.display()
            );
            assert_eq!(report.differences, [line]);
        }
    }

    #[test]
    fn a_missing_folder_is_one_difference_and_no_fault_of_each_sample() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Texts { lost: true, ..Texts::new(folder.path()) };
        for decode in [false, true] {
            let all = decoders(&["file", "text"]);
            let report = check(&dataset, &all, decode, &mut |_, _| {}).unwrap();
            assert_eq!(report.differences, ["file: texts: there is no such folder"]);
            assert!(report.missing.is_empty() && report.broken.is_empty(), "{report:?}");
            assert_eq!(report.decoded, if decode { 3 } else { 0 });
        }
        let dataset = Texts { all_lost: true, ..dataset };
        let report = check(&dataset, &[], false, &mut |_, _| {}).unwrap();
        assert_eq!(report.differences, ["file, text: texts: there is no such folder"]);
    }

    #[test]
    fn what_is_cut_off_is_broken_without_being_decoded() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Texts::new(folder.path());
        let file = folder.path().join("b.txt");
        std::fs::write(&file, "cut").unwrap();
        let report = check(&dataset, &[], false, &mut |_, _| {}).unwrap();
        assert_eq!(report.broken.len(), 1);
        assert_eq!(report.broken[0].file.as_ref(), Some(&file));
        let line = format!(
            "file: 1 broken, the first is that of `b`: {}: ends in the middle",
            file.display()
        );
        assert_eq!(report.differences, [line]);
    }

    #[test]
    fn what_cannot_be_decoded_is_broken_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut dataset = Texts::new(folder.path());
        dataset.train[0].id = "fails".to_owned();
        dataset.train[1].id = "panics".to_owned();
        dataset.test[0].id = "silent".to_owned();
        let report = check(&dataset, &decoders(&["text"]), true, &mut |_, _| {}).unwrap();
        assert_eq!((report.broken.len(), report.decoded), (3, 0));
        assert_eq!(report.not_decoded, ["file"]);
        let reasons: Vec<&str> = report.broken.iter().map(|fault| fault.reason.as_str()).collect();
        assert!(reasons[0].contains("fails.txt: is broken"), "{}", reasons[0]);
        assert!(reasons[1].contains("modality `text`"), "{}", reasons[1]);
        assert!(reasons[2].contains("expected \"a finite number\", found NaN"), "{}", reasons[2]);
        let line = report.differences.iter().find(|line| line.contains("3 broken")).unwrap();
        assert!(line.starts_with("text: 3 broken, the first is that of `fails`"), "{line}");
    }

    #[test]
    fn a_decoder_for_a_modality_that_does_not_exist_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Texts::new(folder.path());
        let error = check(&dataset, &decoders(&["video"]), true, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("no modality `video`, but [\"file\", \"text\"]"));
    }
}
