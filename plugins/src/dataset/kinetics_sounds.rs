//! Kinetics-Sounds: videos of actions that can be seen and heard.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mie_core::prelude::*;

use super::clips::{ClipLists, Clips, Part, Videos, clip_name, expect_videos, field};
use crate::formats::lists;
use crate::modality::spectrogram::SpectrogramConfig;

/// Reads Kinetics-Sounds: actions of Kinetics-400 that can be seen and heard.
///
/// 31 classes of clips of about 10 s. There is no archive of it: the clips are those of
/// Kinetics-400 (<https://github.com/cvdfoundation/kinetics-dataset>) of these classes. Lists of
/// 14799 training and 2597 test clips are at <https://github.com/GeWu-Lab/OGM-GE_CVPR2022> in
/// `data/KineticSound`; the lists of the MIE paper, of about 15000, 1900 and 1900 clips, are not
/// published. Sound and frames are expected as below; `mie data prepare kinetics_sounds` makes them
/// of the videos in `train_video` and `test_video` (those of validation are in `train_video`). The
/// video of a clip has its name, or that of Kinetics-400, `<id>_<start>_<end>.mp4`, where the list
/// has `<id>_<start>` or `<id>` alone and only one video fits.
///
/// ```text
/// kinetics_sound/annotations/train.csv
/// kinetics_sound/annotations/test.csv
/// kinetics_sound/train_wav/<clip>.wav
/// kinetics_sound/train_img/Image-01-FPS/<clip>/<frame>.jpg
/// kinetics_sound/test_wav/<clip>.wav
/// kinetics_sound/test_img/Image-01-FPS/<clip>/<frame>.jpg
/// ```
///
/// A list is in one of these forms; `index` counts the classes in alphabetical order from 0:
///
/// ```text
/// name,10,index           OGM-GE; 10 are the seconds
/// youtube_id,label        header of MIE's, AV-CIL's and others' lists; further columns are
///                         ignored; the label is the name of a class
/// name … index            BalanceBenchmark, separated by blanks
/// ```
///
/// Modalities: `audio`, a WAVE file; `video`, the frames of a clip. Frames are sorted by name,
/// while the released code of MIE takes them as the folder happens to give them, which cannot be
/// repeated. It leaves out clips without files silently; here `data.on_missing` decides.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KineticsSoundsConfig {
    /// Folder of the dataset, relative to the data folder. Default `kinetics_sound`.
    pub root: PathBuf,
    /// Form of the lists. Default `auto`.
    pub form: KineticsSoundsForm,
    /// What decides which class has which label. Default `alphabetical`, the order of the
    /// published indices.
    pub class_order: ClassOrder,
    /// Folder of the recordings of training and validation clips, relative to `root`. Default
    /// `train_wav`.
    pub train_audio: PathBuf,
    /// Folder of the frames of training and validation clips, relative to `root`: in it lies a
    /// folder named after `frames_per_second`, with a folder for each clip. Default `train_img`.
    pub train_frames: PathBuf,
    /// Folder of the recordings of test clips, relative to `root`. Default `test_wav`.
    pub test_audio: PathBuf,
    /// Folder of the frames of test clips, relative to `root`. Default `test_img`.
    pub test_frames: PathBuf,
    /// Folder of the videos of training and validation clips, relative to `root`, that `mie data
    /// prepare` takes recordings and frames out of. Default `train_video`.
    pub train_videos: PathBuf,
    /// Folder of the videos of test clips, relative to `root`. Default `test_video`.
    pub test_videos: PathBuf,
    /// Frames that were kept of each second, in [1, 99]; the frames are looked for in
    /// `Image-01-FPS` for 1, `Image-02-FPS` for 2. Default 1, as in the released code of MIE.
    pub frames_per_second: u32,
    /// Fewest frames of a clip, at least 1; with fewer its video counts as missing. Default 4: the
    /// released code of MIE drops clips with 3 frames or fewer.
    pub min_frames: usize,
    /// Lists of the clips of each split.
    pub lists: ClipLists,
}

/// How a list of Kinetics-Sounds is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KineticsSoundsForm {
    /// Any of the others: `headed` by its header, the other two line by line.
    Auto,
    /// `name,10,index`.
    OgmGe,
    /// A header with at least `youtube_id` and `label`, then a value for each of its columns.
    Headed,
    /// `name … index`, separated by blanks.
    BalanceBenchmark,
}

/// What decides which class has which label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassOrder {
    /// The alphabet: of the 31 classes where a training list has indices, else of those it names.
    Alphabetical,
    /// The first line of the training list with a clip of the class, as in the released code of
    /// MIE. That counts only clips whose files exist; here the whole list counts, so that labels
    /// do not depend on which files are there. The order is recorded with a run.
    FirstAppearance,
}

