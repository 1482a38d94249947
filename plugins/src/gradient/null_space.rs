//! Confines steps to directions that another modality's layers do not use (Adam-NSCL).

use mie_core::prelude::*;
use mie_core::projection::{CovarianceKind, Precision, Solver, Solving, SpectralMap};
use serde_json::Value;

use super::learnt::{Learning, Projections, Refresh, SeveralSources};
use super::scope::Scope;

/// Projects the optimizer's steps onto the null space of a source modality's layer inputs.
///
/// At the start of a phase that has a source modality, one pass over the training data gives, for
/// every layer in scope, the uncentred covariance `C` of its inputs under the source. With
/// `C = V diag(s) V^T` and `s_d` its smallest eigenvalue:
///
/// ```text
/// U    = columns of V with s_k <= multiple s_d
/// P    = U U^T                         divided by ||U U^T||_F with unit_norm
/// step <- step P                       step of W_i: [out, in], what the optimizer made
/// ```
///
/// In the published method tasks follow one another in one network; here modalities do, and layers
/// are paired from the output backwards, as `svd_flat` pairs them. It acts on the step, not on the
/// gradient, so that Adam's scaling cannot turn it out of the null space; weight decay is part of
/// the step. Biases and unpaired layers are left alone.
///
/// Where `svd_flat` shrinks the directions that the source uses most, this one forbids all but
/// those that it uses least.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NullSpaceConfig {
    /// Largest eigenvalue that counts as unused, as a multiple of the smallest, at least 1.
    /// Default 10, the published one for CIFAR-100; eigenvalues that only rounding keeps from 0
    /// always count.
    pub multiple: f64,
    /// Whether `P` is divided by its Frobenius norm, as in the released code: steps shrink by the
    /// root of the null space's dimension. On by default.
    pub unit_norm: bool,
    /// Layers whose steps are projected.
    pub scope: Scope,
    /// Modalities whose steps are projected; empty means all.
    pub targets: Vec<String>,
    /// How the projections of several source modalities are joined.
    pub several_sources: SeveralSources,
    /// What is summed over batches. All samples by default, as published.
    pub covariance: CovarianceKind,
    /// Samples a batch in the pass over the data; absent means the training batch size.
    pub covariance_batch_size: Option<usize>,
    /// How `P` is computed.
    pub solver: Solver,
    /// Number format that covariances are summed in.
    pub precision: Precision,
}

impl Default for NullSpaceConfig {
    fn default() -> Self {
        Self {
            multiple: 10.0,
            unit_norm: true,
            scope: Scope::Head,
            targets: Vec::new(),
            several_sources: SeveralSources::Average,
            covariance: CovarianceKind::SecondMoment,
            covariance_batch_size: None,
            solver: Solver::Auto,
            precision: Precision::F64,
        }
    }
}

#[typetag::serde(name = "null_space")]
impl GradientModifierConfig for NullSpaceConfig {
    fn validate(&self) -> Result<()> {
        let holds = self.multiple >= 1.0 && self.multiple.is_finite();
        ensure_range("multiple", "[1, inf)", self.multiple, holds)?;
        self.learning().validate()
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(NullSpace { config: self.clone(), projections: Projections::default() }))
    }
}

register!(gradient_modifier::<NullSpaceConfig>, source = "Wang et al. 2021, arXiv:2103.07113");

impl NullSpaceConfig {
    fn learning(&self) -> Learning<'_> {
        Learning {
            map: SpectralMap::NullSpace { multiple: self.multiple, unit_norm: self.unit_norm },
            scope: &self.scope,
            targets: &self.targets,
            refresh: Refresh::Phase,
            drift_tolerance: 0.0,
            covariance: self.covariance,
            normalise: false,
            covariance_batch_size: self.covariance_batch_size,
            covariance_inputs: Mode::Evaluation,
            solving: Solving::with(self.solver),
            precision: self.precision,
        }
    }
}

struct NullSpace {
    config: NullSpaceConfig,
    projections: Projections,
}

impl Persist for NullSpace {}

impl GradientModifier for NullSpace {
    fn needs(&self) -> &'static [Need] {
        &[Need::SeveralModalities]
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        self.config.learning().check(run)
    }

    fn site(&self) -> Site {
        Site::Update
    }

    fn modify(&mut self, steps: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        self.projections.apply(self.config.several_sources, steps)
    }

    fn refresh(&mut self, run: &mut dyn RunOps, at: &Boundary) -> Result<Option<Value>> {
        self.projections.learn(&self.config.learning(), run, at)
    }

    fn refreshed(&self) -> Result<State> {
        self.projections.save()
    }

    fn load_refreshed(&mut self, state: State) -> Result<()> {
        self.projections.load(&self.config.learning(), state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{TinyRun, boundary};

    /// A modifier that has learnt from audio for video.
    fn learnt(unit_norm: bool) -> (NullSpace, TinyRun) {
        // Small enough a multiple that some directions stay forbidden.
        let config = NullSpaceConfig { multiple: 1.0, unit_norm, ..NullSpaceConfig::default() };
        let mut plugin = NullSpace { config, projections: Projections::default() };
        let mut run = TinyRun::new(Seed(6));
        let mut at = boundary(Moment::PhaseStart, 1, &[]);
        (at.source, at.trained) = (vec!["audio".to_owned()], vec!["video".to_owned()]);
        plugin.refresh(&mut run, &at).unwrap().unwrap();
        (plugin, run)
    }

    #[test]
    fn steps_keep_to_the_direction_that_the_source_uses_least() {
        let (mut plugin, run) = learnt(false);
        assert_eq!(plugin.site(), Site::Update);
        let mut steps = run.gradients(0).unwrap();
        let id = steps.sum.keys().find(|id| &*id.path == "head.video.fc1.weight").unwrap().clone();
        let matrix = plugin.projections.of("head.video.fc1.weight")[0].matrix().unwrap();
        let squared = matrix.matmul(&matrix);
        let off = (&squared - &matrix).abs().max().double_value(&[]);
        assert!(off < 1e-5, "P P differs from P by {off}");
        run.with_view(0, |view| plugin.modify(&mut steps, view)).unwrap();
        let twice = steps.sum[&id].matmul(&matrix);
        let off = (&twice - &steps.sum[&id]).abs().max().double_value(&[]);
        assert!(off < 1e-6, "a step leaves the null space by {off}");
        let plain = run.gradients(0).unwrap();
        let kept =
            steps.sum[&id].norm().double_value(&[]) / plain.sum[&id].norm().double_value(&[]);
        assert!(kept > 0.0 && kept < 0.999, "{kept}");
    }

    #[test]
    fn the_released_scaling_divides_by_the_root_of_the_dimension() {
        let matrix = |unit_norm| {
            learnt(unit_norm).0.projections.of("head.video.fc2.weight")[0].matrix().unwrap()
        };
        let (plain, scaled) = (matrix(false), matrix(true));
        assert!((scaled.norm().double_value(&[]) - 1.0).abs() < 1e-6);
        let root = plain.norm().double_value(&[]);
        assert!((&plain - &scaled * root).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn a_multiple_below_one_is_refused() {
        let error = NullSpaceConfig { multiple: 0.5, ..NullSpaceConfig::default() }.validate();
        assert_eq!(error.unwrap_err().to_string(), "`multiple` is 0.5, expected [1, inf)");
    }
}
