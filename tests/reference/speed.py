"""Times what others make of the files of benches/loader.rs: samples a second on one thread.

    MIE_BENCH_FILES=FOLDER cargo bench --bench loader
    python3 tests/reference/speed.py FOLDER

Tried with Python 3.11, librosa 0.11.0, soxr 1.1.0, torch 2.11.0, torchvision 0.26.0, Pillow 13.0.0,
opencv-python 5.0.0, transformers 5.24.0. Run by hand, on the machine of the bench. Names are those
of the bench; each pipeline is that of the released code of MIE where it has one:

    spectrogram_of_*     librosa: load at 22050 Hz, three times the recording, 3 s, STFT, logarithm
    random_crop_of_*     Pillow and torchvision: RandomResizedCrop(224), flip, tensor, normalise
    stretched_*          Pillow and torchvision: Resize((224, 224)), tensor, normalise
    clip_of_80_frames    OpenCV: 64 of the frames, 256 x 256, a square of 224, normalise
    word_pieces_of_tweet transformers: BertTokenizerFast, 64 tokens, a text a call

Real photographs are found as by the bench: MIE_TEST_DATA, else ../shared/data. A rate is the middle
one of passes over all files, at least five and at least five seconds of them, after one that counts
for nothing.
"""

import os

# Before the libraries are loaded, which start their threads then.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import pathlib
import statistics
import time

import cv2
import librosa
import numpy as np
import torch
import torchvision
import transformers
from PIL import Image
from torchvision import transforms

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
REAL_PHOTOGRAPHS = 64
LEAST_SECONDS = 5
LEAST_PASSES = 5


def spectrogram(file):
    """A recording as the released code takes those of CREMA-D."""
    samples, rate = librosa.load(file, sr=22050)
    samples = np.tile(samples, 3)[: rate * 3]
    samples = np.clip(samples, -1.0, 1.0)
    values = librosa.stft(samples, n_fft=512, hop_length=353)
    values = torch.from_numpy(np.log(np.abs(values) + 1e-7))
    assert values.shape == (257, 188), values.shape
    return values


def picture(transform):
    """Reads a picture and transforms it."""

    def sample(file):
        with Image.open(file) as opened:
            values = transform(opened.convert("RGB"))
        assert values.shape == (3, 224, 224)
        return values

    return sample


def clip(files):
    """64 frames from a random one on, of each the same square."""
    start = int(torch.randint(0, len(files) - 64 + 1, ()))
    top, left = (int(torch.randint(0, 256 - 224 + 1, ())) for _ in range(2))
    frames = []
    for file in files[start : start + 64]:
        frame = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        frame = cv2.resize(frame, (256, 256), interpolation=cv2.INTER_LINEAR)
        frames.append(frame[top : top + 224, left : left + 224])
    mean, deviation = (torch.tensor(part).reshape(3, 1, 1, 1) for part in IMAGENET)
    values = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float()
    values = ((values / 255 - mean) / deviation).contiguous()
    assert values.shape == (3, 64, 224, 224)
    return values


def word_pieces(vocabulary):
    """Numbers of the tokens of a text, and the mask."""
    lines = vocabulary.read_text().splitlines()
    tokenizer = transformers.BertTokenizerFast(vocab={line: n for n, line in enumerate(lines)})

    def sample(text):
        found = tokenizer(
            text, padding="max_length", truncation=True, max_length=64, return_tensors="pt"
        )
        assert found["input_ids"].shape == (1, 64)
        return found

    return sample


def rate(sample, inputs):
    """Samples a second."""
    times = []
    for number in range(10**6):
        started = time.perf_counter()
        for one in inputs:
            sample(one)
        if number > 0:
            times.append(time.perf_counter() - started)
        if len(times) >= LEAST_PASSES and sum(times) >= LEAST_SECONDS:
            break
    return len(inputs) / statistics.median(times)


def listed(folder, ending):
    """The files of a folder in order, at least one."""
    files = sorted(folder.glob(f"*{ending}"))
    if not files:
        raise SystemExit(f"{folder}: no files *{ending}; write them by MIE_BENCH_FILES, see above")
    return files


def main():
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="that of MIE_BENCH_FILES")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for library in (librosa, torch, torchvision, cv2, transformers):
        print(library.__name__, library.__version__)
    crop = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    end = [transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    crop = picture(transforms.Compose([*crop, *end]))
    stretch = picture(transforms.Compose([transforms.Resize((224, 224)), *end]))
    photographs = listed(folder / "photographs", ".jpg")
    tweets = (folder / "tweets.txt").read_text().splitlines()
    cases = [
        ("spectrogram_of_16000_hertz", spectrogram, listed(folder / "recordings_16000", ".wav")),
        ("spectrogram_of_22050_hertz", spectrogram, listed(folder / "recordings_22050", ".wav")),
        ("random_crop_of_600x450", crop, photographs),
        ("stretched_600x450", stretch, photographs),
        ("clip_of_80_frames", clip, [listed(folder / "frames", ".jpg")]),
        ("word_pieces_of_tweet", word_pieces(folder / "vocab.txt"), tweets),
    ]
    beside = pathlib.Path(__file__).parents[2] / "../shared/data"
    real = pathlib.Path(os.environ.get("MIE_TEST_DATA", beside)) / "tweet_sentiment_sample/data"
    real = sorted(real.glob("*.jpg"))[:REAL_PHOTOGRAPHS]
    if real:
        cases.append(("random_crop_of_real_photograph", crop, real))
        cases.append(("stretched_real_photograph", stretch, real))
    for name, sample, inputs in cases:
        print(f"{name:32} {rate(sample, inputs):9.1f} samples/s of {len(inputs)}", flush=True)


if __name__ == "__main__":
    main()
