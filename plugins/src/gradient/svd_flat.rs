//! The flat gradient modification: shrinks a modality's gradients along another's sharp directions.

use std::collections::{BTreeMap, BTreeSet};

use mie_core::prelude::*;
use mie_core::projection::{Covariance, CovarianceKind, Precision, Projection, Solver, project};
use serde_json::{Value, json};

/// Projects gradients by the flat directions of the modality learnt before (MIE's modification).
///
/// At the start of a phase that has a source modality `j`, one pass over the training data gives,
/// for every layer in scope, the covariance of its inputs under `j`; the gradients of the paired
/// layer of the modality `i` being trained are then multiplied on their input side:
///
/// ```text
/// m_b = mean of the layer's inputs over batch b          C = sum_b m_b^T m_b       (Eq. 5)
/// C = V diag(s) V^T                                      s_1 >= ... >= s_d >= 0
/// P = V diag(exp(-alpha (s_k - s_d) / (s_1 - s_d))) V^T                            (Eq. 7)
/// grad W_i <- grad W_i P_j                               W: [out, in]              (Eq. 8)
/// ```
///
/// Biases, normalisation layers and unpaired layers are left alone. It acts on the descent
/// gradient, before momentum and weight decay; under SAM the ascent gradient stays raw. Layers are
/// paired from the output backwards, by position, and only where their weights have equal shapes;
/// what finds no partner is listed in the record.
///
/// The pass goes over shuffled batches. Deviation from the released code: its inputs are plain, not
/// augmented; `covariance_inputs = "training"` follows the release.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SvdFlatConfig {
    /// Scaling factor `alpha`, at least 0: sharp directions keep `exp(-alpha)` of their gradient.
    /// 0 changes nothing. Released code: 0.4 on every dataset.
    pub alpha: f64,
    /// Layers whose gradients are modified.
    pub scope: Scope,
    /// Modalities whose gradients are modified; empty means all. `["video"]` with audio as source
    /// is one side of Figure 3.
    pub targets: Vec<String>,
    /// How the projections of several source modalities are joined; the paper has one source.
    pub several_sources: SeveralSources,
    /// What is summed over batches.
    pub covariance: CovarianceKind,
    /// Whether the covariance is divided by the number of batches. Changes the reported spectrum
    /// only: `P` does not depend on the scale of `C` (Table 7).
    pub normalise: bool,
    /// Samples a batch in the pass over the data; absent means the training batch size. The paper:
    /// 12, and 6 for `NVGesture`.
    pub covariance_batch_size: Option<usize>,
    /// Inputs of the pass over the data: plain as in evaluation, or augmented as in training
    /// (released code).
    pub covariance_inputs: Mode,
    /// How the decomposition is computed.
    pub solver: Solver,
    /// Number format of covariance and decomposition; gradients are multiplied in their own.
    pub precision: Precision,
}

/// Layers whose gradients are modified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scope {
    /// The layers of the head (the paper's default).
    Head,
    /// Layers from the output backwards until this share of the modality's parameters is reached,
    /// in `(0, 1]`, rounded to the nearest layer boundary; convolutions by their patches (Table 4).
    Share(f64),
    /// Layers whose name within their group matches one of these patterns; `*` stands for
    /// anything, e.g. `fc*`, `layer4.*`.
    Layers(Vec<String>),
}

/// How the projections of several source modalities are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SeveralSources {
    /// The mean of the matrices.
    Average,
    /// One after the other, in alphabetical order of the modalities.
    Compose,
}

impl Default for SvdFlatConfig {
    fn default() -> Self {
        Self {
            alpha: 0.4,
            scope: Scope::Head,
            targets: Vec::new(),
            several_sources: SeveralSources::Average,
            covariance: CovarianceKind::BatchMean,
            normalise: false,
            covariance_batch_size: None,
            covariance_inputs: Mode::Evaluation,
            solver: Solver::Auto,
            precision: Precision::F64,
        }
    }
}

