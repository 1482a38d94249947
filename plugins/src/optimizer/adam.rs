//! Adam, with weight decay added to the gradient.

use mie_core::prelude::*;

use super::moments::{Moments, Options};

/// Divides a running mean of the gradient by the root of that of its square.
///
/// With `g` the gradient of a weight `w`, `f` the factor that schedules put on the learning rate
/// and `t` the number of steps of this parameter, from 1:
///
/// ```text
/// d <- g + weight_decay w
/// m <- beta1 m + (1 - beta1) d
/// v <- beta2 v + (1 - beta2) d^2
/// w <- w - learning_rate f (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
/// ```
///
/// These are PyTorch's semantics: `epsilon` stands outside the root, and weight decay goes through
/// the running means (see `adamw` for the decoupled form). Gradient modifiers act on `g`, before
/// the decay. A parameter without a gradient keeps everything, its step count too.
///
/// Source: Kingma and Ba 2015, Algorithm 1.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Learning rate before schedules, above 0. The default, 1e-3, is the paper's; the method's
    /// image-text experiments take 1e-5.
    pub learning_rate: f64,
    /// Share of the mean gradient that survives a step, in `[0, 1)`. The default is the paper's.
    pub beta1: f64,
    /// Share of the mean square that survives a step, in `[0, 1)`. The default is the paper's; the
    /// method's image-text experiments take 0.99.
    pub beta2: f64,
    /// Keeps the division finite; in units of the gradient, at least 1e-30: f32 takes much smaller
    /// ones for 0, and a zero gradient is then divided by 0. The default is the paper's.
    pub epsilon: f64,
    /// Factor of the weight that is added to its gradient, at least 0; the method's image-text
    /// experiments take 1e-4. None by default.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamConfig {
    fn options(&self) -> Options {
        let Self { learning_rate, beta1, beta2, epsilon, weight_decay } = *self;
        Options { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled: false }
    }
}

#[typetag::serde(name = "adam")]
impl OptimizerConfig for AdamConfig {
    fn validate(&self) -> Result<()> {
        self.options().validate()
    }

