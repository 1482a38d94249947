//! The program from the outside: what it prints, what it leaves behind and how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mie_core::catalogue::plugins;
use mie_core::config::Resolved;
use mie_record::{Event, RunDir, Summary, read_events, read_scalars};
use serde_json::Value;

use crate::desk::{Desk, Ran, ended, wait_for_step};
use crate::support::{MIE, checkpoint_bits, data, only_run, root};

fn summary_of(run: &RunDir) -> Summary {
    run.read_summary().unwrap().unwrap()
}

/// Accuracy of every output on the test split, as it is printed.
fn accuracies(summary: &Summary) -> BTreeMap<String, String> {
    let printed = |accuracy: f64| format!("{:.2}", 100.0 * accuracy);
    let outputs = &summary.outputs["test"];
    outputs.iter().map(|(name, metrics)| (name.clone(), printed(metrics.accuracy))).collect()
}

/// Reads the same from a printed table of scores.
fn accuracies_in(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(str::trim_start)
        .skip_while(|line| !line.starts_with("test "))
        .take(3)
        .map(|line| {
            let mut cells = line.strip_prefix("test ").unwrap_or(line).split_whitespace();
            let mut cell = || cells.next().unwrap().to_owned();
            (cell(), cell())
        })
        .collect()
}

#[test]
fn the_help_lists_every_command_and_what_is_none_is_refused() {
    let desk = Desk::new();
    let asked = desk.run(&["--help"], 0);
    let unasked = desk.run(&[], 2);
    for command in
        ["train", "eval", "predict", "table", "runs", "plugins", "config", "data", "new", "doctor"]
    {
        let entry = format!("\n  {command:7}  ");
        assert!(asked.out.contains(&entry), "{}", asked.out);
        assert!(unasked.err.contains(&entry), "{}", unasked.err);
    }
    assert_eq!((asked.err.as_str(), unasked.out.as_str()), ("", ""));
    let misspelt = desk.run(&["trian"], 2);
    assert!(misspelt.err.contains("'train'"), "{}", misspelt.err);
    assert!(desk.run(&["train", "--help"], 0).out.contains("--resume"));
}

#[test]
fn every_plugin_is_listed_and_has_a_page_with_equation_options_and_source() {
    let desk = Desk::new();
    let list = desk.run(&["plugins"], 0).out;
    let listed: Vec<&str> =
        list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let names: Vec<&str> = plugins().iter().map(|row| (row.name)()).collect();
    assert_eq!(listed, names);
    assert!(names.contains(&"svd_flat"));

    let page = desk.run(&["plugins", "svd_flat"], 0).out;
    for part in [
        "svd_flat (gradient_modifier)\n",
        "\n    P = V diag(exp(-alpha (s_k - s_d) / (s_1 - s_d))) V^T",
        "\n    grad W_i <- grad W_i P_j",
        "\nOptions\n  alpha = 0.4\n      ",
        "\nSource: Multimodal Classification via Modal-Aware Interactive Enhancement",
        "\n  [[gradient_modifiers]]\n  name = \"svd_flat\"\n",
    ] {
        assert!(page.contains(part), "{part}\nis not in\n{page}");
    }

    let pages: Vec<Value> = serde_json::from_str(&desk.run(&["plugins", "--json"], 0).out).unwrap();
    assert_eq!(pages.len(), names.len());

    // What an option can be, and what lies in its tables, is on the page as well.
    let page = desk.run(&["plugins", "svd_flat"], 0).out;
    assert!(page.contains("\n      - \"head\": The layers of the head"), "{page}");
    assert!(page.contains("\n      - { share = a number }: Layers from the output"), "{page}");
    assert!(
        page.contains("\n  covariance_batch_size (absent by default: a whole number"),
        "{page}"
    );
    let page = desk.run(&["plugins", "synthetic"], 0).out;
    assert!(page.contains("\n  samples.train = 2000\n      Training samples."), "{page}");
    assert!(page.contains("\n  modalities.NAME.informative = 0.86\n"), "{page}");
}

