//! Generated data whose best possible accuracies are known.

use std::collections::BTreeMap;

use mie_core::prelude::*;
use rand::RngExt;
use rand_distr::StandardNormal;
use serde_json::{Map, Value, json};

use super::util::{no_modality, no_sample};
use crate::modality::vector::VectorConfig;

/// Draws vectors that show their class in some samples and nothing but noise in the others.
///
/// With `y` the class, `K` = `classes`, and for each modality `m` orthonormal directions
/// `u_m1 … u_mK` (drawn once from `seed`), `s_m` = `separation`, `d_m` = `noise_deviation`,
/// `p_m` = `informative`:
///
/// ```text
/// x_m = a_m s_m u_my + d_m n         n ~ N(0, I),  a_m = 1 with probability p_m, else 0
/// ```
///
/// In a share `redundancy` of the samples one uniform draw `v` decides for all modalities,
/// `a_m = [v < p_m]`, so what the weaker one shows the stronger one shows too; in the others each
/// modality draws for itself, and one shows what another lacks. Classes take turns, so they are
/// equally frequent.
///
/// The posterior of the class has a closed form, so the best accuracy that any model can reach is
/// known for each modality alone and for all together; both are recorded with a run, as the mean
/// of the largest posterior probability over 20000 fixed draws, with its standard error. By
/// default about 0.86 for `strong`, 0.61 for `weak` and 0.92 for both.
///
/// Modalities: those of the table `modalities`; vectors of their `dimensions`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticConfig {
    /// Number of classes `K`, from 2 to 1000. Default 10.
    pub classes: usize,
    /// Modalities by name. Default `strong` and `weak`.
    pub modalities: BTreeMap<String, Source>,
    /// Samples of each split. Default 2000, 500 and 1000.
    pub samples: Samples,
    /// Share of the samples in which one draw decides for all modalities whether they show the
    /// class, in `[0, 1]`. Default 0.2.
    pub redundancy: f64,
    /// Seed of the data. Default 0. Apart from the seed of the run, so that runs of several seeds
    /// share their data.
    pub seed: u64,
}

/// A generated modality.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// Numbers of a sample, at least `classes`. Default 32.
    pub dimensions: usize,
    /// Length `s` of the class's direction, at least 0. Default 4.
    pub separation: f64,
    /// Deviation `d` of the noise in each dimension, above 0. Default 1.
    pub noise_deviation: f64,
    /// Probability `p` that a sample shows its class, in `[0, 1]`. Default 0.86.
    pub informative: f64,
}

/// Number of samples of each split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Samples {
    /// Training samples. Default 2000.
    pub train: usize,
    /// Validation samples. Default 500.
    pub valid: usize,
    /// Test samples. Default 1000.
    pub test: usize,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        let weak =
            Source { dimensions: 64, separation: 3.0, informative: 0.64, ..Source::default() };
        Self {
            classes: 10,
            modalities: BTreeMap::from([
                ("strong".to_owned(), Source::default()),
                ("weak".to_owned(), weak),
            ]),
            samples: Samples::default(),
            redundancy: 0.2,
            seed: 0,
        }
    }
}

impl Default for Source {
    fn default() -> Self {
        Self { dimensions: 32, separation: 4.0, noise_deviation: 1.0, informative: 0.86 }
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self { train: 2_000, valid: 500, test: 1_000 }
    }
}

impl Samples {
    fn of(self, split: Split) -> usize {
        match split {
            Split::Train => self.train,
            Split::Valid => self.valid,
            Split::Test => self.test,
        }
    }
}

/// Most numbers of a split: 1 GiB.
const MOST_NUMBERS: usize = 1 << 28;

