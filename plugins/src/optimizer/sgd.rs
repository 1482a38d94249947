//! Stochastic gradient descent with momentum and weight decay.

use mie_core::prelude::*;

use super::memory::{Factor, PerParameter};

/// Steps against the gradient, with momentum and L2 weight decay.
///
/// With `g` the gradient of a weight `w`, `f` the factor that schedules put on the learning rate
/// and a velocity `v` that starts at 0:
///
/// ```text
/// d <- g + weight_decay w
/// v <- momentum v + d
/// w <- w - learning_rate f v                      (nesterov = false)
/// w <- w - learning_rate f (d + momentum v)       (nesterov = true)
/// ```
///
/// These are PyTorch's semantics: the learning rate is not part of the velocity, and weight decay
/// acts on every parameter, biases and normalisation included. Gradient modifiers act on `g`,
/// before the decay. A parameter without a gradient keeps weight and velocity.
///
/// Source: Polyak 1964; Nesterov's form after Sutskever et al. 2013.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// Learning rate before schedules, above 0. The default, 0.01, is that of the method's
    /// audio-video and gesture experiments.
    pub learning_rate: f64,
    /// Share of the velocity that survives a step, in `[0, 1)`; 0 keeps no velocity. The default,
    /// 0.9, is that of the same experiments.
    pub momentum: f64,
    /// Factor of the weight that is added to its gradient, at least 0. The default, 1e-4, is that
    /// of the same experiments.
    pub weight_decay: f64,
    /// Whether to look ahead along the velocity; needs momentum. Off by default.
    pub nesterov: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { learning_rate: 0.01, momentum: 0.9, weight_decay: 1e-4, nesterov: false }
    }
}

#[typetag::serde(name = "sgd")]
impl OptimizerConfig for SgdConfig {
    fn validate(&self) -> Result<()> {
        let Self { learning_rate, momentum, weight_decay, nesterov } = *self;
        let above_zero = learning_rate > 0.0 && learning_rate.is_finite();
        ensure_range("learning_rate", "(0, inf)", learning_rate, above_zero)?;
        ensure_range("momentum", "[0, 1)", momentum, (0.0..1.0).contains(&momentum))?;
        let not_negative = weight_decay >= 0.0 && weight_decay.is_finite();
        ensure_range("weight_decay", "[0, inf)", weight_decay, not_negative)?;
        let possible = !nesterov || momentum > 0.0;
        ensure_range("nesterov", "false while `momentum` is 0", nesterov, possible)
    }

    fn build(&self) -> Result<Box<dyn Optimizer>> {
        self.validate()?;
        Ok(Box::new(Sgd { config: self.clone(), velocity: PerParameter::default() }))
    }
}
register!(
    optimizer::<SgdConfig>,
    source = "Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html"
);

struct Sgd {
    config: SgdConfig,
    velocity: PerParameter,
}

impl Optimizer for Sgd {
    fn step(&mut self, problem: &mut dyn Problem) -> Result<()> {
        let gradients = problem.gradients(Ask::DESCENT)?;
        let Self { config, velocity } = self;
        let (mut decay, mut inertia, mut scale) =
            (Factor::default(), Factor::default(), Factor::default());
        problem.apply(gradients, &mut |context, gradient| {
            if config.weight_decay > 0.0 {
                let decay = decay.of(config.weight_decay, gradient)?;
                let _ = gradient.f_addcmul_(context.value, decay)?;
            }
            let rate = -config.learning_rate * context.learning_rate_factor;
            if config.momentum > 0.0 {
                let velocity = velocity.of(context.id, gradient)?;
                let inertia = inertia.of(config.momentum, gradient)?;
                let _ = gradient.f_addcmul_out(velocity, velocity, inertia)?;
                if !config.nesterov {
                    // Scales while it copies: one pass over the tensor instead of two.
                    let _ = velocity.f_mul_out(gradient, scale.of(rate, gradient)?)?;
                    return Ok(());
                }
                let _ = gradient.f_addcmul_(velocity, inertia)?;
            }
            let _ = gradient.f_mul_scalar_(rate)?;
            Ok(())
        })
    }

