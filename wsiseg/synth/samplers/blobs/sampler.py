"""``blobs``: the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from wsiseg.errors import UsageError
from wsiseg.interop.labelimage import SUFFIXES, read_labels
from wsiseg.synth.parts import Layout, Sampler, Texture, connected
from wsiseg.synth.samplers.blobs.contours import LEAST_PX, BlobPool, Mask, extract_contours, labelled, make_blob
from wsiseg.synth.samplers.blobs.placement import place_blobs
from wsiseg.synth.samplers.blobs.prior import PerlinPrior, blurred, fit_perlin, read_priors, sample_map
from wsiseg.synth.samplers.blobs.spacing import histogram, nearest_distances, read_spacings, sample_spacing

FloatArray = npt.NDArray[np.float64]
_MARGIN = 32
"""Pixels beyond the patch in which nuclei lie too, so that its border cuts some."""


@dataclass(frozen=True)
class BlobsOptions:
    """Shapes, numbers, spacings and a prior from a few annotated images, in pixels of their scale.

    Attributes
    ----------
    masks : Path
        Folder of label images, or of masks of two values (PNG, TIFF, NPY, MAT), at the recipe's scale.
    images : int
        How many of them are used, in the order of their names; 0: all.
    prior : Path, optional
        An expert's map of where nuclei are likely: a grey image of the recipe's scale or a folder of them. By
        default Perlin noise fitted to the masks.
    spacings : Path, optional
        An expert's distances between neighbours: a text file of pixels, one a line. By default those of the masks.
    couples, alphas, points : int
        Couples of real nuclei, steps between the two, and points of a contour.
    seed : int
        Decides the couples.
    tries : int
        Shapes that are tried at a place.
    misses : int
        Places where none fits that are passed over before a patch ends; 0 as published.
    centres : bool
        Whether a spacing keeps only the centres of others off, as it was measured. As published it keeps off all
        their pixels, so that neighbours lie farther apart than in the masks.
    top : float
        0: places are drawn in proportion to the prior, as published. Else uniformly from this highest part; the
        authors' release has 0.16.
    """

    masks: Path
    images: int = 0
    prior: Path | None = None
    spacings: Path | None = None
    couples: int = 500
    alphas: int = 30
    points: int = 500
    seed: int = 0
    tries: int = 30
    misses: int = 40
    centres: bool = False
    top: float = 0.0
    needs_texture: ClassVar[bool] = False

    def __post_init__(self) -> None:
        least = {"images": 0, "couples": 1, "alphas": 1, "points": 16, "seed": 0, "tries": 1, "misses": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least {value}")
        if not 0 <= self.top <= 1:
            raise ValueError(f"top {self.top}: expected a part of the places, 0 to 1")

    def build(self, mpp: float) -> Sampler:
        images = [labelled(read_labels(path)) for path in mask_files(self.masks)[: self.images or None]]
        contours = [contour for labels in images for contour in extract_contours(labels, self.points)]
        if not contours:
            raise UsageError(f"{self.masks}: no nucleus of {LEAST_PX} pixels or more that is not cut; expected one")
        distances = read_spacings(self.spacings) if self.spacings is not None else nearest_distances(images)
        if not len(distances):
            raise UsageError(f'{self.masks}: no two nuclei in an image: expected some, or spacings = "NAME"')
        densities = [labels.max() / labels.size for labels in images]
        return _Blobs(
            BlobPool(contours, self.couples, self.alphas, self.seed),
            histogram(distances),
            [fit_perlin(blurred(labels))[0] for labels in images] if self.prior is None else [],
            read_priors(self.prior) if self.prior is not None else [],
            (float(min(densities)), float(max(densities))),
            self,
        )


def mask_files(folder: Path) -> list[Path]:
    """Label images of a folder, in the order of their names.

    Raises
    ------
    UsageError
        There is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder of label images")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise UsageError(f"{folder}: no label images in it; expected {' '.join(sorted(SUFFIXES))}")
    return found


@dataclass(frozen=True)
class _Blobs:
    """What a layout is drawn from; ``density``: least and most nuclei a pixel of the images."""

    pool: BlobPool
    spacings: tuple[FloatArray, FloatArray]
    fitted: Sequence[PerlinPrior]
    maps: Sequence[FloatArray]
    density: tuple[float, float]
    options: BlobsOptions

    def __call__(self, rng: np.random.Generator, side: int, texture: Texture | None) -> Layout:
        whole, options = side + 2 * _MARGIN, self.options
        prior = self._prior(rng, whole)
        labels = place_blobs(
            rng,
            prior,
            lambda: self._blob(rng),
            lambda: sample_spacing(rng, *self.spacings),
            round(rng.uniform(*self.density) * whole * whole),
            tries=options.tries,
            misses=options.misses,
            top=options.top,
            centres=options.centres,
        )
        return Layout(connected(labels[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN], 12))

    def _prior(self, rng: np.random.Generator, side: int) -> FloatArray:
        if self.maps:
            return sample_map(rng, self.maps, side)
        return self.fitted[int(rng.integers(len(self.fitted)))].sample(rng, side)

    def _blob(self, rng: np.random.Generator) -> Mask | None:
        return make_blob(self.pool, int(rng.integers(len(self.pool))))
