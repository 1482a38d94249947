//! `mie weights`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use mie_core::weights::{WeightsFile, sha256};
use mie_core::{Error, Result};
use serde_json::{Value, json};

use crate::format::{count, grouped};
use crate::tables::table;
use crate::terminal::Shell;

#[derive(Debug, Subcommand)]
pub(crate) enum Weights {
    Show(Show),
    Convert(Convert),
}

impl Weights {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        match self {
            Self::Show(command) => command.run(shell),
            Self::Convert(command) => command.run(shell),
        }
    }
}

/// Lists the tensors of a file: safetensors, or a checkpoint of torch
///
/// Nothing of a checkpoint is executed: one with more in it than tensors is refused.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Entry of a checkpoint that holds the tensors [default: its top, or else `state_dict`,
    /// `model` or `model_state_dict`]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Show {
    fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let file = WeightsFile::open(&self.file, self.key.as_deref())?;
        let hash = sha256(&self.file)?;
        if self.json {
            shell.json_page(&page(&file, &self.file, &hash));
        } else {
            shell.line(&describe(&file, &hash));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Numbers of all tensors together.
fn total(file: &WeightsFile) -> u64 {
    file.tensors().fold(0, |sum, (_, described)| sum.saturating_add(described.count()))
}

fn page(file: &WeightsFile, path: &Path, hash: &str) -> Value {
    let tensors: Vec<Value> = file
        .tensors()
        .map(|(name, described)| {
            json!({ "name": name, "shape": described.shape, "dtype": described.numbers.name() })
        })
        .collect();
    json!({
        "file": path.display().to_string(),
        "format": file.format(),
        "sha256": hash,
        "numbers": total(file),
        "tensors": tensors,
        "others": file.others(),
    })
}

fn describe(file: &WeightsFile, hash: &str) -> String {
    let header = ["tensor", "dtype", "shape", "numbers"].map(str::to_owned);
    let rows: Vec<Vec<String>> = file
        .tensors()
        .map(|(name, described)| {
            let sizes: Vec<String> = described.shape.iter().map(i64::to_string).collect();
            vec![
                name.to_owned(),
                described.numbers.name().to_owned(),
                sizes.join(" x "),
                grouped(described.count()),
            ]
        })
        .collect();
    let mut lines = vec![
        table(&header, &rows, 2),
        format!("{} of {} numbers", count(rows.len(), "tensor"), grouped(total(file))),
        format!("format  {}", file.format()),
        format!("sha256  {hash}"),
    ];
    if !file.others().is_empty() {
        lines.push(format!("not tensors: {}", file.others().join(", ")));
    }
    lines.join("\n")
}

/// Writes the tensors of a file as safetensors of f32, under their names
///
/// Whole numbers, such as counts of batches, are left out.
#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// The file: safetensors, or a checkpoint of torch
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Entry of a checkpoint that holds the tensors [default: its top, or else `state_dict`,
    /// `model` or `model_state_dict`]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

impl Convert {
    fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        if self.out.exists() && !self.force {
            return Err(Error::refused(
                format!("{} is there already", self.out.display()),
                "choose another name, or add --force to replace it",
            ));
        }
        let mut file = WeightsFile::open(&self.file, self.key.as_deref())?;
        let written = file.convert(&self.out)?;
        let left = file.tensors().count() - written;
        if left > 0 {
            shell.note(&format!("left out {} without fractions", count(left, "tensor")));
        }
        shell.line(&format!("{}: {}", self.out.display(), count(written, "tensor")));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::tests::paper;

    fn reference(name: &str) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/data/weights");
        Path::new(folder).join(name)
    }

    fn show(name: &str, key: Option<&str>, json: bool) -> (Result<ExitCode>, String) {
        let (mut shell, out, _) = paper();
        let command = Show { file: reference(name), key: key.map(str::to_owned), json };
        let outcome = command.run(&mut shell);
        (outcome, out.text())
    }

    #[test]
    fn tensors_are_listed_with_their_shapes_and_their_sum() {
        let (_, text) = show("nested.pt", None, false);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.contains(&vec!["num_batches_tracked", "i64", "1"]), "{text}");
        assert!(lines.contains(&vec!["running_mean", "f32", "2", "2"]), "{text}");
        assert!(text.contains("5 tensors of 9 numbers\nformat  checkpoint of torch\n"), "{text}");
        let (_, text) = show("archive.pt", None, false);
        assert!(text.contains("2 x 3 x 2"), "{text}");
    }

    #[test]
    fn the_listing_as_json_has_the_hash_for_a_configuration() {
        let (_, text) = show("nested.pt", Some("ema"), true);
        let page: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(page["sha256"], sha256(&reference("nested.pt")).unwrap());
        assert_eq!(page["tensors"], json!([{ "name": "weight", "shape": [2], "dtype": "f32" }]));
    }

    #[test]
    fn a_file_that_would_run_a_command_fails_with_exit_status_1() {
        let error = show("hostile.pt", None, false).0.unwrap_err();
        assert!(error.to_string().contains("`posix.system`"), "{error}");
        assert_eq!(error.exit_status(), 1);
    }

    #[test]
    fn a_conversion_replaces_nothing_unless_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let convert = |force| {
            let (mut shell, out, err) = paper();
            let out_file = folder.path().join("a.safetensors");
            let command =
                Convert { file: reference("legacy.pth"), out: out_file, key: None, force };
            (command.run(&mut shell), out.text(), err.text())
        };
        let (outcome, out, err) = convert(false);
        outcome.unwrap();
        assert!(out.ends_with("a.safetensors: 13 tensors\n"), "{out}");
        assert_eq!(err, "left out 6 tensors without fractions\n");
        let error = convert(false).0.unwrap_err();
        assert!(error.to_string().contains("a.safetensors is there already"), "{error}");
        assert_eq!(error.exit_status(), 2);
        convert(true).0.unwrap();
    }
}
