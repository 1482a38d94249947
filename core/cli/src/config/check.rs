//! `mie config check`.

use std::path::{Path, PathBuf};

use clap::Args;
use mie_core::config::{Experiment, Resolved, shown};
use mie_core::data::DataSource;
use mie_core::engine::{self, Plan};
use mie_core::error::guarded;
use mie_core::family::OpenContext;
use mie_core::random::Seed;
use mie_core::weights;
use mie_core::{Error, Result};

use crate::arguments::{DataDir, Overrides};
use crate::format::{count, grouped};
use crate::phases;
use crate::terminal::Shell;

/// Number of classes to assume where neither the data nor the dataset's options tell.
const ASSUMED_CLASSES: usize = 2;

/// Checks that experiments can be read and that their parts fit together
///
/// Builds each model, runs it once on made-up inputs and prints what would be trained. Reads no
/// sample.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Experiments: TOML files
    #[arg(value_name = "CONFIG", required = true)]
    configs: Vec<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    data_dir: DataDir,
}

impl Check {
    /// Checks every file, whatever becomes of the others, and counts those that fail.
    pub(super) fn failures(&self, shell: &mut Shell) -> usize {
        let folder = self.data_dir.folder();
        let mut failed = 0;
        for file in &self.configs {
            match Checked::of(file, &self.overrides.set, &folder) {
                Ok(checked) if self.configs.len() == 1 => shell.line(&checked.page(file)),
                Ok(checked) => shell.line(&checked.line(file)),
                Err(error) => {
                    failed += 1;
                    shell.error(&located(file, &error));
                }
            }
        }
        if failed > 0 && self.configs.len() > 1 {
            shell.note(&format!("{failed} of {} experiments fail", self.configs.len()));
        }
        failed
    }
}

/// Puts the file before an error that does not name it.
fn located(file: &Path, error: &Error) -> String {
    let (file, error) = (shown(file), error.to_string());
    if error.starts_with(&file) { error } else { format!("{file}: {error}") }
}

/// An experiment that can be read and whose parts fit together.
struct Checked {
    name: String,
    plan: Plan,
    /// What could not be checked for want of data.
    notes: Vec<String>,
}

impl Checked {
    fn of(file: &Path, assignments: &[String], data_dir: &Path) -> Result<Self> {
        let resolved = Resolved::read(file, assignments)?;
        let (classes, source, note) = classes(&resolved.experiment, data_dir)?;
        let absent = weights::absent(&resolved.experiment, data_dir);
        // Like data that are missing here, they are no fault of the configuration.
        let folder = absent.is_empty().then_some(data_dir);
        let plan = engine::plan(&resolved.experiment, classes, source.as_ref(), folder)?;
        let missing = absent
            .keys()
            .map(|file| format!("weights not found, the run would be refused: {}", file.display()));
        let notes = note.into_iter().chain(missing).collect();
        Ok(Self { name: resolved.experiment.name, plan, notes })
    }

    /// Describes it in one line, for a list.
    fn line(&self, file: &Path) -> String {
        let warnings = match self.plan.warnings.len() {
            0 => String::new(),
            number => format!(" [{}]", count(number, "warning")),
        };
        format!("ok  {}  {}{warnings}", file.display(), phases::describe(&self.plan.phases))
    }

    /// Describes it in full.
    fn page(&self, file: &Path) -> String {
        let plan = &self.plan;
        let parameters: usize = plan.parameters.values().sum();
        let width = plan.parameters.keys().map(String::len).max().unwrap_or_default();
        let mut lines = vec![
            format!("{}: the parts fit together", file.display()),
            format!("  experiment  {}", self.name),
            format!("  phases      {}", phases::describe(&plan.phases)),
            format!("  parameters  {}", grouped(parameters as u64)),
        ];
        lines.extend(plan.parameters.iter().map(|(group, size)| {
            let size = grouped(*size as u64);
            format!("              {group:width$}  {size:>11}")
        }));
        lines.push(format!("  outputs     {}", plan.outputs.join(", ")));
        lines.extend(self.notes.iter().map(|note| format!("  note        {note}")));
        lines.extend(plan.warnings.iter().map(|warning| format!("  warning     {warning}")));
        lines.join("\n")
    }
}

