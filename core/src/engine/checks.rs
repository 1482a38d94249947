//! Whether the parts of an experiment fit together, found out before the first step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mie_record::OutputMetrics;
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::assembly::{Assembly, Plugged};
use super::evaluate::{FUSED, output_of};
use super::step;
use crate::batch::{Batch, Named, Spec, Targets};
use crate::config::{Experiment, SelectionSplit};
use crate::data::DataSource;
use crate::error::{Error, Result, guarded};
use crate::family::{
    Element, Need, Objective, Phase, Report, Score, Split, Strategy, TensorLayout,
};
use crate::layers::Statistics;
use crate::model::{Branches, Model, Running};
use crate::parameters::{GroupId, Parameters};

/// Needs of one plugin, with the words that name it.
pub(super) struct Wanted {
    pub(super) plugin: String,
    pub(super) needs: &'static [Need],
}

/// What an experiment will do, as far as it can be told without training.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The phases, as if no phase ended early.
    pub phases: Vec<Phase>,
    /// Scalar parameters by group.
    pub parameters: BTreeMap<String, usize>,
    /// Names of the outputs that evaluation will report.
    pub outputs: Vec<String>,
    /// Settings that are allowed but almost surely not meant.
    pub warnings: Vec<String>,
}

/// Builds the model of an experiment, runs it once on made-up inputs and lists its phases.
///
/// `classes` is the number of classes to assume; with the data at hand their splits are checked
/// too. With `weights`, the folder of the data, encoders get the published weights that the
/// experiment names.
///
/// # Errors
/// [`Error::Refused`], [`Error::Shape`] … for parts that do not fit together.
pub fn plan(
    experiment: &Experiment,
    classes: usize,
    source: Option<&DataSource>,
    weights: Option<&Path>,
) -> Result<Plan> {
    let mut layouts = BTreeMap::new();
    let mut fillers = BTreeMap::new();
    for (name, section) in &experiment.modalities {
        let plugin = format!("modality `{}` of `{name}`", section.input.typetag_name());
        let modality = guarded(&plugin, || section.input.build())?;
        layouts.insert(name.clone(), modality.layout());
        fillers.insert(name.clone(), modality.filler());
    }
    let assembly = Assembly::build(experiment, &layouts, &fillers, classes, Device::Cpu)?;
    assembly.check(experiment, source)?;
    let mut warnings = experiment.optimizer.warnings();
    if let Some(folder) = weights {
        let loaded = crate::weights::load(experiment, &assembly.parameters, folder)?;
        warnings.extend(loaded.warnings);
    }
    let parameters = assembly.parameters;
    let parameters =
        parameters.ids().into_iter().map(|id| (id.to_string(), parameters.size(&id))).collect();
    Ok(Plan { phases: assembly.phases, parameters, outputs: assembly.outputs, warnings })
}

/// Samples of a trial batch.
const SAMPLES: i64 = 2;

/// A batch of zeros, all of class 0.
pub(super) fn trial_batch(
    layouts: &BTreeMap<String, Vec<TensorLayout>>,
    device: Device,
) -> Result<Batch> {
    let mut inputs = BTreeMap::new();
    for (name, layout) in layouts {
        let mut tensors = BTreeMap::new();
        for tensor in layout {
            let kind = match tensor.element {
                Element::F32 => Kind::Float,
                Element::I64 => Kind::Int64,
            };
            let size: Vec<i64> = [SAMPLES].into_iter().chain(tensor.shape.clone()).collect();
            tensors.insert(tensor.name.clone(), Tensor::f_zeros(size, (kind, device))?);
        }
        inputs.insert(name.clone(), Named(tensors));
    }
    let labels = Tensor::f_zeros([SAMPLES], (Kind::Int64, device))?;
    Ok(Batch {
        inputs,
        targets: Targets { labels, mixed: None },
        indices: (0..SAMPLES as usize).collect(),
    })
}

