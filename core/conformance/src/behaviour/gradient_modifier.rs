//! Gradient modifiers: gradients of a tiny run, changed in place.

use std::collections::BTreeMap;

use mie_core::catalogue::Plugin;
use mie_core::prelude::*;

use super::{
    FINITE, NEUTRAL, REPEATS, RESUMES, SHAPES, bits_of, carry, config, is_finite, neutral,
};
use crate::Findings;
use crate::stand_in::{MODALITIES, TinyRun, boundary};

const STEPS: u64 = 3;

type Bits = Vec<BTreeMap<String, Vec<u64>>>;

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let config: Box<dyn GradientModifierConfig> = config((plugin.example)())?;
    let run = TinyRun::fitting(config.build()?.needs(), Seed(6));
    let plain = |steps: std::ops::Range<u64>| -> Result<Bits> {
        steps.map(|step| Ok(bits_of(&run.gradients(step)?.sum))).collect()
    };
    let mut modifier = started(&*config)?;
    let mut gradients = run.gradients(0)?;
    run.with_view(0, |view| modifier.modify(&mut gradients, view))?;
    let before = run.gradients(0)?;
    let same_names = before.sum.keys().eq(gradients.sum.keys());
    findings.expect("no gradient is added or removed", same_names, || {
        "other parameters have one".to_owned()
    });
    for (id, gradient) in &gradients.sum {
        let expected = before.sum.get(id).map(Tensor::size);
        findings.expect(SHAPES, expected.is_none_or(|size| size == gradient.size()), || {
            format!("the gradient of `{id}` is {:?}", gradient.size())
        });
        findings.expect(FINITE, is_finite(gradient), || format!("the gradient of `{id}`"));
    }

    let mut modifier = started(&*config)?;
    let first = walk(&mut *modifier, &run, 0..STEPS)?;
    let acts = first != plain(0..STEPS)? || acts_on_large_gradients(&*config, &run)?;
    findings.expect("a gradient modifier changes gradients", acts, || {
        "it is inert: all gradients keep their bits".to_owned()
    });
    let again = walk(&mut *started(&*config)?, &run, 0..STEPS)?;
    findings.expect(REPEATS, first == again, || "gradients differ".to_owned());
    let mut resumed = config.build()?;
    carry(&*modifier, &mut *resumed)?;
    resumed.load_refreshed(modifier.refreshed()?)?;
    let same = walk(&mut *modifier, &run, STEPS..2 * STEPS)?
        == walk(&mut *resumed, &run, STEPS..2 * STEPS)?;
    findings.expect(RESUMES, same, || "gradients differ".to_owned());

    if let Some(table) = neutral(plugin, config.neutral()) {
        let neutral: Box<dyn GradientModifierConfig> = super::config(table)?;
        let found = walk(&mut *started(&*neutral)?, &run, 0..STEPS)?;
        findings.expect(NEUTRAL, found == plain(0..STEPS)?, || "gradients change".to_owned());
    }
    Ok(())
}

/// Builds a modifier and lets it learn from the first modality for the second.
fn started(config: &dyn GradientModifierConfig) -> Result<Box<dyn GradientModifier>> {
    let mut modifier = config.build()?;
    let mut run = TinyRun::fitting(modifier.needs(), Seed(6));
    modifier.check(&run.shape())?;
    let mut at = boundary(Moment::PhaseStart, 0, &[]);
    at.source = vec![MODALITIES[0].to_owned()];
    at.trained = vec![MODALITIES[1].to_owned()];
    modifier.refresh(&mut run, &at)?;
    Ok(modifier)
}

/// Whether gradients change that are a thousand times as long, as those of a run gone astray.
fn acts_on_large_gradients(config: &dyn GradientModifierConfig, run: &TinyRun) -> Result<bool> {
    let large = || -> Result<Grads> {
        let mut gradients = run.gradients(0)?;
        let parts = gradients.by_term.values_mut().chain([&mut gradients.sum]);
        for gradient in parts.flat_map(ByParam::values_mut) {
            let _ = gradient.f_mul_scalar_(1000.0)?;
        }
        Ok(gradients)
    };
    let mut gradients = large()?;
    let mut modifier = started(config)?;
    run.with_view(0, |view| modifier.modify(&mut gradients, view))?;
    Ok(bits_of(&gradients.sum) != bits_of(&large()?.sum))
}

fn walk(
    modifier: &mut dyn GradientModifier,
    run: &TinyRun,
    steps: std::ops::Range<u64>,
) -> Result<Bits> {
    let _guard = no_grad_guard();
    steps
        .map(|step| {
            let mut gradients = tch::with_grad(|| run.gradients(step))?;
            run.with_view(step, |view| modifier.modify(&mut gradients, view))?;
            Ok(bits_of(&gradients.sum))
        })
        .collect()
}
