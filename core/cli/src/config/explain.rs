//! `mie config explain`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use mie_core::config::{Entry, Manual, Resolved, Setting, closest, settings};
use mie_core::{Error, Result};
use serde_json::{Value, json};

use super::{experiment_file, setter_in_words, value_in_words};
use crate::arguments::Overrides;
use crate::format::shell_path;
use crate::terminal::Shell;

/// Columns of text where nothing tells how many there are.
const USUAL_WIDTH: u16 = 100;

/// Fewest columns that a text is broken into.
const LEAST_WIDTH: usize = 40;

/// Prints every setting of an experiment with who set it and what it does
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Experiment: a TOML file, or a run directory
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Only what lies at or below this path, e.g. `optimizer` or `data.batch_size`
    #[arg(value_name = "PATH")]
    path: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let resolved = Resolved::read(&experiment_file(&self.config), &self.overrides.set)?;
        let tree = resolved.tree()?;
        let all = settings(&tree, &resolved.source);
        let manual = Manual::of_experiments();
        let explained: Vec<(&Setting, Entry)> =
            chosen(&all, self.path.as_deref().unwrap_or_default(), &self.config)?
                .into_iter()
                .map(|setting| (setting, manual.entry(&tree, &setting.path)))
                .collect();
        if self.json {
            let rows: Vec<Value> = explained
                .iter()
                .map(|(setting, entry)| {
                    json!({
                        "path": setting.path,
                        "value": setting.value,
                        "set_by": setting.set_by,
                        "default": entry.default,
                        "documentation": entry.documentation,
                        "choices": entry.choices,
                    })
                })
                .collect();
            shell.json_page(&rows);
        } else {
            let width = LEAST_WIDTH.max(shell.width().unwrap_or(USUAL_WIDTH).into());
            let pages: Vec<String> =
                explained.iter().map(|(setting, entry)| describe(setting, entry, width)).collect();
            shell.line(&pages.join("\n\n"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Keeps the settings at and below a path; the empty path has all of them below it.
///
/// # Errors
/// When there is none, with the path that was probably meant.
fn chosen<'a>(all: &'a [Setting], path: &str, config: &Path) -> Result<Vec<&'a Setting>> {
    let below = format!("{path}.");
    let found: Vec<&Setting> = all
        .iter()
        .filter(|setting| {
            path.is_empty() || setting.path == path || setting.path.starts_with(&below)
        })
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    if let Some(above) = all.iter().find(|setting| {
        let above = path.strip_prefix(&*setting.path);
        setting.value.is_null() && above.is_some_and(|rest| rest.starts_with('.'))
    }) {
        return Err(Error::refused(
            format!("there is no `{path}`, because `{}` is absent here", above.path),
            format!("`--set {path}=…` sets it; `mie config schema` has all that it can hold"),
        ));
    }
    let meant =
        meant(all, path).map_or_else(String::new, |meant| format!(" (did you mean `{meant}`?)"));
    Err(Error::refused(
        format!("there is no setting `{path}` in this experiment{meant}"),
        format!("`mie config explain {}` lists all of them", shell_path(config)),
    ))
}

/// Finds the path that was probably meant: a similar one, or else one that ends in the same key.
fn meant<'a>(all: &'a [Setting], path: &str) -> Option<&'a str> {
    let mut known = BTreeSet::new();
    for setting in all {
        let ends = setting.path.match_indices('.').map(|(end, _)| end);
        known.extend(ends.chain([setting.path.len()]).map(|end| &setting.path[..end]));
    }
    let same_key =
        known.iter().copied().find(|known| known.rsplit('.').next() == path.rsplit('.').next());
    closest(path, known.iter().copied()).or(same_key)
}

