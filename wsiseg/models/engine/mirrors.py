"""Maps averaged over the four mirror images: four times the time, about .01 AJI."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wsiseg.models.base import Image
from wsiseg.models.heads import Head, Maps

_MIRRORS = ((1, 1), (-1, 1), (1, -1), (-1, -1))  # signs of the steps along y and x


def mean_of_mirrors(
    run: Callable[[Sequence[Image]], list[tuple[Maps, ...]]], image: Image, head: Head
) -> tuple[Maps, ...]:
    """What ``run`` gives for an image's mirror images, mirrored back and averaged.

    Offsets and distances along a mirrored axis change their sign, rays their places.
    """
    found = run([np.ascontiguousarray(image[::y, ::x]) for y, x in _MIRRORS])
    kinds = [head.maps[name].kind for name in head.inputs][: len(found[0])]
    back = [
        [_back(kind, maps, y, x) for kind, maps in zip(kinds, one, strict=True)]
        for one, (y, x) in zip(found, _MIRRORS, strict=True)
    ]
    return tuple(np.mean(same, axis=0).astype(np.float32) for same in zip(*back, strict=True))


def _back(kind: str, maps: Maps, y: int, x: int) -> Maps:
    turned = maps[..., ::y, ::x]
    if kind == "offsets":
        return turned * np.array([y, x], dtype=np.float32)[:, None, None]
    if kind == "distances":
        return turned * np.array([x, y], dtype=np.float32)[:, None, None]
    if kind == "rays":
        count = len(turned)
        places = y * (np.arange(count) if x > 0 else count / 2 - np.arange(count))
        # Of an odd number of rays a mirrored one lies between two.
        low, high = (np.asarray(near(places), dtype=int) % count for near in (np.floor, np.ceil))
        return (turned[low] + turned[high]) / 2
    return turned