#[test]
fn completions_name_every_command_and_bash_takes_them() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = desk.run(&["completions", shell], 0).out;
        for command in ["train", "eval", "plugins", "explain", "--resume"] {
            assert!(script.contains(command.trim_start_matches('-')), "{shell}: {command}");
        }
        desk.write(shell, &script);
    }
    // Loaded by a real shell, `mie tr` becomes `mie train`.
    let completed = "source ./bash; COMP_WORDS=(mie tr); COMP_CWORD=1; _mie mie tr mie; \
                     echo \"${COMPREPLY[@]}\"";
    let ran = ended(desk.start("bash", &["-c", completed]).output().unwrap(), 0);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("train\n", ""));
    let refused = desk.run(&["completions", "csh"], 2);
    assert!(refused.err.contains("possible values: bash"), "{}", refused.err);
}

#[test]
fn an_unknown_plugin_is_refused_with_the_one_that_was_meant() {
    let ran = Desk::new().run(&["plugins", "svd_flt"], 2);
    assert_eq!(
        ran.err,
        "error: there is no plugin `svd_flt` (did you mean `svd_flat`?)\n  \
         what to do: `mie plugins` lists all of them\n"
    );
    assert_eq!(ran.out, "");
}

#[test]
fn all_experiments_are_checked_in_one_call_without_their_data() {
    let mut files = Vec::new();
    for folder in fs::read_dir(root().join("configs/experiments")).unwrap() {
        let folder = folder.unwrap().path();
        // Clips of full size take long; tests/it/configs.rs tries them.
        if folder.ends_with("nvgesture") {
            continue;
        }
        for file in fs::read_dir(folder).unwrap() {
            files.push(file.unwrap().path().display().to_string());
        }
    }
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    let arguments: Vec<&str> =
        ["config", "check"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let ran = Desk::new().run(&arguments, 0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), files.len(), "{}", ran.out);
    for (line, file) in lines.into_iter().zip(&files) {
        assert!(line.starts_with(&format!("ok  {file}  ")), "{line}");
    }
    assert_eq!(ran.err, "");
}

#[test]
fn an_experiment_without_its_data_is_checked_with_the_classes_of_its_dataset() {
    let file = root().join("configs/experiments/kinetics_sounds/unimodal_audio.toml");
    let page = Desk::new().run(&["config", "check", &file.display().to_string()], 0).out;
    assert!(page.contains("  note        data not found: assuming 31 classes ("), "{page}");
    // The head, with biases: from 512 features over 256 and 64 to the classes.
    assert!(page.contains("  149,791\n"), "{page}");
}

#[test]
fn every_faulty_configuration_is_named_with_place_found_and_expected() {
    let desk = Desk::new();
    desk.write_faulty("key.toml", "[head]\nhidden", "[head]\nhiden");
    desk.write_faulty("plugin.toml", "\"average\"", "\"avrage\"");
    desk.write_faulty("type.toml", "batch_size = 12", "batch_size = \"many\"");
    desk.write_faulty("range.toml", "batch_size = 12", "batch_size = 0");
    let mut arguments = vec!["config", "check", "key.toml", "plugin.toml", "type.toml"];
    arguments.extend(["range.toml", "gone.toml", "experiment.toml"]);
    let ran = desk.run(&arguments, 2);
    let lines: Vec<&str> = ran.err.lines().collect();
    let [key, plugin, kind, range, gone, count] = lines[..] else { panic!("{}", ran.err) };
    assert_eq!(
        key,
        "error: key.toml: head.hiden: unknown key `hiden`, expected one of `unimodal`, \
         `shared`, `hidden`, `relu`, `dropout` (did you mean `hidden`?)"
    );
    let unknown = "error: plugin.toml: fusion.name: unknown name `avrage`, expected one of ";
    assert!(plugin.starts_with(unknown), "{plugin}");
    assert!(plugin.ends_with(" (did you mean `average`?)"), "{plugin}");
    let found = "error: type.toml: data.batch_size: found the text \"many\", expected ";
    assert!(kind.starts_with(found), "{kind}");
    assert_eq!(range, "error: range.toml: data: `batch_size` is 0, expected at least 1");
    assert!(gone.starts_with("error: gone.toml: cannot read this configuration: "), "{gone}");
    assert_eq!(count, "5 of 6 experiments fail");
    assert!(ran.out.starts_with("ok  experiment.toml  "), "{}", ran.out);
    assert_eq!(ran.out.lines().count(), 1);
}

