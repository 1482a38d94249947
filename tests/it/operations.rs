//! What plugins do to a run from outside a step: taps, directives, passes; and what stays as it is.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use mie_core::engine::{Existing, evaluate_run};
use mie_core::prelude::*;
use mie_record::{Event, Summary};

use crate::support::{SMALL, Watcher, checkpoint_bits, experiment, finished, only_run, train_in};

const SAM: &str =
    "optimizer={ name = 'sam', rho = 0.05, base = { name = 'sgd', learning_rate = 0.05 } }";

/// Weights and buffers at the end of a run, as bits by path.
type Bits = BTreeMap<String, Vec<u8>>;

fn weights(assignments: &[&str]) -> (Bits, Summary, Vec<Event>) {
    let (summary, runs, events) = finished(&experiment(SMALL, assignments).unwrap());
    let mut bits = checkpoint_bits(&only_run(runs.path()), "last");
    bits.retain(|name, _| name.starts_with("weights/"));
    (bits, summary, events)
}

/// The error that ends a run.
fn failure(assignments: &[&str]) -> String {
    let runs = tempfile::tempdir().unwrap();
    let resolved = experiment(SMALL, assignments).unwrap();
    let trained = train_in(runs.path(), &resolved, Existing::Refuse, &mut Watcher::default());
    trained.map(|_| ()).unwrap_err().to_string()
}

/// Fails unless a run that is broken off after `stop` steps ends where the whole one does.
fn assert_resumes(assignments: &[&str], stop: u64) {
    let resolved = experiment(SMALL, assignments).unwrap();
    let (_, whole, _) = finished(&resolved);
    let runs = tempfile::tempdir().unwrap();
    let mut watcher = Watcher { stop_after: Some(stop), ..Watcher::default() };
    train_in(runs.path(), &resolved, Existing::Refuse, &mut watcher).unwrap();
    train_in(runs.path(), &resolved, Existing::Resume, &mut Watcher::default()).unwrap();
    let [resumed, whole] =
        [runs.path(), whole.path()].map(|runs| checkpoint_bits(&only_run(runs), "last"));
    assert_eq!(resumed, whole, "stopped after {stop}");
}

/// Paths whose bits differ between two runs.
fn moved(one: &Bits, two: &Bits) -> BTreeSet<String> {
    assert!(one.keys().eq(two.keys()));
    one.iter().filter(|(name, bits)| two[*name] != **bits).map(|(name, _)| name.clone()).collect()
}

/// Paths that start with one of `prefixes`.
fn below(bits: &Bits, prefixes: &[&str]) -> BTreeSet<String> {
    let inside = |name: &&String| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let found: BTreeSet<String> = bits.keys().filter(inside).cloned().collect();
    assert!(!found.is_empty());
    found
}

const TAPPED: &[&str] =
    &["fusion={ name = 'test_tap' }", "modalities.strong.encoder={ name = 'test_norm' }", SAM];

#[test]
fn taps_see_what_runs_after_every_stage_and_learn_in_the_first_pass_alone() {
    SEEN.with_borrow_mut(Vec::clear);
    let strategy = "strategy={ name = 'staged', epochs = [1, 1] }";
    weights(&[TAPPED, &[strategy]].concat());
    let seen = SEEN.take();
    let trained: Vec<_> =
        seen.iter().filter(|tap| tap.statistics != Statistics::Running).cloned().collect();
    let tap = |stage, modality: &str, statistics| Tap {
        stage,
        modalities: vec![modality.to_owned()],
        statistics,
    };
    // The encoder of the first stage has two stages, that of the second has one; ten steps each.
    let mut expected = Vec::new();
    for (modality, stages) in [("strong", 2), ("weak", 1)] {
        for _ in 0..10 {
            for statistics in [Statistics::Update, Statistics::Keep] {
                expected.extend((0..stages).map(|stage| tap(stage, modality, statistics)));
            }
        }
    }
    assert_eq!(trained, expected);
    let both = |tap: &&Tap| tap.modalities == ["strong", "weak"];
    let evaluated: BTreeSet<usize> = seen.iter().filter(both).map(|tap| tap.stage).collect();
    assert_eq!(evaluated, BTreeSet::from([0, 1]), "evaluation runs every modality");
}

