//! An experiment as data: what its TOML files may say.

mod decode;
mod manual;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use crate::schema::Choice;
pub use decode::closest;
pub use manual::{Entry, Manual, Setting, schema, settings};
pub use source::{Origin, Source, shown, to_toml};

use crate::error::{Error, Result, ensure_range};
use crate::family::{
    ControllerConfig, DatasetConfig, EncoderConfig, FusionConfig, GradientModifierConfig,
    ModalityConfig, ObjectiveConfig, OptimizerConfig, Split, StrategyConfig,
};

/// Everything that defines a run.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Name in tables and run directories; the path of the file below its last folder but one
    /// when absent, e.g. `av_digits/mie`.
    #[serde(default)]
    pub name: String,
    /// Seed of every random draw.
    #[serde(default)]
    pub seed: u64,
    /// Departures from the defaults that a reader of results must know, in words by key.
    #[serde(default)]
    pub deviations: BTreeMap<String, String>,
    /// The dataset.
    pub dataset: Box<dyn DatasetConfig>,
    /// How samples become batches.
    #[serde(default)]
    pub data: DataSection,
    /// The modalities, by the name the dataset gives them.
    pub modalities: BTreeMap<String, ModalitySection>,
    /// The heads that turn features into logits.
    #[serde(default)]
    pub head: HeadSection,
    /// How modalities are joined, for joint losses and for the decision that selects.
    pub fusion: Box<dyn FusionConfig>,
    /// Further fusions without parameters, to evaluate beside the one above.
    #[serde(default)]
    pub also_evaluate: Vec<Box<dyn FusionConfig>>,
    /// Loss terms.
    pub objectives: Vec<Box<dyn ObjectiveConfig>>,
    /// The optimizer.
    pub optimizer: Box<dyn OptimizerConfig>,
    /// Gradient modifiers, applied in this order.
    #[serde(default)]
    pub gradient_modifiers: Vec<Box<dyn GradientModifierConfig>>,
    /// Schedules and other feedback.
    #[serde(default)]
    pub controllers: Vec<Box<dyn ControllerConfig>>,
    /// The order of work.
    pub strategy: Box<dyn StrategyConfig>,
    /// How the best checkpoint is chosen.
    #[serde(default)]
    pub selection: SelectionSection,
    /// Things that do not change results: workers, checkpoints, logging.
    #[serde(default)]
    pub run: RunSection,
}

/// How samples become batches.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Training samples a step; at least 1. The paper: 12, and 6 for `NVGesture`.
    pub batch_size: usize,
    /// Samples a batch in evaluation; at least 1.
    pub evaluation_batch_size: usize,
    /// Whether an incomplete last training batch is left out.
    pub drop_last: bool,
    /// Share of each class of the training split that becomes the validation split, in `[0, 1)`;
    /// used only when the dataset has no validation split.
    pub validation_share: f64,
    /// Training samples kept of each class, drawn by the seed; absent means all.
    pub train_per_class: Option<usize>,
    /// What happens when a file of a sample is missing or empty.
    pub on_missing: OnMissing,
    /// Samples to leave out, by their id: broken ones, for instance. They are listed in the record
    /// and the run is marked; `mie data check EXPERIMENT --decode` finds the broken ones.
    pub exclude: Vec<String>,
    /// Mixing of training samples; absent means none.
    pub mixup: Option<Mixup>,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            batch_size: 12,
            evaluation_batch_size: 64,
            drop_last: true,
            validation_share: 0.0,
            train_per_class: None,
            on_missing: OnMissing::Error,
            exclude: Vec::new(),
            mixup: None,
        }
    }
}

/// What happens when a file of a sample is missing or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// The run is refused with a list of what is missing.
    Error,
    /// The sample is left out, listed in the record, and the run is marked. Only files that are
    /// absent or empty are skipped: one that is there and broken ends the run, unless `exclude`
    /// names its sample.
    Skip,
}

