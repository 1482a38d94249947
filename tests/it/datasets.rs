//! Published datasets from the outside: counted, trained on, prepared and kept decoded.
//!
//! Most tests make up a few files in the layout and the lists of a dataset and train the
//! experiments of the project on them, with small networks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mie_core::config::Resolved;
use mie_core::engine::{self, Existing, Outcome, TrainOptions};
use mie_core::prelude::{Device, OpenContext, Seed, Tensor};
use mie_core::weights;
use mie_record::{Cost, RunDir, SKIPPED_DATA, Summary};
use serde_json::{Value, json};

use crate::desk::{Desk, Ran, ended};
use crate::stand_in_data::{self, Tensors, vocabulary, write, write_tensors};
use crate::support::{Watcher, checkpoint_bits, data, only_run, root};

/// An epoch for each of two modalities.
const SHORT: &str = "
strategy.epochs=[1,1]
strategy.repeat=1
data.batch_size=2
run.workers=1
";

/// Small networks for recordings and frames; a quarter of the training clips validates.
const CLIPS: &str = "
data.validation_share=0.25
modalities.audio.encoder.base_channels=2
modalities.audio.input.window_samples=128
modalities.audio.input.length_samples=8000
modalities.video.encoder.base_channels=2
modalities.video.input.height=32
modalities.video.input.width=32
";

/// Small networks for tweets and their pictures, but for the size of the vocabulary.
const TWEETS: &str = "
modalities.image.encoder.base_channels=2
modalities.image.projection=32
modalities.image.input.height=32
modalities.image.input.width=32
modalities.text.encoder.layers=1
modalities.text.encoder.width=32
modalities.text.encoder.heads=4
modalities.text.encoder.intermediate=64
modalities.text.encoder.positions=32
modalities.text.input.max_tokens=32
";

/// An epoch for each of three modalities, and small networks for windows of 8 frames.
fn gestures() -> String {
    let mut settings = "strategy.epochs=[1,1,1]\nstrategy.repeat=1\nrun.workers=1\n".to_owned();
    for modality in ["rgb", "depth", "flow"] {
        for setting in [
            "encoder.width_divisor=8",
            "input.frames=8",
            "input.resize_pixels=40",
            "input.crop_pixels=32",
        ] {
            writeln!(settings, "modalities.{modality}.{setting}").unwrap();
        }
    }
    settings
}

/// Where configurations look for published weights.
const BERT: &str = "weights/bert-base-uncased/model.safetensors";
const RESNET50: &str = "weights/resnet50-0676ba61.pth";
const I3D: [&str; 2] = ["weights/i3d/rgb_imagenet.pt", "weights/i3d/flow_imagenet.pt"];

/// Runs the program to its end with a cache of its own.
fn run(desk: &Desk, arguments: &[&str], status: i32) -> Ran {
    ended(desk.command(arguments).env("MIE_CACHE_DIR", "cache").output().unwrap(), status)
}

/// File of an experiment of the project.
fn file_of(experiment: &str) -> String {
    root().join(format!("configs/experiments/{experiment}.toml")).display().to_string()
}

/// Trains an experiment of the project into a folder of runs; a line of `settings` is one.
fn train(desk: &Desk, experiment: &str, settings: &[&str], runs: &str, status: i32) -> Ran {
    let file = file_of(experiment);
    let mut arguments = vec!["train", &file, "--runs-dir", runs];
    let lines = settings.iter().flat_map(|text| text.lines()).filter(|line| !line.is_empty());
    arguments.extend(lines.flat_map(|line| ["--set", line]));
    run(desk, &arguments, status)
}

/// What the cache holds, by recipe.
fn cached(desk: &Desk) -> Vec<Value> {
    let page: Value =
        serde_json::from_str(&run(desk, &["data", "cache", "--json"], 0).out).unwrap();
    assert_eq!(page["folder"], "cache");
    page["entries"].as_array().unwrap().clone()
}

/// Decoded files that the cache holds, by the first word of their recipes.
fn arrays(desk: &Desk) -> BTreeMap<String, u64> {
    let mut arrays: BTreeMap<String, u64> = BTreeMap::new();
    for entry in cached(desk) {
        let recipe = entry["recipe"].as_str().unwrap();
        let modality = recipe.split_whitespace().next().unwrap().to_owned();
        *arrays.entry(modality).or_default() += entry["arrays"].as_u64().unwrap();
    }
    arrays
}

/// The only run below a folder, what it scored and the bits that it left, without what it cost.
fn result(desk: &Desk, runs: &str) -> (RunDir, Summary, BTreeMap<String, Vec<u8>>) {
    let run = only_run(&desk.path(runs));
    let summary = run.read_summary().unwrap().unwrap();
    let summary = Summary { finished_unix_seconds: 0, cost: Cost::default(), ..summary };
    let bits = checkpoint_bits(&run, "last");
    (run, summary, bits)
}

/// Checks that two folders hold runs of the same scores and weights, bit for bit.
fn expect_the_same(desk: &Desk, one: &str, two: &str) {
    let ((_, summary, bits), (_, other_summary, other_bits)) =
        (result(desk, one), result(desk, two));
    assert_eq!(summary, other_summary, "scores of {one} and {two}");
    assert!(bits == other_bits, "weights of {one} and {two} differ");
}

/// Trains with an empty cache, with a full one and without; all must be the same bit for bit, and
/// the second run must find everything.
fn trained_alike(desk: &Desk, experiment: &str, settings: &[&str]) -> (RunDir, Summary) {
    train(desk, experiment, settings, "cold", 0);
    let kept = cached(desk);
    assert!(!kept.is_empty());
    train(desk, experiment, settings, "warm", 0);
    assert_eq!(cached(desk), kept);
    let none = [settings, &["run.cache_gigabytes=0"]].concat();
    train(desk, experiment, &none, "without", 0);
    assert_eq!(cached(desk), kept);
    expect_the_same(desk, "cold", "warm");
    expect_the_same(desk, "cold", "without");
    let (run, summary, _) = result(desk, "cold");
    (run, summary)
}

/// Checks what `mie data check` says of an incomplete copy, line by line.
fn expect_check(desk: &Desk, experiment: &str, expected: &[&str]) {
    let out = run(desk, &["data", "check", &file_of(experiment)], 1).out;
    for line in expected {
        assert!(out.lines().any(|found| found.trim_start() == *line), "{line}\nis not in\n{out}");
    }
    // Numbers differ from the published ones, and nothing else.
    for word in ["missing", "broken", "fault"] {
        assert!(!out.contains(word), "{out}");
    }
}

