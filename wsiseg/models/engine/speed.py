"""How fast a segmenter is, here and now."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wsiseg.models.base import Image, Segmenter

NUCLEI_PER_MM2 = 4000
_GROUND, _NUCLEUS = (228, 178, 206), (98, 66, 138)


@dataclass(frozen=True)
class Speed:
    """What was measured on one image, the best of some runs.

    Attributes
    ----------
    on : str
        Engine, precision and threads.
    side_px : int
        Side of the image.
    nuclei : int
        How many were found in it.
    ms : float
        Network and decoder.
    mpx_per_s : float
        The image's megapixels over that time.
    """

    on: str
    side_px: int
    nuclei: int
    ms: float
    mpx_per_s: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_speed(segmenter: Segmenter, side_px: int = 1024, repeat: int = 3) -> Speed:
    """Time :meth:`Segmenter.segment` on a drawn image, without the first run, which compiles."""
    stride = segmenter.stride_px
    side = -(-side_px // stride) * stride
    image = drawn_tissue(side, segmenter.mpp)
    calibration = segmenter.calibrate(iter([image]))
    best, found = float("inf"), 0
    for run in range(repeat + 1):
        start = time.perf_counter()
        (nuclei,) = segmenter.segment([image], calibration)
        if run > 0:
            best = min(best, time.perf_counter() - start)
        found = len(nuclei)
    return Speed(_where(segmenter), side, found, 1e3 * best, side * side / 1e6 / best)


def drawn_tissue(side: int, mpp: float, seed: int = 0) -> Image:
    """Dark discs of 6 to 10 µm on pink ground, ``NUCLEI_PER_MM2`` of them: uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    image = np.clip(_GROUND + rng.normal(0, 6, (side, side, 1)), 0, 255)
    for _ in range(round(NUCLEI_PER_MM2 * (side * mpp / 1000) ** 2)):
        y, x = rng.integers(0, side, 2)
        r = rng.uniform(3, 5) / mpp
        box = (slice(max(0, int(y - r)), int(y + r) + 1), slice(max(0, int(x - r)), int(x + r) + 1))
        i, j = np.mgrid[: image[box].shape[0], : image[box].shape[1]]
        inside = np.hypot(i + box[0].start - y, j + box[1].start - x) < r
        image[box][inside] = _NUCLEUS + rng.normal(0, 8, (int(inside.sum()), 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def _where(segmenter: Segmenter) -> str:
    import torch

    from wsiseg.models.network import NetworkSegmenter

    if not isinstance(segmenter, NetworkSegmenter):
        return "compiled, 1 thread"
    placement = segmenter.engine.placement
    place = f"{torch.get_num_threads()} threads" if placement.device == "cpu" else placement.device
    return f"{placement.engine} {placement.precision}, {place}"
