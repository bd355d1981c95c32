"""Scenes: tissue and structures that the ordinary arrangements lack, each in a stated share of the patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from wsiseg.synth import crowds, negatives, stroma
from wsiseg.synth.flow import region, value_at
from wsiseg.synth.layout import Layout
from wsiseg.synth.scene import Scene
from wsiseg.synth.shapes import Float32
from wsiseg.synth.stain import stain_of
from wsiseg.synth.textures import Texture

REVISION = 2
"""Counts up whenever the same seed begins to give other scenes."""

Draw = Callable[..., Scene]

# In the order in which they are painted: what comes later covers what was there.
DRAWN: dict[str, Draw] = {
    "vesicular": crowds.vesicular,
    "lymphoid": crowds.lymphoid,
    "collagen": stroma.collagen,
    "fibres": stroma.fibres,
    "mucus": negatives.mucus,
    "keratin": negatives.keratin,
    "fat": stroma.fat,
    "glands": crowds.glands,
    "vessels": stroma.vessels,
    "folds": negatives.folds,
    "red_cells": negatives.red_cells,
    "pigment": negatives.pigment,
    "dust": negatives.dust,
    "ink": negatives.ink,
}


@dataclass(frozen=True)
class Scenes:
    """Share of the patches, 0–1, that each scene is in, independently of the others. None by default.

    Attributes
    ----------
    fibres, vessels, fat, vesicular, lymphoid, glands : float
        With nuclei: :mod:`wsiseg.synth.stroma`, :mod:`wsiseg.synth.crowds`.
    defocus : float
        A patch, or a part of it, out of focus.
    collagen, red_cells, keratin, mucus, pigment, dust, ink, folds : float
        Without: :mod:`wsiseg.synth.negatives`.
    """

    fibres: float = 0.0
    vessels: float = 0.0
    fat: float = 0.0
    vesicular: float = 0.0
    lymphoid: float = 0.0
    glands: float = 0.0
    defocus: float = 0.0
    collagen: float = 0.0
    red_cells: float = 0.0
    keratin: float = 0.0
    mucus: float = 0.0
    pigment: float = 0.0
    dust: float = 0.0
    ink: float = 0.0
    folds: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not 0 <= share <= 1:
                raise ValueError(f"{field.name} {share}: expected a share of the patches, 0 to 1")


NO_SCENES = Scenes()


def choose_scenes(rng: np.random.Generator, scenes: Scenes) -> tuple[list[str], bool]:
    """Names of the scenes of a patch, in the order of painting, and whether it is out of focus."""
    chance = dict(zip((*DRAWN, "defocus"), rng.random(len(DRAWN) + 1), strict=True))
    chosen = [name for name in chance if chance[name] < getattr(scenes, name)]
    return [name for name in chosen if name != "defocus"], "defocus" in chosen


def set_scenes(
    rng: np.random.Generator, density: Float32, texture: Texture, layout: Layout, names: list[str], mpp: float
) -> Layout:
    """Paint the ground of scenes into ``density`` (H, W, 3), in place; returns the layout with their nuclei.

    The scenes' nuclei come first and so lie on top; each scene is a group. What a later scene covers is gone.
    """
    stain = stain_of(rng, texture)
    size = density.shape[0]
    shapes, kinds, groups = layout.shapes, layout.kinds, layout.group
    ordinary = int(groups.max()) + 1
    for number, name in enumerate(names):
        scene = DRAWN[name](rng, density, stain, mpp)
        kept = (groups >= ordinary) | (rng.random(len(shapes)) < scene.keep)
        if scene.closed is not None:
            within = ((shapes[:, :2] >= 0) & (shapes[:, :2] < size)).all(axis=1)
            kept &= ~(within & value_at(scene.closed, shapes[:, :2]).astype(bool))
        shapes, kinds, groups = shapes[kept], kinds[kept], groups[kept]
        if len(scene.rows):
            shapes = np.concatenate([np.stack(scene.rows), shapes])
            kinds = np.concatenate([np.asarray(scene.kinds), kinds])
            groups = np.concatenate([np.full(len(scene.rows), ordinary + number), groups])
    return Layout(shapes, kinds, groups, [])


def defocused(rng: np.random.Generator, density: Float32, mpp: float) -> Float32:
    """A patch of which a part is out of focus by a blur of 0.35 to 1 µm (σ)."""
    sigma = rng.uniform(0.35, 1.0) / mpp
    weight = region(rng, density.shape[0], (0.4, 1.5), 1.0)[..., None]
    return density + weight * (ndimage.gaussian_filter(density, (sigma, sigma, 0)) - density)