#[typetag::serde(name = "svd_flat")]
impl GradientModifierConfig for SvdFlatConfig {
    fn validate(&self) -> Result<()> {
        let alpha = self.alpha;
        ensure_range("alpha", "[0, inf)", alpha, alpha >= 0.0 && alpha.is_finite())?;
        match &self.scope {
            Scope::Share(share) => {
                ensure_range("scope.share", "(0, 1]", share, *share > 0.0 && *share <= 1.0)?;
            }
            Scope::Layers(patterns) => {
                let count = patterns.len();
                ensure_range("scope.layers", "at least one pattern", count, count > 0)?;
            }
            Scope::Head => {}
        }
        if let Some(size) = self.covariance_batch_size {
            ensure_range("covariance_batch_size", "at least 1", size, size > 0)?;
        }
        Ok(())
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(SvdFlat { config: self.clone(), projections: BTreeMap::new() }))
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("alpha", 0.0)]
    }
}

register!(
    gradient_modifier::<SvdFlatConfig>,
    source = "Multimodal Classification via Modal-Aware Interactive Enhancement, Eq. 5 to 8"
);

struct SvdFlat {
    config: SvdFlatConfig,
    /// By the path of the weight that is modified, in order of application.
    projections: BTreeMap<String, Vec<Projection>>,
}

/// A layer of the target with its partner in the source.
struct Pair {
    target: Layer,
    source: Layer,
}

/// Sums covariances of the layers that matter and ignores the others.
struct Collector {
    wanted: BTreeMap<String, Covariance>,
}

impl Probe for Collector {
    fn see(&mut self, layer: &Layer, input: &Tensor) -> Result<()> {
        match self.wanted.get_mut(&layer.name) {
            Some(covariance) => covariance.add(&layer.kind, input),
            None => Ok(()),
        }
    }
}

impl SvdFlat {
    /// Pairs layers from the output backwards; returns what found no partner with the reason.
    fn pairs(&self, run: &dyn RunOps, target: &str, source: &str) -> (Vec<Pair>, Vec<Value>, f64) {
        let (scope, share) = self.in_scope(run, target);
        let partners = run.layers(source);
        let (mut pairs, mut unpaired) = (Vec::new(), Vec::new());
        // Counted from the output, so that heads meet heads whatever the encoders are.
        let depth = run.layers(target).len();
        for (position, layer) in run.layers(target).into_iter().enumerate() {
            if !scope.contains(&layer.name) {
                continue;
            }
            let from_output = depth - position;
            let partner = partners.len().checked_sub(from_output).map(|index| &partners[index]);
            match partner {
                Some(partner) if partner.shape == layer.shape && partner.kind == layer.kind => {
                    pairs.push(Pair { target: layer, source: partner.clone() });
                }
                Some(partner) => unpaired.push(json!({
                    "layer": layer.name,
                    "shape": layer.shape,
                    "met": partner.name,
                    "of_shape": partner.shape,
                })),
                None => unpaired.push(json!({ "layer": layer.name, "met": "nothing" })),
            }
        }
        (pairs, unpaired, share)
    }

    /// Names of the target's layers in scope, and their share of its parameters.
    fn in_scope(&self, run: &dyn RunOps, target: &str) -> (Vec<String>, f64) {
        let layers = run.layers(target);
        let total = run.parameter_count(target) as f64;
        let share_of = |layers: &[&Layer]| {
            let size: i64 = layers.iter().map(|layer| layer.shape.iter().product::<i64>()).sum();
            size as f64 / total
        };
        let chosen: Vec<&Layer> = match &self.config.scope {
            Scope::Head => layers
                .iter()
                .filter(|layer| !matches!(layer.weight.group, GroupId::Encoder(_)))
                .collect(),
            Scope::Layers(patterns) => layers
                .iter()
                .filter(|layer| patterns.iter().any(|p| matches_glob(p, layer.local_name())))
                .collect(),
            Scope::Share(wanted) => {
                let candidates = (0..=layers.len())
                    .map(|first| layers[first..].iter().collect::<Vec<_>>())
                    .filter(|chosen| !chosen.is_empty());
                candidates
                    .min_by(|a, b| {
                        let off = |chosen: &[&Layer]| (share_of(chosen) - wanted).abs();
                        off(a).total_cmp(&off(b))
                    })
                    .unwrap_or_default()
            }
        };
        let share = share_of(&chosen);
        (chosen.into_iter().map(|layer| layer.name.clone()).collect(), share)
    }

