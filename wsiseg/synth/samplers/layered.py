"""``layered``: what the default's renderer uses, harmonic outlines in sheets, clusters, palisades and rings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wsiseg.synth.layout import sample_density, sample_layout
from wsiseg.synth.parts import Layout, Sampler, Texture, connected, require_mpp
from wsiseg.synth.shapes import MPP, place_shapes

LEAST_PX = 12
"""Pixels of a nucleus; what others leave of one may be less, and is then left out."""


@dataclass(frozen=True)
class LayeredOptions:
    """Arrangements of :mod:`wsiseg.synth.layout`, at 0.25 µm a pixel.

    Attributes
    ----------
    empty : float
        Share of the patches that have one nucleus at most: tissue without nuclei exists too.
    """

    empty: float = 0.03
    needs_texture: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.empty <= 1:
            raise ValueError(f"empty {self.empty}: expected a share of the patches, 0 to 1")

    def build(self, mpp: float) -> Sampler:
        require_mpp("the sampler layered", mpp, MPP)
        return self._sample

    def _sample(self, rng: np.random.Generator, side: int, texture: Texture | None) -> Layout:
        shapes = sample_layout(rng, side, MPP).shapes
        if rng.random() < self.empty:
            shapes = shapes[:1]
        overlap, limit = sample_density(rng, len(shapes))
        labels = np.zeros((side, side), dtype=np.int32)
        place_shapes(labels, shapes, overlap, limit)
        return Layout(connected(labels, LEAST_PX))
