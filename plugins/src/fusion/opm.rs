//! Hides parts of the dominant modality's features while training.

use mie_core::imbalance;
use mie_core::prelude::*;
use rand::RngExt as _;

/// On-the-fly prediction modulation: drops features of modalities that lead, in training.
///
/// A fusion around another, `base`, which must be additive. With `u_m` the unimodal split of its
/// joint logits on whole features (no gradient), `y` the labels and `d_m` the width of `h_m`:
///
/// ```text
/// s_m   = sum_k softmax(u_m,k)_(y_k)           rho_m = s_m / mean_(n != m) s_n
/// q_m   = clip(q_base (1 + alpha tanh(rho_m - 1)), 0, 1)   if rho_m > 1, else 0
/// mask  ~ Bernoulli(1 - q_m), one for each sample and modality, in a share `probability` of steps
/// h_m   <- h_m mask_m / (1 - sum_n d_n q_n / sum_n d_n)
/// ```
///
/// Joint logits are those of `base` on what is left; samples with nothing left do not count in a
/// joint loss. Passes that are not for a gradient, and decisions, are those of `base`. Draws come
/// from a stream of their own, named by seed, step and pass. `rho` for more than two modalities is
/// ours; for two it is the published ratio.
///
/// Shapes: those of `base`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OpmConfig {
    /// Fusion that joins what is left; additive. `concat` by default.
    pub base: Box<dyn FusionConfig>,
    /// Share of features dropped where a modality leads by nothing, in `[0, 1)`. Default 0.4, the
    /// released code's.
    pub drop: f64,
    /// How much a lead adds, at least 0. Default 0.5, the released code's.
    pub alpha: f64,
    /// Share of steps that drop, in `[0, 1]`; 0 leaves the plain `base`. Default 0.7, the released
    /// code's.
    pub probability: f64,
}

impl Default for OpmConfig {
    fn default() -> Self {
        let base = Box::new(super::concat::ConcatConfig::default());
        Self { base, drop: 0.4, alpha: 0.5, probability: 0.7 }
    }
}

#[typetag::serde(name = "opm")]
impl FusionConfig for OpmConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("drop", "[0, 1)", self.drop, (0.0..1.0).contains(&self.drop))?;
        ensure_range("alpha", "[0, inf)", self.alpha, self.alpha >= 0.0 && self.alpha.is_finite())?;
        let share = (0.0..=1.0).contains(&self.probability);
        ensure_range("probability", "[0, 1]", self.probability, share)?;
        self.base.validate()
    }

    fn build(&self, context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        self.validate()?;
        let base = self.base.build(context)?;
        if !base.additive() || base.taps() || base.needs().contains(&Need::UnimodalHeads) {
            return Err(Error::refused(
                format!(
                    "`base` is `{}`: its joint logits are no sum of what each modality's feature \
                     gives",
                    self.base.typetag_name()
                ),
                "choose `concat` without hidden layers",
            ));
        }
        Ok(Box::new(Opm {
            base,
            widths: context.widths.clone(),
            drop: self.drop,
            alpha: self.alpha,
            probability: self.probability,
        }))
    }
}
register!(fusion::<OpmConfig>, source = "Wei et al. 2024, arXiv:2410.11582");

struct Opm {
    base: Box<dyn Fusion>,
    widths: ByModality<i64>,
    drop: f64,
    alpha: f64,
    probability: f64,
}

impl Opm {
    /// Share of each modality's features to drop: `[modalities]`, on the labels' device.
    fn shares(&self, split: &ByModality<Tensor>, labels: &Tensor) -> Result<Tensor> {
        let ratios = imbalance::against_the_others(&imbalance::scores(split, labels)?)?;
        let raised = ratios.f_sub_scalar(1.0)?.f_tanh()?.f_mul_scalar(self.alpha)?;
        let share = raised.f_add_scalar(1.0)?.f_mul_scalar(self.drop)?.f_clamp(0.0, 1.0)?;
        Ok(share.f_where_self(&ratios.f_gt(1.0)?, &share.f_zeros_like()?)?)
    }

