//! Stand-ins for the engine, for the tests of plugins.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mie_core::prelude::*;
use rand::RngExt;

/// What the loss depends on, and what a pass was asked for.
pub struct Visit {
    /// What the optimizer asked for.
    pub ask: Ask,
    /// Steps made before.
    pub step: u64,
    /// Weights by path; copies in the list of passes.
    pub weights: BTreeMap<String, Tensor>,
}

impl Visit {
    /// Looks a weight up by its path.
    pub fn weight(&self, path: &str) -> &Tensor {
        &self.weights[path]
    }
}

/// A problem whose loss is a formula.
pub struct Landscape {
    /// Weights; leaves that require gradients.
    pub weights: ByParam,
    /// Factor that rules get.
    pub learning_rate_factor: f64,
    /// Every pass made so far.
    pub passes: Vec<Visit>,
    step: u64,
    formula: Rc<dyn Fn(&Visit) -> Tensor>,
}

impl Landscape {
    /// Starts at the given weights, named by group and name within the group.
    pub fn new<const COUNT: usize>(
        weights: [(GroupId, &str, Tensor); COUNT],
        formula: impl Fn(&Visit) -> Tensor + 'static,
    ) -> Self {
        let weights = weights
            .into_iter()
            .map(|(group, name, value)| {
                let path = format!("{group}.{name}").into();
                (ParamId { group, path }, value.copy().set_requires_grad(true))
            })
            .collect();
        Self {
            weights,
            learning_rate_factor: 1.0,
            passes: Vec::new(),
            step: 0,
            formula: Rc::new(formula),
        }
    }

    /// Copies the landscape with the weights where they are, without the passes.
    pub fn fork(&self) -> Self {
        let copied = |value: &Tensor| value.detach().copy().set_requires_grad(true);
        Self {
            weights: self.weights.iter().map(|(id, value)| (id.clone(), copied(value))).collect(),
            learning_rate_factor: self.learning_rate_factor,
            passes: Vec::new(),
            step: self.step,
            formula: self.formula.clone(),
        }
    }

    /// Computes the loss of an earlier pass again.
    pub fn loss(&self, visit: &Visit) -> f64 {
        (self.formula)(visit).double_value(&[])
    }

    /// Bit patterns of all weights, by path.
    pub fn bits(&self) -> BTreeMap<String, Vec<u64>> {
        self.weights.iter().map(|(id, value)| (id.path.to_string(), bits(value))).collect()
    }

    /// Looks a weight up by its path.
    pub fn weight(&self, path: &str) -> &Tensor {
        self.weights.iter().find(|(id, _)| &*id.path == path).unwrap().1
    }

    fn copies(&self) -> ByParam {
        self.weights.iter().map(|(id, value)| (id.clone(), value.detach().copy())).collect()
    }

    fn shift(&mut self, by: &ByParam) -> Result<()> {
        let _guard = no_grad_guard();
        for (id, shift) in by {
            let _ = self.weights.get_mut(id).unwrap().f_add_(shift)?;
        }
        Ok(())
    }
}

fn by_path(weights: &ByParam) -> BTreeMap<String, Tensor> {
    weights.iter().map(|(id, value)| (id.path.to_string(), value.shallow_clone())).collect()
}

impl Problem for Landscape {
    fn gradients(&mut self, ask: Ask) -> Result<Grads> {
        self.passes.push(Visit { ask, step: self.step, weights: by_path(&self.copies()) });
        let visit = Visit { ask, step: self.step, weights: by_path(&self.weights) };
        let loss = (self.formula)(&visit);
        let inputs: Vec<&Tensor> = self.weights.values().collect();
        let found = Tensor::f_run_backward(&[loss], &inputs, false, false)?;
        let sum = self
            .weights
            .keys()
            .zip(found)
            .filter(|(_, gradient)| gradient.defined())
            // What libtorch returns may be shared between parameters.
            .map(|(id, gradient)| (id.clone(), gradient.copy()))
            .collect();
        Ok(Grads { sum, by_term: BTreeMap::new() })
    }

