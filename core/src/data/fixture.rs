//! A made-up dataset whose samples say by their names what goes wrong with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt;

use super::source::DataSource;
use crate::config::DataSection;
use crate::error::{Error, Result};
use crate::family::{
    Dataset, Draw, Modality, Mode, Raw, Sample, SampleBuffers, Split, TensorLayout,
};
use crate::random::Seed;

/// Samples of two classes, each a file `<id>` in a folder.
pub(super) struct Files {
    folder: PathBuf,
    classes: Vec<String>,
    splits: BTreeMap<Split, Vec<Sample>>,
}

impl Files {
    /// Lists `samples`, an id and a label each, and writes their files.
    pub(super) fn new(folder: &Path, samples: &[(Split, &str, usize)]) -> Self {
        let mut splits: BTreeMap<Split, Vec<Sample>> = BTreeMap::new();
        for &(split, id, label) in samples {
            std::fs::write(folder.join(id), id).unwrap();
            splits.entry(split).or_default().push(Sample { id: id.to_owned(), label });
        }
        Self { folder: folder.to_owned(), classes: vec!["no".to_owned(), "yes".to_owned()], splits }
    }

    /// Opens it with a decoder.
    pub(super) fn open(self, decoder: Decoder, options: &DataSection) -> Result<Arc<DataSource>> {
        let decoder: Arc<dyn Modality> = Arc::new(decoder);
        let modalities = [("file".to_owned(), decoder)].into();
        DataSource::lay_out("made_up", Arc::new(self), modalities, Seed(5), options).map(Arc::new)
    }
}

impl Dataset for Files {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn samples(&self, split: Split) -> &[Sample] {
        self.splits.get(&split).map_or(&[], Vec::as_slice)
    }

    fn modalities(&self) -> Vec<String> {
        vec!["file".to_owned()]
    }

    fn raw(&self, split: Split, index: usize, _modality: &str) -> Result<Raw<'_>> {
        let id = &self.samples(split)[index].id;
        match id.as_str() {
            "unreachable" => Err(Error::data("made_up.list", "line 3 names no file")),
            id => Ok(Raw::File(self.folder.join(id))),
        }
    }
}

/// Numbers of a sample.
pub(super) const WIDTH: usize = 3;

/// Draws numbers that depend on sample and epoch.
///
/// `broken` in a name gives an error, `panics` a panic, `silent` leaves the numbers as they were.
#[derive(Default)]
pub(super) struct Decoder {
    /// Samples decoded so far.
    pub(super) decoded: Arc<AtomicUsize>,
}

impl Modality for Decoder {
    fn layout(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[WIDTH as i64])
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        _mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let Raw::File(file) = raw else { return Err(Error::Bug("not a file".to_owned())) };
        self.decoded.fetch_add(1, Ordering::SeqCst);
        let content = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
        assert!(!content.contains("panics"), "no such number");
        if content.contains("broken") {
            return Err(Error::data(file, "is truncated: 3 bytes are left"));
        }
        if !content.contains("silent") {
            let mut stream = draw.own();
            out.f32(0)?.fill_with(|| stream.random());
        }
        Ok(())
    }
}