/// Mixing of samples: `x = l x + (1 - l) x[p]` with one `l ~ Beta(a, a)` and one permutation `p`
/// a batch; the loss mixes labels the same way (Zhang et al. 2018, arXiv:1710.09412).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mixup {
    /// Parameter `a` of the Beta distribution, greater than 0. Released code: 1.0, or 0.9 for
    /// Twitter2015.
    pub alpha: f64,
    /// Modalities whose inputs are mixed; empty means all. Only steps that train one of them mix,
    /// and such a step may train no other.
    #[serde(default)]
    pub modalities: Vec<String>,
}

/// One modality: how it is read and what encodes it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModalitySection {
    /// How the raw thing becomes tensors.
    pub input: Box<dyn ModalityConfig>,
    /// What turns tensors into a feature.
    pub encoder: Box<dyn EncoderConfig>,
    /// Width of a linear projection of the feature, trained with the encoder; absent means none.
    #[serde(default)]
    pub projection: Option<i64>,
    /// Published weights that the encoder starts from; absent means those drawn from the seed.
    #[serde(default)]
    pub weights: Option<WeightsSection>,
}

/// Published weights that an encoder starts from. They are read once, before the first step; a
/// checkpoint of the run holds what became of them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightsSection {
    /// File of safetensors, or a checkpoint of torch with nothing in it but tensors; relative to
    /// the folder of the data. `mie weights show` lists what it has.
    pub file: PathBuf,
    /// Entry of a checkpoint that holds the tensors; absent means its top, or else `state_dict`,
    /// `model` or `model_state_dict`.
    #[serde(default)]
    pub key: Option<String>,
    /// Start of the names of this encoder's tensors, stripped before they are looked up; tensors
    /// whose names start otherwise are left alone. Absent means all tensors, by their whole names.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Whether file and encoder must have the same tensors. Otherwise what differs is warned of and
    /// recorded, and what has no published value starts from the seed.
    #[serde(default = "yes")]
    pub strict: bool,
    /// What happens to the first convolution when the input has another number of channels than the
    /// published one.
    #[serde(default)]
    pub first_layer: FirstLayer,
    /// SHA-256 of the file, in hexadecimal; checked when present.
    #[serde(default)]
    pub sha256: Option<String>,
}

fn yes() -> bool {
    true
}

/// What happens to the first convolution when the input has another number of channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FirstLayer {
    /// The file is refused.
    #[default]
    Refuse,
    /// Each channel gets the mean over the published ones, times published channels by own ones, so
    /// that activations keep their size.
    Mean,
    /// The channels get the published ones in turn, times published channels by own ones.
    Repeat,
    /// The layer keeps the values drawn from the seed.
    Random,
}

/// The heads that turn features into logits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadSection {
    /// Whether modalities have a head at all; false for fusions with a joint head alone.
    pub unimodal: bool,
    /// Whether all modalities share one head; asks for equal feature widths.
    pub shared: bool,
    /// Widths of the hidden layers. Released code: 256, 64.
    pub hidden: Vec<i64>,
    /// Where ReLU stands.
    pub relu: HeadRelu,
    /// Share of each layer's inputs that is dropped in training, in `[0, 1)`. The paper: 0.
    pub dropout: f64,
}

impl Default for HeadSection {
    fn default() -> Self {
        Self {
            unimodal: true,
            shared: false,
            hidden: vec![256, 64],
            relu: HeadRelu::First,
            dropout: 0.0,
        }
    }
}

/// Where ReLU stands in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadRelu {
    /// After the first layer only, as in the released code.
    First,
    /// After every layer but the last.
    All,
    /// Nowhere.
    None,
}

/// How the best checkpoint is chosen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionSection {
    /// Split to choose by. `test` is for comparison with published numbers that did so; it marks
    /// the run `oracle` in every table.
    pub split: SelectionSplit,
    /// What is compared.
    pub metric: Metric,
}

impl Default for SelectionSection {
    fn default() -> Self {
        Self { split: SelectionSplit::Valid, metric: Metric::Accuracy }
    }
}

