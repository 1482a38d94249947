//! Cuts the modality that learns faster from the others off from them for a while.

use std::collections::BTreeMap;

use mie_core::prelude::*;
use rand::RngExt as _;
use serde_json::json;

/// Balances modalities by their conditional learning speed (the training of "Greedy").
///
/// For a fusion between stages such as `mmtm`. After every step, with `main.m` the encoder and head
/// of modality `m`, `bypass.m` its weights in the fusion and those that all share there:
///
/// ```text
/// mu(group) = ||gradient||^2 / ||weights||^2
/// M_main.m += mu(main.m)        M_bypass.m += mu(bypass.m)      in regular steps only
/// speed_m   = log10(M_bypass.m / M_main.m)
/// if max speed - min speed > epsilon: shield the modality of the largest speed for `steps` steps
/// ```
///
/// A shielded modality gets means in place of what the others tell it, and must learn from its own
/// input. Before epoch `start_epoch` sums are kept and nothing is shielded. For two modalities it
/// is the published rule; the largest against the smallest of more is ours. Gradients are those
/// before modifiers, weights those before the step.
///
/// Deviation: the paper has natural logarithms, the released code decimal ones; so have we.
/// Reading the norms makes a GPU wait at every step.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GreedyConfig {
    /// Difference of speeds that is put up with, at least 0. Default 0.01, the released code's.
    pub epsilon: f64,
    /// Steps for which a modality is shielded, at least 1. Default 5, the released code's.
    pub steps: u64,
    /// First epoch of a phase in which one may be shielded, from 0. Default 1, the released code's.
    pub start_epoch: usize,
    /// How the modality to be shielded is chosen. By its speed by default.
    pub choice: Choice,
}

/// How the modality to be shielded is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// By the difference of speeds.
    #[default]
    Speed,
    /// At random at every step, none among the choices: the paper's control.
    Random,
}

impl Default for GreedyConfig {
    fn default() -> Self {
        Self { epsilon: 0.01, steps: 5, start_epoch: 1, choice: Choice::default() }
    }
}

#[typetag::serde(name = "greedy")]
impl ControllerConfig for GreedyConfig {
    fn validate(&self) -> Result<()> {
        let usable = self.epsilon >= 0.0 && self.epsilon.is_finite();
        ensure_range("epsilon", "[0, inf)", self.epsilon, usable)?;
        ensure_range("steps", "at least 1", self.steps, self.steps >= 1)
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(Greedy { config: self.clone(), memory: Memory::default() }))
    }
}
register!(controller::<GreedyConfig>, source = "Wu et al. 2022, arXiv:2202.05306");

struct Greedy {
    config: GreedyConfig,
    memory: Memory,
}

/// What it has seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Memory {
    sums: BTreeMap<String, Sums>,
    /// Steps for which a modality stays shielded.
    left: u64,
    /// How often each was shielded in this epoch.
    shielded: BTreeMap<String, u64>,
}

/// Summed ratios of a modality.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Sums {
    main: f64,
    bypass: f64,
}

/// `||gradient||^2 / ||weights||^2` over the groups that `belongs` names.
fn ratio(norms: &BTreeMap<GroupId, GroupNorms>, belongs: impl Fn(&GroupId) -> bool) -> f64 {
    let own = norms.iter().filter(|(group, _)| belongs(group));
    let (gradient, weights) = own.fold((0.0, 0.0), |(gradient, weights), (_, norms)| {
        (gradient + norms.gradient_squared, weights + norms.weights_squared)
    });
    if weights > 0.0 { gradient / weights } else { 0.0 }
}

impl Greedy {
    fn learn(&mut self, at: &Boundary) {
        for name in &at.trained {
            let main = ratio(
                &at.group_norms,
                |group| matches!(group, GroupId::Encoder(own) | GroupId::Head(own) if own == name),
            );
            let bypass = ratio(&at.group_norms, |group| match group {
                GroupId::Tap(_, Some(own)) => own == name,
                GroupId::Tap(_, None) => true,
                _ => false,
            });
            let sums = self.memory.sums.entry(name.clone()).or_default();
            sums.main += main;
            sums.bypass += bypass;
        }
    }

    /// The modality that is faster than another by more than is put up with.
    fn fastest(&self) -> Option<&String> {
        let speed = |sums: &Sums| (sums.bypass / sums.main).log10();
        let speeds = self.memory.sums.iter().map(|(name, sums)| (name, speed(sums)));
        let speeds: Vec<(&String, f64)> = speeds.filter(|(_, speed)| speed.is_finite()).collect();
        let smallest = speeds.iter().map(|(_, speed)| *speed).fold(f64::INFINITY, f64::min);
        // Of equals the first, so that the order of names decides.
        let largest = speeds.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1))?;
        (largest.1 - smallest > self.config.epsilon).then_some(largest.0)
    }

    fn shield(&mut self, modality: Option<String>) -> Vec<Directive> {
        if let Some(name) = &modality {
            *self.memory.shielded.entry(name.clone()).or_default() += 1;
        }
        vec![Directive::Isolate(modality)]
    }

    fn end_step(&mut self, at: &Boundary, run: &dyn RunOps) -> Vec<Directive> {
        if self.config.choice == Choice::Random {
            let mut stream = run.seed().stream(Purpose::Plugin, "greedy", &[at.global_step]);
            let drawn = stream.random_range(0..=at.trained.len());
            return self.shield(at.trained.get(drawn).cloned());
        }
        if self.memory.left > 0 {
            self.memory.left -= 1;
            return if self.memory.left == 0 { self.shield(None) } else { Vec::new() };
        }
        self.learn(at);
        let chosen = self.fastest().filter(|_| at.epoch >= self.config.start_epoch).cloned();
        match chosen {
            None => Vec::new(),
            Some(name) => {
                self.memory.left = self.config.steps;
                self.shield(Some(name))
            }
        }
    }
}

