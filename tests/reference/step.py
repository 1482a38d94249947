"""Times a training step written plainly in PyTorch: what `mie bench step` is held against.

    mie bench step benches/configs/step_audio.toml --threads 2 --device cpu
    GOMP_SPINCOUNT=1000 python3 tests/reference/step.py --case audio --threads 2 --device cpu

Tried with Python 3.11, torch 2.11.0. Run by hand, on the machine of the other command and right
after it; `mie` sets GOMP_SPINCOUNT by itself. Cases and their experiments in benches/configs:

    audio     step_audio.toml            spectrograms  [batch, 1, 257, 188]
    video_1   step_video_1_frame.toml    one frame     [batch, 3, 1, 224, 224]
    video_3   step_video_3_frames.toml   three frames  [batch, 3, 3, 224, 224]

ResNet-18 of random weights, head 512-256-64-6 with a ReLU after its first layer, mean over the
features of a sample's frames; cross-entropy, no mixup. SAM (radius 0.05, one norm over all weights)
around SGD (0.01, momentum 0.9, weight decay 1e-4): the second pass normalises by its batch and
keeps no statistics, weights are put back as they were. Inputs are made before the clock starts;
putting them on the device counts as data. Nothing is recorded but the loss of every step on the
CPU, as a run does.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

SHAPES = {"audio": (1, 257, 188), "video_1": (3, 1, 224, 224), "video_3": (3, 3, 224, 224)}
CLASSES = 6
RHO = 0.05
BATCHES = 4


class Norm(nn.BatchNorm2d):
    """Batch normalisation that keeps no statistics while `keeps` is off."""

    keeps = True

    def forward(self, x):
        if self.training and not Norm.keeps:
            return functional.batch_norm(
                x, None, None, self.weight, self.bias, True, self.momentum, self.eps
            )
        return super().forward(x)


class Block(nn.Module):
    """Two convolutions of 3 x 3 and a way past them."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = Norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = Norm(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, Norm(outputs))

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return functional.relu(y, inplace=True)


class Network(nn.Module):
    """ResNet-18 without its classifier, and a head."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = Norm(64)
        blocks, width = [], 64
        for layer, outputs in enumerate((64, 128, 256, 512)):
            for number in range(2):
                blocks.append(Block(width, outputs, 2 if layer > 0 and number == 0 else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 64), nn.Linear(64, CLASSES)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Norm):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, x):
        frames = None
        if x.dim() == 5:
            frames = x.size(2)
            x = x.transpose(1, 2).flatten(0, 1)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.blocks(functional.max_pool2d(x, 3, 2, 1))
        feature = x.mean((2, 3))
        if frames is not None:
            feature = feature.unflatten(0, (-1, frames)).mean(1)
        return self.head(feature)


class Clock:
    """Adds up the seconds of the parts of a step."""

    def __init__(self, device):
        self.device = device
        self.spent = {}
        self.last = self.now()

    def now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def lap(self, part):
        now = self.now()
        self.spent[part] = self.spent.get(part, 0.0) + now - self.last
        self.last = now


def step(network, optimizer, host, device, clock):
    """One step; gives its loss."""
    parameters = list(network.parameters())
    x, labels = (tensor.to(device, non_blocking=True) for tensor in host)
    clock.lap("data")
    loss = functional.cross_entropy(network(x), labels)
    clock.lap("forward")
    optimizer.zero_grad()
    loss.backward()
    clock.lap("backward")
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        scale = RHO / (norm + 1e-12)
        kept = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.add_(p.grad * scale)
    Norm.keeps = False
    second = functional.cross_entropy(network(x), labels)
    optimizer.zero_grad()
    second.backward()
    Norm.keeps = True
    with torch.no_grad():
        for p, own in zip(parameters, kept):
            p.data = own
    clock.lap("displaced")
    optimizer.step()
    clock.lap("optimizer")
    return loss.item() if device.type == "cpu" else loss.detach()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=SHAPES, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    # As `mie` computes on CUDA: products of 32 bits, and the same bits every time.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device(options.device)
    shape = SHAPES[options.case]
    network = Network(shape[0]).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    batches = [
        (torch.randn(options.batch, *shape), torch.randint(CLASSES, (options.batch,)))
        for _ in range(BATCHES)
    ]
    seconds, spent = [], {}
    for number in range(options.warm_up + options.steps):
        clock = Clock(device)
        started = clock.last
        loss = step(network, optimizer, batches[number % BATCHES], device, clock)
        elapsed = clock.now() - started
        if number >= options.warm_up:
            seconds.append(elapsed)
            for part, of_it in clock.spent.items():
                spent[part] = spent.get(part, 0.0) + of_it
    whole = sum(seconds)
    shares = {part: round(of_it / whole, 4) for part, of_it in spent.items()}
    shares["rest"] = round(1 - sum(spent.values()) / whole, 4)
    page = {
        "case": options.case,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "batch_size": options.batch,
        "steps": options.steps,
        "samples_per_second": round(options.batch / statistics.median(seconds), 3),
        "seconds_per_step": {
            "median": round(statistics.median(seconds), 5),
            "minimum": round(min(seconds), 5),
            "maximum": round(max(seconds), 5),
        },
        "shares": shares,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "last_loss": float(loss),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        page["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    print(json.dumps(page, indent=2))


if __name__ == "__main__":
    main()
