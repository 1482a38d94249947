//! Predictions, sample by sample: of files, or of a split.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mie_record::RunDir;
use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::evaluate::{Settings, decisions, rows, score};
use super::{checkpoint, selected};
use crate::batch::{Batch, Named, Spec};
use crate::config::{Experiment, Resolved, closest};
use crate::data::{HostBatch, TestAccess, identity};
use crate::error::{Error, Result, guarded};
use crate::family::{Draw, Element, Modality, Mode, OpenContext, Raw, Split, TensorLayout};
use crate::layers::Statistics;
use crate::metrics::Scores;
use crate::model::{Model, Running};
use crate::random::Seed;

/// A sample to predict, given as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSample {
    /// Name in the answer; what an input draws at random for a sample follows from it.
    pub id: String,
    /// File of each modality, or a folder of files in the order of their names; a modality that
    /// is left out is missing.
    pub files: BTreeMap<String, PathBuf>,
}

/// What a model says of one sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Name of the sample.
    pub sample: String,
    /// Index of its true class, where it is known.
    pub label: Option<usize>,
    /// Modalities it does not have.
    pub missing: Vec<String>,
    /// Whether the missing modalities were replaced by their fillers for the joint decision,
    /// because the fusion cannot do without them.
    pub filled: bool,
    /// Probabilities by output, in the order of the classes: each modality that is there, `fused`,
    /// and `fused.<rule>` for further decision rules.
    pub probabilities: BTreeMap<String, Vec<f32>>,
}

impl Prediction {
    /// Index of the class that `output` finds most probable; the first of equals.
    pub fn class(&self, output: &str) -> Option<usize> {
        let row = self.probabilities.get(output)?;
        (0..row.len()).reduce(|best, class| if row[class] > row[best] { class } else { best })
    }
}

/// Predictions, with what is needed to read them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Predictions {
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Modalities of the model, in alphabetical order.
    pub modalities: Vec<String>,
    /// The samples, in the order in which they were given.
    pub samples: Vec<Prediction>,
}

/// Predicts the samples of a split by the selected weights of a run.
///
/// # Errors
/// As [`super::evaluate_run`].
pub fn predict_split(
    run: &Path,
    split: Split,
    data_dir: &Path,
    device: Device,
    assignments: &[String],
) -> Result<Predictions> {
    let run = RunDir::open(run)?;
    let (model, source, settings) = selected(&run, split, data_dir, device, assignments)?;
    let access = (split == Split::Test).then(TestAccess::granted);
    let (outputs, labels) = score(&model, &source, split, &settings, access)?;
    let samples = source.ids(split).into_iter().zip(labels).enumerate();
    let samples = samples
        .map(|(position, (id, label))| Prediction {
            sample: id.to_owned(),
            label: Some(label),
            missing: Vec::new(),
            filled: false,
            probabilities: row_of(&outputs, position),
        })
        .collect();
    let classes = source.classes().to_vec();
    Ok(Predictions { classes, modalities: model.modalities(), samples })
}

/// Predicts samples that are given as files, by the selected weights of a run.
///
/// The dataset of the run is not needed, of its folder `data_dir` only files that inputs name, such
/// as a vocabulary. Where modalities of a sample are missing, the fusion
/// decides on the others; one that cannot gets what stands for a missing modality in training,
/// and the prediction says so.
///
/// # Errors
/// When the run has no selected weights yet, a modality is unknown, a sample has none at all, or a
/// file cannot be decoded.
pub fn predict_files(
    run: &Path,
    samples: &[FileSample],
    data_dir: &Path,
    device: Device,
    assignments: &[String],
) -> Result<Predictions> {
    let run = RunDir::open(run)?;
    let experiment = Resolved::read(&run.config_path(), assignments)?.experiment;
    let data = run.read_manifest()?.data;
    let classes = data.into_iter().next().map(|record| record.classes).unwrap_or_default();
    let decoders = Decoders::build(&experiment, data_dir)?;
    decoders.check(samples)?;
    let (layouts, fillers) = (&decoders.layouts, &decoders.fillers);
    let (mut model, parameters) =
        Model::build(&experiment, layouts, fillers, classes.len(), device)?;
    checkpoint::load_model(&checkpoint::latest_best(&run)?, &mut model, &parameters, device)?;
    let batch_size = Settings::of(&experiment, device).batch_size;
    let mut predictions = Vec::with_capacity(samples.len());
    for alike in samples.chunk_by(|a, b| a.files.keys().eq(b.files.keys())) {
        for batch in alike.chunks(batch_size) {
            predictions.extend(decoders.predict(&model, batch, device)?);
        }
    }
    Ok(Predictions { classes, modalities: model.modalities(), samples: predictions })
}

