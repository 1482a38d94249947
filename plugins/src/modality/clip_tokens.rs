//! Texts in the tokens of CLIP.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::text::{
    FromFile, Part, TextCleanUp, ensure_tokens, folded, layout, part_at_marks, text_of, write,
};
use crate::formats::lists;
use crate::formats::words::SEPARATOR;

/// Takes a text apart into the tokens of CLIP, by byte-pair encoding.
///
/// A text is composed (NFC) and put into small letters. Its words are the endings `'s`, `'t`,
/// `'re`, `'ve`, `'m`, `'ll` and `'d`, runs of letters, single digits, and runs of other signs;
/// white space parts them. A word starts as its bytes in UTF-8, the last one marked as the end of a
/// word; then, of all pairs of neighbours, the one that stands first among the merges becomes one
/// token, everywhere in the word, again and again until no pair is listed.
///
/// ```text
/// ids    <|startoftext|> token … token <|endoftext|> 0 … 0
/// mask          1          1   …   1         1       0 … 0
/// number of a token:   bytes 0 … 255, as ends of words 256 … 511,
///                      merges from 512 on, start and end the last two of `entries`
/// ```
///
/// Of a text with too many tokens the end is cut, `<|endoftext|>` stays. The two parts of a text
/// with ` [SEP] ` in it follow each other.
///
/// The numbers are those of Hugging Face's `CLIPTokenizer`, which takes `<|startoftext|>` and
/// `<|endoftext|>` in a text for these tokens, too; padding is `<|endoftext|>` there, and 0 here as
/// in the original code, which an encoder with a mask does not see. The original also replaces
/// entities of HTML and repairs text that was decoded wrongly (`ftfy`); that is left out in both. A
/// word of more than 256 bytes is encoded in parts of 256, so that no text takes long.
///
/// A file is read as text in UTF-8.
///
/// Shapes: `ids` and `mask` `[max_tokens]` i64.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipTokensConfig {
    /// File of the merges, relative to the data folder: `merges.txt`, or the original
    /// `bpe_simple_vocab_16e6.txt.gz`; the numbers of tokens follow from it. Default
    /// `clip-vit-base-patch32/merges.txt`.
    pub merges: PathBuf,
    /// Entries of the vocabulary, in `[514, 1048576]`: 514 more than merges are used, and the
    /// encoder's `vocabulary`. Default 49408, as published.
    pub entries: usize,
    /// Tokens of a text, start and end included, in `[2, 65536]`; encoders have a largest number
    /// too. Default 77, as published.
    pub max_tokens: usize,
    /// How a text is cleaned. Default `none`.
    pub clean: TextCleanUp,
}

impl Default for ClipTokensConfig {
    fn default() -> Self {
        Self {
            merges: PathBuf::from("clip-vit-base-patch32/merges.txt"),
            entries: 49_408,
            max_tokens: 77,
            clean: TextCleanUp::None,
        }
    }
}

const GUIDE: &str = "take merges.txt from where the encoder's weights are published, such as \
                     https://huggingface.co/openai/clip-vit-base-patch32, or \
                     bpe_simple_vocab_16e6.txt.gz from https://github.com/openai/CLIP; the option \
                     `merges` names it, relative to the data folder, which MIE_DATA_DIR names";

/// Entries that are no merges: bytes, bytes at the end of a word, start and end of a text.
const PLAIN: usize = 2 * BYTES + 2;

const BYTES: usize = 256;

#[typetag::serde(name = "clip_tokens")]
impl ModalityConfig for ClipTokensConfig {
    fn validate(&self) -> Result<()> {
        let named = !self.merges.as_os_str().is_empty();
        ensure_range("merges", "the path of a file", "empty", named)?;
        let usable = (PLAIN..=1 << 20).contains(&self.entries);
        ensure_range("entries", "[514, 1048576]", self.entries, usable)?;
        ensure_tokens(self.max_tokens, 2)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        let vocabulary = FromFile::new(&self.merges, GUIDE);
        Ok(Box::new(ClipTokens { config: self.clone(), vocabulary }))
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.merges.clone()]
    }
}
register!(
    modality::<ClipTokensConfig>,
    source = "Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2021, arXiv:2103.00020"
);

struct ClipTokens {
    config: ClipTokensConfig,
    vocabulary: FromFile<Vocabulary>,
}

impl Modality for ClipTokens {
    fn layout(&self) -> Vec<TensorLayout> {
        layout(self.config.max_tokens, &[])
    }

