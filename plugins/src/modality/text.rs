//! What the modalities of texts share.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use mie_core::prelude::*;
use unicode_normalization::UnicodeNormalization;

use super::util::wrong_kind;
use crate::formats::words::{letters_only, released};

/// Name of the tensor of numbers of tokens.
const IDS: &str = "ids";
/// Name of the tensor that is 1 for tokens and 0 for padding.
const MASK: &str = "mask";

/// Most bytes of the text of a sample: a long book.
const LARGEST_TEXT_BYTES: u64 = 1 << 22;
/// Most bytes of a file of a vocabulary, unpacked; large published ones have 17 million.
const LARGEST_VOCABULARY_BYTES: u64 = 1 << 26;

/// What is done to a text before it is taken apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextCleanUp {
    /// Nothing: the text is as the dataset gives it.
    #[default]
    None,
    /// What the released code of MIE does: lower case, no punctuation, 50 words.
    Released,
    /// The same after all words went that are not of ASCII letters alone: the released code's way
    /// with Twitter2015.
    ReleasedLetters,
}

impl TextCleanUp {
    /// Cleans a text.
    pub(super) fn of(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::None => Cow::Borrowed(text),
            Self::Released => Cow::Owned(released(text)),
            Self::ReleasedLetters => Cow::Owned(released(&letters_only(text))),
        }
    }
}

/// Checks the number of tokens of a sample, of which the modality needs `least`.
pub(super) fn ensure_tokens(max_tokens: usize, least: usize) -> Result<()> {
    let usable = (least..=1 << 16).contains(&max_tokens);
    ensure_range("max_tokens", &format!("[{least}, 65536]"), max_tokens, usable)
}

/// Layout of a text: `ids`, `mask`, and `further` tensors of the same shape.
pub(super) fn layout(max_tokens: usize, further: &[&str]) -> Vec<TensorLayout> {
    let names = [IDS, MASK].into_iter().chain(further.iter().copied());
    let shape = [max_tokens as i64];
    names
        .map(|name| TensorLayout {
            name: name.to_owned(),
            shape: shape.to_vec(),
            element: Element::I64,
        })
        .collect()
}

/// Writes numbers of tokens, padded with `padding`, and the mask that tells them apart.
pub(super) fn write(ids: &[i64], padding: i64, out: &mut SampleBuffers<'_>) -> Result<()> {
    fill(out.i64(0)?, ids, padding)?;
    fill(out.i64(1)?, &vec![1; ids.len()], 0)
}

/// Writes values at the start of a tensor, and `padding` after them.
pub(super) fn fill(tensor: &mut [i64], values: &[i64], padding: i64) -> Result<()> {
    let room = tensor.len();
    if values.len() > room {
        return Err(Error::Bug(format!(
            "a text has {} tokens, there is room for {room}",
            values.len()
        )));
    }
    let (start, rest) = tensor.split_at_mut(values.len());
    start.copy_from_slice(values);
    rest.fill(padding);
    Ok(())
}

/// The text of a sample: that of a dataset, or the content of a file.
pub(super) fn text_of<'a>(modality: &str, raw: &'a Raw<'_>) -> Result<Cow<'a, str>> {
    match raw {
        &Raw::Text(text) => Ok(Cow::Borrowed(text)),
        Raw::File(file) => read_utf8(file, LARGEST_TEXT_BYTES, "a text").map(Cow::Owned),
        _ => Err(wrong_kind(modality, "text", raw)),
    }
}

