//! Adaptive gradient modulation: scales what each modality learns by how far it is ahead.

use std::collections::BTreeSet;

use mie_core::prelude::*;

/// Joint cross-entropy whose gradient through each modality is modulated.
///
/// With `Phi(S)` the joint logits when only the modalities `S` are shown and the others are filled
/// with zeros (running statistics, no dropout; `Phi` of none is 0), `z = Phi(all)` in training mode
/// and `M` modalities:
///
/// ```text
/// phi_m   = sum_(S without m) |S|! (M - |S| - 1)! / M! (Phi(S + m) - Phi(S))     Shapley value
/// s_m     = mean_k -log max(softmax(phi_m,k)_(y_k), 1e-8)
/// r_m     = exp(M/(M-1) (mean_n s_n - s_m))        tau_m: the same of the running means of s
/// kappa_m = exp(alpha min(tau_m - r_m, cap))
/// L       = CE(z + sum_m (kappa_m - 1)(phi_m - sg(phi_m)), y)
/// ```
///
/// `sg` stops the gradient, so that the value is that of plain joint training and only the gradient
/// through `phi_m` is scaled. Running means are over all steps so far, this one not counted. The
/// sum of all `phi_m` is `z`. Works with every fusion that has joint logits. With `alpha` 0 it is
/// plain joint training, bit for bit, for the price of the passes.
///
/// Costs `2^M - 2` further passes; where no fusion acts between stages they share what each
/// modality gives with and without its input, so that they cost as much as two.
///
/// The released code then clips gradients to norm 1 when an entry of a head's exceeds 1: add the
/// modifier `clip_norm` with `when_head_entry_above = 1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AgmConfig {
    /// Strength of the modulation, at least 0. Default 1, the released code's.
    pub alpha: f64,
    /// Largest `tau - r`, so that no gradient explodes; greater than 0. Default 10, the released
    /// code's for CREMA-D (7 for UR-Funny, none elsewhere).
    pub cap: f64,
    /// Epochs at the start of a phase with modulation, later ones train plainly; absent means all.
    /// The released code's default is 21.
    pub epochs: Option<usize>,
}

impl Default for AgmConfig {
    fn default() -> Self {
        Self { alpha: 1.0, cap: 10.0, epochs: None }
    }
}

#[typetag::serde(name = "agm")]
impl ObjectiveConfig for AgmConfig {
    fn validate(&self) -> Result<()> {
        let usable = self.alpha >= 0.0 && self.alpha.is_finite();
        ensure_range("alpha", "[0, inf)", self.alpha, usable)?;
        ensure_range("cap", "(0, inf)", self.cap, self.cap > 0.0 && self.cap.is_finite())
    }

    fn build(&self) -> Result<Box<dyn Objective>> {
        self.validate()?;
        Ok(Box::new(Agm { config: self.clone(), running: None, steps: 0, epoch: 0 }))
    }
}
register!(objective::<AgmConfig>, source = "Li et al. 2023, arXiv:2308.07686");

struct Agm {
    config: AgmConfig,
    /// Running means of the scores. `[modalities]`
    running: Option<Tensor>,
    steps: u64,
    /// Epoch within the phase.
    epoch: usize,
}

/// Name of the scores among the notes.
const SCORES: &str = "scores";

