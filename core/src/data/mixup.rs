//! Mixing of samples within a batch.

use std::collections::BTreeMap;

use rand_distr::{Beta, Distribution};
use tch::Tensor;

use crate::batch::{Batch, MixedTargets, Named, Targets};
use crate::config::Mixup;
use crate::error::{Error, Result, ensure_range};
use crate::family::Phase;
use crate::random::{Stream, permutation};

/// Holds the options of mixup against the modalities of a run and what its phases train together.
///
/// # Errors
/// When `alpha` is out of range, a name belongs to no modality of the run, or a sub-step would mix
/// the inputs of some of its modalities and the labels of all.
pub fn check_mixup(options: &Mixup, modalities: &[String], phases: &[Phase]) -> Result<()> {
    distribution(options)?;
    if let Some(unknown) = options.modalities.iter().find(|name| !modalities.contains(name)) {
        return Err(Error::refused(
            format!("data.mixup.modalities names `{unknown}`, which the run does not have"),
            format!("name some of {modalities:?}"),
        ));
    }
    for sub_step in phases.iter().flat_map(|phase| &phase.sub_steps) {
        mixes(options, &sub_step.modalities)?;
    }
    Ok(())
}

/// Mixes the inputs of the modalities that a sub-step trains, and the targets.
///
/// One share `l ~ Beta(alpha, alpha)` and one permutation for the whole batch (Zhang et al. 2018).
/// `None` when `options` concern none of `trained`.
///
/// # Errors
/// When `options` concern only some of `trained`, `alpha` is out of range, or a mixed tensor holds
/// integers.
pub fn mix(
    batch: &Batch,
    options: &Mixup,
    trained: &[String],
    stream: &mut Stream,
) -> Result<Option<Batch>> {
    if !mixes(options, trained)? {
        return Ok(None);
    }
    let lambda: f64 = distribution(options)?.sample(stream);
    let order: Vec<i64> =
        permutation(batch.len(), stream).into_iter().map(|index| index as i64).collect();
    let device = batch.targets.labels.device();
    let order = Tensor::f_from_slice(&order)?.f_to_device(device)?;
    let mut inputs = BTreeMap::new();
    for (name, tensors) in &batch.inputs {
        if !trained.contains(name) {
            inputs.insert(name.clone(), tensors.clone());
            continue;
        }
        let mut mixed = BTreeMap::new();
        for (key, tensor) in &tensors.0 {
            if tensor.kind() == tch::Kind::Int64 {
                return Err(Error::refused(
                    format!("modality `{name}` holds integers, which cannot be mixed"),
                    "list the modalities to mix in data.mixup.modalities",
                ));
            }
            let other = tensor.f_index_select(0, &order)?;
            mixed.insert(key.clone(), other.f_lerp(tensor, lambda)?);
        }
        inputs.insert(name.clone(), Named(mixed));
    }
    let labels = &batch.targets.labels;
    let targets = Targets {
        labels: labels.shallow_clone(),
        mixed: Some(MixedTargets { labels: labels.f_index_select(0, &order)?, lambda }),
    };
    Ok(Some(Batch { inputs, targets, indices: batch.indices.clone() }))
}

fn distribution(options: &Mixup) -> Result<Beta<f64>> {
    let alpha = options.alpha;
    // An infinite parameter would draw a share that is no number.
    ensure_range("data.mixup.alpha", "(0, inf)", alpha, alpha > 0.0 && alpha.is_finite())?;
    Beta::new(alpha, alpha).map_err(|error| Error::Bug(format!("mixup.alpha {alpha}: {error}")))
}

