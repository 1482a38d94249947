//! Published weights: files of them, and the encoders that start from them.
//!
//! Three kinds of files are read: safetensors as on the hub of Hugging Face, checkpoints of torch
//! (archives, since version 1.6) and the older ones that are pickles followed by numbers. Nothing
//! of a pickle is executed. A file is read tensor by tensor, as they are asked for.

mod hub;
mod matching;
mod pickle;
mod torch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mie_record::WeightsRecord;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor, no_grad_guard};

use crate::config::{Experiment, FirstLayer, WeightsSection};
use crate::error::{Error, Result};
use crate::family::Published;
use crate::parameters::{Group, GroupId, Parameters};
use matching::Matched;

/// What the tensors of a file are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Single precision: what everything else becomes.
    F32,
    /// Double precision.
    F64,
    /// Whole numbers of one byte, from 0.
    U8,
    /// Whole numbers of one byte.
    I8,
    /// Whole numbers of two bytes.
    I16,
    /// Whole numbers of four bytes.
    I32,
    /// Whole numbers of eight bytes.
    I64,
    /// Truth values of one byte.
    Bool,
    /// Something that is not read, such as complex numbers.
    Other,
}

impl Numbers {
    /// Name in tables: `f32`, `bf16` …
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::Bool => "bool",
            Self::Other => "other",
        }
    }

    /// Whether they are fractions: only these are weights.
    pub const fn are_fractions(self) -> bool {
        self.fractions().is_some()
    }

    /// What libtorch calls fractions.
    const fn fractions(self) -> Option<Kind> {
        match self {
            Self::F16 => Some(Kind::Half),
            Self::Bf16 => Some(Kind::BFloat16),
            Self::F32 => Some(Kind::Float),
            Self::F64 => Some(Kind::Double),
            _ => None,
        }
    }

    /// Bytes of one of them; 0 where that is not known.
    const fn width(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
            Self::Other => 0,
        }
    }
}

/// What is known of a tensor before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its sizes.
    pub shape: Vec<i64>,
    /// What it is made of in the file.
    pub numbers: Numbers,
}

impl Described {
    /// How many numbers it has.
    pub fn count(&self) -> u64 {
        // Sizes of a tensor that lies within its file: the product cannot overflow.
        self.shape.iter().fold(1, |product: u64, size| product.saturating_mul(*size as u64))
    }
}

/// Numbers within a file, of which tensors are views.
struct Storage {
    at: u64,
    bytes: u64,
    numbers: Numbers,
    /// Checksum of its bytes, where the file has one.
    crc32: Option<u32>,
    /// Whether several tensors are views of it: it is kept once it is read.
    shared: bool,
}

/// A tensor within a file.
struct Entry {
    described: Described,
    storage: usize,
    offset: i64,
    strides: Vec<i64>,
}

/// What lies where in a file.
struct Index {
    format: &'static str,
    storages: Vec<Storage>,
    tensors: BTreeMap<String, Entry>,
    /// Names beside the tensors of things that are none.
    others: Vec<String>,
}

/// A file of weights, open to be read tensor by tensor.
pub struct WeightsFile {
    path: PathBuf,
    file: File,
    index: Index,
    kept: BTreeMap<usize, Tensor>,
}

