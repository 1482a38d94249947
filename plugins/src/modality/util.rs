//! What several modalities share.

use mie_core::prelude::*;
use rand::RngExt;
use rand_distr::StandardNormal;

/// The error of a raw thing that `modality` cannot decode.
pub(super) fn wrong_kind(modality: &str, wanted: &str, raw: &Raw<'_>) -> Error {
    Error::refused(
        format!("modality `{modality}` decodes {wanted}, the dataset gives {}", raw.kind()),
        "choose the `input` of a modality that decodes what the dataset gives",
    )
}

/// Names what a plugin decodes in the cache: its options, and a version to raise whenever the
/// values of the same options change.
pub(super) fn recipe(plugin: &str, version: u32, config: &impl Serialize) -> String {
    // Options of plugins can be written, or no run directory would hold them.
    let options = serde_json::to_string(config).unwrap_or_default();
    format!("{plugin} {version} {options}")
}

/// Adds Gaussian noise that stays with the sample over the whole run.
pub(super) fn add_noise(values: &mut [f32], deviation: f64, draw: &Draw<'_>) {
    if deviation > 0.0 {
        let mut stream = draw.fixed();
        for value in values {
            let noise: f32 = stream.sample(StandardNormal);
            *value += deviation as f32 * noise;
        }
    }
}

/// Checks the deviation of added noise.
pub(super) fn ensure_noise(deviation: f64) -> Result<()> {
    let usable = deviation >= 0.0 && deviation.is_finite();
    ensure_range("noise_deviation", "[0, inf)", deviation, usable)
}

/// Runs a modality on one raw thing, for tests.
#[cfg(test)]
pub(super) fn decode(
    config: &dyn ModalityConfig,
    raw: &Raw<'_>,
    mode: Mode,
    draw: &Draw<'_>,
) -> Result<Vec<f32>> {
    let modality = config.build()?;
    let mut values = vec![f32::NAN; modality.layout()[0].len()];
    modality.load(raw, mode, draw, &mut SampleBuffers::new(vec![Buffer::F32(&mut values)]))?;
    Ok(values)
}

/// The draw of a sample in an epoch, for tests.
#[cfg(test)]
pub(super) fn draw(epoch: u64, sample: u64) -> Draw<'static> {
    Draw { seed: Seed(0), modality: "made_up", epoch, sample }
}
