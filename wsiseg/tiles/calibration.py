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
_CALIBRATION_TRIES = 8
_LOST_RIM_PX = 2
"""Around lost pixels: what resampling mixes with them."""


def calibration_samples(slide: Slide, scale: Scale, tissue: Tissue) -> Iterator[npt.NDArray[np.uint8]]:
    """Images spread evenly over the tissue, the same for every tile size; read only if a model asks.

    Where something is lost, the next place of the same stretch of tissue at which nothing is, or else what is left
    around it: the background in its place is not the slide's.
    """
    ratio = tissue.scale.downsample / scale.downsample
    rows, columns = np.nonzero(tissue.mask)
    if rows.size == 0:
        return
    places = np.linspace(0, rows.size - 1, _CALIBRATION_WINDOWS)
    stretch = (rows.size - 1) / (_CALIBRATION_WINDOWS - 1)
    half = _CALIBRATION_PX // 2
    for first in places:
        remains: list[npt.NDArray[np.uint8]] = []
        for shift in range(_CALIBRATION_TRIES):
            place = int(np.round(first + stretch * shift / _CALIBRATION_TRIES)) % rows.size
            x, y = int((columns[place] + 0.5) * ratio), int((rows[place] + 0.5) * ratio)
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
