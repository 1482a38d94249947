//! Gives each modality its own learning rate.

use std::collections::BTreeMap;

use mie_core::prelude::*;
use serde_json::json;

/// Modality-specific learning rates.
///
/// With `lambda_m` the factor of modality `m` for the optimizer's learning rate, the ratio of the
/// best rates found when training each modality alone:
///
/// ```text
/// keep      f_m = lambda_m
/// smooth    f_m = lambda_m^(1 - s) (prod_n lambda_n)^(s/M)               s = smoothing
/// dynamic   f_m = lambda_m a_m(e) / mean(a_m(e - w .. e - 1))            adaptation = "ratio"
///           f_m <- f_m a_m(e) / mean(a_m(e - w + 1 .. e))   every w epochs    "cumulative"
/// ```
///
/// with `a_m(e)` the validation accuracy of `m` after epoch `e` and `w` the window; a dynamic
/// factor is `lambda_m` until enough epochs are over. Factors hold for the encoder and the head of
/// a modality and multiply with schedules; the rest trains at the optimizer's own rate. It sets
/// learning rates, not gradients, so it works under Adam, and weight decay scales with it.
///
/// The shrinkage of `smooth` is ours: the paper's exact rule could not be opened. `ratio` is that
/// of one public re-implementation and is not cumulative; `cumulative` that of another, which
/// acts after epochs w + 1, 2w + 1 and so on, counted from 1.
///
/// For additive late fusion (`sum`, `average`) with `joint_ce`. Rates are not searched for: sweep
/// over `optimizer.learning_rate` of the unimodal experiments first. `dynamic` needs a validation
/// split.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MslrConfig {
    /// How factors come about. Those given are kept by default.
    pub strategy: RateStrategy,
    /// Factor `lambda` of each modality, greater than 0; 1 for those that are not named. A
    /// re-implementation has 0.9 for audio and 1.1 for video on CREMA-D.
    pub factors: BTreeMap<String, f64>,
    /// How far `smooth` brings factors together, in `[0, 1]`: 0 keeps them, 1 makes them equal.
    /// The default, 0.5, is ours.
    pub smoothing: f64,
    /// Epochs in the window of `dynamic`, at least 1. Default 5, that of both re-implementations.
    pub window_epochs: usize,
    /// How `dynamic` follows the accuracy.
    pub adaptation: Adaptation,
}

/// How factors come about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateStrategy {
    /// Those given.
    #[default]
    Keep,
    /// Those given, brought closer to each other.
    Smooth,
    /// Those given, times how the modality's accuracy develops.
    Dynamic,
}

/// How a dynamic factor follows the accuracy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Adaptation {
    /// The latest accuracy against the mean of the window before it, every epoch anew.
    #[default]
    Ratio,
    /// The latest accuracy against the mean of the window that it ends, multiplied up.
    Cumulative,
}

impl Default for MslrConfig {
    fn default() -> Self {
        Self {
            strategy: RateStrategy::default(),
            factors: BTreeMap::new(),
            smoothing: 0.5,
            window_epochs: 5,
            adaptation: Adaptation::default(),
        }
    }
}

#[typetag::serde(name = "mslr")]
impl ControllerConfig for MslrConfig {
    fn validate(&self) -> Result<()> {
        for (name, &factor) in &self.factors {
            let positive = factor > 0.0 && factor.is_finite();
            ensure_range(&format!("factors.{name}"), "(0, inf)", factor, positive)?;
        }
        let share = (0.0..=1.0).contains(&self.smoothing);
        ensure_range("smoothing", "[0, 1]", self.smoothing, share)?;
        ensure_range("window_epochs", "at least 1", self.window_epochs, self.window_epochs >= 1)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(Mslr { config: self.clone(), histories: BTreeMap::new() }))
    }
}
register!(
    controller::<MslrConfig>,
    source = "Yao and Mihalcea 2022, doi:10.18653/v1/2022.findings-acl.143"
);

