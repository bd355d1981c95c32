"""Stain transport: a patch as if it had been stained and scanned like another.

Stains add in optical density (Beer and Lambert), so a 3 × 3 matrix gives a patch other stains and leaves glass as
it is. Of the matrices that give the densities the second moments of the other patch, the one that moves them least
is taken: optimal transport between Gaussians around glass [1]_ [2]_.

References
----------
.. [1] Olkin, Pukelsheim, The distance between two random vectors with given dispersion matrices, Linear Algebra and
   its Applications 1982, doi:10.1016/0024-3795(82)90112-4.
.. [2] Pitié, Kokaram, The linear Monge-Kantorovitch linear colour mapping for example-based colour transfer,
   CVMP 2007, doi:10.1049/cp:20070055.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.train.colour import DENSITY

Image = npt.NDArray[np.uint8]

_TISSUE_DENSITY = 0.25  # least sum over the channels
_TISSUE_PX = 500
_LEAST_MOMENT = 1e-4  # of a direction in which the densities do not vary


def density_moments(image: Image) -> FloatArray | None:
    """Mean of x xᵀ over the optical densities x of an image's tissue.

    Parameters
    ----------
    image : uint8 array (h, w, 3)

    Returns
    -------
    float64 array (3, 3) or None
        Positive definite; None where there is hardly any tissue.
    """
    total, count = _moments(np.ascontiguousarray(image), DENSITY)
    if count < _TISSUE_PX:
        return None
    return total / count + _LEAST_MOMENT * np.eye(3)


def stain_styles(images: Iterable[Image]) -> FloatArray:
    """The moments of all images with tissue, float64 (n, 3, 3)."""
    found = [moments for image in images if (moments := density_moments(image)) is not None]
    return np.array(found).reshape(-1, 3, 3)


def transport(source: FloatArray, target: FloatArray, share: float = 1.0) -> FloatArray:
    """The symmetric matrix A whose A · ``source`` · A is ``target``, or a ``share`` of the way there.

    Parameters
    ----------
    source, target : float64 array (3, 3)
        Symmetric, positive definite.
    share : float
        0 to 1.
    """
    root = _root(source)
    inverse = np.linalg.inv(root)
    matrix = inverse @ _root(root @ target @ root) @ inverse
    return (1 - share) * np.eye(3) + share * matrix


def _root(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


@compiled
def _moments(image: Image, table: npt.NDArray[np.float32]) -> tuple[FloatArray, int]:
    total, count = np.zeros((3, 3)), 0
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            r, g, b = table[image[i, j, 0]], table[image[i, j, 1]], table[image[i, j, 2]]
            if r + g + b <= _TISSUE_DENSITY:
                continue
            count += 1
            total[0, 0] += r * r
            total[0, 1] += r * g
            total[0, 2] += r * b
            total[1, 1] += g * g
            total[1, 2] += g * b
            total[2, 2] += b * b
    total[1, 0], total[2, 0], total[2, 1] = total[0, 1], total[0, 2], total[1, 2]
    return total, count
