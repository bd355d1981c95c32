"""``polygons``: Hou et al.'s masks, polygons as many and as large as the haematoxylin suggests, and warped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.synth.parts import Layout, Sampler, Texture, connected, require_mpp
from wsiseg.synth.renderers.transfer.texture import take_apart_once

Int32 = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]

MPP = 0.25
REFERENCE_PX = 460
"""Side of the patches for which the published numbers of nuclei and distractors hold."""
QUAD_MARGIN = 0.26
"""How far a corner of the warp may move, in sides of the patch: 120 px of 460."""
MIN_AREA_PX = 140
"""At 40x (0.25 mpp); smaller ones are drawn again."""
MAX_OVERLAP = 0.15
TRIES = 50
"""Attempts to place one nucleus that overlaps others too much; it is left out after those."""
_DRAWS = 500
_SPIKY_VERTICES = 40
# What the patch's size factor may be: beyond that a normal variable leaves the sizes of any nucleus.
_SIZE_RANGE = (0.6, 2.6)


@dataclass(frozen=True)
class PolygonsOptions:
    """Polygons of pixels of 0.25 µm.

    Attributes
    ----------
    foreground : float
        Haematoxylin-positive fraction, 0–1, from which numbers and sizes follow where there is no texture to
        measure it in; nuclei then lie anywhere, else on its tissue.
    """

    foreground: float = 0.2
    needs_texture: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"foreground {self.foreground}: expected a fraction, 0 to 1")

    def build(self, mpp: float) -> Sampler:
        require_mpp("the sampler polygons", mpp, MPP)
        return self._sample

    def _sample(self, rng: np.random.Generator, side: int, texture: Texture | None) -> Layout:
        foreground, tissue = self.foreground, np.ones((side, side), dtype=np.bool_)
        if texture is not None:
            tile = take_apart_once(texture.field)
            foreground, tissue = tile.foreground, texture.under(tile.tissue, side)
        prior = sample_prior(rng, density_level(foreground), side)
        return Layout(sample_instances(rng, prior, tissue, sample_quad(rng, side)))


@dataclass(frozen=True)
class MaskPrior:
    """What a patch's nuclei are drawn from.

    Attributes
    ----------
    count : int
        Nuclei to place; fewer fit where they are crowded.
    size : float
        Multiplies the radii U(8.5, 13) px.
    spiky, pale : int
        Distractors of each kind.
    """

    count: int
    size: float
    spiky: int
    pale: int


def density_level(foreground: float) -> float:
    """The level d of [1]_: the haematoxylin-positive fraction of the reference (0–1), divided by 0.06.

    References
    ----------
    .. [1] Hou et al. 2020, doi:10.1038/s41597-020-0528-1.
    """
    return foreground / 0.06


def sample_prior(rng: np.random.Generator, level: float, size: int) -> MaskPrior:
    """Counts and size of one patch of ``size``² px at 0.25 mpp.

    For 460² px: the count is N(30 d + 20, 40) clipped to 0–256, the size factor N(1.2 + d / 8, 0.32), and there are
    0–99 spiky and 0–4 pale distractors. Numbers scale with the area of the patch.
    """
    area = (size / REFERENCE_PX) ** 2
    count = float(np.clip(rng.normal(30.0 * level + 20.0, 40.0), 0.0, 256.0))
    factor = float(np.clip(rng.normal(1.2 + level / 8.0, 0.32), *_SIZE_RANGE))
    spiky, pale = int(rng.integers(0, 100)), int(rng.integers(0, 5))
    # Few are rounded at random, so that a small patch has on average its share of them.
    return MaskPrior(round(count * area), factor, int(spiky * area + rng.random()), int(pale * area + rng.random()))


def sample_quad(rng: np.random.Generator, size: int) -> FloatArray:
    """Corners (x, y) of a random quadrilateral in a plane of (1 + ``QUAD_MARGIN``) ``size`` px, float64 (4, 2).

    In the order top left, top right, bottom right, bottom left; the patch shows what lies inside. One warp a patch
    stretches all its nuclei the same way, as tissue does.
    """
    margin = QUAD_MARGIN * size
    far = size + margin
    corners = np.array([[0.0, 0.0], [far, 0.0], [far, far], [0.0, far]])
    return corners + rng.uniform(0.0, margin, (4, 2)) * np.where(corners > 0, -1.0, 1.0)


def sample_instances(
    rng: np.random.Generator, prior: MaskPrior, tissue: npt.NDArray[np.bool_], quad: FloatArray
) -> Int32:
    """Place nuclei on tissue.

    Parameters
    ----------
    rng : numpy.random.Generator
    prior : MaskPrior
    tissue : bool array (s, s)
        Where centres may lie.
    quad : float64 array (4, 2)
        As of :func:`sample_quad`.

    Returns
    -------
    int32 array (s, s)
        Labels 1 … n, each one 4-connected and of more than ``MIN_AREA_PX`` pixels. Each polygon covered at most
        ``MAX_OVERLAP`` of its pixels that others had; those stay theirs.
    """
    labels = np.zeros(tissue.shape, dtype=np.int32)
    if prior.count and tissue.any():
        _place(rng, labels, np.ascontiguousarray(tissue), quad, prior.count, prior.size)
    return connected(labels, MIN_AREA_PX + 1)


def sample_distractors(rng: np.random.Generator, count: int, size: int, spiky: bool) -> npt.NDArray[np.bool_]:
    """Pixels (size, size) of ``count`` distractors, each with its own warp: stars, or polygons like nuclei."""
    mask = np.zeros((size, size), dtype=np.int32)
    if count:
        quads = np.stack([sample_quad(rng, size) for _ in range(count)])
        _scatter(rng, mask, quads, spiky)
    return mask > 0


def sample_polygon(rng: np.random.Generator, size: float) -> FloatArray:
    """One nucleus around the origin before the warp: vertices (x, y), float64 (n, 2), n in 10–17.

    Mean radius U(8.5, 13) px × ``size``, irregularity of the angles 0.6 + 2 U clipped to 1, spread of the radii
    (0.04 + 0.2 U) × the mean radius.
    """
    vertices = np.zeros((_SPIKY_VERTICES, 2))
    return vertices[: _nucleus(rng, vertices, 0.0, 0.0, size)]


@compiled
def _nucleus(rng: np.random.Generator, vertices: FloatArray, x: float, y: float, size: float) -> int:
    radius = rng.uniform(8.5, 13.0) * size
    irregularity = min(0.6 + 2.0 * rng.random(), 1.0)
    spike = 0.04 + 0.2 * rng.random()
    count = 10 + int(8 * rng.random())
    _polygon(rng, vertices, count, x, y, radius, irregularity, spike)
    return count


@compiled
def _polygon(
    rng: np.random.Generator,
    vertices: FloatArray,
    count: int,
    x: float,
    y: float,
    radius: float,
    irregularity: float,
    spike: float,
) -> None:
    """Vertices around (x, y) at steps of 2π/n (1 ± irregularity), at distances N(radius, spike · radius)."""
    steps = np.empty(count)
    total = 0.0
    for k in range(count):
        steps[k] = 1.0 + irregularity * (2.0 * rng.random() - 1.0)
        total += steps[k]
    angle = 2.0 * math.pi * rng.random()
    for k in range(count):
        distance = min(max(radius + spike * radius * rng.standard_normal(), 0.0), 2.0 * radius)
        vertices[k, 0] = x + distance * math.cos(angle)
        vertices[k, 1] = y + distance * math.sin(angle)
        angle += 2.0 * math.pi * steps[k] / total


@compiled
def _unwarp(vertices: FloatArray, count: int, quad: FloatArray, size: int) -> bool:
    """Plane to patch coordinates, in place: the inverse of the bilinear map of the patch onto ``quad``.

    False where a point has none: well outside the patch the map folds.
    """
    ax, ay = quad[0, 0], quad[0, 1]
    bx, by = quad[1, 0] - ax, quad[1, 1] - ay
    cx, cy = quad[3, 0] - ax, quad[3, 1] - ay
    dx, dy = quad[2, 0] - quad[1, 0] - cx, quad[2, 1] - quad[1, 1] - cy
    for k in range(count):
        u, v, error = 0.5, 0.5, 1.0
        for _ in range(12):  # Newton; the map is nearly affine
            fx = ax + u * bx + v * cx + u * v * dx - vertices[k, 0]
            fy = ay + u * by + v * cy + u * v * dy - vertices[k, 1]
            jxu, jxv, jyu, jyv = bx + v * dx, cx + u * dx, by + v * dy, cy + u * dy
            det = jxu * jyv - jxv * jyu
            if not det > 0.05 * size * size:
                return False
            error = abs(fx) + abs(fy)
            u -= (jyv * fx - jxv * fy) / det
            v -= (jxu * fy - jyu * fx) / det
        if not error < 1e-6 * size:
            return False
        vertices[k, 0], vertices[k, 1] = u * size, v * size
    return True


@compiled
def _scan(vertices: FloatArray, count: int, labels: Int32, value: int) -> tuple[int, int]:
    """Pixels whose centre lies inside (even-odd): how many, how many taken; free ones get ``value`` unless 0."""
    height, width = labels.shape
    low, high = vertices[:count, 1].min(), vertices[:count, 1].max()
    crossings = np.empty(count)
    inside, taken = 0, 0
    if not (high > 0.0 and low < height):
        return inside, taken
    for i in range(max(0, math.ceil(low - 0.5)), min(height, math.ceil(high - 0.5))):
        y, found = i + 0.5, 0
        for k in range(count):
            x0, y0 = vertices[k, 0], vertices[k, 1]
            x1, y1 = vertices[(k + 1) % count, 0], vertices[(k + 1) % count, 1]
            if (y0 <= y) != (y1 <= y):
                crossings[found] = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
                found += 1
        crossings[:found].sort()
        for k in range(0, found - 1, 2):
            first = int(min(max(math.ceil(crossings[k] - 0.5), 0.0), float(width)))
            stop = int(min(max(math.ceil(crossings[k + 1] - 0.5), 0.0), float(width)))
            for j in range(first, stop):
                inside += 1
                if labels[i, j] != 0:
                    taken += 1
                elif value:
                    labels[i, j] = value
    return inside, taken


@compiled
def _place(
    rng: np.random.Generator,
    labels: Int32,
    tissue: npt.NDArray[np.bool_],
    quad: FloatArray,
    count: int,
    size: float,
) -> None:
    side, far = labels.shape[0], quad.max()
    vertices = np.zeros((_SPIKY_VERTICES, 2))
    centre = np.zeros((1, 2))
    for n in range(count):
        tries = 0
        for _ in range(_DRAWS):
            x, y = far * rng.random(), far * rng.random()
            corners = _nucleus(rng, vertices, x, y, size)
            centre[0, 0], centre[0, 1] = x, y
            if not _unwarp(centre, 1, quad, side):
                continue
            i, j = math.floor(centre[0, 1]), math.floor(centre[0, 0])
            # Nuclei that the border cuts have their centre outside; tissue goes on there.
            i, j = min(max(i, 0), side - 1), min(max(j, 0), side - 1)
            if not tissue[i, j]:
                continue
            if not _unwarp(vertices, corners, quad, side):
                continue
            inside, taken = _scan(vertices, corners, labels, 0)
            if inside <= MIN_AREA_PX:
                continue
            if taken <= MAX_OVERLAP * inside:
                _scan(vertices, corners, labels, n + 1)
                break
            tries += 1
            if tries >= TRIES:
                break


@compiled
def _scatter(rng: np.random.Generator, mask: Int32, quads: FloatArray, spiky: bool) -> None:
    side = mask.shape[0]
    vertices = np.zeros((_SPIKY_VERTICES, 2))
    for n in range(len(quads)):
        far = quads[n].max()
        for _ in range(100):
            x, y = far * rng.random(), far * rng.random()
            if spiky:
                corners = _SPIKY_VERTICES
                _polygon(rng, vertices, corners, x, y, rng.uniform(4.0, 8.0), 1.0, 1.0)
            else:
                corners = _nucleus(rng, vertices, x, y, 1.0)
            if not _unwarp(vertices, corners, quads[n], side):
                continue
            if _scan(vertices, corners, mask, n + 1)[0] > 10:
                break
