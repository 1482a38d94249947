//! The update rule that Adam and its form with decoupled weight decay share.

use std::collections::BTreeMap;

use mie_core::prelude::*;

use super::memory::{Factor, PerParameter};

/// Options of both forms, under the names that both configurations give them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) learning_rate: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) epsilon: f64,
    pub(super) weight_decay: f64,
    /// Whether decay acts on the weight itself instead of its gradient.
    pub(super) decoupled: bool,
}

impl Options {
    pub(super) fn validate(&self) -> Result<()> {
        let Self { learning_rate, beta1, beta2, epsilon, weight_decay, .. } = *self;
        let above_zero = |value: f64| value > 0.0 && value.is_finite();
        ensure_range("learning_rate", "(0, inf)", learning_rate, above_zero(learning_rate))?;
        ensure_range("beta1", "[0, 1)", beta1, (0.0..1.0).contains(&beta1))?;
        ensure_range("beta2", "[0, 1)", beta2, (0.0..1.0).contains(&beta2))?;
        let divides = epsilon >= 1e-30 && epsilon.is_finite();
        ensure_range("epsilon", "[1e-30, inf)", epsilon, divides)?;
        let not_negative = weight_decay >= 0.0 && weight_decay.is_finite();
        ensure_range("weight_decay", "[0, inf)", weight_decay, not_negative)
    }
}

/// Steps by bias-corrected running averages of the gradient and of its square.
pub(super) struct Moments {
    options: Options,
    averages: PerParameter,
    squares: PerParameter,
    /// Steps made by each parameter: one that joins late is corrected from its own start.
    steps: BTreeMap<String, u64>,
}

impl Moments {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            averages: PerParameter::default(),
            squares: PerParameter::default(),
            steps: BTreeMap::new(),
        }
    }
}

impl Optimizer for Moments {
    fn step(&mut self, problem: &mut dyn Problem) -> Result<()> {
        let gradients = problem.gradients(Ask::DESCENT)?;
        let Self { options, averages, squares, steps } = self;
        let Options { beta1, beta2, epsilon, weight_decay, decoupled, .. } = *options;
        let mut decay = Factor::default();
        problem.apply(gradients, &mut |context, gradient| {
            let rate = options.learning_rate * context.learning_rate_factor;
            if weight_decay > 0.0 && !decoupled {
                let decay = decay.of(weight_decay, gradient)?;
                let _ = gradient.f_addcmul_(context.value, decay)?;
            }
            let step = steps.entry(context.id.path.to_string()).or_insert(0);
            *step += 1;
            let average = averages.of(context.id, gradient)?;
            let square = squares.of(context.id, gradient)?;
            let _ = average.f_lerp_(gradient, 1.0 - beta1)?;
            let _ = gradient.f_square_()?;
            let _ = square.f_lerp_(gradient, 1.0 - beta2)?;

            // m_hat / (sqrt(v_hat) + epsilon) with both corrections moved into numbers:
            // sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon sqrt(1 - beta2^t)).
            let root = (1.0 - beta2.powf(*step as f64)).sqrt();
            let scale = root / (1.0 - beta1.powf(*step as f64));
            let _ = square.f_sqrt_out(gradient)?;
            let _ = gradient.f_add_scalar_(epsilon * root)?;
            let _ = average.f_div_out(gradient, gradient)?;
            let _ = gradient.f_mul_scalar_(-rate * scale)?;
            if weight_decay > 0.0 && decoupled {
                let decay = decay.of(-rate * weight_decay, gradient)?;
                let _ = gradient.f_addcmul_(context.value, decay)?;
            }
            Ok(())
        })
    }

    fn reset(&mut self) {
        *self = Self::new(self.options);
    }

    fn learning_rate(&self) -> f64 {
        self.options.learning_rate
    }
}

impl Persist for Moments {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        self.averages.save("average", &mut state)?;
        self.squares.save("square", &mut state)?;
        state.values.insert("steps".to_owned(), serde_json::json!(self.steps));
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.averages = PerParameter::take_from(&mut state, "average");
        self.squares = PerParameter::take_from(&mut state, "square");
        let steps = state.values.remove("steps").unwrap_or_else(|| serde_json::json!({}));
        self.steps = serde_json::from_value(steps)
            .map_err(|error| Error::Bug(format!("saved step counts: {error}")))?;
        state.expect_empty()
    }
}
