//! MMSD: tweets with pictures, sarcastic or not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;
use serde_json::Map;

use super::clips::ClipLists;
use super::text_image::{Part, TextImage, complete, picture_name, stem};
use crate::formats::lists;
use crate::formats::python_literal::{self, Item};

/// Reads MMSD: whether a tweet with a picture is sarcastic.
///
/// Two classes: not sarcastic, sarcastic. 19816 tweets for training, 2410 for validation, 2409 for
/// testing. Their texts are in lower case, with tokens such as `<user>`, `<num>` and `emoji_92`.
///
/// The files cannot be fetched. Lists are at
/// <https://github.com/headacheboy/data-of-multimodal-sarcasm-detection> in `text`; the README
/// there links the pictures, four archives for one folder. They are expected as
///
/// ```text
/// sarcasm/annotations/train.txt
/// sarcasm/annotations/valid2.txt
/// sarcasm/annotations/test2.txt
/// sarcasm/images/<number>.jpg
/// ```
///
/// Two forms of lists are read:
///
/// ```text
/// lines    ['910308516510011393', 'text', 1]         MMSD; the label is the last of 3 or 4 items
/// json     [{"image_id": 840006160660983809, "text": "...", "label": 1}, ...]         MMSD2.0
///          [{"image": "images/910308516510011393.jpg", "text": "...", "label": 1}, ...]   MIE
/// ```
///
/// The training list of MMSD has 29040 lines; its authors drop those whose text has a word that
/// gives the answer away, `dropped_words`, which leaves 19816. MMSD2.0 is the same tweets with
/// corrected labels, and without hashtags and emoji: name its files
/// `text_json_final/{train,valid,test}.json`, of <https://github.com/JoeYing1019/MMSD2.0>, as
/// `lists`, and its `dataset_image` as `images`. The lists of the released code of MIE are not
/// published.
///
/// Modalities: `image`, a JPEG file named after the number of the tweet; `text`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SarcasmConfig {
    /// Folder of the dataset, relative to the data folder. Default `sarcasm`.
    pub root: PathBuf,
    /// Lists of the tweets of each split.
    pub lists: SarcasmLists,
    /// Form of the lists. Default `auto`.
    pub form: SarcasmForm,
    /// Folder of the pictures, relative to `root`. Default `images`.
    pub images: PathBuf,
    /// Words, between blanks, that a training tweet is dropped for; lists in the form `json` are
    /// taken as they are. Default those of MMSD's code: exgag, sarcasm, sarcastic, reposting,
    /// `<url>`, joke, humour, humor, jokes, irony, ironic.
    pub dropped_words: Vec<String>,
}

/// Files that list the tweets of each split, relative to `root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SarcasmLists {
    /// Training tweets. Default `annotations/train.txt`.
    pub train: PathBuf,
    /// Validation tweets; empty for none. Default `annotations/valid2.txt`.
    pub valid: PathBuf,
    /// Test tweets. Default `annotations/test2.txt`.
    pub test: PathBuf,
}

/// How a list of MMSD is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SarcasmForm {
    /// `json` where the name of the file ends so, else `lines`.
    #[default]
    Auto,
    /// A list literal of Python in each line, as of MMSD.
    Lines,
    /// One JSON list, as of MMSD2.0 and the released code of MIE.
    Json,
}

impl Default for SarcasmConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("sarcasm"),
            lists: SarcasmLists::default(),
            form: SarcasmForm::default(),
            images: PathBuf::from("images"),
            dropped_words: DROPPED_WORDS.map(str::to_owned).to_vec(),
        }
    }
}

impl Default for SarcasmLists {
    fn default() -> Self {
        Self {
            train: PathBuf::from("annotations/train.txt"),
            valid: PathBuf::from("annotations/valid2.txt"),
            test: PathBuf::from("annotations/test2.txt"),
        }
    }
}

const CLASSES: [&str; 2] = ["not sarcastic", "sarcastic"];

const DROPPED_WORDS: [&str; 11] = [
    "exgag",
    "sarcasm",
    "sarcastic",
    "reposting",
    "<url>",
    "joke",
    "humour",
    "humor",
    "jokes",
    "irony",
    "ironic",
];