#[typetag::serde(name = "synthetic")]
impl DatasetConfig for SyntheticConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("classes", "[2, 1000]", self.classes, (2..=1_000).contains(&self.classes))?;
        let count = self.modalities.len();
        ensure_range(
            "modalities",
            "a table of [1, 16] modalities",
            count,
            (1..=16).contains(&count),
        )?;
        let within = (0.0..=1.0).contains(&self.redundancy);
        ensure_range("redundancy", "[0, 1]", self.redundancy, within)?;
        for (name, source) in &self.modalities {
            let check = |field: &str, expected: &str, value: f64, holds: bool| {
                ensure_range(&format!("modalities.{name}.{field}"), expected, value, holds)
            };
            let Source { dimensions, separation, noise_deviation, informative } = *source;
            let most = MOST_NUMBERS / self.classes;
            let fits = (self.classes..=most).contains(&dimensions);
            check("dimensions", "[classes, 2^28 / classes]", dimensions as f64, fits)?;
            check("separation", "[0, 1e6]", separation, (0.0..=1e6).contains(&separation))?;
            let usable = (1e-6..=1e6).contains(&noise_deviation);
            check("noise_deviation", "[1e-6, 1e6]", noise_deviation, usable)?;
            check("informative", "[0, 1]", informative, (0.0..=1.0).contains(&informative))?;
        }
        let width: usize = self.modalities.values().map(|source| source.dimensions).sum();
        for split in Split::ALL {
            let field = format!("samples.{}", split.name());
            let count = self.samples.of(split);
            ensure_range(
                &field,
                "[0, 2^28 / all dimensions]",
                count,
                count <= MOST_NUMBERS / width,
            )?;
        }
        Ok(())
    }

    fn class_count(&self) -> Option<usize> {
        Some(self.classes)
    }

    fn open(&self, _context: &OpenContext) -> Result<Box<dyn Dataset>> {
        self.validate()?;
        Ok(Box::new(Synthetic::generate(self.clone())))
    }
}
register!(dataset::<SyntheticConfig>, source = "Ours");

/// Draws of the Monte Carlo estimate.
const DRAWS: u32 = 20_000;

/// What decides a sample: its class and which modalities show it, in order of their names.
struct Hidden {
    class: usize,
    shown: Vec<bool>,
}

impl SyntheticConfig {
    /// Draws which modalities show the class.
    fn hide(&self, class: usize, stream: &mut Stream) -> Hidden {
        let common: Option<f64> =
            (stream.random::<f64>() < self.redundancy).then(|| stream.random());
        let shown = self
            .modalities
            .values()
            .map(|source| common.unwrap_or_else(|| stream.random()) < source.informative)
            .collect();
        Hidden { class, shown }
    }

    /// Computes the posterior of the class from each modality's projections on its directions.
    ///
    /// With `l_m(y) = exp(s z_my / d^2 - s^2 / 2 d^2)`, the likelihood of `x_m` showing `y`
    /// relative to showing nothing, and `r` = `redundancy`:
    ///
    /// ```text
    /// P(y | x) ~ (1 - r) prod_m (p_m l_m(y) + 1 - p_m) + r E_v prod_m (v < p_m ? l_m(y) : 1)
    /// ```
    ///
    /// `v` takes one of as many relevant ranges as there are modalities, plus one.
    fn posterior(&self, evidence: &[(Source, Vec<f64>)]) -> Vec<f64> {
        // Most informative first: if one shows the class by the common draw, so do those before.
        let mut likelihoods: Vec<Likelihood> = evidence.iter().map(Likelihood::new).collect();
        likelihoods.sort_by(|a, b| b.informative.total_cmp(&a.informative));
        let mut posterior: Vec<f64> = (0..self.classes)
            .map(|class| {
                let apart: f64 = likelihoods
                    .iter()
                    .map(|l| l.informative * l.shown[class] + (1.0 - l.informative) * l.absent)
                    .product();
                let together: f64 = (0..=likelihoods.len())
                    .map(|showing| {
                        let above = match showing {
                            0 => 1.0,
                            rank => likelihoods[rank - 1].informative,
                        };
                        let below = likelihoods.get(showing).map_or(0.0, |l| l.informative);
                        let terms = likelihoods.iter().enumerate();
                        let product: f64 = terms
                            .map(|(rank, l)| if rank < showing { l.shown[class] } else { l.absent })
                            .product();
                        (above - below) * product
                    })
                    .sum();
                (1.0 - self.redundancy) * apart + self.redundancy * together
            })
            .collect();
        let total: f64 = posterior.iter().sum();
        // Evidence too extreme for f64 tells nothing that could be used.
        let uniform = 1.0 / self.classes as f64;
        for probability in &mut posterior {
            *probability = if total > 0.0 { *probability / total } else { uniform };
        }
        posterior
    }

