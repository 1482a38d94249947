//! Plugins that break the rules on purpose, and what is found of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use mie_conformance::{Finding, check_plugin};
use mie_core::catalogue::find;
use mie_core::prelude::*;

/// Declares a configuration without options.
macro_rules! plain {
    ($config:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $config {}
    };
}

plain!(GoodConfig, "Halves every gradient, as a modifier that breaks no rule may do.");
plain!(IdleConfig, "Looks at gradients and leaves every single one of them alone.");
plain!(ReshapingConfig, "Hands back gradients that have lost their shape on the way.");
plain!(ForgetfulConfig, "Steps by momentum, and forgets it whenever a run is resumed.");
plain!(RestlessConfig, "Sets a factor that depends on how often it has ever been asked.");
plain!(NoisyConfig, "Gives features that are drawn anew every time it is asked for them.");
plain!(ShoutingConfig, "Decides by scores that are no probabilities and never sum to 1.");
plain!(DetachedConfig, "Gives a loss that nothing can be learnt from, as it has no graph.");
plain!(HastyConfig, "Halves numbers, and of what was kept of them writes only the first one.");
plain!(StumblingConfig, "Adds tensors of different sizes, at which libtorch's operators panic.");

/// Acts.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
struct SilentConfig {
    strength: f64,
}

/// Doubles gradients whatever its only option says, which it declares to be neutral at 0.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct LyingConfig {
    /// How strongly it acts; 0, the default, is meant to switch it off.
    strength: f64,
}

/// Multiplies gradients, or drops their shape.
enum Scale {
    By(f64),
    Flattened,
}

impl Persist for Scale {}

impl GradientModifier for Scale {
    fn modify(&mut self, gradients: &mut Grads, _step: &StepView<'_>) -> Result<()> {
        for gradient in gradients.sum.values_mut() {
            match self {
                Self::By(factor) if factor.to_bits() == 1f64.to_bits() => {}
                Self::By(factor) => drop(gradient.f_mul_scalar_(*factor)?),
                Self::Flattened => *gradient = gradient.f_reshape([-1])?,
            }
        }
        Ok(())
    }
}

macro_rules! modifier {
    ($config:ident, $name:literal, $scale:expr $(, $neutral:item)?) => {
        #[typetag::serde(name = $name)]
        impl GradientModifierConfig for $config {
            fn build(&self) -> Result<Box<dyn GradientModifier>> {
                Ok(Box::new($scale))
            }
            $($neutral)?
        }
        register!(gradient_modifier::<$config>, source = "Ours");
    };
}
modifier!(GoodConfig, "good", Scale::By(0.5));
modifier!(IdleConfig, "idle", Scale::By(1.0));
modifier!(ReshapingConfig, "reshaping", Scale::Flattened);
modifier!(
    LyingConfig,
    "lying",
    Scale::By(2.0),
    fn neutral(&self) -> &'static [(&'static str, f64)] {
        &[("strength", 0.0)]
    }
);

#[typetag::serde(name = "Silent")]
impl ControllerConfig for SilentConfig {
    fn build(&self) -> Result<Box<dyn Controller>> {
        Ok(Box::new(Restless { counts: false }))
    }
}
register!(controller::<SilentConfig>, source = " ");

#[typetag::serde(name = "restless")]
impl ControllerConfig for RestlessConfig {
    fn build(&self) -> Result<Box<dyn Controller>> {
        Ok(Box::new(Restless { counts: true }))
    }
}
register!(controller::<RestlessConfig>, source = "Ours");

struct Restless {
    counts: bool,
}

static ASKED: AtomicU64 = AtomicU64::new(0);

impl Persist for Restless {}

impl Controller for Restless {
    fn after(&mut self, _at: &Boundary, _run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        let factor = if self.counts { ASKED.fetch_add(1, Ordering::Relaxed) as f64 } else { 1.0 };
        Ok(vec![Directive::LearningRateFactor { group: None, factor }])
    }
}

#[typetag::serde(name = "forgetful")]
impl OptimizerConfig for ForgetfulConfig {
    fn build(&self) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Forgetful { velocity: ByParam::new() }))
    }
}
register!(optimizer::<ForgetfulConfig>, source = "Ours");

struct Forgetful {
    velocity: ByParam,
}

impl Persist for Forgetful {}

impl Optimizer for Forgetful {
    fn step(&mut self, problem: &mut dyn Problem) -> Result<()> {
        let gradients = problem.gradients(Ask::DESCENT)?;
        problem.apply(gradients, &mut |context, gradient| {
            if let Some(before) = self.velocity.get(context.id) {
                let _ = gradient.f_add_(before)?;
            }
            self.velocity.insert(context.id.clone(), gradient.f_detach_copy()?);
            let _ = gradient.f_mul_scalar_(-0.1)?;
            Ok(())
        })
    }

    fn reset(&mut self) {}

    fn learning_rate(&self) -> f64 {
        0.1
    }
}

#[typetag::serde(name = "noisy")]
impl EncoderConfig for NoisyConfig {
    fn build(&self, _inputs: &Sizes, at: &Builder<'_>) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(Noisy { idle: at.param("idle", &[2], Initial::Constant(1.0))? }))
    }
}
register!(encoder::<NoisyConfig>, source = "Ours");

struct Noisy {
    idle: Tensor,
}

static DRAWN: AtomicU64 = AtomicU64::new(0);

impl Encoder for Noisy {
    fn stage(&self, _index: usize, mut x: Named, _pass: &mut Pass<'_>) -> Result<Named> {
        let drawn = DRAWN.fetch_add(1, Ordering::Relaxed) as f64;
        let size = self.idle.size()[0];
        let feature = x.value()?.f_narrow(1, 0, size)?.f_add_scalar(drawn)?;
        x.0.insert(Named::VALUE.to_owned(), feature.set_requires_grad(true));
        Ok(x)
    }

