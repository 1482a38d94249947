//! Scalars in the event files of `TensorBoard`.
//!
//! A file is a row of `TFRecord` frames, each around one protobuf `Event`:
//!
//! ```text
//! frame = length: u64 | masked crc32c of length: u32 | data | masked crc32c of data: u32
//! mask(crc) = rotate_right(crc, 15) + 0xa282ead8                       (all little-endian)
//!
//! Event      { double wall_time = 1; int64 step = 2; and one of
//!              string file_version = 3; Summary summary = 5; SessionLog session_log = 7 }
//! Summary    { repeated Value value = 1 }
//! Value      { string tag = 1; float simple_value = 2 }
//! SessionLog { SessionStatus status = 1 }                              (START = 1)
//! ```
//!
//! `TensorBoard` reads all files of a directory as one run, in the order of their names. Each opens
//! with a session start: on meeting a later one it drops what it has from that step on, which is
//! how a resumed run takes back the steps it repeats.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::files;

// Keys of the protobuf fields: field number * 8 + wire type.
const EVENT_WALL_TIME: u8 = 0x09;
const EVENT_STEP: u8 = 0x10;
const EVENT_FILE_VERSION: u8 = 0x1a;
const EVENT_SUMMARY: u8 = 0x2a;
const EVENT_SESSION_LOG: u8 = 0x3a;
const SUMMARY_VALUE: u8 = 0x0a;
const VALUE_TAG: u8 = 0x0a;
const VALUE_SIMPLE: u8 = 0x15;

/// The version `TensorBoard` expects in the first event of a file.
const FILE_VERSION: &[u8] = b"brain.Event:2";

/// A `SessionLog` whose status is START.
const SESSION_START: &[u8] = &[0x08, 0x01];

/// Appends scalars to one event file of `TensorBoard`.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Opens a new event file in `directory`.
    ///
    /// It is named `events.out.tfevents.<unix seconds>.<host>`, with a number behind when taken.
    /// Scalars of `first_step` and later that lie in the directory's other files no longer count:
    /// 0 for a new run, one more than the checkpoint's step for a resumed one. A directory that
    /// is missing is created.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn create(directory: &Path, first_step: u64) -> Result<Self> {
        files::create_directory(directory)?;
        let now = unix_seconds();
        let name = format!("events.out.tfevents.{:010}.{}", now as u64, files::host_name());
        let mut path = directory.join(&name);
        let mut starts_this_second = 0;
        let file = loop {
            match File::create_new(&path) {
                Ok(file) => break file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    starts_this_second += 1;
                    path = directory.join(format!("{name}.{starts_this_second}"));
                }
                Err(error) => return Err(Error::io("create", &path)(error)),
            }
        };
        let mut writer = Self { path, file };
        writer.append(&opening(now, first_step))?;
        Ok(writer)
    }

    /// Appends scalars of one step, each under its tag; a slash in tags makes groups.
    ///
    /// Values are kept in single precision, which is what `TensorBoard` has.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<()> {
        let event = scalar_event(unix_seconds(), step, values);
        self.append(&frame(&event))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("append to", &self.path))
    }
}

/// Holds one scalar read from an event file.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Name of the series.
    pub tag: String,
    /// Step it belongs to.
    pub step: u64,
    /// When it was written, in seconds since 1970-01-01 UTC.
    pub wall_time: f64,
    /// The value.
    pub value: f32,
}

/// Reads the scalars of one event file, in the order written.
///
/// Half a last frame, left by a killed process, is left out.
///
/// # Errors
/// [`Error::Record`] for a frame whose checksum or content is wrong; [`Error::Io`] when the file
/// cannot be read.
pub fn read_scalars(path: &Path) -> Result<Vec<Scalar>> {
    let bytes = files::read(path)?;
    let mut rest = bytes.as_slice();
    let mut scalars = Vec::new();
    loop {
        let offset = bytes.len() - rest.len();
        let wrong = |problem| Error::Record { path: path.to_owned(), offset, problem };
        let Some((length, length_crc, after)) = split_head(rest) else {
            return Ok(scalars);
        };
        if masked_crc(&length) != length_crc {
            return Err(wrong("the length does not match its checksum"));
        }
        let data = usize::try_from(u64::from_le_bytes(length))
            .ok()
            .and_then(|length| after.split_at_checked(length));
        let Some((data, after)) = data else {
            return Ok(scalars);
        };
        let Some((crc, after)) = after.split_first_chunk() else {
            return Ok(scalars);
        };
        if masked_crc(data) != u32::from_le_bytes(*crc) {
            return Err(wrong("the data do not match their checksum"));
        }
        scalars.extend(decode(data).ok_or_else(|| wrong("expected a protobuf `Event`"))?);
        rest = after;
    }
}

