//! Prototypical modal rebalance: pulls the features of slow modalities to class prototypes.

use mie_core::imbalance;
use mie_core::prelude::*;

/// Cross-entropies of distances to class prototypes, for modalities that lag behind.
///
/// With `c_m,y` the prototype of class `y`, a mean feature of that class, and `h_m` features:
///
/// ```text
/// pi_m,k = softmax(-||h_m,k - c_m||_2)        over the classes
/// PCE_m  = mean_k -log pi_m,k[y_k]            H_m = -mean_k sum_y pi_m,k[y] log pi_m,k[y]
/// S_m    = sum_k pi_m,k[y_k]                  rho_m = S_m / mean_(n != m) S_n
/// L     += alpha sum_m clip(1/rho_m - 1, 0, 1) PCE_m
///        - entropy sum_m clip(rho_m - 1, 0, 1) H_m     in the first `entropy_epochs` epochs
/// ```
///
/// An addition to another objective, such as `joint_ce`; `alpha = entropy = 0` adds nothing.
/// Gradients flow into features, not into prototypes and factors. For two modalities it is the
/// published rule; `rho` for more is ours.
///
/// Prototypes come from a pass in evaluation mode at the start of a phase and of every later
/// epoch: `c <- (1 - momentum) mean + momentum c`, without momentum the first time. A class that
/// the pass does not show keeps its prototype; one never shown has the mean of all features.
///
/// The released code differs from the paper: `coefficients = "binary"` and no entropy term.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PmrConfig {
    /// Factor of the prototype cross-entropy, at least 0. Default 1, the released code's.
    pub alpha: f64,
    /// Factor of the entropy term, at least 0. Default 0.01, that of a re-implementation; the
    /// released code has no such term.
    pub entropy: f64,
    /// Epochs with the entropy term. Default 10, that of a re-implementation.
    pub entropy_epochs: usize,
    /// How far a modality must lag to be helped. The paper's rule by default.
    pub coefficients: Coefficients,
    /// Share of the old prototypes that is kept at each renewal, in `[0, 1)`. Default 0.2, the
    /// released code's.
    pub momentum: f64,
    /// Epochs of a phase with these terms; absent means all. The released code: 100.
    pub epochs: Option<usize>,
    /// Share of the training samples that prototypes are taken from, in `(0, 1]`, drawn anew every
    /// time. Default 0.1, the released code's.
    pub sample_share: f64,
}

/// How far a modality must lag to be helped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coefficients {
    /// As far as it lags: `clip(1/rho - 1, 0, 1)`, the paper's.
    #[default]
    Clipped,
    /// All that lag, fully; the others not at all (released code).
    Binary,
}

impl Default for PmrConfig {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            entropy: 0.01,
            entropy_epochs: 10,
            coefficients: Coefficients::default(),
            momentum: 0.2,
            epochs: None,
            sample_share: 0.1,
        }
    }
}

#[typetag::serde(name = "pmr")]
impl ObjectiveConfig for PmrConfig {
    fn validate(&self) -> Result<()> {
        let usable = |value: f64| value >= 0.0 && value.is_finite();
        ensure_range("alpha", "[0, inf)", self.alpha, usable(self.alpha))?;
        ensure_range("entropy", "[0, inf)", self.entropy, usable(self.entropy))?;
        ensure_range("momentum", "[0, 1)", self.momentum, (0.0..1.0).contains(&self.momentum))?;
        let share = self.sample_share > 0.0 && self.sample_share <= 1.0;
        ensure_range("sample_share", "(0, 1]", self.sample_share, share)
    }

    fn build(&self) -> Result<Box<dyn Objective>> {
        self.validate()?;
        Ok(Box::new(Pmr { config: self.clone(), prototypes: ByModality::new(), epoch: 0 }))
    }
}
register!(objective::<PmrConfig>, source = "Fan et al. 2023, arXiv:2211.07089");

struct Pmr {
    config: PmrConfig,
    /// Prototype of each class. `[classes, width]`
    prototypes: ByModality<Tensor>,
    /// Epoch within the phase.
    epoch: usize,
}

impl Pmr {
    /// Factors of `PCE` and `H` of each modality, `[modalities]`, from posteriors.
    fn factors(&self, posteriors: &ByModality<Tensor>, labels: &Tensor) -> Result<[Tensor; 2]> {
        let _guard = no_grad_guard();
        let ratios = imbalance::against_the_others(&imbalance::scores(posteriors, labels)?)?;
        let lag = ratios.f_reciprocal()?.f_sub_scalar(1.0)?.f_clamp(0.0, 1.0)?;
        let lead = ratios.f_sub_scalar(1.0)?.f_clamp(0.0, 1.0)?;
        Ok(match self.config.coefficients {
            Coefficients::Clipped => [lag, lead],
            Coefficients::Binary => [lag, lead].map(|part| part.sign()),
        })
    }

