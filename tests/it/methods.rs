//! The compared methods, as their configurations compose them: invariants over all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mie_core::config::Resolved;
use mie_core::engine::{Existing, Outcome, plan};
use mie_record::{Event, Summary};
use serde_json::Value;

use crate::datasets::real;
use crate::support::{Watcher, checkpoint_bits, experiment, finished, only_run, root, train_in};

/// Two small modalities, whose encoders have normalisations.
const TWO: &str = r#"
[dataset]
name = "synthetic"
classes = 4
samples = { train = 120, valid = 40, test = 40 }
[modalities.strong]
input = { name = "vector", dimensions = 32 }
encoder = { name = "test_norm" }
[modalities.weak]
input = { name = "vector", dimensions = 64 }
encoder = { name = "test_norm" }
"#;

const THREE: &str = r#"
[dataset]
name = "synthetic"
classes = 4
samples = { train = 120, valid = 40, test = 40 }
[dataset.modalities.first]
dimensions = 32
[dataset.modalities.second]
dimensions = 24
[dataset.modalities.third]
dimensions = 16
[modalities.first]
input = { name = "vector", dimensions = 32 }
encoder = { name = "mlp", hidden = [16], width = 16 }
[modalities.second]
input = { name = "vector", dimensions = 24 }
encoder = { name = "mlp", hidden = [16], width = 16 }
[modalities.third]
input = { name = "vector", dimensions = 16 }
encoder = { name = "mlp", hidden = [16], width = 16 }
"#;

fn methods() -> BTreeMap<String, PathBuf> {
    let folder = std::fs::read_dir(root().join("configs/base/methods")).unwrap();
    let found: BTreeMap<String, PathBuf> = folder
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), path)
        })
        .collect();
    assert!(found.len() >= 20);
    found
}

/// A method on small data, for three epochs of each modality.
fn small(method: &str, data: &str, assignments: &[&str]) -> Resolved {
    let file = methods().remove(method).unwrap();
    let text = format!("name = \"test/{method}\"\nextends = [\"{}\"]\n{data}", file.display());
    let resolved = experiment(&text, &[]).unwrap();
    let epochs: &[&str] = match resolved.experiment.strategy.typetag_name() {
        "phased" => &["strategy.parts.0.strategy.epochs=1", "strategy.parts.1.strategy.epochs=2"],
        "staged" => &["strategy.epochs=[1, 1, 1]", "strategy.repeat=1"],
        _ => &["strategy.epochs=3"],
    };
    let controllers: &[&str] = match method {
        "gradient_blending_online" => &["controllers.0.super_epochs=2"],
        "mses" => &["controllers.0.patience_epochs=1", "controllers.0.new=1.0"],
        "mslr_dynamic" => &["controllers.0.window_epochs=1"],
        "greedy" => &["controllers.0.start_epoch=0", "controllers.0.epsilon=0.0"],
        _ => &[],
    };
    let run = ["run.workers=1", "run.log_every_steps=1", "run.cache_gigabytes=0"];
    // An assignment may replace the strategy: its own epochs are set before.
    let all = [epochs, controllers, &run, assignments].concat();
    experiment(&text, &all).unwrap_or_else(|error| panic!("{method}: {error}"))
}

fn weights(resolved: &Resolved) -> BTreeMap<String, Vec<u8>> {
    let (_, runs, _) = finished(resolved);
    let bits = checkpoint_bits(&only_run(runs.path()), "last");
    bits.into_iter().filter(|(name, _)| name.starts_with("weights/")).collect()
}

