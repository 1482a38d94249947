//! On-the-fly gradient modulation: slows the encoder of the modality that leads.

use mie_core::imbalance;
use mie_core::prelude::*;
use mie_core::random::standard_normal;

/// Shrinks encoder gradients of modalities that lead, and adds noise to keep exploring.
///
/// With `z_m` the unimodal split of the joint logits, `y` the labels and `g` the gradient of a
/// weight of the encoder of `m`:
///
/// ```text
/// s_m   = sum_k softmax(z_m,k)_(y_k)         rho_m = s_m / mean_(n != m) s_n
/// k_m   = 1 - tanh(alpha rho_m)   if rho_m > 1, else 1
/// OGM     g <- k_m g
/// OGM-GE  g <- k_m g + N(0, (std(g) + 1e-8)^2)
/// ```
///
/// `std(g)` is over all entries of the unscaled tensor. Noise goes to the encoders of all
/// modalities, leading or not; it has a stream of its own, named by seed, step and weight. Acts in
/// the epochs `start_epoch` to `end_epoch` of a phase, on weights in `scope`; heads, biases and
/// normalisations are left alone. For two modalities it is the rule of the released code; for more
/// there are three published ones that contradict each other, and `rho` is ours.
///
/// Deviation: the paper's noise has the covariance of the gradient, the released code's one
/// deviation for each tensor; so has ours. Under Adam a gradient that is scaled slowly makes the
/// same step: there the method does little but add noise.
///
/// Needs an additive fusion; with `response = "alone"` any with joint logits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OgmGeConfig {
    /// Strength, at least 0; 0 scales nothing. Published settings lie between 0.1 and 1; the
    /// default, 0.1, is that of a comparison on CREMA-D. To be chosen on validation data.
    pub alpha: f64,
    /// Whether noise is added (OGM-GE) or not (OGM). On by default.
    pub noise: bool,
    /// First epoch of a phase with modulation, from 0. Default 0, the released code's.
    pub start_epoch: usize,
    /// Last epoch of a phase with modulation. Default 50, the released code's.
    pub end_epoch: usize,
    /// Weights that are modulated. Convolutions, or matrices where an encoder has none, by default.
    pub scope: Weights,
    /// What a modality's logits are.
    pub response: Response,
}

/// Weights that are modulated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Convolutions where an encoder has some, and else all its weight matrices.
    #[default]
    Auto,
    /// Weights of four dimensions, as in the released code.
    Convolutions,
    /// Weights of two dimensions or more.
    Matrices,
    /// Everything: biases and normalisations too.
    All,
}

/// What a modality's logits are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Its part of the joint logits; needs an additive fusion.
    #[default]
    Split,
    /// The joint logits with the features of the others set to 0; for any fusion, ours.
    Alone,
}

impl Default for OgmGeConfig {
    fn default() -> Self {
        Self {
            alpha: 0.1,
            noise: true,
            start_epoch: 0,
            end_epoch: 50,
            scope: Weights::default(),
            response: Response::default(),
        }
    }
}

#[typetag::serde(name = "ogm_ge")]
impl GradientModifierConfig for OgmGeConfig {
    fn validate(&self) -> Result<()> {
        let usable = self.alpha >= 0.0 && self.alpha.is_finite();
        ensure_range("alpha", "[0, inf)", self.alpha, usable)?;
        let expected = format!("at least `start_epoch`, which is {}", self.start_epoch);
        ensure_range("end_epoch", &expected, self.end_epoch, self.end_epoch >= self.start_epoch)
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(OgmGe { config: self.clone() }))
    }
}

register!(gradient_modifier::<OgmGeConfig>, source = "Peng et al. 2022, arXiv:2203.15332");

struct OgmGe {
    config: OgmGeConfig,
}

