//! Stops each modality when it starts to overfit, while the others go on.

use std::collections::BTreeMap;

use mie_core::prelude::*;
use serde_json::json;

/// Modality-specific early stopping.
///
/// Branches are the modalities, each with its encoder and head, and `joint`, the weights of the
/// fusion where it has any. After every epoch `e`, with `v_b` the validation loss of branch `b`'s
/// output (the fused decision's for `joint`):
///
/// ```text
/// s_b = v_b                                    in the first epoch
/// s_b = (1 - new) v_b(e - 1) + new v_b(e)      later                        new = 0.4
/// s_b < best: keep the branch's weights
/// e - (epoch of the best) > patience: freeze the branch, with the weights of its best epoch
/// ```
///
/// A frozen branch does not move at all, whatever losses reach it. The phase ends when all
/// branches are frozen. Train with `joint_ce` and `unimodal_ce` (the paper's multi-task loss), or
/// with `joint_ce` alone as in the one public re-implementation, which also smooths as above, takes
/// the test split for validation, and stops a branch by zero gradients, under which momentum and
/// weight decay still move it.
///
/// Needs a validation split. Keeps a copy of each branch's best weights, in checkpoints too.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MsesConfig {
    /// Epochs without improvement that are put up with, at least 1. The default, 10, is ours; a
    /// re-implementation takes 80 on CREMA-D.
    pub patience_epochs: usize,
    /// Share of the newest loss in the smoothed one, in `(0, 1]`; 1 smooths nothing. Default 0.4,
    /// that of a re-implementation.
    pub new: f64,
    /// What goes back to the branch's best epoch when it is frozen. The branch by default.
    pub restore: Restored,
}

/// What goes back to a branch's best epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Restored {
    /// The branch alone.
    #[default]
    Branch,
    /// All weights that are not frozen yet, as in a re-implementation; the optimizer's memory
    /// stays as it is.
    Whole,
}

impl Default for MsesConfig {
    fn default() -> Self {
        Self { patience_epochs: 10, new: 0.4, restore: Restored::default() }
    }
}

#[typetag::serde(name = "mses")]
impl ControllerConfig for MsesConfig {
    fn validate(&self) -> Result<()> {
        let patience = self.patience_epochs;
        ensure_range("patience_epochs", "at least 1", patience, patience >= 1)?;
        ensure_range("new", "(0, 1]", self.new, self.new > 0.0 && self.new <= 1.0)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(Mses {
            config: self.clone(),
            branches: BTreeMap::new(),
            best_weights: BTreeMap::new(),
        }))
    }
}
register!(
    controller::<MsesConfig>,
    source = "Fujimori et al. 2019, doi:10.1109/IJCNN.2019.8852335"
);

/// Name of the branch that is no modality.
const JOINT: &str = "joint";

struct Mses {
    config: MsesConfig,
    branches: BTreeMap<String, Branch>,
    /// Weights of each branch's best epoch.
    best_weights: BTreeMap<String, State>,
}

/// What is known of a branch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Branch {
    /// Epochs that it was trained for.
    epochs: usize,
    last_loss: Option<f64>,
    best: Option<f64>,
    best_epoch: usize,
    frozen: bool,
}

/// What an epoch means for a branch.
#[derive(Debug, PartialEq)]
enum Verdict {
    Best,
    Waits,
    Stops,
}

impl Branch {
    /// Takes in the loss of an epoch.
    fn look(&mut self, loss: f64, config: &MsesConfig) -> Verdict {
        self.epochs += 1;
        let before = self.last_loss.unwrap_or(loss);
        let smoothed = (1.0 - config.new) * before + config.new * loss;
        self.last_loss = Some(loss);
        if self.best.is_none_or(|best| smoothed < best) {
            (self.best, self.best_epoch) = (Some(smoothed), self.epochs);
            return Verdict::Best;
        }
        self.frozen = self.epochs - self.best_epoch > config.patience_epochs;
        if self.frozen { Verdict::Stops } else { Verdict::Waits }
    }
}

