"""Where nuclei lie and how they are turned: scattered, in sheets, clusters, palisades and rings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.synth.shapes import KINDS, NucleusKind, sample_shape

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Candidate outlines in drawing order; those that do not fit are dropped later.

    Attributes
    ----------
    shapes : float64 array (N, SHAPE_FIELDS)
    kinds : int array (N,)
        Index into ``KINDS``.
    group : int array (N,)
        Nuclei of one group share size and looks.
    lumens : list of (x, y, rx, ry, angle)
        Empty ellipses that rings of nuclei surround.
    """

    shapes: FloatArray
    kinds: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    lumens: list[tuple[float, float, float, float, float]]


def sample_layout(rng: np.random.Generator, size: int, mpp: float) -> Layout:
    """Candidates for a square patch of ``size`` pixels: one to three arrangements over each other."""
    by_name = {kind.name: i for i, kind in enumerate(KINDS)}
    base = rng.uniform(0, math.pi)
    shapes: list[FloatArray] = []
    kinds: list[int] = []
    groups: list[int] = []
    lumens: list[tuple[float, float, float, float, float]] = []
    arrangements = rng.choice(
        ["scatter", "sheet", "cluster", "palisade", "ring"],
        size=rng.integers(1, 4),
        p=[0.28, 0.24, 0.18, 0.18, 0.12],
    )
    if rng.random() < 0.5:  # a thin population of stromal cells between whatever else is there
        arrangements = np.append(arrangements, "scatter")
    for group, arrangement in enumerate(arrangements):
        kind_index = by_name[_kind_for(rng, str(arrangement))]
        kind = KINDS[kind_index]
        scale = float(np.clip(rng.lognormal(-0.03, 0.2), 0.6, 1.5))
        pitch = scale * 0.5 * sum(kind.major_um) / mpp
        if arrangement == "scatter":
            spots = _scatter(rng, size, base)
        elif arrangement == "sheet":
            spots = _sheet(rng, size, pitch, base)
        elif arrangement == "cluster":
            spots = _clusters(rng, size, pitch)
        elif arrangement == "palisade":
            spots = _palisade(rng, size, pitch, kind, base)
        else:
            spots, lumen = _rings(rng, size, pitch, kind)
            lumens += lumen
        for x, y, angle in spots:
            # Where the arrangement says nothing of the angle, the kind decides how much of the patch's it takes.
            shapes.append(sample_shape(rng, kind, (x, y), angle, mpp, scale))
            kinds.append(kind_index)
            groups.append(group)
    if not shapes:
        shapes.append(sample_shape(rng, KINDS[0], (size / 2, size / 2), 0.0, mpp, 1.0))
        kinds.append(0)
        groups.append(0)
    return Layout(np.stack(shapes), np.asarray(kinds), np.asarray(groups), lumens)


def sample_density(rng: np.random.Generator, count: int) -> tuple[FloatArray, int]:
    """How much of each of ``count`` outlines may be taken by others, float64 (count,), and how many are placed."""
    overlap = rng.choice([0.0, 0.06, 0.18], size=count, p=[0.3, 0.4, 0.3])
    return overlap, int(rng.choice([60, 150, 400], p=[0.25, 0.35, 0.4]))


def _kind_for(rng: np.random.Generator, arrangement: str) -> str:
    choices = {
        "scatter": (["lymphocyte", "spindle", "epithelial", "irregular", "atypical"], [0.2, 0.35, 0.15, 0.2, 0.1]),
        "sheet": (["epithelial", "atypical", "lymphocyte", "spindle"], [0.5, 0.2, 0.15, 0.15]),
        "cluster": (["lymphocyte", "irregular", "epithelial", "atypical"], [0.4, 0.2, 0.25, 0.15]),
        "palisade": (["columnar", "spindle", "epithelial"], [0.6, 0.2, 0.2]),
        "ring": (["columnar", "epithelial"], [0.5, 0.5]),
    }
    names, weights = choices[arrangement]
    return str(rng.choice(names, p=weights))


def _scatter(rng: np.random.Generator, size: int, base: float) -> list[tuple[float, float, float]]:
    count = int(np.clip(rng.lognormal(3.0, 0.8) * (size / 400) ** 2, 2, 160))
    xy = rng.uniform(-10, size + 10, (count, 2))
    wave = rng.uniform(0.002, 0.01)
    angle = base + 0.6 * np.sin(wave * xy[:, 0] + rng.uniform(0, 6)) + 0.3 * np.sin(2 * wave * xy[:, 1])
    return [(float(x), float(y), float(a)) for (x, y), a in zip(xy, angle, strict=True)]


