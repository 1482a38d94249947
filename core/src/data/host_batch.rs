//! A batch in ordinary memory, as workers fill it.

use std::collections::{BTreeMap, TryReserveError};

use tch::{Device, Tensor};

use super::source::{DataSource, Entry};
use crate::batch::{Batch, Named, Targets};
use crate::error::{Error, Result, guarded};
use crate::family::{Buffer, Draw, Element, Mode, SampleBuffers, TensorLayout};

/// One tensor of all samples, flat.
#[derive(Debug)]
enum Column {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

/// Decoded samples, waiting to become tensors.
#[derive(Debug, Default)]
pub struct HostBatch {
    columns: BTreeMap<String, Vec<(TensorLayout, Column)>>,
    labels: Vec<i64>,
    indices: Vec<usize>,
}

impl HostBatch {
    /// Decodes `entries` (with their positions in the split), reusing the memory of `self`.
    pub(crate) fn fill(
        &mut self,
        source: &DataSource,
        modalities: &[String],
        mode: Mode,
        epoch: u64,
        entries: &[(usize, Entry)],
    ) -> Result<()> {
        self.labels = entries.iter().map(|(_, entry)| entry.label as i64).collect();
        self.indices = entries.iter().map(|(position, _)| *position).collect();
        self.columns.retain(|name, _| modalities.contains(name));
        for name in modalities {
            self.decode(name, &source.layouts[name], entries.len(), |row, out| {
                let (_, entry) = &entries[row];
                let draw = Draw {
                    seed: source.seed,
                    modality: name,
                    epoch: if mode == Mode::Training { epoch } else { 0 },
                    sample: entry.identity,
                };
                guarded(&format!("modality `{name}`"), || {
                    source.load(entry, name, mode, &draw, out)
                })
                .map_err(|error| source.blame(entry, name, error))
            })?;
        }
        Ok(())
    }

    /// Makes room for samples that have no labels.
    pub(crate) fn unlabelled(samples: usize) -> Self {
        Self { columns: BTreeMap::new(), labels: vec![0; samples], indices: (0..samples).collect() }
    }

    /// Decodes `rows` samples of a modality, one after the other.
    ///
    /// # Errors
    /// When memory runs out, or whatever `load` returns.
    pub(crate) fn decode(
        &mut self,
        modality: &str,
        layouts: &[TensorLayout],
        rows: usize,
        mut load: impl FnMut(usize, &mut SampleBuffers<'_>) -> Result<()>,
    ) -> Result<()> {
        let columns = self.columns.entry(modality.to_owned()).or_insert_with(|| {
            layouts.iter().map(|layout| (layout.clone(), Column::empty(layout))).collect()
        });
        for (layout, column) in columns.iter_mut() {
            column.resize(layout.len().saturating_mul(rows)).map_err(|error| {
                Error::refused(
                    format!(
                        "{rows} samples of modality `{modality}` at once, tensor `{}` of {:?} \
                         each: {error}",
                        layout.name, layout.shape
                    ),
                    "lower data.batch_size or data.evaluation_batch_size, or the sizes of the \
                     modality",
                )
            })?;
        }
        for row in 0..rows {
            let buffers =
                columns.iter_mut().map(|(layout, column)| column.row(row, layout.len())).collect();
            let mut out = SampleBuffers::new(buffers);
            load(row, &mut out)?;
            out.finish();
        }
        Ok(())
    }

    /// Makes tensors on `device`, `[batch, …]` each.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn to_device(&self, device: Device) -> Result<Batch> {
        let count = self.labels.len() as i64;
        let place = |tensor: Tensor| -> Result<Tensor> {
            if device == Device::Cpu {
                return Ok(tensor);
            }
            // From pinned memory the copy runs beside the computation.
            Ok(tensor.f_pin_memory(device)?.f_to_device_(device, tensor.kind(), true, false)?)
        };
        let mut inputs = BTreeMap::new();
        for (name, columns) in &self.columns {
            let mut tensors = BTreeMap::new();
            for (layout, column) in columns {
                let flat = match column {
                    Column::F32(values) => Tensor::f_from_slice(values)?,
                    Column::I64(values) => Tensor::f_from_slice(values)?,
                };
                let size: Vec<i64> = [count].into_iter().chain(layout.shape.clone()).collect();
                tensors.insert(layout.name.clone(), place(flat.f_view(size.as_slice())?)?);
            }
            inputs.insert(name.clone(), Named(tensors));
        }
        let labels = place(Tensor::f_from_slice(&self.labels)?)?;
        let targets = Targets { labels, mixed: None };
        Ok(Batch { inputs, targets, indices: self.indices.clone() })
    }
}

impl Column {
    fn empty(layout: &TensorLayout) -> Self {
        match layout.element {
            Element::F32 => Self::F32(Vec::new()),
            Element::I64 => Self::I64(Vec::new()),
        }
    }

    /// Makes room for `length` numbers, whatever they are.
    fn resize(&mut self, length: usize) -> Result<(), TryReserveError> {
        fn resize<T: Copy + Default>(
            values: &mut Vec<T>,
            length: usize,
        ) -> Result<(), TryReserveError> {
            values.try_reserve_exact(length.saturating_sub(values.len()))?;
            values.resize(length, T::default());
            Ok(())
        }
        match self {
            Self::F32(values) => resize(values, length),
            Self::I64(values) => resize(values, length),
        }
    }

    fn row(&mut self, row: usize, width: usize) -> Buffer<'_> {
        let range = row * width..(row + 1) * width;
        match self {
            Self::F32(values) => Buffer::F32(&mut values[range]),
            Self::I64(values) => Buffer::I64(&mut values[range]),
        }
    }
}
