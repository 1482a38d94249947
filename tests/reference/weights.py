"""Writes data/weights: small files of weights of every kind, and what is in them.

    pip install torch==2.11.0 safetensors
    python3 tests/reference/weights.py

The tests of core/src/weights read them. `expected.json` has the fractions as torch reads them back,
as f32; the numbers are made by formulas. The two hostile files would run a command if their pickles
were executed.
"""

import collections
import json
import os
import pathlib

import torch
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "data" / "weights"


def ramp(count, dtype=torch.float32):
    """Numbers that f16 and bf16 hold exactly, and 1/3 to tell f64 and f32 apart."""
    numbers = torch.arange(count, dtype=torch.float64) / 4 - 1
    if dtype == torch.float64:
        numbers = numbers / 3
    return numbers.to(dtype)


def tables():
    """A state dict with every kind of tensor that the reader knows."""
    base = ramp(24)
    table = collections.OrderedDict()
    table["conv.weight"] = ramp(12).reshape(2, 3, 2)
    table["half"] = ramp(5, torch.float16)
    table["bfloat16"] = ramp(5, torch.bfloat16)
    table["double"] = ramp(5, torch.float64)
    table["base"] = base
    table["view.rows"] = base.reshape(4, 6)[1:3]
    table["view.turned"] = base.reshape(4, 6).t()
    table["view.every_other"] = base[3::2]
    table["view.tied"] = base
    table["channels_last"] = ramp(24).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    table["parameter"] = torch.nn.Parameter(ramp(4).reshape(2, 2))
    table["scalar"] = torch.tensor(0.75)
    table["empty"] = torch.zeros(0, 3)
    table["bn.num_batches_tracked"] = torch.tensor(7)
    table["whole.i32"] = torch.arange(3, dtype=torch.int32)
    table["whole.i16"] = torch.arange(3, dtype=torch.int16)
    table["whole.i8"] = torch.arange(3, dtype=torch.int8)
    table["whole.u8"] = torch.arange(3, dtype=torch.uint8)
    table["truth"] = torch.tensor([True, False])
    return table


def fractions(table):
    """What a reader must find: shape and values as f32."""
    return {
        name: {
            "shape": list(tensor.shape),
            "values": tensor.detach().float().flatten().tolist(),
        }
        for name, tensor in table.items()
        if tensor.is_floating_point()
    }


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("echo executed > executed.txt",))


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = tables()
    torch.save(table, FOLDER / "archive.pt")
    torch.save(table, FOLDER / "protocol4.pt", pickle_protocol=4)
    torch.save(table, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)

    layer = torch.nn.BatchNorm2d(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 2.0]))
        layer.running_mean.copy_(torch.tensor([-1.0, 3.0]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(2, 2, 1, 1)).sum().backward()
    optimizer.step()
    nested = {
        "epoch": 3,
        "loss": 0.25,
        "name": "small",
        "state_dict": layer.state_dict(),
        "ema": {"weight": torch.tensor([4.0, 5.0])},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(nested, FOLDER / "nested.pt")
    torch.save(nested, FOLDER / "nested_legacy.pth", _use_new_zipfile_serialization=False)

    plain = {name: tensor.detach().clone().contiguous() for name, tensor in table.items()}
    save_file(plain, FOLDER / "hub.safetensors", metadata={"format": "pt"})

    hostile = {"weight": torch.ones(2), "more": Hostile()}
    torch.save(hostile, FOLDER / "hostile.pt")
    torch.save(hostile, FOLDER / "hostile_legacy.pth", _use_new_zipfile_serialization=False)

    expected = {
        "torch": torch.__version__,
        "table": fractions(table),
        "nested": fractions(nested["state_dict"]),
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
