//! Protects what a shared head has learnt from other modalities (MLA).

use std::collections::BTreeMap;

use mie_core::prelude::*;

/// Projects gradients of a shared head off the directions that earlier features used.
///
/// For each linear layer of the shared head, with `H` its input in a training of one modality and
/// `P` a symmetric matrix that starts as the identity (recursive least squares):
///
/// ```text
/// grad W <- grad W P                                       W: [out, in]; biases are left alone
/// r      = mean of the rows of H
/// P      <- P - (P r)(P r)^T / (a + r^T P r)
/// a      = alpha^(1 + b/N)                                 b: batch of the epoch, N: batches
/// ```
///
/// so `a` falls from `alpha` to nearly `alpha^2` within each epoch. For training in turns: every
/// step must train one modality (strategy `alternating`), with `head.shared = true`.
///
/// The released code of 2024-03-12 differs, and its three departures are options here: it updates
/// `P` with the current feature before it projects (`order = "update_first"`, the very first
/// training left alone), divides entry by entry by the matrix `a + (P r) r^T`
/// (`denominator = "matrix"`), and scales `P` to Frobenius norm 1 after each update
/// (`unit_norm = true`). From 2024-03-18 on the released code projects nothing: leave this
/// modifier out to have that.
///
/// `P` of a layer with `n` inputs takes `4 n^2` bytes, and is saved with every checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RlsProjectionConfig {
    /// How little a direction that was used keeps, in `(0, 1)`: `a / (a + |r|^2)` of it. Default
    /// 0.1, the released code's.
    pub alpha: f64,
    /// What comes first. Projection by default: it protects what others used and lets a modality
    /// follow its own features.
    pub order: Order,
    /// What the update divides by. The number by default, as recursive least squares do.
    pub denominator: Denominator,
    /// Whether `P` is scaled to Frobenius norm 1 after each update (released code). Off by default.
    pub unit_norm: bool,
}

/// What comes first in a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Gradients are projected, then `P` learns the step's features.
    #[default]
    ProjectFirst,
    /// `P` learns the step's features, then gradients are projected (released code).
    UpdateFirst,
}

/// What an update of `P` divides by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Denominator {
    /// `a + r^T P r`.
    #[default]
    Number,
    /// `a + (P r) r^T`, entry by entry (released code of 2024-03-12).
    Matrix,
}

impl Default for RlsProjectionConfig {
    fn default() -> Self {
        Self {
            alpha: 0.1,
            order: Order::default(),
            denominator: Denominator::default(),
            unit_norm: false,
        }
    }
}

#[typetag::serde(name = "rls_projection")]
impl GradientModifierConfig for RlsProjectionConfig {
    fn validate(&self) -> Result<()> {
        let inside = self.alpha > 0.0 && self.alpha < 1.0;
        ensure_range("alpha", "(0, 1)", self.alpha, inside)
    }

    fn build(&self) -> Result<Box<dyn GradientModifier>> {
        self.validate()?;
        Ok(Box::new(RlsProjection { config: self.clone(), matrices: BTreeMap::new() }))
    }
}

register!(
    gradient_modifier::<RlsProjectionConfig>,
    source = "Zhang et al. 2024, arXiv:2311.10707, after Zeng et al. 2019, arXiv:1810.01256"
);

struct RlsProjection {
    config: RlsProjectionConfig,
    /// `P` by layer. `[inputs, inputs]`
    matrices: BTreeMap<String, Tensor>,
}

/// The group whose layers are protected.
const WATCHED: &[GroupId] = &[GroupId::SharedHead];

impl RlsProjection {
    /// Moves `P` on by the mean input `r` (`[inputs]`) of a training.
    fn updated(&self, matrix: &Tensor, r: &Tensor, a: f64) -> Result<Tensor> {
        let k = matrix.f_mv(r)?;
        let outer = k.f_outer(&k)?;
        let change = match self.config.denominator {
            Denominator::Number => outer.f_div(&r.f_dot(&k)?.f_add_scalar(a)?)?,
            Denominator::Matrix => outer.f_div(&k.f_outer(r)?.f_add_scalar(a)?)?,
        };
        let matrix = matrix.f_sub(&change)?;
        Ok(if self.config.unit_norm { matrix.f_div(&matrix.f_norm()?)? } else { matrix })
    }

