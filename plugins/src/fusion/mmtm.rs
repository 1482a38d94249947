//! Lets modalities rescale each other's channels between the stages of their encoders.

use mie_core::prelude::*;

use super::average::{AverageConfig, Averaged};

/// Multimodal transfer modules between stages, and an averaged decision.
///
/// After each of `stages`, with `F_m` (`[batch, c_m, …]`) what modality `m` has there:
///
/// ```text
/// s_m = mean of F_m over space and time                              squeeze
/// u   = max(0, W [s_1; …; s_M] + b)                                  rows of W: ceil of ratio
/// g_m = sigmoid(W_m u + b_m)                                         gate
/// F_m <- g_m F_m                                                     channel by channel
/// joint   z = (1/M) sum_m z_m        decision   p = softmax(z)
/// ```
///
/// `u` has `2 (c_1 + … + c_M) / (M ratio)` entries, rounded down: for two modalities
/// `(c_1 + c_2) / ratio`, as published. `W` is the group `tap.STAGE.shared`, `W_m` the group
/// `tap.STAGE.M`.
///
/// In passes for gradients running means of squeezes and gates over all samples seen are kept,
/// beside the weights. A modality that a controller shields gets its mean gate in place of the
/// live one, so that nothing the others say reaches it; a modality that does not run is stood in
/// for by its mean squeeze. With `running_gate = "first"` all modalities get the gate mean of the
/// first one, which the released code does by a slip (widths must be equal then).
///
/// Deviations: the published module gates by `2 sigmoid`; the code of the method compared here, by
/// `sigmoid`, and so do we. A stage that leaves a vector is rescaled entry by entry.
///
/// Shapes: whatever the stages leave; logits and decision `[batch, classes]`. Needs a head for
/// each modality.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MmtmConfig {
    /// Stages after which to act, from 0; when empty the last three after which every encoder
    /// leaves channels (`layer2` to `layer4` of ResNet-18, as in the released code).
    pub stages: Vec<usize>,
    /// How much narrower `u` is than the squeezes together, at least 1. Default 4, as published.
    pub ratio: i64,
    /// Whose mean stands in for a shielded modality's gate. Its own by default.
    pub running_gate: RunningGate,
}

/// Whose mean stands in for a gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunningGate {
    /// The modality's own.
    #[default]
    Own,
    /// That of the first modality in alphabetical order, whatever the modality (released code).
    First,
}

impl Default for MmtmConfig {
    fn default() -> Self {
        Self { stages: Vec::new(), ratio: 4, running_gate: RunningGate::default() }
    }
}

/// Stages that are tapped when none are named.
const LAST: usize = 3;

#[typetag::serde(name = "mmtm")]
impl FusionConfig for MmtmConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("ratio", "at least 1", self.ratio, self.ratio >= 1)
    }

    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        self.validate()?;
        let stages = self.chosen(&context.channels)?;
        let mut modules = Vec::new();
        for stage in stages {
            let mut widths = ByModality::new();
            for (name, channels) in &context.channels {
                let width = channels.get(stage).copied().flatten().ok_or_else(|| {
                    Error::refused(
                        format!(
                            "`stages` names {stage}, and the encoder of `{name}` leaves no channels \
                             to rescale after it: by stage it leaves {channels:?}"
                        ),
                        "name stages after which every encoder leaves [batch, channels, …]",
                    )
                })?;
                widths.insert(name.clone(), width);
            }
            modules.push(Module::new(stage, &widths, self, &context.at)?);
        }
        let average = AverageConfig { decide: Averaged::Logits }.build(context)?;
        Ok(Box::new(Mmtm { modules, average, running_gate: self.running_gate, shielded: None }))
    }
}
register!(fusion::<MmtmConfig>, source = "Joze et al. 2020, arXiv:1911.08670");

