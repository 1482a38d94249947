//! `mie runs compare`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mie_core::config::Setting;
use mie_core::{Error, Result};
use mie_record::{DataRecord, Manifest, RunDir};
use mie_report::Overview;
use serde_json::{Value, json};

use crate::config::diff::{Difference, differences, read};
use crate::config::value_in_words;
use crate::format::{duration, grouped};
use crate::tables::{in_order, percent, table};
use crate::terminal::Shell;

/// Compares runs: scores, costs, and what differs in how they were made
///
/// Shows accuracies on the test and validation splits and after each phase, the shares of time,
/// the mean norms of gradients and cosines between the modalities' heads, and every setting that
/// differs. What makes the comparison unsound, such as other data, is said.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Run directories, two or more
    #[arg(value_name = "RUN", num_args = 2.., required = true)]
    runs: Vec<PathBuf>,
    /// Print one JSON object, with everything that is known of each run
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let mut runs = Vec::new();
        let mut settings = Vec::new();
        for path in &self.runs {
            runs.push(Overview::read(&RunDir::open(path).map_err(Error::from)?)?);
            settings.push(read(path)?);
        }
        let settings: Vec<&[Setting]> = settings.iter().map(Vec::as_slice).collect();
        let made: Vec<(String, Vec<String>)> =
            differing_settings(&settings).into_iter().chain(differing_facts(&runs)).collect();
        let unsound = unsound(&runs);
        if self.json {
            let rows = |rows: &[(String, Vec<String>)]| -> Vec<Value> {
                rows.iter()
                    .map(|(name, values)| json!({ "name": name, "values": values }))
                    .collect()
            };
            shell.json_page(&json!({
                "runs": runs,
                "differences": rows(&made),
                "warnings": unsound,
            }));
            return Ok(ExitCode::SUCCESS);
        }
        shell.line(&describe(&runs, &made));
        for warning in unsound {
            shell.warning(&warning);
        }
        Ok(ExitCode::SUCCESS)
    }
}

type Rows = Vec<(String, Vec<String>)>;

fn describe(runs: &[Overview], made: &Rows) -> String {
    let names: Vec<String> = (0..runs.len()).map(letter).collect();
    let mut lines: Vec<String> = runs
        .iter()
        .zip(&names)
        .map(|(run, name)| format!("{name}  {} (seed {})", run.path, run.manifest.seed))
        .collect();
    let blocks = [
        ("accuracy %", scores(runs)),
        ("accuracy % after each phase", phases(runs)),
        ("cost", costs(runs)),
        ("gradients, mean over the recorded steps", gradients(runs)),
        ("what differs", made.clone()),
    ];
    for (title, rows) in blocks {
        if rows.is_empty() {
            continue;
        }
        let header: Vec<String> =
            std::iter::once(title.to_owned()).chain(names.iter().cloned()).collect();
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|(name, values)| std::iter::once(name).chain(values).collect())
            .collect();
        lines.push(format!("\n{}", table(&header, &rows, 1)));
    }
    if made.is_empty() {
        lines.push("\nnothing differs in how they were made".to_owned());
    }
    lines.join("\n")
}

/// `A`, `B` … as runs are called in the tables.
fn letter(index: usize) -> String {
    let letter = u8::try_from(index % 26).map_or('?', |offset| char::from(b'A' + offset));
    if index < 26 { letter.to_string() } else { format!("{letter}{}", index / 26) }
}

/// A row for each name that any run has something under.
fn rows<T>(
    runs: &[Overview],
    of: impl Fn(&Overview) -> Vec<(String, T)>,
    show: impl Fn(&T) -> String,
) -> Rows {
    let mut names: Vec<String> = Vec::new();
    let found: Vec<BTreeMap<String, T>> = runs
        .iter()
        .map(|run| {
            let listed = of(run);
            for (name, _) in &listed {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            listed.into_iter().collect()
        })
        .collect();
    let row = |name: String| {
        let cell =
            |values: &BTreeMap<String, T>| values.get(&name).map_or_else(|| "-".to_owned(), &show);
        let cells = found.iter().map(cell).collect();
        (name, cells)
    };
    names.into_iter().map(row).collect()
}

fn scores(runs: &[Overview]) -> Rows {
    let of = |run: &Overview| {
        let Some(summary) = &run.summary else {
            let latest = in_order(&run.scores).into_iter();
            return latest.map(|(name, m)| (format!("latest {name}"), m.accuracy)).collect();
        };
        let splits = ["test", "valid"].into_iter();
        splits
            .filter_map(|split| Some((split, summary.outputs.get(split)?)))
            .flat_map(|(split, outputs)| {
                let named = in_order(outputs).into_iter();
                named.map(move |(name, metrics)| (format!("{split} {name}"), metrics.accuracy))
            })
            .collect()
    };
    rows(runs, of, |accuracy| percent(*accuracy))
}

fn phases(runs: &[Overview]) -> Rows {
    let of = |run: &Overview| {
        let phases = run.summary.iter().flat_map(|summary| &summary.phases).enumerate();
        phases
            .flat_map(|(index, phase)| {
                let accuracies = in_order(&phase.accuracy).into_iter();
                let name = move |output: &str| format!("{} {}: {output}", index + 1, phase.label);
                accuracies.map(move |(output, accuracy)| (name(output), *accuracy))
            })
            .collect()
    };
    rows(runs, of, |accuracy| percent(*accuracy))
}

fn costs(runs: &[Overview]) -> Rows {
    let of = |run: &Overview| {
        let Some(summary) = &run.summary else {
            return vec![("epochs".to_owned(), run.epochs.to_string())];
        };
        let cost = &summary.cost;
        let share = |part: f64, whole: f64| {
            if whole > 0.0 { format!("{} %", percent(part / whole)) } else { "-".to_owned() }
        };
        let memory = cost.peak_memory_bytes.map(|bytes| format!("{:.2} GB", bytes as f64 / 1e9));
        let of_training = |part| share(part, cost.train_seconds);
        [
            ("epochs", run.epochs.to_string()),
            ("steps", grouped(cost.steps)),
            ("samples seen", grouped(cost.samples_seen)),
            ("forward passes", grouped(cost.forward_passes)),
            ("backward passes", grouped(cost.backward_passes)),
            ("wall time", duration(cost.wall_seconds)),
            ("  training", share(cost.train_seconds, cost.wall_seconds)),
            ("  evaluation", share(cost.evaluate_seconds, cost.wall_seconds)),
            ("  refreshes", share(cost.refresh_seconds, cost.wall_seconds)),
            ("  saving", share(cost.save_seconds, cost.wall_seconds)),
            ("of the training", String::new()),
            ("  waiting for data", of_training(cost.data_wait_seconds)),
            ("  at displaced weights", of_training(cost.displaced_seconds)),
            ("  in modifiers", of_training(cost.modify_seconds)),
            ("peak memory", memory.unwrap_or_else(|| "-".to_owned())),
        ]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text))
        .collect()
    };
    rows(runs, of, Clone::clone)
}

