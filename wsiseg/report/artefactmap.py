"""The artefacts of a slide as a picture: the plain thumbnail beside the map over it, and what its colours mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wsiseg.artefacts.kinds import COLOURS, KINDS
from wsiseg.artefacts.map import ArtefactMap, ArtefactShares
from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Scale
from wsiseg.report.thumbnail import LONG_SIDE_PX, save_picture, thumbnail_size

_OPACITY = 0.6
_PALER = 0.35  # how much of the picture below the map is white
_LINE_PX, _GAP_PX = 22, 8


def render_artefacts(
    overview: npt.NDArray[np.uint8], scale: Scale, artefacts: ArtefactMap, shares: ArtefactShares
) -> Image.Image:
    """The thumbnail, the map over it, and a legend of the kinds that there are.

    Parameters
    ----------
    overview : uint8 array (H, W, 3)
        The whole slide on the lattice ``scale``.
    artefacts : ArtefactMap
        Where kinds overlap, the first of ``KINDS`` is shown.
    shares : ArtefactShares

    Returns
    -------
    PIL.Image.Image
        RGB; equal inputs give equal pixels.
    """
    plain = Image.fromarray(overview).resize(thumbnail_size(overview, scale)[0], Image.Resampling.BOX)
    width, height = plain.size
    lines = [(COLOURS[name], f"{KINDS[name]} {share:.1%}") for name, share in shares.kinds.items() if share > 0]
    text = f"{shares.usable:.1%} of the tissue is usable"
    canvas = Image.new(
        "RGB", (max(2 * width + _GAP_PX, 420), height + _LINE_PX * (1 + len(lines)) + _GAP_PX), "white"
    )
    canvas.paste(plain, (0, 0))
    canvas.paste(draw_artefacts(overview, scale, artefacts, LONG_SIDE_PX), (width + _GAP_PX, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for line, (colour, words) in enumerate([((255, 255, 255), text), *lines]):
        middle = height + _GAP_PX + _LINE_PX * line + _LINE_PX // 2
        draw.rectangle((8, middle - 6, 20, middle + 6), fill=colour)
        draw.text((28, middle), words, fill=(33, 33, 33), font=font, anchor="lm")
    return canvas


def draw_artefacts(
    overview: npt.NDArray[np.uint8], scale: Scale, artefacts: ArtefactMap, long_side: int
) -> Image.Image:
    """The map over the paler overview, RGB, without a legend: ``COLOURS`` says what the colours mean."""
    (width, height), pixel = thumbnail_size(overview, scale, long_side)
    plain = Image.fromarray(overview).resize((width, height), Image.Resampling.BOX)
    marked = paler(np.asarray(plain))
    at = np.ix_(*(_cells(side, pixel, artefacts, axis) for axis, side in enumerate((height, width))))
    for name in reversed(tuple(KINDS)):
        there = artefacts.mask(name)[at]
        marked[there] = marked[there] * (1 - _OPACITY) + np.array(COLOURS[name]) * _OPACITY
    return Image.fromarray(np.rint(marked).astype(np.uint8))


def paler(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """A picture as the ground of a map, float64 (h, w, 3) of 0 to 255: the map is what is to be seen."""
    return image.astype(np.float64) * (1 - _PALER) + 255 * _PALER


def write_picture(
    path: Path, overview: npt.NDArray[np.uint8], scale: Scale, artefacts: ArtefactMap, shares: ArtefactShares
) -> None:
    """Write :func:`render_artefacts` as PNG, atomically; makes the folder.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    with environment_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, render_artefacts(overview, scale, artefacts, shares))


def _cells(side: int, pixel: float, artefacts: ArtefactMap, axis: int) -> npt.NDArray[np.int64]:
    """The cell under the centre of each pixel of the picture, along an axis."""
    cell = ((np.arange(side) + 0.5) * pixel / artefacts.scale.downsample).astype(np.int64)
    return np.minimum(cell, artefacts.bits.shape[axis] - 1)