fn row_of(outputs: &BTreeMap<String, Scores>, position: usize) -> BTreeMap<String, Vec<f32>> {
    // They were computed as f32: nothing is lost.
    let row = |scores: &Scores| scores.row(position).iter().map(|&share| share as f32).collect();
    outputs.iter().map(|(name, scores)| (name.clone(), row(scores))).collect()
}

/// The inputs of an experiment, without its dataset.
struct Decoders {
    modalities: BTreeMap<String, Arc<dyn Modality>>,
    layouts: BTreeMap<String, Vec<TensorLayout>>,
    fillers: BTreeMap<String, f64>,
    seed: Seed,
}

impl Decoders {
    fn build(experiment: &Experiment, data_dir: &Path) -> Result<Self> {
        let context = OpenContext { base: data_dir.to_owned(), seed: Seed(experiment.seed) };
        let mut modalities: BTreeMap<String, Arc<dyn Modality>> = BTreeMap::new();
        for (name, section) in &experiment.modalities {
            let plugin = format!("modality `{}` of `{name}`", section.input.typetag_name());
            let opened = guarded(&plugin, || {
                let mut modality = section.input.build()?;
                modality.open(&context)?;
                Ok(modality)
            });
            modalities.insert(name.clone(), Arc::from(opened?));
        }
        Ok(Self {
            layouts: modalities.iter().map(|(name, m)| (name.clone(), m.layout())).collect(),
            fillers: modalities.iter().map(|(name, m)| (name.clone(), m.filler())).collect(),
            modalities,
            seed: Seed(experiment.seed),
        })
    }

    /// Refuses modalities that the model does not have, and samples that have none.
    fn check(&self, samples: &[FileSample]) -> Result<()> {
        let known = || self.modalities.keys().map(String::as_str);
        for sample in samples {
            if let Some(name) = sample.files.keys().find(|name| !self.layouts.contains_key(*name)) {
                let meant = closest(name, known())
                    .map_or_else(String::new, |meant| format!("did you mean `{meant}`? "));
                let known: Vec<String> = known().map(|name| format!("`{name}`")).collect();
                return Err(Error::refused(
                    format!("the model has no modality `{name}`"),
                    format!("{meant}name one of {}", known.join(", ")),
                ));
            }
            if sample.files.is_empty() {
                let example = known().next().unwrap_or("modality");
                return Err(Error::refused(
                    format!("sample `{}` has no file of any modality", sample.id),
                    format!("give at least one, e.g. {example}=FILE"),
                ));
            }
        }
        Ok(())
    }