/// Checks the outputs on a split, and that all have this many samples.
fn expect_outputs(summary: &Summary, split: &str, modalities: &[&str], samples: u64) {
    let outputs = &summary.outputs[split];
    let mut expected = modalities.to_vec();
    expected.extend(["fused", "fused.entropy_weighted"]);
    expected.sort_unstable();
    assert!(outputs.keys().eq(&expected), "{:?}", outputs.keys());
    for (name, metrics) in outputs {
        assert_eq!(metrics.samples, samples, "{name}");
        assert!(metrics.loss.is_finite(), "{name}: {}", metrics.loss);
    }
}

/// Samples of the splits as a run recorded them.
fn recorded_samples(run: &RunDir) -> Vec<u64> {
    run.read_manifest().unwrap().data.iter().map(|record| record.samples).collect()
}

#[test]
fn cremad_is_counted_and_trains_alike_with_and_without_the_cache() {
    let desk = Desk::new();
    stand_in_data::cremad(&desk.path("data"));
    expect_check(
        &desk,
        "cremad/mie",
        &[
            "train  24 samples (expected 6698); 4 to 4 of a class",
            "test   12 samples (expected 744); 2 to 2 of a class",
            "14 differences:",
            "train: class `happy` has 4 samples, expected 1148",
            "test: class `anger` has 2 samples, expected 105",
        ],
    );
    let (run, summary) = trained_alike(&desk, "cremad/mie", &[SHORT, CLIPS]);
    assert_eq!(recorded_samples(&run), [18, 6, 12]);
    expect_outputs(&summary, "test", &["audio", "video"], 12);
    expect_outputs(&summary, "valid", &["audio", "video"], 6);
    // Spectrograms of all splits; of videos whole frames to train with, small ones to evaluate.
    let expected = [("frames".to_owned(), 18 + 6 + 12), ("spectrogram".to_owned(), 18 + 6 + 12)];
    assert_eq!(arrays(&desk), BTreeMap::from(expected));
}

#[test]
fn kinetics_sounds_is_counted_and_trains_alike_with_and_without_the_cache() {
    let desk = Desk::new();
    stand_in_data::kinetics_sounds(&desk.path("data"));
    expect_check(
        &desk,
        "kinetics_sounds/mie",
        &[
            "train  12 samples (expected 14799); 0 to 4 of a class",
            "test   6 samples (expected 2597); 0 to 2 of a class",
            "64 differences:",
            "train: class `bowling` has 4 samples, expected 607",
            "test: class `tickling` has 2 samples, expected 63",
        ],
    );
    let (run, summary) = trained_alike(&desk, "kinetics_sounds/mie", &[SHORT, CLIPS]);
    assert_eq!(recorded_samples(&run), [9, 3, 6]);
    expect_outputs(&summary, "test", &["audio", "video"], 6);
    // Labels are those of the published indices, whichever classes are there.
    let manifest = run.read_manifest().unwrap();
    let classes = &manifest.data[0].classes;
    assert_eq!((classes.len(), classes[10].as_str()), (31, "playing clarinet"));
    let confusion: Vec<u64> =
        summary.confusion["fused"].iter().map(|row| row.iter().sum()).collect();
    let expected: Vec<u64> =
        (0..31).map(|class| if [2, 10, 30].contains(&class) { 2 } else { 0 }).collect();
    assert_eq!(confusion, expected);
}

/// Lays out made-up tweets of a dataset, the vocabulary and the weights that their experiments
/// name; gives the settings and the tensors of text and of pictures.
fn lay_out_tweets(desk: &Desk, dataset: fn(&Path)) -> (String, Tensors, Tensors) {
    let data = desk.path("data");
    dataset(&data);
    let (size, text, image) = lay_out_weights(&data);
    (format!("{SHORT}{TWEETS}modalities.text.encoder.vocabulary={size}\n"), text, image)
}

/// Writes a vocabulary and weights for the encoders of [`TWEETS`].
fn lay_out_weights(data: &Path) -> (usize, Tensors, Tensors) {
    let size = vocabulary(data);
    let bert = json!({
        "name": "bert", "layers": 1, "width": 32, "heads": 4, "intermediate": 64,
        "positions": 32, "vocabulary": size,
    });
    let text = stand_in_data::weights(bert, None, "bert.");
    write_tensors(&data.join(BERT), &text);
    let resnet = json!({ "name": "resnet50", "base_channels": 2 });
    let image = stand_in_data::weights(resnet, None, "");
    write_tensors(&data.join(RESNET50), &image);
    (size, text, image)
}

#[test]
fn twitter2015_is_counted_and_trains_alike_from_weights_that_are_recorded() {
    let desk = Desk::new();
    let (settings, text, image) = lay_out_tweets(&desk, stand_in_data::twitter2015);
    expect_check(
        &desk,
        "twitter2015/mie",
        &[
            "train  12 samples (expected 3179); 4 to 4 of a class",
            "valid  6 samples (expected 1122); 2 to 2 of a class",
            "test   6 samples (expected 1037); 2 to 2 of a class",
            "12 differences:",
            "train: class `neutral` has 4 samples, expected 1883",
            "valid: class `negative` has 2 samples, expected 149",
            "test: class `positive` has 2 samples, expected 317",
        ],
    );
    let (run, summary) = trained_alike(&desk, "twitter2015/mie", &[&settings]);
    assert_eq!(recorded_samples(&run), [12, 6, 6]);
    expect_outputs(&summary, "test", &["image", "text"], 6);

    let weights = run.read_manifest().unwrap().weights;
    assert!(weights.keys().eq(["image", "text"]));
    for (modality, file, tensors) in [("text", BERT, &text), ("image", RESNET50, &image)] {
        let record = &weights[modality];
        assert_eq!(record.file, file);
        assert_eq!(record.sha256, weights::sha256(&desk.path("data").join(file)).unwrap());
        assert_eq!(record.tensors, tensors.len() as u64);
        assert!(record.missing.is_empty() && record.unexpected.is_empty(), "{record:?}");
    }
    // Six steps at a rate of at most 1e-5 leave the weights near those of the files; others from
    // the seed would be some hundredths away.
    let last: Tensors = Tensor::read_safetensors(run.checkpoints_path().join("last.safetensors"))
        .unwrap()
        .into_iter()
        .collect();
    for (modality, prefix, tensors) in [("text", "bert.", &text), ("image", "", &image)] {
        for (name, published) in tensors.iter().filter(|(name, _)| !name.contains("running_")) {
            let name = name.strip_prefix(prefix).unwrap();
            let found = &last[&format!("weights/encoder.{modality}.{name}")];
            let difference = (found - published).abs().max().double_value(&[]);
            assert!(difference < 1e-3, "{modality} {name} differs by {difference}");
        }
    }
}