impl Default for KineticsSoundsConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("kinetics_sound"),
            form: KineticsSoundsForm::Auto,
            class_order: ClassOrder::Alphabetical,
            train_audio: PathBuf::from("train_wav"),
            train_frames: PathBuf::from("train_img"),
            test_audio: PathBuf::from("test_wav"),
            test_frames: PathBuf::from("test_img"),
            train_videos: PathBuf::from("train_video"),
            test_videos: PathBuf::from("test_video"),
            frames_per_second: 1,
            min_frames: 4,
            lists: ClipLists::default(),
        }
    }
}

/// The classes in the order of the published indices.
const CLASSES: [&str; 31] = [
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
];

/// Clips of each class in the lists of OGM-GE.
const PUBLISHED: [(Split, [usize; 31]); 2] = [
    (
        Split::Train,
        [
            268, 690, 607, 512, 497, 445, 635, 478, 457, 605, 563, 486, 604, 592, 366, 339, 333,
            489, 653, 538, 654, 386, 281, 493, 395, 672, 197, 523, 433, 354, 254,
        ],
    ),
    (
        Split::Test,
        [
            81, 92, 87, 87, 87, 68, 90, 90, 86, 79, 91, 88, 73, 85, 86, 91, 82, 84, 90, 90, 83, 91,
            80, 92, 79, 66, 85, 84, 91, 76, 63,
        ],
    ),
];

/// Names, by split, that published lists have where they are not laid out yet.
const ELSEWHERE: [(Split, &str); 6] = [
    (Split::Train, "annotations/my_train.txt"),
    (Split::Train, "my_train.txt"),
    (Split::Valid, "annotations/weight.csv"),
    (Split::Valid, "annotations/val.csv"),
    (Split::Test, "annotations/my_test.txt"),
    (Split::Test, "my_test.txt"),
];

/// Names of OGM-GE's lists.
const OGM_GE_NAMES: [&str; 2] = ["my_train.txt", "my_test.txt"];

const GUIDE: &str = "take the clips of the 31 classes from Kinetics-400 \
                     (https://github.com/cvdfoundation/kinetics-dataset) and my_train.txt and \
                     my_test.txt from https://github.com/GeWu-Lab/OGM-GE_CVPR2022 \
                     (data/KineticSound); lay them out as kinetics_sound/annotations/<list> and \
                     kinetics_sound/{train_video,test_video}/<video>.mp4 in the data folder, which \
                     MIE_DATA_DIR names, and `mie data prepare kinetics_sounds` makes of them \
                     kinetics_sound/train_wav/<clip>.wav and \
                     kinetics_sound/train_img/Image-01-FPS/<clip>/<frame>.jpg, likewise test_wav \
                     and test_img";

#[typetag::serde(name = "kinetics_sounds")]
impl DatasetConfig for KineticsSoundsConfig {
    fn validate(&self) -> Result<()> {
        let rate = self.frames_per_second;
        ensure_range("frames_per_second", "[1, 99]", rate, (1..=99).contains(&rate))?;
        ensure_range("min_frames", "at least 1", self.min_frames, self.min_frames >= 1)
    }

    fn class_count(&self) -> Option<usize> {
        Some(CLASSES.len())
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>> {
        self.validate()?;
        let root = context.resolve(&self.root);
        let mut listed = BTreeMap::new();
        for (split, file) in self.lists.files(&root, &ELSEWHERE, GUIDE)? {
            let rows = read_list(&file, self.form)?;
            listed.insert(split, (file, rows));
        }
        let training = listed.get(&Split::Train).map_or(&[][..], |(_, rows)| rows.as_slice());
        let classes = self.class_order.classes(training);
        let labels: BTreeMap<&str, usize> =
            classes.iter().enumerate().map(|(label, name)| (name.as_str(), label)).collect();
        let expected = if self.is_published(listed.values().flat_map(|(_, rows)| rows)) {
            published(&labels)
        } else if self.is_av_cil(classes.len()) {
            let samples = [(Split::Train, 19_220), (Split::Valid, 1947), (Split::Test, 1958)];
            Expected { samples: samples.into(), classes: BTreeMap::new() }
        } else {
            Expected::default()
        };
        let mut parts = BTreeMap::new();
        for (split, (file, rows)) in &listed {
            let sample = |row: &Row| {
                let label = labels.get(row.class.as_str());
                let sample = label.map(|&label| Sample { id: row.clip.clone(), label });
                let wanted = "a class that the training list has too";
                sample.ok_or_else(|| lists::fault(file, row.line, &row.class, wanted))
            };
            let samples = rows.iter().map(sample).collect::<Result<Vec<_>>>()?;
            let (audio, frames) = self.folders(&root, *split);
            parts.insert(*split, Part { samples, audio, frames });
        }
        let mut facts = serde_json::Map::new();
        if self.class_order == ClassOrder::FirstAppearance {
            // Labels of one run are not those of another with other lists.
            facts.insert("classes_by_first_appearance".to_owned(), classes.clone().into());
        }
        Ok(Box::new(Clips {
            dataset: "kinetics_sounds",
            classes,
            parts,
            guide: GUIDE,
            min_frames: self.min_frames,
            spectrogram: SpectrogramConfig {
                sample_rate_hertz: 35_400,
                length_samples: 354_000,
                ..SpectrogramConfig::default()
            },
            expected,
            known_faults: &[],
            remarks: Vec::new(),
            facts,
        }))
    }

    fn preparations(&self, context: &OpenContext) -> Result<Vec<Preparation>> {
        let root = context.resolve(&self.root);
        let mut preparations = Vec::new();
        for (split, file) in self.lists.files(&root, &ELSEWHERE, GUIDE)? {
            let rows = read_list(&file, self.form)?;
            let samples = rows.into_iter().map(|row| Sample { id: row.clip, label: 0 }).collect();
            let (audio, frames) = self.folders(&root, split);
            let videos = root.join(match split {
                Split::Test => &self.test_videos,
                _ => &self.train_videos,
            });
            let part = Part { samples, audio, frames };
            let found = Videos::list(videos.clone(), "mp4")?;
            let made = part.preparations(&found, self.frames_per_second, true);
            expect_videos(&made, &videos, GUIDE)?;
            preparations.extend(made);
        }
        Ok(preparations)
    }
}
register!(
    dataset::<KineticsSoundsConfig>,
    source = "Arandjelovic and Zisserman 2017, arXiv:1705.08168; Kay et al. 2017, \
              arXiv:1705.06950; lists: https://github.com/GeWu-Lab/OGM-GE_CVPR2022 \
              (data/KineticSound), https://github.com/njustkmg/IJCAI25-IGM (datasets/KS.py)"
);

impl KineticsSoundsConfig {
    /// Folders of recordings and of folders with frames. Validation clips lie with those of
    /// training, of which they are part.
    fn folders(&self, root: &Path, split: Split) -> (PathBuf, PathBuf) {
        let (audio, frames) = match split {
            Split::Train | Split::Valid => (&self.train_audio, &self.train_frames),
            Split::Test => (&self.test_audio, &self.test_frames),
        };
        let rate = format!("Image-{:02}-FPS", self.frames_per_second);
        (root.join(audio), root.join(frames).join(rate))
    }

