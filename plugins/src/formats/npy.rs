//! NPY files, in which `NumPy` keeps an array of numbers.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use mie_core::prelude::*;

/// First bytes of every file.
const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Most bytes of a file, and of the array made of it.
const LARGEST_BYTES: u64 = 1 << 31;

/// Most bytes of a header; that of an array of numbers has about a hundred.
const LARGEST_HEADER_BYTES: usize = 1 << 16;

/// Bytes that are decoded at once; a multiple of every width.
const BLOCK_BYTES: usize = 1 << 16;

/// An array of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Sizes, the slowest first; none of a single number.
    pub shape: Vec<usize>,
    /// The numbers, the last dimension fastest, however the file has them. All are finite.
    pub values: Vec<f32>,
}

/// Reads an array of integers of 8 to 64 bits, of bytes or of floats of 32 or 64 bits.
///
/// What 32-bit floats cannot hold is rounded.
///
/// # Errors
/// When the file cannot be read, has over 2 GiB, is of another kind, does not hold what its header
/// says, or holds a value that is not a finite number.
pub fn read(path: &Path) -> Result<Array> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    parse(BufReader::new(file), size).map_err(|problem| Error::data(path, problem))
}

/// Looks at a file without decoding it: whether its numbers are all there.
///
/// # Errors
/// As [`read`], but for values that are no finite numbers.
pub fn inspect(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let found = header(BufReader::new(file), size);
    let counted = found.and_then(|(header, at)| header.count(at, size));
    counted.map(|_| ()).map_err(|problem| Error::data(path, problem))
}

/// Parses a file of `size` bytes.
///
/// # Errors
/// As [`read`].
pub fn parse(mut source: impl Read, size: u64) -> Result<Array, String> {
    let (header, at) = header(&mut source, size)?;
    header.array(source, at, size)
}

/// Reads the header of a file of `size` bytes; gives the position of what follows, too.
fn header(mut source: impl Read, size: u64) -> Result<(Header, usize), String> {
    if size > LARGEST_BYTES {
        return Err(format!("has {size} bytes, at most {LARGEST_BYTES} are read"));
    }
    let mut start = [0; 8];
    fill(&mut source, &mut start, 0)?;
    if !start.starts_with(MAGIC) {
        return Err("is not an NPY file: it does not start with \\x93NUMPY".to_owned());
    }
    let width = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(format!("has version {version}; readable are 1, 2 and 3")),
    };
    let mut length = [0; 4];
    fill(&mut source, &mut length[..width], start.len())?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LARGEST_HEADER_BYTES {
        let most = LARGEST_HEADER_BYTES;
        return Err(format!("has a header of {length} bytes, at most {most} are read"));
    }
    let at = start.len() + width;
    let mut text = vec![0; length];
    fill(&mut source, &mut text, at)?;
    let mut cursor = Cursor { text: &text, at: 0 };
    let header = cursor
        .header()
        .map_err(|problem| format!("has a broken header: {problem}, at byte {}", at + cursor.at))?;
    Ok((header, at + length))
}

/// Reads exactly so many bytes, `at` being the position of the first.
fn fill(source: &mut impl Read, bytes: &mut [u8], at: usize) -> Result<(), String> {
    let length = bytes.len();
    source.read_exact(bytes).map_err(|error| {
        format!("is truncated or unreadable in the {length} bytes from byte {at} on: {error}")
    })
}

/// Makes a number of its bytes.
type Decode = fn(&[u8]) -> f32;

/// What a header says.
struct Header {
    /// Kind of number, as `NumPy` writes it.
    kind: String,
    /// Bytes of a number.
    width: usize,
    decode: Decode,
    /// Whether the first dimension is the fastest.
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// How many numbers there are, which start at byte `at` of `size`.
    fn count(&self, at: usize, size: u64) -> Result<usize, String> {
        let Self { kind, width, shape, .. } = self;
        let left = size.saturating_sub(at as u64);
        let count = shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
        let bytes = count.and_then(|count| count.checked_mul(*width));
        let Some(count) = count.filter(|_| bytes.is_some_and(|bytes| bytes as u64 == left)) else {
            return Err(format!(
                "has shape {shape:?} of {kind}, {width} bytes each, but {left} bytes from byte \
                 {at} on"
            ));
        };
        let most = LARGEST_BYTES as usize / size_of::<f32>();
        if count > most {
            return Err(format!("has {count} numbers, at most {most} are read"));
        }
        Ok(count)
    }

