//! Weights the joint and the unimodal losses by how they generalise, found out in trials.

use std::collections::BTreeMap;

use mie_core::prelude::*;
use serde_json::json;

/// Gradient blending: loss weights from the overfitting-to-generalisation ratio (OGR-GB).
///
/// A copy of the run is trained for `n` epochs with the loss of each head `k` alone: those of the
/// modalities, and the joint one. With `T` and `V` the losses of the head on the training and the
/// validation split, in evaluation mode, before (0) and after (n):
///
/// ```text
/// O     = (V_n - T_n) - (V_0 - T_0)          more overfitting
/// G     = V_0 - V_n                          more generalisation
/// w_k   = (G_k / (O_k^2 + 1e-8)) / sum_j (G_j / (O_j^2 + 1e-8))
/// L     = sum_m w_m CE(z_m, y) + w_joint CE(z, y)
/// ```
///
/// The copies are put back bit for bit; they train without gradient modifiers, controllers and
/// mixing of samples. Offline, weights are found once, by trials as long as the phase; online,
/// again every `super_epochs`. For `M` modalities a finding costs `M + 1` trials.
///
/// Published code has no estimator; where the paper leaves a choice: a head whose validation loss
/// rose gets weight 0 (`negative_gain`), all get the same weight if none fell, and nothing is
/// capped. An offline finding lies in memory: a run killed during it starts it again.
///
/// Needs a validation split, the objectives `joint_ce` and `unimodal_ce`, and heads of their own.
/// Losses are those of evaluation: that of the joint head is the fused decision's.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GradientBlendingConfig {
    /// When weights are found. Offline by default, as in the paper's main results.
    pub mode: BlendingMode,
    /// Epochs of a trial and between two findings, at least 1; online only. Default 10, that of a
    /// re-implementation.
    pub super_epochs: usize,
    /// What becomes of a head whose validation loss rose.
    pub negative_gain: NegativeGain,
}

/// When weights are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlendingMode {
    /// Once, at the start of the phase.
    #[default]
    Offline,
    /// Every `super_epochs`.
    Online,
}

/// What becomes of a head whose validation loss rose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NegativeGain {
    /// It gets weight 0.
    #[default]
    Clamp,
    /// The size of the loss counts, whichever way it went: what re-implementations do.
    Absolute,
}

impl Default for GradientBlendingConfig {
    fn default() -> Self {
        Self {
            mode: BlendingMode::default(),
            super_epochs: 10,
            negative_gain: NegativeGain::default(),
        }
    }
}

#[typetag::serde(name = "gradient_blending")]
impl ControllerConfig for GradientBlendingConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("super_epochs", "at least 1", self.super_epochs, self.super_epochs >= 1)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(GradientBlending { config: self.clone() }))
    }
}
register!(controller::<GradientBlendingConfig>, source = "Wang et al. 2020, arXiv:1905.12681");

/// Remembers nothing: the weights are the run's, and when to find new ones is told by the epoch.
struct GradientBlending {
    config: GradientBlendingConfig,
}

/// A head: its loss term, the output that is evaluated, and the modalities that it needs.
struct BlendedHead {
    term: String,
    output: String,
    modalities: Vec<String>,
}

/// Losses of a head on the training and the validation split.
#[derive(Debug, Clone, Copy)]
struct Losses {
    train: f64,
    valid: f64,
}

impl GradientBlending {
    fn heads(modalities: &[String]) -> Vec<BlendedHead> {
        let own = modalities.iter().map(|name| BlendedHead {
            term: Term::unimodal(name),
            output: name.clone(),
            modalities: vec![name.clone()],
        });
        let joint = BlendedHead {
            term: Term::JOINT.to_owned(),
            output: "fused".to_owned(),
            modalities: modalities.to_vec(),
        };
        own.chain([joint]).collect()
    }

    /// How much a head speaks for itself, before weights are made to sum to 1.
    fn merit(&self, before: Losses, after: Losses) -> f64 {
        let overfitting = (after.valid - after.train) - (before.valid - before.train);
        let gain = before.valid - after.valid;
        let gain = match self.config.negative_gain {
            NegativeGain::Clamp => gain.max(0.0),
            NegativeGain::Absolute => gain.abs(),
        };
        gain / (overfitting * overfitting + 1e-8)
    }
}

/// Weights that sum to 1; equal ones where nobody has merit.
fn weights(merits: &[f64]) -> Vec<f64> {
    let sum: f64 = merits.iter().sum();
    if sum > 0.0 && sum.is_finite() {
        merits.iter().map(|merit| merit / sum).collect()
    } else {
        vec![1.0 / merits.len() as f64; merits.len()]
    }
}

fn losses(run: &mut dyn RunOps) -> Result<BTreeMap<String, Losses>> {
    let train = run.evaluate(Split::Train)?;
    let valid = run.evaluate(Split::Valid)?;
    let pair = |(key, valid): (String, f64)| {
        let output = key.strip_suffix(".loss")?;
        Some((output.to_owned(), Losses { train: *train.get(&key)?, valid }))
    };
    Ok(valid.into_iter().filter_map(pair).collect())
}

fn loss_of(losses: &BTreeMap<String, Losses>, output: &str) -> Result<Losses> {
    let found = losses.get(output).copied();
    found.ok_or_else(|| Error::Bug(format!("evaluation has no loss of `{output}`")))
}

impl Persist for GradientBlending {}

