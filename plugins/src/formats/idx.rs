//! IDX files, the format of MNIST: an array of bytes behind a header with its dimensions.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use mie_core::prelude::*;

use super::{LARGEST_BYTES, read_whole};

/// First bytes of every gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The code of unsigned bytes; other element types do not occur in published sets.
const UNSIGNED_BYTES: u8 = 0x08;

/// An array of unsigned bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Array {
    dimensions: Vec<usize>,
    /// The file as it was, header included.
    content: Vec<u8>,
    header: usize,
}

impl Array {
    /// Sizes, the slowest first: `[images, height, width]`, or `[labels]`.
    pub fn dimensions(&self) -> &[usize] {
        &self.dimensions
    }

    /// All elements, the last dimension fastest.
    pub fn elements(&self) -> &[u8] {
        &self.content[self.header..]
    }

    /// The elements at `index` of the first dimension; `None` past its end.
    pub fn item(&self, index: usize) -> Option<&[u8]> {
        // Not by the other dimensions: of an empty array they are whatever the header says.
        let size = self.elements().len().checked_div(self.dimensions[0])?;
        if index >= self.dimensions[0] {
            return None;
        }
        self.elements().get(index * size..(index + 1) * size)
    }
}

/// Reads a file, gzipped or plain.
///
/// # Errors
/// When it cannot be read, is truncated, or does not hold what its header says.
pub fn read(path: &Path) -> Result<Array> {
    let stored = read_whole(path)?;
    let content = if stored.starts_with(&GZIP) {
        let mut unpacked = Vec::new();
        GzDecoder::new(stored.as_slice())
            .take(LARGEST_BYTES + 1)
            .read_to_end(&mut unpacked)
            .map_err(|error| Error::data(path, format!("is not a whole gzip file: {error}")))?;
        if unpacked.len() as u64 > LARGEST_BYTES {
            return Err(Error::data(path, format!("unpacks to more than {LARGEST_BYTES} bytes")));
        }
        unpacked
    } else {
        stored
    };
    parse(content).map_err(|problem| Error::data(path, problem))
}