impl Objective for Agm {
    fn needs(&self) -> &'static [Need] {
        &[Need::JointLogits, Need::SeveralModalities]
    }

    fn terms(&self, forward: &mut dyn Forward, notes: &mut Notes) -> Result<Vec<Term>> {
        let full = forward.full();
        let outputs = forward.run(&full)?;
        let joint = outputs.joint_logits()?;
        let targets = forward.targets();
        let term = |logits: &Tensor| -> Result<Vec<Term>> {
            let loss = targets.cross_entropy_of_rows(logits, outputs.rows.as_ref())?;
            Ok(vec![Term::new("agm", loss)])
        };
        if self.config.epochs.is_some_and(|epochs| self.epoch >= epochs) {
            return term(joint);
        }
        if full.run.len() < 2 {
            return Err(Error::refused(
                format!("`agm` compares modalities, and a step trains {:?} alone", full.run),
                "choose a strategy that trains all modalities together, such as `joint`",
            ));
        }
        let responses = shapley(forward, joint)?;
        let scores = {
            let _guard = no_grad_guard();
            scores(&responses, &targets.labels)?
        };
        let kappa = self.coefficients(&scores)?;
        notes.insert(SCORES.to_owned(), scores);
        term(&modulated(joint, &responses, &kappa)?)
    }

    fn observe(&mut self, notes: &Notes) -> Result<()> {
        let Some(scores) = notes.get(SCORES) else { return Ok(()) };
        let _guard = no_grad_guard();
        self.steps += 1;
        self.running = Some(match &self.running {
            None => scores.f_detach_copy()?,
            Some(mean) => {
                let change = scores.f_sub(mean)?.f_div_scalar(self.steps as f64)?;
                mean.f_add(&change)?
            }
        });
        Ok(())
    }

    fn refresh(&mut self, _run: &mut dyn RunOps, at: &Boundary) -> Result<()> {
        self.epoch = at.epoch;
        Ok(())
    }
}

impl Agm {
    /// Factors of the gradient of each modality: `[modalities]`, without gradient.
    fn coefficients(&self, scores: &Tensor) -> Result<Tensor> {
        let _guard = no_grad_guard();
        let count = scores.size()[0] as f64;
        let relation = |scores: &Tensor| -> Result<Tensor> {
            let lead = scores.f_mean(None::<Kind>)?.f_sub(scores)?;
            Ok(lead.f_mul_scalar(count / (count - 1.0))?.f_exp()?)
        };
        let long_run = match &self.running {
            Some(running) => relation(running)?,
            None => scores.f_ones_like()?,
        };
        let behind = long_run.f_sub(&relation(scores)?)?.f_clamp_max(self.config.cap)?;
        Ok(behind.f_mul_scalar(self.config.alpha)?.f_exp()?)
    }
}

impl Persist for Agm {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        if let Some(running) = &self.running {
            state.put("running", running)?;
        }
        state.values.insert("steps".to_owned(), self.steps.into());
        state.values.insert("epoch".to_owned(), self.epoch.into());
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.running = state.tensors.remove("running");
        self.steps = state.take("steps")?;
        self.epoch = state.take("epoch")?;
        state.expect_empty()
    }
}

/// The joint logits, whose gradient through each response is scaled by a factor of `kappa`.
fn modulated(joint: &Tensor, responses: &[Tensor], kappa: &Tensor) -> Result<Tensor> {
    let mut logits = joint.shallow_clone();
    for (index, response) in responses.iter().enumerate() {
        let excess = kappa.f_get(index as i64)?.f_sub_scalar(1.0)?;
        let silent = response.f_sub(&response.f_detach()?)?;
        logits = logits.f_add(&silent.f_mul(&excess)?)?;
    }
    Ok(logits)
}

/// Mean over the batch of the negative log-probability that each response gives the right class.
fn scores(responses: &[Tensor], labels: &Tensor) -> Result<Tensor> {
    let right = labels.f_unsqueeze(1)?;
    let score = |response: &Tensor| -> Result<Tensor> {
        let likely = probabilities(response)?.f_gather(1, &right, false)?;
        Ok(likely.f_clamp_min(1e-8)?.f_log()?.f_neg()?.f_mean(None::<Kind>)?)
    };
    let scores = responses.iter().map(score).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&scores, 0)?)
}

