//! WAVE files: uncompressed recordings, mixed down to one channel.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use mie_core::prelude::*;

/// Format tags of the `fmt` chunk.
const INTEGER: u16 = 1;
const FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;

/// What follows the format tag in the identifier of an extensible format.
const IDENTIFIER_TAIL: [u8; 14] =
    [0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x80, 0x00, 0x00, 0xaa, 0x00, 0x38, 0x9b, 0x71];

/// Sample rates that occur; a resampler needs memory in proportion.
pub(crate) const RATES_HERTZ: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// A recording of one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Waveform {
    /// Samples a second.
    pub rate_hertz: u32,
    /// At least one sample; full scale is `[-1, 1]`, which float files may exceed.
    pub samples: Vec<f32>,
}

/// Reads a file with integers of 8, 16, 24 or 32 bits or floats of 32 or 64 bits.
///
/// Several channels are averaged. Chunks other than the format and the samples are skipped. Where
/// the size of the samples was not known when the header was written, as with pipes, they are the
/// rest of the file.
///
/// # Errors
/// When the file cannot be read, is truncated, holds no samples, a compressed format, or a value
/// that is not a finite number.
pub fn read(path: &Path) -> Result<Waveform> {
    let mut samples = Vec::new();
    let rate_hertz = read_into(path, &mut samples)?;
    Ok(Waveform { rate_hertz, samples })
}

/// Reads a file as [`read`] does, into memory that is there already; gives the samples a second.
///
/// # Errors
/// As [`read`].
pub fn read_into(path: &Path, samples: &mut Vec<f32>) -> Result<u32> {
    parse_into(&super::read_whole(path)?, samples).map_err(|problem| Error::data(path, problem))
}

/// Parses the content of a file.
///
/// # Errors
/// As [`read`].
pub fn parse(content: &[u8]) -> Result<Waveform, String> {
    let mut samples = Vec::new();
    let rate_hertz = parse_into(content, &mut samples)?;
    Ok(Waveform { rate_hertz, samples })
}

/// Looks at a file without decoding it: whether its header is readable and its samples are all
/// there.
///
/// # Errors
/// As [`read`], but for values that are no finite numbers.
pub fn inspect(path: &Path) -> Result<()> {
    const START_BYTES: u64 = 4096;
    let opened = File::open(path).map_err(Error::io("read", path))?;
    let length = opened.metadata().map_err(Error::io("read", path))?.len();
    super::ensure_readable(path, length)?;
    let mut start = Vec::new();
    opened.take(START_BYTES).read_to_end(&mut start).map_err(Error::io("read", path))?;
    let found = match locate(&start, length as usize) {
        // Other chunks stand before the samples.
        Ok(None) if length > START_BYTES => locate(&super::read_whole(path)?, length as usize),
        found => found,
    };
    let counted = found
        .and_then(|found| found.ok_or_else(|| NO_DATA.to_owned()))
        .and_then(|(format, samples)| format.ensure_frames(samples.len()));
    counted.map_err(|problem| Error::data(path, problem))
}

fn parse_into(content: &[u8], samples: &mut Vec<f32>) -> Result<u32, String> {
    let (format, body) = locate(content, content.len())?.ok_or(NO_DATA)?;
    format.ensure_frames(body.len())?;
    format.decode(&content[body], samples)?;
    Ok(format.rate_hertz)
}

