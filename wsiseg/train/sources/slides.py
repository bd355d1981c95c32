"""Patches of slides: where they lie, and their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Scale, Window
from wsiseg.slide import Slide
from wsiseg.train.patches import KNOWN, OUTSIDE, UNKNOWN
from wsiseg.train.sources.cut import Image, Place

Mask = npt.NDArray[np.bool_]


def apportion(count: int, areas: Sequence[float]) -> list[int]:
    """``count`` divided in proportion to ``areas`` by largest remainders (of equal ones the first)."""
    total = float(sum(areas))
    exact = [count * area / total for area in areas]
    whole = [int(value) for value in exact]
    order = sorted(range(len(areas)), key=lambda n: (whole[n] - exact[n], n))
    for n in order[: count - sum(whole)]:
        whole[n] += 1
    return whole


def draw_places(
    rng: np.random.Generator, name: str, mask: Mask, mask_scale: Scale, size: tuple[int, int], scale: Scale,
    side: int, count: int,
) -> list[Place]:  # fmt: skip
    """Patches of ``side`` whose centres lie on ``mask``, uniformly; moved into the slide where they leave it.

    Parameters
    ----------
    mask : bool array (H, W)
        On the lattice ``mask_scale``; somewhere true.
    size : (int, int)
        Height and width of the slide on the lattice ``scale``, which patches are on.
    """
    cells = np.argwhere(mask)[rng.integers(np.count_nonzero(mask), size=count)]
    centres = (cells + rng.random((count, 2))) * (mask_scale.downsample / scale.downsample)
    corners = np.floor(centres - side / 2).astype(np.int64)
    corners = np.clip(corners, 0, np.maximum(np.array(size) - side, 0))
    return [Place(name, int(y), int(x)) for y, x in corners]


def read_patch(slide: Slide, window: Window, scale: Scale) -> tuple[Image, npt.NDArray[np.uint8]]:
    """Pixels (h, w, 3), and where there are none: OUTSIDE beyond the slide and where it is damaged, else KNOWN."""
    pixels, lost = slide.read_lossy(window, scale)
    known = np.full(window.shape, OUTSIDE, dtype=np.uint8)
    width, height = scale.size(slide.width, slide.height)
    inside = window.intersection(Window(0, 0, width, height))
    known[inside.within(window)] = KNOWN
    for part in lost:
        known[scale.window(part.box).intersection(window).within(window)] = OUTSIDE
    return pixels, known


def nothing_known(known: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``known`` with UNKNOWN wherever there are pixels."""
    return np.where(known == OUTSIDE, OUTSIDE, UNKNOWN).astype(np.uint8)
