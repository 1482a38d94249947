//! Strategies: phases that name what there is, and come to an end.

use mie_core::catalogue::Plugin;
use mie_core::prelude::*;

use super::{REPEATS, RESUMES, WORKS, carry, config};
use crate::Findings;
use crate::stand_in::MODALITIES;

/// Phases after which a strategy is held to have no end.
const MOST: usize = 1000;

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let config: Box<dyn StrategyConfig> = config((plugin.example)())?;
    let phases = rest(&mut *config.build()?, 0)?;
    findings.expect(WORKS, !phases.is_empty() && phases.len() < MOST, || {
        format!("it has {} phases", phases.len())
    });
    for phase in &phases {
        let trained = phase.trained();
        let named = trained.iter().chain(&phase.source);
        let unknown = named.clone().find(|name| !MODALITIES.contains(&name.as_str()));
        findings.expect("phases name modalities of the run", unknown.is_none(), || {
            format!("`{}` names {unknown:?}", phase.label)
        });
        findings.expect(
            "a phase trains something",
            !trained.is_empty() && phase.epochs > 0,
            || format!("`{}` trains {trained:?} for {} epochs", phase.label, phase.epochs),
        );
    }
    findings
        .expect(REPEATS, phases == rest(&mut *config.build()?, 0)?, || "phases differ".to_owned());
    for done in 1..=phases.len().min(4) {
        let mut strategy = config.build()?;
        for phase in 0..done {
            strategy.next(&report(phase))?;
        }
        let mut resumed = config.build()?;
        carry(&*strategy, &mut *resumed)?;
        let found = rest(&mut *resumed, done)?;
        findings.expect(RESUMES, found == phases[done..], || {
            format!("after phase {done} it goes on otherwise")
        });
    }
    Ok(())
}

fn rest(strategy: &mut dyn Strategy, from: usize) -> Result<Vec<Phase>> {
    let mut phases = Vec::new();
    while phases.len() < MOST
        && let Some(phase) = strategy.next(&report(from + phases.len()))?
    {
        phases.push(phase);
    }
    Ok(phases)
}

fn report(phase: usize) -> Report {
    let best = (phase > 0).then_some(0.5);
    Report { phase, modalities: MODALITIES.map(str::to_owned).to_vec(), best }
}
