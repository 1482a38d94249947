//! Mixing of samples within a batch.

use std::collections::BTreeMap;

use rand_distr::{Beta, Distribution};
use tch::Tensor;

use crate::batch::{Batch, MixedTargets, Named, Targets};
use crate::config::Mixup;
use crate::error::{Error, Result};
use crate::random::{Stream, permutation};

/// Mixes the modalities named in `options` (all when it names none) and the targets.
///
/// One share `l ~ Beta(alpha, alpha)` and one permutation for the whole batch (Zhang et al. 2018).
///
/// # Errors
/// When `alpha` is out of range, or a mixed tensor holds integers.
pub fn mix(batch: &Batch, options: &Mixup, stream: &mut Stream) -> Result<Batch> {
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
        if !options.modalities.is_empty() && !options.modalities.contains(name) {
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
    Ok(Batch { inputs, targets, indices: batch.indices.clone() })
}
