//! `mie data cache`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use mie_core::Result;
use mie_core::data::cache::{CacheEntry, cache_dir, clear, entries};
use serde_json::json;

use crate::format::{ago, count, grouped};
use crate::tables::table;
use crate::terminal::Shell;

/// Shows what is kept of decoded files between epochs and runs, or removes it
///
/// It lies below ~/.cache/mie/decoded, or where the environment says (see `mie --help`); `run.cache_gigabytes` of an
/// experiment is its size. A changed file or option is never answered by an old entry.
#[derive(Debug, Args)]
pub(crate) struct Cache {
    /// Remove everything that is kept
    #[arg(long)]
    clear: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Cache {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let folder = cache_dir();
        let kept = entries(&folder);
        let bytes: u64 = kept.iter().map(|entry| entry.bytes).sum();
        if self.clear {
            clear(&folder)?;
        }
        if self.json {
            let page = json!({ "folder": folder, "entries": kept, "cleared": self.clear });
            shell.json_page(&page);
            return Ok(ExitCode::SUCCESS);
        }
        if !kept.is_empty() && !self.clear {
            shell.line(&describe(&kept));
        }
        let arrays: u64 = kept.iter().map(|entry| entry.arrays).sum();
        let done = if self.clear { "removed from" } else { "in" };
        shell.line(&format!(
            "{}, {} {done} {}",
            count(arrays as usize, "decoded file"),
            megabytes(bytes),
            folder.display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(kept: &[CacheEntry]) -> String {
    let header = ["recipe", "files", "size", "last used"].map(str::to_owned);
    let rows: Vec<Vec<String>> = kept
        .iter()
        .map(|entry| {
            let age = entry.last_used.and_then(|used| SystemTime::now().duration_since(used).ok());
            vec![
                shortened(&entry.recipe),
                grouped(entry.arrays),
                megabytes(entry.bytes),
                age.map_or_else(|| "-".to_owned(), |age| ago(age.as_secs())),
            ]
        })
        .collect();
    table(&header, &rows, 1)
}

/// The start of a long recipe; `--json` has all of it.
fn shortened(recipe: &str) -> String {
    const LONGEST: usize = 60;
    if recipe.chars().count() <= LONGEST {
        return recipe.to_owned();
    }
    recipe.chars().take(LONGEST - 1).chain(['…']).collect()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_listed_by_recipe() {
        let entry = CacheEntry {
            recipe: "rgb 1".to_owned(),
            folder: "5f".to_owned(),
            arrays: 1234,
            bytes: 5_600_000,
            last_used: None,
        };
        let text = describe(&[entry]);
        let cells = ["rgb 1", "1,234", "5.6 MB", "-"];
        assert!(cells.iter().all(|cell| text.contains(cell)), "{text}");
    }
}