#[test]
fn a_misspelt_option_of_a_plugin_stops_training_before_it_starts() {
    let desk = Desk::new();
    desk.write_faulty("faulty.toml", "learning_rate", "learning_rte");
    let problem = "optimizer.learning_rte: unknown key `learning_rte`, expected one of \
                   `learning_rate`, `momentum`, `weight_decay`, `nesterov` (did you mean \
                   `learning_rate`?)\n";
    let ran = desk.run(&["train", "faulty.toml"], 2);
    assert_eq!(ran.err, format!("error: faulty.toml: {problem}"));
    assert_eq!(ran.out, "");
    let assignment = "optimizer.learning_rte=3";
    let ran = desk.run(&["train", "experiment.toml", "--set", assignment], 2);
    assert_eq!(ran.err, format!("error: --set {assignment}: {problem}"));
    assert!(!desk.runs().exists());
}

#[test]
fn training_prints_plain_lines_and_leaves_a_complete_run() {
    let desk = Desk::new();
    let Ran { out, err } = desk.run(&["train", "experiment.toml"], 0);
    let run = only_run(&desk.runs());
    let shown = desk.shown(run.path());

    assert_eq!(err, "");
    assert!(!out.contains(['\r', '\u{1b}']), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[..4],
        [
            format!("run      {shown}").as_str(),
            "device   cpu, 1 thread",
            "phases   strong 2, weak 2, strong 1: 5 epochs in 3 phases",
            "data     synthetic: 120 train, 40 valid, 40 test; 4 classes",
        ]
    );
    for line in &lines[4..9] {
        assert!(line.starts_with("stage ") && line.contains("   epoch "), "{line}");
    }
    assert!(lines[4].ends_with("   * best"), "{out}");
    let summary = summary_of(&run);
    assert_eq!(accuracies_in(&out), accuracies(&summary), "{out}");
    assert!(lines.contains(&format!("run       {shown}").as_str()), "{out}");

    let manifest = run.read_manifest().unwrap();
    assert_eq!((manifest.experiment.as_str(), manifest.seed), ("test/small", 0));
    assert_eq!((manifest.device.as_str(), manifest.threads), ("cpu", 1));
    assert_eq!(manifest.plugins["optimizer"], ["sgd"]);
    assert!(run.path().ends_with(&manifest.fingerprint));
    let again = Resolved::read(&run.config_path(), &[]).unwrap();
    assert_eq!(again.fingerprint().unwrap(), manifest.fingerprint);
    let log = read_events(&run.metrics_path()).unwrap();
    assert_eq!(log.half_line, None);
    // Three stages of 2, 2 and 1 epochs of 120 / 12 steps.
    assert_eq!(steps(&log.events).len(), 50);
    let boards = files_in(&run.events_path());
    assert_eq!(boards.len(), 1);
    assert!(!read_scalars(&boards[0]).unwrap().is_empty());
    let kept: Vec<String> =
        files_in(&run.checkpoints_path()).iter().map(|file| desk.shown(file)).collect();
    let expected = ["best", "last", "previous"];
    assert_eq!(kept, expected.map(|name| format!("{shown}/checkpoints/{name}.safetensors")));

    // The command it ends with can be typed as it is.
    let next = lines.last().unwrap().strip_prefix("next      ").unwrap();
    let evaluated = ended(desk.start("sh", &["-c", next]).output().unwrap(), 0);
    assert_eq!(accuracies_in(&evaluated.out), accuracies(&summary), "{}", evaluated.out);
}