/// Finds the format and the bytes of the samples in a file of `length` bytes that starts with
/// `start`; `None` where that ends before they begin.
fn locate(start: &[u8], length: usize) -> Result<Option<(Format, Range<usize>)>, String> {
    if start.is_empty() {
        return Err("is empty".to_owned());
    }
    if !start.starts_with(b"RIFF") || start.get(8..12) != Some(&b"WAVE"[..]) {
        return Err("is not a WAVE file: it does not start with RIFF … WAVE".to_owned());
    }
    let mut format = None;
    let mut at = 12;
    while let Some(head) = start.get(at..at + 8) {
        let (name, size) = (&head[..4], u32_at(head, 4) as usize);
        let left = length.saturating_sub(at + 8);
        let is_needed = name == b"fmt " || name == b"data";
        if name == b"data" && is_left_open(start, length, size) {
            return Ok(Some((format.ok_or(NO_FORMAT)?, at + 8..length)));
        }
        if is_needed && size > left {
            return Err(format!(
                "is truncated: its {} chunk should have {size} bytes, {left} are left",
                String::from_utf8_lossy(name).trim_end(),
            ));
        }
        if name == b"data" {
            return Ok(Some((format.ok_or(NO_FORMAT)?, at + 8..at + 8 + size)));
        }
        if name == b"fmt " {
            let Some(body) = start.get(at + 8..at + 8 + size) else { break };
            format = Some(Format::parse(body)?);
        }
        // Chunks start at even positions, whatever the size of the one before.
        at += 8 + size + size % 2;
    }
    Ok(None)
}

const NO_FORMAT: &str = "has no fmt chunk before its data chunk";
const NO_DATA: &str = "has no data chunk, or is truncated before it";

/// Whether a data chunk of this size was begun by a writer that did not come back to its header.
///
/// A size of 0 is meant where the size of the whole file is filled in: other chunks follow then.
fn is_left_open(start: &[u8], length: usize, size: usize) -> bool {
    let [unknown, whole] = [u32::MAX, u32_at(start, 4)].map(|size| size as usize);
    size == unknown || (size == 0 && (whole == unknown || 8 + whole < length))
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
}

#[derive(Debug, Clone, Copy)]
struct Format {
    rate_hertz: u32,
    channels: usize,
    /// Bytes of a frame, a number of each channel.
    block_bytes: usize,
    coding: Coding,
}

impl Format {
    fn parse(body: &[u8]) -> Result<Self, String> {
        if body.len() < 16 {
            return Err(format!(
                "has a fmt chunk of {} bytes, at least 16 belong there",
                body.len()
            ));
        }
        let mut tag = u16_at(body, 0);
        if tag == EXTENSIBLE {
            let identifier =
                body.get(24..40).ok_or("has an extensible fmt chunk under 40 bytes")?;
            if identifier[2..] != IDENTIFIER_TAIL {
                return Err("has an extensible format that is neither integer nor float".to_owned());
            }
            tag = u16_at(identifier, 0);
        }
        let channels = usize::from(u16_at(body, 2));
        let rate_hertz = u32_at(body, 4);
        let block_bytes = usize::from(u16_at(body, 12));
        let bits = u16_at(body, 14);
        let coding = match (tag, bits) {
            (INTEGER, 8) => Coding::U8,
            (INTEGER, 16) => Coding::I16,
            (INTEGER, 24) => Coding::I24,
            (INTEGER, 32) => Coding::I32,
            (FLOAT, 32) => Coding::F32,
            (FLOAT, 64) => Coding::F64,
            _ => {
                return Err(format!(
                    "has {bits} bits of format {tag}; readable are 8, 16, 24, 32 bits of format \
                     1 (integer) and 32, 64 bits of format 3 (float)"
                ));
            }
        };
        let width = usize::from(bits / 8);
        if channels == 0 || block_bytes != channels * width {
            let frame = format!("{block_bytes} bytes a frame");
            return Err(format!("has {channels} channels of {bits} bits in {frame}"));
        }
        if !RATES_HERTZ.contains(&rate_hertz) {
            return Err(format!("has {rate_hertz} Hz, outside {RATES_HERTZ:?}"));
        }
        Ok(Self { rate_hertz, channels, block_bytes, coding })
    }

    /// Checks that so many bytes are whole frames, and some.
    fn ensure_frames(&self, bytes: usize) -> Result<(), String> {
        let block = self.block_bytes;
        if bytes == 0 {
            return Err("holds no samples".to_owned());
        }
        if !bytes.is_multiple_of(block) {
            return Err(format!("has {bytes} bytes of samples, {block} to a frame"));
        }
        Ok(())
    }

