//! What modifiers share that project gradients by what another modality's layers see.

use std::collections::{BTreeMap, BTreeSet};

use mie_core::prelude::*;
use mie_core::projection::{
    Asked, Covariance, CovarianceKind, Covariances, Precision, Projection, Solving, SpectralMap,
    SpectrumReport, Work, drift, exponent, project_each,
};
use serde_json::{Value, json};

use super::scope::{Pair, Paired, Scope};

/// How the projections of several source modalities are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SeveralSources {
    /// The mean of the matrices.
    Average,
    /// One after the other, in alphabetical order of the modalities.
    Compose,
}

/// When projections are learnt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Refresh {
    /// At the start of each phase that has a source (the paper's), by a pass over the data.
    Phase,
    /// Before each epoch of such a phase, by a pass over the data.
    Epoch,
    /// Between steps, from what the layers saw in the steps themselves: a running covariance, for
    /// strategies whose steps train the sources too. Modalities learn from the phase's sources, or
    /// from all others where it has none; a phase with sources starts from a pass as above. The
    /// record of an epoch's refreshes is made at the start of the next.
    Steps {
        /// Trainings on a batch between refreshes, at least 1; where modalities take turns at a
        /// batch, each turn is one.
        every: u64,
        /// What a covariance keeps with each step, in `(0, 1]`; 1 forgets nothing.
        decay: f64,
    },
}

/// How projections are learnt.
pub(super) struct Learning<'a> {
    pub(super) map: SpectralMap,
    pub(super) scope: &'a Scope,
    pub(super) targets: &'a [String],
    pub(super) refresh: Refresh,
    /// Change of `P` below which a refresh is skipped; 0 skips none.
    pub(super) drift_tolerance: f64,
    pub(super) covariance: CovarianceKind,
    pub(super) normalise: bool,
    pub(super) covariance_batch_size: Option<usize>,
    pub(super) covariance_inputs: Mode,
    pub(super) solving: Solving,
    pub(super) precision: Precision,
}

impl Learning<'_> {
    /// Checks the options that do not depend on the run.
    pub(super) fn validate(&self) -> Result<()> {
        self.scope.validate()?;
        self.solving.validate()?;
        if let Refresh::Steps { every, decay } = self.refresh {
            ensure_range("refresh.steps.every", "at least 1", every, every > 0)?;
            let holds = decay > 0.0 && decay <= 1.0;
            ensure_range("refresh.steps.decay", "(0, 1]", decay, holds)?;
        }
        let drift = self.drift_tolerance;
        ensure_range("drift_tolerance", "[0, inf)", drift, drift >= 0.0 && drift.is_finite())?;
        // At the start of a phase there is nothing yet to hold against.
        let useful = drift <= 0.0 || self.refresh != Refresh::Phase;
        ensure_range("drift_tolerance", "0 while `refresh` is \"phase\"", drift, useful)?;
        let steps = matches!(self.refresh, Refresh::Steps { .. });
        let expected = "false while `refresh` is by steps";
        ensure_range("normalise", expected, self.normalise, !(self.normalise && steps))?;
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
        self.scope.check(run)?;
        let shared = |layer: &Layer| layer.weight.group == GroupId::SharedHead;
        if matches!(self.refresh, Refresh::Steps { .. })
            && run.layers.values().flatten().any(shared)
        {
            return Err(Error::refused(
                "`refresh.steps` tells modalities apart by their layers, and the head is shared",
                "set `head.shared = false`, or take another `refresh`",
            ));
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

    /// The sources of a target in a phase.
    fn sources(&self, run: &dyn RunOps, at: &Boundary, target: &str) -> Vec<String> {
        let steps = matches!(self.refresh, Refresh::Steps { .. });
        let all = if steps && at.source.is_empty() { run.modalities() } else { at.source.clone() };
        all.into_iter().filter(|source| source != target).collect()
    }

    /// Starts an empty covariance.
    fn empty(&self, width: i64, device: Device) -> Covariance {
        Covariance::new(width, self.covariance, self.precision, device)
    }

    /// Passes over the data once for `source`; returns covariances by the names of its layers.
    fn pass(
        &self,
        run: &mut dyn RunOps,
        source: &str,
        pairs: &[Pair],
    ) -> Result<BTreeMap<String, Covariance>> {
        let device = run.device();
        let empty =
            |pair: &Pair| (pair.source.name.clone(), self.empty(pair.source.input_width(), device));
        let mut collector = Covariances(pairs.iter().map(empty).collect());
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
        for (layer, covariance) in &collector.0 {
            if covariance.batches() == 0 {
                return Err(Error::refused(
                    format!("the training data do not fill one batch to learn `{layer}` from"),
                    "lower gradient_modifiers.*.covariance_batch_size",
                ));
            }
        }
        Ok(collector.0)
    }
}

/// Where a projection belongs: what a saved one is found by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Path of the weight whose gradient is multiplied.
    weight: String,
    /// Outputs of the layer.
    rows: i64,
    /// The modality that it is learnt from: several may share a head.
    modality: String,
    /// The layer of it, and what is known of that.
    source: String,
    group: GroupId,
    kind: LayerKind,
    width: i64,
}

