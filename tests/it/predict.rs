//! `mie predict`, of files and of splits.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use mie_core::config::Resolved;
use mie_core::prelude::*;
use mie_record::RunDir;

use crate::desk::Desk;
use crate::support::{data, root};

/// Writes the first test samples of a run's dataset as files, and a list of them.
fn write_samples(desk: &Desk, run: &RunDir, base: &Path, count: usize) {
    let experiment = Resolved::read(&run.config_path(), &[]).unwrap().experiment;
    let context = OpenContext { base: base.to_owned(), seed: Seed(experiment.seed) };
    let dataset = experiment.dataset.open(&context).unwrap();
    let names: Vec<&String> = experiment.modalities.keys().collect();
    let mut list = format!("sample,{},{}\n", names[0], names[1]);
    for (index, sample) in dataset.samples(Split::Test).iter().take(count).enumerate() {
        list.push_str(&sample.id);
        for name in &names {
            let mut file = format!("{index}-{name}");
            match dataset.raw(Split::Test, index, name).unwrap() {
                Raw::Values(values) => {
                    let words: Vec<String> = values.iter().map(f32::to_string).collect();
                    desk.write(&file, &words.join(" "));
                }
                Raw::Grey { width, height, pixels } => {
                    let mut picture = format!("P5 {width} {height} 255\n").into_bytes();
                    picture.extend(pixels);
                    fs::write(desk.path(&file), picture).unwrap();
                }
                Raw::File(given) => file = given.canonicalize().unwrap().display().to_string(),
                other => panic!("unexpected {}", other.kind()),
            }
            write!(list, ",{file}").unwrap();
        }
        list.push('\n');
    }
    desk.write("list.csv", &list);
}

/// Lines of a table of predictions, without the true classes, which files do not have.
fn without_labels(csv: &str, lines: usize) -> Vec<String> {
    let unlabelled = |line: &str| {
        let mut cells: Vec<&str> = line.split(',').collect();
        cells.remove(1);
        cells.join(",")
    };
    csv.lines().take(lines).map(unlabelled).collect()
}

#[test]
fn a_split_and_its_samples_as_files_get_the_same_probabilities() {
    let desk = Desk::new();
    let run = desk.trained(&[], None);
    let shown = desk.shown(run.path());
    write_samples(&desk, &run, Path::new("data"), 40);
    let split = desk.run(&["predict", &shown, "--split", "test", "--format", "csv"], 0).out;
    let files = desk.run(&["predict", &shown, "--list", "list.csv", "--format", "csv"], 0).out;
    let lines = split.lines().count();
    assert_eq!(lines, 1 + 40 * 3);
    assert_eq!(without_labels(&split, lines), without_labels(&files, lines));

    // What is right by sample is the accuracy of the evaluation.
    let right = split
        .lines()
        .skip(1)
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|cells| cells[4] == "fused" && cells[1] == cells[5])
        .count();
    let accuracy = run.read_summary().unwrap().unwrap().outputs["test"]["fused"].accuracy;
    assert!((right as f64 / 40.0 - accuracy).abs() < 1e-9, "{right} of 40, {accuracy}");
    let text = desk.run(&["predict", &shown, "--split", "test"], 0).out;
    let end = format!("fused is right for {:.2} % of 40 samples\n", 100.0 * accuracy);
    assert!(text.ends_with(&end), "{text}");
}

#[test]
fn without_a_modality_a_fusion_decides_on_the_others_or_with_its_filler_and_says_so() {
    let desk = Desk::new();
    let averaged = desk.trained(&[], None);
    write_samples(&desk, &averaged, Path::new("data"), 1);
    let shown = desk.shown(averaged.path());
    let alone = desk.run(&["predict", &shown, "strong=0-strong"], 0).out;
    let end = "missing: `weak`; the joint decision is made on the others\n";
    assert!(alone.ends_with(end), "{alone}");
    let json = desk.run(&["predict", &shown, "strong=0-strong", "--format", "json"], 0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let sample = &json["samples"][0];
    assert_eq!(sample["probabilities"]["fused"], sample["probabilities"]["strong"]);
    assert_eq!(sample["missing"], serde_json::json!(["weak"]));
    assert_eq!(sample["probabilities"].get("weak"), None);

    let joint = [
        "fusion={ name = \"concat\" }",
        "objectives=[{ name = \"joint_ce\" }]",
        "strategy={ name = \"joint\", epochs = 2 }",
        "head.unimodal=false",
    ];
    let joined = desk.trained(&joint, None);
    let shown = desk.shown(joined.path());
    let filled = desk.run(&["predict", &shown, "strong=0-strong"], 0).out;
    let end = "missing: `weak`; the fusion needs all modalities and got what stands for missing \
               ones in training\n";
    assert!(filled.ends_with(end), "{filled}");
    assert!(!filled.contains("weak %"), "{filled}");
}

#[test]
fn what_cannot_be_predicted_is_refused_in_words() {
    let desk = Desk::new();
    let run = desk.trained(&[], Some(25));
    let shown = desk.shown(run.path());
    let refusal = |arguments: &[&str], status| {
        desk.run(&[&["predict", &shown], arguments].concat(), status).err
    };
    assert!(refusal(&[], 2).contains("nothing to predict; name files as MODALITY=FILE"));
    assert!(refusal(&["--split", "test"], 2).contains("its test split is still locked"));
    let unknown = refusal(&["stong=0-strong"], 2);
    assert!(unknown.contains("did you mean `strong`? name one of `strong`, `weak`"), "{unknown}");
    assert!(refusal(&["strong=absent"], 1).contains("cannot read absent"));
    desk.write("short", "1 2 3");
    let short = refusal(&["strong=short"], 1);
    assert!(short.contains("sample `short`") && short.contains("expected 32, found 3"), "{short}");
    desk.write("list.csv", "strong,weak\n,\n");
    assert!(refusal(&["--list", "list.csv"], 2).contains("sample `1` has no file"));
}

#[test]
fn a_real_recording_and_picture_are_predicted_as_in_the_evaluation() {
    let Some(folder) = data() else { return };
    let folder = folder.canonicalize().unwrap();
    let desk = Desk::new();
    let config = root().join("configs/experiments/av_digits/baseline.toml");
    let (config, data_dir) = (config.display().to_string(), folder.display().to_string());
    let mut train = vec!["train", &config, "--data-dir", &data_dir];
    for set in ["strategy.epochs=[1,1]", "strategy.repeat=1", "data.train_per_class=12"] {
        train.extend(["--set", set]);
    }
    desk.run(&train, 0);
    let run = RunDir::list(&desk.runs()).unwrap().remove(0);
    let shown = desk.shown(run.path());
    write_samples(&desk, &run, &folder, 300);
    let split = ["predict", &shown, "--split", "test", "--format", "csv", "--data-dir", &data_dir];
    let split = desk.run(&split, 0).out;
    let files = desk.run(&["predict", &shown, "--list", "list.csv", "--format", "csv"], 0).out;
    let lines = split.lines().count();
    assert_eq!(without_labels(&split, lines), without_labels(&files, lines));
}