    fn displaced(&mut self, displacement: &ByParam, inner: &mut Inner<'_>) -> Result<Grads> {
        let before = self.copies();
        self.shift(displacement)?;
        let result = inner(self);
        let _guard = no_grad_guard();
        for (id, value) in &before {
            self.weights.get_mut(id).unwrap().copy_(value);
        }
        result
    }

    fn apply(&mut self, mut gradients: Grads, rule: &mut Rule<'_>) -> Result<()> {
        let _guard = no_grad_guard();
        for (id, gradient) in &mut gradients.sum {
            let learning_rate_factor = self.learning_rate_factor;
            rule(RuleContext { id, value: &self.weights[id], learning_rate_factor }, gradient)?;
        }
        self.step += 1;
        self.shift(&gradients.sum)
    }

    fn active(&self) -> Vec<GroupId> {
        let groups: BTreeSet<&GroupId> = self.weights.keys().map(|id| &id.group).collect();
        groups.into_iter().cloned().collect()
    }

    fn value(&self, id: &ParamId) -> Option<Tensor> {
        self.weights.get(id).map(Tensor::shallow_clone)
    }
}

/// Bit patterns of a tensor's entries (exact for f32 too).
pub fn bits(tensor: &Tensor) -> Vec<u64> {
    entries(tensor).into_iter().map(f64::to_bits).collect()
}

/// Entries of a tensor of any shape, in row-major order.
pub fn entries(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().flatten(0, -1)).unwrap()
}

/// Fails unless every entry lies within `tolerance` of the expected one.
pub fn assert_close(found: &Tensor, expected: &[f64], tolerance: f64) {
    let found = entries(found);
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "found {found:?}, expected {expected:?}");
    }
}

/// Two weights in `head.audio.w` whose gradient is given, step by step.
pub fn given_gradients(start: [f64; 2], gradients: [[f64; 2]; 2]) -> Landscape {
    let weights = [(GroupId::Head("audio".to_owned()), "w", Tensor::from_slice(&start))];
    Landscape::new(weights, move |visit| {
        let gradient = Tensor::from_slice(&gradients[visit.step as usize]);
        (visit.weight("head.audio.w") * gradient).sum(Kind::Double)
    })
}

/// Reproducible uniform noise in `[-1, 1)`.
pub(crate) fn noise(name: &str, step: u64, shape: &[i64], kind: Kind) -> Tensor {
    let mut stream = Seed(11).stream(Purpose::Plugin, name, &[step]);
    let count = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..count).map(|_| stream.random_range(-1.0..1.0)).collect();
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

/// A bowl that tilts at random from step to step: `sum_p |w_p|^2 / 4 + <noise_p, w_p>`.
fn tilting_bowl(visit: &Visit) -> Tensor {
    let terms: Vec<Tensor> = visit
        .weights
        .iter()
        .map(|(path, w)| {
            let tilt = noise(path, visit.step, &w.size(), w.kind());
            (w * w * 0.25 + w * tilt).sum(w.kind())
        })
        .collect();
    Tensor::stack(&terms, 0).sum(terms[0].kind())
}

/// Fifteen weights of an encoder and a head in a tilting bowl.
pub fn tilting_landscape(kind: Kind) -> Landscape {
    let weights = [
        (GroupId::Encoder("audio".to_owned()), "weight", noise("weight", 0, &[4, 3], kind)),
        (GroupId::Head("audio".to_owned()), "bias", noise("bias", 0, &[3], kind)),
    ];
    Landscape::new(weights, tilting_bowl)
}

