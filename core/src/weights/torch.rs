//! Checkpoints of torch: archives, and the pickles followed by numbers that came before them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{LONGEST, Pickle, Value};
use super::{Described, Entry, Index, Storage};

/// Entries of a checkpoint that hold its tensors, where they are not at the top.
const NESTED: [&str; 3] = ["state_dict", "model", "model_state_dict"];

/// Most names that an error lists.
const SHOWN: usize = 10;

/// What the older files start with: the whole number 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Version of the older files.
const PROTOCOL: i64 = 1001;

/// Finds the tensors of an archive: `data.pkl` says what they are, `data/N` holds their numbers.
pub(super) fn archive(file: &File, length: u64, key: Option<&str>) -> Result<Index, String> {
    let broken = |error: zip::result::ZipError| format!("damaged or cut short: {error}");
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let folder = archive.file_names().find_map(|name| {
        let (folder, rest) = name.split_once('/')?;
        (rest == "data.pkl").then(|| folder.to_owned())
    });
    let Some(folder) = folder else {
        return Err("an archive without `data.pkl`: no checkpoint of torch".to_owned());
    };
    if archive.index_for_name(&format!("{folder}/byteorder")).is_some() {
        let order = content(&mut archive, &format!("{folder}/byteorder"), 16)?;
        if order.trim_ascii() != b"little" {
            return Err("its numbers have their highest byte first, and only those with the \
                        lowest byte first are read"
                .to_owned());
        }
    }
    let bytes = content(&mut archive, &format!("{folder}/data.pkl"), LONGEST)?;
    let pickle = Pickle::read(&bytes, 0).map_err(|problem| format!("data.pkl, {problem}"))?;
    let chosen = Chosen::of(&pickle, key)?;
    let mut storages = BTreeMap::new();
    for tensor in chosen.tensors.values() {
        let number = pickle.tensors[*tensor].storage;
        if storages.contains_key(&number) {
            continue;
        }
        let stored = &pickle.storages[number];
        let name = format!("{folder}/data/{}", stored.key);
        let Some(index) = archive.index_for_name(&name) else {
            return Err(format!("`{name}` is missing in it: it is damaged"));
        };
        let entry = archive.by_index_raw(index).map_err(broken)?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(format!(
                "`{name}` is compressed, which torch never does: unpack the archive and save the \
                 tensors again"
            ));
        }
        let expected = stored.count.checked_mul(stored.numbers.width());
        let bytes = entry.size();
        let at = entry.data_start().unwrap_or(u64::MAX);
        if expected != Some(bytes) || entry.compressed_size() != bytes {
            return Err(format!(
                "`{name}` has {bytes} bytes, expected {} numbers of {}: it is damaged",
                stored.count,
                stored.numbers.name()
            ));
        }
        if at.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(format!("`{name}` ends behind the end of the file: it is cut short"));
        }
        let crc32 = Some(entry.crc32());
        storages
            .insert(number, Storage { at, bytes, numbers: stored.numbers, crc32, shared: false });
    }
    Ok(chosen.index("checkpoint of torch", &pickle, storages))
}

/// Reads a small entry of an archive whole.
fn content(
    archive: &mut ZipArchive<BufReader<&File>>,
    name: &str,
    longest: usize,
) -> Result<Vec<u8>, String> {
    let broken = |error: &dyn std::fmt::Display| format!("`{name}` cannot be read: {error}");
    let entry = archive.by_name(name).map_err(|error| broken(&error))?;
    let mut bytes = Vec::new();
    entry.take(longest as u64 + 1).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    if bytes.len() > longest {
        return Err(format!("`{name}` has more than {longest} bytes"));
    }
    Ok(bytes)
}

