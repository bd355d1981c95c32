"""The patch discriminator of Points2Image, and the pool of what was generated earlier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Images or maps (N, channels, h, w) to an opinion of each 70 × 70 px, (N, 1, h / 8 - 2, w / 8 - 2).

    Five 4 × 4 convolutions, 64-128-256-512-1 for a ``width`` of 64, with spectral normalisation [1]_.

    References
    ----------
    .. [1] Isola et al. 2017, doi:10.1109/CVPR.2017.632; Miyato et al. 2018, arXiv:1802.05957.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width, 8 * width, 1)
        layers: list[nn.Module] = []
        for n in range(5):
            stride = 2 if n < 3 else 1
            layers += [spectral_norm(nn.Conv2d(widths[n], widths[n + 1], 4, stride, padding=1))]
            layers += [nn.LeakyReLU(0.2)] if n < 4 else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class ImagePool:
    """At most ``capacity`` generated images, so that a discriminator does not forget what it saw [1]_.

    References
    ----------
    .. [1] Shrivastava et al. 2017, doi:10.1109/CVPR.2017.241, as Zhu et al. 2017, doi:10.1109/ICCV.2017.244 use it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._images: list[Tensor] = []

    def exchange(self, rng: np.random.Generator, batch: Tensor) -> Tensor:
        """A batch of the same shape (N, c, h, w): each image as it is, or by a chance of ½ an earlier one.

        While the pool fills, images are kept and returned as they are.
        """
        seen = []
        for image in batch.detach():
            if len(self._images) < self.capacity:
                self._images.append(image.clone())
                seen.append(image)
            elif rng.random() < 0.5:
                place = int(rng.integers(self.capacity))
                seen.append(self._images[place])
                self._images[place] = image.clone()
            else:
                seen.append(image)
        return torch.stack(seen) if seen else batch

    def state(self) -> list[Tensor]:
        """What :meth:`restore` takes."""
        return list(self._images)

    def restore(self, state: list[Any], device: str) -> None:
        self._images = [image.to(device) for image in state]
