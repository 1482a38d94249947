"""Writes data/cnn.safetensors: what PyTorch makes of resnet18, resnet50 and i3d.

    pip install torch==2.11.0 torchvision==0.26.0 numpy==2.4.6 safetensors==0.8.0
    python3 tests/reference/cnn.py           # writes the file
    python3 tests/reference/cnn.py shares    # prints the shares that the encoders' pages list

The tests of plugins/src/encoder/{resnet18,resnet50,i3d}.rs read the file. Weights and inputs follow
the formulas of plugins/src/encoder/fixture.rs (`fill_by_chirp`, `chirp`), so networks of full size
are compared and only their outputs are stored, computed in 64 bits. The residual networks are
those of torchvision; the inflated Inception is written here from its published layer sizes, padding
and normalisation (Carreira and Zisserman 2017; repository piergiaj/pytorch-i3d, not packaged).

Measured, as shares of the largest value: f32 differs by at most 6e-7 in evaluation and, as batch
normalisation enlarges rounding, by 3e-6 (resnet18), 2e-5 (resnet50) and 7e-5 (i3d) in training.
"""

import copy
import math
import pathlib
import sys

import numpy
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

BRANCHES = {  # outputs of b0, b1a, b1b, b2a, b2b, b3b
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def same(x, kernel, stride):
    """Pads so that each axis has ceil(size / stride) outputs, the odd zero behind."""
    pads = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride))):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return nn.functional.pad(x, pads)


class Pool(nn.Module):
    def __init__(self, kernel, stride):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x):
        return nn.functional.max_pool3d(same(x, self.kernel, self.stride), self.kernel, self.stride)


class Unit(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x):
        x = same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return self.bn(self.conv3d(x)).relu()


