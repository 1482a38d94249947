//! Adam with weight decay that does not pass through the running means.

use mie_core::prelude::*;

use super::moments::{Moments, Options};

/// Steps as `adam` does, and shrinks the weights beside it.
///
/// With `g` the gradient of a weight `w`, `f` the factor that schedules put on the learning rate
/// and `t` the number of steps of this parameter, from 1:
///
/// ```text
/// m <- beta1 m + (1 - beta1) g
/// v <- beta2 v + (1 - beta2) g^2
/// w <- w - learning_rate f (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
///        - learning_rate f weight_decay w
/// ```
///
/// These are PyTorch's semantics: the decay is scaled by the learning rate and acts on every
/// parameter. A parameter without a gradient does not decay.
///
/// Source: Loshchilov and Hutter 2019, Algorithm 2.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Learning rate before schedules, above 0. The default is PyTorch's.
    pub learning_rate: f64,
    /// Share of the mean gradient that survives a step, in `[0, 1)`. The default is PyTorch's.
    pub beta1: f64,
    /// Share of the mean square that survives a step, in `[0, 1)`. The default is PyTorch's.
    pub beta2: f64,
    /// Keeps the division finite; in units of the gradient, at least 1e-30: f32 takes much smaller
    /// ones for 0, and a zero gradient is then divided by 0. The default is PyTorch's.
    pub epsilon: f64,
    /// Share of the weight taken off per unit of learning rate, at least 0. The default, 0.01, is
    /// PyTorch's.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamWConfig {
    fn options(&self) -> Options {
        let Self { learning_rate, beta1, beta2, epsilon, weight_decay } = *self;
        Options { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled: true }
    }
}

#[typetag::serde(name = "adamw")]
impl OptimizerConfig for AdamWConfig {
    fn validate(&self) -> Result<()> {
        self.options().validate()
    }

    fn build(&self) -> Result<Box<dyn Optimizer>> {
        self.validate()?;
        Ok(Box::new(Moments::new(self.options())))
    }
}
register!(optimizer::<AdamWConfig>, source = "Loshchilov and Hutter 2019, arXiv:1711.05101");

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{
        assert_agrees_with_libtorch, assert_close, assert_keeps_its_state, given_gradients,
    };

    #[test]
    fn fifty_steps_agree_with_libtorch() {
        // libtorch multiplies the weight by 1 - learning_rate * weight_decay. That number must be
        // exact in f32 here, or its rounding, fifty times over, is all that the test would see.
        let (learning_rate, weight_decay) = (1.0 / 1024.0, 1.0 / 16.0);
        let config = AdamWConfig { learning_rate, weight_decay, ..AdamWConfig::default() };
        let theirs = tch::nn::AdamW { wd: weight_decay, ..tch::nn::AdamW::default() };
        assert_agrees_with_libtorch(&config, theirs, learning_rate);
    }

    #[test]
    fn decay_is_not_divided_by_the_mean_square() {
        // A zero gradient leaves the decay alone: w (1 - 0.1 * 0.5).
        let mut landscape = given_gradients([1.0, -2.0], [[0.0; 2]; 2]);
        let config =
            AdamWConfig { learning_rate: 0.1, weight_decay: 0.5, ..AdamWConfig::default() };
        config.build().unwrap().step(&mut landscape).unwrap();
        assert_close(landscape.weight("head.audio.w"), &[0.95, -1.9], 1e-15);
    }

    #[test]
    fn saved_moments_go_on_and_a_reset_forgets_them() {
        assert_keeps_its_state(&AdamWConfig::default());
    }
}