/// Tweets of each class in MMSD, its words dropped.
const MMSD: [(Split, [usize; 2]); 3] =
    [(Split::Train, [11174, 8642]), (Split::Valid, [1451, 959]), (Split::Test, [1450, 959])];

/// Tweets of each class in MMSD2.0.
const MMSD2: [(Split, [usize; 2]); 3] =
    [(Split::Train, [10240, 9576]), (Split::Valid, [1368, 1042]), (Split::Test, [1372, 1037])];

/// Names, by split, that lists have elsewhere.
const ELSEWHERE: [(Split, &str); 9] = [
    (Split::Train, "annotations/train_data.json"),
    (Split::Train, "text_json_final/train.json"),
    (Split::Train, "train.txt"),
    (Split::Valid, "annotations/valid_data.json"),
    (Split::Valid, "text_json_final/valid.json"),
    (Split::Valid, "valid2.txt"),
    (Split::Test, "annotations/test_data.json"),
    (Split::Test, "text_json_final/test.json"),
    (Split::Test, "test2.txt"),
];

const GUIDE: &str = "take train.txt, valid2.txt and test2.txt from \
                     https://github.com/headacheboy/data-of-multimodal-sarcasm-detection (text) \
                     and the pictures from the archives that its README links; lay them out as \
                     sarcasm/annotations/{train,valid2,test2}.txt and \
                     sarcasm/images/<number>.jpg in the data folder, which MIE_DATA_DIR names";

#[typetag::serde(name = "sarcasm")]
impl DatasetConfig for SarcasmConfig {
    fn class_count(&self) -> Option<usize> {
        Some(CLASSES.len())
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>> {
        let root = context.resolve(&self.root);
        let mut parts = BTreeMap::new();
        let mut dropped = 0_usize;
        for (split, file) in self.lists.files(&root)? {
            let is_json = self.form.is_json(&file);
            let rows = if is_json { read_json(&file)? } else { read_lines(&file)? };
            let mut part = Part::default();
            for Row { id, image, text, label } in rows {
                if split == Split::Train && !is_json && self.drops(&text) {
                    dropped += 1;
                    continue;
                }
                part.add(Sample { id, label }, text, PathBuf::from(image));
            }
            parts.insert(split, part);
        }
        let mut facts = Map::new();
        facts.insert("training_tweets_dropped".to_owned(), dropped.into());
        Ok(Box::new(TextImage {
            dataset: "sarcasm",
            classes: CLASSES.map(str::to_owned).to_vec(),
            parts,
            folder: root.join(&self.images),
            guide: GUIDE,
            expected: self.published(),
            remarks: Vec::new(),
            facts,
        }))
    }
}
register!(
    dataset::<SarcasmConfig>,
    source = "Cai, Cai and Wan 2019 (MMSD), \
              https://github.com/headacheboy/data-of-multimodal-sarcasm-detection; \
              Qin et al. 2023 (MMSD2.0), arXiv:2307.07135"
);

impl SarcasmLists {
    /// Whether they are those of MMSD2.0, told by the names of their files.
    ///
    /// Files of the same names in `text_json_clean` are others: with the uncorrected texts, and
    /// fewer tweets.
    fn are_second(&self) -> bool {
        let Self { train, valid, test } = self;
        let names = [(train, "train.json"), (valid, "valid.json"), (test, "test.json")];
        names.iter().all(|(list, name)| {
            list.ends_with(name)
                && list.parent().is_none_or(|folder| !folder.ends_with("text_json_clean"))
        })
    }

    /// Finds the list of each split that has one.
    fn files(&self, root: &Path) -> Result<BTreeMap<Split, PathBuf>> {
        let valid = Some(self.valid.clone()).filter(|file| !file.as_os_str().is_empty());
        let lists = ClipLists { train: self.train.clone(), valid, test: self.test.clone() };
        lists.files(root, &ELSEWHERE, GUIDE)
    }
}

impl SarcasmForm {
    fn is_json(self, file: &Path) -> bool {
        match self {
            Self::Auto => {
                file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"))
            }
            Self::Lines => false,
            Self::Json => true,
        }
    }
}

impl SarcasmConfig {
    /// Whether a training tweet has one of the words that give the answer away.
    fn drops(&self, text: &str) -> bool {
        text.split_whitespace().any(|word| self.dropped_words.iter().any(|dropped| dropped == word))
    }

