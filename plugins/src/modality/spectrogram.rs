//! Recordings as logarithmic spectrograms.

use std::cell::RefCell;
use std::f64::consts::TAU;
use std::sync::Arc;

use mie_core::prelude::*;
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use super::util::{add_noise, ensure_noise, wrong_kind};
use crate::formats::wav;

/// Computes the logarithmic magnitude spectrogram of a recording.
///
/// The recording is mixed down to one channel, resampled to `sample_rate_hertz`, brought to
/// `length_samples`, given noise of deviation `noise_deviation` and cut to `[-1, 1]`. With `x` the
/// result, `N` = `window_samples`, `h` = `hop_samples`, `w` the periodic Hann window and `x = 0`
/// outside the recording (or its mirror image, see `edges`):
///
/// ```text
/// S[k, t]        = sum_n w[n] x[t h - N/2 + n] exp(-2 pi i k n / N)   n = 0 … N - 1
/// value[0, k, t] = ln(|S[k, t]| + log_floor)                          k = 0 … N/2
/// ```
///
/// Shapes: `value` `[1, window_samples / 2 + 1, 1 + length_samples / hop_samples]` f32, the
/// division rounded down: `[1, 257, 188]` by default. The defaults are those of the released code
/// of MIE for CREMA-D (22050 Hz, 3 s); for Kinetics-Sounds it takes 35400 Hz and 354000 samples.
/// For spoken digits of 8000 Hz, 256, 128 and 8192 samples do.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpectrogramConfig {
    /// Sample rate to which recordings are brought, in hertz, from 1000 to 768000. Default 22050.
    pub sample_rate_hertz: u32,
    /// Length `N` of the window in samples, even, at least 2. Default 512.
    pub window_samples: usize,
    /// Distance `h` between windows in samples, at least 1. Default 353.
    pub hop_samples: usize,
    /// Length to which recordings are brought, in samples of `sample_rate_hertz`, at least 1.
    /// Default 66150, 3 s.
    pub length_samples: usize,
    /// How a shorter recording is filled up. Default `tile`.
    pub fit: Fit,
    /// What lies outside the recording for the first and last windows. Default `zeros`.
    pub edges: Edges,
    /// Added to every magnitude, so that silence has a logarithm; at least 1e-30. Default 1e-7.
    pub log_floor: f64,
    /// Whether each spectrogram is normalised by itself. Default `none`.
    pub normalise: Normalise,
    /// Deviation of the Gaussian noise added to the samples, on the scale `[-1, 1]`, at least 0.
    /// It belongs to the sample: drawn once from the seed of the run, the same in every epoch and
    /// mode. Default 0, no noise.
    pub noise_deviation: f64,
}

/// How a recording shorter than wanted is filled up; a longer one is cut at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Repeated from its start until long enough. The released code of MIE repeats CREMA-D's
    /// recordings three times and doubles those of Kinetics-Sounds; once cut that is the same,
    /// for recordings of at least a third of the length.
    Tile,
    /// Followed by zeros.
    Pad,
}

/// What windows see outside the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Edges {
    /// Zeros, as librosa since 0.9.
    Zeros,
    /// The recording mirrored at its first and last sample, as librosa before 0.9. Needs more than
    /// `window_samples / 2` samples.
    Reflect,
}

/// Whether a spectrogram is normalised by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// Left as it is.
    None,
    /// To mean 0 and deviation 1 over all its values.
    Sample,
}

impl Default for SpectrogramConfig {
    fn default() -> Self {
        Self {
            sample_rate_hertz: 22_050,
            window_samples: 512,
            hop_samples: 353,
            length_samples: 66_150,
            fit: Fit::Tile,
            edges: Edges::Zeros,
            log_floor: 1e-7,
            normalise: Normalise::None,
            noise_deviation: 0.0,
        }
    }
}

/// Most samples of a recording and most values of a spectrogram: 1 GiB of either.
const MOST: usize = 1 << 28;

/// Largest magnitude of a sample that is resampled, in units of full scale.
const LOUDEST: f32 = 1e6;