/// Tries the objectives on everything that phases train together.
///
/// Returns the names of all loss terms with the objectives that give them.
pub(super) fn try_objectives(
    model: &Model,
    batch: &Batch,
    objectives: &[Plugged<dyn Objective>],
    phases: &[Phase],
    branches: &mut Branches,
) -> Result<BTreeMap<String, usize>> {
    let mut tried = BTreeSet::new();
    let mut terms = BTreeMap::new();
    for phase in phases {
        for name in &phase.objectives {
            if !objectives.iter().any(|objective| objective.key == *name) {
                let known: Vec<_> = objectives.iter().map(|objective| &objective.key).collect();
                return Err(Error::refused(
                    format!(
                        "phase `{}` names objective `{name}`, which is not among the experiment's",
                        phase.label
                    ),
                    format!("name some of {known:?}, or add it to `objectives`"),
                ));
            }
        }
        let wanted = in_force(objectives, phase);
        let indices: Vec<usize> = wanted.iter().map(|(index, _)| *index).collect();
        for sub_step in &phase.sub_steps {
            let run: BTreeSet<String> = sub_step.modalities.iter().cloned().collect();
            if tried.insert((run.clone(), indices.clone())) {
                let plugins: Vec<_> = wanted.iter().map(|(_, objective)| *objective).collect();
                let found = step::trial(model, batch, &run, &plugins, branches)?;
                terms.extend(found.into_iter().map(|(term, place)| (term, indices[place])));
            }
        }
    }
    Ok(terms)
}

/// The objectives that give the loss of a phase, with their positions.
pub(super) fn in_force<'a>(
    objectives: &'a [Plugged<dyn Objective>],
    phase: &Phase,
) -> Vec<(usize, &'a Plugged<dyn Objective>)> {
    let named = |objective: &Plugged<dyn Objective>| {
        phase.objectives.is_empty() || phase.objectives.contains(&objective.key)
    };
    objectives.iter().enumerate().filter(|(_, objective)| named(objective)).collect()
}

/// Runs the model once on a trial batch and holds it against what plugins need.
///
/// Returns the names of its outputs, and leaves in `branches` what the modalities gave, for the
/// trials of objectives.
pub(super) fn dry_run(
    model: &Model,
    batch: &Batch,
    classes: usize,
    wanted: &[Wanted],
    branches: &mut Branches,
) -> Result<Vec<String>> {
    let _guard = no_grad_guard();
    // With gradients off all the same: objectives ask for such a pass.
    let spec = Spec { gradients: true, ..Spec::evaluation(model.modalities()) };
    let how = Running { branches: Some(branches), ..Running::of(Statistics::Running) };
    let outputs = model.forward(batch, &spec, how)?;
    for Wanted { plugin, needs } in wanted {
        fits(plugin, needs, model, outputs.joint.is_some())?;
    }
    let mut names: Vec<String> = Vec::new();
    for (name, logits) in model.unimodal_logits(&outputs)? {
        expect_classes(&name, &logits, SAMPLES, classes)?;
        names.push(name);
    }
    if let Some(joint) = &outputs.joint {
        expect_classes("joint logits", joint, SAMPLES, classes)?;
    }
    let decided = guarded("fusion", || model.fusion.decide(&outputs))?;
    expect_classes(FUSED, &decided, SAMPLES, classes)?;
    names.push(FUSED.to_owned());
    for (name, rule) in &model.also {
        let decided = guarded(&format!("fusion `{name}`"), || rule.decide(&outputs))?;
        expect_classes(name, &decided, SAMPLES, classes)?;
        names.push(format!("{FUSED}.{name}"));
    }
    Ok(names)
}

fn expect_classes(name: &str, tensor: &Tensor, samples: i64, classes: usize) -> Result<()> {
    let expected = [samples, classes as i64];
    if tensor.size() == expected {
        return Ok(());
    }
    Err(Error::shape(format!("output `{name}`"), expected, tensor.size()))
}

