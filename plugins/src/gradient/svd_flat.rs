//! The flat gradient modification: shrinks a modality's gradients along another's sharp directions.

use mie_core::prelude::*;
use mie_core::projection::{CovarianceKind, Exponent, Precision, Solver, Solving, SpectralMap};
use serde_json::Value;

use super::learnt::{Learning, Projections, Refresh, SeveralSources};
use super::scope::Scope;

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
    /// What an eigenvalue is divided by in the exponent; the paper's is `min_max`.
    pub exponent: Exponent,
    /// Layers whose gradients are modified.
    pub scope: Scope,
    /// Modalities whose gradients are modified; empty means all. `["video"]` with audio as source
    /// is one side of Figure 3.
    pub targets: Vec<String>,
    /// How the projections of several source modalities are joined; the paper has one source.
    pub several_sources: SeveralSources,
    /// When projections are learnt. `{ steps = { every = 100, decay = 0.99 } }` learns from the
    /// steps themselves. The paper: at the start of each phase.
    pub refresh: Refresh,
    /// Change of `P`, in the spectral norm, below which a layer keeps the one it has: bounded before
    /// anything is decomposed, by the change of the exponent. 0, the default, keeps none, and so must
    /// it be with `refresh = "phase"`; a kept exponent takes `4 d^2` bytes a layer.
    pub drift_tolerance: f64,
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
    /// How `P` is computed.
    pub solver: Solver,
    /// Error of `P` that is allowed, in the spectral norm, in (0, 0.01]. Default 1e-6: a few units of
    /// the rounding of f32, which gradients have anyway.
    pub tolerance: f64,
    /// Number format that covariances are summed in; gradients are multiplied in their own.
    pub precision: Precision,
}

impl Default for SvdFlatConfig {
    fn default() -> Self {
        Self {
            alpha: 0.4,
            exponent: Exponent::MinMax,
            scope: Scope::Head,
            targets: Vec::new(),
            several_sources: SeveralSources::Average,
            refresh: Refresh::Phase,
            drift_tolerance: 0.0,
            covariance: CovarianceKind::BatchMean,
            normalise: false,
            covariance_batch_size: None,
            covariance_inputs: Mode::Evaluation,
            solver: Solver::Auto,
            tolerance: Solving::TOLERANCE,
            precision: Precision::F64,
        }
    }
}

#[typetag::serde(name = "svd_flat")]
impl GradientModifierConfig for SvdFlatConfig {
    fn validate(&self) -> Result<()> {
        let alpha = self.alpha;
        ensure_range("alpha", "[0, inf)", alpha, alpha >= 0.0 && alpha.is_finite())?;
        self.learning().validate()
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(SvdFlat { config: self.clone(), projections: Projections::default() }))
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("alpha", 0.0)]
    }
}

register!(
    gradient_modifier::<SvdFlatConfig>,
    source = "Multimodal Classification via Modal-Aware Interactive Enhancement, Eq. 5 to 8"
);

impl SvdFlatConfig {
    fn learning(&self) -> Learning<'_> {
        Learning {
            map: SpectralMap::Exponential { alpha: self.alpha, exponent: self.exponent },
            scope: &self.scope,
            targets: &self.targets,
            refresh: self.refresh,
            drift_tolerance: self.drift_tolerance,
            covariance: self.covariance,
            normalise: self.normalise,
            covariance_batch_size: self.covariance_batch_size,
            covariance_inputs: self.covariance_inputs,
            solving: Solving { solver: self.solver, tolerance: self.tolerance },
            precision: self.precision,
        }
    }
}

struct SvdFlat {
    config: SvdFlatConfig,
    projections: Projections,
}

impl SvdFlat {
    /// Whether what it learns changes between steps, and belongs into every checkpoint.
    fn by_steps(&self) -> bool {
        matches!(self.config.refresh, Refresh::Steps { .. })
    }
}

impl Persist for SvdFlat {
    fn state(&self) -> Result<State> {
        if self.by_steps() { self.projections.save() } else { Ok(State::default()) }
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        if self.by_steps() {
            self.projections.load(&self.config.learning(), state)
        } else {
            state.expect_empty()
        }
    }
}

