//! Clips with a recording and frames: what CREMA-D and Kinetics-Sounds share.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mie_core::prelude::*;

use super::util::{no_modality, no_sample};
use crate::formats::ffmpeg::{Every, Frames, Sound};
use crate::modality::frames::FramesConfig;
use crate::modality::spectrogram::SpectrogramConfig;

/// Files that list the clips of each split, relative to `root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipLists {
    /// Training clips. Default `annotations/train.csv`.
    pub train: PathBuf,
    /// Validation clips; no list is published that the compared papers share. When absent, the
    /// default, `data.validation_share` splits some off the training clips.
    pub valid: Option<PathBuf>,
    /// Test clips. Default `annotations/test.csv`.
    pub test: PathBuf,
}

impl Default for ClipLists {
    fn default() -> Self {
        Self {
            train: PathBuf::from("annotations/train.csv"),
            valid: None,
            test: PathBuf::from("annotations/test.csv"),
        }
    }
}

impl ClipLists {
    /// Finds the list of each split that has one.
    ///
    /// `elsewhere` holds, by split, names that published lists have; `guide` says how to get them.
    pub(super) fn files(
        &self,
        root: &Path,
        elsewhere: &[(Split, &str)],
        guide: &str,
    ) -> Result<BTreeMap<Split, PathBuf>> {
        let lists = [
            (Split::Train, Some(&self.train)),
            (Split::Valid, self.valid.as_ref()),
            (Split::Test, Some(&self.test)),
        ];
        let mut files = BTreeMap::new();
        for (split, list) in lists {
            let Some(list) = list else { continue };
            let file = root.join(list);
            if !file.is_file() {
                let there =
                    elsewhere.iter().find(|(of, name)| *of == split && root.join(name).is_file());
                let remedy = match there {
                    Some((_, name)) => format!(
                        "but there is `{name}`: set dataset.lists.{} = {name:?} to use it",
                        split.name()
                    ),
                    None => guide.to_owned(),
                };
                return Err(Error::data(file, format!("there is no such list; {remedy}")));
            }
            files.insert(split, file);
        }
        Ok(files)
    }
}

/// A part of a list's line without the blanks and the quotes around it.
pub(super) fn field(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

/// The name of a clip as its recording and its folder of frames have it.
///
/// `None` for what cannot be the name of a file.
pub(super) fn clip_name(text: &str) -> Option<&str> {
    let text = field(text);
    let ending = [".flv", ".mp4", ".wav"].into_iter().find(|ending| text.ends_with(ending));
    let name = ending.and_then(|ending| text.strip_suffix(ending)).unwrap_or(text);
    let is_file_name =
        !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
    is_file_name.then_some(name)
}

/// Refuses to open a dataset of which neither recordings nor frames are there.
///
/// One of the two will do: an experiment may need no more.
pub(super) fn expect_media(audio: &Path, frames: &Path, guide: &str) -> Result<()> {
    if audio.is_dir() || frames.is_dir() {
        return Ok(());
    }
    let other = frames.display();
    Err(Error::data(audio, format!("there is no such folder, nor {other}; {guide}")))
}

/// A clip that cannot be used as it was published.
pub(super) struct KnownFault {
    pub(super) clip: &'static str,
    pub(super) modality: &'static str,
    /// What is wrong with it, as a sentence goes on after "it".
    pub(super) fault: &'static str,
}

impl KnownFault {
    /// Says how the clip stands here and where it is published, and what to do.
    fn told(&self, here: &str) -> String {
        let Self { clip, modality, fault } = self;
        format!(
            "{modality}: `{clip}` is {here}, and faulty where it is published: it {fault}; \
             data.exclude = [{clip:?}] leaves it out"
        )
    }
}

/// Clips of a split and the folders of their recordings and frames.
pub(super) struct Part {
    pub(super) samples: Vec<Sample>,
    pub(super) audio: PathBuf,
    pub(super) frames: PathBuf,
}

impl Part {
    /// What is made of the clips' videos, each `<clip>.<ending>` in `videos`: frames, and `sound`.
    pub(super) fn preparations<'a>(
        &'a self,
        videos: &'a Path,
        ending: &'a str,
        frames_per_second: u32,
        sound: bool,
    ) -> impl Iterator<Item = Preparation> + 'a {
        let frames: Arc<dyn Preparer> = Arc::new(Frames(Every::PerSecond(frames_per_second)));
        let recording: Arc<dyn Preparer> = Arc::new(Sound);
        self.samples.iter().flat_map(move |sample| {
            let clip = &sample.id;
            let source = videos.join(format!("{clip}.{ending}"));
            let of = |target: PathBuf, by: &Arc<dyn Preparer>| Preparation {
                source: source.clone(),
                target,
                by: by.clone(),
            };
            let sound = sound.then(|| of(self.audio.join(format!("{clip}.wav")), &recording));
            [Some(of(self.frames.join(clip), &frames)), sound].into_iter().flatten()
        })
    }
}

