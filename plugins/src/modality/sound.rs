//! Recordings as samples of a wanted rate.

use std::cell::RefCell;
use std::f64::consts::{PI, TAU};
use std::path::Path;
use std::sync::Arc;

use mie_core::prelude::*;
use multiversion::multiversion;
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

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
    with(file, rate_hertz, |signal| Ok(signal.clone()))
}

/// What a thread keeps from recording to recording: fresh memory costs more than decoding.
#[derive(Default)]
struct Kept {
    recorded: Vec<f32>,
    resampled: Vec<f32>,
    /// The last resampler: recordings of a dataset nearly always share a rate.
    resampler: Option<(Rates, Resampler)>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Longest recording whose samples' memory is kept, in samples.
const LONGEST_KEPT: usize = 1 << 22;

/// As [`load`], in memory of the thread: hands the signal to `then`, which may change it.
pub(super) fn with<T>(
    file: &Path,
    rate_hertz: u32,
    then: impl FnOnce(&mut Vec<f32>) -> Result<T>,
) -> Result<T> {
    let mut kept = KEPT.take();
    let done = kept.load(file, rate_hertz).and_then(then);
    // Whatever came of it, the next recording needs the resampler.
    for samples in [&mut kept.recorded, &mut kept.resampled] {
        if samples.capacity() > LONGEST_KEPT {
            *samples = Vec::new();
        }
    }
    KEPT.set(kept);
    done
}

impl Kept {
    fn load(&mut self, file: &Path, rate_hertz: u32) -> Result<&mut Vec<f32>> {
        let recorded_hertz = wav::read_into(file, &mut self.recorded)?;
        let signal = if recorded_hertz == rate_hertz {
            &mut self.recorded
        } else {
            let rates = (recorded_hertz, rate_hertz);
            resample(&self.recorded, rates, &mut self.resampler, &mut self.resampled)
                .map_err(|problem| Error::data(file, format!("cannot be resampled: {problem}")))?;
            &mut self.resampled
        };
        if signal.is_empty() {
            return Err(Error::data(file, "is too short to be resampled"));
        }
        Ok(signal)
    }
}

/// Source and target rate in hertz.
type Rates = (u32, u32);

fn resample(
    samples: &[f32],
    rates: Rates,
    kept: &mut Option<(Rates, Resampler)>,
    resampled: &mut Vec<f32>,
) -> Result<(), String> {
    let (from, to) = (rates.0 as usize, rates.1 as usize);
    if samples.len().saturating_mul(to) / from > MOST {
        return Err(format!("{} samples of {from} Hz are over 2^28 of {to} Hz", samples.len()));
    }
    // Sums over a block must stay finite.
    let is_loud = |sample: &f32| sample.abs() > LOUDEST;
    // Looking at all takes several at once; stopping at the first would not.
    let any_loud = samples.iter().fold(false, |found, sample| found | is_loud(sample));
    if any_loud && let Some(loud) = samples.iter().find(|sample| is_loud(sample)) {
        return Err(format!("a sample is {loud:e} times full scale, over {LOUDEST:e}"));
    }
    if kept.as_ref().is_none_or(|(of, _)| *of != rates) {
        *kept = Some((rates, Resampler::new(from, to)));
    }
    if let Some((_, resampler)) = kept {
        resampler.run(samples, resampled);
        resampled.truncate((samples.len() * to).div_ceil(from));
    }
    Ok(())
}

/// Least length of the filter in samples of the lower rate; its cut-off lies at 0.987 of the lower
/// half rate then.
const FILTER_SAMPLES: usize = 1024;

const ZERO: Complex<f32> = Complex::new(0.0, 0.0);

/// A windowed sinc filter applied by Fourier transforms, block by block.
///
/// A block stands between zeros, as many as the filter is long; its spectrum is filtered, and
/// extended or cut to the other rate. Two blocks are transformed at once, as real and imaginary
/// part: what is done to a spectrum keeps them apart.
struct Resampler {
    /// Length of the filter at either rate.
    filter_samples: [usize; 2],
    /// Length of a block at either rate, without the zeros.
    block_samples: [usize; 2],
    /// Transfer function of the lower frequencies, divided by the length of a transform. It is
    /// real, since the filter is symmetric.
    transfer: Vec<f32>,
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
    input: Vec<Complex<f32>>,
    output: Vec<Complex<f32>>,
    work: Vec<Complex<f32>>,
}

impl Resampler {
    fn new(from: usize, to: usize) -> Self {
        let divisor = greatest_common_divisor(from, to);
        let [from, to] = [from, to].map(|rate| rate / divisor);
        // Of even length, or what comes out would be shifted by half a sample.
        let filter = (FILTER_SAMPLES * from.div_ceil(to)).next_multiple_of(2 * from);
        // Few zeros for many samples, unless odd rates make blocks of millions.
        let filters = if filter <= 1 << 14 { 4 } else { 1 };
        let at_either_rate = |length: usize| [length, length / from * to];
        let [input, output] = at_either_rate(filter * (filters + 1));
        let mut planner = FftPlanner::new();
        let (forward, inverse) =
            (planner.plan_fft_forward(input), planner.plan_fft_inverse(output));
        let work = forward.get_inplace_scratch_len().max(inverse.get_inplace_scratch_len());
        Self {
            filter_samples: at_either_rate(filter),
            block_samples: at_either_rate(filter * filters),
            transfer: transfer(at_either_rate(filter), input, input.min(output) / 2),
            forward,
            inverse,
            input: vec![ZERO; input],
            output: vec![ZERO; output],
            work: vec![ZERO; work],
        }
    }

