//! Every configuration of the project is one that runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mie_core::config::{Resolved, settings};
use mie_core::engine::{Existing, plan};
use serde_json::{Value, json};

use crate::support::{SMALL, Watcher, experiment, only_run, root, train_in};

fn experiments() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("configs/experiments")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() >= 10);
    found
}

/// Assignments under which an experiment is tried: clips of 64 frames of 224 pixels take a minute,
/// so all but two of the experiments on them are tried on smaller ones.
fn smaller(file: &Path) -> Vec<String> {
    let name = file.file_stem().unwrap().to_str().unwrap();
    let on_clips = file.parent().unwrap().ends_with("nvgesture");
    if !on_clips || ["mie", "mie_released"].contains(&name) || name.starts_with("mini") {
        return Vec::new();
    }
    let resolved = Resolved::read(file, &[]).unwrap_or_else(|e| panic!("{e}"));
    let modalities = resolved.experiment.modalities.keys();
    modalities
        .flat_map(|modality| {
            [("frames", 16), ("resize_pixels", 72), ("crop_pixels", 64)]
                .map(|(option, value)| format!("modalities.{modality}.input.{option}={value}"))
        })
        .collect()
}

#[test]
fn every_experiment_is_read_and_dry_run() {
    for file in experiments() {
        let resolved = Resolved::read(&file, &smaller(&file)).unwrap_or_else(|e| panic!("{e}"));
        let classes = resolved.experiment.dataset.class_count().unwrap();
        let plan = plan(&resolved.experiment, classes, None, None)
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(plan.outputs.contains(&"fused".to_owned()), "{}", file.display());
        // What is written into a run directory is the same experiment.
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("config.toml");
        std::fs::write(&copy, resolved.to_toml().unwrap()).unwrap();
        let again = Resolved::read(&copy, &[]).unwrap();
        assert_eq!(again.fingerprint().unwrap(), resolved.fingerprint().unwrap());
        assert_eq!(again.experiment.name, resolved.experiment.name);
    }
}

#[test]
fn the_datasets_of_experiments_tell_their_number_of_classes_without_their_files() {
    let mut told = BTreeMap::new();
    for file in experiments() {
        let resolved = Resolved::read(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
        let dataset = resolved.experiment.dataset;
        told.insert(dataset.typetag_name().to_owned(), dataset.class_count());
    }
    let published = [
        ("av_digits", 10),
        ("cremad", 6),
        ("emoji_imgtext", 8),
        ("kinetics_sounds", 31),
        ("nvgesture", 25),
        ("sarcasm", 2),
        ("synthetic", 10),
        ("twitter2015", 3),
    ];
    let published = published.map(|(name, count)| (name.to_owned(), Some(count)));
    assert_eq!(told, BTreeMap::from(published));
}

/// What the released code has for a dataset: stages, batch, optimizer, schedule and its two presets.
struct Published {
    dataset: &'static str,
    order: &'static [&'static str],
    epochs: &'static [u64],
    repeat: u64,
    batch_size: u64,
    optimizer: &'static str,
    learning_rate: f64,
    schedule: &'static str,
    released_rho: f64,
    mixup: f64,
    released_metric: &'static str,
}