/// Describes a setting: its value, who set it, what it is otherwise and what it does.
fn describe(setting: &Setting, entry: &Entry, width: usize) -> String {
    let mut lines = vec![format!("{} = {}", setting.path, value_in_words(&setting.value))];
    // Places stay whole, so that they can be copied.
    lines.push(format!("    set by   {}", setter_in_words(setting.set_by.as_ref())));
    if let (Some(default), Some(_)) = (&entry.default, &setting.set_by) {
        lines.extend(wrapped("    default  ", &value_in_words(default), width));
    }
    if !entry.choices.is_empty() {
        let names: Vec<&str> = entry.choices.iter().map(|choice| choice.value.as_str()).collect();
        lines.extend(wrapped("    one of   ", &names.join(", "), width));
    }
    for paragraph in entry.documentation.split("\n\n") {
        lines.extend(wrapped("    ", paragraph, width));
    }
    let is_taken = |name: &str| setting.value.as_str() == Some(name);
    if let Some(taken) = entry.choices.iter().find(|choice| is_taken(&choice.name)) {
        let meaning = format!("`{}`: {}", taken.name, taken.documentation);
        lines.extend(wrapped("    ", &meaning, width));
    }
    lines.join("\n")
}

/// Breaks a text between words into lines of at most `width` columns; the first starts with
/// `label`, the others are indented as far.
fn wrapped(label: &str, text: &str, width: usize) -> Vec<String> {
    let indent = " ".repeat(label.len());
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            last => {
                let start = if last.is_none() { label } else { indent.as_str() };
                lines.push(format!("{start}{word}"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use mie_core::config::{Choice, Origin};

    use super::*;

    fn setting(path: &str, value: Value) -> Setting {
        Setting { path: path.to_owned(), value, set_by: None }
    }

    #[test]
    fn a_setting_is_described_within_the_width() {
        let origin = Origin { place: "experiments/long/path/of/a.toml".to_owned(), line: Some(12) };
        let relu = Setting { set_by: Some(origin), ..setting("head.relu", json!("all")) };
        let choice = |name: &str, documentation: &str| Choice {
            name: name.to_owned(),
            value: format!("\"{name}\""),
            documentation: documentation.to_owned(),
        };
        let entry = Entry {
            documentation: "Where ReLU stands,\nsaid in many words.".to_owned(),
            default: Some(json!("first")),
            choices: vec![choice("first", "Once."), choice("all", "Everywhere.")],
        };
        assert_eq!(
            describe(&relu, &entry, 28),
            "head.relu = \"all\"\n    \
             set by   experiments/long/path/of/a.toml:12\n    \
             default  \"first\"\n    \
             one of   \"first\", \"all\"\n    \
             Where ReLU stands, said\n    \
             in many words.\n    \
             `all`: Everywhere."
        );
    }

    #[test]
    fn a_default_is_told_once_and_what_is_absent_is_said_to_be_so() {
        let entry = Entry {
            documentation: "How many; absent means all.".to_owned(),
            default: Some(Value::Null),
            choices: Vec::new(),
        };
        assert_eq!(
            describe(&setting("data.train_per_class", Value::Null), &entry, 80),
            "data.train_per_class = absent\n    set by   default\n    How many; absent means all."
        );
    }

    #[test]
    fn a_path_chooses_a_setting_or_all_of_a_section() {
        let all = [
            setting("data.batch_size", json!(12)),
            setting("data.mixup", Value::Null),
            setting("optimizer.base.name", json!("a")),
            setting("optimizers", json!([])),
        ];
        let paths = |path: &str| -> Vec<&str> {
            let found = chosen(&all, path, Path::new("a.toml")).unwrap();
            found.into_iter().map(|setting| setting.path.as_str()).collect()
        };
        assert_eq!(paths("").len(), 4);
        assert_eq!(paths("data"), ["data.batch_size", "data.mixup"]);
        assert_eq!(paths("optimizer"), ["optimizer.base.name"]);
        let refused =
            |path: &str| chosen(&all, path, Path::new("a b.toml")).unwrap_err().to_string();
        assert_eq!(
            refused("data.batch_sise"),
            "there is no setting `data.batch_sise` in this experiment (did you mean \
             `data.batch_size`?)\n  what to do: `mie config explain 'a b.toml'` lists all of them"
        );
        assert!(refused("optimiser.base").contains("(did you mean `optimizer.base`?)"));
        assert!(refused("training.batch_size").contains("(did you mean `data.batch_size`?)"));
        assert!(refused("data.mixup.alpha").contains("because `data.mixup` is absent here"));
        assert!(!refused("xyz").contains("did you mean"));
    }
}
