"""Slides of drawn tissue with the exact outline of every nucleus.

One block of tissue is drawn and repeated; a mask says where the slide shows it and where it shows glass.
Tiles that lie inside the tissue are copies of one another, so a slide of 40,000 × 40,000 pixels costs little
more than its compression.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy import fft, ndimage

from wsiseg.core.geometry import Box, FloatArray, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.testing.histology import GLASS, Block, Layout, render_block
from wsiseg.testing.svs import Codec, Pixels, write_svs

_LARGEST_BLOCK = 4096
_MASK_STEP = 32  # level-0 pixels between the samples of the tissue mask
_RAGGED_UM = 12.0  # by how much a tissue edge is displaced at most
_EDGE_UM = 0.8  # width of the transition from tissue to glass
_MARGIN_UM = 30.0  # glass around the layouts that fill the slide


@dataclass(frozen=True)
class Truth:
    """The nuclei of a drawn slide: copies of the block's nuclei, made when they are asked for.

    Attributes
    ----------
    width, height : int
        Of the slide in level-0 pixels.
    mpp : float
    prototypes : Nuclei
        The block's nuclei, column ``class`` (int16: 0 epithelial, 1 lymphocyte, 2 spindle).
    which : int64 array (N,)
        The prototype of each nucleus of the slide.
    shift : int64 array (N, 2)
        By how many level-0 pixels, x and y, it is moved.
    tissue : bool array (H, W)
        Where the slide shows tissue, at ``tissue_step`` level-0 pixels, edges as if they were smooth.
    tissue_step : int
    """

    width: int
    height: int
    mpp: float
    prototypes: Nuclei
    which: npt.NDArray[np.int64]
    shift: npt.NDArray[np.int64]
    tissue: npt.NDArray[np.bool_]
    tissue_step: int

    def __len__(self) -> int:
        return len(self.which)

    @property
    def nuclei(self) -> Nuclei:
        """All nuclei in level-0 pixels, 0.65 kB each: prefer `iter_nuclei` or `within` on large slides."""
        return self.take(np.arange(len(self)))

    def take(self, index: npt.NDArray[np.int64]) -> Nuclei:
        """The nuclei at ``index`` in level-0 pixels."""
        chosen = self.prototypes.take(self.which[index])
        moved = chosen.vertices + np.repeat(self.shift[index], np.diff(chosen.offsets), axis=0)
        return Nuclei(moved, chosen.offsets, chosen.columns)

    def centroids(self) -> FloatArray:
        """Area centroids in level-0 pixels, shape (N, 2)."""
        return np.asarray(self.prototypes.centroids()[self.which] + self.shift)

    def within(self, box: Box) -> Nuclei:
        """The nuclei whose centroid lies in ``box``."""
        return self.take(np.flatnonzero(box.contains(self.centroids())))

    def iter_nuclei(self, count: int = 20_000) -> Iterator[Nuclei]:
        """The nuclei in parts of at most ``count``, in order."""
        for start in range(0, len(self), count):
            yield self.take(np.arange(start, min(start + count, len(self))))

    def save(self, path: str | Path) -> Path:
        """Write the nuclei as Parquet: the columns of `Nuclei.to_arrow`, a row group each 20,000 nuclei."""
        target = Path(path)
        schema = self.take(np.arange(0)).to_arrow().schema
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for part in self.iter_nuclei():
                writer.write_table(part.to_arrow())
        return target


def read_truth(path: str | Path) -> Nuclei:
    """The nuclei that `Truth.save` wrote, in level-0 pixels."""
    return Nuclei.from_arrow(pq.read_table(Path(path)))


def write_slide(
    path: str | Path,
    *,
    width: int,
    height: int,
    mpp: float = 0.25,
    seed: int = 0,
    layout: Layout = "tissue",
    jpeg_quality: int = 90,
    levels: tuple[int, ...] = (1, 4, 16),
    tile: int = 256,
    codec: Codec = "jpeg",
    subsampling: Literal["444", "422", "420"] = "422",
    seam_px: int | None = None,
    describe_mpp: bool = True,
) -> Truth:
    """Write a synthetic H&E slide as an Aperio SVS and return where its nuclei are.

    No two nuclei overlap; a pixel shows a nucleus if and only if its centre lies inside the polygon (before
    the optics' slight blur and the compression). Nuclei that the slide's or the tissue's edge would cut are
    left out of the picture and of the truth. The same arguments give the same bytes.

    Parameters
    ----------
    path : path
        Overwritten if it exists.
    width, height : int
        Of level 0 in pixels.
    mpp : float
        Microns per level-0 pixel.
    seed : int
    layout : {"tissue", "seams", "dense"}
        "tissue": islands of epithelium, stroma and infiltrate on glass. "seams": tissue everywhere but for a
        margin of glass, with touching pairs and groups on every line that is a multiple of ``seam_px``.
        "dense": epithelium everywhere but for the margin.
    jpeg_quality, levels, tile, codec, subsampling
        As in `write_svs`.
    seam_px : int, optional
        By default 512 pixels at 0.5 mpp (1024 level-0 pixels at 0.25 mpp), the downsample snapped to whole
        numbers within 5% as slides are read, and then rounded to a multiple of 16.
    describe_mpp : bool
        False leaves mpp and magnification out of the metadata.

    Raises
    ------
    ValueError
        Sizes that do not go together.
    """
    if seam_px is None:
        seam_px = _default_seam(mpp)
    period = _period(width, height, seam_px)
    rng = np.random.default_rng([seed, ("tissue", "seams", "dense").index(layout)])
    block = render_block(rng, period, mpp, layout, seam_px)
    scene = _Scene.compose(rng, block, width, height, mpp, layout)
    write_svs(
        path,
        scene.pixels,
        (width, height),
        mpp=mpp if describe_mpp else None,
        levels=levels,
        tile=tile,
        codec=codec,
        quality=jpeg_quality,
        subsampling=subsampling,
        key=scene.key,
    )
    return scene.truth(mpp)


def _default_seam(mpp: float) -> int:
    downsample = 0.5 / mpp
    whole = max(1, round(downsample))
    if abs(downsample - whole) <= 0.05 * whole:
        downsample = whole
    return max(16, round(512 * downsample / 16) * 16)


def _period(width: int, height: int, seam_px: int) -> int:
    """Side of the block: a multiple of the seams' spacing that holds a small slide whole."""
    most = max(seam_px, _LARGEST_BLOCK // seam_px * seam_px)
    period = min(-(-max(width, height) // seam_px) * seam_px, most)
    if period % 16 or period < 256:
        raise ValueError(
            f"a block of {period} pixels: choose seam_px as a multiple of 16 so that it is 256 or more"
        )
    return period


@dataclass(frozen=True)
class _Scene:
    """What a slide shows where: a block, repeated, behind a mask."""

    block: Block
    width: int
    height: int
    distance: npt.NDArray[np.float32]  # to the tissue's edge in level-0 pixels, positive inside
    reach: float  # beyond this distance from the edge all is tissue, or all is glass
    ragged: float  # displacement of the edge for each unit of the block's ragged field
    edge: float
    kept: npt.NDArray[np.bool_]  # (rows of blocks + 2, columns + 2, N): copies from -1 on

    @classmethod
    def compose(
        cls, rng: np.random.Generator, block: Block, width: int, height: int, mpp: float, layout: Layout
    ) -> _Scene:
        distance = _tissue_distance(rng, width, height, mpp, layout)
        ragged, edge = _RAGGED_UM / mpp / 127, _EDGE_UM / mpp
        bounds = block.nuclei.bounds()
        extent = float((bounds[:, 2:] - bounds[:, :2]).max()) if len(bounds) else 0.0
        shape = (-(-height // block.period) + 2, -(-width // block.period) + 2, len(block.nuclei))
        blank = np.zeros(shape, dtype=bool)
        reach = _RAGGED_UM / mpp + edge + extent + 2
        scene = cls(block, width, height, distance, reach, ragged, edge, blank)
        scene._decide()
        return scene

    def _decide(self) -> None:
        """Fill ``kept``: whole inside the slide, and every vertex inside the tissue's ragged edge."""
        bounds, period = self.block.nuclei.bounds(), self.block.period
        ragged = self.block.ragged
        for row in range(self.kept.shape[0]):
            for column in range(self.kept.shape[1]):
                dx, dy = (column - 1) * period, (row - 1) * period
                inside = (bounds[:, 0] + dx >= 0) & (bounds[:, 1] + dy >= 0)
                inside &= (bounds[:, 2] + dx <= self.width) & (bounds[:, 3] + dy <= self.height)
                some = np.flatnonzero(inside)
                part = self.block.nuclei.take(some)
                if not len(part):
                    continue
                v = part.vertices
                local = np.floor(v).astype(np.int64) % period
                depth = self._distance_at(v[:, 0] + dx, v[:, 1] + dy)
                depth += self.ragged * ragged[local[:, 1], local[:, 0]]
                self.kept[row, column, some] = np.minimum.reduceat(depth, part.offsets[:-1]) > 2 * self.edge

    def _distance_at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """The smooth distance to the tissue's edge at points of level 0, interpolated."""
        at = np.stack([y / _MASK_STEP, x / _MASK_STEP])  # samples lie on multiples of the step
        return np.asarray(ndimage.map_coordinates(self.distance, at, order=1, mode="nearest"), dtype=np.float64)

    def key(self, window: Window) -> Hashable | None:
        """Names the content of windows that are all glass, or copies of a part of the block."""
        lowest, highest = self._range(window)
        if highest < -self.reach:
            return "glass"
        # Within `reach` of the slide's edge a nucleus may have been left out.
        inner = Window(0, 0, self.width, self.height).pad(-int(np.ceil(self.reach)))
        if lowest > self.reach and window.intersection(inner) == window:
            return window.x % self.block.period, window.y % self.block.period
        return None

    def _range(self, window: Window) -> tuple[float, float]:
        """Bounds of the distance field in a window."""
        x0, y0 = window.x // _MASK_STEP, window.y // _MASK_STEP
        x1, y1 = -(-window.x1 // _MASK_STEP) + 1, -(-window.y1 // _MASK_STEP) + 1
        part = self.distance[y0:y1, x0:x1]
        return float(part.min()), float(part.max())

    def pixels(self, window: Window) -> Pixels:
        """The slide's level-0 pixels in ``window``."""
        key = self.key(window)
        if key == "glass":
            return np.broadcast_to(GLASS, (*window.shape, 3)).copy()
        period = self.block.period
        rows = np.arange(window.y, window.y1) % period
        columns = np.arange(window.x, window.x1) % period
        here = np.ix_(rows, columns)
        tissue = self.block.tissue[here]
        if key is not None:
            return tissue
        shown = self._shown(window, self.block.labels[here])
        image = np.where(shown[..., None], tissue, self.block.bare[here]).astype(np.float32)
        x, y = np.meshgrid(np.arange(window.x, window.x1) + 0.5, np.arange(window.y, window.y1) + 0.5)
        depth = self._distance_at(x, y) + self.ragged * self.block.ragged[here]
        share = np.clip(depth / self.edge + 0.5, 0, 1).astype(np.float32)[..., None]
        glass = GLASS.astype(np.float32)
        return np.rint(glass + share * (image - glass)).astype(np.uint8)

    def _shown(self, window: Window, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Where the block's picture with nuclei is valid: everywhere but around those left out."""
        period, centres = self.block.period, self.block.centres
        shown = np.ones(labels.shape, dtype=bool)
        i, j = np.nonzero(labels)
        who = labels[i, j] - 1
        # The copy whose centre is nearest to the pixel, counted from the row and column of copies at -1.
        column = np.rint((window.x + j + 0.5 - centres[who, 0]) / period).astype(np.int64) + 1
        row = np.rint((window.y + i + 0.5 - centres[who, 1]) / period).astype(np.int64) + 1
        shown[i, j] = self.kept[row, column, who]
        # The optics carry a nucleus's stain a little beyond its outline.
        return np.asarray(ndimage.binary_erosion(shown, iterations=2, border_value=1))

    def truth(self, mpp: float) -> Truth:
        rows, columns, which = np.nonzero(self.kept)
        shift = (np.column_stack([columns, rows]) - 1) * self.block.period
        tissue = self.distance > 0
        return Truth(self.width, self.height, mpp, self.block.nuclei, which, shift, tissue, _MASK_STEP)


def _tissue_distance(
    rng: np.random.Generator, width: int, height: int, mpp: float, layout: Layout
) -> npt.NDArray[np.float32]:
    """Signed distance to the tissue's edge in level-0 pixels at multiples of the mask's step."""
    shape = (-(-height // _MASK_STEP) + 2, -(-width // _MASK_STEP) + 2)
    y, x = (np.arange(n, dtype=np.float32) * _MASK_STEP for n in shape)
    border = np.minimum(np.minimum(x, width - x)[None], np.minimum(y, height - y)[:, None])
    if layout != "tissue":
        return (border - np.float32(_MARGIN_UM / mpp)).astype(np.float32)
    size = min(width, height)
    field = _smooth_noise(rng, shape, 0.55 * max(shape)) + 0.35 * _smooth_noise(rng, shape, 0.18 * max(shape))
    # Pulled down towards the border, so that sections end on the glass and not at the edge of the scan.
    field -= 3.0 * np.clip(1 - border / (0.18 * size), 0, 1) ** 2
    inside = field > np.quantile(field, 0.52)
    inside &= border > 0.02 * size
    signed = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return np.asarray(signed * _MASK_STEP, dtype=np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], wavelength: float) -> npt.NDArray[np.float32]:
    """A Gaussian random field, mean 0, deviation 1, with waves of about ``wavelength`` samples."""
    side = fft.next_fast_len(int(max(shape) * 1.2))
    spectrum = fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None])
    spectrum *= np.exp(-0.5 * ((frequency * wavelength - 1) / 0.4) ** 2).astype(np.float32)
    field = fft.irfft2(spectrum, s=(side, side))[: shape[0], : shape[1]]
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)
