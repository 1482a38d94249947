//! Spoken and written digits: a small audio-visual set of real files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;

use super::util::{no_modality, no_sample};
use crate::formats::{idx, lists};
use crate::modality::image::ImageConfig;
use crate::modality::spectrogram::SpectrogramConfig;

/// Pairs each recording of the Free Spoken Digit Dataset with a picture of MNIST.
///
/// Ten classes; 3000 recordings of six speakers, 8000 Hz. Split and pairs follow from the names,
/// `{digit}_{speaker}_{index}.wav`:
///
/// ```text
/// test   index 0 … 4     pictures of MNIST's test set       300 samples
/// valid  index 5 … 9     pictures of MNIST's training set   300
/// train  index 10 … 49   pictures of MNIST's training set   2400
/// ```
///
/// Going through training, then validation recordings by digit, speaker and index, each takes the
/// first unused picture of its digit; test recordings likewise, from their own pictures. So every
/// digit occurs equally often in each split. All six speakers are in all splits.
///
/// Modalities: `audio`, a WAVE file; `image`, 28 x 28 grey pixels.
///
/// Where there are no lists of pairs, the pairs are made by the rule above. Recordings and pictures
/// are brought from where they are published by `mie data fetch av_digits`. The pictures are
/// compared with their SHA-256; for the archive of recordings none is published, so that of the
/// recordings `mie data check` knows the names and numbers, and with `--decode` that each is whole.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AvDigitsConfig {
    /// Folder of the dataset, relative to the data folder. Default `avdigits`.
    pub root: PathBuf,
    /// Folder of the recordings, relative to `root`. Default `fsdd/recordings`.
    pub recordings: PathBuf,
    /// Folder of the four gzipped IDX files of MNIST, relative to `root`. Default `mnist`.
    pub pictures: PathBuf,
    /// Lists of pairs, tab-separated with the header `wav mnist_file mnist_index label`. All three
    /// are read, or, where the default ones are missing, made by the rule.
    pub pairs: Pairs,
}

/// Files with the pairs of each split, relative to `root`.
///
/// Of the first column only the file name counts; it is looked for in `recordings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pairs {
    /// Training pairs. Default `pairs_train.tsv`.
    pub train: PathBuf,
    /// Validation pairs. Default `pairs_valid.tsv`.
    pub valid: PathBuf,
    /// Test pairs. Default `pairs_test.tsv`.
    pub test: PathBuf,
}

impl Default for AvDigitsConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("avdigits"),
            recordings: PathBuf::from("fsdd/recordings"),
            pictures: PathBuf::from("mnist"),
            pairs: Pairs::default(),
        }
    }
}

impl Default for Pairs {
    fn default() -> Self {
        Self {
            train: PathBuf::from("pairs_train.tsv"),
            valid: PathBuf::from("pairs_valid.tsv"),
            test: PathBuf::from("pairs_test.tsv"),
        }
    }
}

const DIGITS: usize = 10;
const SPEAKERS: [&str; 6] = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"];
const SIDE_PIXELS: usize = 28;
const HEADER: &str = "wav\tmnist_file\tmnist_index\tlabel";
const REMEDY: &str = "run `mie data fetch av_digits`, or set MIE_DATA_DIR to the folder that holds \
                      the dataset's folder";

/// Split, indices of its recordings, and the half of MNIST with its pictures. The order matters:
/// validation takes the pictures that training left.
const RULE: [(Split, Range<usize>, Half); 3] = [
    (Split::Train, 10..50, Half::Train),
    (Split::Valid, 5..10, Half::Train),
    (Split::Test, 0..5, Half::Test),
];

/// Archive of the recordings, at the commit that the counts and names belong to.
const RECORDINGS_ADDRESS: &str = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/\
                                  26eb9aaf76e81b692f806f9140c2d2777410d7a1.zip";