impl GradientModifier for SvdFlat {
    fn needs(&self) -> &'static [Need] {
        &[Need::SeveralModalities]
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        self.config.learning().check(run)
    }

    fn watches(&self) -> &[GroupId] {
        self.projections.watches()
    }

    fn modify(&mut self, gradients: &mut Grads, step: &StepView<'_>) -> Result<()> {
        self.projections.apply(self.config.several_sources, gradients)?;
        // Afterwards: a step is not modified by its own features.
        self.projections.see(&self.config.learning(), step)
    }

    fn refresh(&mut self, run: &mut dyn RunOps, at: &Boundary) -> Result<Option<Value>> {
        self.projections.learn(&self.config.learning(), run, at)
    }

    fn refreshed(&self) -> Result<State> {
        if self.by_steps() { Ok(State::default()) } else { self.projections.save() }
    }

    fn load_refreshed(&mut self, state: State) -> Result<()> {
        if self.by_steps() {
            return state.expect_empty();
        }
        self.projections.load(&self.config.learning(), state)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mie_core::projection::Projection;
    use rand_distr::{Distribution as _, StandardNormal};

    use super::*;
    use crate::gradient::fixture::{Modified, blank_view, grads, with_step_view};
    use crate::optimizer::{adam::AdamConfig, sgd::SgdConfig};
    use mie_conformance::stand_in::{Landscape, assert_close};

    /// `P` of the spec's three batches at alpha 0.4.
    const P: [f64; 4] = [0.814_714_140_2, -0.163_567_062_4, -0.163_567_062_4, 0.855_605_906_4];

    fn plugin(config: SvdFlatConfig) -> SvdFlat {
        SvdFlat { config, projections: Projections::default() }
    }

    /// A modifier that multiplies `head.audio.w` by `P`.
    fn with_p() -> SvdFlat {
        let mut plugin = plugin(SvdFlatConfig::default());
        let matrix = Tensor::from_slice(&P).view([2, 2]);
        plugin.projections.put("head.audio.w", Projection::Dense(matrix));
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
        /// Modality one of whose features is larger than that of the others.
        stretched: Option<&'static str>,
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
            Self { layers, requests: Vec::new(), warnings: Vec::new(), stretched: None }
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
            let modality = request.spec.run.first().unwrap();
            for index in 0..3 {
                for layer in &self.layers[modality] {
                    let batch = Self::batch(layer, index);
                    if self.stretched == Some(modality) {
                        let _ = batch.select(1, 0).f_mul_scalar_(4.0)?;
                    }
                    probe.see(layer, &batch)?;
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
        assert_eq!(
            plugin.projections.weights(),
            ["head.image.fc2.weight", "head.image.fc3.weight"]
        );
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
        let found = plugin.projections.of("head.image.fc2.weight")[0].matrix().unwrap();
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
            assert!(plugin.projections.weights().is_empty() && run.requests.is_empty());
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
        for weight in plain.projections.weights() {
            let found = plain.projections.of(weight)[0].matrix().unwrap();
            let other = normalised.projections.of(weight)[0].matrix().unwrap();
            assert!((found - other).abs().max().double_value(&[]) < 1e-6);
        }
        let largest = |report: &Value| report[0]["layers"][0]["largest"].as_f64().unwrap();
        assert!((largest(&report) / largest(&divided) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn scopes_choose_layers_by_share_and_by_name() {
        let run = MadeUp::text_and_image();
        let chosen = |scope| {
            let config = SvdFlatConfig { scope, ..SvdFlatConfig::default() };
            config.learning().scope.layers_of(&run, "text")
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
    fn what_a_refresh_computed_is_saved_and_loaded() {
        let (before, _, _) = refreshed(SvdFlatConfig::default(), "image", &["text"]);
        let mut after = plugin(SvdFlatConfig::default());
        after.load_refreshed(before.refreshed().unwrap()).unwrap();
        let gradient = Tensor::randn([4, 8], (Kind::Float, Device::Cpu));
        for weight in before.projections.weights() {
            let matrix = |plugin: &SvdFlat| plugin.projections.of(weight)[0].matrix().unwrap();
            assert_eq!(matrix(&after), matrix(&before));
        }
        let apply =
            |plugin: &SvdFlat| plugin.projections.of("head.image.fc2.weight")[0].apply(&gradient);
        assert_eq!(apply(&before).unwrap(), apply(&after).unwrap());
    }

    #[test]
    fn several_sources_on_a_shared_head_keep_apart_and_are_joined() {
        let three = || {
            let of = |modality: &str| {
                let encoder = GroupId::Encoder(modality.to_owned());
                let head = layer(&GroupId::SharedHead, "fc1", &[3, 8]);
                (modality.to_owned(), vec![layer(&encoder, "fc1", &[8, 6]), head])
            };
            let layers = ["depth", "flow", "rgb"].map(of).into();
            MadeUp { layers, stretched: Some("rgb"), ..MadeUp::text_and_image() }
        };
        let gradient = Tensor::randn([3, 8], (Kind::Float, Device::Cpu));
        let of_sources = |sources: &[&str], several_sources| {
            let config = SvdFlatConfig { several_sources, ..SvdFlatConfig::default() };
            let (mut plugin, mut run) = (plugin(config), three());
            plugin.refresh(&mut run, &phase(1, "depth", sources)).unwrap().unwrap();
            let weight = run.layers["depth"][1].weight.clone();
            let found = plugin.projections.of(&weight.path).len();
            assert_eq!(found, sources.len());
            let mut grads = Grads::default();
            grads.sum.insert(weight.clone(), gradient.copy());
            with_step_view(|view| plugin.modify(&mut grads, view)).unwrap();
            grads.sum[&weight].copy()
        };
        let flow = of_sources(&["flow"], SeveralSources::Average);
        let rgb = of_sources(&["rgb"], SeveralSources::Average);
        assert!((&flow - &rgb).abs().max().double_value(&[]) > 1e-3);
        let mean = of_sources(&["flow", "rgb"], SeveralSources::Average);
        assert!((mean - (&flow + &rgb) / 2.0).abs().max().double_value(&[]) < 1e-6);
        let composed = of_sources(&["flow", "rgb"], SeveralSources::Compose);
        assert!((&composed - &rgb).abs().max().double_value(&[]) > 1e-3);
    }

    fn epoch_start(epoch: usize, trained: &str, source: &[&str]) -> Boundary {
        Boundary { moment: Moment::EpochStart, epoch, ..phase(1, trained, source) }
    }

    #[test]
    fn by_epoch_it_passes_again_before_each_epoch_but_the_first() {
        for (refresh, passes) in [(Refresh::Phase, 1), (Refresh::Epoch, 3)] {
            let config = SvdFlatConfig { refresh, ..SvdFlatConfig::default() };
            let (mut plugin, mut run, _) = refreshed(config, "image", &["text"]);
            for epoch in 0..3 {
                let report = plugin.refresh(&mut run, &epoch_start(epoch, "image", &["text"]));
                let due = refresh == Refresh::Epoch && epoch > 0;
                assert_eq!(report.unwrap().is_some(), due, "{refresh:?} {epoch}");
            }
            assert_eq!(run.requests.len(), passes, "{refresh:?}");
            let weights = ["head.image.fc2.weight", "head.image.fc3.weight"];
            assert_eq!(plugin.projections.weights(), weights);
            assert_eq!(plugin.projections.of(weights[0]).len(), 1);
        }
    }

    #[test]
    fn what_would_hardly_change_is_kept_and_the_report_says_so() {
        // The made-up data are the same at every pass: nothing drifts.
        for (drift_tolerance, kept) in [(0.0, false), (1e-3, true)] {
            let config =
                SvdFlatConfig { refresh: Refresh::Epoch, drift_tolerance, ..Default::default() };
            let (before, mut run, _) = refreshed(config.clone(), "image", &["text"]);
            // What it is held against is saved with the projections.
            let mut after = plugin(config);
            after.load_refreshed(before.refreshed().unwrap()).unwrap();
            let report = after.refresh(&mut run, &epoch_start(1, "image", &["text"]));
            let layers = report.unwrap().unwrap()[0]["layers"].clone();
            assert_eq!(layers.as_array().unwrap().len(), 2);
            for layer in layers.as_array().unwrap() {
                assert_eq!(layer["kept"] == true, kept, "{layer}");
                assert_eq!(layer["drift"].is_number(), kept, "{layer}");
                assert!(layer["layer"].as_str().unwrap().starts_with("head.image.fc"));
            }
        }
    }

    #[test]
    fn a_drift_above_the_tolerance_is_learnt_anew() {
        let config = SvdFlatConfig {
            refresh: Refresh::Epoch,
            drift_tolerance: 1e-3,
            covariance_batch_size: None,
            ..Default::default()
        };
        let (mut plugin, mut run, _) = refreshed(config, "text", &["image"]);
        // Further batches of the same features, but for one direction.
        let before = plugin.projections.of("head.text.fc1.weight")[0].matrix().unwrap();
        run.stretched = Some("image");
        let report = plugin.refresh(&mut run, &epoch_start(1, "text", &["image"])).unwrap();
        let layer = report.unwrap()[0]["layers"][0].clone();
        assert!(layer["kept"].is_null() && layer["drift"].as_f64().unwrap() > 1e-3, "{layer}");
        let after = plugin.projections.of("head.text.fc1.weight")[0].matrix().unwrap();
        assert!((after - before).abs().max().double_value(&[]) > 1e-3);
    }

    /// Lets a modifier see a step in which the layers of `modality` saw the batch `index`.
    fn seen(plugin: &mut SvdFlat, run: &MadeUp, modality: &str, index: i64) {
        let layers = run.layers[modality].iter();
        let inputs = layers.map(|layer| (layer.name.clone(), MadeUp::batch(layer, index)));
        let (inputs, trained) = (inputs.collect(), [modality.to_owned()].into());
        let (parameters, outputs) = (Parameters::default(), Outputs::default());
        let labels = Tensor::zeros([0], (Kind::Int64, Device::Cpu));
        let view = blank_view(&parameters, &outputs, &labels, &inputs, &trained);
        plugin.modify(&mut Grads::default(), &view).unwrap();
    }

    #[test]
    fn by_steps_p_is_that_of_the_running_covariance_and_resumes_bit_for_bit() {
        let refresh = Refresh::Steps { every: 3, decay: 0.5 };
        let config = SvdFlatConfig { refresh, ..SvdFlatConfig::default() };
        let mut run = MadeUp::text_and_image();
        let mut first = plugin(config.clone());
        let mut start = phase(0, "image", &[]);
        start.trained.push("text".to_owned());
        assert_eq!(first.refresh(&mut run, &start).unwrap(), None);
        assert!(run.requests.is_empty() && run.warnings.is_empty(), "{:?}", run.warnings);
        let head = |name: &str| GroupId::Head(name.to_owned());
        assert_eq!(first.watches(), [head("image"), head("text")]);
        let layer = run.layers["text"][1].clone();
        let mut sum = Tensor::zeros([8, 8], (Kind::Double, Device::Cpu));
        for index in 0..6 {
            seen(&mut first, &run, "text", index);
            let mean = MadeUp::batch(&layer, index).to_kind(Kind::Double);
            let mean = mean.mean_dim(0i64, true, None::<Kind>);
            sum = sum * 0.5 + mean.tr().matmul(&mean);
            assert_eq!(first.projections.weights().is_empty(), index < 2, "step {index}");
            if index == 3 {
                let mut second = plugin(config.clone());
                second.load_state(first.state().unwrap()).unwrap();
                assert_eq!(second.watches(), first.watches());
                first = second;
            }
        }
        let (values, vectors) = sum.linalg_eigh("L");
        let (low, high) = (values.min(), values.max());
        let factors = ((&values - &low) / (&high - &low) * -0.4).exp();
        let expected = (&vectors * factors.unsqueeze(0)).matmul(&vectors.tr());
        let found = first.projections.of("head.image.fc2.weight")[0].matrix().unwrap();
        assert!((found - expected).abs().max().double_value(&[]) < 1e-5);
        // The same without a break in between.
        let mut through = plugin(config);
        through.refresh(&mut run, &start).unwrap();
        (0..6).for_each(|index| seen(&mut through, &run, "text", index));
        let matrix =
            |plugin: &SvdFlat| plugin.projections.of("head.image.fc2.weight")[0].matrix().unwrap();
        assert_eq!(matrix(&through), matrix(&first));
        // What happened is told at the next epoch.
        let report = first.refresh(&mut run, &epoch_start(1, "image", &[])).unwrap().unwrap();
        assert_eq!(report.as_array().unwrap().len(), 2);
        assert_eq!(report[0]["layers"][0]["batches"], 3);
    }

    #[test]
    fn by_steps_a_source_that_does_not_train_is_warned_of() {
        let refresh = Refresh::Steps { every: 3, decay: 1.0 };
        let config = SvdFlatConfig { refresh, ..SvdFlatConfig::default() };
        let (plugin, run, _) = refreshed(config, "image", &["text"]);
        assert!(run.warnings[0].contains("`text` is not trained in this phase"));
        // The pass at the start of the phase still counts.
        assert_eq!(run.requests.len(), 1);
        assert!(!plugin.projections.weights().is_empty());
    }

    #[test]
    fn refreshes_that_cannot_be_are_refused() {
        let steps = |every, decay| SvdFlatConfig {
            refresh: Refresh::Steps { every, decay },
            ..SvdFlatConfig::default()
        };
        for (config, option) in [
            (steps(0, 0.9), "`refresh.steps.every`"),
            (steps(5, 0.0), "`refresh.steps.decay`"),
            (steps(5, 1.1), "`refresh.steps.decay`"),
            (SvdFlatConfig { drift_tolerance: -1.0, ..Default::default() }, "`drift_tolerance`"),
            (SvdFlatConfig { drift_tolerance: 0.1, ..Default::default() }, "`drift_tolerance`"),
            (SvdFlatConfig { normalise: true, ..steps(5, 0.9) }, "`normalise`"),
            (SvdFlatConfig { tolerance: 0.0, ..Default::default() }, "`tolerance`"),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(option), "{error}");
        }
        let shared = layer(&GroupId::SharedHead, "fc1", &[3, 8]);
        let layers = [("text".to_owned(), vec![shared])].into();
        let shape = RunShape { layers, batch_size: 2, ..RunShape::default() };
        let error = plugin(steps(5, 0.9)).check(&shape).unwrap_err().to_string();
        assert!(error.contains("head.shared = false"), "{error}");
    }
}