    fn open(&mut self, context: &OpenContext) -> Result<()> {
        let entries = self.config.entries;
        self.vocabulary.open(context, |file, text| Vocabulary::parse(file, text, entries))
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        _mode: Mode,
        _draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let text = text_of("clip_tokens", raw)?;
        let ClipTokensConfig { entries, max_tokens, clean, .. } = self.config;
        let vocabulary =
            self.vocabulary.get(|file, text| Vocabulary::parse(file, text, entries))?;
        let text = text.replace(SEPARATOR, " ");
        let mut ids = vec![vocabulary.start];
        vocabulary.add_tokens(&clean.of(&text), max_tokens, &mut ids);
        ids.truncate(max_tokens - 1);
        ids.push(vocabulary.end);
        write(&ids, 0, out)
    }
}

/// Most bytes of a word that are encoded together.
const LONGEST_WORD: usize = 256;

/// Endings of words that are words of their own.
const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// End of a word in a file of merges.
const END_OF_WORD: &str = "</w>";

/// Merges, with the numbers of tokens.
struct Vocabulary {
    /// Number of each byte within a word.
    bytes: [i64; BYTES],
    /// Number of what two tokens make together; smaller ones were learnt earlier and go first.
    merges: BTreeMap<[i64; 2], i64>,
    start: i64,
    end: i64,
}

impl Vocabulary {
    fn parse(file: &Path, text: &str, entries: usize) -> Result<Self> {
        let mut bytes = [0; BYTES];
        let mut numbers = BTreeMap::new();
        for (number, (byte, letter)) in (0..).zip(alphabet()) {
            bytes[usize::from(byte)] = number;
            numbers.insert(letter.to_string(), number);
            numbers.insert(format!("{letter}{END_OF_WORD}"), number + BYTES as i64);
        }
        let mut merges = BTreeMap::new();
        let wanted = entries - PLAIN;
        let lines = (1..).zip(text.lines()).filter(|(number, line)| {
            let is_header = *number == 1 && line.contains("#version");
            !is_header && !line.is_empty()
        });
        for (line_number, line) in lines.take(wanted) {
            let made = (2 * BYTES + merges.len()) as i64;
            let merge = line.split_once(' ').and_then(|(left, right)| {
                let pair = [*numbers.get(left)?, *numbers.get(right)?];
                let is_new = numbers.insert([left, right].concat(), made).is_none();
                is_new.then_some(pair)
            });
            let expected = "two tokens, each a character or made above, that make a new one";
            let pair = merge.ok_or_else(|| lists::fault(file, line_number, line, expected))?;
            merges.insert(pair, made);
        }
        if merges.len() < wanted {
            let found = merges.len();
            return Err(Error::data(
                file,
                format!(
                    "has {found} merges, and a vocabulary of {entries} entries needs {wanted}; \
                     take a complete file, or set `entries` to {}",
                    found + PLAIN
                ),
            ));
        }
        let end = entries as i64 - 1;
        Ok(Self { bytes, merges, start: end - 1, end })
    }

    /// Adds the tokens of a text, `most` of them or a few more where it has as many.
    fn add_tokens(&self, text: &str, most: usize, ids: &mut Vec<i64>) {
        let marks = [("<|startoftext|>", self.start), ("<|endoftext|>", self.end)];
        for part in part_at_marks(text, &marks) {
            match part {
                Part::Mark(number) => ids.push(number),
                Part::Text(text) => {
                    for word in words(&folded(text)) {
                        if ids.len() >= most {
                            return;
                        }
                        self.add_word(word, most, ids);
                    }
                }
            }
        }
    }

    fn add_word(&self, word: &str, most: usize, ids: &mut Vec<i64>) {
        let mut symbols: Vec<i64> =
            word.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        if let Some(last) = symbols.last_mut() {
            *last += BYTES as i64;
        }
        for part in symbols.chunks(LONGEST_WORD) {
            if ids.len() >= most {
                return;
            }
            ids.extend(self.merged(part.to_vec()));
        }
    }

    /// Joins neighbours until no pair of them is listed.
    fn merged(&self, mut symbols: Vec<i64>) -> Vec<i64> {
        let made = |pair: &[i64]| self.merges.get(<&[i64; 2]>::try_from(pair).ok()?).copied();
        while let Some(first) = symbols.windows(2).filter_map(made).min() {
            let mut joined = Vec::with_capacity(symbols.len());
            let mut rest = symbols.as_slice();
            while let [symbol, others @ ..] = rest {
                let joins = rest.get(..2).and_then(made) == Some(first);
                joined.push(if joins { first } else { *symbol });
                rest = if joins { &others[1..] } else { others };
            }
            symbols = joined;
        }
        symbols
    }
}

