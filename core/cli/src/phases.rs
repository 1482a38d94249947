//! The phases of an experiment, before it runs.

use mie_core::Result;
use mie_core::config::Experiment;
use mie_core::error::guarded;
use mie_core::family::{Phase, Report};

use crate::format::count;

/// Most phases listed; a strategy that never ends must not hang a listing.
const MOST: usize = 100_000;

/// Most phases of a period that a description names.
const SHOWN: usize = 8;

/// Lists the phases of an experiment, as if none ended early.
///
/// # Errors
/// When the strategy does not fit the modalities.
pub(crate) fn list(experiment: &Experiment) -> Result<Vec<Phase>> {
    let plugin = format!("strategy `{}`", experiment.strategy.typetag_name());
    let modalities: Vec<String> = experiment.modalities.keys().cloned().collect();
    guarded(&plugin, || {
        let mut strategy = experiment.strategy.build()?;
        let mut phases = Vec::new();
        while phases.len() < MOST {
            let modalities = modalities.clone();
            let report = Report { phase: phases.len(), modalities, best: None };
            let Some(phase) = strategy.next(&report)? else { break };
            phases.push(phase);
        }
        Ok(phases)
    })
}

/// Describes phases in one line: what each trains and for how many epochs.
///
/// Modalities trained together are joined by `+`, those that take turns on a batch by `then`; a
/// sequence that repeats is named once.
pub(crate) fn describe(phases: &[Phase]) -> String {
    let all: Vec<String> = phases.iter().map(part).collect();
    let repeats = |period: usize| {
        all.len().is_multiple_of(period)
            && all.iter().zip(all.iter().skip(period)).all(|(phase, later)| phase == later)
    };
    let period = (1..=all.len()).find(|period| repeats(*period)).unwrap_or(all.len());
    let mut named: Vec<String> = all.iter().take(period.min(SHOWN)).cloned().collect();
    if period > SHOWN {
        named.push(format!("… {} more", period - SHOWN));
    }
    let named = named.join(", ");
    let sequence = match all.len().checked_div(period) {
        Some(times) if times > 1 => format!("{times} x ({named})"),
        _ => named,
    };
    let epochs: usize = phases.iter().map(|phase| phase.epochs).sum();
    format!("{sequence}: {} in {}", count(epochs, "epoch"), count(phases.len(), "phase"))
}

fn part(phase: &Phase) -> String {
    let turns: Vec<String> = phase.sub_steps.iter().map(|sub| sub.modalities.join("+")).collect();
    let by = match &phase.objectives[..] {
        [] => String::new(),
        named => format!(" by {}", named.join("+")),
    };
    format!("{}{by} {}", turns.join(" then "), phase.epochs)
}

#[cfg(test)]
mod tests {
    use mie_core::family::{Load, Score, SubStep};

    use super::*;

    fn phase(turns: &[&[&str]], epochs: usize) -> Phase {
        let modalities =
            |turn: &&[&str]| -> Vec<String> { turn.iter().map(|&name| name.to_owned()).collect() };
        Phase {
            label: "a label".to_owned(),
            sub_steps: turns.iter().map(|turn| SubStep { modalities: modalities(turn) }).collect(),
            epochs,
            load: Load::Best,
            reset_optimizer: true,
            source: Vec::new(),
            objectives: Vec::new(),
            score: Score::Fused,
        }
    }

    #[test]
    fn a_sequence_that_repeats_is_named_once() {
        let stages: Vec<Phase> =
            [25, 50].repeat(6).iter().map(|&epochs| phase(&[&["audio"]], epochs)).collect();
        assert_eq!(describe(&stages), "6 x (audio 25, audio 50): 450 epochs in 12 phases");
        assert_eq!(
            describe(&[phase(&[&["audio"]], 3), phase(&[&["audio"]], 3)]),
            "2 x (audio 3): 6 epochs in 2 phases"
        );
    }

    #[test]
    fn modalities_together_and_in_turns_are_told_apart() {
        assert_eq!(
            describe(&[phase(&[&["audio", "video"]], 1)]),
            "audio+video 1: 1 epoch in 1 phase"
        );
        assert_eq!(
            describe(&[phase(&[&["audio"], &["video"]], 20)]),
            "audio then video 20: 20 epochs in 1 phase"
        );
    }

    #[test]
    fn a_long_list_without_repetition_is_cut() {
        let phases: Vec<Phase> = (1..=11).map(|epochs| phase(&[&["x"]], epochs)).collect();
        assert_eq!(
            describe(&phases),
            "x 1, x 2, x 3, x 4, x 5, x 6, x 7, x 8, … 3 more: 66 epochs in 11 phases"
        );
    }
}
