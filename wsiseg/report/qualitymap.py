"""Where on a slide the outlines are probably bad: its judged patches, coloured by P(bad), over the overview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wsiseg.core.geometry import Scale
from wsiseg.report.artefactmap import paler
from wsiseg.report.examples import Example
from wsiseg.report.thumbnail import thumbnail_size

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Band:
    """Patches whose P(bad) is below ``below`` and in no band before."""

    below: float
    words: str
    colour: Colour


BANDS = (
    Band(0.10, "good", (44, 123, 182)),
    Band(0.25, "probably good", (171, 217, 233)),
    Band(0.50, "rather good", (255, 255, 191)),
    Band(0.75, "rather bad", (253, 174, 97)),
    Band(np.inf, "bad", (215, 25, 28)),
)
"""The colours are ColorBrewer's RdYlBu, which colour-blind people tell apart."""

_OPACITY = 0.65
_FRAME: Colour = (20, 20, 20)


def band_of(p_bad: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The place in :data:`BANDS` of each P(bad)."""
    return np.searchsorted([band.below for band in BANDS[:-1]], np.asarray(p_bad, np.float64), side="right")


def draw_quality(
    overview: npt.NDArray[np.uint8],
    scale: Scale,
    verdicts: Mapping[str, npt.NDArray[np.generic]],
    examples: Sequence[Example],
    long_side: int,
) -> Image.Image:
    """The judged patches over the overview; those that are shown as pictures have a frame and their label.

    Parameters
    ----------
    overview : uint8 array (H, W, 3)
        The whole slide on the lattice ``scale``.
    verdicts : mapping of str to array (P,)
        ``index``, ``x``, ``y``, ``width``, ``height`` (level-0 pixels) and ``p_bad``.

    Returns
    -------
    PIL.Image.Image
        RGB, without a legend: :data:`BANDS` says what the colours mean. What has no colour was not judged.
    """
    (width, height), pixel = thumbnail_size(overview, scale, long_side)
    plain = Image.fromarray(overview).resize((width, height), Image.Resampling.BOX)
    marked = paler(np.asarray(plain))
    if "index" not in verdicts:
        return Image.fromarray(np.rint(marked).astype(np.uint8))
    boxes = _boxes(verdicts, pixel, (width, height))
    for (x0, y0, x1, y1), band in zip(boxes.tolist(), band_of(verdicts["p_bad"]).tolist(), strict=True):
        place = marked[y0:y1, x0:x1]
        marked[y0:y1, x0:x1] = place * (1 - _OPACITY) + np.array(BANDS[band].colour) * _OPACITY
    image = Image.fromarray(np.rint(marked).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    at = {int(index): n for n, index in enumerate(verdicts["index"].tolist())}
    for example in examples:
        _frame(draw, boxes[at[example.index]].tolist(), example.label, (width, height))
    return image


def _boxes(
    verdicts: Mapping[str, npt.NDArray[np.generic]], pixel: float, size: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """x0, y0, x1, y1 (P, 4) in the picture: neighbours meet, and none is without a pixel."""
    x, y, w, h = (np.asarray(verdicts[name], np.float64) for name in ("x", "y", "width", "height"))
    edges = np.rint(np.column_stack([x, y, x + w, y + h]) / pixel).astype(np.int64)
    edges[:, :2] = np.minimum(edges[:, :2], np.array(size) - 1)
    edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2] + 1)
    return edges


def _frame(draw: ImageDraw.ImageDraw, box: Sequence[int], label: str, size: tuple[int, int]) -> None:
    """A frame and a label in it, or beside it where the patch is smaller than the label."""
    x0, y0, x1, y1 = box
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=_FRAME, width=2)
    left, top = (x0 + 3, y0 + 3) if min(x1 - x0, y1 - y0) >= 22 else (x1 + 1, y0 - 4)
    left, top = min(left, size[0] - 13), min(max(top, 0), size[1] - 17)
    draw.rectangle((left, top, left + 12, top + 16), fill=_FRAME)
    font = ImageFont.load_default(14)
    draw.text((left + 6, top + 8), label, fill=(255, 255, 255), font=font, anchor="mm")
