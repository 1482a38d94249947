//! `mie eval`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mie_core::Result;
use mie_core::engine::{self, Evaluation, FUSED};
use mie_core::family::Split;
use serde_json::json;

use crate::arguments::{DataDir, DeviceChoice, Overrides};
use crate::format::duration;
use crate::tables;
use crate::terminal::Shell;

/// Evaluates the selected weights of a run
///
/// Prints the scores of every output and which classes the joint decision takes for which. The
/// test split of a run that is not finished stays locked.
#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// Run directory, as `mie train` names it
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Split to evaluate on
    #[arg(long, value_enum, default_value_t = Evaluated::Test)]
    split: Evaluated,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    data_dir: DataDir,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Evaluated {
    Valid,
    Test,
}

impl Eval {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let split = match self.split {
            Evaluated::Valid => Split::Valid,
            Evaluated::Test => Split::Test,
        };
        let device = self.device.find()?;
        let folder = self.data_dir.folder_of(&self.run);
        let (evaluation, classes) =
            engine::evaluate_run(&self.run, split, &folder, device, &self.overrides.set)?;
        if self.json {
            shell.json_page(&json!({
                "run": self.run.display().to_string(),
                "split": split.name(),
                "classes": classes,
                "seconds": evaluation.seconds,
                "outputs": evaluation.outputs,
            }));
        } else {
            shell.line(&describe(&evaluation, &classes));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(evaluation: &Evaluation, classes: &[String]) -> String {
    let split = evaluation.split.name();
    let mut lines = vec![tables::scores(&[(split, &evaluation.metrics())])];
    if let Some(fused) = evaluation.outputs.get(FUSED) {
        lines.push(String::new());
        lines.push("joint decision: true classes in rows, predicted ones in columns".to_owned());
        lines.push(tables::confusion(&fused.confusion, classes));
        let absent: Vec<&str> = fused
            .classes_without_samples
            .iter()
            .filter_map(|&class| classes.get(class).map(String::as_str))
            .collect();
        if !absent.is_empty() {
            lines.push(format!("no sample of: {}; each adds 0 to MAP", absent.join(", ")));
        }
    }
    lines.push(format!("took {}", duration(evaluation.seconds)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mie_core::metrics::Report;

    use super::*;

    #[test]
    fn an_evaluation_shows_scores_confusion_and_classes_without_samples() {
        let report = Report {
            samples: 4,
            accuracy: 0.75,
            macro_f1: 0.5,
            mean_average_precision: 0.25,
            loss: 1.0,
            confusion: vec![vec![3, 1], vec![0, 0]],
            classes_without_samples: vec![1],
        };
        let evaluation = Evaluation {
            split: Split::Valid,
            outputs: BTreeMap::from([(FUSED.to_owned(), report)]),
            seconds: 1.5,
        };
        let text = describe(&evaluation, &["angry".to_owned(), "sad".to_owned()]);
        assert!(text.contains("valid") && text.contains("75.00"), "{text}");
        assert!(text.contains("1 sad"), "{text}");
        assert!(text.ends_with("no sample of: sad; each adds 0 to MAP\ntook 1.5 s"), "{text}");
    }
}
