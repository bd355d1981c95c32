"""One round of self-training: a network's own nuclei on unlabelled patches, where it is sure of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsiseg.models.network import NetworkSegmenter
from wsiseg.raster import rasterize
from wsiseg.train.patches import PatchPool


def pseudo_pool(
    segmenter: NetworkSegmenter,
    images: Sequence[npt.NDArray[np.uint8]],
    *,
    sure: float = 0.85,
    unknown: float = 0.1,
) -> PatchPool:
    """Patches labelled by ``segmenter``.

    Parameters
    ----------
    images : sequence of uint8 array (h, w, 3)
        At the segmenter's mpp, all of one size.
    sure : float
        Least score of a nucleus that is kept. Where there was another one, nothing is known.
    unknown : float
        Pixels outside the nuclei that were kept are background below this foreground probability, else unknown:
        the pale parts of nuclei must not be taught as background.
    """
    parts = [_label(segmenter, image, sure, unknown) for image in images]
    return PatchPool.join(parts)


def probable_nuclei(
    segmenter: NetworkSegmenter, image: npt.NDArray[np.uint8], threshold: float = 0.1
) -> npt.NDArray[np.bool_]:
    """Pixels (h, w) that may be nuclear: what must not remain in a background for rendering."""
    foreground, _ = _maps(segmenter, image)
    return foreground > threshold


def _label(
    segmenter: NetworkSegmenter,
    image: npt.NDArray[np.uint8],
    sure: float,
    unknown: float,
) -> PatchPool:
    foreground, offsets = _maps(segmenter, image)
    nuclei = segmenter.decoder.decode(foreground, offsets)
    kept = np.flatnonzero(nuclei.columns["score"].astype(np.float64) >= sure)
    shape = foreground.shape
    labels = rasterize(nuclei.take(kept), np.arange(1, len(kept) + 1), shape)
    # Without a kept nucleus, any likely pixel is unknown; inside one, the target is its own probability.
    known = (foreground < unknown) | (labels > 0)
    covered = np.where(labels > 0, foreground, 0.0)
    return PatchPool.of(
        image[None],
        labels.astype(np.int16)[None],
        np.rint(covered * 255).astype(np.uint8)[None],
        known.astype(np.uint8)[None],
    )


def _maps(
    segmenter: NetworkSegmenter, image: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Maps of an image of any size, mirrored at its border to give the network what it expects."""
    h, w = image.shape[:2]
    pad, stride = 48, segmenter.stride_px
    bottom, right = -(h + 2 * pad) % stride + pad, -(w + 2 * pad) % stride + pad
    padded = np.pad(image, ((pad, bottom), (pad, right), (0, 0)), mode="reflect")
    ((foreground, offsets),) = segmenter.maps([padded])
    return foreground[pad : pad + h, pad : pad + w], offsets[:, pad : pad + h, pad : pad + w]
