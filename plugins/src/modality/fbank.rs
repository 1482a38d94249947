//! Recordings as logarithmic mel filter banks of Kaldi.

use std::cell::RefCell;
use std::f64::consts::TAU;
use std::sync::Arc;

use mie_core::prelude::*;
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::sound::{self, MOST};
use super::util::{recipe, wrong_kind};

/// Computes Kaldi's logarithmic mel filter banks of a recording.
///
/// The recording is mixed down to one channel and resampled to `sample_rate_hertz`. With `x` the
/// result, `N` and `h` the samples in `window_milliseconds` and `shift_milliseconds`, rounded
/// down, and `M` the smallest power of two that is at least `N`:
///
/// ```text
/// d[n]           = x[t h + n] - mean over n of x[t h + n]          n = 0 … N - 1
/// e[n]           = d[n] - preemphasis d[max(n - 1, 0)]
/// P[k]           = |sum_n w[n] e[n] exp(-2 pi i k n / M)|^2         k = 0 … M/2 - 1
/// f[t, b]        = ln(max(sum_k W[b, k] P[k], 2^-23))               b = 0 … mel_bins - 1
/// value[0, t, b] = (f[t, b] - mean) / (2 deviation)                 t = 0 … frames - 1
/// ```
///
/// `w` is the symmetric Hann window `0.5 - 0.5 cos(2 pi n / (N - 1))` (Kaldi's `hanning`). `W[b]`
/// are triangles over the scale `1127 ln(1 + f / 700)`, each from the middle of the one before to
/// that of the one after, spread evenly from `low_hertz` to `high_hertz`. Only frames that lie
/// wholly within the recording count (`snip_edges`). There is no dither, and no energy in place of
/// a bin (`use_energy` false).
///
/// Frames past the end of the recording are 0 on the logarithmic scale, as the released code fills
/// them up before it normalises: `-mean / (2 deviation)`, 0.438 by default. Further frames are cut.
/// The mean of the recording, which the released code subtracts first, goes with those of the
/// frames. All of it is computed in 64 bits; `torchaudio` with 64 bits agrees within 1e-4, with its
/// usual 32 bits within 3e-3, in bins of 1e-7 of the power of the loudest.
///
/// Shapes: `value` `[1, frames, mel_bins]` f32, or `[1, mel_bins, frames]` (see `layout`):
/// `[1, 1024, 128]` by default. The defaults are those of the released code of OGM-GE and of
/// `BalanceBenchmark` for Kinetics-Sounds, with the statistics of `AudioSet`; for FSDD 8000 Hz, 40
/// bins and 100 frames do.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FbankConfig {
    /// Sample rate to which recordings are brought, in hertz, from 1000 to 768000. Default 16000;
    /// the released code takes recordings at the rate they have.
    pub sample_rate_hertz: u32,
    /// Mel filters, from 4 to 4096. Default 128.
    pub mel_bins: usize,
    /// Frames to which recordings are brought, from 1 to 2^20. Default 1024, 10.255 s.
    pub frames: usize,
    /// Length of a frame in milliseconds, of 2 to 2^20 samples. Default 25, that of Kaldi.
    pub window_milliseconds: f64,
    /// Distance between frames in milliseconds, of at least a sample. Default 10, that of Kaldi.
    pub shift_milliseconds: f64,
    /// Share of each sample that the next one loses, in `[0, 1]`. Default 0.97, that of Kaldi.
    pub preemphasis: f64,
    /// Where the lowest filter starts, in hertz, at least 0. Default 20, that of Kaldi.
    pub low_hertz: f64,
    /// Where the highest filter ends, in hertz, above `low_hertz` and up to half the sample rate;
    /// 0 or below is counted from there. Default 0, half the sample rate.
    pub high_hertz: f64,
    /// Mean of the logarithms. Default -4.503877, that of `AudioSet` in the released code.
    pub mean: f64,
    /// Deviation of the logarithms, above 0. Default 5.141276, that of `AudioSet` in the released
    /// code.
    pub deviation: f64,
    /// Which dimension is time. Default `frames_by_bins`.
    pub layout: Layout,
}

/// Order of the dimensions of filter banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// `[1, frames, mel_bins]`, as Kaldi and the released code.
    FramesByBins,
    /// `[1, mel_bins, frames]`, as the modality `spectrogram`.
    BinsByFrames,
}