    /// Whether the lists are those whose numbers are known: OGM-GE's, by their form and names.
    fn is_published<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> bool {
        let lists = [&self.lists.train, &self.lists.test];
        let own_names = lists.iter().zip(OGM_GE_NAMES).all(|(list, name)| list.ends_with(name));
        let named = own_names && self.lists.valid.is_none() || self.lists == ClipLists::default();
        named && rows.into_iter().all(|row| row.form == KineticsSoundsForm::OgmGe)
    }

    /// Whether the lists are AV-CIL's: of 30 classes, with one for validation.
    fn is_av_cil(&self, classes: usize) -> bool {
        let ClipLists { train, valid, test } = &self.lists;
        classes == CLASSES.len() - 1
            && train.ends_with("train.csv")
            && valid.as_ref().is_some_and(|valid| valid.ends_with("val.csv"))
            && test.ends_with("test.csv")
    }
}

/// The numbers of OGM-GE's lists, in label order.
fn published(labels: &BTreeMap<&str, usize>) -> Expected {
    let by_label = |counts: &[usize; 31]| {
        let mut numbers = vec![0; labels.len()];
        for (name, count) in CLASSES.iter().zip(counts) {
            if let Some(&label) = labels.get(name) {
                numbers[label] = *count;
            }
        }
        numbers
    };
    Expected {
        samples: PUBLISHED
            .iter()
            .map(|(split, counts)| (*split, counts.iter().sum::<usize>()))
            .collect(),
        classes: PUBLISHED.iter().map(|(split, counts)| (*split, by_label(counts))).collect(),
    }
}

impl ClassOrder {
    /// Names of the classes in label order.
    fn classes(self, training: &[Row]) -> Vec<String> {
        let names = training.iter().map(|row| row.class.as_str());
        let indexed = training.iter().any(|row| row.form != KineticsSoundsForm::Headed);
        match self {
            Self::FirstAppearance => {
                let mut seen = BTreeSet::new();
                names.filter(|name| seen.insert(*name)).map(str::to_owned).collect()
            }
            Self::Alphabetical => {
                let known: &[&str] = if indexed { &CLASSES[..] } else { &[] };
                let names: BTreeSet<&str> = names.chain(known.iter().copied()).collect();
                names.into_iter().map(str::to_owned).collect()
            }
        }
    }
}

/// A clip of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    /// Number of its line, from 1.
    line: usize,
    clip: String,
    /// Name of its class.
    class: String,
    /// How its line is written, never `Auto`.
    form: KineticsSoundsForm,
}