#[typetag::serde(name = "spectrogram")]
impl ModalityConfig for SpectrogramConfig {
    fn validate(&self) -> Result<()> {
        let rate = self.sample_rate_hertz;
        let usable = wav::RATES_HERTZ.contains(&rate);
        ensure_range("sample_rate_hertz", "[1000, 768000]", rate, usable)?;
        let window = self.window_samples;
        let usable = window >= 2 && window.is_multiple_of(2) && window <= 1 << 20;
        ensure_range("window_samples", "an even number in [2, 2^20]", window, usable)?;
        let hop = self.hop_samples;
        ensure_range("hop_samples", "[1, 2^28]", hop, (1..=MOST).contains(&hop))?;
        let length = self.length_samples;
        ensure_range("length_samples", "[1, 2^28]", length, (1..=MOST).contains(&length))?;
        let values = (window / 2 + 1) * (1 + length / hop);
        ensure_range("hop_samples", "large enough for at most 2^28 values", hop, values <= MOST)?;
        if self.edges == Edges::Reflect {
            let expected = "more than window_samples / 2 with edges = \"reflect\"";
            ensure_range("length_samples", expected, length, length > window / 2)?;
        }
        let usable = self.log_floor >= 1e-30 && self.log_floor.is_finite();
        ensure_range("log_floor", "[1e-30, inf)", self.log_floor, usable)?;
        ensure_noise(self.noise_deviation)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        let size = self.window_samples;
        let hann = |n: usize| (0.5 - 0.5 * (TAU * n as f64 / size as f64).cos()) as f32;
        Ok(Box::new(Spectrogram {
            config: self.clone(),
            window: (0..size).map(hann).collect(),
            fourier: RealFftPlanner::new().plan_fft_forward(size),
        }))
    }
}
register!(
    modality::<SpectrogramConfig>,
    source = "https://github.com/njustkmg/IJCAI25-IGM (datasets/CREMA.py, KS.py)"
);

struct Spectrogram {
    config: SpectrogramConfig,
    window: Vec<f32>,
    fourier: Arc<dyn RealToComplex<f32>>,
}

impl Modality for Spectrogram {
    fn layout(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[1, self.bins() as i64, self.frames() as i64])
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        _mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let Raw::File(file) = raw else {
            return Err(wrong_kind("spectrogram", "a file", raw));
        };
        let recording = wav::read(file)?;
        let rates = (recording.rate_hertz, self.config.sample_rate_hertz);
        let mut signal = resample(recording.samples, rates)
            .map_err(|problem| Error::data(file, format!("cannot be resampled: {problem}")))?;
        if signal.is_empty() {
            return Err(Error::data(file, "is too short to be resampled"));
        }
        fit(&mut signal, self.config.length_samples, self.config.fit);
        add_noise(&mut signal, self.config.noise_deviation, draw);
        for sample in &mut signal {
            *sample = sample.clamp(-1.0, 1.0);
        }
        let values = out.f32(0)?;
        self.transform(&signal, values)?;
        if self.config.normalise == Normalise::Sample {
            normalise(values);
        }
        Ok(())
    }
}

/// Working memory of a thread, reused from sample to sample.
struct Scratch {
    /// The signal with half a window on either side.
    extended: Vec<f32>,
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    work: Vec<Complex<f32>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            extended: Vec::new(),
            frame: Vec::new(),
            spectrum: Vec::new(),
            work: Vec::new(),
        })
    };
}

impl Spectrogram {
    fn bins(&self) -> usize {
        self.config.window_samples / 2 + 1
    }

    fn frames(&self) -> usize {
        1 + self.config.length_samples / self.config.hop_samples
    }