#[test]
fn the_weights_of_a_tap_are_trained_with_their_modality_and_shared_ones_with_any() {
    let run = |epochs: &str| {
        let strategy = format!("strategy={{ name = 'staged', epochs = {epochs}, load = 'last' }}");
        weights(&[TAPPED, &[strategy.as_str()]].concat()).0
    };
    let start = 1f32.to_le_bytes();
    let (one, two) = (run("[1]"), run("[1, 1]"));
    assert_eq!(one["weights/tap.0.weak.scale"], start);
    assert_ne!(one["weights/tap.0.strong.scale"], start);
    assert_ne!(one["weights/tap.0.shared.scale"], start);
    let expected = below(
        &one,
        &[
            "weights/tap.0.weak",
            "weights/tap.0.shared",
            "weights/encoder.weak",
            "weights/head.weak",
        ],
    );
    assert_eq!(moved(&one, &two), expected);
}

const JOINT: &str = "strategy={ name = 'joint', epochs = 1 }";

#[test]
fn a_term_weight_equals_the_weight_in_the_objective_and_survives_an_interruption() {
    let halved = r#"controllers=[{ name = "test_steerer",
                    weights = { "unimodal.strong" = 0.5, "unimodal.weak" = 0.5 } }]"#
        .replace('\n', " ");
    let (found, ..) = weights(&[JOINT, &halved]);
    let (expected, ..) = weights(&[JOINT, "objectives=[{ name = 'unimodal_ce', weight = 0.5 }]"]);
    assert_eq!(moved(&found, &expected), BTreeSet::new());
    let (plain, ..) = weights(&[JOINT]);
    assert!(!moved(&found, &plain).is_empty());
    assert_resumes(&[JOINT, &halved], 4);
}

#[test]
fn a_term_of_weight_zero_is_left_out_and_what_it_alone_trains_stays() {
    let run = |epochs: usize| {
        let strategy = format!("strategy={{ name = 'joint', epochs = {epochs} }}");
        let silent =
            r#"controllers=[{ name = "test_steerer", weights = { "unimodal.weak" = 0.0 } }]"#;
        weights(&[&strategy, silent])
    };
    let (one, _, events) = run(1);
    let (two, ..) = run(2);
    let strong = below(&one, &["weights/encoder.strong", "weights/head.strong"]);
    assert_eq!(moved(&one, &two), strong);
    let mut steps = 0;
    for event in events {
        if let Event::Step { terms, .. } = event {
            assert_eq!(terms.keys().collect::<Vec<_>>(), ["unimodal.strong"]);
            steps += 1;
        }
    }
    assert_eq!(steps, 10);
}

#[test]
fn a_thawed_group_trains_on_and_an_interruption_while_it_is_frozen_changes_nothing() {
    let steerer = "controllers=[{ name = 'test_steerer', freeze_after = 0, thaw_after = 1 }]";
    let strategy = |epochs: usize| format!("strategy={{ name = 'joint', epochs = {epochs} }}");
    let run = |epochs| weights(&[&strategy(epochs), steerer]).0;
    let (one, two, three) = (run(1), run(2), run(3));
    let all: BTreeSet<String> = one.keys().cloned().collect();
    let frozen = below(&one, &["weights/encoder.strong"]);
    assert_eq!(moved(&one, &two), &all - &frozen);
    assert_eq!(moved(&two, &three), all);
    assert_resumes(&[&strategy(3), steerer], 15);
}

#[test]
fn a_group_that_does_not_exist_is_named() {
    let steerer =
        "controllers=[{ name = 'test_steerer', freeze_after = 0, groups = ['encoder.video'] }]";
    let error = failure(&[JOINT, steerer]);
    assert!(error.contains("controller `test_steerer` asks for the unknown group"), "{error}");
    assert!(error.contains("`encoder.video`"), "{error}");
}