/// What lies in a folder, sorted.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The steps among the events.
fn steps(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|event| matches!(event, Event::Step { .. })).collect()
}

#[test]
fn a_finished_run_is_said_to_be_so_and_stays_as_it_is() {
    let desk = Desk::new();
    let run = desk.trained(&[], None);
    let content = || {
        [run.metrics_path(), run.summary_path(), run.manifest_path()]
            .map(|file| fs::read(file).unwrap())
    };
    let before = content();
    for arguments in [&["train", "experiment.toml"][..], &["train", "experiment.toml", "--resume"]]
    {
        let out = desk.run(arguments, 0).out;
        let said = format!(
            "run      {}\n         is finished already: nothing is trained, these are its scores\n         \
             for a new run change the seed or a setting, or remove the folder\n",
            desk.shown(run.path())
        );
        assert!(out.starts_with(&said), "{out}");
        assert_eq!(accuracies_in(&out), accuracies(&summary_of(&run)), "{out}");
        assert!(content() == before, "the run was changed");
    }
}

#[test]
fn seed_and_assignments_are_part_of_the_run_and_named_as_origins() {
    let desk = Desk::new();
    let assignments = ["--set", "data.batch_size=20", "--set", "strategy.epochs=[1, 1]"];
    let train = [&["train", "experiment.toml", "--seed", "7"][..], &assignments].concat();
    let out = desk.run(&train, 0).out;
    assert!(out.contains("strong 1, weak 1: 2 epochs in 2 phases\n"), "{out}");
    let run = only_run(&desk.runs());
    assert!(run.read_manifest().unwrap().fingerprint.starts_with("seed7-"));
    let resolved = Resolved::read(&run.config_path(), &[]).unwrap().experiment;
    assert_eq!((resolved.seed, resolved.data.batch_size), (7, 20));
    assert!(run.read_config().unwrap().contains("epochs = [1, 1]\n"));

    let resolve = [&["config", "resolve", "experiment.toml", "--origins"][..], &assignments];
    let out = desk.run(&resolve.concat(), 0).out;
    for (setting, origin) in [
        ("data.batch_size = 20", "--set data.batch_size=20"),
        ("data.drop_last = true", "default"),
        ("fusion.name = \"average\"", "experiment.toml"),
    ] {
        let line = out.lines().find(|line| line.starts_with(setting)).unwrap();
        assert!(line.ends_with(&format!(" # {origin}")), "{line}");
    }
}