#[test]
fn experiments_on_the_paper_s_datasets_have_the_settings_of_the_released_code() {
    let audio_video = Published {
        dataset: "cremad",
        order: &["audio", "video"],
        epochs: &[25, 50],
        repeat: 6,
        batch_size: 12,
        optimizer: "sgd",
        learning_rate: 0.01,
        schedule: "step_lr",
        released_rho: 1e-10,
        mixup: 1.0,
        released_metric: "macro_f1",
    };
    let text_image = Published {
        dataset: "sarcasm",
        order: &["text", "image"],
        epochs: &[2, 30],
        repeat: 2,
        optimizer: "adam",
        learning_rate: 1e-5,
        schedule: "warmup",
        released_rho: 1e-15,
        ..audio_video
    };
    let all = [
        Published { dataset: "kinetics_sounds", repeat: 2, ..audio_video },
        Published {
            dataset: "twitter2015",
            epochs: &[10, 30],
            mixup: 0.9,
            released_metric: "accuracy",
            ..text_image
        },
        Published {
            dataset: "nvgesture",
            order: &["depth", "rgb", "flow"],
            epochs: &[50, 50, 50],
            repeat: 2,
            batch_size: 6,
            released_rho: 1e-15,
            ..audio_video
        },
        text_image,
        audio_video,
    ];
    for wanted in all {
        let read = |name: &str| {
            let file = format!("configs/experiments/{}/{name}.toml", wanted.dataset);
            Resolved::read(&root().join(file), &[]).unwrap().tree().unwrap()
        };
        for (name, released) in [("mie", false), ("mie_released", true)] {
            let tree = read(name);
            let place = format!("{}/{name}", wanted.dataset);
            let strategy = &tree["strategy"];
            assert_eq!(strategy["order"], json!(wanted.order), "{place}");
            assert_eq!(strategy["epochs"], json!(wanted.epochs), "{place}");
            assert_eq!(strategy["repeat"], json!(wanted.repeat), "{place}");
            assert_eq!(tree["data"]["batch_size"], json!(wanted.batch_size), "{place}");
            let base = &tree["optimizer"]["base"];
            assert_eq!(base["name"], json!(wanted.optimizer), "{place}");
            assert_eq!(base["learning_rate"], json!(wanted.learning_rate), "{place}");
            assert_eq!(base["weight_decay"], json!(1e-4), "{place}");
            let momentum = if wanted.optimizer == "adam" { "beta2" } else { "momentum" };
            let expected = if wanted.optimizer == "adam" { 0.99 } else { 0.9 };
            assert_eq!(base[momentum], json!(expected), "{place}");
            assert_eq!(tree["controllers"][0]["name"], json!(wanted.schedule), "{place}");
            assert_eq!(tree["gradient_modifiers"][0]["alpha"], json!(0.4), "{place}");
            let rho = if released { wanted.released_rho } else { 0.05 };
            assert_eq!(tree["optimizer"]["rho"], json!(rho), "{place}");
            let mixup = tree["data"]["mixup"]["alpha"].as_f64();
            assert_eq!(mixup, released.then_some(wanted.mixup), "{place}");
            let metric = if released { wanted.released_metric } else { "accuracy" };
            assert_eq!(tree["selection"]["metric"], json!(metric), "{place}");
            let split = if released { "test" } else { "valid" };
            assert_eq!(tree["selection"]["split"], json!(split), "{place}");
        }
    }
}

#[test]
fn every_experiment_starts_with_what_it_claims_and_how_to_run_it() {
    for file in experiments() {
        let text = std::fs::read_to_string(&file).unwrap();
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        let header = header.join("\n");
        let path = file.strip_prefix(root()).unwrap().display().to_string();
        assert!(header.contains(&format!("mie train {path}")), "{path} lacks its command");
        assert!(header.lines().count() >= 2, "{path} does not say what it is");
    }
}

#[test]
fn the_four_cells_of_the_ablation_differ_in_nothing_but_the_two_parts() {
    for dataset in ["av_digits", "synthetic"] {
        let read = |cell: &str| {
            let file = root().join(format!("configs/experiments/{dataset}/{cell}.toml"));
            let resolved = Resolved::read(&file, &[]).unwrap();
            let mut tree = serde_json::to_value(&resolved.experiment).unwrap();
            let table = tree.as_object_mut().unwrap();
            table.remove("name");
            let optimizer = table.remove("optimizer").unwrap();
            let modifiers = table.remove("gradient_modifiers").unwrap();
            (optimizer, modifiers, tree)
        };
        let (sam, flat, rest) = read("mie");
        let (sgd, none, baseline) = read("baseline");
        assert_eq!(sam["base"], sgd, "{dataset}: the step is made by the same optimizer");
        assert_eq!(rest, baseline);
        let (optimizer, modifiers, other) = read("sam_only");
        assert_eq!((&optimizer, &modifiers, &other), (&sam, &none, &rest));
        let (optimizer, modifiers, other) = read("gm_only");
        assert_eq!((&optimizer, &modifiers, &other), (&sgd, &flat, &rest));
    }
}

