"""Writes data/video.safetensors, what OpenCV makes of generated pictures, and data/npy/*.npy.

    pip install opencv-contrib-python-headless==5.0.0.93 safetensors==0.8.0 numpy==2.4.6
    python3 tests/reference/video.py

The tests of plugins/src/modality/video.rs read the former; `picture` is that of its `fixture`. The
latter are small arrays as NumPy writes them, for the tests of plugins/src/formats/npy.rs.
"""

import pathlib

import cv2
import numpy
from numpy.lib import format as npy
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent


def picture(height, width, channels):
    """A picture without structure."""
    row, column, channel = numpy.indices((height, width, channels))
    return ((row * row * 31 + column * 17 + row * column * 7 + channel * 89) % 256).astype("uint8")


def stretched(array, side):
    """OpenCV drops a single channel; the shape keeps it."""
    resized = cv2.resize(array, (side, side), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(side, side, array.shape[2])


def pictures():
    for height, width, channels, side in [
        (37, 53, 3, 64),
        (120, 160, 1, 64),
        (64, 64, 1, 32),
        (50, 31, 1, 48),
    ]:
        name = f"resize_{height}_{width}_{channels}_to_{side}"
        yield name, stretched(picture(height, width, channels), side)
    flow = picture(15, 20, 2).astype("float32") / 8 - 16
    yield "resize_flow_15_20_2_to_32", stretched(flow, 32)


def arrays():
    """The same array in several kinds, orders and versions."""
    i, j, k = numpy.indices((2, 3, 4))
    array = 100 * i + 10 * j + k
    yield "c_f4", array.astype("<f4"), None
    yield "fortran_f8", numpy.asfortranarray(array.astype("<f8")), None
    yield "big_f8", array.astype(">f8"), None
    yield "fortran_big_i2", numpy.asfortranarray(array.astype(">i2")), None
    yield "i8", array.astype("<i8"), None
    yield "version_2", array.astype("<f4"), (2, 0)
    yield "version_3", array.astype("<i4"), (3, 0)


if __name__ == "__main__":
    save_file(dict(pictures()), HERE / "data/video.safetensors")
    folder = HERE / "data/npy"
    folder.mkdir(exist_ok=True)
    for name, array, version in arrays():
        with open(folder / f"{name}.npy", "wb") as file:
            npy.write_array(file, array, version=version)