#[test]
fn sarcasm_is_counted_without_tweets_that_give_the_answer_away_and_trains_alike() {
    let desk = Desk::new();
    let (settings, ..) = lay_out_tweets(&desk, stand_in_data::sarcasm);
    expect_check(
        &desk,
        "sarcasm/mie",
        &[
            "train  8 samples (expected 19816); 4 to 4 of a class",
            "valid  4 samples (expected 2410); 2 to 2 of a class",
            "test   4 samples (expected 2409); 2 to 2 of a class",
            "9 differences:",
            "train: class `sarcastic` has 4 samples, expected 8642",
        ],
    );
    let (run, summary) = trained_alike(&desk, "sarcasm/mie", &[&settings]);
    assert_eq!(recorded_samples(&run), [8, 4, 4]);
    expect_outputs(&summary, "test", &["image", "text"], 4);
    let deviations = run.read_manifest().unwrap().deviations;
    assert_eq!(deviations["dataset.training_tweets_dropped"], "1");
}

/// Writes weights for the encoders of [`gestures`], of colour and of flow; gives the number of
/// tensors of each.
fn lay_out_i3d(data: &Path) -> u64 {
    let mut tensors = 0;
    for (file, channels) in I3D.iter().zip([3, 2]) {
        let i3d = json!({ "name": "i3d", "width_divisor": 8 });
        let published = stand_in_data::weights(i3d, Some(&[channels, 8, 32, 32][..]), "");
        write_tensors(&data.join(file), &published);
        tensors = published.len() as u64;
    }
    tensors
}

#[test]
fn nvgesture_is_counted_and_trains_alike_with_a_first_layer_of_its_own_for_depth() {
    let desk = Desk::new();
    let data = desk.path("data");
    stand_in_data::nvgesture(&data);
    let tensors = lay_out_i3d(&data);
    expect_check(
        &desk,
        "nvgesture/mie",
        &[
            "train  12 samples (expected 1050); 0 to 4 of a class",
            "test   3 samples (expected 482); 0 to 1 of a class",
            "52 differences:",
            "train: class `five fingers left` has 4 samples, expected 50",
        ],
    );
    let settings = gestures();
    let share = "data.batch_size=2\ndata.validation_share=0.25";
    let (run, summary) = trained_alike(&desk, "nvgesture/mie", &[&settings, share]);
    assert_eq!(recorded_samples(&run), [9, 3, 3]);
    expect_outputs(&summary, "test", &["depth", "flow", "rgb"], 3);
    // Kept are all frames of each clip, of colour and depth as two recipes. Batches of 2 leave one
    // of 9 training clips out, unless a refresh reads it.
    let kept = arrays(&desk);
    assert!(kept.keys().eq(["clip", "flow"]), "{kept:?}");
    for (modality, most) in [("clip", 2 * 15), ("flow", 15)] {
        assert!((most * 14 / 15..=most).contains(&kept[modality]), "{kept:?}");
    }

    let weights = run.read_manifest().unwrap().weights;
    assert_eq!(weights["depth"].file, I3D[0]);
    assert_eq!(weights["depth"].sha256, weights["rgb"].sha256);
    assert_eq!(weights["flow"].file, I3D[1]);
    let first_layer = "Conv3d_1a_7x7.conv3d.weight: 3 channels published, 1 here: random";
    assert_eq!(weights["depth"].first_layer.as_deref(), Some(first_layer));
    assert_eq!(weights["rgb"].first_layer, None);
    let counts = ["depth", "rgb", "flow"].map(|modality| weights[modality].tensors);
    assert_eq!(counts, [tensors - 1, tensors, tensors]);
}

#[test]
fn weights_that_are_not_there_or_lack_a_tensor_are_named_before_the_first_step() {
    let desk = Desk::new();
    let (settings, text, image) = lay_out_tweets(&desk, stand_in_data::twitter2015);
    let refusal = |status| train(&desk, "twitter2015/mie", &[&settings], "runs", status).err;
    let (bert, resnet) = (desk.path("data").join(BERT), desk.path("data").join(RESNET50));
    for (file, modality) in [(&resnet, "image"), (&bert, "text")] {
        let aside = desk.path("aside");
        fs::rename(file, &aside).unwrap();
        let error = refusal(1);
        let shown = desk.shown(file);
        let missed = format!("{shown}: not found, and `modalities.{modality}.weights.file` names");
        assert!(error.contains(&missed), "{error}");
        fs::rename(&aside, file).unwrap();
    }
    for (file, tensors, lacking, local) in [
        (&resnet, &image, "layer2.0.conv2.weight", "layer2.0.conv2.weight"),
        (
            &bert,
            &text,
            "bert.encoder.layer.0.output.dense.bias",
            "encoder.layer.0.output.dense.bias",
        ),
    ] {
        let rest = tensors.iter().filter(|(name, _)| *name != lacking);
        let rest = rest.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        write_tensors(file, &rest);
        let error = refusal(2);
        assert!(error.contains(&format!("1 missing in it ({local})")), "{error}");
        assert!(error.contains(&desk.shown(file)), "{error}");
        write_tensors(file, tensors);
    }
    // What was refused stands in nobody's way.
    train(&desk, "twitter2015/mie", &[&settings], "runs", 0);
    assert_eq!(recorded_samples(&only_run(&desk.path("runs"))), [12, 6, 6]);
}

#[test]
fn a_finished_run_is_evaluated_without_the_files_of_its_weights() {
    let desk = Desk::new();
    let (settings, ..) = lay_out_tweets(&desk, stand_in_data::twitter2015);
    train(&desk, "twitter2015/mie", &[&settings], "runs", 0);
    for file in [BERT, RESNET50] {
        fs::remove_file(desk.path("data").join(file)).unwrap();
    }
    let (trained, summary, _) = result(&desk, "runs");
    let page = run(&desk, &["eval", &desk.shown(trained.path()), "--json"], 0).out;
    let page: Value = serde_json::from_str(&page).unwrap();
    for (output, metrics) in &summary.outputs["test"] {
        let found = &page["outputs"][output];
        assert_eq!(found["samples"], metrics.samples);
        for (name, expected) in [("accuracy", metrics.accuracy), ("loss", metrics.loss)] {
            let found = found[name].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-12, "{output} {name}: {found}, {expected}");
        }
    }
    let again = train(&desk, "twitter2015/mie", &[&settings], "runs", 0).out;
    assert!(again.contains("is finished already"), "{again}");
}

