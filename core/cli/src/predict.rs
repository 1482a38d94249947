//! `mie predict`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mie_core::engine::{self, FUSED, FileSample, Prediction, Predictions};
use mie_core::family::Split;
use mie_core::{Error, Result};

use crate::arguments::{DataDir, DeviceChoice, Overrides};
use crate::tables;
use crate::terminal::Shell;

const EXAMPLES: &str = "\
Examples:
  mie predict RUN audio=seven.wav image=seven.png
  mie predict RUN audio=seven.wav
  mie predict RUN --list samples.csv --format csv
  mie predict RUN --split valid --format json";

/// Column of a list that names its samples.
const SAMPLE: &str = "sample";

/// Predicts samples by the selected weights of a run
///
/// Samples come as files, one for each modality, which need not be of any dataset; as a CSV list
/// whose header names modalities and whose rows name files, relative to the list (a column
/// `sample`, if there is one, names the samples); or as a split of the run's dataset. A folder
/// stands for its files in the order of their names.
///
/// Modalities may be missing: the joint decision is then made on the others, or, by a fusion that
/// needs all of them, with what stands for a missing modality in training; what was done is said.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Predict {
    /// Run directory, as `mie train` names it
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Files of one sample; or else `--list` or `--split`
    #[arg(value_name = "MODALITY=FILE")]
    files: Vec<String>,
    /// List of samples, as CSV
    #[arg(long, value_name = "CSV", conflicts_with_all = ["files", "split"])]
    list: Option<PathBuf>,
    /// Split of the run's dataset
    #[arg(long, value_enum, conflicts_with = "files")]
    split: Option<Predicted>,
    /// Classes shown for one sample, the most probable first
    #[arg(long, value_name = "CLASSES", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    top: u64,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    data_dir: DataDir,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Predicted {
    Train,
    Valid,
    Test,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For a terminal
    Text,
    /// A line for each sample and output, with the probability of every class
    Csv,
    /// Everything
    Json,
}

