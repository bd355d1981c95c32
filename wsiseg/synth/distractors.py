"""Structures that are not nuclei, and that networks take for them: smears, fibres, holes, ink, cells, debris."""

from __future__ import annotations

import math

import numpy as np

from wsiseg.synth.layout import Layout
from wsiseg.synth.paint import NOISE_SIZE, blend, fibre_field, noise_fields, paint_field, paint_random_body, turned
from wsiseg.synth.shapes import KINDS, MPP, Float32, NucleusKind, sample_shape
from wsiseg.synth.textures import Texture

DEBRIS = NucleusKind("debris", (1.0, 2.8), (0.4, 1.0), 0.08, 0.2, 0.0, 0.0)
STRAND = NucleusKind("strand", (10.0, 45.0), (0.03, 0.07), 0.02, 0.25, 0.0, 0.95)
BLOB = NucleusKind("blob", (4.0, 16.0), (0.35, 1.0), 0.10, 0.15, 0.0, 0.3)
FLECK = NucleusKind("fleck", (3.0, 12.0), (0.2, 0.9), 0.15, 0.2, 0.0, 0.0)
RED_CELL = NucleusKind("red cell", (5.5, 8.0), (0.7, 1.0), 0.02, 0.0, 0.0, 0.0)


def add_distractors(
    rng: np.random.Generator, density: Float32, texture: Texture, layout: Layout, amount: float
) -> None:
    """Paint structures that are not nuclei: smears, fibres, lumens, debris, strands, red cells, bits of cytoplasm.

    Parameters
    ----------
    density : float32 array (H, W, 3)
        Optical density of the patch, changed in place.
    amount : float
        Multiplies the probability of each kind.
    """
    size, noise = density.shape[0], noise_fields()
    nuclear = texture.nuclear_mean.mean(axis=0)
    lowest = float(texture.nuclear_mean[:, 0].min())
    local = density.mean(axis=(0, 1))
    if rng.random() < 0.55 * amount:  # basophilic cytoplasm or stroma: dark, textured, without outlines
        field = turned(noise[3], size, rng.uniform(0, 6), rng.uniform(0.7, 2.2), tuple(rng.uniform(0, 512, 2)))
        field = field + 0.35 * turned(noise[2], size, 0.0, rng.uniform(0.7, 1.6), tuple(rng.uniform(0, 512, 2)))
        colour = blend(local, nuclear, rng.uniform(0.25, 0.85))
        colour = colour * min(1.0, 0.9 * lowest / max(float(colour[0]), 1e-3))
        grain = turned(noise[1], size, 0.0, rng.uniform(0.8, 2.0), tuple(rng.uniform(0, 512, 2)))
        textured = colour * (1 + rng.uniform(0.04, 0.2) * grain[..., None])
        paint_field(
            density,
            field,
            rng.uniform(-1.5, 1.0),
            textured.astype(np.float32),
            rng.uniform(0.4, 0.9),
            rng.uniform(0.2, 2.0),
        )
    if rng.random() < 0.45 * amount:
        fibres = turned(
            fibre_field(), size, rng.uniform(0, math.pi), rng.uniform(0.7, 1.8), tuple(rng.uniform(0, 512, 2))
        )
        colour = blend(local, nuclear, rng.uniform(0.0, 0.6)) * rng.uniform(0.8, 1.35)
        paint_field(
            density,
            fibres,
            rng.uniform(0.0, 1.6),
            colour.astype(np.float32),
            rng.uniform(0.3, 0.8),
            rng.uniform(0.5, 2.0),
        )
    if rng.random() < 0.12 * amount:  # tears and vacuoles
        field = turned(noise[3], size, rng.uniform(0, 6), rng.uniform(0.5, 1.5), tuple(rng.uniform(0, 512, 2)))
        paint_field(
            density, field, rng.uniform(0.7, 1.6), np.full(3, 0.05, np.float32), 0.95, rng.uniform(0.1, 0.4)
        )
    if rng.random() < 0.12 * amount:
        _ink_or_fold(rng, density)
    for x, y, rx, ry, tilt in layout.lumens:
        if rng.random() < 0.6:
            shape = sample_shape(rng, KINDS[1], (x, y), tilt, MPP, 1.0)
            shape[2], shape[3] = rx, ry
            colour = (local * rng.uniform(0.1, 0.6)).astype(np.float32)
            paint_random_body(rng, density, shape, colour, rng.uniform(0.5, 0.95), 0.08)
    for kind, most, tint, share in (
        (DEBRIS, 25, "dark", 0.3),
        (STRAND, 25, "eosin", 0.3),
        (RED_CELL, 20, "red", 0.3),
        (BLOB, 40, "blob", 0.45),
        (FLECK, 15, "eosin", 0.3),
    ):
        if rng.random() > share * amount:
            continue
        for _ in range(int(rng.integers(1, most))):
            shape = sample_shape(rng, kind, tuple(rng.uniform(0, size, 2)), rng.uniform(0, 3.2), MPP, 1.0)
            if tint == "dark":
                colour = nuclear * rng.uniform(0.7, 1.4)
            elif tint == "eosin":
                colour = blend(local, nuclear, rng.uniform(0.0, 0.8)) * rng.uniform(1.0, 1.4)
            elif tint == "blob":  # cytoplasm and stroma, cut or folded into the size of a nucleus
                colour = blend(local, nuclear, rng.uniform(0.0, 0.5)) * rng.uniform(0.9, 1.35)
                colour = colour * np.array([1.0, rng.uniform(1.0, 1.3), 1.05])
            else:
                colour = local * np.array([0.5, 1.5, 1.3]) * rng.uniform(0.7, 1.2)
            paint_random_body(rng, density, shape, colour.astype(np.float32), rng.uniform(0.4, 0.95), 0.1)


def _ink_or_fold(rng: np.random.Generator, density: Float32) -> None:
    """Ink, or a fold: dark, wide, sharply bordered."""
    origin = (float(rng.uniform(0, NOISE_SIZE)), float(rng.uniform(0, NOISE_SIZE)))
    if rng.random() < 0.5:
        add_ink(rng, density, origin)
        return
    band = turned(fibre_field(), density.shape[0], rng.uniform(0, math.pi), rng.uniform(3.0, 6.0), origin)
    darker = density * rng.uniform(1.5, 2.2)
    paint_field(density, band, rng.uniform(0.8, 1.6), darker, 0.9, rng.uniform(0.1, 0.5))


def add_ink(rng: np.random.Generator, density: Float32, origin: tuple[float, float]) -> None:
    """Marking ink (teal, blue, black, violet) that settles on edges, in place; ``origin`` of its noise."""
    size, noise = density.shape[0], noise_fields()
    inks = np.array([[1.1, 0.25, 0.35], [1.3, 0.7, 0.3], [1.2, 1.1, 1.0], [0.9, 0.4, 0.9]])
    colour = inks[rng.integers(len(inks))] * rng.uniform(0.5, 1.2)
    specks = turned(noise[2], size, rng.uniform(0, 6), rng.uniform(0.4, 1.5), origin)
    region = turned(noise[3], size, rng.uniform(0, 6), rng.uniform(1.0, 2.5), origin)
    field = specks + rng.uniform(0.5, 1.5) * region
    colour = colour * (1 + 0.25 * noise[1, :1, :1])
    paint_field(density, field, rng.uniform(1.0, 2.2), colour.astype(np.float32), rng.uniform(0.6, 1.0), 0.5)
