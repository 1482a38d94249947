//! Numbers as they are.

use std::path::Path;

use mie_core::prelude::*;

use super::util::wrong_kind;

/// Hands a sample's numbers over unchanged.
///
/// A file is read as text: numbers between spaces, commas or line breaks.
///
/// ```text
/// value = raw numbers
/// ```
///
/// Shapes: `value` `[dimensions]` f32, or that of the option `shape`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VectorConfig {
    /// Numbers a sample has, at least 1. Default 32, that of `synthetic`'s modality `strong`.
    pub dimensions: usize,
    /// Sides that the numbers are laid out in, the last one fastest, e.g. `[1, 257, 188]` to make a
    /// picture of them: at least 1 each, `dimensions` together. Default empty, one side.
    pub shape: Vec<i64>,
}

impl Default for VectorConfig {
    fn default() -> Self {
        Self { dimensions: 32, shape: Vec::new() }
    }
}

#[typetag::serde(name = "vector")]
impl ModalityConfig for VectorConfig {
    fn validate(&self) -> Result<()> {
        let usable = (1..=1 << 30).contains(&self.dimensions);
        ensure_range("dimensions", "[1, 2^30]", self.dimensions, usable)?;
        let numbers = self
            .shape
            .iter()
            .try_fold(1i64, |product, &side| (side >= 1).then_some(product)?.checked_mul(side));
        let fits = self.shape.is_empty() || numbers == Some(self.dimensions as i64);
        let expected = format!("empty or sides of {} numbers together", self.dimensions);
        ensure_range("shape", &expected, format!("{:?}", self.shape), fits)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        Ok(Box::new(Vector { config: self.clone() }))
    }
}
register!(modality::<VectorConfig>, source = "Ours");

struct Vector {
    config: VectorConfig,
}

impl Modality for Vector {
    fn layout(&self) -> Vec<TensorLayout> {
        match &self.config.shape[..] {
            [] => TensorLayout::value(&[self.config.dimensions as i64]),
            sides => TensorLayout::value(sides),
        }
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        _mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let read;
        let values = match raw {
            Raw::Values(values) => *values,
            Raw::File(file) => {
                read = numbers(file)?;
                read.as_slice()
            }
            _ => return Err(wrong_kind("vector", "numbers", raw)),
        };
        let dimensions = self.config.dimensions;
        if values.len() != dimensions {
            let what = format!("numbers of modality `{}` (option `dimensions`)", draw.modality);
            return Err(Error::shape(what, dimensions, values.len()));
        }
        out.f32_to_overwrite(0)?.copy_from_slice(values);
        Ok(())
    }
}

/// Reads a text file of numbers.
fn numbers(file: &Path) -> Result<Vec<f32>> {
    let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
    text.split(|letter: char| letter.is_whitespace() || letter == ',')
        .filter(|word| !word.is_empty())
        .map(|word| match word.parse::<f32>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(Error::data(file, format!("holds `{word}`, expected finite numbers"))),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "copied numbers are equal")]
mod tests {
    use super::super::util::{decode, draw};
    use super::*;

    #[test]
    fn numbers_come_through_unchanged() {
        let config = VectorConfig { dimensions: 3, ..VectorConfig::default() };
        let raw = Raw::Values(&[1.0, -2.5, 0.0]);
        let values = decode(&config, &raw, Mode::Training, &draw(0, 0)).unwrap();
        assert_eq!(values, [1.0, -2.5, 0.0]);
        assert_eq!(config.build().unwrap().layout()[0].shape, [3]);
    }

    #[test]
    fn numbers_are_laid_out_in_a_shape_that_they_fill() {
        let config = |shape: &[i64]| VectorConfig { dimensions: 6, shape: shape.to_vec() };
        let layout = config(&[1, 3, 2]).build().unwrap().layout();
        assert_eq!((layout[0].shape.as_slice(), layout[0].len()), (&[1, 3, 2][..], 6));
        let raw = Raw::Values(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let values = decode(&config(&[3, 2]), &raw, Mode::Training, &draw(0, 0)).unwrap();
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        for shape in [&[7][..], &[-2, -3], &[6, 0], &[i64::MAX, i64::MAX, 6]] {
            let error = config(shape).validate().unwrap_err().to_string();
            let expected = "expected empty or sides of 6 numbers together";
            assert_eq!(error, format!("`shape` is {shape:?}, {expected}"));
        }
    }

    #[test]
    fn a_file_of_numbers_is_read_and_one_of_words_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("three.csv");
        let config = VectorConfig { dimensions: 3, ..VectorConfig::default() };
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            decode(&config, &Raw::File(file.clone()), Mode::Evaluation, &draw(0, 0))
        };
        assert_eq!(read("1, -2.5,\n0").unwrap(), [1.0, -2.5, 0.0]);
        for word in ["one", "NaN", "1e99"] {
            let error = read(&format!("1 {word} 3")).unwrap_err().to_string();
            assert!(
                error.ends_with(&format!("three.csv: holds `{word}`, expected finite numbers"))
            );
        }
    }

    #[test]
    fn another_number_of_dimensions_and_another_kind_are_refused() {
        let config = VectorConfig { dimensions: 3, ..VectorConfig::default() };
        let refusal = |raw: Raw<'_>| {
            decode(&config, &raw, Mode::Evaluation, &draw(0, 0)).unwrap_err().to_string()
        };
        let error = refusal(Raw::Values(&[1.0]));
        assert_eq!(
            error,
            "numbers of modality `made_up` (option `dimensions`): expected 3, found 1"
        );
        assert!(refusal(Raw::Text("one")).contains("decodes numbers, the dataset gives text"));
    }
}