impl Default for FbankConfig {
    fn default() -> Self {
        Self {
            sample_rate_hertz: 16_000,
            mel_bins: 128,
            frames: 1024,
            window_milliseconds: 25.0,
            shift_milliseconds: 10.0,
            preemphasis: 0.97,
            low_hertz: 20.0,
            high_hertz: 0.0,
            mean: -4.503_877,
            deviation: 5.141_276,
            layout: Layout::FramesByBins,
        }
    }
}

/// Most samples of a frame.
const LONGEST_FRAME: usize = 1 << 20;

/// Least power of a filter: 2^-23, the spacing of 32-bit numbers at 1.
const FLOOR: f64 = 1.0 / 8_388_608.0;

impl FbankConfig {
    /// Samples in a time, rounded down; whatever is no time has none.
    fn samples(&self, milliseconds: f64) -> usize {
        (f64::from(self.sample_rate_hertz) * milliseconds * 0.001) as usize
    }

    fn nyquist_hertz(&self) -> f64 {
        f64::from(self.sample_rate_hertz) / 2.0
    }

    /// Where the highest filter ends.
    fn top_hertz(&self) -> f64 {
        let counted = if self.high_hertz > 0.0 { 0.0 } else { self.nyquist_hertz() };
        counted + self.high_hertz
    }

    /// The weights of each filter on the powers of a transform over `padded` samples.
    fn filters(&self, padded: usize) -> Vec<Filter> {
        let mel = |hertz: f64| 1127.0 * (1.0 + hertz / 700.0).ln();
        let (low, high) = (mel(self.low_hertz), mel(self.top_hertz()));
        let step = (high - low) / (self.mel_bins as f64 + 1.0);
        let spacing = f64::from(self.sample_rate_hertz) / padded as f64;
        let places: Vec<f64> = (0..padded / 2).map(|k| mel(spacing * k as f64)).collect();
        let filter = |bin: usize| {
            let left = low + bin as f64 * step;
            let right = left + 2.0 * step;
            let weight = |place: &f64| ((place - left) / step).min((right - place) / step);
            let first = places.partition_point(|&place| place <= left);
            let weights = places[first..].iter().map(weight).take_while(|&w| w > 0.0).collect();
            Filter { first, weights }
        };
        (0..self.mel_bins).map(filter).collect()
    }
}

#[typetag::serde(name = "fbank")]
impl ModalityConfig for FbankConfig {
    fn validate(&self) -> Result<()> {
        sound::ensure_rate(self.sample_rate_hertz)?;
        let bins = self.mel_bins;
        ensure_range("mel_bins", "[4, 4096]", bins, (4..=4096).contains(&bins))?;
        let frames = self.frames;
        ensure_range("frames", "[1, 2^20]", frames, (1..=1 << 20).contains(&frames))?;
        let few = frames * bins <= MOST;
        ensure_range("frames", "at most 2^28 / mel_bins", frames, few)?;
        let window = self.window_milliseconds;
        let usable = (2..=LONGEST_FRAME).contains(&self.samples(window));
        ensure_range("window_milliseconds", "a time of 2 to 2^20 samples", window, usable)?;
        let shift = self.shift_milliseconds;
        let usable = (1..=MOST).contains(&self.samples(shift));
        ensure_range("shift_milliseconds", "a time of 1 to 2^28 samples", shift, usable)?;
        let share = self.preemphasis;
        ensure_range("preemphasis", "[0, 1]", share, (0.0..=1.0).contains(&share))?;
        let (low, top) = (self.low_hertz, self.top_hertz());
        let usable = low >= 0.0 && low < self.nyquist_hertz();
        ensure_range("low_hertz", "at least 0 and below half the sample rate", low, usable)?;
        let usable = top > low && top <= self.nyquist_hertz();
        let expected = "above low_hertz and at most half the sample rate, from which it is \
                        counted if 0 or below";
        ensure_range("high_hertz", expected, self.high_hertz, usable)?;
        ensure_range("mean", "a finite number", self.mean, self.mean.is_finite())?;
        let usable = self.deviation > 0.0 && self.deviation.is_finite();
        ensure_range("deviation", "(0, inf)", self.deviation, usable)
    }

    fn build(&self) -> Result<Box<dyn Modality>> {
        self.validate()?;
        let size = self.samples(self.window_milliseconds);
        let padded = size.next_power_of_two();
        let turn = TAU / (size - 1) as f64;
        Ok(Box::new(Fbank {
            config: self.clone(),
            window: (0..size).map(|n| 0.5 - 0.5 * (turn * n as f64).cos()).collect(),
            filters: self.filters(padded),
            fourier: RealFftPlanner::new().plan_fft_forward(padded),
        }))
    }
}
register!(
    modality::<FbankConfig>,
    source = "Povey et al. 2011 (Kaldi, compute-fbank-feats); normalisation: \
              https://github.com/GeWu-Lab/OGM-GE_CVPR2022"
);

