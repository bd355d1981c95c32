"""The ring around each nucleus that it is compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled


@compiled
def surroundings(labels: npt.NDArray[np.int32], width: int) -> npt.NDArray[np.int32]:
    """The nucleus in whose ring each pixel lies, (h, w); 0 is none.

    The ring is what lies 2 to ``width`` steps from this nucleus and is reached from no other before; of two that
    reach a pixel with the same step the higher label has it. The step next to the outline is left out as a mixture
    of both.

    Parameters
    ----------
    labels : int32 array (h, w)
        Nuclei as 1 … N; 0 is none.
    width : int
    """
    height, length = labels.shape
    rings = np.zeros_like(labels)
    owner = labels.copy()
    before = labels.copy()
    for step in range(1, width + 1):
        for i in range(height):
            for j in range(length):
                if before[i, j] != 0:
                    continue
                name = 0
                for di, dj in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    y, x = i + di, j + dj
                    if 0 <= y < height and 0 <= x < length and before[y, x] > name:
                        name = before[y, x]
                if name != 0:
                    owner[i, j] = name
                    if step > 1:
                        rings[i, j] = name
        before[:] = owner
    return rings
