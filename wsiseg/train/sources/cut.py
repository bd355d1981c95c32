"""From a labelled image of any scale to patches of one size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
import numpy.typing as npt

from wsiseg.train.patches import KNOWN, OUTSIDE, PatchPool

PIECE = 64
"""Most patches that are in memory at once."""
REVISION = 1
"""Counts up whenever the same image begins to give other patches."""

Image = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Labelled:
    """An image and what is known of it, all of one size (h, w); see :class:`wsiseg.train.patches.PatchPool`.

    Attributes
    ----------
    image : uint8 array (h, w, 3)
    labels : int32 array (h, w)
    covered : uint8 array (h, w)
    known : uint8 array (h, w)
    weight : float
    """

    image: Image
    labels: Labels
    covered: npt.NDArray[np.uint8]
    known: npt.NDArray[np.uint8]
    weight: float = 1.0


@dataclass(frozen=True)
class Place:
    """Where a patch lies: its top left pixel in the image ``name``, at the scale of the patches."""

    name: str
    y: int
    x: int


def scaled_size(shape: Sequence[int], factor: float) -> tuple[int, int]:
    """Height and width of an image of ``shape`` (h, w, …) that is enlarged by ``factor``; at least 1."""
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def rescale(image: Image, labels: npt.NDArray[np.integer], factor: float, weight: float = 1.0) -> Labelled:
    """``image`` (h, w, 3) and its instances (h, w) enlarged by ``factor``.

    Reduced, an image pixel is the mean of what it covers and a label the most frequent of four points in it where
    at least half of it is covered; by 1/2 that is exact. Enlarged, images are interpolated by cubics and the edges
    of labels by their mask.
    """
    from PIL import Image as Pillow

    height, width = scaled_size(labels.shape, factor)
    size = (width, height)
    mask = Pillow.fromarray((labels > 0).astype(np.float32))
    if factor == 1:
        small, fraction, ids = image, (labels > 0).astype(np.float32), labels.astype(np.int32)
    elif factor < 1:
        small = np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BOX))
        fraction = np.asarray(mask.resize(size, Pillow.Resampling.BOX))
        ids = np.where(fraction >= 0.5, _majority(nearest(labels, (2 * height, 2 * width))), 0)
    else:
        small = np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BICUBIC))
        fraction = np.asarray(mask.resize(size, Pillow.Resampling.BILINEAR))
        ids = nearest(labels, (height, width))
    covered = np.rint(np.clip(fraction, 0, 1) * 255).astype(np.uint8)
    return Labelled(small, ids.astype(np.int32), covered, np.full(ids.shape, KNOWN, dtype=np.uint8), weight)


def places(name: str, size: tuple[int, int], side: tuple[int, int], overlap: float) -> list[Place]:
    """Patches of ``side`` (h, w) that cover an image of ``size`` (h, w), by rows.

    Neighbours share at least ``overlap`` of their side; the first and the last touch the image's edges. An image
    that is smaller than a patch is in one.
    """
    rows, columns = (_starts(n, s, overlap) for n, s in zip(size, side, strict=True))
    return [Place(name, y, x) for y in rows for x in columns]


def check_overlap(overlap: float) -> None:
    """Raise ValueError for an overlap that :func:`places` cannot have."""
    if not 0 <= overlap < 0.95:
        raise ValueError(f"overlap {overlap}: expected a part of a patch's side, from 0 to below 0.95")


def common_side(sizes: Sequence[tuple[int, int]], side: int) -> tuple[int, int]:
    """Height and width of the patches of images of ``sizes``.

    ``side`` × ``side``; or the images' own size, where they have all the same one and it is no larger.
    """
    first = sizes[0]
    if all(size == first for size in sizes) and max(first) <= side:
        return first
    return side, side


def parts(chosen: Sequence[Place], read: Callable[[str], Labelled], side: tuple[int, int]) -> Iterator[PatchPool]:
    """The patches at ``chosen``, at most :data:`PIECE` at a time; ``read`` gives an image at the patches' scale.

    Places of one image should follow one another: it is read once for all of them.
    """
    images = ((read(name), group) for name, group in groupby(chosen, key=lambda place: place.name))
    return joined(patch(image, place.y, place.x, side) for image, group in images for place in group)


def joined(single: Iterable[PatchPool]) -> Iterator[PatchPool]:
    """Patches one by one in pools of at most :data:`PIECE`."""
    rest = iter(single)
    while made := list(islice(rest, PIECE)):
        yield PatchPool.join(made)


def patch(source: Labelled, y: int, x: int, side: tuple[int, int]) -> PatchPool:
    """One patch of ``side`` (h, w) from (y, x) on.

    What lies beyond the image repeats its edge pixels and is ``OUTSIDE``: nothing is known of it. It is not
    mirrored, since mirrored nuclei would carry the id of their original.
    """
    box = (slice(y, y + side[0]), slice(x, x + side[1]))
    ids = source.labels[box]
    pad = ((0, side[0] - ids.shape[0]), (0, side[1] - ids.shape[1]))
    return PatchPool.of(
        np.pad(source.image[box], (*pad, (0, 0)), mode="edge")[None],
        np.pad(compact(ids), pad)[None],
        np.pad(source.covered[box], pad)[None],
        np.pad(source.known[box], pad, constant_values=OUTSIDE)[None],
        np.full(1, source.weight, dtype=np.float32),
    )


def compact(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int16]:
    """Instances (h, w) as 1 … n in the order of their ids; 0 stays background."""
    found, inverse = np.unique(ids, return_inverse=True)
    if len(found) > np.iinfo(np.int16).max:
        raise ValueError(f"{len(found)} instances in one patch: more than a patch can hold")
    # The lowest id is 0 only where there is background.
    return (inverse.reshape(ids.shape) + int(found[0] > 0)).astype(np.int16)


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side) / max(1.0, side * (1 - overlap)) - 1e-9) + 1
    return [round(start) for start in np.linspace(0, length - side, count).tolist()]


def nearest(labels: npt.NDArray[np.integer], size: tuple[int, int]) -> Labels:
    """``labels`` at the centres of the pixels of an image of ``size`` (h, w) over the same ground."""
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * length / n).astype(np.int64), length - 1)
        for n, length in zip(size, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)].astype(np.int32)


def _majority(labels: Labels) -> Labels:
    """The most frequent label but 0 of each 2 × 2 block; of several the largest. 0 where there is none."""
    h, w = labels.shape[0] // 2, labels.shape[1] // 2
    four = np.sort(labels.reshape(h, 2, w, 2).transpose(0, 2, 1, 3).reshape(h, w, 4), axis=2)
    a, b, c, d = (four[..., k] for k in range(4))  # sorted: zeros come first
    pair = np.where((a == b) & (a > 0) & (c != d), a, d)
    return np.where((b == c) & (b > 0), b, pair)