#[test]
fn a_run_that_was_cut_off_goes_on_without_the_files_of_its_weights() {
    let desk = Desk::new();
    let (settings, ..) = lay_out_tweets(&desk, stand_in_data::twitter2015);
    let lines = settings.lines().filter(|line| !line.is_empty());
    let assignments: Vec<String> =
        lines.chain(["run.cache_gigabytes=0"]).map(str::to_owned).collect();
    let file = file_of("twitter2015/mie");
    let resolved = Resolved::read(Path::new(&file), &assignments).unwrap();
    let train = |runs: &str, existing, stop_after| {
        let options = TrainOptions {
            runs_dir: desk.path(runs),
            data_dir: desk.path("data"),
            device: Device::Cpu,
            existing,
            commit: None,
        };
        let mut watcher = Watcher { stop_after, ..Watcher::default() };
        engine::train(&resolved, &options, &mut watcher).unwrap()
    };
    assert!(matches!(train("whole", Existing::Refuse, None), Outcome::Finished(_)));
    assert!(matches!(train("halves", Existing::Refuse, Some(4)), Outcome::Interrupted));
    for file in [BERT, RESNET50] {
        fs::remove_file(desk.path("data").join(file)).unwrap();
    }
    assert!(matches!(train("halves", Existing::Resume, None), Outcome::Finished(_)));
    expect_the_same(&desk, "whole", "halves");
    let weights = |runs: &str| only_run(&desk.path(runs)).read_manifest().unwrap().weights;
    assert_eq!(weights("halves"), weights("whole"));
    assert_eq!(weights("halves").len(), 2);
}

#[test]
fn a_missing_file_is_refused_by_name_or_its_sample_is_left_out_and_listed() {
    let desk = Desk::new();
    stand_in_data::cremad(&desk.path("data"));
    let recording = "data/CREMAD/AudioWAV/1011_IEO_HAP_XX.wav";
    let frames = "data/CREMAD/Image-01-FPS/1035_IEO_FEA_XX";
    fs::remove_file(desk.path(recording)).unwrap();
    fs::remove_dir_all(desk.path(frames)).unwrap();
    let error = train(&desk, "cremad/mie", &[SHORT, CLIPS], "runs", 2).err;
    for part in [
        "dataset `cremad` is incomplete: 2 files cannot be read",
        &format!("{recording} (not found), the `audio` of sample `1011_IEO_HAP_XX` in the train"),
        "data.on_missing = \"skip\"",
    ] {
        assert!(error.contains(part), "{part}\nis not in\n{error}");
    }
    assert!(!desk.path("runs").exists());
    let check = run(&desk, &["data", "check", "cremad"], 1).out;
    for part in [
        "audio: 1 missing, the first is that of `1011_IEO_HAP_XX`",
        "video: 1 missing, the first is that of `1035_IEO_FEA_XX`",
        "exclude = [\"1011_IEO_HAP_XX\", \"1035_IEO_FEA_XX\"]",
    ] {
        assert!(check.contains(part), "{part}\nis not in\n{check}");
    }

    let skip = [SHORT, CLIPS, "data.on_missing=skip"];
    let out = train(&desk, "cremad/mie", &skip, "runs", 0).out;
    assert!(out.contains("17 train (1 left out), 6 valid, 11 test (1 left out)"), "{out}");
    let (trained, summary, _) = result(&desk, "runs");
    assert!(summary.marks.iter().any(|mark| mark == SKIPPED_DATA), "{:?}", summary.marks);
    let manifest = trained.read_manifest().unwrap();
    assert_eq!(manifest.marks, [SKIPPED_DATA]);
    let skipped: Vec<&String> = manifest.data.iter().flat_map(|record| &record.skipped).collect();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert_eq!(*skipped[0], format!("1011_IEO_HAP_XX: {recording} (not found)"));
    assert!(skipped[1].starts_with("1035_IEO_FEA_XX: "), "{skipped:?}");
    assert!(skipped[1].contains(frames), "{skipped:?}");
}

/// Overwrites every file below a folder with zeros, and sets its time back.
fn blank(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            blank(&entry.path());
            continue;
        }
        let found = entry.metadata().unwrap();
        fs::write(entry.path(), vec![0_u8; found.len() as usize]).unwrap();
        let file = fs::File::options().append(true).open(entry.path()).unwrap();
        file.set_modified(found.modified().unwrap()).unwrap();
    }
}

#[test]
fn a_second_run_decodes_no_file_again_until_the_cache_is_cleared() {
    let desk = Desk::new();
    stand_in_data::cremad(&desk.path("data"));
    train(&desk, "cremad/mie", &[SHORT, CLIPS], "cold", 0);
    let list = run(&desk, &["data", "cache"], 0).out;
    for part in ["recipe", "spectrogram 2 ", "frames 1 ", "just now", "72 decoded files, "] {
        assert!(list.contains(part), "{part}\nis not in\n{list}");
    }
    assert!(list.trim_end().ends_with(" MB in cache"), "{list}");

    // Files that look as they did, and that nobody can decode.
    for folder in ["AudioWAV", "Image-01-FPS"] {
        blank(&desk.path("data/CREMAD").join(folder));
    }
    train(&desk, "cremad/mie", &[SHORT, CLIPS], "warm", 0);
    expect_the_same(&desk, "cold", "warm");

    write(&desk.path("cache/notes.txt"), "not of the cache");
    let cleared = run(&desk, &["data", "cache", "--clear"], 0).out;
    assert!(cleared.starts_with("72 decoded files, "), "{cleared}");
    assert!(cleared.trim_end().ends_with(" MB removed from cache"), "{cleared}");
    assert!(cached(&desk).is_empty());
    assert!(run(&desk, &["data", "cache"], 0).out.starts_with("0 decoded files, 0.0 MB in "));
    let left: Vec<_> = fs::read_dir(desk.path("cache")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let error = train(&desk, "cremad/mie", &[SHORT, CLIPS], "blind", 1).err;
    for part in ["in modality `audio` of sample `", ".wav: is not a WAVE file", "data.exclude"] {
        assert!(error.contains(part), "{part}\nis not in\n{error}");
    }
}

/// Whether videos can be made and read here; without ffmpeg a test is skipped, except in CI.
fn ffmpeg_is_there() -> bool {
    let runs = |program: &str| {
        let output = Command::new(program).arg("-version").stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    };
    let there = runs("ffmpeg") && runs("ffprobe");
    assert!(there || std::env::var("CI").as_deref() != Ok("true"), "there is no ffmpeg");
    if !there {
        eprintln!("skipped: there is no ffmpeg");
    }
    there
}

/// Makes a video of 5 s with 5 frames a second and a tone.
fn film(file: &Path, [video, audio]: [&str; 2]) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error"])
        .args(["-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=5"])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=22050:duration=5"])
        .args(["-c:v", video, "-c:a", audio])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `mie data prepare --json` reports: made, there already, and the failures.
fn prepare(desk: &Desk, dataset: &str, status: i32) -> (u64, u64, Vec<Value>) {
    prepare_with(desk, dataset, &[], status)
}

/// As [`prepare`], with further arguments.
fn prepare_with(
    desk: &Desk,
    dataset: &str,
    arguments: &[&str],
    status: i32,
) -> (u64, u64, Vec<Value>) {
    let start = ["data", "prepare", dataset, "--json"];
    let out = run(desk, &[&start[..], arguments].concat(), status).out;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["interrupted"], false);
    let number = |name: &str| report[name].as_u64().unwrap();
    (number("made"), number("present"), report["failures"].as_array().unwrap().clone())
}

