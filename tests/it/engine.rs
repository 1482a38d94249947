//! What the engine must never do wrong, tried on whole runs.

use mie_core::engine::{Existing, Outcome};
use mie_core::prelude::*;
use mie_record::{Event, read_events};

use crate::support::{
    MIE, SMALL, Watcher, checkpoint_bits, experiment, final_bits, finished, only_run, train_in,
};

fn weights_only(
    bits: std::collections::BTreeMap<String, Vec<u8>>,
) -> std::collections::BTreeMap<String, Vec<u8>> {
    bits.into_iter().filter(|(name, _)| name.starts_with("weights/")).collect()
}

#[test]
fn the_same_experiment_gives_the_same_bits_and_another_seed_others() {
    let run = |seed: &str| final_bits(&experiment(SMALL, &[MIE, seed]).unwrap());
    let first = run("seed=1");
    assert_eq!(first, run("seed=1"));
    assert_ne!(weights_only(first), weights_only(run("seed=2")));
}

#[test]
fn bits_do_not_depend_on_the_number_of_workers() {
    let run = |workers: &str| final_bits(&experiment(SMALL, &[MIE, workers]).unwrap());
    let inline = run("run.workers=0");
    for workers in 1..=8 {
        assert_eq!(inline, run(&format!("run.workers={workers}")), "{workers}");
    }
}

#[test]
fn neutral_settings_equal_the_plain_method_bit_for_bit() {
    let plain = weights_only(final_bits(&experiment(SMALL, &[]).unwrap()));
    for neutral in [
        "optimizer={ name = 'sam', rho = 0.0, base = { name = 'sgd', learning_rate = 0.05 } }",
        "gradient_modifiers=[{ name = 'svd_flat', alpha = 0.0 }]",
        "controllers=[{ name = 'step_lr', step_epochs = 100 }]",
        "controllers=[{ name = 'plateau', patience_epochs = 100 }]",
        "also_evaluate=[{ name = 'entropy_weighted' }, { name = 'max' }]",
    ] {
        let found = weights_only(final_bits(&experiment(SMALL, &[neutral]).unwrap()));
        assert_eq!(plain, found, "{neutral}");
    }
}

#[test]
fn a_run_broken_off_anywhere_ends_where_the_whole_one_does() {
    // Three stages of 20, 20 and 10 steps: in the first, at its end, where a projection is in
    // force, in the last.
    let adam = "optimizer={ name = 'sam', rho = 0.05, base = { name = 'adam' } }";
    for (assignments, stops) in [
        (vec![MIE], &[3u64, 20, 27, 45][..]),
        (
            vec![MIE, adam, "data.mixup={ alpha = 1.0 }", "controllers=[{ name = 'plateau' }]"],
            &[29],
        ),
    ] {
        let resolved = experiment(SMALL, &assignments).unwrap();
        let (summary, whole, _) = finished(&resolved);
        let whole = only_run(whole.path());
        for stop in stops {
            let runs = tempfile::tempdir().unwrap();
            let mut watcher = Watcher { stop_after: Some(*stop), ..Watcher::default() };
            let outcome = train_in(runs.path(), &resolved, Existing::Refuse, &mut watcher).unwrap();
            assert!(matches!(outcome, Outcome::Interrupted));
            let refused =
                train_in(runs.path(), &resolved, Existing::Refuse, &mut Watcher::default());
            assert!(refused.unwrap_err().to_string().contains("add --resume"));
            let mut watcher = Watcher::default();
            let outcome = train_in(runs.path(), &resolved, Existing::Resume, &mut watcher).unwrap();
            let Outcome::Finished(resumed) = outcome else { unreachable!() };
            assert_eq!(resumed.outputs, summary.outputs, "stopped after {stop}");
            assert_eq!(resumed.best, summary.best);
            let run = only_run(runs.path());
            for name in ["last", "best"] {
                assert_eq!(checkpoint_bits(&run, name), checkpoint_bits(&whole, name), "{stop}");
            }
            assert_eq!(recorded(&run), recorded(&whole), "stopped after {stop}");
        }
    }
}