/// Reads the clips of a split.
fn read_list(file: &Path, form: KineticsSoundsForm) -> Result<Vec<Row>> {
    let lines = lists::lines(file)?;
    let first = lines.first().map_or((1, ""), |(number, line)| (*number, line.as_str()));
    let columns = match form {
        KineticsSoundsForm::Auto | KineticsSoundsForm::Headed => Columns::of(first.1),
        KineticsSoundsForm::OgmGe | KineticsSoundsForm::BalanceBenchmark => None,
    };
    if form == KineticsSoundsForm::Headed && columns.is_none() {
        let wanted = "a header with the columns `youtube_id` and `label`, separated by commas";
        return Err(lists::fault(file, first.0, first.1, wanted));
    }
    let rows = lines.iter().skip(usize::from(columns.is_some()));
    rows.map(|(number, line)| {
        let (row, wanted) = match &columns {
            Some(columns) => (
                columns.row(line),
                "a value for each column of the header, separated by commas, among them the name \
                 of a clip and of a class",
            ),
            None => (indexed_row(line, form), expected_line(form)),
        };
        let (clip, class, form) = row.ok_or_else(|| lists::fault(file, *number, line, wanted))?;
        Ok(Row { line: *number, clip, class, form })
    })
    .collect()
}

/// Clip, class and form.
type Parsed = (String, String, KineticsSoundsForm);

/// Where a list with a header has its values.
struct Columns {
    count: usize,
    clip: usize,
    label: usize,
}

impl Columns {
    /// Finds the columns; `None` for a line that is no header.
    fn of(line: &str) -> Option<Self> {
        let position = |wanted: &str| line.split(',').position(|name| field(name) == wanted);
        Some(Self {
            count: line.split(',').count(),
            clip: position("youtube_id")?,
            label: position("label")?,
        })
    }

    fn row(&self, line: &str) -> Option<Parsed> {
        let values: Vec<&str> = line.split(',').map(field).collect();
        let class = *values.get(self.label)?;
        let clip = clip_name(values.get(self.clip)?)?;
        let whole = values.len() == self.count && !class.is_empty();
        whole.then(|| (clip.to_owned(), class.to_owned(), KineticsSoundsForm::Headed))
    }
}

/// Reads a line that has the index of its class.
fn indexed_row(line: &str, form: KineticsSoundsForm) -> Option<Parsed> {
    let by_comma = match form {
        KineticsSoundsForm::Auto => line.contains(','),
        other => other == KineticsSoundsForm::OgmGe,
    };
    let (clip, index, form) = if by_comma {
        let values: Vec<&str> = line.split(',').map(field).collect();
        let &[clip, seconds, index] = values.as_slice() else { return None };
        seconds.parse::<u32>().ok()?;
        (clip, index, KineticsSoundsForm::OgmGe)
    } else {
        let mut words = line.split_whitespace();
        (words.next()?, words.next_back()?, KineticsSoundsForm::BalanceBenchmark)
    };
    let class = CLASSES.get(index.parse::<usize>().ok()?)?;
    Some((clip_name(clip)?.to_owned(), (*class).to_owned(), form))
}