fn unix_seconds() -> f64 {
    // A clock before 1970 is wrong anyway and no reason to stop a run.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Frames the two events every file starts with.
fn opening(wall_time: f64, first_step: u64) -> Vec<u8> {
    let version = event(wall_time, 0, EVENT_FILE_VERSION, FILE_VERSION);
    let start = event(wall_time, first_step, EVENT_SESSION_LOG, SESSION_START);
    [frame(&version), frame(&start)].concat()
}

fn scalar_event<'a>(
    wall_time: f64,
    step: u64,
    values: impl IntoIterator<Item = (&'a str, f64)>,
) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in values {
        let mut value = Vec::new();
        push_bytes(&mut value, VALUE_TAG, tag.as_bytes());
        value.push(VALUE_SIMPLE);
        value.extend((number as f32).to_le_bytes());
        push_bytes(&mut summary, SUMMARY_VALUE, &value);
    }
    event(wall_time, step, EVENT_SUMMARY, &summary)
}

/// Encodes an `Event` around the one field that says what it tells.
fn event(wall_time: f64, step: u64, key: u8, content: &[u8]) -> Vec<u8> {
    let mut event = vec![EVENT_WALL_TIME];
    event.extend(wall_time.to_le_bytes());
    // Protobuf leaves out a number that is zero.
    if step > 0 {
        event.push(EVENT_STEP);
        push_varint(&mut event, step);
    }
    push_bytes(&mut event, key, content);
    event
}

fn push_bytes(message: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    message.push(key);
    push_varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn push_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let length_crc = masked_crc(&length).to_le_bytes();
    let data_crc = masked_crc(data).to_le_bytes();
    let parts: [&[u8]; 4] = [&length, &length_crc, data, &data_crc];
    parts.concat()
}

/// Computes a checksum, masked because it is stored beside what it covers.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Splits the length and its checksum off a frame.
fn split_head(bytes: &[u8]) -> Option<([u8; 8], u32, &[u8])> {
    let (length, bytes) = bytes.split_first_chunk()?;
    let (crc, bytes) = bytes.split_first_chunk()?;
    Some((*length, u32::from_le_bytes(*crc), bytes))
}

/// Decodes the scalars of an `Event`, none when it tells something else.
fn decode(event: &[u8]) -> Option<Vec<Scalar>> {
    let (mut wall_time, mut step) = (0.0, 0);
    let mut summary: &[u8] = &[];
    for field in fields(event)? {
        match field {
            (EVENT_WALL_TIME, Field::Eight(bytes)) => wall_time = f64::from_le_bytes(bytes),
            (EVENT_STEP, Field::Varint(value)) => step = value,
            (EVENT_SUMMARY, Field::Bytes(bytes)) => summary = bytes,
            _ => {}
        }
    }
    let mut scalars = Vec::new();
    for field in fields(summary)? {
        let (SUMMARY_VALUE, Field::Bytes(value)) = field else {
            continue;
        };
        let (mut tag, mut number) = (String::new(), None);
        for field in fields(value)? {
            match field {
                (VALUE_TAG, Field::Bytes(bytes)) => tag = String::from_utf8(bytes.to_vec()).ok()?,
                (VALUE_SIMPLE, Field::Four(bytes)) => number = Some(f32::from_le_bytes(bytes)),
                _ => {}
            }
        }
        scalars.extend(number.map(|value| Scalar { tag, step, wall_time, value }));
    }
    Some(scalars)
}

/// Holds the content of a protobuf field, by wire type.
enum Field<'a> {
    Varint(u64),
    Eight([u8; 8]),
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

