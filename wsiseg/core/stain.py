"""Colour deconvolution: the one place that knows the stains' colours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled

FloatImage = npt.NDArray[np.float32]

# Optical densities of haematoxylin, eosin and DAB in red, green and blue, table 1 of [1]_.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def optical_density_table() -> npt.NDArray[np.float64]:
    """Optical density (base 10) of each uint8 intensity, shape (256,); 255 is 0, and 0 counts as 1."""
    return -np.log10(np.maximum(np.arange(256), 1) / 255.0)


def stain_tables() -> npt.NDArray[np.float64]:
    """What each intensity of each channel adds to each stain, shape (stain, channel, 256).

    The amount of stain s at a pixel is ``tables[s, 0, r] + tables[s, 1, g] + tables[s, 2, b]``.
    The stains are haematoxylin, eosin and a residual [1]_.

    References
    ----------
    .. [1] Ruifrok & Johnston, Quantification of histochemical staining by color deconvolution, Analytical and
       Quantitative Cytology and Histology 23, 291-299 (2001).
    """
    stains = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    return np.linalg.inv(stains).T[:, :, None] * optical_density_table()


def hematoxylin(image: npt.NDArray[np.uint8]) -> FloatImage:
    """Optical density of haematoxylin.

    Parameters
    ----------
    image : uint8 array (h, w, 3)

    Returns
    -------
    float32 array (h, w)
        Base 10. Slightly negative where a pixel has more of the other stains than the model allows.
    """
    return _apply(np.ascontiguousarray(image), stain_tables()[0].astype(np.float32))


def eosin(image: npt.NDArray[np.uint8]) -> FloatImage:
    """Optical density of eosin, as :func:`hematoxylin`."""
    return _apply(np.ascontiguousarray(image), stain_tables()[1].astype(np.float32))


@compiled
def _apply(image: npt.NDArray[np.uint8], table: FloatImage) -> FloatImage:
    height, width = image.shape[0], image.shape[1]
    out = np.empty((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            out[i, j] = table[0, image[i, j, 0]] + table[1, image[i, j, 1]] + table[2, image[i, j, 2]]
    return out
