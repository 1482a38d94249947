//! Clips with a recording and frames: what CREMA-D and Kinetics-Sounds share.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mie_core::prelude::*;

use super::util::{no_folder, no_modality, no_sample};
use crate::formats;
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
    /// What is made of the clips' videos: frames and, with `sound`, recordings, both named as the
    /// list names the clip.
    pub(super) fn preparations(
        &self,
        videos: &Videos,
        frames_per_second: u32,
        sound: bool,
    ) -> Vec<Preparation> {
        let frames: Arc<dyn Preparer> = Arc::new(Frames(Every::PerSecond(frames_per_second)));
        let recording: Arc<dyn Preparer> = Arc::new(Sound);
        let mut made = Vec::new();
        for Sample { id: clip, .. } in &self.samples {
            let mut add = |target: PathBuf, by: &Arc<dyn Preparer>| {
                made.push(videos.preparation(clip, target, by));
            };
            add(self.frames.join(clip), &frames);
            if sound {
                add(self.audio.join(format!("{clip}.wav")), &recording);
            }
        }
        made
    }
}

/// The videos of a folder, by their names.
///
/// Kinetics-400 names them `<id>_<start>_<end>`, the times in six digits; lists may have
/// `<id>_<start>`, the time without zeros before it, or `<id>` alone.
pub(super) struct Videos {
    folder: PathBuf,
    ending: &'static str,
    /// Names without their ending.
    names: BTreeSet<String>,
    /// Start and name of those that are named as in Kinetics-400, by id, in order.
    by_id: BTreeMap<String, Vec<(u32, String)>>,
}

impl Videos {
    /// Lists the videos `<name>.<ending>` of a folder; there are none where it is missing.
    pub(super) fn list(folder: PathBuf, ending: &'static str) -> Result<Self> {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            entries => Some(entries.map_err(Error::io("list", &folder))?),
        };
        let mut names = BTreeSet::new();
        for entry in entries.into_iter().flatten() {
            let file = PathBuf::from(entry.map_err(Error::io("list", &folder))?.file_name());
            let name = file.file_stem().and_then(OsStr::to_str);
            if let Some(name) = name.filter(|_| file.extension().is_some_and(|it| it == ending)) {
                names.insert(name.to_owned());
            }
        }
        let mut by_id: BTreeMap<String, Vec<(u32, String)>> = BTreeMap::new();
        for name in &names {
            if let Some((id, start)) = id_and_start(name) {
                by_id.entry(id.to_owned()).or_default().push((start, name.clone()));
            }
        }
        Ok(Self { folder, ending, names, by_id })
    }

    /// Names that a clip of a list may stand for: its own, or else those of its id and, where it
    /// says one, its start.
    fn fitting(&self, clip: &str) -> Vec<&str> {
        if let Some(name) = self.names.get(clip) {
            return vec![name.as_str()];
        }
        let mut fitting: Vec<&str> = self.of(clip).iter().map(|(_, name)| name.as_str()).collect();
        let parts = clip.rsplit_once('_');
        if let Some((id, start)) = parts.and_then(|(id, it)| Some((id, it.parse::<u32>().ok()?))) {
            let others = self.of(id).iter().filter(|(found, _)| *found == start);
            fitting.extend(others.map(|(_, name)| name.as_str()));
        }
        fitting
    }

    fn of(&self, id: &str) -> &[(u32, String)] {
        self.by_id.get(id).map_or(&[], Vec::as_slice)
    }

    /// What is made of the video of a clip; a failure where several may be meant.
    fn preparation(&self, clip: &str, target: PathBuf, by: &Arc<dyn Preparer>) -> Preparation {
        let file = |name: &str| format!("{name}.{}", self.ending);
        let fitting = self.fitting(clip);
        let name = match fitting[..] {
            [] => clip,
            [name] => name,
            _ => {
                let several = Several {
                    clip: clip.to_owned(),
                    meant: file(clip),
                    files: fitting.iter().map(|name| file(name)).collect(),
                };
                let source = self.folder.clone();
                return Preparation { source, target, by: Arc::new(several) };
            }
        };
        Preparation { source: self.folder.join(file(name)), target, by: by.clone() }
    }
}

/// Id and start of a video that is named as in Kinetics-400.
fn id_and_start(name: &str) -> Option<(&str, u32)> {
    let time = |text: &str| {
        let is_time = text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| is_time)
    };
    let (rest, end) = name.rsplit_once('_')?;
    let (id, start) = rest.rsplit_once('_')?;
    time(end)?;
    Some((id, time(start)?))
}

/// Makes nothing of a clip that several videos fit: which one is meant is not for it to guess.
struct Several {
    clip: String,
    /// Name of a file that would be taken before the others.
    meant: String,
    files: Vec<String>,
}