/// A folder that holds the small experiment.
fn desk() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("experiment.toml"), SMALL).unwrap();
    folder
}

/// Runs `mie config` in a folder to its end, which must be with this exit status; gives what it
/// wrote to standard output and standard error.
fn config(folder: &Path, arguments: &[&str], status: i32) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mie"))
        .arg("config")
        .args(arguments)
        .current_dir(folder)
        .env_remove("COLUMNS")
        .env("MIE_DATA_DIR", "data")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{arguments:?} printed:\n{out}\n{err}");
    (out, err)
}

/// What `mie config resolve` says about the small experiment with these assignments.
fn resolve(assignments: &[&str], status: i32) -> (String, String) {
    let mut arguments = vec!["resolve", "experiment.toml"];
    arguments.extend(assignments.iter().flat_map(|assignment| ["--set", *assignment]));
    config(desk().path(), &arguments, status)
}

#[test]
fn assignments_that_cannot_be_meant_are_refused_in_words_of_a_configuration() {
    for (assignment, problem) in [
        (
            "data.batch_size=many",
            "data.batch_size: found the text \"many\", expected a whole number from 0",
        ),
        ("data=12", "data: found the number `12`, expected a table"),
        ("data=[12]", "data: found a list, expected a table: write `{ key = value }`"),
        ("data.drop_last=yes", "data.drop_last: found the text \"yes\", expected true or false"),
        ("head.hidden=256", "head.hidden: found the number `256`, expected a list"),
        (
            "modalities.weak.encoder.width=1.5",
            "modalities.weak.encoder.width: found the number `1.5`, expected a whole number",
        ),
        (
            "optimizer.learning_rate=fast",
            "optimizer.learning_rate: found the text \"fast\", expected a number",
        ),
        ("data.on_missing=3", "data.on_missing: found the number `3`, expected the name of a"),
        ("optimizer=sgd", "optimizer: found the text \"sgd\", expected a plugin: write { name = "),
        ("data.mixup={}", "data.mixup: `alpha` is missing and has no default: add it"),
        ("strategy={ name = \"staged\", order = [strong] }", "not valid TOML: "),
        ("optimizer={}", "optimizer: an empty table changes nothing: say what to set, e.g. `opt"),
        ("seed=1\nname=\"two\"", "found several lines that are not one value"),
        ("objectives.1.name=joint_ce", "objectives: there is no element 1 in a list of 1"),
        (
            "modalities.name.input.name=vector",
            "modalities.name: `name` cannot be the name of a modality",
        ),
        ("deviations.name=other", "deviations.name: `name` cannot be the name of a deviation"),
    ] {
        let (out, err) = resolve(&[assignment], 2);
        let shown = assignment.replace('\n', " ");
        assert!(err.starts_with(&format!("error: --set {shown}: {problem}")), "{err}");
        for word in ["usize", "u64", "i64", "f64", "struct ", "sequence", "map", "boolean"] {
            assert!(!err.contains(word), "`{word}` is in {err}");
        }
        assert_eq!(out, "");
    }
}

#[test]
fn a_table_that_is_not_there_is_made_and_another_plugin_in_a_list_starts_afresh() {
    let flat = "gradient_modifiers=[{ name = \"svd_flat\", alpha = 0.7 }]";
    let (out, _) = resolve(&[flat, "gradient_modifiers.0.scope.share=0.3"], 0);
    assert!(out.contains("alpha = 0.7\n") && out.contains("share = 0.3\n"), "{out}");
    let (out, _) = resolve(&[flat, "gradient_modifiers.0.name=clip_norm"], 0);
    assert!(
        out.contains("[[gradient_modifiers]]\nname = \"clip_norm\"\nmax_norm = 1.0\n"),
        "{out}"
    );
}

