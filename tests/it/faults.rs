//! What a run survives: kills, damaged files, a full disk, a second process.
//!
//! The program is really killed, its files are really cut and its disk is really full; what goes
//! on from there must end in the bits of the run that nothing happened to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use mie_core::engine::Existing;
use mie_core::prelude::{Purpose, Seed};
use mie_record::{Event, RunDir, read_events};

use crate::desk::{Desk, wait_for_step};
use crate::support::{
    MIE, SMALL, Watcher, checkpoint_bits, experiment, finished, only_run, train_in,
};

/// Everything that keeps a state: SAM, the modifier, stages, momentum, dropout, a schedule.
const STATEFUL: &str = r#"
gradient_modifiers=[{ name = "svd_flat", alpha = 0.4 }]
optimizer={ name = "sam", rho = 0.05, base = { name = "sgd", learning_rate = 0.05, momentum = 0.9 } }
controllers=[{ name = "step_lr", step_epochs = 7 }]
head.dropout=0.2
modalities.weak.encoder.dropout=0.1
strategy.epochs=[10, 40, 10]
"#;

fn arguments(assignments: &'static str) -> Vec<&'static str> {
    let mut arguments = vec!["train", "experiment.toml"];
    let lines = assignments.lines().filter(|line| !line.is_empty());
    arguments.extend(lines.flat_map(|line| ["--set", line]));
    arguments
}

/// A number that looks random and is the same in every run of the test.
fn drawn(what: &str, index: u64) -> u64 {
    Seed(11).number(Purpose::Plugin, what, &[index])
}

type Bits = BTreeMap<String, Vec<u8>>;

/// What an undisturbed run of the program ends with.
fn undisturbed(arguments: &[&str]) -> [Bits; 2] {
    let desk = Desk::new();
    desk.run(arguments, 0);
    bits(&only_run(&desk.runs()))
}

fn bits(run: &RunDir) -> [Bits; 2] {
    ["last", "best"].map(|name| checkpoint_bits(run, name))
}

fn resumed(run: &RunDir) -> usize {
    let events = read_events(&run.metrics_path()).unwrap().events;
    events.iter().filter(|event| matches!(event, Event::Resumed { .. })).count()
}

#[test]
fn a_run_killed_again_and_again_at_random_steps_ends_with_the_same_bits() {
    let mut arguments = arguments(STATEFUL);
    let whole = undisturbed(&arguments);
    arguments.extend(["--set", "run.checkpoint_every_steps=7"]);
    // The stages end at steps 100, 500 and 600.
    let mut kills: Vec<u64> = (0..6).map(|index| 1 + drawn("kills", index) % 560).collect();
    kills.sort_unstable();

    let desk = Desk::new();
    for (index, &step) in kills.iter().enumerate() {
        let mut arguments = arguments.clone();
        if index > 0 {
            arguments.push("--resume");
        }
        let mut child = desk.command(&arguments).stdout(Stdio::null()).spawn().unwrap();
        wait_for_step(step, &desk.runs(), &mut child);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "step {step}");
    }
    arguments.push("--resume");
    desk.run(&arguments, 0);
    let run = only_run(&desk.runs());
    assert!(bits(&run) == whole, "killed at {kills:?}");
    assert!(resumed(&run) >= 1);
}

/// Ways in which a file can be damaged.
fn damages(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("emptied".to_owned(), Vec::new()),
        ("of zeros".to_owned(), vec![0; bytes.len()]),
        ("of another kind".to_owned(), b"not a checkpoint\n".to_vec()),
        ("without its last byte".to_owned(), bytes[..bytes.len() - 1].to_vec()),
        ("with a byte more".to_owned(), [bytes, &[0]].concat()),
    ];
    for index in 0..4 {
        let place = drawn("damages", index) as usize % bytes.len();
        all.push((format!("cut at {place}"), bytes[..place].to_vec()));
        let mut flipped = bytes.to_vec();
        flipped[place] ^= 1 << (index * 2);
        all.push((format!("flipped at {place}"), flipped));
    }
    // A header that claims more than any memory holds.
    let mut huge = bytes.to_vec();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    all.push(("with a huge header".to_owned(), huge));
    all
}

