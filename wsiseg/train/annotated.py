"""Patches from images that people have annotated, brought to one scale and, if wished, to other stains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsiseg.synth.render import restain
from wsiseg.synth.textures import Texture, optical_density, to_rgb
from wsiseg.train.patches import KNOWN, OUTSIDE, PatchPool

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]


def factor_for_diameter(labels: npt.NDArray[np.integer], diameter_px: float) -> float:
    """How much to enlarge an image of unknown mpp so that its median nucleus has this equivalent diameter."""
    area = np.bincount(labels.ravel())[1:]
    area = area[area > 0]
    if area.size == 0:
        return 1.0
    return float(diameter_px / np.median(np.sqrt(4 * area / np.pi)))


def annotated_pool(
    pairs: Sequence[Pair],
    factors: Sequence[float],
    *,
    side: int,
    copies: int = 1,
    seed: int = 0,
    textures: Sequence[Texture] = (),
) -> PatchPool:
    """Random crops of annotated images.

    Parameters
    ----------
    pairs : sequence of (uint8 (h, w, 3), int (h, w))
        Images and instance labels.
    factors : sequence of float
        Enlargement of each image to the network's scale; each crop varies it by up to a fifth.
    side : int
        Side of a crop. An image that is smaller is extended by its edge pixels, of which nothing is known: mirrored
        nuclei would carry the id of their original.
    copies : int
        Crops of each image.
    textures : sequence of Texture
        Half of the crops take the stain statistics of one of these.
    """
    rng = np.random.default_rng(seed)
    parts = [
        _crop(image, labels, factor * rng.uniform(0.83, 1.2), side, rng, textures)
        for (image, labels), factor in zip(pairs, factors, strict=True)
        for _ in range(copies)
    ]
    return PatchPool.join(parts)


def _crop(
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    factor: float,
    side: int,
    rng: np.random.Generator,
    textures: Sequence[Texture],
) -> PatchPool:
    from PIL import Image

    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    large = np.asarray(
        Image.fromarray(image).resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC)
    )
    ids = np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    covered = np.asarray(Image.fromarray((labels > 0).astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    h, w = ids.shape
    y, x = (int(rng.integers(0, max(n - side, 0) + 1)) for n in (h, w))
    box = (slice(y, y + side), slice(x, x + side))
    large, ids, covered = large[box], ids[box], covered[box]
    pad = ((0, side - ids.shape[0]), (0, side - ids.shape[1]))
    known = np.pad(np.full(ids.shape, KNOWN, dtype=np.uint8), pad, constant_values=OUTSIDE)
    if textures and rng.random() < 0.5:
        other = textures[int(rng.integers(len(textures)))]
        large = to_rgb(restain(rng, optical_density(large), other))
    _, compact = np.unique(ids, return_inverse=True)
    # The lowest id is 0 only where the crop has background.
    compact = compact.reshape(ids.shape) + int(ids.min() > 0)
    return PatchPool.of(
        np.pad(large, (*pad, (0, 0)), mode="edge")[None],
        np.pad(compact.astype(np.int16), pad)[None],
        np.pad(np.rint(covered * 255).astype(np.uint8), pad)[None],
        known[None],
    )
