"""How far nuclei lie from their nearest neighbours: measured in label images, or given by an expert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from wsiseg.errors import UsageError

FloatArray = npt.NDArray[np.float64]
BINS = 10
_LARGEST = 10_000.0


def nearest_distances(images: Sequence[npt.NDArray[np.int32]]) -> FloatArray:
    """Pixels from each centroid to the nearest other of the same label image; float64 (n,)."""
    found = [np.zeros(0)]
    for labels in images:
        numbers = np.arange(1, int(labels.max(initial=0)) + 1)
        if len(numbers) > 1:
            centroids = np.array(ndimage.center_of_mass(labels > 0, labels, numbers))
            found.append(cKDTree(centroids).query(centroids, k=2)[0][:, 1])
    return np.concatenate(found)


def sample_spacing(rng: np.random.Generator, counts: FloatArray, edges: FloatArray) -> float:
    """A distance: a bin of a histogram by its count, and anything within it."""
    chosen = int(rng.choice(len(counts), p=counts / counts.sum()))
    return float(rng.uniform(edges[chosen], edges[chosen + 1]))


def histogram(distances: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Counts (10,) and edges (11,) of the spacings."""
    counts, edges = np.histogram(distances, BINS)
    return counts.astype(np.float64), edges


def read_spacings(path: Path) -> FloatArray:
    """An expert's spacings: a text file of distances in pixels, one a line; float64 (n,).

    Raises
    ------
    UsageError
        It cannot be read, or holds something else.
    """
    try:
        found = np.array([float(line) for line in path.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; expected distances in pixels, one a line") from error
    if not len(found) or not ((found >= 0) & (found <= _LARGEST)).all():
        raise UsageError(f"{path}: expected at least one distance, each 0 to {_LARGEST:g} pixels, one a line")
    return found
