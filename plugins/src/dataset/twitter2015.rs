//! Twitter2015: tweets with pictures, and the sentiment towards what they name.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;
use serde_json::{Map, Value};

use super::clips::ClipLists;
use super::text_image::{Part, TextImage, complete, picture_name, stem};
use crate::formats::words::SEPARATOR;
use crate::formats::{self, lists};

/// Reads Twitter2015: the sentiment of a tweet and its picture towards a target.
///
/// Three classes: negative, neutral, positive. A target is a person, a place or the like that the
/// tweet names; a tweet with several makes as many samples, with the same picture. 3179 samples
/// for training, 1122 for validation, 1037 for testing.
///
/// The files cannot be fetched. Lists are at <https://github.com/jefferyYu/TomBERT> in
/// `absa_data/twitter2015`; the README there links the pictures (`IJCAI2019_data`). They are
/// expected as
///
/// ```text
/// Twitter15/annotations/train.tsv
/// Twitter15/annotations/dev.tsv
/// Twitter15/annotations/test.tsv
/// Twitter15/twitter2015_images/<number>.jpg
/// ```
///
/// The list of validation is named `dev.tsv` where it is published; the released code of MIE calls
/// it `valid.tsv`, and has no lists of its own. Three forms of lists are read:
///
/// ```text
/// tsv      index  label 0 1 2  image  tweet  target     by position, below a header
/// txt      four lines: tweet, target, polarity -1 0 1, image
/// headed   columns Label, String and ImageID, by their names (released code of MIE)
/// ```
///
/// In the tweet `$T$` stands for the target. Quotes have no meaning. A sample is named after its
/// picture and the place of `$T$` among the words, as `1860693@3`.
///
/// Modalities: `image`, a JPEG file; `text`, the tweet.
///
/// Some pictures are missing, tiny or broken where they are published. The authors put a picture
/// that says so in their place whenever one cannot be opened; here `fallback_image` replaces those
/// that are missing or empty or, with `fallback_for = "unreadable"`, cut off or no pictures too. It
/// is known before the run which ones, and the run records how many. Others that cannot be used are
/// for `data.exclude`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Twitter2015Config {
    /// Folder of the dataset, relative to the data folder. Default `Twitter15`.
    pub root: PathBuf,
    /// Lists of the samples of each split.
    pub lists: Twitter2015Lists,
    /// Form of the lists. Default `auto`.
    pub form: Twitter2015Form,
    /// Folder of the pictures, relative to `root`. Default `twitter2015_images`.
    pub images: PathBuf,
    /// Picture that replaces missing ones, in the folder of pictures; empty for none. Where it is
    /// missing too, nothing is replaced. Default `17_06_4705.jpg`, as the authors.
    pub fallback_image: PathBuf,
    /// Which pictures are replaced. Default `missing`.
    pub fallback_for: FallbackFor,
    /// What of a tweet is read. Default `tweet`.
    pub text: TweetText,
}

/// Files that list the samples of each split, relative to `root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Twitter2015Lists {
    /// Training samples. Default `annotations/train.tsv`.
    pub train: PathBuf,
    /// Validation samples; empty for none. Default `annotations/dev.tsv`.
    pub valid: PathBuf,
    /// Test samples. Default `annotations/test.tsv`.
    pub test: PathBuf,
}

/// How a list of Twitter2015 is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Twitter2015Form {
    /// `txt` by the ending of the file's name, `headed` by its header, else `tsv`.
    #[default]
    Auto,
    /// Five columns by position, as published; their header repeats and leaves out names.
    Tsv,
    /// Four lines a sample, as published.
    Txt,
    /// Columns by the names `Label`, `String` and `ImageID`; without targets.
    Headed,
}

/// Which pictures the fallback replaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackFor {
    /// Those that are missing or empty.
    #[default]
    Missing,
    /// These, and those that do not start as a PNG, JPEG or PNM or end before their picture does:
    /// all that the authors could not open, but for damage between start and end. Looked at once,
    /// when the dataset is opened.
    Unreadable,
}

