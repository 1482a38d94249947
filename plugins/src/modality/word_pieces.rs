//! Texts in the pieces of words that BERT knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use super::text::{
    FromFile, Part, TextCleanUp, ensure_tokens, fill, layout, part_at_marks, text_of, write,
};
use crate::formats::words::SEPARATOR;

/// Takes a text apart into the word pieces of an uncased BERT.
///
/// Control characters go, accents too, and letters become small; a word ends at white space, and
/// each sign of punctuation and each Chinese character is a word. Of a word, the longest start that
/// the vocabulary has is the first piece, the longest start of the rest with `##` before it is the
/// next, and so on; a word that cannot be made up, or of more than 100 characters, is `[UNK]`.
///
/// ```text
/// ids    [CLS] first [SEP]              or   [CLS] first [SEP] second [SEP]
/// types    0     0     0                       0     0     0     1      1
/// mask     1     1     1                       1     1     1     1      1
/// ```
///
/// A text has a second part after the first ` [SEP] ` in it. Of a text with too many tokens the end
/// is cut, `[SEP]` stays; of two parts the longer one is cut, and both to the same length where
/// that is not enough. After the last token `ids` holds `[PAD]`, `mask` and `types` 0.
///
/// The numbers are those of Hugging Face's `BertTokenizer`, which takes `[MASK]` and the like in a
/// text for what the vocabulary means by them, too. Signs, accents and control characters that
/// Unicode has had since versions after 8 are known here, and letters to it.
///
/// The released code of MIE means to cut texts at 50 tokens, 30 in tests, but does not switch that
/// on: it cuts at 50 words, as `max_words` does. They nearly always have room in
/// `max_tokens = 128`.
///
/// A file is read as text in UTF-8.
///
/// Shapes: `ids`, `mask` and `types` `[max_tokens]` i64.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WordPiecesConfig {
    /// File of the vocabulary, relative to the data folder: `vocab.txt`, an entry a line, or
    /// `tokenizer.json`. Default `bert-base-uncased/vocab.txt`.
    pub vocabulary: PathBuf,
    /// Tokens of a text, marks included, in `[3, 65536]`; encoders have a largest number too.
    /// Default 64, ours.
    pub max_tokens: usize,
    /// Words, parted by white space, after which each part of a text ends; 0 for no end. Default
    /// 50, as in the released code of MIE.
    pub max_words: usize,
    /// How each part of a text is cleaned. Default `none`.
    pub clean: TextCleanUp,
}

impl Default for WordPiecesConfig {
    fn default() -> Self {
        Self {
            vocabulary: PathBuf::from("bert-base-uncased/vocab.txt"),
            max_tokens: 64,
            max_words: 50,
            clean: TextCleanUp::None,
        }
    }
}

const GUIDE: &str = "take vocab.txt from where the encoder's weights are published, such as \
                     https://huggingface.co/google-bert/bert-base-uncased; the option `vocabulary` \
                     names it, relative to the data folder, which MIE_DATA_DIR names";

#[typetag::serde(name = "word_pieces")]
impl ModalityConfig for WordPiecesConfig {
    fn validate(&self) -> Result<()> {
        ensure_tokens(self.max_tokens, 3)?;
        let named = !self.vocabulary.as_os_str().is_empty();
        ensure_range("vocabulary", "the path of a file", "empty", named)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        let vocabulary = FromFile::new(&self.vocabulary, GUIDE);
        Ok(Box::new(WordPieces { config: self.clone(), vocabulary }))
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.vocabulary.clone()]
    }
}
register!(
    modality::<WordPiecesConfig>,
    source = "Wu et al. 2016, arXiv:1609.08144; Devlin et al. 2019, arXiv:1810.04805"
);

struct WordPieces {
    config: WordPiecesConfig,
    vocabulary: FromFile<Vocabulary>,
}

impl Modality for WordPieces {
    fn layout(&self) -> Vec<TensorLayout> {
        layout(self.config.max_tokens, &["types"])
    }