/// Shapley value of each modality's logits, in the order of the step's modalities.
fn shapley(forward: &mut dyn Forward, joint: &Tensor) -> Result<Vec<Tensor>> {
    let full = forward.full();
    let modalities: Vec<&String> = full.run.iter().collect();
    let count = modalities.len();
    let mut factorial = vec![1.0f64];
    for n in 1..=count {
        factorial.push(factorial[n - 1] * n as f64);
    }
    // Coalitions as bit sets; that of none answers 0 and is left out.
    let mut answers = Vec::new();
    for members in 1..1usize << count {
        let is_member = |index: usize| members >> index & 1 == 1;
        let answer = if members + 1 == 1 << count {
            joint.shallow_clone()
        } else {
            let present: BTreeSet<String> = (0..count)
                .filter(|index| is_member(*index))
                .map(|i| modalities[i].clone())
                .collect();
            let spec = Spec { present, statistics: Some(Statistics::Running), ..full.clone() };
            forward.run(&spec)?.joint_logits()?.shallow_clone()
        };
        answers.push(answer);
    }
    let mut values = Vec::new();
    for index in 0..count {
        let mut value: Option<Tensor> = None;
        for (place, answer) in answers.iter().enumerate() {
            let members = place + 1;
            let size = members.count_ones() as usize;
            // What a coalition counts for its members, and against the others.
            let share = if members >> index & 1 == 1 {
                factorial[size - 1] * factorial[count - size] / factorial[count]
            } else {
                -factorial[size] * factorial[count - size - 1] / factorial[count]
            };
            let part = answer.f_mul_scalar(share)?;
            value = Some(match value {
                Some(value) => value.f_add(&part)?,
                None => part,
            });
        }
        values.extend(value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::fixture::{one_label, one_row};
    use super::*;
    use mie_conformance::stand_in::{assert_close, entries};

    /// A model whose answers to coalitions are given, each a parameter of its own.
    struct Coalitions {
        modalities: Vec<&'static str>,
        answers: BTreeMap<Vec<&'static str>, Tensor>,
    }

    impl Forward for Coalitions {
        fn full(&self) -> Spec {
            let evaluation = Spec::evaluation(self.modalities.iter().map(|&name| name.to_owned()));
            Spec { statistics: None, gradients: true, ..evaluation }
        }

        fn run(&mut self, spec: &Spec) -> Result<Outputs> {
            let present: Vec<&str> = spec.present.iter().map(String::as_str).collect();
            let all = present.len() == self.modalities.len();
            assert_eq!(spec.statistics, (!all).then_some(Statistics::Running));
            let joint = Some(self.answers[&present].shallow_clone());
            Ok(Outputs { joint, ..Outputs::default() })
        }

        fn targets(&self) -> Targets {
            one_label(0)
        }
    }

    fn two() -> Coalitions {
        let answer = |z: [f64; 3]| one_row(&z).set_requires_grad(true);
        Coalitions {
            modalities: vec!["audio", "video"],
            answers: BTreeMap::from([
                (vec!["audio", "video"], answer([2.0, 0.0, -1.0])),
                (vec!["audio"], answer([1.5, 0.2, 0.0])),
                (vec!["video"], answer([0.2, 0.4, -0.3])),
            ]),
        }
    }

    fn agm(alpha: f64) -> Agm {
        let config = AgmConfig { alpha, ..AgmConfig::default() };
        Agm { config, running: None, steps: 0, epoch: 0 }
    }

    #[test]
    fn responses_and_coefficients_of_two_modalities_match_the_worked_example() {
        let mut model = two();
        let joint = model.answers[&vec!["audio", "video"]].shallow_clone();
        let responses = shapley(&mut model, &joint).unwrap();
        assert_close(&responses[0], &[1.65, -0.1, -0.35], 1e-12);
        assert_close(&responses[1], &[0.35, 0.1, -0.65], 1e-12);
        let sum = &responses[0] + &responses[1];
        assert_close(&sum, &entries(&joint), 1e-12);
        let scores = scores(&responses, &Tensor::from_slice(&[0i64])).unwrap();
        assert_close(&scores, &[0.269_347, 0.763_923], 1e-6);
        let mut objective = agm(1.0);
        assert_close(&objective.coefficients(&scores).unwrap(), &[0.527_397, 1.477_232], 1e-6);
        objective.observe(&Notes::from([(SCORES.to_owned(), scores)])).unwrap();
        let next = Tensor::from_slice(&[0.7, 0.8]);
        assert_close(&objective.coefficients(&next).unwrap(), &[1.706_819, 0.744_526], 1e-6);
        objective.observe(&Notes::from([(SCORES.to_owned(), next)])).unwrap();
        assert_close(objective.running.as_ref().unwrap(), &[0.484_673, 0.781_961], 1e-6);
    }

    #[test]
    fn coefficients_of_three_modalities_match_the_worked_example() {
        let found = agm(1.0).coefficients(&Tensor::from_slice(&[0.5, 0.9, 1.3])).unwrap();
        assert_close(&found, &[0.439_499, 1.0, 1.570_177], 1e-6);
    }

    #[test]
    fn every_coalition_of_three_counts_as_often_as_it_should() {
        let names = ["audio", "flow", "video"];
        let mut answers = BTreeMap::new();
        for members in 1..8usize {
            let present = (0..3).filter(|i| members >> i & 1 == 1).map(|i| names[i]).collect();
            answers.insert(present, one_row(&[members as f64, (members * members) as f64]));
        }
        let value = |names: &[&'static str]| answers[&names.to_vec()].double_value(&[0, 1]);
        let by_hand = (value(&names) - value(&["flow", "video"])) / 3.0
            + (value(&["audio", "flow"]) - value(&["flow"])) / 6.0
            + (value(&["audio", "video"]) - value(&["video"])) / 6.0
            + value(&["audio"]) / 3.0;
        let joint = answers[&names.to_vec()].shallow_clone();
        let mut model = Coalitions { modalities: names.to_vec(), answers };
        let responses = shapley(&mut model, &joint).unwrap();
        assert!((responses[0].double_value(&[0, 1]) - by_hand).abs() < 1e-9);
        let sum: Tensor = responses.iter().sum();
        assert_close(&sum, &entries(&joint), 1e-9);
    }

    #[test]
    fn coalitions_get_the_gradient_that_the_worked_example_gives_them() {
        // kappa = (0.8, 1.2): c_12 = 1, c_1 = -0.2, c_2 = 0.2 times the joint gradient.
        let mut model = two();
        let joint = model.answers[&vec!["audio", "video"]].shallow_clone();
        let responses = shapley(&mut model, &joint).unwrap();
        let kappa = Tensor::from_slice(&[0.8, 1.2]);
        let modulated = modulated(&joint, &responses, &kappa).unwrap();
        assert_close(&modulated, &entries(&joint), 0.0);
        let loss = one_label(0).cross_entropy(&modulated).unwrap();
        let leaves: Vec<Tensor> = model.answers.values().map(Tensor::shallow_clone).collect();
        // In the order of the map: audio, both, video.
        let found = Tensor::run_backward(&[loss], &leaves, false, false);
        let plain = joint.softmax(-1, Kind::Double) - one_row(&[1.0, 0.0, 0.0]);
        for (found, factor) in found.iter().zip([-0.2, 1.0, 0.2]) {
            assert_close(found, &entries(&(&plain * factor)), 1e-12);
        }
    }

    #[test]
    fn a_step_of_one_modality_and_a_negative_strength_are_refused() {
        let mut model = two();
        model.modalities = vec!["audio"];
        let error = agm(1.0).terms(&mut model, &mut Notes::new()).unwrap_err().to_string();
        assert!(error.contains("compares modalities"), "{error}");
        let error = AgmConfig { alpha: -1.0, ..AgmConfig::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "`alpha` is -1, expected [0, inf)");
    }
}
