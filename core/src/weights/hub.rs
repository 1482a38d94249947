//! Files of safetensors: a header of JSON that says where each tensor lies, then the tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata};
use serde_json::{Map, Value, json};

use super::{Described, Entry, Index, Numbers, Storage, WeightsFile, write_numbers};
use crate::data::name_of_its_own;
use crate::error::{Error, Result};

/// Most bytes that a header may have.
const LONGEST: u64 = 16 << 20;

/// Bytes before the header: its length.
const LENGTH: u64 = 8;

/// Finds the tensors of a file.
pub(super) fn read(mut file: &File, length: u64, key: Option<&str>) -> Result<Index, String> {
    if let Some(key) = key {
        return Err(format!(
            "a file of safetensors has no entries to choose from, and `key` is `{key}`: remove it"
        ));
    }
    let mut size = [0; LENGTH as usize];
    file.read_exact(&mut size).map_err(|error| format!("cannot be read: {error}"))?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST.min(length.saturating_sub(LENGTH)) {
        return Err(format!(
            "its header would have {size} bytes, expected up to {LONGEST} within the file"
        ));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(|error| format!("cannot be read: {error}"))?;
    // Checks that the tensors lie one behind the other and have the sizes that their shapes say.
    let header: Metadata = serde_json::from_slice(&header)
        .map_err(|error| format!("its header does not describe tensors: {error}"))?;
    let end = (header.data_len() as u64).checked_add(LENGTH + size);
    if end != Some(length) {
        return Err(format!(
            "it has {length} bytes, expected {} for its tensors: it is cut short or damaged",
            end.unwrap_or(u64::MAX)
        ));
    }
    let mut index = Index {
        format: "safetensors",
        storages: Vec::new(),
        tensors: BTreeMap::new(),
        others: Vec::new(),
    };
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { continue };
        let sizes = info.shape.iter().map(|size| i64::try_from(*size));
        let shape = sizes
            .collect::<Result<Vec<i64>, _>>()
            .map_err(|_| format!("tensor `{name}` has the shape {:?}", info.shape))?;
        let numbers = numbers(info.dtype);
        let storage = Storage {
            at: LENGTH + size + info.data_offsets.0 as u64,
            bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
            numbers,
            crc32: None,
            shared: false,
        };
        let strides = contiguous(&shape);
        let described = Described { shape, numbers };
        let place = index.storages.len();
        index.storages.push(storage);
        index.tensors.insert(name, Entry { described, storage: place, offset: 0, strides });
    }
    Ok(index)
}

fn numbers(dtype: Dtype) -> Numbers {
    match dtype {
        Dtype::F16 => Numbers::F16,
        Dtype::BF16 => Numbers::Bf16,
        Dtype::F32 => Numbers::F32,
        Dtype::F64 => Numbers::F64,
        Dtype::U8 => Numbers::U8,
        Dtype::I8 => Numbers::I8,
        Dtype::I16 => Numbers::I16,
        Dtype::I32 => Numbers::I32,
        Dtype::I64 => Numbers::I64,
        Dtype::BOOL => Numbers::Bool,
        _ => Numbers::Other,
    }
}

/// Strides of a tensor whose last dimension lies closest together.
fn contiguous(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for dimension in (1..shape.len()).rev() {
        strides[dimension - 1] = strides[dimension].saturating_mul(shape[dimension].max(1));
    }
    strides
}

/// Writes the fractions of `from` as f32.
pub(super) fn write(from: &mut WeightsFile, to: &Path) -> Result<usize> {
    let fractions = from.tensors().filter(|(_, described)| described.numbers.are_fractions());
    let mut header = Map::new();
    // What other readers of the format look for before they read on.
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let (mut names, mut at) = (Vec::new(), 0u64);
    for (name, described) in fractions {
        let end = at.saturating_add(described.count().saturating_mul(4));
        let entry = json!({ "dtype": "F32", "shape": described.shape, "data_offsets": [at, end] });
        header.insert(name.to_owned(), entry);
        names.push(name.to_owned());
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(to.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", name_of_its_own()));
    let temporary = to.with_file_name(name);
    let written = write_all(from, &names, &header, &temporary)
        .and_then(|()| std::fs::rename(&temporary, to).map_err(Error::io("write", to)));
    if written.is_err() {
        // The error at hand is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map(|()| names.len())
}

fn write_all(from: &mut WeightsFile, names: &[String], header: &str, to: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create_new(to).map_err(Error::io("create", to))?);
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io("write", to));
    put(&(header.len() as u64).to_le_bytes())?;
    put(header.as_bytes())?;
    for name in names {
        let tensor = from.read(name)?;
        write_numbers(&tensor, to, &mut out)?;
    }
    out.flush().map_err(Error::io("write", to))?;
    out.get_ref().sync_all().map_err(Error::io("write", to))
}