#[test]
fn whatever_happens_to_the_last_checkpoint_the_one_before_it_serves() {
    let resolved = experiment(SMALL, &[MIE]).unwrap();
    let (_, whole, _) = finished(&resolved);
    let whole = bits(&only_run(whole.path()));
    let interrupted = tempfile::tempdir().unwrap();
    let mut watcher = Watcher { stop_after: Some(35), ..Watcher::default() };
    train_in(interrupted.path(), &resolved, Existing::Refuse, &mut watcher).unwrap();
    let checkpoint = only_run(interrupted.path()).checkpoints_path().join("last.safetensors");
    for (how, bytes) in damages(&fs::read(&checkpoint).unwrap()) {
        let runs = tempfile::tempdir().unwrap();
        copy(interrupted.path(), runs.path());
        let run = only_run(runs.path());
        fs::write(run.checkpoints_path().join("last.safetensors"), bytes).unwrap();
        let mut watcher = Watcher::default();
        train_in(runs.path(), &resolved, Existing::Resume, &mut watcher).unwrap();
        let fell_back = |event: &Event| matches!(event, Event::Warning { message, .. } if message.contains("falling back"));
        assert!(watcher.events.iter().any(fell_back), "{how}: nothing was said");
        let from = |event: &Event| matches!(event, Event::Resumed { from, .. } if from == "previous.safetensors");
        assert!(watcher.events.iter().any(from), "{how}: not the one before");
        assert!(bits(&run) == whole, "{how}: other bits");
    }
}

#[test]
fn with_both_checkpoints_damaged_the_run_starts_over_and_says_so() {
    let resolved = experiment(SMALL, &[MIE]).unwrap();
    let (_, whole, _) = finished(&resolved);
    let runs = tempfile::tempdir().unwrap();
    let mut watcher = Watcher { stop_after: Some(35), ..Watcher::default() };
    train_in(runs.path(), &resolved, Existing::Refuse, &mut watcher).unwrap();
    let run = only_run(runs.path());
    for name in ["last", "previous"] {
        fs::write(run.checkpoints_path().join(format!("{name}.safetensors")), "damaged").unwrap();
    }
    let mut watcher = Watcher::default();
    train_in(runs.path(), &resolved, Existing::Resume, &mut watcher).unwrap();
    let says = |event: &Event| matches!(event, Event::Warning { message, .. } if message.contains("the run starts over"));
    assert!(watcher.events.iter().any(says));
    assert!(bits(&run) == bits(&only_run(whole.path())));
}

/// The program with a limit on the size of every file that it writes, in blocks of 1,024 bytes.
///
/// With the signal ignored, a write beyond the limit fails as it does on a full disk.
fn on_a_small_disk(desk: &Desk, blocks: u64, arguments: &[&str]) -> Command {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let program = env!("CARGO_BIN_EXE_mie");
    desk.start("bash", &[&["-c", &script, "bash", program], arguments].concat())
}

#[test]
fn a_full_disk_stops_the_run_with_a_clear_error_and_leaves_what_was_there() {
    let mut arguments = arguments(MIE);
    let whole = undisturbed(&arguments);
    arguments.extend(["--set", "run.checkpoint_every_steps=3"]);
    // The record grows beyond its share after some steps; checkpoints keep their size.
    let probe = Desk::new();
    probe.run(&arguments, 0);
    let checkpoint = only_run(&probe.runs()).checkpoints_path().join("last.safetensors");
    let checkpoint_blocks = fs::metadata(checkpoint).unwrap().len().div_ceil(1024);

    let desk = Desk::new();
    for (blocks, what) in [(checkpoint_blocks - 1, "checkpoint"), (4, "record")] {
        let output = on_a_small_disk(&desk, blocks, &arguments).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}: {err}");
        assert!(err.starts_with("error: "), "{what}: {err}");
        assert!(err.contains("File too large"), "{what}: {err}");
        let run = only_run(&desk.runs());
        assert_eq!(run.read_summary().unwrap(), None, "{what}");
        // No half-written file lies about, and every line of the record is whole.
        read_events(&run.metrics_path()).unwrap();
        let leftover = fs::read_dir(run.checkpoints_path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "tmp"));
        assert_eq!(leftover, None, "{what}");
        if !arguments.contains(&"--resume") {
            arguments.push("--resume");
        }
    }
    desk.run(&arguments, 0);
    assert!(bits(&only_run(&desk.runs())) == whole);
}

#[test]
fn a_second_process_on_a_run_is_refused_while_the_first_goes_on() {
    let arguments = arguments(STATEFUL);
    let whole = undisturbed(&arguments);
    let desk = Desk::new();
    let mut child = desk.command(&arguments).stdout(Stdio::null()).spawn().unwrap();
    wait_for_step(3, &desk.runs(), &mut child);
    let second = desk.run(&[&arguments[..], &["--resume"]].concat(), 1);
    assert!(second.err.contains("in use by process"), "{}", second.err);
    assert!(child.wait().unwrap().success());
    assert!(bits(&only_run(&desk.runs())) == whole);
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