/// An opened dataset with the modalities `audio` and `video`.
pub(super) struct Clips {
    /// Name of the plugin.
    pub(super) dataset: &'static str,
    pub(super) classes: Vec<String>,
    pub(super) parts: BTreeMap<Split, Part>,
    /// Fewest frames that a clip is used with.
    pub(super) min_frames: usize,
    /// How the released code decodes its recordings.
    pub(super) spectrogram: SpectrogramConfig,
    pub(super) expected: Expected,
    pub(super) known_faults: &'static [KnownFault],
    /// What is odd about the lists, in words.
    pub(super) remarks: Vec<String>,
    pub(super) facts: serde_json::Map<String, serde_json::Value>,
}

impl Clips {
    /// Where a clip stands in the lists.
    fn position(&self, clip: &str) -> Option<(Split, usize)> {
        self.parts.iter().find_map(|(&split, part)| {
            Some((split, part.samples.iter().position(|sample| sample.id == clip)?))
        })
    }

    /// The known faults of listed clips, each with whether its files are missing here.
    fn listed_faults(&self) -> impl Iterator<Item = (&'static KnownFault, bool)> {
        self.known_faults.iter().filter_map(move |known| {
            let (split, index) = self.position(known.clip)?;
            let missing = match self.raw(split, index, known.modality) {
                Ok(Raw::File(file)) => !file.is_file(),
                other => other.is_err(),
            };
            Some((known, missing))
        })
    }
}

impl Dataset for Clips {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn samples(&self, split: Split) -> &[Sample] {
        self.parts.get(&split).map_or(&[], |part| part.samples.as_slice())
    }

    fn modalities(&self) -> Vec<String> {
        ["audio", "video"].map(str::to_owned).to_vec()
    }

    fn raw(&self, split: Split, index: usize, modality: &str) -> Result<Raw<'_>> {
        let listed =
            self.parts.get(&split).and_then(|part| Some((part, &part.samples.get(index)?.id)));
        let (part, clip) = listed.ok_or_else(|| no_sample(self.dataset, split, index))?;
        match modality {
            "audio" => Ok(Raw::File(part.audio.join(format!("{clip}.wav")))),
            "video" => Ok(Raw::Files(frames(&part.frames.join(clip), self.min_frames)?)),
            other => Err(no_modality(self.dataset, other, &self.modalities())),
        }
    }

    fn expected(&self) -> Expected {
        self.expected.clone()
    }

    fn differences(&self) -> Vec<String> {
        let mut lines = self.remarks.clone();
        let missing = self.listed_faults().filter(|(_, missing)| *missing);
        lines.extend(missing.map(|(known, _)| known.told("missing")));
        lines
    }

    fn notes(&self) -> Vec<String> {
        let there = self.listed_faults().filter(|(_, missing)| !missing);
        there.map(|(known, _)| known.told("there")).collect()
    }

    fn inputs(&self) -> BTreeMap<String, Box<dyn ModalityConfig>> {
        let audio: Box<dyn ModalityConfig> = Box::new(self.spectrogram.clone());
        let video: Box<dyn ModalityConfig> = Box::new(FramesConfig::default());
        [("audio".to_owned(), audio), ("video".to_owned(), video)].into()
    }

    fn facts(&self) -> serde_json::Map<String, serde_json::Value> {
        self.facts.clone()
    }
}

/// Lists the frames of a clip in order.
///
/// Fewer than `least` are the same as none: the error is that of files which are not there.
fn frames(folder: &Path, least: usize) -> Result<Vec<PathBuf>> {
    let names = std::fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<OsString>>>()
    });
    let mut names = names.map_err(Error::io("list", folder))?;
    names.retain(|name| is_frame(name));
    if names.len() < least {
        let problem =
            format!("it has {} of the {least} frames that min_frames asks for", names.len());
        return Err(Error::io("use", folder)(io::Error::new(ErrorKind::NotFound, problem)));
    }
    // By length first, so that numbers without leading zeros come in order too.
    names.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether a file is a JPEG by its name; hidden files are what other systems leave behind.