    fn published(&self) -> Expected {
        if self.lists.are_second() {
            return complete(&MMSD2);
        }
        let drops_the_same = self.dropped_words.iter().eq(DROPPED_WORDS);
        if self.lists == SarcasmLists::default() && drops_the_same {
            return complete(&MMSD);
        }
        Expected::default()
    }
}

/// A tweet as its list has it.
#[derive(Debug, PartialEq)]
struct Row {
    id: String,
    image: String,
    text: String,
    label: usize,
}

fn read_lines(file: &Path) -> Result<Vec<Row>> {
    let lines = lists::lines(file)?;
    lines
        .iter()
        .map(|(number, line)| {
            let items = python_literal::list(line)
                .map_err(|problem| Error::data(file, format!("line {number}, {problem}")))?;
            let expected = "[number, text, label] or [number, text, hashtag label, label], the \
                            last of them 0 or 1";
            parse_items(items).ok_or_else(|| lists::fault(file, *number, line, expected))
        })
        .collect()
}

fn parse_items(items: Vec<Item>) -> Option<Row> {
    let mut items = items.into_iter();
    let id = match items.next()? {
        Item::Text(id) => id,
        Item::Integer(id) => id.to_string(),
    };
    let Item::Text(text) = items.next()? else { return None };
    // A label by hashtag may stand before the one that a person gave.
    let labels: Vec<Item> = items.collect();
    let [.., Item::Integer(label)] = labels[..] else { return None };
    let label = usize::try_from(label).ok().filter(|&label| label < CLASSES.len())?;
    let image = format!("{id}.jpg");
    let is_plain =
        labels.len() <= 2 && picture_name(&image) == Some(image.as_str()) && !id.is_empty();
    is_plain.then_some(Row { id, image, text, label })
}

/// A tweet in JSON; other keys are of no use here.
#[derive(Deserialize)]
struct Entry {
    image_id: Option<ImageId>,
    image: Option<String>,
    text: String,
    label: usize,
}

/// The number of a tweet, of 60 bits: more than a floating-point number keeps.
#[derive(Deserialize)]
#[serde(untagged)]
enum ImageId {
    Number(u64),
    Text(String),
}

fn read_json(file: &Path) -> Result<Vec<Row>> {
    // Line feeds instead of the lines that were left out, so that errors have the right number.
    let mut text = String::new();
    let mut line_feeds = 0;
    for (number, line) in lists::lines(file)? {
        text.extend(std::iter::repeat_n('\n', number - 1 - line_feeds));
        text.push_str(&line);
        line_feeds = number - 1;
    }
    let expected = "expected a list of {\"image_id\" or \"image\", \"text\", \"label\"}";
    let entries: Vec<Entry> = serde_json::from_str(&text)
        .map_err(|error| Error::data(file, format!("found {error}; {expected}")))?;
    let rows = entries.into_iter().enumerate().map(|(index, entry)| {
        parse_entry(entry).ok_or_else(|| {
            let expected = "expected the name of a picture, and the label 0 or 1";
            Error::data(file, format!("entry {}: {expected}", index + 1))
        })
    });
    rows.collect()
}

fn parse_entry(entry: Entry) -> Option<Row> {
    let image = match (entry.image_id, entry.image) {
        (Some(ImageId::Number(id)), _) => format!("{id}.jpg"),
        (Some(ImageId::Text(id)), _) => format!("{id}.jpg"),
        (None, image) => image?,
    };
    let image = picture_name(&image)?;
    let label = Some(entry.label).filter(|&label| label < CLASSES.len())?;
    let id = stem(image).to_owned();
    Some(Row { id, image: image.to_owned(), text: entry.text, label })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

    use super::super::clips::fixture::{context, write};
    use super::super::text_image::fixture::{counted, names, picture, text};
    use super::*;
    use crate::formats::real_data;

    const LINES: &str = "['910308516510011393', 'most # funny <url> \u{2026}', 1]\n\
                         ['840006160660983809', \"isn 't it ?\", 0]\n\
                         [910308516510011394, 'no joker\\u2060 , \\'irony\\' ', 1]\n";

    fn read(name: &str, content: &str) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        if SarcasmForm::Auto.is_json(&file) { read_json(&file) } else { read_lines(&file) }
    }