/// A triangle over some of the powers.
struct Filter {
    /// The first power that it sees.
    first: usize,
    /// The weights of that power and the following.
    weights: Vec<f64>,
}

struct Fbank {
    config: FbankConfig,
    window: Vec<f64>,
    filters: Vec<Filter>,
    fourier: Arc<dyn RealToComplex<f64>>,
}

impl Modality for Fbank {
    fn layout(&self) -> Vec<TensorLayout> {
        let (frames, bins) = (self.config.frames as i64, self.config.mel_bins as i64);
        TensorLayout::value(&match self.config.layout {
            Layout::FramesByBins => [1, frames, bins],
            Layout::BinsByFrames => [1, bins, frames],
        })
    }

    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        self.finish(self.decode(raw, mode)?.view(), mode, draw, out)
    }

    fn cacheable(&self) -> Option<&dyn Decode> {
        Some(self)
    }
}

impl Decode for Fbank {
    fn recipe(&self, _mode: Mode) -> String {
        recipe("fbank", 2, &self.config)
    }

    fn decode(&self, raw: &Raw<'_>, _mode: Mode) -> Result<Decoded> {
        let Raw::File(file) = raw else {
            return Err(wrong_kind("fbank", "a file", raw));
        };
        let signal = sound::load(file, self.config.sample_rate_hertz)?;
        let shape = vec![self.config.frames, self.config.mel_bins];
        let mut values = vec![self.normalised(0.0); self.config.frames * self.config.mel_bins];
        self.transform(&signal, &mut values)?;
        Ok(Decoded { shape, values: Values::F32(values) })
    }

    fn finish(
        &self,
        decoded: DecodedView<'_>,
        _mode: Mode,
        _draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()> {
        let (found, values) = (decoded.f32()?, out.f32_to_overwrite(0)?);
        if found.len() != values.len() {
            return Err(Error::shape("decoded filter banks", values.len(), found.len()));
        }
        values.copy_from_slice(found);
        Ok(())
    }
}

/// Working memory of a thread, reused from sample to sample.
struct Scratch {
    frame: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    work: Vec<Complex<f64>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { frame: Vec::new(), spectrum: Vec::new(), work: Vec::new() })
    };
}

impl Fbank {
    fn normalised(&self, logarithm: f64) -> f32 {
        ((logarithm - self.config.mean) / (2.0 * self.config.deviation)) as f32
    }

    /// Fills what `signal` has of `values`.
    fn transform(&self, signal: &[f32], values: &mut [f32]) -> Result<()> {
        let (frames, bins) = (self.config.frames, self.config.mel_bins);
        let shift = self.config.samples(self.config.shift_milliseconds);
        let padded = self.window.len().next_power_of_two();
        let windows = signal.windows(self.window.len()).step_by(shift).take(frames);
        SCRATCH.with_borrow_mut(|scratch| {
            let silence = Complex::new(0.0, 0.0);
            scratch.spectrum.resize(padded / 2 + 1, silence);
            scratch.work.resize(self.fourier.get_scratch_len(), silence);
            for (frame, samples) in windows.enumerate() {
                self.shape(samples, &mut scratch.frame);
                scratch.frame.resize(padded, 0.0);
                self.fourier
                    .process_with_scratch(
                        &mut scratch.frame,
                        &mut scratch.spectrum,
                        &mut scratch.work,
                    )
                    .map_err(|error| Error::Bug(format!("Fourier transform: {error}")))?;
                for (bin, filter) in self.filters.iter().enumerate() {
                    let seen = scratch.spectrum[filter.first..].iter().zip(&filter.weights);
                    let power: f64 = seen.map(|(amplitude, w)| w * amplitude.norm_sqr()).sum();
                    let place = match self.config.layout {
                        Layout::FramesByBins => frame * bins + bin,
                        Layout::BinsByFrames => bin * frames + frame,
                    };
                    values[place] = self.normalised(power.max(FLOOR).ln());
                }
            }
            Ok(())
        })
    }