const PICTURES_ADDRESS: &str = "https://storage.googleapis.com/cvdf-datasets/mnist";
const PICTURES: [(&str, &str); 4] = [
    (
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    (
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    (
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    (
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
];

#[typetag::serde(name = "av_digits")]
impl DatasetConfig for AvDigitsConfig {
    fn class_count(&self) -> Option<usize> {
        Some(DIGITS)
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>> {
        let root = context.resolve(&self.root);
        let recordings = root.join(&self.recordings);
        let pictures = root.join(&self.pictures);
        if !recordings.is_dir() {
            return Err(Error::data(recordings, format!("there is no such folder; {REMEDY}")));
        }
        let halves = BTreeMap::from([
            (Half::Train, read_pictures(&pictures, Half::Train)?),
            (Half::Test, read_pictures(&pictures, Half::Test)?),
        ]);
        let listed = match self.lists(&root)? {
            Some(listed) => listed,
            None => pairs_by_rule(&pictures)?,
        };
        let mut parts = BTreeMap::new();
        for (split, pairs) in listed {
            let mut part = Part::default();
            for pair in pairs {
                part.origins.push((pair.half, pair.picture));
                let half = pair.half.name();
                let Some(picture) = halves[&pair.half].item(pair.picture) else {
                    let problem = format!(
                        "pair of {}: there is no picture {} in the {half} file",
                        pair.recording, pair.picture
                    );
                    return Err(Error::data(pictures, problem));
                };
                part.pictures.extend_from_slice(picture);
                let stem = pair.recording.trim_end_matches(".wav");
                let id = format!("{stem}-{half}{}", pair.picture);
                part.samples.push(Sample { id, label: pair.label });
                part.recordings.push(recordings.join(pair.recording));
            }
            parts.insert(split, part);
        }
        let classes = (0..DIGITS).map(|digit| digit.to_string()).collect();
        let published = self.pairs == Pairs::default();
        let counts = halves.iter().map(|(&half, array)| (half, array.dimensions()[0])).collect();
        Ok(Box::new(AvDigits { classes, parts, published, folder: pictures, counts }))
    }

    fn fetch(&self, context: &OpenContext) -> Option<Fetch> {
        let recordings = FetchFile {
            address: RECORDINGS_ADDRESS.to_owned(),
            path: "free-spoken-digit-dataset.zip".to_owned(),
            sha256: None,
            unpack: Some(Unpack {
                containing: "/recordings/".to_owned(),
                into: self.recordings.display().to_string(),
            }),
        };
        let pictures = PICTURES.map(|(name, sha256)| FetchFile {
            address: format!("{PICTURES_ADDRESS}/{name}"),
            path: self.pictures.join(name).display().to_string(),
            sha256: Some(sha256.to_owned()),
            unpack: None,
        });
        Some(Fetch {
            root: context.resolve(&self.root),
            files: std::iter::once(recordings).chain(pictures).collect(),
            notice: "Free Spoken Digit Dataset, Z. Jackson and others, CC BY-SA 4.0, \
                     https://github.com/Jakobovski/free-spoken-digit-dataset\n\
                     MNIST, Y. LeCun and C. Cortes, CC BY-SA 3.0, mirrored by CVDF, \
                     https://github.com/cvdfoundation/mnist"
                .to_owned(),
        })
    }
}
register!(
    dataset::<AvDigitsConfig>,
    source = "https://github.com/Jakobovski/free-spoken-digit-dataset; LeCun et al. 1998; \
              pairs: ours, after Vielzeuf et al. 2018 (AV-MNIST), arXiv:1808.07275"
);

/// The two published parts of MNIST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    Train,
    Test,
}

impl Half {
    /// Start of the names of its files.
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "t10k",
        }
    }

    /// File of its pictures.
    fn pictures(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}-images-idx3-ubyte.gz", self.name()))
    }

    /// File of its labels.
    fn labels(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}-labels-idx1-ubyte.gz", self.name()))
    }

    /// Pictures that were published.
    fn published(self) -> usize {
        match self {
            Self::Train => 60_000,
            Self::Test => 10_000,
        }
    }
}

/// A recording and its picture.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    /// File name.
    recording: String,
    half: Half,
    picture: usize,
    label: usize,
}

type Listed = BTreeMap<Split, Vec<Pair>>;

impl AvDigitsConfig {
    /// Reads the lists of pairs; `None` when those of the default names are all missing.
    fn lists(&self, root: &Path) -> Result<Option<Listed>> {
        let files = [&self.pairs.train, &self.pairs.valid, &self.pairs.test];
        let files = files.map(|file| root.join(file));
        if self.pairs == Pairs::default() && !files.iter().any(|file| file.exists()) {
            return Ok(None);
        }
        let mut listed = Listed::new();
        for (split, file) in Split::ALL.into_iter().zip(files) {
            let text = lists::text(&file)?;
            let pairs = parse_list(&text).map_err(|problem| Error::data(file, problem))?;
            listed.insert(split, pairs);
        }
        Ok(Some(listed))
    }
}