    fn renew(&mut self, run: &mut dyn RunOps) -> Result<()> {
        let samples = run.samples(Split::Train) as f64 * self.config.sample_share;
        let request = PassRequest {
            split: Split::Train,
            batch_size: None,
            drop_last: false,
            mode: Mode::Evaluation,
            shuffled: true,
            samples: Some((samples.ceil() as usize).max(1)),
            spec: Spec::evaluation(run.modalities()),
        };
        let mut sums: ByModality<(Tensor, Tensor)> = ByModality::new();
        run.pass(&request, None, &mut |outputs, labels| {
            let logits = outputs.logits.values().chain(&outputs.joint).next();
            let Some(classes) = logits.map(|logits| logits.size()[1]) else { return Ok(()) };
            for (name, feature) in &outputs.features {
                // As a product, whose order of adding does not change from run to run.
                let member = labels.f_one_hot(classes)?.f_to_kind(feature.kind())?;
                let sum = member.f_transpose(0, 1)?.f_matmul(feature)?;
                let count = member.f_sum_dim_intlist(0i64, false, None::<Kind>)?.f_unsqueeze(1)?;
                let kept = match sums.remove(name) {
                    Some((sums, counts)) => (sums.f_add(&sum)?, counts.f_add(&count)?),
                    None => (sum, count),
                };
                sums.insert(name.clone(), kept);
            }
            Ok(())
        })?;
        for (name, (sum, count)) in sums {
            let mean = sum.f_div(&count.f_clamp_min(1.0)?)?;
            let seen = count.f_gt(0.0)?;
            let (fresh, unseen) = if let Some(old) = self.prototypes.get(&name) {
                let kept = old.f_mul_scalar(self.config.momentum)?;
                let moved = mean.f_mul_scalar(1.0 - self.config.momentum)?.f_add(&kept)?;
                (moved, old.shallow_clone())
            } else {
                let all = sum.f_sum_dim_intlist(0i64, true, None::<Kind>)?;
                let all = all.f_div(&count.f_sum(None::<Kind>)?)?;
                (mean.shallow_clone(), all.f_expand_as(&mean)?)
            };
            self.prototypes.insert(name, fresh.f_where_self(&seen, &unseen)?);
        }
        Ok(())
    }
}

/// Logits of the posterior over classes: `-||h - c||` for `h` `[batch, width]` and prototypes
/// `[classes, width]`; the root is kept off 0, where it has no gradient.
fn closeness(feature: &Tensor, prototypes: &Tensor) -> Result<Tensor> {
    let difference = feature.f_unsqueeze(1)?.f_sub(&prototypes.f_unsqueeze(0)?)?;
    let squared = difference.f_square()?.f_sum_dim_intlist(-1i64, false, None::<Kind>)?;
    Ok(squared.f_add_scalar(1e-12)?.f_sqrt()?.f_neg()?)
}

impl Objective for Pmr {
    fn needs(&self) -> &'static [Need] {
        &[Need::SeveralModalities]
    }

    fn terms(&self, forward: &mut dyn Forward, _notes: &mut Notes) -> Result<Vec<Term>> {
        let full = forward.full();
        let outputs = forward.run(&full)?;
        let targets = forward.targets();
        let classes = outputs.logits.values().chain(&outputs.joint).next();
        let classes = classes.map_or(1, |logits| logits.size()[1]);
        let mut closenesses = ByModality::new();
        for (name, feature) in &outputs.features {
            let near = if let Some(prototypes) = self.prototypes.get(name) {
                closeness(feature, prototypes)?
            } else {
                // Before the first pass over the data, as when options are tried.
                let size = [classes, feature.size()[1]];
                closeness(feature, &Tensor::f_zeros(size, (feature.kind(), feature.device()))?)?
            };
            closenesses.insert(name.clone(), near);
        }
        let [lag, lead] = self.factors(&closenesses, &targets.labels)?;
        let in_window = self.config.epochs.is_none_or(|epochs| self.epoch < epochs);
        let early = self.epoch < self.config.entropy_epochs;
        let alpha = if in_window { self.config.alpha } else { 0.0 };
        let entropy = if in_window && early { self.config.entropy } else { 0.0 };
        let mut terms = Vec::new();
        for (index, (name, near)) in closenesses.iter().enumerate() {
            let factor = |factors: &Tensor| factors.f_get(index as i64);
            let value = targets.cross_entropy(near)?.f_mul(&factor(&lag)?)?;
            terms.push(Term { weight: alpha, ..Term::new(format!("prototype.{name}"), value) });
            let log = near.f_log_softmax(-1, None::<Kind>)?;
            let negative =
                log.f_exp()?.f_mul(&log)?.f_sum_dim_intlist(-1i64, false, None::<Kind>)?;
            let value = negative.f_mean(None::<Kind>)?.f_mul(&factor(&lead)?)?;
            let name = format!("prototype_entropy.{name}");
            terms.push(Term { weight: entropy, ..Term::new(name, value) });
        }
        Ok(terms)
    }

    fn refresh(&mut self, run: &mut dyn RunOps, at: &Boundary) -> Result<()> {
        self.epoch = at.epoch;
        let due = match at.moment {
            Moment::PhaseStart => true,
            Moment::EpochStart => at.epoch > 0,
            Moment::StepEnd | Moment::EpochEnd => false,
        };
        let idle = self.config.alpha <= 0.0 && self.config.entropy <= 0.0;
        if due && !idle { self.renew(run) } else { Ok(()) }
    }
}

