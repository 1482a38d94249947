//! Recordings as samples of a wanted rate.

use std::cell::RefCell;
use std::path::Path;

use mie_core::prelude::*;
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use crate::formats::wav;

/// Most samples of a recording and most values made of one: 1 GiB of either.
pub(super) const MOST: usize = 1 << 28;

/// Largest magnitude of a sample that is resampled, in units of full scale.
const LOUDEST: f32 = 1e6;

/// Checks a sample rate to which recordings are brought.
pub(super) fn ensure_rate(rate_hertz: u32) -> Result<()> {
    let usable = wav::RATES_HERTZ.contains(&rate_hertz);
    ensure_range("sample_rate_hertz", "[1000, 768000]", rate_hertz, usable)
}

/// Reads a recording, mixes it down to one channel and brings it to `rate_hertz`.
///
/// It has at least one sample.
pub(super) fn load(file: &Path, rate_hertz: u32) -> Result<Vec<f32>> {
    let recording = wav::read(file)?;
    let signal = resample(recording.samples, (recording.rate_hertz, rate_hertz))
        .map_err(|problem| Error::data(file, format!("cannot be resampled: {problem}")))?;
    if signal.is_empty() {
        return Err(Error::data(file, "is too short to be resampled"));
    }
    Ok(signal)
}

/// Source and target rate in hertz.
type Rates = (u32, u32);

/// Samples in the shorter of a resampler's two blocks; its cut-off lies at 0.987 of the lower
/// half rate then.
const BLOCK_SAMPLES: usize = 1024;

thread_local! {
    /// The last resampler of a thread: recordings of a dataset nearly always share a rate.
    static RESAMPLER: RefCell<Option<(Rates, Fft<f32>)>> = const { RefCell::new(None) };
}

/// Resamples a whole recording with a windowed sinc filter, by Fourier transforms.
fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn resample(samples: Vec<f32>, rates: Rates) -> Result<Vec<f32>, String> {
    let (from, to) = (rates.0 as usize, rates.1 as usize);
    if from == to {
        return Ok(samples);
    }
    if samples.len().saturating_mul(to) / from > MOST {
        return Err(format!("{} samples of {from} Hz are over 2^28 of {to} Hz", samples.len()));
    }
    // Sums over a block must stay finite: the resampler panics on what overflows.
    if let Some(loud) = samples.iter().find(|sample| sample.abs() > LOUDEST) {
        return Err(format!("a sample is {loud:e} times full scale, over {LOUDEST:e}"));
    }
    RESAMPLER.with_borrow_mut(|kept| {
        let mut resampler = match kept.take() {
            Some((of, resampler)) if of == rates => resampler,
            _ => {
                // An odd block would shift what comes out by half a sample.
                let block = (BLOCK_SAMPLES * from.div_ceil(to))
                    .next_multiple_of(2 * from / greatest_common_divisor(from, to));
                let window = WindowFunction::BlackmanHarris2;
                Fft::new_custom(from, to, block, 1, 1, window, FixedSync::Both)
                    .map_err(|error| error.to_string())?
            }
        };
        let input = InterleavedSlice::new(samples.as_slice(), 1, samples.len())
            .map_err(|error| error.to_string())?;
        let output = resampler
            .process_all(&input, samples.len(), None)
            .map_err(|error| error.to_string())?
            .take_data();
        *kept = Some((rates, resampler));
        Ok(output)
    })
}

/// Signals, and what other implementations make of them, for tests.
#[cfg(test)]
pub(super) mod fixture {
    use std::f64::consts::{PI, TAU};
    use std::path::Path;

    use mie_core::prelude::*;

    use crate::formats::wav::fixture::floats;

    /// A deterministic signal without structure, in `[-0.5, 0.5]`.
    pub(crate) fn scramble(count: usize) -> Vec<f32> {
        (0..count).map(|n| ((n * n * 37 + n * 11) % 1009) as f32 / 1008.0 - 0.5).collect()
    }