    /// Passes over the data once for `source` and decomposes the covariances of `pairs`.
    fn projections_of(
        &self,
        run: &mut dyn RunOps,
        source: &str,
        pairs: &[Pair],
    ) -> Result<(BTreeMap<String, Projection>, Vec<Value>)> {
        if pairs.is_empty() {
            return Ok((BTreeMap::new(), Vec::new()));
        }
        let device = run.device();
        let mut wanted = BTreeMap::new();
        for Pair { source, .. } in pairs {
            let config = &self.config;
            let covariance =
                Covariance::new(source.input_width(), config.covariance, config.precision, device)?;
            wanted.insert(source.name.clone(), covariance);
        }
        let mut collector = Collector { wanted };
        let request = PassRequest {
            split: Split::Train,
            batch_size: self.config.covariance_batch_size,
            drop_last: true,
            mode: self.config.covariance_inputs,
            // In the order of the lists a batch would often hold a single class.
            shuffled: true,
            samples: None,
            spec: Spec::evaluation([source.to_owned()]),
        };
        run.pass(&request, Some(&mut collector), &mut |_, _| Ok(()))?;
        let (mut found, mut spectra) = (BTreeMap::new(), Vec::new());
        for Pair { target, source } in pairs {
            let Some(covariance) = collector.wanted.get_mut(&source.name) else { continue };
            if covariance.batches() == 0 {
                return Err(Error::refused(
                    format!(
                        "the training data do not fill one batch to learn `{}` from",
                        source.name
                    ),
                    "lower gradient_modifiers.*.covariance_batch_size",
                ));
            }
            if self.config.normalise {
                covariance.normalise()?;
            }
            let (projection, spectrum) =
                project(&source.name, covariance, self.config.alpha, self.config.solver)?;
            let Projection::Dense(matrix) = projection;
            let matrix = matrix.f_to_device(device)?.f_to_kind(Kind::Float)?;
            let mut spectrum = serde_json::to_value(&spectrum).unwrap_or(Value::Null);
            if let Some(fields) = spectrum.as_object_mut() {
                fields.insert("layer".to_owned(), json!(target.name));
                fields.insert("source".to_owned(), json!(source.name));
            }
            spectra.push(spectrum);
            found.insert(target.weight.path.to_string(), Projection::Dense(matrix));
        }
        Ok((found, spectra))
    }
}

impl Persist for SvdFlat {}

impl GradientModifier for SvdFlat {
    fn needs(&self) -> &'static [Need] {
        &[Need::SeveralModalities]
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        for name in &self.config.targets {
            run.expect_modality("targets", name)?;
        }
        if let Scope::Layers(patterns) = &self.config.scope {
            let names = || run.layers.values().flatten().map(Layer::local_name);
            let idle = |pattern: &&String| !names().any(|name| matches_glob(pattern, name));
            if let Some(pattern) = patterns.iter().find(idle) {
                let known: BTreeSet<_> = names().map(|name| format!("`{name}`")).collect();
                let known: Vec<_> = known.into_iter().collect();
                return Err(Error::refused(
                    format!("`scope.layers` has `{pattern}`, which matches no layer of the run"),
                    format!("match some of {}", known.join(", ")),
                ));
            }
        }
        let size = self.config.covariance_batch_size.unwrap_or(run.batch_size);
        match run.training_samples {
            Some(samples) if samples < size => Err(Error::refused(
                format!("{samples} training samples do not fill a covariance batch of {size}"),
                "lower `covariance_batch_size`",
            )),
            _ => Ok(()),
        }
    }

    fn modify(&mut self, gradients: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        for (id, gradient) in &mut gradients.sum {
            for projection in self.projections.get(&*id.path).into_iter().flatten() {
                *gradient = projection.apply(gradient)?;
            }
        }
        Ok(())
    }

    fn refresh(&mut self, run: &mut dyn RunOps, at: &Boundary) -> Result<Option<Value>> {
        if at.moment != Moment::PhaseStart {
            return Ok(None);
        }
        let had = !self.projections.is_empty();
        self.projections.clear();
        let mut reports = Vec::new();
        for target in &at.trained {
            if !self.config.targets.is_empty() && !self.config.targets.contains(target) {
                continue;
            }
            let mut by_weight: BTreeMap<String, Vec<Projection>> = BTreeMap::new();
            for source in at.source.iter().filter(|source| *source != target) {
                let (pairs, unpaired, share) = self.pairs(run, target, source);
                if pairs.is_empty() {
                    run.warn(&format!(
                        "no layer of `{target}` in scope has a partner of its shape in `{source}`: \
                         its gradients are not modified"
                    ));
                }
                let (found, spectra) = self.projections_of(run, source, &pairs)?;
                for (weight, projection) in found {
                    by_weight.entry(weight).or_default().push(projection);
                }
                reports.push(json!({
                    "target": target,
                    "source": source,
                    "share_of_parameters": share,
                    "layers": spectra,
                    "unpaired": unpaired,
                }));
            }
            for (weight, found) in by_weight {
                let joined = match self.config.several_sources {
                    SeveralSources::Compose => found,
                    SeveralSources::Average => vec![average(found)?],
                };
                self.projections.insert(weight, joined);
            }
        }
        // That nothing is in force any more is news as well.
        Ok((had || !reports.is_empty()).then(|| Value::Array(reports)))
    }

    fn refreshed(&self) -> Result<State> {
        let mut state = State::default();
        for (weight, projections) in &self.projections {
            for (index, projection) in projections.iter().enumerate() {
                state.put(format!("{index}/{weight}"), projection.matrix())?;
            }
        }
        Ok(state)
    }

    fn load_refreshed(&mut self, state: State) -> Result<()> {
        self.projections.clear();
        // Names sort by index first, so each weight gets its matrices in order.
        for (name, matrix) in state.tensors {
            let weight = name.split_once('/').map_or(name.as_str(), |(_, weight)| weight);
            let projection = Projection::Dense(matrix);
            self.projections.entry(weight.to_owned()).or_default().push(projection);
        }
        Ok(())
    }
}

