//! Objectives: finite terms with a gradient.

use std::collections::BTreeSet;

use mie_core::catalogue::Plugin;
use mie_core::prelude::*;

use super::{FINITE, REPEATS, RESUMES, SHAPES, WORKS, carry, config, is_finite};
use crate::Findings;
use crate::stand_in::{TinyRun, bits};

const STEPS: u64 = 4;

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let config: Box<dyn ObjectiveConfig> = config((plugin.example)())?;
    let mut run = TinyRun::new(Seed(4));
    let build = || config.build();
    let mut objective = build()?;
    objective.check(&run.shape())?;
    let start = crate::stand_in::boundary(Moment::PhaseStart, 0, &[]);
    objective.refresh(&mut run, &start)?;
    let mut names = BTreeSet::new();
    let terms = terms(&*objective, &run, 0)?.0;
    findings.expect(WORKS, !terms.is_empty(), || "it gives no terms".to_owned());
    for Term { name, value, weight, .. } in &terms {
        let unique = names.insert(name.clone());
        findings.expect("a term's name stands once", unique, || format!("`{name}` does not"));
        findings.expect(SHAPES, value.dim() == 0, || {
            format!("term `{name}` is {:?}, not one number", value.size())
        });
        let finite = is_finite(value) && weight.is_finite();
        findings.expect(FINITE, finite, || format!("term `{name}` or its weight is not"));
        findings.expect("a term has a gradient", value.requires_grad(), || {
            format!("`{name}` has none: was it detached?")
        });
    }
    let walk = |objective: &mut dyn Objective, steps: std::ops::Range<u64>| {
        let mut seen = Vec::new();
        for step in steps {
            let (terms, notes) = self::terms(objective, &run, step)?;
            for Term { name, value, weight, .. } in &terms {
                seen.push((name.clone(), bits(value), weight.to_bits()));
            }
            objective.observe(&notes)?;
        }
        Ok::<_, Error>(seen)
    };
    let first = walk(&mut *objective, 0..STEPS)?;
    let mut twin = build()?;
    twin.refresh(&mut TinyRun::new(Seed(4)), &start)?;
    findings.expect(REPEATS, first == walk(&mut *twin, 0..STEPS)?, || "terms differ".to_owned());
    let mut resumed = build()?;
    carry(&*objective, &mut *resumed)?;
    let same = walk(&mut *objective, STEPS..2 * STEPS)? == walk(&mut *resumed, STEPS..2 * STEPS)?;
    findings.expect(RESUMES, same, || "terms differ".to_owned());
    Ok(())
}

fn terms(objective: &dyn Objective, run: &TinyRun, step: u64) -> Result<(Vec<Term>, Notes)> {
    let mut notes = Notes::new();
    let terms = objective.terms(&mut run.forward(step), &mut notes)?;
    Ok((terms, notes))
}