    /// Turns numbers into full scale `[-1, 1]`.
    fn decode(&self, data: &[u8], samples: &mut Vec<f32>) -> Result<(), String> {
        match self.coding {
            Coding::U8 => self.mix(data, samples, |[byte]| (f32::from(byte) - 128.0) / 128.0),
            Coding::I16 => {
                self.mix(data, samples, |bytes| f32::from(i16::from_le_bytes(bytes)) / 32_768.0);
            }
            // The three bytes become the upper ones of four, which keeps the sign.
            Coding::I24 => {
                self.mix(data, samples, |[a, b, c]| full_scale(i32::from_le_bytes([0, a, b, c])));
            }
            Coding::I32 => self.mix(data, samples, |bytes| full_scale(i32::from_le_bytes(bytes))),
            Coding::F32 => self.mix(data, samples, f32::from_le_bytes),
            Coding::F64 => self.mix(data, samples, |bytes| f64::from_le_bytes(bytes) as f32),
        }
        if !matches!(self.coding, Coding::F32 | Coding::F64) {
            return Ok(());
        }
        match samples.iter().position(|sample| !sample.is_finite()) {
            Some(frame) => {
                Err(format!("holds a value that is not a finite number, in frame {frame}"))
            }
            None => Ok(()),
        }
    }

    /// Averages the channels; a loop for each coding, since this is most of reading a file.
    fn mix<const WIDTH: usize>(
        &self,
        data: &[u8],
        samples: &mut Vec<f32>,
        decode: impl Fn([u8; WIDTH]) -> f32,
    ) {
        let (numbers, _) = data.as_chunks::<WIDTH>();
        samples.clear();
        if self.channels == 1 {
            samples.extend(numbers.iter().map(|&bytes| decode(bytes)));
        } else {
            samples.extend(numbers.chunks_exact(self.channels).map(|frame| {
                frame.iter().map(|&bytes| decode(bytes)).sum::<f32>() / self.channels as f32
            }));
        }
    }
}