impl MmtmConfig {
    /// The stages named, or the last ones after which every encoder leaves channels.
    fn chosen(&self, channels: &ByModality<Vec<Option<i64>>>) -> Result<Vec<usize>> {
        if !self.stages.is_empty() {
            return Ok(self.stages.clone());
        }
        let most = channels.values().map(Vec::len).min().unwrap_or_default();
        let everywhere = |stage: &usize| channels.values().all(|stages| stages[*stage].is_some());
        let all: Vec<usize> = (0..most).filter(everywhere).collect();
        if all.is_empty() {
            return Err(Error::refused(
                format!(
                    "after no stage do all encoders leave channels to rescale: by modality and \
                     stage they leave {channels:?}"
                ),
                "choose encoders of maps for all modalities, or of one stage each",
            ));
        }
        Ok(all[all.len().saturating_sub(LAST)..].to_vec())
    }
}

/// What stands between the encoders after one stage.
struct Module {
    stage: usize,
    squeeze: Linear,
    excite: ByModality<Linear>,
    memory: ByModality<Means>,
}

/// Running means of a modality; buffers, saved with the weights.
struct Means {
    squeeze: Tensor,
    gate: Tensor,
    /// Samples seen.
    count: Tensor,
}

impl Module {
    fn new(
        stage: usize,
        widths: &ByModality<i64>,
        config: &MmtmConfig,
        at: &Builder<'_>,
    ) -> Result<Self> {
        let first = widths.values().next().copied().unwrap_or_default();
        if config.running_gate == RunningGate::First && widths.values().any(|w| *w != first) {
            return Err(Error::refused(
                format!("`running_gate` is \"first\", and stage {stage} has widths {widths:?}"),
                "set running_gate = \"own\", or tap stages of equal widths",
            ));
        }
        let total: i64 = widths.values().sum();
        let inner = (2 * total / (widths.len() as i64 * config.ratio)).max(1);
        let shared = at.at(GroupId::Tap(stage, None));
        let (mut excite, mut memory) = (ByModality::new(), ByModality::new());
        for (name, &width) in widths {
            let own = at.at(GroupId::Tap(stage, Some(name.clone())));
            excite.insert(name.clone(), Linear::new(&own.sub("excite"), inner, width)?);
            let means = Means {
                squeeze: own.buffer("mean_squeeze", &[width], 0.0)?,
                gate: own.buffer("mean_gate", &[width], 0.0)?,
                count: own.buffer("samples", &[], 0.0)?,
            };
            memory.insert(name.clone(), means);
        }
        Ok(Self {
            stage,
            squeeze: Linear::new(&shared.sub("squeeze"), total, inner)?,
            excite,
            memory,
        })
    }
}

struct Mmtm {
    modules: Vec<Module>,
    /// What comes after the encoders: averaged logits.
    average: Box<dyn Fusion>,
    running_gate: RunningGate,
    shielded: Option<String>,
}

impl Persist for Mmtm {}

impl Fusion for Mmtm {
    fn needs(&self) -> &'static [Need] {
        &[Need::UnimodalHeads]
    }

    fn additive(&self) -> bool {
        true
    }

    fn taps(&self) -> bool {
        true
    }

    fn tap(
        &self,
        stage: usize,
        x: &mut ByModality<Named>,
        samples: i64,
        pass: &mut Pass<'_>,
    ) -> Result<()> {
        let Some(module) = self.modules.iter().find(|module| module.stage == stage) else {
            return Ok(());
        };
        let mut squeezes = ByModality::new();
        for (name, stream) in &*x {
            squeezes.insert(name.clone(), squeeze(stream.value()?, samples)?);
        }
        let parts = module.memory.iter().map(|(name, means)| match squeezes.get(name) {
            Some(squeeze) => Ok(squeeze.shallow_clone()),
            None => Ok(means.squeeze.f_expand([samples, -1], false)?),
        });
        let parts: Vec<Tensor> = parts.collect::<Result<_>>()?;
        let inner = module.squeeze.forward(&Tensor::f_cat(&parts, 1)?, pass)?.f_relu()?;
        let mut gates = ByModality::new();
        for name in squeezes.keys() {
            gates.insert(name.clone(), module.excite[name].forward(&inner, pass)?.f_sigmoid()?);
        }
        if pass.statistics == Statistics::Update {
            self.learn(module, &squeezes, &gates)?;
        }
        for (name, stream) in x {
            let means = &module.memory[name];
            let shields = pass.training() && self.shielded.as_ref() == Some(name);
            let gate = match gates.get(name) {
                Some(gate) if !shields => gate.shallow_clone(),
                _ => means.gate.f_detach_copy()?.f_unsqueeze(0)?,
            };
            *stream = Named::value_of(scale(stream.value()?, &gate, samples)?);
        }
        Ok(())
    }

    fn isolates(&self) -> bool {
        true
    }

    fn isolate(&mut self, modality: Option<&str>) {
        self.shielded = modality.map(str::to_owned);
    }

    fn joint(
        &self,
        features: &ByModality<Tensor>,
        logits: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        self.average.joint(features, logits, pass)
    }

    fn split(&self, outputs: &Outputs) -> Result<Option<ByModality<Tensor>>> {
        self.average.split(outputs)
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        self.average.decide(outputs)
    }
}