fn parse_list(text: &str) -> Result<Vec<Pair>, String> {
    let mut lines = text.lines();
    match lines.next() {
        Some(HEADER) => {}
        other => return Err(format!("line 1: found {other:?}, expected the header {HEADER:?}")),
    }
    let numbered = lines.enumerate().filter(|(_, line)| !line.is_empty());
    numbered
        .map(|(index, line)| {
            let columns: Vec<&str> = line.split('\t').collect();
            let number = index + 2;
            let pair = parse_pair(&columns).ok_or_else(|| {
                format!(
                    "line {number}: found {line:?}, expected a WAVE file, train or t10k, the \
                     picture's number and a digit, separated by tabs"
                )
            })?;
            // The published recordings are named after the digit that is spoken.
            let spoken = pair.recording.split_once('_').and_then(|(digit, _)| digit.parse().ok());
            if spoken.is_some_and(|digit: usize| digit != pair.label) {
                return Err(format!(
                    "line {number}: label {} contradicts the recording's name {}",
                    pair.label, pair.recording
                ));
            }
            Ok(pair)
        })
        .collect()
}

fn parse_pair(columns: &[&str]) -> Option<Pair> {
    let &[recording, half, picture, label] = columns else { return None };
    Some(Pair {
        recording: Path::new(recording).file_name()?.to_str()?.to_owned(),
        half: [Half::Train, Half::Test].into_iter().find(|known| known.name() == half)?,
        picture: picture.parse().ok()?,
        label: label.parse::<usize>().ok().filter(|&label| label < DIGITS)?,
    })
}

/// Pairs recordings and pictures by their names and labels.
fn pairs_by_rule(pictures: &Path) -> Result<Listed> {
    let mut unused = BTreeMap::new();
    for half in [Half::Train, Half::Test] {
        let file = half.labels(pictures);
        let labels = read_idx(&file)?;
        let mut by_digit = vec![Vec::new(); DIGITS];
        for (position, &label) in labels.elements().iter().enumerate() {
            let members = by_digit.get_mut(usize::from(label)).ok_or_else(|| {
                let problem = format!("label {position} is {label}, expected a digit");
                Error::data(&file, problem)
            })?;
            members.push(position);
        }
        let by_digit: Vec<_> = by_digit.into_iter().map(Vec::into_iter).collect();
        unused.insert(half, (file, by_digit));
    }
    let mut listed = Listed::new();
    for (split, indices, half) in RULE {
        let Some((file, by_digit)) = unused.get_mut(&half) else { continue };
        let mut pairs = Vec::new();
        for (digit, members) in by_digit.iter_mut().enumerate() {
            for (speaker, index) in SPEAKERS
                .iter()
                .flat_map(|speaker| indices.clone().map(move |index| (speaker, index)))
            {
                let picture = members.next().ok_or_else(|| {
                    Error::data(file.as_path(), format!("has too few pictures of digit {digit}"))
                })?;
                let recording = format!("{digit}_{speaker}_{index}.wav");
                pairs.push(Pair { recording, half, picture, label: digit });
            }
        }
        listed.insert(split, pairs);
    }
    Ok(listed)
}

fn read_pictures(folder: &Path, half: Half) -> Result<idx::Array> {
    let file = half.pictures(folder);
    let array = read_idx(&file)?;
    match array.dimensions() {
        [_, SIDE_PIXELS, SIDE_PIXELS] => Ok(array),
        other => Err(Error::data(
            file,
            format!("has dimensions {other:?}, expected pictures of 28 x 28 pixels"),
        )),
    }
}

fn read_idx(file: &Path) -> Result<idx::Array> {
    if !file.is_file() {
        return Err(Error::data(file, format!("there is no such file; {REMEDY}")));
    }
    idx::read(file)
}

struct AvDigits {
    classes: Vec<String>,
    parts: BTreeMap<Split, Part>,
    /// Whether the pairs are those whose numbers are known.
    published: bool,
    /// Folder of the files of MNIST.
    folder: PathBuf,
    /// Pictures in each half.
    counts: BTreeMap<Half, usize>,
}