    fn open(&mut self, context: &OpenContext) -> Result<()> {
        self.vocabulary.open(context, Vocabulary::parse)
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        _mode: Mode,
        _draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let text = text_of("word_pieces", raw)?;
        let vocabulary = self.vocabulary.get(Vocabulary::parse)?;
        let (first, second) = match text.split_once(SEPARATOR) {
            Some((first, second)) => (first, Some(second)),
            None => (&*text, None),
        };
        let mut first = self.pieces(first, vocabulary);
        let mut second = second.map(|second| self.pieces(second, vocabulary));
        self.cut(&mut first, second.as_mut());
        let mut ids = vec![vocabulary.start];
        ids.extend(first);
        ids.push(vocabulary.end);
        let mut types = vec![0; ids.len()];
        if let Some(second) = second {
            ids.extend(second);
            ids.push(vocabulary.end);
            types.resize(ids.len(), 1);
        }
        write(&ids, vocabulary.padding, out)?;
        fill(out.i64(2)?, &types, 0)
    }
}

impl WordPieces {
    /// The pieces of a part of a text.
    fn pieces(&self, text: &str, vocabulary: &Vocabulary) -> Vec<i64> {
        let clean = self.config.clean.of(text);
        vocabulary.pieces(first_words(&clean, self.config.max_words))
    }

    /// Cuts the parts of a text so that they have room with their marks.
    fn cut(&self, first: &mut Vec<i64>, second: Option<&mut Vec<i64>>) {
        let Some(second) = second else {
            first.truncate(self.config.max_tokens - 2);
            return;
        };
        let room = self.config.max_tokens - 3;
        let swapped = first.len() > second.len();
        let (shorter, longer) = if swapped { (second, first) } else { (first, second) };
        longer.truncate(shorter.len().max(room.saturating_sub(shorter.len())));
        if shorter.len() + longer.len() > room {
            shorter.truncate(room / 2);
            longer.truncate(room.div_ceil(2));
        }
    }
}

/// The start of a text up to the end of its word number `count`; the whole text where that is 0.
fn first_words(text: &str, count: usize) -> &str {
    let (mut ended, mut inside) = (0, false);
    for (place, letter) in text.char_indices() {
        let blank = letter.is_whitespace();
        if inside && blank {
            ended += 1;
            if ended == count {
                return &text[..place];
            }
        }
        inside = !blank;
    }
    text
}

/// Longest word in characters that is looked up.
const LONGEST_WORD: usize = 100;

/// Marks that a vocabulary may have; the last three it must have.
const MARKS: [&str; 5] = ["[PAD]", "[MASK]", "[UNK]", "[CLS]", "[SEP]"];