impl Mmtm {
    /// Moves the running means on by a batch: `(mean of the batch + n old) / (n + 1)`, `n` the
    /// batches seen.
    fn learn(
        &self,
        module: &Module,
        squeezes: &ByModality<Tensor>,
        gates: &ByModality<Tensor>,
    ) -> Result<()> {
        let _guard = no_grad_guard();
        for (name, means) in &module.memory {
            let gated = match self.running_gate {
                RunningGate::Own => gates.get(name),
                RunningGate::First => gates.values().next(),
            };
            let (Some(squeeze), Some(gate)) = (squeezes.get(name), gated) else { continue };
            let mut count = means.count.shallow_clone();
            let _ = count.f_add_scalar_(1.0)?;
            for (mean, seen) in [(&means.squeeze, squeeze), (&means.gate, gate)] {
                let mut mean = mean.shallow_clone();
                let batch = seen.f_mean_dim(0i64, false, None::<Kind>)?;
                let _ = mean.f_add_(&batch.f_sub(&mean)?.f_div(&count)?)?;
            }
        }
        Ok(())
    }
}

/// Mean of `[samples * k, channels, …]` over space and the `k`: `[samples, channels]`.
fn squeeze(x: &Tensor, samples: i64) -> Result<Tensor> {
    let size = x.size();
    let (rows, channels) = (size[0], size.get(1).copied().unwrap_or(1));
    Ok(x.f_reshape([samples, rows / samples, channels, -1])?.f_mean_dim(
        &[1i64, 3][..],
        false,
        None::<Kind>,
    )?)
}