class Mixed(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.b0 = Unit(inputs, outputs[0])
        self.b1a, self.b1b = Unit(inputs, outputs[1]), Unit(outputs[1], outputs[2], 3)
        self.b2a, self.b2b = Unit(inputs, outputs[3]), Unit(outputs[3], outputs[4], 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, outputs[5])

    def forward(self, x):
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class InflatedInception(nn.Sequential):
    def __init__(self, channels=3):
        super().__init__()
        self.add_module("Conv3d_1a_7x7", Unit(channels, 64, 7, 2))
        self.add_module("MaxPool3d_2a_3x3", Pool((1, 3, 3), (1, 2, 2)))
        self.add_module("Conv3d_2b_1x1", Unit(64, 64))
        self.add_module("Conv3d_2c_3x3", Unit(64, 192, 3))
        self.add_module("MaxPool3d_3a_3x3", Pool((1, 3, 3), (1, 2, 2)))
        width = 192
        for name, outputs in BRANCHES.items():
            if name == "Mixed_4b":
                self.add_module("MaxPool3d_4a_3x3", Pool((3, 3, 3), (2, 2, 2)))
            if name == "Mixed_5b":
                self.add_module("MaxPool3d_5a_2x2", Pool((2, 2, 2), (2, 2, 2)))
            self.add_module(name, Mixed(width, outputs))
            width = outputs[0] + outputs[2] + outputs[4] + outputs[5]

    def forward(self, x):
        return super().forward(x).mean(dim=(2, 3, 4))


def resnet18():
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    return network


def fill(network):
    """Sets parameters and buffers by the formula of `fill_by_chirp`."""
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        phase = sum((i + 1) * byte for i, byte in enumerate(name.encode())) % 1000 / 100
        i = numpy.arange(tensor.numel(), dtype=numpy.float64)
        if tensor.dim() > 1:
            centre, amplitude = 0.0, 2.0 / math.sqrt(tensor[0].numel())
        else:
            centre, amplitude = float(name.endswith(("weight", "running_var"))), 0.1
        values = centre + amplitude * numpy.sin(0.001 * i * i + 0.37 * i + phase)
        tensor.copy_(torch.from_numpy(values.astype(numpy.float32)).view_as(tensor))


def chirp(*shape):
    i = numpy.arange(math.prod(shape), dtype=numpy.float64)
    return torch.from_numpy(numpy.sin(0.001 * i * i).astype(numpy.float32)).view(shape)


def features(network, x):
    """The feature of each sample, the mean over its frames where there are several."""
    if x.dim() == 5 and not isinstance(network, InflatedInception):
        frames = x.transpose(1, 2)
        return network(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(dim=1)
    return network(x)


def case(results, name, network, x, mode, statistics=()):
    """Stores features and, after a training pass, running statistics; says how exact f32 is."""
    fill(network)
    network.train(mode == "train")
    exact = copy.deepcopy(network).double()
    found, wanted = features(network, x), features(exact, x.double())
    results[f"{name}.{mode}"] = wanted.float().contiguous()
    for statistic in statistics:
        results[f"{name}.{statistic}"] = exact.state_dict()[statistic].float()
    error = (found - wanted).abs().max() / wanted.abs().max()
    apart = (wanted[0] - wanted[1]).abs().max() / wanted.abs().max()
    print(f"{name} {mode}: error of f32 {error:.1e}, samples {apart:.2g} apart")


def reference():
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")
    results = {}
    for name, network, last in [
        ("resnet18", resnet18(), "layer4.1.bn2"),
        ("resnet50", torchvision.models.resnet50(), "layer4.2.bn3"),
    ]:
        case(results, name, network, chirp(2, 3, 64, 64), "eval")
        statistics = "bn1.running_mean", "bn1.running_var", f"{last}.running_var"
        case(results, name, network, chirp(2, 3, 64, 64), "train", statistics)
        case(results, f"{name}.frames", network, chirp(2, 3, 2, 40, 56), "eval")
    clips, network = chirp(2, 3, 9, 72, 88), InflatedInception()
    statistics = "Conv3d_1a_7x7.bn.running_mean", "Mixed_5c.b3b.bn.running_var"
    case(results, "i3d", network, clips, "eval")
    case(results, "i3d", network, clips, "train", statistics)
    path = pathlib.Path(__file__).parent / "data" / "cnn.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(results, path)
    print(f"{path.name}: {path.stat().st_size} bytes")


def weights(network):
    """Names and sizes of the weights of layers with a matrix, in forward order."""
    kinds = nn.Conv2d, nn.Conv3d, nn.Linear
    modules = network.named_modules()
    return [(name, module.weight.numel()) for name, module in modules if isinstance(module, kinds)]


def shares():
    """Prints the shares of a modality's parameters that weights make up from the output backwards.

    Shares count weights of layers, as gradient modifiers do; the whole includes biases and
    normalisation.
    """
    for title, encoder, projection, sizes in [
        ("resnet18, 31 classes", resnet18(), [], [512, 256, 64, 31]),
        ("resnet50, 3 classes", torchvision.models.resnet50(), [], [1000, 256, 64, 3]),
        ("resnet50 projected", torchvision.models.resnet50(), [1000, 768], [768, 256, 64, 3]),
        ("i3d, 25 classes", InflatedInception(), [], [1024, 256, 64, 25]),
    ]:
        head = nn.ModuleDict({f"fc{i + 1}": nn.Linear(*sizes[i : i + 2]) for i in range(3)})
        between = nn.ModuleDict({"projection": nn.Linear(*projection)} if projection else {})
        parts = encoder, between, head
        total = sum(p.numel() for part in parts for p in part.parameters())
        print(f"{title}: encoder {sum(p.numel() for p in encoder.parameters()):,}, all {total:,}")
        reached = 0
        for name, size in reversed([row for part in parts for row in weights(part)]):
            reached += size
            print(f"  {name:28} {size:>10,} {100 * reached / total:7.2f} %")


if __name__ == "__main__":
    with torch.no_grad():
        shares() if sys.argv[1:] == ["shares"] else reference()
