//! What the tests of several objectives share.

use mie_core::prelude::*;

/// A model that gives the same outputs whatever is asked of it.
pub(super) struct Fixed {
    /// Modalities of the plain pass.
    pub(super) modalities: Vec<String>,
    /// Outputs of every pass.
    pub(super) outputs: Outputs,
    /// Targets of the batch.
    pub(super) targets: Targets,
}

impl Forward for Fixed {
    fn full(&self) -> Spec {
        let evaluation = Spec::evaluation(self.modalities.iter().cloned());
        Spec { statistics: None, gradients: true, ..evaluation }
    }

    fn run(&mut self, _spec: &Spec) -> Result<Outputs> {
        Ok(self.outputs.share())
    }

    fn targets(&self) -> Targets {
        self.targets.share(false)
    }
}

/// Targets of one sample of class `label`.
pub(super) fn one_label(label: i64) -> Targets {
    Targets { labels: Tensor::from_slice(&[label]), mixed: None }
}

/// Logits of one sample, in f64.
pub(super) fn one_row(logits: &[f64]) -> Tensor {
    Tensor::from_slice(logits).view([1, logits.len() as i64])
}
