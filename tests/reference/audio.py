"""Writes data/audio.safetensors: what torchaudio and librosa make of generated recordings.

    pip install torch==2.11.0 torchaudio==2.11.0 librosa==0.11.0 soxr==1.1.0 \
        soundfile==0.14.0 safetensors==0.8.0 numpy==2.4.6
    python3 tests/reference/audio.py
    python3 tests/reference/audio.py --real FOLDER

The tests of plugins/src/modality/fbank.rs and spectrogram.rs read the file; `voice` is that of
plugins/src/modality/sound.rs. The second command writes nothing: it prints how far 32 bits and the
resampling of mie (its formulas, in NumPy) are from 64 bits and soxr on the WAVE files of a folder.
"""

import math
import pathlib
import sys
import tempfile

import librosa
import numpy
import soundfile
import torch
from safetensors.numpy import save_file
from torchaudio.compliance import kaldi

HERE = pathlib.Path(__file__).parent
RATE, WINDOW, HOP, FLOOR = 22050, 512, 353, 1e-7


def noise(count, seed):
    """White noise in [-0.5, 0.5): the upper halves of what a linear congruence gives."""
    state, values = seed, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append((state >> 16) / 65536 - 0.5)
    return numpy.array(values)


def voice(rate, count, seed):
    """A rising tone with overtones in noise, that swells and fades, within [-0.5, 0.5]."""
    n = numpy.arange(count)
    time = n / rate
    turns = 180 * time + 60 * time * time
    tones = sum(numpy.sin(2 * numpy.pi * k * turns) / 16 for k in range(1, 13))
    swell = numpy.sin(numpy.pi * n / count) ** 2
    return (swell * (0.6 * tones + 0.1 * noise(count, seed))).astype(numpy.float32)


def fbank(samples, rate, bins, dtype=torch.float64):
    """The call of the released code of OGM-GE, in 64 bits."""
    waveform = torch.from_numpy(samples).to(dtype)[None]
    return kaldi.fbank(
        waveform - waveform.mean(),
        htk_compat=True,
        sample_frequency=rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=bins,
        dither=0.0,
        frame_shift=10,
    ).numpy()


def spectrogram(samples, edges="constant", dtype=numpy.float64):
    """The call of the released code of MIE, in 64 bits."""
    transform = librosa.stft(
        numpy.clip(samples, -1, 1).astype(dtype), n_fft=WINDOW, hop_length=HOP, pad_mode=edges
    )
    return numpy.log(numpy.abs(transform) + FLOOR)


def loaded(samples, rate):
    """What librosa reads from a file of another rate."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/recording.wav"
        soundfile.write(file, samples, rate, subtype="FLOAT")
        return librosa.load(file, sr=RATE, mono=True)[0]


def cases():
    for rate, bins, count in [
        (16000, 128, 4800),
        (22050, 128, 4410),
        (44100, 128, 5292),
        (8000, 40, 2400),
    ]:
        yield f"fbank_{rate}_{bins}", fbank(voice(rate, count, 7), rate, bins)
    whole = voice(RATE, 6000, 5)
    yield "spectrogram_zeros", spectrogram(whole)
    yield "spectrogram_reflect", spectrogram(whole, "reflect")
    yield "spectrogram_tile", spectrogram(numpy.tile(voice(RATE, 2500, 6), 3)[:6000])
    for rate in [44100, 48000, 16000]:
        yield f"spectrogram_from_{rate}", spectrogram(loaded(voice(rate, rate // 5, 3), rate))


def resampled(samples, rate, target):
    """The overlap-add resampling of mie (rubato's), in 64 bits."""
    common = math.gcd(rate, target)
    chunks = -(-1024 * -(-rate // target) // (rate // common))
    size_in, size_out = chunks * rate // common, chunks * target // common
    shorter = min(size_in, size_out)
    cutoff = 1 / (13.745202940783823 / shorter + 121.73532586374934 / shorter**2
                  + 5964.163279612051 / shorter**3 + 1) * shorter / size_in
    n = numpy.arange(size_in)
    harris = sum(
        weight * numpy.cos(2 * numpy.pi * k * n / size_in)
        for k, weight in enumerate([0.35875, -0.48829, 0.14128, -0.01168])
    )
    sinc = harris**2 * numpy.sinc((n - size_in // 2) * cutoff)
    response = numpy.fft.rfft(sinc / sinc.sum(), 2 * size_in)
    kept = size_in + 1 if size_in < size_out else size_out
    wanted, delay = math.ceil(len(samples) * size_out / size_in), size_out // 2
    output = numpy.zeros((wanted + delay) // size_out * size_out + 3 * size_out)
    for block, start in enumerate(range(0, len(samples), size_in)):
        spectrum = numpy.zeros(size_out + 1, dtype=complex)
        piece = numpy.fft.rfft(samples[start : start + size_in], 2 * size_in) * response
        spectrum[:kept] = piece[:kept]
        output[block * size_out :][: 2 * size_out] += (
            numpy.fft.irfft(spectrum, 2 * size_out) * size_out / size_in
        )
    return output[delay : delay + wanted]


def compare(folder):
    """Prints differences on real recordings: 32 against 64 bits, and resampling against soxr."""
    for file in sorted(pathlib.Path(folder).glob("*.wav"))[:20]:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        samples = samples.mean(axis=1)
        banks = fbank(samples, rate, 128)
        single = fbank(samples, rate, 128, torch.float32)
        error = numpy.abs(spectrogram(samples) - spectrogram(samples, dtype=numpy.float32)).max()
        parts = [
            f"{file.name}: {rate} Hz",
            f"fbank 32 bits {numpy.abs(banks - single).max():.1e}",
            f"finite {numpy.isfinite(banks).all()}",
            f"spectrogram 32 bits {error:.1e}",
        ]
        if rate != RATE:
            theirs = spectrogram(loaded(samples, rate))
            ours = spectrogram(resampled(samples, rate, RATE))
            frames = min(theirs.shape[1], ours.shape[1])
            band = int(0.9 * min(rate, RATE) / RATE * (WINDOW // 2))
            theirs, ours = theirs[:band, :frames], ours[:band, :frames]
            loud = theirs > math.log(0.1)
            difference = numpy.abs(theirs - ours)
            parts.append(
                f"resampled: mean {difference.mean():.1e} largest {difference.max():.1e}, "
                f"where over 0.1: mean {difference[loud].mean():.1e} "
                f"largest {difference[loud].max():.1e}"
            )
        print(", ".join(parts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--real"]:
        compare(sys.argv[2])
    else:
        arrays = {name: numpy.ascontiguousarray(a, dtype=numpy.float32) for name, a in cases()}
        save_file(arrays, HERE / "data/audio.safetensors")
        for name, array in arrays.items():
            print(name, array.shape)