    /// What is left of the features, and the samples that have something left.
    fn thinned(
        &self,
        features: &ByModality<Tensor>,
        shares: &Tensor,
        stream: &mut Stream,
    ) -> Result<(ByModality<Tensor>, Tensor)> {
        let total: i64 = self.widths.values().sum();
        let widths: Vec<f32> =
            self.widths.values().map(|width| *width as f32 / total as f32).collect();
        let widths = Tensor::f_from_slice(&widths)?.f_to_device(shares.device())?;
        let kept = shares.f_dot(&widths)?.f_mul_scalar(-1.0)?.f_add_scalar(1.0)?;
        let samples = features.values().next().map_or(0, |feature| feature.size()[0]);
        let shape = [features.len() as i64, samples];
        // Drawn on the host: no device has numbers of its own.
        let uniform: Vec<f32> =
            (0..shape[0] * shape[1]).map(|_| stream.random_range(0.0..1.0)).collect();
        let uniform =
            Tensor::f_from_slice(&uniform)?.f_view(shape)?.f_to_device(shares.device())?;
        let mask = uniform.f_ge_tensor(&shares.f_unsqueeze(1)?)?.f_to_kind(Kind::Float)?;
        let scale = mask.f_div(&kept)?;
        let mut left = ByModality::new();
        for (index, (name, feature)) in features.iter().enumerate() {
            let factor = scale.f_get(index as i64)?.f_unsqueeze(1)?;
            left.insert(name.clone(), feature.f_mul(&factor)?);
        }
        let rows = mask.f_amax(0i64, false)?;
        Ok((left, rows))
    }
}

impl Persist for Opm {
    fn state(&self) -> Result<State> {
        self.base.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.base.load_state(state)
    }
}