/// Names of what lies in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The first of every 5 frames of a film.
const FRAMES: [&str; 5] = ["00000.jpg", "00005.jpg", "00010.jpg", "00015.jpg", "00020.jpg"];

#[test]
fn frames_of_cremad_are_made_from_videos_and_a_broken_video_is_listed_until_it_is_mended() {
    if !ffmpeg_is_there() {
        return;
    }
    let desk = Desk::new();
    let root = desk.path("data/CREMAD");
    let clips = ["1001_IEO_NEU_XX", "1001_IEO_HAP_LO", "1002_IEO_SAD_HI"];
    let list = "1001_IEO_NEU_XX,NEU\n1001_IEO_HAP_LO,HAP\n1002_IEO_SAD_HI,SAD\n";
    write(&root.join("annotations/train.csv"), list);
    write(&root.join("annotations/test.csv"), "1003_IEO_ANG_XX,ANG\n");
    let video = |clip: &str| root.join(format!("VideoFlash/{clip}.flv"));
    film(&video(clips[0]), ["flv", "adpcm_swf"]);
    for clip in ["1001_IEO_HAP_LO", "1003_IEO_ANG_XX"] {
        fs::copy(video(clips[0]), video(clip)).unwrap();
    }
    write(&video(clips[2]), "no video");

    let (made, present, failures) = prepare(&desk, "cremad", 1);
    assert_eq!((made, present, failures.len()), (3, 0, 1));
    let broken = "data/CREMAD/VideoFlash/1002_IEO_SAD_HI.flv";
    assert_eq!(failures[0]["source"], broken);
    assert_eq!(failures[0]["target"], "data/CREMAD/Image-01-FPS/1002_IEO_SAD_HI");
    let reason = failures[0]["reason"].as_str().unwrap();
    assert!(reason.contains(broken), "{reason}");
    let log = desk.path("data/cremad-failures.txt");
    let logged = fs::read_to_string(&log).unwrap();
    assert_eq!(logged, format!("{broken}\t{reason}\n"));
    let frames = root.join("Image-01-FPS");
    // Nothing half made is left.
    assert_eq!(names(&frames), ["1001_IEO_HAP_LO", "1001_IEO_NEU_XX", "1003_IEO_ANG_XX"]);
    assert_eq!(names(&frames.join("1003_IEO_ANG_XX")), FRAMES);

    // Again: what is there is left alone, and said to be.
    let again = run(&desk, &["data", "prepare", "cremad"], 1).out;
    assert!(again.starts_with("0 made, 3 there already\n1 failure, all in "), "{again}");
    assert!(again.contains(&format!("{broken}: tells no frame rate: ffprobe: ")), "{again}");
    let check = run(&desk, &["data", "check", "cremad"], 1).out;
    assert!(check.contains("video: 1 missing, the first is that of `1002_IEO_SAD_HI`"), "{check}");

    fs::copy(video(clips[0]), video(clips[2])).unwrap();
    assert_eq!(prepare(&desk, "cremad", 0), (1, 3, Vec::new()));
    assert_eq!(prepare(&desk, "cremad", 0), (0, 4, Vec::new()));
    assert!(!log.exists());
    let check = run(&desk, &["data", "check", "cremad"], 1).out;
    assert!(!check.contains("video: "), "{check}");
}

#[test]
fn sound_and_frames_of_kinetics_sounds_are_made_from_videos_and_can_be_decoded() {
    if !ffmpeg_is_there() {
        return;
    }
    let desk = Desk::new();
    let root = desk.path("data/kinetics_sound");
    write(&root.join("annotations/train.csv"), "a_000001_000011,10,2\nb_000001_000011,10,25\n");
    // As the published list of test clips has it: without the end, and no zeros before the start.
    write(&root.join("annotations/test.csv"), "c_1,10,2\n");
    let first = root.join("train_video/a_000001_000011.mp4");
    film(&first, ["mpeg4", "aac"]);
    fs::copy(&first, root.join("train_video/b_000001_000011.mp4")).unwrap();
    fs::create_dir_all(root.join("test_video")).unwrap();
    fs::copy(&first, root.join("test_video/c_000001_000011.mp4")).unwrap();

    assert_eq!(prepare(&desk, "kinetics_sounds", 0), (6, 0, Vec::new()));
    assert_eq!(prepare(&desk, "kinetics_sounds", 0), (0, 6, Vec::new()));
    assert_eq!(names(&root.join("train_wav")), ["a_000001_000011.wav", "b_000001_000011.wav"]);
    assert_eq!(names(&root.join("test_wav")), ["c_1.wav"]);
    assert_eq!(names(&root.join("train_img/Image-01-FPS/b_000001_000011")), FRAMES);
    assert_eq!(names(&root.join("test_img/Image-01-FPS/c_1")), FRAMES);
    let check = run(&desk, &["data", "check", "kinetics_sounds", "--decode", "--json"], 1).out;
    let report: Value = serde_json::from_str(&check).unwrap();
    assert_eq!((&report["decoded"], &report["missing"]), (&json!(6), &json!([])));
    assert_eq!(report["broken"], json!([]));
    assert_eq!(report["splits"]["train"]["samples"], 2);
}