/// What of a tweet is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TweetText {
    /// The tweet as it was written, the target in its place.
    #[default]
    Tweet,
    /// The tweet with `$T$` left in it: what the released code of MIE reads, which then cleans it to
    /// the word `t`.
    MarkedTweet,
    /// The tweet with `$T$` left in it, ` [SEP] `, and the target: the pair of the authors' code.
    TweetAndTarget,
}

impl Default for Twitter2015Config {
    fn default() -> Self {
        Self {
            root: PathBuf::from("Twitter15"),
            lists: Twitter2015Lists::default(),
            form: Twitter2015Form::default(),
            images: PathBuf::from("twitter2015_images"),
            fallback_image: PathBuf::from("17_06_4705.jpg"),
            fallback_for: FallbackFor::default(),
            text: TweetText::default(),
        }
    }
}

impl Default for Twitter2015Lists {
    fn default() -> Self {
        Self {
            train: PathBuf::from("annotations/train.tsv"),
            valid: PathBuf::from("annotations/dev.tsv"),
            test: PathBuf::from("annotations/test.tsv"),
        }
    }
}

const CLASSES: [&str; 3] = ["negative", "neutral", "positive"];
const TARGET: &str = "$T$";

/// Samples of each class as published.
const PUBLISHED: [(Split, [usize; 3]); 3] = [
    (Split::Train, [368, 1883, 928]),
    (Split::Valid, [149, 670, 303]),
    (Split::Test, [113, 607, 317]),
];

/// Names, by split, that lists have elsewhere.
const ELSEWHERE: [(Split, &str); 8] = [
    (Split::Train, "annotations/train_data.tsv"),
    (Split::Train, "annotations/train.txt"),
    (Split::Valid, "annotations/valid.tsv"),
    (Split::Valid, "annotations/valid_data.tsv"),
    (Split::Valid, "annotations/dev.txt"),
    (Split::Valid, "dev.tsv"),
    (Split::Test, "annotations/test_data.tsv"),
    (Split::Test, "annotations/test.txt"),
];

const GUIDE: &str = "take the lists from https://github.com/jefferyYu/TomBERT \
                     (absa_data/twitter2015) and the pictures from the archive that its README \
                     links (IJCAI2019_data); lay them out as \
                     Twitter15/annotations/{train,dev,test}.tsv and \
                     Twitter15/twitter2015_images/<number>.jpg in the data folder, which \
                     MIE_DATA_DIR names";