/// Whether a sub-step that trains these modalities mixes.
///
/// Labels belong to the sample, not to a modality: with only some inputs mixed, the others would
/// be trained towards classes they do not show.
fn mixes(options: &Mixup, trained: &[String]) -> Result<bool> {
    let covered =
        |name: &&String| options.modalities.is_empty() || options.modalities.contains(name);
    let (mixed, plain): (Vec<&String>, Vec<&String>) = trained.iter().partition(covered);
    if mixed.is_empty() || plain.is_empty() {
        return Ok(!mixed.is_empty());
    }
    Err(Error::refused(
        format!(
            "data.mixup.modalities mixes {mixed:?} and leaves {plain:?} out, which are trained on \
             the same batch: its labels are mixed for all of them"
        ),
        format!(
            "name all of {trained:?} in data.mixup.modalities or none, or choose a strategy that \
             trains one modality at a time"
        ),
    ))
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "what is not mixed keeps its bits")]
mod tests {
    use super::*;
    use crate::family::{Load, Score, SubStep};
    use crate::random::{Purpose, Seed};

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|&name| name.to_owned()).collect()
    }

    fn options(modalities: &[&str]) -> Mixup {
        Mixup { alpha: 1.0, modalities: names(modalities) }
    }

    /// Three samples of two modalities; the second holds ten times the numbers of the first.
    fn batch() -> Batch {
        let input = |scale: f64| Named::value_of(Tensor::from_slice(&[0.0, scale, 4.0 * scale]));
        Batch {
            inputs: [("audio".to_owned(), input(1.0)), ("image".to_owned(), input(10.0))].into(),
            targets: Targets { labels: Tensor::from_slice(&[0i64, 1, 2]), mixed: None },
            indices: vec![0, 1, 2],
        }
    }

    fn mixed(options: &Mixup, trained: &[&str]) -> Result<Option<Batch>> {
        let mut stream = Seed(3).stream(Purpose::Mixup, "", &[0, 0]);
        mix(&batch(), options, &names(trained), &mut stream)
    }

    fn input(batch: &Batch, name: &str) -> Vec<f64> {
        Vec::try_from(batch.inputs[name].value().unwrap()).unwrap()
    }

    #[test]
    fn inputs_and_labels_are_mixed_with_one_share_and_one_order() {
        let batch = mixed(&options(&[]), &["audio", "image"]).unwrap().unwrap();
        let targets = batch.targets.mixed.as_ref().unwrap();
        let partners: Vec<i64> = Vec::try_from(&targets.labels).unwrap();
        assert!((0.0..=1.0).contains(&targets.lambda));
        let plain = [0.0, 1.0, 4.0];
        for (sample, partner) in partners.iter().enumerate() {
            let expected =
                targets.lambda * plain[sample] + (1.0 - targets.lambda) * plain[*partner as usize];
            assert!((input(&batch, "audio")[sample] - expected).abs() < 1e-12);
            assert!((input(&batch, "image")[sample] - 10.0 * expected).abs() < 1e-11);
        }
    }

    #[test]
    fn a_sub_step_of_other_modalities_is_left_alone() {
        assert!(mixed(&options(&["image"]), &["audio"]).unwrap().is_none());
        let batch = mixed(&options(&["image"]), &["image"]).unwrap().unwrap();
        assert_eq!(input(&batch, "audio"), [0.0, 1.0, 4.0]);
        assert!(batch.targets.mixed.is_some());
    }

    #[test]
    fn mixing_only_some_of_what_is_trained_together_is_refused() {
        let error = mixed(&options(&["image"]), &["audio", "image"]).unwrap_err().to_string();
        assert!(error.contains("mixes [\"image\"] and leaves [\"audio\"] out"), "{error}");
        assert!(error.contains("what to do: name all of [\"audio\", \"image\"]"), "{error}");
    }

    #[test]
    fn the_check_looks_at_every_phase_and_knows_the_names() {
        let phase = |sub_steps: &[&[&str]]| Phase {
            label: "made up".to_owned(),
            sub_steps: sub_steps.iter().map(|all| SubStep { modalities: names(all) }).collect(),
            epochs: 1,
            load: Load::Last,
            reset_optimizer: false,
            source: Vec::new(),
            objectives: Vec::new(),
            score: Score::Fused,
        };
        let known = names(&["audio", "image"]);
        let apart = phase(&[&["audio"], &["image"]]);
        let together = phase(&[&["audio", "image"]]);
        let check =
            |options: &Mixup, phases: &[Phase]| check_mixup(options, &known, phases).is_ok();
        assert!(check(&options(&["image"]), std::slice::from_ref(&apart)));
        assert!(!check(&options(&["image"]), &[apart, together.clone()]));
        assert!(check(&options(&[]), std::slice::from_ref(&together)));
        assert!(check(&options(&["image", "audio"]), std::slice::from_ref(&together)));
        let error = check_mixup(&options(&["imgae"]), &known, &[]).unwrap_err().to_string();
        assert!(error.contains("names `imgae`, which the run does not have"), "{error}");
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = check_mixup(&Mixup { alpha, ..options(&[]) }, &known, &[]).unwrap_err();
            assert!(error.to_string().starts_with("`data.mixup.alpha` is "), "{error}");
        }
    }
}