impl Controller for Greedy {
    fn needs(&self) -> &'static [Need] {
        &[Need::IsolatingFusion, Need::GroupNorms, Need::SeveralModalities]
    }

    fn after(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        match at.moment {
            Moment::StepEnd => Ok(self.end_step(at, run)),
            Moment::EpochEnd => {
                let counts = self.memory.shielded.iter();
                let named = counts.map(|(name, count)| format!("{name} {count} times"));
                let words = format!("shielded {}", named.collect::<Vec<_>>().join(", "));
                let mut finding = json!({
                    "shielded": self.memory.shielded,
                    "sums": self.memory.sums,
                });
                if !self.memory.shielded.is_empty() {
                    finding["words"] = json!(words);
                }
                run.note(finding);
                self.memory.shielded.clear();
                Ok(Vec::new())
            }
            Moment::PhaseStart | Moment::EpochStart => Ok(Vec::new()),
        }
    }
}

impl Persist for Greedy {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        state.values.insert("memory".to_owned(), json!(self.memory));
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.memory = state.take("memory")?;
        state.expect_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{TinyRun, boundary};

    /// The worked example: squared norms of gradients and weights.
    fn at(epoch: usize) -> Boundary {
        let norms =
            |gradient_squared, weights_squared| GroupNorms { gradient_squared, weights_squared };
        let mut at = boundary(Moment::StepEnd, epoch, &[]);
        at.trained = vec!["audio".to_owned(), "video".to_owned()];
        at.group_norms = BTreeMap::from([
            (GroupId::Encoder("audio".to_owned()), norms(1.5, 300.0)),
            (GroupId::Head("audio".to_owned()), norms(0.5, 100.0)),
            (GroupId::Encoder("video".to_owned()), norms(8.0, 400.0)),
            (GroupId::Tap(1, Some("audio".to_owned())), norms(4.0, 100.0)),
            (GroupId::Tap(1, Some("video".to_owned())), norms(1.0, 100.0)),
        ]);
        at
    }

    fn greedy(config: GreedyConfig) -> Greedy {
        Greedy { config, memory: Memory::default() }
    }

    fn directives(plugin: &mut Greedy, at: &Boundary) -> Vec<Directive> {
        plugin.after(at, &mut TinyRun::new(Seed(0))).unwrap()
    }

    fn shield(name: Option<&str>) -> Vec<Directive> {
        vec![Directive::Isolate(name.map(str::to_owned))]
    }

    #[test]
    fn speeds_are_those_of_the_worked_example() {
        let mut plugin = greedy(GreedyConfig::default());
        plugin.learn(&at(0));
        let speed = |name: &str| {
            let sums = plugin.memory.sums[name];
            (sums.bypass / sums.main).log10()
        };
        assert!((speed("audio") - 0.903_090).abs() < 1e-6);
        assert!((speed("video") + 2f64.log10()).abs() < 1e-6);
        assert!((speed("audio") - speed("video") - 1.204_120).abs() < 1e-6);
        assert_eq!(plugin.fastest().unwrap(), "audio");
        plugin.config.epsilon = 1.21;
        assert!(plugin.fastest().is_none());
    }

    #[test]
    fn the_faster_one_is_shielded_for_its_steps_and_nothing_is_summed_meanwhile() {
        let mut plugin = greedy(GreedyConfig { steps: 2, ..GreedyConfig::default() });
        assert!(directives(&mut plugin, &at(0)).is_empty());
        let found = directives(&mut plugin, &at(1));
        assert_eq!(found, shield(Some("audio")));
        let sums = plugin.memory.sums["audio"].main;
        assert!(directives(&mut plugin, &at(1)).is_empty());
        assert_eq!(directives(&mut plugin, &at(1)), shield(None));
        assert_eq!(plugin.memory.sums["audio"].main.to_bits(), sums.to_bits());
        assert_eq!(directives(&mut plugin, &at(1)), shield(Some("audio")));
        assert!(plugin.memory.sums["audio"].main > sums);
    }

    #[test]
    fn a_saved_one_goes_on_in_the_middle_of_a_shield() {
        let mut first = greedy(GreedyConfig { steps: 3, ..GreedyConfig::default() });
        for epoch in [0, 1, 1] {
            let _ = directives(&mut first, &at(epoch));
        }
        let mut second = greedy(first.config.clone());
        second.load_state(first.state().unwrap()).unwrap();
        for _ in 0..8 {
            assert_eq!(directives(&mut first, &at(1)), directives(&mut second, &at(1)));
        }
    }

    #[test]
    fn the_control_draws_all_choices_and_the_same_ones_again() {
        let draw = |step| {
            let config = GreedyConfig { choice: Choice::Random, ..GreedyConfig::default() };
            directives(&mut greedy(config), &Boundary { global_step: step, ..at(0) })
        };
        let drawn: Vec<Vec<Directive>> = (0..40).map(draw).collect();
        for choice in [None, Some("audio"), Some("video")] {
            assert!(drawn.contains(&shield(choice)), "{choice:?}");
        }
        assert_eq!(drawn, (0..40).map(draw).collect::<Vec<_>>());
    }
}