fn fits(plugin: &str, needs: &[Need], model: &Model, joint: bool) -> Result<()> {
    for need in needs {
        let (met, lack, remedy) = match need {
            Need::AdditiveFusion => (
                model.fusion.additive(),
                "joint logits that are a sum of unimodal ones, and the fusion is not additive",
                "choose an additive fusion (`concat` without hidden layers, `sum`, `average`), or \
                 remove the plugin",
            ),
            Need::JointLogits => (
                joint,
                "joint logits, and the fusion only decides",
                "choose a fusion with joint logits (`concat`, `sum`, `average`), or another \
                 objective",
            ),
            Need::UnimodalHeads => (
                model.has_heads(),
                "a head for each modality, and head.unimodal is false",
                "set head.unimodal = true",
            ),
            Need::SeveralModalities => (
                model.modalities().len() > 1,
                "several modalities, and the run has one",
                "add a modality, or remove the plugin",
            ),
            Need::UnimodalResponses => (
                joint,
                "joint logits, and the fusion only decides",
                "choose a fusion with joint logits",
            ),
            Need::IsolatingFusion => (
                model.fusion.isolates(),
                "a fusion that can shield a modality from the others, and this one cannot",
                "choose such a fusion (`mmtm`), or remove the plugin",
            ),
            Need::SharedHead => (
                model.shares_head(),
                "one head for all modalities, and they have heads of their own",
                "set head.shared = true",
            ),
            // Checked when the splits are known, and met by the engine itself.
            Need::ValidationSplit | Need::GradientsByTerm | Need::GroupNorms => continue,
        };
        if !met {
            return Err(Error::refused(format!("{plugin} needs {lack}"), remedy));
        }
    }
    Ok(())
}

/// Refuses a fusion with weights of its own that no objective trains.
pub(super) fn check_fusion_is_trained(
    experiment: &Experiment,
    parameters: &Parameters,
    wanted: &[Wanted],
) -> Result<()> {
    let owned = [GroupId::JointHead, GroupId::Fusion];
    let trained = wanted.iter().any(|wanted| wanted.needs.contains(&Need::JointLogits));
    if trained || owned.iter().all(|group| parameters.group(group).is_none()) {
        return Ok(());
    }
    Err(Error::refused(
        format!(
            "fusion `{}` has weights of its own, and no objective takes a loss on its logits",
            experiment.fusion.typetag_name()
        ),
        "add the objective `joint_ce`, or choose a fusion without weights, such as `average`",
    ))
}

/// Refuses options of the optimizer that name modalities the run does not have.
pub(super) fn check_names(experiment: &Experiment) -> Result<()> {
    let known = &experiment.modalities;
    match experiment.optimizer.modalities().into_iter().find(|name| !known.contains_key(name)) {
        None => Ok(()),
        Some(unknown) => Err(Error::refused(
            format!("the optimizer's options name `{unknown}`, which the run does not have"),
            format!("name some of {:?}", known.keys().collect::<Vec<_>>()),
        )),
    }
}

/// Refuses an experiment that must choose by a split it does not have.
pub(super) fn check_splits(
    experiment: &Experiment,
    wanted: &[Wanted],
    source: &DataSource,
) -> Result<()> {
    let has_validation = !source.is_empty(Split::Valid);
    let has_test = !source.is_empty(Split::Test);
    if source.len(Split::Train) < experiment.data.batch_size && experiment.data.drop_last {
        return Err(Error::refused(
            format!(
                "{} training samples do not fill a batch of {}",
                source.len(Split::Train),
                experiment.data.batch_size
            ),
            "lower data.batch_size, or set data.drop_last = false",
        ));
    }
    let fix = "set data.validation_share (e.g. 0.1) to split one off the training data, or \
               `selection.split = \"none\"` to keep the last weights";
    match experiment.selection.split {
        SelectionSplit::Valid if !has_validation => {
            return Err(Error::refused(
                "selection.split is \"valid\", and the dataset has no validation split",
                fix,
            ));
        }
        SelectionSplit::Test if !has_test => {
            return Err(Error::refused(
                "selection.split is \"test\", and the dataset has no test split",
                fix,
            ));
        }
        _ => {}
    }
    // Scores are watched on the split that selects.
    let watched = experiment.selection.split == SelectionSplit::Valid && has_validation;
    if let Some(Wanted { plugin, .. }) =
        wanted.iter().find(|wanted| wanted.needs.contains(&Need::ValidationSplit) && !watched)
    {
        return Err(Error::refused(
            format!("{plugin} needs a validation split, and the run evaluates none"),
            fix,
        ));
    }
    Ok(())
}

