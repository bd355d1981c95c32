"""Connective tissue: collagen with thin nuclei or without, vessels, fat."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from wsiseg.synth.flow import (
    FloatArray,
    Flow,
    grid,
    hexagonal,
    inside,
    random_origin,
    region,
    sample_flow,
    strands,
    value_at,
)
from wsiseg.synth.negatives import paint_red_cells
from wsiseg.synth.paint import noise_fields, paint_random_body, turned
from wsiseg.synth.scene import Scene, nuclei_of
from wsiseg.synth.shapes import KINDS, Float32, sample_shape
from wsiseg.synth.stain import Stain

Spot = tuple[float, float, float]


def fibres(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Wavy bundles of collagen, and fibroblasts along them: 8–25 µm long, 1–2.5 µm thin, pale to dark."""
    size, flow = density.shape[0], sample_flow(rng, mpp)
    weight = _paint_collagen(rng, density, stain, flow, (0.35, 1.4))
    count = rng.poisson(np.clip(rng.lognormal(3.4, 0.6), 4, 110) * (size * mpp / 100) ** 2)
    spots: list[Spot] = []
    while len(spots) < count:
        x, y = (float(v) for v in rng.uniform(-8, size + 8, 2))
        for _ in range(int(rng.choice([1, 2, 4, 7], p=[0.6, 0.2, 0.1, 0.1]))):  # a file of cells along one fibre
            angle = flow.direction(x, y)
            spots.append((x, y, angle + float(rng.normal(0, 0.10))))
            step = rng.uniform(10, 24) / mpp
            x, y = x + step * math.cos(angle), y + step * math.sin(angle)
    xy = np.array([spot[:2] for spot in spots]).reshape(-1, 2)
    kept = [spot for spot, w in zip(spots, value_at(weight, xy), strict=True) if w > 0.4]
    nuclei = nuclei_of(rng, "fibroblast", kept, mpp, size=float(rng.uniform(0.7, 1.0)))
    return Scene(*nuclei, closed=None, keep=float(rng.choice([0.0, 0.15, 0.4])))


