"""``thumbnail.png``: the slide at a glance, with its tissue, its nuclei and what was lost.

Where the picture is fine enough to show nuclei they are outlined; otherwise their density is shown as a heat map.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import scipy.ndimage as ndi
from PIL import Image, ImageDraw, ImageFont

from wsiseg.core.atomic import write_bytes
from wsiseg.core.geometry import Scale
from wsiseg.core.nuclei import Nuclei
from wsiseg.report.overlay import OUTLINE, draw_outlines
from wsiseg.results.nuclei import read_nuclei
from wsiseg.slide import Slide

LONG_SIDE_PX = 1024
_OUTLINES_FROM_UM = 1.5  # µm per pixel: a nucleus of 8 µm is then at least 5 pixels wide
_DENSITY_SIGMA_UM = 75.0
_TISSUE = (0, 96, 100)
_LOST = (211, 47, 47)
_STRIP_PX = 30
# From few nuclei to many: greens, which neither haematoxylin nor eosin has, more opaque as they brighten.
_RAMP = np.array([[0, 105, 92], [0, 150, 110], [110, 200, 60], [238, 245, 65]], dtype=np.float64)
_RAMP_ALPHA = (0.0, 0.75)


def write_thumbnail(
    path: Path,
    overview: npt.NDArray[np.uint8],
    overview_scale: Scale,
    mpp: float,
    *,
    tissue: npt.NDArray[np.bool_] | None = None,
    tissue_scale: Scale | None = None,
    nuclei_parquet: Path | None = None,
    lost: Iterable[Sequence[Any]] = (),
) -> None:
    """Write ``thumbnail.png``; the parameters are those of :func:`render_thumbnail`.

    Memory is that of the overview and, where nuclei are outlined, of the nuclei of what is then a small slide.
    """
    size, pixel = thumbnail_size(overview, overview_scale)
    outlines, density = None, None
    if nuclei_parquet is not None:
        if pixel * mpp <= _OUTLINES_FROM_UM:
            outlines = read_nuclei(nuclei_parquet, columns=[])
        else:
            density = count_nuclei_per_pixel(nuclei_parquet, (size[1], size[0]), pixel)
    image = render_thumbnail(
        overview,
        overview_scale,
        mpp,
        tissue=tissue,
        tissue_scale=tissue_scale,
        counts=density,
        nuclei=outlines,
        lost=lost,
    )
    save_picture(path, image)


def save_picture(path: Path, image: Image.Image) -> None:
    """Write a picture as PNG, atomically."""
    buffer = io.BytesIO()
    # Runs are all that tissue has: half the time of searching for more, and within 5% of its size.
    image.save(buffer, "PNG", compress_level=4, compress_type=zlib.Z_RLE)
    write_bytes(path, buffer.getvalue())


def overview_mpp(slide: Slide) -> float:
    """The microns per pixel at which a slide is about as large as its thumbnail."""
    return slide.require_mpp().value * max(1.0, max(slide.width, slide.height) / LONG_SIDE_PX)


def render_thumbnail(
    overview: npt.NDArray[np.uint8],
    overview_scale: Scale,
    mpp: float,
    *,
    tissue: npt.NDArray[np.bool_] | None = None,
    tissue_scale: Scale | None = None,
    counts: npt.NDArray[np.int64] | None = None,
    nuclei: Nuclei | None = None,
    lost: Iterable[Sequence[Any]] = (),
    long_side: int = LONG_SIDE_PX,
) -> Image.Image:
    """The overview with the tissue's outline, the nuclei, the lost area, and a strip with the scales.

    Parameters
    ----------
    overview : uint8 array (H, W, 3)
        The whole slide on the lattice ``overview_scale``.
    mpp : float
        Of level 0.
    tissue : bool array, optional
        On the lattice ``tissue_scale``, by default the overview's.
    counts : int array (h, w), optional
        Nuclei per pixel of the thumbnail (:func:`thumbnail_size`, :func:`count_nuclei_per_pixel`).
    nuclei : Nuclei, optional
        To outline instead, in level-0 coordinates.
    lost : iterable of (x0, y0, x1, y1, …)
        Level-0 boxes.

    Returns
    -------
    PIL.Image.Image
        RGB. The slide fills it from the top; equal inputs give equal pixels.
    """
    (width, height), pixel = thumbnail_size(overview, overview_scale, long_side)
    small = Image.fromarray(overview).resize((width, height), Image.Resampling.BOX)
    image: npt.NDArray[np.uint8] = np.asarray(small)
    inside = None
    if tissue is not None:
        inside = _sample(tissue, (tissue_scale or overview_scale).downsample, (height, width), pixel)
    peak = None
    if counts is not None and counts.any():
        density = density_per_mm2(counts, pixel * mpp, inside)
        peak = _two_digits(float(np.percentile(density[density > 0], 99.0))) if density.any() else None
    if peak:
        image = _heat(image, density, peak)
    if nuclei is not None:
        on_image = Nuclei(nuclei.vertices / pixel, nuclei.offsets)
        image = draw_outlines(image, on_image, OUTLINE, 1.0)
    if inside is not None:
        edge = ndi.binary_dilation(inside) ^ ndi.binary_erosion(inside)
        image = np.where(edge[..., None], np.array(_TISSUE, dtype=np.uint8), image)
    image = _hatch(image, lost, pixel)
    return _with_strip(image, pixel * mpp, peak)


def thumbnail_size(
    overview: npt.NDArray[np.uint8], overview_scale: Scale, long_side: int = LONG_SIDE_PX
) -> tuple[tuple[int, int], float]:
    """(width, height) of the thumbnail's picture, and the side of its pixels in level-0 pixels.

    An overview that is smaller is not enlarged.
    """
    height, width = overview.shape[:2]
    factor = max(1.0, max(height, width) / long_side)
    return (max(1, round(width / factor)), max(1, round(height / factor))), overview_scale.downsample * factor


def count_nuclei_per_pixel(nuclei_parquet: Path, shape: tuple[int, int], pixel: float) -> npt.NDArray[np.int64]:
    """How many centroids lie in each pixel, ``pixel`` level-0 pixels wide; int64 (h, w); streams the file."""
    counts = np.zeros(shape[0] * shape[1], dtype=np.int64)
    with pq.ParquetFile(nuclei_parquet) as file:
        for batch in file.iter_batches(batch_size=1_000_000, columns=["x", "y"]):
            column = np.clip((batch.column(0).to_numpy() / pixel).astype(np.int64), 0, shape[1] - 1)
            row = np.clip((batch.column(1).to_numpy() / pixel).astype(np.int64), 0, shape[0] - 1)
            counts += np.bincount(row * shape[1] + column, minlength=len(counts))
    return counts.reshape(shape)


def density_per_mm2(
    counts: npt.NDArray[np.int64], pixel_um: float, tissue: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float64]:
    """Nuclei per mm², smoothed over 75 µm; per mm² of tissue and 0 outside it where ``tissue`` (h, w) is given."""
    sigma = max(1.0, _DENSITY_SIGMA_UM / pixel_um)

    def smooth(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return ndi.gaussian_filter(values.astype(np.float64), sigma, mode="constant", truncate=3.0)

    density = smooth(counts) / (pixel_um / 1000) ** 2
    if tissue is None:
        return density
    return np.where(tissue, density / np.maximum(smooth(tissue), 0.05), 0.0)


def _heat(image: npt.NDArray[np.uint8], density: npt.NDArray[np.float64], peak: float) -> npt.NDArray[np.uint8]:
    level = np.clip(density / peak, 0, 1)
    at = level * (len(_RAMP) - 1)
    lower = np.minimum(at.astype(np.int64), len(_RAMP) - 2)
    share = (at - lower)[..., None]
    color = _RAMP[lower] * (1 - share) + _RAMP[lower + 1] * share
    low, high = _RAMP_ALPHA
    alpha = (low + (high - low) * np.sqrt(level))[..., None]
    return np.rint(image * (1 - alpha) + color * alpha).astype(np.uint8)


def _sample(
    mask: npt.NDArray[np.bool_], downsample: float, shape: tuple[int, int], pixel: float
) -> npt.NDArray[np.bool_]:
    """The mask at the centres of the picture's pixels."""
    rows = ((np.arange(shape[0]) + 0.5) * pixel / downsample).astype(np.int64)
    columns = ((np.arange(shape[1]) + 0.5) * pixel / downsample).astype(np.int64)
    return mask[np.ix_(np.minimum(rows, mask.shape[0] - 1), np.minimum(columns, mask.shape[1] - 1))]