/// Reads a file of text whole, unpacking one whose name ends in `.gz`; a byte order mark is left
/// out.
fn read_utf8(file: &Path, most: u64, what: &str) -> Result<String> {
    let opened = File::open(file).map_err(Error::io("read", file))?;
    let packed = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    let reader: Box<dyn Read> =
        if packed { Box::new(GzDecoder::new(opened)) } else { Box::new(opened) };
    let mut content = Vec::new();
    reader.take(most + 1).read_to_end(&mut content).map_err(Error::io("read", file))?;
    if content.len() as u64 > most {
        return Err(Error::data(file, format!("has more than the {most} bytes of {what}")));
    }
    let text = String::from_utf8(content).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Error::data(file, format!("is not UTF-8 from byte {place} on, expected {what}"))
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// What a file of a vocabulary says, read when the modality is opened: a configuration is checked
/// without the file.
pub(super) struct FromFile<T> {
    file: PathBuf,
    guide: &'static str,
    content: OnceLock<T>,
}

impl<T> FromFile<T> {
    /// Names a file, relative to the data folder; `guide` says where it is to be had.
    pub(super) fn new(file: &Path, guide: &'static str) -> Self {
        Self { file: file.to_owned(), guide, content: OnceLock::new() }
    }

    /// Reads the file in the data folder of a run.
    pub(super) fn open(
        &mut self,
        context: &OpenContext,
        parse: impl FnOnce(&Path, &str) -> Result<T>,
    ) -> Result<()> {
        self.file = context.resolve(&self.file);
        self.get(parse).map(|_| ())
    }

    /// What `parse` makes of the text of the file, whose path is for messages.
    pub(super) fn get(&self, parse: impl FnOnce(&Path, &str) -> Result<T>) -> Result<&T> {
        if let Some(content) = self.content.get() {
            return Ok(content);
        }
        if !self.file.is_file() {
            return Err(Error::data(&self.file, format!("there is no such file; {}", self.guide)));
        }
        let text = read_utf8(&self.file, LARGEST_VOCABULARY_BYTES, "a vocabulary")?;
        let content = parse(&self.file, &text)?;
        // Workers that come at the same time make the same of it.
        Ok(self.content.get_or_init(|| content))
    }
}

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    /// To be taken apart further.
    Text(&'a str),
    /// A mark of the vocabulary, by its number.
    Mark(i64),
}

/// Parts a text at the marks of a vocabulary that stand in it, as Hugging Face's tokenisers do.
pub(super) fn part_at_marks<'a>(text: &'a str, marks: &[(&str, i64)]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    let (mut start, mut place) = (0, 0);
    while let Some(letter) = text[place..].chars().next() {
        match marks.iter().find(|(mark, _)| text[place..].starts_with(mark)) {
            Some(&(mark, number)) => {
                parts.extend([Part::Text(&text[start..place]), Part::Mark(number)]);
                place += mark.len();
                start = place;
            }
            None => place += letter.len_utf8(),
        }
    }
    parts.push(Part::Text(&text[start..]));
    parts
}

/// A text composed (NFC) and in lower case, character by character.
pub(super) fn folded(text: &str) -> String {
    text.nfc().flat_map(char::to_lowercase).collect()
}

/// What the tests of these modalities share.
#[cfg(test)]
pub(super) mod testing {
    use super::super::util::draw;
    use super::*;