/// Fails unless libtorch's own optimizer takes f32 weights to the same place in 50 steps.
pub fn assert_agrees_with_libtorch(
    ours: &dyn OptimizerConfig,
    theirs: impl tch::nn::OptimizerConfig,
    learning_rate: f64,
) {
    let mut landscape = tilting_landscape(Kind::Float);
    let start = landscape.fork();
    let store = tch::nn::VarStore::new(Device::Cpu);
    let weights: BTreeMap<String, Tensor> = landscape
        .weights
        .iter()
        .map(|(id, value)| {
            let name = id.path.replace('.', "_");
            (id.path.to_string(), store.root().var_copy(&name, &value.detach()))
        })
        .collect();
    let mut reference = tch::nn::OptimizerConfig::build(theirs, &store, learning_rate).unwrap();
    let mut optimizer = ours.build().unwrap();
    for step in 0..50 {
        optimizer.step(&mut landscape).unwrap();
        let visit = Visit { ask: Ask::DESCENT, step, weights: share(&weights) };
        reference.backward_step(&tilting_bowl(&visit));
    }
    for (path, weight) in &weights {
        assert_close(landscape.weight(path), &entries(weight), 1e-6);
    }
    assert_ne!(landscape.bits(), start.bits());
}

/// Fails unless a saved and loaded optimizer goes on with the same bits, and a reset one afresh.
pub fn assert_keeps_its_state(config: &dyn OptimizerConfig) {
    let walk = |optimizer: &mut dyn Optimizer, landscape: &mut Landscape| {
        for _ in 0..3 {
            optimizer.step(landscape).unwrap();
        }
    };
    let mut landscape = tilting_landscape(Kind::Float);
    let mut optimizer = config.build().unwrap();
    walk(&mut *optimizer, &mut landscape);
    let saved = optimizer.state().unwrap();
    let (mut resumed, mut forgotten) = (landscape.fork(), landscape.fork());
    let mut fresh = landscape.fork();
    walk(&mut *optimizer, &mut landscape);

    let mut loaded = config.build().unwrap();
    loaded.load_state(saved).unwrap();
    walk(&mut *loaded, &mut resumed);
    assert_eq!(landscape.bits(), resumed.bits());

    loaded.reset();
    walk(&mut *loaded, &mut forgotten);
    walk(&mut *config.build().unwrap(), &mut fresh);
    assert_eq!(forgotten.bits(), fresh.bits());
    assert_ne!(resumed.bits(), fresh.bits(), "the state makes no difference");
}

/// A run without a model, for controllers that only read scores.
pub struct ScoresOnly;

impl RunOps for ScoresOnly {
    fn pass(
        &mut self,
        _request: &PassRequest,
        _probe: Option<&mut dyn Probe>,
        _each: &mut dyn FnMut(&Outputs, &Tensor) -> Result<()>,
    ) -> Result<()> {
        Err(Error::Bug("a pass over no data was asked for".to_owned()))
    }

    fn layers(&self, _modality: &str) -> Vec<Layer> {
        Vec::new()
    }

    fn parameter_count(&self, _modality: &str) -> usize {
        0
    }

