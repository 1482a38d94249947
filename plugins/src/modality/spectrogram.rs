//! Recordings as logarithmic spectrograms.

use std::cell::RefCell;
use std::f32::consts::LN_2;
use std::f64::consts::TAU;
use std::sync::Arc;

use mie_core::prelude::*;
use multiversion::multiversion;
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use super::sound::{self, MOST};
use super::util::{add_noise, ensure_noise, recipe, wrong_kind};

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
///
/// Against librosa (`stft` of its default window, then the logarithm): at the recording's own rate
/// magnitudes are equal within 2e-5 where they reach 5, and logarithms of those over 0.1 within
/// 1e-4. After resampling that is within 1.5e-3 and 2e-3 up to nine tenths of the lower of the two
/// half rates: bin 230 of 257 from 44100 or 48000 Hz to 22050 Hz, but bin 167, 0.65 of the band,
/// from 16000 Hz. Above, the filters let different shares pass, and logarithms differ by up to 8.
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
    /// Added to every magnitude, so that silence has a logarithm; from 1e-30 to 1. Default 1e-7.
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

#[typetag::serde(name = "spectrogram")]
impl ModalityConfig for SpectrogramConfig {
    fn validate(&self) -> Result<()> {
        sound::ensure_rate(self.sample_rate_hertz)?;
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
        let floor = self.log_floor;
        ensure_range("log_floor", "[1e-30, 1]", floor, (1e-30..=1.0).contains(&floor))?;
        ensure_noise(self.noise_deviation)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        let size = self.window_samples;
        let angle = |n: usize| TAU * n as f64 / size as f64;
        let half_hann = |n: usize| (0.25 - 0.25 * angle(n).cos()) as f32;
        let turn = |bin: usize| Complex::new(angle(bin).cos() as f32, -angle(bin).sin() as f32);
        Ok(Box::new(Spectrogram {
            config: self.clone(),
            half_window: (0..size).map(half_hann).collect(),
            fourier: FftPlanner::new().plan_fft_forward(size / 2),
            turns: (0..=size / 4).map(turn).collect(),
        }))
    }
}
register!(
    modality::<SpectrogramConfig>,
    source = "https://github.com/njustkmg/IJCAI25-IGM (datasets/CREMA.py, KS.py)"
);

struct Spectrogram {
    config: SpectrogramConfig,
    /// The window, halved: two halves are added up for each value.
    half_window: Vec<f32>,
    /// Transforms windows whose samples are paired to complex numbers.
    fourier: Arc<dyn Fft<f32>>,
    /// `exp(-2 pi i k / N)` for `k = 0 … N/4`.
    turns: Vec<Complex<f32>>,
}

impl Modality for Spectrogram {
    fn layout(&self) -> Vec<TensorLayout> {
        TensorLayout::value(&[1, self.bins() as i64, self.frames() as i64])
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        if self.noisy() {
            return self.finish(self.decode(raw, mode)?.view(), mode, draw, out);
        }
        let values = out.f32_to_overwrite(0)?;
        self.signal(raw, |signal| self.complete(signal, values))
    }

    fn cacheable(&self) -> Option<&dyn Decode> {
        Some(self)
    }
}

/// What is decoded is the whole spectrogram, or with noise the recording before it is added.
impl Decode for Spectrogram {
    fn recipe(&self, _mode: Mode) -> String {
        recipe("spectrogram", 2, &self.config)
    }

    fn decode(&self, raw: &Raw<'_>, _mode: Mode) -> Result<Decoded> {
        self.signal(raw, |signal| {
            if self.noisy() {
                let values = Values::F32(signal.to_vec());
                return Ok(Decoded { shape: vec![signal.len()], values });
            }
            let shape = vec![self.bins(), self.frames()];
            let mut values = vec![0.0; self.bins() * self.frames()];
            self.complete(signal, &mut values)?;
            Ok(Decoded { shape, values: Values::F32(values) })
        })
    }

