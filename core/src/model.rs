//! The model of an experiment: encoders, projections, heads and fusions.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::batch::{Batch, ByModality, Named, Outputs, Spec};
use crate::config::{Experiment, HeadRelu, HeadSection};
use crate::error::{Error, Result, guarded};
use crate::family::{Encoder, Fusion, FusionContext, Joint, TensorLayout};
use crate::layers::{Layer, Linear, Pass, Probe, Statistics, TrainingPass};
use crate::parameters::{Builder, GroupId, Parameters};
use crate::random::Seed;

/// A fully connected head: features to logits.
#[derive(Debug)]
pub struct Head {
    layers: Vec<Linear>,
    relu: HeadRelu,
    dropout: f64,
}

impl Head {
    /// Creates the layers `fc1`, `fc2` … of a head `inputs -> hidden … -> classes`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(at: &Builder<'_>, inputs: i64, classes: i64, options: &HeadSection) -> Result<Self> {
        let widths: Vec<i64> =
            [inputs].into_iter().chain(options.hidden.clone()).chain([classes]).collect();
        let layers = widths
            .windows(2)
            .enumerate()
            .map(|(i, pair)| Linear::new(&at.sub(&format!("fc{}", i + 1)), pair[0], pair[1]))
            .collect::<Result<_>>()?;
        Ok(Self { layers, relu: options.relu, dropout: options.dropout })
    }

    /// Maps features `[batch, inputs]` to logits `[batch, classes]`.
    ///
    /// # Errors
    /// When the width is another one.
    pub fn forward(&self, features: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut x = features.shallow_clone();
        let last = self.layers.len() - 1;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&pass.dropout(x, self.dropout)?, pass)?;
            let relu = match self.relu {
                HeadRelu::First => index == 0,
                HeadRelu::All => true,
                HeadRelu::None => false,
            };
            if relu && index < last {
                x = x.f_relu()?;
            }
        }
        Ok(x)
    }

    /// Layers in forward order.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().map(Linear::layer)
    }
}

enum Heads {
    None,
    Own(ByModality<Head>),
    Shared(Head),
}

impl Heads {
    fn of(&self, modality: &str) -> Option<&Head> {
        match self {
            Self::None => None,
            Self::Own(heads) => heads.get(modality),
            Self::Shared(head) => Some(head),
        }
    }
}

/// Everything that computes; the parameters themselves are in [`Parameters`].
pub struct Model {
    encoders: ByModality<Box<dyn Encoder>>,
    projections: ByModality<Linear>,
    heads: Heads,
    /// The fusion that trains and selects.
    pub fusion: Box<dyn Fusion>,
    /// Further decision rules, by the name they have in records.
    pub also: BTreeMap<String, Box<dyn Fusion>>,
    fillers: ByModality<f64>,
    fusion_name: String,
    /// Groups that the fusion has weights in.
    fusion_groups: BTreeSet<GroupId>,
}