impl WeightsFile {
    /// Opens a file and finds its tensors; those of its entry `key` where one is named.
    ///
    /// Without a key the tensors are those at the top of a checkpoint, or else those of its entry
    /// `state_dict`, `model` or `model_state_dict`.
    ///
    /// # Errors
    /// [`Error::Data`] when it is none of the kinds that are read, damaged, or names more than
    /// tensors.
    pub fn open(path: &Path, key: Option<&str>) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("look at", path))?.len();
        let mut start = Vec::new();
        (&file).take(16).read_to_end(&mut start).map_err(Error::io("read", path))?;
        file.rewind().map_err(Error::io("read", path))?;
        let index = if start.starts_with(b"PK\x03\x04") {
            torch::archive(&file, length, key)
        } else if start.first() == Some(&0x80) && matches!(start.get(2), Some(0x8a | 0x95)) {
            torch::legacy(&file, length, key)
        } else if start.get(8) == Some(&b'{') {
            hub::read(&file, length, key)
        } else {
            let hint = match start.first() {
                Some(0x80) => "it is a pickle, and not one that `torch.save` wrote",
                _ => "its first bytes are those of another kind of file",
            };
            Err(format!("neither safetensors nor a checkpoint of torch: {hint}"))
        };
        let mut index = index.map_err(|problem| Error::data(path, problem))?;
        let mut views = vec![0usize; index.storages.len()];
        for entry in index.tensors.values() {
            views[entry.storage] += 1;
        }
        for (storage, views) in index.storages.iter_mut().zip(views) {
            storage.shared = views > 1;
        }
        Ok(Self { path: path.to_owned(), file, index, kept: BTreeMap::new() })
    }

    /// The kind of file, in words.
    pub fn format(&self) -> &'static str {
        self.index.format
    }

    /// Names of its tensors in alphabetical order, with what is known of them.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Described)> {
        self.index.tensors.iter().map(|(name, entry)| (name.as_str(), &entry.described))
    }

    /// Names beside the tensors of things that are none.
    pub fn others(&self) -> &[String] {
        &self.index.others
    }

    /// Reads a tensor of fractions, as f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::Data`] when there is none of this name, it holds something else than fractions, or
    /// its bytes are damaged.
    pub fn read(&mut self, name: &str) -> Result<Tensor> {
        let Self { path, file, index, kept } = self;
        let entry = index.tensors.get(name);
        let entry = entry.ok_or_else(|| Error::data(&*path, format!("no tensor `{name}`")))?;
        let storage = &index.storages[entry.storage];
        let Some(kind) = storage.numbers.fractions() else {
            let numbers = storage.numbers.name();
            let problem = format!("tensor `{name}` is made of {numbers}, expected fractions");
            return Err(Error::data(&*path, problem));
        };
        let flat = match kept.get(&entry.storage) {
            Some(flat) => flat.shallow_clone(),
            None => storage.read(file, path, kind)?,
        };
        if storage.shared {
            kept.insert(entry.storage, flat.shallow_clone());
        }
        let shape = entry.described.shape.as_slice();
        let view = flat.f_as_strided(shape, entry.strides.as_slice(), entry.offset)?;
        Ok(view.f_to_kind(Kind::Float)?.f_contiguous()?)
    }

    /// Writes all tensors of fractions into a file of safetensors, as f32 under their names.
    ///
    /// Returns how many there are. The file is there whole or not at all.
    ///
    /// # Errors
    /// When one cannot be read, or the disk is full.
    pub fn convert(&mut self, to: &Path) -> Result<usize> {
        hub::write(self, to)
    }
}

impl Storage {
    fn read(&self, file: &mut File, path: &Path, kind: Kind) -> Result<Tensor> {
        // It lies within the file, so this is no more than the file has.
        let mut bytes = vec![0; self.bytes as usize];
        file.seek(SeekFrom::Start(self.at)).map_err(Error::io("read", path))?;
        file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
        if let Some(expected) = self.crc32 {
            let mut found = flate2::Crc::new();
            found.update(&bytes);
            if found.sum() != expected {
                let problem = format!(
                    "damaged: the {} bytes from byte {} have the checksum {:08x}, expected \
                     {expected:08x}; get the file again",
                    self.bytes,
                    self.at,
                    found.sum()
                );
                return Err(Error::data(path, problem));
            }
        }
        let count = self.bytes / self.numbers.width();
        Ok(Tensor::f_from_data_size(&bytes, &[count as i64], kind)?)
    }
}

/// Computes the SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            let digest: [u8; 32] = hash.finalize().into();
            return Ok(crate::hash::hex(&digest));
        }
        hash.update(&buffer[..count]);
    }
}

/// What encoders were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// For the record of the run, by modality.
    pub records: BTreeMap<String, WeightsRecord>,
    /// What the user should know of.
    pub warnings: Vec<String>,
}

/// Files of weights that an experiment names and that are not there, with the paths of the options
/// that name them.
pub fn absent(experiment: &Experiment, folder: &Path) -> BTreeMap<PathBuf, Vec<String>> {
    let mut absent: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for (modality, section) in &experiment.modalities {
        let Some(options) = &section.weights else { continue };
        let file = folder.join(&options.file);
        if !file.is_file() {
            absent.entry(file).or_default().push(format!("modalities.{modality}.weights.file"));
        }
    }
    absent
}