def _hatch(image: npt.NDArray[np.uint8], boxes: Iterable[Sequence[Any]], pixel: float) -> npt.NDArray[np.uint8]:
    """Lost area: red diagonals with an outline, at least 3 pixels wide so that none goes unseen."""
    marked = image.copy()
    height, width = image.shape[:2]
    for box in boxes:
        x0, y0 = (int(np.clip(float(v) / pixel, 0, n - 1)) for v, n in zip(box[:2], (width, height), strict=True))
        x1, y1 = (float(v) / pixel for v in box[2:4])
        right, bottom = min(width, max(x0 + 3, round(x1))), min(height, max(y0 + 3, round(y1)))
        rows, columns = np.mgrid[y0:bottom, x0:right]
        edge = (rows == y0) | (rows == bottom - 1) | (columns == x0) | (columns == right - 1)
        marked[y0:bottom, x0:right][edge | ((rows + columns) % 8 < 2)] = _LOST
    return marked


def _with_strip(image: npt.NDArray[np.uint8], pixel_um: float, peak: float | None) -> Image.Image:
    """The picture with a white strip below: a scale bar, and what the heat map's colours mean."""
    height, width = image.shape[:2]
    canvas = Image.new("RGB", (max(width, 320), height + _STRIP_PX), (255, 255, 255))
    canvas.paste(Image.fromarray(image), (0, 0))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    middle = height + _STRIP_PX // 2
    length_um = _round_down(max(1.0, 140 * pixel_um))
    length = max(1, round(length_um / pixel_um))
    draw.rectangle((10, middle - 2, 10 + length, middle + 1), fill=(33, 33, 33))
    text = f"{length_um / 1000:g} mm"
    draw.text((18 + length, middle), text, fill=(33, 33, 33), font=font, anchor="lm")
    if peak:
        ramp = np.tile(np.linspace(0, peak, 100), (8, 1))
        white = np.full((8, 100, 3), 255, dtype=np.uint8)
        label = f"{peak:,.0f} nuclei/mm"
        left = canvas.width - 18 - int(draw.textlength(label, font=font))
        draw.text((left, middle), label, fill=(33, 33, 33), font=font, anchor="lm")
        # Pillow's own font has no superscript, nor µ.
        draw.text(
            (canvas.width - 17, middle - 4), "2", fill=(33, 33, 33), font=ImageFont.load_default(9), anchor="lm"
        )
        canvas.paste(Image.fromarray(_heat(white, ramp, peak)), (left - 108, middle - 4))
        draw.text((left - 122, middle), "0", fill=(33, 33, 33), font=font, anchor="lm")
    return canvas


def _round_down(value: float) -> float:
    """The largest of 1, 2, 5 × 10ⁿ that is not above ``value``."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-9)))


def _two_digits(value: float) -> float:
    """``value`` with two significant digits."""
    return float(f"{value:.1e}")