/// The bytes in the order of their numbers, each with the character that stands for it in files:
/// itself in Latin-1 where that can be seen, and one from `U+0100` on where not.
fn alphabet() -> impl Iterator<Item = (u8, char)> {
    let is_seen = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let (seen, unseen): (Vec<u8>, Vec<u8>) = (0..=255).partition(is_seen);
    let seen = seen.into_iter().map(|byte| (byte, char::from(byte)));
    seen.chain(unseen.into_iter().zip('\u{100}'..))
}

/// What a run of characters has in common.
#[derive(PartialEq)]
enum Kind {
    Blank,
    Letter,
    Number,
    Sign,
}

impl Kind {
    fn of(letter: char) -> Self {
        match letter.general_category_group() {
            _ if letter.is_whitespace() => Self::Blank,
            GeneralCategoryGroup::Letter => Self::Letter,
            GeneralCategoryGroup::Number => Self::Number,
            _ => Self::Sign,
        }
    }
}

/// The words of a text.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let kind = Kind::of(first);
        let length = match ENDINGS.iter().find(|ending| rest.starts_with(**ending)) {
            Some(ending) => ending.len(),
            None if kind == Kind::Number => first.len_utf8(),
            None => rest.find(|letter| Kind::of(letter) != kind).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(length);
        words.push(word);
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::{ProptestConfig, prop, prop_assert, prop_assert_eq, proptest};

    use super::super::text::testing::{cases, numbers, reference, tensors, tokens};
    use super::*;

    /// The merges of the references, 120 of them, with room for any of their texts.
    fn roomy() -> ClipTokensConfig {
        ClipTokensConfig {
            merges: reference("merges.txt"),
            entries: 634,
            max_tokens: 512,
            clean: TextCleanUp::None,
        }
    }

    /// Merges for `lower`, `low` and `er`.
    const BY_HAND: &str = "#version: 0.2\nl o\ne r</w>\nlo w\nw er</w>\nlo w</w>\n";

    fn with(folder: &tempfile::TempDir, content: &str, entries: usize) -> ClipTokensConfig {
        let merges = folder.path().join("merges.txt");
        std::fs::write(&merges, content).unwrap();
        ClipTokensConfig { merges, entries, ..roomy() }
    }

    #[test]
    fn neighbours_are_joined_in_the_order_in_which_merges_were_learnt() {
        let folder = tempfile::tempdir().unwrap();
        let config = with(&folder, BY_HAND, 519);
        // `a` is byte 97, the 65th that can be seen: 64, and 320 at the end of a word. The merges
        // are 512 `lo`, 513 `er` at an end, 514 `low`, 515 `wer` at an end, 516 `low` at an end.
        for (text, expected) in [
            // `lo` and `er` first, then `low` before `wer`.
            ("lower", &[517, 514, 513, 518][..]),
            ("Low a", &[517, 516, 320, 518]),
            ("wer lowa lolo", &[517, 515, 514, 320, 512, 75, 334, 518]),
            ("", &[517, 518]),
        ] {
            assert_eq!(tokens(&config, text, 0), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_those_of_transformers() {
        let short = ClipTokensConfig { max_tokens: 8, ..roomy() };
        let cases = cases();
        let cases = cases["texts"].as_array().unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            // Signs that part two texts mean nothing to the other tokeniser.
            let text = case["text"].as_str().unwrap();
            if text.contains(SEPARATOR) {
                continue;
            }
            assert_eq!(tokens(&roomy(), text, 0), numbers(&case["clip"]), "{text:?}");
            assert_eq!(tokens(&short, text, 0), numbers(&case["clip_cut"]), "{text:?}");
        }
    }

    #[test]
    fn the_original_file_is_unpacked_and_only_its_first_merges_count() {
        let folder = tempfile::tempdir().unwrap();
        let merges = folder.path().join("bpe_simple_vocab_16e6.txt.gz");
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let header = "\"bpe_simple_vocab_16e6.txt#version: 0.2\n";
        encoder.write_all(BY_HAND.replace("#version: 0.2\n", header).as_bytes()).unwrap();
        std::fs::write(&merges, encoder.finish().unwrap()).unwrap();
        let config = ClipTokensConfig { merges, entries: 516, ..roomy() };
        // `lo` and `er` are left of the merges: 86 is `w`.
        assert_eq!(tokens(&config, "lower", 0), [514, 512, 86, 513, 515]);
    }

    #[test]
    fn two_parts_follow_each_other_and_texts_are_cleaned() {
        assert_eq!(tokens(&roomy(), "a [SEP] face", 0), tokens(&roomy(), "a face", 0));
        let clean = ClipTokensConfig { clean: TextCleanUp::Released, ..roomy() };
        assert_eq!(tokens(&clean, "A sad-face!", 0), tokens(&roomy(), "a sad face", 0));
    }

    #[test]
    fn a_word_of_any_length_is_encoded_in_parts_until_there_are_enough_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let config = ClipTokensConfig { max_tokens: 77, ..with(&folder, BY_HAND, 519) };
        // 514 is `low`, of which 85 and `l` make 256 bytes: the next part starts with `ow`.
        let text = "low".repeat(1 << 18);
        let found = tokens(&config, &text, 0);
        assert_eq!(found[..76], [&[517][..], &[514; 75]].concat());
        assert_eq!(found[76], 518);
        let config = ClipTokensConfig { max_tokens: 512, ..config };
        assert_eq!(tokens(&config, &text, 0)[86..90], [75, 78, 86, 514]);
    }

    #[test]
    fn merges_that_are_missing_or_broken_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let refusal =
            |config: &ClipTokensConfig| tensors(config, &Raw::Text("a")).unwrap_err().to_string();
        let error = refusal(&with(&folder, BY_HAND, 49_408));
        let expected = "merges.txt: has 5 merges, and a vocabulary of 49408 entries needs 48894; \
                        take a complete file, or set `entries` to 519";
        assert!(error.ends_with(expected), "{error}");
        for line in ["lo", "lo w x", "lo wer", "l o", " l", "lo  w"] {
            let error = refusal(&with(&folder, &format!("l o\n{line}\n"), 516));
            assert!(error.contains(&format!("line 2: found {line:?}, expected two")), "{error}");
        }
        let merges = folder.path().join("absent.txt");
        let error = refusal(&ClipTokensConfig { merges, ..roomy() });
        assert!(error.contains("absent.txt: there is no such file; take merges.txt"), "{error}");
        let refusal = |config: ClipTokensConfig| config.validate().unwrap_err().to_string();
        let error = refusal(ClipTokensConfig { entries: 513, ..roomy() });
        assert_eq!(error, "`entries` is 513, expected [514, 1048576]");
        let error = refusal(ClipTokensConfig { max_tokens: 1, ..roomy() });
        assert_eq!(error, "`max_tokens` is 1, expected [2, 65536]");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_text_has_a_start_an_end_and_known_numbers(
            text in "(\\PC|[\u{0}-\u{ff}]|<\\|endoftext\\|>| face|'s){0,60}",
            max_tokens in 2usize..20,
        ) {
            let config = ClipTokensConfig { max_tokens, ..roomy() };
            let found = tokens(&config, &text, 0);
            prop_assert!(found.len() >= 2 && found.len() <= max_tokens);
            prop_assert_eq!((found[0], found[found.len() - 1]), (632, 633));
            prop_assert!(found.iter().all(|id| (0..634).contains(id)));
        }

        #[test]
        fn any_merges_give_numbers_of_the_vocabulary_or_are_refused(
            entries in PLAIN..PLAIN + 8,
            lines in prop::collection::vec(
                prop::sample::select(vec![
                    "#version: 0.2", "l o", "lo w", "lo w</w>", "w e", "e r</w>", "lo lo", "", "\r",
                    "l", " ", "Ã ©", "l  o", "é l",
                ]),
                0..16,
            ),
            text in "(\\PC|low|er|é| |<\\|endoftext\\|>){0,30}",
        ) {
            match Vocabulary::parse(Path::new("merges.txt"), &lines.join("\n"), entries) {
                Ok(vocabulary) => {
                    prop_assert_eq!(vocabulary.merges.len() + PLAIN, entries);
                    let mut found = Vec::new();
                    vocabulary.add_tokens(&text, 20, &mut found);
                    let known = 0..entries as i64;
                    prop_assert!(found.iter().all(|id| known.contains(id)), "{:?}", found);
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.starts_with("merges.txt: "), "{}", error);
                }
            }
        }
    }
}
