"""Maps to measured nuclei: seconds a megapixel of each step, one core, and the scores on perfect maps.

    python benchmarks/decode.py [--size 1024] [--repeat 5] [--monuseg FOLDER] [--json]

Perfect maps are what a faultless network would give at 0.5 µm: the mean of the labels' 2 × 2 pixels, and the
offsets to their centroids. Without MoNuSeg's folder they are made of discs, 1,500 a megapixel; with it of its
labels, halved from 0.25 to 0.5 µm, and the scores are against the labels as they are. Compilation is not
timed, and time is the processor's, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import Labels, rasterize, trace
from wsiseg.evaluate import evaluate
from wsiseg.models.decoders import OffsetDecoder, WatershedDecoder
from wsiseg.models.decoders.maps import Map
from wsiseg.tiles.measure import measure

NUCLEI_PER_MPX = 1500
RADII_PX = (6.0, 10.0)


def discs(size: int) -> Labels:
    """Labels (2 · size)², discs that touch here and there."""
    rng = np.random.default_rng(0)
    labels = np.zeros((2 * size, 2 * size), dtype=np.int32)
    spacing = 1000 / NUCLEI_PER_MPX**0.5
    places = np.arange(spacing / 2, size, spacing)
    for n, (cy, cx) in enumerate(np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)):
        y, x = 2 * (np.array([cy, cx]) + rng.uniform(-4, 4, 2))
        r = 2 * rng.uniform(*RADII_PX)
        y0, x0 = max(0, int(y - r)), max(0, int(x - r))
        part = labels[y0 : int(y + r) + 2, x0 : int(x + r) + 2]
        i, j = np.indices(part.shape) + 0.5
        part[((i + y0 - y) ** 2 + (j + x0 - x) ** 2 < r * r) & (part == 0)] = n + 1
    return labels


def perfect_maps(labels: Labels) -> tuple[Map, Map]:
    """Foreground (h, w) and offsets (2, h, w) at half the labels' resolution."""
    height, width = labels.shape[0] // 2, labels.shape[1] // 2
    quads = labels.reshape(height, 2, width, 2).transpose(0, 2, 1, 3).reshape(height, width, 4)
    votes = (quads[..., None] == quads[..., None, :]).sum(-1) * (quads > 0)
    name = np.take_along_axis(quads, votes.argmax(-1)[..., None], -1)[..., 0]
    index = np.arange(1, labels.max() + 1)
    count = np.maximum(ndimage.sum_labels(np.ones(labels.shape), labels, index), 1)
    centre = [
        np.append(0, (ndimage.sum_labels(axis, labels, index) / count + 0.5) / 2 - 0.5)[name]
        for axis in np.indices(labels.shape)
    ]
    offsets = (np.stack(centre) - np.indices(name.shape)) * (name > 0)
    return (quads > 0).mean(-1, dtype=np.float32), offsets.astype(np.float32)


def doubled(nuclei: Nuclei, shape: tuple[int, int]) -> Labels:
    """Nuclei of the maps as labels at the resolution of the truth."""
    return rasterize(Nuclei(nuclei.vertices * 2, nuclei.offsets), np.arange(len(nuclei)) + 1, shape)


def seconds(call: Callable[[], object], repeat: int) -> float:
    """Least processor time of a call."""
    call()
    best = float("inf")
    for _ in range(repeat):
        start = time.thread_time()
        call()
        best = min(best, time.thread_time() - start)
    return best


def speed(labels: Labels, repeat: int) -> dict[str, float]:
    """Milliseconds a megapixel of the maps."""
    foreground, offsets = perfect_maps(labels)
    image = np.random.default_rng(0).integers(0, 256, (*foreground.shape, 3), dtype=np.uint8)
    nuclei = OffsetDecoder().decode(foreground, offsets)
    steps: dict[str, Callable[[], object]] = {
        "offsets_ms": lambda: OffsetDecoder().decode(foreground, offsets),
        "watershed_ms": lambda: WatershedDecoder().decode(foreground),
        "trace_ms": lambda: trace(labels),
        "rasterize_ms": lambda: rasterize(nuclei, np.arange(len(nuclei)) + 1, image.shape[:2]),
        "measure_ms": lambda: measure(nuclei, image, 0.5),
    }
    found = {name: 1e3 * seconds(step, repeat) / (foreground.size / 1e6) for name, step in steps.items()}
    return {"nuclei_per_mpx": len(nuclei) / (foreground.size / 1e6), **found}


def accuracy(truths: list[Labels]) -> dict[str, float]:
    """Mean scores of both decoders on perfect maps."""
    scores: dict[str, list[float]] = {}
    for labels in truths:
        foreground, offsets = perfect_maps(labels)
        for name, nuclei in (
            ("offsets", OffsetDecoder().decode(foreground, offsets)),
            ("watershed", WatershedDecoder().decode(foreground)),
        ):
            found = evaluate(labels, doubled(nuclei, labels.shape))
            scores.setdefault(f"{name}_aji", []).append(found.aji)
            scores.setdefault(f"{name}_dice", []).append(found.dice)
            scores.setdefault(f"{name}_pq", []).append(found.pq)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--size", type=int, default=1024, help="side of the synthetic maps, pixels")
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--monuseg", type=Path, help="folder with labels/*.png at 0.25 µm")
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = arguments.parse_args()
    truths = [discs(options.size)]
    result = speed(truths[0], options.repeat)
    if options.monuseg:
        from PIL import Image

        files = sorted((options.monuseg / "labels").glob("*.png"))
        truths = [np.asarray(Image.open(file)).astype(np.int32) for file in files]
    result |= accuracy(truths)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:18} {value:10.3f}")


if __name__ == "__main__":
    main()
