//! Controllers: directives over some epochs.

use mie_core::catalogue::Plugin;
use mie_core::prelude::*;

use super::{FINITE, NEUTRAL, REPEATS, RESUMES, carry, config, neutral};
use crate::Findings;
use crate::stand_in::{TinyRun, boundary};

const EPOCHS: usize = 8;
const STEPS: u64 = 3;

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let config: Box<dyn ControllerConfig> = config((plugin.example)())?;
    let mut controller = started(&*config)?;
    let first = walk(&mut *controller, 0..EPOCHS)?;
    for directive in &first {
        let number = match directive {
            Directive::LearningRateFactor { factor, .. } => *factor,
            Directive::TermWeight { weight, .. } => *weight,
            _ => 0.0,
        };
        findings.expect(FINITE, number.is_finite() && number >= 0.0, || format!("{directive:?}"));
    }
    let again = walk(&mut *started(&*config)?, 0..EPOCHS)?;
    findings.expect(REPEATS, first == again, || "directives differ".to_owned());
    let mut resumed = config.build()?;
    carry(&*controller, &mut *resumed)?;
    let same =
        walk(&mut *controller, EPOCHS..2 * EPOCHS)? == walk(&mut *resumed, EPOCHS..2 * EPOCHS)?;
    findings.expect(RESUMES, same, || "directives differ".to_owned());

    if let Some(table) = neutral(plugin, config.neutral()) {
        let neutral: Box<dyn ControllerConfig> = super::config(table)?;
        let found = walk(&mut *started(&*neutral)?, 0..EPOCHS)?;
        let acts = found.iter().find(|directive| match directive {
            Directive::LearningRateFactor { factor: number, .. }
            | Directive::TermWeight { weight: number, .. } => number.to_bits() != 1f64.to_bits(),
            _ => true,
        });
        findings.expect(NEUTRAL, acts.is_none(), || format!("it says {acts:?}"));
    }
    Ok(())
}

fn started(config: &dyn ControllerConfig) -> Result<Box<dyn Controller>> {
    let mut run = TinyRun::new(Seed(8));
    let mut controller = config.build()?;
    controller.check(&run.shape())?;
    controller.after(&at(Moment::PhaseStart, 0, 0, &run), &mut run)?;
    Ok(controller)
}

/// What it says in these epochs, during which scores rise, and then fall.
fn walk(controller: &mut dyn Controller, epochs: std::ops::Range<usize>) -> Result<Vec<Directive>> {
    let mut run = TinyRun::new(Seed(8));
    let mut directives = Vec::new();
    for epoch in epochs {
        directives.extend(controller.after(&at(Moment::EpochStart, epoch, 0, &run), &mut run)?);
        for step in 0..STEPS {
            directives.extend(controller.after(&at(Moment::StepEnd, epoch, step, &run), &mut run)?);
        }
        let end = at(Moment::EpochEnd, epoch, STEPS - 1, &run);
        directives.extend(controller.after(&end, &mut run)?);
    }
    Ok(directives)
}

fn at(moment: Moment, epoch: usize, step: u64, run: &TinyRun) -> Boundary {
    let mut boundary = boundary(moment, epoch, &[]);
    boundary.step = step;
    boundary.global_step = epoch as u64 * STEPS + step;
    boundary.trained = run.modalities();
    let rising = if epoch < 3 { epoch as f64 } else { 6.0 - epoch as f64 };
    let score = |name: String| (name, 0.5 + 0.01 * rising);
    boundary.scores = run.shape().scores.into_iter().map(score).collect();
    boundary
}