#[test]
fn a_killed_run_that_is_resumed_ends_with_the_bits_of_one_that_was_not() {
    // 100 steps, then 550 with a projection in force.
    let mut arguments = vec!["train", "experiment.toml", "--set", "strategy.epochs=[10, 50, 5]"];
    arguments.extend(MIE.lines().filter(|line| !line.is_empty()).flat_map(|line| ["--set", line]));
    let calm = Desk::new();
    calm.run(&arguments, 0);
    let whole = only_run(&calm.runs());

    let desk = Desk::new();
    arguments.extend(["--set", "run.checkpoint_every_steps=5"]);
    let mut child = desk.command(&arguments).stdout(Stdio::null()).spawn().unwrap();
    wait_for_step(157, &desk.runs(), &mut child);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "the run ended before it was killed");
    let run = only_run(&desk.runs());
    assert_eq!(run.read_summary().unwrap(), None);

    let refused = desk.run(&arguments, 2);
    let shown = desk.shown(run.path());
    assert_eq!(
        refused.err,
        format!(
            "error: run {shown} exists and is not finished\n  what to do: add --resume to go on \
             from its last checkpoint, or remove the folder to start over\n"
        )
    );
    assert_eq!(refused.out, "");

    arguments.push("--resume");
    let resumed = desk.run(&arguments, 0);
    assert!(resumed.out.contains("\nresumed  from `"), "{}", resumed.out);
    assert_eq!(resumed.err, "");
    let events = read_events(&run.metrics_path()).unwrap().events;
    let from: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Resumed { at, .. } => Some(at.step),
            _ => None,
        })
        .collect();
    // The kill may have met the checkpoint of step 155 half written.
    assert!(matches!(from[..], [step] if step >= 150), "{from:?}");
    let (found, expected) = (summary_of(&run), summary_of(&whole));
    assert_eq!(found.outputs, expected.outputs);
    assert_eq!(found.confusion, expected.confusion);
    assert_eq!((found.best, found.selection), (expected.best, expected.selection));
    for name in ["last", "best"] {
        let equal = checkpoint_bits(&run, name) == checkpoint_bits(&whole, name);
        assert!(equal, "{name} differs");
    }
    let undisturbed = read_events(&whole.metrics_path()).unwrap().events;
    assert_eq!(steps(&undisturbed).len(), 650);
    assert!(steps(&events) == steps(&undisturbed), "the records of steps differ");
}

#[test]
fn a_run_that_is_asked_to_stop_saves_says_how_to_go_on_and_ends_with_the_same_bits() {
    let mut arguments = vec!["train", "experiment.toml", "--set", "strategy.epochs=[10, 50, 5]"];
    arguments.extend(MIE.lines().filter(|line| !line.is_empty()).flat_map(|line| ["--set", line]));
    let calm = Desk::new();
    calm.run(&arguments, 0);
    let whole = only_run(&calm.runs());

    // What Ctrl-C sends, and what job queues send before they kill.
    for signal in ["INT", "TERM"] {
        let desk = Desk::new();
        let mut child =
            desk.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_step(133, &desk.runs(), &mut child);
        let sent = Command::new("bash")
            .args(["-c", &format!("kill -{signal} {}", child.id())])
            .status()
            .unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{signal}: {output:?}");
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.contains("a checkpoint is saved, and --resume goes on from it"), "{err}");

        let run = only_run(&desk.runs());
        let mut resume = arguments.clone();
        resume.push("--resume");
        desk.run(&resume, 0);
        assert_eq!(summary_of(&run).outputs, summary_of(&whole).outputs);
        for name in ["last", "best"] {
            let equal = checkpoint_bits(&run, name) == checkpoint_bits(&whole, name);
            assert!(equal, "{signal}: {name} differs");
        }
    }
}

#[test]
fn a_run_that_was_cut_off_is_nowhere_taken_for_finished_until_it_is_resumed() {
    let desk = Desk::new();
    let run = desk.trained(&[], Some(25));
    let shown = desk.shown(run.path());

    let refused = desk.run(&["eval", &shown], 2);
    assert_eq!(
        refused.err,
        format!(
            "error: run {shown} is not finished, so its test split is still locked\n  what to do: \
             finish it with `mie train CONFIG --resume`, or take `--split valid`\n"
        )
    );
    let valid = desk.run(&["eval", &shown, "--split", "valid"], 0).out;
    assert!(valid.contains("\n valid   strong "), "{valid}");
    let table = desk.run(&["table"], 0).out;
    assert_eq!(
        table,
        format!("no finished runs\nnot finished: `test/small`, seed 0, in {shown}\n")
    );

    let threads = run.read_manifest().unwrap().threads;
    let more = (threads + 1).to_string();
    let resume = ["train", "experiment.toml", "--resume", "--threads", &more];
    let lock = run.lock().unwrap();
    let refused = desk.run(&resume, 1);
    let holder = format!("in use by process {} on ", std::process::id());
    assert!(refused.err.contains(&holder), "{}", refused.err);
    drop(lock);
    let resumed = desk.run(&resume, 0);
    assert!(resumed.out.contains("\nresumed  from `last.safetensors`, "), "{}", resumed.out);
    let warning = format!("warning: the run was started on cpu (threads: {threads}) and ");
    assert!(resumed.err.starts_with(&warning), "{}", resumed.err);
    let summary = summary_of(&run);
    assert_eq!(accuracies_in(&resumed.out), accuracies(&summary), "{}", resumed.out);
    assert!(summary.marks.contains(&"resumed elsewhere".to_owned()), "{:?}", summary.marks);
}

