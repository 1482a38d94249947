//! What travels through a model: named tensors, batches, targets and outputs.

use std::collections::{BTreeMap, BTreeSet};

use tch::{Kind, Reduction, Tensor};

use crate::error::{Error, Result};

/// Something for each modality, in a fixed order.
pub type ByModality<T> = BTreeMap<String, T>;

/// Copies the handles of a map of tensors, not their contents.
pub fn share(tensors: &ByModality<Tensor>) -> ByModality<Tensor> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
}

/// The tensors of one modality on their way through its encoder.
///
/// Most modalities have one tensor, `value`; text has `ids` and `mask`. The last stage of an
/// encoder leaves its feature `[batch, width]` in `value`.
#[derive(Debug)]
pub struct Named(pub BTreeMap<String, Tensor>);

impl Named {
    /// Name of the main tensor.
    pub const VALUE: &'static str = "value";

    /// Wraps one tensor as `value`.
    pub fn value_of(tensor: Tensor) -> Self {
        Self(BTreeMap::from([(Self::VALUE.to_owned(), tensor)]))
    }

    /// Looks the main tensor up.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is none.
    pub fn value(&self) -> Result<&Tensor> {
        self.tensor(Self::VALUE)
    }

    /// Looks a tensor up by name.
    ///
    /// # Errors
    /// [`Error::Shape`] that lists the names there are.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).ok_or_else(|| {
            Error::shape("tensors of a modality", name, self.0.keys().collect::<Vec<_>>())
        })
    }
}

impl Clone for Named {
    /// Copies the handles, not the contents.
    fn clone(&self) -> Self {
        Self(share(&self.0))
    }
}

/// What the outputs of a batch are held against.
#[derive(Debug)]
pub struct Targets {
    /// Class of each sample. `[batch]` i64
    pub labels: Tensor,
    /// Set when the inputs were mixed with those of other samples.
    pub mixed: Option<MixedTargets>,
}

/// The second half of mixed targets (Zhang et al. 2018).
#[derive(Debug)]
pub struct MixedTargets {
    /// Class of the sample that each was mixed with. `[batch]` i64
    pub labels: Tensor,
    /// Share of the first sample, in `[0, 1]`.
    pub lambda: f64,
}

impl Targets {
    /// Computes the mean cross-entropy of `logits` `[batch, classes]`, as a 0-d tensor.
    ///
    /// Mixed targets give `lambda CE(z, y_a) + (1 - lambda) CE(z, y_b)`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn cross_entropy(&self, logits: &Tensor) -> Result<Tensor> {
        let against = |labels: &Tensor| {
            logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)
        };
        let first = against(&self.labels)?;
        match &self.mixed {
            None => Ok(first),
            Some(mixed) => {
                let second = against(&mixed.labels)?;
                Ok(first
                    .f_mul_scalar(mixed.lambda)?
                    .f_add(&second.f_mul_scalar(1.0 - mixed.lambda)?)?)
            }
        }
    }

    /// Computes the cross-entropy of each sample's `logits` `[batch, classes]`, as `[batch]`.
    ///
    /// Mixed targets are mixed as in [`Targets::cross_entropy`].
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn cross_entropy_by_sample(&self, logits: &Tensor) -> Result<Tensor> {
        let against = |labels: &Tensor| {
            logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::None, -100, 0.0)
        };
        let first = against(&self.labels)?;
        let Some(mixed) = &self.mixed else { return Ok(first) };
        let second = against(&mixed.labels)?;
        Ok(first.f_mul_scalar(mixed.lambda)?.f_add(&second.f_mul_scalar(1.0 - mixed.lambda)?)?)
    }

    /// Computes the cross-entropy of `logits` as the mean over the samples kept by `rows`
    /// (`[batch]`, 1 or 0); over all where there are no rows, and 0 where none is kept.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn cross_entropy_of_rows(&self, logits: &Tensor, rows: Option<&Tensor>) -> Result<Tensor> {
        let Some(rows) = rows else { return self.cross_entropy(logits) };
        let kept = rows.f_to_kind(logits.kind())?;
        let sum = self.cross_entropy_by_sample(logits)?.f_dot(&kept)?;
        Ok(sum.f_div(&kept.f_sum(None::<Kind>)?.f_clamp_min(1.0)?)?)
    }

    /// Copies the handles, without the mixing when `original` is asked for.
    pub fn share(&self, original: bool) -> Self {
        let mixed = match &self.mixed {
            Some(mixed) if !original => {
                Some(MixedTargets { labels: mixed.labels.shallow_clone(), lambda: mixed.lambda })
            }
            _ => None,
        };
        Self { labels: self.labels.shallow_clone(), mixed }
    }
}