/// Multiplies `[samples * k, channels, …]` by gates `[samples or 1, channels]`.
fn scale(x: &Tensor, gate: &Tensor, samples: i64) -> Result<Tensor> {
    let size = x.size();
    let (rows, channels) = (size[0], size.get(1).copied().unwrap_or(1));
    let folded = x.f_reshape([samples, rows / samples, channels, -1])?;
    let gate = gate.f_unsqueeze(1)?.f_unsqueeze(3)?;
    Ok(folded.f_mul(&gate)?.f_reshape(&size[..])?)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{build_with_channels, refusal, set};
    use super::*;
    use mie_conformance::stand_in::{assert_close, entries};

    fn maps(size: &[i64], value: f64) -> Named {
        Named::value_of(Tensor::full(size, value, (Kind::Float, Device::Cpu)))
    }

    fn two() -> (Box<dyn Fusion>, Parameters) {
        let channels = &[&[None, Some(4), Some(6)][..], &[None, Some(2), Some(3)]];
        build_with_channels(&MmtmConfig::default(), &[6, 3], channels, 2).unwrap()
    }

    fn tapped(fusion: &dyn Fusion, statistics: Statistics) -> ByModality<Tensor> {
        let x = [("audio", maps(&[2, 4, 3, 3], 1.0)), ("flow", maps(&[4, 2, 2, 2], 2.0))];
        let mut x = x.map(|(name, maps)| (name.to_owned(), maps)).into();
        fusion.tap(1, &mut x, 2, &mut Pass::of(statistics)).unwrap();
        x.into_iter().map(|(name, named)| (name, named.value().unwrap().copy())).collect()
    }

    #[test]
    fn gates_of_zero_weights_halve_every_channel() {
        let (fusion, store) = two();
        assert_eq!(store.find("tap.1.shared.squeeze.weight").unwrap().1.size(), [1, 6]);
        for name in ["audio", "flow"] {
            for part in ["weight", "bias"] {
                let path = format!("tap.1.{name}.excite.{part}");
                let zeros = store.find(&path).unwrap().1.zeros_like();
                set(&store, &path, &zeros);
            }
        }
        let found = tapped(&*fusion, Statistics::Running);
        assert_eq!(found["audio"].size(), [2, 4, 3, 3]);
        assert_close(&found["audio"], &[0.5; 72], 1e-7);
        assert_close(&found["flow"], &[1.0; 32], 1e-7);
    }

    #[test]
    fn frames_share_the_gate_of_their_sample() {
        let x = Tensor::from_slice(&[1.0, 2.0, 3.0, 5.0]).view([4, 1, 1, 1]);
        assert_close(&squeeze(&x, 2).unwrap(), &[1.5, 4.0], 1e-12);
        let gate = Tensor::from_slice(&[10.0, 100.0]).view([2, 1]);
        assert_close(&scale(&x, &gate, 2).unwrap(), &[10.0, 20.0, 300.0, 500.0], 1e-12);
    }

    #[test]
    fn means_are_learnt_in_updating_passes_alone_and_stand_in_for_a_shielded_gate() {
        let (mut fusion, store) = two();
        let before = entries(store_buffer(&store, "tap.1.audio.mean_gate"));
        let _ = tapped(&*fusion, Statistics::Keep);
        assert_eq!(before, entries(store_buffer(&store, "tap.1.audio.mean_gate")));
        let live = tapped(&*fusion, Statistics::Update);
        let gate = entries(store_buffer(&store, "tap.1.audio.mean_gate"));
        // All samples of the batch are alike, so its mean is every sample's gate.
        assert_close(&live["audio"].mean_dim(&[0i64, 2, 3][..], false, Kind::Float), &gate, 1e-6);
        let squeezed = entries(store_buffer(&store, "tap.1.flow.mean_squeeze"));
        assert_eq!(squeezed, [2.0, 2.0]);

        set(&store, "tap.1.shared.squeeze.bias", &Tensor::from_slice(&[7.0]));
        let moved = tapped(&*fusion, Statistics::Keep);
        fusion.isolate(Some("audio"));
        let shielded = tapped(&*fusion, Statistics::Keep);
        assert_ne!(moved["audio"], shielded["audio"]);
        assert_close(&shielded["audio"], &entries(&live["audio"]), 1e-6);
        assert_eq!(moved["flow"], shielded["flow"]);
        // Evaluation shields nothing.
        assert_eq!(tapped(&*fusion, Statistics::Running)["audio"], moved["audio"]);
    }

    fn store_buffer<'a>(store: &'a Parameters, path: &str) -> &'a Tensor {
        store.groups().find_map(|(_, group)| group.buffers.get(path)).unwrap()
    }

    #[test]
    fn a_modality_that_does_not_run_is_stood_in_for_by_its_mean() {
        let (fusion, _) = two();
        let both = tapped(&*fusion, Statistics::Update);
        let mut x = ByModality::from([("audio".to_owned(), maps(&[2, 4, 3, 3], 1.0))]);
        fusion.tap(1, &mut x, 2, &mut Pass::evaluation()).unwrap();
        assert_close(x["audio"].value().unwrap(), &entries(&both["audio"]), 1e-6);
    }

    #[test]
    fn stages_without_channels_are_refused_by_name() {
        let config = MmtmConfig { stages: vec![1], ..MmtmConfig::default() };
        let error = refusal(&config, &[2, 2], 2);
        assert!(error.contains("`stages` names 1") && error.contains("`audio`"), "{error}");
    }
}
