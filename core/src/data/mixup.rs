//! Mixing of samples within a batch.

use std::collections::BTreeMap;

use rand_distr::{Beta, Distribution};
use tch::Tensor;

use crate::batch::{Batch, MixedTargets, Named, Targets};
use crate::config::Mixup;
use crate::error::{Error, Result};
use crate::family::Phase;
use crate::random::{Stream, permutation};

/// Refuses options that mix some modalities of a sub-step and leave others as they are.
///
/// A step has one set of labels: mixed ones would be wrong for inputs that are whole.
///
/// # Errors
/// [`Error::Refused`] with the modalities on either side.
pub fn check_mixup(options: &Mixup, phases: &[Phase]) -> Result<()> {
    for sub_step in phases.iter().flat_map(|phase| &phase.sub_steps) {
        let (mixed, whole): (Vec<&String>, Vec<&String>) =
            sub_step.modalities.iter().partition(|name| mixes(options, name));
        if !mixed.is_empty() && !whole.is_empty() {
            return Err(Error::refused(
                format!(
                    "data.mixup mixes {mixed:?} and not {whole:?}, which are trained together: \
                     mixed labels would be wrong for the inputs that are not mixed"
                ),
                "list all of them in data.mixup.modalities, or choose a strategy that trains them \
                 apart, such as `staged`",
            ));
        }
    }
    Ok(())
}

fn mixes(options: &Mixup, modality: &String) -> bool {
    options.modalities.is_empty() || options.modalities.contains(modality)
}

/// Mixes inputs and targets of a sub-step that trains `trained`; `None` where `options` names
/// none of them.
///
/// One share `l ~ Beta(alpha, alpha)` and one permutation for the whole batch (Zhang et al. 2018).
///
/// # Errors
/// When `alpha` is out of range, or a mixed tensor holds integers.
pub fn mix(
    batch: &Batch,
    options: &Mixup,
    trained: &[String],
    stream: &mut Stream,
) -> Result<Option<Batch>> {
    if !trained.iter().any(|name| mixes(options, name)) {
        return Ok(None);
    }
    let alpha = options.alpha;
    let share = Beta::new(alpha, alpha).map_err(|_| Error::Range {
        field: "mixup.alpha".to_owned(),
        found: alpha.to_string(),
        expected: "(0, inf)".to_owned(),
    })?;
    let lambda: f64 = share.sample(stream);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Load, Score, SubStep};
    use crate::random::{Purpose, Seed};

    fn options(modalities: &[&str]) -> Mixup {
        let modalities = modalities.iter().map(|&name| name.to_owned()).collect();
        Mixup { alpha: 1.0, modalities }
    }

    fn names(modalities: &[&str]) -> Vec<String> {
        modalities.iter().map(|&name| name.to_owned()).collect()
    }

    fn batch() -> Batch {
        let values = |scale: f32| {
            let tensor = Tensor::from_slice(&[1.0f32, 2.0, 4.0]) * f64::from(scale);
            Named([("value".to_owned(), tensor.view([3, 1]))].into())
        };
        let inputs = [("audio".to_owned(), values(1.0)), ("image".to_owned(), values(10.0))];
        Batch {
            inputs: inputs.into(),
            targets: Targets { labels: Tensor::from_slice(&[0i64, 1, 2]), mixed: None },
            indices: vec![0, 1, 2],
        }
    }

    fn mixed(options: &Mixup, trained: &[&str]) -> Option<Batch> {
        let mut stream = Seed(4).stream(Purpose::Mixup, "", &[]);
        mix(&batch(), options, &names(trained), &mut stream).unwrap()
    }

    #[test]
    fn inputs_and_labels_are_mixed_by_one_share_and_one_permutation() {
        let found = mixed(&options(&[]), &["audio", "image"]).unwrap();
        let MixedTargets { labels, lambda } = found.targets.mixed.unwrap();
        let plain = batch();
        for (name, input) in &plain.inputs {
            let x = input.value().unwrap();
            let expected = x * lambda + x.index_select(0, &labels) * (1.0 - lambda);
            let off = (found.inputs[name].value().unwrap() - expected).abs().max();
            assert!(off.double_value(&[]) < 1e-5, "{name}");
        }
        assert_ne!(found.inputs["audio"].value().unwrap(), plain.inputs["audio"].value().unwrap());
        assert_eq!(found.targets.labels, plain.targets.labels);
    }

    #[test]
    fn a_sub_step_that_trains_none_of_the_modalities_named_stays_whole() {
        assert!(mixed(&options(&["image"]), &["audio"]).is_none());
        let found = mixed(&options(&["image"]), &["image"]).unwrap();
        // What does not run is not touched.
        assert_eq!(
            found.inputs["audio"].value().unwrap(),
            batch().inputs["audio"].value().unwrap()
        );
    }

    #[test]
    fn mixing_a_part_of_what_is_trained_together_is_refused() {
        let phase = |sub_steps: &[&[&str]]| Phase {
            label: "phase".to_owned(),
            sub_steps: sub_steps.iter().map(|all| SubStep { modalities: names(all) }).collect(),
            epochs: 1,
            load: Load::Last,
            reset_optimizer: true,
            source: Vec::new(),
            score: Score::Fused,
        };
        let together = [phase(&[&["audio", "image"]])];
        let apart = [phase(&[&["audio"], &["image"]])];
        check_mixup(&options(&[]), &together).unwrap();
        check_mixup(&options(&["image", "audio"]), &together).unwrap();
        check_mixup(&options(&["image"]), &apart).unwrap();
        let error = check_mixup(&options(&["image"]), &together).unwrap_err().to_string();
        assert!(error.contains(r#"mixes ["image"] and not ["audio"]"#), "{error}");
    }
}