impl OgmGe {
    /// Factor `k_m` of each modality: `[modalities]`.
    fn factors(&self, logits: &ByModality<Tensor>, labels: &Tensor) -> Result<Tensor> {
        let ratios = imbalance::against_the_others(&imbalance::scores(logits, labels)?)?;
        let damped =
            ratios.f_mul_scalar(self.config.alpha)?.f_tanh()?.f_neg()?.f_add_scalar(1.0)?;
        // Chosen on the device: no step waits for the host.
        Ok(damped.f_where_self(&ratios.f_gt(1.0)?, &damped.f_ones_like()?)?)
    }

    /// Whether a weight of an encoder is modulated.
    fn in_scope(&self, dimensions: usize, has_convolutions: bool) -> bool {
        match self.config.scope {
            Weights::Auto if has_convolutions => dimensions == 4,
            Weights::Convolutions => dimensions == 4,
            Weights::Auto | Weights::Matrices => dimensions >= 2,
            Weights::All => true,
        }
    }
}

impl Persist for OgmGe {}

impl GradientModifier for OgmGe {
    fn needs(&self) -> &'static [Need] {
        match self.config.response {
            Response::Split => &[Need::AdditiveFusion, Need::SeveralModalities],
            Response::Alone => &[Need::UnimodalResponses, Need::SeveralModalities],
        }
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        run.expect_joint_steps()
    }

    fn modify(&mut self, gradients: &mut Grads, step: &StepView<'_>) -> Result<()> {
        if !(self.config.start_epoch..=self.config.end_epoch).contains(&step.epoch) {
            return Ok(());
        }
        let Some(logits) = step.split.or(step.responses) else {
            return Err(Error::Bug("the unimodal logits were not computed".to_owned()));
        };
        let factors = self.factors(logits, step.labels)?;
        for (index, name) in logits.keys().enumerate() {
            let factor = factors.f_get(index as i64)?;
            let encoder = GroupId::Encoder(name.clone());
            let mut own: Vec<(&ParamId, &mut Tensor)> =
                gradients.sum.iter_mut().filter(|(id, _)| id.group == encoder).collect();
            let has_convolutions = own.iter().any(|(_, gradient)| gradient.dim() == 4);
            for (id, gradient) in &mut own {
                if !self.in_scope(gradient.dim(), has_convolutions) {
                    continue;
                }
                let noise = if self.config.noise && gradient.numel() > 1 {
                    let counters = [step.step, step.part];
                    let stream = format!("ogm_ge {id}");
                    let number = step.seed.number(Purpose::Plugin, &stream, &counters);
                    let deviation = gradient.f_std(true)?.f_add_scalar(1e-8)?;
                    Some(standard_normal(number, gradient)?.f_mul_(&deviation)?)
                } else {
                    None
                };
                let _ = gradient.f_mul_(&factor)?;
                if let Some(noise) = noise {
                    let _ = gradient.f_add_(&noise)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::gradient::fixture::blank_view;
    use mie_conformance::stand_in::{assert_close, bits, entries};

    fn worked() -> ByModality<Tensor> {
        let z = |rows: [f64; 4]| Tensor::from_slice(&rows).view([2, 2]);
        [("audio", z([2.0, 0.0, 1.0, 0.0])), ("video", z([0.0; 4]))]
            .map(|(name, z)| (name.to_owned(), z))
            .into()
    }

    fn plugin(alpha: f64, noise: bool) -> OgmGe {
        OgmGe { config: OgmGeConfig { alpha, noise, ..OgmGeConfig::default() } }
    }

    #[test]
    fn factors_are_those_of_the_worked_example() {
        let labels = Tensor::from_slice(&[0i64, 0]);
        for (alpha, expected) in [(0.1, 0.840_196), (0.3, 0.550_912), (1.0, 0.076_566)] {
            let found = plugin(alpha, false).factors(&worked(), &labels).unwrap();
            assert_close(&found, &[expected, 1.0], 1e-6);
        }
    }

    #[test]
    fn with_three_modalities_the_one_above_the_mean_of_the_others_is_damped() {
        // Scores 12, 6 and 3: k = 1 - tanh(0.3 * 8/3) for the first.
        let ratios = imbalance::against_the_others(&Tensor::from_slice(&[12.0, 6.0, 3.0])).unwrap();
        let damped = 1.0 - (ratios * 0.3).tanh().double_value(&[0]);
        assert!((damped - 0.335_963).abs() < 1e-6, "{damped}");
    }

    /// Gradients of a convolution, its bias, and a head.
    fn gradients() -> Grads {
        let ramp = |size: &[i64]| {
            let count = size.iter().product::<i64>();
            Tensor::arange(count, (Kind::Float, Device::Cpu)).sin().view(size)
        };
        let id = |group: GroupId, name: &str| {
            let path = format!("{group}.{name}").into();
            ParamId { group, path }
        };
        let encoder = |name: &str| GroupId::Encoder(name.to_owned());
        let sum = ByParam::from([
            (id(encoder("audio"), "conv.weight"), ramp(&[4, 3, 3, 3])),
            (id(encoder("audio"), "conv.bias"), ramp(&[4])),
            (id(encoder("audio"), "fc.weight"), ramp(&[4, 3])),
            (id(encoder("video"), "fc.weight"), ramp(&[40, 30])),
            (id(GroupId::JointHead, "fc.weight"), ramp(&[4, 3])),
        ]);
        Grads { sum, by_term: BTreeMap::new() }
    }

    fn modified(plugin: &mut OgmGe, epoch: usize, step: u64) -> BTreeMap<String, Tensor> {
        let (parameters, outputs) = (Parameters::default(), Outputs::default());
        let (split, labels) = (worked(), Tensor::from_slice(&[0i64, 0]));
        let (inputs, trained) = (BTreeMap::new(), BTreeSet::new());
        let view = blank_view(&parameters, &outputs, &labels, &inputs, &trained);
        let view = StepView { split: Some(&split), epoch, step, ..view };
        let mut gradients = gradients();
        plugin.modify(&mut gradients, &view).unwrap();
        gradients.sum.into_iter().map(|(id, gradient)| (id.path.to_string(), gradient)).collect()
    }

    #[test]
    fn only_weights_of_encoders_in_scope_are_scaled_and_only_in_its_epochs() {
        let plain = gradients().sum;
        let found = modified(&mut plugin(0.3, false), 0, 0);
        for (id, before) in &plain {
            let after = &found[&*id.path];
            let factor = if &*id.path == "encoder.audio.conv.weight" { 0.550_912 } else { 1.0 };
            assert_close(after, &entries(&(before * factor)), 1e-6);
        }
        let late = modified(&mut plugin(0.3, true), 51, 0);
        assert!(plain.iter().all(|(id, before)| bits(before) == bits(&late[&*id.path])));
    }

    #[test]
    fn noise_has_the_deviation_of_the_unscaled_gradient_and_a_stream_of_its_own() {
        let plain = &gradients().sum;
        let weight = "encoder.video.fc.weight";
        let before = plain.iter().find(|(id, _)| &*id.path == weight).unwrap().1;
        let first = &modified(&mut plugin(0.3, true), 0, 0)[weight];
        let noise = first - before;
        let ratio = noise.std(true).double_value(&[]) / before.std(true).double_value(&[]);
        // 1,200 draws: three standard errors are 0.06.
        assert!((ratio - 1.0).abs() < 0.06, "{ratio}");
        assert_eq!(bits(first), bits(&modified(&mut plugin(0.3, true), 0, 0)[weight]));
        assert_ne!(bits(first), bits(&modified(&mut plugin(0.3, true), 0, 1)[weight]));
    }

    #[test]
    fn a_strength_of_nothing_without_noise_keeps_every_bit() {
        let found = modified(&mut plugin(0.0, false), 0, 0);
        for (id, before) in &gradients().sum {
            assert_eq!(bits(before), bits(&found[&*id.path]));
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let error = OgmGeConfig { alpha: -0.1, ..OgmGeConfig::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "`alpha` is -0.1, expected [0, inf)");
        let config = OgmGeConfig { start_epoch: 9, end_epoch: 3, ..OgmGeConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("`start_epoch`, which is 9"));
    }
}
