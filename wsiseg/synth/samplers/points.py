"""``points``: ellipses at the points of real images, of whose nuclei nothing else is known (after Points2Image)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from wsiseg.core.names import stem
from wsiseg.core.select import ALL, Select
from wsiseg.interop.labelimage import read_labels
from wsiseg.synth.parts import Layout, Sampler, Texture, connected
from wsiseg.synth.samplers.blobs.sampler import mask_files
from wsiseg.synth.samplers.ellipses import EllipsesOptions, place_ellipses

FloatArray = npt.NDArray[np.float64]

_MARGIN = 24
"""Pixels beyond the patch in which nuclei lie too, so that its border cuts some."""
_LEAST_PX = 12
_ELLIPSES = EllipsesOptions()


@dataclass(frozen=True)
class PointsOptions:
    """Ellipses at real points.

    Attributes
    ----------
    labels : Path
        Folder of label images (PNG, TIFF, NPY, MAT) at the recipe's scale: the points are the centroids of their
        labels, which may be whole nuclei or dots.
    folder : str
        Where in ``labels`` they lie.
    select : Select
        Which of them, in the order of their names; its table lies in ``labels``.
    ellipses : EllipsesOptions
        Of these the areas, their distribution and the tries.
    """

    labels: Path
    folder: str = "."
    select: Select = ALL
    ellipses: EllipsesOptions = _ELLIPSES

    needs_texture: ClassVar[bool] = False

    def build(self, mpp: float) -> Sampler:
        """The sampler.

        Raises
        ------
        UsageError
            There are no label images, or none is selected.
        """
        files = mask_files(self.labels / self.folder)
        chosen = self.select.named({stem(path.name): path for path in files}, self.labels)
        found = [read_labels(path) for path in files if stem(path.name) in chosen]
        images = [(centroids(labels), labels.shape) for labels in found]

        def sample(rng: np.random.Generator, side: int, texture: Texture | None) -> Layout:
            whole = side + 2 * _MARGIN
            points, shape = images[int(rng.integers(len(images)))]
            # A corner anywhere from which the patch, without its margin, lies in the image.
            corner = [float(rng.integers(max(n - side, 0) + 1)) - _MARGIN for n in shape[::-1]]
            moved = _turned(points - corner, whole, int(rng.integers(8)))
            inside = moved[((moved >= 0) & (moved < whole)).all(axis=1)]
            placed = place_ellipses(rng, self.ellipses, inside, whole)
            return Layout(connected(placed[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN], _LEAST_PX))

        return sample


def centroids(labels: npt.NDArray[np.integer]) -> FloatArray:
    """The x, y of each instance, float64 (n, 2), in the order of the labels that occur; pixel centres are whole."""
    i, j = np.nonzero(labels)
    names, which, area = np.unique(labels[i, j], return_inverse=True, return_counts=True)
    sums = [np.bincount(which, weights=axis, minlength=len(names)) for axis in (j, i)]
    return np.stack(sums, axis=1) / area[:, None]


def _turned(points: FloatArray, side: int, turn: int) -> FloatArray:
    """Points of a square in one of its eight symmetries."""
    x, y = points[:, 0], points[:, 1]
    last = side - 1
    x, y = (y, x) if turn & 1 else (x, y)
    return np.stack([last - x if turn & 2 else x, last - y if turn & 4 else y], axis=1)
