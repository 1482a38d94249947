//! Strings other strategies together, each with its own objectives.

use mie_core::prelude::*;

/// Runs strategies one after another.
///
/// Each part is a strategy with its own phases and, where wanted, a loss of its own: the
/// objectives that are named, out of those of the experiment. Phases keep what their strategy says
/// of weights, optimizer and selection; `load` replaces the weights that a part starts from.
///
/// ```toml
/// [strategy]
/// name = "phased"
///
/// [[strategy.parts]]
/// strategy = { name = "joint", epochs = 5 }
/// objectives = ["unimodal_ce"]
///
/// [[strategy.parts]]
/// strategy = { name = "joint", epochs = 15 }
/// objectives = ["domfn"]
/// ```
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PhasedConfig {
    /// The parts in order, at least one. One of `joint` by default.
    pub parts: Vec<Part>,
}

/// A strategy and the loss that it trains.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The strategy.
    pub strategy: Box<dyn StrategyConfig>,
    /// Names of the objectives that give the loss; all of the experiment when empty.
    #[serde(default)]
    pub objectives: Vec<String>,
    /// Weights that the part starts from; what its strategy says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
}

impl Default for PhasedConfig {
    fn default() -> Self {
        let strategy = Box::new(super::joint::JointConfig::default());
        Self { parts: vec![Part { strategy, objectives: Vec::new(), load: None }] }
    }
}

#[typetag::serde(name = "phased")]
impl StrategyConfig for PhasedConfig {
    fn validate(&self) -> Result<()> {
        let count = self.parts.len();
        ensure_range("parts", "at least one", count, count >= 1)?;
        self.parts.iter().try_for_each(|part| part.strategy.validate())
    }

    fn build(&self) -> Result<Box<dyn Strategy>> {
        self.validate()?;
        let build = |part: &Part| {
            let strategy = part.strategy.build()?;
            Ok(Running { strategy, objectives: part.objectives.clone(), load: part.load })
        };
        let parts = self.parts.iter().map(build).collect::<Result<_>>()?;
        Ok(Box::new(Phased { parts, place: Place::default() }))
    }
}
register!(strategy::<PhasedConfig>, source = "Ours");

struct Running {
    strategy: Box<dyn Strategy>,
    objectives: Vec<String>,
    load: Option<Load>,
}

struct Phased {
    parts: Vec<Running>,
    place: Place,
}

/// The part at work, and the phase of the run that it began with.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Place {
    part: usize,
    begun: usize,
}

impl Strategy for Phased {
    fn next(&mut self, report: &Report) -> Result<Option<Phase>> {
        while let Some(part) = self.parts.get_mut(self.place.part) {
            let phase = report.phase - self.place.begun;
            if let Some(mut next) = part.strategy.next(&Report { phase, ..report.clone() })? {
                next.objectives.clone_from(&part.objectives);
                if let (0, Some(load)) = (phase, part.load) {
                    next.load = load;
                }
                if self.parts.len() > 1 {
                    next.label = format!("{} ({})", next.label, self.place.part + 1);
                }
                return Ok(Some(next));
            }
            self.place = Place { part: self.place.part + 1, begun: report.phase };
        }
        Ok(None)
    }
}

impl Persist for Phased {
    fn state(&self) -> Result<State> {
        let mut state = State::default();
        state.values.insert("place".to_owned(), serde_json::json!(self.place));
        for (index, part) in self.parts.iter().enumerate() {
            let own = part.strategy.state()?;
            for (name, tensor) in own.tensors {
                state.tensors.insert(format!("{index}/{name}"), tensor);
            }
            for (name, value) in own.values {
                state.values.insert(format!("{index}/{name}"), value);
            }
        }
        Ok(state)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.place = state.take("place")?;
        for (index, part) in self.parts.iter_mut().enumerate() {
            let prefix = format!("{index}/");
            let mut own = State::default();
            for (name, tensor) in std::mem::take(&mut state.tensors) {
                match name.strip_prefix(&prefix) {
                    Some(name) => own.tensors.insert(name.to_owned(), tensor),
                    None => state.tensors.insert(name, tensor),
                };
            }
            for (name, value) in std::mem::take(&mut state.values) {
                match name.strip_prefix(&prefix) {
                    Some(name) => own.values.insert(name.to_owned(), value),
                    None => state.values.insert(name, value),
                };
            }
            part.strategy.load_state(own)?;
        }
        state.expect_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::{alternating, joint};
    use mie_conformance::stand_in::phases;

    fn part(strategy: Box<dyn StrategyConfig>, objectives: &[&str]) -> Part {
        let objectives = objectives.iter().map(|&name| name.to_owned()).collect();
        Part { strategy, objectives, load: None }
    }

    fn joint(epochs: usize) -> Box<dyn StrategyConfig> {
        Box::new(joint::JointConfig { epochs, ..joint::JointConfig::default() })
    }

    fn three() -> PhasedConfig {
        let turns = alternating::AlternatingConfig {
            unit: alternating::Unit::Epoch,
            epochs: 1,
            ..alternating::AlternatingConfig::default()
        };
        let mut parts = vec![
            part(joint(2), &["unimodal_ce"]),
            part(Box::new(turns), &[]),
            part(joint(3), &["domfn"]),
        ];
        parts[2].load = Some(Load::Last);
        PhasedConfig { parts }
    }

    #[test]
    fn the_phases_of_the_parts_come_in_order_with_their_objectives() {
        let found = phases(&three(), &["audio", "video"]).unwrap();
        let row = |phase: &Phase| (phase.label.clone(), phase.epochs, phase.objectives.join("+"));
        let expected = [
            ("joint (1)", 2, "unimodal_ce"),
            ("epoch 1: audio (2)", 1, ""),
            ("epoch 1: video (2)", 1, ""),
            ("joint (3)", 3, "domfn"),
        ]
        .map(|(label, epochs, objectives)| (label.to_owned(), epochs, objectives.to_owned()));
        assert_eq!(found.iter().map(row).collect::<Vec<_>>(), expected);
        assert_eq!((found[0].load, found[3].load), (Load::Best, Load::Last));
    }

    #[test]
    fn a_saved_one_goes_on_in_the_middle_of_a_part() {
        let modalities = vec!["audio".to_owned(), "video".to_owned()];
        let report = |phase| Report { phase, modalities: modalities.clone(), best: None };
        let mut first = three().build().unwrap();
        for phase in 0..2 {
            first.next(&report(phase)).unwrap().unwrap();
        }
        let mut second = three().build().unwrap();
        second.load_state(first.state().unwrap()).unwrap();
        for phase in 2..6 {
            assert_eq!(first.next(&report(phase)).unwrap(), second.next(&report(phase)).unwrap());
        }
    }

    #[test]
    fn no_part_is_refused() {
        let error = PhasedConfig { parts: Vec::new() }.validate().unwrap_err().to_string();
        assert_eq!(error, "`parts` is 0, expected at least one");
    }
}
