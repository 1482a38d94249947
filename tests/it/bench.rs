//! `mie bench step`: how fast training steps are, and where their time goes.

use std::fs;

use mie_core::config::Resolved;
use mie_core::engine::plan;
use serde_json::{Value, json};

use crate::desk::{Desk, ended};
use crate::support::{MIE, root};

const PARTS: [&str; 7] =
    ["data", "forward", "backward", "displaced", "modifiers", "optimizer", "rest"];

/// Measures steps of the small experiment; gives the measurement and what was printed.
fn measured(further: &[&str]) -> (Value, String) {
    let desk = Desk::new();
    let temporary = desk.path("temporary");
    fs::create_dir(&temporary).unwrap();
    let arguments =
        [&["bench", "step", "experiment.toml", "--json", "step.json"][..], further].concat();
    let output = desk.command(&arguments).env("TMPDIR", &temporary).output().unwrap();
    let ran = ended(output, 0);
    assert_eq!(ran.err, "");
    assert!(!desk.runs().exists(), "a run directory is left");
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0, "a temporary folder is left");
    let text = fs::read_to_string(desk.path("step.json")).unwrap();
    (serde_json::from_str(&text).unwrap(), ran.out)
}

/// The shares of the parts, after the checks that hold for every measurement.
fn shares(page: &Value) -> [f64; 7] {
    let shares = PARTS.map(|part| page["shares"][part].as_f64().unwrap());
    assert_eq!(page["shares"].as_object().unwrap().len(), PARTS.len(), "{page}");
    assert!(shares.iter().all(|share| *share >= 0.0), "{page}");
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{page}");
    let [median, minimum, maximum] =
        ["median", "minimum", "maximum"].map(|n| page["seconds_per_step"][n].as_f64().unwrap());
    assert!(0.0 < minimum && minimum <= median && median <= maximum, "{page}");
    let speed = page["samples_per_second"].as_f64().unwrap();
    assert!((speed * median / 12.0 - 1.0).abs() < 0.5, "{page}");
    assert!(page["peak_memory_bytes"].as_u64().unwrap() > 1_000_000, "{page}");
    shares
}

#[test]
fn a_step_without_look_ahead_has_passes_and_an_update_and_nothing_displaced() {
    // The measurement goes over the end of an epoch of 10 steps.
    let (page, out) = measured(&["--steps", "12", "--warm-up", "1", "--phase", "1"]);
    let [_, forward, backward, displaced, modifiers, optimizer, _] = shares(&page);
    assert!([forward, backward, optimizer].iter().all(|share| *share > 0.0), "{page}");
    assert!([displaced, modifiers].iter().all(|share| *share <= 0.0), "{page}");
    let known = json!({
        "experiment": "test/small",
        "phase": "stage 1: strong",
        "modalities": ["strong"],
        "source": [],
        "device": "cpu",
        "threads": 1,
        "loader_workers": 1,
        "batch_size": 12,
        "steps": 12,
    });
    for (key, value) in known.as_object().unwrap() {
        assert_eq!(page[key], *value, "{key}");
    }
    for words in ["phase     stage 1: strong\n", "device    cpu, 1 thread, 1 loader worker\n"] {
        assert!(out.contains(words), "{out}");
    }
    assert!(out.contains(" samples/s: the median of 12 steps, batches of 12\n"), "{out}");
    assert!(out.contains("share %"), "{out}");
}

#[test]
fn a_step_of_mie_has_displaced_passes_and_a_modification_learnt_before() {
    let settings = MIE.lines().filter(|line| !line.is_empty()).flat_map(|line| ["--set", line]);
    let arguments: Vec<&str> = settings.chain(["--steps", "3", "--warm-up", "0"]).collect();
    let (page, _) = measured(&arguments);
    let [_, forward, backward, displaced, modifiers, optimizer, _] = shares(&page);
    for share in [forward, backward, displaced, modifiers, optimizer] {
        assert!(share > 0.0, "{page}");
    }
    // The first phase with a source, although it is not the first.
    assert_eq!(page["modalities"], json!(["weak"]));
    assert_eq!(page["source"], json!(["strong"]));
}