#[test]
fn paths_that_hold_no_experiment_are_named_with_the_reason_and_what_was_meant() {
    let desk = desk();
    let write =
        |name: &str| std::fs::write(desk.path().join(name), &SMALL[SMALL.find('[').unwrap()..]);
    write("my small.toml").unwrap();
    std::fs::create_dir(desk.path().join("folder")).unwrap();
    for (path, problem) in [
        ("folder", "folder: cannot read this configuration: it is a folder, expected a TOML file"),
        (
            "experimnet.toml",
            "experimnet.toml: cannot read this configuration: there is no such file (did you mean \
             `experiment.toml`?)",
        ),
        ("no such.toml", "`no such.toml`: cannot read this configuration: there is no such file"),
        (
            "my small.toml",
            "`my small.toml`: name: no `name` is set, and the one made from the path",
        ),
    ] {
        for command in ["check", "resolve"] {
            let (_, err) = config(desk.path(), &[command, path], 2);
            assert!(err.starts_with(&format!("error: {problem}")), "{err}");
            assert_eq!(err.lines().count(), 1, "{err}");
        }
    }
    let (_, err) = config(desk.path(), &["resolve", "my small.toml"], 2);
    assert!(err.contains("/my_small\"`, or rename file or folder"), "{err}");
    config(desk.path(), &["resolve", "my small.toml", "--set", "name=small"], 0);
}

#[test]
fn a_configuration_without_a_required_part_is_named_with_the_part() {
    let desk = desk();
    let text = SMALL.replace("[fusion]\nname = \"average\"\n", "");
    std::fs::write(desk.path().join("half.toml"), text).unwrap();
    let (_, err) = config(desk.path(), &["resolve", "half.toml"], 2);
    assert_eq!(err, "error: half.toml: `fusion` is missing and has no default: add it\n");
}

#[test]
fn the_schema_is_the_one_that_is_kept_and_can_be_written_to_a_file() {
    let desk = desk();
    let kept = std::fs::read_to_string(root().join("configs/schema.json")).unwrap();
    let (out, err) = config(desk.path(), &["schema"], 0);
    assert!(out == kept, "the schema printed is not configs/schema.json");
    assert_eq!(err, "");
    let (out, _) = config(desk.path(), &["schema", "--output", "schema.json"], 0);
    assert_eq!(out, "");
    assert!(std::fs::read_to_string(desk.path().join("schema.json")).unwrap() == kept);
    let (_, err) = config(desk.path(), &["schema", "--output", "gone/schema.json"], 1);
    assert!(err.contains("gone/"), "{err}");
}

/// A place in the small experiment, as it is printed.
fn place(line: &str) -> String {
    let number = SMALL.lines().position(|found| found == line).unwrap() + 1;
    format!("experiment.toml:{number}")
}

#[test]
fn a_setting_is_explained_by_its_value_who_set_it_its_default_and_its_documentation() {
    let desk = desk();
    let explain = |arguments: &[&str]| {
        let start = ["explain", "experiment.toml"];
        config(desk.path(), &[&start[..], arguments].concat(), 0).0
    };
    let out = explain(&["optimizer", "--set", "optimizer.momentum=0.5"]);
    let expected = format!(
        "optimizer.name = \"sgd\"\n    set by   {}\n    Steps against the gradient, with momentum \
         and L2 weight decay.\n\noptimizer.learning_rate = 0.05\n    set by   {}\n    default  \
         0.01\n    Learning rate before schedules, above 0.",
        place("name = \"sgd\""),
        place("learning_rate = 0.05")
    );
    assert!(out.starts_with(&expected), "{out}");
    let momentum = "\n\noptimizer.momentum = 0.5\n    set by   --set optimizer.momentum=0.5\n    \
                    default  0.9\n    Share of the velocity";
    assert!(out.contains(momentum), "{out}");
    let decay = "\n\noptimizer.weight_decay = 0.0001\n    set by   default\n    Factor of";
    assert!(out.contains(decay), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");

    assert_eq!(
        explain(&["head.relu"]),
        "head.relu = \"first\"\n    set by   default\n    one of   \"first\", \"all\", \"none\"\n    Where \
         ReLU stands.\n    `first`: After the first layer only, as in the released code.\n"
    );
    let mixup = explain(&["data.mixup"]);
    assert!(mixup.starts_with("data.mixup = absent\n    set by   default\n    Mixing"), "{mixup}");
}

#[test]
fn every_setting_of_every_experiment_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    for file in experiments() {
        let resolved = Resolved::read(&file, &[]).unwrap();
        let expected = settings(&resolved.tree().unwrap(), &resolved.source);
        let path = file.display().to_string();
        let (out, _) = config(folder.path(), &["explain", &path, "--json"], 0);
        let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
        assert_eq!(rows.len(), expected.len());
        for (row, setting) in rows.iter().zip(&expected) {
            assert_eq!(row["path"], *setting.path);
            assert_eq!(row["value"], setting.value);
            let documentation = row["documentation"].as_str().unwrap();
            assert!(documentation.len() > 10, "{path}: {} is not explained", setting.path);
        }
        let by_file = |row: &&Value| row["set_by"]["line"].is_u64();
        assert!(rows.iter().filter(by_file).count() > 10, "{path}");
    }
}