    fn modalities(&self) -> Vec<String> {
        Vec::new()
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn seed(&self) -> Seed {
        Seed(0)
    }

    fn warn(&mut self, _message: &str) {}
}

/// A boundary in the first phase, with scores.
pub fn boundary(moment: Moment, epoch: usize, scores: &[(&str, f64)]) -> Boundary {
    Boundary {
        moment,
        phase: 0,
        epoch,
        epochs: 100,
        schedule_epoch: epoch,
        fresh: true,
        step: 0,
        global_step: 0,
        trained: Vec::new(),
        source: Vec::new(),
        scores: scores.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        group_norms: BTreeMap::new(),
    }
}

/// Factors of the learning rate that a controller sets for the epochs of a phase.
pub fn learning_rate_factors(config: &dyn ControllerConfig, epochs: usize) -> Vec<f64> {
    let mut controller = config.build().unwrap();
    let mut directives =
        |moment, epoch| controller.after(&boundary(moment, epoch, &[]), &mut ScoresOnly).unwrap();
    let mut factors = Vec::new();
    for epoch in 0..epochs {
        for directive in directives(Moment::EpochStart, epoch) {
            match directive {
                Directive::LearningRateFactor { group: None, factor } => factors.push(factor),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(directives(Moment::EpochEnd, epoch).is_empty());
    }
    factors
}

/// All phases of a strategy for a run with these modalities.
pub fn phases(config: &dyn StrategyConfig, modalities: &[&str]) -> Result<Vec<Phase>> {
    let mut strategy = config.build()?;
    let modalities: Vec<String> = modalities.iter().map(|&name| name.to_owned()).collect();
    let mut all = Vec::new();
    while let Some(phase) =
        strategy.next(&Report { phase: all.len(), modalities: modalities.clone(), best: None })?
    {
        all.push(phase);
        assert!(all.len() < 1000, "the strategy does not end");
    }
    Ok(all)
}

/// Modalities of [`TinyRun`].
pub const MODALITIES: [&str; 2] = ["audio", "video"];

/// Classes of [`TinyRun`].
pub const CLASSES: i64 = 3;

const INPUTS: i64 = 6;
const FEATURES: i64 = 5;
const BATCH: i64 = 8;
const BATCHES: u64 = 4;

/// A run of two modalities, small enough for tests: a linear encoder and a head of two layers
/// each, on generated data.
///
/// It gives gradient modifiers their gradients and view of a step, objectives their forward
/// passes, and everything its [`RunOps`].
pub struct TinyRun {
    /// All weights.
    pub parameters: Parameters,
    /// What plugins told the user.
    pub warnings: Vec<String>,
    /// What plugins wrote into the record.
    pub findings: Vec<serde_json::Value>,
    seed: Seed,
    encoders: ByModality<Linear>,
    heads: ByModality<[Linear; 2]>,
    /// The one head of all modalities, which then are trained in turns.
    shared: Option<[Linear; 2]>,
}

impl TinyRun {
    /// Draws weights from a seed.
    pub fn new(seed: Seed) -> Self {
        Self::build(seed, false)
    }

    /// Draws weights from a seed; all modalities share one head and are trained in turns, the one
    /// at even steps, the other at odd ones.
    pub fn with_shared_head(seed: Seed) -> Self {
        Self::build(seed, true)
    }

    /// The one of the two that has what a plugin needs.
    pub fn fitting(needs: &[Need], seed: Seed) -> Self {
        Self::build(seed, needs.contains(&Need::SharedHead))
    }

    fn build(seed: Seed, shares: bool) -> Self {
        let store = RefCell::new(Parameters::default());
        let at = |group| Builder::new(&store, seed, Device::Cpu, group);
        let (mut encoders, mut heads) = (ByModality::new(), ByModality::new());
        let linear = |at: Builder<'_>, inputs, outputs| Linear::new(&at, inputs, outputs).unwrap();
        let head = |at: Builder<'_>| {
            [linear(at.sub("fc1"), FEATURES, FEATURES), linear(at.sub("fc2"), FEATURES, CLASSES)]
        };
        for name in MODALITIES.map(str::to_owned) {
            let encoder = at(GroupId::Encoder(name.clone()));
            encoders.insert(name.clone(), linear(encoder.sub("fc"), INPUTS, FEATURES));
            if !shares {
                heads.insert(name.clone(), head(at(GroupId::Head(name))));
            }
        }
        let shared = shares.then(|| head(at(GroupId::SharedHead)));
        let parameters = store.into_inner();
        let (warnings, findings) = (Vec::new(), Vec::new());
        Self { parameters, warnings, findings, seed, encoders, heads, shared }
    }

    fn head(&self, modality: &str) -> &[Linear; 2] {
        self.shared.as_ref().unwrap_or_else(|| &self.heads[modality])
    }

    /// Modalities trained in a step.
    fn trained(&self, step: u64) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = self.modalities().into_iter().collect();
        if self.shared.is_some() {
            all.retain(|name| *name == MODALITIES[step as usize % MODALITIES.len()]);
        }
        all
    }

    /// Classes of the batch of a step. `[8]` i64
    pub fn labels(&self, step: u64) -> Tensor {
        let mut stream = self.seed.stream(Purpose::Synthesis, "labels", &[step]);
        let labels: Vec<i64> = (0..BATCH).map(|_| stream.random_range(0..CLASSES)).collect();
        Tensor::from_slice(&labels)
    }

    /// Outputs for the batch of a step: features `[8, 5]`, logits `[8, 3]`, their mean as joint
    /// logits.
    ///
    /// # Errors
    /// Whatever the probe returns.
    pub fn outputs(
        &self,
        spec: &Spec,
        step: u64,
        mut probe: Option<&mut dyn Probe>,
    ) -> Result<Outputs> {
        let _guard = (!spec.gradients).then(no_grad_guard);
        let mut outputs = Outputs::default();
        for (name, encoder) in &self.encoders {
            if !spec.run.contains(name) {
                continue;
            }
            let mut x = noise(name, step, &[BATCH, INPUTS], Kind::Float);
            if !spec.present.contains(name) {
                x = x.f_zeros_like()?;
            }
            let probe = probe.as_mut().map(|probe| &mut **probe as &mut dyn Probe);
            let statistics = spec.statistics.unwrap_or(Statistics::Update);
            let mut pass = Pass::of(statistics).probed(probe);
            let feature = encoder.forward(&x, &mut pass)?.f_relu()?;
            let [first, second] = self.head(name);
            let hidden = first.forward(&feature, &mut pass)?.f_relu()?;
            outputs.logits.insert(name.clone(), second.forward(&hidden, &mut pass)?);
            outputs.features.insert(name.clone(), feature);
        }
        if !outputs.logits.is_empty() {
            let logits: Vec<&Tensor> = outputs.logits.values().collect();
            let joint = Tensor::f_stack(&logits, 0)?.f_mean_dim(0i64, false, None::<Kind>)?;
            outputs.joint = Some(joint);
        }
        Ok(outputs)
    }

    /// Gradients of the cross-entropy of each modality and of the joint logits, summed and by
    /// term, for a step's batch; of the one modality in turn where the head is shared.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn gradients(&self, step: u64) -> Result<Grads> {
        let spec = Spec { gradients: true, ..Spec::evaluation(self.modalities()) };
        let outputs = self.outputs(&spec, step, None)?;
        let targets = Targets { labels: self.labels(step), mixed: None };
        let groups = self.parameters.ids();
        let ids: Vec<(ParamId, &Tensor)> = self.parameters.trainable(&groups).collect();
        let mut gradients = Grads::default();
        let trained = self.trained(step);
        let own = outputs.logits.iter().filter(|(name, _)| trained.contains(*name));
        let mut losses: Vec<(String, &Tensor)> =
            own.map(|(name, logits)| (Term::unimodal(name), logits)).collect();
        if self.shared.is_none() {
            losses.extend(outputs.joint.iter().map(|joint| (Term::JOINT.to_owned(), joint)));
        }
        for (name, logits) in losses {
            let loss = targets.cross_entropy(logits)?;
            let values: Vec<&Tensor> = ids.iter().map(|(_, value)| *value).collect();
            let found = Tensor::f_run_backward(&[loss], &values, true, false)?;
            let mut term = ByParam::new();
            for ((id, _), gradient) in ids.iter().zip(found).filter(|(_, found)| found.defined()) {
                let sum = match gradients.sum.get(id) {
                    Some(sum) => sum.f_add(&gradient)?,
                    None => gradient.f_detach_copy()?,
                };
                gradients.sum.insert(id.clone(), sum);
                term.insert(id.clone(), gradient.f_detach_copy()?);
            }
            gradients.by_term.insert(name, term);
        }
        Ok(gradients)
    }