/// Split to choose a checkpoint by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SelectionSplit {
    /// The validation split.
    Valid,
    /// The test split: an oracle.
    Test,
    /// No choice: the last weights count.
    None,
}

impl SelectionSplit {
    /// The split, unless there is no choice.
    pub fn split(self) -> Option<Split> {
        match self {
            Self::Valid => Some(Split::Valid),
            Self::Test => Some(Split::Test),
            Self::None => None,
        }
    }
}

/// What a checkpoint is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of correct decisions.
    Accuracy,
    /// Mean over classes of the F1 score.
    MacroF1,
    /// Mean over classes of average precision.
    MeanAveragePrecision,
}

impl Metric {
    /// Name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::MacroF1 => "macro_f1",
            Self::MeanAveragePrecision => "mean_average_precision",
        }
    }
}

/// Things that do not change results.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Threads that decode samples; 0 decodes on the training thread.
    pub workers: usize,
    /// Batches decoded ahead; at least 1.
    pub prefetch_batches: usize,
    /// Most gigabytes (1e9 bytes) of decoded files that are kept on disk between epochs and runs; 0
    /// keeps none. They lie in `MIE_CACHE_DIR`, or else below `~/.cache/mie/decoded`.
    pub cache_gigabytes: f64,
    /// Steps between records of loss and gradient norm; at least 1.
    pub log_every_steps: u64,
    /// Epochs between checkpoints to resume from; at least 1.
    pub checkpoint_every_epochs: usize,
    /// Steps between further checkpoints within an epoch; 0 for none.
    pub checkpoint_every_steps: u64,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            workers: 1,
            prefetch_batches: 4,
            cache_gigabytes: 8.0,
            log_every_steps: 20,
            checkpoint_every_epochs: 1,
            checkpoint_every_steps: 0,
        }
    }
}

/// An experiment with everything filled in.
#[derive(Debug)]
pub struct Resolved {
    /// The experiment.
    pub experiment: Experiment,
    /// Files and options it came from.
    pub source: Source,
}

impl Resolved {
    /// Reads an experiment file and applies `key.path=value` assignments.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] for anything that does not describe a run.
    pub fn read(file: &Path, assignments: &[String]) -> Result<Self> {
        let mut source = Source::read(file)?;
        for assignment in assignments {
            source.set(assignment)?;
        }
        refuse_reserved_keys(&source)?;
        let mut experiment: Experiment = decode::decode(&source)?;
        if experiment.name.is_empty() {
            experiment.name = name_of(file)?;
        }
        let resolved = Self { experiment, source };
        decode::refuse_lists_for_tables(&resolved.source, &resolved.tree()?)?;
        resolved.validate()?;
        Ok(resolved)
    }

    /// The whole experiment as TOML, every default written out; loadable as it is.
    ///
    /// # Errors
    /// [`Error::Bug`] when a plugin's configuration cannot be written.
    pub fn to_toml(&self) -> Result<String> {
        to_toml(&self.tree()?)
    }

    /// Names the run within its experiment: the seed, and the hash of its settings.
    ///
    /// # Errors
    /// As [`Resolved::to_toml`].
    pub fn fingerprint(&self) -> Result<String> {
        Ok(format!("seed{}-{}", self.experiment.seed, self.settings()?))
    }

    /// Hash of everything but the seed that can change results.
    ///
    /// # Errors
    /// As [`Resolved::to_toml`].
    pub fn settings(&self) -> Result<String> {
        let mut tree = self.tree()?;
        if let Some(table) = tree.as_object_mut() {
            // Equal experiments under several seeds share their hash: they are paired.
            for key in ["seed", "run", "name"] {
                table.remove(key);
            }
        }
        let hash = Sha256::digest(canonical(&tree).as_bytes());
        Ok(crate::hash::hex(&hash[..5]))
    }

    /// The whole experiment as a tree, every default filled in.
    ///
    /// # Errors
    /// As [`Resolved::to_toml`].
    pub fn tree(&self) -> Result<Value> {
        serde_json::to_value(&self.experiment)
            .map_err(|e| Error::Bug(format!("an experiment cannot be written: {e}")))
    }

