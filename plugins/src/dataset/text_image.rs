//! Texts with pictures: what Twitter2015, MMSD and the emoji set share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mie_core::prelude::*;
use serde_json::{Map, Value};

use super::util::{no_folder, no_modality, no_sample};
use crate::formats;
use crate::modality::hashed_words::HashedWordsConfig;
use crate::modality::image::{Channels, ImageConfig, Resize};
use crate::pictures::normalise::Normalise;

/// The name of a picture without the folders before it; `None` for what cannot name a file.
pub(super) fn picture_name(text: &str) -> Option<&str> {
    let name = text.trim().rsplit('/').next()?;
    let is_file_name =
        !name.is_empty() && name != "." && name != ".." && !name.contains(['\\', '\0']);
    is_file_name.then_some(name)
}

/// The name of a picture without its ending.
pub(super) fn stem(picture: &str) -> &str {
    match picture.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => picture,
    }
}

/// Numbers of a complete copy, from those of each class.
pub(super) fn complete<const CLASSES: usize>(counts: &[(Split, [usize; CLASSES])]) -> Expected {
    Expected {
        samples: counts.iter().map(|(split, counts)| (*split, counts.iter().sum())).collect(),
        classes: counts.iter().map(|(split, counts)| (*split, counts.to_vec())).collect(),
    }
}

/// Samples of a split with their texts and pictures.
#[derive(Default)]
pub(super) struct Part {
    samples: Vec<Sample>,
    texts: Vec<String>,
    /// Relative to the folder of pictures.
    pictures: Vec<PathBuf>,
}

impl Part {
    pub(super) fn add(&mut self, sample: Sample, text: String, picture: PathBuf) {
        self.samples.push(sample);
        self.texts.push(text);
        self.pictures.push(picture);
    }
}

/// An opened dataset with the modalities `image` and `text`.
pub(super) struct TextImage {
    /// Name of the plugin.
    pub(super) dataset: &'static str,
    pub(super) classes: Vec<String>,
    pub(super) parts: BTreeMap<Split, Part>,
    /// Folder of the pictures.
    pub(super) folder: PathBuf,
    /// Says how to get the pictures.
    pub(super) guide: &'static str,
    pub(super) expected: Expected,
    /// What differs from a complete copy, in words.
    pub(super) remarks: Vec<String>,
    pub(super) facts: Map<String, Value>,
}

impl Dataset for TextImage {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn samples(&self, split: Split) -> &[Sample] {
        self.parts.get(&split).map_or(&[], |part| part.samples.as_slice())
    }

    fn modalities(&self) -> Vec<String> {
        ["image", "text"].map(str::to_owned).to_vec()
    }

    fn raw(&self, split: Split, index: usize, modality: &str) -> Result<Raw<'_>> {
        let part = self.parts.get(&split).filter(|part| index < part.samples.len());
        let part = part.ok_or_else(|| no_sample(self.dataset, split, index))?;
        match modality {
            "text" => Ok(Raw::Text(&part.texts[index])),
            "image" => Ok(Raw::File(self.folder.join(&part.pictures[index]))),
            other => Err(no_modality(self.dataset, other, &self.modalities())),
        }
    }

    fn reachable(&self, modality: &str) -> Result<()> {
        // Texts alone can be read without it.
        if modality != "image" || self.folder.is_dir() {
            return Ok(());
        }
        Err(no_folder(&self.folder, self.guide))
    }

    fn inspect(&self, _modality: &str, raw: &Raw<'_>) -> Result<()> {
        match raw {
            Raw::File(file) => formats::picture::inspect(file),
            _ => Ok(()),
        }
    }

    fn expected(&self) -> Expected {
        self.expected.clone()
    }

    fn differences(&self) -> Vec<String> {
        self.remarks.clone()
    }

    fn inputs(&self) -> BTreeMap<String, Box<dyn ModalityConfig>> {
        let image = ImageConfig {
            channels: Channels::Rgb,
            resize: Resize::Stretch,
            normalise: Some(Normalise::Unit),
            ..ImageConfig::default()
        };
        // Any text will do that needs no vocabulary.
        [
            ("image".to_owned(), Box::new(image) as Box<dyn ModalityConfig>),
            ("text".to_owned(), Box::new(HashedWordsConfig::default())),
        ]
        .into()
    }

    fn facts(&self) -> Map<String, Value> {
        self.facts.clone()
    }
}

