//! Which layers a modifier acts on, and which partner each has in another modality.

use mie_core::layers::matches_glob;
use mie_core::prelude::*;
use serde_json::{Value, json};

/// Layers whose gradients are modified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scope {
    /// The layers of the head (the paper's default).
    Head,
    /// Layers from the output backwards until this share of the modality's parameters is reached,
    /// in `(0, 1]`, rounded to the nearest layer boundary; convolutions by their patches (Table 4).
    Share(f64),
    /// Layers whose name within their group matches one of these patterns; `*` stands for
    /// anything, e.g. `fc*`, `layer4.*`.
    Layers(Vec<String>),
}

/// A layer of the target with its partner in the source.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) target: Layer,
    pub(super) source: Layer,
}

/// Layers of a target in scope.
pub(super) struct Paired {
    pub(super) pairs: Vec<Pair>,
    /// What found no partner, with the reason.
    pub(super) unpaired: Vec<Value>,
    /// Share of the layers in scope in the target's parameters.
    pub(super) share: f64,
}

impl Scope {
    /// Checks what does not depend on the run.
    pub(super) fn validate(&self) -> Result<()> {
        match self {
            Self::Share(share) => {
                ensure_range("scope.share", "(0, 1]", share, *share > 0.0 && *share <= 1.0)
            }
            Self::Layers(patterns) => {
                let count = patterns.len();
                ensure_range("scope.layers", "at least one pattern", count, count > 0)
            }
            Self::Head => Ok(()),
        }
    }

    /// Refuses patterns that match no layer of the run.
    pub(super) fn check(&self, run: &RunShape) -> Result<()> {
        let Self::Layers(patterns) = self else { return Ok(()) };
        let names = || run.layers.values().flatten().map(Layer::local_name);
        let idle = |pattern: &&String| !names().any(|name| matches_glob(pattern, name));
        let Some(pattern) = patterns.iter().find(idle) else { return Ok(()) };
        let mut known: Vec<_> = names().map(|name| format!("`{name}`")).collect();
        known.sort();
        known.dedup();
        Err(Error::refused(
            format!("`scope.layers` has `{pattern}`, which matches no layer of the run"),
            format!("match some of {}", known.join(", ")),
        ))
    }

    /// Pairs the target's layers in scope with the source's, from the output backwards.
    pub(super) fn pair(&self, run: &dyn RunOps, target: &str, source: &str) -> Paired {
        let (scope, share) = self.layers_of(run, target);
        let partners = run.layers(source);
        let (mut pairs, mut unpaired) = (Vec::new(), Vec::new());
        // Counted from the output, so that heads meet heads whatever the encoders are.
        let depth = run.layers(target).len();
        for (position, layer) in run.layers(target).into_iter().enumerate() {
            if !scope.contains(&layer.name) {
                continue;
            }
            let from_output = depth - position;
            let partner = partners.len().checked_sub(from_output).map(|index| &partners[index]);
            match partner {
                Some(partner) if partner.shape == layer.shape && partner.kind == layer.kind => {
                    pairs.push(Pair { target: layer, source: partner.clone() });
                }
                Some(partner) => unpaired.push(json!({
                    "layer": layer.name,
                    "shape": layer.shape,
                    "met": partner.name,
                    "of_shape": partner.shape,
                })),
                None => unpaired.push(json!({ "layer": layer.name, "met": "nothing" })),
            }
        }
        Paired { pairs, unpaired, share }
    }

    /// Names of a modality's layers in scope, and their share of its parameters.
    pub(super) fn layers_of(&self, run: &dyn RunOps, target: &str) -> (Vec<String>, f64) {
        let layers = run.layers(target);
        let total = run.parameter_count(target) as f64;
        let share_of = |layers: &[&Layer]| {
            let size: i64 = layers.iter().map(|layer| layer.shape.iter().product::<i64>()).sum();
            size as f64 / total
        };
        let chosen: Vec<&Layer> = match self {
            Self::Head => layers
                .iter()
                .filter(|layer| !matches!(layer.weight.group, GroupId::Encoder(_)))
                .collect(),
            Self::Layers(patterns) => layers
                .iter()
                .filter(|layer| patterns.iter().any(|p| matches_glob(p, layer.local_name())))
                .collect(),
            Self::Share(wanted) => {
                let candidates = (0..=layers.len())
                    .map(|first| layers[first..].iter().collect::<Vec<_>>())
                    .filter(|chosen| !chosen.is_empty());
                candidates
                    .min_by(|a, b| {
                        let off = |chosen: &[&Layer]| (share_of(chosen) - wanted).abs();
                        off(a).total_cmp(&off(b))
                    })
                    .unwrap_or_default()
            }
        };
        let share = share_of(&chosen);
        (chosen.into_iter().map(|layer| layer.name.clone()).collect(), share)
    }
}