impl Persist for Pmr {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        for (name, prototypes) in &self.prototypes {
            state.put(name, prototypes)?;
        }
        state.values.insert("epoch".to_owned(), self.epoch.into());
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.prototypes = std::mem::take(&mut state.tensors);
        self.epoch = state.take("epoch")?;
        state.expect_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixed;
    use super::*;
    use mie_conformance::stand_in::{TinyRun, assert_close, boundary, entries};

    fn rows(rows: [[f64; 2]; 2]) -> Tensor {
        Tensor::from_slice(rows.as_flattened()).view([2, 2])
    }

    fn worked(config: PmrConfig) -> Pmr {
        let prototypes = ByModality::from([
            ("audio".to_owned(), rows([[0.0, 0.0], [2.0, 0.0]])),
            ("video".to_owned(), rows([[0.0, 0.0], [0.0, 2.0]])),
        ]);
        Pmr { config, prototypes, epoch: 0 }
    }

    fn model() -> Fixed {
        let features = ByModality::from([
            ("audio".to_owned(), rows([[0.0, 0.0], [2.0, 1.0]])),
            ("video".to_owned(), rows([[1.0, 1.0], [0.0, 1.0]])),
        ]);
        Fixed {
            modalities: vec!["audio".to_owned(), "video".to_owned()],
            outputs: Outputs { features, ..Outputs::default() },
            targets: Targets { labels: Tensor::from_slice(&[0i64, 1]), mixed: None },
        }
    }

    fn loss(objective: &Pmr) -> f64 {
        let terms = objective.terms(&mut model(), &mut Notes::new()).unwrap();
        terms.iter().map(|term| term.weight * term.value.double_value(&[])).sum()
    }

    #[test]
    fn the_added_loss_is_that_of_the_worked_example() {
        let objective = worked(PmrConfig::default());
        let near =
            closeness(&rows([[0.0, 0.0], [2.0, 1.0]]), &objective.prototypes["audio"]).unwrap();
        let posterior = near.softmax(-1, Kind::Double);
        assert_close(&posterior, &[0.880_797, 0.119_203, 0.225_121, 0.774_879], 1e-6);
        // 0.655676 * 0.693147 - 0.01 * 0.655676 * 0.449324
        assert!((loss(&objective) - 0.451_534).abs() < 1e-6, "{}", loss(&objective));
    }

    #[test]
    fn the_released_coefficients_are_all_or_nothing() {
        let config =
            PmrConfig { coefficients: Coefficients::Binary, entropy: 0.0, ..PmrConfig::default() };
        assert!((loss(&worked(config)) - 2f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn outside_of_their_epochs_terms_have_no_weight() {
        let mut objective = worked(PmrConfig { epochs: Some(12), ..PmrConfig::default() });
        let at = |epoch| boundary(Moment::StepEnd, epoch, &[]);
        let mut run = TinyRun::new(Seed(1));
        let mut weights = |epoch| {
            objective.refresh(&mut run, &at(epoch)).unwrap();
            let terms = objective.terms(&mut model(), &mut Notes::new()).unwrap();
            terms.iter().map(|term| term.weight).collect::<Vec<_>>()
        };
        assert_eq!(weights(9), [1.0, 0.01, 1.0, 0.01]);
        assert_eq!(weights(10), [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(weights(12), [0.0; 4]);
    }

    #[test]
    fn prototypes_are_class_means_and_move_by_the_momentum() {
        let mut run = TinyRun::new(Seed(1));
        let config = PmrConfig { sample_share: 1.0, momentum: 0.25, ..PmrConfig::default() };
        let mut objective = Pmr { config, prototypes: ByModality::new(), epoch: 0 };
        objective.refresh(&mut run, &boundary(Moment::PhaseStart, 0, &[])).unwrap();
        let first = objective.prototypes["audio"].copy();
        let spec = Spec::evaluation(run.modalities());
        let (mut sum, mut count) = (Tensor::zeros([5], (Kind::Float, Device::Cpu)), 0.0);
        for step in 0..4 {
            let outputs = run.outputs(&spec, step, None).unwrap();
            let member = run.labels(step).eq(1).to_kind(Kind::Float);
            sum += member.unsqueeze(0).matmul(&outputs.features["audio"]).squeeze();
            count += member.sum(Kind::Double).double_value(&[]);
        }
        assert_close(&first.get(1), &entries(&(sum / count)), 1e-5);
        objective.prototypes.insert("audio".to_owned(), first.zeros_like());
        objective.refresh(&mut run, &boundary(Moment::EpochStart, 1, &[])).unwrap();
        assert_close(&objective.prototypes["audio"], &entries(&(first * 0.75)), 1e-5);
    }
}
