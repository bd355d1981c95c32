"""What computes a network: a function from images to raw maps, made once and called for every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wsiseg.models.base import Image

if TYPE_CHECKING:
    from torch import Tensor

Backend = Callable[[Sequence[Image]], "Tensor"]
"""RGB images (h, w, 3) of one shape to raw maps float32 (N, channels, h', w'), one map after the other."""