    /// Estimates the best accuracy possible with `modalities`, and its standard error.
    ///
    /// Projections on the directions hold all that a vector tells of the class and are
    /// themselves Gaussian, so no vectors are needed.
    fn best_accuracy(&self, modalities: &[&str]) -> (f64, f64) {
        let mut stream = Seed(0).stream(Purpose::Synthesis, "best_accuracy", &[]);
        let (mut sum, mut squares) = (0.0, 0.0);
        for draw in 0..DRAWS as usize {
            let hidden = self.hide(draw % self.classes, &mut stream);
            let mut evidence = Vec::new();
            for ((name, source), shown) in self.modalities.iter().zip(&hidden.shown) {
                let mut projections: Vec<f64> = (0..self.classes)
                    .map(|_| source.noise_deviation * stream.sample::<f64, _>(StandardNormal))
                    .collect();
                if *shown {
                    projections[hidden.class] += source.separation;
                }
                if modalities.contains(&name.as_str()) {
                    evidence.push((*source, projections));
                }
            }
            let largest = self.posterior(&evidence).into_iter().fold(0.0, f64::max);
            sum += largest;
            squares += largest * largest;
        }
        let count = f64::from(DRAWS);
        let mean = sum / count;
        let variance = (squares / count - mean * mean).max(0.0);
        (mean, (variance / (count - 1.0)).sqrt())
    }
}

/// How well each class explains a modality's vector.
struct Likelihood {
    informative: f64,
    /// For each class, that the vector shows it.
    shown: Vec<f64>,
    /// That the vector shows nothing; on the same scale.
    absent: f64,
}

impl Likelihood {
    fn new((source, projections): &(Source, Vec<f64>)) -> Self {
        let Source { separation, noise_deviation, informative, .. } = *source;
        let precision = noise_deviation.powi(-2);
        let exponents: Vec<f64> = projections
            .iter()
            .map(|projection| precision * separation * (projection - separation / 2.0))
            .collect();
        // The largest becomes 1: nothing overflows, and what underflows counts for nothing.
        let largest = exponents.iter().copied().fold(0.0, f64::max);
        Self {
            informative,
            shown: exponents.iter().map(|exponent| (exponent - largest).exp()).collect(),
            absent: (-largest).exp(),
        }
    }
}

struct Synthetic {
    config: SyntheticConfig,
    classes: Vec<String>,
    splits: BTreeMap<Split, Vec<Sample>>,
    /// For each split and modality all vectors, one after the other.
    vectors: BTreeMap<Split, BTreeMap<String, Vec<f32>>>,
}