    pub(crate) fn tone(hertz: f64, rate_hertz: u32, amplitude: f64, count: usize) -> Vec<f32> {
        let step = TAU * hertz / f64::from(rate_hertz);
        (0..count).map(|n| (amplitude * (step * n as f64).sin()) as f32).collect()
    }

    /// White noise in `[-0.5, 0.5)`: the upper halves of what a linear congruence gives.
    fn noise(count: usize, seed: u32) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 16) / 65_536.0 - 0.5
        };
        (0..count).map(|_| next()).collect()
    }

    /// A rising tone with overtones in noise, that swells and fades, within `[-0.5, 0.5]`.
    ///
    /// `voice` of `tests/reference/audio.py`.
    pub(crate) fn voice(rate_hertz: u32, count: usize, seed: u32) -> Vec<f32> {
        let sample = |(n, noise): (usize, f64)| {
            let time = n as f64 / f64::from(rate_hertz);
            let swell = (PI * n as f64 / count as f64).sin().powi(2);
            let turns = 180.0 * time + 60.0 * time * time;
            let overtone = |k: i32| (TAU * f64::from(k) * turns).sin() / 16.0;
            let tones: f64 = (1..=12).map(overtone).sum();
            (swell * (0.6 * tones + 0.1 * noise)) as f32
        };
        noise(count, seed).into_iter().enumerate().map(sample).collect()
    }

    /// Stores a recording as a file.
    pub(crate) fn stored(folder: &Path, rate_hertz: u32, samples: &[f32]) -> Raw<'static> {
        let file = folder.join("recording.wav");
        std::fs::write(&file, floats(rate_hertz, samples)).unwrap();
        Raw::File(file)
    }

    /// Reads what another implementation made: shape and values of the array `name`.
    pub(crate) fn reference(file: &str, name: &str) -> (Vec<i64>, Vec<f32>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/data");
        let tensors = Tensor::read_safetensors(folder.join(file)).unwrap();
        let (_, tensor) = tensors.into_iter().find(|(found, _)| found == name).unwrap();
        let values = Vec::try_from(tensor.to_kind(Kind::Float).flatten(0, -1)).unwrap();
        (tensor.size(), values)
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{scramble, tone};
    use super::*;

    #[test]
    fn resampling_keeps_frequency_amplitude_and_time() {
        for (from, to) in [(8_000, 16_000), (16_000, 8_000), (44_100, 22_050), (48_000, 35_400)] {
            let count = from as usize / 2;
            let found = resample(tone(440.0, from, 0.8, count), (from, to)).unwrap();
            assert_eq!(found.len(), to as usize / 2, "{from} to {to}");
            // Away from the ends, where the filter sees silence.
            let edge = to as usize / 10;
            let expected = tone(440.0, to, 0.8, found.len());
            let inner = edge..found.len() - edge;
            for (found, expected) in found[inner.clone()].iter().zip(&expected[inner]) {
                assert!((found - expected).abs() < 0.008, "{from} to {to}: {found} {expected}");
            }
        }
    }

    #[test]
    fn what_would_not_fit_into_memory_is_not_resampled() {
        // 400 s of 1000 Hz, made 768 times as long.
        let problem = resample(vec![0.0; 400_000], (1_000, 768_000)).unwrap_err();
        assert_eq!(problem, "400000 samples of 1000 Hz are over 2^28 of 768000 Hz");
    }

    #[test]
    fn resampling_gives_the_same_bits_whatever_came_before() {
        let signal = scramble(3_000);
        let first = resample(signal.clone(), (8_000, 22_050)).unwrap();
        resample(scramble(777), (44_100, 22_050)).unwrap();
        resample(scramble(50), (8_000, 22_050)).unwrap();
        let again = resample(signal.clone(), (8_000, 22_050)).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&first), bits(&again));
        let untouched = resample(signal.clone(), (8_000, 8_000)).unwrap();
        assert_eq!(bits(&untouched), bits(&signal));
        assert_eq!(resample(vec![0.5], (8_000, 22_050)).unwrap().len(), 3);
    }
}