/// Expects all files of weights that an experiment names to be there.
///
/// # Errors
/// [`Error::Data`] that names all which are not.
pub(crate) fn expect_present(experiment: &Experiment, folder: &Path) -> Result<()> {
    not_found(&absent(experiment, folder))
}

/// Refuses files that are not there, where there are any.
fn not_found(absent: &BTreeMap<PathBuf, Vec<String>>) -> Result<()> {
    let mut files = absent.iter();
    let Some((first, options)) = files.next() else { return Ok(()) };
    let named = |options: &[String]| {
        let verb = if options.len() > 1 { "name" } else { "names" };
        format!("`{}` {verb}", options.join("` and `"))
    };
    let others: Vec<String> = files
        .map(|(file, options)| format!(", nor {}, which {}", file.display(), named(options)))
        .collect();
    let others = others.concat();
    let them = if absent.len() > 1 { "them" } else { "it" };
    Err(Error::data(
        first,
        format!(
            "not found, and {} it{others}: put {them} there, or choose the folder of the data with \
             --data-dir or MIE_DATA_DIR",
            named(options)
        ),
    ))
}

/// Gives the encoders of an experiment the published weights that it names.
///
/// Relative files are looked for below `folder`, that of the data.
///
/// # Errors
/// [`Error::Data`] when a file is missing or damaged, [`Error::Refused`] when its tensors are not
/// those of the encoder.
pub fn load(experiment: &Experiment, parameters: &Parameters, folder: &Path) -> Result<Loaded> {
    expect_present(experiment, folder)?;
    let mut loaded = Loaded::default();
    for (modality, section) in &experiment.modalities {
        if let Some(options) = &section.weights {
            let group = parameters.group(&GroupId::Encoder(modality.clone()));
            let target = Target {
                at: format!("modalities.{modality}.weights"),
                own: own_tensors(modality, group, section.projection.is_some()),
                encoder: section.encoder.typetag_name(),
                published: section.encoder.published(),
            };
            let (record, warning) = target.load(options, folder)?;
            loaded.records.insert(modality.clone(), record);
            loaded.warnings.extend(warning);
        }
    }
    Ok(loaded)
}

/// Tensors of an encoder by their local names.
///
/// The projection behind it is no part of what is published.
fn own_tensors(modality: &str, group: Option<&Group>, projected: bool) -> BTreeMap<String, Tensor> {
    let start = format!("{}.", GroupId::Encoder(modality.to_owned()));
    let tensors = group.into_iter().flat_map(|group| group.params.iter().chain(&group.buffers));
    tensors
        .filter_map(|(path, tensor)| {
            let name = path.strip_prefix(&start)?;
            let published = !(projected && name.starts_with("projection."));
            published.then(|| (name.to_owned(), tensor.shallow_clone()))
        })
        .collect()
}

/// An encoder that weights are for.
struct Target<'a> {
    /// Path of the options.
    at: String,
    /// Its tensors, by their local names.
    own: BTreeMap<String, Tensor>,
    /// Its plugin.
    encoder: &'a str,
    published: Published,
}