    /// Predicts samples that have the same modalities.
    fn predict(
        &self,
        model: &Model,
        samples: &[FileSample],
        device: Device,
    ) -> Result<Vec<Prediction>> {
        let _guard = no_grad_guard();
        let Some(first) = samples.first() else { return Ok(Vec::new()) };
        let present: Vec<String> = first.files.keys().cloned().collect();
        let missing: Vec<String> =
            self.modalities.keys().filter(|name| !present.contains(name)).cloned().collect();
        let batch = self.decode(samples, &present)?.to_device(device)?;
        let (decisions, filled) = match decide(model, &batch, present.clone()) {
            Err(_) if !missing.is_empty() => (self.decide_with_fillers(model, batch)?, true),
            found => (found?, false),
        };
        let outputs: BTreeMap<String, Scores> = decisions
            .iter()
            .filter(|(name, _)| !missing.contains(name))
            .map(|(name, table)| {
                let rows = rows(table, || format!("output `{name}` for files"))?;
                Ok((name.clone(), rows))
            })
            .collect::<Result<_>>()?;
        let described = samples.iter().enumerate().map(|(position, sample)| Prediction {
            sample: sample.id.clone(),
            label: None,
            missing: missing.clone(),
            filled,
            probabilities: row_of(&outputs, position),
        });
        Ok(described.collect())
    }

    fn decode(&self, samples: &[FileSample], present: &[String]) -> Result<HostBatch> {
        let mut batch = HostBatch::unlabelled(samples.len());
        for name in present {
            batch.decode(name, &self.layouts[name], samples.len(), |row, out| {
                let FileSample { id, files } = &samples[row];
                let draw = Draw { seed: self.seed, modality: name, epoch: 0, sample: identity(id) };
                let raw = raw(&files[name])?;
                guarded(&format!("modality `{name}` of sample `{id}`"), || {
                    self.modalities[name].load(&raw, Mode::Evaluation, &draw, out)
                })
            })?;
        }
        Ok(batch)
    }

    fn decide_with_fillers(
        &self,
        model: &Model,
        mut batch: Batch,
    ) -> Result<BTreeMap<String, Tensor>> {
        let (samples, device) = (batch.len() as i64, batch.targets.labels.device());
        for (name, layouts) in &self.layouts {
            if batch.inputs.contains_key(name) {
                continue;
            }
            let filler = self.fillers[name];
            let mut tensors = BTreeMap::new();
            for layout in layouts {
                let size: Vec<i64> = [samples].into_iter().chain(layout.shape.clone()).collect();
                let tensor = match layout.element {
                    Element::F32 => Tensor::f_full(size, filler, (Kind::Float, device))?,
                    Element::I64 => Tensor::f_zeros(size, (Kind::Int64, device))?,
                };
                tensors.insert(layout.name.clone(), tensor);
            }
            batch.inputs.insert(name.clone(), Named(tensors));
        }
        decide(model, &batch, self.modalities.keys().cloned().collect())
    }
}

/// Probabilities of every output, as far as the modalities that `run` allow.
fn decide(model: &Model, batch: &Batch, run: Vec<String>) -> Result<BTreeMap<String, Tensor>> {
    let spec = Spec::evaluation(run);
    decisions(model, &model.forward(batch, &spec, Running::of(Statistics::Running))?)
}

/// A file, or the files of a folder in the order of their names.
fn raw(path: &Path) -> Result<Raw<'static>> {
    if !path.is_dir() {
        return Ok(Raw::File(path.to_owned()));
    }
    let entries = std::fs::read_dir(path).map_err(Error::io("list", path))?;
    let mut files = entries
        .map(|entry| Ok(entry.map_err(Error::io("list", path))?.path()))
        .collect::<Result<Vec<PathBuf>>>()?;
    files.sort();
    Ok(Raw::Files(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equally_probable_classes_is_predicted() {
        let prediction = Prediction {
            sample: "a".to_owned(),
            label: None,
            missing: Vec::new(),
            filled: false,
            probabilities: BTreeMap::from([("fused".to_owned(), vec![0.2, 0.4, 0.4])]),
        };
        assert_eq!(prediction.class("fused"), Some(1));
        assert_eq!(prediction.class("audio"), None);
    }

    #[test]
    fn a_folder_stands_for_its_files_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jpg", "a.jpg"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let files = ["a.jpg", "b.jpg"].map(|name| folder.path().join(name)).to_vec();
        assert_eq!(raw(folder.path()).unwrap(), Raw::Files(files.clone()));
        assert_eq!(raw(&files[0]).unwrap(), Raw::File(files[0].clone()));
    }
}