    fn open(config: &SarcasmConfig, base: &Path) -> Box<dyn Dataset> {
        config.open(&context(base)).unwrap()
    }

    fn lists_of(folder: &Path, names: [&str; 3]) -> SarcasmLists {
        let [train, valid, test] = names.map(|name| folder.join(name));
        SarcasmLists { train, valid, test }
    }

    /// Three training tweets of which one is dropped.
    fn made_up() -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("sarcasm");
        write(&root.join("annotations/train.txt"), LINES);
        write(&root.join("annotations/valid2.txt"), "['1', 'Such irony - a/b', 0, 1]\n");
        write(&root.join("annotations/test2.txt"), "['2', 'c', 1, 0]\n");
        write(&root.join("images/840006160660983809.jpg"), "a picture");
        base
    }

    #[test]
    fn a_small_copy_gives_texts_pictures_and_the_last_label() {
        let base = made_up();
        let dataset = open(&SarcasmConfig::default(), base.path());
        let dataset = dataset.as_ref();
        assert_eq!(dataset.classes(), ["not sarcastic", "sarcastic"]);
        let sample = |id: &str, label| Sample { id: id.to_owned(), label };
        let train = [sample("840006160660983809", 0), sample("910308516510011394", 1)];
        assert_eq!(dataset.samples(Split::Train), train);
        assert_eq!(dataset.samples(Split::Valid), [sample("1", 1)]);
        assert_eq!(dataset.samples(Split::Test), [sample("2", 0)]);
        assert_eq!(text(dataset, Split::Train, 0), "isn 't it ?");
        assert_eq!(text(dataset, Split::Train, 1), "no joker\u{2060} , 'irony' ");
        let file = base.path().join("sarcasm/images/840006160660983809.jpg");
        assert_eq!(picture(dataset, Split::Train, 0), file);
        assert_eq!(dataset.facts()["training_tweets_dropped"], 1);
        let all = SarcasmConfig { dropped_words: Vec::new(), ..SarcasmConfig::default() };
        let dataset = open(&all, base.path());
        assert_eq!(dataset.samples(Split::Train).len(), 3);
        assert_eq!(dataset.expected(), Expected::default());
    }

    #[test]
    fn numbers_of_sixty_bits_stay_exact_in_all_forms() {
        let numbers = "[{\"image_id\": 1152921504606846975, \"text\": \"a\", \"label\": 1},\
                       {\"text\": \"<url>\", \"label\": 0, \"1\": null, \"image_id\": \"7\"},\
                       {\"image\": \"a/1152921504606846974.jpg\", \"text\": \"c\", \"label\": 0}]";
        let row = |id: &str, text: &str, label| Row {
            id: id.to_owned(),
            image: format!("{id}.jpg"),
            text: text.to_owned(),
            label,
        };
        let expected = [
            row("1152921504606846975", "a", 1),
            row("7", "<url>", 0),
            row("1152921504606846974", "c", 0),
        ];
        assert_eq!(read("a.json", numbers).unwrap(), expected);
        let lines = "['1152921504606846975', 'a', 1]\n['7', '<url>', 1, 0]\n\
                     [1152921504606846974, 'c', 0]";
        assert_eq!(read("a.txt", lines).unwrap(), expected);
    }

    #[test]
    fn broken_lines_are_refused_with_file_and_line() {
        for line in [
            "['3', 'a']",
            "['3', 'a', 2]",
            "['3', 'a', -1]",
            "['3', 'a', '1']",
            "['3', 1, 1]",
            "['3', 'a', 1, 1, 1]",
            "['', 'a', 1]",
            "['../3', 'a', 1]",
            "[]",
        ] {
            let error = read("a.txt", &format!("{LINES}\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("a.txt: line 5: found \""), "{error}");
            assert!(error.contains("expected [number, text, label]"), "{error}");
        }
        let error = read("a.txt", "['1', 'a', 1]\n['2', 'b, 1]\n").unwrap_err().to_string();
        let end = "a.txt: line 2, column 13: found the end of the line, expected the closing quote";
        assert!(error.ends_with(end), "{error}");
    }

    #[test]
    fn broken_json_is_refused_with_its_place() {
        let entry = "{\"image_id\": 1, \"text\": \"a\", \"label\": 1}";
        for (rest, problem) in [
            ("{\"image_id\": 1, \"text\": 5, \"label\": 1}]", "line 4 column"),
            ("{\"image_id\": 1.5e17, \"text\": \"a\", \"label\": 1}]", "line 4 column"),
            ("{\"text\": \"a\", \"label\": 1}]", "entry 2: expected the name of a picture"),
            ("{\"image\": \"..\", \"text\": \"a\", \"label\": 1}]", "entry 2: expected"),
            ("{\"image_id\": 1, \"text\": \"a\", \"label\": 2}]", "entry 2: expected"),
            ("", "line 3 column"),
        ] {
            let content = format!("\n\n[{entry},\n{rest}");
            let error = read("a.json", &content).unwrap_err().to_string();
            assert!(error.contains("a.json: ") && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_is_to_be_had() {
        let base = made_up();
        let root = base.path().join("sarcasm");
        std::fs::rename(root.join("annotations/test2.txt"), root.join("test2.txt")).unwrap();
        let config = SarcasmConfig::default();
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert!(error.contains("set dataset.lists.test = \"test2.txt\""), "{error}");
        std::fs::remove_file(root.join("test2.txt")).unwrap();
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert!(error.contains("test2.txt: there is no such list; take train.txt"), "{error}");
    }

    #[test]
    fn the_real_lists_have_the_published_numbers() {
        let Some(splits) = real_data::folder("splits") else { return };
        let mmsd = lists_of(&splits.join("sarcasm/mmsd"), ["train.txt", "valid2.txt", "test2.txt"]);
        let rows: usize = [&mmsd.train, &mmsd.valid, &mmsd.test]
            .map(|file| read_lines(file).unwrap().len())
            .iter()
            .sum();
        assert_eq!(rows, 29040 + 2410 + 2409);
        let config = SarcasmConfig { lists: mmsd, ..SarcasmConfig::default() };
        let first = open(&config, Path::new(""));
        assert_eq!(counted(first.as_ref()), complete(&MMSD).classes);
        assert_eq!(first.facts()["training_tweets_dropped"], 29040 - 19816);
        let lists =
            lists_of(&splits.join("sarcasm/mmsd2"), ["train.json", "valid.json", "test.json"]);
        let config = SarcasmConfig { lists, ..SarcasmConfig::default() };
        let second = open(&config, Path::new(""));
        assert_eq!(counted(second.as_ref()), complete(&MMSD2).classes);
        assert_eq!(second.expected(), complete(&MMSD2));
        assert_eq!(second.samples(Split::Train)[0].id, "840006160660983809");
        // The same tweets: one way reads their numbers as text, the other as integers.
        assert_eq!(names(first.as_ref()), names(second.as_ref()));
        let samples = [(Split::Train, 19816), (Split::Valid, 2410), (Split::Test, 2409)];
        assert_eq!(complete(&MMSD).samples, BTreeMap::from(samples));
        assert_eq!(complete(&MMSD2).samples, BTreeMap::from(samples));
    }

    #[test]
    fn the_default_lists_and_those_of_the_second_version_have_known_numbers() {
        let config = SarcasmConfig::default();
        assert_eq!(config.published(), complete(&MMSD));
        for (folder, expected) in [
            ("text_json_final", complete(&MMSD2)),
            ("data/text_json_final", complete(&MMSD2)),
            ("annotations", complete(&MMSD2)),
            ("", complete(&MMSD2)),
            ("text_json_clean", Expected::default()),
        ] {
            let names = ["train.json", "valid.json", "test.json"];
            let lists = lists_of(Path::new(folder), names);
            let config = SarcasmConfig { lists, ..SarcasmConfig::default() };
            assert_eq!(config.published(), expected, "{folder}");
        }
        let lists = lists_of(Path::new(""), ["my_train.json", "valid.json", "test.json"]);
        let config = SarcasmConfig { lists, ..config };
        assert_eq!(config.published(), Expected::default());
    }

    #[test]
    fn every_real_picture_of_the_sample_is_found_in_each_form() {
        let Some(root) = real_data::folder("sarcasm_sample") else { return };
        let mut texts = Vec::new();
        for names in [
            ["train.txt", "valid2.txt", "test2.txt"],
            ["train_data.json", "valid_data.json", "test_data.json"],
            ["train.json", "valid.json", "test.json"],
        ] {
            let folder = match names[0] {
                "train.txt" => "",
                "train.json" => "text_json_final",
                _ => "annotations",
            };
            let config = SarcasmConfig {
                root: root.clone(),
                lists: lists_of(Path::new(folder), names),
                images: PathBuf::from("dataset_image"),
                ..SarcasmConfig::default()
            };
            let dataset = open(&config, Path::new(""));
            let dataset = dataset.as_ref();
            let counts = Split::ALL.map(|split| dataset.samples(split).len());
            assert_eq!(counts, [24, 70, 82]);
            for (split, count) in Split::ALL.into_iter().zip(counts) {
                assert!((0..count).all(|index| picture(dataset, split, index).is_file()));
            }
            let text = |index| text(dataset, Split::Test, index).to_owned();
            texts.push((0..counts[2]).map(text).collect::<Vec<_>>());
        }
        assert_eq!(texts[0], texts[1]);
        assert_ne!(texts[0], texts[2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_lines_give_tweets_of_two_classes_or_name_the_broken_one(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    LINES, "['1', 'a', 1]\n", "[2, \"b\", 0, 1]\n", "['3', 'é\\u00e9', 0]", "\n",
                    "[", "]", "'", "\"", "\\", "\\U", ",", "7", "-", "..", "/", "\0", "\u{feff}",
                ]),
                0..10,
            ),
            other in any::<char>(),
            broken in any::<bool>(),
        ) {
            let mut content = pieces.concat();
            content.extend(broken.then_some(other));
            match read("a.txt", &content) {
                Ok(rows) => {
                    for Row { id, image, label, .. } in rows {
                        prop_assert!(label < CLASSES.len() && !id.is_empty());
                        prop_assert!(!image.contains(['/', '\\', '\0']), "{:?}", image);
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains("a.txt: line "), "{}", error);
                }
            }
        }

        #[test]
        fn any_json_gives_tweets_of_two_classes_or_is_refused(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "{\"image_id\": 1, \"text\": \"a\", \"label\": 1}",
                    "{\"image\": \"x/b.jpg\", \"text\": \"\\ud83d\\ude00\", \"label\": 0}",
                    "{\"image_id\": \"../c\", \"text\": \"\", \"label\": 0}",
                    ",", ",", ",\n\n", "[", "]", "{", "}", "1e999", "-1", "\"", "\\u", ":",
                ]),
                0..7,
            ),
            closed in any::<bool>(),
        ) {
            let end = if closed { "]" } else { "" };
            match read("a.json", &format!("[{}{end}", pieces.concat())) {
                Ok(rows) => {
                    for Row { image, label, .. } in rows {
                        prop_assert!(label < CLASSES.len());
                        prop_assert!(!image.contains(['/', '\\', '\0']), "{:?}", image);
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains("a.json: "), "{}", error);
                }
            }
        }

        #[test]
        fn json_nested_without_end_is_refused(depth in 1_000usize..50_000) {
            let error = read("a.json", &"[".repeat(depth)).unwrap_err().to_string();
            prop_assert!(error.contains("a.json: found "), "{}", error);
        }
    }
}