    /// Reads the numbers, which start at byte `at` of `size`.
    fn array(self, mut source: impl Read, at: usize, size: u64) -> Result<Array, String> {
        let count = self.count(at, size)?;
        let Self { width, decode, fortran, shape, .. } = self;
        let bytes = count * width;
        let mut values: Vec<f32> = Vec::new();
        values.try_reserve_exact(count).map_err(|error| format!("has {count} numbers: {error}"))?;
        let mut block = vec![0; BLOCK_BYTES.min(bytes)];
        for done in (0..bytes).step_by(BLOCK_BYTES) {
            let part = &mut block[..BLOCK_BYTES.min(bytes - done)];
            fill(&mut source, part, at + done)?;
            values.extend(part.chunks_exact(width).map(decode));
        }
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            let byte = at + place * width;
            return Err(format!("holds a value that is not a finite number, at byte {byte}"));
        }
        if fortran {
            values = last_fastest(&shape, &values);
        }
        Ok(Array { shape, values })
    }
}

/// Reorders numbers of which the first dimension is the fastest.
fn last_fastest(shape: &[usize], values: &[f32]) -> Vec<f32> {
    let mut steps = vec![1; shape.len()];
    for dimension in 1..shape.len() {
        steps[dimension] = steps[dimension - 1] * shape[dimension - 1];
    }
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    let mut reordered = Vec::with_capacity(values.len());
    for _ in values {
        reordered.push(values[at]);
        for dimension in (0..shape.len()).rev() {
            index[dimension] += 1;
            at += steps[dimension];
            if index[dimension] < shape[dimension] {
                break;
            }
            at -= steps[dimension] * shape[dimension];
            index[dimension] = 0;
        }
    }
    reordered
}

/// How numbers of a kind are decoded: byte order, kind and bytes, as `NumPy` writes them.
fn decoder(kind: &str) -> Option<Decode> {
    let decode: Decode = match kind {
        "|u1" => |b| f32::from(b[0]),
        "|i1" => |b| f32::from(i8::from_le_bytes(exact(b))),
        "<i2" => |b| f32::from(i16::from_le_bytes(exact(b))),
        ">i2" => |b| f32::from(i16::from_be_bytes(exact(b))),
        "<i4" => |b| i32::from_le_bytes(exact(b)) as f32,
        ">i4" => |b| i32::from_be_bytes(exact(b)) as f32,
        "<i8" => |b| i64::from_le_bytes(exact(b)) as f32,
        ">i8" => |b| i64::from_be_bytes(exact(b)) as f32,
        "<f4" => |b| f32::from_le_bytes(exact(b)),
        ">f4" => |b| f32::from_be_bytes(exact(b)),
        "<f8" => |b| f64::from_le_bytes(exact(b)) as f32,
        ">f8" => |b| f64::from_be_bytes(exact(b)) as f32,
        _ => return None,
    };
    Some(decode)
}

/// The bytes of a number, of which there are as many as it needs.
fn exact<const WIDTH: usize>(bytes: &[u8]) -> [u8; WIDTH] {
    let mut number = [0; WIDTH];
    number.copy_from_slice(bytes);
    number
}