#[test]
fn a_weight_for_a_term_that_does_not_exist_or_below_zero_is_refused_by_name() {
    let error = |weights: &str| {
        let steerer = format!("controllers=[{{ name = 'test_steerer', weights = {weights} }}]");
        failure(&[JOINT, &steerer])
    };
    let found = error("{ 'unimodal.nobody' = 1.0 }");
    assert!(found.contains("the unknown loss term `unimodal.nobody`"), "{found}");
    assert!(found.contains(r#"["unimodal.strong", "unimodal.weak"]"#), "{found}");
    let found = error("{ 'unimodal.weak' = -1.0 }");
    assert!(found.contains("the weight -1 for loss term `unimodal.weak`"), "{found}");
}

#[test]
fn a_frozen_fusion_learns_nothing_by_looking_and_one_without_weights_is_never_frozen() {
    let training = |groups: &str| {
        SEEN.take();
        let steerer = format!(
            "controllers=[{{ name = 'test_steerer', freeze_after = 0, groups = {groups} }}]"
        );
        let strategy = "strategy={ name = 'joint', epochs = 2 }";
        weights(&[TAPPED, &[strategy, &steerer]].concat());
        let seen = SEEN.take();
        seen.iter().filter(|tap| tap.statistics == Statistics::Update).count()
    };
    // Two stages, ten steps, two epochs; no statistics in the second while all taps are frozen.
    assert_eq!(training("['encoder.strong']"), 40);
    assert_eq!(training("['tap.0.shared']"), 40);
    assert_eq!(training("['tap.0.shared', 'tap.0.strong', 'tap.0.weak']"), 20);
    // A fusion without weights learns from every step.
    let (_, runs, _) = finished(&experiment(SMALL, GATED).unwrap());
    let last = checkpoint_bits(&only_run(runs.path()), "last");
    assert_eq!(last["fusion/seen"], 40f32.to_le_bytes());
}

const GATED: &[&str] =
    &["fusion={ name = 'test_gate' }", "strategy={ name = 'joint', epochs = 4 }"];

#[test]
fn best_weights_come_back_with_what_the_fusion_had_learnt_when_they_were_reached() {
    let (summary, runs, events) = finished(&experiment(SMALL, GATED).unwrap());
    let score = events
        .iter()
        .filter_map(|event| match event {
            Event::Best { score, .. } => Some(*score),
            _ => None,
        })
        .next_back()
        .unwrap();
    // The gate closes in the fourth epoch and leaves chance.
    assert!(score > 0.3 && summary.best.step <= 30, "{score}, {:?}", summary.best);
    let found = summary.outputs["valid"]["fused"].accuracy;
    assert_eq!(found.to_bits(), score.to_bits(), "{found}, {score}");
    let run = only_run(runs.path());
    let seen = checkpoint_bits(&run, "best")["fusion/seen"].clone();
    assert_eq!(seen, (summary.best.step as f32).to_le_bytes());
    let (again, _) = evaluate_run(run.path(), Split::Valid, runs.path(), Device::Cpu, &[]).unwrap();
    assert_eq!(again.outputs["fused"].accuracy.to_bits(), score.to_bits());
}

#[test]
fn schedules_count_the_epochs_of_a_modality_from_where_the_optimizer_started() {
    let rates = |strategy: &str| {
        let halving = "controllers=[{ name = 'step_lr', step_epochs = 1, factor = 0.5, stepped = \
                       'after_epoch' }]";
        let (_, _, events) = weights(&[strategy, halving]);
        let mut rates: Vec<((usize, usize), f64)> = Vec::new();
        for event in events {
            if let Event::Step { at, learning_rate, .. } = event {
                rates.push(((at.phase, at.epoch), learning_rate / 0.05));
            }
        }
        rates.dedup();
        rates.into_iter().map(|(_, rate)| rate).collect::<Vec<_>>()
    };
    let by_epoch = "strategy={ name = 'alternating', unit = 'epoch', epochs = 3 }";
    assert_eq!(rates(by_epoch), [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
    // Every stage starts with a fresh optimizer and a fresh schedule.
    let staged = "strategy={ name = 'staged', epochs = [2, 3] }";
    assert_eq!(rates(staged), [1.0, 0.5, 1.0, 0.5, 0.25]);
    assert_resumes(&[by_epoch, "controllers=[{ name = 'step_lr', step_epochs = 1 }]"], 35);
}

/// Decides only after 1 to 30 steps: a state beside the weights that decisions depend on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TestGateConfig {}

#[typetag::serde(name = "test_gate")]
impl FusionConfig for TestGateConfig {
    fn build(&self, _context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        Ok(Box::new(TestGate { seen: Tensor::from(0f32) }))
    }
}

struct TestGate {
    /// Steps seen.
    seen: Tensor,
}

impl Persist for TestGate {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        state.put("seen", &self.seen)?;
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.seen = state.tensors.remove("seen").unwrap();
        state.expect_empty()
    }
}

impl Fusion for TestGate {
    fn joint(
        &self,
        _features: &ByModality<Tensor>,
        _logits: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        if pass.statistics == Statistics::Update {
            let _ = self.seen.shallow_clone().f_add_scalar_(1.0)?;
        }
        Ok(None)
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        let decided = mean_of_probabilities(outputs)?;
        let open = (1.0..=30.0).contains(&self.seen.double_value(&[]));
        Ok(if open { decided } else { decided.f_full_like(0.25)? })
    }
}

#[test]
fn a_pass_over_data_is_counted_and_leaves_training_as_it_is() {
    let (plain, before, _) = weights(&[JOINT]);
    for (options, batches, samples) in [
        ("drop_last = true", 2, 100),
        ("drop_last = false", 3, 120),
        ("drop_last = false, split = 'valid'", 1, 40),
    ] {
        PASSED.take();
        let asker = format!("controllers=[{{ name = 'test_asker', {options} }}]");
        let (found, summary, _) = weights(&[JOINT, &asker]);
        assert_eq!(PASSED.take(), (batches, samples), "{options}");
        assert_eq!(moved(&plain, &found), BTreeSet::new(), "{options}");
        let more = summary.cost.forward_passes - before.cost.forward_passes;
        assert_eq!(more, batches as u64, "{options}");
    }
}

#[test]
fn a_pass_over_the_locked_test_split_or_by_an_unknown_modality_is_refused() {
    let error = failure(&[JOINT, "controllers=[{ name = 'test_asker', split = 'test' }]"]);
    assert!(error.contains("controller `test_asker`"), "{error}");
    assert!(error.contains("the test split is locked"), "{error}");
    let error = failure(&[JOINT, "controllers=[{ name = 'test_asker', modality = 'video' }]"]);
    assert!(error.contains("asks for modality `video`"), "{error}");
    assert!(error.contains(r#"["strong", "weak"]"#), "{error}");
}

const NORMALISED: &[&str] = &[
    "modalities.strong.encoder={ name = 'test_norm' }",
    "modalities.weak.encoder={ name = 'test_norm' }",
    "gradient_modifiers=[{ name = 'test_watch' }]",
    "strategy={ name = 'alternating', unit = 'batch', epochs = 1 }",
];

#[test]
fn a_sub_step_leaves_the_statistics_of_the_modality_it_does_not_train() {
    let run = |more: &[&str]| {
        WATCHED.take();
        weights(&[NORMALISED, more].concat());
        WATCHED.take()
    };
    // Both modalities run in every sub-step, twice under SAM; gradients pass through both.
    let watched = run(&["objectives=[{ name = 'test_pair' }]", SAM]);
    assert_eq!(watched.len(), 20);
    let start = |count: usize| {
        let (mean, variance) = (vec![0f32.to_bits(); count], vec![1f32.to_bits(); count]);
        BTreeMap::from([("running_mean".to_owned(), mean), ("running_var".to_owned(), variance)])
    };
    let mut before: BTreeMap<String, Buffers> =
        ["strong", "weak"].map(|name| (name.to_owned(), start(8))).into();
    for (index, (trained, buffers)) in watched.iter().enumerate() {
        assert_eq!(trained, ["strong", "weak"][index % 2], "sub-step {index}");
        for (modality, now) in buffers {
            let same = before[modality] == *now;
            assert_eq!(same, modality != trained, "`{modality}` in sub-step {index}");
        }
        before.clone_from(buffers);
    }
    // One batch is one update, whatever else the objective runs and the optimizer asks for.
    let plain = run(&[]);
    assert_eq!(plain[0].1, watched[0].1);
}

/// A call of a tap.
#[derive(Debug, Clone, PartialEq)]
struct Tap {
    stage: usize,
    modalities: Vec<String>,
    statistics: Statistics,
}

/// Running statistics by local name, as bits.
type Buffers = BTreeMap<String, Vec<u32>>;

thread_local! {
    // A run trains on the thread that starts it, and every test has one of its own.
    static SEEN: RefCell<Vec<Tap>> = const { RefCell::new(Vec::new()) };
    static PASSED: RefCell<(usize, i64)> = const { RefCell::new((0, 0)) };
    static WATCHED: RefCell<Vec<(String, BTreeMap<String, Buffers>)>> =
        const { RefCell::new(Vec::new()) };
}

/// Scales every stream after the first stage, by a factor of its own and a shared one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TestTapConfig {}

#[typetag::serde(name = "test_tap")]
impl FusionConfig for TestTapConfig {
    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        let scale = |modality| {
            let at = context.at.at(GroupId::Tap(0, modality));
            at.param("scale", &[1], Initial::Constant(1.0))
        };
        let own = context
            .widths
            .keys()
            .map(|name| Ok((name.clone(), scale(Some(name.clone()))?)))
            .collect::<Result<_>>()?;
        Ok(Box::new(TestTap { own, shared: scale(None)? }))
    }
}

struct TestTap {
    own: ByModality<Tensor>,
    shared: Tensor,
}

impl Persist for TestTap {}

impl Fusion for TestTap {
    fn taps(&self) -> bool {
        true
    }

    fn tap(
        &self,
        stage: usize,
        x: &mut ByModality<Named>,
        _samples: i64,
        pass: &mut Pass<'_>,
    ) -> Result<()> {
        let modalities = x.keys().cloned().collect();
        let seen = Tap { stage, modalities, statistics: pass.statistics };
        SEEN.with_borrow_mut(|all| all.push(seen));
        if stage == 0 {
            for (name, stream) in x {
                let scaled = stream.value()?.f_mul(&self.own[name])?.f_mul(&self.shared)?;
                *stream = Named::value_of(scaled);
            }
        }
        Ok(())
    }

    fn joint(
        &self,
        _features: &ByModality<Tensor>,
        _logits: &ByModality<Tensor>,
        _pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        Ok(None)
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        mean_of_probabilities(outputs)
    }
}

fn mean_of_probabilities(outputs: &Outputs) -> Result<Tensor> {
    let each = outputs.logits.values().map(probabilities).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&each, 0)?.f_mean_dim(0i64, false, None::<Kind>)?)
}

/// Freezes groups after an epoch, thaws them after another, and weights terms from the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TestSteererConfig {
    groups: Vec<String>,
    freeze_after: Option<usize>,
    thaw_after: Option<usize>,
    weights: BTreeMap<String, f64>,
}

impl Default for TestSteererConfig {
    fn default() -> Self {
        Self {
            groups: vec!["encoder.strong".to_owned()],
            freeze_after: None,
            thaw_after: None,
            weights: BTreeMap::new(),
        }
    }
}

#[typetag::serde(name = "test_steerer")]
impl ControllerConfig for TestSteererConfig {
    fn build(&self) -> Result<Box<dyn Controller>> {
        Ok(Box::new(TestSteerer(self.clone())))
    }
}

/// The group of a name, as far as these tests need it.
fn group(name: &str) -> GroupId {
    match name.split('.').collect::<Vec<_>>()[..] {
        ["encoder", modality] => GroupId::Encoder(modality.to_owned()),
        ["tap", "0", "shared"] => GroupId::Tap(0, None),
        ["tap", "0", modality] => GroupId::Tap(0, Some(modality.to_owned())),
        _ => unreachable!("no test names {name}"),
    }
}

struct TestSteerer(TestSteererConfig);

impl Persist for TestSteerer {}

impl Controller for TestSteerer {
    fn after(&mut self, at: &Boundary, _run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let TestSteererConfig { groups, freeze_after, thaw_after, weights } = &self.0;
        let mut directives = Vec::new();
        if at.moment == Moment::PhaseStart {
            directives.extend(
                weights
                    .iter()
                    .map(|(term, &weight)| Directive::TermWeight { term: term.clone(), weight }),
            );
        }
        if at.moment == Moment::EpochEnd {
            let groups = groups.iter().map(|name| group(name));
            if *freeze_after == Some(at.epoch) {
                directives.extend(groups.clone().map(Directive::Freeze));
            }
            if *thaw_after == Some(at.epoch) {
                directives.extend(groups.map(Directive::Thaw));
            }
        }
        Ok(directives)
    }
}

/// Makes a trial of every loss term, evaluates, and restores a snapshot, before every epoch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TestTrierConfig {}

#[typetag::serde(name = "test_trier")]
impl ControllerConfig for TestTrierConfig {
    fn build(&self) -> Result<Box<dyn Controller>> {
        Ok(Box::new(TestTrier))
    }
}

struct TestTrier;

impl Persist for TestTrier {}

impl Controller for TestTrier {
    fn after(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        if at.moment == Moment::EpochStart {
            let before = run.evaluate(Split::Valid)?;
            for modality in at.trained.clone() {
                let term = Term::unimodal(&modality);
                let loss = format!("{modality}.loss");
                let trial = Trial { term, modalities: vec![modality], epochs: 2 };
                let mut after = BTreeMap::new();
                run.trial(&trial, &mut |run| {
                    after = run.evaluate(Split::Valid)?;
                    Ok(())
                })?;
                assert_ne!(before[&loss].to_bits(), after[&loss].to_bits(), "no trial");
            }
            let kept = run.snapshot(&run.groups())?;
            run.restore(&kept)?;
            assert_eq!(run.evaluate(Split::Valid)?, before);
            assert!(run.evaluate(Split::Test).is_err());
        }
        Ok(Vec::new())
    }
}

#[test]
fn trials_and_evaluations_in_between_leave_weights_statistics_moments_and_draws_as_they_are() {
    let adam = "optimizer={ name = 'sam', rho = 0.05, base = { name = 'adam' } }";
    let normed = [
        "modalities.weak.encoder={ name = 'test_norm' }",
        "modalities.strong.encoder={ name = 'test_norm' }",
        "strategy={ name = 'joint', epochs = 3 }",
        adam,
    ];
    for fusion in ["fusion={ name = 'test_gate' }", "fusion={ name = 'mmtm' }"] {
        let all = [&normed[..], &[fusion]].concat();
        let (plain, before, _) = weights(&all);
        let tried = [&all[..], &["controllers=[{ name = 'test_trier' }]"]].concat();
        let (found, after, _) = weights(&tried);
        assert_eq!(plain, found, "{fusion}");
        assert_eq!(before.outputs, after.outputs, "{fusion}");
    }
}

/// Passes over a split at the start of a phase, in batches of 50.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TestAskerConfig {
    split: String,
    modality: String,
    drop_last: bool,
}

