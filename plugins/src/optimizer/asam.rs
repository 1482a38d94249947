//! Adaptive sharpness-aware minimisation around any other optimizer.

use mie_core::prelude::*;

use super::sgd::SgdConfig;
use super::sharp::{Search, Sharp, validate_base};

/// Lets another optimizer step by the gradient at the worst point of a region that scales with the
/// weights.
///
/// With `L` the loss of the batch, `w` the active weights and `g_0` its gradient there:
///
/// ```text
/// T   = |w| + eta                                   entry by entry
/// e   = rho T^2 g_0 / (||T g_0|| + 1e-12)           one norm over all active weights
/// g   = grad L(w + e)                               goes to gradient modifiers, then to `base`
/// ```
///
/// so the radius does not depend on how weights are scaled against each other; usual ones are 0.5
/// to 2, ten times those of `sam`. Weights are put back bit for bit before the step. Statistics of
/// batch normalisation are updated in the first pass only. A radius of 0 equals `base` bit for bit.
/// Two forward and backward passes a step.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AsamConfig {
    /// Optimizer that makes the step; its learning rate is the one that counts. `sgd` by default.
    pub base: Box<dyn OptimizerConfig>,
    /// Radius of the displacement, without unit, at least 0; 0 switches it off. Default 0.5, the
    /// published one for CIFAR-10.
    pub rho: f64,
    /// What weights near zero are scaled by, at least 0. Default 0.01, the published one.
    pub eta: f64,
}

impl Default for AsamConfig {
    fn default() -> Self {
        Self { base: Box::new(SgdConfig::default()), rho: 0.5, eta: 0.01 }
    }
}

#[typetag::serde(name = "asam")]
impl OptimizerConfig for AsamConfig {
    fn validate(&self) -> Result<()> {
        let usable = |value: f64| value >= 0.0 && value.is_finite();
        ensure_range("rho", "[0, inf)", self.rho, usable(self.rho))?;
        ensure_range("eta", "[0, inf)", self.eta, usable(self.eta))?;
        validate_base(&*self.base)
    }

    fn build(&self) -> Result<Box<dyn Optimizer>> {
        self.validate()?;
        Ok(Box::new(Asam { rho: self.rho, eta: self.eta, base: self.base.build()? }))
    }

    fn base(&self) -> Option<&dyn OptimizerConfig> {
        Some(&*self.base)
    }

    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("rho", 0.0)]
    }

    fn modalities(&self) -> Vec<String> {
        self.base.modalities()
    }

    fn warnings(&self) -> Vec<String> {
        self.base.warnings()
    }
}
register!(optimizer::<AsamConfig>, source = "Kwon et al. 2021, arXiv:2102.11600");

struct Asam {
    rho: f64,
    eta: f64,
    base: Box<dyn Optimizer>,
}

impl Optimizer for Asam {
    fn step(&mut self, problem: &mut dyn Problem) -> Result<()> {
        let (rho, eta) = (self.rho, self.eta);
        if rho <= 0.0 {
            return self.base.step(problem);
        }
        let search = Search {
            displacement: &|gradients, problem| displacement(rho, eta, gradients, problem),
            seen: &share_params,
            mix: 1.0,
            original_labels: false,
            replay_noise: false,
            restore: true,
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
impl Persist for Asam {
    fn state(&self) -> Result<State> {
        self.base.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.base.load_state(state)
    }
}

/// Copies handles, not contents.
fn share_params(tensors: &ByParam) -> ByParam {
    tensors.iter().map(|(id, tensor)| (id.clone(), tensor.shallow_clone())).collect()
}

/// Computes `rho T^2 g / (||T g|| + 1e-12)`.
fn displacement(rho: f64, eta: f64, gradients: &Grads, problem: &dyn Problem) -> Result<ByParam> {
    let _guard = no_grad_guard();
    let mut scales = Vec::new();
    let mut scaled = Vec::new();
    for (id, gradient) in &gradients.sum {
        let value = problem
            .value(id)
            .ok_or_else(|| Error::Bug(format!("a gradient names the unknown parameter `{id}`")))?;
        let scale = value.f_abs()?.f_add_scalar(eta)?;
        scaled.push(gradient.f_mul(&scale)?);
        scales.push(scale);
    }
    let factor = global_norm(&scaled)?.f_add_scalar(1e-12)?.f_reciprocal()?.f_mul_scalar(rho)?;
    let parts = gradients.sum.keys().zip(scaled.iter().zip(&scales));
    parts.map(|(id, (g, t))| Ok((id.clone(), g.f_mul(t)?.f_mul(&factor)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{Landscape, assert_close, assert_keeps_its_state};

    /// `3 w_1 + 4 w_2` in one tensor, and a landscape to ask.
    fn slope() -> Landscape {
        let start = Tensor::from_slice(&[2.0, -1.0]);
        Landscape::new([(GroupId::Head("audio".to_owned()), "w", start)], |visit| {
            let gradient = Tensor::from_slice(&[3.0, 4.0]);
            (visit.weight("head.audio.w") * gradient).sum(Kind::Double)
        })
    }

    #[test]
    fn the_displacement_is_that_of_the_worked_example() {
        let mut landscape = slope();
        let gradients = landscape.gradients(Ask::ASCENT).unwrap();
        let found = displacement(0.5, 0.01, &gradients, &landscape).unwrap();
        assert_close(found.values().next().unwrap(), &[0.834_930, 0.281_086], 1e-6);
    }

    #[test]
    fn the_second_pass_is_made_at_the_displaced_weights_and_they_are_put_back() {
        let mut landscape = slope();
        let config = AsamConfig {
            base: Box::new(SgdConfig {
                learning_rate: 0.1,
                momentum: 0.0,
                weight_decay: 0.0,
                ..SgdConfig::default()
            }),
            ..AsamConfig::default()
        };
        config.build().unwrap().step(&mut landscape).unwrap();
        assert_eq!(landscape.passes.len(), 2);
        let moved =
            landscape.passes[1].weight("head.audio.w") - landscape.passes[0].weight("head.audio.w");
        assert_close(&moved, &[0.834_930, 0.281_086], 1e-6);
        assert_close(landscape.weight("head.audio.w"), &[1.7, -1.4], 1e-12);
    }

    #[test]
    fn it_keeps_the_state_of_its_base() {
        assert_keeps_its_state(&AsamConfig::default());
    }

    #[test]
    fn around_another_search_it_is_refused() {
        let base = Box::new(super::super::sam::SamConfig::default());
        let error =
            AsamConfig { base, ..AsamConfig::default() }.validate().unwrap_err().to_string();
        assert!(error.starts_with("`base` is `sam`"), "{error}");
    }
}
