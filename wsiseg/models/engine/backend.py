"""What computes a network: a function from images to raw maps, made once and called for every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Backend = Callable[[npt.NDArray[np.uint8]], "Tensor"]
"""RGB images (N, h, w, 3) of one shape to raw maps float32 (N, channels, h', w'), one map after the other."""
