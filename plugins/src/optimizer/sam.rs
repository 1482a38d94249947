//! Sharpness-aware minimisation around any other optimizer.

use std::collections::BTreeMap;

use mie_core::prelude::*;

use super::sgd::SgdConfig;
use super::sharp::{Search, Sharp, validate_base};

/// Lets another optimizer step by the gradient at the worst point nearby.
///
/// With `L` the loss of the batch, `w` the active weights and `g_0` its gradient there:
///
/// ```text
/// g_0 = grad L(w)
/// e   = rho g_0 / (||g_0|| + 1e-12)
/// g_1 = grad L(w + e)
/// g   = (1 - mix) g_0 + mix g_1          goes to gradient modifiers, then to `base`
/// ```
///
/// The weights are put back bit for bit before the step, from a copy. `e` comes from the raw
/// gradient: modifiers see `g` alone. Statistics of batch normalisation are updated in the first
/// pass only; the second normalises by its batch and keeps none. A radius of 0 for every active
/// group leaves one pass, and equals `base` bit for bit: `mix` and `original_labels` then have no
/// effect.
///
/// The released code of MIE differs from its paper. It takes `norm = "per_tensor"`,
/// `second_pass = "head_only"`, `mix = 0.3`, `original_labels = true`, `restore = false` and a
/// radius of 1e-10 or 1e-15, which is too small to change most f32 weights. It is offered for
/// comparison: with a radius that matters, weights that are not restored drift uphill by it every
/// step.
///
/// Source: Foret et al. 2021, Algorithm 1.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamConfig {
    /// Optimizer that makes the step, not `sam` again; its learning rate is the one that counts.
    /// `sgd` by default.
    pub base: Box<dyn OptimizerConfig>,
    /// Radius of the displacement, in the unit of the weights, at least 0; 0 switches it off. The
    /// default, 0.05, is Foret et al.'s.
    pub rho: f64,
    /// Radius for the encoder, the head and the taps of single modalities, in place of `rho`.
    pub rho_by_modality: BTreeMap<String, f64>,
    /// Over what the norm is taken. All active weights by default.
    pub norm: Norm,
    /// Which weights the second pass sees displaced. All by default.
    pub second_pass: SecondPass,
    /// Weight of the second gradient, in `[0, 1]`; the rest is the first one's. The default, 1, is
    /// Foret et al.'s.
    pub mix: f64,
    /// Whether the second pass is held against the unmixed labels although inputs stay mixed. Off
    /// by default.
    pub original_labels: bool,
    /// Whether weights are put back before the step. Otherwise the displacement of all active
    /// groups, heads and encoders, stays in the weights: `w <- w + e + step`, the step being what
    /// `base` makes of `g` and `w`. On by default.
    pub restore: bool,
    /// Whether the second pass draws the dropout masks of the first. Off by default, as in Foret
    /// et al.
    pub replay_noise: bool,
}

/// Over what the norm of the ascent gradient is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// One norm over all active weights; the whole displacement is `rho` long.
    #[default]
    Global,
    /// A norm for each tensor; each is displaced by `rho`. One with a zero gradient stays.
    PerTensor,
}

/// Which weights the second pass sees displaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecondPass {
    /// All active ones.
    #[default]
    Full,
    /// Heads (own, shared and joint); encoders run at their own weights.
    HeadOnly,
}

impl Default for SamConfig {
    fn default() -> Self {
        Self {
            base: Box::new(SgdConfig::default()),
            rho: 0.05,
            rho_by_modality: BTreeMap::new(),
            norm: Norm::default(),
            second_pass: SecondPass::default(),
            mix: 1.0,
            original_labels: false,
            restore: true,
            replay_noise: false,
        }
    }
}

/// Radius below which f32 weights of usual size stay as they are.
///
/// A weight of 0.05 moves by no less than 2e-9, and of a displacement among a million weights each
/// gets about a thousandth of its length.
const SMALLEST_USEFUL_RHO: f64 = 1e-6;

impl SamConfig {
    /// All radii with the names of their options.
    fn radii(&self) -> impl Iterator<Item = (String, f64)> {
        let by_modality = self
            .rho_by_modality
            .iter()
            .map(|(modality, &rho)| (format!("rho_by_modality.{modality}"), rho));
        std::iter::once(("rho".to_owned(), self.rho)).chain(by_modality)
    }
}