impl Default for TestAskerConfig {
    fn default() -> Self {
        Self { split: "train".to_owned(), modality: "weak".to_owned(), drop_last: false }
    }
}

#[typetag::serde(name = "test_asker")]
impl ControllerConfig for TestAskerConfig {
    fn build(&self) -> Result<Box<dyn Controller>> {
        Ok(Box::new(TestAsker(self.clone())))
    }
}

struct TestAsker(TestAskerConfig);

impl Persist for TestAsker {}

impl Controller for TestAsker {
    fn after(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        if at.moment != Moment::PhaseStart {
            return Ok(Vec::new());
        }
        let split = Split::ALL.into_iter().find(|split| split.name() == self.0.split).unwrap();
        let request = PassRequest {
            split,
            batch_size: Some(50),
            drop_last: self.0.drop_last,
            mode: Mode::Evaluation,
            shuffled: true,
            samples: None,
            spec: Spec::evaluation([self.0.modality.clone()]),
        };
        run.pass(&request, None, &mut |outputs, labels| {
            assert_eq!(outputs.logits[&self.0.modality].size()[0], labels.size()[0]);
            PASSED.with_borrow_mut(|(batches, samples)| {
                *batches += 1;
                *samples += labels.size()[0];
            });
            Ok(())
        })?;
        Ok(Vec::new())
    }
}