/// Counts the classes, or assumes those of a complete copy; with the data and what to know about
/// them.
///
/// # Errors
/// When the experiment asks for a modality that the dataset does not have.
fn classes(
    experiment: &Experiment,
    data_dir: &Path,
) -> Result<(usize, Option<DataSource>, Option<String>)> {
    let context = OpenContext { base: data_dir.to_owned(), seed: Seed(experiment.seed) };
    let plugin = format!("dataset `{}`", experiment.dataset.typetag_name());
    let dataset = match guarded(&plugin, || experiment.dataset.open(&context)) {
        Ok(dataset) => dataset,
        Err(error) => {
            let classes = experiment.dataset.class_count().unwrap_or(ASSUMED_CLASSES);
            let note = format!("data not found: assuming {classes} classes ({error})");
            return Ok((classes, None, Some(note)));
        }
    };
    let held = dataset.modalities();
    let (source, note) = match engine::open_data(experiment, data_dir) {
        Ok(source) => (Some(source), None),
        // Files that are missing here are no fault of the configuration.
        Err(error) if experiment.modalities.keys().all(|name| held.contains(name)) => {
            let note = format!("with the data as they are the run would be refused: {error}");
            (None, Some(note))
        }
        Err(error) => return Err(error),
    };
    Ok((dataset.classes().len(), source, note))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mie_core::family::{Load, Phase, Score, SubStep};

    use super::*;
    use crate::terminal::tests::paper;

    fn checked() -> Checked {
        let phase = Phase {
            label: "joint".to_owned(),
            sub_steps: vec![SubStep { modalities: vec!["audio".to_owned(), "video".to_owned()] }],
            epochs: 20,
            load: Load::Best,
            reset_optimizer: true,
            source: Vec::new(),
            objectives: Vec::new(),
            score: Score::Fused,
        };
        Checked {
            name: "digits/joint".to_owned(),
            plan: Plan {
                phases: vec![phase],
                parameters: BTreeMap::from([
                    ("encoder.audio".to_owned(), 11_176_512),
                    ("fusion".to_owned(), 512),
                ]),
                outputs: vec!["audio".to_owned(), "fused".to_owned()],
                warnings: vec!["the radius is too small".to_owned()],
            },
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_single_experiment_is_described_in_full() {
        assert_eq!(
            checked().page(Path::new("a.toml")),
            "a.toml: the parts fit together\n  \
             experiment  digits/joint\n  \
             phases      audio+video 20: 20 epochs in 1 phase\n  \
             parameters  11,177,024\n              \
             encoder.audio   11,176,512\n              \
             fusion                 512\n  \
             outputs     audio, fused\n  \
             warning     the radius is too small"
        );
    }

    #[test]
    fn one_of_several_experiments_is_one_line() {
        assert_eq!(
            checked().line(Path::new("a.toml")),
            "ok  a.toml  audio+video 20: 20 epochs in 1 phase [1 warning]"
        );
    }

    #[test]
    fn a_file_that_is_not_there_fails_and_is_named_once() {
        let (mut shell, out, err) = paper();
        let command = Check {
            configs: vec![PathBuf::from("no/such.toml")],
            overrides: Overrides { set: Vec::new() },
            data_dir: DataDir::default(),
        };
        assert_eq!(command.failures(&mut shell), 1);
        assert_eq!(out.text(), "");
        let err = err.text();
        assert!(err.starts_with("error: no/such.toml: cannot read"), "{err}");
        assert_eq!(err.matches("no/such.toml").count(), 1, "{err}");
    }
}
