//! What modifiers share that project gradients by what another modality's layers see.

use std::collections::{BTreeMap, BTreeSet};

use mie_core::prelude::*;
use mie_core::projection::{
    Covariance, CovarianceKind, Precision, Projection, Solver, SpectralMap, project,
};
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

/// How the projections of several source modalities are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SeveralSources {
    /// The mean of the matrices.
    Average,
    /// One after the other, in alphabetical order of the modalities.
    Compose,
}

/// How projections are learnt at the start of a phase.
pub(super) struct Learning<'a> {
    pub(super) map: SpectralMap,
    pub(super) scope: &'a Scope,
    pub(super) targets: &'a [String],
    pub(super) several_sources: SeveralSources,
    pub(super) covariance: CovarianceKind,
    pub(super) normalise: bool,
    pub(super) covariance_batch_size: Option<usize>,
    pub(super) covariance_inputs: Mode,
    pub(super) solver: Solver,
    pub(super) precision: Precision,
}

/// Projections by the path of the weight that is multiplied, in order of application.
#[derive(Default)]
pub(super) struct Projections(pub(super) BTreeMap<String, Vec<Projection>>);

impl Projections {
    /// Multiplies the gradients or steps that have projections.
    pub(super) fn apply(&self, gradients: &mut Grads) -> Result<()> {
        for (id, gradient) in &mut gradients.sum {
            for projection in self.0.get(&*id.path).into_iter().flatten() {
                *gradient = projection.apply(gradient)?;
            }
        }
        Ok(())
    }

    /// Replaces the projections by those of a phase's sources, at its start; returns a report.
    pub(super) fn learn(
        &mut self,
        learning: &Learning<'_>,
        run: &mut dyn RunOps,
        at: &Boundary,
    ) -> Result<Option<Value>> {
        if at.moment != Moment::PhaseStart {
            return Ok(None);
        }
        let had = !self.0.is_empty();
        self.0.clear();
        let mut reports = Vec::new();
        for target in &at.trained {
            if !learning.targets.is_empty() && !learning.targets.contains(target) {
                continue;
            }
            let mut by_weight: BTreeMap<String, Vec<Projection>> = BTreeMap::new();
            for source in at.source.iter().filter(|source| *source != target) {
                let (pairs, unpaired, share) = learning.pairs(run, target, source);
                if pairs.is_empty() {
                    run.warn(&format!(
                        "no layer of `{target}` in scope has a partner of its shape in `{source}`: \
                         its gradients are not modified"
                    ));
                }
                let (found, spectra) = learning.projections_of(run, source, &pairs)?;
                for (weight, projection) in found {
                    by_weight.entry(weight).or_default().push(projection);
                }
                reports.push(json!({
                    "target": target,
                    "source": source,
                    "share_of_parameters": share,
                    "layers": spectra,
                    "unpaired": unpaired,
                }));
            }
            for (weight, found) in by_weight {
                let joined = match learning.several_sources {
                    SeveralSources::Compose => found,
                    SeveralSources::Average => vec![average(found)?],
                };
                self.0.insert(weight, joined);
            }
        }
        // That nothing is in force any more is news as well.
        Ok((had || !reports.is_empty()).then(|| Value::Array(reports)))
    }

    /// Copies the projections out.
    pub(super) fn state(&self) -> Result<State> {
        let mut state = State::default();
        for (weight, projections) in &self.0 {
            for (index, projection) in projections.iter().enumerate() {
                state.put(format!("{index}/{weight}"), projection.matrix())?;
            }
        }
        Ok(state)
    }

    /// Takes projections from what [`Projections::state`] gave.
    pub(super) fn load(state: State) -> Self {
        let mut all: BTreeMap<String, Vec<Projection>> = BTreeMap::new();
        // Names sort by index first, so each weight gets its matrices in order.
        for (name, matrix) in state.tensors {
            let weight = name.split_once('/').map_or(name.as_str(), |(_, weight)| weight);
            let projection = Projection::Dense(matrix);
            all.entry(weight.to_owned()).or_default().push(projection);
        }
        Self(all)
    }
}

/// A layer of the target with its partner in the source.
struct Pair {
    target: Layer,
    source: Layer,
}

/// Sums covariances of the layers that matter and ignores the others.
struct Collector {
    wanted: BTreeMap<String, Covariance>,
}

impl Probe for Collector {
    fn see(&mut self, layer: &Layer, input: &Tensor) -> Result<()> {
        match self.wanted.get_mut(&layer.name) {
            Some(covariance) => covariance.add(&layer.kind, input),
            None => Ok(()),
        }
    }
}