/// Reads the dictionary of a header, a literal of Python.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn header(&mut self) -> Result<Header, String> {
        let (mut kind, mut fortran, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.skips(b'}') {
            let key = self.quoted()?;
            self.expect(b':')?;
            match key {
                "descr" => kind = Some(self.quoted()?),
                "fortran_order" => fortran = Some(self.truth()?),
                "shape" => shape = Some(self.shape()?),
                _ => return Err(format!("unknown key `{key}`")),
            }
            if !self.skips(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        if self.peek().is_some() {
            return Err("expected its end".to_owned());
        }
        let (Some(kind), Some(fortran), Some(shape)) = (kind, fortran, shape) else {
            return Err("expected the keys `descr`, `fortran_order` and `shape`".to_owned());
        };
        let Some(decode) = decoder(kind) else {
            return Err(format!(
                "numbers of kind `{kind}`; readable are |u1, |i1, and i2, i4, i8, f4, f8 with < \
                 or > before it"
            ));
        };
        // The kinds that have a decoder end in a digit.
        let width = kind.bytes().last().map_or(0, |digit| usize::from(digit.saturating_sub(b'0')));
        Ok(Header { kind: kind.to_owned(), width, decode, fortran, shape })
    }

    /// The next byte that is not blank.
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// Moves past `byte`, if that comes next.
    fn skips(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.skips(byte) {
            return Ok(());
        }
        Err(format!("expected `{}`", char::from(byte)))
    }

    /// The bytes from here on that are alike.
    fn run(&mut self, alike: impl Fn(&u8) -> bool) -> &'a [u8] {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| !alike(byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// A text in quotes, without any inside.
    fn quoted(&mut self) -> Result<&'a str, String> {
        let quote = self.peek().filter(|byte| matches!(byte, b'\'' | b'"'));
        let quote = quote.ok_or("expected a text in quotes")?;
        self.at += 1;
        let text = self.run(|&byte| byte != quote);
        self.expect(quote)?;
        std::str::from_utf8(text).map_err(|error| error.to_string())
    }

    fn truth(&mut self) -> Result<bool, String> {
        self.peek();
        match self.run(u8::is_ascii_alphabetic) {
            b"True" => Ok(true),
            b"False" => Ok(false),
            _ => Err("expected True or False".to_owned()),
        }
    }

    /// A tuple of sizes.
    fn shape(&mut self) -> Result<Vec<usize>, String> {
        let mut sizes = Vec::new();
        self.expect(b'(')?;
        while !self.skips(b')') {
            self.peek();
            let digits = String::from_utf8_lossy(self.run(u8::is_ascii_digit));
            sizes.push(
                digits
                    .parse::<usize>()
                    .map_err(|error| format!("`{digits}` is no size: {error}"))?,
            );
            // Python 2 wrote long integers with it.
            self.skips(b'L');
            if !self.skips(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(sizes)
    }
}

/// Makes files for tests.
#[cfg(test)]
pub(crate) mod fixture {
    /// A file of version 1 with this header and data.
    pub(crate) fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut content = b"\x93NUMPY\x01\x00".to_vec();
        content.extend((header.len() as u16).to_le_bytes());
        content.extend(header.as_bytes());
        content.extend(data);
        content
    }

    /// A header as it is written by `NumPy`, but for the blanks at its end.
    pub(crate) fn header(kind: &str, fortran: bool, shape: &[usize]) -> String {
        let order = if fortran { "True" } else { "False" };
        let sizes: Vec<String> = shape.iter().map(|size| format!("{size}, ")).collect();
        let sizes = sizes.concat();
        format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': ({sizes}), }}\n")
    }

    /// A file of 32-bit floats.
    pub(crate) fn floats(shape: &[usize], values: &[f32]) -> Vec<u8> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        file(&header("<f4", false, shape), &data)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "small whole numbers are exact")]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::fixture::{file, floats, header};
    use super::*;

    fn parsed(content: &[u8]) -> Result<Array, String> {
        parse(content, content.len() as u64)
    }

    /// Two numbers of a kind.
    fn pair(kind: &str, data: &[u8]) -> Vec<f32> {
        parsed(&file(&header(kind, false, &[2]), data)).unwrap().values
    }

    #[test]
    fn every_kind_of_number_is_read() {
        assert_eq!(pair("|u1", &[7, 255]), [7.0, 255.0]);
        assert_eq!(pair("|i1", &[7, 255]), [7.0, -1.0]);
        assert_eq!(pair("<i2", &[1, 2, 0, 0x80]), [513.0, -32_768.0]);
        assert_eq!(pair(">i2", &[1, 2, 0x80, 0]), [258.0, -32_768.0]);
        let both = |little: &str, first: &[u8], second: &[u8]| {
            let ordered = pair(little, &[first, second].concat());
            let turned = |bytes: &[u8]| bytes.iter().rev().copied().collect::<Vec<u8>>();
            let big = little.replace('<', ">");
            assert_eq!(ordered, pair(&big, &[turned(first), turned(second)].concat()));
            ordered
        };
        assert_eq!(both("<i4", &[0, 0, 1, 0], &[0xfe, 255, 255, 255]), [65_536.0, -2.0]);
        let (million, minus) = (1_000_000i64.to_le_bytes(), (-3i64).to_le_bytes());
        assert_eq!(both("<i8", &million, &minus), [1e6, -3.0]);
        assert_eq!(both("<f4", &0.5f32.to_le_bytes(), &(-8f32).to_le_bytes()), [0.5, -8.0]);
        assert_eq!(both("<f8", &0.25f64.to_le_bytes(), &(-1e9f64).to_le_bytes()), [0.25, -1e9]);
    }

    #[test]
    fn both_orders_of_dimensions_give_the_same_array() {
        let rows = parsed(&floats(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])).unwrap();
        assert_eq!((rows.shape.as_slice(), rows.values[4]), (&[2, 3][..], 4.0));
        let columns = file(&header("|u1", true, &[2, 3]), &[0, 3, 1, 4, 2, 5]);
        assert_eq!(parsed(&columns).unwrap(), rows);
        let flat = file(&header("|u1", true, &[2, 1, 3]), &[0, 3, 1, 4, 2, 5]);
        assert_eq!(parsed(&flat).unwrap().values, rows.values);
    }

    #[test]
    fn numbers_alone_and_empty_arrays_are_arrays() {
        let one = parsed(&floats(&[], &[3.0])).unwrap();
        assert_eq!((one.shape.len(), one.values), (0, vec![3.0]));
        for fortran in [true, false] {
            let none = parsed(&file(&header("<f8", fortran, &[4, 0, 2]), &[])).unwrap();
            assert_eq!((none.shape, none.values), (vec![4, 0, 2], Vec::new()));
        }
    }

    #[test]
    fn files_of_numpy_are_read() {
        // Written by tests/reference/video.py: `value` at [i, j, k] is 100 i + 10 j + k.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/data/npy");
        for name in
            ["c_f4", "fortran_f8", "big_f8", "fortran_big_i2", "i8", "version_2", "version_3"]
        {
            let array = read(&folder.join(name).with_extension("npy")).unwrap();
            assert_eq!(array.shape, [2, 3, 4], "{name}");
            for (at, value) in array.values.iter().enumerate() {
                let expected = 100 * (at / 12) + 10 * (at / 4 % 3) + at % 4;
                assert_eq!(*value, expected as f32, "{name}");
            }
        }
    }

    #[test]
    fn numbers_over_a_block_are_all_read() {
        let values: Vec<f32> = (0..50_000).map(|value| value as f32).collect();
        assert_eq!(parsed(&floats(&[50, 1_000], &values)).unwrap().values, values);
    }

    #[test]
    fn headers_may_be_written_in_other_ways() {
        let data = [1, 2, 3];
        for header in [
            "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }          \n",
            "{\"shape\":(3L,),\"descr\":\"|u1\",\"fortran_order\":False}",
            "  { 'fortran_order' : False , 'shape' : ( 3 ) , 'descr' : '|u1' }",
        ] {
            assert_eq!(parsed(&file(header, &data)).unwrap().values, [1.0, 2.0, 3.0]);
        }
    }

    #[test]
    fn broken_files_are_refused_with_the_position() {
        let problem = |content: &[u8]| parsed(content).unwrap_err();
        let whole = floats(&[2], &[1.0, 2.0]);
        assert!(problem(&[]).contains("is truncated or unreadable in the 8 bytes from byte 0 on"));
        assert!(problem(b"RIFF....").contains("is not an NPY file"));
        assert!(problem(b"\x93NUMPY\x04\x00").contains("has version 4; readable are 1, 2 and 3"));
        assert!(problem(&whole[..20]).contains("bytes from byte 10 on"));
        let at = whole.len() - 8;
        let short = problem(&whole[..whole.len() - 1]);
        let expected = format!("has shape [2] of <f4, 4 bytes each, but 7 bytes from byte {at} on");
        assert_eq!(short, expected);
        assert!(problem(&[&whole[..], &[0]].concat()).contains("but 9 bytes"));
        let infinite = floats(&[2], &[0.0, f32::INFINITY]);
        let expected = format!("a value that is not a finite number, at byte {}", at + 4);
        assert!(problem(&infinite).contains(&expected), "{}", problem(&infinite));
        // What is finite in 64 bits need not be in 32.
        let far = file(&header("<f8", false, &[1]), &1e300f64.to_le_bytes());
        assert!(problem(&far).contains("not a finite number"));
    }

    #[test]
    fn broken_headers_are_refused_with_the_position() {
        let problem = |header: &str| parsed(&file(header, &[0; 4])).unwrap_err();
        assert_eq!(problem(""), "has a broken header: expected `{`, at byte 10");
        assert!(problem("{'descr': [('a', '<f4')], ").contains("a text in quotes, at byte 20"));
        assert!(problem("{'descr': '|O', 'x': 1}").contains("unknown key `x`"));
        assert!(problem("{'descr': '<f4', 'shape': (1,)}").contains("expected the keys `descr`"));
        assert!(problem(&header("|O", false, &[1])).contains("numbers of kind `|O`; readable"));
        assert!(problem(&header("<f2", false, &[2])).contains("numbers of kind `<f2`"));
        assert!(problem("{'fortran_order': Perhaps}").contains("expected True or False"));
        assert!(problem("{'shape': (-1,)}").contains("`` is no size"));
        assert!(problem("{'shape': (99999999999999999999,)}").contains("is no size"));
        assert!(problem("{'shape': (1, 2").contains("expected `)`, at byte 25"));
        let more = header("<f4", false, &[1]) + "{";
        assert!(problem(&more).contains("expected its end"));
    }

    #[test]
    fn headers_that_declare_too_much_take_no_memory() {
        let problem = |content: &[u8]| parsed(content).unwrap_err();
        // 2^96 numbers, and 2^40.
        let huge = file(&header("<f4", false, &[1 << 32; 3]), &[]);
        assert!(problem(&huge).contains("but 0 bytes"), "{}", problem(&huge));
        let large = file(&header("|u1", true, &[1 << 20, 1 << 20]), &[0; 9]);
        assert!(problem(&large).contains("but 9 bytes"), "{}", problem(&large));
        let long = [&b"\x93NUMPY\x02\x00"[..], &[255; 4]].concat();
        assert!(problem(&long).contains("has a header of 4294967295 bytes, at most 65536"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endless.npy");
        // Sparse: it takes no space on the disk.
        File::create(&path).unwrap().set_len((1 << 31) + 1).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("endless.npy: has 2147483649 bytes, at most 2147483648"), "{error}");
    }

    #[test]
    fn what_is_cut_off_is_found_without_decoding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flow.npy");
        let whole = floats(&[2], &[1.0, 2.0]);
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let [looked, read] = [inspect(&path), read(&path).map(|_| ())]
                .map(|it| it.map_err(|error| error.to_string()));
            assert_eq!(looked, read);
            assert_eq!(looked.is_ok(), length == whole.len());
        }
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flow.npy");
        std::fs::write(&path, b"flow").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("flow.npy: is truncated"));
        let absent = read(&folder.path().join("absent.npy")).unwrap_err().to_string();
        assert!(absent.contains("cannot read") && absent.contains("absent.npy"), "{absent}");
        assert!(read(folder.path()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_bytes_make_the_parser_panic(
            named in any::<bool>(),
            content in prop::collection::vec(any::<u8>(), 0..96),
        ) {
            let start: &[u8] = if named { b"\x93NUMPY\x01\x00\x20\x00" } else { b"" };
            prop_assert!(parsed(&[start, content.as_slice()].concat()).is_err());
        }

        #[test]
        fn a_damaged_header_gives_an_error_or_as_many_numbers_as_there_are_bytes(
            position in 0usize..90,
            byte in any::<u8>(),
            fortran in any::<bool>(),
        ) {
            let mut content = file(&header("<f4", fortran, &[2, 3]), &[0; 24]);
            let length = content.len();
            content[position % length] = byte;
            if let Ok(array) = parsed(&content) {
                prop_assert!(array.values.len() <= 24);
                prop_assert_eq!(array.values.len(), array.shape.iter().product::<usize>());
            }
        }

        #[test]
        fn any_texts_as_header_give_an_array_or_a_position(
            pieces in prop::collection::vec(0usize..14, 0..24),
        ) {
            let words = [
                "{", "}", "'descr'", "'fortran_order'", "'shape'", ":", ",", "(", ")", "'<f4'",
                "True", "1", " ", "'",
            ];
            let text: String = pieces.iter().map(|&piece| words[piece]).collect();
            if let Err(problem) = parsed(&file(&text, &[0; 4])) {
                prop_assert!(problem.contains("byte"), "{}", problem);
            }
        }

        #[test]
        fn a_shape_is_held_against_the_bytes(
            shape in prop::collection::vec(0usize..5, 0..5),
            bytes in 0usize..200,
            fortran in any::<bool>(),
        ) {
            let content = file(&header("|u1", fortran, &shape), &vec![1; bytes]);
            let expected: usize = shape.iter().product();
            prop_assert_eq!(parsed(&content).is_ok(), expected == bytes);
        }
    }
}