/// Refuses inputs that mirror training samples whose classes a mirror swaps.
pub(super) fn check_mirroring(experiment: &Experiment, source: &DataSource) -> Result<()> {
    let pairs = source.dataset.mirrored_classes();
    let Some(pair) = pairs.first() else { return Ok(()) };
    let mut inputs = experiment.modalities.iter();
    let mirroring = inputs.find_map(|(name, section)| Some((name, section.input.mirrors()?)));
    let Some((modality, option)) = mirroring else { return Ok(()) };
    let [one, other] = pair.map(|class| source.classes().get(class).map_or("", String::as_str));
    Err(Error::refused(
        format!(
            "the input of `{modality}` mirrors training samples, which would keep their labels, \
             and dataset `{}` has {} classes that a mirror turns into others, such as `{one}` and \
             `{other}`",
            experiment.dataset.typetag_name(),
            2 * pairs.len()
        ),
        format!("set modalities.{modality}.input.{option} = 0"),
    ))
}

/// Lists the phases of a strategy, holding their names against the run's modalities.
pub(super) fn phases(strategy: &mut dyn Strategy, modalities: &[String]) -> Result<Vec<Phase>> {
    const LIMIT: usize = 100_000;
    let mut phases = Vec::new();
    while phases.len() < LIMIT {
        let report = Report { phase: phases.len(), modalities: modalities.to_vec(), best: None };
        match guarded("strategy", || strategy.next(&report))? {
            Some(phase) => phases.push(checked(phase, modalities)?),
            None => break,
        }
    }
    if phases.is_empty() {
        return Err(Error::refused("the strategy has no phase", "give it at least one epoch"));
    }
    Ok(phases)
}

/// Refuses a phase that selects by an output which evaluation does not report.
pub(super) fn check_scores(phases: &[Phase], outputs: &[String]) -> Result<()> {
    let missing = |phase: &&Phase| !outputs.iter().any(|name| name == output_of(&phase.score));
    match phases.iter().find(missing) {
        None => Ok(()),
        Some(phase) => Err(Error::refused(
            format!(
                "phase `{}` selects by `{}`, and evaluation reports only {outputs:?}",
                phase.label,
                output_of(&phase.score)
            ),
            "set head.unimodal = true, or choose a strategy that selects by the fused output",
        )),
    }
}

/// Names of all scores that a run will have for controllers to watch.
pub(super) fn known_scores(
    experiment: &Experiment,
    outputs: &[String],
    terms: &BTreeSet<String>,
    modalities: &[String],
) -> BTreeSet<String> {
    let mut scores = BTreeSet::from(["train.loss".to_owned()]);
    scores.extend(terms.iter().map(|term| format!("train.{term}")));
    scores.extend(modalities.iter().map(|name| format!("train.{name}.accuracy")));
    // Whether a validation split is evaluated is a need of its own, with a remedy of its own.
    let evaluated = experiment.selection.split.split();
    for split in BTreeSet::from([Split::Valid, evaluated.unwrap_or(Split::Valid)]) {
        for output in outputs {
            let metrics = OutputMetrics::default().named();
            scores.extend(metrics.map(|(metric, _)| format!("{}.{output}.{metric}", split.name())));
        }
    }
    scores
}

/// Refuses a phase that names what the run does not have.
pub(super) fn checked(phase: Phase, modalities: &[String]) -> Result<Phase> {
    let mut named: BTreeSet<&String> = phase.source.iter().collect();
    named.extend(phase.sub_steps.iter().flat_map(|sub| &sub.modalities));
    if let Score::Modality(name) = &phase.score {
        named.insert(name);
    }
    if let Some(unknown) = named.into_iter().find(|name| !modalities.contains(name)) {
        return Err(Error::refused(
            format!("the strategy names modality `{unknown}`, which the run does not have"),
            format!("name some of {modalities:?}"),
        ));
    }
    if phase.trained().is_empty() || phase.epochs == 0 {
        return Err(Error::refused(
            format!("phase `{}` trains nothing", phase.label),
            "give it modalities and at least one epoch",
        ));
    }
    Ok(phase)
}