impl Place {
    fn of(pair: &Pair, modality: &str) -> Self {
        Self {
            modality: modality.to_owned(),
            weight: pair.target.weight.path.to_string(),
            rows: pair.target.shape.first().copied().unwrap_or(1),
            source: pair.source.name.clone(),
            group: pair.source.weight.group.clone(),
            kind: pair.source.kind.clone(),
            width: pair.source.input_width(),
        }
    }
}

/// A projection that is in force, with what the next refresh is held against.
#[derive(Debug)]
struct Learnt {
    place: Place,
    /// None until there was something to learn from.
    projection: Option<Projection>,
    exponent: Option<Tensor>,
}

/// Projections in force, and the running covariances of refreshes between steps.
#[derive(Debug, Default)]
pub(super) struct Projections {
    learnt: Vec<Learnt>,
    /// Running covariances by the source's layer.
    running: BTreeMap<String, Covariance>,
    /// Steps that running covariances have seen in this phase.
    steps: u64,
    /// Layers of sources that were seen since the last refresh between steps.
    touched: BTreeSet<String>,
    /// Refreshes between steps that no report has told of in detail, and how many more there were.
    untold: Vec<Value>,
    more: u64,
    /// Groups of the running covariances.
    watched: Vec<GroupId>,
}

/// Refreshes between steps whose details are kept for a report.
const MOST_TOLD: usize = 8;

impl Projections {
    /// Multiplies the gradients or steps that have projections.
    pub(super) fn apply(&self, several: SeveralSources, gradients: &mut Grads) -> Result<()> {
        for (id, gradient) in &mut gradients.sum {
            let of_weight = self.learnt.iter().filter(|learnt| learnt.place.weight == *id.path);
            let found: Vec<&Projection> =
                of_weight.filter_map(|learnt| learnt.projection.as_ref()).collect();
            match (several, found.as_slice()) {
                (_, []) => {}
                (SeveralSources::Compose, found) => {
                    for projection in found {
                        *gradient = projection.apply(gradient)?;
                    }
                }
                (SeveralSources::Average, [one]) => *gradient = one.apply(gradient)?,
                (SeveralSources::Average, found) => {
                    let mut sum = found[0].apply(gradient)?;
                    for projection in &found[1..] {
                        let _ = sum.f_add_(&projection.apply(gradient)?)?;
                    }
                    *gradient = sum.f_div_scalar(found.len() as f64)?;
                }
            }
        }
        Ok(())
    }

    /// Learns at a boundary, as `learning` says; returns a report.
    pub(super) fn learn(
        &mut self,
        learning: &Learning<'_>,
        run: &mut dyn RunOps,
        at: &Boundary,
    ) -> Result<Option<Value>> {
        match (at.moment, learning.refresh) {
            (Moment::PhaseStart, _) => self.start(learning, run, at),
            // The epoch that opens a phase has just been provided for.
            (Moment::EpochStart, Refresh::Epoch) if at.epoch > 0 => self.again(learning, run, at),
            (Moment::EpochStart, Refresh::Steps { .. }) if !self.untold.is_empty() => {
                Ok(Some(Value::Array(self.tell())))
            }
            _ => Ok(None),
        }
    }