#[typetag::serde(name = "twitter2015")]
impl DatasetConfig for Twitter2015Config {
    fn class_count(&self) -> Option<usize> {
        Some(CLASSES.len())
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>> {
        let root = context.resolve(&self.root);
        let folder = root.join(&self.images);
        let replaces = folder.join(&self.fallback_image).is_file();
        let mut parts = BTreeMap::new();
        let mut replaced = BTreeMap::new();
        // A tweet with several targets has one picture.
        let mut needy: BTreeMap<PathBuf, bool> = BTreeMap::new();
        for (split, file) in self.lists.files(&root)? {
            let mut part = Part::default();
            let mut names = BTreeMap::new();
            let mut of_split = Vec::new();
            for row in read_list(&file, self.form)? {
                let text = self.text(&row).ok_or_else(|| Error::data(&file, NO_TARGETS))?;
                let id = sample_id(&row, &mut names);
                let mut picture = PathBuf::from(row.image);
                let needs = || self.fallback_for.replaces(&folder.join(&picture));
                if replaces && *needy.entry(picture.clone()).or_insert_with(needs) {
                    picture.clone_from(&self.fallback_image);
                    of_split.push(id.clone());
                }
                part.add(Sample { id, label: row.label }, text, picture);
            }
            parts.insert(split, part);
            replaced.insert(split, of_split);
        }
        let Twitter2015Lists { train, valid, test } = &self.lists;
        let blocks = [(train, "train.txt"), (valid, "dev.txt"), (test, "test.txt")];
        let published = self.lists == Twitter2015Lists::default()
            || blocks.iter().all(|(list, name)| list.ends_with(name));
        Ok(Box::new(TextImage {
            dataset: "twitter2015",
            classes: CLASSES.map(str::to_owned).to_vec(),
            parts,
            folder,
            guide: GUIDE,
            expected: if published { complete(&PUBLISHED) } else { Expected::default() },
            remarks: self.remark(&replaced).into_iter().collect(),
            facts: fact(&replaced),
        }))
    }
}
register!(
    dataset::<Twitter2015Config>,
    source = "Zhang et al. 2018; Yu and Jiang 2019 (TomBERT), \
              https://github.com/jefferyYu/TomBERT"
);

const NO_TARGETS: &str = "has no column of targets, which text = \"tweet_and_target\" asks for; \
                          use a published list, or text = \"tweet\"";

impl Twitter2015Lists {
    /// Finds the list of each split that has one.
    fn files(&self, root: &Path) -> Result<BTreeMap<Split, PathBuf>> {
        let valid = Some(self.valid.clone()).filter(|file| !file.as_os_str().is_empty());
        let lists = ClipLists { train: self.train.clone(), valid, test: self.test.clone() };
        lists.files(root, &ELSEWHERE, GUIDE)
    }
}

impl Twitter2015Config {
    /// What is read of a tweet; `None` where that asks for a target which is not listed.
    fn text(&self, row: &Row) -> Option<String> {
        match (self.text, &row.target) {
            (TweetText::Tweet, Some(target)) => Some(row.tweet.replace(TARGET, target)),
            (TweetText::Tweet, None) | (TweetText::MarkedTweet, _) => Some(row.tweet.clone()),
            (TweetText::TweetAndTarget, target) => {
                Some([&*row.tweet, target.as_ref()?].join(SEPARATOR))
            }
        }
    }

