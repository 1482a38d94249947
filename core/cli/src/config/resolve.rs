//! `mie config resolve`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mie_core::Result;
use mie_core::config::{Resolved, Setting, settings};

use crate::arguments::Overrides;
use crate::format::inline_toml;
use crate::terminal::Shell;

/// Prints an experiment with every default filled in
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// Experiment: a TOML file
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// One value a line, each with the file or option that set it
    #[arg(long)]
    origins: bool,
}

impl Resolve {
    pub(super) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let resolved = Resolved::read(&self.config, &self.overrides.set)?;
        if self.origins {
            shell.line(&origins(settings(&resolved.tree()?, &resolved.source)));
        } else {
            shell.text(&resolved.to_toml()?);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Lists every value with who set it.
fn origins(settings: Vec<Setting>) -> String {
    let rows: Vec<(String, String)> = settings
        .into_iter()
        .filter(|setting| !setting.value.is_null())
        .map(|setting| {
            let origin = setting.set_by.map_or("default".to_owned(), |origin| origin.place);
            (format!("{} = {}", setting.path, inline_toml(&setting.value)), origin)
        })
        .collect();
    let width = rows.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or(0);
    // One long list of names must not push every origin off the screen.
    let width = width.min(60);
    let lines: Vec<String> =
        rows.iter().map(|(setting, origin)| format!("{setting:width$}  # {origin}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use mie_core::config::Source;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_is_listed_with_who_set_it() {
        let mut source = Source::default();
        source.set("seed=3").unwrap();
        source.set("steps=[{ name = 'a' }]").unwrap();
        let tree = json!({
            "seed": 3,
            "steps": [{ "name": "a", "factor": 0.5 }],
            "widths": [256, 64],
            "limit": null,
        });
        assert_eq!(
            origins(settings(&tree, &source)),
            "seed = 3              # --set seed=3\n\
             steps.0.name = \"a\"    # --set steps=[{ name = 'a' }]\n\
             steps.0.factor = 0.5  # default\n\
             widths = [256, 64]    # default"
        );
    }
}
