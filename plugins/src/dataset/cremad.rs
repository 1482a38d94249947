//! CREMA-D: actors who say sentences with an emotion.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;

use super::clips::{ClipLists, Clips, KnownFault, Part, Videos, clip_name, expect_videos, field};
use crate::formats::lists;
use crate::modality::spectrogram::SpectrogramConfig;

/// Reads CREMA-D: the emotion of an actor who says a sentence.
///
/// Six classes, in the order of the lists that papers share: neutral, happy, sad, fear, disgust,
/// anger. 7442 clips of 91 actors, `{actor}_{sentence}_{emotion}_{level}`; 6698 are for training
/// and 744 for testing. All actors are in both.
///
/// The files cannot be fetched. Recordings (`AudioWAV`) and videos (`VideoFlash`) are at
/// <https://github.com/CheyneyComputerScience/CREMA-D> in Git LFS, under `ODbL` 1.0; the lists
/// `train.csv` and `test.csv` at <https://github.com/GeWu-Lab/OGM-GE_CVPR2022> in `data/CREMAD`.
/// Frames are those of the program `video_preprocessing` there; `mie data prepare cremad` makes
/// them of the videos in `CREMAD/VideoFlash`. They are expected as
///
/// ```text
/// CREMAD/annotations/train.csv
/// CREMAD/annotations/test.csv
/// CREMAD/AudioWAV/<clip>.wav
/// CREMAD/Image-01-FPS/<clip>/<frame>.jpg
/// ```
///
/// A line of a list is one of these, after a byte order mark or not, with either line end:
///
/// ```text
/// 1001_IEO_NEU_XX,NEU             OGM-GE, PMR, MIE; also below a header `name,label`
/// 1001_IEO_NEU_XX.flv Neutral     MLA
/// ```
///
/// Modalities: `audio`, a WAVE file; `video`, the frames of a clip. Frames are sorted by name,
/// while the released code of MIE takes them as the folder happens to give them, which cannot be
/// repeated. It leaves out clips without files silently; here `data.on_missing` decides.
///
/// Some clips are faulty as published: `1076_MTI_SAD_XX` has no sound and shows an error,
/// `1076_MTI_NEU_XX` is very short, `1064_TIE_SAD_XX` has no duration and `1064_IEO_DIS_MD` lasts a
/// minute. `data.exclude` leaves them out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CremadConfig {
    /// Folder of the dataset, relative to the data folder. Default `CREMAD`.
    pub root: PathBuf,
    /// Form of the lists. Default `auto`.
    pub form: CremadForm,
    /// Folder of the recordings, relative to `root`. Default `AudioWAV`.
    pub audio: PathBuf,
    /// Folder that holds a folder of frames for each clip, relative to `root`. OGM-GE names it
    /// after the frames of a second. Default `Image-01-FPS`, one frame a second.
    pub frames: PathBuf,
    /// Folder of the videos, relative to `root`, that `mie data prepare` takes frames out of.
    /// Default `VideoFlash`.
    pub videos: PathBuf,
    /// Frames that `mie data prepare` keeps of each second, in [1, 99]. Default 1, as in the
    /// released code.
    pub frames_per_second: u32,
    /// Fewest frames of a clip, at least 1; with fewer its video counts as missing. Default 1, as
    /// the released code of MIE takes one.
    pub min_frames: usize,
    /// Lists of the clips of each split.
    pub lists: ClipLists,
}

/// How a line of a list of CREMA-D is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CremadForm {
    /// Any of the others, told line by line.
    Auto,
    /// `clip,LABEL` without a header, as of OGM-GE and MIE.
    OgmGe,
    /// The header `name,label`, then `clip,LABEL`.
    Headed,
    /// `clip.flv Word`, as of MLA.
    Mla,
}

impl Default for CremadConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("CREMAD"),
            form: CremadForm::Auto,
            audio: PathBuf::from("AudioWAV"),
            frames: PathBuf::from("Image-01-FPS"),
            videos: PathBuf::from("VideoFlash"),
            frames_per_second: 1,
            min_frames: 1,
            lists: ClipLists::default(),
        }
    }
}

/// Codes of the emotions and names of their classes, in label order. MLA writes the names.
const EMOTIONS: [(&str, &str); 6] = [
    ("NEU", "neutral"),
    ("HAP", "happy"),
    ("SAD", "sad"),
    ("FEA", "fear"),
    ("DIS", "disgust"),
    ("ANG", "anger"),
];