def collagen(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Collagen without nuclei, from wavy to glassy."""
    weight = _paint_collagen(rng, density, stain, sample_flow(rng, mpp), (0.2, 0.9))
    return Scene.empty(weight > 0.5)


def _paint_collagen(
    rng: np.random.Generator, density: Float32, stain: Stain, flow: Flow, share: tuple[float, float]
) -> Float32:
    """Bundles along ``flow`` with clefts between them, in place; returns their weight (H, W)."""
    size = density.shape[0]
    fine = strands(rng, flow, size, rng.uniform(0.35, 0.9))
    coarse = strands(rng, flow, size, rng.uniform(1.0, 2.4))
    glassy = rng.random() < 0.2
    level = 1.0 + rng.uniform(0.08, 0.28) * (0.3 if glassy else 1.0) * fine + rng.uniform(0.05, 0.22) * coarse
    total = density.mean(axis=2)
    # The fine structure of the real tissue below stays: drawn fibres alone are too clean.
    detail = total - ndimage.gaussian_filter(total, 5.0)
    level += rng.uniform(0.2, 0.7) * detail / max(float(total.mean()), 0.1)
    strength = np.clip(rng.lognormal(-1.25, 0.5), 0.09, 0.8)
    colour = stain.eosin * strength * np.exp(rng.normal(0, [0.12, 0.05, 0.08])) + stain.nuclear * rng.choice(
        [0.0, 0.06, 0.15], p=[0.5, 0.3, 0.2]
    )
    ground = (colour * np.clip(level, 0.15, None)[..., None]).astype(np.float32)
    cleft = np.clip((-coarse - 0.4 * fine - rng.uniform(0.6, 2.6)) / rng.uniform(0.2, 0.8), 0.0, 1.0)[..., None]
    if not glassy:
        ground += rng.uniform(0.5, 1.0) * cleft * (np.maximum(stain.glass, 0.25 * colour) - ground)
    weight = region(rng, size, share)
    density += (rng.uniform(0.75, 1.0) * weight)[..., None] * (ground - density)
    return weight


def vessels(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Capillaries to small arteries, across or along; thin nuclei lie flat against a lumen with blood or none."""
    size = density.shape[0]
    closed = np.zeros((size, size), dtype=bool)
    rows: list[FloatArray] = []
    kinds: list[int] = []
    for _ in range(int(rng.integers(1, 5))):
        radius = rng.choice([4.0, 9.0, 20.0], p=[0.45, 0.35, 0.2]) * rng.uniform(0.7, 1.5) / mpp
        aspect = rng.choice([0.85, 0.5, 0.22], p=[0.4, 0.3, 0.3]) * rng.uniform(0.8, 1.15)
        wall = max(rng.choice([1.0, 3.0, 8.0], p=[0.5, 0.35, 0.15]) * rng.uniform(0.7, 1.4), 0.8) / mpp
        lumen = sample_shape(rng, KINDS[0], tuple(rng.uniform(0, size, 2)), rng.uniform(0, math.pi), mpp, 1.0)
        lumen[2], lumen[3] = radius / math.sqrt(aspect), radius * math.sqrt(aspect)
        lumen[6] = 0.0
        outer = lumen.copy()
        outer[2:4] += wall
        mask, covered = inside(lumen, size), inside(outer, size)
        hidden = [bool(value_at(covered, row[None, :2])[0]) for row in rows]  # by this vessel, which lies on top
        rows = [row for row, gone in zip(rows, hidden, strict=True) if not gone]
        kinds = [kind for kind, gone in zip(kinds, hidden, strict=True) if not gone]
        colour = stain.eosin * rng.uniform(0.15, 0.55)
        paint_random_body(rng, density, outer, colour.astype(np.float32), rng.uniform(0.5, 0.9), 0.15)
        serum = stain.glass + stain.eosin * rng.choice([0.0, 0.08, 0.2], p=[0.55, 0.3, 0.15])
        paint_random_body(rng, density, lumen, serum.astype(np.float32), rng.uniform(0.85, 1.0), 0.05)
        if rng.random() < 0.55:
            paint_red_cells(rng, density, stain, mpp, mask, float(rng.uniform(0.15, 1.0)))
        closed |= covered
        lining = _around(rng, lumen, rng.uniform(1.2, 2.6) / 2 / mpp, rng.uniform(9, 28) / mpp)
        scale = float(rng.uniform(0.6, 1.0))
        added = [nuclei_of(rng, "endothelial", lining, mpp, size=scale, curved=True)]
        for depth in np.arange(4.0, wall * mpp - 1.0, 4.5):
            if rng.random() < 0.75:
                layer = _around(rng, lumen, depth / mpp, rng.uniform(16, 36) / mpp)
                added.append(nuclei_of(rng, "mural", layer, mpp, curved=True))
        for new_rows, new_kinds in added:
            rows.extend(new_rows)
            kinds.extend(new_kinds)
    return Scene(rows, kinds, closed, 1.0)


def _around(
    rng: np.random.Generator, outline: FloatArray, offset: float, spacing: float
) -> list[tuple[float, float, float, float]]:
    """Spots ``offset`` outside an ellipse, about ``spacing`` apart: x, y, tangent, curvature toward the inside."""
    a, b = outline[2] + offset, outline[3] + offset
    count = max(1, round(math.pi * (a + b) / spacing))
    spots = []
    for t in (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * math.pi / count + rng.uniform(0, 6):
        u, v = a * math.cos(t), b * math.sin(t)
        c, s = outline[4], outline[5]
        tangent = math.atan2(b * math.cos(t), -a * math.sin(t)) + math.atan2(s, c)
        curvature = a * b / ((a * math.sin(t)) ** 2 + (b * math.cos(t)) ** 2) ** 1.5
        spots.append((outline[0] + c * u - s * v, outline[1] + s * u + c * v, tangent, curvature))
    return spots


def fat(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Fat cells: round, optically empty, 30–90 µm, with thin rims and flat nuclei in these."""
    size = density.shape[0]
    pitch = rng.uniform(32, 85) / mpp
    seeds = hexagonal(rng, size, pitch, rng.uniform(0.08, 0.2), 1.5)
    weight = region(rng, size, (0.4, 1.5), 0.08)
    rim, border, cell = _rims(rng, seeds, size, pitch, mpp)
    noise = turned(noise_fields()[2], size, rng.uniform(0, 6), rng.uniform(0.8, 2.0), random_origin(rng))
    colour = stain.eosin * np.clip(rng.lognormal(-1.3, 0.45), 0.1, 0.6) + stain.nuclear * rng.uniform(0.0, 0.12)
    ground = colour * np.clip(1.0 + 0.3 * noise, 0.2, None)[..., None]
    # Where the section grazes a cell its membrane lies flat: a faint veil instead of nothing.
    veil = value_at(rng.random(len(seeds))[None], np.stack([cell.ravel(), np.zeros(cell.size)], axis=1)) < 0.12
    empty = stain.glass + 0.18 * colour * veil.reshape(size, size)[..., None]
    ground = ground + (1.0 - rim)[..., None] * (empty - ground)
    density += weight[..., None] * (ground.astype(np.float32) - density)
    spots = [s for s in border if value_at(weight, np.array([s[:2]]))[0] > 0.5]
    rows, kinds = nuclei_of(rng, "adipocyte", spots, mpp)
    return Scene(rows, kinds, (weight > 0.5) & (rim < 0.9), float(rng.uniform(0.2, 1.0)))


def _rims(
    rng: np.random.Generator, seeds: FloatArray, size: int, pitch: float, mpp: float
) -> tuple[Float32, list[Spot], np.ndarray]:
    """Where rims are, 0–1 (size, size); spots for nuclei in them; and which cell each pixel belongs to."""
    x, y = grid(size)
    bent = []
    for axis in (x, y):
        zoom, reach = rng.uniform(1.0, 2.5), rng.uniform(4, 13)
        wave = turned(noise_fields()[3], size, rng.uniform(0, 6), zoom, random_origin(rng))
        bent.append(axis + reach * wave)
    tree = cKDTree(seeds)
    coarse = np.stack([axis[::2, ::2].ravel() for axis in bent], axis=1)
    distance, nearest = tree.query(coarse, k=2)
    apart = np.hypot(*(seeds[nearest[:, 0]] - seeds[nearest[:, 1]]).T)
    edge = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * apart)  # to the border between two cells
    edge = np.minimum(edge, rng.uniform(0.50, 0.62) * pitch - distance[:, 0])  # cells are rounder than their places
    half = 0.5 * rng.uniform(0.8, 2.4) / mpp
    half_size = (size + 1) // 2
    rim = np.clip(0.5 + (half - edge) / 2.0, 0.0, 1.0).reshape(half_size, half_size)
    full = np.repeat(np.repeat(rim, 2, axis=0), 2, axis=1)[:size, :size].astype(np.float32)
    cell = np.repeat(np.repeat(nearest[:, 0].reshape(half_size, half_size), 2, axis=0), 2, axis=1)[:size, :size]
    at_border = np.flatnonzero(edge < 0.35 * half)
    spots: list[Spot] = []
    per_cell = rng.uniform(0.4, 1.8)
    wanted = rng.poisson(per_cell * size**2 / pitch**2)
    for n in at_border[rng.integers(0, max(len(at_border), 1), wanted)] if len(at_border) else ():
        a, b = seeds[nearest[n, 0]], seeds[nearest[n, 1]]
        row, column = divmod(int(n), half_size)
        along_border = math.atan2(b[1] - a[1], b[0] - a[0]) + math.pi / 2
        spots.append((2.0 * column + 1.0, 2.0 * row + 1.0, along_border + float(rng.normal(0, 0.08))))
    return full, spots, cell