fn expected_line(form: KineticsSoundsForm) -> &'static str {
    match form {
        KineticsSoundsForm::OgmGe => "`name,seconds,index` with the index of a class, 0 to 30",
        KineticsSoundsForm::BalanceBenchmark => {
            "`name … index`, separated by blanks, with the index of a class, 0 to 30"
        }
        KineticsSoundsForm::Auto | KineticsSoundsForm::Headed => {
            "`name,seconds,index` or `name … index` with the index of a class, 0 to 30; a list \
             with names of classes starts with a header that has `youtube_id` and `label`"
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::super::clips::fixture::{context, write, write_frames, write_recording};
    use super::*;
    use crate::formats::real_data;

    /// Reads a list of this content: clips and classes.
    fn read(content: &str, form: KineticsSoundsForm) -> Result<Vec<(String, String)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        Ok(pairs(&read_list(file.path(), form)?))
    }

    fn pairs(rows: &[Row]) -> Vec<(String, String)> {
        rows.iter().map(|row| (row.clip.clone(), row.class.clone())).collect()
    }

    fn labelled(dataset: &dyn Dataset, split: Split) -> Vec<(&str, usize)> {
        dataset.samples(split).iter().map(|sample| (sample.id.as_str(), sample.label)).collect()
    }

    const FIVE: [&str; 5] = ["00116.jpg", "00000.jpg", "00029.jpg", "00058.jpg", "00087.jpg"];

    /// Lists in MIE's form and files of all clips.
    fn made_up() -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("kinetics_sound");
        let train = "youtube_id,label\nb_000001_000011,tickling\na_000002_000012,bowling\n\
                     c_000003_000013,tickling\n";
        write(&root.join("annotations/train.csv"), train);
        write(
            &root.join("annotations/weight.csv"),
            "label,youtube_id\r\nbowling,w_000001_000011\r\n",
        );
        write(&root.join("annotations/test.csv"), "youtube_id,label\nt_4,bowling\n");
        let train = ["a_000002_000012", "b_000001_000011", "c_000003_000013", "w_000001_000011"];
        let parts: [(&str, &[&str]); 2] = [("train", &train), ("test", &["t_4"])];
        for (part, clips) in parts {
            for clip in clips {
                write_recording(&root.join(format!("{part}_wav/{clip}.wav")));
                write_frames(&root.join(format!("{part}_img/Image-01-FPS/{clip}")), &FIVE);
            }
        }
        base
    }

    #[test]
    fn a_small_copy_has_its_media_in_folders_for_training_and_testing() {
        let base = made_up();
        let root = base.path().join("kinetics_sound");
        let valid = Some(PathBuf::from("annotations/weight.csv"));
        let lists = ClipLists { valid, ..ClipLists::default() };
        let config = KineticsSoundsConfig { lists, ..KineticsSoundsConfig::default() };
        let dataset = config.open(&context(base.path())).unwrap();
        assert_eq!(dataset.classes(), ["bowling", "tickling"]);
        let train = [("b_000001_000011", 1), ("a_000002_000012", 0), ("c_000003_000013", 1)];
        assert_eq!(labelled(dataset.as_ref(), Split::Train), train);
        assert_eq!(labelled(dataset.as_ref(), Split::Valid), [("w_000001_000011", 0)]);
        assert_eq!(labelled(dataset.as_ref(), Split::Test), [("t_4", 0)]);
        let recording = Raw::File(root.join("train_wav/w_000001_000011.wav"));
        assert_eq!(dataset.raw(Split::Valid, 0, "audio").unwrap(), recording);
        let folder = root.join("test_img/Image-01-FPS/t_4");
        let mut sorted = FIVE;
        sorted.sort_unstable();
        let frames = sorted.map(|name| folder.join(name)).to_vec();
        assert_eq!(dataset.raw(Split::Test, 0, "video").unwrap(), Raw::Files(frames));
        assert!(dataset.raw(Split::Test, 0, "text").is_err());
        assert!(dataset.raw(Split::Test, 1, "video").is_err());
        assert_eq!(dataset.expected(), Expected::default());
        assert!(dataset.differences().is_empty());
        assert!(dataset.facts().is_empty());
    }

    #[test]
    fn clips_without_a_recording_or_with_three_frames_count_as_missing() {
        let base = made_up();
        let root = base.path().join("kinetics_sound");
        std::fs::remove_file(root.join("train_wav/a_000002_000012.wav")).unwrap();
        for name in ["00116.jpg", "00087.jpg"] {
            std::fs::remove_file(root.join("test_img/Image-01-FPS/t_4").join(name)).unwrap();
        }
        let missing = |config: &KineticsSoundsConfig| {
            let dataset = config.open(&context(base.path())).unwrap();
            let report =
                mie_core::data::check::check(dataset.as_ref(), &[], false, &mut |_, _| {}).unwrap();
            assert!(report.broken.is_empty(), "{report:?}");
            let missing = report.missing.into_iter();
            missing.map(|fault| format!("{} {}", fault.sample, fault.modality)).collect::<Vec<_>>()
        };
        let mut config = KineticsSoundsConfig::default();
        assert_eq!(missing(&config), ["a_000002_000012 audio", "t_4 video"]);
        config.min_frames = 3;
        assert_eq!(missing(&config), ["a_000002_000012 audio"]);
        config.frames_per_second = 2;
        let other = config.open(&context(base.path())).unwrap();
        let error = other.reachable("video").unwrap_err().to_string();
        assert!(error.contains("Image-02-FPS: there is no such folder"), "{error}");
        config.frames_per_second = 0;
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert_eq!(error, "`frames_per_second` is 0, expected [1, 99]");
    }

    #[test]
    fn first_appearance_orders_the_classes_and_is_recorded() {
        let base = made_up();
        let config = KineticsSoundsConfig {
            class_order: ClassOrder::FirstAppearance,
            ..KineticsSoundsConfig::default()
        };
        let dataset = config.open(&context(base.path())).unwrap();
        assert_eq!(dataset.classes(), ["tickling", "bowling"]);
        assert_eq!(labelled(dataset.as_ref(), Split::Test), [("t_4", 1)]);
        let facts = serde_json::Value::from(dataset.facts());
        let expected =
            serde_json::json!({ "classes_by_first_appearance": ["tickling", "bowling"] });
        assert_eq!(facts, expected);
    }

    #[test]
    fn indices_are_those_of_all_classes_and_may_be_mixed_with_names() {
        let base = made_up();
        let annotations = base.path().join("kinetics_sound/annotations");
        write(&annotations.join("train.csv"), "x_000001_000011,10,30\ny_000001_000011,10,2\n");
        let mut config = KineticsSoundsConfig::default();
        let dataset = config.open(&context(base.path())).unwrap();
        assert_eq!(dataset.classes(), CLASSES);
        assert_eq!(labelled(dataset.as_ref(), Split::Train)[0], ("x_000001_000011", 30));
        // The test list says `bowling`.
        assert_eq!(labelled(dataset.as_ref(), Split::Test), [("t_4", 2)]);
        config.class_order = ClassOrder::FirstAppearance;
        let dataset = config.open(&context(base.path())).unwrap();
        assert_eq!(dataset.classes(), ["tickling", "bowling"]);
    }

    #[test]
    fn a_test_class_that_training_does_not_know_is_refused() {
        let base = made_up();
        let list = base.path().join("kinetics_sound/annotations/test.csv");
        write(&list, "youtube_id,label\nt_4,bowling\nt_5,singing\n");
        let config = KineticsSoundsConfig::default();
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        let end = "annotations/test.csv: line 3: found \"singing\", expected a class that the \
                   training list has too";
        assert!(error.ends_with(end), "{error}");
    }

    #[test]
    fn the_forms_of_lists_say_the_same() {
        use KineticsSoundsForm::{Auto, BalanceBenchmark, Headed, OgmGe};
        let expected =
            [("--4-0ihtnBU_000058_000068", "dribbling basketball"), ("-k_1", "tickling")]
                .map(|(clip, class)| (clip.to_owned(), class.to_owned()));
        let ogm_ge = "--4-0ihtnBU_000058_000068,10,4\r\n-k_1,10,30\r\n";
        let headed = "\u{feff}label,youtube_id,split\r\n\"dribbling basketball\",\
                      --4-0ihtnBU_000058_000068,train\r\ntickling,-k_1,train\r\n";
        let balance = "--4-0ihtnBU_000058_000068 dribbling basketball 4\n-k_1 30\n";
        for (content, form) in [(ogm_ge, OgmGe), (headed, Headed), (balance, BalanceBenchmark)] {
            assert_eq!(read(content, form).unwrap(), expected, "{form:?}");
            assert_eq!(read(content, Auto).unwrap(), expected, "{form:?} unasked");
        }
    }

    #[test]
    fn a_broken_line_is_named_by_its_file_and_number() {
        use KineticsSoundsForm::{Auto, BalanceBenchmark, Headed, OgmGe};
        let (comma, header, blank) = ("a,10,0\n\n", "youtube_id,label\n\n", "a b 0\n\n");
        for (start, line, form) in [
            (comma, "b,10,31", Auto),
            (comma, "b,10,31", OgmGe),
            (comma, "b,10,-1", OgmGe),
            (comma, "b,10,bowling", OgmGe),
            (comma, "b,ten,3", OgmGe),
            (comma, "b,3", Auto),
            (comma, "b,10,3,1", Auto),
            (comma, ",10,3", Auto),
            (comma, "../b,10,3", Auto),
            (comma, "youtube_id,label", Auto),
            (comma, "b bowling 2", OgmGe),
            (blank, "b bowling", Auto),
            (blank, "2", BalanceBenchmark),
            (blank, "b,10,2", BalanceBenchmark),
            (header, "b", Headed),
            (header, "b,bowling,1", Auto),
            (header, "b,", Auto),
            (header, "a/b,bowling", Auto),
        ] {
            let error = read(&format!("{start}{line}\n"), form).unwrap_err().to_string();
            assert!(error.contains(&format!(": line 3: found {line:?}")), "{form:?}: {error}");
        }
        let error = read("youtube_id,class\n", Headed).unwrap_err().to_string();
        assert!(
            error.contains(": line 1: found \"youtube_id,class\", expected a header"),
            "{error}"
        );
        assert!(read("", Headed).unwrap_err().to_string().contains(": line 1: found \"\""));
        assert!(read("", Auto).unwrap().is_empty());
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_comes_from_and_goes() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("kinetics_sound");
        let config = KineticsSoundsConfig::default();
        let refusal = || config.open(&context(base.path())).err().unwrap().to_string();
        let error = refusal();
        assert!(error.contains("annotations/train.csv: there is no such list; take "), "{error}");
        for part in [
            "kinetics-dataset",
            "OGM-GE",
            "<clip>/<frame>.jpg",
            "MIE_DATA_DIR",
            "`mie data prepare kinetics_sounds`",
        ] {
            assert!(error.contains(part), "{error}");
        }
        write(&root.join("annotations/my_train.txt"), "a,10,0\n");
        let error = refusal();
        assert!(
            error.contains("set dataset.lists.train = \"annotations/my_train.txt\""),
            "{error}"
        );
        write(&root.join("annotations/train.csv"), "a,10,0\n");
        write(&root.join("annotations/test.csv"), "b,10,0\n");
        let dataset = config.open(&context(base.path())).unwrap();
        for (modality, folders) in [
            ("audio", ["train_wav", "test_wav"]),
            ("video", ["train_img/Image-01-FPS", "test_img/Image-01-FPS"]),
        ] {
            let error = dataset.reachable(modality).unwrap_err().to_string();
            let missing = format!("kinetics_sound/{}: there is no such folder; take", folders[0]);
            assert!(error.contains(&missing), "{error}");
            std::fs::create_dir_all(root.join(folders[1])).unwrap();
            dataset.reachable(modality).unwrap();
        }
    }

    #[test]
    fn videos_of_kinetics_400_are_prepared_under_the_names_that_the_lists_give_the_clips() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("kinetics_sound");
        write(&root.join("annotations/train.csv"), "youtube_id,label\nb,bowling\n");
        write(&root.join("annotations/test.csv"), "-3Mwkq-7TV4_2,10,2\n");
        let prepared = || KineticsSoundsConfig::default().preparations(&context(base.path()));
        let error = prepared().err().unwrap().to_string();
        assert!(error.contains("train_video: there is no such folder of videos; take"), "{error}");
        write(&root.join("train_video/b_000001_000011.mp4"), "a video");
        write(&root.join("test_video/-3Mwkq-7TV4_000002_000012.mp4"), "a video");
        let paths: Vec<[PathBuf; 2]> =
            prepared().unwrap().into_iter().map(|it| [it.source, it.target]).collect();
        let expected = [
            ["train_video/b_000001_000011.mp4", "train_img/Image-01-FPS/b"],
            ["train_video/b_000001_000011.mp4", "train_wav/b.wav"],
            ["test_video/-3Mwkq-7TV4_000002_000012.mp4", "test_img/Image-01-FPS/-3Mwkq-7TV4_2"],
            ["test_video/-3Mwkq-7TV4_000002_000012.mp4", "test_wav/-3Mwkq-7TV4_2.wav"],
        ];
        assert_eq!(paths, expected.map(|pair| pair.map(|path| root.join(path))));
    }

    #[test]
    fn the_published_lists_have_the_published_numbers_in_either_order() {
        let Some(folder) = real_data::folder("splits") else { return };
        let folder = folder.join("kinetics_sounds");
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("kinetics_sound/train_wav")).unwrap();
        let lists = ClipLists {
            train: folder.join("my_train.txt"),
            valid: None,
            test: folder.join("my_test.txt"),
        };
        for class_order in [ClassOrder::Alphabetical, ClassOrder::FirstAppearance] {
            let lists = lists.clone();
            let config =
                KineticsSoundsConfig { class_order, lists, ..KineticsSoundsConfig::default() };
            let dataset = config.open(&context(base.path())).unwrap();
            let report =
                mie_core::data::check::check(dataset.as_ref(), &[], false, &mut |_, _| {}).unwrap();
            assert!(report.duplicates.is_empty());
            // All differences are about files, not about numbers or names.
            let files = |line: &String| line.starts_with("audio: ") || line.starts_with("video: ");
            assert!(report.differences.iter().all(files), "{:?}", report.differences);
            for (split, samples, fewest, most) in
                [(Split::Train, 14_799, 197, 690), (Split::Test, 2_597, 63, 92)]
            {
                let found = &report.splits[&split];
                assert_eq!((found.samples, found.expected_samples), (samples, Some(samples)));
                assert_eq!(found.classes.len(), 31);
                assert_eq!(found.classes.iter().min(), Some(&fewest));
                assert_eq!(found.classes.iter().max(), Some(&most));
                assert!(found.expected_classes.is_some());
            }
        }
    }

    #[test]
    fn the_published_names_of_classes_are_in_alphabetical_order() {
        assert!(CLASSES.is_sorted());
        let Some(folder) = real_data::folder("splits") else { return };
        let file = folder.join("kinetics_sounds/classes.txt");
        let names: Vec<String> = lists::lines(&file).unwrap().into_iter().map(|it| it.1).collect();
        assert_eq!(names, CLASSES);
    }

    #[test]
    fn indices_agree_with_the_names_that_other_lists_give() {
        let Some(folder) = real_data::folder("splits") else { return };
        let folder = folder.join("kinetics_sounds");
        let list =
            |name: &str| pairs(&read_list(&folder.join(name), KineticsSoundsForm::Auto).unwrap());
        // A YouTube id has 11 characters; what follows it in names of clips are times.
        let agreeing = |clips: &[(String, String)], others: &[Vec<(String, String)>]| {
            let classes: BTreeMap<&str, &str> = others
                .iter()
                .flatten()
                .map(|(video, class)| (video.as_str(), class.as_str()))
                .collect();
            let shared: Vec<bool> = clips
                .iter()
                .filter_map(|(clip, class)| classes.get(&clip[..11]).map(|other| other == class))
                .collect();
            (shared.iter().filter(|same| **same).count(), shared.len())
        };
        let kinetics = list("kinetics400_test_31classes.csv");
        assert_eq!(kinetics.len(), 2_778);
        assert_eq!(list("kinetics400_val_31classes.csv").len(), 1_418);
        assert_eq!(agreeing(&list("my_test.txt"), &[kinetics]), (2_597, 2_597));
        let parts =
            ["train", "val", "test"].map(|part| list(&format!("avcil_30classes/{part}.csv")));
        assert_eq!([parts[0].len(), parts[1].len(), parts[2].len()], [19_220, 1_947, 1_958]);
        assert_eq!(agreeing(&list("my_train.txt"), &parts), (12_598, 12_598));
    }

    #[test]
    fn lists_of_fewer_classes_have_labels_without_a_gap() {
        let Some(folder) = real_data::folder("splits") else { return };
        let folder = folder.join("kinetics_sounds/avcil_30classes");
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("kinetics_sound/train_wav")).unwrap();
        let lists = ClipLists {
            train: folder.join("train.csv"),
            valid: Some(folder.join("val.csv")),
            test: folder.join("test.csv"),
        };
        let config = KineticsSoundsConfig { lists, ..KineticsSoundsConfig::default() };
        let dataset = config.open(&context(base.path())).unwrap();
        let expected: Vec<&str> =
            CLASSES.into_iter().filter(|&class| class != "mowing lawn").collect();
        assert_eq!(dataset.classes(), expected);
        let sizes = Split::ALL.map(|split| dataset.samples(split).len());
        assert_eq!(sizes, [19_220, 1_947, 1_958]);
        let samples = [(Split::Train, 19_220), (Split::Valid, 1947), (Split::Test, 1958)];
        assert_eq!(dataset.expected().samples, samples.into());
    }

    #[test]
    fn real_clips_are_found_and_decoded() {
        let Some(folder) = real_data::folder("av_clips_sample") else { return };
        let base = tempfile::tempdir().unwrap();
        let list = |name: &str, row: &str| {
            let file = base.path().join(name);
            write(&file, &format!("youtube_id,label\n{row}\n"));
            file
        };
        let lists = ClipLists {
            train: list("train.csv", "KlsG1EnBEjc_000361,bowling"),
            valid: None,
            test: list("test.csv", "00W1lcxW-WU_40.000,bowling"),
        };
        let config = KineticsSoundsConfig {
            train_audio: folder.join("audio"),
            train_frames: folder.clone(),
            test_audio: folder.join("audio"),
            test_frames: folder.clone(),
            lists,
            ..KineticsSoundsConfig::default()
        };
        let dataset = config.open(&context(base.path())).unwrap();
        let Raw::Files(frames) = dataset.raw(Split::Test, 0, "video").unwrap() else {
            panic!("no files");
        };
        // 12.5 frames a second: the first of every 12.
        let expected = (0..11).map(|second| {
            folder.join("Image-01-FPS/00W1lcxW-WU_40.000").join(format!("{:05}.jpg", 12 * second))
        });
        assert!(frames.iter().cloned().eq(expected), "{frames:?}");
        let inputs = dataset.inputs();
        assert!(inputs.keys().eq(&dataset.modalities()));
        let decoders: Vec<_> =
            inputs.iter().map(|(name, input)| (name.clone(), input.build().unwrap())).collect();
        let shape = decoders[0].1.layout()[0].shape.clone();
        assert_eq!(shape, [1, 257, 1_003]);
        let report =
            mie_core::data::check::check(dataset.as_ref(), &decoders, true, &mut |_, _| {})
                .unwrap();
        assert!(report.ok(), "{:?}", report.differences);
        assert_eq!(report.decoded, 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_list_names_clips_in_their_folder_or_is_refused_with_its_line(
            headed in any::<bool>(),
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "a_000001_000011,bowling\n", "b,new class\n", "c_1,10,30\n", "d,10,31\n",
                    "e tap dancing 27\r\n", "\"f\",\"10\",\"0\"\n", "youtube_id,label\n",
                    "\u{feff}", "\n", ",", "/", "..", "\0", "é", "\"",
                ]),
                0..6,
            ),
            bytes in prop::collection::vec(any::<u8>(), 0..3),
            form in prop::sample::select(vec![
                KineticsSoundsForm::Auto,
                KineticsSoundsForm::OgmGe,
                KineticsSoundsForm::Headed,
                KineticsSoundsForm::BalanceBenchmark,
            ]),
            class_order in prop::sample::select(vec![
                ClassOrder::Alphabetical, ClassOrder::FirstAppearance,
            ]),
        ) {
            let base = tempfile::tempdir().unwrap();
            let root = base.path().join("kinetics_sound");
            let audio = root.join("train_wav");
            std::fs::create_dir_all(&audio).unwrap();
            let header = |wanted: bool| if wanted { "youtube_id,label\n" } else { "" };
            let no_clips = header(form == KineticsSoundsForm::Headed);
            write(&root.join("annotations/test.csv"), no_clips);
            let start = header(headed);
            let content = [start.as_bytes(), pieces.concat().as_bytes(), bytes.as_slice()].concat();
            std::fs::write(root.join("annotations/train.csv"), content).unwrap();
            let config =
                KineticsSoundsConfig { form, class_order, ..KineticsSoundsConfig::default() };
            match config.open(&context(base.path())) {
                Ok(dataset) => {
                    for (index, sample) in dataset.samples(Split::Train).iter().enumerate() {
                        prop_assert!(sample.label < dataset.classes().len());
                        let raw = dataset.raw(Split::Train, index, "audio").unwrap();
                        let Raw::File(file) = raw else { panic!("{raw:?}") };
                        prop_assert_eq!(file.parent(), Some(audio.as_path()), "{:?}", sample.id);
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains(".csv: line "), "{}", error);
                }
            }
        }
    }
}