    /// Calls `see` with the view of a step.
    ///
    /// # Errors
    /// Whatever `see` returns.
    pub fn with_view<T>(
        &self,
        step: u64,
        see: impl FnOnce(&StepView<'_>) -> Result<T>,
    ) -> Result<T> {
        let outputs = self.outputs(&Spec::evaluation(self.modalities()), step, None)?;
        let split = outputs
            .logits
            .iter()
            .map(|(name, logits)| Ok((name.clone(), logits.f_div_scalar(2.0)?)))
            .collect::<Result<_>>()?;
        let labels = self.labels(step);
        let mut layers = Everything::default();
        self.outputs(&Spec::evaluation(self.trained(step)), step, Some(&mut layers))?;
        see(&StepView {
            parameters: &self.parameters,
            outputs: &outputs,
            split: Some(&split),
            responses: Some(&split),
            layer_inputs: &layers.0,
            labels: &labels,
            trained: &self.trained(step),
            seed: self.seed,
            epoch: 0,
            batch: step % BATCHES,
            batches: BATCHES,
            step,
            part: 0,
        })
    }

    /// Forward passes of a step's batch.
    pub fn forward(&self, step: u64) -> TinyForward<'_> {
        TinyForward { run: self, step }
    }

    /// Its shape, as plugins see it before the first step.
    pub fn shape(&self) -> RunShape {
        let modalities = self.modalities();
        let outputs = modalities.iter().map(String::as_str).chain(["fused"]);
        let metrics = ["accuracy", "macro_f1", "mean_average_precision", "loss"];
        let mut scores: BTreeSet<String> = outputs
            .flat_map(|output| metrics.map(|metric| format!("valid.{output}.{metric}")))
            .collect();
        scores.insert("train.loss".to_owned());
        scores.extend(modalities.iter().map(|name| format!("train.{name}.accuracy")));
        RunShape {
            layers: modalities.iter().map(|name| (name.clone(), self.layers(name))).collect(),
            groups: self.parameters.ids(),
            phases: vec![Phase {
                label: "the only one".to_owned(),
                sub_steps: if self.shared.is_some() {
                    let turn = |name: &String| SubStep { modalities: vec![name.clone()] };
                    modalities.iter().map(turn).collect()
                } else {
                    vec![SubStep { modalities: modalities.clone() }]
                },
                epochs: 4,
                load: Load::Best,
                reset_optimizer: true,
                source: Vec::new(),
                objectives: Vec::new(),
                score: Score::Fused,
            }],
            terms: modalities
                .iter()
                .map(|name| Term::unimodal(name))
                .chain([Term::JOINT.to_owned()])
                .collect(),
            scores,
            shared_head: self
                .shared
                .iter()
                .flatten()
                .map(|linear| linear.layer().clone())
                .collect(),
            batch_size: BATCH as usize,
            training_samples: Some((BATCH as u64 * BATCHES) as usize),
        }
    }
}