    /// Replaces all by what the phase's sources give.
    fn start(
        &mut self,
        learning: &Learning<'_>,
        run: &mut dyn RunOps,
        at: &Boundary,
    ) -> Result<Option<Value>> {
        let had = self.learnt.iter().any(|learnt| learnt.projection.is_some());
        let mut reports = self.tell();
        *self = Self::default();
        let steps = matches!(learning.refresh, Refresh::Steps { .. });
        for target in &at.trained {
            if !learning.targets.is_empty() && !learning.targets.contains(target) {
                continue;
            }
            for source in learning.sources(run, at, target) {
                let paired = learning.scope.pair(run, target, &source);
                if paired.pairs.is_empty() {
                    run.warn(&format!(
                        "no layer of `{target}` in scope has a partner of its shape in `{source}`: \
                         its gradients are not modified"
                    ));
                }
                let places = paired.pairs.iter().map(|pair| Place::of(pair, &source));
                self.learnt.extend(places.map(|place| Learnt {
                    place,
                    projection: None,
                    exponent: None,
                }));
                if steps && !at.trained.contains(&source) {
                    run.warn(&format!(
                        "`refresh.steps`: `{source}` is not trained in this phase, so that what \
                         `{target}` learns from it stays as it is at its start"
                    ));
                }
                if at.source.contains(&source) && !paired.pairs.is_empty() {
                    reports.push(self.pass(learning, run, target, &source, &paired)?);
                } else if !at.source.is_empty() {
                    reports.push(told(target, &source, &paired, &[]));
                }
            }
        }
        if steps {
            for Learnt { place, .. } in &self.learnt {
                let empty = || learning.empty(place.width, run.device());
                self.running.entry(place.source.clone()).or_insert_with(empty);
            }
            self.watch();
        }
        // That nothing is in force any more is news as well.
        Ok((had || !reports.is_empty()).then(|| Value::Array(reports)))
    }

    /// Takes out what is to be told of refreshes between steps.
    fn tell(&mut self) -> Vec<Value> {
        let mut told = std::mem::take(&mut self.untold);
        let more = std::mem::take(&mut self.more);
        if more > 0 {
            told.push(json!({ "more": more }));
        }
        told
    }

    fn watch(&mut self) {
        let sources = self.learnt.iter().map(|learnt| learnt.place.group.clone());
        let groups: BTreeSet<GroupId> = sources.collect();
        self.watched = groups.into_iter().collect();
    }

    /// Passes over the data again for what is in force.
    fn again(
        &mut self,
        learning: &Learning<'_>,
        run: &mut dyn RunOps,
        at: &Boundary,
    ) -> Result<Option<Value>> {
        let mut reports = Vec::new();
        for target in &at.trained {
            for source in learning.sources(run, at, target) {
                let mut paired = learning.scope.pair(run, target, &source);
                let known = |pair: &Pair| self.place_of(&Place::of(pair, &source)).is_some();
                paired.pairs.retain(known);
                if !paired.pairs.is_empty() {
                    reports.push(self.pass(learning, run, target, &source, &paired)?);
                }
            }
        }
        Ok((!reports.is_empty()).then(|| Value::Array(reports)))
    }

    fn place_of(&self, place: &Place) -> Option<usize> {
        self.learnt.iter().position(|learnt| learnt.place == *place)
    }

    /// Learns the projections of one target from one source by a pass over the data.
    fn pass(
        &mut self,
        learning: &Learning<'_>,
        run: &mut dyn RunOps,
        target: &str,
        source: &str,
        paired: &Paired,
    ) -> Result<Value> {
        let mut covariances = learning.pass(run, source, &paired.pairs)?;
        if learning.normalise {
            covariances.values_mut().for_each(Covariance::normalise);
        }
        let mut indices = Vec::new();
        for pair in &paired.pairs {
            indices.extend(self.place_of(&Place::of(pair, source)));
        }
        let device = run.device();
        let layers = self.renew(learning, &indices, &covariances, None, device)?;
        if matches!(learning.refresh, Refresh::Steps { .. }) {
            self.running.extend(covariances);
        }
        Ok(told(target, source, paired, &layers))
    }