    /// Learns the inputs of a step, layer by layer; returns how many there were.
    fn learn(&mut self, step: &StepView<'_>) -> Result<()> {
        let place = step.batch as f64 / step.batches.max(1) as f64;
        let a = self.config.alpha.powf(1.0 + place);
        for (layer, input) in step.layer_inputs {
            let width = input.size().last().copied().unwrap_or_default();
            let r = input.f_reshape([-1, width])?.f_mean_dim(0i64, false, None::<Kind>)?;
            let fresh = || Tensor::f_eye(width, (input.kind(), input.device()));
            let before = match self.matrices.remove(layer) {
                Some(matrix) => matrix,
                None => fresh()?,
            };
            let after = self.updated(&before, &r, a)?;
            self.matrices.insert(layer.clone(), after);
        }
        Ok(())
    }

    fn project(&self, gradients: &mut Grads, step: &StepView<'_>) -> Result<()> {
        for layer in step.layer_inputs.keys() {
            let weight = format!("{layer}.weight");
            let found = gradients.sum.iter_mut().find(|(id, _)| *id.path == *weight);
            if let (Some((_, gradient)), Some(matrix)) = (found, self.matrices.get(layer)) {
                *gradient = gradient.f_matmul(matrix)?;
            }
        }
        Ok(())
    }
}

impl GradientModifier for RlsProjection {
    fn needs(&self) -> &'static [Need] {
        &[Need::SharedHead, Need::SeveralModalities]
    }

    fn watches(&self) -> &[GroupId] {
        WATCHED
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        let mut steps = run.phases.iter().flat_map(|phase| &phase.sub_steps);
        match steps.find(|sub_step| sub_step.modalities.len() > 1) {
            None => Ok(()),
            Some(sub_step) => Err(Error::refused(
                format!(
                    "`rls_projection` protects one modality's training from another's, and a step \
                     trains {:?} together",
                    sub_step.modalities
                ),
                "choose a strategy that trains one at a time, such as `alternating`",
            )),
        }
    }

    fn modify(&mut self, gradients: &mut Grads, step: &StepView<'_>) -> Result<()> {
        match self.config.order {
            Order::ProjectFirst => {
                self.project(gradients, step)?;
                self.learn(step)
            }
            // The released code leaves out its first call altogether.
            Order::UpdateFirst if step.step == 0 && step.part == 0 => Ok(()),
            Order::UpdateFirst => {
                self.learn(step)?;
                self.project(gradients, step)
            }
        }
    }
}

impl Persist for RlsProjection {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        for (layer, matrix) in &self.matrices {
            state.put(layer, matrix)?;
        }
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.matrices = std::mem::take(&mut state.tensors);
        state.expect_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::gradient::fixture::blank_view;
    use mie_conformance::stand_in::{assert_close, bits, entries};
    use proptest::prelude::*;

    const LAYER: &str = "shared_head.fc1";

    fn plugin(config: RlsProjectionConfig) -> RlsProjection {
        RlsProjection { config, matrices: BTreeMap::new() }
    }

    /// One step whose features all are `r`; returns the gradient after it.
    fn step(plugin: &mut RlsProjection, number: u64, r: [f64; 2]) -> Tensor {
        let (parameters, outputs) = (Parameters::default(), Outputs::default());
        let (labels, trained) = (Tensor::from_slice(&[0i64]), BTreeSet::new());
        let input = Tensor::from_slice(&[r, r].concat()).view([2, 2]);
        let inputs = BTreeMap::from([(LAYER.to_owned(), input)]);
        let view = blank_view(&parameters, &outputs, &labels, &inputs, &trained);
        let path = format!("{LAYER}.weight").into();
        let id = ParamId { group: GroupId::SharedHead, path };
        let gradient = Tensor::from_slice(&[1.0, 1.0, 0.0, 3.0]).view([2, 2]);
        let sum = ByParam::from([(id.clone(), gradient)]);
        let mut gradients = Grads { sum, by_term: BTreeMap::new() };
        plugin.modify(&mut gradients, &StepView { step: number, ..view }).unwrap();
        gradients.sum.remove(&id).unwrap()
    }