/// A batch on its device.
#[derive(Debug)]
pub struct Batch {
    /// Input tensors, `[batch, …]` each.
    pub inputs: ByModality<Named>,
    /// What the outputs are held against.
    pub targets: Targets,
    /// Position of each sample in its split.
    pub indices: Vec<usize>,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// What a model computed for a batch.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Feature of each modality. `[batch, width]`
    pub features: ByModality<Tensor>,
    /// Logits of each modality's own or shared head. `[batch, classes]`
    pub logits: ByModality<Tensor>,
    /// Logits on which a joint loss is taken, if the fusion has any. `[batch, classes]`
    pub joint: Option<Tensor>,
    /// Samples for which the joint logits count, 1 or 0 each, where the fusion chooses some; all
    /// count otherwise. `[batch]` f32
    pub rows: Option<Tensor>,
}

impl Outputs {
    /// Copies the handles, not the contents.
    pub fn share(&self) -> Self {
        Self {
            features: share(&self.features),
            logits: share(&self.logits),
            joint: self.joint.as_ref().map(Tensor::shallow_clone),
            rows: self.rows.as_ref().map(Tensor::shallow_clone),
        }
    }

    /// Copies the handles, cut off from the graph of gradients.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn detached(&self) -> Result<Self> {
        let mut outputs = self.share();
        let tensors = outputs.features.values_mut().chain(outputs.logits.values_mut());
        for tensor in tensors.chain(&mut outputs.joint).chain(&mut outputs.rows) {
            *tensor = tensor.f_detach()?;
        }
        Ok(outputs)
    }

    /// Looks the joint logits up.
    ///
    /// # Errors
    /// [`Error::Refused`] when the fusion has none, or not for the modalities that ran.
    pub fn joint_logits(&self) -> Result<&Tensor> {
        self.joint.as_ref().ok_or_else(|| {
            Error::refused(
                format!(
                    "the fusion gives no joint logits for a joint loss when {:?} run: it only \
                     decides, or needs other modalities too",
                    self.features.keys().collect::<Vec<_>>()
                ),
                "choose a fusion with joint logits (`concat`, `sum`, `average`) and a strategy \
                 that trains its modalities together, or the objective `unimodal_ce`",
            )
        })
    }

    /// Looks the logits of a modality up.
    ///
    /// # Errors
    /// [`Error::Shape`] when the modality has no head or did not run.
    pub fn logits_of(&self, modality: &str) -> Result<&Tensor> {
        self.logits.get(modality).ok_or_else(|| {
            Error::shape(
                format!("unimodal logits of `{modality}`"),
                "a head of its own or a shared one",
                self.logits.keys().collect::<Vec<_>>(),
            )
        })
    }
}

/// Which forward pass is wanted; equal requests within a pass share one computation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spec {
    /// Modalities whose encoder and head run.
    pub run: BTreeSet<String>,
    /// Modalities shown to the model; the others that run get their filler.
    pub present: BTreeSet<String>,
    /// What normalisation layers do; `None` lets the engine choose for the pass.
    pub statistics: Option<crate::layers::Statistics>,
    /// Whether a graph for gradients is kept.
    pub gradients: bool,
}

impl Spec {
    /// All of `modalities`, present, in evaluation mode, without gradients.
    pub fn evaluation(modalities: impl IntoIterator<Item = String>) -> Self {
        let run: BTreeSet<String> = modalities.into_iter().collect();
        Self {
            present: run.clone(),
            run,
            statistics: Some(crate::layers::Statistics::Running),
            gradients: false,
        }
    }
}

/// Softmax over the classes of `[…, classes]`, in the tensor's own kind.
///
/// # Errors
/// When libtorch refuses.
pub fn probabilities(logits: &Tensor) -> Result<Tensor> {
    Ok(logits.f_softmax(-1, None::<Kind>)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_cross_entropy_matches_the_worked_example() {
        // z = (1, 0, -1), y_a = 0, y_b = 2, lambda = 0.3.
        let logits = Tensor::from_slice(&[1.0f64, 0.0, -1.0]).view([1, 3]);
        let mut targets = Targets {
            labels: Tensor::from_slice(&[0i64]),
            mixed: Some(MixedTargets { labels: Tensor::from_slice(&[2i64]), lambda: 0.3 }),
        };
        let value = |t: &Targets| t.cross_entropy(&logits).unwrap().double_value(&[]);
        assert!((value(&targets) - 1.807_605_964_4).abs() < 1e-9);
        assert!((value(&targets.share(true)) - 0.407_605_964_4).abs() < 1e-9);
        targets.mixed = None;
        assert!((value(&targets) - 0.407_605_964_4).abs() < 1e-9);
    }
}