#[test]
fn an_evaluation_gives_the_scores_of_the_summary() {
    let desk = Desk::new();
    let run = desk.trained(&[], None);
    let shown = desk.shown(run.path());
    let out = desk.run(&["eval", &shown, "--json"], 0).out;
    let found: Value = serde_json::from_str(&out).unwrap();
    let summary = summary_of(&run);
    for (output, metrics) in &summary.outputs["test"] {
        assert_eq!(found["outputs"][output]["accuracy"], metrics.accuracy, "{output}");
        assert_eq!(found["outputs"][output]["samples"], 40, "{output}");
    }
    let out = desk.run(&["eval", &shown], 0).out;
    assert_eq!(accuracies_in(&out), accuracies(&summary), "{out}");

    let refused = desk.run(&["eval", "runs"], 2);
    assert!(refused.err.starts_with("error: runs: no `manifest.json` here"), "{}", refused.err);
}

#[test]
fn a_table_gives_mean_and_deviation_over_seeds() {
    let desk = Desk::new();
    let accuracy = |seed: &str| {
        let run = desk.trained(&[seed], None);
        100.0 * summary_of(&run).outputs["test"]["fused"].accuracy
    };
    let (first, second) = (accuracy("seed=1"), accuracy("seed=2"));
    let mean = f64::midpoint(first, second);
    let deviation = (first - second).abs() / 2.0_f64.sqrt();
    let expected = format!("{mean:.2} ± {deviation:.2} (2)");
    let out = desk.run(&["table"], 0).out;
    let row = out.lines().find(|line| line.contains(" fused ")).unwrap();
    assert!(row.contains("test/small") && row.contains(&format!(" {expected} ")), "{out}");
    let named = desk.run(&["table", "runs/test/small", "--format", "markdown"], 0).out;
    assert!(named.contains(&format!("| fused | {expected} |")), "{named}");

    let refused = desk.run(&["table", "gone"], 2).err;
    assert!(refused.starts_with("error: there is no folder `gone`\n  what to do: "), "{refused}");
}

#[test]
fn a_device_that_is_not_there_is_refused_with_what_to_do() {
    let desk = Desk::new();
    let train = |device| desk.run(&["train", "experiment.toml", "--device", device], 2).err;
    assert_eq!(
        train("tpu"),
        "error: `tpu` is no device\n  what to do: write `cpu`, `cuda` or `cuda:N`\n"
    );
    if Path::new("/dev/nvidia0").exists() {
        eprintln!("skipped: this machine has a CUDA device");
    } else {
        let refused = train("cuda");
        let (reason, remedy) = refused.split_once("\n  what to do: ").unwrap();
        // Without libtorch's CUDA part, or with it and no device.
        let absent = reason.starts_with("error: libtorch's CUDA part cannot be loaded (")
            && remedy.starts_with("install it with `cargo xtask setup --cuda`");
        let idle = reason.starts_with("error: there is no device `cuda`")
            && remedy.ends_with("or use `--device cpu`\n");
        assert!(absent || idle, "{refused}");
    }
    assert!(!desk.runs().exists());
}

