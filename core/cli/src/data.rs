//! `mie data`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use mie_core::catalogue::{Family, plugins_of};
use mie_core::config::{Resolved, alone, closest, to_toml};
use mie_core::data::check::{CheckReport, Fault, check};
use mie_core::data::fetch::{self, FetchReport};
use mie_core::data::prepare::{self, PrepareReport};
use mie_core::error::guarded;
use mie_core::family::{DatasetConfig, Modality, ModalityConfig, OpenContext};
use mie_core::random::Seed;
use mie_core::{Error, Result};
use serde_json::json;

use crate::arguments::{DataDir, Overrides};
use crate::cache::Cache;
use crate::format::count;
use crate::progress::bar;
use crate::terminal::Shell;

/// Most faults that are listed one by one.
const SHOWN: usize = 20;

#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    Check(Check),
    Fetch(Fetch),
    Prepare(Prepare),
    Cache(Cache),
}

impl Data {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        match self {
            Self::Check(command) => command.run(shell),
            Self::Fetch(command) => command.run(shell),
            Self::Prepare(command) => command.run(shell),
            Self::Cache(command) => command.run(shell),
        }
    }
}

/// Compares a dataset with a complete copy: counts, files that are cut off and, with --decode, content
///
/// The exit status is 1 when anything differs.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Name of a dataset, or an experiment that uses one: a TOML file
    #[arg(value_name = "DATASET")]
    what: String,
    /// Decode every sample: as the experiment says, or as the dataset proposes
    #[arg(long)]
    decode: bool,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    data_dir: DataDir,
    /// Print one JSON object, with every fault
    #[arg(long)]
    json: bool,
}

impl Check {
    fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let folder = self.data_dir.folder();
        let subject = Subject::of(&self.what, &self.overrides.set, self.decode.then_some(&folder))?;
        let report = subject.check(&self.data_dir.folder(), self.decode, shell)?;
        if self.json {
            shell.json_page(&report);
        } else {
            shell.line(&describe(&report));
            if let Some(list) = exclusion(&report, &subject.decoders, &subject.excluded)? {
                shell.text(&list);
            }
        }
        Ok(status(&report))
    }
}

/// Brings a dataset that is published freely, then checks it
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Name of a dataset, or an experiment that uses one: a TOML file
    #[arg(value_name = "DATASET")]
    what: String,
    #[command(flatten)]
    data_dir: DataDir,
}

impl Fetch {
    fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let subject = Subject::of(&self.what, &[], None)?;
        let folder = self.data_dir.folder();
        let name = &subject.name;
        let Some(files) = subject.config.fetch(&subject.context(&folder)) else {
            return Err(Error::refused(
                format!("dataset `{name}` is not published in a form that can be fetched"),
                format!(
                    "`mie plugins {name}` says where it comes from and how its files must lie; \
                     then `mie data check {name}`"
                ),
            ));
        };
        shell.line(&files.notice);
        shell.line(&format!("into {}", files.root.display()));
        let mut shown = Shown::default();
        let report = fetch::run(&files, &mut |path, had, total| {
            shown.update(shell, path, had, total);
        });
        shown.clear();
        shell.line(&fetched(&report?, &files.root));
        let report = subject.check(&folder, false, shell)?;
        shell.line(&describe(&report));
        Ok(status(&report))
    }
}