impl Model {
    /// Builds the model of an experiment, its weights drawn from the seed.
    ///
    /// # Errors
    /// When parts do not fit together: [`Error::Refused`] with the reason and the fix.
    pub fn build(
        experiment: &Experiment,
        layouts: &BTreeMap<String, Vec<TensorLayout>>,
        fillers: &BTreeMap<String, f64>,
        classes: usize,
        device: Device,
    ) -> Result<(Self, Parameters)> {
        let store = RefCell::new(Parameters::default());
        let seed = Seed(experiment.seed);
        let at = |group| Builder::new(&store, seed, device, group);
        let classes = classes as i64;
        let mut encoders: ByModality<Box<dyn Encoder>> = BTreeMap::new();
        let mut projections = BTreeMap::new();
        let mut widths = BTreeMap::new();
        for (name, section) in &experiment.modalities {
            let group = GroupId::Encoder(name.clone());
            let plugin = format!("encoder `{}` of `{name}`", section.encoder.typetag_name());
            let encoder =
                guarded(&plugin, || section.encoder.build(&layouts[name], &at(group.clone())))?;
            let mut width = encoder.width();
            if let Some(projected) = section.projection {
                let layer = Linear::new(&at(group).sub("projection"), width, projected)?;
                projections.insert(name.clone(), layer);
                width = projected;
            }
            widths.insert(name.clone(), width);
            encoders.insert(name.clone(), encoder);
        }
        let heads = build_heads(&experiment.head, &widths, classes, &at)?;
        let channels: ByModality<Vec<Option<i64>>> = encoders
            .iter()
            .map(|(name, encoder)| {
                let encoder: &dyn Encoder = &**encoder;
                (name.clone(), (0..encoder.stages()).map(|stage| encoder.channels(stage)).collect())
            })
            .collect();
        let context = |group| FusionContext {
            widths: widths.clone(),
            channels: channels.clone(),
            classes,
            at: at(group),
        };
        let fusion_name = format!("fusion `{}`", experiment.fusion.typetag_name());
        let before = store.borrow().ids();
        let fusion = guarded(&fusion_name, || experiment.fusion.build(&context(GroupId::Fusion)))?;
        let fusion_groups = store.borrow().ids().difference(&before).cloned().collect();
        let mut also: BTreeMap<String, Box<dyn Fusion>> = BTreeMap::new();
        for (index, config) in experiment.also_evaluate.iter().enumerate() {
            let rule = config.typetag_name();
            let before = store.borrow().ids();
            let built = guarded(&format!("fusion `{rule}`"), || {
                config.build(&context(GroupId::Auxiliary(format!("also_evaluate{index}"))))
            })?;
            if store.borrow().ids() != before {
                return Err(Error::refused(
                    format!("also_evaluate.{index}: fusion `{rule}` has parameters of its own"),
                    "only fusions without parameters can be further decision rules",
                ));
            }
            // Two variants of one rule are told apart by their position.
            let name =
                if also.contains_key(rule) { format!("{rule}.{index}") } else { rule.into() };
            also.insert(name, built);
        }
        let model = Self {
            encoders,
            projections,
            heads,
            fusion,
            also,
            fillers: fillers.clone(),
            fusion_name,
            fusion_groups,
        };
        Ok((model, store.into_inner()))
    }

    /// Names of the modalities, in alphabetical order.
    pub fn modalities(&self) -> Vec<String> {
        self.encoders.keys().cloned().collect()
    }

    /// Whether modalities have heads.
    pub fn has_heads(&self) -> bool {
        !matches!(self.heads, Heads::None)
    }

    /// Whether all modalities share one head.
    pub fn shares_head(&self) -> bool {
        matches!(self.heads, Heads::Shared(_))
    }