fn average(projections: Vec<Projection>) -> Result<Projection> {
    if let [_] = projections.as_slice() {
        return projections.into_iter().next().ok_or_else(|| Error::Bug("no matrix".to_owned()));
    }
    let matrices: Vec<&Tensor> = projections.iter().map(Projection::matrix).collect();
    let mean = Tensor::f_stack(&matrices, 0)?.f_mean_dim(0i64, false, None::<Kind>)?;
    Ok(Projection::Dense(mean))
}

/// Whether `name` matches `pattern`, in which `*` stands for any text.
fn matches_glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution as _, StandardNormal};

    use super::*;
    use crate::gradient::fixture::{Modified, grads, with_step_view};
    use crate::optimizer::{adam::AdamConfig, sgd::SgdConfig};
    use mie_conformance::stand_in::{Landscape, assert_close};

    /// `P` of the spec's three batches at alpha 0.4.
    const P: [f64; 4] = [0.814_714_140_2, -0.163_567_062_4, -0.163_567_062_4, 0.855_605_906_4];

    fn plugin(config: SvdFlatConfig) -> SvdFlat {
        SvdFlat { config, projections: BTreeMap::new() }
    }

    /// A modifier that multiplies `head.audio.w` by `P`.
    fn with_p() -> SvdFlat {
        let mut plugin = plugin(SvdFlatConfig::default());
        let matrix = Tensor::from_slice(&P).view([2, 2]);
        plugin.projections.insert("head.audio.w".to_owned(), vec![Projection::Dense(matrix)]);
        plugin
    }

    /// Two steps with raw gradients (1, 0) and (0, 2) from (1, -1); the weights after each.
    fn two_steps(config: &dyn OptimizerConfig) -> [Tensor; 2] {
        let raw = [[1.0, 0.0], [0.0, 2.0]];
        let start = Tensor::from_slice(&[1.0, -1.0]).view([1, 2]);
        let head = GroupId::Head("audio".to_owned());
        let mut landscape = Landscape::new([(head, "w", start)], move |visit| {
            let gradient = Tensor::from_slice(&raw[visit.step as usize]).view([1, 2]);
            (visit.weight("head.audio.w") * gradient).sum(Kind::Double)
        });
        let mut optimizer = config.build().unwrap();
        let mut modifier = with_p();
        [0, 1].map(|_| {
            let mut problem = Modified { inner: &mut landscape, modifier: &mut modifier };
            optimizer.step(&mut problem).unwrap();
            landscape.weight("head.audio.w").detach().copy()
        })
    }

    #[test]
    fn v7_modified_gradients_under_sgd_with_momentum_and_decay() {
        let config = SgdConfig {
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 1e-4,
            ..SgdConfig::default()
        };
        let [first, second] = two_steps(&config);
        assert_close(&first, &[0.991_851_858_6, -0.998_363_329_4], 1e-9);
        assert_close(&second, &[0.987_788_880_7, -1.014_001_445_6], 1e-9);
    }

    #[test]
    fn v8_modified_gradients_under_adam() {
        let config = |learning_rate| AdamConfig {
            learning_rate,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 1e-4,
        };
        let [first, second] = two_steps(&config(1e-5));
        assert_close(&first, &[0.999_990_000_000, -0.999_990_000_001], 1e-12);
        assert_close(&second, &[0.999_986_549_317, -0.999_996_754_933], 1e-12);
        let [first, second] = two_steps(&config(1e-2));
        assert_close(&first, &[0.990_000_000_1, -0.990_000_000_6], 1e-9);
        assert_close(&second, &[0.986_549_327_4, -0.996_754_933_5], 1e-9);
    }

    #[test]
    fn biases_and_unpaired_layers_keep_their_bits() {
        let mut gradients = grads(&[
            ("w", Tensor::from_slice(&[1.0, 2.0]).view([1, 2])),
            ("bias", Tensor::from_slice(&[3.0])),
            ("other", Tensor::from_slice(&[4.0, 5.0]).view([1, 2])),
        ]);
        with_step_view(|view| with_p().modify(&mut gradients, view).unwrap());
        let values: BTreeMap<&str, Vec<f64>> = gradients
            .sum
            .iter()
            .map(|(id, g)| (&*id.path, Vec::try_from(g.flatten(0, -1)).unwrap()))
            .collect();
        assert_eq!(values["head.audio.bias"], [3.0]);
        assert_eq!(values["head.audio.other"], [4.0, 5.0]);
        assert!((values["head.audio.w"][0] - (P[0] + 2.0 * P[2])).abs() < 1e-12);
    }

    /// A run of two modalities whose layers are given and whose features are made up.
    struct MadeUp {
        layers: BTreeMap<String, Vec<Layer>>,
        requests: Vec<PassRequest>,
        warnings: Vec<String>,
    }

    fn layer(group: &GroupId, name: &str, shape: &[i64]) -> Layer {
        let name = format!("{group}.{name}");
        let weight = ParamId { group: group.clone(), path: format!("{name}.weight").into() };
        Layer { name, weight, shape: shape.to_vec(), kind: LayerKind::Linear }
    }

    impl MadeUp {
        /// Heads `text: 8-4-3`, `image: 10-8-4-3`, each on an encoder of one layer.
        fn text_and_image() -> Self {
            let mut layers = BTreeMap::new();
            for (modality, widths) in [("image", vec![10, 8, 4, 3]), ("text", vec![8, 4, 3])] {
                let encoder = GroupId::Encoder(modality.to_owned());
                let head = GroupId::Head(modality.to_owned());
                let mut all = vec![layer(&encoder, "fc1", &[widths[0], 6])];
                for (index, pair) in widths.windows(2).enumerate() {
                    all.push(layer(&head, &format!("fc{}", index + 1), &[pair[1], pair[0]]));
                }
                layers.insert(modality.to_owned(), all);
            }
            Self { layers, requests: Vec::new(), warnings: Vec::new() }
        }

        fn batch(layer: &Layer, index: i64) -> Tensor {
            // libtorch's generator is shared by all tests of the process.
            let counters = [index as u64, layer.input_width() as u64];
            let mut stream = Seed(0).stream(Purpose::Plugin, "batch", &counters);
            let count = 5 * layer.input_width();
            let values: Vec<f32> = (0..count).map(|_| StandardNormal.sample(&mut stream)).collect();
            Tensor::from_slice(&values).view([5, layer.input_width()]).relu()
        }
    }

    impl RunOps for MadeUp {
        fn pass(
            &mut self,
            request: &PassRequest,
            probe: Option<&mut dyn Probe>,
            _each: &mut dyn FnMut(&Outputs, &Tensor) -> Result<()>,
        ) -> Result<()> {
            self.requests.push(request.clone());
            let probe = probe.unwrap();
            for index in 0..3 {
                for layer in &self.layers[request.spec.run.first().unwrap()] {
                    probe.see(layer, &Self::batch(layer, index))?;
                }
            }
            Ok(())
        }
        fn layers(&self, modality: &str) -> Vec<Layer> {
            self.layers[modality].clone()
        }
        fn parameter_count(&self, modality: &str) -> usize {
            let layers = &self.layers[modality];
            layers.iter().map(|layer| layer.shape.iter().product::<i64>() as usize).sum()
        }
        fn modalities(&self) -> Vec<String> {
            self.layers.keys().cloned().collect()
        }
        fn device(&self) -> Device {
            Device::Cpu
        }
        fn seed(&self) -> Seed {
            Seed(0)
        }
        fn warn(&mut self, message: &str) {
            self.warnings.push(message.to_owned());
        }
    }

    fn phase(phase: usize, trained: &str, source: &[&str]) -> Boundary {
        Boundary {
            moment: Moment::PhaseStart,
            phase,
            epoch: 0,
            epochs: 1,
            schedule_epoch: 0,
            fresh: true,
            step: 0,
            global_step: 0,
            trained: vec![trained.to_owned()],
            source: source.iter().map(|name| (*name).to_owned()).collect(),
            scores: BTreeMap::new(),
            group_norms: BTreeMap::new(),
        }
    }

    fn refreshed(
        config: SvdFlatConfig,
        trained: &str,
        source: &[&str],
    ) -> (SvdFlat, MadeUp, Value) {
        let (mut plugin, mut run) = (plugin(config), MadeUp::text_and_image());
        let report = plugin.refresh(&mut run, &phase(1, trained, source)).unwrap();
        (plugin, run, report.unwrap_or(Value::Null))
    }

    #[test]
    fn heads_of_other_depth_pair_from_the_output_and_the_rest_is_listed() {
        let (plugin, run, report) = refreshed(SvdFlatConfig::default(), "image", &["text"]);
        let weights: Vec<&String> = plugin.projections.keys().collect();
        assert_eq!(weights, ["head.image.fc2.weight", "head.image.fc3.weight"]);
        assert_eq!(report[0]["unpaired"][0]["layer"], "head.image.fc1");
        assert_eq!(report[0]["unpaired"][0]["met"], "encoder.text.fc1");
        assert_eq!(report[0]["layers"][0]["layer"], "head.image.fc2");
        assert_eq!(report[0]["layers"][0]["source"], "head.text.fc1");
        assert_eq!(report[0]["layers"][0]["batches"], 3);
        // The source alone runs, in evaluation mode, on training data, incomplete batch left out.
        assert_eq!(run.requests.len(), 1);
        let request = &run.requests[0];
        assert_eq!(request.spec, Spec::evaluation(["text".to_owned()]));
        assert_eq!((request.split, request.drop_last), (Split::Train, true));
    }

    #[test]
    fn p_is_what_the_covariance_of_the_source_s_batch_means_gives() {
        let (plugin, run, report) = refreshed(SvdFlatConfig::default(), "image", &["text"]);
        let partner = &run.layers["text"][1];
        let mut sum = Tensor::zeros([8, 8], (Kind::Double, Device::Cpu));
        for index in 0..3 {
            let batch = MadeUp::batch(partner, index).to_kind(Kind::Double);
            let mean = batch.mean_dim(0i64, true, None::<Kind>);
            sum += mean.tr().matmul(&mean);
        }
        let (values, vectors) = sum.linalg_eigh("L");
        let values = values.clamp_min(0.0);
        let (low, high) = (values.min(), values.max());
        let factors = ((&values - &low) / (&high - &low) * -0.4).exp();
        let expected = (&vectors * factors.unsqueeze(0)).matmul(&vectors.tr());
        let found = plugin.projections["head.image.fc2.weight"][0].matrix();
        assert!((found - expected).abs().max().double_value(&[]) < 1e-6);
        assert!(
            (report[0]["layers"][0]["largest"].as_f64().unwrap() - high.double_value(&[])).abs()
                < 1e-9
        );
    }

    #[test]
    fn phases_without_source_and_modalities_that_are_no_target_are_left_alone() {
        let one_sided =
            SvdFlatConfig { targets: vec!["text".to_owned()], ..SvdFlatConfig::default() };
        for (config, source) in [(SvdFlatConfig::default(), &[][..]), (one_sided, &["text"][..])] {
            let (plugin, run, report) = refreshed(config, "image", source);
            assert!(plugin.projections.is_empty() && run.requests.is_empty());
            assert_eq!(report, Value::Null);
        }
    }

    #[test]
    fn options_that_fit_nothing_in_the_run_are_refused_before_training() {
        let shape = RunShape {
            layers: MadeUp::text_and_image().layers,
            batch_size: 8,
            training_samples: Some(12),
            ..RunShape::default()
        };
        let base = SvdFlatConfig::default;
        let refusal =
            |config| plugin(config).check(&shape).map_err(|error: Error| error.to_string());
        assert_eq!(refusal(base()), Ok(()));
        let targets = vec!["imgae".to_owned()];
        let error = refusal(SvdFlatConfig { targets, ..base() }).unwrap_err();
        assert!(error.contains("`imgae`") && error.contains("mean `image`?"), "{error}");
        let scope = Scope::Layers(vec!["fc*".to_owned(), "layer4.*".to_owned()]);
        let error = refusal(SvdFlatConfig { scope, ..base() }).unwrap_err();
        assert!(error.contains("`layer4.*`") && error.contains("`fc1`"), "{error}");
        let covariance_batch_size = Some(13);
        let config = SvdFlatConfig { covariance_batch_size, ..base() };
        assert!(refusal(config).unwrap_err().contains("12 training samples"));
    }

    #[test]
    fn normalising_changes_the_spectrum_and_not_p() {
        let (plain, _, report) = refreshed(SvdFlatConfig::default(), "text", &["image"]);
        let config = SvdFlatConfig { normalise: true, ..SvdFlatConfig::default() };
        let (normalised, _, divided) = refreshed(config, "text", &["image"]);
        for (weight, found) in &plain.projections {
            let other = normalised.projections[weight][0].matrix();
            assert!((found[0].matrix() - other).abs().max().double_value(&[]) < 1e-6);
        }
        let largest = |report: &Value| report[0]["layers"][0]["largest"].as_f64().unwrap();
        assert!((largest(&report) / largest(&divided) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn scopes_choose_layers_by_share_and_by_name() {
        let run = MadeUp::text_and_image();
        let chosen = |scope| {
            let config = SvdFlatConfig { scope, ..SvdFlatConfig::default() };
            plugin(config).in_scope(&run, "text")
        };
        // Sizes from the output: 12, 32, 48 of 92.
        assert_eq!(chosen(Scope::Share(0.1)).0, ["head.text.fc2"]);
        let (names, share) = chosen(Scope::Share(0.5));
        assert_eq!(names, ["head.text.fc1", "head.text.fc2"]);
        assert!((share - 44.0 / 92.0).abs() < 1e-12);
        assert_eq!(chosen(Scope::Share(1.0)).0.len(), 3);
        assert_eq!(chosen(Scope::Layers(vec!["*2".to_owned()])).0, ["head.text.fc2"]);
        assert_eq!(chosen(Scope::Head).0, ["head.text.fc1", "head.text.fc2"]);
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("fc1", "fc1", true),
            ("fc1", "fc12", false),
            ("layer4.*", "layer4.1.conv2", true),
            ("*conv*", "layer4.1.conv2", true),
            ("l*.conv1", "layer4.1.conv2", false),
            ("*", "anything", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches_glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_a_refresh_computed_is_saved_and_loaded() {
        let (before, _, _) = refreshed(SvdFlatConfig::default(), "image", &["text"]);
        let mut after = plugin(SvdFlatConfig::default());
        after.load_refreshed(before.refreshed().unwrap()).unwrap();
        let gradient = Tensor::randn([4, 8], (Kind::Float, Device::Cpu));
        for (weight, projections) in &before.projections {
            assert_eq!(after.projections[weight][0].matrix(), projections[0].matrix());
        }
        let apply =
            |plugin: &SvdFlat| plugin.projections["head.image.fc2.weight"][0].apply(&gradient);
        assert_eq!(apply(&before).unwrap(), apply(&after).unwrap());
    }
}
