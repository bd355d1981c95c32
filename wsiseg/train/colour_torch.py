"""The colours of a batch on a device: what :func:`wsiseg.train.colour.varied` does to each patch, by torch.

All patches at once, each by what was drawn for it; what was not drawn leaves its pixels as they are. The compiled
functions are the oracle: values agree to one grey level where rounding decides. Noise comes from the device's own
generator, so it is another field of the same strength. JPEG is not done here: who draws it does it, and what comes
before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsiseg.train.colour import Image, Restaining, Variation, blur_taps, varied

_AS_IT_IS = Restaining.by(np.eye(3))


@dataclass(frozen=True)
class Colours:
    """What is to be done to the colours of N patches.

    Attributes
    ----------
    stains : float32 tensor (N, 2, 3, 5)
        Two restainings, one after the other: matrix, shift and light side by side.
    taps : float32 tensor (N, 2r + 1)
        The weights of each patch's blur.
    noise : float32 tensor (N,)
        Standard deviation in grey levels.
    noise_seed : int
        Of the whole batch's field.
    """

    stains: Tensor
    taps: Tensor
    noise: Tensor
    noise_seed: int

    @classmethod
    def of(cls, variations: Sequence[Variation]) -> Colours:
        """What was drawn for each patch."""
        stains = [[_columns(v.transport), _columns(v.stains)] for v in variations]
        taps = [torch.from_numpy(blur_taps(v.blur_px)) if v.blur_px > 0 else torch.ones(1) for v in variations]
        widest = max(len(one) for one in taps)
        sides = [(widest - len(one)) // 2 for one in taps]
        return cls(
            torch.from_numpy(np.array(stains, dtype=np.float32)),
            torch.stack([functional.pad(one, (side, side)) for one, side in zip(taps, sides, strict=True)]),
            torch.tensor([v.noise for v in variations], dtype=torch.float32),
            variations[0].noise_seed,
        )

    def each(self, move: Callable[[Tensor], Tensor]) -> Colours:
        """The same with each tensor moved."""
        return Colours(move(self.stains), move(self.taps), move(self.noise), self.noise_seed)


def before_device(image: Image, variation: Variation) -> tuple[Image, Variation]:
    """An image uint8 (h, w, 3) with what only a processor does done to it, and what is left."""
    if variation.jpeg_quality == 0:
        return image, variation
    left = Variation(None, 0.0, 0, variation.noise, variation.noise_seed)
    return varied(image, replace(variation, noise=0.0)), left


@torch.no_grad()
def recolour(images: Tensor, colours: Colours) -> Tensor:
    """Images uint8 (N, 3, h, w) in other colours, on the device that they and ``colours`` are on."""
    values = images.float()
    for stains in colours.stains.unbind(1):
        values = _restained(values, stains)
    if colours.taps.shape[1] > 1:
        values = _blurred(values, colours.taps)
    generator = torch.Generator(values.device).manual_seed(colours.noise_seed)
    field = torch.randn(values.shape, generator=generator, device=values.device)
    return _whole(values + colours.noise[:, None, None, None] * field).to(torch.uint8)


def _columns(stains: Restaining | None) -> np.ndarray:
    found = stains or _AS_IT_IS
    return np.column_stack([found.matrix, found.shift, found.light])


def _restained(values: Tensor, stains: Tensor) -> Tensor:
    matrix, shift, light = stains[..., :3], stains[..., 3], stains[..., 4]
    density = -torch.log((values + 1) / 256)
    # Sums of products rather than a matrix product, which a device may round to ten bits.
    mixed = shift[..., None, None] + sum(matrix[:, :, k, None, None] * density[:, k : k + 1] for k in range(3))
    return _whole((torch.exp(-mixed) * 256 - 1) * light[..., None, None])


def _blurred(values: Tensor, taps: Tensor) -> Tensor:
    width = taps.shape[1]
    for axis in (2, 3):
        length = values.shape[axis]
        places = torch.arange(-(width // 2), length + width // 2, device=values.device) % (2 * length)
        mirrored = torch.minimum(places, 2 * length - 1 - places)
        windows = values.index_select(axis, mirrored).unfold(axis, width, 1)
        values = (windows * taps[:, None, None, None]).sum(-1)
    return _whole(values)


def _whole(values: Tensor) -> Tensor:
    """Grey levels, rounded as where they are stored in bytes."""
    return (values + 0.5).clamp(0, 255).floor()
