//! What fusions of unimodal logits share.

use mie_core::prelude::*;

/// Stacks the logits of the modalities that ran: `[modalities, batch, classes]`, alphabetically.
pub(super) fn stack(logits: &ByModality<Tensor>) -> Result<Tensor> {
    if logits.is_empty() {
        return Err(Error::shape("unimodal logits to join", "at least one modality", "none"));
    }
    let logits: Vec<&Tensor> = logits.values().collect();
    Ok(Tensor::f_stack(&logits, 0)?)
}