    fn finish(
        &self,
        decoded: DecodedView<'_>,
        _mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let (found, values) = (decoded.f32()?, out.f32_to_overwrite(0)?);
        if self.noisy() {
            let mut signal = found.to_vec();
            add_noise(&mut signal, self.config.noise_deviation, draw);
            return self.complete(&signal, values);
        }
        if found.len() != values.len() {
            return Err(Error::shape("decoded spectrogram", values.len(), found.len()));
        }
        values.copy_from_slice(found);
        Ok(())
    }
}

/// Windows that are transformed together.
const TOGETHER: usize = 16;

/// Numbers between windows: at distances of powers of two they would push each other out of the
/// processor's cache.
const GAP: usize = 8;

/// Working memory of a thread, reused from sample to sample.
#[derive(Default)]
struct Scratch {
    /// The signal with half a window on either side.
    extended: Vec<f32>,
    /// Windows one after another, then their transforms.
    packed: Vec<Complex<f32>>,
    work: Vec<Complex<f32>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Spectrogram {
    fn bins(&self) -> usize {
        self.config.window_samples / 2 + 1
    }

    fn frames(&self) -> usize {
        1 + self.config.length_samples / self.config.hop_samples
    }

    fn noisy(&self) -> bool {
        self.config.noise_deviation > 0.0
    }

    /// The recording, at the wanted rate and of the wanted length.
    fn signal<T>(&self, raw: &Raw<'_>, then: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
        let Raw::File(file) = raw else {
            return Err(wrong_kind("spectrogram", "a file", raw));
        };
        sound::with(file, self.config.sample_rate_hertz, |signal| {
            fit(signal, self.config.length_samples, self.config.fit);
            then(signal)
        })
    }

    /// Cuts to full scale, transforms and normalises.
    fn complete(&self, signal: &[f32], values: &mut [f32]) -> Result<()> {
        if values.len() != self.bins() * self.frames() {
            let expected = self.bins() * self.frames();
            return Err(Error::shape("values of a spectrogram", expected, values.len()));
        }
        self.transform(signal, values);
        if self.config.normalise == Normalise::Sample {
            normalise(values);
        }
        Ok(())
    }

    /// Fills `values` `[bins, frames]` with the logarithms of the magnitudes of `signal`
    /// `[length_samples]`.
    ///
    /// The transform of `N` real samples is made of one of `N/2` complex ones.
    fn transform(&self, signal: &[f32], values: &mut [f32]) {
        let (frames, half) = (self.frames(), self.config.window_samples / 2);
        let zero = Complex::new(0.0, 0.0);
        let apart = half + GAP;
        let floor = self.config.log_floor as f32;
        SCRATCH.with_borrow_mut(|Scratch { extended, packed, work }| {
            self.extend(signal, extended);
            packed.resize(TOGETHER * apart, zero);
            work.resize(self.fourier.get_inplace_scratch_len(), zero);
            let (window, _) = self.half_window.as_chunks::<2>();
            for first in (0..frames).step_by(TOGETHER) {
                let count = TOGETHER.min(frames - first);
                for (frame, packed) in packed.chunks_exact_mut(apart).take(count).enumerate() {
                    let seen = &extended[(first + frame) * self.config.hop_samples..];
                    write_window(seen, window, packed);
                    self.fourier.process_with_scratch(&mut packed[..half], work);
                }
                let bins = values.chunks_exact_mut(frames);
                let mut bins: Vec<&mut [f32]> =
                    bins.map(|bin| &mut bin[first..first + count]).collect();
                write_logarithms(packed, &self.turns, floor, &mut bins);
            }
        });
    }

    /// Cuts the signal to full scale and puts half a window on either side of it.
    fn extend(&self, signal: &[f32], extended: &mut Vec<f32>) {
        let half = self.config.window_samples / 2;
        let cut = |sample: &f32| sample.clamp(-1.0, 1.0);
        extended.clear();
        match self.config.edges {
            Edges::Zeros => {
                extended.resize(half, 0.0);
                extended.extend(signal.iter().map(cut));
                extended.resize(signal.len() + 2 * half, 0.0);
            }
            Edges::Reflect => {
                extended.extend(signal[1..=half].iter().rev().map(cut));
                extended.extend(signal.iter().map(cut));
                let inner = signal.len() - 1;
                extended.extend(signal[inner - half..inner].iter().rev().map(cut));
            }
        }
    }
}

// Loops are compiled twice, the second time for AVX2 without fused multiplication and addition: both
// give the same bits.

/// Weighs a window and pairs its samples to complex numbers.
#[multiversion(targets("x86_64+avx2"))]
fn write_window(samples: &[f32], window: &[[f32; 2]], packed: &mut [Complex<f32>]) {
    let (pairs, _) = samples.as_chunks::<2>();
    for ((pair, x), w) in packed.iter_mut().zip(pairs).zip(window) {
        *pair = Complex::new(x[0] * w[0], x[1] * w[1]);
    }
}

/// Writes the logarithms of up to [`TOGETHER`] windows into `bins`, a row for each, `floor` added
/// to magnitudes.
#[multiversion(targets("x86_64+avx2"))]
fn write_logarithms(
    packed: &[Complex<f32>],
    turns: &[Complex<f32>],
    floor: f32,
    bins: &mut [&mut [f32]],
) {
    let half = bins.len() - 1;
    for (bin, &turn) in turns.iter().enumerate() {
        let [low, high] = magnitudes(packed, half, bin, turn);
        for (bin, mut row) in [(bin, low), (half - bin, high)] {
            for value in &mut row {
                *value = logarithm(*value + floor);
            }
            match <&mut [f32; TOGETHER]>::try_from(&mut *bins[bin]) {
                Ok(whole) => *whole = row,
                // The last windows may be fewer.
                Err(_) => bins[bin].iter_mut().zip(row).for_each(|(to, value)| *to = value),
            }
        }
    }
}

/// Magnitudes of windows in the bins `bin` and `half - bin`, from the transforms of their pairs.
///
/// With `Z` the transform of the pairs, `M = N/2` and `W = exp(-2 pi i / N)`, `Z[M]` being `Z[0]`:
///
/// ```text
/// E, O        = (Z[k] + conj Z[M - k]) / 2, (Z[k] - conj Z[M - k]) / 2i   even and odd samples
/// S[k]        = E + W^k O
/// S[M - k]    = conj(E - W^k O)
/// ```
///
/// The window has halved `Z` already.
#[allow(clippy::needless_range_loop, reason = "four arrays go side by side")]
#[allow(clippy::inline_always, reason = "it gets the instructions of its caller")]
#[inline(always)]
fn magnitudes(
    packed: &[Complex<f32>],
    half: usize,
    bin: usize,
    turn: Complex<f32>,
) -> [[f32; TOGETHER]; 2] {
    // Windows side by side, so that one instruction serves several.
    let mut at = [[Complex::new(0.0_f32, 0.0); TOGETHER]; 2];
    let [ahead, mirrored] = &mut at;
    let mirror = (half - bin) % half;
    for (window, spectrum) in packed.chunks_exact(half + GAP).take(TOGETHER).enumerate() {
        (ahead[window], mirrored[window]) = (spectrum[bin], spectrum[mirror]);
    }
    let mut found = [[0.0; TOGETHER]; 2];
    for window in 0..TOGETHER {
        let (z, mirrored) = (ahead[window], mirrored[window]);
        let (even_real, even_imaginary) = (z.re + mirrored.re, z.im - mirrored.im);
        let (odd_real, odd_imaginary) = (z.im + mirrored.im, mirrored.re - z.re);
        let turned_real = turn.re * odd_real - turn.im * odd_imaginary;
        let turned_imaginary = turn.re * odd_imaginary + turn.im * odd_real;
        let (low_real, low_imaginary) =
            (even_real + turned_real, even_imaginary + turned_imaginary);
        let (high_real, high_imaginary) =
            (even_real - turned_real, even_imaginary - turned_imaginary);
        found[0][window] = (low_real * low_real + low_imaginary * low_imaginary).sqrt();
        found[1][window] = (high_real * high_real + high_imaginary * high_imaginary).sqrt();
    }
    found
}

/// The bits of the square root of 1/2.
const ROOT_OF_HALF: i32 = 0x3f35_04f3;

/// Coefficients of `x^8 … x^2` of the logarithm of `1 + x`, fitted to where `1 + x` lies between
/// the roots of 1/2 and 2.
const SERIES: [f32; 7] = [
    0.089_178_73,
    -0.143_502_07,
    0.148_769_62,
    -0.165_656_34,
    0.199_653_98,
    -0.250_017_46,
    0.333_338_6,
];

/// The natural logarithm, off by at most 2e-7 of it.
///
/// What is below the least normal number, 1.2e-38, counts as that. Unlike the function of the
/// standard library it works on several numbers at once.
#[allow(clippy::inline_always, reason = "it gets the instructions of its caller")]
#[inline(always)]
fn logarithm(value: f32) -> f32 {
    let value = if value > f32::MIN_POSITIVE { value } else { f32::MIN_POSITIVE };
    // value = 2^exponent (1 + x)
    let above = value.to_bits().cast_signed() - ROOT_OF_HALF;
    let exponent = (above >> 23) as f32;
    let x = f32::from_bits(((above & 0x007f_ffff) + ROOT_OF_HALF).cast_unsigned()) - 1.0;
    let series = SERIES.iter().fold(0.0, |sum, coefficient| sum * x + coefficient);
    exponent * LN_2 + (x + x * x * (x * series - 0.5))
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
    use std::path::PathBuf;

    use super::super::sound::fixture::{reference as published, scramble, stored, tone, voice};
    use super::super::util::{decode, draw};
    use super::*;
    use crate::formats::real_data;

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
    fn logarithms_are_right_to_the_last_digits_at_every_size() {
        // Every 1009th number, and all that are near 1, where the logarithm is near 0.
        let one = 1.0_f32.to_bits();
        let all = (f32::MIN_POSITIVE.to_bits()..f32::INFINITY.to_bits()).step_by(1_009);
        for bits in all.chain(one - 10_000..one + 10_000) {
            let value = f32::from_bits(bits);
            let exact = f64::from(value).ln();
            let found = logarithm(value);
            let apart = (f64::from(found) - exact).abs();
            assert!(apart <= 2e-7 * exact.abs(), "{value:e}: {found} {exact}");
        }
        let least = f32::MIN_POSITIVE.ln();
        for value in [0.0, -0.0, -1.0, f32::from_bits(1), f32::MIN_POSITIVE / 2.0, f32::NAN] {
            assert!((logarithm(value) - least).abs() < 1e-5, "{value:e}");
        }
        let values = [1e-7, 1.0].map(logarithm);
        assert!((values[0] + 16.118_095).abs() < 2e-6 && values[1].abs() < 2e-7, "{values:?}");
    }

    #[test]
    fn magnitudes_are_those_of_the_definition() {
        for (edges, window_samples) in [
            (Edges::Zeros, 64),
            (Edges::Reflect, 64),
            // Halves that are odd, and the least.
            (Edges::Zeros, 50),
            (Edges::Zeros, 6),
            (Edges::Zeros, 2),
        ] {
            let config = SpectrogramConfig { window_samples, edges, ..small() };
            let signal = scramble(500);
            let found = spectrogram(&config, 8_000, &signal);
            let expected = reference(&config, &signal);
            assert_eq!(found.len(), (window_samples / 2 + 1) * 21);
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
    fn what_cannot_be_resampled_is_refused_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let config = SpectrogramConfig { sample_rate_hertz: 8_000, ..small() };
        let raw = stored(folder.path(), 16_000, &[f32::MAX; 4_000]);
        let error = decode(&config, &raw, Mode::Training, &draw(0, 0)).unwrap_err().to_string();
        assert!(error.contains(".wav: cannot be resampled: a sample is 3.4"), "{error}");
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

    /// The largest difference of magnitudes, and of logarithms where `expected` has over 0.1.
    fn differences(found: &[f32], expected: &[f32]) -> (f32, f32) {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).fold(
            (0.0f32, 0.0f32),
            |(linear, logarithmic), (found, expected)| {
                let apart = (found - expected).abs();
                let heard = if *expected > 0.1f32.ln() { apart } else { 0.0 };
                (linear.max((found.exp() - expected.exp()).abs()), logarithmic.max(heard))
            },
        )
    }

    #[test]
    fn spectrograms_are_those_of_librosa() {
        let base = SpectrogramConfig { length_samples: 6_000, ..SpectrogramConfig::default() };
        for (name, edges, count, seed) in [
            ("spectrogram_zeros", Edges::Zeros, 6_000, 5),
            ("spectrogram_reflect", Edges::Reflect, 6_000, 5),
            ("spectrogram_tile", Edges::Zeros, 2_500, 6),
        ] {
            let (shape, expected) = published("audio.safetensors", name);
            assert_eq!(shape, [257, 17]);
            let config = SpectrogramConfig { edges, ..base.clone() };
            let found = spectrogram(&config, 22_050, &voice(22_050, count, seed));
            let (linear, logarithmic) = differences(&found, &expected);
            // Magnitudes reach 5, of 512 samples added up in 32 bits.
            assert!(linear < 2e-5 && logarithmic < 1e-4, "{name}: {linear} {logarithmic}");
        }
    }

    #[test]
    fn resampled_spectrograms_are_near_those_of_librosa() {
        // Our filter by Fourier transforms and librosa's (soxr, high quality) let different shares
        // of the tenth below the lower half rate pass; there they are apart by up to 8. Below it:
        let config = SpectrogramConfig {
            length_samples: 4_410,
            fit: Fit::Pad,
            ..SpectrogramConfig::default()
        };
        for (rate_hertz, band) in [(44_100, 230), (48_000, 230), (16_000, 167)] {
            let name = format!("spectrogram_from_{rate_hertz}");
            let (shape, expected) = published("audio.safetensors", &name);
            assert_eq!(shape, [257, 13]);
            let signal = voice(rate_hertz, rate_hertz as usize / 5, 3);
            let found = spectrogram(&config, rate_hertz, &signal);
            let (found, expected) = (&found[..band * 13], &expected[..band * 13]);
            let (linear, logarithmic) = differences(found, expected);
            // Measured with NumPy: 6e-4 and 9e-4 at most, among magnitudes up to 5.
            assert!(linear < 1.5e-3 && logarithmic < 2e-3, "{name}: {linear} {logarithmic}");
            // The faintest differ most, by up to 0.025; on average by 2e-4.
            let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            let mean = apart.clone().sum::<f32>() / found.len() as f32;
            assert!(mean < 1e-3 && apart.fold(0.0, f32::max) < 0.1, "{name}: {mean}");
        }
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
    fn a_floor_that_is_infinite_or_nothing_in_32_bits_is_refused() {
        for log_floor in [1e300, 1.1, 1e-31, 0.0, -1.0, f64::INFINITY, f64::NAN] {
            let config = SpectrogramConfig { log_floor, ..small() };
            let error = config.validate().unwrap_err().to_string();
            assert_eq!(error, format!("`log_floor` is {log_floor}, expected [1e-30, 1]"));
        }
        for log_floor in [1e-30_f64, 1.0] {
            let config = SpectrogramConfig { log_floor, ..small() };
            let values = spectrogram(&config, 8_000, &[0.0; 500]);
            let expected = log_floor.ln() as f32;
            assert!(values.iter().all(|value| (value - expected).abs() < 1e-4), "{log_floor}");
        }
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
