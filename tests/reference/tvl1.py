"""Writes data/tvl1.safetensors: the TV-L1 flow that OpenCV finds in generated pictures.

    pip install opencv-contrib-python-headless==5.0.0.93 torch==2.11.0 safetensors==0.8.0 \
        numpy==2.4.6
    python3 tests/reference/tvl1.py
    python3 tests/reference/tvl1.py --real FOLDER
    python3 tests/reference/tvl1.py --blocks FOLDER

The tests of plugins/src/formats/tvl1.rs read the file; `texture` is that of their `fixture`. All
commands print how far OpenCV, and the operations of mie in PyTorch, are from each other, in pixels:
mean, median, 99 % and largest. The first prints too how far both are from the motion that was put
in; the second, for the frames in a folder, how long both take in one thread, and writes nothing.
The third takes the folder `nvgesture_mini` and writes data/tvl1_real.json, which the tests read
too: of two pairs of real frames the mean flow of OpenCV in each of 8 x 8 blocks, and no picture.
"""

import json
import math
import pathlib
import sys
import time

import cv2
import numpy
import torch
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
HEIGHT, WIDTH = 48, 64
TAU, LAMBDA, THETA, EPSILON = 0.25, 0.15, 0.3, 0.01
SCALES, STEP, WARPS, OUTER, INNER = 5, 0.8, 5, 10, 30
resize = torch._C._nn.upsample_bilinear2d


def texture(x, y, phase):
    """Waves of four lengths, within 8 and 248."""
    waves = [(0.31, 0.12, 50.0), (-0.17, 0.45, 35.0), (0.71, -0.38, 20.0), (0.05, -0.93, 15.0)]
    return 128.0 + sum(
        size * numpy.sin(a * x + b * y + (k + 1) * phase) for k, (a, b, size) in enumerate(waves)
    )