    /// Computes the projections at `indices` from covariances, but for those that would hardly
    /// change; returns what to say of each.
    fn renew(
        &mut self,
        learning: &Learning<'_>,
        indices: &[usize],
        covariances: &BTreeMap<String, Covariance>,
        uses: Option<f64>,
        device: Device,
    ) -> Result<Vec<Value>> {
        let mut reports = vec![Value::Null; indices.len()];
        let mut due = Vec::new();
        for (at, &index) in indices.iter().enumerate() {
            let Learnt { place, exponent: before, .. } = &self.learnt[index];
            let Some(covariance) = covariances.get(&place.source) else { continue };
            if covariance.batches() == 0 {
                continue;
            }
            let after = if learning.drift_tolerance > 0.0 {
                exponent(&place.source, covariance, learning.map)?
            } else {
                None
            };
            let change = match (before, &after) {
                (Some(before), Some(after)) => Some(drift(before, after)?),
                _ => None,
            };
            if let Some(change) = change.filter(|change| *change < learning.drift_tolerance) {
                reports[at] = json!({ "kept": true, "drift": change });
                name(&mut reports[at], place);
                continue;
            }
            due.push((at, index, change, after));
        }
        let asked: Vec<Asked<'_>> = due
            .iter()
            .filter_map(|(_, index, ..)| {
                let place = &self.learnt[*index].place;
                let covariance = covariances.get(&place.source)?;
                let work = uses.map(|uses| Work { rows: place.rows, uses });
                Some(Asked { layer: &place.source, covariance, work })
            })
            .collect();
        let found = project_each(&asked, learning.map, learning.solving)?;
        for ((at, index, change, after), (projection, spectrum)) in due.into_iter().zip(found) {
            let learnt = &mut self.learnt[index];
            reports[at] = spectrum_value(&spectrum, change);
            name(&mut reports[at], &learnt.place);
            learnt.projection = Some(projection.to(Kind::Float, device)?);
            learnt.exponent = after;
        }
        reports.retain(|report| !report.is_null());
        Ok(reports)
    }

    /// Groups whose layers' inputs it wants to see in steps.
    pub(super) fn watches(&self) -> &[GroupId] {
        &self.watched
    }

    /// Lets running covariances see a step, and learns from them when it is time.
    pub(super) fn see(&mut self, learning: &Learning<'_>, step: &StepView<'_>) -> Result<()> {
        let Refresh::Steps { every, decay } = learning.refresh else { return Ok(()) };
        let mut kinds = BTreeMap::new();
        for Learnt { place, .. } in &self.learnt {
            kinds.insert(&place.source, &place.kind);
        }
        let (mut saw, mut device) = (false, Device::Cpu);
        for (source, kind) in kinds {
            if let (Some(input), Some(covariance)) =
                (step.layer_inputs.get(source), self.running.get_mut(source))
            {
                covariance.decay(decay)?;
                covariance.add(kind, input)?;
                self.touched.insert(source.clone());
                (saw, device) = (true, input.device());
            }
        }
        if !saw {
            return Ok(());
        }
        self.steps += 1;
        if !self.steps.is_multiple_of(every) {
            return Ok(());
        }
        let touched = std::mem::take(&mut self.touched);
        let all: Vec<usize> = (0..self.learnt.len())
            .filter(|index| touched.contains(&self.learnt[*index].place.source))
            .collect();
        let running = std::mem::take(&mut self.running);
        let layers = self.renew(learning, &all, &running, Some(every as f64), device);
        self.running = running;
        let layers = layers?;
        if self.untold.len() < MOST_TOLD {
            self.untold.push(json!({ "step": step.step, "layers": layers }));
        } else {
            self.more += 1;
        }
        Ok(())
    }