/// Finds the tensors of an older file: pickles of a magic number, a version, the machine, the
/// tensors and the names of storages, then each storage with its length before it.
pub(super) fn legacy(file: &File, length: u64, key: Option<&str>) -> Result<Index, String> {
    let unread = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    file.take(LONGEST as u64).read_to_end(&mut bytes).map_err(unread)?;
    let next = |from: usize, what: &str| {
        Pickle::read(&bytes, from).map_err(|problem| {
            let cut = if bytes.len() < LONGEST { "" } else { " (of its start, which was read)" };
            format!("{what}, {problem}{cut}")
        })
    };
    let magic = next(0, "magic number")?;
    if magic.long(magic.root) != Some(MAGIC.as_slice()) {
        return Err("a pickle, and not one that `torch.save` wrote".to_owned());
    }
    let version = next(magic.end(), "version")?;
    if version.root != Value::Whole(PROTOCOL) {
        return Err(format!("another version than {PROTOCOL} of the files of torch before 1.6"));
    }
    let machine = next(version.end(), "description of the machine")?;
    if machine.get(machine.root, "little_endian") != Some(Value::Flag(true)) {
        return Err("its numbers have their highest byte first, and only those with the lowest \
                    byte first are read"
            .to_owned());
    }
    let pickle = next(machine.end(), "tensors")?;
    let names = next(pickle.end(), "names of storages")?;
    let keys = names.list(names.root).ok_or("the names of its storages are missing")?;
    let known: BTreeMap<&str, usize> =
        pickle.storages.iter().enumerate().map(|(number, s)| (s.key.as_str(), number)).collect();
    let mut storages = BTreeMap::new();
    let mut at = names.end() as u64;
    for name in keys {
        let name = names.text(*name).ok_or("a name of a storage that is no text")?;
        let number = *known.get(name).ok_or_else(|| format!("no tensor has storage `{name}`"))?;
        let stored = &pickle.storages[number];
        let mut count = [0; 8];
        let mut reader = file;
        let read = reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(&mut count));
        read.map_err(|_| format!("cut short before storage `{name}`"))?;
        let count = u64::from_le_bytes(count);
        let bytes = count.checked_mul(stored.numbers.width());
        let end = bytes.and_then(|bytes| (at + 8).checked_add(bytes));
        let (Some(bytes), Some(end)) = (bytes, end.filter(|end| *end <= length)) else {
            return Err(format!("cut short within storage `{name}` of {count} numbers"));
        };
        if count != stored.count {
            return Err(format!(
                "at byte {at}: storage `{name}` has {count} numbers, expected {}: it is damaged",
                stored.count
            ));
        }
        let storage =
            Storage { at: at + 8, bytes, numbers: stored.numbers, crc32: None, shared: false };
        storages.insert(number, storage);
        at = end;
    }
    let chosen = Chosen::of(&pickle, key)?;
    let has_storage = |tensor: &usize| storages.contains_key(&pickle.tensors[*tensor].storage);
    if !chosen.tensors.values().all(has_storage) {
        return Err("a tensor has a storage that is not in the file: it is damaged".to_owned());
    }
    Ok(chosen.index("checkpoint of torch before 1.6", &pickle, storages))
}

/// The tensors of a checkpoint that are meant, by name.
struct Chosen {
    /// Positions among the tensors of the pickle.
    tensors: BTreeMap<String, usize>,
    others: Vec<String>,
}

impl Chosen {
    fn of(pickle: &Pickle<'_>, key: Option<&str>) -> Result<Self, String> {
        let Some(top) = Self::within(pickle, pickle.root) else {
            return Err(
                "not a table of tensors but something else, such as a single tensor: save \
                        `model.state_dict()`"
                    .to_owned(),
            );
        };
        let nested = |name: &str| Self::within(pickle, pickle.get(pickle.root, name)?);
        if let Some(key) = key {
            return nested(key).filter(Self::has_tensors).ok_or_else(|| {
                format!("no tensors under the key `{key}`; it has {}", listed(&top.others))
            });
        }
        if top.has_tensors() {
            return Ok(top);
        }
        let found = NESTED.iter().find_map(|name| nested(name).filter(Self::has_tensors));
        found.ok_or_else(|| {
            format!(
                "no tensors at its top, nor under {NESTED:?}; it has {}: name one with `key`",
                listed(&top.others)
            )
        })
    }

    /// Lists what a table has, unless it is none.
    fn within(pickle: &Pickle<'_>, table: Value) -> Option<Self> {
        let (mut tensors, mut others) = (BTreeMap::new(), Vec::new());
        for (name, value) in pickle.table(table)? {
            let name = pickle.text(*name).unwrap_or("(no text)");
            if let Value::Tensor(tensor) = value {
                tensors.insert(name.to_owned(), *tensor);
            } else {
                others.push(name.to_owned());
            }
        }
        Some(Self { tensors, others })
    }

    fn has_tensors(&self) -> bool {
        !self.tensors.is_empty()
    }

    /// Puts together what is known; every storage that is needed must be there.
    fn index(
        self,
        format: &'static str,
        pickle: &Pickle<'_>,
        storages: BTreeMap<usize, Storage>,
    ) -> Index {
        let mut places = BTreeMap::new();
        let mut ordered = Vec::with_capacity(storages.len());
        for (number, storage) in storages {
            places.insert(number, ordered.len());
            ordered.push(storage);
        }
        let entry = |(name, tensor): (String, usize)| {
            let view = pickle.tensors.get(tensor)?;
            let storage = *places.get(&view.storage)?;
            let numbers = ordered.get(storage)?.numbers;
            let described = Described { shape: view.shape.clone(), numbers };
            let strides = view.strides.clone();
            Some((name, Entry { described, storage, offset: view.offset, strides }))
        };
        let tensors = self.tensors.into_iter().filter_map(entry).collect();
        Index { format, tensors, others: self.others, storages: ordered }
    }
}

fn listed(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "nothing else".to_owned(),
        count if count > SHOWN => format!("{} and {} more", quoted.join(", "), count - SHOWN),
        _ => quoted.join(", "),
    }
}