impl Synthetic {
    fn generate(config: SyntheticConfig) -> Self {
        let seed = Seed(config.seed);
        let directions: BTreeMap<String, Vec<Vec<f64>>> = config
            .modalities
            .iter()
            .map(|(name, source)| {
                let mut stream =
                    seed.stream(Purpose::Synthesis, &format!("directions {name}"), &[]);
                (name.clone(), orthonormal(config.classes, source.dimensions, &mut stream))
            })
            .collect();
        let mut splits = BTreeMap::new();
        let mut vectors = BTreeMap::new();
        for split in Split::ALL {
            let count = config.samples.of(split);
            let mut samples = Vec::with_capacity(count);
            let mut parts: BTreeMap<String, Vec<f32>> = BTreeMap::new();
            for index in 0..count {
                let mut stream = seed.stream(Purpose::Synthesis, split.name(), &[index as u64]);
                let hidden = config.hide(index % config.classes, &mut stream);
                for ((name, source), shown) in config.modalities.iter().zip(&hidden.shown) {
                    let length = if *shown { source.separation } else { 0.0 };
                    let part = parts.entry(name.clone()).or_default();
                    part.extend(directions[name][hidden.class].iter().map(|direction| {
                        let noise: f64 = stream.sample(StandardNormal);
                        (length * direction + source.noise_deviation * noise) as f32
                    }));
                }
                let id = format!("{}-{index}", split.name());
                samples.push(Sample { id, label: hidden.class });
            }
            splits.insert(split, samples);
            vectors.insert(split, parts);
        }
        let classes = (0..config.classes).map(|class| class.to_string()).collect();
        Self { config, classes, splits, vectors }
    }
}