/// Entries with their numbers.
struct Vocabulary {
    entries: BTreeMap<String, i64>,
    marks: Vec<(&'static str, i64)>,
    padding: i64,
    unknown: i64,
    start: i64,
    end: i64,
}

/// What is of interest in a file `tokenizer.json`.
#[derive(Deserialize)]
struct TokenizerFile {
    model: TokenizerModel,
    normalizer: Option<TokenizerNormalizer>,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: BTreeMap<String, u32>,
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
struct TokenizerNormalizer {
    lowercase: Option<bool>,
}

impl Vocabulary {
    fn parse(file: &Path, text: &str) -> Result<Self> {
        let is_json = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
        let entries = if is_json { parse_json(file, text)? } else { parse_lines(text) };
        let marks: Vec<(&'static str, i64)> =
            MARKS.iter().filter_map(|&mark| Some((mark, *entries.get(mark)?))).collect();
        let number = |mark: &str| {
            entries.get(mark).copied().ok_or_else(|| {
                let problem = format!(
                    "has {} entries and none is `{mark}`, expected the vocabulary of an uncased \
                     BERT, an entry a line",
                    entries.len()
                );
                Error::data(file, problem)
            })
        };
        Ok(Self {
            padding: number("[PAD]").unwrap_or(0),
            unknown: number("[UNK]")?,
            start: number("[CLS]")?,
            end: number("[SEP]")?,
            marks,
            entries,
        })
    }

    /// The pieces of a text, in order.
    fn pieces(&self, text: &str) -> Vec<i64> {
        let mut ids = Vec::new();
        for part in part_at_marks(text, &self.marks) {
            match part {
                Part::Mark(number) => ids.push(number),
                Part::Text(text) => {
                    for word in words(&normalised(text)) {
                        self.add(word, &mut ids);
                    }
                }
            }
        }
        ids
    }

    /// Adds the pieces of a word.
    fn add(&self, word: &str, ids: &mut Vec<i64>) {
        let before = ids.len();
        let mut place = if word.chars().count() > LONGEST_WORD { None } else { Some(0) };
        while let Some(start) = place {
            if start == word.len() {
                return;
            }
            place = self.longest(word, start).map(|(number, end)| {
                ids.push(number);
                end
            });
        }
        ids.truncate(before);
        ids.push(self.unknown);
    }

    /// The longest piece of `word` from `start` on: its number and where it ends.
    fn longest(&self, word: &str, start: usize) -> Option<(i64, usize)> {
        let prefix = if start == 0 { "" } else { CONTINUED };
        let mut piece = [prefix, &word[start..]].concat();
        while piece.len() > prefix.len() {
            if let Some(&number) = self.entries.get(&piece) {
                return Some((number, start + piece.len() - prefix.len()));
            }
            piece.pop();
        }
        None
    }
}

/// What an entry starts with that is no start of a word.
const CONTINUED: &str = "##";

fn parse_lines(text: &str) -> BTreeMap<String, i64> {
    text.lines().map(str::to_owned).zip(0..).collect()
}

fn parse_json(file: &Path, text: &str) -> Result<BTreeMap<String, i64>> {
    let expected = "expected the tokenizer.json of an uncased BERT";
    let parsed: TokenizerFile = serde_json::from_str(text)
        .map_err(|error| Error::data(file, format!("{error}, {expected}")))?;
    if parsed.model.continuing_subword_prefix.as_deref() != Some(CONTINUED) {
        return Err(Error::data(file, format!("is not of word pieces with `##`, {expected}")));
    }
    if parsed.normalizer.and_then(|normalizer| normalizer.lowercase) == Some(false) {
        return Err(Error::data(file, format!("keeps capital letters, {expected}")));
    }
    let entries = parsed.model.vocab.into_iter();
    Ok(entries.map(|(entry, number)| (entry, i64::from(number))).collect())
}

/// A text without control characters and accents, in small letters, Chinese characters apart.
fn normalised(text: &str) -> String {
    let spaced = text.chars().filter(|&letter| !is_dropped(letter)).flat_map(|letter| {
        let around = is_ideograph(letter).then_some(' ');
        let letter = if letter.is_whitespace() { ' ' } else { letter };
        around.into_iter().chain([letter]).chain(around)
    });
    let is_accent = |letter: &char| letter.general_category() == GeneralCategory::NonspacingMark;
    spaced.nfd().filter(|letter| !is_accent(letter)).flat_map(char::to_lowercase).collect()
}

/// Whether a character goes: control characters, which include most that cannot be seen.
fn is_dropped(letter: char) -> bool {
    match letter {
        '\t' | '\n' | '\r' => false,
        '\u{fffd}' => true,
        _ => matches!(
            letter.general_category(),
            GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse
        ),
    }
}

/// Whether a character is in one of the blocks of Chinese characters that BERT parts.
fn is_ideograph(letter: char) -> bool {
    matches!(letter,
        '\u{4e00}'..='\u{9fff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{20000}'..='\u{2a6df}'
        | '\u{2a700}'..='\u{2b73f}'
        | '\u{2b740}'..='\u{2b81f}'
        | '\u{2b920}'..='\u{2ceaf}'
        | '\u{f900}'..='\u{faff}'
        | '\u{2f800}'..='\u{2fa1f}')
}

/// The words of a normalised text, each sign of punctuation one.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for chunk in text.split_whitespace() {
        let mut start = 0;
        for (place, sign) in chunk.match_indices(is_punctuation) {
            words.extend([&chunk[start..place], sign]);
            start = place + sign.len();
        }
        words.push(&chunk[start..]);
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether a character is punctuation to BERT, which counts all of ASCII's signs.
fn is_punctuation(letter: char) -> bool {
    letter.is_ascii_punctuation()
        || letter.general_category_group() == GeneralCategoryGroup::Punctuation
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::super::text::testing::{cases, numbers, reference, tensors, tokens};
    use super::*;

    /// The vocabulary of the references, with room for any of their texts.
    fn roomy() -> WordPiecesConfig {
        WordPiecesConfig {
            vocabulary: reference("vocab.txt"),
            max_tokens: 512,
            max_words: 0,
            ..WordPiecesConfig::default()
        }
    }

    /// A vocabulary that is worked with by hand; its padding is number 2.
    const BY_HAND: &str = "[UNK]\n[CLS]\n[PAD]\n[SEP]\nun\nunder\n##dery\n##s\n##tand\n!\n日\n";

    fn by_hand(folder: &tempfile::TempDir) -> WordPiecesConfig {
        let vocabulary = folder.path().join("vocab.txt");
        std::fs::write(&vocabulary, BY_HAND).unwrap();
        WordPiecesConfig { vocabulary, ..roomy() }
    }

    #[test]
    fn the_longest_start_is_taken_and_one_that_leads_nowhere_is_not_left_again() {
        let folder = tempfile::tempdir().unwrap();
        let config = by_hand(&folder);
        for (text, expected) in [
            ("Understand!", &[1, 5, 7, 8, 9, 3][..]),
            // `under` is taken, and that `un` and `##dery` would do is not found.
            ("understand undery", &[1, 5, 7, 8, 0, 3]),
            ("un der uns!!", &[1, 4, 0, 4, 7, 9, 9, 3]),
            ("ÜN日日", &[1, 4, 10, 10, 3]),
            ("", &[1, 3]),
        ] {
            assert_eq!(tokens(&config, text, 2), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_those_of_transformers() {
        let json = WordPiecesConfig { vocabulary: reference("tokenizer.json"), ..roomy() };
        let short = WordPiecesConfig { max_tokens: 8, ..roomy() };
        let cases = cases();
        let cases = cases["texts"].as_array().unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let expected = numbers(&case["word_pieces"]);
            assert_eq!(tokens(&roomy(), text, 0), expected, "{text:?}");
            assert_eq!(tokens(&json, text, 0), expected, "{text:?}");
            // A pair is cut otherwise: see below.
            if !text.contains(SEPARATOR) {
                let expected = numbers(&case["word_pieces_cut"]);
                assert_eq!(tokens(&short, text, 0), expected, "{text:?}");
            }
        }
    }

    #[test]
    fn pairs_are_marked_and_cut_as_by_transformers() {
        let cases = cases();
        let cases = cases["pairs"].as_array().unwrap();
        assert!(cases.len() > 5);
        for case in cases {
            let [first, second] = ["first", "second"].map(|key| case[key].as_str().unwrap());
            let text = [first, second].join(SEPARATOR);
            let expected = numbers(&case["ids"]);
            let found = tensors(&roomy(), &Raw::Text(&text)).unwrap();
            assert_eq!(found[0][..expected.len()], expected, "{text:?}");
            let types = numbers(&case["types"]);
            assert_eq!(found[2][..types.len()], types, "{text:?}");
            assert!(found[2][types.len()..].iter().all(|&kind| kind == 0), "{text:?}");
            for (max_tokens, expected) in case["cut"].as_object().unwrap() {
                let max_tokens = max_tokens.parse().unwrap();
                let config = WordPiecesConfig { max_tokens, ..roomy() };
                let found = tokens(&config, &text, 0);
                assert_eq!(found, numbers(expected), "{max_tokens} tokens of {text:?}");
            }
        }
    }

    #[test]
    fn words_are_counted_in_each_part_after_it_was_cleaned() {
        let folder = tempfile::tempdir().unwrap();
        let config = WordPiecesConfig { max_words: 2, ..by_hand(&folder) };
        assert_eq!(tokens(&config, " un\tun  un! ", 2), [1, 4, 4, 3]);
        assert_eq!(tokens(&config, "un! un [SEP] un un un", 2), [1, 4, 9, 4, 3, 4, 4, 3]);
        let clean = WordPiecesConfig { clean: TextCleanUp::Released, ..config };
        assert_eq!(tokens(&clean, "-- UN! /un un", 2), [1, 4, 4, 3]);
        assert_eq!([first_words("a b", 2), first_words("a b ", 2)], ["a b"; 2]);
        assert_eq!(first_words(" a b ", 0), " a b ");
    }

    #[test]
    fn a_file_is_read_and_what_is_no_text_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = by_hand(&folder);
        let file = folder.path().join("a.txt");
        std::fs::write(&file, "un!\n").unwrap();
        let found = tensors(&config, &Raw::File(file)).unwrap();
        assert_eq!(found[0][..5], [1, 4, 9, 3, 2]);
        let error = tensors(&config, &Raw::Values(&[1.0])).unwrap_err().to_string();
        assert!(error.contains("`word_pieces` decodes text, the dataset gives numbers"), "{error}");
    }

    #[test]
    fn a_vocabulary_that_is_missing_or_of_another_kind_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |name: &str, content: &str| {
            let vocabulary = folder.path().join(name);
            std::fs::write(&vocabulary, content).unwrap();
            let config = WordPiecesConfig { vocabulary, ..roomy() };
            tensors(&config, &Raw::Text("a")).unwrap_err().to_string()
        };
        let error = refusal("vocab.txt", "a\nb\n[UNK]\n[SEP]\n");
        assert!(error.contains("vocab.txt: has 4 entries and none is `[CLS]`"), "{error}");
        let error = refusal("a.json", "{\"model\": {\"vocab\": []}}");
        assert!(error.contains("a.json: ") && error.contains("expected the tokenizer.json"));
        let model = "\"model\": {\"vocab\": {}, \"continuing_subword_prefix\": \"##\"}";
        let error =
            refusal("a.json", &format!("{{{model}, \"normalizer\": {{\"lowercase\": false}}}}"));
        assert!(error.contains("a.json: keeps capital letters"), "{error}");
        let error = refusal("a.json", "{\"model\": {\"vocab\": {}}}");
        assert!(error.contains("a.json: is not of word pieces with `##`"), "{error}");

        let vocabulary = folder.path().join("absent.txt");
        let config = WordPiecesConfig { vocabulary, ..roomy() };
        let error = tensors(&config, &Raw::Text("a")).unwrap_err().to_string();
        let expected = "absent.txt: there is no such file; take vocab.txt from";
        assert!(error.contains(expected) && error.contains("MIE_DATA_DIR"), "{error}");
        let error = WordPiecesConfig { vocabulary: PathBuf::new(), ..roomy() }.validate();
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "`vocabulary` is empty, expected the path of a file");
        let error = WordPiecesConfig { max_tokens: 2, ..roomy() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "`max_tokens` is 2, expected [3, 65536]");
    }