impl Controller for GradientBlending {
    fn needs(&self) -> &'static [Need] {
        &[Need::ValidationSplit, Need::JointLogits, Need::UnimodalHeads, Need::SeveralModalities]
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        run.expect_joint_steps()?;
        run.expect_joint_and_unimodal_terms()
    }

    fn after(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let epochs = match self.config.mode {
            BlendingMode::Offline if at.epoch == 0 => at.epochs,
            BlendingMode::Online if at.epoch.is_multiple_of(self.config.super_epochs) => {
                self.config.super_epochs.min(at.epochs - at.epoch)
            }
            _ => return Ok(Vec::new()),
        };
        if at.moment != Moment::EpochStart {
            return Ok(Vec::new());
        }
        let heads = Self::heads(&at.trained);
        let before = losses(run)?;
        let (mut merits, mut report) = (Vec::new(), Vec::new());
        for head in &heads {
            let modalities = head.modalities.clone();
            let trial = Trial { term: head.term.clone(), modalities, epochs };
            let mut after = BTreeMap::new();
            run.trial(&trial, &mut |run| {
                after = losses(run)?;
                Ok(())
            })?;
            let (before, after) = (loss_of(&before, &head.output)?, loss_of(&after, &head.output)?);
            merits.push(self.merit(before, after));
            report.push(json!({
                "term": head.term,
                "train_loss": [before.train, after.train],
                "valid_loss": [before.valid, after.valid],
            }));
        }
        let weights = weights(&merits);
        for (entry, weight) in report.iter_mut().zip(&weights) {
            entry["weight"] = json!(weight);
        }
        let named = heads.iter().zip(&weights).map(|(head, w)| format!("{} {w:.3}", head.term));
        let words = format!("weights {}", named.collect::<Vec<_>>().join(", "));
        run.note(json!({ "epochs_of_a_trial": epochs, "heads": report, "words": words }));
        let directive =
            |(head, weight): (BlendedHead, f64)| Directive::TermWeight { term: head.term, weight };
        Ok(heads.into_iter().zip(weights).map(directive).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{TinyRun, bits, boundary};

    fn plugin(config: GradientBlendingConfig) -> GradientBlending {
        GradientBlending { config }
    }

    /// Weights from `(T_0, V_0, T_n, V_n)` of each head.
    fn found(negative_gain: NegativeGain, heads: [[f64; 4]; 3]) -> Vec<f64> {
        let config = GradientBlendingConfig { negative_gain, ..GradientBlendingConfig::default() };
        let plugin = plugin(config);
        let merit = |[train, valid, later_train, later_valid]: [f64; 4]| {
            let after = Losses { train: later_train, valid: later_valid };
            plugin.merit(Losses { train, valid }, after)
        };
        weights(&heads.map(merit))
    }

    fn assert_near(found: &[f64], expected: [f64; 3]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
        }
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    const VISUAL: [f64; 4] = [1.8, 1.8, 1.4, 1.5];
    const JOINT: [f64; 4] = [1.8, 1.8, 0.8, 1.3];

    #[test]
    fn weights_are_those_of_the_worked_examples() {
        let heads = [[1.8, 1.8, 1.0, 1.5], VISUAL, JOINT];
        assert_near(&found(NegativeGain::Clamp, heads), [0.036_145, 0.903_614, 0.060_241]);
        let heads = [[1.8, 1.8, 0.6, 1.9], VISUAL, JOINT];
        assert_near(&found(NegativeGain::Clamp, heads), [0.0, 0.937_500, 0.062_500]);
        assert_near(&found(NegativeGain::Absolute, heads), [0.001_846, 0.935_770, 0.062_385]);
    }

    #[test]
    fn without_any_gain_weights_are_equal() {
        let worse = [1.0, 1.0, 0.5, 2.0];
        assert_near(&found(NegativeGain::Clamp, [worse; 3]), [1.0 / 3.0; 3]);
    }

    fn directives(mode: BlendingMode, epoch: usize, run: &mut TinyRun) -> Vec<Directive> {
        let config =
            GradientBlendingConfig { mode, super_epochs: 3, ..GradientBlendingConfig::default() };
        let mut at = boundary(Moment::EpochStart, epoch, &[]);
        at.epochs = 7;
        at.trained = run.modalities();
        plugin(config).after(&at, run).unwrap()
    }

    #[test]
    fn trials_leave_the_run_as_it_was_and_come_when_they_are_due() {
        let mut run = TinyRun::new(Seed(3));
        let before = run.parameters.export().unwrap();
        for (mode, epochs) in
            [(BlendingMode::Offline, vec![0]), (BlendingMode::Online, vec![0, 3, 6])]
        {
            for epoch in 0..7 {
                let found = directives(mode, epoch, &mut run);
                assert_eq!(found.len(), if epochs.contains(&epoch) { 3 } else { 0 });
                let weights: Vec<f64> = found
                    .iter()
                    .map(|directive| match directive {
                        Directive::TermWeight { weight, .. } => *weight,
                        other => panic!("{other:?}"),
                    })
                    .collect();
                assert!(found.is_empty() || (weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
        let lengths: Vec<_> =
            run.findings.iter().map(|finding| finding["epochs_of_a_trial"].clone()).collect();
        assert_eq!(lengths, [7, 3, 3, 1]);
        for (path, value) in run.parameters.export().unwrap() {
            assert_eq!(bits(&value), bits(&before[&path]), "{path}");
        }
    }
}