#[test]
fn a_complete_dataset_is_found_to_be_so() {
    let Some(folder) = data() else { return };
    let folder = folder.canonicalize().unwrap().display().to_string();
    let ran = Desk::new().run(&["data", "check", "av_digits", "--data-dir", &folder], 0);
    assert_eq!(
        ran.out,
        "train  2,400 samples (expected 2400); 240 to 240 of a class\n\
         valid  300 samples (expected 300); 30 to 30 of a class\n\
         test   300 samples (expected 300); 30 to 30 of a class\n\
         nothing differs from a complete copy\n"
    );
    assert_eq!(ran.err, "");
}

#[test]
fn a_dataset_is_decoded_by_its_name_alone() {
    let ran = Desk::new().run(&["data", "check", "synthetic", "--decode"], 0);
    let end = "decoded without fault: 7000\nnothing differs from a complete copy\n";
    assert!(ran.out.ends_with(end), "{}", ran.out);
    let Some(folder) = data() else { return };
    let folder = folder.canonicalize().unwrap().display().to_string();
    let arguments = ["data", "check", "av_digits", "--decode", "--data-dir", &folder];
    let out = Desk::new().run(&arguments, 0).out;
    let end = "decoded without fault: 6000\nnothing differs from a complete copy\n";
    assert!(out.ends_with(end), "{out}");
}

#[test]
fn a_missing_or_truncated_recording_is_named() {
    let Some(desk) = few_digits() else { return };
    let decode = ["data", "check", "few.toml", "--decode"];
    let out = desk.run(&decode, 0).out;
    let whole = "decoded without fault: 30\nnothing differs from a complete copy\n";
    assert!(out.ends_with(whole), "{out}");

    let name = "data/avdigits/fsdd/recordings/0_george_0.wav";
    let bytes = fs::read(desk.path(name)).unwrap();
    fs::remove_file(desk.path(name)).unwrap();
    let out = desk.run(&["data", "check", "few.toml"], 1).out;
    assert!(out.contains("\n1 difference:\n  audio: 1 missing, "), "{out}");
    assert!(out.contains(&format!(" audio: {name} (not found)\n")), "{out}");

    fs::write(desk.path(name), &bytes[..100]).unwrap();
    let out = desk.run(&decode, 1).out;
    assert!(out.contains("\n1 difference:\n  audio: 1 broken, "), "{out}");
    assert!(out.contains(&format!("{name}: is truncated: ")), "{out}");
    assert!(out.lines().last().unwrap().starts_with("exclude = [\"0_george_0-"), "{out}");
}

#[test]
fn a_run_on_real_data_is_evaluated_on_the_data_it_was_trained_with() {
    let Some(desk) = few_digits() else { return };
    let few = ["strategy.epochs=1", "data.train_per_class=1", "data.batch_size=5"];
    let assignments = few.iter().flat_map(|assignment| ["--set", assignment]);
    desk.run(&["train", "few.toml"].into_iter().chain(assignments).collect::<Vec<_>>(), 0);
    let run = only_run(&desk.runs());
    let mut command = desk.command(&["eval", &desk.shown(run.path()), "--json"]);
    // Neither given nor set, and nothing lies where data lie by default.
    command.env_remove("MIE_DATA_DIR").env_remove("XDG_DATA_HOME").env("HOME", desk.path("home"));
    let found: Value = serde_json::from_str(&ended(command.output().unwrap(), 0).out).unwrap();
    assert_eq!(found["outputs"]["fused"]["samples"], 10);
}