/// Splits a protobuf message into its fields, each with its key.
fn fields(mut message: &[u8]) -> Option<Vec<(u8, Field<'_>)>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        let field = match key & 7 {
            0 => Field::Varint(take_varint(&mut message)?),
            1 => Field::Eight(take_array(&mut message)?),
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Field::Bytes(bytes)
            }
            5 => Field::Four(take_array(&mut message)?),
            _ => return None,
        };
        // A key beyond one byte is of a field that is not looked at; 0 is the key of none.
        fields.push((u8::try_from(key).unwrap_or(0), field));
    }
    Some(fields)
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take_array(message)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take_array<const LENGTH: usize>(message: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (taken, rest) = message.split_first_chunk()?;
    *message = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;
    use std::process::Command;

    use super::*;

    const WALL_TIME: f64 = 1_700_000_000.5;

    fn hex(bytes: &[u8]) -> String {
        let mut text = String::new();
        for byte in bytes {
            write!(text, "{byte:02x}").unwrap();
        }
        text
    }

    /// Lists the event files of a directory in `TensorBoard`'s order.
    fn event_files(directory: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// Reads every event file of a directory as (tag, step, value).
    fn scalars(directory: &Path) -> Vec<(String, u64, f32)> {
        event_files(directory)
            .iter()
            .flat_map(|path| read_scalars(path).unwrap())
            .map(|scalar| (scalar.tag, scalar.step, scalar.value))
            .collect()
    }

    // The expected bytes are those of the official packages (tensorboard 2.21.0, protobuf 7.36.2):
    // `python3 tests/reference/tensorboard_scalars.py golden` prints them.

    #[test]
    fn a_file_opens_with_the_bytes_of_the_official_encoder() {
        assert_eq!(
            hex(&opening(WALL_TIME, 300)),
            "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110\
             100000000000000095fbfe180900002040fc54d94110ac023a020801b94512a3"
        );
        assert_eq!(
            hex(&opening(WALL_TIME, 0)),
            "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110\
             0d000000000000003c37b8340900002040fc54d9413a020801a870fdd5"
        );
    }

    #[test]
    fn scalars_are_the_bytes_of_the_official_encoder() {
        let event = scalar_event(WALL_TIME, 300, [("train/loss", 0.5), ("lr", 0.0)]);
        assert_eq!(
            hex(&frame(&event)),
            "2c00000000000000f4aecc450900002040fc54d94110ac022a1e0a110a0a747261696e2f6c6f7373\
             150000003f0a090a026c72150000000061b1a87b"
        );
    }

    #[test]
    fn written_scalars_are_read_back_in_single_precision() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(directory.path(), 0).unwrap();
        writer.scalars(0, [("loss", 0.1)]).unwrap();
        writer.scalars(u64::from(u32::MAX), [("loss", f64::INFINITY), ("größe", -2.0)]).unwrap();
        let last = u64::from(u32::MAX);
        assert_eq!(
            scalars(directory.path()),
            [
                ("loss".to_owned(), 0, 0.1),
                ("loss".to_owned(), last, f32::INFINITY),
                ("größe".to_owned(), last, -2.0),
            ]
        );
        let name = event_files(directory.path())[0].file_name().unwrap().to_owned();
        let name = name.to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents."), "{name}");
        assert!(name.ends_with(&files::host_name()), "{name}");
    }

    #[test]
    fn starts_within_one_second_get_files_of_their_own_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for start in 0..3 {
            let mut writer = EventWriter::create(directory.path(), start).unwrap();
            writer.scalars(start, [("start", 0.0)]).unwrap();
        }
        let steps: Vec<_> =
            scalars(directory.path()).into_iter().map(|(_, step, _)| step).collect();
        assert_eq!(steps, [0, 1, 2]);
        assert_eq!(event_files(directory.path()).len(), 3);
    }

    #[test]
    fn half_a_frame_at_the_end_is_left_out_wherever_it_breaks_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let whole = frame(&scalar_event(WALL_TIME, 1, [("loss", 0.5)]));
        let expected = Scalar { tag: "loss".to_owned(), step: 1, wall_time: WALL_TIME, value: 0.5 };
        for kept in 0..whole.len() {
            fs::write(&path, [whole.as_slice(), &whole[..kept]].concat()).unwrap();
            assert_eq!(
                read_scalars(&path).unwrap(),
                std::slice::from_ref(&expected),
                "{kept} bytes kept"
            );
        }
    }

    #[test]
    fn a_changed_byte_is_an_error_that_names_the_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let whole = frame(&scalar_event(WALL_TIME, 1, [("loss", 0.5)]));
        for changed in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[changed] ^= 1;
            fs::write(&path, [whole.as_slice(), damaged.as_slice()].concat()).unwrap();
            let error = read_scalars(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("record at byte {}: ", whole.len())), "{error}");
        }
    }

    #[test]
    #[ignore = "needs python3 with the tensorboard package; MIE_PYTHON names another interpreter"]
    fn tensorboard_itself_reads_the_scalars_and_drops_what_a_resumed_run_repeats() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(directory.path(), 0).unwrap();
        for step in 1..=4 {
            writer.scalars(step, [("loss", 0.5 / step as f64)]).unwrap();
        }
        let mut writer = EventWriter::create(directory.path(), 3).unwrap();
        writer.scalars(3, [("loss", 8.0)]).unwrap();

        let python = std::env::var("MIE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let script =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/tensorboard_scalars.py");
        let output =
            Command::new(python).arg(script).arg("read").arg(directory.path()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(read, serde_json::json!({ "loss": [[1, 0.5], [2, 0.25], [3, 8.0]] }));
    }
}