#[typetag::serde(name = "sam")]
impl OptimizerConfig for SamConfig {
    fn validate(&self) -> Result<()> {
        for (field, rho) in self.radii() {
            ensure_range(&field, "[0, inf)", rho, rho >= 0.0 && rho.is_finite())?;
        }
        ensure_range("mix", "[0, 1]", self.mix, (0.0..=1.0).contains(&self.mix))?;
        validate_base(&*self.base)
    }

    fn build(&self) -> Result<Box<dyn Optimizer>> {
        self.validate()?;
        let ascent = Ascent {
            rho: self.rho,
            rho_by_modality: self.rho_by_modality.clone(),
            norm: self.norm,
            second_pass: self.second_pass,
            mix: self.mix,
            original_labels: self.original_labels,
            restore: self.restore,
            replay_noise: self.replay_noise,
        };
        Ok(Box::new(Sam { ascent, base: self.base.build()? }))
    }

    fn base(&self) -> Option<&dyn OptimizerConfig> {
        Some(&*self.base)
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("rho", 0.0)]
    }

    fn modalities(&self) -> Vec<String> {
        self.rho_by_modality.keys().cloned().chain(self.base.modalities()).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.base.warnings();
        for (field, rho) in self.radii() {
            if rho > 0.0 && rho < SMALLEST_USEFUL_RHO {
                warnings.push(format!(
                    "`{field}` is {rho:e}: float32 weights will not change by so little, so the \
                     second pass repeats the first; 0 saves its time, 0.05 is a usual radius"
                ));
            } else if rho > 0.0 && !self.restore {
                warnings.push(format!(
                    "`restore` is false with `{field}` = {rho}: every step also moves the weights \
                     uphill by that distance"
                ));
            }
        }
        warnings
    }
}
register!(optimizer::<SamConfig>, source = "Foret et al. 2021, arXiv:2010.01412");

struct Sam {
    ascent: Ascent,
    base: Box<dyn Optimizer>,
}

impl Optimizer for Sam {
    fn step(&mut self, problem: &mut dyn Problem) -> Result<()> {
        let ascent = &self.ascent;
        if problem.active().iter().all(|group| ascent.radius(group) <= 0.0) {
            return self.base.step(problem);
        }
        let search = Search {
            displacement: &|gradients, _| ascent.displacement(gradients),
            seen: &|displacement| ascent.seen(displacement),
            mix: ascent.mix,
            original_labels: ascent.original_labels,
            replay_noise: ascent.replay_noise,
            restore: ascent.restore,
        };
        self.base.step(&mut Sharp::new(problem, search))
    }

    fn reset(&mut self) {
        self.base.reset();
    }

    fn learning_rate(&self) -> f64 {
        self.base.learning_rate()
    }
}

/// Remembers nothing of its own: the state is that of the base.
impl Persist for Sam {
    fn state(&self) -> Result<State> {
        self.base.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.base.load_state(state)
    }
}

/// How to look for the worst point nearby.
struct Ascent {
    rho: f64,
    rho_by_modality: BTreeMap<String, f64>,
    norm: Norm,
    second_pass: SecondPass,
    mix: f64,
    original_labels: bool,
    restore: bool,
    replay_noise: bool,
}

impl Ascent {
    fn radius(&self, group: &GroupId) -> f64 {
        let own = group.modality().and_then(|modality| self.rho_by_modality.get(modality));
        own.copied().unwrap_or(self.rho)
    }

    /// Computes `rho g / (||g|| + 1e-12)` for every parameter with a radius above 0.
    fn displacement(&self, gradients: &Grads) -> Result<ByParam> {
        let _guard = no_grad_guard();
        let inverse = |norm: &Tensor| norm.f_add_scalar(1e-12)?.f_reciprocal();
        let shared = match self.norm {
            Norm::Global => Some(inverse(&gradients.norm()?)?),
            Norm::PerTensor => None,
        };
        let mut displacement = ByParam::new();
        for (id, gradient) in &gradients.sum {
            let radius = self.radius(&id.group);
            if radius > 0.0 {
                let scale = match &shared {
                    Some(inverse) => inverse.f_mul_scalar(radius)?,
                    None => inverse(&gradient.f_norm()?)?.f_mul_scalar(radius)?,
                };
                displacement.insert(id.clone(), gradient.f_mul(&scale)?);
            }
        }
        Ok(displacement)
    }