#[test]
fn neutral_settings_of_methods_equal_what_they_build_on_bit_for_bit() {
    let plain = |base: &str| weights(&small(base, TWO, &[]));
    let bases: BTreeMap<&str, _> = ["joint_average", "joint_concat", "mmtm"]
        .map(|base| match base {
            "mmtm" => (base, weights(&small("greedy", TWO, &["controllers=[]"]))),
            base => (base, plain(base)),
        })
        .into();
    let unimodal = "objectives=[{ name = 'joint_ce' }, { name = 'unimodal_ce', weight = 0.0 }]";
    for (base, method, neutral) in [
        ("joint_concat", "ogm", "gradient_modifiers.0.alpha=0.0"),
        ("joint_average", "agm", "objectives=[{ name = 'agm', alpha = 0.0 }]"),
        (
            "joint_average",
            "pmr",
            "objectives=[{ name = 'joint_ce' }, { name = 'pmr', alpha = 0.0, entropy = 0.0 }]",
        ),
        ("joint_average", "mslr_keep", "seed=0"),
        ("joint_average", "mslr_smooth", "seed=0"),
        ("joint_concat", "opm", "fusion.probability=0.0"),
        ("joint_average", "joint_average", unimodal),
        ("mmtm", "greedy", "controllers.0.epsilon=1e9"),
        (
            "joint_average",
            "joint_average",
            "optimizer={ name = 'asam', rho = 0.0, base = { name = 'sgd', learning_rate = 0.01, \
             momentum = 0.9, weight_decay = 1e-4 } }",
        ),
        ("joint_average", "joint_average", "controllers=[{ name = 'group_rates' }]"),
        (
            "joint_average",
            "joint_average",
            "strategy={ name = 'phased', parts = [{ strategy = { name = 'joint', epochs = 3 } }] }",
        ),
    ] {
        let assignments = match method {
            "agm" => vec![neutral, "gradient_modifiers=[]"],
            _ => vec![neutral],
        };
        let found = weights(&small(method, TWO, &assignments));
        assert_eq!(found, bases[base], "{method} with {neutral} against {base}");
    }
}

/// Events of a run without what depends on the clock or on having been resumed.
fn told(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Step { terms, gradient_norm, .. } => {
                Some(format!("{terms:?} {gradient_norm:?}"))
            }
            Event::Refresh { report, .. } => Some(untimed(report.clone()).to_string()),
            _ => None,
        })
        .collect()
}

/// A report without the times that it took.
fn untimed(report: Value) -> Value {
    match report {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(name, _)| name != "seconds");
            kept.map(|(name, value)| (name, untimed(value))).collect()
        }
        Value::Array(values) => values.into_iter().map(untimed).collect(),
        other => other,
    }
}

#[test]
fn every_method_ends_with_the_same_bits_when_it_is_broken_off_anywhere() {
    for method in methods().keys() {
        let resolved = small(method, TWO, &["run.checkpoint_every_steps=7"]);
        let (summary, whole, events) = finished(&resolved);
        let whole = only_run(whole.path());
        for stop in [5, 14, 23] {
            let runs = tempfile::tempdir().unwrap();
            let mut first = Watcher { stop_after: Some(stop), ..Watcher::default() };
            let ended = train_in(runs.path(), &resolved, Existing::Refuse, &mut first).unwrap();
            assert!(matches!(ended, Outcome::Interrupted), "{method}: over before step {stop}");
            let mut second = Watcher::default();
            let ended = train_in(runs.path(), &resolved, Existing::Resume, &mut second).unwrap();
            let Outcome::Finished(resumed) = ended else { unreachable!() };
            assert_eq!(resumed.outputs, summary.outputs, "{method} after {stop}");
            let run = only_run(runs.path());
            assert!(
                checkpoint_bits(&run, "last") == checkpoint_bits(&whole, "last"),
                "{method}: other bits when broken off after {stop}"
            );
            let parts = [told(&first.events), told(&second.events)].concat();
            assert_eq!(parts, told(&events), "{method} after {stop}");
        }
    }
}

fn accuracies(summary: &Summary) -> Vec<&str> {
    summary.outputs["valid"].keys().map(String::as_str).collect()
}

#[test]
fn every_method_trains_three_modalities_and_reports_each_of_them() {
    for method in methods().keys() {
        let (summary, _, _) = finished(&small(method, THREE, &[]));
        let reported = accuracies(&summary);
        // Fusions that are no sums have no logits of a modality's own.
        let expected: &[&str] = match &**method {
            "joint_film" | "joint_gated" => &["fused"],
            "asam_only" | "baseline" | "gm_only" | "mie" | "null_space" | "sam_only" => {
                &["first", "fused", "fused.entropy_weighted", "second", "third"]
            }
            _ => &["first", "fused", "second", "third"],
        };
        assert_eq!(reported, expected, "{method}");
    }
}

