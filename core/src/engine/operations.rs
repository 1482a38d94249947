//! What plugins may do to a run between steps.

use std::collections::BTreeSet;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::trainer::Cursor;
use crate::batch::Outputs;
use crate::config::Experiment;
use crate::data::{Batches, DataSource, Request};
use crate::error::{Error, Result};
use crate::family::{PassRequest, RunOps};
use crate::layers::{Layer, Probe, Statistics};
use crate::model::Model;
use crate::parameters::{GroupId, Parameters};
use crate::random::Seed;

/// A run between two steps.
pub(super) struct Operations<'a> {
    experiment: &'a Experiment,
    source: &'a Arc<DataSource>,
    model: &'a Model,
    parameters: &'a Parameters,
    device: Device,
    /// Number of passes asked for so far in the run: names the augmentation of the next one.
    passes: &'a mut u64,
    forward_passes: &'a mut u64,
    warnings: &'a mut Vec<String>,
}

impl<'a> Operations<'a> {
    /// Lends out a run; what passes cost is booked in `cursor`.
    pub(super) fn new(
        experiment: &'a Experiment,
        source: &'a Arc<DataSource>,
        model: &'a Model,
        parameters: &'a Parameters,
        device: Device,
        cursor: &'a mut Cursor,
        warnings: &'a mut Vec<String>,
    ) -> Self {
        let passes = &mut cursor.plugin_passes;
        let forward_passes = &mut cursor.cost.forward_passes;
        Self { experiment, source, model, parameters, device, passes, forward_passes, warnings }
    }
}

impl RunOps for Operations<'_> {
    fn pass(
        &mut self,
        request: &PassRequest,
        mut probe: Option<&mut dyn Probe>,
        each: &mut dyn FnMut(&Outputs, &Tensor) -> Result<()>,
    ) -> Result<()> {
        *self.passes += 1;
        let modalities: Vec<String> = request.spec.run.iter().cloned().collect();
        if let Some(unknown) = modalities.iter().find(|name| !self.modalities().contains(name)) {
            return Err(Error::refused(
                format!("a pass asks for modality `{unknown}`, which the run does not have"),
                format!("name some of {:?}", self.modalities()),
            ));
        }
        let mut batches = Batches::start(
            self.source,
            Request {
                split: request.split,
                mode: request.mode,
                shuffled: request.shuffled,
                // Epochs of training count from 0 up; these passes must not share their draws.
                epoch: u64::MAX - *self.passes,
                batch_size: request.batch_size.unwrap_or(self.experiment.data.batch_size),
                drop_last: request.drop_last,
                modalities,
                start: 0,
                workers: self.experiment.run.workers,
                prefetch: self.experiment.run.prefetch_batches,
                access: None,
            },
        )?;
        let statistics = request.spec.statistics.unwrap_or(Statistics::Running);
        while let Some(host) = batches.next_batch()? {
            let batch = host.to_device(self.device)?;
            batches.recycle(host);
            let probe: Option<&mut dyn Probe> = match &mut probe {
                Some(probe) => Some(&mut **probe),
                None => None,
            };
            let outputs = self.model.forward(&batch, &request.spec, statistics, None, probe)?;
            *self.forward_passes += 1;
            each(&outputs, &batch.targets.labels)?;
        }
        Ok(())
    }

    fn layers(&self, modality: &str) -> Vec<Layer> {
        self.model.layers(modality)
    }

    fn parameter_count(&self, modality: &str) -> usize {
        let mut groups: BTreeSet<GroupId> =
            [GroupId::Encoder(modality.to_owned()), GroupId::Head(modality.to_owned())].into();
        if self.parameters.group(&GroupId::Head(modality.to_owned())).is_none() {
            groups.insert(GroupId::SharedHead);
        }
        groups.iter().map(|group| self.parameters.size(group)).sum()
    }

    fn modalities(&self) -> Vec<String> {
        self.model.modalities()
    }

    fn device(&self) -> Device {
        self.device
    }

    fn seed(&self) -> Seed {
        Seed(self.experiment.seed)
    }

    fn warn(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
    }
}