impl AvDigits {
    /// Holds the labels of a half against its pictures and against the pairs.
    fn compare_labels(&self, half: Half, count: usize) -> Result<Vec<String>> {
        let file = half.labels(&self.folder);
        let labels = read_idx(&file)?;
        let &[found] = labels.dimensions() else {
            let problem = format!("has dimensions {:?}, expected one", labels.dimensions());
            return Err(Error::data(file, problem));
        };
        let mut lines = Vec::new();
        if found != count {
            lines.push(format!("{}: {found} labels for {count} pictures", file.display()));
        }
        let mut other = self.parts.values().flat_map(|part| {
            part.samples.iter().zip(&part.origins).filter(|(sample, (of, picture))| {
                let label = labels.elements().get(*picture).copied();
                *of == half && label.is_some_and(|label| usize::from(label) != sample.label)
            })
        });
        if let Some((sample, (_, picture))) = other.next() {
            lines.push(format!(
                "{}: {} pairs have another label than their picture, the first is `{}` of class \
                 {} with picture {picture}",
                file.display(),
                1 + other.count(),
                sample.id,
                sample.label
            ));
        }
        Ok(lines)
    }
}

/// A split.
#[derive(Default)]
struct Part {
    samples: Vec<Sample>,
    recordings: Vec<PathBuf>,
    /// Where the pictures come from, and their numbers there.
    origins: Vec<(Half, usize)>,
    /// The pictures of all samples, one after the other.
    pictures: Vec<u8>,
}

impl Dataset for AvDigits {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn samples(&self, split: Split) -> &[Sample] {
        self.parts.get(&split).map_or(&[], |part| part.samples.as_slice())
    }

    fn modalities(&self) -> Vec<String> {
        ["audio", "image"].map(str::to_owned).to_vec()
    }

