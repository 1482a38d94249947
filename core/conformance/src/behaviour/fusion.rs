//! Fusions: joint logits and decisions of a batch.

use std::cell::RefCell;

use mie_core::catalogue::Plugin;
use mie_core::prelude::*;

use super::{FINITE, REPEATS, RESUMES, SHAPES, carry, config, is_finite};
use crate::Findings;
use crate::stand_in::{CLASSES, TinyRun, bits};

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let config: Box<dyn FusionConfig> = config((plugin.example)())?;
    let run = TinyRun::new(Seed(2));
    let outputs = run.outputs(&Spec::evaluation(run.modalities()), 0, None)?;
    let build = || {
        let store = RefCell::new(Parameters::default());
        let at = Builder::new(&store, Seed(0), Device::Cpu, GroupId::Fusion);
        let widths = outputs.features.iter().map(|(name, x)| (name.clone(), x.size()[1])).collect();
        let channels =
            outputs.features.iter().map(|(name, x)| (name.clone(), vec![Some(x.size()[1])]));
        let channels = channels.collect();
        let context = FusionContext { widths, channels, classes: CLASSES, at };
        config.build(&context)
    };
    let decide = |fusion: &dyn Fusion| -> Result<(Outputs, Tensor)> {
        let mut found = outputs.share();
        let mut pass = Pass::evaluation();
        (found.joint, found.rows) = match fusion.joint(&found.features, &found.logits, &mut pass)? {
            Some(Joint { logits, rows }) => (Some(logits), rows),
            None => (None, None),
        };
        let decision = fusion.decide(&found)?;
        Ok((found, decision))
    };
    let fusion = build()?;
    let (found, decision) = decide(&*fusion)?;
    let batch = outputs.features.values().next().map_or(0, |x| x.size()[0]);
    let expected = [batch, CLASSES];
    for (what, tensor) in [("joint logits", found.joint.as_ref()), ("decision", Some(&decision))] {
        let Some(tensor) = tensor else { continue };
        findings.expect(SHAPES, tensor.size() == expected, || {
            format!("the {what} is {:?}, and batch and classes are {expected:?}", tensor.size())
        });
        findings.expect(FINITE, is_finite(tensor), || format!("the {what} is not"));
    }
    let sums = decision.sum_dim_intlist(-1i64, false, Kind::Double);
    let off = (sums - 1.0).abs().max().double_value(&[]);
    let negative = decision.min().double_value(&[]) < 0.0;
    findings.expect("a decision is of probabilities", off < 1e-5 && !negative, || {
        format!("rows sum to 1 within {off:e} only, or are negative")
    });
    if fusion.additive() {
        let split = fusion.split(&found)?;
        let sum = split.map(|split| Tensor::stack(&split.into_values().collect::<Vec<_>>(), 0));
        let sum = sum.map(|stacked| stacked.sum_dim_intlist(0i64, false, Kind::Float));
        let off = sum
            .zip(found.joint.as_ref())
            .map(|(sum, joint)| (sum - joint).abs().max().double_value(&[]));
        findings.expect(
            "an additive fusion splits its logits",
            off.is_some_and(|o| o < 1e-4),
            || format!("the parts differ from the joint logits by {off:?}"),
        );
    }
    let (_, again) = decide(&*build()?)?;
    findings.expect(REPEATS, bits(&decision) == bits(&again), || "decisions differ".to_owned());
    let mut loaded = build()?;
    carry(&*fusion, &mut *loaded)?;
    let (_, resumed) = decide(&*loaded)?;
    let same = bits(&decide(&*fusion)?.1) == bits(&resumed);
    findings.expect(RESUMES, same, || "decisions differ".to_owned());
    Ok(())
}