impl Target<'_> {
    fn load(
        &self,
        options: &WeightsSection,
        folder: &Path,
    ) -> Result<(WeightsRecord, Option<String>)> {
        let path = folder.join(&options.file);
        let sha256 = self.checked(options, &path)?;
        let mut file = WeightsFile::open(&path, options.key.as_deref())?;
        let matched = matching::matched(
            &fractions(&file),
            &self.own.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect(),
            &self.published,
            options,
        )
        .map_err(|problem| {
            let reason = format!("{}: {}: {problem}", self.at, path.display());
            Error::refused(reason, "name another file, or set `prefix` to what its tensors share")
        })?;
        self.judge(&matched, options, &path)?;
        let _guard = no_grad_guard();
        for (name, found) in &matched.pairs {
            let mut value = file.read(found)?;
            let own = &self.own[name];
            if let Some(channels) = matched.adapted.get(name) {
                value = matching::adapt(&value, *channels, options.first_layer)?;
            }
            own.shallow_clone().f_copy_(&value)?;
        }
        let record = WeightsRecord {
            file: options.file.display().to_string(),
            sha256,
            tensors: matched.pairs.len() as u64,
            first_layer: matched.first_layer.clone(),
            missing: matched.missing.clone(),
            unexpected: matched.unexpected.clone(),
            reshaped: matched.reshaped.clone(),
        };
        let warning = (!matched.fits()).then(|| {
            format!(
                "{}: {} does not fit the encoder, and strict is false: {}; what it did not get \
                 starts from the seed",
                self.at,
                options.file.display(),
                matched.differences()
            )
        });
        Ok((record, warning))
    }

    /// Checks that the file is there and the one that is meant; returns its hash.
    fn checked(&self, options: &WeightsSection, path: &Path) -> Result<String> {
        if !path.is_file() {
            let options = vec![format!("{}.file", self.at)];
            not_found(&BTreeMap::from([(path.to_owned(), options)]))?;
        }
        let found = sha256(path)?;
        match &options.sha256 {
            Some(expected) if !expected.eq_ignore_ascii_case(&found) => Err(Error::data(
                path,
                format!(
                    "its SHA-256 is {found}, and `{}.sha256` is {expected}: get the file again, or \
                     write its own hash there",
                    self.at
                ),
            )),
            _ => Ok(found),
        }
    }

    /// Refuses a file that is not for this encoder.
    fn judge(&self, matched: &Matched, options: &WeightsSection, path: &Path) -> Result<()> {
        if matched.fits() || (!options.strict && !matched.pairs.is_empty()) {
            return Ok(());
        }
        let mut remedies = Vec::new();
        if let Some(prefix) = &matched.likely_prefix {
            remedies.push(format!("set prefix = \"{prefix}\""));
        }
        if matched.first_layer_differs && options.first_layer == FirstLayer::Refuse {
            remedies.push(
                "choose what to do about the channels of the input with first_layer = \"mean\", \
                 \"repeat\" or \"random\""
                    .to_owned(),
            );
        }
        if remedies.is_empty() {
            remedies
                .push("choose the file and the options of the encoder that belong together".into());
        }
        if options.strict {
            remedies.push(
                "or set strict = false, and what has no published value starts from the seed"
                    .to_owned(),
            );
        }
        Err(Error::refused(
            format!(
                "{}: {} is not for encoder `{}`: {}",
                self.at,
                path.display(),
                self.encoder,
                matched.differences()
            ),
            remedies.join("; "),
        ))
    }
}

/// Shapes of the tensors that can be weights.
fn fractions(file: &WeightsFile) -> BTreeMap<String, Vec<i64>> {
    let fractions = file.tensors().filter(|(_, described)| described.numbers.are_fractions());
    fractions.map(|(name, described)| (name.to_owned(), described.shape.clone())).collect()
}

