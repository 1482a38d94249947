//! `mie config diff`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use mie_core::Result;
use mie_core::config::{Resolved, Setting, settings, shown};
use serde_json::{Value, json};

use super::{experiment_file, setter_in_words, value_in_words};
use crate::format::count;
use crate::terminal::Shell;

/// Shows the settings in which two experiments differ
///
/// A name that is made from the path of the file is no setting. Exits with 0 if nothing differs,
/// with 1 if something does.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Experiment: a TOML file, or a run directory
    #[arg(value_name = "A")]
    a: PathBuf,
    /// Experiment to compare it with
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Diff {
    pub(super) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let (a, b) = (read(&self.a)?, read(&self.b)?);
        let differences = differences(&[&a, &b]);
        if self.json {
            let rows: Vec<Value> = differences.iter().map(Difference::json).collect();
            shell.json_page(&json!({
                "a": self.a.display().to_string(),
                "b": self.b.display().to_string(),
                "differences": rows,
            }));
        } else {
            shell.line(&format!("A  {}\nB  {}\n", shown(&self.a), shown(&self.b)));
            for difference in &differences {
                shell.line(&difference.text());
            }
            shell.line(&match differences.len() {
                0 => "nothing differs".to_owned(),
                number => format!("\nthey differ in {}", count(number, "setting")),
            });
        }
        Ok(ExitCode::from(u8::from(!differences.is_empty())))
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<Setting>> {
    let resolved = Resolved::read(&experiment_file(path), &[])?;
    Ok(settings(&resolved.tree()?, &resolved.source))
}

/// A setting that experiments have with different values, or that some of them do not have.
pub(crate) struct Difference<'a> {
    pub(crate) path: &'a str,
    /// The setting in each of the experiments.
    pub(crate) sides: Vec<Option<&'a Setting>>,
}

impl Difference<'_> {
    fn text(&self) -> String {
        let side = |setting: Option<&Setting>| {
            setting.map_or_else(
                || ("absent".to_owned(), String::new()),
                |setting| {
                    let origin = setter_in_words(setting.set_by.as_ref());
                    (value_in_words(&setting.value), format!("  # {origin}"))
                },
            )
        };
        let sides: Vec<_> = self.sides.iter().copied().map(side).collect();
        let width = sides.iter().map(|(value, _)| value.chars().count()).max().unwrap_or_default();
        let width = width.min(60);
        let lines = sides.iter().zip(["A", "B"]).map(|((value, set_by), name)| {
            format!("\n  {}", format!("{name}  {value:width$}{set_by}").trim_end())
        });
        format!("{}{}", self.path, lines.collect::<String>())
    }

    fn json(&self) -> Value {
        let side = |setting: Option<&Setting>| {
            setting.map(|setting| json!({ "value": setting.value, "set_by": setting.set_by }))
        };
        json!({ "path": self.path, "a": side(self.sides[0]), "b": side(self.sides[1]) })
    }
}

/// Compares experiments setting by setting; what is absent counts as not there.
pub(crate) fn differences<'a>(experiments: &[&'a [Setting]]) -> Vec<Difference<'a>> {
    let by_path = |settings: &'a [Setting]| -> BTreeMap<&'a str, &'a Setting> {
        settings
            .iter()
            .filter(|setting| !setting.value.is_null())
            .map(|setting| (setting.path.as_str(), setting))
            .collect()
    };
    let experiments: Vec<_> = experiments.iter().map(|settings| by_path(settings)).collect();
    let paths: BTreeSet<&str> = experiments.iter().flat_map(|one| one.keys().copied()).collect();
    paths
        .iter()
        .map(|&path| {
            let sides = experiments.iter().map(|one| one.get(path).copied()).collect();
            Difference { path, sides }
        })
        .filter(|Difference { path, sides }| {
            let there: Vec<&Setting> = sides.iter().copied().flatten().collect();
            if there.len() < sides.len() {
                // An empty table or list is told by what the other one holds.
                return !paths.iter().any(|other| {
                    other.strip_prefix(*path).is_some_and(|below| below.starts_with('.'))
                });
            }
            let differ = there.iter().any(|setting| setting.value != there[0].value);
            let given = there.iter().all(|setting| setting.set_by.is_some());
            differ && (*path != "name" || given)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mie_core::config::Source;

    use super::*;

    fn listed(assignments: &[&str], defaults: Value) -> Vec<Setting> {
        let mut source = Source::default();
        for assignment in assignments {
            source.set(assignment).unwrap();
        }
        let mut tree = defaults;
        for (key, value) in source.tree.clone() {
            tree[key] = value;
        }
        settings(&tree, &source)
    }

    #[test]
    fn settings_that_differ_are_shown_with_both_values_and_who_set_them() {
        let defaults = || json!({ "name": "x/a", "seed": 0, "steps": [], "limit": null });
        let a = listed(&["optimizer={ name = 'a', rate = 0.5 }", "shares={}"], defaults());
        let mut b = listed(&["optimizer={ name = 'b' }", "steps=[{ name = 's' }]"], defaults());
        b.extend(listed(&["shares.x=1"], json!({})));
        let texts: Vec<String> = differences(&[&a, &b]).iter().map(Difference::text).collect();
        assert_eq!(
            texts,
            [
                "optimizer.name\n  \
                 A  \"a\"  # --set optimizer={ name = 'a', rate = 0.5 }\n  \
                 B  \"b\"  # --set optimizer={ name = 'b' }",
                "optimizer.rate\n  \
                 A  0.5     # --set optimizer={ name = 'a', rate = 0.5 }\n  \
                 B  absent",
                "shares.x\n  A  absent\n  B  1       # --set shares.x=1",
                "steps.0.name\n  A  absent\n  B  \"s\"     # --set steps=[{ name = 's' }]",
            ]
        );
        assert_eq!(
            differences(&[&a, &b])[2].json(),
            json!({
                "path": "shares.x",
                "a": null,
                "b": { "value": 1, "set_by": { "place": "--set shares.x=1", "line": null } },
            })
        );
        assert!(differences(&[&a, &a]).is_empty());
    }

    #[test]
    fn a_name_counts_only_where_somebody_gave_it() {
        let given = |name: &str| listed(&[&format!("name={name}")], json!({}));
        let made = |name: &str| listed(&[], json!({ "name": name }));
        assert_eq!(differences(&[&given("a"), &given("b")]).len(), 1);
        assert!(differences(&[&made("a"), &given("b")]).is_empty());
        assert!(differences(&[&made("a"), &made("b")]).is_empty());
    }
}