fn is_frame(name: &OsStr) -> bool {
    let ending = Path::new(name).extension();
    let is_jpeg = ["jpg", "jpeg"]
        .iter()
        .any(|jpeg| ending.is_some_and(|ending| ending.eq_ignore_ascii_case(jpeg)));
    is_jpeg && !name.as_encoded_bytes().starts_with(b".")
}

/// Small recordings and frames for tests.
#[cfg(test)]
pub(super) mod fixture {
    use std::path::Path;

    use mie_core::prelude::*;

    pub(in crate::dataset) fn context(base: &Path) -> OpenContext {
        OpenContext { base: base.to_owned(), seed: Seed(0) }
    }

    /// Writes a file and the folders above it.
    pub(in crate::dataset) fn write(file: &Path, content: &str) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }

    /// Writes a tone of a quarter of a second at 16000 Hz.
    pub(in crate::dataset) fn write_recording(file: &Path) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 16_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(file, spec).unwrap();
        for n in 0..4_000_i16 {
            writer.write_sample(if n % 40 < 20 { 8_000_i16 } else { -8_000 }).unwrap();
        }
        writer.finalize().unwrap();
    }

    /// Writes grey frames of these names into a folder.
    pub(in crate::dataset) fn write_frames(folder: &Path, names: &[&str]) {
        std::fs::create_dir_all(folder).unwrap();
        for name in names {
            let picture = image::RgbImage::from_pixel(16, 12, image::Rgb([90, 90, 90]));
            picture.save_with_format(folder.join(name), image::ImageFormat::Jpeg).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::write_frames;
    use super::*;

    #[test]
    fn frames_come_in_the_order_of_their_numbers_without_other_files() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("clip");
        write_frames(&folder, &["00029.jpg", "00000.JPG", "00058.jpeg", "._00000.jpg"]);
        std::fs::write(folder.join("notes.txt"), "no frame").unwrap();
        let found = frames(&folder, 1).unwrap();
        assert_eq!(found, ["00000.JPG", "00029.jpg", "00058.jpeg"].map(|name| folder.join(name)));
        let folder = base.path().join("other");
        write_frames(&folder, &["10.jpg", "9.jpg", "100.jpg"]);
        let found = frames(&folder, 3).unwrap();
        assert_eq!(found, ["9.jpg", "10.jpg", "100.jpg"].map(|name| folder.join(name)));
    }

    #[test]
    fn too_few_frames_and_no_folder_count_as_not_found() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("clip");
        let kind = |error: Error| match error {
            Error::Io { source, .. } => source.kind(),
            other => panic!("{other}"),
        };
        assert_eq!(kind(frames(&folder, 1).unwrap_err()), ErrorKind::NotFound);
        write_frames(&folder, &["00000.jpg", "00030.jpg"]);
        assert_eq!(frames(&folder, 2).unwrap().len(), 2);
        let error = frames(&folder, 3).unwrap_err();
        let message = error.to_string();
        assert!(
            message.ends_with("clip: it has 2 of the 3 frames that min_frames asks for"),
            "{message}"
        );
        assert_eq!(kind(error), ErrorKind::NotFound);
    }

    #[test]
    fn a_name_of_a_clip_is_a_file_name_without_its_ending() {
        for (text, name) in [
            ("1001_IEO_NEU_XX", "1001_IEO_NEU_XX"),
            ("1085_IWL_SAD_XX.flv", "1085_IWL_SAD_XX"),
            (" \"-3nc7ljnlFQ\" ", "-3nc7ljnlFQ"),
            // A time, no ending.
            ("00W1lcxW-WU_40.000", "00W1lcxW-WU_40.000"),
            ("__Ezu3Z_N9U-000002——000012", "__Ezu3Z_N9U-000002——000012"),
        ] {
            assert_eq!(clip_name(text), Some(name));
        }
        for text in ["", " ", ".wav", "..", "a/b", "../b", "/b", "a\\b", "a\0b", "\"\""] {
            assert_eq!(clip_name(text), None, "{text:?}");
        }
    }
}