/// What tests of these datasets share.
#[cfg(test)]
pub(super) mod fixture {
    use super::*;

    /// Samples of each class in each split that has any, as [`Expected`] has them.
    pub(in crate::dataset) fn counted(dataset: &dyn Dataset) -> BTreeMap<Split, Vec<usize>> {
        let mut counts = BTreeMap::new();
        for split in Split::ALL {
            let mut classes = vec![0; dataset.classes().len()];
            for sample in dataset.samples(split) {
                classes[sample.label] += 1;
            }
            if !dataset.samples(split).is_empty() {
                counts.insert(split, classes);
            }
        }
        counts
    }

    /// Names of the samples of all splits; panics where two share one.
    pub(in crate::dataset) fn names(dataset: &dyn Dataset) -> Vec<&str> {
        let mut names: Vec<&str> = Split::ALL
            .into_iter()
            .flat_map(|split| dataset.samples(split).iter().map(|sample| sample.id.as_str()))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "two samples share a name");
        names
    }

    /// The text of a sample.
    pub(in crate::dataset) fn text(dataset: &dyn Dataset, split: Split, index: usize) -> &str {
        match dataset.raw(split, index, "text").unwrap() {
            Raw::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// The picture of a sample.
    pub(in crate::dataset) fn picture(
        dataset: &dyn Dataset,
        split: Split,
        index: usize,
    ) -> PathBuf {
        match dataset.raw(split, index, "image").unwrap() {
            Raw::File(file) => file,
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use mie_core::data::check::check;

    use super::*;

    fn made_up(folder: PathBuf) -> TextImage {
        let mut part = Part::default();
        let sample = Sample { id: "a".to_owned(), label: 1 };
        part.add(sample, "words".to_owned(), PathBuf::from("a.jpg"));
        TextImage {
            dataset: "made_up",
            classes: ["no", "yes"].map(str::to_owned).to_vec(),
            parts: [(Split::Train, part)].into(),
            folder,
            guide: "take them from there",
            expected: complete(&[(Split::Train, [0, 1])]),
            remarks: Vec::new(),
            facts: Map::new(),
        }
    }

    #[test]
    fn without_the_folder_of_pictures_texts_are_read_and_pictures_are_explained() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("images");
        let dataset = made_up(folder.clone());
        assert_eq!(dataset.raw(Split::Train, 0, "text").unwrap(), Raw::Text("words"));
        assert!(dataset.reachable("text").is_ok());
        let error = dataset.reachable("image").unwrap_err().to_string();
        assert!(
            error.ends_with("images: there is no such folder; take them from there"),
            "{error}"
        );
        let report = check(&dataset, &[], false, &mut |_, _| {}).unwrap();
        assert_eq!(report.differences, [format!("image: {error}")]);
        assert!(report.missing.is_empty());
        std::fs::create_dir(&folder).unwrap();
        assert!(dataset.reachable("image").is_ok());
        let picture = Raw::File(folder.join("a.jpg"));
        assert_eq!(dataset.raw(Split::Train, 0, "image").unwrap(), picture);
    }

    #[test]
    fn unknown_modalities_and_samples_are_refused() {
        let dataset = made_up(PathBuf::new());
        let error = dataset.raw(Split::Train, 0, "audio").unwrap_err().to_string();
        assert!(error.contains("no modality `audio`, but [\"image\", \"text\"]"), "{error}");
        assert!(dataset.raw(Split::Train, 1, "text").is_err());
        assert!(dataset.raw(Split::Test, 0, "text").is_err());
        assert_eq!(dataset.expected().samples[&Split::Train], 1);
    }

    #[test]
    fn a_picture_is_named_without_folders_and_its_stem_without_the_ending() {
        for (text, name) in [("a.jpg", "a.jpg"), (" images/17_06.jpg ", "17_06.jpg"), ("./b", "b")]
        {
            assert_eq!(picture_name(text), Some(name));
        }
        for text in ["", " ", "a/", "..", "a/..", "a\\b.jpg", "a\0.jpg"] {
            assert_eq!(picture_name(text), None, "{text:?}");
        }
        assert_eq!(stem("17_06.4.jpg"), "17_06.4");
        assert_eq!([stem("a"), stem(".jpg")], ["a", ".jpg"]);
    }
}
