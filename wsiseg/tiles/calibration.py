"""The images that a model is calibrated on: spread over a slide's tissue, the same for every tile size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Scale, Window
from wsiseg.slide import Slide
from wsiseg.tissue import Tissue

_CALIBRATION_WINDOWS = 16
_CALIBRATION_PX = 512
_MOST_OF_TISSUE = 0.5
"""Of a small slide's tissue no more is sampled for a network, which sees all of it once more tile by tile."""
_CALIBRATION_TRIES = 8
_LOST_RIM_PX = 2
"""Around lost pixels: what resampling mixes with them."""


def calibration_samples(
    slide: Slide, scale: Scale, tissue: Tissue, costly: bool = False
) -> Iterator[npt.NDArray[np.uint8]]:
    """Images spread evenly over the tissue, the same for every tile size; read only if a model asks.

    16 of 512² pixels, which overlap where there is little tissue. ``costly``, for a model that computes long on
    each: of little tissue fewer, one at least, together at most half of its area.

    Where something is lost, the next place of the same stretch of tissue at which nothing is, or else what is left
    around it: the background in its place is not the slide's.
    """
    ratio = tissue.scale.downsample / scale.downsample
    rows, columns = np.nonzero(tissue.mask)
    if rows.size == 0:
        return
    enough = int(_MOST_OF_TISSUE * rows.size * ratio**2) // _CALIBRATION_PX**2
    if not costly or enough >= _CALIBRATION_WINDOWS:
        places = np.linspace(0, rows.size - 1, _CALIBRATION_WINDOWS)
        stretch = (rows.size - 1) / (_CALIBRATION_WINDOWS - 1)
    else:  # amid equal stretches: the first and the last pixel of little tissue lie at its rim
        stretch = rows.size / max(1, enough)
        places = np.linspace(0.5, max(1, enough) - 0.5, max(1, enough)) * stretch
    half = _CALIBRATION_PX // 2
    size = scale.size(slide.width, slide.height)
    for first in places.tolist():
        remains: list[npt.NDArray[np.uint8]] = []
        for shift in range(_CALIBRATION_TRIES):
            place = int(np.round(first + stretch * shift / _CALIBRATION_TRIES)) % rows.size
            x, y = int((columns[place] + 0.5) * ratio), int((rows[place] + 0.5) * ratio)
            if len(places) < _CALIBRATION_WINDOWS:  # of few windows none is spent on what lies beyond the slide
                x, y = (max(half, min(at, end - half)) for at, end in zip((x, y), size, strict=True))
            window = Window(x - half, y - half, _CALIBRATION_PX, _CALIBRATION_PX)
            image, lost = slide.read_lossy(window, scale)
            holes = [
                scale.window(part.box).pad(_LOST_RIM_PX)
                for part in lost
                if not part.missing or tissue.touches(part.box)
            ]
            if not holes:
                yield image
                break
            remains = remains or [image[part.within(window)] for part in window.without(holes)]
        else:
            yield from remains