impl Predict {
    pub(crate) fn run(&self, shell: &mut Shell) -> Result<ExitCode> {
        let device = self.device.find()?;
        let set = &self.overrides.set;
        let folder = self.data_dir.folder_of(&self.run);
        let predictions = if let Some(split) = self.split {
            let split = match split {
                Predicted::Train => Split::Train,
                Predicted::Valid => Split::Valid,
                Predicted::Test => Split::Test,
            };
            engine::predict_split(&self.run, split, &folder, device, set)?
        } else {
            let samples = match &self.list {
                Some(list) => listed(list)?,
                None if self.files.is_empty() => {
                    return Err(Error::Config {
                        at: "command line".to_owned(),
                        problem: "nothing to predict; name files as MODALITY=FILE, or take \
                                  `--list CSV` or `--split SPLIT`"
                            .to_owned(),
                    });
                }
                None => vec![given(&self.files)?],
            };
            engine::predict_files(&self.run, &samples, &folder, device, set)?
        };
        match self.format {
            Format::Text => shell.line(&self.describe(&predictions)),
            Format::Csv => shell.text(&csv(&predictions)?),
            Format::Json => shell.json_page(&predictions),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn describe(&self, predictions: &Predictions) -> String {
        let mut lines = Vec::new();
        match predictions.samples.as_slice() {
            [sample] => lines.push(one(predictions, sample, self.top as usize)),
            samples => {
                lines.push(many(predictions));
                let known = samples.iter().filter(|sample| sample.label.is_some());
                let right = known.clone().filter(|sample| sample.class(FUSED) == sample.label);
                if let count @ 1.. = known.count() {
                    let share = tables::percent(right.count() as f64 / count as f64);
                    lines.push(format!("{FUSED} is right for {share} % of {count} samples"));
                }
            }
        }
        lines.extend(remarks(predictions));
        lines.join("\n")
    }
}

/// Reads `MODALITY=FILE` arguments.
fn given(arguments: &[String]) -> Result<FileSample> {
    let mut files = BTreeMap::new();
    let mut names = Vec::new();
    for argument in arguments {
        let (modality, file) = match argument.split_once('=') {
            Some((modality, file)) if !modality.is_empty() && !file.is_empty() => (modality, file),
            _ => {
                return Err(Error::Config {
                    at: "command line".to_owned(),
                    problem: format!(
                        "`{argument}` does not say which modality it is of; write \
                         MODALITY=FILE, e.g. audio={argument}"
                    ),
                });
            }
        };
        let file = PathBuf::from(file);
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        names.push(name);
        if files.insert(modality.to_owned(), file).is_some() {
            return Err(Error::Config {
                at: "command line".to_owned(),
                problem: format!(
                    "modality `{modality}` is given twice; a sample has one file of it (`--list` \
                     takes several samples)"
                ),
            });
        }
    }
    Ok(FileSample { id: names.join(" + "), files })
}

/// Reads a list of samples.
fn listed(list: &Path) -> Result<Vec<FileSample>> {
    let folder = list.parent().unwrap_or(Path::new(""));
    let text = std::fs::read_to_string(list).map_err(Error::io("read", list))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let broken = |error: csv::Error| Error::data(list, format!("is no CSV: {error}"));
    let header = reader.headers().map_err(broken)?.clone();
    for (column, name) in header.iter().enumerate() {
        if name.is_empty() || header.iter().take(column).any(|other| other == name) {
            let problem = if name.is_empty() { "has no name" } else { "stands there twice" };
            return Err(Error::data(
                list,
                format!(
                    "column {} `{name}` of the first line {problem}; it names a modality each, \
                     and may name `{SAMPLE}`",
                    column + 1
                ),
            ));
        }
    }
    let mut samples = Vec::new();
    for (row, record) in reader.records().enumerate() {
        let record = record.map_err(broken)?;
        let mut sample = FileSample { id: (row + 1).to_string(), files: BTreeMap::new() };
        for (name, cell) in header.iter().zip(&record).filter(|(_, cell)| !cell.is_empty()) {
            if name == SAMPLE {
                cell.clone_into(&mut sample.id);
            } else {
                sample.files.insert(name.to_owned(), folder.join(cell));
            }
        }
        samples.push(sample);
    }
    if samples.is_empty() {
        return Err(Error::data(list, "lists no samples below its first line"));
    }
    Ok(samples)
}

fn class_name(predictions: &Predictions, class: usize) -> String {
    predictions.classes.get(class).cloned().unwrap_or_else(|| class.to_string())
}

/// Probabilities of one sample: a row a class, a column an output.
fn one(predictions: &Predictions, sample: &Prediction, top: usize) -> String {
    let outputs = tables::in_order(&sample.probabilities);
    let header: Vec<String> = std::iter::once("class".to_owned())
        .chain(outputs.iter().map(|(name, _)| format!("{name} %")))
        .collect();
    let fused = &sample.probabilities[FUSED];
    let mut classes: Vec<usize> = (0..fused.len()).collect();
    classes.sort_by(|&a, &b| fused[b].total_cmp(&fused[a]));
    let row = |&class: &usize| {
        let name = class_name(predictions, class);
        let cells = outputs.iter().map(|(_, row)| tables::percent(f64::from(row[class])));
        std::iter::once(name).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = classes.iter().take(top).map(row).collect();
    tables::table(&header, &rows, 1)
}

/// What every output predicts: a row a sample.
fn many(predictions: &Predictions) -> String {
    let mut outputs: BTreeMap<String, &Vec<f32>> = BTreeMap::new();
    for sample in &predictions.samples {
        outputs.extend(sample.probabilities.iter().map(|(name, row)| (name.clone(), row)));
    }
    let outputs: Vec<&String> =
        tables::in_order(&outputs).into_iter().map(|(name, _)| name).collect();
    let labelled = predictions.samples.iter().any(|sample| sample.label.is_some());
    let mut header = vec![SAMPLE.to_owned()];
    header.extend(labelled.then(|| "true class".to_owned()));
    for &name in &outputs {
        header.extend([name.clone(), "%".to_owned()]);
    }
    let row = |sample: &Prediction| {
        let mut cells = vec![sample.sample.clone()];
        if labelled {
            let name = sample.label.map(|class| class_name(predictions, class));
            cells.push(name.unwrap_or_default());
        }
        for &output in &outputs {
            let found = sample.class(output);
            cells.extend(found.map_or([String::new(), String::new()], |class| {
                let share = sample.probabilities[output][class];
                [class_name(predictions, class), tables::percent(f64::from(share))]
            }));
        }
        cells
    };
    let rows: Vec<Vec<String>> = predictions.samples.iter().map(row).collect();
    tables::table(&header, &rows, 1 + usize::from(labelled))
}

/// Says which samples lack modalities, and what the joint decision made of it.
fn remarks(predictions: &Predictions) -> Vec<String> {
    let mut kinds: BTreeMap<(&[String], bool), usize> = BTreeMap::new();
    for sample in predictions.samples.iter().filter(|sample| !sample.missing.is_empty()) {
        *kinds.entry((&sample.missing, sample.filled)).or_default() += 1;
    }
    let total = predictions.samples.len();
    let remark = |((missing, filled), count): ((&[String], bool), usize)| {
        let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
        let whose = if total == 1 { String::new() } else { format!(" in {count} of {total}") };
        let done = if filled {
            "the fusion needs all modalities and got what stands for missing ones in training"
        } else {
            "the joint decision is made on the others"
        };
        format!("missing{whose}: {}; {done}", names.join(", "))
    };
    kinds.into_iter().map(remark).collect()
}

/// A line for each sample and output.
fn csv(predictions: &Predictions) -> Result<String> {
    let broken = |error: csv::Error| Error::Bug(format!("predictions are no CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fixed = [SAMPLE, "true_class", "missing", "filled", "output", "predicted_class"];
    let classes = predictions.classes.iter().map(|class| format!("probability {class}"));
    let header = fixed.into_iter().map(str::to_owned).chain(classes);
    writer.write_record(header).map_err(broken)?;
    for sample in &predictions.samples {
        for (output, row) in tables::in_order(&sample.probabilities) {
            let name = |class: Option<usize>| {
                class.map_or_else(String::new, |class| class_name(predictions, class))
            };
            let cells = [
                sample.sample.clone(),
                name(sample.label),
                sample.missing.join(" "),
                sample.filled.to_string(),
                output.clone(),
                name(sample.class(output)),
            ];
            let shares = row.iter().map(f32::to_string);
            writer.write_record(cells.into_iter().chain(shares)).map_err(broken)?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| Error::Bug(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| Error::Bug(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(sample: &str, label: Option<usize>, missing: &[&str]) -> Prediction {
        let missing: Vec<String> = missing.iter().map(|&name| name.to_owned()).collect();
        let rows = [("audio", [0.25, 0.75]), (FUSED, [0.625, 0.375]), ("image", [1.0, 0.0])];
        Prediction {
            sample: sample.to_owned(),
            label,
            probabilities: rows
                .into_iter()
                .filter(|(name, _)| !missing.iter().any(|other| other == name))
                .map(|(name, row)| (name.to_owned(), row.to_vec()))
                .collect(),
            filled: !missing.is_empty(),
            missing,
        }
    }

    fn predictions(samples: Vec<Prediction>) -> Predictions {
        Predictions {
            classes: vec!["yes".to_owned(), "no, never".to_owned()],
            modalities: vec!["audio".to_owned(), "image".to_owned()],
            samples,
        }
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn one_sample_is_shown_class_by_class_the_most_probable_first() {
        let found = predictions(vec![prediction("a", None, &[])]);
        let lines = one(&found, &found.samples[0], 1);
        let lines = words(&lines);
        assert_eq!(lines[1], ["class", "audio", "%", "image", "%", "fused", "%"]);
        assert_eq!(lines[3], ["yes", "25.00", "100.00", "62.50"]);
        assert_eq!(lines.len(), 5);
        assert!(remarks(&found).is_empty());
    }

    #[test]
    fn several_samples_are_a_row_each_and_what_is_missing_is_said() {
        let samples = vec![prediction("a", Some(1), &["image"]), prediction("b", Some(0), &[])];
        let found = predictions(samples);
        let table = many(&found);
        let lines = words(&table);
        assert_eq!(lines[3], ["a", "no,", "never", "no,", "never", "75.00", "yes", "62.50"]);
        assert_eq!(
            lines[4],
            ["b", "yes", "no,", "never", "75.00", "yes", "100.00", "yes", "62.50"]
        );
        assert_eq!(
            remarks(&found),
            ["missing in 1 of 2: `image`; the fusion needs all modalities and got what stands \
              for missing ones in training"]
        );
    }

    #[test]
    fn csv_has_a_line_for_each_sample_and_output() {
        let text = csv(&predictions(vec![prediction("a", Some(1), &["image"])])).unwrap();
        assert_eq!(
            text,
            "sample,true_class,missing,filled,output,predicted_class,probability yes,\
             \"probability no, never\"\n\
             a,\"no, never\",image,true,audio,\"no, never\",0.25,0.75\n\
             a,\"no, never\",image,true,fused,yes,0.625,0.375\n"
        );
    }

    #[test]
    fn a_list_names_files_beside_itself_and_leaves_missing_ones_empty() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list.csv");
        let read = |text: &str| {
            std::fs::write(&list, text).unwrap();
            listed(&list)
        };
        let samples = read("sample, audio, image\nseven, 7.wav,\n, /far/8.wav, 8.png\n").unwrap();
        assert_eq!(samples[0].id, "seven");
        let seven = BTreeMap::from([("audio".to_owned(), folder.path().join("7.wav"))]);
        assert_eq!(samples[0].files, seven);
        assert_eq!((samples[1].id.as_str(), samples[1].files.len()), ("2", 2));
        assert_eq!(samples[1].files["audio"], Path::new("/far/8.wav"));
        let refused = |text: &str| read(text).unwrap_err().to_string();
        assert!(refused("audio\n").contains("lists no samples"));
        assert!(
            refused("audio,audio\na,b\n").contains("column 2 `audio` of the first line stands")
        );
        assert!(refused("audio,\na,b\n").contains("column 2 `` of the first line has no name"));
        assert!(refused("audio,image\na\n").contains("is no CSV"));
    }

    #[test]
    fn an_argument_without_a_modality_and_a_modality_given_twice_are_refused() {
        let read = |arguments: &[&str]| {
            given(&arguments.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
        };
        let sample = read(&["audio=in/7.wav", "image=a=b.png"]).unwrap();
        assert_eq!(sample.id, "7.wav + a=b.png");
        assert_eq!(sample.files["image"], Path::new("a=b.png"));
        let error = read(&["7.wav"]).unwrap_err().to_string();
        assert!(error.contains("MODALITY=FILE, e.g. audio=7.wav"), "{error}");
        let error = read(&["audio=a", "audio=b"]).unwrap_err().to_string();
        assert!(error.contains("given twice"), "{error}");
    }
}