struct Mslr {
    config: MslrConfig,
    histories: BTreeMap<String, History>,
}

/// How a modality's accuracy developed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct History {
    /// The latest accuracies, the newest last, one more than a window at most.
    accuracies: Vec<f64>,
    /// Epochs seen.
    epochs: usize,
    /// What `lambda` is multiplied by.
    factor: f64,
}

impl Default for History {
    fn default() -> Self {
        Self { accuracies: Vec::new(), epochs: 0, factor: 1.0 }
    }
}

impl History {
    fn look(&mut self, accuracy: f64, window: usize, adaptation: Adaptation) {
        self.accuracies.push(accuracy);
        if self.accuracies.len() > window + 1 {
            self.accuracies.remove(0);
        }
        self.epochs += 1;
        if self.accuracies.len() <= window {
            return;
        }
        let mean = |accuracies: &[f64]| accuracies.iter().sum::<f64>() / accuracies.len() as f64;
        // An accuracy of 0 has nothing to be compared with.
        let ratio = |mean: f64| if mean > 0.0 { accuracy / mean } else { 1.0 };
        match adaptation {
            Adaptation::Ratio => self.factor = ratio(mean(&self.accuracies[..window])),
            Adaptation::Cumulative if (self.epochs - 1).is_multiple_of(window) => {
                self.factor *= ratio(mean(&self.accuracies[1..]));
            }
            Adaptation::Cumulative => {}
        }
    }
}

impl Mslr {
    fn given(&self, modality: &str) -> f64 {
        self.config.factors.get(modality).copied().unwrap_or(1.0)
    }

    /// Factor of each modality for the coming epoch.
    fn factors(&self, modalities: &[String]) -> BTreeMap<String, f64> {
        let log: f64 = modalities.iter().map(|name| self.given(name).ln()).sum();
        let middle = log / modalities.len().max(1) as f64;
        let factor = |name: &String| {
            let given = self.given(name);
            match self.config.strategy {
                RateStrategy::Keep => given,
                RateStrategy::Smooth => {
                    let s = self.config.smoothing;
                    ((1.0 - s) * given.ln() + s * middle).exp()
                }
                RateStrategy::Dynamic => {
                    given * self.histories.get(name).map_or(1.0, |history| history.factor)
                }
            }
        };
        modalities.iter().map(|name| (name.clone(), factor(name))).collect()
    }
}

