//! Covariances of layer inputs under the weights of a finished run.

use std::path::Path;

use mie_record::RunDir;
use tch::Device;

use super::selected;
use crate::batch::Spec;
use crate::config::Resolved;
use crate::data::{Batches, Request};
use crate::error::{Error, Result};
use crate::family::{Mode, Split};
use crate::layers::{Layer, Statistics, matches_glob};
use crate::model::{Model, Running};
use crate::parameters::GroupId;
use crate::projection::{Covariance, CovarianceKind, Covariances, Precision};

/// Which covariances are wanted.
#[derive(Debug, Clone, Default)]
pub struct CovarianceRequest {
    /// Patterns of layer names, whole (`head.audio.fc1`) or within their group (`fc1`), in which
    /// `*` stands for anything; without any, the layers of the heads.
    pub layers: Vec<String>,
    /// What is summed over batches.
    pub kind: CovarianceKind,
    /// Number format of the sums.
    pub precision: Precision,
    /// Batches of each modality; absent means all.
    pub batches: Option<usize>,
}

/// Sums the covariances of layer inputs over training data, by the selected weights of a run.
///
/// Each modality runs alone, in evaluation mode, over shuffled batches of the training size, plain
/// and without an incomplete last one: as modifiers learn, at the weights that the run ended with.
/// Layers come modality by modality, in alphabetical order of their names; those of a head that
/// modalities share are named once for each: `shared_head.fc1 (audio)`.
///
/// # Errors
/// When the run has no selected weights yet, its data cannot be read or do not fill a batch, or a
/// pattern matches no layer.
pub fn covariances(
    run: &Path,
    data_dir: &Path,
    device: Device,
    request: &CovarianceRequest,
) -> Result<Vec<(String, Covariance)>> {
    let run = RunDir::open(run)?;
    let experiment = Resolved::read(&run.config_path(), &[])?.experiment;
    let (model, source, settings) = selected(&run, Split::Train, data_dir, device, &[])?;
    request.check(&model)?;
    let mut all = Vec::new();
    for modality in model.modalities() {
        let wanted = model.layers(&modality).into_iter().filter(|layer| request.wants(layer));
        let start = |layer: Layer| {
            let width = layer.input_width();
            (layer.name, Covariance::new(width, request.kind, request.precision, device))
        };
        let mut collector = Covariances(wanted.map(start).collect());
        if collector.0.is_empty() {
            continue;
        }
        let mut batches = Batches::start(
            &source,
            Request {
                split: Split::Train,
                mode: Mode::Evaluation,
                // In the order of the lists a batch would often hold a single class.
                shuffled: true,
                epoch: u64::MAX,
                batch_size: experiment.data.batch_size,
                drop_last: true,
                modalities: vec![modality.clone()],
                start: 0,
                workers: settings.workers,
                prefetch: settings.prefetch,
                access: None,
            },
        )?;
        let spec = Spec::evaluation([modality.clone()]);
        let mut seen = 0;
        while request.batches.is_none_or(|most| seen < most)
            && let Some(host) = batches.next_batch()?
        {
            let batch = host.to_device(device)?;
            batches.recycle(host);
            let running = Running::of(Statistics::Running).probed(Some(&mut collector));
            model.forward(&batch, &spec, running)?;
            seen += 1;
        }
        for (name, covariance) in collector.0 {
            if covariance.batches() == 0 {
                return Err(Error::refused(
                    format!(
                        "the training data do not fill a batch of {} for layer `{name}`",
                        experiment.data.batch_size
                    ),
                    "take a run with a smaller data.batch_size",
                ));
            }
            let own = model.shared_head().iter().all(|layer| layer.name != name);
            let name = if own { name } else { format!("{name} ({modality})") };
            all.push((name, covariance));
        }
    }
    Ok(all)
}

impl CovarianceRequest {
    fn wants(&self, layer: &Layer) -> bool {
        if self.layers.is_empty() {
            return !matches!(layer.weight.group, GroupId::Encoder(_));
        }
        self.layers.iter().any(|pattern| names(pattern, layer))
    }

    /// Refuses patterns that match nothing.
    fn check(&self, model: &Model) -> Result<()> {
        let layers: Vec<Layer> =
            model.modalities().iter().flat_map(|modality| model.layers(modality)).collect();
        let listed = || {
            let names: Vec<String> = layers.iter().map(|l| format!("`{}`", l.name)).collect();
            format!("name some of {}", names.join(", "))
        };
        let idle =
            self.layers.iter().find(|pattern| !layers.iter().any(|layer| names(pattern, layer)));
        if let Some(pattern) = idle {
            return Err(Error::refused(format!("`{pattern}` matches no layer"), listed()));
        }
        if !layers.iter().any(|layer| self.wants(layer)) {
            return Err(Error::refused("the modalities of the run have no heads", listed()));
        }
        Ok(())
    }
}

fn names(pattern: &str, layer: &Layer) -> bool {
    matches_glob(pattern, &layer.name) || matches_glob(pattern, layer.local_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::LayerKind;
    use crate::parameters::ParamId;

    fn layer(group: GroupId, local: &str) -> Layer {
        let name = format!("{group}.{local}");
        let weight = ParamId { group, path: format!("{name}.weight").into() };
        Layer { name, weight, shape: vec![2, 3], kind: LayerKind::Linear }
    }

    #[test]
    fn without_patterns_heads_are_wanted_and_with_them_what_they_name() {
        let head = layer(GroupId::Head("audio".to_owned()), "fc1");
        let encoder = layer(GroupId::Encoder("audio".to_owned()), "layer1.conv");
        let wants = |patterns: &[&str], layer: &Layer| {
            let layers = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            CovarianceRequest { layers, ..CovarianceRequest::default() }.wants(layer)
        };
        assert!(wants(&[], &head) && !wants(&[], &encoder));
        assert!(wants(&["fc*"], &head) && !wants(&["fc*"], &encoder));
        assert!(wants(&["fc*", "encoder.audio.*"], &encoder));
        assert!(!wants(&["head.video.*"], &head));
    }
}
