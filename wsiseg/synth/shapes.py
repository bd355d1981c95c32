"""Nuclear outlines as smooth radial harmonics on a bent ellipse, drawn on a pixel grid.

An outline is one row of ``SHAPE_FIELDS`` numbers. In the coordinates of its ellipse (major axis along u, scaled to
a unit circle) the border is r(θ) = 1 + Σ a_k cos(kθ + φ_k), k = 2 … 6; ``bend`` moves v by bend · u² / a first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled

HARMONICS = (2, 3, 4, 5, 6)
SHAPE_FIELDS = 7 + 2 * len(HARMONICS)  # x, y, semi-major, semi-minor, cos, sin, bend, amplitudes, phases

MPP = 0.25
"""Microns per pixel that patches are rendered at."""

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class NucleusKind:
    """Sizes and looks of one kind of nucleus.

    Attributes
    ----------
    major_um : (float, float)
        Range of the major axis (full length, µm).
    aspect : (float, float)
        Range of minor / major axis.
    roughness : float
        Standard deviation of the second harmonic, relative to the radius; higher ones fall off.
    bend : float
        Standard deviation of the bend.
    vesicular : float
        Probability of a pale nucleus with a rim and nucleoli.
    aligned : float
        How closely the major axis follows the orientation of the patch, 0–1.
    breadth_um : (float, float) or None
        Range of the minor axis (full length, µm), where it does not follow from the major axis.
    strength : (float, float)
        Range of what the optical density is multiplied with.
    """

    name: str
    major_um: tuple[float, float]
    aspect: tuple[float, float]
    roughness: float
    bend: float
    vesicular: float
    aligned: float
    breadth_um: tuple[float, float] | None = None
    strength: tuple[float, float] = (1.0, 1.0)


KINDS = (
    NucleusKind("lymphocyte", (5.0, 8.0), (0.80, 1.0), 0.025, 0.0, 0.05, 0.0),
    NucleusKind("epithelial", (7.0, 13.0), (0.60, 1.0), 0.035, 0.04, 0.40, 0.6),
    NucleusKind("columnar", (9.0, 16.0), (0.33, 0.62), 0.030, 0.06, 0.25, 0.97),
    NucleusKind("spindle", (9.0, 20.0), (0.16, 0.42), 0.030, 0.11, 0.10, 0.93),
    NucleusKind("atypical", (11.0, 19.0), (0.55, 1.0), 0.060, 0.10, 0.45, 0.3),
    NucleusKind("irregular", (5.0, 11.0), (0.40, 0.9), 0.090, 0.20, 0.10, 0.2),
)
"""Of every patch."""

SCENE_KINDS = (
    NucleusKind("fibroblast", (8.0, 25.0), (0.0, 0.0), 0.020, 0.12, 0.03, 1.0, (1.0, 2.5), (0.40, 1.15)),
    NucleusKind("endothelial", (7.0, 18.0), (0.0, 0.0), 0.020, 0.0, 0.0, 1.0, (1.0, 2.6), (0.55, 1.15)),
    NucleusKind("adipocyte", (6.0, 14.0), (0.0, 0.0), 0.020, 0.05, 0.0, 1.0, (1.0, 2.2), (0.55, 1.15)),
    NucleusKind("mural", (9.0, 22.0), (0.0, 0.0), 0.025, 0.06, 0.05, 1.0, (1.6, 3.5), (0.55, 1.05)),
    NucleusKind("vesicular", (8.0, 16.0), (0.55, 1.0), 0.030, 0.04, 2.5, 0.3, None, (0.45, 0.95)),
    NucleusKind("crowded lymphocyte", (4.6, 7.5), (0.80, 1.0), 0.025, 0.0, 0.03, 0.0, None, (0.95, 1.30)),
    NucleusKind("crowded columnar", (8.0, 16.0), (0.24, 0.50), 0.030, 0.05, 0.08, 0.97, None, (0.95, 1.30)),
)
"""Of :mod:`wsiseg.synth.scenes`; ``vesicular`` above 1 leaves no other look."""

ALL_KINDS = KINDS + SCENE_KINDS


def sample_shape(
    rng: np.random.Generator, kind: NucleusKind, xy: tuple[float, float], angle: float, mpp: float, size: float
) -> npt.NDArray[np.float64]:
    """One outline of ``kind`` centred at ``xy`` (pixels); ``size`` multiplies the axes."""
    row = np.zeros(SHAPE_FIELDS)
    low, high = kind.major_um
    major = low + (high - low) * rng.beta(2.0, 2.6)
    semi = 0.5 * size * major / mpp
    theta = angle + (1.0 - kind.aligned) * rng.normal(0.0, 1.2) + rng.normal(0.0, 0.08)
    if kind.breadth_um is None:
        breadth = semi * rng.uniform(*kind.aspect)
    else:
        breadth = min(0.5 * rng.uniform(*kind.breadth_um) / mpp, semi)
    row[:7] = (
        xy[0],
        xy[1],
        semi,
        breadth,
        math.cos(theta),
        math.sin(theta),
        np.clip(rng.normal(0.0, kind.bend), -0.5, 0.5),
    )
    order = np.asarray(HARMONICS, dtype=np.float64)
    amplitude = np.abs(rng.normal(0.0, kind.roughness, order.size)) * (2.0 / order)
    if rng.random() < 0.15:  # an angular or indented nucleus
        amplitude[rng.integers(0, 3)] += rng.uniform(0.04, 0.12)
    total = amplitude.sum()
    row[7 : 7 + order.size] = amplitude * min(1.0, 0.35 / max(total, 1e-9))
    row[7 + order.size :] = rng.uniform(0.0, 2 * math.pi, order.size)
    return row


@compiled
def relative_radius(shape: npt.NDArray[np.float64], x: float, y: float) -> tuple[float, float]:
    """(s, d): s < 1 inside the outline, and the distance to the border in pixels, positive inside."""
    dx, dy = x - shape[0], y - shape[1]
    u = dx * shape[4] + dy * shape[5]
    v = -dx * shape[5] + dy * shape[4]
    # The bend is centred, so that the drawn nucleus stays around its reference point.
    v -= shape[6] * (u * u / shape[2] - 0.25 * shape[2])
    nu, nv = u / shape[2], v / shape[3]
    rho = math.sqrt(nu * nu + nv * nv)
    theta = math.atan2(nv, nu)
    radius = 1.0
    for k in range(5):
        radius += shape[7 + k] * math.cos((k + 2) * theta + shape[12 + k])
    s = rho / radius
    # |∇ rho| turns the relative radius into pixels, also across the thin side of an ellipse.
    gradient = math.sqrt((nu / shape[2]) ** 2 + (nv / shape[3]) ** 2) / max(rho, 1e-6)
    return s, (radius - rho) / max(gradient, 1e-6)


@compiled
def bounding_box(shape: npt.NDArray[np.float64], height: int, width: int, pad: float) -> tuple[int, int, int, int]:
    """Rows and columns (i0, i1, j0, j1) that the outline can touch, clipped to the grid."""
    reach = 1.4 * shape[2] + 0.75 * abs(shape[6]) * shape[2] + pad
    i0, i1 = max(0, int(shape[1] - reach)), min(height, int(shape[1] + reach) + 2)
    j0, j1 = max(0, int(shape[0] - reach)), min(width, int(shape[0] + reach) + 2)
    return i0, i1, j0, j1


@compiled
def place_shapes(
    labels: Int32, shapes: npt.NDArray[np.float64], overlap: npt.NDArray[np.float64], limit: int
) -> npt.NDArray[np.int64]:
    """Draw outlines in order into ``labels`` where they fit; returns the indices of those that did.

    An outline fits when at most ``overlap[n]`` of its pixels are taken; it then gets the free ones, so that nuclei
    touch without overlapping. Labels are 1, 2, … in the order of the returned indices.
    """
    height, width = labels.shape
    placed = np.empty(shapes.shape[0], dtype=np.int64)
    count = 0
    for n in range(shapes.shape[0]):
        if count >= limit:
            break
        i0, i1, j0, j1 = bounding_box(shapes[n], height, width, 0.0)
        inside, taken = 0, 0
        for i in range(i0, i1):
            for j in range(j0, j1):
                s, _ = relative_radius(shapes[n], j + 0.5, i + 0.5)
                if s < 1.0:
                    inside += 1
                    if labels[i, j] != 0:
                        taken += 1
        if inside < 12 or taken > overlap[n] * inside:
            continue
        count += 1
        placed[count - 1] = n
        for i in range(i0, i1):
            for j in range(j0, j1):
                if labels[i, j] == 0:
                    s, _ = relative_radius(shapes[n], j + 0.5, i + 0.5)
                    if s < 1.0:
                        labels[i, j] = count
    return placed[:count]