/// The events of a run without what depends on the clock or on having been resumed.
fn recorded(run: &mie_record::RunDir) -> Vec<Event> {
    let events = read_events(&run.metrics_path()).unwrap().events;
    events
        .into_iter()
        .filter(|event| !matches!(event, Event::Resumed { .. } | Event::Refresh { .. }))
        .map(|event| match event {
            Event::Epoch { at, train, samples, .. } => {
                Event::Epoch { at, train, samples, seconds: 0.0, data_wait_seconds: 0.0 }
            }
            Event::Evaluation { at, split, outputs, .. } => {
                Event::Evaluation { at, split, outputs, seconds: 0.0 }
            }
            other => other,
        })
        .collect()
}

#[test]
fn a_damaged_last_checkpoint_falls_back_to_the_one_before() {
    let resolved = experiment(SMALL, &[MIE]).unwrap();
    let (_, whole, _) = finished(&resolved);
    let runs = tempfile::tempdir().unwrap();
    let mut watcher = Watcher { stop_after: Some(25), ..Watcher::default() };
    train_in(runs.path(), &resolved, Existing::Refuse, &mut watcher).unwrap();
    let run = only_run(runs.path());
    let last = run.checkpoints_path().join("last.safetensors");
    let bytes = std::fs::read(&last).unwrap();
    std::fs::write(&last, &bytes[..bytes.len() / 2]).unwrap();
    let mut watcher = Watcher::default();
    train_in(runs.path(), &resolved, Existing::Resume, &mut watcher).unwrap();
    let fell_back = watcher.events.iter().any(
        |event| matches!(event, Event::Warning { message, .. } if message.contains("falling back")),
    );
    assert!(fell_back);
    let whole = only_run(whole.path());
    assert_eq!(checkpoint_bits(&run, "last"), checkpoint_bits(&whole, "last"));
}

#[test]
fn a_damaged_refresh_counts_as_a_damaged_checkpoint() {
    let resolved = experiment(SMALL, &[MIE]).unwrap();
    let (_, whole, _) = finished(&resolved);
    let runs = tempfile::tempdir().unwrap();
    let mut watcher = Watcher { stop_after: Some(25), ..Watcher::default() };
    train_in(runs.path(), &resolved, Existing::Refuse, &mut watcher).unwrap();
    let run = only_run(runs.path());
    for entry in std::fs::read_dir(run.refresh_path()).unwrap() {
        std::fs::write(entry.unwrap().path(), b"not a checkpoint").unwrap();
    }
    let mut watcher = Watcher::default();
    train_in(runs.path(), &resolved, Existing::Resume, &mut watcher).unwrap();
    let warned = watcher.events.iter().any(|event| {
        matches!(event, Event::Warning { message, .. }
            if message.contains("refresh") && message.contains("falling back"))
    });
    assert!(warned, "{:?}", watcher.events);
    let whole = only_run(whole.path());
    assert_eq!(checkpoint_bits(&run, "best"), checkpoint_bits(&whole, "best"));
}

#[test]
fn two_loss_terms_of_one_name_are_refused() {
    let twice = r#"objectives=[{name="unimodal_ce"},{name="unimodal_ce"}]"#;
    let resolved = experiment(SMALL, &[twice]).unwrap();
    let runs = tempfile::tempdir().unwrap();
    let error = train_in(runs.path(), &resolved, Existing::Refuse, &mut Watcher::default())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("two loss terms are called `unimodal."), "{error}");
}

