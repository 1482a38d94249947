//! Lists of samples: text files with a sample a line.

use std::path::Path;

use mie_core::prelude::*;

use super::read_whole;

/// Most bytes of a list; the largest published one has 4 million.
const LARGEST_LIST_BYTES: usize = 1 << 26;

/// Most characters of a line that an error quotes.
const QUOTED_CHARACTERS: usize = 120;

/// Reads the lines of a UTF-8 file, each with its number from 1.
///
/// A byte order mark and the carriage returns of line ends are taken off. Lines without anything
/// but white space are left out, and counted.
///
/// # Errors
/// Names the file that cannot be read or is too large, and the line that is not UTF-8.
pub fn lines(file: &Path) -> Result<Vec<(usize, String)>> {
    let text = text(file)?;
    let numbered = text.split('\n').enumerate();
    Ok(numbered
        .map(|(index, line)| (index + 1, line.trim_end_matches('\r')))
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| (number, line.to_owned()))
        .collect())
}

/// Reads a UTF-8 file whole, without a byte order mark.
///
/// # Errors
/// As [`lines`].
pub fn text(file: &Path) -> Result<String> {
    let content = read_whole(file)?;
    let size = content.len();
    if size > LARGEST_LIST_BYTES {
        let problem = format!("has {size} bytes, a list has at most {LARGEST_LIST_BYTES}");
        return Err(Error::data(file, problem));
    }
    let text = String::from_utf8(content).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.split(|&byte| byte == b'\n').skip(1).count();
        Error::data(file, format!("line {line}: is not UTF-8"))
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// Makes the error about a line of a list; `found` is quoted, and cut where it is long.
pub fn fault(file: &Path, line: usize, found: &str, expected: &str) -> Error {
    let quoted: String = found.chars().take(QUOTED_CHARACTERS).collect();
    let cut = if quoted.len() < found.len() { " …" } else { "" };
    Error::data(file, format!("line {line}: found {quoted:?}{cut}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn read(content: &[u8]) -> Result<Vec<(usize, String)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        lines(file.path())
    }

    #[test]
    fn lines_keep_their_numbers_and_lose_mark_and_carriage_returns() {
        let found = read("\u{feff}NEU\r\n\r\n a\tb \n \nlast\r".as_bytes()).unwrap();
        let expected = [(1, "NEU"), (3, " a\tb "), (5, "last")];
        assert_eq!(found, expected.map(|(number, line)| (number, line.to_owned())));
        assert!(read(b"").unwrap().is_empty());
        assert!(read("\u{feff}".as_bytes()).unwrap().is_empty());
    }

    #[test]
    fn separators_other_than_the_line_feed_belong_to_the_line() {
        let found = read("a\u{2028}b\u{85}c\x0bd\re\n".as_bytes()).unwrap();
        assert_eq!(found, [(1, "a\u{2028}b\u{85}c\x0bd\re".to_owned())]);
    }

    #[test]
    fn what_is_not_utf_8_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("train.csv");
        std::fs::write(&file, b"good\n\n\xc3\xa4 good\nbad \xe4\n").unwrap();
        let error = lines(&file).unwrap_err().to_string();
        assert!(error.ends_with("train.csv: line 4: is not UTF-8"), "{error}");
        let error = lines(&folder.path().join("absent.csv")).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("absent.csv"), "{error}");
    }

    #[test]
    fn a_file_too_large_for_a_list_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("large.csv");
        // Sparse: it takes no space on the disk.
        let size = LARGEST_LIST_BYTES as u64 + 1;
        std::fs::File::create(&file).unwrap().set_len(size).unwrap();
        let error = lines(&file).unwrap_err().to_string();
        assert!(error.contains("large.csv: has 67108865 bytes, a list has at most"), "{error}");
    }

    #[test]
    fn a_fault_names_file_and_line_and_quotes_no_more_than_needed() {
        let error = fault(Path::new("a/b.csv"), 7, "x\ty", "a clip and a label").to_string();
        assert_eq!(error, "a/b.csv: line 7: found \"x\\ty\", expected a clip and a label");
        let error = fault(Path::new("b.csv"), 1, &"ä".repeat(121), "less").to_string();
        assert_eq!(error, format!("b.csv: line 1: found \"{}\" …, expected less", "ä".repeat(120)));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_bytes_make_the_reader_panic(content in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(found) = read(&content) {
                prop_assert!(found.iter().all(|(_, line)| !line.contains('\n')));
                prop_assert!(found.is_sorted_by_key(|(number, _)| *number));
            }
        }

        #[test]
        fn any_text_keeps_its_lines_with_their_numbers(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "\n", "\r\n", "\r", "\u{feff}", " ", "\t", "a,b", "é", "\0", "\u{2028}",
                ]),
                0..40,
            ),
        ) {
            let content = pieces.concat();
            let whole: Vec<&str> = content.split('\n').collect();
            for (number, line) in read(content.as_bytes()).unwrap() {
                prop_assert!(!line.trim().is_empty());
                let found = whole[number - 1].trim_end_matches('\r');
                let marked = found.strip_prefix('\u{feff}').filter(|_| number == 1);
                prop_assert_eq!(line.as_str(), marked.unwrap_or(found));
            }
        }
    }
}