impl Learning<'_> {
    /// Checks the options that do not depend on the run.
    pub(super) fn validate(&self) -> Result<()> {
        match self.scope {
            Scope::Share(share) => {
                ensure_range("scope.share", "(0, 1]", share, *share > 0.0 && *share <= 1.0)?;
            }
            Scope::Layers(patterns) => {
                let count = patterns.len();
                ensure_range("scope.layers", "at least one pattern", count, count > 0)?;
            }
            Scope::Head => {}
        }
        if let Some(size) = self.covariance_batch_size {
            ensure_range("covariance_batch_size", "at least 1", size, size > 0)?;
        }
        Ok(())
    }

    /// Holds the options against the run.
    pub(super) fn check(&self, run: &RunShape) -> Result<()> {
        for name in self.targets {
            run.expect_modality("targets", name)?;
        }
        if let Scope::Layers(patterns) = self.scope {
            let names = || run.layers.values().flatten().map(Layer::local_name);
            let idle = |pattern: &&String| !names().any(|name| matches_glob(pattern, name));
            if let Some(pattern) = patterns.iter().find(idle) {
                let known: BTreeSet<_> = names().map(|name| format!("`{name}`")).collect();
                let known: Vec<_> = known.into_iter().collect();
                return Err(Error::refused(
                    format!("`scope.layers` has `{pattern}`, which matches no layer of the run"),
                    format!("match some of {}", known.join(", ")),
                ));
            }
        }
        let size = self.covariance_batch_size.unwrap_or(run.batch_size);
        match run.training_samples {
            Some(samples) if samples < size => Err(Error::refused(
                format!("{samples} training samples do not fill a covariance batch of {size}"),
                "lower `covariance_batch_size`",
            )),
            _ => Ok(()),
        }
    }

    /// Pairs layers from the output backwards; returns what found no partner with the reason.
    fn pairs(&self, run: &dyn RunOps, target: &str, source: &str) -> (Vec<Pair>, Vec<Value>, f64) {
        let (scope, share) = self.in_scope(run, target);
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
        (pairs, unpaired, share)
    }

    /// Names of the target's layers in scope, and their share of its parameters.
    pub(super) fn in_scope(&self, run: &dyn RunOps, target: &str) -> (Vec<String>, f64) {
        let layers = run.layers(target);
        let total = run.parameter_count(target) as f64;
        let share_of = |layers: &[&Layer]| {
            let size: i64 = layers.iter().map(|layer| layer.shape.iter().product::<i64>()).sum();
            size as f64 / total
        };
        let chosen: Vec<&Layer> = match self.scope {
            Scope::Head => layers
                .iter()
                .filter(|layer| !matches!(layer.weight.group, GroupId::Encoder(_)))
                .collect(),
            Scope::Layers(patterns) => layers
                .iter()
                .filter(|layer| patterns.iter().any(|p| matches_glob(p, layer.local_name())))
                .collect(),
            Scope::Share(wanted) => {
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

    /// Passes over the data once for `source` and decomposes the covariances of `pairs`.
    fn projections_of(
        &self,
        run: &mut dyn RunOps,
        source: &str,
        pairs: &[Pair],
    ) -> Result<(BTreeMap<String, Projection>, Vec<Value>)> {
        if pairs.is_empty() {
            return Ok((BTreeMap::new(), Vec::new()));
        }
        let device = run.device();
        let mut wanted = BTreeMap::new();
        for Pair { source, .. } in pairs {
            let width = source.input_width();
            let covariance = Covariance::new(width, self.covariance, self.precision, device)?;
            wanted.insert(source.name.clone(), covariance);
        }
        let mut collector = Collector { wanted };
        let request = PassRequest {
            split: Split::Train,
            batch_size: self.covariance_batch_size,
            drop_last: true,
            mode: self.covariance_inputs,
            // In the order of the lists a batch would often hold a single class.
            shuffled: true,
            samples: None,
            spec: Spec::evaluation([source.to_owned()]),
        };
        run.pass(&request, Some(&mut collector), &mut |_, _| Ok(()))?;
        let (mut found, mut spectra) = (BTreeMap::new(), Vec::new());
        for Pair { target, source } in pairs {
            let Some(covariance) = collector.wanted.get_mut(&source.name) else { continue };
            if covariance.batches() == 0 {
                return Err(Error::refused(
                    format!(
                        "the training data do not fill one batch to learn `{}` from",
                        source.name
                    ),
                    "lower gradient_modifiers.*.covariance_batch_size",
                ));
            }
            if self.normalise {
                covariance.normalise()?;
            }
            let (projection, spectrum) = project(&source.name, covariance, self.map, self.solver)?;
            let Projection::Dense(matrix) = projection;
            let matrix = matrix.f_to_device(device)?.f_to_kind(Kind::Float)?;
            let mut spectrum = serde_json::to_value(&spectrum).unwrap_or(Value::Null);
            if let Some(fields) = spectrum.as_object_mut() {
                fields.insert("layer".to_owned(), json!(target.name));
                fields.insert("source".to_owned(), json!(source.name));
            }
            spectra.push(spectrum);
            found.insert(target.weight.path.to_string(), Projection::Dense(matrix));
        }
        Ok((found, spectra))
    }
}

fn average(projections: Vec<Projection>) -> Result<Projection> {
    if let [_] = projections.as_slice() {
        return projections.into_iter().next().ok_or_else(|| Error::Bug("no matrix".to_owned()));
    }
    let matrices: Vec<&Tensor> = projections.iter().map(Projection::matrix).collect();
    let mean = Tensor::f_stack(&matrices, 0)?.f_mean_dim(0i64, false, None::<Kind>)?;
    Ok(Projection::Dense(mean))
}

/// Whether `name` matches `pattern`, in which `*` stands for any text.
fn matches_glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("fc1", "fc1", true),
            ("fc1", "fc12", false),
            ("layer4.*", "layer4.1.conv2", true),
            ("*conv*", "layer4.1.conv2", true),
            ("l*.conv1", "layer4.1.conv2", false),
            ("*", "anything", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches_glob(pattern, name), expected, "{pattern} {name}");
        }
    }
}