    /// Takes the mean from the samples of a frame, emphasises the high ones and fades the ends.
    fn shape(&self, samples: &[f32], frame: &mut Vec<f64>) {
        let sum: f64 = samples.iter().map(|&sample| f64::from(sample)).sum();
        let mean = sum / samples.len() as f64;
        let mut previous = f64::from(samples[0]) - mean;
        frame.clear();
        for (&sample, weight) in samples.iter().zip(&self.window) {
            let current = f64::from(sample) - mean;
            frame.push(weight * (current - self.config.preemphasis * previous));
            previous = current;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::sound::fixture::{reference, stored, tone, voice};
    use super::super::util::{decode, draw};
    use super::*;
    use crate::formats::real_data;

    /// Options that leave the logarithms as they are.
    fn plain() -> FbankConfig {
        FbankConfig { mean: 0.0, deviation: 0.5, frames: 28, ..FbankConfig::default() }
    }

    fn banks(config: &FbankConfig, rate_hertz: u32, samples: &[f32]) -> Vec<f32> {
        let folder = tempfile::tempdir().unwrap();
        let raw = stored(folder.path(), rate_hertz, samples);
        decode(config, &raw, Mode::Training, &draw(0, 0)).unwrap()
    }

    fn close(found: &[f32], expected: &[f32], tolerance: f32) -> bool {
        found.len() == expected.len()
            && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance)
    }

    #[test]
    fn logarithms_are_those_of_torchaudio() {
        // Frames of 551 and 1102 samples among them, and filters that see no power at all.
        for (rate_hertz, mel_bins, count) in
            [(16_000, 128, 4_800), (22_050, 128, 4_410), (44_100, 128, 5_292), (8_000, 40, 2_400)]
        {
            let name = format!("fbank_{rate_hertz}_{mel_bins}");
            let (shape, expected) = reference("audio.safetensors", &name);
            let config = FbankConfig {
                sample_rate_hertz: rate_hertz,
                mel_bins,
                frames: shape[0] as usize,
                ..plain()
            };
            let found = banks(&config, rate_hertz, &voice(rate_hertz, count, 7));
            assert_eq!(shape[1], mel_bins as i64);
            assert!(close(&found, &expected, 1e-4), "{name}");
            // The same frames, and then padding.
            let longer = FbankConfig { frames: config.frames + 2, ..config };
            let found = banks(&longer, rate_hertz, &voice(rate_hertz, count, 7));
            let (frames, padding) = found.split_at(expected.len());
            assert!(close(frames, &expected, 1e-4), "{name}");
            assert!(close(padding, &vec![0.0; 2 * mel_bins], 0.0), "{name}");
        }
    }

    #[test]
    fn a_second_has_98_frames_and_the_rest_is_padding() {
        let config = FbankConfig::default();
        assert_eq!(config.build().unwrap().layout()[0].shape, [1, 1024, 128]);
        let found = banks(&config, 16_000, &vec![0.0; 16_000]);
        // ln(2^-23) = -15.942385, and (-15.942385 + 4.503877) / 10.282552 = -1.112419.
        assert!(close(&found[..98 * 128], &vec![-1.112_419; 98 * 128], 1e-5));
        // 4.503877 / 10.282552 = 0.438012.
        assert!(close(&found[98 * 128..], &vec![0.438_012; 926 * 128], 1e-5));
        // A recording shorter than a frame has none.
        let found = banks(&config, 16_000, &[0.5; 399]);
        assert!(close(&found, &vec![0.438_012; 1024 * 128], 1e-5));
        // A longer one is cut.
        let short = FbankConfig { frames: 3, ..plain() };
        let long = banks(&plain(), 16_000, &voice(16_000, 4_800, 1));
        let cut = banks(&short, 16_000, &voice(16_000, 4_800, 1));
        assert!(close(&cut, &long[..3 * 128], 0.0));
    }

    #[test]
    fn filters_meet_at_their_middles() {
        let config = FbankConfig { mel_bins: 4, low_hertz: 0.0, ..FbankConfig::default() };
        let filters = config.filters(512);
        // Five steps lead from 0 to 1127 ln(1 + 8000 / 700) = 2840.038: 568.008 each. 1000 Hz, the
        // power 32, lies at 999.991: 1.760524 steps, 0.760524 down the first triangle.
        let weight = |bin: usize, power: usize| {
            let filter: &Filter = &filters[bin];
            power.checked_sub(filter.first).and_then(|at| filter.weights.get(at)).copied()
        };
        assert!((weight(0, 32).unwrap() - 0.239_476).abs() < 1e-5, "{:?}", weight(0, 32));
        assert!((weight(1, 32).unwrap() - 0.760_524).abs() < 1e-5, "{:?}", weight(1, 32));
        assert_eq!((weight(2, 32), weight(0, 0), weight(3, 256)), (None, None, None));
        // Between the first middle and the last the weights of a power sum to 1.
        for power in 20..100 {
            let sum: f64 = (0..4).filter_map(|bin| weight(bin, power)).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{power}: {sum}");
        }
    }

    #[test]
    fn a_tone_peaks_at_its_filter_and_a_constant_is_no_sound() {
        // 1000 Hz lie at 999.99 on the scale. 128 filters, 21.7697 apart from 31.7486 on, have
        // middles on either side of it: filter 43 at 989.61 and filter 44 at 1011.38.
        let signal = tone(1_000.0, 16_000, 0.5, 4_800);
        let found = banks(&plain(), 16_000, &signal);
        for frame in found.chunks(128) {
            let loudest = (0..128).max_by(|&a, &b| frame[a].total_cmp(&frame[b])).unwrap();
            assert!([43, 44].contains(&loudest), "{loudest}");
        }
        let raised: Vec<f32> = signal.iter().map(|sample| sample + 0.25).collect();
        let raised = banks(&plain(), 16_000, &raised);
        assert!((raised[43] - found[43]).abs() < 1e-4 && (raised[44] - found[44]).abs() < 1e-4);
        assert!(close(
            &banks(&plain(), 16_000, &vec![0.25; 4_800]),
            &[-15.942_385; 28 * 128],
            1e-4
        ));
    }

    #[test]
    fn bins_by_frames_is_the_transpose() {
        let signal = voice(16_000, 4_800, 3);
        let rows = banks(&plain(), 16_000, &signal);
        let config = FbankConfig { layout: Layout::BinsByFrames, ..plain() };
        assert_eq!(config.build().unwrap().layout()[0].shape, [1, 128, 28]);
        let columns = banks(&config, 16_000, &signal);
        let turned: Vec<f32> = (0..128 * 28).map(|at| rows[at % 28 * 128 + at / 28]).collect();
        assert!(close(&columns, &turned, 0.0));
    }

    #[test]
    fn unusable_options_and_raw_things_are_refused() {
        let refusal = |config: FbankConfig| config.validate().unwrap_err().to_string();
        let few = refusal(FbankConfig { mel_bins: 3, ..plain() });
        assert_eq!(few, "`mel_bins` is 3, expected [4, 4096]");
        let high = refusal(FbankConfig { high_hertz: 8_001.0, ..plain() });
        assert!(high.starts_with("`high_hertz` is 8001, expected above low_hertz and"), "{high}");
        let low = refusal(FbankConfig { high_hertz: -7_980.0, ..plain() });
        assert!(low.starts_with("`high_hertz` is -7980"), "{low}");
        for milliseconds in [f64::NAN, -1.0, 0.0, 0.1, 1e9] {
            let short = refusal(FbankConfig { window_milliseconds: milliseconds, ..plain() });
            assert!(short.starts_with("`window_milliseconds` is"), "{short}");
        }
        let still = refusal(FbankConfig { shift_milliseconds: 0.01, ..plain() });
        assert!(still.starts_with("`shift_milliseconds` is 0.01"), "{still}");
        let large = refusal(FbankConfig { frames: 1 << 20, mel_bins: 512, ..plain() });
        assert!(large.contains("expected at most 2^28 / mel_bins"), "{large}");
        let decoded = |raw| decode(&plain(), &raw, Mode::Training, &draw(0, 0)).unwrap_err();
        let error = decoded(Raw::Text("sound")).to_string();
        assert!(error.contains("`fbank` decodes a file, the dataset gives text"), "{error}");
        let error = decoded(Raw::File(PathBuf::from("/absent/one.wav"))).to_string();
        assert!(error.contains("/absent/one.wav"), "{error}");
    }

    #[test]
    fn real_recordings_have_finite_banks_with_and_without_resampling() {
        let Some(folder) = real_data::folder("avdigits") else { return };
        for name in ["0_george_0.wav", "7_theo_49.wav", "9_yweweler_12.wav"] {
            let raw = Raw::File(folder.join("fsdd/recordings").join(name));
            for sample_rate_hertz in [8_000, 16_000] {
                let config = FbankConfig { sample_rate_hertz, mel_bins: 40, ..plain() };
                let found = decode(&config, &raw, Mode::Evaluation, &draw(0, 0)).unwrap();
                // The floor, and more than a window of full scale has.
                let inside = |&value: &f32| (-15.95..12.0).contains(&value);
                assert!(found.iter().all(inside), "{name}");
                // Neither silence nor padding.
                let heard = |value: &&f32| (1e-6..10.0).contains(&value.abs());
                assert!(found.iter().filter(heard).count() > 200, "{name}");
            }
        }
    }
}