fn gradients(runs: &[Overview]) -> Rows {
    let of = |run: &Overview| {
        let norms = run.gradient_norms.iter().map(|(group, norm)| (format!("norm {group}"), norm));
        let cosines = run
            .head_gradient_cosines
            .iter()
            .map(|(pair, cosine)| (format!("cosine {pair}"), cosine));
        norms.chain(cosines).map(|(name, value)| (name, *value)).collect()
    };
    rows(runs, of, |value| format!("{value:.3}"))
}

fn differing_settings(settings: &[&[Setting]]) -> Rows {
    let differences = differences(settings);
    let row = |difference: &Difference<'_>| {
        let cell = |side: Option<&Setting>| {
            side.map_or_else(|| "absent".to_owned(), |setting| value_in_words(&setting.value))
        };
        (difference.path.to_owned(), difference.sides.iter().copied().map(cell).collect())
    };
    differences.iter().map(row).collect()
}

/// What of device, programs and data is not the same in all runs.
fn differing_facts(runs: &[Overview]) -> Rows {
    let facts = |run: &Overview| -> Vec<(String, String)> {
        let manifest = &run.manifest;
        let mut facts = vec![
            ("device".to_owned(), manifest.device.clone()),
            ("threads".to_owned(), manifest.threads.to_string()),
            ("commit".to_owned(), manifest.commit.clone().unwrap_or_else(|| "-".to_owned())),
        ];
        let versions = manifest.versions.iter();
        facts.extend(
            versions.map(|(name, version)| (format!("version of {name}"), version.clone())),
        );
        facts.extend(manifest.data.iter().map(data_fact));
        let marks = run.summary.as_ref().map_or(&manifest.marks, |summary| &summary.marks);
        facts.push(("marks".to_owned(), marks.join(", ")));
        facts
    };
    let mut rows = rows(runs, facts, Clone::clone);
    rows.retain(|(_, values)| values.iter().any(|value| value != &values[0]));
    rows
}

fn data_fact(record: &DataRecord) -> (String, String) {
    let DataRecord { dataset, split, samples, fingerprint, .. } = record;
    let short = fingerprint.get(..8).unwrap_or(fingerprint);
    (format!("{split} data"), format!("{} of {dataset} ({short})", grouped(*samples)))
}

/// Why the numbers of these runs may not be held against each other.
fn unsound(runs: &[Overview]) -> Vec<String> {
    let mut warnings = Vec::new();
    let several = |of: &dyn Fn(&Manifest) -> String| {
        runs.iter().map(|run| of(&run.manifest)).collect::<BTreeSet<_>>().len() > 1
    };
    let data_of = |split: &'static str| {
        move |manifest: &Manifest| {
            let record = manifest.data.iter().find(|record| record.split == split);
            record.map_or_else(String::new, |record| record.fingerprint.clone())
        }
    };
    if several(&data_of("test")) {
        warnings.push(
            "they were tested on different samples: no score of one says anything about \
                       another"
                .to_owned(),
        );
    }
    if several(&data_of("train")) {
        warnings.push("they were trained on different samples".to_owned());
    }
    if several(&|manifest| format!("{:?} {:?}", manifest.versions, manifest.device)) {
        warnings.push("programs or devices differ, so times do too".to_owned());
    }
    for run in runs.iter().filter(|run| run.summary.is_none()) {
        warnings.push(format!("{} has not finished", run.path));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_by_letters_however_many_there_are() {
        assert_eq!(letter(0), "A");
        assert_eq!(letter(25), "Z");
        assert_eq!(letter(26), "A1");
    }
}