    /// Layers of the head that all modalities share, in forward order.
    pub fn shared_head(&self) -> Vec<Layer> {
        match &self.heads {
            Heads::Shared(head) => head.layers().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Groups that training `modalities` moves: their own, and what they share.
    pub fn groups_of(&self, modalities: &[String], parameters: &Parameters) -> BTreeSet<GroupId> {
        parameters
            .ids()
            .into_iter()
            .filter(|id| match id.modality() {
                Some(modality) => modalities.iter().any(|name| name == modality),
                None => true,
            })
            .collect()
    }

    /// Layers of a modality in forward order: encoder, projection, head.
    pub fn layers(&self, modality: &str) -> Vec<Layer> {
        let mut layers = self.encoders.get(modality).map(|e| e.layers()).unwrap_or_default();
        layers.extend(self.projections.get(modality).map(|p| p.layer().clone()));
        layers.extend(self.heads.of(modality).into_iter().flat_map(|h| h.layers().cloned()));
        layers
    }

    /// Runs the modalities of `spec` on `batch`.
    ///
    /// Modalities whose encoder is not among the active groups run in evaluation mode, whatever
    /// the statistics asked for; gradients may still pass through them. So does a fusion that has
    /// weights and none of them active.
    ///
    /// # Errors
    /// Names the modality and plugin whose tensors do not fit.
    pub fn forward<'a>(
        &self,
        batch: &'a Batch,
        spec: &Spec,
        mut how: Running<'a>,
    ) -> Result<Outputs> {
        let _guard = (!spec.gradients).then(no_grad_guard);
        let training = how.draw.map(|draw| TrainingPass { labels: &batch.targets.labels, draw });
        let fusion_trains = self.fusion_groups.is_empty()
            || how.active.is_none_or(|groups| !self.fusion_groups.is_disjoint(groups));
        let fusion_statistics = if fusion_trains { how.statistics } else { Statistics::Running };
        let mut outputs = Outputs::default();
        if self.fusion.taps() {
            let samples = batch.len() as i64;
            let mut pass = Pass { statistics: fusion_statistics, probe: None, training };
            self.tapped(batch, spec, &mut how, samples, &mut pass, &mut outputs)?;
        } else {
            for name in &spec.run {
                let key =
                    (name.clone(), spec.present.contains(name), how.statistics, spec.gradients);
                if how.probe.is_none()
                    && let Some(made) =
                        how.branches.as_ref().and_then(|branches| branches.made.get(&key))
                {
                    outputs.take(name, made.share());
                    continue;
                }
                let mut stream = self.input(batch, spec, name)?;
                for stage in 0..self.encoders[name].stages() {
                    stream = self.stage(name, stage, stream, &mut how)?;
                }
                let branch = self.branch(name, &stream, &mut how)?;
                if let Some(branches) = &mut how.branches {
                    branches.made.insert(key, branch.share());
                }
                outputs.take(name, branch);
            }
        }
        let mut pass = Pass { statistics: fusion_statistics, probe: how.probe, training };
        let joint = guarded(&self.fusion_name, || {
            self.fusion.joint(&outputs.features, &outputs.logits, &mut pass)
        })?;
        if let Some(Joint { logits, rows }) = joint {
            (outputs.joint, outputs.rows) = (Some(logits), rows);
        }
        Ok(outputs)
    }

    /// Runs all encoders stage by stage, the fusion acting in between.
    fn tapped(
        &self,
        batch: &Batch,
        spec: &Spec,
        how: &mut Running<'_>,
        samples: i64,
        fusion_pass: &mut Pass<'_>,
        outputs: &mut Outputs,
    ) -> Result<()> {
        let mut streams: ByModality<Named> = BTreeMap::new();
        for name in &spec.run {
            streams.insert(name.clone(), self.input(batch, spec, name)?);
        }
        let stages =
            spec.run.iter().map(|name| self.encoders[name].stages()).max().unwrap_or_default();
        for stage in 0..stages {
            for name in &spec.run {
                if stage < self.encoders[name].stages()
                    && let Some(x) = streams.remove(name)
                {
                    let y = self.stage(name, stage, x, how)?;
                    streams.insert(name.clone(), y);
                }
            }
            guarded(&self.fusion_name, || {
                self.fusion.tap(stage, &mut streams, samples, fusion_pass)
            })?;
        }
        for (name, stream) in streams {
            let branch = self.branch(&name, &stream, how)?;
            outputs.take(&name, branch);
        }
        Ok(())
    }

    fn input(&self, batch: &Batch, spec: &Spec, name: &str) -> Result<Named> {
        let input = batch.inputs.get(name).ok_or_else(|| {
            Error::Bug(format!("modality `{name}` was not loaded for this batch"))
        })?;
        if spec.present.contains(name) { Ok(input.clone()) } else { self.filled(name, input) }
    }

    fn stage(&self, name: &str, stage: usize, x: Named, how: &mut Running<'_>) -> Result<Named> {
        let mut pass = how.pass_of(name);
        guarded(&format!("encoder of `{name}`"), || self.encoders[name].stage(stage, x, &mut pass))
    }

    /// What follows a modality's encoder: its projection and head.
    fn branch(&self, name: &str, stream: &Named, how: &mut Running<'_>) -> Result<Branch> {
        if let Some(branches) = &mut how.branches {
            branches.computed += 1;
        }
        let mut pass = how.pass_of(name);
        let mut feature = stream.value()?.shallow_clone();
        if let Some(projection) = self.projections.get(name) {
            feature = projection.forward(&feature, &mut pass)?;
        }
        let logits =
            self.heads.of(name).map(|head| head.forward(&feature, &mut pass)).transpose()?;
        Ok(Branch { feature, logits })
    }

    /// Joint logits for each modality alone, the features of the others set to 0.
    ///
    /// # Errors
    /// When the tensors do not fit; [`Error::Refused`] when the fusion has no joint logits.
    pub fn responses(&self, outputs: &Outputs) -> Result<ByModality<Tensor>> {
        let _guard = no_grad_guard();
        let alone = |tensors: &ByModality<Tensor>, kept: &str| -> Result<ByModality<Tensor>> {
            let only = |(name, x): (&String, &Tensor)| {
                let x = if name == kept { x.shallow_clone() } else { x.f_zeros_like()? };
                Ok((name.clone(), x))
            };
            tensors.iter().map(only).collect()
        };
        let mut responses = ByModality::new();
        for name in outputs.features.keys() {
            let features = alone(&outputs.features, name)?;
            let logits = alone(&outputs.logits, name)?;
            let joint = guarded(&self.fusion_name, || {
                self.fusion.joint(&features, &logits, &mut Pass::evaluation())
            })?;
            let joint = Outputs { joint: joint.map(|joint| joint.logits), ..outputs.share() };
            responses.insert(name.clone(), joint.joint_logits()?.shallow_clone());
        }
        Ok(responses)
    }

    /// Unimodal class probabilities: from heads, or else from an additive fusion's split.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn unimodal_logits(&self, outputs: &Outputs) -> Result<ByModality<Tensor>> {
        if self.has_heads() {
            return Ok(crate::batch::share(&outputs.logits));
        }
        let split = guarded(&self.fusion_name, || self.fusion.split(outputs))?;
        Ok(split.unwrap_or_default())
    }