    /// Fills `values` `[bins, frames]` from `signal` `[length_samples]`.
    fn transform(&self, signal: &[f32], values: &mut [f32]) -> Result<()> {
        let frames = self.frames();
        let floor = self.config.log_floor as f32;
        SCRATCH.with_borrow_mut(|scratch| {
            self.extend(signal, &mut scratch.extended);
            let silence = Complex::new(0.0, 0.0);
            scratch.spectrum.resize(self.bins(), silence);
            scratch.work.resize(self.fourier.get_scratch_len(), silence);
            for frame in 0..frames {
                let seen = &scratch.extended[frame * self.config.hop_samples..];
                scratch.frame.clear();
                scratch.frame.extend(seen.iter().zip(&self.window).map(|(x, w)| x * w));
                self.fourier
                    .process_with_scratch(
                        &mut scratch.frame,
                        &mut scratch.spectrum,
                        &mut scratch.work,
                    )
                    .map_err(|error| Error::Bug(format!("Fourier transform: {error}")))?;
                for (bin, amplitude) in scratch.spectrum.iter().enumerate() {
                    values[bin * frames + frame] = (amplitude.norm_sqr().sqrt() + floor).ln();
                }
            }
            Ok(())
        })
    }

    /// Puts half a window on either side of the signal.
    fn extend(&self, signal: &[f32], extended: &mut Vec<f32>) {
        let half = self.config.window_samples / 2;
        extended.clear();
        match self.config.edges {
            Edges::Zeros => {
                extended.resize(half, 0.0);
                extended.extend(signal);
                extended.resize(signal.len() + 2 * half, 0.0);
            }
            Edges::Reflect => {
                extended.extend(signal[1..=half].iter().rev());
                extended.extend(signal);
                let inner = signal.len() - 1;
                extended.extend(signal[inner - half..inner].iter().rev());
            }
        }
    }
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
                let block = BLOCK_SAMPLES * from.div_ceil(to);
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

/// Brings a signal to `length`.
fn fit(signal: &mut Vec<f32>, length: usize, how: Fit) {
    match how {
        Fit::Pad => signal.resize(length, 0.0),
        Fit::Tile => {
            while signal.len() < length {
                // Doubling keeps the period, which is the length it had at first.
                let more = signal.len().min(length - signal.len());
                signal.extend_from_within(..more);
            }
            signal.truncate(length);
        }
    }
}

/// Brings values to mean 0 and deviation 1; constant ones to 0.
fn normalise(values: &mut [f32]) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
    let deviation = (squares / count).sqrt().max(1e-6);
    for value in values {
        *value = ((f64::from(*value) - mean) / deviation) as f32;
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::util::{decode, draw};
    use super::*;
    use crate::formats::real_data;
    use crate::formats::wav::fixture;

    /// A deterministic signal without structure, in `[-0.5, 0.5]`.
    fn scramble(count: usize) -> Vec<f32> {
        (0..count).map(|n| ((n * n * 37 + n * 11) % 1009) as f32 / 1008.0 - 0.5).collect()
    }

    fn tone(hertz: f64, rate_hertz: u32, amplitude: f64, count: usize) -> Vec<f32> {
        let step = TAU * hertz / f64::from(rate_hertz);
        (0..count).map(|n| (amplitude * (step * n as f64).sin()) as f32).collect()
    }

    fn stored(folder: &Path, rate_hertz: u32, samples: &[f32]) -> Raw<'static> {
        let file = folder.join("recording.wav");
        std::fs::write(&file, fixture::floats(rate_hertz, samples)).unwrap();
        Raw::File(file)
    }

    fn spectrogram(config: &SpectrogramConfig, rate_hertz: u32, samples: &[f32]) -> Vec<f32> {
        let folder = tempfile::tempdir().unwrap();
        let raw = stored(folder.path(), rate_hertz, samples);
        decode(config, &raw, Mode::Training, &draw(0, 0)).unwrap()
    }

    /// Small sizes, 8000 Hz.
    fn small() -> SpectrogramConfig {
        SpectrogramConfig {
            sample_rate_hertz: 8_000,
            window_samples: 64,
            hop_samples: 24,
            length_samples: 500,
            ..SpectrogramConfig::default()
        }
    }

