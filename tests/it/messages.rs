//! The messages that people see most, each as it is: `messages.md`.
//!
//! `cargo xtask gen` rewrites them (it sets `MIE_BLESS`); what changes is to be read.

use std::fmt::Write as _;
use std::fs;

use mie_record::RunDir;

use crate::desk::{Desk, ended};
use crate::support::{SMALL, root};

/// A mistake: what it is called, what is prepared, what is typed, and how it ends.
struct Mistake {
    title: &'static str,
    prepare: fn(&Desk),
    typed: &'static str,
    status: i32,
}

fn nothing(_desk: &Desk) {}

/// A run that was broken off after its second epoch.
fn stopped(desk: &Desk) {
    desk.trained(&[], Some(25));
}

fn the_run(desk: &Desk) -> RunDir {
    RunDir::list(&desk.runs()).unwrap().remove(0)
}

const NO_GPU: &str = "A GPU that is not there";

const MISTAKES: &[Mistake] = &[
    Mistake {
        title: "A command that is none",
        prepare: nothing,
        typed: "trian experiment.toml",
        status: 2,
    },
    Mistake {
        title: "A file that is not there",
        prepare: nothing,
        typed: "train experimnt.toml",
        status: 2,
    },
    Mistake {
        title: "A file that is no TOML",
        prepare: |desk| desk.write_faulty("experiment.toml", "[fusion]", "[fusion"),
        typed: "train experiment.toml",
        status: 2,
    },
    Mistake {
        title: "A section that is missing",
        prepare: |desk| {
            let (before, rest) = SMALL.split_once("[dataset]").unwrap();
            let (_, after) = rest.split_once("[data]").unwrap();
            desk.write("experiment.toml", &format!("{before}[data]{after}"));
        },
        typed: "train experiment.toml",
        status: 2,
    },
    Mistake {
        title: "A key that is misspelt",
        prepare: |desk| desk.write_faulty("experiment.toml", "learning_rate", "learning_rat"),
        typed: "train experiment.toml",
        status: 2,
    },
    Mistake {
        title: "A plugin that is unknown",
        prepare: |desk| desk.write_faulty("experiment.toml", "\"average\"", "\"avrage\""),
        typed: "train experiment.toml",
        status: 2,
    },
    Mistake {
        title: "A value of the wrong type",
        prepare: nothing,
        typed: "train experiment.toml --set data.batch_size=many",
        status: 2,
    },
    Mistake {
        title: "A value out of its range",
        prepare: nothing,
        typed: "train experiment.toml --set optimizer.learning_rate=-1",
        status: 2,
    },
    Mistake {
        title: "An assignment without a value",
        prepare: nothing,
        typed: "train experiment.toml --set data.batch_size",
        status: 2,
    },
    Mistake {
        title: "Files that extend each other",
        prepare: |desk| {
            desk.write("a.toml", "extends = [\"b.toml\"]\n");
            desk.write("b.toml", "extends = [\"a.toml\"]\n");
        },
        typed: "train a.toml",
        status: 2,
    },
    Mistake {
        title: "An input of the wrong shape",
        prepare: nothing,
        typed: "train experiment.toml --set modalities.strong.input.dimensions=33",
        status: 1,
    },
    Mistake {
        title: "A modality that the dataset does not have",
        prepare: |desk| {
            desk.write("experiment.toml", &SMALL.replace("modalities.weak", "modalities.audio"));
        },
        typed: "train experiment.toml",
        status: 2,
    },
    Mistake {
        title: "A shared head for features of different widths",
        prepare: nothing,
        typed: "train experiment.toml --set head.shared=true --set \
                modalities.weak.encoder.width=8",
        status: 2,
    },
    Mistake {
        title: "No validation split to select by",
        prepare: |desk| desk.write_faulty("experiment.toml", "valid = 40", "valid = 0"),
        typed: "train experiment.toml",
        status: 2,
    },
    Mistake {
        title: "A score that is not watched",
        prepare: nothing,
        typed: "train experiment.toml --set controllers=[{name='early_stop',watch='valid.acc'}]",
        status: 2,
    },
    Mistake {
        title: "SAM around SAM",
        prepare: nothing,
        typed: "train experiment.toml --set optimizer={name='sam',base={name='sam'}}",
        status: 2,
    },
    Mistake {
        title: "A negative strength",
        prepare: nothing,
        typed: "train experiment.toml --set gradient_modifiers=[{name='ogm_ge',alpha=-0.1}]",
        status: 2,
    },
    Mistake {
        title: "A comparison of modalities that are trained one by one",
        prepare: nothing,
        typed: "train experiment.toml --set gradient_modifiers=[{name='ogm_ge'}]",
        status: 2,
    },
    Mistake {
        title: "A split of logits that are no sum",
        prepare: nothing,
        typed: "train experiment.toml --set gradient_modifiers=[{name='ogm_ge'}] --set \
                fusion={name='film'} --set objectives=[{name='joint_ce'}] --set \
                strategy={name='joint'}",
        status: 2,
    },
    Mistake {
        title: "A group of parameters that is unknown",
        prepare: nothing,
        typed: "train experiment.toml --set \
                controllers=[{name='group_rates',factors={'encoder.wea'=0.1}}]",
        status: 2,
    },
    Mistake {
        title: "Gradient blending without a validation split",
        prepare: |desk| {
            desk.write("experiment.toml", &SMALL.replace("valid = 40", "valid = 0"));
        },
        typed: "train experiment.toml --set controllers=[{name='gradient_blending'}] --set \
                fusion={name='concat'} --set \
                objectives=[{name='joint_ce'},{name='unimodal_ce'}] --set \
                strategy={name='joint'} --set selection.split=none",
        status: 2,
    },
    Mistake {
        title: "Early stopping without patience",
        prepare: nothing,
        typed: "train experiment.toml --set controllers=[{name='mses',patience_epochs=0}]",
        status: 2,
    },
    Mistake {
        title: "A shared head whose modalities are trained together",
        prepare: nothing,
        typed: "train experiment.toml --set head.shared=true --set strategy={name='joint'} --set \
                gradient_modifiers=[{name='rls_projection'}]",
        status: 2,
    },
    Mistake {
        title: "Shielding by a fusion that joins at the end",
        prepare: nothing,
        typed: "train experiment.toml --set controllers=[{name='greedy'}]",
        status: 2,
    },
    Mistake {
        title: "An objective of a phase that is misspelt",
        prepare: nothing,
        typed: "train experiment.toml --set \
                strategy={name='phased',parts=[{strategy={name='joint'},objectives=['unimodal']}]}",
        status: 2,
    },
    Mistake {
        title: "Data that are not there",
        prepare: nothing,
        typed: "data check av_digits",
        status: 1,
    },
    Mistake {
        title: NO_GPU,
        prepare: nothing,
        typed: "train experiment.toml --device cuda:7",
        status: 2,
    },
    Mistake {
        title: "A device that is none",
        prepare: nothing,
        typed: "train experiment.toml --device gpu",
        status: 2,
    },
    Mistake {
        title: "A run that is not finished, without --resume",
        prepare: stopped,
        typed: "train experiment.toml",
        status: 2,
    },
    Mistake {
        title: "--resume with other settings",
        prepare: stopped,
        typed: "train experiment.toml --resume --set optimizer.learning_rate=0.5",
        status: 0,
    },
    Mistake {
        title: "A run whose checkpoints are all damaged",
        prepare: |desk| {
            stopped(desk);
            for entry in fs::read_dir(the_run(desk).checkpoints_path()).unwrap() {
                fs::write(entry.unwrap().path(), "damaged").unwrap();
            }
        },
        typed: "train experiment.toml --resume",
        status: 0,
    },
    Mistake {
        title: "A loss that is not finite",
        prepare: nothing,
        typed: "train experiment.toml --set optimizer.learning_rate=1e30",
        status: 1,
    },
    Mistake {
        title: "The test split of a run that is not finished",
        prepare: stopped,
        typed: "eval runs/test/small/seed0-FINGERPRINT",
        status: 2,
    },
    Mistake {
        title: "A folder that is no run",
        prepare: |desk| fs::create_dir(desk.path("empty")).unwrap(),
        typed: "eval empty",
        status: 2,
    },
    Mistake { title: "A table of no runs", prepare: nothing, typed: "table", status: 2 },
    Mistake {
        title: "A modality that the model does not have",
        prepare: stopped,
        typed: "predict runs/test/small/seed0-FINGERPRINT audio=a.wav",
        status: 2,
    },
    Mistake {
        title: "A plugin of a name that is taken",
        prepare: nothing,
        typed: "new plugin encoder mlp",
        status: 2,
    },
];