#[test]
fn a_setting_that_does_not_exist_is_refused_with_the_one_that_was_meant() {
    let desk = desk();
    let refused = |path: &str| config(desk.path(), &["explain", "experiment.toml", path], 2).1;
    assert_eq!(
        refused("optimizer.learning_rte"),
        "error: there is no setting `optimizer.learning_rte` in this experiment (did you mean \
         `optimizer.learning_rate`?)\n  what to do: `mie config explain experiment.toml` lists \
         all of them\n"
    );
    assert!(refused("drop_last").contains("(did you mean `data.drop_last`?)"));
    let below = refused("data.mixup.alpha");
    assert!(below.contains("because `data.mixup` is absent here"), "{below}");
    assert!(below.contains("`--set data.mixup.alpha=…` sets it"), "{below}");
}

#[test]
fn an_experiment_and_its_run_do_not_differ_and_changes_are_shown_with_who_made_them() {
    let desk = desk();
    let resolved = experiment(SMALL, &[]).unwrap();
    let runs = desk.path().join("runs");
    train_in(&runs, &resolved, Existing::Refuse, &mut Watcher::default()).unwrap();
    let run = only_run(&runs).path().display().to_string();
    let (out, _) = config(desk.path(), &["diff", "experiment.toml", &run], 0);
    assert_eq!(out, format!("A  experiment.toml\nB  {run}\n\nnothing differs\n"));

    let changed = "extends = ['experiment.toml']\n[optimizer]\nname = 'adam'\n[data]\n\
                   batch_size = 20\n[[gradient_modifiers]]\nname = 'clip_norm'\n";
    std::fs::write(desk.path().join("changed.toml"), changed).unwrap();
    let (out, err) = config(desk.path(), &["diff", &run, "changed.toml"], 1);
    assert_eq!(err, "");
    for part in [
        "\ndata.batch_size\n  A  12  # ",
        "config.toml:",
        "\n  B  20  # changed.toml:5\n",
        "\ngradient_modifiers.0.name\n  A  absent\n  B  \"clip_norm\"  # changed.toml:7\n",
        "\noptimizer.name\n  A  \"sgd\"   # ",
        "\n  B  \"adam\"  # changed.toml:3\n",
        "\nthey differ in ",
    ] {
        assert!(out.contains(part), "{part}\nis not in\n{out}");
    }
    assert!(!out.contains("gradient_modifiers\n"), "{out}");

    let (out, _) = config(desk.path(), &["diff", "experiment.toml", "changed.toml", "--json"], 1);
    let report: Value = serde_json::from_str(&out).unwrap();
    let size = &report["differences"][0];
    assert_eq!((&size["path"], &size["b"]["value"]), (&json!("data.batch_size"), &json!(20)));
    assert_eq!(size["b"]["set_by"], json!({ "place": "changed.toml", "line": 5 }));

    let (_, err) = config(desk.path(), &["diff", "experiment.toml", "gone.toml"], 2);
    assert!(err.starts_with("error: gone.toml: cannot read"), "{err}");
    let (help, _) = config(desk.path(), &["diff", "--help"], 0);
    assert!(help.contains("Exits with 0 if nothing differs"), "{help}");
}
