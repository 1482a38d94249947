//! Encoders: a batch of inputs to a feature `[batch, width]`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use mie_core::catalogue::Plugin;
use mie_core::prelude::*;

use super::{FINITE, REPEATS, SHAPES, bits_of, config, is_finite};
use crate::Findings;
use crate::stand_in::{bits, noise};

const BATCH: i64 = 4;

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let config: Box<dyn EncoderConfig> = config((plugin.example)())?;
    let config = config.small().unwrap_or(config);
    let layouts = config.example_input();
    let build = |seed| {
        let store = RefCell::new(Parameters::default());
        let group = GroupId::Encoder("video".to_owned());
        let at = Builder::new(&store, Seed(seed), Device::Cpu, group);
        let encoder = config.build(&layouts, &at)?;
        Ok::<_, Error>((encoder, store.into_inner()))
    };
    let (encoder, parameters) = build(0)?;
    let feature = run(&*encoder, &layouts, Statistics::Running)?;
    let expected = [BATCH, encoder.width()];
    findings.expect(SHAPES, feature.size() == expected, || {
        format!("the feature is {:?}, and batch and `width()` are {expected:?}", feature.size())
    });
    findings.expect(FINITE, is_finite(&feature), || "features are not".to_owned());

    let (twin, twins) = build(0)?;
    let same = bits_of(&parameters.export()?) == bits_of(&twins.export()?);
    findings.expect(REPEATS, same, || "initial weights differ".to_owned());
    let again = run(&*twin, &layouts, Statistics::Running)?;
    findings.expect(REPEATS, bits(&feature) == bits(&again), || "features differ".to_owned());
    let learns = parameters.ids().iter().any(|group| parameters.size(group) > 0);
    let (_, others) = build(1)?;
    let differ = bits_of(&parameters.export()?) != bits_of(&others.export()?);
    findings.expect("another seed gives other weights", differ || !learns, || {
        "they are the same".to_owned()
    });

    let before = bits_of(&parameters.export()?);
    for statistics in [Statistics::Keep, Statistics::Running] {
        drop(run(&*encoder, &layouts, statistics)?);
    }
    let kept = before == bits_of(&parameters.export()?);
    findings.expect("only a first training pass updates statistics", kept, || {
        "evaluation or a further pass writes weights or buffers".to_owned()
    });
    for layer in encoder.layers() {
        let known = parameters.value(&layer.weight).map(Tensor::size);
        findings.expect(SHAPES, known.as_ref() == Some(&layer.shape), || {
            format!("layer `{}` says {:?}, its weight is {known:?}", layer.name, layer.shape)
        });
    }
    gradients(&*encoder, &parameters, &layouts, findings)
}

/// Every weight gets a gradient, and a finite one.
fn gradients(
    encoder: &dyn Encoder,
    parameters: &Parameters,
    layouts: &[TensorLayout],
    findings: &mut Findings,
) -> Result<()> {
    let groups = parameters.ids();
    let (ids, weights): (Vec<ParamId>, Vec<&Tensor>) = parameters.trainable(&groups).unzip();
    if weights.is_empty() {
        return Ok(());
    }
    let feature = run(encoder, layouts, Statistics::Update)?;
    let loss = (&feature * &feature).sum(Kind::Float);
    // Not `f_run_backward`: that refuses weights without a gradient, which are to be named.
    loss.f_backward()?;
    for (id, weight) in ids.iter().zip(weights) {
        let gradient = weight.grad();
        findings.expect("every weight gets a gradient", gradient.defined(), || {
            format!("`{id}` gets none")
        });
        if gradient.defined() {
            findings.expect(FINITE, is_finite(&gradient), || format!("the gradient of `{id}`"));
        }
    }
    Ok(())
}

fn run(encoder: &dyn Encoder, layouts: &[TensorLayout], statistics: Statistics) -> Result<Tensor> {
    let mut tensors = BTreeMap::new();
    for layout in layouts {
        let size: Vec<i64> = [BATCH].into_iter().chain(layout.shape.clone()).collect();
        let tensor = match layout.element {
            Element::F32 => noise(&layout.name, 0, &size, Kind::Float),
            Element::I64 => Tensor::ones(&size, (Kind::Int64, Device::Cpu)),
        };
        tensors.insert(layout.name.clone(), tensor);
    }
    let mut x = Named(tensors);
    // Dropout draws from libtorch's generator, which the engine seeds for every pass.
    tch::manual_seed(1);
    let mut pass = Pass::of(statistics);
    for stage in 0..encoder.stages() {
        x = encoder.stage(stage, x, &mut pass)?;
    }
    Ok(x.value()?.shallow_clone())
}