/// A layer and its normalisation, a stage each.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TestNormConfig {}

#[typetag::serde(name = "test_norm")]
impl EncoderConfig for TestNormConfig {
    fn build(&self, inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        let width: i64 = inputs.iter().flat_map(|layout| &layout.shape).product();
        Ok(Box::new(TestNorm {
            layer: Linear::new(&at.sub("fc"), width, 8)?,
            norm: BatchNorm::new(&at.sub("bn"), 8, Initial::Constant(1.0))?,
        }))
    }
}

struct TestNorm {
    layer: Linear,
    norm: BatchNorm,
}

impl Encoder for TestNorm {
    fn stages(&self) -> usize {
        2
    }

    fn stage(&self, index: usize, x: Named, pass: &mut Pass<'_>) -> Result<Named> {
        Ok(Named::value_of(match index {
            0 => self.layer.forward(x.value()?, pass)?,
            _ => self.norm.forward(x.value()?, pass)?.f_relu()?,
        }))
    }

    fn width(&self) -> i64 {
        8
    }

    fn layers(&self) -> Vec<Layer> {
        vec![self.layer.layer().clone()]
    }
}

/// Takes a loss on the modality being trained and one on the sum of both modalities' logits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TestPairConfig {}

#[typetag::serde(name = "test_pair")]
impl ObjectiveConfig for TestPairConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(TestPair))
    }
}