def cases():
    """Two pictures each, and the motion of every pixel of the first."""
    y, x = numpy.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    shift = (2.3, -1.4)
    yield "shift", texture(x, y, 0.5), texture(x - shift[0], y - shift[1], 0.5), (
        numpy.full_like(x, shift[0]),
        numpy.full_like(x, shift[1]),
    )
    # Around the centre by 3 degrees, and larger by 4 %.
    angle, zoom, cx, cy = math.radians(3), 1.04, (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    c, s = zoom * math.cos(angle), zoom * math.sin(angle)
    right, down = x - cx, y - cy
    square = c * c + s * s
    back = (cx + (c * right + s * down) / square, cy + (-s * right + c * down) / square)
    moved = (c * right - s * down - right, s * right + c * down - down)
    yield "turn", texture(x, y, 1.5), texture(*back, 1.5), moved
    # A disc in front of what does not move.
    jump, radius = (3.0, 1.5), 13.0
    before = numpy.hypot(x - 29, y - 23) < radius
    after = numpy.hypot(x - 29 - jump[0], y - 23 - jump[1]) < radius
    first = numpy.where(before, texture(x, y, 2.5), texture(x, y, 4.0))
    second = numpy.where(after, texture(x - jump[0], y - jump[1], 2.5), texture(x, y, 4.0))
    yield "disc", first, second, tuple(before * step for step in jump)


def opencv(first, second):
    """Height x width x 2."""
    maker = cv2.optflow.DualTVL1OpticalFlow_create()
    maker.setEpsilon(EPSILON)
    maker.setOuterIterations(OUTER)
    return maker.calc(first, second, None)


def order(values, low, high):
    pair = values[low], values[high]
    values[low], values[high] = torch.minimum(*pair), torch.maximum(*pair)


def sort(values):
    for low, high in [(0, 1), (3, 4), (2, 4), (2, 3), (1, 4), (0, 3), (0, 2), (1, 3), (1, 2)]:
        order(values, low, high)
    return values


def middle(values):
    """The middle of an odd number of tensors: of a majority neither end can be it."""
    rest = list(values)
    held = [rest.pop() for _ in range(len(rest) // 2 + 2)]
    while True:
        last = len(held) - 1
        for low in range(len(held) // 2):
            order(held, low, last - low)
        for place in range(1, len(held) // 2 + len(held) % 2):
            order(held, 0, place)
        for place in range(len(held) // 2, last):
            order(held, place, last)
        held = held[1:-1]
        if not rest:
            return held[0]
        held.append(rest.pop())


def median(flow):
    height, width = flow.shape[-2:]
    padded = torch.nn.functional.pad(flow, (2, 2, 2, 2), mode="replicate")
    rows = sort([padded.narrow(-2, row, height) for row in range(5)])
    left = []
    for row in range(5):
        columns = sort([rows[row].narrow(-1, column, width) for column in range(5)])
        for column in range(5):
            if (row + 1) * (column + 1) < 14 and (5 - row) * (5 - column) < 14:
                left.append(columns[column])
    return middle(left)


def with_gradients(picture):
    """Filled up with zeros, which is what lies beyond, to sides of powers of two."""
    height, width = picture.shape[-2:]
    padded = torch.nn.functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    right = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    planes = torch.cat([picture, right * 0.5, down * 0.5], 1)
    more = [(1 << (side - 1).bit_length()) - side for side in (width, height)]
    return torch.nn.functional.pad(planes, (0, more[0], 0, more[1]))


def warped(planes, flow):
    """Whole pixels are met exactly: the flow of what stands still is 0, at the edges too."""
    height, width = flow.shape[-2:]
    x = (torch.arange(width) + flow[:, 0] + 0.5) * (2 / planes.shape[-1]) - 1
    y = (torch.arange(height)[:, None] + flow[:, 1] + 0.5) * (2 / planes.shape[-2]) - 1
    grid = torch.stack([x, y], -1)
    return torch.nn.functional.grid_sample(
        planes, grid, mode="bicubic", padding_mode="zeros", align_corners=False
    )


def refined(first, second, flow, check_every):
    """A scale; p stands for theta times the dual variable."""
    pairs, _, height, width = flow.shape
    p = torch.zeros(2, pairs, 2, height, width)
    slope = torch.zeros_like(p)
    planes = with_gradients(second)
    for _ in range(WARPS):
        there = warped(planes, flow)
        gradient = there[:, 1:].contiguous()
        ix, iy = gradient[:, :1], gradient[:, 1:]
        rest = there[:, :1] - (gradient * flow).sum(1, keepdim=True) - first
        less = -(gradient * gradient).sum(1, keepdim=True).clamp_min(1.1920929e-7)
        moves = torch.ones(pairs, 1, 1, 1, dtype=torch.bool)
        for count in range(OUTER * INNER):
            if count % INNER == 0:
                flow = torch.where(moves, median(flow), flow)
            step = torch.addcmul(rest, ix, flow[:, :1]).addcmul_(iy, flow[:, 1:])
            step = step.div_(less).clamp_(-LAMBDA * THETA, LAMBDA * THETA)
            new = torch.addcmul(flow, gradient, step)
            new.add_(p[0])[..., 1:].sub_(p[0, ..., :-1])
            new.add_(p[1])[..., 1:, :].sub_(p[1, ..., :-1, :])
            torch.sub(new[..., 1:], new[..., :-1], out=slope[0, ..., :-1])
            torch.sub(new[..., 1:, :], new[..., :-1, :], out=slope[1, ..., :-1, :])
            size = (slope[0] * slope[0]).addcmul_(slope[1], slope[1]).sqrt_()
            dual = (slope * TAU).add_(p).div_(size.mul_(TAU / THETA).add_(1))
            error = (new - flow).square_().mean(-1).mean(-1).sum(-1).view(-1, 1, 1, 1)
            flow = torch.where(moves, new, flow)
            p = torch.where(moves, dual, p)
            moves = moves & (error > EPSILON * EPSILON)
            if count % check_every == check_every - 1 and not moves.any():
                break
    return flow


def mie(first, second, check_every=1):
    """Pairs x height x width to pairs x 2 x height x width."""
    scales = [(first[:, None], second[:, None])]
    while len(scales) < SCALES:
        size = [round(side * STEP) for side in scales[-1][0].shape[-2:]]
        if min(size) < 16:
            break
        scales.append([resize(picture, size, False, STEP, STEP) for picture in scales[-1]])
    flow = torch.zeros(len(first), 2, *scales[-1][0].shape[-2:])
    for first, second in reversed(scales):
        size = list(first.shape[-2:])
        if size != list(flow.shape[-2:]):
            flow = resize(flow, size, False, None, None) * (1 / STEP)
        flow = refined(first, second, flow, check_every)
    return flow


def ours(first, second):
    tensors = [torch.tensor(picture, dtype=torch.float32)[None] for picture in (first, second)]
    return mie(*tensors)[0].permute(1, 2, 0).numpy()


def apart(one, other):
    """End-point error in pixels: mean, median, 99 % and largest."""
    distance = numpy.hypot(*numpy.moveaxis(one - other, -1, 0))
    numbers = [distance.mean(), *numpy.percentile(distance, [50, 99]), distance.max()]
    return " ".join(f"{number:.4f}" for number in numbers)


def generated():
    tensors, pictures = {}, []
    for name, first, second, motion in cases():
        pair = [numpy.rint(picture).astype("uint8") for picture in (first, second)]
        pictures.append(pair)
        found, reference = ours(*pair), opencv(*pair)
        tensors[name] = numpy.ascontiguousarray(numpy.moveaxis(reference, -1, 0), "float16")
        motion = numpy.stack(motion, -1)
        print(f"{name}: mie to truth {apart(found, motion)}")
        print(f"{name}: OpenCV to truth {apart(reference, motion)}")
        print(f"{name}: mie to OpenCV {apart(found, reference)}")
    # As many iterations in both.
    global EPSILON, OUTER
    settings, (EPSILON, OUTER) = (EPSILON, OUTER), (0.0, 3)
    found, reference = ours(*pictures[-1]), opencv(*pictures[-1])
    tensors["disc_90"] = numpy.ascontiguousarray(numpy.moveaxis(reference, -1, 0), "float16")
    print(f"disc, 90 iterations a look-up: mie to OpenCV {apart(found, reference)}")
    EPSILON, OUTER = settings
    first, second = torch.tensor(numpy.array(pictures), dtype=torch.float32).unbind(1)
    together = mie(first, second, 8)
    alone = torch.cat([mie(*pair) for pair in zip(first.split(1), second.split(1))])
    print(f"together and alone: {(together - alone).abs().max()}")
    print(f"still: {mie(first, first).abs().max()}")
    colours = numpy.mgrid[0:256:5, 0:256:3, 0:256:5].reshape(3, -1).T.astype("uint8")
    weights = numpy.array([9798, 19235, 3735])
    grey = (colours.astype(int) @ weights + 16384) >> 15
    difference = grey - cv2.cvtColor(colours[None], cv2.COLOR_RGB2GRAY)[0]
    print(f"grey: {abs(difference).max()} of {len(colours)} colours")
    save_file(tensors, HERE / "data/tvl1.safetensors")


def real(folder):
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    files = sorted(pathlib.Path(folder).glob("*.[jp][pn]g"))
    frames = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2GRAY) for file in files]
    found, reference, seconds = [], [], [0.0, 0.0]
    for pair in zip(frames, frames[1:]):
        for kind, (made, make) in enumerate([(found, ours), (reference, opencv)]):
            start = time.perf_counter()
            made.append(make(*pair))
            seconds[kind] += time.perf_counter() - start
    found, reference = numpy.array(found), numpy.array(reference)
    sizes = numpy.hypot(reference[..., 0], reference[..., 1])
    print(f"{len(found)} pairs of {frames[0].shape[::-1]}, largest motion {sizes.max():.2f}")
    print(f"mie to OpenCV: {apart(found, reference)}")
    moving = sizes > 1
    distances = apart(found[moving], reference[moving])
    print(f"where OpenCV has over 1 pixel, {moving.mean():.3f} of all: {distances}")
    one, other = [numpy.rint(numpy.clip(it, -20, 20) * 6.375 + 127.5) for it in (found, reference)]
    print(f"bytes of pictures: {abs(one - other).mean():.4f}")
    print("milliseconds a pair:", [round(1000 * it / len(found)) for it in seconds])


def blocks(folder):
    """Mean flow of 8 x 8 blocks of two pairs of real frames, as OpenCV finds it."""
    clip = "Video_data/class_01/subject3_r1/sk_color_all"
    pairs = []
    for numbers in [(201, 202), (206, 208)]:
        names = [f"{clip}/{number:05}.jpg" for number in numbers]
        files = [str(pathlib.Path(folder) / name) for name in names]
        frames = [cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2GRAY) for file in files]
        flows = [opencv(*frames), ours(*frames)]
        # Decoders of JPEG differ by a grey value here and there.
        noise = numpy.random.default_rng(0).integers(-1, 2, (2, *frames[0].shape))
        noisy = [numpy.clip(frame + it, 0, 255) for frame, it in zip(frames, noise)]
        flows.append(ours(*noisy))
        height, width, _ = flows[0].shape
        means = [
            flow.reshape(8, height // 8, 8, width // 8, 2).mean((1, 3), dtype="float64")
            for flow in flows
        ]
        largest = numpy.hypot(flows[0][..., 0], flows[0][..., 1]).max()
        print(f"{numbers}: largest motion {largest:.2f}, mie to OpenCV {apart(flows[1], flows[0])}")
        for name, other in [("mie", means[1]), ("mie with noise of 1", means[2])]:
            difference = abs(other - means[0])
            print(f"  blocks, {name}: mean {difference.mean():.4f}, largest {difference.max():.4f}")
        sizes = abs(means[0])
        print(f"  blocks of OpenCV: mean size {sizes.mean():.4f}, largest {sizes.max():.4f}")
        grids = numpy.moveaxis(means[0], -1, 0).round(4).reshape(2, 64).tolist()
        pairs.append({"files": names, "right": grids[0], "down": grids[1]})
    (HERE / "data/tvl1_real.json").write_text(json.dumps({"pairs": pairs}) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--real"]:
        real(sys.argv[2])
    elif sys.argv[1:2] == ["--blocks"]:
        blocks(sys.argv[2])
    else:
        generated()
