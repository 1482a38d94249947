//! Checkpoints: one file each, written whole or not at all, checked when read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mie_record::{RunDir, atomic_write};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::family::State;
use crate::model::Model;
use crate::parameters::Parameters;

/// Checkpoint to resume from.
pub(super) fn last_path(run: &RunDir) -> PathBuf {
    run.checkpoints_path().join("last.safetensors")
}

/// The one before it, should the last be damaged.
pub(super) fn previous_path(run: &RunDir) -> PathBuf {
    run.checkpoints_path().join("previous.safetensors")
}

/// The selected weights of a finished run.
pub(super) fn selected_path(run: &RunDir) -> PathBuf {
    run.checkpoints_path().join("best.safetensors")
}

/// Weights that had the best score when the run had made `step` steps.
///
/// Named by the step, so that a run that goes on from an earlier checkpoint finds the weights
/// which were best then.
pub(super) fn best_path(run: &RunDir, step: u64) -> PathBuf {
    run.checkpoints_path().join(format!("best-{step}.safetensors"))
}

/// The selected weights, or those that are best so far.
///
/// # Errors
/// When the folder cannot be listed.
pub(super) fn latest_best(run: &RunDir) -> Result<PathBuf> {
    let selected = selected_path(run);
    if selected.exists() {
        return Ok(selected);
    }
    let folder = run.checkpoints_path();
    let mut latest = None;
    for entry in std::fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
        let path = entry.map_err(Error::io("list", &folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let step = name.strip_prefix("best-").and_then(|rest| rest.strip_suffix(".safetensors"));
        if let Some(step) = step.and_then(|step| step.parse::<u64>().ok()) {
            latest = latest.max(Some((step, path)));
        }
    }
    Ok(latest.map_or(selected, |(_, path)| path))
}

/// Removes files of `folder` that start with `prefix` and are not among `kept`.
///
/// # Errors
/// When the folder cannot be listed or a file not removed.
pub(super) fn keep_only(folder: &Path, prefix: &str, kept: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(prefix) && !kept.contains(&path) {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Where a modifier's refresh in a phase is kept.
pub(super) fn refresh_path(run: &RunDir, name: &str) -> PathBuf {
    run.refresh_path().join(format!("{name}.safetensors"))
}

/// Named states in one file.
#[derive(Default)]
pub(super) struct Bundle {
    /// State by part: `weights`, `optimizer`, `gradient_modifiers.0` …
    pub(super) parts: BTreeMap<String, State>,
}

impl Bundle {
    /// Adds a part.
    pub(super) fn put(&mut self, part: impl Into<String>, state: State) {
        self.parts.insert(part.into(), state);
    }

    /// Takes a part out; empty when it was saved without content.
    pub(super) fn take(&mut self, part: &str) -> State {
        self.parts.remove(part).unwrap_or_default()
    }

    /// Writes the bundle to `file`, replacing it whole. Equal bundles give equal bytes.
    ///
    /// # Errors
    /// When the disk is full or a tensor has a kind that checkpoints do not hold.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let mut tensors: Vec<(String, Stored)> = Vec::new();
        let mut values = serde_json::Map::new();
        let mut checksum = 0;
        for (part, state) in &self.parts {
            for (name, tensor) in &state.tensors {
                let name = format!("{part}/{name}");
                let stored = Stored::of(tensor, &name)?;
                checksum = crc32c::crc32c_append(checksum, name.as_bytes());
                checksum = crc32c::crc32c_append(checksum, &stored.bytes);
                tensors.push((name, stored));
            }
            values.insert(part.clone(), Value::Object(state.values.clone()));
        }
        let mut values = Value::Object(values);
        // Otherwise they come in the order in which they were put.
        values.sort_all_objects();
        let values = values.to_string();
        checksum = crc32c::crc32c_append(checksum, values.as_bytes());
        let metadata = json!({ "mie": "1", "values": values, "crc32c": format!("{checksum:08x}") });
        atomic_write(file, &laid_out(tensors, metadata))?;
        Ok(())
    }

    /// Reads a bundle back, onto the CPU.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file is truncated, damaged or of another kind.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
        let damaged = |problem: String| Error::Checkpoint { file: file.to_owned(), problem };
        let (_, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| damaged(format!("damaged or cut short: {e}")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field = |name: &str| {
            metadata.get(name).ok_or_else(|| damaged(format!("no checkpoint of mie: no `{name}`")))
        };
        if field("mie")? != "1" {
            return Err(damaged("written by a newer mie".to_owned()));
        }
        let values_text = field("values")?;
        let content = SafeTensors::deserialize(&bytes)
            .map_err(|e| damaged(format!("damaged or cut short: {e}")))?;
        let mut names = content.names();
        names.sort_unstable();
        let mut bundle = Self::default();
        let mut checksum = 0;
        // Sorted by whole name, parts and their tensors come in the order of writing only if
        // parts are visited as a map does: collect first.
        let mut ordered: BTreeMap<(String, String), TensorView<'_>> = BTreeMap::new();
        for name in names {
            let view =
                content.tensor(name).map_err(|e| damaged(format!("tensor `{name}`: {e}")))?;
            let (part, rest) = name
                .split_once('/')
                .ok_or_else(|| damaged(format!("tensor `{name}` belongs to no part")))?;
            ordered.insert((part.to_owned(), rest.to_owned()), view);
        }
        for ((part, name), view) in ordered {
            checksum = crc32c::crc32c_append(checksum, format!("{part}/{name}").as_bytes());
            checksum = crc32c::crc32c_append(checksum, view.data());
            let tensor = restored(&view).ok_or_else(|| {
                damaged(format!("tensor `{part}/{name}` has kind {:?}", view.dtype()))
            })??;
            bundle.parts.entry(part).or_default().tensors.insert(name, tensor);
        }
        checksum = crc32c::crc32c_append(checksum, values_text.as_bytes());
        let expected = field("crc32c")?;
        if *expected != format!("{checksum:08x}") {
            return Err(damaged(format!("damaged: checksum {checksum:08x}, expected {expected}")));
        }
        let values: serde_json::Map<String, Value> = serde_json::from_str(values_text)
            .map_err(|e| damaged(format!("its values are not JSON: {e}")))?;
        for (part, values) in values {
            if let Value::Object(values) = values {
                bundle.parts.entry(part).or_default().values = values;
            }
        }
        Ok(bundle)
    }
}

/// Lays out a file of safetensors: length of the header, header in JSON, tensors.
///
/// What the crate writes has its metadata in an order of chance.
fn laid_out(mut tensors: Vec<(String, Stored)>, metadata: Value) -> Vec<u8> {
    // The widest numbers first, so that all lie aligned.
    tensors.sort_by(|(name, one), (other, two)| {
        two.dtype.cmp(&one.dtype).then_with(|| name.cmp(other))
    });
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), metadata);
    let mut end = 0;
    for (name, Stored { dtype, shape, bytes }) in &tensors {
        let start = end;
        end += bytes.len();
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = Vec::with_capacity(8 + header.len() + end);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    for (_, stored) in &tensors {
        file.extend_from_slice(&stored.bytes);
    }
    file
}

/// Loads a model saved as best into one just built, or trained further.
///
/// # Errors
/// As [`Bundle::read`], with what to do when there is none yet.
pub(super) fn load_model(
    file: &Path,
    model: &mut Model,
    parameters: &Parameters,
    device: Device,
) -> Result<()> {
    if !file.exists() {
        return Err(Error::Checkpoint {
            file: file.to_owned(),
            problem: "there are no selected weights yet: the run has not finished an epoch"
                .to_owned(),
        });
    }
    let mut bundle = Bundle::read(file)?;
    parameters.import(&bundle.take("weights").tensors)?;
    model.fusion.load_state(on_device(bundle.take("fusion"), device)?)
}

/// Moves a state's tensors to a device.
pub(super) fn on_device(mut state: State, device: Device) -> Result<State> {
    for tensor in state.tensors.values_mut() {
        *tensor = tensor.f_to_device(device)?;
    }
    Ok(state)
}

struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn of(tensor: &Tensor, name: &str) -> Result<Self> {
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let (dtype, width) = match tensor.kind() {
            Kind::Float => (Dtype::F32, 4),
            Kind::Double => (Dtype::F64, 8),
            Kind::Int64 => (Dtype::I64, 8),
            Kind::Bool => (Dtype::BOOL, 1),
            kind => {
                return Err(Error::Bug(format!(
                    "tensor `{name}` has kind {kind:?}, which checkpoints do not hold"
                )));
            }
        };
        let count = tensor.numel();
        let mut bytes = vec![0; count * width];
        tensor.f_copy_data_u8(&mut bytes, count)?;
        Ok(Self { dtype, shape: tensor.size().iter().map(|size| *size as usize).collect(), bytes })
    }
}

fn restored(view: &TensorView<'_>) -> Option<Result<Tensor>> {
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    };
    let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
    Some(Tensor::f_from_data_size(view.data(), &shape, kind).map_err(Error::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        let mut bundle = Bundle::default();
        let mut state = State::default();
        for (name, kind) in [("a", Kind::Float), ("b.c", Kind::Double)] {
            state.put(name, &Tensor::randn([3, 2], (kind, Device::Cpu))).unwrap();
        }
        state.put("count", &Tensor::from_slice(&[1i64, -2])).unwrap();
        state.put("nothing", &Tensor::zeros([0], tch::kind::FLOAT_CPU)).unwrap();
        state.put("scalar", &Tensor::from(0.25f32)).unwrap();
        state.values.insert("epoch".to_owned(), Value::from(0.1 + 0.2));
        bundle.put("optimizer", state);
        // A part whose name sorts between another part and its slash.
        let mut other = State::default();
        other.put("x", &Tensor::from(1.0f32)).unwrap();
        bundle.put("optimizer.0", other);
        bundle.put("empty", State::default());
        bundle
    }

    #[test]
    fn a_bundle_is_read_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        let written = bundle();
        written.write(&file).unwrap();
        let mut read = Bundle::read(&file).unwrap();
        assert_eq!(read.take("optimizer.0").tensors["x"], Tensor::from(1.0f32));
        let (read, written) = (read.take("optimizer"), &written.parts["optimizer"]);
        assert_eq!(read.values, written.values);
        assert_eq!(read.tensors.len(), 5);
        for (name, tensor) in &written.tensors {
            assert_eq!(read.tensors[name].size(), tensor.size());
            assert_eq!(&read.tensors[name], tensor, "{name}");
        }
    }

    #[test]
    fn equal_states_give_equal_bytes_in_whatever_order_they_were_put() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        let written = |order: [u8; 3]| {
            let mut state = State::default();
            for number in order {
                state.put(format!("t{number}"), &Tensor::from(f32::from(number))).unwrap();
                state.values.insert(format!("v{number}"), json!({ "b": number, "a": [number] }));
            }
            state.put("wide", &Tensor::from(0.5f64)).unwrap();
            let mut bundle = Bundle::default();
            bundle.put("refreshed", state);
            bundle.write(&file).unwrap();
            std::fs::read(&file).unwrap()
        };
        let first = written([0, 1, 2]);
        for order in [[0, 1, 2], [0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(written(order), first, "{order:?}");
        }
        // Other readers take it as well, and all tensors lie aligned.
        let read = SafeTensors::deserialize(&first).unwrap();
        assert_eq!(read.tensor("refreshed/t2").unwrap().data(), 2f32.to_le_bytes());
        assert_eq!(read.tensor("refreshed/wide").unwrap().data(), 0.5f64.to_le_bytes());
        let start = usize::from(first[0]) + 256 * usize::from(first[1]);
        assert!(start.is_multiple_of(8));
        assert_eq!(first[8 + start..16 + start], 0.5f64.to_le_bytes());
    }

    #[test]
    fn a_file_that_is_cut_short_or_has_a_flipped_bit_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        bundle().write(&file).unwrap();
        let whole = std::fs::read(&file).unwrap();
        for cut in [0, 7, 20, whole.len() - 1] {
            std::fs::write(&file, &whole[..cut]).unwrap();
            let error = Bundle::read(&file).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("a.safetensors"), "{error}");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&file, &flipped).unwrap();
        let error = Bundle::read(&file).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("damaged: checksum"), "{error}");
    }
}