    fn reset(&mut self) {
        self.velocity = PerParameter::default();
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }
}

impl Persist for Sgd {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        self.velocity.save("velocity", &mut state)?;
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.velocity = PerParameter::take_from(&mut state, "velocity");
        state.expect_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{
        Landscape, assert_agrees_with_libtorch, assert_close, assert_keeps_its_state, bits,
        given_gradients,
    };

    #[test]
    fn two_steps_match_the_worked_example() {
        // Gradients (1, 0) and (0, 2) times the projection P of the worked example with
        // alpha = 0.4; decay is added after it.
        let gradients = [[0.814_714_140_2, -0.163_567_062_4], [-0.327_134_124_8, 1.711_211_811_6]];
        let mut landscape = given_gradients([1.0, -1.0], gradients);
        let mut optimizer = SgdConfig::default().build().unwrap();
        for expected in [[0.991_851_858_6, -0.998_363_329_4], [0.987_788_880_7, -1.014_001_445_6]] {
            optimizer.step(&mut landscape).unwrap();
            assert_close(landscape.weight("head.audio.w"), &expected, 1e-9);
        }
    }

    #[test]
    fn fifty_steps_agree_with_libtorch() {
        for (momentum, weight_decay, nesterov) in
            [(0.0, 0.0, false), (0.0, 0.05, false), (0.9, 1e-4, false), (0.9, 0.05, true)]
        {
            let config = SgdConfig { learning_rate: 0.02, momentum, weight_decay, nesterov };
            let theirs = tch::nn::Sgd { momentum, dampening: 0.0, wd: weight_decay, nesterov };
            assert_agrees_with_libtorch(&config, theirs, 0.02);
        }
    }

    #[test]
    fn a_saved_velocity_goes_on_and_a_reset_forgets_it() {
        assert_keeps_its_state(&SgdConfig::default());
    }

    #[test]
    fn a_weight_without_gradient_neither_moves_nor_decays() {
        let weights = [
            (GroupId::Encoder("audio".to_owned()), "w", Tensor::from_slice(&[1.0, 2.0])),
            (GroupId::Encoder("video".to_owned()), "w", Tensor::from_slice(&[1.0, 2.0])),
        ];
        let mut landscape =
            Landscape::new(weights, |visit| visit.weight("encoder.audio.w").sum(Kind::Double));
        let config = SgdConfig { weight_decay: 0.5, ..SgdConfig::default() };
        let mut optimizer = config.build().unwrap();
        optimizer.step(&mut landscape).unwrap();
        let still = bits(&Tensor::from_slice(&[1.0, 2.0]));
        assert_eq!(bits(landscape.weight("encoder.video.w")), still);
        assert_ne!(bits(landscape.weight("encoder.audio.w")), still);
        let state = optimizer.state().unwrap();
        assert_eq!(state.tensors.keys().collect::<Vec<_>>(), ["velocity.encoder.audio.w"]);
    }

    #[test]
    fn schedules_scale_the_step() {
        let mut landscape = given_gradients([1.0, 1.0], [[1.0, 2.0], [0.0, 0.0]]);
        landscape.learning_rate_factor = 0.1;
        let config = SgdConfig { learning_rate: 0.5, weight_decay: 0.0, ..SgdConfig::default() };
        config.build().unwrap().step(&mut landscape).unwrap();
        assert_close(landscape.weight("head.audio.w"), &[0.95, 0.9], 1e-12);
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let good = SgdConfig::default();
        for (bad, field) in [
            (SgdConfig { learning_rate: 0.0, ..good.clone() }, "learning_rate"),
            (SgdConfig { learning_rate: f64::NAN, ..good.clone() }, "learning_rate"),
            (SgdConfig { momentum: 1.0, ..good.clone() }, "momentum"),
            (SgdConfig { weight_decay: -1.0, ..good.clone() }, "weight_decay"),
            (SgdConfig { momentum: 0.0, nesterov: true, ..good.clone() }, "nesterov"),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
    }
}