    /// Says how many samples have the fallback picture, if any.
    fn remark(&self, replaced: &BTreeMap<Split, Vec<String>>) -> Option<String> {
        let mut all = replaced.values().flatten();
        let first = all.next()?;
        let that = match self.fallback_for {
            FallbackFor::Missing => "",
            FallbackFor::Unreadable => " that can be read",
        };
        Some(format!(
            "image: {} samples have no picture of their own{that} and get the fallback {}, the \
             first is `{first}`",
            1 + all.count(),
            self.fallback_image.display()
        ))
    }
}

/// How many samples of each split have the fallback picture, for the record.
fn fact(replaced: &BTreeMap<Split, Vec<String>>) -> Map<String, Value> {
    let counts: Map<String, Value> = replaced
        .iter()
        .map(|(split, ids)| (split.name().to_owned(), Value::from(ids.len())))
        .collect();
    [("samples_with_fallback_image".to_owned(), Value::Object(counts))].into_iter().collect()
}

impl FallbackFor {
    /// Whether the fallback takes the place of a picture.
    fn replaces(self, picture: &Path) -> bool {
        is_missing(picture)
            || self == Self::Unreadable && formats::picture::inspect(picture).is_err()
    }
}

/// Whether there is no such picture, or nothing in it.
fn is_missing(picture: &Path) -> bool {
    match std::fs::metadata(picture) {
        Ok(found) => found.len() == 0,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// A sample as its list has it.
#[derive(Debug, PartialEq)]
struct Row {
    image: String,
    label: usize,
    tweet: String,
    target: Option<String>,
}

/// Names a sample after its picture and the place of the target in the tweet.
///
/// That is unique in the published lists, in any form and over all splits; a repetition gets a
/// number.
fn sample_id(row: &Row, names: &mut BTreeMap<String, usize>) -> String {
    let picture = stem(&row.image);
    let place = row.tweet.split_whitespace().position(|word| word == TARGET);
    let name = place.map_or_else(|| picture.to_owned(), |place| format!("{picture}@{place}"));
    let times = names.entry(name.clone()).or_insert(0);
    *times += 1;
    if *times == 1 { name } else { format!("{name}#{times}") }
}

fn read_list(file: &Path, form: Twitter2015Form) -> Result<Vec<Row>> {
    let lines = lists::lines(file)?;
    let Some(((number, header), rest)) = lines.split_first() else {
        return Err(Error::data(file, "is empty, expected a list of tweets"));
    };
    let is_txt = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("txt"));
    let columns = match form {
        Twitter2015Form::Txt => return read_blocks(file, &lines),
        Twitter2015Form::Auto if is_txt => return read_blocks(file, &lines),
        Twitter2015Form::Auto => Columns::named(header).or_else(|| Columns::published(header)),
        Twitter2015Form::Tsv => Columns::published(header),
        Twitter2015Form::Headed => Columns::named(header),
    };
    let expected = match form {
        Twitter2015Form::Headed => "a header with Label, String and ImageID, separated by tabs",
        _ => "a header that starts with `index`, or one with Label, String and ImageID",
    };
    let columns = columns.ok_or_else(|| lists::fault(file, *number, header, expected))?;
    let expected = format!(
        "{} columns separated by tabs: in column {} the label 0, 1 or 2, in column {} an image",
        columns.count,
        columns.label + 1,
        columns.image + 1
    );
    rest.iter()
        .map(|(number, line)| {
            columns.row(line).ok_or_else(|| lists::fault(file, *number, line, &expected))
        })
        .collect()
}

/// Most bytes of a tweet or target: published ones have up to 300.
const LONGEST_FIELD_BYTES: usize = 1 << 13;

/// Where a line has what.
struct Columns {
    count: usize,
    label: usize,
    image: usize,
    tweet: usize,
    target: Option<usize>,
}

impl Columns {
    /// As published: the header of the test list has a name less than there are columns.
    fn published(header: &str) -> Option<Self> {
        let starts = header.split('\t').next().is_some_and(|name| name.trim() == "index");
        starts.then_some(Self { count: 5, label: 1, image: 2, tweet: 3, target: Some(4) })
    }

    fn named(header: &str) -> Option<Self> {
        let names: Vec<&str> = header.split('\t').map(str::trim).collect();
        let position = |name: &str| names.iter().position(|found| *found == name);
        Some(Self {
            count: names.len(),
            label: position("Label")?,
            image: position("ImageID")?,
            tweet: position("String")?,
            target: None,
        })
    }

    fn row(&self, line: &str) -> Option<Row> {
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        if fields.len() != self.count {
            return None;
        }
        // The target takes the place of each `$T$`: lengths multiply.
        if fields.iter().any(|field| field.len() > LONGEST_FIELD_BYTES) {
            return None;
        }
        let label = fields[self.label].parse::<usize>().ok();
        Some(Row {
            image: picture_name(fields[self.image])?.to_owned(),
            label: label.filter(|&label| label < CLASSES.len())?,
            tweet: fields[self.tweet].to_owned(),
            target: self.target.map(|target| fields[target].to_owned()),
        })
    }
}

/// Reads the form of four lines a sample.
fn read_blocks(file: &Path, lines: &[(usize, String)]) -> Result<Vec<Row>> {
    let expected = "four lines: a tweet, its target, its polarity -1, 0 or 1, and an image";
    lines
        .chunks(4)
        .map(|block| {
            parse_block(block).ok_or_else(|| {
                let (number, line) = &block[0];
                lists::fault(file, *number, line, expected)
            })
        })
        .collect()
}

fn parse_block(block: &[(usize, String)]) -> Option<Row> {
    let [(first, tweet), (_, target), (_, polarity), (last, image)] = block else { return None };
    if tweet.len().max(target.len()) > LONGEST_FIELD_BYTES {
        return None;
    }
    let polarity = polarity.trim();
    Some(Row {
        image: picture_name(image).filter(|_| last - first == 3)?.to_owned(),
        label: ["-1", "0", "1"].iter().position(|known| *known == polarity)?,
        tweet: tweet.trim().to_owned(),
        target: Some(target.trim().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mie_core::data::check::check;
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

    use super::super::clips::fixture::{context, write};
    use super::super::text_image::fixture::{counted, names, picture, text};
    use super::*;
    use crate::formats::real_data;

    const TSV: &str = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String\n\
                       1\t2\t186.jpg\tRT @ x : $T$ is \"everything # MCM\tChuck Bass\n\
                       2\t1\t186.jpg\tRT @ x : Chuck Bass is \"everything $T$\t# MCM\n";
    const TXT: &str = "RT @ x : $T$ is \"everything # MCM\nChuck Bass\n1\n186.jpg\n\
                       RT @ x : Chuck Bass is \"everything $T$ \r\n# MCM\r\n0\r\n186.jpg\r\n";

    fn read(name: &str, content: &str, form: Twitter2015Form) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        read_list(&file, form)
    }

    fn refusal(name: &str, content: &str, form: Twitter2015Form) -> String {
        read(name, content, form).unwrap_err().to_string()
    }

    /// Three tweets of which one has its picture, with a fallback.
    fn made_up() -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("Twitter15");
        write(&root.join("annotations/train.tsv"), TSV);
        write(&root.join("annotations/dev.tsv"), "index\n1\t0\t9.jpg\t$T$ . Café\tThe Café\n");
        write(&root.join("annotations/test.tsv"), "index\n1\t1\t8.jpg\tMet $T$\tJoe\n");
        write(&root.join("twitter2015_images/186.jpg"), "a picture");
        write(&root.join("twitter2015_images/8.jpg"), "");
        write(&root.join("twitter2015_images/17_06_4705.jpg"), "not found");
        base
    }

    fn open(config: &Twitter2015Config, base: &Path) -> Box<dyn Dataset> {
        config.open(&context(base)).unwrap()
    }

    #[test]
    fn a_small_copy_gives_tweets_and_pictures_and_counts_the_fallback() {
        let base = made_up();
        let dataset = open(&Twitter2015Config::default(), base.path());
        let dataset = dataset.as_ref();
        let ids = ["186@4", "186@8"].map(str::to_owned);
        let labels = [2, 1];
        let samples: Vec<Sample> =
            ids.into_iter().zip(labels).map(|(id, label)| Sample { id, label }).collect();
        assert_eq!(dataset.samples(Split::Train), samples);
        let tweet = "RT @ x : Chuck Bass is \"everything # MCM";
        assert_eq!([0, 1].map(|index| text(dataset, Split::Train, index)), [tweet; 2]);
        assert_eq!(text(dataset, Split::Valid, 0), "The Café . Café");
        let images = base.path().join("Twitter15/twitter2015_images");
        assert_eq!(picture(dataset, Split::Train, 1), images.join("186.jpg"));
        for split in [Split::Valid, Split::Test] {
            assert_eq!(picture(dataset, split, 0), images.join("17_06_4705.jpg"));
        }
        let counts = serde_json::json!({ "train": 0, "valid": 1, "test": 1 });
        assert_eq!(dataset.facts()["samples_with_fallback_image"], counts);
        let differences = dataset.differences();
        let [line] = &differences[..] else { panic!("{differences:?}") };
        assert!(line.starts_with("image: 2 samples have no picture of their own"), "{line}");
        assert!(line.ends_with("17_06_4705.jpg, the first is `9@0`"), "{line}");
    }

    #[test]
    fn without_a_fallback_the_missing_picture_is_named() {
        let base = made_up();
        let images = base.path().join("Twitter15/twitter2015_images");
        let none =
            Twitter2015Config { fallback_image: PathBuf::new(), ..Twitter2015Config::default() };
        let dataset = open(&none, base.path());
        assert_eq!(picture(dataset.as_ref(), Split::Valid, 0), images.join("9.jpg"));
        assert!(dataset.differences().is_empty());
        std::fs::remove_file(images.join("17_06_4705.jpg")).unwrap();
        let dataset = open(&Twitter2015Config::default(), base.path());
        assert_eq!(picture(dataset.as_ref(), Split::Test, 0), images.join("8.jpg"));
    }

    #[test]
    fn what_is_no_picture_gets_the_fallback_where_that_is_asked_for() {
        let base = made_up();
        let images = base.path().join("Twitter15/twitter2015_images");
        let fallback = images.join("17_06_4705.jpg");
        let config =
            Twitter2015Config { fallback_for: FallbackFor::Unreadable, ..Default::default() };
        let dataset = open(&config, base.path());
        // One picture of two samples; it holds the words "a picture".
        for index in [0, 1] {
            assert_eq!(picture(dataset.as_ref(), Split::Train, index), fallback);
        }
        let counts = serde_json::json!({ "train": 2, "valid": 1, "test": 1 });
        assert_eq!(dataset.facts()["samples_with_fallback_image"], counts);
        let line = dataset.differences().concat();
        let start = "image: 4 samples have no picture of their own that can be read and get the";
        assert!(line.starts_with(start), "{line}");
        image::GrayImage::new(3, 2).save(images.join("186.jpg")).unwrap();
        let dataset = open(&config, base.path());
        assert_eq!(picture(dataset.as_ref(), Split::Train, 0), images.join("186.jpg"));
    }

    #[test]
    fn a_check_finds_pictures_that_are_cut_off_or_none_without_decoding() {
        let base = made_up();
        let images = base.path().join("Twitter15/twitter2015_images");
        let whole = base.path().join("whole.jpg");
        image::GrayImage::new(64, 64).save(&whole).unwrap();
        let content = std::fs::read(&whole).unwrap();
        std::fs::write(images.join("186.jpg"), &content[..content.len() - 20]).unwrap();
        std::fs::copy(&whole, images.join("8.jpg")).unwrap();
        let dataset = open(&Twitter2015Config::default(), base.path());
        let report = check(dataset.as_ref(), &[], false, &mut |_, _| {}).unwrap();
        let broken: Vec<&str> = report.broken.iter().map(|fault| fault.sample.as_str()).collect();
        // The fallback of the third holds the words "not found".
        assert_eq!(broken, ["186@4", "186@8", "9@0"]);
        assert!(report.missing.is_empty(), "{:?}", report.missing);
        for (fault, end) in report.broken.iter().zip([
            "186.jpg: is no picture that can be read: this JPEG ends before its picture does",
            "186.jpg: is no picture that can be read: this JPEG ends before its picture does",
            "17_06_4705.jpg: is no picture that can be read (PNG, JPEG, PNM): it starts as none of \
             them",
        ]) {
            assert!(fault.reason.ends_with(end), "{}", fault.reason);
        }
    }

    #[test]
    fn texts_are_the_tweet_or_the_pair() {
        let base = made_up();
        for (of, expected) in [
            (TweetText::MarkedTweet, "$T$ . Café"),
            (TweetText::TweetAndTarget, "$T$ . Café [SEP] The Café"),
        ] {
            let config = Twitter2015Config { text: of, ..Twitter2015Config::default() };
            let dataset = open(&config, base.path());
            assert_eq!(text(dataset.as_ref(), Split::Valid, 0), expected);
        }
    }

    #[test]
    fn the_three_forms_hold_the_same() {
        let rows = read("a.tsv", TSV, Twitter2015Form::Auto).unwrap();
        let row = |label, tweet: &str, target: &str| Row {
            image: "186.jpg".to_owned(),
            label,
            tweet: tweet.to_owned(),
            target: Some(target.to_owned()),
        };
        let expected = [
            row(2, "RT @ x : $T$ is \"everything # MCM", "Chuck Bass"),
            row(1, "RT @ x : Chuck Bass is \"everything $T$", "# MCM"),
        ];
        assert_eq!(rows, expected);
        assert_eq!(read("a.txt", TXT, Twitter2015Form::Auto).unwrap(), expected);
        let headed = "x\tString\tLabel\tImageID\n\
                      .\tRT @ x : $T$ is \"everything # MCM\t2\t186.jpg\n\
                      .\tRT @ x : Chuck Bass is \"everything $T$\t1\timages/186.jpg\n";
        let headed = read("a.tsv", headed, Twitter2015Form::Auto).unwrap();
        let expected = expected.map(|row| Row { target: None, ..row });
        assert_eq!(headed, expected);
    }

    #[test]
    fn broken_lists_are_refused_with_file_and_line() {
        use Twitter2015Form::{Auto, Headed, Tsv, Txt};
        for line in ["1\t3\t1.jpg\ta\tb", "1\t1\t1.jpg\ta", "1\t1\t\ta\tb", "1\tx\t1.jpg\ta\tb"] {
            let error = refusal("a.tsv", &format!("index\n\n{line}\n"), Auto);
            assert!(error.contains("a.tsv: line 3: found \"1\\t"), "{error}");
            assert!(error.contains("expected 5 columns separated by tabs"), "{error}");
        }
        let error = refusal("a.tsv", "1\t1\t1.jpg\ta\tb\n", Tsv);
        assert!(error.contains("line 1: found") && error.contains("starts with `index`"));
        let error = refusal("a.tsv", TSV, Headed);
        assert!(error.contains("a header with Label, String and ImageID"), "{error}");
        for block in ["$T$\nJoe\n2\n1.jpg\n", "$T$\nJoe\n1\n", "$T$\n\nJoe\n1\n1.jpg\n"] {
            let error = refusal("a.csv", &format!("{TXT}{block}"), Txt);
            assert!(error.contains("a.csv: line 9: found \"$T$\", expected four lines"), "{error}");
        }
        assert!(refusal("a.tsv", "\n", Auto).contains("is empty"));
    }

    #[test]
    fn a_pair_asks_for_targets_and_repeated_names_get_numbers() {
        let base = tempfile::tempdir().unwrap();
        let row = "1\tno target here\t7.jpg\n";
        let list = format!("Label\tString\tImageID\n{row}{row}{row}");
        for name in ["train", "test"] {
            write(&base.path().join(format!("Twitter15/annotations/{name}.tsv")), &list);
        }
        let lists = Twitter2015Lists { valid: PathBuf::new(), ..Twitter2015Lists::default() };
        let config = Twitter2015Config { lists, ..Twitter2015Config::default() };
        let dataset = open(&config, base.path());
        let ids: Vec<&str> =
            dataset.samples(Split::Train).iter().map(|sample| sample.id.as_str()).collect();
        assert_eq!(ids, ["7", "7#2", "7#3"]);
        assert!(dataset.samples(Split::Valid).is_empty());
        assert_eq!(dataset.expected(), Expected::default());
        let config = Twitter2015Config { text: TweetText::TweetAndTarget, ..config };
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert!(error.contains("train.tsv: has no column of targets"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_is_to_be_had() {
        let base = made_up();
        let root = base.path().join("Twitter15");
        std::fs::rename(root.join("annotations/dev.tsv"), root.join("annotations/valid.tsv"))
            .unwrap();
        let config = Twitter2015Config::default();
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert!(error.contains("dev.tsv: there is no such list"), "{error}");
        assert!(error.contains("dataset.lists.valid = \"annotations/valid.tsv\""), "{error}");
        std::fs::remove_file(root.join("annotations/train.tsv")).unwrap();
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert!(error.contains("https://github.com/jefferyYu/TomBERT"), "{error}");
    }

    #[test]
    fn the_real_lists_have_the_published_numbers_in_both_forms() {
        let Some(splits) = real_data::folder("splits") else { return };
        let folder = splits.join("twitter2015");
        let list = |name: &str, ending: &str| folder.join(name).with_extension(ending);
        let mut found = Vec::new();
        for ending in ["tsv", "txt"] {
            let lists = Twitter2015Lists {
                train: list("train", ending),
                valid: list("dev", ending),
                test: list("test", ending),
            };
            let config = Twitter2015Config { lists, ..Twitter2015Config::default() };
            let dataset = open(&config, Path::new(""));
            let dataset = dataset.as_ref();
            assert_eq!(counted(dataset), complete(&PUBLISHED).classes);
            // Names of the form of four lines are known; these of the other lie elsewhere.
            let known = if ending == "txt" { complete(&PUBLISHED) } else { Expected::default() };
            assert_eq!(dataset.expected(), known);
            let samples = [(Split::Train, 3179), (Split::Valid, 1122), (Split::Test, 1037)];
            assert_eq!(complete(&PUBLISHED).samples, BTreeMap::from(samples));
            assert_eq!(names(dataset).len(), 5338);
            assert!(!names(dataset).iter().any(|name| name.contains('#')));
            assert_eq!(dataset.samples(Split::Train)[1].id, "1860693@8");
            assert_eq!(
                text(dataset, Split::Valid, 0),
                "RT @ FundsOverBuns : Tyga went from pedophile to messing with cougars all within \
                 a week"
            );
            let all = Split::ALL.map(|split| {
                let samples = dataset.samples(split);
                let text = |index| text(dataset, split, index).to_owned();
                (samples.to_vec(), (0..samples.len()).map(text).collect::<Vec<_>>())
            });
            found.push(all);
        }
        assert_eq!(found[0], found[1]);
    }

    #[test]
    fn the_real_lists_have_as_many_pictures_as_published_and_share_none() {
        let Some(splits) = real_data::folder("splits") else { return };
        let mut all = BTreeSet::new();
        for (name, count) in [("train", 2101), ("dev", 727), ("test", 674)] {
            let file = splits.join(format!("twitter2015/{name}.tsv"));
            let rows = read_list(&file, Twitter2015Form::Tsv).unwrap();
            let images: BTreeSet<String> = rows.into_iter().map(|row| row.image).collect();
            assert_eq!(images.len(), count);
            all.extend(images);
        }
        assert_eq!(all.len(), 2101 + 727 + 674);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_list_gives_tweets_of_three_classes_or_names_the_broken_line(
            start in prop::sample::select(vec![
                "index\n", "Label\tString\tImageID\n", TSV, TXT, "",
            ]),
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "1\t2\t186.jpg\t$T$ a\tb\n", "2\t$T$ a\tx/8.jpg\r\n", "1\t0\t9.jpg\t\t\n",
                    "RT $T$\nJoe\n-1\n7.jpg\n", "$T$\n", "1\n", "\n", "\t", "..", "/", "\0", "é",
                    "\u{feff}",
                ]),
                0..5,
            ),
            other in any::<char>(),
            broken in any::<bool>(),
            txt in any::<bool>(),
            form in prop::sample::select(vec![
                Twitter2015Form::Auto,
                Twitter2015Form::Tsv,
                Twitter2015Form::Txt,
                Twitter2015Form::Headed,
            ]),
        ) {
            let mut content = start.to_owned() + &pieces.concat();
            content.extend(broken.then_some(other));
            match read(if txt { "a.txt" } else { "a.tsv" }, &content, form) {
                Ok(rows) => {
                    let mut names = BTreeMap::new();
                    for row in rows {
                        prop_assert!(row.label < CLASSES.len());
                        prop_assert!(!row.image.contains(['/', '\\', '\0']), "{:?}", row.image);
                        prop_assert!(!sample_id(&row, &mut names).is_empty());
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    let empty = error.ends_with("is empty, expected a list of tweets");
                    prop_assert!(empty || error.contains(": line "), "{}", error);
                }
            }
        }
    }
}