/// Makes what the loader reads from raw media: sound and frames by ffmpeg, optical flow
///
/// What is there already is left alone, so a broken-off preparation goes on where it stopped.
/// What cannot be made is listed at the end and in `DATASET-failures.txt` of the data folder; the
/// exit status is then 1.
#[derive(Debug, Args)]
pub(crate) struct Prepare {
    /// Name of a dataset, or an experiment that uses one: a TOML file
    #[arg(value_name = "DATASET")]
    what: String,
    /// Things made at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    data_dir: DataDir,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Prepare {
    fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let subject = Subject::of(&self.what, &self.overrides.set, None)?;
        let folder = self.data_dir.folder();
        let name = &subject.name;
        let plugin = format!("dataset `{name}`");
        let wanted = guarded(&plugin, || subject.config.preparations(&subject.context(&folder)))?;
        if wanted.is_empty() {
            return Err(Error::refused(
                format!("dataset `{name}` needs no preparation"),
                format!("`mie data check {name}` says whether it is complete"),
            ));
        }
        let jobs = self.jobs.map_or_else(cores, usize::from);
        let shown = shell.shows_bars().then(|| bar("{bar:24}  {pos}/{len} made  eta {eta}", 0));
        // Each job computes by itself.
        tch::set_num_threads((cores() / jobs).max(1) as i32);
        let report = prepare::run(&wanted, jobs, &|done, total| {
            if let Some(bar) = &shown {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
            true
        });
        if let Some(bar) = &shown {
            bar.finish_and_clear();
        }
        let report = report?;
        let log = folder.join(format!("{name}-failures.txt"));
        write_failures(&log, &report)?;
        if self.json {
            shell.json_page(&report);
        } else {
            shell.line(&prepared(&report, &log));
        }
        let whole = report.failures.is_empty() && !report.interrupted;
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Keeps what could not be made in a file, or removes that of an earlier run.
fn write_failures(log: &Path, report: &PrepareReport) -> Result<()> {
    if report.failures.is_empty() {
        return match std::fs::remove_file(log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", log)(error))
            }
            _ => Ok(()),
        };
    }
    let lines: Vec<String> = report
        .failures_by_source()
        .into_iter()
        .map(|(source, reason)| format!("{}\t{}", source.display(), reason.replace('\n', " ")))
        .collect();
    std::fs::write(log, lines.join("\n") + "\n").map_err(Error::io("write", log))
}

fn prepared(report: &PrepareReport, log: &Path) -> String {
    let mut lines = vec![format!("{} made, {} there already", report.made, report.present)];
    let failures = report.failures_by_source();
    if !failures.is_empty() {
        let count = count(failures.len(), "failure");
        lines.push(format!("{count}, all in {}:", log.display()));
    }
    lines.extend(failures.into_iter().take(SHOWN).map(|(source, reason)| {
        let source = source.display().to_string();
        let named = reason.contains(&source);
        if named { format!("  {reason}") } else { format!("  {source}: {reason}") }
    }));
    lines.join("\n")
}

fn status(report: &CheckReport) -> ExitCode {
    if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What decodes each modality, as configured.
type Inputs = BTreeMap<String, Box<dyn ModalityConfig>>;

/// A dataset as configured, and how its modalities are decoded where that is known.
struct Subject {
    name: String,
    config: Box<dyn DatasetConfig>,
    decoders: Vec<(String, Box<dyn Modality>)>,
    /// Samples that the experiment leaves out already.
    excluded: BTreeSet<String>,
    seed: Seed,
}

impl Subject {
    /// Reads an experiment, or takes the dataset of that name as it is by default; assignments
    /// change either.
    ///
    /// Files that inputs name are taken up from `data_dir`, where something is to be decoded.
    fn of(what: &str, assignments: &[String], data_dir: Option<&PathBuf>) -> Result<Self> {
        let file = Path::new(what);
        if !file.is_file() {
            let config = by_name(what, assignments)?;
            return Ok(Self {
                name: config.typetag_name().to_owned(),
                config,
                decoders: Vec::new(),
                excluded: BTreeSet::new(),
                seed: Seed(0),
            });
        }
        let experiment = Resolved::read(file, assignments)?.experiment;
        let inputs: Inputs =
            experiment.modalities.into_iter().map(|(name, it)| (name, it.input)).collect();
        let seed = Seed(experiment.seed);
        let context = data_dir.map(|base| OpenContext { base: base.clone(), seed });
        let decoders = build(&inputs, context.as_ref())?;
        Ok(Self {
            name: experiment.dataset.typetag_name().to_owned(),
            config: experiment.dataset,
            decoders,
            excluded: experiment.data.exclude.into_iter().collect(),
            seed,
        })
    }

    fn context(&self, data_dir: &Path) -> OpenContext {
        OpenContext { base: data_dir.to_owned(), seed: self.seed }
    }

    fn check(&self, data_dir: &Path, decode: bool, shell: &Shell) -> Result<CheckReport> {
        let context = self.context(data_dir);
        let plugin = format!("dataset `{}`", self.name);
        let dataset = guarded(&plugin, || self.config.open(&context))?;
        let proposed = if decode && self.decoders.is_empty() {
            build(&guarded(&plugin, || Ok(dataset.inputs()))?, Some(&context))?
        } else {
            Vec::new()
        };
        let decoders = if proposed.is_empty() { &self.decoders } else { &proposed };
        if decode && decoders.is_empty() {
            return Err(Error::refused(
                format!("dataset `{}` does not say how to decode it", self.name),
                "name an experiment that uses it, or leave out --decode",
            ));
        }
        let shown = shell.shows_bars().then(|| bar("{bar:24}  {pos}/{len} samples  eta {eta}", 0));
        let mut progress = |done: usize, total: usize| {
            if let Some(bar) = &shown {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
        };
        let report = guarded(&plugin, || check(dataset.as_ref(), decoders, decode, &mut progress));
        if let Some(bar) = &shown {
            bar.finish_and_clear();
        }
        report
    }
}

/// Builds what decodes each modality, ready to decode where there is a context.
fn build(
    inputs: &Inputs,
    context: Option<&OpenContext>,
) -> Result<Vec<(String, Box<dyn Modality>)>> {
    inputs
        .iter()
        .map(|(name, input)| {
            let plugin = format!("modality `{}` of `{name}`", input.typetag_name());
            let opened = guarded(&plugin, || {
                let mut modality = input.build()?;
                context.map_or(Ok(()), |context| modality.open(context))?;
                Ok(modality)
            });
            Ok((name.clone(), opened?))
        })
        .collect()
}

/// Most samples that are named one by one to be left out.
const MOST_NAMED: usize = 200;

/// The line of a configuration that leaves out all samples which cannot be used; where they are too
/// many for a line, what else to do.
///
/// Faults of modalities that the experiment does not read are none of its business.
fn exclusion(
    report: &CheckReport,
    decoders: &[(String, Box<dyn Modality>)],
    excluded: &BTreeSet<String>,
) -> Result<Option<String>> {
    let read = |fault: &&Fault| {
        decoders.is_empty() || decoders.iter().any(|(name, _)| *name == fault.modality)
    };
    let faults = report.missing.iter().chain(&report.broken).filter(read);
    let found: BTreeSet<String> = faults.map(|fault| fault.sample.clone()).collect();
    if found.is_subset(excluded) {
        return Ok(None);
    }
    if found.len() > MOST_NAMED {
        return Ok(Some(format!(
            "{} samples cannot be used, too many to name: on_missing = \"skip\", in the table [data] of \
             the experiment, leaves out those whose files are missing; --json lists all\n",
            found.len()
        )));
    }
    let all: BTreeSet<&String> = found.union(excluded).collect();
    let line = to_toml(&json!({ "exclude": all }))?;
    Ok(Some(format!("to train without them, in the table [data] of the experiment:\n{line}")))
}

/// Finds a dataset by its name, with its options at their defaults where nothing sets them.
fn by_name(name: &str, assignments: &[String]) -> Result<Box<dyn DatasetConfig>> {
    let rows = plugins_of(Family::Dataset);
    let Some(row) = rows.iter().find(|row| (row.name)() == name) else {
        let meant = closest(name, rows.iter().map(|row| (row.name)()))
            .map_or_else(String::new, |meant| format!(" (did you mean `{meant}`?)"));
        return Err(Error::refused(
            format!("`{name}` is neither a dataset{meant} nor a file"),
            "`mie plugins --family dataset` lists the datasets",
        ));
    };
    alone((row.example)(), assignments)
}

/// What is shown of a file on its way: a bar, or a line where nobody watches.
#[derive(Default)]
struct Shown {
    path: String,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn update(&mut self, shell: &mut Shell, path: &str, had: u64, total: Option<u64>) {
        if self.path != path {
            self.clear();
            path.clone_into(&mut self.path);
            if shell.shows_bars() {
                let template = "{prefix}  {bar:24}  {bytes}/{total_bytes}  eta {eta}";
                self.bar = Some(bar(template, 0).with_prefix(path.to_owned()));
            } else {
                shell.note(&format!("fetching {path}"));
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total.unwrap_or(had));
            bar.set_position(had);
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Describes what a fetch brought, a line a file.
fn fetched(report: &FetchReport, root: &Path) -> String {
    let lines: Vec<String> = report
        .files
        .iter()
        .map(|file| {
            let path = file.path.strip_prefix(root).unwrap_or(&file.path).display();
            let unpacked = match file.unpacked {
                0 => String::new(),
                files => format!(", unpacked to {}", count(files, "file")),
            };
            let trust = if file.compared {
                ""
            } else {
                "; no checksum of it is published, so none was compared"
            };
            match file.downloaded_bytes {
                0 => format!("  {path}: there already{unpacked}{trust}"),
                bytes => format!("  {path}: {:.1} MB{unpacked}{trust}", bytes as f64 / 1e6),
            }
        })
        .collect();
    lines.join("\n")
}

/// Describes what a check found: numbers by split, notes, differences, then single faults.
fn describe(report: &CheckReport) -> String {
    let mut lines = Vec::new();
    for (split, found) in &report.splits {
        let expected = match found.expected_samples {
            Some(expected) => format!("expected {expected}"),
            None => "expected number unknown".to_owned(),
        };
        let classes = match (found.classes.iter().min(), found.classes.iter().max()) {
            (Some(least), Some(most)) if found.samples > 0 => {
                format!("; {least} to {most} of a class")
            }
            _ => String::new(),
        };
        let samples = count(found.samples, "sample");
        lines.push(format!("{:5}  {samples} ({expected}){classes}", split.name()));
    }
    if !report.not_decoded.is_empty() {
        lines.push(format!("not decoded: {}", report.not_decoded.join(", ")));
    }
    if report.decoded > 0 {
        lines.push(format!("decoded without fault: {}", report.decoded));
    }
    if !report.notes.is_empty() {
        lines.push(format!("{}:", count(report.notes.len(), "note")));
        lines.extend(report.notes.iter().map(|note| format!("  {note}")));
    }
    if report.ok() {
        lines.push("nothing differs from a complete copy".to_owned());
        return lines.join("\n");
    }
    lines.push(format!("{}:", count(report.differences.len(), "difference")));
    lines.extend(report.differences.iter().map(|difference| format!("  {difference}")));
    let faults: Vec<&Fault> = report.missing.iter().chain(&report.broken).collect();
    if !faults.is_empty() {
        lines.push(format!("{}:", count(faults.len(), "fault")));
    }
    lines.extend(faults.iter().take(SHOWN).map(|fault| {
        let Fault { split, sample, modality, reason, .. } = fault;
        format!("  {} `{sample}` {modality}: {reason}", split.name())
    }));
    if faults.len() > SHOWN {
        lines.push(format!("  … {} more, which --json lists", faults.len() - SHOWN));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use mie_core::data::check::SplitReport;
    use mie_core::data::fetch::FetchedFile;
    use mie_core::family::Split;

    use super::*;
    use crate::terminal::tests::paper;

    fn report() -> CheckReport {
        let train = SplitReport {
            samples: 2400,
            expected_samples: Some(2400),
            classes: vec![239, 241],
            ..SplitReport::default()
        };
        CheckReport {
            splits: BTreeMap::from([(Split::Train, train), (Split::Test, SplitReport::default())]),
            ..CheckReport::default()
        }
    }

    #[test]
    fn a_complete_copy_is_described_by_its_numbers() {
        assert_eq!(
            describe(&report()),
            "train  2,400 samples (expected 2400); 239 to 241 of a class\n\
             test   0 samples (expected number unknown)\n\
             nothing differs from a complete copy"
        );
    }

    #[test]
    fn notes_stand_before_the_verdict_and_leave_it_alone() {
        let notes = vec!["video: `a` is there, and faulty where it is published".to_owned()];
        let report = CheckReport { notes, ..report() };
        let text = describe(&report);
        let end = "1 note:\n  video: `a` is there, and faulty where it is published\n\
                   nothing differs from a complete copy";
        assert!(text.ends_with(end), "{text}");
        assert!(report.ok());
    }

    #[test]
    fn faults_are_listed_up_to_a_number() {
        let fault = Fault {
            split: Split::Test,
            sample: "a".to_owned(),
            modality: "audio".to_owned(),
            file: None,
            reason: "a.wav (not found)".to_owned(),
        };
        let report = CheckReport {
            missing: vec![fault; SHOWN + 2],
            differences: vec!["audio: 22 missing".to_owned()],
            ..report()
        };
        let text = describe(&report);
        assert!(text.contains("1 difference:\n  audio: 22 missing\n22 faults:\n"), "{text}");
        assert_eq!(text.matches("  test `a` audio: a.wav (not found)\n").count(), SHOWN, "{text}");
        assert!(text.ends_with("  … 2 more, which --json lists"), "{text}");
    }

    #[test]
    fn samples_that_cannot_be_used_are_listed_ready_to_paste() {
        let fault = |sample: &str, modality: &str| Fault {
            split: Split::Train,
            sample: sample.to_owned(),
            modality: modality.to_owned(),
            file: None,
            reason: "is empty".to_owned(),
        };
        let report = CheckReport {
            missing: vec![fault("c", "audio"), fault("b", "image")],
            broken: vec![fault("b", "audio")],
            ..report()
        };
        let excluded = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect();
        let list = exclusion(&report, &[], &excluded(&["a"])).unwrap().unwrap();
        let (_, line) = list.split_once(":\n").unwrap();
        assert_eq!(line, "exclude = [\"a\", \"b\", \"c\"]\n");
        assert_eq!(exclusion(&report, &[], &excluded(&["a", "b", "c"])).unwrap(), None);
        let missing = (0..=MOST_NAMED).map(|n| fault(&n.to_string(), "audio")).collect();
        let report = CheckReport { missing, broken: Vec::new(), ..report };
        let list = exclusion(&report, &[], &excluded(&[])).unwrap();
        let start = "201 samples cannot be used, too many to name: on_missing = \"skip\", in the";
        assert!(list.unwrap().starts_with(start));
    }

    #[test]
    fn a_clip_that_fails_for_two_outputs_is_listed_once() {
        let failure = |target: &str, reason: &str| prepare::Failure {
            source: PathBuf::from("a.mp4"),
            target: PathBuf::from(target),
            reason: reason.to_owned(),
        };
        let report = PrepareReport {
            made: 2,
            failures: vec![failure("a", "it is broken"), failure("a.wav", "it is broken")],
            ..PrepareReport::default()
        };
        let text = "2 made, 0 there already\n1 failure, all in log.txt:\n  a.mp4: it is broken";
        assert_eq!(prepared(&report, Path::new("log.txt")), text);
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.txt");
        write_failures(&log, &report).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "a.mp4\tit is broken\n");
        write_failures(&log, &PrepareReport::default()).unwrap();
        assert!(!log.exists());
    }

    #[test]
    fn fetched_files_are_told_from_those_that_were_there() {
        let file = |name: &str, downloaded_bytes, unpacked| FetchedFile {
            path: Path::new("/data/set").join(name),
            downloaded_bytes,
            unpacked,
            compared: unpacked == 0,
        };
        let report = FetchReport {
            files: vec![file("a.gz", 1_540_000, 0), file("b.zip", 100_000, 3), file("c", 0, 0)],
        };
        assert_eq!(
            fetched(&report, Path::new("/data/set")),
            "  a.gz: 1.5 MB\n  b.zip: 0.1 MB, unpacked to 3 files; no checksum of it is published, so \
             none was compared\n  c: there already"
        );
    }

    #[test]
    fn what_is_neither_a_dataset_nor_a_file_is_refused_with_exit_status_2() {
        let (mut shell, _, _) = paper();
        let command = Fetch { what: "no_such".to_owned(), data_dir: DataDir::default() };
        let error = command.run(&mut shell).unwrap_err();
        assert!(error.to_string().starts_with("`no_such` is neither a dataset nor a file"));
        assert_eq!(error.exit_status(), 2);
    }
}
