//! What a plugin does, by its family.

mod controller;
mod dataset;
mod encoder;
mod fusion;
mod gradient_modifier;
mod modality;
mod objective;
mod optimizer;
mod strategy;

use std::collections::BTreeMap;

use mie_core::catalogue::{Family, Plugin};
use mie_core::error::guarded;
use mie_core::prelude::*;
use serde_json::Value;

use crate::Findings;
use crate::stand_in::bits;

pub(crate) const WORKS: &str = "the example does its work";
pub(crate) const SHAPES: &str = "shapes are what they must be";
pub(crate) const FINITE: &str = "numbers are finite";
pub(crate) const REPEATS: &str = "the same seed gives the same bits";
pub(crate) const RESUMES: &str = "from its saved state it goes on with the same bits";
pub(crate) const NEUTRAL: &str = "a setting declared neutral changes nothing";

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) {
    let name = format!("{} `{}`", plugin.family.name(), (plugin.name)());
    let checked = guarded(&name, || match plugin.family {
        Family::Dataset => dataset::check(plugin, findings),
        Family::Modality => modality::check(plugin, findings),
        Family::Encoder => encoder::check(plugin, findings),
        Family::Fusion => fusion::check(plugin, findings),
        Family::Objective => objective::check(plugin, findings),
        Family::Optimizer => optimizer::check(plugin, findings),
        Family::GradientModifier => gradient_modifier::check(plugin, findings),
        Family::Controller => controller::check(plugin, findings),
        Family::Strategy => strategy::check(plugin, findings),
    });
    if let Err(error) = checked {
        findings.add(WORKS, error);
    }
}

/// Reads a configuration; that it cannot be is found elsewhere.
fn config<C: serde::de::DeserializeOwned>(table: Value) -> Result<C> {
    let found = serde_json::from_value(table);
    found.map_err(|error| Error::refused(error.to_string(), "mend the example"))
}

/// The example with its neutral options, where there are such.
fn neutral(plugin: &Plugin, options: &[(&str, f64)]) -> Option<Value> {
    let mut table = (plugin.example)();
    for (key, value) in options {
        // Whole numbers may be meant for options that take nothing else.
        let whole = table[*key].is_u64() || table[*key].is_i64();
        table[*key] = if whole { Value::from(*value as i64) } else { Value::from(*value) };
    }
    (!options.is_empty()).then_some(table)
}

/// Takes a state out and puts it into another plugin, as a checkpoint would.
fn carry(from: &dyn Persist, to: &mut dyn Persist) -> Result<()> {
    to.load_state(from.state()?)
}

fn bits_of<K: ToString>(tensors: &BTreeMap<K, Tensor>) -> BTreeMap<String, Vec<u64>> {
    tensors.iter().map(|(name, tensor)| (name.to_string(), bits(tensor))).collect()
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
}