    fn validate(&self) -> Result<()> {
        let e = &self.experiment;
        let within = |path: &str, result: Result<()>| {
            result.map_err(|error| Error::Config {
                at: match self.source.origin(&field_path(path, &error)) {
                    Some(origin) => format!("{origin}: {path}"),
                    None => path.to_owned(),
                },
                problem: error.to_string(),
            })
        };
        within("name", ensure_range("name", NAME_LETTERS, &e.name, is_name(&e.name)))?;
        within("dataset", e.dataset.validate())?;
        for (name, modality) in &e.modalities {
            let path = format!("modalities.{name}");
            within(&format!("{path}.input"), modality.input.validate())?;
            within(&format!("{path}.encoder"), modality.encoder.validate())?;
            if let Some(width) = modality.projection {
                within(&path, ensure_range("projection", "at least 1", width, width > 0))?;
            }
            if let Some(weights) = &modality.weights {
                within(&format!("{path}.weights"), validate_weights(weights))?;
            }
        }
        within(
            "modalities",
            ensure_range(
                "modalities",
                "at least one",
                e.modalities.len(),
                !e.modalities.is_empty(),
            ),
        )?;
        let narrowest = e.head.hidden.iter().min().copied().unwrap_or(1);
        within("head", ensure_range("hidden", "widths of at least 1", narrowest, narrowest > 0))?;
        let dropout = e.head.dropout;
        within("head", ensure_range("dropout", "[0, 1)", dropout, (0.0..1.0).contains(&dropout)))?;
        within("fusion", e.fusion.validate())?;
        for (index, plugin) in e.also_evaluate.iter().enumerate() {
            within(&format!("also_evaluate.{index}"), plugin.validate())?;
        }
        within(
            "objectives",
            ensure_range(
                "objectives",
                "at least one",
                e.objectives.len(),
                !e.objectives.is_empty(),
            ),
        )?;
        for (index, plugin) in e.objectives.iter().enumerate() {
            within(&format!("objectives.{index}"), plugin.validate())?;
        }
        within("optimizer", e.optimizer.validate())?;
        for (index, plugin) in e.gradient_modifiers.iter().enumerate() {
            within(&format!("gradient_modifiers.{index}"), plugin.validate())?;
        }
        for (index, plugin) in e.controllers.iter().enumerate() {
            within(&format!("controllers.{index}"), plugin.validate())?;
        }
        within("strategy", e.strategy.validate())?;
        let size = e.run.cache_gigabytes;
        within(
            "run",
            ensure_range("cache_gigabytes", "[0, 1e6]", size, (0.0..=1e6).contains(&size)),
        )?;
        within("data", self.validate_data())?;
        let run = &e.run;
        for (field, value) in [
            ("prefetch_batches", run.prefetch_batches as u64),
            ("log_every_steps", run.log_every_steps),
            ("checkpoint_every_epochs", run.checkpoint_every_epochs as u64),
        ] {
            within("run", ensure_range(field, "at least 1", value, value > 0))?;
        }
        within("run", ensure_range("workers", "[0, 256]", run.workers, run.workers <= 256))?;
        Ok(())
    }

    fn validate_data(&self) -> Result<()> {
        let data = &self.experiment.data;
        ensure_range("batch_size", "at least 1", data.batch_size, data.batch_size > 0)?;
        let size = data.evaluation_batch_size;
        ensure_range("evaluation_batch_size", "at least 1", size, size > 0)?;
        let share = data.validation_share;
        ensure_range("validation_share", "[0, 1)", share, (0.0..1.0).contains(&share))?;
        if let Some(count) = data.train_per_class {
            ensure_range("train_per_class", "at least 1", count, count > 0)?;
        }
        if let Some(mixup) = &data.mixup {
            ensure_range("mixup.alpha", "(0, inf)", mixup.alpha, mixup.alpha > 0.0)?;
            if let Some(name) =
                mixup.modalities.iter().find(|name| !self.experiment.modalities.contains_key(*name))
            {
                let known: Vec<_> = self.experiment.modalities.keys().collect();
                ensure_range("mixup.modalities", &format!("some of {known:?}"), name, false)?;
            }
        }
        Ok(())
    }
}