    /// Copies everything out.
    pub(super) fn save(&self) -> Result<State> {
        let mut state = State::default();
        let mut places = Vec::new();
        for (index, learnt) in self.learnt.iter().enumerate() {
            places.push(&learnt.place);
            if let Some(projection) = &learnt.projection {
                projection.save(&format!("projection/{index}"), &mut state)?;
            }
            if let Some(exponent) = &learnt.exponent {
                state.put(format!("exponent/{index}"), exponent)?;
            }
        }
        for (layer, covariance) in &self.running {
            covariance.save(&format!("running/{layer}"), &mut state)?;
        }
        state.values.insert("places".to_owned(), json!(places));
        state.values.insert("steps".to_owned(), json!(self.steps));
        state.values.insert("touched".to_owned(), json!(self.touched));
        state.values.insert("untold".to_owned(), json!(self.untold));
        state.values.insert("more".to_owned(), json!(self.more));
        Ok(state)
    }

    /// Takes what [`Projections::save`] gave.
    pub(super) fn load(&mut self, learning: &Learning<'_>, mut state: State) -> Result<()> {
        *self = Self::default();
        let places: Vec<Place> = state.take("places")?;
        self.steps = state.take("steps")?;
        self.touched = state.take("touched")?;
        self.untold = state.take("untold")?;
        self.more = state.take("more")?;
        for (index, place) in places.into_iter().enumerate() {
            let name = format!("projection/{index}");
            let saved = state.tensors.contains_key(&name);
            let projection = saved.then(|| Projection::load(&name, &mut state)).transpose()?;
            let exponent = state.tensors.remove(&format!("exponent/{index}"));
            let device = projection.as_ref().map(|projection| projection.format().1);
            if matches!(learning.refresh, Refresh::Steps { .. })
                && !self.running.contains_key(&place.source)
            {
                let prefix = format!("running/{}", place.source);
                let tensors = &state.tensors;
                let at = ["matrix", "rows"].map(|part| tensors.get(&format!("{prefix}/{part}")));
                let at = at.into_iter().flatten().next().map(Tensor::device);
                let mut covariance =
                    learning.empty(place.width, at.or(device).unwrap_or(Device::Cpu));
                covariance.load(&prefix, &mut state)?;
                self.running.insert(place.source.clone(), covariance);
            }
            self.learnt.push(Learnt { place, projection, exponent });
        }
        if matches!(learning.refresh, Refresh::Steps { .. }) {
            self.watch();
        }
        state.expect_empty()
    }

    /// The projections of a weight.
    #[cfg(test)]
    pub(super) fn of(&self, weight: &str) -> Vec<&Projection> {
        let of_weight = self.learnt.iter().filter(|learnt| learnt.place.weight == weight);
        of_weight.filter_map(|learnt| learnt.projection.as_ref()).collect()
    }

    /// Weights that have projections, in order.
    #[cfg(test)]
    pub(super) fn weights(&self) -> Vec<&str> {
        let in_force = self.learnt.iter().filter(|learnt| learnt.projection.is_some());
        let weights: BTreeSet<&str> = in_force.map(|learnt| &*learnt.place.weight).collect();
        weights.into_iter().collect()
    }

    /// Puts a projection in force.
    #[cfg(test)]
    pub(super) fn put(&mut self, weight: &str, projection: Projection) {
        let place = Place {
            weight: weight.to_owned(),
            rows: 1,
            modality: String::new(),
            source: String::new(),
            group: GroupId::SharedHead,
            kind: LayerKind::Linear,
            width: 1,
        };
        self.learnt.push(Learnt { place, projection: Some(projection), exponent: None });
    }
}

fn told(target: &str, source: &str, paired: &Paired, layers: &[Value]) -> Value {
    json!({
        "target": target,
        "source": source,
        "share_of_parameters": paired.share,
        "layers": layers,
        "unpaired": paired.unpaired,
    })
}

fn spectrum_value(spectrum: &SpectrumReport, change: Option<f64>) -> Value {
    let mut value = serde_json::to_value(spectrum).unwrap_or(Value::Null);
    if let (Some(fields), Some(change)) = (value.as_object_mut(), change) {
        fields.insert("drift".to_owned(), json!(change));
    }
    value
}

fn name(report: &mut Value, place: &Place) {
    if let Some(fields) = report.as_object_mut() {
        let weight = &place.weight;
        let layer = weight.strip_suffix(".weight").unwrap_or(weight);
        fields.insert("layer".to_owned(), json!(layer));
        fields.insert("source".to_owned(), json!(place.source));
    }
}