/// Clips of each class in the lists of OGM-GE.
const PUBLISHED: [(Split, [usize; 6]); 2] = [
    (Split::Train, [973, 1148, 1131, 1138, 1142, 1166]),
    (Split::Test, [114, 123, 140, 133, 129, 105]),
];

const KNOWN_FAULTS: [KnownFault; 5] = [
    KnownFault { clip: "1064_IEO_DIS_MD", modality: "video", fault: "lasts a minute" },
    KnownFault { clip: "1064_TIE_SAD_XX", modality: "video", fault: "has no duration" },
    KnownFault { clip: "1076_MTI_NEU_XX", modality: "video", fault: "is very short" },
    KnownFault { clip: "1076_MTI_SAD_XX", modality: "audio", fault: "has no sound" },
    KnownFault { clip: "1076_MTI_SAD_XX", modality: "video", fault: "shows an error" },
];

/// Names, by split, that published lists have where they are not laid out yet.
const ELSEWHERE: [(Split, &str); 4] = [
    (Split::Train, "train.csv"),
    (Split::Valid, "annotations/val.csv"),
    (Split::Valid, "val.csv"),
    (Split::Test, "test.csv"),
];

const GUIDE: &str = "take AudioWAV and VideoFlash from \
                     https://github.com/CheyneyComputerScience/CREMA-D (Git LFS), train.csv and \
                     test.csv from https://github.com/GeWu-Lab/OGM-GE_CVPR2022 (data/CREMAD); lay \
                     them out as CREMAD/annotations/{train,test}.csv, CREMAD/AudioWAV/<clip>.wav \
                     and CREMAD/VideoFlash/<clip>.flv in the data folder, which MIE_DATA_DIR \
                     names, and `mie data prepare cremad` makes of them the frames \
                     CREMAD/Image-01-FPS/<clip>/<frame>.jpg";

#[typetag::serde(name = "cremad")]
impl DatasetConfig for CremadConfig {
    fn validate(&self) -> Result<()> {
        let rate = self.frames_per_second;
        ensure_range("frames_per_second", "[1, 99]", rate, (1..=99).contains(&rate))?;
        // Otherwise frames of two rates would stand side by side under one name.
        let other = (1..=99).any(|it| it != rate && self.frames.ends_with(folder_of(it)));
        let expected =
            format!("the rate in the name of `frames`, or frames = {:?}", folder_of(rate));
        ensure_range("frames_per_second", &expected, rate, !other)?;
        ensure_range("min_frames", "at least 1", self.min_frames, self.min_frames >= 1)
    }

    fn class_count(&self) -> Option<usize> {
        Some(EMOTIONS.len())
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>> {
        self.validate()?;
        let root = context.resolve(&self.root);
        let parts = self.parts(&root)?;
        let listed = |clip: &str| {
            parts.values().any(|part| part.samples.iter().any(|sample| sample.id == clip))
        };
        let mut faulty: Vec<&str> = KNOWN_FAULTS.iter().map(|known| known.clip).collect();
        faulty.dedup();
        faulty.retain(|clip| listed(clip));
        Ok(Box::new(Clips {
            dataset: "cremad",
            classes: EMOTIONS.map(|(_, name)| name.to_owned()).to_vec(),
            guide: GUIDE,
            min_frames: self.min_frames,
            spectrogram: SpectrogramConfig::default(),
            expected: self.expected(),
            known_faults: &KNOWN_FAULTS,
            remarks: contradiction(&parts).into_iter().collect(),
            facts: [("clips_faulty_as_published".to_owned(), faulty.into())].into_iter().collect(),
            parts,
        }))
    }

    fn preparations(&self, context: &OpenContext) -> Result<Vec<Preparation>> {
        let root = context.resolve(&self.root);
        let videos = root.join(&self.videos);
        let parts = self.parts(&root)?;
        let found = Videos::list(videos.clone(), "flv")?;
        let of = |part: &Part| part.preparations(&found, self.frames_per_second, false);
        let made: Vec<Preparation> = parts.values().flat_map(of).collect();
        expect_videos(&made, &videos, GUIDE)?;
        Ok(made)
    }
}

/// Folder of frames of so many a second, as OGM-GE names it.
fn folder_of(frames_per_second: u32) -> String {
    format!("Image-{frames_per_second:02}-FPS")
}

impl CremadConfig {
    /// Numbers of the published lists, told by the names of their files.
    fn expected(&self) -> Expected {
        let ClipLists { train, valid, test } = &self.lists;
        if self.lists == ClipLists::default() {
            return published();
        }
        // GeWu-Lab's lists with a validation part, of the same training clips.
        let named = |list: &Path, name: &str| list.ends_with(name);
        let with_validation = named(train, "my_train.csv")
            && valid.as_ref().is_some_and(|valid| named(valid, "val.csv"))
            && named(test, "test.csv");
        let samples = [(Split::Train, 5954), (Split::Valid, 744), (Split::Test, 744)];
        let samples = if with_validation { samples.into() } else { BTreeMap::new() };
        Expected { samples, classes: BTreeMap::new() }
    }

