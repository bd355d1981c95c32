"""Nuclei on a torus: where they lie, their star-shaped outlines, and which pixels they cover.

Neighbours that would overlap are cut apart along one straight line between their centres, so outlines touch
but never overlap: every pixel centre lies in at most one polygon.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import Nuclei

EPITHELIAL, LYMPHOCYTE, SPINDLE = 0, 1, 2
CORNERS = 40  # vertices of an outline
_FREE = 1.12  # centre distance over the sum of the radii, for nuclei that keep apart


@dataclass(frozen=True)
class Kind:
    """How one kind of nucleus is shaped."""

    radius_um: tuple[float, float]
    elongation: tuple[float, float]
    roughness: float
    spread: float  # further clearance that nuclei of this kind keep, as a factor
    touching: float  # fraction that may touch what is there already


KINDS = (
    Kind(radius_um=(3.4, 6.0), elongation=(1.05, 1.5), roughness=0.05, spread=1.0, touching=0.30),
    Kind(radius_um=(2.6, 3.5), elongation=(1.0, 1.2), roughness=0.035, spread=1.0, touching=0.45),
    Kind(radius_um=(4.5, 7.0), elongation=(2.2, 4.0), roughness=0.05, spread=0.8, touching=0.05),
)


@dataclass(frozen=True)
class Seeds:
    """Columns that decide the outlines: centre, half the largest diameter, and so on; all of length N."""

    x: FloatArray
    y: FloatArray
    radius: FloatArray  # half the long axis
    elongation: FloatArray
    angle: FloatArray
    clearance: FloatArray  # smallest centre distance to others over the sum of the radii
    kind: npt.NDArray[np.int16]

    def take(self, index: npt.NDArray[np.int64]) -> Seeds:
        return Seeds(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def join(self, other: Seeds) -> Seeds:
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Seeds(**{name: np.concatenate(pair) for name, pair in pairs.items()})


def draw_seeds(
    rng: np.random.Generator,
    xy: FloatArray,
    kind: npt.NDArray[np.int16],
    flow: FloatArray,
    mpp: float,
) -> Seeds:
    """Seeds at ``xy``, shape (N, 2), shaped after their ``kind``; spindles lie along ``flow`` (radians)."""
    n = len(xy)
    low, high = (np.array([k.radius_um[i] for k in KINDS])[kind] for i in (0, 1))
    thin, long = (np.array([k.elongation[i] for k in KINDS])[kind] for i in (0, 1))
    touching = rng.random(n) < np.array([k.touching for k in KINDS])[kind]
    clearance = np.where(touching, rng.uniform(0.72, 1.0, n), _FREE * rng.uniform(1.0, 1.25, n))
    aligned = flow + rng.normal(0, 0.15, n)
    return Seeds(
        x=xy[:, 0].astype(np.float64),
        y=xy[:, 1].astype(np.float64),
        radius=rng.uniform(low, high) / mpp,
        elongation=rng.uniform(thin, long),
        angle=np.where(kind == SPINDLE, aligned, rng.uniform(0, np.pi, n)),
        clearance=clearance * np.array([k.spread for k in KINDS])[kind],
        kind=kind.astype(np.int16),
    )


def settle(seeds: Seeds, fixed: int, period: int) -> Seeds:
    """The first ``fixed`` seeds, and each further one that keeps its clearance to all kept before it."""
    reach = int(np.ceil(seeds.radius.max() * 2 * _FREE * 1.25)) if len(seeds.x) else 1
    kept = _settle(seeds.x, seeds.y, seeds.radius, seeds.clearance, fixed, period, reach)
    return seeds.take(np.flatnonzero(kept))


@compiled
def _settle(
    x: FloatArray,
    y: FloatArray,
    radius: FloatArray,
    clearance: FloatArray,
    fixed: int,
    period: int,
    reach: int,
) -> npt.NDArray[np.bool_]:
    """Random sequential addition with a bucket grid (cells as wide as the largest interaction)."""
    cells = max(1, period // reach)
    size = period / cells
    head = np.full((cells, cells), -1, dtype=np.int64)
    following = np.full(len(x), -1, dtype=np.int64)
    kept = np.zeros(len(x), dtype=np.bool_)
    for n in range(len(x)):
        row, column = int(y[n] / size) % cells, int(x[n] / size) % cells
        free = True
        if n >= fixed:
            for i in range(-1, 2):
                for j in range(-1, 2):
                    other = head[(row + i) % cells, (column + j) % cells]
                    while other >= 0 and free:
                        dx = abs(x[n] - x[other])
                        dy = abs(y[n] - y[other])
                        dx, dy = min(dx, period - dx), min(dy, period - dy)
                        least = clearance[n] * (radius[n] + radius[other])
                        free = dx * dx + dy * dy >= least * least
                        other = following[other]
        if free:
            kept[n] = True
            following[n] = head[row, column]
            head[row, column] = n
    return kept


def outlines(rng: np.random.Generator, seeds: Seeds, period: int) -> Nuclei:
    """Star-shaped polygons of ``CORNERS`` vertices around the seeds, disjoint on the torus.

    An ellipse is bent by harmonics of low order and cut where it would cross the line that divides the way
    to a neighbour's centre in proportion to the radii.

    Returns
    -------
    Nuclei
        In pixels, not wrapped: a polygon may reach beyond [0, period). Column ``class`` is the kind.
    """
    theta = np.arange(CORNERS, dtype=np.float64) * (2 * np.pi / CORNERS)
    n = len(seeds.x)
    minor = seeds.radius / seeds.elongation
    turned = theta[None] - seeds.angle[:, None]
    reach = (seeds.radius * minor)[:, None] / np.hypot(
        minor[:, None] * np.cos(turned), seeds.radius[:, None] * np.sin(turned)
    )
    roughness = np.array([k.roughness for k in KINDS])[seeds.kind]
    for order in (2, 3, 4, 5):
        size = rng.normal(0, 1, n) * roughness / (order - 1) ** 0.8
        bent = np.cos(order * theta[None] + rng.uniform(0, 2 * np.pi, n)[:, None])
        reach *= 1 + size[:, None] * bent
    reach = _cut_apart(seeds, reach.astype(np.float64), theta, period)
    vertices = np.empty((n, CORNERS, 2))
    vertices[..., 0] = seeds.x[:, None] + reach * np.cos(theta)
    vertices[..., 1] = seeds.y[:, None] + reach * np.sin(theta)
    offsets = np.arange(n + 1, dtype=np.int64) * CORNERS
    return Nuclei(vertices.reshape(-1, 2), offsets, {"class": seeds.kind.astype(np.int16)})


def _cut_apart(seeds: Seeds, reach: FloatArray, theta: FloatArray, period: int) -> FloatArray:
    """``reach``, shape (N, CORNERS), shortened so that no two outlines overlap."""
    points = np.column_stack([seeds.x, seeds.y]) % period
    longest = reach.max(axis=1)
    pairs = cKDTree(points, boxsize=period).query_pairs(2 * float(longest.max()), output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    i, j = both[:, 0], both[:, 1]
    step = points[j] - points[i]
    step -= period * np.round(step / period)
    distance = np.hypot(step[:, 0], step[:, 1])
    near = distance < longest[i] + longest[j]
    i, j, step, distance = i[near], j[near], step[near], distance[near]
    share = distance * seeds.radius[i] / (seeds.radius[i] + seeds.radius[j])
    towards = np.cos(theta[None] - np.arctan2(step[:, 1], step[:, 0])[:, None])
    limit = np.where(towards > 1e-6, share[:, None] / np.maximum(towards, 1e-6), np.inf)
    cut = reach.copy()
    np.minimum.at(cut, i, limit)
    return cut


@compiled
def paint_labels(
    vertices: FloatArray,
    centres: FloatArray,
    labels: npt.NDArray[np.int32],
    depth: npt.NDArray[np.float32],
) -> None:
    """Paint star-shaped polygons on a torus, in place.

    Parameters
    ----------
    vertices : float64 array (N, CORNERS, 2)
        Vertices at equal angles around ``centres``, counted from angle 0.
    centres : float64 array (N, 2)
    labels : int32 array (P, P)
        Set to n + 1 at the pixels whose centre lies inside polygon n.
    depth : float32 array (P, P)
        Set there to the distance from the centre over the distance of the outline in that direction: 0–1.
    """
    period = labels.shape[0]
    corners = vertices.shape[1]
    for n in range(len(vertices)):
        cx, cy = centres[n, 0], centres[n, 1]
        x0, x1 = int(np.floor(vertices[n, :, 0].min())), int(np.ceil(vertices[n, :, 0].max()))
        y0, y1 = int(np.floor(vertices[n, :, 1].min())), int(np.ceil(vertices[n, :, 1].max()))
        for row in range(y0, y1):
            for column in range(x0, x1):
                px, py = column + 0.5 - cx, row + 0.5 - cy
                sector = int(np.floor(np.arctan2(py, px) / (2 * np.pi) * corners)) % corners
                ax, ay = vertices[n, sector, 0] - cx, vertices[n, sector, 1] - cy
                after = (sector + 1) % corners
                bx, by = vertices[n, after, 0] - cx, vertices[n, after, 1] - cy
                # p = s·(a + t·(b − a)): s is the share of the way from the centre to the edge.
                share = (px * (by - ay) - py * (bx - ax)) / (ax * by - ay * bx)
                if share < 1.0:
                    labels[row % period, column % period] = n + 1
                    depth[row % period, column % period] = share
