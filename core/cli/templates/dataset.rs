//! A generated dataset of two modalities.

use std::collections::BTreeMap;

use mie_core::prelude::*;

/// Draws samples whose class shows as a pattern in noise, in one modality better than in the other.
///
/// With `k` the class of a sample, `K` the number of classes, `a` the amplitude of the noise (four
/// times `noise` in modality `weak`) and `u` uniform in `[-1, 1)`,
///
/// ```text
/// x_d = a u_d + (1 where d mod K = k, else 0)
/// ```
///
/// Shapes: numbers `[32]` in modality `strong`, `[64]` in `weak`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateNameConfig {
    /// Number of classes, in `[2, 32]`. The default, 4, is ours.
    pub classes: usize,
    /// Training samples of a class, at least 2; a quarter as many are validated and tested on.
    /// The default, 40, is ours.
    pub samples_per_class: usize,
    /// Amplitude of the noise in modality `strong`, at least 0. The default, 0.5, is ours.
    pub noise: f32,
}

impl Default for TemplateNameConfig {
    fn default() -> Self {
        Self { classes: 4, samples_per_class: 40, noise: 0.5 }
    }
}

#[typetag::serde(name = "template_name")]
impl DatasetConfig for TemplateNameConfig {
    fn validate(&self) -> Result<()> {
        ensure_range("classes", "[2, 32]", self.classes, (2..=32).contains(&self.classes))?;
        let enough = (2..=1 << 20).contains(&self.samples_per_class);
        ensure_range("samples_per_class", "[2, 2^20]", self.samples_per_class, enough)?;
        let usable = self.noise >= 0.0 && self.noise.is_finite();
        ensure_range("noise", "[0, inf)", self.noise, usable)
    }

    // Yours: read lists and labels here; `context.resolve` finds files in the data folder.
    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>> {
        self.validate()?;
        let mut parts = BTreeMap::new();
        for split in Split::ALL {
            let each = match split {
                Split::Train => self.samples_per_class,
                Split::Valid | Split::Test => self.samples_per_class.div_ceil(4),
            };
            let sample = |index| Sample {
                id: format!("{}-{index}", split.name()),
                label: index % self.classes,
            };
            let samples: Vec<Sample> = (0..each * self.classes).map(sample).collect();
            let mut values = BTreeMap::new();
            for (modality, size, noise) in
                [("strong", 32, self.noise), ("weak", 64, 4.0 * self.noise)]
            {
                let number = |sample: &Sample, d: usize| {
                    let name = format!("{modality}-{}", sample.id);
                    let drawn = context.seed.number(Purpose::Synthesis, &name, &[d as u64]);
                    let uniform = 2.0 * (drawn >> 40) as f32 / (1u64 << 24) as f32 - 1.0;
                    noise * uniform + f32::from(u8::from(d % self.classes == sample.label))
                };
                let vector = |s| (0..size).map(move |d| number(s, d)).collect::<Vec<f32>>();
                values.insert(modality, samples.iter().map(vector).collect());
            }
            parts.insert(split, Part { samples, values });
        }
        let classes = (0..self.classes).map(|class| class.to_string()).collect();
        Ok(Box::new(TemplateName { classes, parts }))
    }
}

// Yours: where the data come from.
register!(dataset::<TemplateNameConfig>, source = "Ours");

struct Part {
    samples: Vec<Sample>,
    values: BTreeMap<&'static str, Vec<Vec<f32>>>,
}

struct TemplateName {
    classes: Vec<String>,
    parts: BTreeMap<Split, Part>,
}

impl Dataset for TemplateName {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn samples(&self, split: Split) -> &[Sample] {
        &self.parts[&split].samples
    }

    fn modalities(&self) -> Vec<String> {
        vec!["strong".to_owned(), "weak".to_owned()]
    }

    fn raw(&self, split: Split, index: usize, modality: &str) -> Result<Raw<'_>> {
        let values = self.parts[&split].values.get(modality).and_then(|all| all.get(index));
        values.map(|values| Raw::Values(values)).ok_or_else(|| {
            Error::refused(
                format!("there is no `{modality}` of sample {index} in dataset `template_name`"),
                "it has the modalities `strong` and `weak`",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_noise_the_class_is_all_there_is_to_see() {
        let config = TemplateNameConfig { noise: 0.0, ..TemplateNameConfig::default() };
        let context = OpenContext { base: std::path::PathBuf::new(), seed: Seed(0) };
        let dataset = config.open(&context).unwrap();
        assert_eq!(dataset.samples(Split::Train).len(), 160);
        assert_eq!(dataset.samples(Split::Test)[5].label, 1);
        let Raw::Values(values) = dataset.raw(Split::Test, 5, "strong").unwrap() else {
            unreachable!("it gives numbers")
        };
        let shown: Vec<usize> = (0..32).filter(|&d| values[d] > 0.5).collect();
        assert_eq!(shown, [1, 5, 9, 13, 17, 21, 25, 29]);
    }
}