/// Draws `count` orthonormal vectors, uniformly (Gram and Schmidt on Gaussian ones).
fn orthonormal(count: usize, dimensions: usize, stream: &mut Stream) -> Vec<Vec<f64>> {
    let mut found: Vec<Vec<f64>> = Vec::with_capacity(count);
    while found.len() < count {
        let mut next: Vec<f64> = (0..dimensions).map(|_| stream.sample(StandardNormal)).collect();
        // Twice, since rounding leaves a little of the earlier ones in.
        for _ in 0..2 {
            for earlier in &found {
                let share = dot(&next, earlier);
                for (value, direction) in next.iter_mut().zip(earlier) {
                    *value -= share * direction;
                }
            }
        }
        let norm = dot(&next, &next).sqrt();
        if norm > 1e-6 {
            found.push(next.into_iter().map(|value| value / norm).collect());
        }
    }
    found
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Dataset for Synthetic {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn samples(&self, split: Split) -> &[Sample] {
        self.splits.get(&split).map_or(&[], Vec::as_slice)
    }

    fn modalities(&self) -> Vec<String> {
        self.config.modalities.keys().cloned().collect()
    }

    fn raw(&self, split: Split, index: usize, modality: &str) -> Result<Raw<'_>> {
        let source = self.config.modalities.get(modality);
        let source =
            source.ok_or_else(|| no_modality("synthetic", modality, &self.modalities()))?;
        let size = source.dimensions;
        self.vectors
            .get(&split)
            .and_then(|parts| parts.get(modality)?.get(index * size..(index + 1) * size))
            .map(Raw::Values)
            .ok_or_else(|| no_sample("synthetic", split, index))
    }

    fn inputs(&self) -> BTreeMap<String, Box<dyn ModalityConfig>> {
        let input = |(name, source): (&String, &Source)| {
            let vector = VectorConfig { dimensions: source.dimensions, ..VectorConfig::default() };
            let vector: Box<dyn ModalityConfig> = Box::new(vector);
            (name.clone(), vector)
        };
        self.config.modalities.iter().map(input).collect()
    }

    fn expected(&self) -> Expected {
        let counts = Split::ALL.map(|split| (split, self.config.samples.of(split)));
        let classes = self.config.classes;
        let of_class = |count: usize, class: usize| (count + classes - 1 - class) / classes;
        Expected {
            samples: counts.into_iter().collect(),
            classes: counts
                .into_iter()
                .map(|(split, count)| (split, (0..classes).map(|c| of_class(count, c)).collect()))
                .collect(),
        }
    }

    /// `best_accuracy.unimodal.<name>` and `best_accuracy.fused`, each with `value`,
    /// `standard_error` and `method`.
    fn facts(&self) -> Map<String, Value> {
        let estimate = |modalities: &[&str]| {
            let (value, standard_error) = self.config.best_accuracy(modalities);
            let method = format!("mean of the largest posterior over {DRAWS} fixed draws");
            json!({ "value": value, "standard_error": standard_error, "method": method })
        };
        let names: Vec<&str> = self.config.modalities.keys().map(String::as_str).collect();
        let unimodal: Map<String, Value> =
            names.iter().map(|&name| (name.to_owned(), estimate(&[name]))).collect();
        let accuracies = json!({ "unimodal": unimodal, "fused": estimate(&names) });
        Map::from_iter([("best_accuracy".to_owned(), accuracies)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(first: Source, second: Source, redundancy: f64) -> SyntheticConfig {
        let modalities = [("a".to_owned(), first), ("b".to_owned(), second)];
        SyntheticConfig { modalities: modalities.into(), redundancy, ..SyntheticConfig::default() }
    }

    fn opened(config: &SyntheticConfig) -> Synthetic {
        config.validate().unwrap();
        Synthetic::generate(config.clone())
    }

    fn vector<'a>(data: &'a Synthetic, split: Split, index: usize, modality: &str) -> &'a [f32] {
        match data.raw(split, index, modality).unwrap() {
            Raw::Values(values) => values,
            _ => &[],
        }
    }

    /// The distribution function of the standard normal, by Simpson's rule.
    fn normal_below(limit: f64) -> f64 {
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let (steps, start) = (20_000, -10.0);
        let width = (limit - start) / f64::from(steps);
        let weighted = (0..=steps).map(|step| {
            let weight = if step == 0 || step == steps {
                1.0
            } else if step % 2 == 1 {
                4.0
            } else {
                2.0
            };
            weight * density(start + width * f64::from(step))
        });
        weighted.sum::<f64>() * width / 3.0
    }

    #[test]
    fn two_classes_always_shown_have_the_accuracy_of_gaussians() {
        let always = Source { informative: 1.0, ..Source::default() };
        let config = SyntheticConfig {
            classes: 2,
            ..two(
                Source { separation: 1.2, ..always },
                Source { separation: 1.5, noise_deviation: 2.0, ..always },
                0.3,
            )
        };
        // Means of length s at right angles lie s sqrt(2) apart: accuracy Phi(s / (d sqrt(2))).
        let exact = |ratio: f64| normal_below(ratio / 2f64.sqrt());
        for (modalities, ratio) in
            [(&["a"][..], 1.2), (&["b"][..], 0.75), (&["a", "b"][..], f64::hypot(1.2, 0.75))]
        {
            let (value, error) = config.best_accuracy(modalities);
            assert!(error < 0.002, "{error}");
            assert!((value - exact(ratio)).abs() < 4.0 * error, "{value} for {}", exact(ratio));
        }
        assert!((normal_below(1.0) - 0.841_344_746).abs() < 1e-8);
    }

    #[test]
    fn clear_modalities_have_the_accuracy_of_what_they_show() {
        let clear = |informative| Source { separation: 40.0, informative, ..Source::default() };
        for redundancy in [0.0, 0.25, 1.0] {
            let config = two(clear(0.8), clear(0.5), redundancy);
            // Where nothing is shown, one guess in ten is right.
            let guessed = |shown: f64| shown + (1.0 - shown) / 10.0;
            let shown = redundancy * 0.8 + (1.0 - redundancy) * (1.0 - 0.2 * 0.5);
            for (modalities, exact) in [
                (&["a"][..], guessed(0.8)),
                (&["b"][..], guessed(0.5)),
                (&["a", "b"][..], guessed(shown)),
            ] {
                let (value, error) = config.best_accuracy(modalities);
                assert!(error < 0.004 && (value - exact).abs() < 4.0 * error, "{value} {exact}");
            }
        }
    }

    #[test]
    fn the_default_has_a_dominant_modality_and_gains_by_both() {
        let config = SyntheticConfig::default();
        let (strong, _) = config.best_accuracy(&["strong"]);
        let (weak, _) = config.best_accuracy(&["weak"]);
        let (fused, error) = config.best_accuracy(&["strong", "weak"]);
        assert!((strong - 0.857).abs() < 0.01, "{strong}");
        assert!((weak - 0.614).abs() < 0.015, "{weak}");
        assert!((fused - 0.918).abs() < 0.01, "{fused}");
        assert!(error < 0.002, "{error}");
    }

    /// The posterior by going through every case, from the densities themselves.
    fn posterior_by_cases(config: &SyntheticConfig, vectors: &[(Source, Vec<f64>)]) -> Vec<f64> {
        let density = |(source, z): &(Source, Vec<f64>), class: usize, shown: bool| {
            let squares: f64 = z
                .iter()
                .enumerate()
                .map(|(other, z)| {
                    let mean = if shown && other == class { source.separation } else { 0.0 };
                    ((z - mean) / source.noise_deviation).powi(2)
                })
                .sum();
            (-squares / 2.0).exp()
        };
        let (first, second) = (&vectors[0], &vectors[1]);
        let (p, q) = (first.0.informative, second.0.informative);
        let mut posterior: Vec<f64> = (0..config.classes)
            .map(|class| {
                let mut total = 0.0;
                for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
                    let chance = |shown: bool, p: f64| if shown { p } else { 1.0 - p };
                    let apart = chance(a, p) * chance(b, q);
                    let together = match (a, b) {
                        (true, true) => p.min(q),
                        (true, false) => (p - q).max(0.0),
                        (false, true) => (q - p).max(0.0),
                        (false, false) => 1.0 - p.max(q),
                    };
                    let prior = (1.0 - config.redundancy) * apart + config.redundancy * together;
                    total += prior * density(first, class, a) * density(second, class, b);
                }
                total
            })
            .collect();
        let total: f64 = posterior.iter().sum();
        for probability in &mut posterior {
            *probability /= total;
        }
        posterior
    }

    /// Class and projections of a generated sample.
    fn evidence(data: &Synthetic, index: usize) -> (usize, Vec<(Source, Vec<f64>)>) {
        let projections = data.config.modalities.iter().map(|(name, source)| {
            let name_of_stream = format!("directions {name}");
            let mut stream =
                Seed(data.config.seed).stream(Purpose::Synthesis, &name_of_stream, &[]);
            let directions = orthonormal(data.config.classes, source.dimensions, &mut stream);
            let x: Vec<f64> =
                vector(data, Split::Test, index, name).iter().map(|&x| f64::from(x)).collect();
            (*source, directions.iter().map(|direction| dot(direction, &x)).collect())
        });
        (data.samples(Split::Test)[index].label, projections.collect())
    }

    #[test]
    fn the_posterior_is_that_of_going_through_every_case() {
        for redundancy in [0.0, 0.4, 1.0] {
            let source = |informative| Source { separation: 2.0, informative, ..Source::default() };
            let config = two(source(0.6), source(0.9), redundancy);
            let data = opened(&config);
            for index in 0..50 {
                let (_, evidence) = evidence(&data, index);
                let expected = posterior_by_cases(&config, &evidence);
                for (found, expected) in config.posterior(&evidence).iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
                }
            }
        }
    }

    #[test]
    fn the_best_classifier_reaches_the_stated_accuracy_on_the_test_split() {
        let samples = Samples { train: 0, valid: 0, test: 2_000 };
        let config = SyntheticConfig { samples, ..SyntheticConfig::default() };
        let data = opened(&config);
        let facts = data.facts();
        let right = (0..2_000)
            .filter(|&index| {
                let (label, evidence) = evidence(&data, index);
                let posterior = posterior_by_cases(&config, &evidence);
                (0..10).all(|other| other == label || posterior[other] < posterior[label])
            })
            .count();
        let stated = facts["best_accuracy"]["fused"]["value"].as_f64().unwrap();
        let stated_error = facts["best_accuracy"]["fused"]["standard_error"].as_f64().unwrap();
        let found = right as f64 / 2_000.0;
        let error = f64::hypot((stated * (1.0 - stated) / 2_000.0).sqrt(), stated_error);
        assert!((found - stated).abs() < 3.0 * error, "{found} is not {stated} +- {error}");
        let unimodal = facts["best_accuracy"]["unimodal"].as_object().unwrap();
        assert_eq!(unimodal.keys().collect::<Vec<_>>(), ["strong", "weak"]);
    }

    #[test]
    fn redundancy_makes_modalities_show_the_same_samples() {
        let source = |informative| Source { informative, ..Source::default() };
        for (redundancy, expected) in [(0.0, 0.42), (0.5, 0.51), (1.0, 0.6)] {
            let config = two(source(0.7), source(0.6), redundancy);
            let mut stream = Seed(1).stream(Purpose::Synthesis, "test", &[]);
            let both = (0..20_000)
                .filter(|_| config.hide(0, &mut stream).shown.iter().all(|&shown| shown))
                .count();
            let share = both as f64 / 20_000.0;
            // Standard error 0.0035; four of them.
            assert!((share - expected).abs() < 0.014, "{share} is not {expected}");
        }
    }

    #[test]
    fn directions_are_orthonormal() {
        let mut stream = Seed(0).stream(Purpose::Synthesis, "test", &[]);
        let directions = orthonormal(12, 12, &mut stream);
        for (row, a) in directions.iter().enumerate() {
            for (column, b) in directions.iter().enumerate() {
                let expected = f64::from(u8::from(row == column));
                assert!((dot(a, b) - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn samples_depend_on_the_seed_of_the_data_alone_and_not_on_their_number() {
        let config = SyntheticConfig::default();
        let small = Samples { train: 20, valid: 3, test: 0 };
        let few = opened(&SyntheticConfig { samples: small, ..config.clone() });
        let many = opened(&config);
        let other = opened(&SyntheticConfig { seed: 1, samples: small, ..config });
        let bits = |data: &Synthetic, index| {
            let values = vector(data, Split::Train, index, "weak");
            values.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(bits(&few, 19), bits(&many, 19));
        assert_ne!(bits(&few, 19), bits(&other, 19));
        assert_ne!(bits(&few, 19), bits(&few, 9));
        assert_eq!(few.samples(Split::Train)[13].label, 3);
        assert_eq!(few.samples(Split::Valid).len(), 3);
        assert_eq!(few.expected().classes[&Split::Valid], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert!(few.raw(Split::Valid, 3, "weak").is_err());
        let error = few.raw(Split::Valid, 0, "audio").unwrap_err().to_string();
        assert!(error.contains("no modality `audio`, but [\"strong\", \"weak\"]"), "{error}");
    }

    #[test]
    fn unusable_options_are_refused_with_their_path() {
        let refusal = |config: SyntheticConfig| config.validate().unwrap_err().to_string();
        let wide = SyntheticConfig { classes: 40, ..SyntheticConfig::default() };
        let error = refusal(wide);
        assert!(error.starts_with("`modalities.strong.dimensions` is 32"), "{error}");
        let silent =
            two(Source { noise_deviation: 0.0, ..Source::default() }, Source::default(), 0.0);
        let error = refusal(silent);
        assert!(error.starts_with("`modalities.a.noise_deviation` is 0"), "{error}");
        let samples = Samples { train: usize::MAX, ..Samples::default() };
        let error = refusal(SyntheticConfig { samples, ..SyntheticConfig::default() });
        assert!(error.starts_with("`samples.train` is"), "{error}");
        let none = SyntheticConfig { modalities: BTreeMap::new(), ..SyntheticConfig::default() };
        assert!(refusal(none).starts_with("`modalities` is 0"));
        let config = SyntheticConfig { redundancy: f64::NAN, ..SyntheticConfig::default() };
        assert!(refusal(config).starts_with("`redundancy` is NaN"));
    }
}
