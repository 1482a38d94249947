//! `mie runs list`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use mie_core::Result;
use mie_core::engine::FUSED;
use mie_report::{Overview, State};
use serde_json::{Value, json};

use super::found;
use crate::format::{ago, duration};
use crate::tables::{percent, table};
use crate::terminal::Shell;

/// Lists runs: where each stands, its score and what it took
///
/// The score is the accuracy of the joint decision on the split that selects: of the selected
/// weights for a finished run, else the latest. On a narrow terminal columns are left out: first
/// `changed`, then `took`, then `epochs`, then `seed`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Run directories, or folders of them [default: `MIE_RUNS_DIR`, or else `runs`]
    #[arg(value_name = "RUNS")]
    runs: Vec<PathBuf>,
    /// Print one JSON object, with everything that is known of each run
    #[arg(long)]
    json: bool,
}

/// Columns left out one after the other where there is no room.
const LEFT_OUT: [&str; 4] = ["changed", "took", "epochs", "seed"];

impl List {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let (mut runs, mut unreadable) = (Vec::new(), Vec::new());
        for run in found(&self.runs)? {
            match Overview::read(&run) {
                Ok(overview) => runs.push(overview),
                Err(error) => {
                    unreadable.push((run.path().display().to_string(), error.to_string()));
                }
            }
        }
        runs.sort_by(|a, b| {
            let key = |run: &Overview| {
                (run.manifest.experiment.clone(), run.manifest.seed, run.path.clone())
            };
            key(a).cmp(&key(b))
        });
        if self.json {
            let unreadable: Vec<Value> = unreadable
                .iter()
                .map(|(path, problem)| json!({ "path": path, "problem": problem }))
                .collect();
            shell.json_page(&json!({ "runs": runs, "unreadable": unreadable }));
            return Ok(ExitCode::SUCCESS);
        }
        if runs.is_empty() {
            shell.note("no runs");
        } else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            shell.line(&describe(&runs, now, shell.width()));
        }
        for (path, problem) in unreadable {
            shell.warning(&format!("left out: {path}: {problem}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(runs: &[Overview], now_unix_seconds: u64, width: Option<u16>) -> String {
    let mut columns: Vec<(&str, Vec<String>)> = vec![
        ("run", runs.iter().map(|run| run.path.clone()).collect()),
        ("seed", runs.iter().map(|run| run.manifest.seed.to_string()).collect()),
        ("state", runs.iter().map(|run| state(&run.state)).collect()),
        ("epochs", runs.iter().map(|run| run.epochs.to_string()).collect()),
        ("accuracy %", runs.iter().map(score).collect()),
        ("took", runs.iter().map(took).collect()),
        ("changed", runs.iter().map(|run| changed(run, now_unix_seconds)).collect()),
    ];
    let mut left_out = LEFT_OUT.iter();
    loop {
        let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let row = |index: usize| columns.iter().map(|(_, cells)| cells[index].clone()).collect();
        let rows: Vec<Vec<String>> = (0..runs.len()).map(row).collect();
        let text = table(&header, &rows, 1);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        let next = width.filter(|&width| widest > usize::from(width)).and(left_out.next());
        let Some(next) = next else { return text };
        columns.retain(|(name, _)| name != next);
    }
}

fn state(state: &State) -> String {
    match state {
        State::Finished => "finished".to_owned(),
        State::Running(_) => "running".to_owned(),
        State::Stopped => "stopped".to_owned(),
    }
}

fn score(run: &Overview) -> String {
    run.scores.get(FUSED).map_or_else(|| "-".to_owned(), |metrics| percent(metrics.accuracy))
}

fn took(run: &Overview) -> String {
    let summary = run.summary.as_ref();
    summary.map_or_else(|| "-".to_owned(), |summary| duration(summary.cost.wall_seconds))
}

/// How long ago its record was written to.
fn changed(run: &Overview, now_unix_seconds: u64) -> String {
    let Some(changed) = run.changed_unix_seconds else { return "-".to_owned() };
    ago(now_unix_seconds.saturating_sub(changed))
}