struct TestPair;

impl Persist for TestPair {}

impl Objective for TestPair {
    fn terms(&self, forward: &mut dyn Forward, _notes: &mut Notes) -> Result<Vec<Term>> {
        let targets = forward.targets();
        let full = forward.full();
        let own = forward.run(&full)?;
        let mut terms = Vec::new();
        for (name, logits) in &own.logits {
            terms.push(Term::new(format!("own.{name}"), targets.cross_entropy(logits)?));
        }
        let both = BTreeSet::from(["strong".to_owned(), "weak".to_owned()]);
        let spec = Spec { run: both.clone(), present: both, statistics: None, gradients: true };
        let outputs = forward.run(&spec)?;
        let sum = outputs.logits_of("strong")?.f_add(outputs.logits_of("weak")?)?;
        terms.push(Term::new("both", targets.cross_entropy(&sum)?));
        Ok(terms)
    }
}

/// Notes the modality being trained and the running statistics of all, in every step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TestWatchConfig {}

#[typetag::serde(name = "test_watch")]
impl GradientModifierConfig for TestWatchConfig {
    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        Ok(Box::new(TestWatch))
    }
}

struct TestWatch;

impl Persist for TestWatch {}

impl GradientModifier for TestWatch {
    fn modify(&mut self, gradients: &mut Grads, step: &StepView<'_>) -> Result<()> {
        let trained: BTreeSet<&str> =
            gradients.sum.keys().filter_map(|id| id.group.modality()).collect();
        let mut all = BTreeMap::new();
        for (id, group) in step.parameters.groups() {
            let GroupId::Encoder(modality) = id else { continue };
            let buffers = group.buffers.iter().map(|(path, values)| {
                let local = path.rsplit('.').next().unwrap_or_default().to_owned();
                let values: Vec<f32> = Vec::try_from(values).unwrap();
                (local, values.into_iter().map(f32::to_bits).collect())
            });
            all.insert(modality.clone(), buffers.collect());
        }
        let trained = trained.into_iter().collect::<Vec<_>>().join("+");
        WATCHED.with_borrow_mut(|watched| watched.push((trained, all)));
        Ok(())
    }
}