    /// A vocabulary as Hugging Face writes it.
    const IN_JSON: &str = r###"{
        "normalizer": {"type": "BertNormalizer", "lowercase": true},
        "model": {
            "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4, "[MASK]": 4294967295},
            "continuing_subword_prefix": "##"
        }
    }"###;

    /// Different lines of a text.
    fn distinct(text: &str) -> usize {
        text.lines().collect::<std::collections::BTreeSet<_>>().len()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_text_has_a_start_an_end_and_known_numbers(
            text in "(\\PC|[\u{0}-\u{ff}]|\\[SEP\\]| face){0,60}",
            max_tokens in 3usize..20,
            clean in prop::sample::select(vec![
                TextCleanUp::None, TextCleanUp::Released, TextCleanUp::ReleasedLetters,
            ]),
        ) {
            let config = WordPiecesConfig { max_tokens, clean, ..roomy() };
            let found = tokens(&config, &text, 0);
            prop_assert!(found.len() >= 2 && found.len() <= max_tokens);
            // Numbers of the references: 5 is `[CLS]`, 6 is `[SEP]`, 193 entries.
            prop_assert_eq!((found[0], found[found.len() - 1]), (5, 6));
            prop_assert!(found.iter().all(|id| (0..193).contains(id)));
        }

        #[test]
        fn any_vocabulary_gives_its_own_numbers_or_is_refused(
            marked in any::<bool>(),
            lines in prop::collection::vec(
                prop::sample::select(vec![
                    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "", "##", "a", "##a", "ab", "##b",
                    "é", "e", "\u{feff}", "\r", "\u{301}", "##\u{301}",
                ]),
                0..24,
            ),
            text in "(\\PC|[ab]|é| |\\[MASK\\]){0,30}",
        ) {
            let start = if marked { "[UNK]\n[CLS]\n[SEP]\n" } else { "" };
            let content = start.to_owned() + &lines.join("\n");
            let count = content.lines().count() as i64;
            match Vocabulary::parse(Path::new("vocab.txt"), &content) {
                Ok(vocabulary) => {
                    prop_assert!((0..count).contains(&vocabulary.start));
                    let found = vocabulary.pieces(&text);
                    prop_assert!(found.iter().all(|id| (0..count).contains(id)), "{:?}", found);
                }
                Err(error) => {
                    let error = error.to_string();
                    let count = distinct(&content);
                    let start = format!("vocab.txt: has {count} entries and none is `");
                    prop_assert!(!marked && error.starts_with(&start), "{}", error);
                }
            }
        }

        #[test]
        fn no_change_of_a_vocabulary_in_json_makes_it_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..128), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut content = IN_JSON.as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(content.len());
                content[at] = byte;
            }
            if let Some(cut) = cut {
                content.truncate(cut.index(content.len()));
            }
            let content = String::from_utf8(content).unwrap();
            match Vocabulary::parse(Path::new("tokenizer.json"), &content) {
                Ok(vocabulary) => prop_assert!(!vocabulary.pieces("ab [MASK] ba").is_empty()),
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.starts_with("tokenizer.json: "), "{}", error);
                }
            }
        }
    }
}