fn full_scale(value: i32) -> f32 {
    value as f32 / 2_147_483_648.0
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Makes WAVE files for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use super::{FLOAT, INTEGER};

    /// A chunk with its head and, at an odd size, its padding.
    pub(crate) fn chunk(name: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut chunk = name.to_vec();
        chunk.extend((body.len() as u32).to_le_bytes());
        chunk.extend(body);
        chunk.resize(chunk.len().next_multiple_of(2), 0);
        chunk
    }

    /// The 16 bytes that every format chunk starts with.
    pub(crate) fn format(tag: u16, channels: u16, rate_hertz: u32, bits: u16) -> Vec<u8> {
        let block = channels * (bits / 8);
        let mut body = [tag.to_le_bytes(), channels.to_le_bytes()].concat();
        body.extend(rate_hertz.to_le_bytes());
        body.extend((rate_hertz * u32::from(block)).to_le_bytes());
        body.extend([block.to_le_bytes(), bits.to_le_bytes()].concat());
        body
    }

    /// A file of these chunks.
    pub(crate) fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        let body = [b"WAVE".to_vec(), chunks.concat()].concat();
        chunk(*b"RIFF", &body)
    }

    /// A file of one channel of 32-bit floats.
    pub(crate) fn floats(rate_hertz: u32, samples: &[f32]) -> Vec<u8> {
        let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let format = format(FLOAT, 1, rate_hertz, 32);
        file(&[chunk(*b"fmt ", &format), chunk(*b"data", &data)])
    }

    /// A file of integers, given as the bytes of the data chunk.
    pub(crate) fn integers(channels: u16, rate_hertz: u32, bits: u16, data: &[u8]) -> Vec<u8> {
        let format = format(INTEGER, channels, rate_hertz, bits);
        file(&[chunk(*b"fmt ", &format), chunk(*b"data", data)])
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "powers of two are exact")]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

    use super::fixture::{chunk, file, floats, format, integers};
    use super::*;
    use crate::formats::real_data;

    #[test]
    fn every_width_has_its_extremes_at_full_scale() {
        let samples = |content: &[u8]| parse(content).unwrap().samples;
        let eight = integers(1, 8_000, 8, &[0, 64, 128, 192]);
        assert_eq!(samples(&eight), [-1.0, -0.5, 0.0, 0.5]);
        let sixteen = integers(1, 8_000, 16, &[0x00, 0x80, 0x00, 0x40, 0xff, 0xff]);
        assert_eq!(samples(&sixteen), [-1.0, 0.5, -1.0 / 32_768.0]);
        let twenty_four = integers(1, 8_000, 24, &[0, 0, 0x80, 0, 0, 0x40, 0xff, 0xff, 0xff]);
        assert_eq!(samples(&twenty_four), [-1.0, 0.5, -1.0 / 8_388_608.0]);
        let thirty_two = integers(1, 8_000, 32, &[0, 0, 0, 0x80, 0, 0, 0, 0x40]);
        assert_eq!(samples(&thirty_two), [-1.0, 0.5]);
        assert_eq!(samples(&floats(8_000, &[-1.5, 0.25])), [-1.5, 0.25]);
        let double = [(-0.75f64).to_le_bytes(), 0.125f64.to_le_bytes()].concat();
        let double =
            file(&[chunk(*b"fmt ", &format(FLOAT, 1, 8_000, 64)), chunk(*b"data", &double)]);
        assert_eq!(samples(&double), [-0.75, 0.125]);
    }

    #[test]
    fn files_of_another_writer_read_as_it_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        for (channels, rate, bits) in
            [(1, 8_000, 8), (1, 11_025, 16), (2, 44_100, 16), (2, 48_000, 24), (3, 22_050, 32)]
        {
            let path = folder.path().join(format!("{channels}_{rate}_{bits}.wav"));
            let spec = hound::WavSpec {
                channels,
                sample_rate: rate,
                bits_per_sample: bits,
                sample_format: hound::SampleFormat::Int,
            };
            let largest = (1i64 << (bits - 1)) - 1;
            let mut writer = hound::WavWriter::create(&path, spec).unwrap();
            for step in 0..i64::from(channels) * 100 {
                writer.write_sample((step * 7_919 * largest / 1_000 % largest) as i32).unwrap();
            }
            writer.finalize().unwrap();
            let theirs: Vec<f64> = hound::WavReader::open(&path)
                .unwrap()
                .into_samples::<i32>()
                .map(|sample| f64::from(sample.unwrap()) / (largest + 1) as f64)
                .collect();
            let ours = read(&path).unwrap();
            assert_eq!((ours.rate_hertz, ours.samples.len()), (rate, 100));
            for (frame, sample) in theirs.chunks(usize::from(channels)).zip(&ours.samples) {
                let mean = frame.iter().sum::<f64>() / f64::from(channels);
                assert!((mean - f64::from(*sample)).abs() < 1e-6, "{bits} bits");
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_found_without_decoding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording.wav");
        let judge = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let [looked, read] = [inspect(&path), read(&path).map(|_| ())];
            let [looked, read] = [looked, read].map(|it| it.map_err(|error| error.to_string()));
            assert_eq!(looked, read);
            looked
        };
        let whole = integers(2, 8_000, 16, &vec![7; 40_000]);
        judge(&whole).unwrap();
        let error = judge(&whole[..30_000]).unwrap_err();
        assert!(
            error.contains("its data chunk should have 40000 bytes, 29956 are left"),
            "{error}"
        );
        for length in [0, 11, 20, 40, 44] {
            judge(&whole[..length]).unwrap_err();
        }
        // Samples behind what is looked at first.
        let format = chunk(*b"fmt ", &format(INTEGER, 1, 8_000, 16));
        let late =
            file(&[chunk(*b"LIST", &[0; 9_000]), format.clone(), chunk(*b"data", &[1; 100])]);
        judge(&late).unwrap();
        judge(&late[..late.len() - 1]).unwrap_err();
        judge(&integers(1, 8_000, 16, &[1; 3])).unwrap_err();
        // The format itself goes on behind it.
        let list = chunk(*b"LIST", &[0; 4096 - 12 - 8 - 8 - 10]);
        judge(&file(&[list, format, chunk(*b"data", &[1; 100])])).unwrap();
        // Sizes that the writer did not come back to.
        for size in [0, u32::MAX] {
            let mut open = integers(2, 8_000, 16, &vec![7; 40_000]);
            open[40..44].copy_from_slice(&size.to_le_bytes());
            open[4..8].copy_from_slice(&size.to_le_bytes());
            judge(&open).unwrap();
            judge(&open[..open.len() - 3]).unwrap_err();
        }
        // Values are not looked at.
        std::fs::write(&path, floats(8_000, &[0.0, f32::NAN])).unwrap();
        assert!(inspect(&path).is_ok() && read(&path).is_err());
        // Sparse: it takes no space on the disk.
        std::fs::write(&path, &whole).unwrap();
        File::options().append(true).open(&path).unwrap().set_len((1 << 30) + 1).unwrap();
        let large = inspect(&path).unwrap_err().to_string();
        assert_eq!(large, read(&path).unwrap_err().to_string());
        assert!(large.contains("has 1073741825 bytes, at most"), "{large}");
        assert!(inspect(&folder.path().join("absent.wav")).is_err());
    }

    #[test]
    fn channels_are_averaged() {
        let stereo = integers(2, 8_000, 16, &[0x00, 0x40, 0x00, 0xc0, 0x00, 0x40, 0x00, 0x20]);
        assert_eq!(parse(&stereo).unwrap().samples, [0.0, 0.375]);
    }

    #[test]
    fn other_chunks_are_skipped_with_the_padding_of_odd_ones() {
        let plain = integers(1, 8_000, 8, &[128, 192, 64]);
        let format = chunk(*b"fmt ", &format(INTEGER, 1, 8_000, 8));
        let data = chunk(*b"data", &[128, 192, 64]);
        let crowded = file(&[
            chunk(*b"JUNK", &[1; 7]),
            format,
            chunk(*b"LIST", b"INFOx"),
            chunk(*b"fact", &[3, 0, 0, 0]),
            data,
            chunk(*b"id3 ", &[9; 3]),
        ]);
        assert_eq!(parse(&crowded).unwrap(), parse(&plain).unwrap());
        // The last chunk of a file may lack its padding.
        assert_eq!(parse(&plain[..plain.len() - 1]).unwrap(), parse(&plain).unwrap());
    }

    #[test]
    fn an_extensible_format_is_read_by_its_identifier() {
        let extensible = |tag: u16, tail: [u8; 14]| {
            let mut body = format(EXTENSIBLE, 1, 8_000, 16);
            body.extend([22, 0, 16, 0, 4, 0, 0, 0]);
            body.extend(tag.to_le_bytes());
            body.extend(tail);
            file(&[chunk(*b"fmt ", &body), chunk(*b"data", &[0x00, 0x40])])
        };
        assert_eq!(parse(&extensible(INTEGER, IDENTIFIER_TAIL)).unwrap().samples, [0.5]);
        let problem = parse(&extensible(INTEGER, [1; 14])).unwrap_err();
        assert!(problem.contains("neither integer nor float"), "{problem}");
    }

    #[test]
    fn broken_files_are_refused_with_the_reason() {
        let whole = integers(1, 8_000, 16, &[0, 0, 1, 0, 2, 0]);
        let problem = |content: &[u8]| parse(content).unwrap_err();
        assert_eq!(problem(&[]), "is empty");
        assert!(problem(b"fLaC and more bytes").contains("is not a WAVE file"));
        assert!(problem(&whole[..11]).contains("is not a WAVE file"));
        assert_eq!(
            problem(&whole[..whole.len() - 2]),
            "is truncated: its data chunk should have 6 bytes, 4 are left"
        );
        assert!(problem(&whole[..20]).contains("its fmt chunk should have 16 bytes, 0 are left"));
        assert!(problem(&whole[..36]).contains("has no data chunk"));
        assert!(problem(&file(&[chunk(*b"data", &[0, 0])])).contains("has no fmt chunk before"));
        assert_eq!(problem(&integers(1, 8_000, 16, &[])), "holds no samples");
        assert!(problem(&integers(1, 8_000, 16, &[1, 2, 3])).contains("2 to a frame"));
        assert!(problem(&integers(0, 8_000, 16, &[1, 2])).contains("0 channels"));
        assert!(problem(&integers(1, 8_000, 12, &[1, 2])).contains("12 bits of format 1"));
        assert!(problem(&integers(1, 999, 8, &[1])).contains("999 Hz, outside 1000..=768000"));
        assert!(problem(&floats(8_000, &[0.0, f32::NAN])).contains("in frame 1"));
        let compressed = file(&[chunk(*b"fmt ", &format(85, 1, 8_000, 16))]);
        assert!(problem(&compressed).contains("16 bits of format 85"));
    }

    #[test]
    fn a_header_that_declares_four_gigabytes_is_truncated() {
        for (name, size) in [(*b"fmt ", u32::MAX), (*b"data", u32::MAX - 1)] {
            let mut content = integers(1, 8_000, 16, &[0, 0]);
            let at = content.windows(4).position(|window| *window == name).unwrap();
            content[at + 4..at + 8].copy_from_slice(&size.to_le_bytes());
            let problem = parse(&content).unwrap_err();
            assert!(problem.contains(&format!("should have {size} bytes")), "{problem}");
        }
        // A chunk of no interest that leads past the end leaves nothing to read.
        let mut content = file(&[chunk(*b"JUNK", &[0; 4])]);
        content[16..20].fill(0xff);
        assert!(parse(&content).unwrap_err().contains("has no data chunk"));
    }

    #[test]
    fn samples_of_unknown_size_are_the_rest_of_the_file() {
        let piped = |whole: u32, data: u32, samples: &[u8]| {
            // As ffmpeg writes to a pipe: a list of tags stands before the samples.
            let tags = chunk(*b"LIST", b"INFOISFT\x04\0\0\0Lavf");
            let format = chunk(*b"fmt ", &format(INTEGER, 1, 8_000, 16));
            let mut content = file(&[format, tags, chunk(*b"data", &[])]);
            content[4..8].copy_from_slice(&whole.to_le_bytes());
            let at = content.len() - 4;
            content[at..].copy_from_slice(&data.to_le_bytes());
            content.extend(samples);
            content
        };
        let two = [0x00, 0x40, 0x00, 0x80];
        for (whole, data) in [(u32::MAX, u32::MAX), (u32::MAX, 0), (0, 0), (36, 0)] {
            let read = parse(&piped(whole, data, &two)).unwrap();
            assert_eq!((read.rate_hertz, read.samples), (8_000, vec![0.5, -1.0]));
            assert_eq!(parse(&piped(whole, data, &[])).unwrap_err(), "holds no samples");
            let cut = parse(&piped(whole, data, &two[..3])).unwrap_err();
            assert!(cut.contains("3 bytes of samples, 2 to a frame"), "{cut}");
        }
        // What follows no samples in a file that is finished is no sound.
        let format = chunk(*b"fmt ", &format(INTEGER, 1, 8_000, 16));
        let silent = file(&[format, chunk(*b"data", &[]), chunk(*b"LIST", b"INFO")]);
        assert_eq!(parse(&silent).unwrap_err(), "holds no samples");
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("broken.wav");
        std::fs::write(&file, b"RIFF").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("broken.wav: is not a WAVE file"));
        std::fs::write(&file, integers(1, 8_000, 16, &[])).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("broken.wav: holds no samples"));
        let absent = read(&folder.path().join("absent.wav")).unwrap_err().to_string();
        assert!(absent.contains("cannot read") && absent.contains("absent.wav"), "{absent}");
    }

    #[test]
    fn real_recordings_read_as_another_reader_reads_them() {
        let Some(folder) = real_data::folder("avdigits") else { return };
        for name in ["0_george_0.wav", "7_theo_49.wav", "9_yweweler_12.wav"] {
            let path = folder.join("fsdd/recordings").join(name);
            let ours = read(&path).unwrap();
            let theirs: Vec<f32> = hound::WavReader::open(&path)
                .unwrap()
                .into_samples::<i16>()
                .map(|sample| f32::from(sample.unwrap()) / 32_768.0)
                .collect();
            assert_eq!((ours.rate_hertz, ours.samples), (8_000, theirs));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_bytes_make_the_parser_panic(content in prop::collection::vec(any::<u8>(), 0..128)) {
            prop_assert!(parse(&content).is_err());
        }

        #[test]
        fn a_damaged_file_gives_an_error_or_no_more_samples_than_bytes(
            position in 0usize..60,
            byte in any::<u8>(),
            length in 0usize..60,
        ) {
            let mut content = integers(2, 8_000, 16, &[7; 16]);
            if let Some(damaged) = content.get_mut(position) {
                *damaged = byte;
            }
            content.truncate(length);
            if let Ok(waveform) = parse(&content) {
                prop_assert!(waveform.samples.len() <= content.len());
            }
        }

        #[test]
        fn any_chunks_give_samples_that_can_be_used_or_a_reason(
            formats in prop::collection::vec(any::<(u16, u16, u32, u16, u16)>(), 1..3),
            usual in any::<bool>(),
            sizes in prop::collection::vec(any::<u32>(), 2),
            body in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut content = b"RIFF....WAVE".to_vec();
            for (tag, channels, rate, block, bits) in formats {
                // Headers that are nearly right go further than those that are all wrong.
                let (tag, rate, bits, block) = if usual {
                    let tag = [INTEGER, FLOAT, EXTENSIBLE][usize::from(tag % 3)];
                    let width = bits % 10;
                    (tag, 1_000 + rate % 767_001, 8 * width, channels % 4 * width)
                } else {
                    (tag, rate, bits, block)
                };
                let mut head = [tag, channels % 4].map(u16::to_le_bytes).concat();
                head.extend(rate.to_le_bytes());
                head.extend(sizes[0].to_le_bytes());
                head.extend([block, bits].map(u16::to_le_bytes).concat());
                content.extend(chunk(*b"fmt ", &head));
            }
            let mut data = chunk(*b"data", &body);
            if sizes[1].is_multiple_of(4) {
                data[4..8].copy_from_slice(&sizes[1].to_le_bytes());
            }
            content.extend(data);
            match parse(&content) {
                Ok(found) => {
                    prop_assert!((1..=body.len()).contains(&found.samples.len()));
                    prop_assert!(found.samples.iter().all(|sample| sample.is_finite()));
                    prop_assert!(RATES_HERTZ.contains(&found.rate_hertz));
                }
                Err(problem) => prop_assert!(problem.len() > 7),
            }
        }

        #[test]
        fn errors_about_random_bytes_name_the_file(
            content in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let file = tempfile::Builder::new().suffix(".wav").tempfile().unwrap();
            std::fs::write(file.path(), &content).unwrap();
            let error = read(file.path()).unwrap_err().to_string();
            prop_assert!(error.starts_with(&format!("{}: ", file.path().display())), "{}", error);
        }
    }
}