impl Mses {
    /// Branches with their groups; `joint` only where a fusion has weights.
    fn groups(run: &dyn RunOps) -> BTreeMap<String, Vec<GroupId>> {
        let mut branches: BTreeMap<String, Vec<GroupId>> = BTreeMap::new();
        for group in run.groups() {
            let branch = match (&group, group.modality()) {
                (_, Some(modality)) => modality,
                (GroupId::Auxiliary(_), None) => continue,
                (_, None) => JOINT,
            };
            branches.entry(branch.to_owned()).or_default().push(group);
        }
        branches
    }

    fn end_epoch(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let mut directives = Vec::new();
        let groups = Self::groups(run);
        for (name, own) in &groups {
            let branch = self.branches.entry(name.clone()).or_default();
            let trained = name == JOINT || at.trained.contains(name);
            if branch.frozen || !trained {
                continue;
            }
            let output = if name == JOINT { "fused" } else { name };
            let score = format!("valid.{output}.loss");
            let loss = at.scores.get(&score).copied().ok_or_else(|| {
                Error::refused(
                    format!("`mses` watches `{score}`, and evaluation does not report it"),
                    "give modalities heads of their own, or an additive fusion",
                )
            })?;
            match branch.look(loss, &self.config) {
                Verdict::Best => {
                    let kept: Vec<GroupId> = match self.config.restore {
                        Restored::Branch => own.clone(),
                        Restored::Whole => groups.values().flatten().cloned().collect(),
                    };
                    self.best_weights.insert(name.clone(), run.snapshot(&kept)?);
                }
                Verdict::Waits => {}
                Verdict::Stops => {
                    let best = branch.best_epoch;
                    let words = format!("`{name}` stops, with the weights of epoch {best}");
                    run.note(json!({ "stopped": name, "restored_epoch": best, "words": words }));
                    if let Some(mut best) = self.best_weights.remove(name) {
                        // What was frozen before keeps its own best weights.
                        let frozen = self
                            .branches
                            .iter()
                            .filter(|(other, branch)| branch.frozen && *other != name);
                        let frozen: Vec<String> = frozen
                            .flat_map(|(other, _)| groups.get(other).into_iter().flatten())
                            .map(|group| format!("{group}."))
                            .collect();
                        best.tensors.retain(|path, _| !frozen.iter().any(|g| path.starts_with(g)));
                        run.restore(&best)?;
                    }
                    directives.extend(own.iter().cloned().map(Directive::Freeze));
                }
            }
        }
        if groups.keys().all(|name| self.branches.get(name).is_some_and(|branch| branch.frozen)) {
            directives.push(Directive::EndPhase);
        }
        Ok(directives)
    }
}

impl Controller for Mses {
    fn needs(&self) -> &'static [Need] {
        &[Need::ValidationSplit]
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        for modality in run.layers.keys() {
            run.expect_score("(a modality's loss)", &format!("valid.{modality}.loss"))?;
        }
        Ok(())
    }

    fn after(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        match at.moment {
            Moment::EpochEnd => self.end_epoch(at, run),
            _ => Ok(Vec::new()),
        }
    }
}

impl Persist for Mses {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        for (branch, weights) in &self.best_weights {
            for (path, tensor) in &weights.tensors {
                state.put(format!("{branch}/{path}"), tensor)?;
            }
        }
        state.values.insert("branches".to_owned(), json!(self.branches));
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.branches = state.take("branches")?;
        self.best_weights.clear();
        for (name, tensor) in std::mem::take(&mut state.tensors) {
            if let Some((branch, path)) = name.split_once('/') {
                let weights = self.best_weights.entry(branch.to_owned()).or_default();
                weights.tensors.insert(path.to_owned(), tensor);
            }
        }
        state.expect_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{TinyRun, bits, boundary};

    #[test]
    fn smoothing_and_patience_are_those_of_the_worked_example() {
        let config = MsesConfig { patience_epochs: 1, ..MsesConfig::default() };
        let mut branch = Branch::default();
        let losses = [1.0, 0.8, 0.9, 0.7, 1.1, 1.2];
        let verdicts: Vec<Verdict> =
            losses.iter().map(|loss| branch.look(*loss, &config)).collect();
        let best = || Verdict::Best;
        let expected = [best(), best(), best(), best(), Verdict::Waits, Verdict::Stops];
        assert_eq!(verdicts, expected);
        assert!((branch.best.unwrap() - 0.82).abs() < 1e-12);
        assert_eq!(branch.best_epoch, 4);
    }