#[test]
fn frames_and_flow_of_nvgesture_are_made_from_videos_in_both_layouts_and_can_be_decoded() {
    if !ffmpeg_is_there() {
        return;
    }
    let desk = Desk::new();
    let root = desk.path("data/NVGesture");
    for (split, person) in [("train", 3), ("test", 5)] {
        let clip = format!("class_01/subject{person}_r0");
        let line =
            format!("path:./Video_data/{clip} depth:sk_depth:1:9 color:sk_color:2:10 label:1 \n");
        write(&root.join(format!("nvgesture_{split}_correct_cvpr2016_v2.lst")), line);
        let videos = root.join("Video_data").join(&clip);
        film(&videos.join("sk_color.avi"), ["mpeg4", "pcm_s16le"]);
        film(&videos.join("sk_depth.avi"), ["mjpeg", "pcm_s16le"]);
    }
    assert_eq!(prepare(&desk, "nvgesture", 0), (6, 0, Vec::new()));
    let clip = root.join("frames/class_01/subject3_r0");
    let all: Vec<String> = (0..25).map(|frame| format!("{frame:05}.jpg")).collect();
    assert_eq!([names(&clip.join("rgb")), names(&clip.join("depth"))], [all.clone(), all.clone()]);
    for half in ["flow/flow_x", "flow/flow_y"] {
        assert_eq!(names(&clip.join(half)), all[2..10], "{half}");
    }
    let arrays = ["--set", "dataset.layout=flow_arrays"];
    assert_eq!(prepare_with(&desk, "nvgesture", &arrays, 0), (2, 4, Vec::new()));
    for split in ["train", "test"] {
        assert_eq!(names(&root.join("Video_data/flow_data").join(split)), ["0.npy"]);
    }
    for arguments in [&arrays[..0], &arrays[..]] {
        let start = ["data", "check", "nvgesture", "--decode", "--json"];
        let page = run(&desk, &[&start[..], arguments].concat(), 1).out;
        let report: Value = serde_json::from_str(&page).unwrap();
        assert_eq!((&report["decoded"], &report["missing"]), (&json!(6), &json!([])));
        assert_eq!(report["broken"], json!([]));
    }
}

#[test]
fn lists_under_their_published_names_are_checked_and_prepared_once_they_are_set() {
    let desk = Desk::new();
    let root = desk.path("data/kinetics_sound");
    write(&root.join("annotations/my_train.txt"), "a_000001_000011,10,2\n");
    write(&root.join("annotations/my_test.txt"), "c_1,10,2\n");
    fs::create_dir_all(root.join("train_wav")).unwrap();
    let sets = [
        "--set",
        "dataset.lists.train=annotations/my_train.txt",
        "--set",
        "dataset.lists.test=annotations/my_test.txt",
    ];
    for command in ["check", "prepare"] {
        let start = ["data", command, "kinetics_sounds"];
        let error = run(&desk, &start, 1).err;
        let hint = "set dataset.lists.train = \"annotations/my_train.txt\" to use it";
        assert!(error.contains(hint), "{error}");
        let ran = run(&desk, &[&start[..], &sets].concat(), 1);
        let expected = match command {
            "check" => "train  1 sample (expected 14799)",
            _ => "train_video: there is no such folder of videos; take the clips",
        };
        assert!((ran.out + &ran.err).contains(expected), "{expected}");
        for (wrong, problem) in [
            ("data.batch_size=2", "unknown key `data`"),
            ("dataset.lists.tran=a", "dataset.lists.tran: unknown key `tran`"),
            ("dataset.min_frames=0", "`min_frames` is 0, expected at least 1"),
        ] {
            let error = run(&desk, &[&start[..], &["--set", wrong]].concat(), 2).err;
            assert!(error.starts_with(&format!("error: --set {wrong}: ")), "{error}");
            assert!(error.contains(problem), "{error}");
        }
    }
}

#[test]
fn a_missing_folder_of_pictures_is_one_error_that_names_it() {
    let desk = Desk::new();
    let (settings, ..) = lay_out_tweets(&desk, stand_in_data::twitter2015);
    let folder = "data/Twitter15/twitter2015_images";
    fs::remove_dir_all(desk.path(folder)).unwrap();
    let missing = format!("{folder}: there is no such folder; take the lists from ");
    let out = run(&desk, &["data", "check", "twitter2015"], 1).out;
    assert_eq!(out.matches(&format!("  image: {missing}")).count(), 1, "{out}");
    assert!(!out.contains("fault") && !out.contains("exclude"), "{out}");
    let error = train(&desk, "twitter2015/mie", &[&settings], "runs", 1).err;
    assert!(error.contains(&missing), "{error}");
    assert!(!desk.path("runs").exists());
}

/// Small networks for the towers of CLIP, without a weight of theirs.
const TOWERS: &str = "
modalities.image.encoder.layers=1
modalities.image.encoder.width=32
modalities.image.encoder.heads=4
modalities.image.encoder.intermediate=64
modalities.image.input.height=32
modalities.image.input.width=32
modalities.text.encoder.layers=1
modalities.text.encoder.width=32
modalities.text.encoder.heads=4
modalities.text.encoder.intermediate=64
modalities.text.encoder.vocabulary=515
modalities.text.input.entries=515
";

/// Where `mini_` experiments find the stand-in data, which are whole videos.
const MINI: &str = "
dataset.root=NVGesture
dataset.span=listed
dataset.lists.train=nvgesture_train_correct_cvpr2016_v2.lst
dataset.lists.test=nvgesture_test_correct_cvpr2016_v2.lst
dataset.streams.flow_x=flow/flow_x
dataset.streams.flow_y=flow/flow_y
";