    /// A file that `tests/reference/text.py` wrote.
    pub(crate) fn reference(name: &str) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/data/text");
        Path::new(folder).join(name)
    }

    /// What `tests/reference/text.py` found.
    pub(crate) fn cases() -> serde_json::Value {
        let text = std::fs::read_to_string(reference("text.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Numbers in a list of JSON.
    pub(crate) fn numbers(list: &serde_json::Value) -> Vec<i64> {
        list.as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
    }

    /// The tensors of a text, in the order of the layout; buffers start as numbers of none.
    pub(crate) fn tensors(config: &dyn ModalityConfig, raw: &Raw<'_>) -> Result<Vec<Vec<i64>>> {
        let modality = config.build()?;
        let mut tensors: Vec<Vec<i64>> =
            modality.layout().iter().map(|layout| vec![-9; layout.len()]).collect();
        let buffers = tensors.iter_mut().map(|tensor| Buffer::I64(tensor)).collect();
        modality.load(raw, Mode::Training, &draw(0, 0), &mut SampleBuffers::new(buffers))?;
        Ok(tensors)
    }

    /// The numbers of the tokens that the mask has at 1; all others must be `padding`.
    pub(crate) fn tokens(config: &dyn ModalityConfig, text: &str, padding: i64) -> Vec<i64> {
        let found = tensors(config, &Raw::Text(text)).unwrap();
        let count = found[1].iter().filter(|&&seen| seen == 1).count();
        assert!(found[1][..count].iter().all(|&seen| seen == 1), "{text:?}");
        assert!(found[1][count..].iter().all(|&seen| seen == 0), "{text:?}");
        assert!(found[0][count..].iter().all(|&id| id == padding), "{text:?}");
        found[0][..count].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

    use super::*;

    #[test]
    fn texts_are_parted_at_marks() {
        let marks = [("[SEP]", 3), ("[PAD]", 0)];
        let found = part_at_marks("é[SEP]a [[PAD][SEP", &marks);
        let expected =
            [Part::Text("é"), Part::Mark(3), Part::Text("a ["), Part::Mark(0), Part::Text("[SEP")];
        assert_eq!(found, expected);
        assert_eq!(part_at_marks("", &marks), [Part::Text("")]);
    }

    #[test]
    fn tensors_are_padded_and_never_run_over() {
        let (mut ids, mut mask) = ([7; 4], [7; 4]);
        let mut out = SampleBuffers::new(vec![Buffer::I64(&mut ids), Buffer::I64(&mut mask)]);
        write(&[5, 6], 9, &mut out).unwrap();
        assert!(write(&[1; 5], 9, &mut out).is_err());
        assert_eq!((ids, mask), ([5, 6, 9, 9], [1, 1, 0, 0]));
    }

    #[test]
    fn files_are_unpacked_without_their_byte_order_mark_and_refused_when_large_or_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        let read = |content: &[u8]| {
            std::fs::write(&file, content).unwrap();
            read_utf8(&file, 5, "a text").map_err(|error| error.to_string())
        };
        assert_eq!(read("\u{feff}é".as_bytes()).unwrap(), "é");
        assert_eq!(read(b"12345").unwrap(), "12345");
        let error = read(b"123456").unwrap_err();
        assert!(error.ends_with("a.txt: has more than the 5 bytes of a text"), "{error}");
        let error = read(b"ab\xff").unwrap_err();
        assert!(error.ends_with("a.txt: is not UTF-8 from byte 2 on, expected a text"), "{error}");

        // Packed, and its limit holds for what is unpacked.
        let packed = folder.path().join("a.txt.gz");
        for (content, fits) in [("é", true), ("0".repeat(1 << 20).as_str(), false)] {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(content.as_bytes()).unwrap();
            std::fs::write(&packed, encoder.finish().unwrap()).unwrap();
            let found = read_utf8(&packed, 5, "a text").ok();
            assert_eq!(found.as_deref(), fits.then_some(content));
        }
    }

    #[test]
    fn texts_are_cleaned_as_the_options_say() {
        let text = "Don't b2b $T$ -- OK!";
        assert_eq!(TextCleanUp::None.of(text), text);
        assert_eq!(TextCleanUp::Released.of(text), "dont b2b $t$ ok");
        assert_eq!(TextCleanUp::ReleasedLetters.of(text), "don t t ok");
    }

    #[test]
    fn folding_composes_before_it_lowers() {
        assert_eq!(folded("E\u{301}\u{130}Σ"), "éi\u{307}σ");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_bytes_are_a_text_within_the_limit_or_an_error_that_names_the_file(
            packed in any::<bool>(),
            content in prop::collection::vec(any::<u8>(), 0..12),
            ascii in "[a-z\u{feff}\n]{0,12}",
        ) {
            let ending = if packed { ".txt.gz" } else { ".txt" };
            let file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
            let start: &[u8] = if packed { &[0x1f, 0x8b, 8, 0] } else { ascii.as_bytes() };
            std::fs::write(file.path(), [start, content.as_slice()].concat()).unwrap();
            match read_utf8(file.path(), 20, "a text") {
                Ok(text) => prop_assert!(text.len() <= 20),
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains(&file.path().display().to_string()), "{}", error);
                }
            }
        }

        #[test]
        fn no_change_of_a_packed_text_makes_it_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all("l o\nlo w\n".repeat(40).as_bytes()).unwrap();
            let mut content = encoder.finish().unwrap();
            for (at, byte) in changes {
                let at = at.index(content.len());
                content[at] = byte;
            }
            if let Some(cut) = cut {
                content.truncate(cut.index(content.len()));
            }
            let file = tempfile::Builder::new().suffix(".gz").tempfile().unwrap();
            std::fs::write(file.path(), content).unwrap();
            if let Ok(text) = read_utf8(file.path(), 400, "a text") {
                prop_assert!(text.len() <= 400);
            }
        }
    }
}