/// What the program says to a mistake, without what differs from machine to machine.
fn said(mistake: &Mistake) -> (String, String) {
    let desk = Desk::new();
    (mistake.prepare)(&desk);
    let fingerprint = RunDir::list(&desk.runs()).ok().and_then(|runs| {
        let run = runs.into_iter().next()?;
        Some(run.path().file_name()?.to_str()?.trim_start_matches("seed0-").to_owned())
    });
    let fingerprint = fingerprint.unwrap_or_else(|| "FINGERPRINT".to_owned());
    let typed = mistake.typed.replace("FINGERPRINT", &fingerprint);
    let arguments: Vec<&str> = typed.split_whitespace().collect();
    let output = desk.command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(mistake.status), "{}", mistake.title);
    let ran = ended(output, mistake.status);
    let hidden = |text: &str| {
        text.replace(&desk.path("").display().to_string(), "").replace(&fingerprint, "FINGERPRINT")
    };
    // How many threads there are is the machine's affair.
    let kept = ran.err.lines().filter(|line| !line.contains("the run was started on cpu (threads"));
    (hidden(&typed), hidden(&kept.collect::<Vec<_>>().join("\n")))
}

#[test]
fn what_is_said_to_the_most_likely_mistakes_is_what_was_agreed_on() {
    let mut text = "# What mie says to the most likely mistakes\n\nGenerated by `cargo xtask gen` \
                    from `messages.rs`: read what changes.\n"
        .to_owned();
    assert!(MISTAKES.len() >= 20);
    for mistake in MISTAKES {
        let (typed, said) = said(mistake);
        write!(
            text,
            "\n## {}\n\n```text\n$ mie {typed}\n{}\n(exit status {})\n```\n",
            mistake.title,
            said.trim_end(),
            mistake.status
        )
        .unwrap();
    }
    let file = root().join("tests/it/messages.md");
    if std::env::var_os("MIE_BLESS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let agreed = fs::read_to_string(&file).unwrap_or_default();
    for (agreed, found) in agreed.split("\n## ").zip(text.split("\n## ")) {
        // What is missing for a GPU depends on what is installed.
        if !found.starts_with(NO_GPU) || found.contains("libtorch_cuda.so: cannot open") {
            assert_eq!(found, agreed, "`cargo xtask gen` rewrites {}", file.display());
        }
    }
    assert_eq!(text.matches("\n## ").count(), agreed.matches("\n## ").count());
}