#[test]
fn every_method_trains_on_real_clips_of_colour_depth_and_flow() {
    let Some(folder) = real("nvgesture_mini") else { return };
    let base = root().join("configs/base/nvgesture_mini_all.toml");
    let data = std::fs::read_to_string(base).unwrap();
    // Some methods look at a validation split: half of the clips that are tested on become one.
    let lists = tempfile::tempdir().unwrap();
    let tested = std::fs::read_to_string(folder.join("mini_test.lst")).unwrap();
    let lines: Vec<&str> = tested.lines().collect();
    let (valid, test) = lines.split_at(lines.len() / 2);
    let list = |name: &str, lines: &[&str]| {
        let file = lists.path().join(name);
        std::fs::write(&file, lines.join("\n")).unwrap();
        format!("dataset.lists.{name}={:?}", file.display().to_string())
    };
    let mut settings = vec![
        format!("dataset.root={:?}", folder.display().to_string()),
        list("valid", valid),
        list("test", test),
        "selection.split=valid".to_owned(),
    ];
    for modality in ["depth", "flow", "rgb"] {
        settings.extend(
            ["frames=8", "resize_pixels=36", "crop_pixels=32"]
                .map(|option| format!("modalities.{modality}.input.{option}")),
        );
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    for method in methods().keys() {
        let (summary, _, _) = finished(&small(method, &data, &settings));
        assert_eq!(summary.outputs["test"]["fused"].samples, 12, "{method}");
        assert!(summary.outputs["test"]["fused"].loss.is_finite(), "{method}");
    }
}

#[test]
fn methods_act_and_say_what_they_did() {
    let findings = |method: &str| -> Vec<Value> {
        let (_, _, events) = finished(&small(method, TWO, &[]));
        let report = |event| match event {
            Event::Refresh { report, .. } => Some(report),
            _ => None,
        };
        events.into_iter().filter_map(report).collect()
    };
    let blending = findings("gradient_blending_online");
    assert_eq!(blending.len(), 2, "{blending:?}");
    let sum: f64 = blending[0]["heads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|head| head["weight"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-9);
    let greedy = findings("greedy");
    assert!(!greedy[0]["shielded"].as_object().unwrap().is_empty(), "{greedy:?}");
    assert!(findings("mslr_dynamic").len() >= 3);
    for (base, method) in [
        ("joint_concat", "ogm"),
        ("ogm", "ogm_ge"),
        ("joint_concat", "opm"),
        ("joint_average", "pmr"),
        ("joint_average", "agm"),
        ("unimodal_and_joint", "mmpareto"),
        ("unimodal_and_joint", "gradient_blending_offline"),
        ("mla_release_2024_03_18", "mla_release_2024_03_12"),
        ("mla_release_2024_03_18", "mla"),
    ] {
        assert_ne!(weights(&small(base, TWO, &[])), weights(&small(method, TWO, &[])), "{method}");
    }
}

#[test]
fn noise_has_a_stream_of_its_own_and_leaves_the_order_of_batches() {
    let first_losses = |noise: &str| {
        let (_, _, events) =
            finished(&small("ogm_ge", TWO, &[noise, "gradient_modifiers.0.alpha=0.0"]));
        let loss = |event: &Event| match event {
            Event::Step { terms, .. } => Some(terms["joint"].to_bits()),
            _ => None,
        };
        events.iter().find_map(loss)
    };
    assert_eq!(
        first_losses("gradient_modifiers.0.noise=true"),
        first_losses("gradient_modifiers.0.noise=false")
    );
}

#[test]
fn methods_that_cannot_do_what_they_are_asked_to_are_refused_before_the_first_step() {
    let refusal = |method: &str, assignments: &[&str]| {
        let file = methods().remove(method).unwrap();
        let text = format!("name = \"test/no\"\nextends = [\"{}\"]\n{TWO}", file.display());
        match experiment(&text, assignments) {
            Err(error) => error.to_string(),
            Ok(resolved) => plan(&resolved.experiment, 4, None, None).unwrap_err().to_string(),
        }
    };
    for (method, assignments, words) in [
        ("ogm", &["fusion={ name = 'film' }"][..], "not additive"),
        ("agm", &["strategy={ name = 'alternating' }"], "compares modalities"),
        ("mla", &["strategy={ name = 'joint' }"], "one at a time"),
        ("mla", &["head.shared=false"], "head.shared = true"),
        ("greedy", &["fusion={ name = 'average' }"], "shield a modality"),
        ("mmpareto", &["objectives=[{ name = 'joint_ce' }]"], "`unimodal.strong` is needed"),
        ("gradient_blending_offline", &["objectives=[{ name = 'joint_ce' }]"], "is needed"),
        ("mslr_keep", &["controllers.0.factors={ audio = 2.0 }"], "`factors` names `audio`"),
        ("domfn", &["strategy.parts.1.objectives=['domnf']"], "names objective `domnf`"),
        (
            "mses",
            &[
                "fusion={ name = 'film' }",
                "head.unimodal=false",
                "objectives=[{ name = 'joint_ce' }]",
            ],
            "valid.strong.loss",
        ),
    ] {
        let found = refusal(method, assignments);
        assert!(found.contains(words), "{method}: {found}");
        assert!(found.contains("what to do: "), "{method}: {found}");
    }
}
