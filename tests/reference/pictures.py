"""Writes data/pictures.safetensors: what Pillow, torchvision and OpenCV make of small pictures.

    pip install torch==2.11.0 torchvision==0.26.0 pillow==12.3.0 \
        opencv-contrib-python-headless==5.0.0.93 safetensors numpy
    python3 tests/reference/pictures.py

Pillow 13 filters columns first where the height shrinks much more than the width; up to 12 rows
always come first, as in the versions that published numbers were made with.

The tests of plugins/src/pictures and plugins/src/formats/picture.rs read the file. Inputs are made
by a formula that both sides compute; only JPEG files are stored, since encoders differ.
"""

import io
import pathlib

import cv2
import numpy
from PIL import Image, ImageEnhance, ImageOps
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transform

FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
GREY = (128, 128, 128)


def picture(height, width, smooth=False):
    """A picture without meaning: `smooth` is continuous, the other has sharp edges."""
    y, x, c = numpy.meshgrid(
        numpy.arange(height), numpy.arange(width), numpy.arange(3), indexing="ij"
    )
    value = x * (7 + 3 * c) + y * (11 - 2 * c) + x * y // (2 + c)
    if smooth:
        value = value % 512
        return numpy.where(value < 256, value, 511 - value).astype(numpy.uint8)
    return (value * 3 % 256).astype(numpy.uint8)


def resized():
    """Yields pictures resized whole and in part, up and down, by both filters."""
    wide, large = Image.fromarray(picture(30, 40)), Image.fromarray(picture(150, 200, smooth=True))
    for name, mode in FILTERS.items():
        for height, width in [(13, 17), (48, 56), (30, 11), (9, 40), (1, 1)]:
            yield f"resize {name} {height}x{width}", transform.resize(wide, [height, width], mode)
        yield f"large {name} 32x32", transform.resize(large, [32, 32], mode)
        for top, left, height, width in [(3, 5, 20, 31), (29, 39, 1, 1), (0, 10, 30, 7)]:
            part = transform.resized_crop(wide, top, left, height, width, [16, 16], mode)
            yield f"crop {name} {top},{left} {height}x{width}", part
        grey = Image.fromarray(picture(30, 40)[:, :, 0])
        yield f"grey {name} 13x17", transform.resize(grey, [13, 17], mode)


def moved(array, matrix):
    """Moves a picture by a matrix from old to new coordinates."""
    height, width = array.shape[:2]
    matrix = numpy.float32(matrix)
    return cv2.warpAffine(array, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=GREY)


def augmented(array):
    """Yields what each operation makes of a picture at level 7 of 10."""
    height, width = array.shape[:2]
    image = Image.fromarray(array)
    yield "auto_contrast", ImageOps.autocontrast(image)
    yield "equalize", ImageOps.equalize(image)
    yield "brightness", ImageEnhance.Brightness(image).enhance(1.36)
    yield "sharpness", ImageEnhance.Sharpness(image).enhance(1.36)
    yield "shear_x", moved(array, [[1, 0.21, 0], [0, 1, 0]])
    yield "shear_y", moved(array, [[1, 0, 0], [-0.21, 1, 0]])
    yield "translate_x", moved(array, [[1, 0, -7], [0, 1, 0]])
    yield "translate_y", moved(array, [[1, 0, 0], [0, 1, 7]])
    yield "rotate", moved(array, cv2.getRotationMatrix2D((width / 2, height / 2), 21, 1))


def encoded():
    """Yields JPEG files with and without halved colours, and what libjpeg-turbo makes of them."""
    image = Image.fromarray(picture(64, 96, smooth=True))
    for name, subsampling in [("full", 0), ("halved", 2)]:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85, subsampling=subsampling)
        yield f"jpeg {name} file", numpy.frombuffer(file.getvalue(), numpy.uint8)
        yield f"jpeg {name}", numpy.asarray(Image.open(file).convert("RGB"))


def main():
    """Writes everything into one file."""
    # A dim picture: contrast has something to stretch.
    dim = (picture(30, 40, smooth=True).astype(int) * 5 // 8 + 20).astype(numpy.uint8)
    tensors = {name: numpy.asarray(image) for name, image in resized()}
    for name, image in augmented(dim):
        tensors[f"dim {name}"] = numpy.asarray(image)
    # The sharp picture shows what leaves [0, 255].
    for name, image in augmented(picture(30, 40)):
        tensors[f"sharp {name}"] = numpy.asarray(image)
    tensors |= dict(encoded())
    scaled = transform.normalize(transform.to_tensor(Image.fromarray(picture(5, 6))), *IMAGENET)
    tensors["normalised"] = scaled.numpy()
    file = pathlib.Path(__file__).parent / "data" / "pictures.safetensors"
    tensors = {name: numpy.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(tensors, file)
    print(f"{file.stat().st_size} bytes, {len(tensors)} arrays")


if __name__ == "__main__":
    main()