/// Reads a dataset that stands alone: its table, and `dataset.key=value` assignments on top.
///
/// # Errors
/// [`Error::Config`] for an assignment that does not describe a dataset.
pub fn alone(dataset: Value, assignments: &[String]) -> Result<Box<dyn DatasetConfig>> {
    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Alone {
        dataset: Box<dyn DatasetConfig>,
    }
    let mut source = Source::default();
    source.tree.insert("dataset".to_owned(), dataset);
    for assignment in assignments {
        source.set(assignment)?;
    }
    let alone: Alone = decode::decode(&source)?;
    let tree = serde_json::to_value(&alone)
        .map_err(|e| Error::Bug(format!("a dataset cannot be written: {e}")))?;
    decode::refuse_lists_for_tables(&source, &tree)?;
    alone.dataset.validate().map_err(|error| Error::Config {
        at: decode::place(&source, &field_path("dataset", &error)),
        problem: error.to_string(),
    })?;
    Ok(alone.dataset)
}

fn validate_weights(weights: &WeightsSection) -> Result<()> {
    let file = weights.file.display();
    ensure_range("file", "the path of a file", &file, !weights.file.as_os_str().is_empty())?;
    let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let hash = weights.sha256.as_deref();
    let shown = hash.unwrap_or_default();
    ensure_range("sha256", "64 hexadecimal digits", shown, hash.is_none_or(is_hash))
}

/// Path of the option that an error names, for finding who set it.
fn field_path(path: &str, error: &Error) -> String {
    match error {
        Error::Range { field, .. } if path.rsplit('.').next() != Some(field) => {
            format!("{path}.{field}")
        }
        _ => path.to_owned(),
    }
}

/// Writes a tree so that equal trees give equal text, whatever the order of keys.
fn canonical(tree: &Value) -> String {
    match tree {
        Value::Object(table) => {
            let sorted: BTreeMap<_, _> = table
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, canonical(value)))
                .collect();
            let parts: Vec<_> =
                sorted.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// What the name of an experiment may be made of: it becomes a path below the folder of runs.
const NAME_LETTERS: &str = "letters, digits, `_`, `-`, `.` and `/`";

fn is_name_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_-./".contains(letter)
}

fn is_name(name: &str) -> bool {
    name.chars().all(is_name_letter)
        && !name.split('/').any(|part| part.trim_matches('.').is_empty())
}

/// Makes the name of an experiment from the path of its file.
fn name_of(file: &Path) -> Result<String> {
    // Whole, so that the name does not depend on the current folder.
    let whole = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let stem = whole.file_stem().unwrap_or_default().to_string_lossy();
    let name = match whole.parent().and_then(Path::file_name) {
        Some(folder) => format!("{}/{stem}", folder.to_string_lossy()),
        None => stem.into_owned(),
    };
    if is_name(&name) {
        return Ok(name);
    }
    let legal = name.replace(|letter: char| !is_name_letter(letter), "_");
    Err(Error::Config {
        at: format!("{}: name", shown(file)),
        problem: format!(
            "no `name` is set, and the one made from the path is `{name}`, expected \
             {NAME_LETTERS}: add `name = \"{legal}\"`, or rename file or folder"
        ),
    })
}

/// Refuses `name` as a key of the user's own: everywhere it is what names a plugin.
fn refuse_reserved_keys(source: &Source) -> Result<()> {
    for (table, thing) in [("modalities", "a modality"), ("deviations", "a deviation")] {
        if source.tree.get(table).is_some_and(|entries| entries.get("name").is_some()) {
            return Err(Error::Config {
                at: decode::place(source, &format!("{table}.name")),
                problem: format!(
                    "`name` cannot be the name of {thing}, because it names plugins: choose \
                     another one"
                ),
            });
        }
    }
    Ok(())
}
