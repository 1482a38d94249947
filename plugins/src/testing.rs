//! Stand-ins for the engine, for the tests of optimizers, controllers and strategies.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mie_core::prelude::*;
use rand::RngExt;

/// What the loss depends on, and what a pass was asked for.
pub(crate) struct Visit {
    /// What the optimizer asked for.
    pub(crate) ask: Ask,
    /// Steps made before.
    pub(crate) step: u64,
    /// Weights by path; copies in the list of passes.
    pub(crate) weights: BTreeMap<String, Tensor>,
}

impl Visit {
    /// Looks a weight up by its path.
    pub(crate) fn weight(&self, path: &str) -> &Tensor {
        &self.weights[path]
    }
}

/// A problem whose loss is a formula.
pub(crate) struct Landscape {
    /// Weights; leaves that require gradients.
    pub(crate) weights: ByParam,
    /// Factor that rules get.
    pub(crate) learning_rate_factor: f64,
    /// Every pass made so far.
    pub(crate) passes: Vec<Visit>,
    step: u64,
    formula: Rc<dyn Fn(&Visit) -> Tensor>,
}

impl Landscape {
    /// Starts at the given weights, named by group and name within the group.
    pub(crate) fn new<const COUNT: usize>(
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
    pub(crate) fn fork(&self) -> Self {
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
    pub(crate) fn loss(&self, visit: &Visit) -> f64 {
        (self.formula)(visit).double_value(&[])
    }

    /// Bit patterns of all weights, by path.
    pub(crate) fn bits(&self) -> BTreeMap<String, Vec<u64>> {
        self.weights.iter().map(|(id, value)| (id.path.to_string(), bits(value))).collect()
    }

    /// Looks a weight up by its path.
    pub(crate) fn weight(&self, path: &str) -> &Tensor {
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
pub(crate) fn bits(tensor: &Tensor) -> Vec<u64> {
    entries(tensor).into_iter().map(f64::to_bits).collect()
}

/// Entries of a tensor of any shape, in row-major order.
pub(crate) fn entries(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().flatten(0, -1)).unwrap()
}

/// Fails unless every entry lies within `tolerance` of the expected one.
pub(crate) fn assert_close(found: &Tensor, expected: &[f64], tolerance: f64) {
    let found = entries(found);
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "found {found:?}, expected {expected:?}");
    }
}

/// Two weights in `head.audio.w` whose gradient is given, step by step.
pub(crate) fn given_gradients(start: [f64; 2], gradients: [[f64; 2]; 2]) -> Landscape {
    let weights = [(GroupId::Head("audio".to_owned()), "w", Tensor::from_slice(&start))];
    Landscape::new(weights, move |visit| {
        let gradient = Tensor::from_slice(&gradients[visit.step as usize]);
        (visit.weight("head.audio.w") * gradient).sum(Kind::Double)
    })
}

/// Reproducible uniform noise in `[-1, 1)`.
fn noise(name: &str, step: u64, shape: &[i64], kind: Kind) -> Tensor {
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
pub(crate) fn tilting_landscape(kind: Kind) -> Landscape {
    let weights = [
        (GroupId::Encoder("audio".to_owned()), "weight", noise("weight", 0, &[4, 3], kind)),
        (GroupId::Head("audio".to_owned()), "bias", noise("bias", 0, &[3], kind)),
    ];
    Landscape::new(weights, tilting_bowl)
}

/// Fails unless libtorch's own optimizer takes f32 weights to the same place in 50 steps.
pub(crate) fn assert_agrees_with_libtorch(
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
pub(crate) fn assert_keeps_its_state(config: &dyn OptimizerConfig) {
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
pub(crate) struct ScoresOnly;

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
pub(crate) fn boundary(moment: Moment, epoch: usize, scores: &[(&str, f64)]) -> Boundary {
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
    }
}

/// Factors of the learning rate that a controller sets for the epochs of a phase.
pub(crate) fn learning_rate_factors(config: &dyn ControllerConfig, epochs: usize) -> Vec<f64> {
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
pub(crate) fn phases(config: &dyn StrategyConfig, modalities: &[&str]) -> Result<Vec<Phase>> {
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
