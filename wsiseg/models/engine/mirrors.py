"""Maps averaged over the four mirror images: four times the time, about .01 AJI."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from wsiseg.models.base import Image
from wsiseg.models.heads import Head

_MIRRORS = ((1, 1), (-1, 1), (1, -1), (-1, -1))  # signs of the steps along y and x


@torch.inference_mode()
def mean_of_mirrors(
    run: Callable[[Sequence[Image]], list[tuple[Tensor, ...]]], image: Image, head: Head
) -> tuple[Tensor, ...]:
    """What ``run`` gives for an image's mirror images, mirrored back and averaged, where the maps lie.

    Offsets and distances along a mirrored axis change their sign, rays their places.
    """
    found = run([np.ascontiguousarray(image[::y, ::x]) for y, x in _MIRRORS])
    kinds = [head.maps[name].kind for name in head.inputs][: len(found[0])]
    back = [
        [_back(kind, maps, y, x) for kind, maps in zip(kinds, one, strict=True)]
        for one, (y, x) in zip(found, _MIRRORS, strict=True)
    ]
    return tuple(sum(same[1:], same[0]) / len(same) for same in zip(*back, strict=True))


def _back(kind: str, maps: Tensor, y: int, x: int) -> Tensor:
    turned = maps.flip([axis for axis, sign in ((-2, y), (-1, x)) if sign < 0])
    if kind == "offsets":
        return turned * turned.new_tensor([y, x])[:, None, None]
    if kind == "distances":
        return turned * turned.new_tensor([x, y])[:, None, None]
    if kind == "rays":
        count = len(turned)
        places = y * (np.arange(count) if x > 0 else count / 2 - np.arange(count))
        # Of an odd number of rays a mirrored one lies between two.
        low, high = (torch.from_numpy(near(places).astype(np.int64) % count) for near in (np.floor, np.ceil))
        return (turned[low.to(turned.device)] + turned[high.to(turned.device)]) / 2
    return turned