    fn raw(&self, split: Split, index: usize, modality: &str) -> Result<Raw<'_>> {
        let part = self.parts.get(&split).filter(|part| index < part.samples.len());
        let part = part.ok_or_else(|| no_sample("av_digits", split, index))?;
        match modality {
            "audio" => Ok(Raw::File(part.recordings[index].clone())),
            "image" => {
                let size = SIDE_PIXELS * SIDE_PIXELS;
                let pixels = &part.pictures[index * size..(index + 1) * size];
                Ok(Raw::Grey { width: SIDE_PIXELS, height: SIDE_PIXELS, pixels })
            }
            other => Err(no_modality("av_digits", other, &self.modalities())),
        }
    }

    fn differences(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (&half, &count) in &self.counts {
            let published = half.published();
            if self.published && count != published {
                let file = half.pictures(&self.folder);
                lines.push(format!("{}: {count} pictures, expected {published}", file.display()));
            }
            lines.extend(
                self.compare_labels(half, count).unwrap_or_else(|error| vec![error.to_string()]),
            );
        }
        lines
    }

    fn inputs(&self) -> BTreeMap<String, Box<dyn ModalityConfig>> {
        // At the rate of the recordings, so that nothing is resampled.
        let audio = SpectrogramConfig {
            sample_rate_hertz: 8_000,
            window_samples: 256,
            hop_samples: 128,
            length_samples: 8_192,
            ..SpectrogramConfig::default()
        };
        let audio: Box<dyn ModalityConfig> = Box::new(audio);
        let image: Box<dyn ModalityConfig> = Box::new(ImageConfig::default());
        [("audio".to_owned(), audio), ("image".to_owned(), image)].into()
    }

    fn expected(&self) -> Expected {
        if !self.published {
            return Expected::default();
        }
        let per_class = RULE.map(|(split, indices, _)| (split, indices.len() * SPEAKERS.len()));
        Expected {
            samples: per_class.iter().map(|&(split, count)| (split, count * DIGITS)).collect(),
            classes: per_class.iter().map(|&(split, count)| (split, vec![count; DIGITS])).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

    use super::*;
    use crate::formats::real_data;

    fn context(base: &Path) -> OpenContext {
        OpenContext { base: base.to_owned(), seed: Seed(0) }
    }

    fn refusal(base: &Path) -> String {
        AvDigitsConfig::default().open(&context(base)).err().unwrap().to_string()
    }

    /// Writes labels and pictures: digit `n % 10` at position `n`, all pixels `n`.
    fn write_pictures(folder: &Path, half: &str, count: usize) {
        let pack = |name: &str, header: &[u8], content: &[u8]| {
            let file = std::fs::File::create(folder.join(name)).unwrap();
            let mut encoder = GzEncoder::new(file, Compression::fast());
            encoder.write_all(header).unwrap();
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap();
        };
        let size = (count as u32).to_be_bytes();
        let labels: Vec<u8> = (0..count).map(|n| (n % 10) as u8).collect();
        let header = [&[0, 0, 8, 1][..], &size[..]].concat();
        pack(&format!("{half}-labels-idx1-ubyte.gz"), &header, &labels);
        let pixels: Vec<u8> = (0..count).flat_map(|n| [n as u8; 784]).collect();
        let header = [&[0, 0, 8, 3][..], &size[..], &[0, 0, 0, 28, 0, 0, 0, 28][..]].concat();
        pack(&format!("{half}-images-idx3-ubyte.gz"), &header, &pixels);
    }

    /// A folder with pictures, an empty folder of recordings and no lists.
    fn made_up(train: usize, test: usize) -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("avdigits");
        std::fs::create_dir_all(root.join("fsdd/recordings")).unwrap();
        std::fs::create_dir_all(root.join("mnist")).unwrap();
        write_pictures(&root.join("mnist"), "train", train);
        write_pictures(&root.join("mnist"), "t10k", test);
        base
    }

    #[test]
    fn without_lists_the_rule_pairs_by_digit_speaker_and_index() {
        let base = made_up(2_700, 300);
        let dataset = AvDigitsConfig::default().open(&context(base.path())).unwrap();
        let ids = |split: Split, range: Range<usize>| {
            let samples = &dataset.samples(split)[range];
            samples.iter().map(|sample| sample.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ids(Split::Train, 39..41), ["0_george_49-train390", "0_jackson_10-train400"]);
        // Digit 1 has used 240 pictures in training: its next one is number 1 + 10 * 240.
        assert_eq!(ids(Split::Valid, 30..31), ["1_george_5-train2401"]);
        assert_eq!(ids(Split::Test, 299..300), ["9_yweweler_4-t10k299"]);
        let raw = dataset.raw(Split::Valid, 30, "image").unwrap();
        let pixels = [2401_u16 as u8; 784];
        assert_eq!(raw, Raw::Grey { width: 28, height: 28, pixels: &pixels });
        let recording = base.path().join("avdigits/fsdd/recordings/1_george_5.wav");
        assert_eq!(dataset.raw(Split::Valid, 30, "audio").unwrap(), Raw::File(recording));
        let error = dataset.raw(Split::Valid, 30, "video").unwrap_err().to_string();
        assert!(error.contains("no modality `video`, but [\"audio\", \"image\"]"), "{error}");
        assert!(dataset.raw(Split::Valid, 300, "audio").is_err());
    }

    #[test]
    fn the_numbers_are_the_published_ones() {
        let base = made_up(2_700, 300);
        let dataset = AvDigitsConfig::default().open(&context(base.path())).unwrap();
        let expected = dataset.expected();
        for (split, count) in [(Split::Train, 2_400), (Split::Valid, 300), (Split::Test, 300)] {
            assert_eq!(expected.samples[&split], count);
            assert_eq!(expected.classes[&split], [count / 10; 10]);
            assert_eq!(dataset.samples(split).len(), count);
        }
    }

    #[test]
    fn files_of_labels_are_held_against_pictures_and_pairs() {
        let base = made_up(20, 20);
        let root = base.path().join("avdigits");
        let pairs = Pairs { train: PathBuf::from("mine.tsv"), ..Pairs::default() };
        for (name, rows) in [
            ("mine.tsv", "a.wav\ttrain\t7\t7\nb.wav\ttrain\t8\t3\nc.wav\ttrain\t9\t1\n"),
            ("pairs_valid.tsv", ""),
            ("pairs_test.tsv", "d.wav\tt10k\t8\t8\n"),
        ] {
            std::fs::write(root.join(name), format!("{HEADER}\n{rows}")).unwrap();
        }
        let config = AvDigitsConfig { pairs, ..AvDigitsConfig::default() };
        let differences = || config.open(&context(base.path())).unwrap().differences();
        let found = differences();
        assert_eq!(found.len(), 1, "{found:?}");
        let end = "train-labels-idx1-ubyte.gz: 2 pairs have another label than their picture, the \
                   first is `b-train8` of class 3 with picture 8";
        assert!(found[0].ends_with(end), "{found:?}");
        let other = made_up(20, 19);
        let labels = "avdigits/mnist/t10k-labels-idx1-ubyte.gz";
        std::fs::copy(other.path().join(labels), base.path().join(labels)).unwrap();
        let found = differences();
        assert!(found[1].ends_with("t10k-labels-idx1-ubyte.gz: 19 labels for 20 pictures"));
        std::fs::remove_file(base.path().join(labels)).unwrap();
        assert!(differences()[1].contains("t10k-labels-idx1-ubyte.gz: there is no such file"));
    }

    #[test]
    fn fewer_pictures_than_published_are_a_difference_of_the_published_pairs() {
        let base = made_up(2_700, 300);
        let dataset = AvDigitsConfig::default().open(&context(base.path())).unwrap();
        let found = dataset.differences();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("train-images-idx3-ubyte.gz: 2700 pictures, expected 60000"));
    }

    #[test]
    fn each_modality_has_an_input_that_decodes_it() {
        let base = made_up(2_700, 300);
        let dataset = AvDigitsConfig::default().open(&context(base.path())).unwrap();
        let inputs = dataset.inputs();
        assert!(inputs.keys().eq(&dataset.modalities()));
        assert!(inputs.values().all(|input| input.build().is_ok()));
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let base = tempfile::tempdir().unwrap();
        let error = refusal(base.path());
        assert!(error.contains("avdigits/fsdd/recordings: there is no such folder"), "{error}");
        assert!(error.contains("`mie data fetch av_digits`"), "{error}");
        assert!(error.contains("MIE_DATA_DIR"), "{error}");
        let base = made_up(2_700, 300);
        let file = base.path().join("avdigits/mnist/t10k-images-idx3-ubyte.gz");
        std::fs::remove_file(file).unwrap();
        let error = refusal(base.path());
        assert!(error.contains("t10k-images-idx3-ubyte.gz: there is no such file"), "{error}");
        let error = refusal(made_up(2_699, 300).path());
        assert!(error.contains("has too few pictures of digit 9"), "{error}");
    }

    #[test]
    fn lists_are_read_instead_of_the_rule_and_must_be_complete() {
        let base = made_up(20, 20);
        let root = base.path().join("avdigits");
        let list = |rows: &str| format!("{HEADER}\n{rows}");
        std::fs::write(root.join("pairs_train.tsv"), list("a/b.wav\ttrain\t7\t3\n")).unwrap();
        let error = refusal(base.path());
        assert!(error.contains("cannot read") && error.contains("pairs_valid.tsv"), "{error}");
        std::fs::write(root.join("pairs_valid.tsv"), list("")).unwrap();
        std::fs::write(root.join("pairs_test.tsv"), list("c.wav\tt10k\t8\t9\n")).unwrap();
        let dataset = AvDigitsConfig::default().open(&context(base.path())).unwrap();
        let sample = Sample { id: "b-train7".to_owned(), label: 3 };
        assert_eq!(dataset.samples(Split::Train), [sample]);
        assert!(dataset.samples(Split::Valid).is_empty());
        let recording = root.join("fsdd/recordings/b.wav");
        assert_eq!(dataset.raw(Split::Train, 0, "audio").unwrap(), Raw::File(recording));
        std::fs::write(root.join("pairs_test.tsv"), list("c.wav\tt10k\t20\t9\n")).unwrap();
        assert!(refusal(base.path()).contains("there is no picture 20 in the t10k file"));
    }

    #[test]
    fn a_file_too_large_for_a_list_of_pairs_is_refused_unread() {
        let base = made_up(20, 20);
        let list = base.path().join("avdigits/pairs_train.tsv");
        // Sparse: it takes no space on the disk.
        std::fs::File::create(list).unwrap().set_len(1 << 31).unwrap();
        let error = refusal(base.path());
        assert!(error.contains("pairs_train.tsv: has 2147483648 bytes, at most"), "{error}");
    }

    #[test]
    fn a_label_that_contradicts_the_recording_s_name_is_refused() {
        let list = |label| format!("{HEADER}\n3_theo_7.wav\ttrain\t5\t{label}\n");
        assert_eq!(parse_list(&list(3)).map(|pairs| pairs.len()), Ok(1));
        let problem = parse_list(&list(4)).map(|_| ()).unwrap_err();
        assert_eq!(problem, "line 2: label 4 contradicts the recording's name 3_theo_7.wav");
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        for line in ["a.wav\ttrain\t1", "a.wav\tmnist\t1\t1", "a.wav\ttrain\tx\t1", "\ttrain\t1\t1"]
        {
            let problem = parse_list(&format!("{HEADER}\na.wav\ttrain\t1\t1\n{line}")).unwrap_err();
            assert!(problem.starts_with("line 3: found"), "{problem}");
        }
        assert!(parse_list(&format!("{HEADER}\na.wav\ttrain\t1\t10")).is_err());
        assert!(parse_list("a.wav\ttrain\t1\t1").unwrap_err().starts_with("line 1: found"));
        assert!(parse_list("").unwrap_err().contains("found None"));
    }

    #[test]
    fn own_lists_have_no_published_numbers_and_no_rule() {
        let base = made_up(2_700, 300);
        let pairs = Pairs { train: PathBuf::from("mine.tsv"), ..Pairs::default() };
        let config = AvDigitsConfig { pairs, ..AvDigitsConfig::default() };
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert!(error.contains("mine.tsv"), "{error}");
        let root = base.path().join("avdigits");
        for name in ["mine.tsv", "pairs_valid.tsv", "pairs_test.tsv"] {
            std::fs::write(root.join(name), HEADER).unwrap();
        }
        let dataset = config.open(&context(base.path())).unwrap();
        assert_eq!(dataset.expected(), Expected::default());
    }

    #[test]
    fn the_rule_gives_the_lists_that_come_with_the_real_files() {
        let Some(root) = real_data::folder("avdigits") else { return };
        let config = AvDigitsConfig::default();
        let listed = config.lists(&root).unwrap().unwrap();
        assert_eq!(pairs_by_rule(&root.join("mnist")).unwrap(), listed);
        assert_eq!(listed[&Split::Train].len(), 2_400);
    }

    #[test]
    fn every_real_recording_of_the_lists_exists() {
        let Some(root) = real_data::folder("avdigits") else { return };
        let config = AvDigitsConfig { root, ..AvDigitsConfig::default() };
        let dataset = config.open(&context(Path::new(""))).unwrap();
        for split in Split::ALL {
            for index in 0..dataset.samples(split).len() {
                let raw = dataset.raw(split, index, "audio").unwrap();
                assert!(matches!(&raw, Raw::File(file) if file.is_file()), "{raw:?}");
            }
        }
    }

    #[test]
    fn fetching_brings_recordings_and_checked_pictures() {
        let fetch = AvDigitsConfig::default().fetch(&context(Path::new("/data"))).unwrap();
        assert_eq!(fetch.root, Path::new("/data/avdigits"));
        assert_eq!(fetch.files.len(), 5);
        assert_eq!(fetch.files[0].unpack.as_ref().unwrap().into, "fsdd/recordings");
        assert_eq!(fetch.files[3].path, "mnist/t10k-images-idx3-ubyte.gz");
        for picture in &fetch.files[1..] {
            assert_eq!(picture.sha256.as_ref().unwrap().len(), 64);
            assert!(picture.unpack.is_none());
        }
        assert!(fetch.notice.contains("CC BY-SA 4.0") && fetch.notice.contains("CC BY-SA 3.0"));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_list_gives_pairs_of_digits_or_names_the_broken_line(
            headed in 0usize..8,
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "3_theo_7.wav\ttrain\t5\t3\n", "x/a.wav\tt10k\t18446744073709551615\t9\r\n",
                    "\n", "\t", "..", "/", "\0", "é", "train", "9_", "10",
                ]),
                0..5,
            ),
            other in any::<char>(),
            broken in any::<bool>(),
        ) {
            let start = if headed > 0 { format!("{HEADER}\n") } else { String::new() };
            let mut content = start + &pieces.concat();
            content.extend(broken.then_some(other));
            match parse_list(&content) {
                Ok(pairs) => {
                    for Pair { recording, label, .. } in pairs {
                        prop_assert!(label < DIGITS && !recording.contains('/'), "{}", recording);
                    }
                }
                Err(problem) => prop_assert!(problem.starts_with("line "), "{}", problem),
            }
        }
    }
}