/// Parses the content of an unpacked file.
///
/// # Errors
/// Says what the header should hold, or how many bytes should follow it.
pub fn parse(content: Vec<u8>) -> Result<Array, String> {
    let &[zero, nought, element, rank, ref rest @ ..] = content.as_slice() else {
        return Err(format!("is too short for an IDX header: {} bytes", content.len()));
    };
    if [zero, nought] != [0, 0] || rank == 0 {
        return Err("does not start with an IDX header (0, 0, type, dimensions)".to_owned());
    }
    if element != UNSIGNED_BYTES {
        return Err(format!("holds elements of type 0x{element:02x}, not unsigned bytes (0x08)"));
    }
    let Some(sizes) = rest.get(..4 * usize::from(rank)) else {
        return Err(format!("ends within the sizes of its {rank} dimensions"));
    };
    let dimensions: Vec<usize> = sizes
        .chunks_exact(4)
        .map(|size| u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize)
        .collect();
    let header = 4 + sizes.len();
    let found = content.len() - header;
    let expected =
        dimensions.iter().try_fold(1usize, |count, &dimension| count.checked_mul(dimension));
    if expected != Some(found) {
        return Err(format!("has dimensions {dimensions:?}, but {found} bytes of elements"));
    }
    Ok(Array { dimensions, content, header })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::formats::real_data;

    fn two_pictures() -> Vec<u8> {
        let mut content = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3];
        content.extend([1, 2, 3, 4, 5, 6]);
        content
    }

    fn gzipped(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn items_follow_each_other_behind_the_header() {
        let array = parse(two_pictures()).unwrap();
        assert_eq!(array.dimensions(), [2, 1, 3]);
        assert_eq!(array.item(0).unwrap(), [1, 2, 3]);
        assert_eq!(array.item(1).unwrap(), [4, 5, 6]);
        assert_eq!(array.item(2), None);
        assert_eq!(array.item(usize::MAX), None);
        assert_eq!(array.elements(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn gzipped_and_plain_files_hold_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("plain"), folder.path().join("packed.gz"));
        std::fs::write(&plain, two_pictures()).unwrap();
        std::fs::write(&packed, gzipped(&two_pictures())).unwrap();
        assert_eq!(read(&plain).unwrap(), read(&packed).unwrap());
    }

    #[test]
    fn a_truncated_gzip_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("labels.gz");
        let whole = gzipped(&two_pictures());
        std::fs::write(&file, &whole[..whole.len() - 9]).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("labels.gz: is not a whole gzip file"), "{error}");
    }

    #[test]
    fn a_header_that_promises_other_than_the_file_holds_is_refused() {
        let problem = |content: &[u8]| parse(content.to_vec()).unwrap_err();
        let whole = two_pictures();
        assert_eq!(problem(&[]), "is too short for an IDX header: 0 bytes");
        assert!(problem(b"RIFF....").contains("does not start with an IDX header"));
        assert!(problem(&[0, 0, 8, 0]).contains("does not start with an IDX header"));
        assert!(problem(&[0, 0, 0x0d, 1, 0, 0, 0, 0]).contains("type 0x0d"));
        assert!(problem(&whole[..10]).contains("ends within the sizes of its 3 dimensions"));
        let short = problem(&whole[..whole.len() - 1]);
        assert_eq!(short, "has dimensions [2, 1, 3], but 5 bytes of elements");
        // Nothing in one dimension is nothing at all, whatever the others say.
        let mut nothing = vec![0, 0, 8, 4, 0, 0, 0, 0];
        nothing.extend([0xff; 12]);
        assert_eq!(parse(nothing).unwrap().item(0), None);
        // 2^96 elements: the product must not overflow, let alone be allocated.
        let mut huge = vec![0, 0, 8, 3];
        huge.extend([0xff; 12]);
        assert!(problem(&huge).contains("but 0 bytes of elements"));
    }

    #[test]
    fn the_real_labels_are_digits() {
        let Some(folder) = real_data::folder("avdigits") else { return };
        let labels = read(&folder.join("mnist/t10k-labels-idx1-ubyte.gz")).unwrap();
        assert_eq!(labels.dimensions(), [10_000]);
        assert_eq!(labels.elements()[..5], [7, 2, 1, 0, 4]);
        assert!(labels.elements().iter().all(|&label| label < 10));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_bytes_make_the_parser_panic(content in prop::collection::vec(any::<u8>(), 0..64)) {
            let length = content.len();
            if let Ok(array) = parse(content) {
                prop_assert!(array.elements().len() < length);
            }
        }

        #[test]
        fn a_header_of_random_sizes_is_held_against_the_bytes(
            sizes in prop::collection::vec(0u32..6, 1..5),
            bytes in 0usize..200,
        ) {
            let mut content = vec![0, 0, 8, sizes.len() as u8];
            content.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
            content.resize(content.len() + bytes, 7);
            let expected: u32 = sizes.iter().product();
            prop_assert_eq!(parse(content).is_ok(), expected as usize == bytes);
        }

        #[test]
        fn no_header_makes_an_item_panic(
            sizes in prop::collection::vec((any::<u32>(), 0u32..4), 1..6),
            bytes in 0usize..100,
            index in any::<usize>(),
        ) {
            let mut content = vec![0, 0, 8, sizes.len() as u8];
            // Small sizes and huge ones, side by side.
            let size = |&(any, kind): &(u32, u32)| if kind < 3 { kind } else { any };
            let whole =
                sizes.iter().try_fold(1usize, |count, pair| count.checked_mul(size(pair) as usize));
            let bytes = whole.filter(|&whole| whole < 10_000).unwrap_or(bytes);
            content.extend(sizes.iter().flat_map(|pair| size(pair).to_be_bytes()));
            content.resize(content.len() + bytes, 7);
            if let Ok(array) = parse(content) {
                for index in [0, 1, index] {
                    let found = array.item(index);
                    prop_assert_eq!(found.is_some(), index < array.dimensions()[0]);
                }
            }
        }

        #[test]
        fn errors_about_random_bytes_name_the_file(
            packed in any::<bool>(),
            content in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            let start: &[u8] = if packed { &GZIP } else { &[1] };
            std::fs::write(file.path(), [start, content.as_slice()].concat()).unwrap();
            let error = read(file.path()).unwrap_err().to_string();
            prop_assert!(error.starts_with(&format!("{}: ", file.path().display())), "{}", error);
        }
    }
}
