"""Crowds of nuclei of one kind: lymphocytes, pale vesicular nuclei, glands of dark columnar ones."""

from __future__ import annotations

import math

import numpy as np

from wsiseg.synth.flow import FloatArray, hexagonal, inside, region, value_at
from wsiseg.synth.paint import blend, paint_random_body
from wsiseg.synth.scene import Scene, nuclei_of
from wsiseg.synth.shapes import KINDS, Float32, sample_shape
from wsiseg.synth.stain import Stain


def lymphoid(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Lymphocytes shoulder to shoulder: small, round, dark."""
    size = density.shape[0]
    weight = region(rng, size, (0.25, 1.3))
    between = blend(density.mean(axis=(0, 1)), stain.nuclear, rng.uniform(0.1, 0.35))
    density += (rng.uniform(0.2, 0.7) * weight)[..., None] * (between - density)
    spots = hexagonal(rng, size, rng.uniform(4.8, 7.0) / mpp, rng.uniform(0.08, 0.18))
    spots = spots[(value_at(weight, spots) > 0.5) & (rng.random(len(spots)) < rng.uniform(0.75, 1.0))]
    nuclei = nuclei_of(rng, "crowded lymphocyte", _turned(rng, spots), mpp)
    return Scene(*nuclei, weight > 0.5)


def vesicular(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Pale nuclei: clear chromatin, a thin dark rim, a nucleolus."""
    size = density.shape[0]
    weight = region(rng, size, (0.3, 1.3))
    scale = float(rng.uniform(0.75, 1.15))
    spots = hexagonal(rng, size, scale * rng.uniform(12, 26) / mpp, rng.uniform(0.15, 0.28))
    spots = spots[value_at(weight, spots) > 0.5]
    nuclei = nuclei_of(rng, "vesicular", _turned(rng, spots), mpp, size=scale)
    return Scene(*nuclei, weight > 0.5, float(rng.uniform(0.2, 1.0)))


def _turned(rng: np.random.Generator, spots: FloatArray) -> list[tuple[float, float, float]]:
    base = rng.uniform(0, math.pi)
    return [(float(x), float(y), float(base + rng.normal(0, 0.6))) for x, y in spots]


def glands(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Glands whose dark columnar nuclei crowd in one to three rows, in basophilic cytoplasm around a lumen."""
    size = density.shape[0]
    closed = np.zeros((size, size), dtype=bool)
    rows: list[FloatArray] = []
    kinds: list[int] = []
    scale, layers = float(rng.uniform(0.8, 1.15)), int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
    length = 12.0 * scale / mpp
    body = blend(stain.eosin * rng.uniform(0.2, 0.5), stain.nuclear, rng.uniform(0.2, 0.7))
    for _ in range(int(rng.integers(1, 6))):
        gland = sample_shape(rng, KINDS[1], tuple(rng.uniform(0, size, 2)), rng.uniform(0, math.pi), mpp, 1.0)
        gland[2] = rng.uniform(22, 60) / mpp
        gland[3], gland[6] = gland[2] * rng.uniform(0.45, 1.0), 0.0
        gland[7:12] *= 0.5
        if (closed & inside(gland, size)).any():
            continue
        mask = inside(gland, size)
        closed |= mask
        tone = body * np.float32(np.exp(rng.normal(0, 0.1)))
        paint_random_body(rng, density, gland, tone, rng.uniform(0.7, 1.0), 0.12)
        lumen = gland.copy()
        lumen[2:4] = np.maximum(lumen[2:4] - length * (1.1 + 0.75 * layers) * rng.uniform(0.9, 1.3), 3.0)
        if rng.random() < 0.8:
            inner = (stain.glass + stain.eosin * rng.uniform(0.0, 0.2)).astype(np.float32)
            paint_random_body(rng, density, lumen, inner, rng.uniform(0.6, 1.0), 0.08)
        spots = _palisade(rng, gland, length, layers)
        new_rows, new_kinds = nuclei_of(rng, "crowded columnar", spots, mpp, size=scale)
        rows.extend(new_rows)
        kinds.extend(new_kinds)
    return Scene(rows, kinds, closed, float(rng.uniform(0.3, 1.0)))


def _palisade(
    rng: np.random.Generator, gland: FloatArray, length: float, layers: int
) -> list[tuple[float, float, float]]:
    """Spots along the inside of a gland's border, with the angle of its radius."""
    spots = []
    c, s = gland[4], gland[5]
    crowding = rng.uniform(0.65, 1.1)
    for layer in range(layers):
        offset = length * (0.62 + 0.72 * layer)
        a, b = gland[2] - offset, gland[3] - offset
        if min(a, b) < 0.3 * length:
            break
        count = max(5, int(math.pi * (a + b) / (0.36 * length * crowding)))
        turns = (np.arange(count) + rng.normal(0, 0.2, count)) * 2 * math.pi / count
        for t in turns:
            u, v = a * math.cos(t), b * math.sin(t)
            shift = length * rng.normal(0, 0.12)
            normal = math.atan2(a * math.sin(t), b * math.cos(t)) + math.atan2(s, c)
            x, y = gland[0] + c * u - s * v, gland[1] + s * u + c * v
            spots.append((x + shift * math.cos(normal), y + shift * math.sin(normal), normal + rng.normal(0, 0.08)))
    rng.shuffle(spots)
    return spots
