"""Structures without a label that a scene shows in plenty: blood, keratin, pigment, ink, mucus, folds, dust."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.synth.distractors import add_ink
from wsiseg.synth.flow import (
    FloatArray,
    Mask,
    grid,
    hexagonal,
    inside,
    random_origin,
    region,
    sample_flow,
    strands,
    value_at,
)
from wsiseg.synth.paint import noise_fields, paint_body, turned
from wsiseg.synth.scene import Scene
from wsiseg.synth.shapes import KINDS, Float32, NucleusKind, sample_shape
from wsiseg.synth.stain import Stain

RED_CELL = NucleusKind("red cell", (5.0, 8.0), (0.65, 1.0), 0.020, 0.05, 0.0, 0.0)
GRANULE = NucleusKind("granule", (0.5, 2.0), (0.6, 1.0), 0.050, 0.0, 0.0, 0.0)
DUST = NucleusKind("dust", (0.6, 1.9), (0.6, 1.0), 0.050, 0.0, 0.0, 0.0)


def red_cells(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Red cells outside vessels: single, in rows, or a pool of them."""
    size = density.shape[0]
    form = rng.choice(["single", "rows", "pool"], p=[0.4, 0.25, 0.35])
    if form == "pool":
        weight = region(rng, size, (0.1, 0.6), 0.1)
        pale = stain.glass + stain.eosin * rng.uniform(0.0, 0.2)
        density += (rng.uniform(0.5, 1.0) * weight)[..., None] * (pale.astype(np.float32) - density)
        paint_red_cells(rng, density, stain, mpp, weight > 0.5, float(rng.uniform(0.3, 1.0)))
        return Scene((), (), (weight > 0.5) & (rng.random() < 0.8))
    if form == "single":
        spots = rng.uniform(0, size, (int(rng.integers(3, 70)), 2))
    else:
        spots = np.concatenate([_row(rng, size, 6.0 / mpp) for _ in range(int(rng.integers(1, 7)))])
    _paint_cells(rng, density, stain, mpp, spots)
    return Scene.empty()


def _row(rng: np.random.Generator, size: int, pitch: float) -> FloatArray:
    x, y, heading = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0, 2 * math.pi)
    spots = []
    for _ in range(int(rng.integers(3, 16))):
        spots.append((x, y))
        heading += rng.normal(0, 0.15)
        x, y = x + pitch * math.cos(heading), y + pitch * math.sin(heading)
    return np.array(spots)


def paint_red_cells(
    rng: np.random.Generator, density: Float32, stain: Stain, mpp: float, where: Mask, share: float
) -> None:
    """Red cells packed within a mask (H, W), of which ``share`` are there, in place."""
    spots = hexagonal(rng, density.shape[0], rng.uniform(4.6, 6.5) / mpp, rng.uniform(0.10, 0.25))
    spots = spots[value_at(where, spots) & (rng.random(len(spots)) < share)]
    _paint_cells(rng, density, stain, mpp, spots)


def _paint_cells(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float, spots: FloatArray) -> None:
    # From the stain's own pink over orange to brown: haemoglobin takes eosin and absorbs blue by itself.
    own = np.array([[0.30, 1.50, 1.20], [0.25, 1.35, 1.40], [0.60, 1.20, 1.20]])[rng.choice(3, p=[0.45, 0.4, 0.15])]
    colour = rng.uniform(0.0, 0.7) * (stain.eosin - own) + own
    colour = colour * np.clip(rng.lognormal(-0.55, 0.4), 0.22, 1.2)
    soft, pallor, scale = rng.uniform(1.5, 4.0), rng.uniform(0.0, 0.5), rng.uniform(0.8, 1.1)
    noise = noise_fields()
    for x, y in spots:
        shape = sample_shape(rng, RED_CELL, (float(x), float(y)), rng.uniform(0, math.pi), mpp, scale)
        tone = (colour * np.exp(rng.normal(0, 0.12))).astype(np.float32)
        row, column = (int(v) for v in rng.integers(0, 512, 2))
        paint_body(density, shape, tone, rng.uniform(0.75, 1.0), soft, noise, 0.05, row, column)
        if rng.random() < pallor:
            shape[2:4] *= 0.45
            paint_body(density, shape, tone * np.float32(0.6), 0.6, 2.5 * soft, noise, 0.0, row, column)


