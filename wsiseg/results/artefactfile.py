"""A slide's artefact map on disk, as the tasks of a run share it: one ``.npz`` without pickles, with a checksum."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.artefacts.map import ArtefactMap
from wsiseg.core.geometry import Scale
from wsiseg.core.sealed import read_sealed, write_sealed

ARTEFACT_MAP = "artefacts.npz"
"""Its name in the work folder."""


def save_bits(path: Path, bits: npt.NDArray[np.uint16], downsample: float) -> None:
    """Write atomically the map of a block of cells, or of a slide: uint16 (h, w), lattice of ``downsample``."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, bits=bits, downsample=np.float64(downsample))
    write_sealed(path, buffer.getvalue())


def load_artefacts(path: Path) -> ArtefactMap:
    """What :func:`save_bits` wrote.

    Raises
    ------
    DamagedFile
        It is gone, or not what was written.
    """
    with np.load(io.BytesIO(read_sealed(path)), allow_pickle=False) as file:
        return ArtefactMap(file["bits"], Scale(float(file["downsample"])))