impl Preparer for Several {
    fn name(&self) -> String {
        format!("choice of a video for `{}`", self.clip)
    }

    fn make(&self, source: &Path, _target: &Path) -> Result<()> {
        let Self { clip, meant, files } = self;
        let problem = format!(
            "{} videos fit the clip `{clip}` of the list, expected one: {}; rename the right one \
             to `{meant}`, or take the others away",
            files.len(),
            files.join(", ")
        );
        Err(Error::data(source, problem))
    }
}

/// Refuses to prepare anything while the folder of raw videos is missing that it is made of.
///
/// What is there already needs none.
pub(super) fn expect_videos(wanted: &[Preparation], folder: &Path, guide: &str) -> Result<()> {
    let is_needed = |it: &Preparation| it.source.starts_with(folder) && !it.target.exists();
    if folder.is_dir() || !wanted.iter().any(is_needed) {
        return Ok(());
    }
    Err(Error::data(folder, format!("there is no such folder of videos; {guide}")))
}

/// An opened dataset with the modalities `audio` and `video`.
pub(super) struct Clips {
    /// Name of the plugin.
    pub(super) dataset: &'static str,
    pub(super) classes: Vec<String>,
    pub(super) parts: BTreeMap<Split, Part>,
    /// Says how to get the recordings and frames.
    pub(super) guide: &'static str,
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

    fn reachable(&self, modality: &str) -> Result<()> {
        let folders = self.parts.values().filter(|part| !part.samples.is_empty());
        let mut folders = folders.filter_map(|part| match modality {
            "audio" => Some(&part.audio),
            "video" => Some(&part.frames),
            _ => None,
        });
        let Some(first) = folders.next() else { return Ok(()) };
        // With one of them there, what lies in the others is missing file by file.
        if first.is_dir() || folders.any(|folder| folder.is_dir()) {
            return Ok(());
        }
        Err(no_folder(first, self.guide))
    }

    fn inspect(&self, _modality: &str, raw: &Raw<'_>) -> Result<()> {
        match raw {
            Raw::File(file) => formats::wav::inspect(file),
            Raw::Files(files) => files.iter().try_for_each(|file| formats::picture::inspect(file)),
            _ => Ok(()),
        }
    }

    fn expected(&self) -> Expected {
        self.expected.clone()
    }

    fn differences(&self) -> Vec<String> {
        let mut lines = self.remarks.clone();
        // Where all are missing none is worth a word.
        let missing = self
            .listed_faults()
            .filter(|(known, missing)| *missing && self.reachable(known.modality).is_ok());
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
    use super::fixture::{write_frames, write_recording};
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
    fn a_missing_folder_is_one_fault_and_what_is_cut_off_is_found_without_decoding() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path();
        let sample = |id: &str| Sample { id: id.to_owned(), label: 0 };
        let part = |samples: &[&str], name: &str| Part {
            samples: samples.iter().map(|id| sample(id)).collect(),
            audio: root.join(name).join("wav"),
            frames: root.join(name).join("frames"),
        };
        let clips = Clips {
            dataset: "made_up",
            classes: vec!["only".to_owned()],
            parts: [
                (Split::Train, part(&["a", "b"], "train")),
                // What nothing lies in need not be there.
                (Split::Valid, part(&[], "valid")),
                (Split::Test, part(&["c"], "test")),
            ]
            .into(),
            guide: "take it from there",
            min_frames: 1,
            spectrogram: SpectrogramConfig::default(),
            expected: Expected::default(),
            known_faults: &[KnownFault { clip: "a", modality: "audio", fault: "is silent" }],
            remarks: Vec::new(),
            facts: serde_json::Map::new(),
        };
        let found = || mie_core::data::check::check(&clips, &[], false, &mut |_, _| {}).unwrap();
        for (folder, clip) in [("train", "a"), ("train", "b"), ("test", "c")] {
            write_frames(&root.join(folder).join("frames").join(clip), &["0.jpg", "1.jpg"]);
        }
        let lost = root.join("train/wav").display().to_string();
        let difference = format!("audio: {lost}: there is no such folder; take it from there");
        assert_eq!(found().differences, [difference]);
        write_recording(&root.join("train/wav/a.wav"));
        write_recording(&root.join("train/wav/b.wav"));
        // With a folder for training alone each test clip is missing.
        let report = found();
        assert_eq!((report.missing.len(), report.missing[0].sample.as_str()), (1, "c"));
        write_recording(&root.join("test/wav/c.wav"));
        assert!(found().ok(), "{:?}", found().differences);
        for file in ["train/frames/b/1.jpg", "test/wav/c.wav"] {
            let whole = std::fs::read(root.join(file)).unwrap();
            std::fs::write(root.join(file), &whole[..whole.len() - 20]).unwrap();
        }
        let broken: Vec<String> = found().broken.into_iter().map(|fault| fault.reason).collect();
        assert!(broken[0].contains("b/1.jpg") && broken[0].contains("ends before"), "{broken:?}");
        assert!(broken[1].contains("c.wav") && broken[1].contains("truncated"), "{broken:?}");
        assert_eq!(broken.len(), 2);
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

    /// Lays out videos of these names; gives the folder and what is made of a clip there.
    fn filmed(names: &[&str]) -> (tempfile::TempDir, Videos) {
        let base = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(base.path().join(name), "a video").unwrap();
        }
        let videos = Videos::list(base.path().to_owned(), "mp4").unwrap();
        (base, videos)
    }

