//! Optimizers: steps on a bowl that tilts.

use mie_core::catalogue::Plugin;
use mie_core::prelude::*;

use super::{FINITE, NEUTRAL, REPEATS, RESUMES, SHAPES, WORKS, carry, config, is_finite, neutral};
use crate::Findings;
use crate::stand_in::{Landscape, tilting_landscape};

const STEPS: usize = 4;

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let config: Box<dyn OptimizerConfig> = config((plugin.example)())?;
    let start = tilting_landscape(Kind::Float);
    let mut landscape = start.fork();
    let mut optimizer = config.build()?;
    let rate = optimizer.learning_rate();
    findings
        .expect(FINITE, rate.is_finite() && rate >= 0.0, || format!("the learning rate is {rate}"));
    walk(&mut *optimizer, &mut landscape)?;
    findings.expect(WORKS, landscape.bits() != start.bits(), || "no weight moved".to_owned());
    for (id, weight) in &landscape.weights {
        let same = weight.size() == start.weights[id].size();
        findings.expect(SHAPES, same, || format!("`{id}` has another one"));
        findings.expect(FINITE, is_finite(weight), || format!("`{id}` is not"));
    }
    let mut twin = start.fork();
    walk(&mut *config.build()?, &mut twin)?;
    findings.expect(REPEATS, landscape.bits() == twin.bits(), || "weights differ".to_owned());

    let mut loaded = config.build()?;
    carry(&*optimizer, &mut *loaded)?;
    let mut resumed = landscape.fork();
    let mut fresh = landscape.fork();
    let mut reset = landscape.fork();
    walk(&mut *optimizer, &mut landscape)?;
    walk(&mut *loaded, &mut resumed)?;
    findings.expect(RESUMES, landscape.bits() == resumed.bits(), || "weights differ".to_owned());
    optimizer.reset();
    walk(&mut *optimizer, &mut reset)?;
    walk(&mut *config.build()?, &mut fresh)?;
    findings.expect("a reset forgets everything", reset.bits() == fresh.bits(), || {
        "it goes on otherwise than a new one".to_owned()
    });

    if let Some(table) = neutral(plugin, config.neutral()) {
        let neutral: Box<dyn OptimizerConfig> = super::config(table)?;
        let Some(base) = neutral.base() else {
            findings.add(NEUTRAL, "it has no `base` that it could equal");
            return Ok(());
        };
        let (mut one, mut other) = (start.fork(), start.fork());
        walk(&mut *neutral.build()?, &mut one)?;
        walk(&mut *base.build()?, &mut other)?;
        let same = one.bits() == other.bits() && one.passes.len() == other.passes.len();
        findings.expect(NEUTRAL, same, || "weights or passes differ from its base's".to_owned());
    }
    Ok(())
}

fn walk(optimizer: &mut dyn Optimizer, landscape: &mut Landscape) -> Result<()> {
    (0..STEPS).try_for_each(|_| optimizer.step(landscape))
}