/// Writes the bytes of an f32 tensor on the CPU.
fn write_numbers(tensor: &Tensor, path: &Path, to: &mut impl Write) -> Result<()> {
    let count = tensor.numel();
    let mut bytes = vec![0; 4 * count];
    tensor.f_copy_data_u8(&mut bytes, count)?;
    to.write_all(&bytes).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use safetensors::SafeTensors;
    use serde_json::Value;
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    fn reference(name: &str) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/data/weights");
        Path::new(folder).join(name)
    }

    /// Shapes and values by name, as torch has them.
    fn expected(part: &str) -> BTreeMap<String, (Vec<i64>, Vec<f32>)> {
        let text = std::fs::read_to_string(reference("expected.json")).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        let read = |(name, tensor): (&String, &Value)| {
            let shape = tensor["shape"].as_array().unwrap().iter();
            let values = tensor["values"].as_array().unwrap().iter();
            let shape = shape.map(|size| size.as_i64().unwrap()).collect();
            let values = values.map(|value| value.as_f64().unwrap() as f32).collect();
            (name.clone(), (shape, values))
        };
        all[part].as_object().unwrap().iter().map(read).collect()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten(0, -1).try_into().unwrap()
    }

    fn assert_holds(file: &mut WeightsFile, part: &str) {
        let expected = expected(part);
        let found = fractions(file);
        assert!(found.keys().eq(expected.keys()), "{found:?}");
        for (name, (shape, numbers)) in &expected {
            let tensor = file.read(name).unwrap();
            assert_eq!(tensor.kind(), Kind::Float, "{name}");
            assert_eq!((&tensor.size(), &values(&tensor)), (shape, numbers), "{name}");
        }
    }

    fn problem(path: &Path, key: Option<&str>) -> String {
        WeightsFile::open(path, key).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_file_has_what_torch_wrote() {
        for (name, format) in [
            ("archive.pt", "checkpoint of torch"),
            ("protocol4.pt", "checkpoint of torch"),
            ("legacy.pth", "checkpoint of torch before 1.6"),
            ("hub.safetensors", "safetensors"),
        ] {
            let mut file = WeightsFile::open(&reference(name), None).unwrap();
            assert_eq!(file.format(), format);
            assert_holds(&mut file, "table");
            assert!(file.others().is_empty(), "{name}");
        }
    }

    #[test]
    fn whole_numbers_are_listed_and_never_read() {
        for name in ["archive.pt", "legacy.pth", "hub.safetensors"] {
            let mut file = WeightsFile::open(&reference(name), None).unwrap();
            let listed: BTreeMap<String, Described> =
                file.tensors().map(|(name, found)| (name.to_owned(), found.clone())).collect();
            assert_eq!(listed.len(), 19, "{name}");
            let counter = Described { shape: Vec::new(), numbers: Numbers::I64 };
            assert_eq!(listed["bn.num_batches_tracked"], counter);
            assert_eq!(counter.count(), 1);
            assert_eq!(listed["truth"].numbers, Numbers::Bool);
            assert_eq!(listed["empty"].count(), 0);
            let error = file.read("whole.i32").unwrap_err().to_string();
            assert!(error.ends_with("`whole.i32` is made of i32, expected fractions"), "{error}");
        }
    }

    #[test]
    fn tensors_within_a_checkpoint_are_found_by_habit_or_by_name() {
        for name in ["nested.pt", "nested_legacy.pth"] {
            let path = reference(name);
            assert_holds(&mut WeightsFile::open(&path, None).unwrap(), "nested");
            assert_holds(&mut WeightsFile::open(&path, Some("state_dict")).unwrap(), "nested");
            let mut other = WeightsFile::open(&path, Some("ema")).unwrap();
            assert_eq!(values(&other.read("weight").unwrap()), [4.0, 5.0]);
            let error = problem(&path, Some("teacher"));
            assert!(
                error.contains("no tensors under the key `teacher`; it has `epoch`"),
                "{error}"
            );
        }
        let error = problem(&reference("hub.safetensors"), Some("model"));
        assert!(error.contains("has no entries to choose from"), "{error}");
    }

    #[test]
    fn a_file_that_would_run_a_command_is_refused_by_the_name_of_it() {
        for name in ["hostile.pt", "hostile_legacy.pth"] {
            let error = problem(&reference(name), None);
            assert!(error.contains(name), "{error}");
            assert!(error.contains("it names `posix.system`"), "{error}");
            assert!(error.contains("nothing of a pickle is executed"), "{error}");
        }
        assert!(!Path::new("executed.txt").exists());
    }

    #[test]
    fn a_flipped_bit_in_an_archive_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        let mut bytes = std::fs::read(reference("archive.pt")).unwrap();
        let whole = WeightsFile::open(&reference("archive.pt"), None).unwrap();
        let entry = &whole.index.tensors["view.turned"];
        let storage = &whole.index.storages[entry.storage];
        assert!(storage.shared);
        bytes[storage.at as usize] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut file = WeightsFile::open(&path, None).unwrap();
        let error = file.read("base").unwrap_err().to_string();
        assert!(error.contains("have the checksum"), "{error}");
        assert!(file.read("half").is_ok());
    }

    #[test]
    fn a_file_that_is_cut_short_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        for name in ["archive.pt", "legacy.pth", "hub.safetensors"] {
            let whole = std::fs::read(reference(name)).unwrap();
            for length in [0, 1, 8, 9, 20, 200, whole.len() / 2, whole.len() - 1] {
                std::fs::write(&path, &whole[..length]).unwrap();
                assert!(problem(&path, None).contains("a.pt: "), "{name} {length}");
            }
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for (bytes, expected) in [
            (&b"\x89PNG\r\n"[..], "neither safetensors nor a checkpoint of torch"),
            (b"\x80\x04]\x94.", "it is a pickle, and not one that `torch.save` wrote"),
            (b"\x80\x02\x8a\x01\x07.", "a pickle, and not one that `torch.save` wrote"),
            (b"\xff\xff\xff\xff\xff\0\0\0{}", "its header would have"),
            (b"\x02\0\0\0\0\0\0\0{}more", "it has 14 bytes, expected 10"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = problem(&path, None);
            assert!(error.contains(expected), "{error}");
        }
    }

    /// An archive with entries of the given names and contents.
    fn archive(path: &Path, method: CompressionMethod, entries: &[(&str, &[u8])]) {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, content) in entries {
            writer.start_file(*name, options).unwrap();
            writer.write_all(content).unwrap();
        }
        std::fs::write(path, writer.finish().unwrap().into_inner()).unwrap();
    }

    #[test]
    fn archives_that_torch_does_not_write_here_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        let stored = CompressionMethod::Stored;
        archive(&path, stored, &[("a/b.txt", b"x")]);
        assert!(problem(&path, None).contains("an archive without `data.pkl`"));
        archive(&path, stored, &[("a/data.pkl", b"}."), ("a/byteorder", b"big")]);
        assert!(problem(&path, None).contains("highest byte first"));
        archive(&path, stored, &[("a/data.pkl", b"}.")]);
        assert!(problem(&path, None).contains("it has nothing else: name one with `key`"));
        let table: &[u8] = b"}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((\
            X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ\
            K\x00K\x02\x85K\x01\x85\x89}tRs.";
        archive(&path, stored, &[("a/data.pkl", table)]);
        assert!(problem(&path, None).contains("`a/data/0` is missing"));
        archive(&path, stored, &[("a/data.pkl", table), ("a/data/0", &[0; 4])]);
        assert!(problem(&path, None).contains("has 4 bytes, expected 2 numbers of f32"));
        let both: [(&str, &[u8]); 2] = [("a/data.pkl", table), ("a/data/0", &[0; 8])];
        archive(&path, stored, &both);
        let mut file = WeightsFile::open(&path, None).unwrap();
        assert_eq!(values(&file.read("w").unwrap()), [0.0, 0.0]);
        archive(&path, CompressionMethod::Deflated, &both);
        assert!(problem(&path, None).contains("is compressed, which torch never does"));
    }

    #[test]
    fn a_converted_file_has_the_fractions_as_f32_under_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        for name in ["archive.pt", "legacy.pth", "hub.safetensors"] {
            let count = WeightsFile::open(&reference(name), None).unwrap().convert(&path).unwrap();
            assert_eq!(count, expected("table").len());
            assert_holds(&mut WeightsFile::open(&path, None).unwrap(), "table");
            // Another reader of the format has no complaint.
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), count);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// An encoder with the tensors of the nested checkpoint, all 9.
    fn target() -> Target<'static> {
        let names = ["weight", "bias", "running_mean", "running_var"];
        let own = names.map(|name| (name.to_owned(), Tensor::full([2], 9.0, tch::kind::FLOAT_CPU)));
        Target {
            at: "modalities.image.weights".to_owned(),
            own: own.into(),
            encoder: "small",
            published: Published::default(),
        }
    }

    fn options(file: &str) -> WeightsSection {
        serde_json::from_value(serde_json::json!({ "file": file })).unwrap()
    }

    #[test]
    fn an_encoder_gets_every_tensor_and_the_record_says_of_which_file() {
        let target = target();
        let options = options("nested.pt");
        let (record, warning) = target.load(&options, &reference("")).unwrap();
        for (name, (_, expected)) in expected("nested") {
            assert_eq!(values(&target.own[&name]), expected, "{name}");
        }
        assert_eq!((record.tensors, record.file.as_str()), (4, "nested.pt"));
        assert_eq!(record.sha256, sha256(&reference("nested.pt")).unwrap());
        assert_eq!((warning, record.missing.len()), (None, 0));
        let checked = |sha256: &str| {
            let options = WeightsSection { sha256: Some(sha256.to_owned()), ..options.clone() };
            target.load(&options, &reference(""))
        };
        checked(&record.sha256.to_uppercase()).unwrap();
        let error = checked(&"0".repeat(64)).unwrap_err().to_string();
        assert!(error.contains(&format!("its SHA-256 is {}", record.sha256)), "{error}");
    }

    #[test]
    fn all_files_that_are_not_there_are_named_with_the_options_that_name_them() {
        let named = |options: &[&str]| -> Vec<String> {
            options.iter().map(|&option| option.to_owned()).collect()
        };
        let mut absent = BTreeMap::from([(PathBuf::from("a.pt"), named(&["x.file", "y.file"]))]);
        let refusal =
            |absent: &BTreeMap<PathBuf, Vec<String>>| not_found(absent).unwrap_err().to_string();
        let end = "there, or choose the folder of the data with --data-dir or MIE_DATA_DIR";
        assert_eq!(
            refusal(&absent),
            format!("a.pt: not found, and `x.file` and `y.file` name it: put it {end}")
        );
        absent.insert(PathBuf::from("b.pt"), named(&["z.file"]));
        assert_eq!(
            refusal(&absent),
            format!(
                "a.pt: not found, and `x.file` and `y.file` name it, nor b.pt, which `z.file` \
                 names: put them {end}"
            )
        );
        assert!(not_found(&BTreeMap::new()).is_ok());
    }

    #[test]
    fn a_file_for_another_encoder_is_refused_unless_differences_are_allowed() {
        let mut target = target();
        target.own.insert("fc.bias".to_owned(), Tensor::full([1], 9.0, tch::kind::FLOAT_CPU));
        target.own.insert("bias".to_owned(), Tensor::full([3], 9.0, tch::kind::FLOAT_CPU));
        let strict = options("nested.pt");
        let error = target.load(&strict, &reference("")).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        let error = error.to_string();
        assert!(error.contains("is not for encoder `small`: 1 missing in it (fc.bias)"), "{error}");
        assert!(error.contains("1 of another shape (bias: [2] in the file, [3] here)"), "{error}");
        assert!(error.contains("strict = false"), "{error}");
        // Refused before anything is written.
        assert_eq!(values(&target.own["weight"]), [9.0, 9.0]);
        let lenient = WeightsSection { strict: false, ..strict };
        let (record, warning) = target.load(&lenient, &reference("")).unwrap();
        assert_eq!((record.tensors, record.missing.as_slice()), (3, &["fc.bias".to_owned()][..]));
        assert_eq!(record.reshaped.len(), 1);
        assert!(warning.unwrap().contains("starts from the seed"));
        assert_eq!(values(&target.own["bias"]), [9.0; 3]);
        let nothing = WeightsSection { prefix: Some("no.".to_owned()), ..lenient };
        let error = target.load(&nothing, &reference("")).unwrap_err().to_string();
        assert!(error.contains("it has no tensor of the encoder"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_missing_data() {
        let error = target().load(&options("no.pt"), &reference("")).unwrap_err();
        assert_eq!(error.exit_status(), 1);
        let error = error.to_string();
        assert!(error.contains("no.pt: not found, and `modalities.image.weights.file`"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_change_of_a_file_makes_reading_it_panic(
            which in 0usize..5,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let names =
                ["archive.pt", "protocol4.pt", "legacy.pth", "hub.safetensors", "nested.pt"];
            let mut bytes = std::fs::read(reference(names[which])).unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a");
            std::fs::write(&path, bytes).unwrap();
            if let Ok(mut file) = WeightsFile::open(&path, None) {
                for name in fractions(&file).keys() {
                    drop(file.read(name));
                }
            }
        }

        #[test]
        fn no_bytes_make_opening_them_panic(
            start in prop::sample::select(vec![
                &b""[..], b"PK\x03\x04", b"\x80\x02\x8a", b"\x20\0\0\0\0\0\0\0{\"a\":",
            ]),
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a");
            std::fs::write(&path, [start, bytes.as_slice()].concat()).unwrap();
            drop(WeightsFile::open(&path, None));
        }
    }
}