    fn build(&self) -> Result<Box<dyn Optimizer>> {
        self.validate()?;
        Ok(Box::new(Moments::new(self.options())))
    }
}
register!(optimizer::<AdamConfig>, source = "Kingma and Ba 2015, arXiv:1412.6980");

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{
        Landscape, assert_agrees_with_libtorch, assert_close, assert_keeps_its_state,
        given_gradients,
    };

    /// Gradients (1, 0) and (0, 2) times the projection P of the worked example, alpha = 0.4.
    const PROJECTED: [[f64; 2]; 2] =
        [[0.814_714_140_2, -0.163_567_062_4], [-0.327_134_124_8, 1.711_211_811_6]];

    fn worked_example(learning_rate: f64) -> AdamConfig {
        AdamConfig { learning_rate, beta2: 0.99, weight_decay: 1e-4, ..AdamConfig::default() }
    }

    #[test]
    fn two_steps_match_the_worked_examples() {
        for (learning_rate, tolerance, expected) in [
            (
                1e-5,
                1e-12,
                [[0.999_990_000_000, -0.999_990_000_001], [0.999_986_549_317, -0.999_996_754_933]],
            ),
            (
                1e-2,
                1e-9,
                [[0.990_000_000_1, -0.990_000_000_6], [0.986_549_327_4, -0.996_754_933_5]],
            ),
        ] {
            let mut landscape = given_gradients([1.0, -1.0], PROJECTED);
            let mut optimizer = worked_example(learning_rate).build().unwrap();
            for weights in expected {
                optimizer.step(&mut landscape).unwrap();
                assert_close(landscape.weight("head.audio.w"), &weights, tolerance);
            }
        }
    }

    #[test]
    fn a_slow_scalar_reference_agrees() {
        let config = worked_example(0.05);
        let mut landscape = given_gradients([1.0, -1.0], PROJECTED);
        let mut optimizer = config.build().unwrap();
        let mut reference: [[f64; 3]; 2] = [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]];
        for (t, gradients) in (1..).zip(PROJECTED) {
            optimizer.step(&mut landscape).unwrap();
            for ([w, m, v], gradient) in reference.iter_mut().zip(gradients) {
                let d = gradient + config.weight_decay * *w;
                *m = config.beta1 * *m + (1.0 - config.beta1) * d;
                *v = config.beta2 * *v + (1.0 - config.beta2) * d * d;
                let mean = *m / (1.0 - config.beta1.powi(t));
                let square = *v / (1.0 - config.beta2.powi(t));
                *w -= config.learning_rate * mean / (square.sqrt() + config.epsilon);
            }
            let expected = reference.map(|[w, ..]| w);
            assert_close(landscape.weight("head.audio.w"), &expected, 1e-14);
        }
    }

    #[test]
    fn fifty_steps_agree_with_libtorch() {
        for (beta2, weight_decay) in [(0.999, 0.0), (0.99, 0.01)] {
            let config =
                AdamConfig { learning_rate: 2e-3, beta2, weight_decay, ..AdamConfig::default() };
            let theirs =
                tch::nn::Adam { beta1: 0.9, beta2, wd: weight_decay, eps: 1e-8, amsgrad: false };
            assert_agrees_with_libtorch(&config, theirs, 2e-3);
        }
    }

    #[test]
    fn saved_moments_go_on_and_a_reset_forgets_them() {
        assert_keeps_its_state(&AdamConfig::default());
    }

    #[test]
    fn a_parameter_that_joins_late_is_corrected_from_its_own_start() {
        let weights = [
            (GroupId::Encoder("audio".to_owned()), "w", Tensor::from_slice(&[0.0])),
            (GroupId::Encoder("video".to_owned()), "w", Tensor::from_slice(&[0.0])),
        ];
        let mut landscape = Landscape::new(weights, |visit| {
            let audio = visit.weight("encoder.audio.w").sum(Kind::Double);
            if visit.step < 5 {
                return audio;
            }
            audio + visit.weight("encoder.video.w").sum(Kind::Double)
        });
        let mut optimizer = AdamConfig::default().build().unwrap();
        for _ in 0..6 {
            optimizer.step(&mut landscape).unwrap();
        }
        // The first step of a parameter is as long as the learning rate, whatever its gradient.
        assert_close(landscape.weight("encoder.video.w"), &[-1e-3], 1e-10);
    }

    #[test]
    fn a_zero_gradient_makes_no_step_and_no_nan() {
        for epsilon in [1e-8, 1e-30] {
            let start = Tensor::from_slice(&[1.0f32, -1.0]);
            let weights = [(GroupId::Head("audio".to_owned()), "w", start)];
            let mut landscape = Landscape::new(weights, |visit| {
                (visit.weight("head.audio.w") * 0.0).sum(Kind::Float)
            });
            let config = AdamConfig { epsilon, ..AdamConfig::default() };
            config.build().unwrap().step(&mut landscape).unwrap();
            assert_close(landscape.weight("head.audio.w"), &[1.0, -1.0], 0.0);
        }
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let good = AdamConfig::default();
        for (bad, field) in [
            (AdamConfig { learning_rate: -1.0, ..good.clone() }, "learning_rate"),
            (AdamConfig { beta1: 1.0, ..good.clone() }, "beta1"),
            (AdamConfig { beta2: f64::NAN, ..good.clone() }, "beta2"),
            (AdamConfig { epsilon: 0.0, ..good.clone() }, "epsilon"),
            (AdamConfig { epsilon: 1e-50, ..good.clone() }, "epsilon"),
            (AdamConfig { weight_decay: f64::INFINITY, ..good.clone() }, "weight_decay"),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
    }
}