    fn filled(&self, name: &str, input: &Named) -> Result<Named> {
        let filler = self.fillers.get(name).copied().unwrap_or_default();
        let fill = |tensor: &Tensor| match tensor.kind() {
            Kind::Int64 => tensor.f_zeros_like(),
            _ => tensor.f_full_like(filler),
        };
        Ok(Named(
            input
                .0
                .iter()
                .map(|(key, tensor)| Ok((key.clone(), fill(tensor)?)))
                .collect::<Result<_>>()?,
        ))
    }
}

/// How to run a model on a batch.
pub struct Running<'a> {
    /// What normalisation layers do.
    pub statistics: Statistics,
    /// Groups that are trained; all where absent.
    pub active: Option<&'a BTreeSet<GroupId>>,
    /// Receives layer inputs.
    pub probe: Option<&'a mut dyn Probe>,
    /// Names the random draws of a pass for a gradient; absent in evaluation.
    pub draw: Option<u64>,
    /// What modalities gave in earlier passes of this batch at these weights; each is computed once
    /// for all passes that ask the same of it.
    pub branches: Option<&'a mut Branches>,
}

impl<'a> Running<'a> {
    /// Every group, no probe, no draws.
    pub fn of(statistics: Statistics) -> Self {
        Self { statistics, active: None, probe: None, draw: None, branches: None }
    }

    /// The same with a probe.
    #[must_use]
    pub fn probed(self, probe: Option<&'a mut dyn Probe>) -> Self {
        Self { probe, ..self }
    }

    fn pass_of(&mut self, modality: &str) -> Pass<'_> {
        let encoder = GroupId::Encoder(modality.to_owned());
        let trained = self.active.is_none_or(|groups| groups.contains(&encoder));
        let statistics = if trained { self.statistics } else { Statistics::Running };
        Pass::of(statistics).probed(reborrow(&mut self.probe))
    }
}

/// What modalities gave in passes of one batch: by name, presence, statistics and gradients.
#[derive(Default)]
pub struct Branches {
    made: BTreeMap<(String, bool, Statistics, bool), Branch>,
    /// Modalities computed so far, each pass counted.
    pub computed: u64,
}

/// What one modality gives.
struct Branch {
    feature: Tensor,
    logits: Option<Tensor>,
}

impl Branch {
    fn share(&self) -> Self {
        let logits = self.logits.as_ref().map(Tensor::shallow_clone);
        Self { feature: self.feature.shallow_clone(), logits }
    }
}

impl Outputs {
    fn take(&mut self, name: &str, branch: Branch) {
        self.features.insert(name.to_owned(), branch.feature);
        if let Some(logits) = branch.logits {
            self.logits.insert(name.to_owned(), logits);
        }
    }
}