    /// Lets audio get worse from epoch 1 on and video get better; moves all weights every epoch.
    fn train(
        mses: &mut dyn Controller,
        run: &mut TinyRun,
        epochs: std::ops::Range<usize>,
    ) -> Vec<Directive> {
        let mut all = Vec::new();
        for epoch in epochs {
            let (audio, video) = (1.0 + epoch as f64, 1.0 / (1.0 + epoch as f64));
            let scores = [("valid.audio.loss", audio), ("valid.video.loss", video)];
            let at = Boundary {
                trained: run.modalities(),
                ..boundary(Moment::EpochEnd, epoch, &scores)
            };
            all.extend(mses.after(&at, run).unwrap());
            let _guard = no_grad_guard();
            for (_, group) in run.parameters.groups() {
                for value in group.params.values() {
                    let _ = value.shallow_clone().f_add_scalar_(1.0).unwrap();
                }
            }
        }
        all
    }

    fn weight(run: &TinyRun, modality: &str) -> Vec<u64> {
        bits(run.parameters.find(&format!("encoder.{modality}.fc.weight")).unwrap().1)
    }

    #[test]
    fn a_branch_that_overfits_is_frozen_with_its_best_weights_and_the_rest_goes_on() {
        let config = MsesConfig { patience_epochs: 2, ..MsesConfig::default() };
        let (mut run, mut mses) = (TinyRun::new(Seed(5)), config.build().unwrap());
        let best = weight(&run, "audio");
        assert!(train(&mut *mses, &mut run, 0..3).is_empty());
        let scores = [("valid.audio.loss", 4.0), ("valid.video.loss", 0.25)];
        let video = weight(&run, "video");
        let at = boundary(Moment::EpochEnd, 3, &scores);
        let at = Boundary { trained: run.modalities(), ..at };
        let found = mses.after(&at, &mut run).unwrap();
        let groups = [GroupId::Encoder("audio".to_owned()), GroupId::Head("audio".to_owned())];
        assert_eq!(found, groups.map(Directive::Freeze));
        assert_eq!((weight(&run, "audio"), weight(&run, "video")), (best, video));
        assert_eq!(run.findings[0]["stopped"], "audio");
    }

    #[test]
    fn the_phase_ends_when_all_are_frozen() {
        let config = MsesConfig { patience_epochs: 1, ..MsesConfig::default() };
        let (mut run, mut mses) = (TinyRun::new(Seed(5)), config.build().unwrap());
        for epoch in 0..3 {
            let rising = 1.0 + epoch as f64;
            let scores = [("valid.audio.loss", rising), ("valid.video.loss", rising)];
            let at = boundary(Moment::EpochEnd, epoch, &scores);
            let at = Boundary { trained: run.modalities(), ..at };
            let found = mses.after(&at, &mut run).unwrap();
            assert_eq!(found.last() == Some(&Directive::EndPhase), epoch == 2);
        }
    }

    #[test]
    fn a_saved_one_restores_the_same_weights() {
        let config = MsesConfig { patience_epochs: 2, ..MsesConfig::default() };
        let (mut run, mut first) = (TinyRun::new(Seed(5)), config.build().unwrap());
        let best = weight(&run, "audio");
        assert!(train(&mut *first, &mut run, 0..3).is_empty());
        let mut second = config.build().unwrap();
        second.load_state(first.state().unwrap()).unwrap();
        assert!(!train(&mut *second, &mut run, 3..4).is_empty());
        // Moved once more after it was restored.
        let now = run.parameters.find("encoder.audio.fc.weight").unwrap().1 - 1.0;
        let moved: Vec<u64> = bits(&now);
        let off = moved.iter().zip(&best).map(|(a, b)| f64::from_bits(*a) - f64::from_bits(*b));
        assert!(off.map(f64::abs).fold(0.0, f64::max) < 1e-6);
    }

    #[test]
    fn no_patience_at_all_is_refused() {
        let config = MsesConfig { patience_epochs: 0, ..MsesConfig::default() };
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "`patience_epochs` is 0, expected at least 1");
    }
}