impl Fusion for Opm {
    fn needs(&self) -> &'static [Need] {
        &[Need::SeveralModalities]
    }

    fn additive(&self) -> bool {
        true
    }

    fn joint(
        &self,
        features: &ByModality<Tensor>,
        logits: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        let Some(training) = pass.training.filter(|_| pass.statistics != Statistics::Running)
        else {
            return self.base.joint(features, logits, pass);
        };
        let mut stream = Seed(training.draw).stream(Purpose::Plugin, "opm", &[]);
        if stream.random_range(0.0..1.0) >= self.probability {
            return self.base.joint(features, logits, pass);
        }
        let split = {
            let _guard = no_grad_guard();
            let whole = Outputs { features: share(features), ..Outputs::default() };
            self.base.split(&whole)?
        };
        let Some(split) = split else { return Ok(None) };
        let shares = self.shares(&split, training.labels)?;
        let (left, rows) = self.thinned(features, &shares, &mut stream)?;
        let joint = self.base.joint(&left, logits, pass)?;
        Ok(joint.map(|joint| Joint { rows: Some(rows), ..joint }))
    }

    fn split(&self, outputs: &Outputs) -> Result<Option<ByModality<Tensor>>> {
        self.base.split(outputs)
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        self.base.decide(outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{build, by_modality, refusal, rows, single};
    use super::*;
    use mie_conformance::stand_in::{assert_close, bits, entries};

    fn features(samples: i64) -> ByModality<Tensor> {
        let ramp = |width: i64| {
            let x = Tensor::arange(samples * width, (Kind::Float, Device::Cpu));
            x.view([samples, width]).sin()
        };
        by_modality([ramp(4), ramp(6)])
    }

    fn opm(probability: f64, drop: f64) -> Box<dyn Fusion> {
        build(&OpmConfig { drop, probability, ..OpmConfig::default() }, &[4, 6], 3).0
    }

    fn joint(fusion: &dyn Fusion, draw: u64, training: bool) -> Joint {
        let labels = Tensor::zeros([64], (Kind::Int64, Device::Cpu));
        let mut pass = Pass::of(Statistics::Update);
        pass.training = training.then_some(TrainingPass { labels: &labels, draw });
        fusion.joint(&features(64), &ByModality::new(), &mut pass).unwrap().unwrap()
    }

    #[test]
    fn the_share_dropped_is_that_of_the_worked_example() {
        let store = std::cell::RefCell::new(Parameters::default());
        let at = Builder::new(&store, Seed(0), Device::Cpu, GroupId::Fusion);
        let widths: ByModality<i64> = [("audio".to_owned(), 4), ("flow".to_owned(), 6)].into();
        let context =
            FusionContext { widths: widths.clone(), channels: ByModality::new(), classes: 3, at };
        let base = super::super::concat::ConcatConfig::default().build(&context).unwrap();
        let opm = Opm { base, widths, drop: 0.4, alpha: 0.5, probability: 1.0 };
        let split = by_modality([rows(&[[2.0, 0.0], [1.0, 0.0]]), rows(&[[0.0, 0.0], [0.0, 0.0]])]);
        let shares = opm.shares(
            &split.into_iter().map(|(n, z)| (n, single(&z))).collect(),
            &Tensor::from_slice(&[0i64, 0]),
        );
        assert_close(&shares.unwrap(), &[0.509_086, 0.0], 1e-6);

        let shares = Tensor::from_slice(&[0.5f32, 0.0]);
        let mut stream = Seed(3).stream(Purpose::Plugin, "opm", &[]);
        let (left, rows) = opm.thinned(&features(64), &shares, &mut stream).unwrap();
        // 1 - 0.5 * 4/10 is kept; the second modality is whole, so every sample has something left.
        assert_close(&rows, &[1.0; 64], 0.0);
        let flow = features(64)["flow"].shallow_clone() / 0.8;
        assert_close(&left["flow"], &entries(&flow), 1e-6);
        let gone = left["audio"].abs().sum_dim_intlist(1i64, false, Kind::Float).eq(0.0);
        let gone = gone.sum(Kind::Double).double_value(&[]);
        assert!((20.0..44.0).contains(&gone), "{gone} of 64 samples lost a half-dropped modality");
        let all = Tensor::from_slice(&[0.5f32, 0.5]);
        let (_, rows) = opm.thinned(&features(64), &all, &mut stream).unwrap();
        let kept = rows.sum(Kind::Double).double_value(&[]);
        assert!((36.0..60.0).contains(&kept), "{kept} of 64 samples keep something");
    }

    #[test]
    fn only_passes_for_a_gradient_drop_and_the_draw_names_what() {
        let fusion = opm(1.0, 0.4);
        let plain = joint(&*fusion, 1, false);
        assert!(plain.rows.is_none());
        let [one, again, other] = [1, 1, 2].map(|draw| joint(&*fusion, draw, true));
        assert!(one.rows.is_some());
        assert_eq!(bits(&one.logits), bits(&again.logits));
        assert_ne!(bits(&one.logits), bits(&other.logits));
        assert_ne!(bits(&one.logits), bits(&plain.logits));
    }

    #[test]
    fn a_probability_of_nothing_is_the_plain_base() {
        let never = opm(0.0, 0.4);
        for draw in 0..8 {
            let found = joint(&*never, draw, true);
            assert!(found.rows.is_none());
            assert_eq!(bits(&found.logits), bits(&joint(&*never, draw, false).logits));
        }
    }

    #[test]
    fn a_base_that_is_no_sum_of_features_is_refused() {
        let hidden = super::super::concat::ConcatConfig { hidden: vec![4] };
        let error =
            refusal(&OpmConfig { base: Box::new(hidden), ..OpmConfig::default() }, &[2, 2], 2);
        assert!(error.contains("`base` is `concat`"), "{error}");
        let sum = super::super::sum::SumConfig {};
        let error = refusal(&OpmConfig { base: Box::new(sum), ..OpmConfig::default() }, &[2, 2], 2);
        assert!(error.contains("`base` is `sum`"), "{error}");
    }
}