/// Lends an optional probe for a shorter while.
fn reborrow<'a>(probe: &'a mut Option<&mut dyn Probe>) -> Option<&'a mut dyn Probe> {
    match probe {
        Some(probe) => Some(&mut **probe),
        None => None,
    }
}

fn build_heads<'a>(
    options: &HeadSection,
    widths: &ByModality<i64>,
    classes: i64,
    at: &impl Fn(GroupId) -> Builder<'a>,
) -> Result<Heads> {
    if !options.unimodal {
        return Ok(Heads::None);
    }
    if !options.shared {
        let heads = widths
            .iter()
            .map(|(name, width)| {
                let at = at(GroupId::Head(name.clone()));
                Ok((name.clone(), Head::new(&at, *width, classes, options)?))
            })
            .collect::<Result<_>>()?;
        return Ok(Heads::Own(heads));
    }
    let mut distinct = widths.values();
    let first = distinct.next().copied().unwrap_or_default();
    if distinct.any(|width| *width != first) {
        let listed: Vec<String> =
            widths.iter().map(|(name, width)| format!("{name} has {width}")).collect();
        return Err(Error::refused(
            format!(
                "head.shared is set, but features have different widths: {}",
                listed.join(", ")
            ),
            "give every modality the same width, e.g. `projection = 512` in each \
             `modalities.*` table, or set head.shared = false",
        ));
    }
    Ok(Heads::Shared(Head::new(&at(GroupId::SharedHead), first, classes, options)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_s_head_has_as_many_parameters_as_its_table_says() {
        let store = RefCell::new(Parameters::default());
        let group = GroupId::Head("video".to_owned());
        let at = Builder::new(&store, Seed(0), Device::Cpu, group.clone());
        let head = Head::new(&at, 512, 31, &HeadSection::default()).unwrap();
        let names: Vec<_> = head.layers().map(|layer| layer.name.clone()).collect();
        assert_eq!(names, ["head.video.fc1", "head.video.fc2", "head.video.fc3"]);
        assert_eq!(store.borrow().size(&group), 149_791);
    }

    #[test]
    fn relu_stands_after_the_first_layer_only_by_default() {
        let options = HeadSection { hidden: vec![4, 4], ..HeadSection::default() };
        let build = |relu| {
            let store = RefCell::new(Parameters::default());
            let at = Builder::new(&store, Seed(0), Device::Cpu, GroupId::Head("audio".to_owned()));
            Head::new(&at, 4, 3, &HeadSection { relu, ..options.clone() }).unwrap()
        };
        let x = Tensor::randn([64, 4], tch::kind::FLOAT_CPU) * 10.0;
        let out = |relu| build(relu).forward(&x, &mut Pass::evaluation()).unwrap();
        let by_hand = {
            let head = build(HeadRelu::None);
            let mut pass = Pass::evaluation();
            let first = head.layers[0].forward(&x, &mut pass).unwrap().relu();
            let second = head.layers[1].forward(&first, &mut pass).unwrap();
            head.layers[2].forward(&second, &mut pass).unwrap()
        };
        assert_eq!(out(HeadRelu::First), by_hand);
        assert_ne!(out(HeadRelu::All), by_hand);
        assert_ne!(out(HeadRelu::None), by_hand);
    }

    #[test]
    fn dropout_thins_every_layer_s_inputs_in_training_alone_and_keeps_their_mean() {
        let store = RefCell::new(Parameters::default());
        let at = Builder::new(&store, Seed(0), Device::Cpu, GroupId::Head("audio".to_owned()));
        let options = HeadSection { hidden: Vec::new(), dropout: 0.25, ..HeadSection::default() };
        let head = Head::new(&at, 4, 3, &options).unwrap();
        let x = Tensor::ones([20_000, 4], tch::kind::FLOAT_CPU);
        let run = |statistics| head.forward(&x, &mut Pass::of(statistics)).unwrap().detach();
        let plain = run(Statistics::Running);
        assert_eq!(plain, run(Statistics::Running));
        let thinned = run(Statistics::Update);
        assert_ne!(plain, thinned);
        let off = (thinned.mean_dim(0i64, false, None) - plain.mean_dim(0i64, false, None)).abs();
        assert!(off.max().double_value(&[]) < 0.02, "{off:?}");
    }
}