#[test]
fn a_phase_is_chosen_by_number_or_modality_and_an_unknown_one_refused() {
    let (page, _) = measured(&["--modality", "strong", "--steps", "1"]);
    assert_eq!(page["phase"], "stage 3: strong (source weak)");
    let desk = Desk::new();
    let refused = desk.run(&["bench", "step", "experiment.toml", "--phase", "4"], 2);
    assert!(
        refused.err.contains("error: the experiment does not have phase 4\n"),
        "{}",
        refused.err
    );
    assert!(refused.err.contains("of its 3: `stage 1: strong`, "), "{}", refused.err);
    desk.run(&["bench", "step", "experiment.toml", "--phase", "0"], 2);
    desk.run(&["bench", "step", "experiment.toml", "--steps", "0"], 2);
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_measured() {
    let desk = Desk::new();
    desk.write_faulty("faulty.toml", "batch_size = 12", "batch_sise = 12");
    for arguments in [
        &["faulty.toml"][..],
        &["absent.toml"],
        &["experiment.toml", "--set", "data.batch_size=500"],
    ] {
        let ran = desk.run(&[&["bench", "step"][..], arguments].concat(), 2);
        assert!(ran.err.starts_with("error: ") && ran.out.is_empty(), "{}", ran.err);
    }
}

#[test]
fn the_measured_experiments_fit_together_and_differ_by_the_modification_alone() {
    for (name, modality, shape) in [
        ("step_audio", "audio", &[1, 257, 188][..]),
        ("step_video_1_frame", "video", &[3, 1, 224, 224]),
        ("step_video_3_frames", "video", &[3, 3, 224, 224]),
    ] {
        let read = |name: &str| {
            let file = root().join(format!("benches/configs/{name}.toml"));
            Resolved::read(&file, &[]).unwrap().experiment
        };
        let (plain, mie) = (read(name), read(&format!("{name}_mie")));
        assert_eq!((plain.gradient_modifiers.len(), mie.gradient_modifiers.len()), (0, 1));
        let input = plain.modalities[modality].input.build().unwrap();
        assert_eq!(input.layout()[0].shape, shape);
        let phases = plan(&mie, 6, None, None).unwrap().phases;
        assert_eq!(phases[1].trained(), [modality]);
        assert_eq!(phases[1].source, ["other"]);
        let both = [&plain, &mie].map(|experiment| {
            let mut tree = serde_json::to_value(experiment).unwrap();
            let table = tree.as_object_mut().unwrap();
            table.remove("gradient_modifiers");
            table.remove("name");
            tree
        });
        assert_eq!(both[0], both[1]);
    }
}

#[test]
fn projections_are_measured_on_made_spectra_and_charted() {
    let desk = Desk::new();
    let ran = desk.run(
        &[
            "bench",
            "projection",
            "--sizes",
            "64,96",
            "--rows",
            "20,0",
            "--spectra",
            "features,dominant",
            "--repeats",
            "1",
            "--devices",
            "cpu",
            "--out",
            "found",
        ],
        0,
    );
    for part in ["released", "chebyshev", "gram", "worst error", "auto at 64"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let folder = desk.path("found");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    for (name, start) in names.iter().zip(["spectrum,", "{", "<svg"]) {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        assert!(text.starts_with(start), "{name}: {}", &text[..80]);
    }
}

#[test]
fn a_run_lends_its_covariances_to_the_measurement_and_to_a_file() {
    let desk = Desk::new();
    let trained = desk.trained(&[], None);
    let run = trained.path().to_str().unwrap();
    let bench = ["bench", "projection", "--devices", "cpu", "--repeats", "1", "--solvers"];
    let further = ["eigh,auto", "--run", run, "--layers", "fc*", "--save", "kept.safetensors"];
    let ran = desk.run(&[&bench[..], &further].concat(), 0);
    assert!(ran.out.contains("head.strong.fc1"), "{}", ran.out);
    let ran = desk.run(&[&bench[..], &["eigh", "--covariances", "kept.safetensors"]].concat(), 0);
    assert!(ran.out.contains("head.strong.fc1"), "{}", ran.out);
}
