"""Labels by a network: what is nuclear, and what its view of a patch may teach another network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.stain import hematoxylin
from wsiseg.models.heads import Head, Maps
from wsiseg.models.network import NetworkSegmenter
from wsiseg.train.patches import KNOWN, OUTSIDE, UNKNOWN

_FOREGROUND = {"offsets": 0, "foreground": 0, "seeds": 1, "hover": 0}
"""Which of the decoder's maps is the foreground's probability; heads without one have only their nuclei."""
_PAD_PX = 48

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Trust:
    """How far a teacher is trusted.

    Attributes
    ----------
    soft : bool
        The foreground's target is its probability, everywhere. Otherwise it is inside its sure nuclei, unlikely
        pixels are background, and the others say nothing: pale parts of nuclei must not be taught as background.
    sure : float
        Least score of a nucleus that counts as one.
    unknown : float
        Foreground probability below which a pixel is background, where not ``soft``.
    """

    soft: bool
    sure: float
    unknown: float


def mirrored_maps(segmenter: NetworkSegmenter, image: Bytes) -> tuple[Maps, ...]:
    """What the decoder reads of an image (h, w, 3) of any size, which is mirrored beyond its border."""
    height, width = image.shape[:2]
    after = [-(n + 2 * _PAD_PX) % segmenter.stride_px + _PAD_PX for n in (height, width)]
    padded = np.pad(image, ((_PAD_PX, after[0]), (_PAD_PX, after[1]), (0, 0)), mode="reflect")
    (maps,) = segmenter.maps([padded])
    inner = (..., slice(_PAD_PX, _PAD_PX + height), slice(_PAD_PX, _PAD_PX + width))
    return tuple(np.ascontiguousarray(one[inner]) for one in maps)


def foreground_of(maps: Sequence[Maps], head: Head) -> Maps:
    """The foreground's probability (h, w) among what a head's decoder reads; the first map of heads without one."""
    return np.asarray(maps[_FOREGROUND.get(head.name, 0)], dtype=np.float32)


def pseudo_labels(
    maps: Sequence[Maps], labels: Labels, scores: npt.NDArray[np.float32], known: Bytes, head: Head, trust: Trust
) -> tuple[Labels, Bytes, Bytes]:
    """What a teacher's view of a patch teaches: labels int32, covered uint8 and known uint8, each (h, w).

    Parameters
    ----------
    maps : sequence of float32 array
        What the decoder read.
    labels : int32 array (h, w)
        Its nuclei, 1 … n.
    scores : float32 array (n,)
    known : uint8 array (h, w)
        Of the patch: ``OUTSIDE`` stays.
    head : Head
    trust : Trust
    """
    which = _FOREGROUND.get(head.name)
    foreground = (labels > 0).astype(np.float32) if which is None else np.clip(maps[which], 0, 1)
    meant = np.ones(labels.shape, dtype=bool)
    sure = np.concatenate([[False], scores >= trust.sure])
    labels = np.where(sure, np.cumsum(sure), 0)[labels].astype(np.int32)
    if not trust.soft:
        meant = (foreground < trust.unknown) | (labels > 0)
        foreground = np.where(labels > 0, foreground, 0)
    outside = known == OUTSIDE
    covered = np.where(outside, 0, np.rint(foreground * 255)).astype(np.uint8)
    knowledge = np.where(outside, OUTSIDE, np.where(meant, KNOWN, UNKNOWN)).astype(np.uint8)
    return np.where(outside, 0, labels).astype(np.int32), covered, knowledge


def doubted(image: Bytes, labels: Labels, covered: Bytes, known: Bytes, quantile: float) -> Bytes:
    """``known`` (h, w), ``UNKNOWN`` where background is as dark as ``quantile`` of the nuclei's haematoxylin."""
    stain = hematoxylin(image)
    nuclear = labels > 0
    if not nuclear.any():
        return known
    dark = (stain >= np.quantile(stain[nuclear], quantile)) & (covered < 128) & (known == KNOWN)
    return np.where(dark, UNKNOWN, known).astype(np.uint8)


def agreed(
    labels: Labels, covered: Bytes, known: Bytes, theirs: Labels, foreground: Maps, tolerance: float
) -> tuple[Labels, Bytes]:
    """What two networks say alike, after COIN (ICCV 2025), with a second network for its promptable model.

    Parameters
    ----------
    labels : int32 array (h, w)
        Nuclei with a centre to be learnt, by the first network.
    covered : uint8 array (h, w)
        Its foreground times 255.
    known : uint8 array (h, w)
    theirs : int32 array (h, w)
        All nuclei of the second.
    foreground : float32 array (h, w)
        Its foreground's probability.
    tolerance : float
        By how much the foregrounds may differ.

    Returns
    -------
    labels, known
        Without nuclei that the second has not at an IoU of one half; ``UNKNOWN`` where they differ.
    """
    count, size = int(labels.max(initial=0)), np.bincount(labels.ravel())
    pairs, overlap = np.unique(
        np.stack([labels, theirs])[:, (labels > 0) & (theirs > 0)], axis=1, return_counts=True
    )
    union = size[pairs[0]] + np.bincount(theirs.ravel())[pairs[1]] - overlap
    both = np.zeros(count + 1, dtype=bool)
    both[pairs[0][2 * overlap >= union]] = True
    differ = (np.abs(covered / 255.0 - np.clip(foreground, 0, 1)) > tolerance) & (known == KNOWN)
    return np.where(both[labels], labels, 0).astype(np.int32), np.where(differ, UNKNOWN, known).astype(np.uint8)
