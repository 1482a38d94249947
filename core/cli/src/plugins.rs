//! `mie plugins`.

use std::process::ExitCode;

use clap::Args;
use mie_core::catalogue::{Choice, Family, OptionPage, Page, Plugin, plugins};
use mie_core::config::{closest, to_toml};
use mie_core::{Error, Result};
use serde_json::{Value, json};

use crate::format::inline_toml;
use crate::terminal::Shell;

/// What a program without plugins says, where one looks for them.
pub(crate) const NONE_LINKED: &str =
    "no plugin is linked into this program: its main file needs a line like `use my_plugins as _;`";

/// Lists the plugins an experiment can be made of, or describes one
#[derive(Debug, Args)]
pub(crate) struct Plugins {
    /// Plugin to describe: what it does, its options and an example
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only plugins of this family
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    family: Option<Family>,
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

/// Reads the name of a family.
pub(crate) fn family(text: &str) -> Result<Family, String> {
    Family::ALL.into_iter().find(|family| family.name() == text).ok_or_else(|| {
        let names = Family::ALL.map(Family::name);
        let meant = closest(text, names).map_or_else(String::new, did_you_mean);
        format!("expected one of {}{meant}", names.join(", "))
    })
}

fn did_you_mean(name: &str) -> String {
    format!(" (did you mean `{name}`?)")
}

impl Plugins {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let rows = self.chosen(plugins())?;
        if self.json {
            let pages: Vec<Page> = rows.iter().map(|row| row.page()).collect();
            shell.json_page(&pages);
        } else if self.name.is_some() {
            let pages = rows.iter().map(|row| describe(row)).collect::<Result<Vec<_>>>()?;
            shell.line(&pages.join("\n\n\n"));
        } else if rows.is_empty() {
            shell.note(self.family.map_or(NONE_LINKED, |_| "no plugin of this family is linked"));
        } else {
            shell.line(&list(&rows));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Keeps the plugins that were asked for.
    fn chosen(&self, mut rows: Vec<&'static Plugin>) -> Result<Vec<&'static Plugin>> {
        rows.retain(|row| self.family.is_none_or(|family| row.family == family));
        let Some(wanted) = &self.name else { return Ok(rows) };
        let names: Vec<&str> = rows.iter().map(|row| (row.name)()).collect();
        rows.retain(|row| (row.name)() == wanted);
        if rows.is_empty() {
            let meant = closest(wanted, names).map_or_else(String::new, did_you_mean);
            return Err(Error::refused(
                format!("there is no plugin `{wanted}`{meant}"),
                "`mie plugins` lists all of them",
            ));
        }
        Ok(rows)
    }
}

/// Lists plugins by family, each with the first line of its documentation.
fn list(rows: &[&Plugin]) -> String {
    let width = rows.iter().map(|row| (row.name)().len()).max().unwrap_or_default();
    let mut lines: Vec<String> = Vec::new();
    for family in Family::ALL {
        let members: Vec<_> = rows.iter().filter(|row| row.family == family).collect();
        if members.is_empty() {
            continue;
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(family.name().to_owned());
        for row in members {
            let page = row.page();
            let first = page.documentation.lines().next().unwrap_or_default();
            lines.push(format!("  {:width$}  {first}", page.name));
        }
    }
    lines.join("\n")
}

/// Describes a plugin: documentation, options, source, and how a configuration names it.
fn describe(row: &Plugin) -> Result<String> {
    let page = row.page();
    let mut lines = vec![format!("{} ({})", page.name, page.family), String::new()];
    lines.push(plain(&page.documentation));
    if !page.options.is_empty() {
        lines.extend([String::new(), "Options".to_owned()]);
    }
    page.options.iter().for_each(|option| describe_option(option, "", &mut lines));
    lines.extend([String::new(), format!("Source: {}", page.source)]);
    lines.extend([String::new(), "In a configuration".to_owned()]);
    let example = to_toml(&in_place(row.family, &(row.example)()))?;
    lines.extend(example.lines().map(|line| format!("  {line}").trim_end().to_owned()));
    Ok(lines.join("\n"))
}

/// Describes an option, then what it can be and the keys it has; `path` leads to its table.
fn describe_option(option: &OptionPage, path: &str, lines: &mut Vec<String>) {
    let OptionPage { key, kind, .. } = option;
    let key = format!("{path}{key}");
    lines.push(match &option.default {
        None => format!("  {key} (required: {kind})"),
        Some(Value::Null) => format!("  {key} (absent by default: {kind})"),
        Some(Value::Object(_)) if !option.keys.is_empty() => format!("  {key} ({kind})"),
        Some(default) => format!("  {key} = {}", inline_toml(default)),
    });
    lines.extend(plain(&option.documentation).lines().map(|line| format!("      {line}")));
    for Choice { value, documentation, .. } in &option.choices {
        let mut text = documentation.lines();
        let first = text.next().map_or_else(String::new, |first| format!(": {first}"));
        lines.push(format!("      - {value}{first}"));
        lines.extend(text.map(|line| format!("        {line}")));
    }
    option.keys.iter().for_each(|inner| describe_option(inner, &format!("{key}."), lines));
}

/// Puts a plugin's table where a configuration of an experiment has it.
fn in_place(family: Family, table: &Value) -> Value {
    match family {
        Family::Dataset => json!({ "dataset": table }),
        Family::Modality => json!({ "modalities": { "NAME": { "input": table } } }),
        Family::Encoder => json!({ "modalities": { "NAME": { "encoder": table } } }),
        Family::Fusion => json!({ "fusion": table }),
        Family::Objective => json!({ "objectives": [table] }),
        Family::Optimizer => json!({ "optimizer": table }),
        Family::GradientModifier => json!({ "gradient_modifiers": [table] }),
        Family::Controller => json!({ "controllers": [table] }),
        Family::Strategy => json!({ "strategy": table }),
    }
}

/// Takes the fences off blocks of equations and indents them instead.
fn plain(markdown: &str) -> String {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced && !line.is_empty() {
            lines.push(format!("    {line}"));
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::tests::paper;

    #[test]
    fn equations_are_indented_instead_of_fenced() {
        assert_eq!(
            plain("Adds.\n\n```text\na + b\n\nc\n```\n\nShapes."),
            "Adds.\n\n    a + b\n\n    c\n\nShapes."
        );
    }

    #[test]
    fn a_table_stands_where_a_configuration_has_it() {
        let table = json!({ "name": "one" });
        let text = to_toml(&in_place(Family::Objective, &table)).unwrap();
        assert_eq!(text, "[[objectives]]\nname = \"one\"\n");
        let text = to_toml(&in_place(Family::Encoder, &table)).unwrap();
        assert!(text.ends_with("[modalities.NAME.encoder]\nname = \"one\"\n"), "{text}");
    }

    #[test]
    fn an_unknown_family_is_refused_with_the_one_that_was_meant() {
        assert_eq!(family("encoder"), Ok(Family::Encoder));
        let error = family("encodr").unwrap_err();
        assert!(error.starts_with("expected one of dataset, modality, "), "{error}");
        assert!(error.ends_with("(did you mean `encoder`?)"), "{error}");
    }

    #[test]
    fn an_unknown_plugin_is_refused_with_exit_status_2() {
        let (mut shell, _, _) = paper();
        let command = Plugins { name: Some("no_such".to_owned()), family: None, json: false };
        let error = command.run(&mut shell).unwrap_err();
        assert!(error.to_string().starts_with("there is no plugin `no_such`"), "{error}");
        assert_eq!(error.exit_status(), 2);
    }

    #[test]
    fn a_program_without_plugins_says_what_its_main_file_lacks() {
        let (mut shell, out, err) = paper();
        let command = Plugins { name: None, family: None, json: false };
        command.run(&mut shell).unwrap();
        assert_eq!(out.text(), "");
        assert_eq!(err.text(), format!("{NONE_LINKED}\n"));
    }
}