    #[test]
    fn projections_and_updates_are_those_of_the_worked_example() {
        let mut plugin = plugin(RlsProjectionConfig::default());
        let untouched = step(&mut plugin, 0, [1.0, 2.0]);
        assert_close(&untouched, &[1.0, 1.0, 0.0, 3.0], 0.0);
        assert_close(
            &plugin.matrices[LAYER],
            &[0.803_922, -0.392_157, -0.392_157, 0.215_686],
            1e-6,
        );
        let projected = step(&mut plugin, 1, [3.0, 0.0]);
        assert_close(&projected, &[0.411_765, -0.176_471, -1.176_471, 0.647_059], 1e-6);
        let matrix = &plugin.matrices[LAYER];
        assert_close(matrix, &[0.010_960, -0.005_346, -0.005_346, 0.026_998], 1e-6);
        assert_close(&matrix.mv(&Tensor::from_slice(&[1.0, 2.0])), &[0.000_267, 0.048_650], 1e-6);
        assert_close(&matrix.mv(&Tensor::from_slice(&[3.0, 0.0])), &[0.032_879, -0.016_038], 1e-6);
    }

    #[test]
    fn the_first_release_s_formula_is_the_worked_example_s() {
        let mut plugin = plugin(RlsProjectionConfig {
            order: Order::UpdateFirst,
            denominator: Denominator::Matrix,
            unit_norm: true,
            ..RlsProjectionConfig::default()
        });
        let first = step(&mut plugin, 0, [1.0, 2.0]);
        assert!(plugin.matrices.is_empty());
        assert_close(&first, &[1.0, 1.0, 0.0, 3.0], 0.0);
        let second = step(&mut plugin, 1, [1.0, 2.0]);
        let expected = [0.067_332, -0.705_386, -0.705_386, 0.018_065];
        assert_close(&plugin.matrices[LAYER], &expected, 1e-6);
        let by_hand = Tensor::from_slice(&[1.0, 1.0, 0.0, 3.0])
            .view([2, 2])
            .matmul(&Tensor::from_slice(&expected).view([2, 2]));
        assert_close(&second, &entries(&by_hand), 1e-5);
    }

    proptest! {
        #[test]
        fn p_stays_symmetric_and_between_nothing_and_the_identity(
            features in prop::collection::vec(prop::array::uniform2(-3.0..3.0f64), 1..12),
        ) {
            let mut plugin = plugin(RlsProjectionConfig::default());
            for (number, r) in features.into_iter().enumerate() {
                let _ = step(&mut plugin, number as u64, r);
            }
            let matrix = &plugin.matrices[LAYER];
            let skew = (matrix - matrix.tr()).abs().max().double_value(&[]);
            let values = entries(&matrix.linalg_eigvalsh("L"));
            prop_assert!(skew < 1e-9);
            prop_assert!(values.iter().all(|v| (-1e-9..=1.0 + 1e-9).contains(v)), "{values:?}");
        }
    }

    #[test]
    fn it_goes_on_from_its_saved_state() {
        let mut first = plugin(RlsProjectionConfig::default());
        let _ = step(&mut first, 0, [1.0, 2.0]);
        let mut second = plugin(RlsProjectionConfig::default());
        second.load_state(first.state().unwrap()).unwrap();
        assert_eq!(bits(&step(&mut first, 1, [3.0, 0.0])), bits(&step(&mut second, 1, [3.0, 0.0])));
    }

    #[test]
    fn steps_of_several_modalities_are_refused() {
        let shape = mie_conformance::stand_in::TinyRun::new(Seed(0)).shape();
        let error = plugin(RlsProjectionConfig::default()).check(&shape).unwrap_err().to_string();
        assert!(error.contains("trains [\"audio\", \"video\"] together"), "{error}");
        assert!(error.contains("`alternating`"), "{error}");
    }
}
