"""A slide's tissue on disk, as the tasks of a run share it: one ``.npz`` without pickles, with a checksum."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from wsiseg.core.geometry import Box, Scale
from wsiseg.core.sealed import read_sealed, write_sealed
from wsiseg.errors import DamagedFile
from wsiseg.tissue import Tissue

_MASKS = ("mask", "core", "artefact")


def save_tissue(path: Path, tissue: Tissue) -> None:
    """Write atomically; :func:`load_tissue` gives an equal value back."""
    region = tissue.region
    box = isinstance(region, Box)
    about = {
        "downsample": tissue.scale.downsample,
        "box": [region.x0, region.y0, region.x1, region.y1] if box else None,
        "artefacts": dict(tissue.artefacts),
        "shape": list(tissue.mask.shape),
        "marks": list(tissue.marks),
    }
    arrays = {name: np.packbits(getattr(tissue, name)) for name in _MASKS}
    arrays |= {f"mark_{name}": np.packbits(mask) for name, mask in tissue.marks.items()}
    wkb = b"" if box else shapely.to_wkb(region)
    buffer = io.BytesIO()
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    arrays["region"] = np.frombuffer(wkb, dtype=np.uint8)
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_sealed(path, buffer.getvalue())


def load_tissue(path: Path) -> Tissue:
    """What :func:`save_tissue` wrote.

    Raises
    ------
    DamagedFile
        It is gone, not what was written, or what another version wrote.
    """
    with np.load(io.BytesIO(read_sealed(path)), allow_pickle=False) as file:
        try:
            return _tissue(file)
        except KeyError as error:
            raise DamagedFile(f"{path}: is of another version ({error}). Run the same command again.") from error


def _tissue(file: Mapping[str, npt.NDArray[np.uint8]]) -> Tissue:
    about = json.loads(file["about"].tobytes())
    shape = tuple(about["shape"])

    def mask(name: str) -> npt.NDArray[np.bool_]:
        return np.unpackbits(file[name], count=shape[0] * shape[1]).astype(bool).reshape(shape)

    masks = {name: mask(name) for name in _MASKS}
    marks = {name: mask(f"mark_{name}") for name in about["marks"]}
    box = about["box"]
    region = Box(*box) if box is not None else shapely.from_wkb(file["region"].tobytes())
    scale = Scale(about["downsample"])
    return Tissue(**masks, scale=scale, region=region, artefacts=about["artefacts"], marks=marks)