/// In turns batch by batch, each modality learns from what the other's layers saw in its own steps.
const BY_STEPS: &[&str] = &[
    "strategy={ name = 'alternating', epochs = 3 }",
    "gradient_modifiers=[{ name = 'svd_flat', alpha = 2.0, scope = { layers = ['fc*'] }, \
     refresh = { steps = { every = 3, decay = 0.8 } } }]",
    SAM,
];

#[test]
fn projections_learnt_between_steps_survive_an_interruption_anywhere() {
    for stop in [1, 7, 10, 16] {
        assert_resumes(BY_STEPS, stop);
    }
}

#[test]
fn projections_learnt_between_steps_act_and_are_told_of_by_the_epoch() {
    let (bits, _, events) = weights(BY_STEPS);
    let neutral: Vec<String> =
        BY_STEPS.iter().map(|text| text.replace("alpha = 2.0", "alpha = 0.0")).collect();
    let neutral: Vec<&str> = neutral.iter().map(String::as_str).collect();
    assert_ne!(bits, weights(&neutral).0);
    let told: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Refresh { at, report, .. } => Some((at.epoch, report)),
            _ => None,
        })
        .collect();
    assert_eq!(told.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [1, 2]);
    // Ten batches, each trained on twice: a refresh after every third training.
    assert_eq!(told[0].1.as_array().unwrap().len(), 6);
    assert_eq!(told[0].1[0]["step"], 1);
    let layers = told[1].1[0]["layers"].as_array().unwrap();
    let sources: BTreeSet<_> =
        layers.iter().map(|layer| layer["source"].as_str().unwrap()).collect();
    assert!(sources.contains("head.strong.fc1") && sources.contains("head.weak.fc1"));
}