    /// Fills `resampled`, with some zeros at the end.
    fn run(&mut self, samples: &[f32], resampled: &mut Vec<f32>) {
        let [block, block_out] = self.block_samples;
        resampled.clear();
        resampled.resize(samples.len().div_ceil(block) * block_out + self.filter_samples[1], 0.0);
        // Silence is left out: beside a loud block, rounding would make noise of it.
        let blocks = samples.chunks(block).enumerate();
        let sounding = blocks.filter(|(_, block)| block.iter().any(|&sample| sample != 0.0));
        let sounding: Vec<(usize, &[f32])> = sounding.collect();
        for pair in sounding.chunks(2) {
            self.input.fill(ZERO);
            let inner = &mut self.input[self.filter_samples[0] / 2..];
            write_blocks([pair[0].1, pair.get(1).map_or(&[], |(_, second)| second)], inner);
            self.transform();
            for (part, (block, _)) in pair.iter().enumerate() {
                add_block(&self.output, part, &mut resampled[block * block_out..]);
            }
        }
        // Half a filter of zeros stands before the first block.
        let before = self.filter_samples[1] / 2;
        resampled.copy_within(before.., 0);
    }

    /// Makes `output` of `input`.
    fn transform(&mut self) {
        self.forward.process_with_scratch(&mut self.input, &mut self.work);
        let kept = self.transfer.len();
        filter(&self.input, &self.transfer, &mut self.output);
        let high = kept..self.output.len() + 1 - kept;
        self.output[high].fill(ZERO);
        self.inverse.process_with_scratch(&mut self.output, &mut self.work);
    }
}

/// Makes two blocks of samples, the second not the longer one, real and imaginary parts.
#[multiversion(targets("x86_64+avx2"))]
fn write_blocks([first, second]: [&[f32]; 2], values: &mut [Complex<f32>]) {
    let (both, alone) = first.split_at(second.len());
    let (values, others) = values.split_at_mut(both.len());
    for ((value, &re), &im) in values.iter_mut().zip(both).zip(second) {
        *value = Complex::new(re, im);
    }
    for (value, &re) in others.iter_mut().zip(alone) {
        value.re = re;
    }
}

/// Adds the real parts, or the imaginary ones for `part` 1, to `sums`.
#[multiversion(targets("x86_64+avx2"))]
fn add_block(values: &[Complex<f32>], part: usize, sums: &mut [f32]) {
    let pairs = values.iter().map(|value| [value.re, value.im]);
    if part == 0 {
        sums.iter_mut().zip(pairs).for_each(|(sum, [re, _])| *sum += re);
    } else {
        sums.iter_mut().zip(pairs).for_each(|(sum, [_, im])| *sum += im);
    }
}

/// Copies the lower frequencies of one spectrum into another, each multiplied by its gain.
#[multiversion(targets("x86_64+avx2"))]
fn filter(from: &[Complex<f32>], gains: &[f32], to: &mut [Complex<f32>]) {
    for ((to, from), &gain) in to.iter_mut().zip(from).zip(gains) {
        *to = from * gain;
    }
    // Negative frequencies stand at the end, the lowest last.
    let low = to.iter_mut().rev().zip(from.iter().rev());
    for ((to, from), &gain) in low.zip(&gains[1..]) {
        *to = from * gain;
    }
}

/// The first `count` values of the filter's spectrum in a transform of `length`.
///
/// The filter is a sinc in a squared Blackman-Harris window (that with four terms). Its cut-off is
/// as near to the lower half rate as lets next to nothing pass above: the fit to the length is that
/// of the library rubato.
fn transfer([filter, filter_out]: [usize; 2], length: usize, count: usize) -> Vec<f32> {
    let short = filter.min(filter_out) as f64;
    let fit = 1.0 + (13.745_203 + (121.735_33 + 5_964.163_3 / short) / short) / short;
    let cut_off = short / filter as f64 / fit;
    let tap = |n: usize| {
        let angle = TAU * n as f64 / filter as f64;
        let [one, two, three] = [1.0, 2.0, 3.0].map(|times: f64| (times * angle).cos());
        let window = 0.358_75 - 0.488_29 * one + 0.141_28 * two - 0.011_68 * three;
        let x = PI * cut_off * (n as f64 - (filter / 2) as f64);
        window * window * if n == filter / 2 { 1.0 } else { x.sin() / x }
    };
    let taps: Vec<f64> = (0..filter).map(tap).collect();
    let total = taps.iter().sum::<f64>() * length as f64;
    let mut spectrum = vec![Complex::new(0.0, 0.0); length];
    for (n, tap) in taps.iter().enumerate() {
        // The middle comes first, what stands before it last.
        spectrum[(n + length - filter / 2) % length].re = tap / total;
    }
    FftPlanner::<f64>::new().plan_fft_forward(length).process(&mut spectrum);
    spectrum[..count].iter().map(|value| value.re as f32).collect()
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
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
    use super::fixture::{scramble, tone, voice};
    use super::*;

    fn resample(samples: &[f32], rates: Rates) -> Result<Vec<f32>, String> {
        let mut resampled = Vec::new();
        super::resample(samples, rates, &mut None, &mut resampled).map(|()| resampled)
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn resampling_keeps_frequency_amplitude_and_time() {
        for (from, to) in [(8_000, 16_000), (16_000, 8_000), (44_100, 22_050), (48_000, 35_400)] {
            let count = from as usize / 2;
            let found = resample(&tone(440.0, from, 0.8, count), (from, to)).unwrap();
            assert_eq!(found.len(), to as usize / 2, "{from} to {to}");
            // Away from the ends, where the filter sees silence.
            let edge = to as usize / 10;
            let expected = tone(440.0, to, 0.8, found.len());
            let inner = edge..found.len() - edge;
            for (found, expected) in found[inner.clone()].iter().zip(&expected[inner]) {
                assert!((found - expected).abs() < 2e-6, "{from} to {to}: {found} {expected}");
            }
        }
    }

    #[test]
    fn tones_above_the_lower_half_rate_are_gone() {
        let found = resample(&tone(4_100.0, 16_000, 0.8, 16_000), (16_000, 8_000)).unwrap();
        assert_eq!(found.len(), 8_000);
        let loudest = found[1_000..7_000].iter().fold(0.0f32, |most, it| most.max(it.abs()));
        assert!(loudest < 2e-6, "{loudest}");
    }

    #[test]
    fn samples_are_those_of_the_filter_applied_one_by_one() {
        // Up and down, at a length of less than a block and one of several.
        for (from, to, count) in [(16_000, 22_050, 700), (22_050, 16_000, 14_000)] {
            let signal = voice(from, count, 4);
            let found = resample(&signal, (from, to)).unwrap();
            let [filter, filter_out] = Resampler::new(from as usize, to as usize).filter_samples;
            assert_eq!(
                [filter, filter_out],
                if from < to { [1_280, 1_764] } else { [2_646, 1_920] }
            );
            let short = filter.min(filter_out) as f64;
            let fit = 1.0 + 13.745_203 / short + 121.735_33 / short.powi(2);
            let cut_off = short / filter as f64 / (fit + 5_964.163_3 / short.powi(3));
            let tap = |apart: f64| {
                if apart.abs() >= filter as f64 / 2.0 {
                    return 0.0;
                }
                let angle = TAU * apart / filter as f64;
                let window = 0.358_75
                    + 0.488_29 * angle.cos()
                    + 0.141_28 * (2.0 * angle).cos()
                    + 0.011_68 * (3.0 * angle).cos();
                let x = PI * cut_off * apart;
                window.powi(2) * cut_off * if x.abs() < 1e-12 { 1.0 } else { x.sin() / x }
            };
            for place in (0..found.len()).step_by(97) {
                let middle = place as f64 * f64::from(from) / f64::from(to);
                let taps = signal.iter().enumerate();
                let expected: f64 = taps.map(|(n, &x)| f64::from(x) * tap(middle - n as f64)).sum();
                let apart = (f64::from(found[place]) - expected).abs();
                assert!(apart < 1e-6, "{from} to {to}, {place}: {} {expected}", found[place]);
            }
        }
    }

    #[test]
    fn silence_stays_silent_beside_loud_blocks() {
        let mut signal = scramble(20_000);
        signal[6_000..16_000].fill(0.0);
        let found = resample(&signal, (16_000, 22_050)).unwrap();
        // Blocks of 5120: the second hears the end of the first sound, the third is silent, and so
        // is what lies over half a filter from either.
        let silent = 10_240 * 441 / 320 + 882..15_360 * 441 / 320 - 882;
        assert!(found[silent].iter().all(|sample| sample.to_bits() == 0));
        assert_eq!(bits(&resample(&[0.0; 3_000], (8_000, 22_050)).unwrap()), vec![0; 8_269]);
    }

    #[test]
    fn what_would_not_fit_into_memory_is_not_resampled() {
        // 400 s of 1000 Hz, made 768 times as long.
        let problem = resample(&vec![0.0; 400_000], (1_000, 768_000)).unwrap_err();
        assert_eq!(problem, "400000 samples of 1000 Hz are over 2^28 of 768000 Hz");
    }

    #[test]
    fn resampling_gives_the_same_bits_whatever_came_before() {
        let (mut kept, mut resampled) = (None, Vec::new());
        let mut next = |samples: &[f32], rates| {
            super::resample(samples, rates, &mut kept, &mut resampled).unwrap();
            bits(&resampled)
        };
        let signal = scramble(30_000);
        let first = next(&signal, (8_000, 22_050));
        next(&scramble(777), (44_100, 22_050));
        next(&scramble(50), (8_000, 22_050));
        assert_eq!(first, next(&signal, (8_000, 22_050)));
        assert_eq!(next(&[0.5], (8_000, 22_050)).len(), 3);
        assert_eq!(next(&[0.5], (22_050, 8_000)).len(), 1);
    }

    #[test]
    fn the_resampler_outlives_broken_and_long_recordings_and_long_memory_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = |name: &str, content: Vec<u8>| {
            let file = folder.path().join(name);
            std::fs::write(&file, content).unwrap();
            file
        };
        let floats = wav::fixture::floats;
        let good = store("good.wav", floats(8_000, &scramble(3_000)));
        let broken = store("broken.wav", b"RIFF".to_vec());
        let loud = store("loud.wav", floats(8_000, &[f32::MAX; 9]));
        let samples = vec![128_u8; LONGEST_KEPT + 1];
        let long = store("long.wav", wav::fixture::integers(1, 16_000, 8, &samples));
        let expected = load(&good, 16_000).unwrap();
        let is_kept = || {
            KEPT.with_borrow(|kept| {
                assert!(kept.recorded.capacity().max(kept.resampled.capacity()) <= LONGEST_KEPT);
                kept.resampler.as_ref().is_some_and(|(rates, _)| *rates == (8_000, 16_000))
            })
        };
        assert!(is_kept());
        for file in [&broken, &loud] {
            load(file, 16_000).unwrap_err();
            assert!(is_kept(), "{}", file.display());
        }
        with(&good, 16_000, |_| Err::<(), _>(Error::Bug("of a caller".to_owned()))).unwrap_err();
        assert!(is_kept());
        assert_eq!(load(&long, 16_000).unwrap().len(), LONGEST_KEPT + 1);
        assert!(is_kept());
        assert_eq!(bits(&load(&good, 16_000).unwrap()), bits(&expected));
    }

    #[test]
    fn a_recording_of_the_wanted_rate_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let signal = scramble(3_000);
        let Raw::File(file) = fixture::stored(folder.path(), 8_000, &signal) else { return };
        assert_eq!(bits(&load(&file, 8_000).unwrap()), bits(&signal));
        let resampled = bits(&load(&file, 16_000).unwrap());
        assert_eq!(resampled, bits(&resample(&signal, (8_000, 16_000)).unwrap()));
        assert_eq!(bits(&load(&file, 8_000).unwrap()), bits(&signal));
    }
}
