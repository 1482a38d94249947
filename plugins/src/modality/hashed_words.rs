//! Texts as numbers of their words, without a dictionary.

use mie_core::prelude::*;

use super::text::{ensure_tokens, folded, layout, text_of, write};
use crate::formats::words::SEPARATOR;

/// Numbers the words of a text by a hash, for encoders that start from nothing.
///
/// A text is composed (NFC) and put into small letters; its words are runs of letters and digits. A
/// word has the number
///
/// ```text
/// 1 + hash("<word>") mod (buckets - 1)
/// ```
///
/// with `hash` FNV-1a of 64 bits over the bytes in UTF-8, and `<` and `>` the marks of its start
/// and end. Different words may share a number. With `character_grams` each word is followed by the
/// numbers of all three neighbouring characters in `<word>`, marks included, found by the same
/// hash: words that are written alike then have numbers in common.
///
/// A text ends after `max_tokens` numbers; after its last one `ids` and `mask` hold 0, and a text
/// without words is nothing but that. The two parts of a text with ` [SEP] ` in it follow each
/// other. A file is read as text in UTF-8.
///
/// Shapes: `ids` and `mask` `[max_tokens]` i64.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HashedWordsConfig {
    /// Numbers there are, 0 for padding included, in `[2, 2^30]`: the encoder's `vocabulary`.
    /// Default 4096, ours: of a thousand words about a fifth shares one.
    pub buckets: usize,
    /// Numbers of a text, in `[1, 65536]`. Default 32, ours.
    pub max_tokens: usize,
    /// Whether each word is followed by its parts of three characters. Default false.
    pub character_grams: bool,
}

impl Default for HashedWordsConfig {
    fn default() -> Self {
        Self { buckets: 4096, max_tokens: 32, character_grams: false }
    }
}

#[typetag::serde(name = "hashed_words")]
impl ModalityConfig for HashedWordsConfig {
    fn validate(&self) -> Result<()> {
        let usable = (2..=1 << 30).contains(&self.buckets);
        ensure_range("buckets", "[2, 2^30]", self.buckets, usable)?;
        ensure_tokens(self.max_tokens, 1)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        Ok(Box::new(HashedWords { config: self.clone() }))
    }
}
register!(
    modality::<HashedWordsConfig>,
    source = "Joulin et al. 2017, arXiv:1607.01759; Bojanowski et al. 2017, arXiv:1607.04606; \
              Fowler, Noll and Vo (FNV-1a)"
);

struct HashedWords {
    config: HashedWordsConfig,
}

impl Modality for HashedWords {
    fn layout(&self) -> Vec<TensorLayout> {
        layout(self.config.max_tokens, &[])
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        _mode: Mode,
        _draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let text = folded(&text_of("hashed_words", raw)?.replace(SEPARATOR, " "));
        let words = text.split(|letter: char| !letter.is_alphanumeric());
        let mut ids = Vec::new();
        for word in words.filter(|word| !word.is_empty()) {
            if ids.len() >= self.config.max_tokens {
                break;
            }
            self.add(&format!("<{word}>"), &mut ids);
        }
        ids.truncate(self.config.max_tokens);
        write(&ids, 0, out)
    }
}

/// Characters of a part of a word.
const GRAM: usize = 3;

impl HashedWords {
    /// Adds the numbers of a word between its marks.
    fn add(&self, word: &str, ids: &mut Vec<i64>) {
        ids.push(self.number(word));
        if !self.config.character_grams {
            return;
        }
        let mut starts: Vec<usize> = word.char_indices().map(|(place, _)| place).collect();
        starts.push(word.len());
        // A word of one letter is its own and only part.
        if starts.len() > GRAM + 1 {
            ids.extend(starts.windows(GRAM + 1).map(|at| self.number(&word[at[0]..at[GRAM]])));
        }
    }

    fn number(&self, part: &str) -> i64 {
        let others = self.config.buckets as u64 - 1;
        1 + (fnv_1a(part.as_bytes()) % others) as i64
    }
}

/// The hash FNV-1a of 64 bits.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, proptest};

    use super::super::text::testing::{tensors, tokens};
    use super::*;

    #[test]
    fn the_hash_has_its_published_values() {
        // From the test vectors of the authors.
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn words_are_told_apart_at_what_is_no_letter_or_digit_in_any_case() {
        let config = HashedWordsConfig { max_tokens: 8, ..HashedWordsConfig::default() };
        let of = |text: &str| tokens(&config, text, 0);
        let number = |word: &str| 1 + (fnv_1a(format!("<{word}>").as_bytes()) % 4095) as i64;
        let expected = ["grinning", "face", "10", "été", "s"].map(number);
        assert_eq!(of("Grinning FACE: 10 (e\u{301}té's)"), expected);
        assert_eq!(of("  😀 – !"), [0i64; 0]);
        assert_eq!(of("face [SEP] 10"), of("face 10"));
        assert_eq!(of(&"face ".repeat(9)), [number("face"); 8]);
    }

    #[test]
    fn parts_of_three_characters_follow_their_word() {
        let config = HashedWordsConfig { character_grams: true, ..HashedWordsConfig::default() };
        let number = |part: &str| 1 + (fnv_1a(part.as_bytes()) % 4095) as i64;
        let expected = ["<éta>", "<ét", "éta", "ta>", "<a>", "<of>", "<of", "of>"].map(number);
        assert_eq!(tokens(&config, "Éta a of", 0), expected);
        // The end is cut within a word, too.
        let config = HashedWordsConfig { max_tokens: 3, ..config };
        assert_eq!(tokens(&config, "Éta a of", 0), expected[..3]);
    }

    #[test]
    fn with_two_buckets_every_word_is_number_one() {
        let config = HashedWordsConfig { buckets: 2, ..HashedWordsConfig::default() };
        assert_eq!(tokens(&config, "a b c", 0), [1, 1, 1]);
        let error = HashedWordsConfig { buckets: 1, ..config }.validate().unwrap_err().to_string();
        assert_eq!(error, "`buckets` is 1, expected [2, 2^30]");
    }

    #[test]
    fn a_file_is_read_and_what_is_no_text_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        std::fs::write(&file, "\u{feff}turtle\r\n").unwrap();
        let config = HashedWordsConfig::default();
        let found = tensors(&config, &Raw::File(file)).unwrap();
        assert_eq!(found, tensors(&config, &Raw::Text("turtle")).unwrap());
        let error = tensors(&config, &Raw::Files(vec![])).unwrap_err().to_string();
        assert!(
            error.contains("`hashed_words` decodes text, the dataset gives several files"),
            "{error}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_text_has_numbers_of_the_table(
            text in "(\\PC|[\u{0}-\u{ff}]| face){0,60}",
            character_grams in any::<bool>(),
            buckets in 2usize..50,
        ) {
            let config = HashedWordsConfig { buckets, max_tokens: 20, character_grams };
            let found = tokens(&config, &text, 0);
            prop_assert!(found.iter().all(|id| (1..buckets as i64).contains(id)));
        }
    }
}