/// A folder with one sample of each digit a split, by links, and an experiment that reads them.
fn few_digits() -> Option<Desk> {
    let from = data()?.join("avdigits").canonicalize().unwrap();
    let desk = Desk::new();
    let to = desk.path("data/avdigits");
    fs::create_dir_all(to.join("fsdd/recordings")).unwrap();
    symlink(from.join("mnist"), to.join("mnist")).unwrap();
    for split in ["train", "valid", "test"] {
        let list = fs::read_to_string(from.join(format!("pairs_{split}.tsv"))).unwrap();
        let mut seen = BTreeSet::new();
        let first = |line: &&str| seen.insert(line.rsplit('\t').next().unwrap().to_owned());
        let lines: Vec<&str> = list.lines().filter(first).collect();
        for line in &lines[1..] {
            let (recording, _) = line.split_once('\t').unwrap();
            symlink(from.join(recording), to.join(recording)).unwrap();
        }
        fs::write(to.join(format!("few_{split}.tsv")), lines.join("\n")).unwrap();
    }
    let base = root().join("configs/experiments/av_digits/unimodal_audio.toml");
    let text = format!(
        "extends = ['{}']\n[dataset.pairs]\ntrain = 'few_train.tsv'\nvalid = 'few_valid.tsv'\n\
         test = 'few_test.tsv'\n",
        base.display()
    );
    desk.write("few.toml", &text);
    Some(desk)
}

#[test]
fn data_that_are_not_there_are_refused_with_where_to_get_them() {
    let desk = Desk::new();
    let absent = desk.run(&["data", "check", "av_digits"], 1).err;
    assert!(absent.contains("data/avdigits/fsdd/recordings: there is no such folder"), "{absent}");
    assert!(absent.contains("run `mie data fetch av_digits`"), "{absent}");
    assert_eq!(
        desk.run(&["data", "check", "av_digtis"], 2).err,
        "error: `av_digtis` is neither a dataset (did you mean `av_digits`?) nor a file\n  \
         what to do: `mie plugins --family dataset` lists the datasets\n"
    );
}

#[test]
fn the_doctor_names_the_libraries_in_use() {
    let Ran { out, err } = Desk::new().run(&["doctor"], 0);
    assert!(out.contains("/libtorch_cpu.so\n"), "{out}");
    assert!(out.contains("\nok     device       cpu multiplies and decomposes\n"), "{out}");
    assert!(out.contains("MIE_DATA_DIR=data\n"), "{out}");
    assert!(!out.lines().any(|line| line.starts_with("wrong")), "{out}");
    assert_eq!(err, "");
}

#[test]
fn training_as_json_prints_the_recorded_events_and_then_the_summary() {
    let desk = Desk::new();
    let Ran { out, err } = desk.run(&["train", "experiment.toml", "--json"], 0);
    let run = only_run(&desk.runs());
    let lines: Vec<&str> = out.lines().collect();
    let (summary, events) = lines.split_last().unwrap();
    let events: Vec<Event> =
        events.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events, read_events(&run.metrics_path()).unwrap().events);
    assert_eq!(serde_json::from_str::<Summary>(summary).unwrap(), summary_of(&run));
    assert_eq!(err, format!("run {}\n", desk.shown(run.path())));
}

#[test]
fn a_reader_that_goes_away_stops_nothing() {
    let desk = Desk::new();
    for arguments in [&["plugins"][..], &["train", "experiment.toml"]] {
        let mut command = desk.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(ended(child.wait_with_output().unwrap(), 0).err, "");
    }
    assert_eq!(summary_of(&only_run(&desk.runs())).seed, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Desk::new().command(&["plugins"]).stdout(full).output().unwrap();
    let err = ended(output, 1).err;
    assert!(err.starts_with("error: cannot write to standard output: "), "{err}");
}

#[test]
fn a_loss_that_is_not_finite_fails_the_run_and_leaves_it_unfinished() {
    let desk = Desk::new();
    let assignment = "optimizer.learning_rate=1e30";
    let err = desk.run(&["train", "experiment.toml", "--set", assignment], 1).err;
    let problem = "error: loss term `unimodal.strong` is not finite at step ";
    assert!(err.starts_with(problem) && err.contains("lower the learning rate"), "{err}");
    assert_eq!(only_run(&desk.runs()).read_summary().unwrap(), None);
}