def _sheet(rng: np.random.Generator, size: int, pitch: float, base: float) -> list[tuple[float, float, float]]:
    step = pitch * rng.uniform(0.9, 1.8)
    grid = np.arange(-step, size + step, step)
    x, y = np.meshgrid(grid, grid)
    x = x + 0.5 * step * (np.arange(x.shape[0])[:, None] % 2)
    xy = np.stack([x.ravel(), y.ravel()], axis=1) + rng.normal(0, 0.22 * step, (x.size, 2))
    # A nest: the sheet ends at a random smooth border.
    centre, reach = rng.uniform(0, size, 2), size * rng.uniform(0.3, 1.1)
    direction = np.arctan2(xy[:, 1] - centre[1], xy[:, 0] - centre[0])
    border = reach * (1 + 0.2 * np.sin(3 * direction + rng.uniform(0, 6)) + 0.1 * np.sin(5 * direction))
    inside = np.hypot(*(xy - centre).T) < border
    keep = inside & (rng.random(len(xy)) < rng.uniform(0.6, 1.0))
    xy = xy[keep]
    rng.shuffle(xy)
    return [(float(px), float(py), base + float(rng.normal(0, 0.5))) for px, py in xy]


def _clusters(rng: np.random.Generator, size: int, pitch: float) -> list[tuple[float, float, float]]:
    spots = []
    for _ in range(int(rng.integers(1, 8))):
        centre = rng.uniform(0, size, 2)
        members = int(rng.integers(3, 45))
        spread = pitch * rng.uniform(0.4, 0.9) * math.sqrt(members)
        for x, y in rng.normal(centre, spread, (members, 2)):
            spots.append((float(x), float(y), float(rng.uniform(0, math.pi))))
    return spots


def _palisade(
    rng: np.random.Generator, size: int, pitch: float, kind: NucleusKind, base: float
) -> list[tuple[float, float, float]]:
    """Rows of nuclei side by side, long axes parallel, sometimes in two or three staggered layers."""
    spots = []
    across = pitch * sum(kind.aspect) / 2 * rng.uniform(1.0, 1.5)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(-0.1 * size, 1.1 * size, 2)
        heading, turn = base + rng.normal(0, 0.4), rng.normal(0, 0.05)
        layers = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
        for _ in range(int(rng.integers(8, 60))):
            x, y = x + across * math.cos(heading), y + across * math.sin(heading)
            heading += turn + rng.normal(0, 0.03)
            for layer in range(layers):
                offset = (layer + rng.normal(0, 0.18)) * pitch * 0.95
                spots.append(
                    (
                        x - offset * math.sin(heading) + rng.normal(0, 0.15 * across),
                        y + offset * math.cos(heading) + rng.normal(0, 0.15 * across),
                        heading + math.pi / 2 + rng.normal(0, 0.1),
                    )
                )
    return spots


def _rings(
    rng: np.random.Generator, size: int, pitch: float, kind: NucleusKind
) -> tuple[list[tuple[float, float, float]], list[tuple[float, float, float, float, float]]]:
    """Nuclei around glands: radial (columnar) or along the wall (a vessel)."""
    spots, lumens = [], []
    radial = rng.random() < 0.75
    width = pitch * (sum(kind.aspect) / 2 if radial else 1.0) * rng.uniform(1.0, 1.5)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0, size, 2)
        rx = size * rng.uniform(0.08, 0.35)
        ry, tilt = rx * rng.uniform(0.4, 1.0), rng.uniform(0, math.pi)
        gap = rng.uniform(0.5, 1.6) * pitch
        lumens.append((float(x), float(y), max(rx - gap, 3.0), max(ry - gap, 3.0), tilt))
        for layer in range(int(rng.choice([1, 2], p=[0.65, 0.35]))):
            ax, ay = rx + layer * pitch * 0.9, ry + layer * pitch * 0.9
            count = max(6, int(math.pi * (ax + ay) / width))
            for t in np.linspace(0, 2 * math.pi, count, endpoint=False) + rng.normal(0, 0.03, count):
                u, v = ax * math.cos(t), ay * math.sin(t)
                normal = math.atan2(ax * math.sin(t), ay * math.cos(t)) + tilt
                spots.append(
                    (
                        float(x + u * math.cos(tilt) - v * math.sin(tilt) + rng.normal(0, 0.08 * pitch)),
                        float(y + u * math.sin(tilt) + v * math.cos(tilt) + rng.normal(0, 0.08 * pitch)),
                        normal if radial else normal + math.pi / 2,
                    )
                )
    return spots, lumens