    fn width(&self) -> i64 {
        3
    }

    fn layers(&self) -> Vec<Layer> {
        Vec::new()
    }
}

#[typetag::serde(name = "shouting")]
impl FusionConfig for ShoutingConfig {
    fn build(&self, _context: &FusionContext<'_>) -> Result<Box<dyn Fusion>> {
        Ok(Box::new(Shouting))
    }
}
register!(fusion::<ShoutingConfig>, source = "Ours");

struct Shouting;

impl Persist for Shouting {}

impl Fusion for Shouting {
    fn joint(
        &self,
        _features: &ByModality<Tensor>,
        _logits: &ByModality<Tensor>,
        _pass: &mut Pass<'_>,
    ) -> Result<Option<Joint>> {
        Ok(None)
    }

    fn decide(&self, outputs: &Outputs) -> Result<Tensor> {
        Ok(outputs.logits_of("audio")?.shallow_clone())
    }
}

#[typetag::serde(name = "detached")]
impl ObjectiveConfig for DetachedConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(Detached))
    }
}
register!(objective::<DetachedConfig>, source = "Ours");

struct Detached;

impl Persist for Detached {}

impl Objective for Detached {
    fn terms(&self, forward: &mut dyn Forward, _notes: &mut Notes) -> Result<Vec<Term>> {
        let outputs = forward.run(&forward.full())?;
        Ok(vec![Term::new("loss", outputs.logits_of("audio")?.f_detach()?)])
    }
}

#[typetag::serde(name = "hasty")]
impl ModalityConfig for HastyConfig {
    fn build(&self) -> Result<Box<dyn Modality>> {
        Ok(Box::new(Hasty))
    }
}
register!(modality::<HastyConfig>, source = "Ours");

struct Hasty;

impl Modality for Hasty {
    fn layout(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[4])
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        _draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let halves = self.decode(raw, mode)?;
        out.f32_to_overwrite(0)?.copy_from_slice(halves.view().f32()?);
        Ok(())
    }

    fn cacheable(&self) -> Option<&dyn Decode> {
        Some(self)
    }
}

impl Decode for Hasty {
    fn recipe(&self, _mode: Mode) -> String {
        "hasty 1".to_owned()
    }

    fn decode(&self, raw: &Raw<'_>, _mode: Mode) -> Result<Decoded> {
        let Raw::Values(values) = raw else {
            return Err(Error::refused("these are no numbers", "bring numbers"));
        };
        let values = Values::F32(values.iter().map(|value| value / 2.0).collect());
        Ok(Decoded { shape: vec![4], values })
    }

    fn finish(
        &self,
        decoded: DecodedView<'_>,
        _mode: Mode,
        _draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        out.f32_to_overwrite(0)?[0] = decoded.f32()?[0];
        Ok(())
    }
}

#[typetag::serde(name = "stumbling")]
impl StrategyConfig for StumblingConfig {
    fn build(&self) -> Result<Box<dyn Strategy>> {
        drop(Tensor::from_slice(&[1.0, 2.0]) + Tensor::from_slice(&[1.0, 2.0, 3.0]));
        Err(Error::Bug("not reached".to_owned()))
    }
}
register!(strategy::<StumblingConfig>, source = "Ours");

fn findings(name: &str) -> Vec<Finding> {
    check_plugin(find(name)[0])
}

fn rules(name: &str) -> BTreeSet<&'static str> {
    findings(name).into_iter().map(|finding| finding.rule).collect()
}

#[test]
fn nothing_is_found_of_a_good_plugin() {
    assert_eq!(findings("good"), []);
}

#[test]
fn every_bad_plugin_is_found_out_by_the_rule_it_breaks() {
    let shapes = "shapes are what they must be";
    let repeats = "the same seed gives the same bits";
    let resumes = "from its saved state it goes on with the same bits";
    for (name, broken) in [
        ("idle", &["a gradient modifier changes gradients"][..]),
        ("reshaping", &[shapes, "a gradient modifier changes gradients"]),
        ("lying", &["a setting declared neutral changes nothing"]),
        ("forgetful", &[resumes, "a reset forgets everything"]),
        ("restless", &[repeats, resumes]),
        (
            "noisy",
            &[shapes, repeats, "another seed gives other weights", "every weight gets a gradient"],
        ),
        ("shouting", &["a decision is of probabilities"]),
        ("detached", &[shapes, "a term has a gradient"]),
        ("hasty", &["`finish` makes of what `decode` gives what `load` makes of the whole"]),
        ("stumbling", &["the example does its work"]),
        (
            "Silent",
            &[
                "names are in snake_case",
                "a plugin's doc comment says what it does",
                "the source of the mathematics is named",
                "every option is documented",
                "unknown options are refused",
                "the schema closes the list of options",
            ],
        ),
    ] {
        assert_eq!(rules(name), broken.iter().copied().collect(), "{:#?}", findings(name));
    }
}

#[test]
fn a_finding_names_plugin_rule_and_what_was_found() {
    assert_eq!(
        findings("idle")[0].to_string(),
        "gradient_modifier `idle`: a gradient modifier changes gradients, but it is inert: all \
         gradients keep their bits"
    );
    let stumbled = findings("stumbling")[0].to_string();
    assert!(stumbled.contains("libtorch: The size of tensor a (2) must match"), "{stumbled}");
}

#[test]
#[should_panic(expected = "no plugin is registered in `no_such_crate`")]
fn a_crate_without_plugins_is_told_so() {
    mie_conformance::assert_conform("no_such_crate");
}
