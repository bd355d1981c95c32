"""Maps of several networks averaged: each sees an image at its own resolution, and all speak at the finest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsiseg.models.base import Image
from wsiseg.models.heads import Head

Run = Callable[[Sequence[Image]], list[tuple[Tensor, ...]]]
REACH_PX = 1
"""Of a coarser network's maps: how far from a pixel the interpolation looks."""


@torch.inference_mode()
def mean_of_networks(runs: Sequence[tuple[int, Run]], image: Image, head: Head) -> tuple[Tensor, ...]:
    """The mean of what networks give for an image, at the image's resolution.

    Parameters
    ----------
    runs : sequence of (factor, function)
        How many times coarser than the image each network wants to see it, and what it gives; the image's sides are
        multiples of its stride times that.
    image : uint8 array (h, w, 3)
    head : Head
        Of all of them; maps in pixels are in each network's own.
    """
    names = head.inputs
    found = [_enlarged(run([reduced(image, factor)])[0], factor, head, names) for factor, run in runs]
    return tuple(sum(same[1:], same[0]) / len(same) for same in zip(*found, strict=True))


def reduced(image: Image, factor: int) -> Image:
    """An image (h, w, 3) of which each pixel is the mean of ``factor`` × ``factor``, rounded."""
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image.reshape(height, factor, width, factor, 3)
    total = blocks.sum(axis=(1, 3), dtype=np.uint32)
    return ((2 * total + factor * factor) // (2 * factor * factor)).astype(np.uint8)


def _enlarged(maps: Sequence[Tensor], factor: int, head: Head, names: Sequence[str]) -> tuple[Tensor, ...]:
    if factor == 1:
        return tuple(maps)
    out = []
    for name, one in zip(names, maps, strict=False):  # a network may lack optional maps, which come last
        flat = one.ndim == 2
        large = interpolate(
            one[None, None] if flat else one[None], scale_factor=float(factor), mode="bilinear", align_corners=False
        )
        large = large[0, 0] if flat else large[0]
        out.append(large * factor if name in head.lengths else large)
    return tuple(out)