impl RunOps for TinyRun {
    fn pass(
        &mut self,
        request: &PassRequest,
        mut probe: Option<&mut dyn Probe>,
        each: &mut dyn FnMut(&Outputs, &Tensor) -> Result<()>,
    ) -> Result<()> {
        for step in 0..BATCHES {
            let probe = probe.as_mut().map(|probe| &mut **probe as &mut dyn Probe);
            let outputs = self.outputs(&request.spec, step, probe)?;
            each(&outputs, &self.labels(step))?;
        }
        Ok(())
    }

    fn samples(&self, _split: Split) -> usize {
        (BATCH as u64 * BATCHES) as usize
    }

    fn evaluate(&mut self, _split: Split) -> Result<BTreeMap<String, f64>> {
        let mut scores = BTreeMap::new();
        let spec = Spec::evaluation(self.modalities());
        for step in 0..BATCHES {
            let outputs = self.outputs(&spec, step, None)?;
            let targets = Targets { labels: self.labels(step), mixed: None };
            let fused = outputs.joint.as_ref().map(|joint| ("fused", joint));
            let own = outputs.logits.iter().map(|(name, logits)| (name.as_str(), logits));
            for (name, logits) in own.chain(fused) {
                let hits = logits.f_argmax(-1, false)?.f_eq_tensor(&targets.labels)?;
                let accuracy = hits.f_to_kind(Kind::Double)?.f_mean(None::<Kind>)?;
                let loss = targets.cross_entropy(logits)?;
                for (metric, value) in [("accuracy", accuracy), ("loss", loss)] {
                    *scores.entry(format!("{name}.{metric}")).or_default() +=
                        value.double_value(&[]) / BATCHES as f64;
                }
            }
        }
        Ok(scores)
    }