def keratin(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Keratin: bright pink whorls around a centre, or lamellae."""
    size, noise = density.shape[0], noise_fields()
    x, y = grid(size)
    if rng.random() < 0.5:
        pearl = sample_shape(rng, KINDS[1], tuple(rng.uniform(0.1, 0.9, 2) * size), rng.uniform(0, 3), mpp, 1.0)
        pearl[2] = rng.uniform(15, 45) / mpp
        pearl[3], pearl[6] = pearl[2] * rng.uniform(0.6, 1.0), 0.0
        weight = ndimage.gaussian_filter(inside(pearl, size).astype(np.float32), 2.0)
        u, v = x - pearl[0], y - pearl[1]
        along_axis = (u * pearl[4] + v * pearl[5]) * pearl[3] / pearl[2]
        height = np.hypot(along_axis, v * pearl[4] - u * pearl[5])
    else:
        weight = region(rng, size, (0.15, 0.6), 0.1)
        height = sample_flow(rng, mpp).lines(x, y)[1]
    for grain, reach in ((3, (5, 14)), (2, (1, 4))):
        bent = turned(noise[grain], size, rng.uniform(0, 6), rng.uniform(1.0, 2.2), random_origin(rng))
        height = height + rng.uniform(*reach) * bent
    period = rng.uniform(3.0, 8.0) / mpp
    lamella = np.sin(2 * math.pi * height / period) + 0.6 * np.sin(4.7 * math.pi * height / period)
    flecks = turned(noise[2], size, 0.0, 1.5, random_origin(rng))
    level = np.clip(1.0 + rng.uniform(0.04, 0.18) * lamella + 0.12 * flecks, 0.1, None)
    colour = stain.eosin * rng.uniform(0.3, 0.85) * np.exp(rng.uniform(-1, 1, 3) * [0.2, 0.08, 0.15])
    ground = colour * level[..., None]
    if rng.random() < 0.5:  # flakes that come apart
        gap = np.clip((lamella + 0.7 * flecks - rng.uniform(0.8, 1.6)) / 0.4, 0.0, 1.0)[..., None]
        ground = ground + gap * (stain.glass - ground)
    density += (rng.uniform(0.85, 1.0) * weight)[..., None] * (ground.astype(np.float32) - density)
    return Scene.empty(weight > 0.5)


def mucus(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Mucus: pale grey-blue wisps."""
    size, flow = density.shape[0], sample_flow(rng, mpp)
    wisps = strands(rng, flow, size, rng.uniform(0.4, 1.3))
    cloud = turned(noise_fields()[3], size, rng.uniform(0, 6), rng.uniform(1.0, 2.0), random_origin(rng))
    tint = 0.6 * stain.nuclear / max(float(stain.nuclear.mean()), 0.1) + 0.4 * np.array([1.3, 1.0, 0.7])
    level = np.clip(0.7 + 0.3 * wisps + 0.4 * cloud, 0.0, None)
    ground = stain.glass + tint * rng.uniform(0.05, 0.18) * level[..., None]
    weight = region(rng, size, (0.2, 0.9))
    density += (rng.uniform(0.7, 1.0) * weight)[..., None] * (ground.astype(np.float32) - density)
    return Scene.empty((weight > 0.5) if rng.random() < 0.6 else None)


def pigment(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Granules of pigment, golden to black, strewn or packed in cells."""
    tones = np.array([[0.55, 0.95, 1.5], [0.9, 1.2, 1.5], [1.2, 1.2, 1.25]])
    colour = tones[rng.choice(3, p=[0.4, 0.4, 0.2])] * rng.uniform(0.5, 1.2)
    _strew(rng, density, GRANULE, colour, mpp, (1, 9), (8, 110), (2.0, 9.0))
    return Scene.empty()


def dust(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Apoptotic dust: dots of chromatin below 2 µm, strewn and in clumps."""
    _strew(rng, density, DUST, stain.nuclear * rng.uniform(0.8, 1.5), mpp, (1, 12), (2, 22), (1.5, 14.0))
    return Scene.empty()


def _strew(
    rng: np.random.Generator,
    density: Float32,
    kind: NucleusKind,
    colour: npt.NDArray[np.floating],
    mpp: float,
    clumps: tuple[int, int],
    members: tuple[int, int],
    spread_um: tuple[float, float],
) -> None:
    noise, soft = noise_fields(), rng.uniform(1.0, 2.5)
    for _ in range(int(rng.integers(*clumps))):
        centre, spread = rng.uniform(0, density.shape[0], 2), rng.uniform(*spread_um) / mpp
        for x, y in rng.normal(centre, spread, (int(rng.integers(*members)), 2)):
            shape = sample_shape(rng, kind, (float(x), float(y)), rng.uniform(0, math.pi), mpp, 1.0)
            tone = (colour * np.exp(rng.normal(0, 0.2))).astype(np.float32)
            paint_body(density, shape, tone, rng.uniform(0.6, 1.0), soft, noise, 0.0, 0, 0)


def ink(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """Marking ink."""
    add_ink(rng, density, random_origin(rng))
    return Scene.empty()


def folds(rng: np.random.Generator, density: Float32, stain: Stain, mpp: float) -> Scene:
    """A fold: a band in which the tissue lies double, dark, with sharp edges."""
    size, flow = density.shape[0], sample_flow(rng, mpp)
    _, v = flow.lines(*grid(size))
    centre = float(rng.choice(v.ravel()))
    half = 0.5 * rng.uniform(8, 40) / mpp
    edge = half + 6 * turned(noise_fields()[3], size, 0.0, 1.5, random_origin(rng)) - np.abs(v - centre)
    alpha = np.clip(0.5 + edge / rng.uniform(2, 8), 0.0, 1.0)[..., None]
    shift = tuple(int(k) for k in rng.integers(30, size // 2, 2))
    above = np.roll(density, shift, axis=(0, 1))
    density += (alpha * (rng.uniform(0.6, 1.1) * above + rng.uniform(0.0, 0.5) * density)).astype(np.float32)
    return Scene.empty(alpha[..., 0] > 0.5)