    /// The definition, sample by sample.
    fn reference(config: &SpectrogramConfig, signal: &[f32]) -> Vec<f64> {
        let (size, count) = (config.window_samples as i64, signal.len() as i64);
        let frames = 1 + config.length_samples / config.hop_samples;
        let mut magnitudes = Vec::new();
        for bin in 0..=size / 2 {
            for frame in 0..frames {
                let (mut real, mut imaginary) = (0.0, 0.0);
                for n in 0..size {
                    let mut at = (frame * config.hop_samples) as i64 - size / 2 + n;
                    if config.edges == Edges::Reflect {
                        at = if at < 0 { -at } else { at };
                        at = if at >= count { 2 * (count - 1) - at } else { at };
                    }
                    let x = usize::try_from(at).ok().and_then(|at| signal.get(at));
                    let window = 0.5 - 0.5 * (TAU * n as f64 / size as f64).cos();
                    let weighted = window * f64::from(*x.unwrap_or(&0.0));
                    let angle = TAU * (bin * n) as f64 / size as f64;
                    real += weighted * angle.cos();
                    imaginary -= weighted * angle.sin();
                }
                magnitudes.push(f64::hypot(real, imaginary));
            }
        }
        magnitudes
    }

    #[test]
    fn magnitudes_are_those_of_the_definition() {
        for edges in [Edges::Zeros, Edges::Reflect] {
            let config = SpectrogramConfig { edges, ..small() };
            let signal = scramble(500);
            let found = spectrogram(&config, 8_000, &signal);
            let expected = reference(&config, &signal);
            assert_eq!(found.len(), 33 * 21);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let magnitude = f64::from(*found).exp() - 1e-7;
                assert!((magnitude - expected).abs() < 1e-4, "{magnitude} is not {expected}");
            }
        }
    }

    #[test]
    fn the_published_sizes_come_out() {
        let shape = |sample_rate_hertz, length_samples| {
            let config = SpectrogramConfig {
                sample_rate_hertz,
                length_samples,
                ..SpectrogramConfig::default()
            };
            config.build().unwrap().layout()[0].shape.clone()
        };
        assert_eq!(shape(22_050, 66_150), [1, 257, 188]);
        assert_eq!(shape(35_400, 354_000), [1, 257, 1003]);
    }

    #[test]
    fn a_tone_peaks_at_its_bin() {
        // 1000 Hz at 8000 Hz and 64 samples: bin 8, in every frame that lies within the signal.
        let found = spectrogram(&small(), 8_000, &tone(1_000.0, 8_000, 0.5, 500));
        for frame in 2..19_usize {
            let loudest = (0..33_usize)
                .max_by(|a, b| found[a * 21 + frame].total_cmp(&found[b * 21 + frame]))
                .unwrap();
            assert_eq!(loudest, 8, "frame {frame}");
            // Half the amplitude times the sum of the window: 0.25 * 32.
            let magnitude = found[8 * 21 + frame].exp();
            assert!((magnitude - 8.0).abs() < 1e-3, "{magnitude}");
        }
    }

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
    fn what_cannot_be_resampled_is_refused_with_the_file() {
        // 400 s of 1000 Hz, made 768 times as long.
        let problem = resample(vec![0.0; 400_000], (1_000, 768_000)).unwrap_err();
        assert_eq!(problem, "400000 samples of 1000 Hz are over 2^28 of 768000 Hz");
        let folder = tempfile::tempdir().unwrap();
        let config = SpectrogramConfig { sample_rate_hertz: 8_000, ..small() };
        let raw = stored(folder.path(), 16_000, &[f32::MAX; 4_000]);
        let error = decode(&config, &raw, Mode::Training, &draw(0, 0)).unwrap_err().to_string();
        assert!(error.contains(".wav: cannot be resampled: a sample is 3.4"), "{error}");
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

    #[test]
    fn short_recordings_are_repeated_or_padded_and_long_ones_cut() {
        let brought = |how, length| {
            let mut signal = vec![1.0, 2.0, 3.0];
            fit(&mut signal, length, how);
            signal.iter().map(|&value| value as i32).collect::<Vec<_>>()
        };
        assert_eq!(brought(Fit::Tile, 8), [1, 2, 3, 1, 2, 3, 1, 2]);
        assert_eq!(brought(Fit::Pad, 5), [1, 2, 3, 0, 0]);
        assert_eq!(brought(Fit::Tile, 2), [1, 2]);
        assert_eq!(brought(Fit::Pad, 2), [1, 2]);
    }

    #[test]
    fn silence_is_the_floor_and_loud_recordings_are_cut_to_full_scale() {
        let floor = 1e-7f32.ln();
        let silent = spectrogram(&small(), 8_000, &[0.0; 500]);
        assert!(silent.iter().all(|value| (value - floor).abs() < 1e-4));
        let loud = spectrogram(&small(), 8_000, &[7.0; 500]);
        let full = spectrogram(&small(), 8_000, &[1.0; 500]);
        assert!(loud.iter().zip(&full).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn a_normalised_spectrogram_has_mean_0_and_deviation_1() {
        let config = SpectrogramConfig { normalise: Normalise::Sample, ..small() };
        let values = spectrogram(&config, 8_000, &scramble(500));
        let count = values.len() as f32;
        let mean = values.iter().sum::<f32>() / count;
        let variance = values.iter().map(|value| value * value).sum::<f32>() / count;
        assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
        let silent = spectrogram(&config, 8_000, &[0.0; 500]);
        assert!(silent.iter().all(|value| value.abs() < 1e-3));
    }

    #[test]
    fn noise_stays_with_the_sample() {
        let folder = tempfile::tempdir().unwrap();
        let raw = stored(folder.path(), 8_000, &[0.0; 500]);
        let config = SpectrogramConfig { noise_deviation: 0.1, ..small() };
        let noisy = |mode, at: Draw<'_>| decode(&config, &raw, mode, &at).unwrap();
        let equal = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        let first = noisy(Mode::Training, draw(0, 1));
        assert!(equal(&first, &noisy(Mode::Evaluation, draw(4, 1))));
        assert!(!equal(&first, &noisy(Mode::Training, draw(0, 2))));
        // E |S|^2 = deviation^2 sum w^2 = 0.01 * 24, over the frames that lie within the signal.
        let inner = (1..32_usize).flat_map(|bin| (2..19).map(move |frame| bin * 21 + frame));
        let power: f32 = inner.map(|at| first[at].exp().powi(2)).sum::<f32>() / (31.0 * 17.0);
        assert!((power - 0.24).abs() < 0.08, "{power}");
    }

    #[test]
    fn unusable_options_and_raw_things_are_refused() {
        let refusal = |config: SpectrogramConfig| config.validate().unwrap_err().to_string();
        let odd = refusal(SpectrogramConfig { window_samples: 511, ..small() });
        assert!(odd.starts_with("`window_samples` is 511, expected an even number"), "{odd}");
        let short =
            refusal(SpectrogramConfig { edges: Edges::Reflect, length_samples: 32, ..small() });
        assert!(short.starts_with("`length_samples` is 32, expected more than"), "{short}");
        let still = refusal(SpectrogramConfig { hop_samples: 0, ..small() });
        assert!(still.starts_with("`hop_samples` is 0"), "{still}");
        let decoded = |raw| decode(&small(), &raw, Mode::Training, &draw(0, 0)).unwrap_err();
        let error = decoded(Raw::Values(&[1.0])).to_string();
        assert!(error.contains("`spectrogram` decodes a file, the dataset gives numbers"));
        let error = decoded(Raw::File(PathBuf::from("/absent/one.wav"))).to_string();
        assert!(error.contains("/absent/one.wav"), "{error}");
    }

    #[test]
    fn a_real_recording_has_most_power_below_half_its_band() {
        let Some(folder) = real_data::folder("avdigits") else { return };
        let config = SpectrogramConfig {
            sample_rate_hertz: 8_000,
            window_samples: 256,
            hop_samples: 128,
            length_samples: 8_192,
            fit: Fit::Pad,
            ..SpectrogramConfig::default()
        };
        assert_eq!(config.build().unwrap().layout()[0].shape, [1, 129, 65]);
        let raw = Raw::File(folder.join("fsdd/recordings/0_george_0.wav"));
        let values = decode(&config, &raw, Mode::Evaluation, &draw(0, 0)).unwrap();
        assert!(values.iter().all(|value| value.is_finite()));
        let power = |bins: std::ops::Range<usize>| {
            values[bins.start * 65..bins.end * 65]
                .iter()
                .map(|value| f64::from(*value).exp().powi(2))
                .sum::<f64>()
        };
        assert!(power(0..64) > 4.0 * power(64..129), "{} {}", power(0..64), power(64..129));
    }
}