    #[test]
    fn a_video_is_found_by_its_name_or_by_its_id_and_start_or_by_its_id_alone() {
        let (_base, videos) = filmed(&[
            "-3Mwkq-7TV4_000002_000012.mp4",
            "a_b_1_000010_000020.mp4",
            "a_b_1_000100_000110.mp4",
            "alone_000007_000017.mp4",
            "alone.flv",
            "exact.mp4",
            "exact_000001_000011.mp4",
            "40_40.000.mp4",
        ]);
        for (clip, fitting) in [
            ("-3Mwkq-7TV4_2", "-3Mwkq-7TV4_000002_000012"),
            ("-3Mwkq-7TV4_000002_000012", "-3Mwkq-7TV4_000002_000012"),
            ("a_b_1_10", "a_b_1_000010_000020"),
            ("a_b_1_100", "a_b_1_000100_000110"),
            ("alone", "alone_000007_000017"),
            ("exact", "exact"),
            ("exact_1", "exact_000001_000011"),
            ("40_40.000", "40_40.000"),
        ] {
            assert_eq!(videos.fitting(clip), [fitting], "{clip}");
        }
        for absent in ["-3Mwkq-7TV4_3", "-3Mwkq-7TV4_2_12", "a_b", "40_40", "a_b_1_10_20", "_2"] {
            assert_eq!(videos.fitting(absent), [""; 0], "{absent}");
        }
    }

    #[test]
    fn a_clip_that_several_videos_fit_is_a_failure_that_names_them() {
        let (base, videos) = filmed(&[
            "a_000010_000020.mp4",
            "a_000100_000110.mp4",
            "b_000002_000012.mp4",
            "b_000002_000007.mp4",
        ]);
        let sample = |id: &str| Sample { id: id.to_owned(), label: 0 };
        let part = Part {
            samples: ["a", "b_2", "a_10", "absent"].map(sample).to_vec(),
            audio: base.path().join("wav"),
            frames: base.path().join("frames"),
        };
        let made = part.preparations(&videos, 1, true);
        assert_eq!(made.len(), 8);
        let reason = |place: usize| {
            let Preparation { source, target, by } = &made[place];
            assert_eq!(source, base.path());
            by.make(source, target).unwrap_err().to_string()
        };
        let end = "2 videos fit the clip `a` of the list, expected one: a_000010_000020.mp4, \
                   a_000100_000110.mp4; rename the right one to `a.mp4`, or take the others away";
        assert!(reason(0).ends_with(end), "{}", reason(0));
        assert_eq!(reason(0), reason(1));
        assert!(reason(2).contains("`b_2`") && reason(2).contains("b_000002_000007.mp4"));
        // What is made is named as the list names the clip, whatever the video is called.
        assert_eq!(made[4].source, base.path().join("a_000010_000020.mp4"));
        assert_eq!(made[4].target, base.path().join("frames/a_10"));
        assert_eq!(made[5].target, base.path().join("wav/a_10.wav"));
        assert_eq!(made[6].source, base.path().join("absent.mp4"));
    }

    #[test]
    fn a_missing_folder_of_videos_is_one_error_unless_nothing_is_to_be_made() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("videos");
        let videos = Videos::list(folder.clone(), "mp4").unwrap();
        let part = Part {
            samples: vec![Sample { id: "a".to_owned(), label: 0 }],
            audio: base.path().join("wav"),
            frames: base.path().join("frames"),
        };
        let made = part.preparations(&videos, 1, false);
        let error = expect_videos(&made, &folder, "take them from there").unwrap_err().to_string();
        let end = "videos: there is no such folder of videos; take them from there";
        assert!(error.ends_with(end), "{error}");
        std::fs::create_dir_all(base.path().join("frames/a")).unwrap();
        assert!(expect_videos(&made, &folder, "").is_ok());
        std::fs::remove_dir(base.path().join("frames/a")).unwrap();
        std::fs::create_dir(&folder).unwrap();
        assert!(expect_videos(&made, &folder, "").is_ok());
    }
}