    /// Reads the lists.
    fn parts(&self, root: &Path) -> Result<BTreeMap<Split, Part>> {
        let files = self.lists.files(root, &ELSEWHERE, GUIDE)?;
        let part = |(split, file): (Split, PathBuf)| {
            let samples = read_list(&file, self.form)?;
            let (audio, frames) = (root.join(&self.audio), root.join(&self.frames));
            Ok((split, Part { samples, audio, frames }))
        };
        files.into_iter().map(part).collect()
    }
}
register!(
    dataset::<CremadConfig>,
    source = "Cao et al. 2014, https://github.com/CheyneyComputerScience/CREMA-D; lists: \
              https://github.com/GeWu-Lab/OGM-GE_CVPR2022 (data/CREMAD)"
);

fn published() -> Expected {
    Expected {
        samples: PUBLISHED
            .iter()
            .map(|(split, counts)| (*split, counts.iter().sum::<usize>()))
            .collect(),
        classes: PUBLISHED.iter().map(|(split, counts)| (*split, counts.to_vec())).collect(),
    }
}

/// Reads the clips of a split.
fn read_list(file: &Path, form: CremadForm) -> Result<Vec<Sample>> {
    let mut lines = lists::lines(file)?;
    let header = lines.first().is_some_and(|(_, line)| is_header(line));
    match form {
        CremadForm::Headed if !header => {
            let (number, line) =
                lines.first().map_or((1, ""), |(number, line)| (*number, line.as_str()));
            return Err(lists::fault(file, number, line, "the header `name,label`"));
        }
        CremadForm::Headed | CremadForm::Auto if header => {
            lines.remove(0);
        }
        _ => {}
    }
    let sample = |(number, line): &(usize, String)| {
        parse_line(line, form).ok_or_else(|| lists::fault(file, *number, line, expected_line(form)))
    };
    lines.iter().map(sample).collect()
}

fn is_header(line: &str) -> bool {
    line.split(',').map(field).eq(["name", "label"])
}

fn parse_line(line: &str, form: CremadForm) -> Option<Sample> {
    let by_comma = || line.split_once(',');
    let by_blank = || line.trim().split_once(char::is_whitespace);
    let (clip, label) = match form {
        CremadForm::Auto => by_comma().or_else(by_blank),
        CremadForm::OgmGe | CremadForm::Headed => by_comma(),
        CremadForm::Mla => by_blank(),
    }?;
    let label = field(label);
    let is_meant = |(code, name): &(&str, &str)| *code == label || name.eq_ignore_ascii_case(label);
    Some(Sample { id: clip_name(clip)?.to_owned(), label: EMOTIONS.iter().position(is_meant)? })
}

fn expected_line(form: CremadForm) -> &'static str {
    match form {
        CremadForm::Auto => {
            "a clip and its emotion: `clip,LABEL` with one of NEU HAP SAD FEA DIS ANG, or \
             `clip.flv Word` with one of Neutral Happy Sad Fear Disgust Anger"
        }
        CremadForm::OgmGe | CremadForm::Headed => {
            "`clip,LABEL` with one of NEU HAP SAD FEA DIS ANG"
        }
        CremadForm::Mla => "`clip.flv Word` with one of Neutral Happy Sad Fear Disgust Anger",
    }
}