    /// Follows the term's gradient for two steps an epoch, with a rate of 0.5.
    fn trial(
        &mut self,
        trial: &Trial,
        see: &mut dyn FnMut(&mut dyn RunOps) -> Result<()>,
    ) -> Result<()> {
        let before = self.parameters.export()?;
        for step in 0..2 * trial.epochs as u64 {
            let gradients = self.gradients(step)?;
            let gradient = gradients.by_term.get(&trial.term).unwrap_or(&gradients.sum);
            let _guard = no_grad_guard();
            for (id, gradient) in gradient {
                if let Some(weight) = self.parameters.value(id) {
                    let _ = weight.shallow_clone().f_sub_(&gradient.f_mul_scalar(0.5)?)?;
                }
            }
        }
        see(self)?;
        self.parameters.import(&before)
    }

    fn snapshot(&self, groups: &[GroupId]) -> Result<State> {
        let tensors = self.parameters.export_of(groups)?;
        Ok(State { tensors, ..State::default() })
    }

    fn restore(&mut self, snapshot: &State) -> Result<()> {
        self.parameters.overwrite(&snapshot.tensors)
    }

    fn note(&mut self, finding: serde_json::Value) {
        self.findings.push(finding);
    }

    fn layers(&self, modality: &str) -> Vec<Layer> {
        let encoder = self.encoders.get(modality).into_iter();
        let heads = self.encoders.get(modality).map(|_| self.head(modality));
        encoder.chain(heads.into_iter().flatten()).map(|linear| linear.layer().clone()).collect()
    }

    fn parameter_count(&self, modality: &str) -> usize {
        let ids = self.parameters.ids();
        let own = ids.iter().filter(|id| id.modality() == Some(modality));
        own.map(|id| self.parameters.size(id)).sum()
    }

    fn modalities(&self) -> Vec<String> {
        MODALITIES.map(str::to_owned).to_vec()
    }

    fn groups(&self) -> Vec<GroupId> {
        self.parameters.ids().into_iter().collect()
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn seed(&self) -> Seed {
        self.seed
    }

    fn warn(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
    }
}

/// Keeps the input of every layer.
#[derive(Default)]
struct Everything(BTreeMap<String, Tensor>);

impl Probe for Everything {
    fn see(&mut self, layer: &Layer, input: &Tensor) -> Result<()> {
        self.0.insert(layer.name.clone(), input.f_detach()?);
        Ok(())
    }
}

/// Forward passes of one batch of a [`TinyRun`].
pub struct TinyForward<'a> {
    run: &'a TinyRun,
    step: u64,
}

impl Forward for TinyForward<'_> {
    fn full(&self) -> Spec {
        let evaluation = Spec::evaluation(self.run.modalities());
        Spec { statistics: None, gradients: true, ..evaluation }
    }

    fn run(&mut self, spec: &Spec) -> Result<Outputs> {
        self.run.outputs(spec, self.step, None)
    }

    fn targets(&self) -> Targets {
        Targets { labels: self.run.labels(self.step), mixed: None }
    }
}