impl Controller for Mslr {
    fn needs(&self) -> &'static [Need] {
        match self.config.strategy {
            RateStrategy::Dynamic => &[Need::ValidationSplit],
            RateStrategy::Keep | RateStrategy::Smooth => &[],
        }
    }

    fn check(&self, run: &RunShape) -> Result<()> {
        for name in self.config.factors.keys() {
            run.expect_modality("factors", name)?;
        }
        if self.config.strategy == RateStrategy::Dynamic {
            for modality in run.layers.keys() {
                let score = format!("valid.{modality}.accuracy");
                run.expect_score("strategy = \"dynamic\"", &score)?;
            }
        }
        Ok(())
    }

    fn after(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        match at.moment {
            Moment::EpochStart => {
                let factors = self.factors(&run.modalities());
                if self.config.strategy == RateStrategy::Dynamic {
                    let named = factors.iter().map(|(name, factor)| format!("{name} {factor:.3}"));
                    let words = named.collect::<Vec<_>>().join(", ");
                    run.note(json!({ "learning_rate_factors": factors, "words": words }));
                }
                let known = run.groups();
                let groups = factors.into_iter().flat_map(|(name, factor)| {
                    [GroupId::Encoder(name.clone()), GroupId::Head(name)]
                        .map(|group| (group, factor))
                });
                let directive =
                    |(group, factor)| Directive::LearningRateFactor { group: Some(group), factor };
                Ok(groups.filter(|(group, _)| known.contains(group)).map(directive).collect())
            }
            Moment::EpochEnd if self.config.strategy == RateStrategy::Dynamic => {
                for name in run.modalities() {
                    let score = format!("valid.{name}.accuracy");
                    if let Some(&accuracy) = at.scores.get(&score) {
                        let history = self.histories.entry(name).or_default();
                        history.look(accuracy, self.config.window_epochs, self.config.adaptation);
                    }
                }
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }
}

impl Persist for Mslr {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        state.values.insert("histories".to_owned(), json!(self.histories));
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.histories = state.take("histories")?;
        state.expect_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{TinyRun, boundary};

    const ACCURACIES: [f64; 7] = [0.30, 0.34, 0.38, 0.42, 0.46, 0.50, 0.48];

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }

    /// The factor after each epoch of the worked example.
    fn after_each(adaptation: Adaptation) -> Vec<f64> {
        let mut history = History::default();
        let mut factor = |accuracy| {
            history.look(accuracy, 5, adaptation);
            history.factor
        };
        ACCURACIES.into_iter().map(&mut factor).collect()
    }

    #[test]
    fn the_ratio_is_that_of_the_worked_example() {
        let found = after_each(Adaptation::Ratio);
        assert!(found[..5].iter().all(|factor| (factor - 1.0).abs() < 1e-12));
        near(found[5], 1.315_789);
        near(found[5] * 0.9, 1.184_211);
        near(found[6], 1.142_857);
    }

    #[test]
    fn the_cumulative_factor_is_that_of_the_worked_example() {
        let found = after_each(Adaptation::Cumulative);
        near(found[4], 1.0);
        near(found[5], 1.190_476);
        near(found[6], 1.190_476);
    }

    fn mslr(config: MslrConfig) -> Mslr {
        Mslr { config, histories: BTreeMap::new() }
    }

    fn given(audio: f64, video: f64) -> BTreeMap<String, f64> {
        [("audio".to_owned(), audio), ("video".to_owned(), video)].into()
    }

    #[test]
    fn smoothing_is_that_of_the_worked_example() {
        let config = |smoothing| MslrConfig {
            strategy: RateStrategy::Smooth,
            factors: given(1e-3, 1e-2),
            smoothing,
            ..MslrConfig::default()
        };
        let modalities = ["audio".to_owned(), "video".to_owned()];
        for (smoothing, audio, video) in [
            (0.5, 1.778_279e-3, 5.623_413e-3),
            (0.0, 1e-3, 1e-2),
            (1.0, 3.162_278e-3, 3.162_278e-3),
        ] {
            let found = mslr(config(smoothing)).factors(&modalities);
            assert!((found["audio"] / audio - 1.0).abs() < 1e-6);
            assert!((found["video"] / video - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn each_modality_s_own_groups_get_its_factor_at_every_epoch() {
        let mut run = TinyRun::new(Seed(0));
        let mut plugin = mslr(MslrConfig { factors: given(0.9, 1.1), ..MslrConfig::default() });
        let found = plugin.after(&boundary(Moment::EpochStart, 3, &[]), &mut run).unwrap();
        let factor = |group, factor| Directive::LearningRateFactor { group: Some(group), factor };
        let expected = [
            factor(GroupId::Encoder("audio".to_owned()), 0.9),
            factor(GroupId::Head("audio".to_owned()), 0.9),
            factor(GroupId::Encoder("video".to_owned()), 1.1),
            factor(GroupId::Head("video".to_owned()), 1.1),
        ];
        assert_eq!(found, expected);
        assert!(plugin.after(&boundary(Moment::EpochEnd, 3, &[]), &mut run).unwrap().is_empty());
    }

    #[test]
    fn names_of_no_modality_are_refused() {
        let config = MslrConfig { factors: given(1.0, 1.0), ..MslrConfig::default() };
        let mut shape = TinyRun::new(Seed(0)).shape();
        mslr(config.clone()).check(&shape).unwrap();
        shape.layers.remove("video");
        let error = mslr(config).check(&shape).unwrap_err().to_string();
        assert!(error.contains("`factors` names `video`"), "{error}");
    }
}