/// Says in how many clips the emotion of the list is not that of the name, if in any.
///
/// No error: labels may well come from those who watched the clips.
fn contradiction(parts: &BTreeMap<Split, Part>) -> Option<String> {
    let mut other = parts.values().flat_map(|part| &part.samples).filter(|sample| {
        let code = sample.id.split('_').nth(2);
        let acted = EMOTIONS.iter().position(|&(known, _)| Some(known) == code);
        acted.is_some_and(|acted| acted != sample.label)
    });
    let first = other.next()?;
    let count = 1 + other.count();
    let (_, class) = EMOTIONS[first.label];
    Some(format!(
        "the lists give {count} clips another emotion than their names, the first is `{}` of class \
         `{class}`",
        first.id
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::super::clips::fixture::{context, write, write_frames, write_recording};
    use super::*;
    use crate::formats::real_data;

    fn refusal(base: &Path) -> String {
        CremadConfig::default().open(&context(base)).err().unwrap().to_string()
    }

    /// Reads a list of this content.
    fn read(content: &str, form: CremadForm) -> Result<Vec<(String, usize)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        Ok(pairs(read_list(file.path(), form)?))
    }

    fn pairs(samples: Vec<Sample>) -> Vec<(String, usize)> {
        samples.into_iter().map(|sample| (sample.id, sample.label)).collect()
    }

    /// Three clips with their files, two to train with and one to test with.
    fn made_up() -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("CREMAD");
        write(
            &root.join("annotations/train.csv"),
            "1001_IEO_NEU_XX,NEU\r\n1064_TIE_SAD_XX,SAD\r\n",
        );
        write(&root.join("annotations/test.csv"), "\u{feff}1002_DFA_ANG_XX,ANG\r\n");
        for clip in ["1001_IEO_NEU_XX", "1064_TIE_SAD_XX", "1002_DFA_ANG_XX"] {
            write_recording(&root.join(format!("AudioWAV/{clip}.wav")));
            write_frames(&root.join("Image-01-FPS").join(clip), &["00029.jpg", "00000.jpg"]);
        }
        base
    }

    #[test]
    fn a_small_copy_gives_recordings_and_sorted_frames() {
        let base = made_up();
        let root = base.path().join("CREMAD");
        let dataset = CremadConfig::default().open(&context(base.path())).unwrap();
        assert_eq!(dataset.classes(), ["neutral", "happy", "sad", "fear", "disgust", "anger"]);
        let train = [("1001_IEO_NEU_XX".to_owned(), 0), ("1064_TIE_SAD_XX".to_owned(), 2)];
        assert_eq!(pairs(dataset.samples(Split::Train).to_vec()), train);
        assert!(dataset.samples(Split::Valid).is_empty());
        let test = [("1002_DFA_ANG_XX".to_owned(), 5)];
        assert_eq!(pairs(dataset.samples(Split::Test).to_vec()), test);
        let recording = Raw::File(root.join("AudioWAV/1064_TIE_SAD_XX.wav"));
        assert_eq!(dataset.raw(Split::Train, 1, "audio").unwrap(), recording);
        let folder = root.join("Image-01-FPS/1002_DFA_ANG_XX");
        let frames = ["00000.jpg", "00029.jpg"].map(|name| folder.join(name)).to_vec();
        assert_eq!(dataset.raw(Split::Test, 0, "video").unwrap(), Raw::Files(frames));
        let error = dataset.raw(Split::Test, 0, "image").unwrap_err().to_string();
        assert!(error.contains("no modality `image`, but [\"audio\", \"video\"]"), "{error}");
        assert!(dataset.raw(Split::Test, 1, "audio").is_err());
        assert!(dataset.differences().is_empty());
        assert_eq!(dataset.facts()["clips_faulty_as_published"][0], "1064_TIE_SAD_XX");
        assert_eq!(dataset.facts()["clips_faulty_as_published"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_decodes_a_modality_can_decode_a_small_copy() {
        let base = made_up();
        let dataset = CremadConfig::default().open(&context(base.path())).unwrap();
        let inputs = dataset.inputs();
        assert!(inputs.keys().eq(&dataset.modalities()));
        let decoders: Vec<_> =
            inputs.iter().map(|(name, input)| (name.clone(), input.build().unwrap())).collect();
        let report =
            mie_core::data::check::check(dataset.as_ref(), &decoders, true, &mut |_, _| {})
                .unwrap();
        assert!(report.missing.is_empty() && report.broken.is_empty(), "{report:?}");
        assert_eq!(report.decoded, 6);
    }

    #[test]
    fn files_that_are_missing_are_recognised_and_known_faults_explained() {
        let base = made_up();
        let root = base.path().join("CREMAD");
        std::fs::remove_file(root.join("AudioWAV/1001_IEO_NEU_XX.wav")).unwrap();
        std::fs::remove_dir_all(root.join("Image-01-FPS/1064_TIE_SAD_XX")).unwrap();
        std::fs::remove_file(root.join("Image-01-FPS/1002_DFA_ANG_XX/00029.jpg")).unwrap();
        let config = CremadConfig { min_frames: 2, ..CremadConfig::default() };
        let dataset = config.open(&context(base.path())).unwrap();
        let report =
            mie_core::data::check::check(dataset.as_ref(), &[], false, &mut |_, _| {}).unwrap();
        let missing: Vec<_> = report
            .missing
            .iter()
            .map(|fault| (fault.sample.as_str(), fault.modality.as_str()))
            .collect();
        let expected = [
            ("1001_IEO_NEU_XX", "audio"),
            ("1064_TIE_SAD_XX", "video"),
            ("1002_DFA_ANG_XX", "video"),
        ];
        assert_eq!(missing, expected);
        assert!(report.missing[2].reason.contains("it has 1 of the 2 frames that min_frames"));
        assert!(report.broken.is_empty());
        assert_eq!(
            dataset.differences(),
            ["video: `1064_TIE_SAD_XX` is missing, and faulty where it is published: it has no \
              duration; data.exclude = [\"1064_TIE_SAD_XX\"] leaves it out"]
        );
        let config = CremadConfig { min_frames: 0, ..CremadConfig::default() };
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert_eq!(error, "`min_frames` is 0, expected at least 1");
    }

    #[test]
    fn clips_that_are_faulty_as_published_are_noted_while_they_are_there() {
        let base = made_up();
        let config = CremadConfig::default();
        let dataset = config.open(&context(base.path())).unwrap();
        let report =
            mie_core::data::check::check(dataset.as_ref(), &[], false, &mut |_, _| {}).unwrap();
        assert_eq!(
            report.notes,
            ["video: `1064_TIE_SAD_XX` is there, and faulty where it is published: it has no \
              duration; data.exclude = [\"1064_TIE_SAD_XX\"] leaves it out"]
        );
        assert!(!report.differences.iter().any(|line| line.contains("1064")), "{report:?}");
        // Once its frames are missing it is a difference, and no note.
        let frames = base.path().join("CREMAD/Image-01-FPS/1064_TIE_SAD_XX");
        std::fs::remove_dir_all(frames).unwrap();
        let dataset = config.open(&context(base.path())).unwrap();
        assert!(dataset.notes().is_empty());
        assert_eq!(dataset.differences().len(), 1);
    }

    #[test]
    fn the_forms_of_lists_say_the_same() {
        let expected = [("1001_IEO_HAP_LO".to_owned(), 1), ("1002_DFA_DIS_XX".to_owned(), 4)];
        let plain = "1001_IEO_HAP_LO,HAP\n1002_DFA_DIS_XX,DIS\n";
        let headed = "\u{feff}name,label\r\n1001_IEO_HAP_LO,HAP\r\n1002_DFA_DIS_XX,DIS\r\n";
        let mla = "1001_IEO_HAP_LO.flv Happy\n1002_DFA_DIS_XX.flv Disgust\n";
        for (content, form) in [
            (plain, CremadForm::OgmGe),
            (headed, CremadForm::Headed),
            (mla, CremadForm::Mla),
            (plain, CremadForm::Auto),
            (headed, CremadForm::Auto),
            (mla, CremadForm::Auto),
            ("1001_IEO_HAP_LO.flv Happy\n1002_DFA_DIS_XX,DIS\n", CremadForm::Auto),
        ] {
            assert_eq!(read(content, form).unwrap(), expected, "{form:?}");
        }
    }

    #[test]
    fn a_broken_line_is_named_by_its_file_and_number() {
        use CremadForm::{Auto, Headed, Mla, OgmGe};
        let cases: [(&str, &[CremadForm]); 10] = [
            ("1001_IEO_HAP_LO", &[Auto, OgmGe, Mla]),
            ("1001_IEO_HAP_LO,JOY", &[Auto, OgmGe, Mla]),
            ("1001_IEO_HAP_LO,hap", &[Auto, OgmGe]),
            ("1001_IEO_HAP_LO,HAP,1", &[Auto, OgmGe]),
            ("../1001,HAP", &[Auto, OgmGe]),
            (",HAP", &[Auto, OgmGe]),
            ("1001_IEO_HAP_LO,HAP", &[Mla]),
            ("1001_IEO_HAP_LO.flv Happy", &[OgmGe]),
            ("1001_IEO_HAP_LO.flv Happy 1", &[Auto, Mla]),
            ("name,label", &[Auto, OgmGe, Mla]),
        ];
        for (line, forms) in cases {
            for form in forms {
                let good = if *form == Mla { "a.flv Sad" } else { "a,SAD" };
                let error = read(&format!("{good}\n\n{line}\n"), *form).unwrap_err().to_string();
                assert!(error.contains(": line 3: found \""), "{form:?} {line}: {error}");
            }
        }
        let error = read("a,SAD\n", Headed).unwrap_err().to_string();
        assert!(error.ends_with("line 1: found \"a,SAD\", expected the header `name,label`"));
        assert!(read("", Headed).unwrap_err().to_string().contains("line 1: found \"\""));
        assert!(read("", Auto).unwrap().is_empty());
    }

    #[test]
    fn emotions_that_contradict_the_names_are_a_difference() {
        let base = made_up();
        let list = base.path().join("CREMAD/annotations/train.csv");
        write(&list, "1001_IEO_NEU_XX,SAD\nmy_own_clip,SAD\n1064_TIE_SAD_XX,ANG\n");
        let dataset = CremadConfig::default().open(&context(base.path())).unwrap();
        assert_eq!(
            dataset.differences(),
            ["the lists give 2 clips another emotion than their names, the first is \
              `1001_IEO_NEU_XX` of class `sad`"]
        );
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_comes_from_and_goes() {
        let base = tempfile::tempdir().unwrap();
        let error = refusal(base.path());
        assert!(error.contains("CREMAD/annotations/train.csv: there is no such list; "), "{error}");
        for part in [
            "CheyneyComputerScience",
            "OGM-GE",
            "<clip>/<frame>.jpg",
            "MIE_DATA_DIR",
            "`mie data prepare cremad`",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let root = base.path().join("CREMAD");
        write(&root.join("train.csv"), "a,SAD\n");
        let error = refusal(base.path());
        let end = "but there is `train.csv`: set dataset.lists.train = \"train.csv\" to use it";
        assert!(error.ends_with(end), "{error}");
        write(&root.join("annotations/train.csv"), "a,SAD\n");
        write(&root.join("annotations/test.csv"), "b,SAD\n");
        let dataset = CremadConfig::default().open(&context(base.path())).unwrap();
        for (modality, folder) in [("audio", "AudioWAV"), ("video", "Image-01-FPS")] {
            let error = dataset.reachable(modality).unwrap_err().to_string();
            assert!(error.contains(&format!("{folder}: there is no such folder; take")), "{error}");
        }
        let prepared = || CremadConfig::default().preparations(&context(base.path()));
        let missing = prepared().err().unwrap().to_string();
        assert!(missing.contains("CREMAD/VideoFlash: there is no such folder of vid"), "{missing}");
        std::fs::create_dir(root.join("VideoFlash")).unwrap();
        assert_eq!(prepared().unwrap().len(), 2);
        // Recordings alone will do for an experiment that only listens.
        std::fs::create_dir(root.join("AudioWAV")).unwrap();
        assert!(dataset.reachable("audio").is_ok() && dataset.reachable("video").is_err());
    }

    #[test]
    fn the_published_lists_have_the_published_numbers() {
        let Some(folder) = real_data::folder("splits") else { return };
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("CREMAD");
        for folder in ["AudioWAV", "Image-01-FPS", "annotations"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for name in ["train.csv", "test.csv"] {
            let list = folder.join("cremad").join(name);
            std::fs::copy(list, root.join("annotations").join(name)).unwrap();
        }
        let dataset = CremadConfig::default().open(&context(base.path())).unwrap();
        let report =
            mie_core::data::check::check(dataset.as_ref(), &[], false, &mut |_, _| {}).unwrap();
        assert!(report.duplicates.is_empty());
        // All differences are about files, not about numbers or names.
        let files = |line: &String| line.starts_with("audio: ") || line.starts_with("video: ");
        assert!(report.differences.iter().all(files), "{:?}", report.differences);
        assert_eq!(report.splits[&Split::Train].samples, 6_698);
        let train = [973, 1_148, 1_131, 1_138, 1_142, 1_166];
        assert_eq!(report.splits[&Split::Train].classes, train);
        assert_eq!(report.splits[&Split::Train].expected_samples, Some(6_698));
        assert_eq!(report.splits[&Split::Test].samples, 744);
        assert_eq!(report.splits[&Split::Test].classes, [114, 123, 140, 133, 129, 105]);
        assert_eq!(report.splits[&Split::Test].expected_samples, Some(744));
        // All known faults are among the listed clips.
        assert_eq!(report.differences.iter().filter(|line| line.contains("faulty")).count(), 5);
        let own = ClipLists { train: folder.join("cremad/data.csv"), ..ClipLists::default() };
        let config = CremadConfig { lists: own, ..CremadConfig::default() };
        let dataset = config.open(&context(base.path())).unwrap();
        assert_eq!(dataset.expected(), Expected::default());
        let parts = folder.join("cremad/with_val");
        let lists = ClipLists {
            train: parts.join("my_train.csv"),
            valid: Some(parts.join("val.csv")),
            test: parts.join("test.csv"),
        };
        let config = CremadConfig { lists, ..CremadConfig::default() };
        let dataset = config.open(&context(base.path())).unwrap();
        for (split, count) in dataset.expected().samples {
            assert_eq!(dataset.samples(split).len(), count, "{split:?}");
        }
        assert_eq!(dataset.expected().samples.len(), 3);
    }

    #[test]
    fn the_published_forms_agree() {
        let Some(folder) = real_data::folder("splits") else { return };
        let folder = folder.join("cremad");
        let list = |name: &str, form| pairs(read_list(&folder.join(name), form).unwrap());
        let sorted = |lists: &[&[(String, usize)]]| {
            let mut all = lists.concat();
            all.sort();
            all
        };
        let (train, test) =
            (list("train.csv", CremadForm::OgmGe), list("test.csv", CremadForm::OgmGe));
        let all = list("data.csv", CremadForm::OgmGe);
        assert_eq!((train.len(), test.len(), all.len()), (6_698, 744, 7_442));
        assert_eq!(sorted(&[&train, &test]), sorted(&[&all]));
        for form in [CremadForm::Headed, CremadForm::Auto] {
            assert_eq!(list("with_val/train.csv", form), train);
            assert_eq!(list("with_val/test.csv", form), test);
        }
        let (kept, valid) = (
            list("with_val/my_train.csv", CremadForm::Auto),
            list("with_val/val.csv", CremadForm::Auto),
        );
        assert_eq!((kept.len(), valid.len()), (5_954, 744));
        assert_eq!(sorted(&[&kept, &valid]), sorted(&[&train]));
        let in_mla_s_form = |(clip, label): &(String, usize)| {
            let word = ["Neutral", "Happy", "Sad", "Fear", "Disgust", "Anger"][*label];
            format!("{clip}.flv {word}\n")
        };
        let written = train.iter().map(in_mla_s_form).collect::<Vec<_>>().concat();
        assert_eq!(read(&written, CremadForm::Mla).unwrap(), train);
        assert_eq!(read(&written, CremadForm::Auto).unwrap(), train);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_list_names_clips_in_their_folder_or_is_refused_with_its_line(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "1001_IEO_NEU_XX,NEU\n", "a.flv Happy\r\n", "1064_TIE_SAD_XX,SAD\n",
                    "b_c_ANG,FEA\n", "\"d\",\"DIS\"\n", "name,label\n", "\u{feff}", "\n", ",", "/",
                    "..", "\0", "é", "\"",
                ]),
                0..8,
            ),
            bytes in prop::collection::vec(any::<u8>(), 0..3),
            form in prop::sample::select(vec![
                CremadForm::Auto, CremadForm::OgmGe, CremadForm::Headed, CremadForm::Mla,
            ]),
        ) {
            let base = tempfile::tempdir().unwrap();
            let root = base.path().join("CREMAD");
            let audio = root.join("AudioWAV");
            std::fs::create_dir_all(&audio).unwrap();
            let header = if form == CremadForm::Headed { "name,label\n" } else { "" };
            write(&root.join("annotations/test.csv"), header);
            let content = [pieces.concat().as_bytes(), bytes.as_slice()].concat();
            std::fs::write(root.join("annotations/train.csv"), content).unwrap();
            match (CremadConfig { form, ..CremadConfig::default() }).open(&context(base.path())) {
                Ok(dataset) => {
                    prop_assert!(dataset.differences().len() <= 6);
                    for (index, sample) in dataset.samples(Split::Train).iter().enumerate() {
                        prop_assert!(sample.label < EMOTIONS.len());
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
