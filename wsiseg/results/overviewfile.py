"""A slide's overview on disk, as the tasks of a run share it: one ``.npz`` without pickles, with a checksum."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Scale
from wsiseg.core.sealed import read_sealed, write_sealed

OVERVIEW_FILE = "overview.npz"
"""Its name in the work folder."""


def save_overview(path: Path, image: npt.NDArray[np.uint8], scale: Scale) -> None:
    """Write atomically the whole slide on the lattice ``scale``, uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, image=image, downsample=np.float64(scale.downsample))
    write_sealed(path, buffer.getvalue())


def load_overview(path: Path) -> tuple[npt.NDArray[np.uint8], Scale]:
    """What :func:`save_overview` wrote.

    Raises
    ------
    DamagedFile
        It is gone, or not what was written.
    """
    with np.load(io.BytesIO(read_sealed(path)), allow_pickle=False) as file:
        return file["image"], Scale(float(file["downsample"]))