/// A dataset, and what lays out a stand-in for it.
type Laid = (&'static str, fn(&Path));

#[test]
fn every_experiment_on_the_five_datasets_fits_data_in_their_layout() {
    let desk = Desk::new();
    let data = desk.path("data");
    let datasets: [Laid; 5] = [
        ("cremad", stand_in_data::cremad),
        ("kinetics_sounds", stand_in_data::kinetics_sounds),
        ("nvgesture", stand_in_data::nvgesture),
        ("sarcasm", stand_in_data::sarcasm),
        ("twitter2015", stand_in_data::twitter2015),
    ];
    let (size, ..) = lay_out_weights(&data);
    lay_out_i3d(&data);
    // A single merge.
    let merges = "#version: 0.2\ns o</w>\n";
    write(&data.join("weights/clip-vit-base-patch32/merges.txt"), merges);
    let tweets = format!("{TWEETS}modalities.text.encoder.vocabulary={size}\n");
    let gestures = gestures();
    let mut tried = 0;
    for (dataset, lay_out) in datasets {
        lay_out(&data);
        for name in names(&root().join("configs/experiments").join(dataset)) {
            let file = root().join("configs/experiments").join(dataset).join(&name);
            let settings = match dataset {
                "cremad" | "kinetics_sounds" => CLIPS.to_owned(),
                "nvgesture" if name.starts_with("mini_") => format!("{gestures}{MINI}"),
                "nvgesture" => format!("{gestures}data.validation_share=0.25\n"),
                _ if name.starts_with("clip_") => TOWERS.to_owned(),
                _ => tweets.clone(),
            };
            fits(&file, &settings, &data);
            tried += 1;
        }
    }
    assert!(tried >= 100, "{tried}");
}

/// Checks that an experiment fits data and weights, with settings for the modalities it has.
fn fits(file: &Path, settings: &str, data: &Path) {
    let fail = |error: mie_core::Error| -> ! { panic!("{}: {error}", file.display()) };
    let modalities = Resolved::read(file, &[]).unwrap_or_else(|e| fail(e)).experiment.modalities;
    let concerns = |line: &&str| {
        let modality = line.strip_prefix("modalities.").and_then(|rest| rest.split('.').next());
        !line.is_empty()
            && !line.starts_with("strategy.")
            && modality.is_none_or(|modality| modalities.contains_key(modality))
    };
    let lines =
        settings.lines().filter(concerns).chain(["run.cache_gigabytes=0", "data.batch_size=2"]);
    let assignments: Vec<String> = lines.map(str::to_owned).collect();
    let experiment = Resolved::read(file, &assignments).unwrap_or_else(|e| fail(e)).experiment;
    let source = engine::open_data(&experiment, data).unwrap_or_else(|e| fail(e));
    let context = OpenContext { base: data.to_owned(), seed: Seed(experiment.seed) };
    let dataset = experiment.dataset.open(&context).unwrap_or_else(|e| fail(e));
    let classes = dataset.classes().len();
    // The towers of CLIP have none here.
    let absent = weights::absent(&experiment, data);
    let folder = absent.is_empty().then_some(data);
    let plan = engine::plan(&experiment, classes, Some(&source), folder);
    let plan = plan.unwrap_or_else(|e| fail(e));
    assert!(plan.outputs.contains(&"fused".to_owned()), "{}", file.display());
    let towers = file.file_name().unwrap().to_str().unwrap().starts_with("clip_");
    assert_eq!(absent.is_empty(), !towers, "{}: {absent:?}", file.display());
}

#[test]
fn a_dataset_without_raw_media_needs_no_preparation() {
    let error = Desk::new().run(&["data", "prepare", "sarcasm"], 2).err;
    assert!(error.contains("dataset `sarcasm` needs no preparation"), "{error}");
}

/// A folder of real samples; `None`, said aloud, where there is none. In CI there must be.
pub(crate) fn real(name: &str) -> Option<PathBuf> {
    let folder = data()?.join(name);
    if folder.is_dir() {
        return Some(folder.canonicalize().unwrap());
    }
    assert!(std::env::var_os("CI").is_none(), "real data are missing at {}", folder.display());
    eprintln!("skipped: no real data at {}", folder.display());
    None
}

#[test]
fn real_gestures_train_in_three_stages_on_colour_depth_and_flow() {
    let Some(folder) = real("nvgesture_mini") else { return };
    let desk = Desk::new();
    let place = format!("dataset.root={}", folder.display());
    let settings = gestures();
    train(&desk, "nvgesture/mini_mie", &[&settings, &place], "runs", 0);
    let (trained, summary, _) = result(&desk, "runs");
    assert_eq!(recorded_samples(&trained), [25, 0, 24]);
    expect_outputs(&summary, "test", &["depth", "flow", "rgb"], 24);
    let order: Vec<(&str, Vec<&str>)> = summary
        .phases
        .iter()
        .map(|phase| {
            assert_eq!((phase.modalities.len(), phase.epochs), (1, 1), "{phase:?}");
            (phase.modalities[0].as_str(), phase.source.iter().map(String::as_str).collect())
        })
        .collect();
    let expected = [("depth", vec![]), ("rgb", vec!["depth"]), ("flow", vec!["rgb"])];
    assert_eq!(order, expected);
    assert_eq!(arrays(&desk), BTreeMap::from([("clip".to_owned(), 98), ("flow".to_owned(), 49)]));
}

#[test]
fn real_sarcastic_tweets_train_text_and_picture() {
    let Some(folder) = real("sarcasm_sample") else { return };
    let desk = Desk::new();
    let (size, ..) = lay_out_weights(&desk.path("data"));
    // Its training list has sarcastic tweets alone, so those of validation train.
    let place = format!(
        "dataset.root={}\ndataset.images=dataset_image\ndataset.lists.train=valid2.txt\n\
         dataset.lists.valid=\"\"\ndataset.lists.test=test2.txt\ndata.validation_share=0.2\n\
         modalities.text.encoder.vocabulary={size}",
        folder.display()
    );
    train(&desk, "sarcasm/mie", &[SHORT, TWEETS, "data.batch_size=7", &place], "runs", 0);
    let (trained, summary, _) = result(&desk, "runs");
    assert_eq!(recorded_samples(&trained), [56, 14, 82]);
    expect_outputs(&summary, "test", &["image", "text"], 82);
    let classes: Vec<u64> = summary.confusion["fused"].iter().map(|row| row.iter().sum()).collect();
    assert_eq!(classes, [41, 41]);
}

#[test]
fn real_tweets_in_the_layout_of_twitter2015_train_text_and_picture() {
    let Some(folder) = real("tweet_sentiment_sample") else { return };
    let desk = Desk::new();
    let (size, ..) = lay_out_weights(&desk.path("data"));
    let root = desk.path("data/Twitter15");
    fs::create_dir_all(root.join("twitter2015_images")).unwrap();
    for (split, name, most) in [("train", "train", 6), ("valid", "dev", 3), ("test", "test", 3)] {
        let mut list = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String\n".to_owned();
        let mut counts = [0; 3];
        let tags = fs::read_to_string(folder.join(format!("{split}.txt"))).unwrap();
        for (index, line) in tags.lines().skip(1).enumerate() {
            let (number, tag) = line.split_once(',').unwrap();
            let class = ["negative", "neutral", "positive"].iter().position(|it| *it == tag);
            let class = class.unwrap();
            counts[class] += 1;
            if counts[class] > most {
                continue;
            }
            let text = fs::read(folder.join(format!("data/{number}.txt"))).unwrap();
            let text = String::from_utf8_lossy(&text);
            let words: Vec<&str> = text.split_whitespace().collect();
            writeln!(list, "{index}\t{class}\t{number}.jpg\t{}\tit", words.join(" ")).unwrap();
            let picture = root.join(format!("twitter2015_images/{number}.jpg"));
            symlink(folder.join(format!("data/{number}.jpg")), picture).unwrap();
        }
        write(&root.join(format!("annotations/{name}.tsv")), list);
    }
    let size = format!("modalities.text.encoder.vocabulary={size}");
    train(&desk, "twitter2015/mie", &[SHORT, TWEETS, &size], "runs", 0);
    let (trained, summary, _) = result(&desk, "runs");
    assert_eq!(recorded_samples(&trained), [18, 9, 9]);
    expect_outputs(&summary, "test", &["image", "text"], 9);
    assert_eq!(summary.marks, Vec::<String>::new());
}

#[test]
fn mie_learns_from_real_names_of_emoji() {
    let Some(folder) = real("emoji_imgtext") else { return };
    let desk = Desk::new();
    let place = folder.parent().unwrap().display().to_string();
    let check = run(&desk, &["data", "check", "emoji_imgtext", "--data-dir", &place], 0).out;
    assert!(check.ends_with("nothing differs from a complete copy\n"), "{check}");
    let place = format!("dataset.root={}", folder.display());
    let small = "
strategy.epochs=[4,1]
strategy.repeat=1
run.workers=1
modalities.image.encoder.channels=[4,8]
modalities.image.encoder.grid=[2,2]
modalities.image.input.height=16
modalities.image.input.width=16
";
    train(&desk, "emoji_imgtext/mie", &[small, &place], "runs", 0);
    let (trained, summary, _) = result(&desk, "runs");
    assert_eq!(recorded_samples(&trained), [1125, 240, 264]);
    expect_outputs(&summary, "test", &["image", "text"], 264);
    // The largest class has 80 of 264, which is 0.303.
    let accuracy = summary.outputs["test"]["text"].accuracy;
    assert!(accuracy > 0.35, "{accuracy}");
    // Names lie in lists, so only pictures are kept: of 1125 to train with, batches of 12 leave
    // some out.
    let kept = arrays(&desk);
    assert!(kept.keys().eq(["image"]), "{kept:?}");
    assert!((1116 + 240 + 264..=1629).contains(&kept["image"]), "{kept:?}");
}

#[test]
fn real_clips_are_prepared_and_trained_on() {
    let Some(folder) = real("av_clips_sample") else { return };
    if !ffmpeg_is_there() {
        return;
    }
    let desk = Desk::new();
    let root = desk.path("data/kinetics_sound");
    for (place, clip) in [
        ("train_video/one", "00W1lcxW-WU_40.000"),
        ("train_video/two", "KlsG1EnBEjc_000361"),
        ("test_video/three", "00W1lcxW-WU_40.000"),
    ] {
        let place = root.join(format!("{place}.mp4"));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        symlink(folder.join(format!("raw/{clip}.mp4")), place).unwrap();
    }
    // Labels are made up: nobody gave these clips any.
    write(&root.join("annotations/train.csv"), "youtube_id,label\none,bowling\ntwo,singing\n");
    write(&root.join("annotations/test.csv"), "youtube_id,label\nthree,bowling\n");
    assert_eq!(prepare(&desk, "kinetics_sounds", 0), (6, 0, Vec::new()));
    for clip in ["train_img/Image-01-FPS/one", "test_img/Image-01-FPS/three"] {
        let expected = folder.join("Image-01-FPS/00W1lcxW-WU_40.000");
        assert_eq!(names(&root.join(clip)), names(&expected));
    }
    let check = run(&desk, &["data", "check", "kinetics_sounds", "--decode"], 0).out;
    assert!(check.contains("decoded without fault: 6\nnothing differs"), "{check}");
    let small = "
selection.split=none
modalities.audio.encoder.base_channels=2
modalities.video.encoder.base_channels=2
modalities.video.input.height=32
modalities.video.input.width=32
";
    train(&desk, "kinetics_sounds/mie", &[SHORT, small], "runs", 0);
    let (trained, summary, _) = result(&desk, "runs");
    assert_eq!(recorded_samples(&trained), [2, 0, 1]);
    expect_outputs(&summary, "test", &["audio", "video"], 1);
}

#[test]
fn weights_that_are_not_there_are_all_named_before_a_run_is_created() {
    let desk = Desk::new();
    let (settings, ..) = lay_out_tweets(&desk, stand_in_data::twitter2015);
    let files = [RESNET50, BERT].map(|file| desk.path("data").join(file));
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    let error = train(&desk, "twitter2015/mie", &[&settings], "runs", 1).err;
    let experiment = file_of("twitter2015/mie");
    let mut arguments = vec!["config", "check", &experiment];
    let lines = settings.lines().filter(|line| !line.is_empty());
    arguments.extend(lines.flat_map(|line| ["--set", line]));
    let page = run(&desk, &arguments, 0).out;
    for (file, modality) in files.iter().zip(["image", "text"]) {
        let shown = desk.shown(file);
        assert!(error.contains(&shown), "{error}");
        let option = format!("`modalities.{modality}.weights.file` names");
        assert!(error.contains(&option), "{error}");
        let note = format!("weights not found, the run would be refused: {shown}");
        assert!(page.contains(&note), "{page}");
    }
    assert!(!desk.path("runs").exists());
}

#[test]
fn mirroring_clips_whose_classes_a_mirror_swaps_is_refused_before_a_run_is_created() {
    let desk = Desk::new();
    stand_in_data::nvgesture(&desk.path("data"));
    let flips = "data.validation_share=0.25\nmodalities.rgb.input.flip_probability=0.5";
    let error = train(&desk, "nvgesture/mie", &[&gestures(), flips], "runs", 2).err;
    for part in [
        "the input of `rgb` mirrors training samples",
        "6 classes that a mirror turns into others, such as `five fingers right` and",
        "set modalities.rgb.input.flip_probability = 0",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!desk.path("runs").exists());
}

#[test]
fn a_run_records_its_vocabulary_and_does_not_go_on_with_another() {
    let desk = Desk::new();
    let (settings, ..) = lay_out_tweets(&desk, stand_in_data::twitter2015);
    let lines = settings.lines().filter(|line| !line.is_empty());
    let assignments: Vec<String> =
        lines.chain(["run.cache_gigabytes=0"]).map(str::to_owned).collect();
    let experiment = file_of("twitter2015/mie");
    let resolved = Resolved::read(Path::new(&experiment), &assignments).unwrap();
    let train = |existing, stop_after| {
        let options = TrainOptions {
            runs_dir: desk.path("runs"),
            data_dir: desk.path("data"),
            device: Device::Cpu,
            existing,
            commit: None,
        };
        let mut watcher = Watcher { stop_after, ..Watcher::default() };
        engine::train(&resolved, &options, &mut watcher)
    };
    assert!(matches!(train(Existing::Refuse, Some(4)), Ok(Outcome::Interrupted)));
    let name = "weights/bert-base-uncased/vocab.txt";
    let file = desk.path("data").join(name);
    let hash = weights::sha256(&file).unwrap();
    let recorded = only_run(&desk.path("runs")).read_manifest().unwrap().input_files;
    let expected = BTreeMap::from([(name.to_owned(), hash.clone())]);
    assert_eq!(recorded, BTreeMap::from([("text".to_owned(), expected)]));

    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{whole}more\n")).unwrap();
    let error = train(Existing::Resume, None).unwrap_err().to_string();
    let expected = format!("the file `{name}` that modality `text` reads is not that which run ");
    assert!(error.contains(&expected) && error.contains(&format!("then {hash}")), "{error}");
    fs::write(&file, whole).unwrap();
    assert!(matches!(train(Existing::Resume, None), Ok(Outcome::Finished(_))));
}