#[test]
fn a_watched_score_that_will_not_exist_is_refused_before_training() {
    let watch = |name: &str| {
        let controller = format!(r#"controllers=[{{name="early_stop", watch="{name}"}}]"#);
        let resolved = experiment(SMALL, &[&controller]).unwrap();
        let runs = tempfile::tempdir().unwrap();
        let mut watcher = Watcher { stop_after: Some(1), ..Watcher::default() };
        let trained = train_in(runs.path(), &resolved, Existing::Refuse, &mut watcher);
        (trained.map(|_| ()).map_err(|error| error.to_string()), runs)
    };
    for name in ["valid.fused.accuracy", "train.loss", "train.unimodal.weak", "valid.weak.loss"] {
        assert_eq!(watch(name).0, Ok(()), "{name}");
    }
    let (error, runs) = watch("valid.fused.acuracy");
    let error = error.unwrap_err();
    assert!(error.contains("`watch` names `valid.fused.acuracy`"), "{error}");
    assert!(error.contains("`valid.fused.accuracy`"), "{error}");
    assert!(std::fs::read_dir(runs.path()).unwrap().next().is_none());
}

#[test]
fn weights_that_became_best_after_the_checkpoint_are_not_taken_for_earlier_ones() {
    let resolved = experiment(SMALL, &[MIE]).unwrap();
    let (_, whole, _) = finished(&resolved);
    let whole = only_run(whole.path());
    let runs = tempfile::tempdir().unwrap();
    // The first phase has just ended; its checkpoint is written.
    let mut watcher = Watcher { stop_after: Some(21), ..Watcher::default() };
    train_in(runs.path(), &resolved, Existing::Refuse, &mut watcher).unwrap();
    let run = only_run(runs.path());
    let checkpoints = run.checkpoints_path();
    std::fs::rename(checkpoints.join("previous.safetensors"), checkpoints.join("last.safetensors"))
        .unwrap();
    // As a process leaves it that dies between the best weights and the checkpoint after them.
    let best = std::fs::read_dir(&checkpoints)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("best-"))
        .unwrap();
    std::fs::copy(
        whole.checkpoints_path().join("best.safetensors"),
        best.with_file_name("best-30.safetensors"),
    )
    .unwrap();
    train_in(runs.path(), &resolved, Existing::Resume, &mut Watcher::default()).unwrap();
    for name in ["last", "best"] {
        assert_eq!(checkpoint_bits(&run, name), checkpoint_bits(&whole, name), "{name}");
    }
    let left: Vec<_> = std::fs::read_dir(&checkpoints)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("best-"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn the_modality_that_is_not_trained_does_not_move() {
    // One stage: the weak modality is never trained, so its weights are those it started with.
    let start = experiment(SMALL, &[MIE, "strategy={ name = 'staged', epochs = [1] }"]).unwrap();
    let more = experiment(SMALL, &[MIE, "strategy={ name = 'staged', epochs = [3] }"]).unwrap();
    let (one, three) = (final_bits(&start), final_bits(&more));
    let of = |bits: &std::collections::BTreeMap<String, Vec<u8>>, modality: &str| {
        let mut bits = bits.clone();
        bits.retain(|name, _| name.starts_with("weights/") && name.contains(modality));
        assert!(!bits.is_empty());
        bits
    };
    assert_eq!(of(&one, "weak"), of(&three, "weak"));
    assert_ne!(of(&one, "strong"), of(&three, "strong"));
}

#[test]
fn the_modifier_acts_from_the_second_stage_and_reports_its_spectra() {
    let (_, _, events) = finished(&experiment(SMALL, &[MIE]).unwrap());
    let refreshes: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Refresh { at, plugin, report, .. } => Some((at.phase, plugin, report)),
            _ => None,
        })
        .collect();
    assert_eq!(refreshes.iter().map(|(phase, ..)| *phase).collect::<Vec<_>>(), [1, 2]);
    let report = refreshes[0].2;
    assert_eq!(report[0]["source"], "strong");
    assert_eq!(report[0]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(report[0]["layers"][0]["batches"], 10);
    assert!(report[0]["layers"][0]["largest"].as_f64().unwrap() > 0.0);
    let inert = |events: &[Event]| {
        events.iter().any(
            |e| matches!(e, Event::Warning { message, .. } if message.contains("changed no gradient")),
        )
    };
    assert!(!inert(&events));
    // A modifier that changes nothing is named.
    let neutral = "gradient_modifiers=[{ name = 'svd_flat', alpha = 0.0 }]";
    let (summary, _, events) = finished(&experiment(SMALL, &[neutral]).unwrap());
    assert!(inert(&events));
    assert!(summary.marks.contains(&"inert modifier".to_owned()));
    // One that acts in need may well change nothing.
    let idle = "gradient_modifiers=[{ name = 'clip_norm', max_norm = 1e9 }]";
    let (summary, _, events) = finished(&experiment(SMALL, &[idle]).unwrap());
    assert!(!inert(&events) && summary.marks.is_empty());
}

#[test]
fn mie_learns_and_the_record_holds_every_output() {
    let resolved = experiment(
        SMALL,
        &[MIE, "also_evaluate=[{ name = 'entropy_weighted' }]", "strategy.epochs=[6, 6]"],
    )
    .unwrap();
    let (summary, ..) = finished(&resolved);
    let test = &summary.outputs["test"];
    let names: Vec<_> = test.keys().map(String::as_str).collect();
    assert_eq!(names, ["fused", "fused.entropy_weighted", "strong", "weak"]);
    // Four classes: chance is 0.25.
    assert!(test["strong"].accuracy > 0.45, "{}", test["strong"].accuracy);
    assert_eq!(summary.confusion["fused"].iter().flatten().sum::<u64>(), 40);
    assert_eq!(summary.cost.steps, 120);
    assert_eq!(summary.cost.backward_passes, 240);
    assert_eq!(summary.selection, "valid accuracy fused");
}

#[test]
fn with_three_modalities_the_source_is_the_one_trained_before_or_all_others() {
    let three = "dataset.modalities={ depth = { dimensions = 8 }, flow = { dimensions = 8 }, rgb = \
                 { dimensions = 8 } }";
    let sources = |strategy: &str| {
        let text = SMALL
            .replace("[modalities.strong]", "[modalities.depth]")
            .replace("[modalities.weak]", "[modalities.flow]")
            .replace("dimensions = 32", "dimensions = 8")
            .replace("dimensions = 64", "dimensions = 8");
        let rgb = "[modalities.rgb]\ninput = { name = \"vector\", dimensions = 8 }\nencoder = { \
                   name = \"mlp\", hidden = [16], width = 16 }\n[head]";
        let text = text.replace("[head]", rgb);
        let assignments = [MIE, three, strategy];
        let (_, _, events) = finished(&experiment(&text, &assignments).unwrap());
        let mut found = Vec::new();
        for event in events {
            if let Event::Refresh { report, .. } = event {
                let pairs =
                    report.as_array().unwrap().iter().map(|part| {
                        format!("{}<-{}", part["target"], part["source"]).replace('"', "")
                    });
                found.push(pairs.collect::<Vec<_>>());
            }
        }
        found
    };
    let order = "order = ['depth', 'rgb', 'flow'], epochs = [1, 1, 1, 1]";
    assert_eq!(
        sources(&format!("strategy={{ name = 'staged', {order} }}")),
        [["rgb<-depth"], ["flow<-rgb"], ["depth<-flow"]]
    );
    assert_eq!(
        sources(&format!("strategy={{ name = 'staged', source = 'others', {order} }}"))[1],
        ["flow<-depth", "flow<-rgb"]
    );
}

#[test]
fn the_released_variant_runs_and_is_marked_as_oracle() {
    let released = "optimizer={ name = 'sam', rho = 1e-10, norm = 'per_tensor', second_pass = \
                    'head_only', mix = 0.3, original_labels = true, restore = false, base = { name \
                    = 'sgd' } }\ndata.mixup={ alpha = 1.0 }\nselection.split=test\n\
                    selection.metric=macro_f1\ngradient_modifiers=[{ name = 'svd_flat', \
                    covariance_inputs = 'training' }]";
    let (summary, _, events) = finished(&experiment(SMALL, &[released]).unwrap());
    assert_eq!(summary.marks, ["oracle"]);
    assert_eq!(summary.selection, "test macro_f1 fused");
    let warned = events.iter().any(
        |event| matches!(event, Event::Warning { message, .. } if message.contains("float32 weights")),
    );
    assert!(warned, "a radius below float resolution is warned of");
}

#[test]
fn a_loss_that_diverges_stops_the_run_with_step_term_and_tensor() {
    let resolved =
        experiment(SMALL, &["optimizer={ name = 'sgd', learning_rate = 1e30 }"]).unwrap();
    let runs = tempfile::tempdir().unwrap();
    let error =
        train_in(runs.path(), &resolved, Existing::Refuse, &mut Watcher::default()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("is not finite at step"), "{error}");
    assert!(error.contains("it is NaN, and so is the feature of `strong`;"), "{error}");
    assert!(error.contains("`unimodal.strong`") || error.contains("gradient norm"), "{error}");
}

#[test]
fn a_second_process_on_a_run_directory_is_refused() {
    let resolved = experiment(SMALL, &[]).unwrap();
    let runs = tempfile::tempdir().unwrap();
    let mut watcher = Watcher { stop_after: Some(2), ..Watcher::default() };
    train_in(runs.path(), &resolved, Existing::Refuse, &mut watcher).unwrap();
    let _held = only_run(runs.path()).lock().unwrap();
    let error =
        train_in(runs.path(), &resolved, Existing::Resume, &mut Watcher::default()).unwrap_err();
    assert!(error.to_string().contains("process"), "{error}");
}

/// The message with which an experiment is refused before its first step.
fn refusal(assignments: &[&str]) -> String {
    let runs = tempfile::tempdir().unwrap();
    let result = experiment(SMALL, assignments).and_then(|resolved| {
        train_in(runs.path(), &resolved, Existing::Refuse, &mut Watcher::default())
    });
    let message = result.map(|_| ()).unwrap_err().to_string();
    assert!(!runs.path().join("test").exists(), "refused before a run directory is made");
    message
}

#[test]
fn parts_that_do_not_fit_are_refused_before_training_with_reason_and_fix() {
    for (assignments, reason, fix) in [
        (
            vec!["gradient_modifiers=[{ name = 'test_needs_split' }]", "fusion.name=max"],
            "gradient modifier `test_needs_split` needs joint logits that are a sum of unimodal \
             ones, and the fusion is not additive",
            "choose an additive fusion",
        ),
        (
            vec!["head.shared=true", "modalities.weak.encoder.width=8"],
            "head.shared is set, but features have different widths: strong has 16, weak has 8",
            "projection = 512",
        ),
        (
            vec!["dataset.samples={ train = 120, valid = 0, test = 40 }"],
            "selection.split is \"valid\", and the dataset has no validation split",
            "data.validation_share",
        ),
        (
            vec!["controllers=[{ name = 'plateau' }]", "selection.split=none"],
            "controller `plateau` needs a validation split",
            "data.validation_share",
        ),
        (
            vec!["objectives=[{ name = 'joint_ce' }]", "fusion.name=max"],
            "objective `joint_ce` needs joint logits, and the fusion only decides",
            "`concat`",
        ),
        (
            vec!["strategy={ name = 'staged', order = ['strong', 'video'], epochs = [1] }"],
            "video",
            "strong",
        ),
        (
            vec![
                "strategy={ name = 'independent', epochs = 1 }",
                "head.unimodal=false",
                "fusion={ name = 'concat', hidden = [4] }",
                "objectives=[{ name = 'joint_ce' }]",
            ],
            "phase `strong` selects by `strong`, and evaluation reports only [\"fused\"]",
            "set head.unimodal = true",
        ),
        (vec!["data.train_per_class=1000"], "training samples", "lower data.train_per_class"),
        (vec!["data.batch_size=500"], "do not fill a batch of 500", "lower data.batch_size"),
        (
            vec!["optimizer={ name = 'sam', rho_by_modality = { vidoe = 0.1 } }"],
            "the optimizer's options name `vidoe`",
            "\"strong\", \"weak\"",
        ),
        (
            vec!["also_evaluate=[{ name = 'concat' }]"],
            "fusion `concat` has parameters of its own",
            "only fusions without parameters",
        ),
    ] {
        let message = refusal(&assignments);
        assert!(message.contains(reason), "{assignments:?}: {message}");
        assert!(message.contains(fix), "{assignments:?}: {message}");
    }
}

#[test]
fn a_validation_split_is_split_off_by_the_seed_and_leaves_the_test_split_alone() {
    let assignments =
        ["dataset.samples={ train = 120, valid = 0, test = 40 }", "data.validation_share=0.2"];
    let (summary, runs, _) = finished(&experiment(SMALL, &assignments).unwrap());
    assert!(summary.outputs.contains_key("valid"));
    let manifest = only_run(runs.path()).read_manifest().unwrap();
    let samples: Vec<_> =
        manifest.data.iter().map(|record| (record.split.as_str(), record.samples)).collect();
    let (train, valid) = (samples[0].1, samples[1].1);
    assert_eq!(train + valid, 120);
    assert!((20..=28).contains(&valid), "{samples:?}");
    assert_eq!(samples[2], ("test", 40));
}

#[test]
fn joint_training_with_a_joint_head_learns_and_splits_its_logits() {
    let assignments = [
        "fusion={ name = 'concat' }",
        "objectives=[{ name = 'joint_ce' }]",
        "head.unimodal=false",
        "strategy={ name = 'joint', epochs = 6 }",
    ];
    let (summary, ..) = finished(&experiment(SMALL, &assignments).unwrap());
    let names: Vec<_> = summary.outputs["test"].keys().map(String::as_str).collect();
    assert_eq!(names, ["fused", "strong", "weak"]);
    assert!(summary.outputs["test"]["fused"].accuracy > 0.5);
}

#[test]
fn a_shared_head_is_trained_by_every_modality_in_turn() {
    let (summary, runs, _) = finished(
        &experiment(
            SMALL,
            &["head.shared=true", MIE, "strategy={ name = 'alternating', epochs = 2 }"],
        )
        .unwrap(),
    );
    assert!(summary.outputs["test"].contains_key("fused"));
    let bits = checkpoint_bits(&only_run(runs.path()), "best");
    assert!(bits.contains_key("weights/shared_head.fc1.weight"));
}

#[test]
fn a_frozen_group_keeps_every_bit_while_the_others_train() {
    let run = |epochs: &str, freeze: bool| {
        let strategy = format!("strategy={{ name = 'joint', epochs = {epochs} }}");
        let controllers = "controllers=[{ name = 'test_freezer' }]";
        let assignments = [strategy.as_str(), if freeze { controllers } else { "" }];
        weights_only(final_bits(&experiment(SMALL, &assignments).unwrap()))
    };
    let (one, frozen, free) = (run("1", false), run("3", true), run("3", false));
    for (name, bits) in &one {
        let still = name.starts_with("weights/encoder.strong");
        assert_eq!(*bits == frozen[name], still, "{name}");
        assert_ne!(*bits, free[name], "{name}");
    }
}

#[test]
fn gradients_by_term_add_up_to_the_sum() {
    let assignments =
        ["gradient_modifiers=[{ name = 'test_terms' }]", "strategy={ name = 'joint', epochs = 1 }"];
    // Under SAM the terms are those of the descent gradient.
    for more in ["", MIE.lines().nth(2).unwrap()] {
        let all = [assignments[0], assignments[1], more];
        finished(&experiment(SMALL, &all).unwrap());
    }
}

/// Freezes an encoder after the first epoch.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct TestFreezerConfig {}

#[typetag::serde(name = "test_freezer")]
impl ControllerConfig for TestFreezerConfig {
    fn build(&self) -> Result<Box<dyn Controller>> {
        Ok(Box::new(TestFreezer))
    }
}

struct TestFreezer;

impl Persist for TestFreezer {}

impl Controller for TestFreezer {
    fn after(&mut self, at: &Boundary, _run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let due = at.moment == Moment::EpochEnd && at.epoch == 0;
        let group = GroupId::Encoder("strong".to_owned());
        Ok(due.then_some(Directive::Freeze(group)).into_iter().collect())
    }
}

/// Fails unless the gradients of the terms add up to the sum.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct TestTermsConfig {}

#[typetag::serde(name = "test_terms")]
impl GradientModifierConfig for TestTermsConfig {
    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        Ok(Box::new(TestTerms))
    }
}

struct TestTerms;

impl Persist for TestTerms {}

impl GradientModifier for TestTerms {
    fn needs(&self) -> &'static [Need] {
        &[Need::GradientsByTerm]
    }

    fn modify(&mut self, gradients: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        let names: Vec<&String> = gradients.by_term.keys().collect();
        assert_eq!(names, ["unimodal.strong", "unimodal.weak"]);
        for (id, sum) in &gradients.sum {
            let parts = gradients.by_term.values().filter_map(|term| term.get(id));
            let added = parts.fold(sum.zeros_like(), |added, part| added + part);
            assert_eq!(added, *sum, "{id}");
        }
        Ok(())
    }
}

/// Needs a split of the joint logits, to test that the engine asks.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct TestNeedsSplitConfig {}

#[typetag::serde(name = "test_needs_split")]
impl GradientModifierConfig for TestNeedsSplitConfig {
    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        Ok(Box::new(TestNeedsSplit))
    }
}

struct TestNeedsSplit;

impl Persist for TestNeedsSplit {}

impl GradientModifier for TestNeedsSplit {
    fn needs(&self) -> &'static [Need] {
        &[Need::AdditiveFusion]
    }

    fn modify(&mut self, _gradients: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        Ok(())
    }
}
