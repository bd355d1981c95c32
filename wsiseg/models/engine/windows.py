"""Images as a network can take them: with a border where its maps lack one, in windows where memory is short.

Windows overlap so far that what is kept of their maps has seen all that can have an effect on it: the maps are
those of the whole image, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wsiseg.core.grid import round_up
from wsiseg.models.base import Image
from wsiseg.models.networks.sizes import input_side

_Part = tuple[slice, slice]


@dataclass(frozen=True)
class Piece:
    """Pixels for one run of the network.

    Attributes
    ----------
    pixels : uint8 array (h, w, 3)
        Of a size that the network takes.
    inner, outer : pair of slice
        Rows and columns of the pixels' maps that are kept, and where they belong in the image.
    """

    pixels: Image
    inner: _Part
    outer: _Part


def pieces(image: Image, config: Any) -> list[Piece]:
    """What a network must run on to give maps of all pixels of an image.

    Parameters
    ----------
    image : uint8 array (h, w, 3)
        Sides are multiples of the network's stride.
    config : network configuration
        Its ``stride_px``, ``output_shape``, ``reach_px`` and ``window_px`` count.
    """
    rows, columns = (_spans(side, config) for side in image.shape[:2])
    fits = all(input_side(config, side) == (side, 0) for side in image.shape[:2])
    if fits and len(rows) == len(columns) == 1:
        return [Piece(image, (slice(None), slice(None)), (slice(None), slice(None)))]
    padding = []
    for side in image.shape[:2]:
        needed, border = input_side(config, side)
        padding.append((border, needed - side - border))
    padded = np.pad(image, (*padding, (0, 0)), mode="reflect" if min(image.shape[:2]) > 1 else "edge")
    found = []
    for read_y, keep_y, place_y in rows:
        for read_x, keep_x, place_x in columns:
            found.append(Piece(padded[read_y, read_x], (keep_y, keep_x), (place_y, place_x)))
    return found


def _spans(side: int, config: Any) -> list[tuple[slice, slice, slice]]:
    """Along one axis: what to read of the padded image, what to keep of its maps, where that belongs.

    Windows are as equal as the stride lets them be: those of the last row cost as much as the others, and threads
    that share them end together. What the maps lack of a window counts as overlap.
    """
    stride, window = config.stride_px, config.window_px
    count = 1 if window is None else -(-side // (window // stride * stride))
    step = round_up(-(-side // count), stride)
    _, border = input_side(config, step)
    overlap = round_up(max(0, config.reach_px - border), stride)
    spans = []
    for first in range(0, side, step):
        last = min(first + step, side)
        low, high = max(0, first - overlap), min(side, last + overlap)
        needed, _ = input_side(config, high - low)
        keep = slice(first - low, last - low)
        spans.append((slice(low, low + needed), keep, slice(first, last)))
    return spans