    /// Selects what the second pass sees displaced; copies handles, not contents.
    fn seen(&self, displacement: &ByParam) -> ByParam {
        displacement
            .iter()
            .filter(|(id, _)| match self.second_pass {
                SecondPass::Full => true,
                SecondPass::HeadOnly => {
                    matches!(id.group, GroupId::Head(_) | GroupId::SharedHead | GroupId::JointHead)
                }
            })
            .map(|(id, shift)| (id.clone(), shift.shallow_clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::adam::AdamConfig;
    use mie_conformance::stand_in::{
        Landscape, assert_close, assert_keeps_its_state, bits, entries, tilting_landscape,
    };

    /// Plain gradient descent around which the worked examples are computed.
    fn plain() -> Box<dyn OptimizerConfig> {
        let config = SgdConfig { learning_rate: 0.1, momentum: 0.0, ..SgdConfig::default() };
        Box::new(SgdConfig { weight_decay: 0.0, ..config })
    }

    /// What the released code does, with a radius that has an effect.
    fn released(rho: f64) -> SamConfig {
        SamConfig {
            base: plain(),
            rho,
            norm: Norm::PerTensor,
            mix: 0.3,
            original_labels: true,
            restore: false,
            ..SamConfig::default()
        }
    }

    fn step(config: &SamConfig, landscape: &mut Landscape) {
        config.build().unwrap().step(landscape).unwrap();
    }

    /// `1/2 w^T diag(1, 4) w` from w = (1, 1), in one tensor.
    fn quadratic() -> Landscape {
        let weights = [(GroupId::Head("audio".to_owned()), "w", Tensor::from_slice(&[1.0, 1.0]))];
        Landscape::new(weights, |visit| {
            let w = visit.weight("head.audio.w");
            (w * w * Tensor::from_slice(&[0.5, 2.0])).sum(Kind::Double)
        })
    }

    /// The same function of one weight of an encoder and one of a head.
    fn two_tensors(encoder: &str) -> Landscape {
        let path = format!("encoder.{encoder}.w");
        let weights = [
            (GroupId::Encoder(encoder.to_owned()), "w", Tensor::from_slice(&[1.0])),
            (GroupId::Head("audio".to_owned()), "w", Tensor::from_slice(&[1.0])),
        ];
        Landscape::new(weights, move |visit| {
            let (u, w) = (visit.weight(&path), visit.weight("head.audio.w"));
            (u * u * 0.5 + w * w * 2.0).sum(Kind::Double)
        })
    }

    #[test]
    fn a_global_norm_matches_the_worked_example() {
        let mut landscape = quadratic();
        step(&SamConfig { base: plain(), rho: 0.1, ..SamConfig::default() }, &mut landscape);
        let displaced = landscape.passes[1].weight("head.audio.w");
        assert_close(displaced, &[1.024_253_562_5, 1.097_014_25], 1e-9);
        let weights = landscape.weight("head.audio.w");
        assert_close(weights, &[0.897_574_643_7, 0.561_194_3], 1e-9);
    }

    #[test]
    fn a_norm_per_tensor_matches_the_worked_example() {
        let mut landscape = two_tensors("audio");
        let norm = Norm::PerTensor;
        step(&SamConfig { base: plain(), rho: 0.1, norm, ..SamConfig::default() }, &mut landscape);
        assert_close(landscape.passes[1].weight("encoder.audio.w"), &[1.1], 1e-9);
        assert_close(landscape.passes[1].weight("head.audio.w"), &[1.1], 1e-9);
        assert_close(landscape.weight("encoder.audio.w"), &[0.89], 1e-9);
        assert_close(landscape.weight("head.audio.w"), &[0.56], 1e-9);
    }

    #[test]
    fn the_released_mixture_matches_the_worked_example() {
        let mut landscape = two_tensors("audio");
        step(&released(0.1), &mut landscape);
        assert_close(landscape.weight("encoder.audio.w"), &[0.997], 1e-9);
        assert_close(landscape.weight("head.audio.w"), &[0.688], 1e-9);
        let labels: Vec<_> = landscape.passes.iter().map(|pass| pass.ask.original_labels).collect();
        assert_eq!(labels, [false, true]);
        // The first gradient is part of the step, so modifiers may want its terms.
        assert!(landscape.passes.iter().all(|pass| pass.ask.purpose == AskPurpose::Descent));
    }

    #[test]
    fn with_head_only_the_encoder_runs_at_its_own_weights_but_keeps_its_displacement() {
        let mut landscape = two_tensors("audio");
        let config = SamConfig { second_pass: SecondPass::HeadOnly, ..released(0.1) };
        step(&config, &mut landscape);
        assert_close(landscape.passes[1].weight("encoder.audio.w"), &[1.0], 0.0);
        assert_close(landscape.passes[1].weight("head.audio.w"), &[1.1], 1e-9);
        // 1 + 0.1 - 0.1 (0.7 * 1 + 0.3 * 1) and 1 + 0.1 - 0.1 (0.7 * 4 + 0.3 * 4.4).
        assert_close(landscape.weight("encoder.audio.w"), &[1.0], 1e-9);
        assert_close(landscape.weight("head.audio.w"), &[0.688], 1e-9);
    }

    #[test]
    fn softmax_regression_matches_the_worked_example() {
        let start = Tensor::zeros([2, 2], tch::kind::DOUBLE_CPU);
        let weights = [(GroupId::Head("audio".to_owned()), "w", start)];
        let mut landscape = Landscape::new(weights, |visit| {
            let x = Tensor::from_slice(&[1.0, 2.0]).view([1, 2]);
            let logits = x.matmul(&visit.weight("head.audio.w").tr());
            -logits.log_softmax(-1, Kind::Double).select(1, 0).sum(Kind::Double)
        });
        step(&SamConfig { base: plain(), ..SamConfig::default() }, &mut landscape);

        let (first, second) = (&landscape.passes[0], &landscape.passes[1]);
        assert_eq!(first.ask, Ask::ASCENT);
        assert_eq!(second.ask, Ask::DESCENT);
        let (e0, e1) = (0.015_811_388_3, 0.031_622_776_6);
        assert_close(second.weight("head.audio.w"), &[-e0, -e1, e0, e1], 1e-9);
        assert!((landscape.loss(first) - 2f64.ln()).abs() < 1e-9);
        assert!((landscape.loss(second) - 0.775_325_872_3).abs() < 1e-9);
        let (w0, w1) = (0.053_944_632_5, 0.107_889_265_0);
        assert_close(landscape.weight("head.audio.w"), &[w0, w1, -w0, -w1], 1e-9);
    }

    #[test]
    fn weights_are_put_back_bit_for_bit_before_the_step() {
        let mut landscape = tilting_landscape(Kind::Float);
        let before = landscape.bits();
        // Steps this short vanish in rounding: what is left is what `displaced` left.
        let base = SgdConfig { learning_rate: 1e-30, momentum: 0.0, ..SgdConfig::default() };
        let config = SamConfig { base: Box::new(base), rho: 0.3, ..SamConfig::default() };
        step(&config, &mut landscape);
        let displaced = landscape.passes[1].weight("encoder.audio.weight");
        assert_ne!(bits(displaced), before["encoder.audio.weight"]);
        assert_eq!(landscape.bits(), before);
    }

    #[test]
    fn a_radius_of_zero_equals_the_base_bit_for_bit_in_one_pass() {
        let mut plain = tilting_landscape(Kind::Float);
        let mut wrapped = plain.fork();
        let mut base = SgdConfig::default().build().unwrap();
        let config = SamConfig { base: Box::new(SgdConfig::default()), ..released(0.0) };
        let mut sam = config.build().unwrap();
        for _ in 0..5 {
            base.step(&mut plain).unwrap();
            sam.step(&mut wrapped).unwrap();
        }
        assert_eq!(plain.bits(), wrapped.bits());
        assert_eq!(wrapped.passes.len(), 5);
        assert!(wrapped.passes.iter().all(|pass| pass.ask == Ask::DESCENT));
    }

    #[test]
    fn a_radius_of_its_own_replaces_the_common_one() {
        let mut landscape = two_tensors("video");
        let config = SamConfig {
            base: plain(),
            rho: 0.0,
            rho_by_modality: BTreeMap::from([("video".to_owned(), 0.1)]),
            norm: Norm::PerTensor,
            ..SamConfig::default()
        };
        step(&config, &mut landscape);
        assert_close(landscape.passes[1].weight("encoder.video.w"), &[1.1], 1e-9);
        assert_close(landscape.passes[1].weight("head.audio.w"), &[1.0], 0.0);
    }

    #[test]
    fn a_tensor_with_zero_gradient_is_not_displaced_and_not_nan() {
        for norm in [Norm::PerTensor, Norm::Global] {
            let weights = [(GroupId::Fusion, "w", Tensor::from_slice(&[3.0, 4.0]))];
            let mut landscape =
                Landscape::new(weights, |visit| (visit.weight("fusion.w") * 0.0).sum(Kind::Double));
            step(&SamConfig { norm, ..released(0.1) }, &mut landscape);
            assert_close(landscape.weight("fusion.w"), &[3.0, 4.0], 0.0);
        }
    }

    #[test]
    fn the_released_radius_changes_no_f32_weight_and_is_warned_about() {
        let start = Tensor::from_slice(&[0.05f32, -0.05, 0.05]);
        let weights = [(GroupId::Head("audio".to_owned()), "w", start.copy())];
        let mut landscape = Landscape::new(weights, |visit| {
            let w = visit.weight("head.audio.w");
            (w * w).sum(Kind::Float)
        });
        let config = SamConfig { base: plain(), rho: 1e-10, ..SamConfig::default() };
        step(&config, &mut landscape);
        assert_eq!(bits(landscape.passes[1].weight("head.audio.w")), bits(&start));
        assert_ne!(entries(landscape.weight("head.audio.w")), entries(&start));
        let warnings = config.warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("`rho` is 1e-10: float32 weights will not change"));
        assert!(SamConfig::default().warnings().is_empty());
        assert!(released(0.05).warnings()[0].contains("`restore` is false"));
    }

    #[test]
    fn the_state_is_that_of_the_base() {
        let config = SamConfig { base: Box::new(AdamConfig::default()), ..SamConfig::default() };
        assert_keeps_its_state(&config);
    }

    #[test]
    fn a_base_is_read_from_a_table_and_its_faults_are_named_by_path() {
        let read = |table: serde_json::Value| {
            serde_json::from_value::<Box<dyn OptimizerConfig>>(table).unwrap()
        };
        let good = read(serde_json::json!({
            "name": "sam", "rho": 0.1, "norm": "per_tensor", "second_pass": "head_only",
            "base": { "name": "adam", "learning_rate": 1e-5 },
        }));
        assert!((good.build().unwrap().learning_rate() - 1e-5).abs() < 1e-20);
        for (table, start) in [
            (serde_json::json!({ "name": "sam", "rho": -1.0 }), "`rho` is -1"),
            (serde_json::json!({ "name": "sam", "mix": 1.5 }), "`mix` is 1.5"),
            (
                serde_json::json!({ "name": "sam", "rho_by_modality": { "audio": -0.5 } }),
                "`rho_by_modality.audio` is -0.5",
            ),
            (
                serde_json::json!({ "name": "sam", "base": { "name": "sgd", "momentum": 2.0 } }),
                "`base.momentum` is 2",
            ),
        ] {
            let error = read(table).validate().unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
        assert!(SamConfig { rho: f64::NAN, ..SamConfig::default() }.validate().is_err());
    }

    #[test]
    fn sam_around_sam_is_refused_with_the_reason() {
        let config = SamConfig { base: Box::new(SamConfig::default()), ..SamConfig::default() };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("`base` is `sam`, expected an optimizer that steps"), "{error}");
        assert!(error.contains("add up two radii") && error.contains("larger `rho`"), "{error}");
        assert!(config.build().is_err());
    }
}
