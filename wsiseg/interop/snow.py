"""SNOW's layout of tiles: ``Image/seed0000.png`` and ``Mask/seed0000.mat`` with the keys of HoVer-Net's tile mode.

References
----------
.. [1] Ding et al. 2023, SNOW, doi:10.1038/s41597-023-02125-y.
.. [2] Graham et al. 2019, HoVer-Net, doi:10.1016/j.media.2019.101563: ``inst_map`` (h, w), 0 background; of each
   instance ``inst_uid`` (n, 1), ``inst_centroid`` (n, 2) as x, y of pixel centres, and with types ``inst_type``
   (n, 1).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.atomic import write_bytes
from wsiseg.core.environment import environment_faults
from wsiseg.errors import UsageError
from wsiseg.interop.labelimage import MAT_VARIABLE, read_labels, read_mat

IMAGE_FOLDER, MASK_FOLDER, OVERLAY_FOLDER = "Image", "Mask", "Overlay"
MPP = 0.25
"""Microns per pixel of SNOW: 40x."""
_MASK_FOLDERS = (MASK_FOLDER, f"{MASK_FOLDER}/mat", "mat")
_HEADER = b"MATLAB 5.0 MAT-file, by wsiseg".ljust(116)


@dataclass(frozen=True)
class SnowMask:
    """The instances of one tile.

    Attributes
    ----------
    labels : integer array (h, w)
        0 is background.
    uids : int64 array (n,)
        The labels, in the order of the other two.
    centroids : float64 array (n, 2)
        x, y; the centre of pixel (row i, column j) is (j, i).
    types : int64 array (n,) or None
    """

    labels: npt.NDArray[np.integer]
    uids: npt.NDArray[np.int64]
    centroids: npt.NDArray[np.float64]
    types: npt.NDArray[np.int64] | None = None


def tile_name(index: int) -> str:
    """The name of tile ``index`` without suffix."""
    return f"seed{index:04d}"


def mask_folder(folder: Path) -> str:
    """Where in ``folder`` the ``.mat`` files are: ``Mask``, ``Mask/mat`` or ``mat``.

    Raises
    ------
    UsageError
        Nowhere.
    """
    for name in _MASK_FOLDERS:
        if any((folder / name).glob("*.mat")):
            return name
    raise UsageError(
        f"{folder}: no .mat files in {' or '.join(_MASK_FOLDERS)}; expected SNOW's layout, "
        f"{IMAGE_FOLDER}/seed0000.png and {MASK_FOLDER}/seed0000.mat"
    )


def read_mask(path: Path) -> SnowMask:
    """The instances of a ``.mat`` file; centroids and uids that it lacks are computed.

    Nothing in the file is executed: only arrays of numbers are taken.

    Raises
    ------
    UsageError
        The file cannot be read, is of MATLAB 7.3, lacks ``inst_map``, or its arrays do not fit one another.
    """
    labels = read_labels(path)
    present = np.unique(labels)
    present = present[present > 0].astype(np.int64)
    content = _load(path, ["inst_uid", "inst_centroid", "inst_type"])
    uids = _column(path, content, "inst_uid", present)
    if not np.array_equal(np.sort(uids), present):
        raise UsageError(
            f"{path}: inst_uid has {len(uids)} rows, which are not the {len(present)} instances of {MAT_VARIABLE}"
        )
    given = content.get("inst_centroid")
    centroids = np.asarray(_centroids(labels, uids) if given is None else given)
    if centroids.size == 0:
        centroids = centroids.reshape(0, 2)
    if centroids.dtype.kind not in "fiu" or centroids.shape != (len(uids), 2):
        raise UsageError(
            f"{path}: inst_centroid is {centroids.dtype} {centroids.shape}; expected numbers, {(len(uids), 2)}"
        )
    types = _column(path, content, "inst_type", uids) if "inst_type" in content else None
    if types is not None and len(types) != len(uids):
        raise UsageError(f"{path}: inst_type has {len(types)} rows for {len(uids)} instances")
    return SnowMask(labels, uids, centroids.astype(np.float64), types)


def write_mask(path: Path, labels: npt.NDArray[np.integer]) -> None:
    """Write the instances of ``labels`` (h, w) as HoVer-Net's tile mode does; the same labels give the same bytes.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    from scipy.io import savemat

    uids = np.unique(labels)
    uids = uids[uids > 0]
    buffer = io.BytesIO()
    content = {
        MAT_VARIABLE: labels.astype(np.int32),
        "inst_uid": uids.astype(np.int32)[:, None],
        "inst_centroid": _centroids(labels, uids),
    }
    savemat(buffer, content, do_compression=True)
    # The first 116 bytes are free text, in which scipy writes the time.
    write_bytes(path, _HEADER + buffer.getvalue()[len(_HEADER) :])


def write_image(path: Path, image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write uint8 (h, w, 3) or uint16 (h, w) as PNG.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    with environment_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def _load(path: Path, names: list[str]) -> dict[str, Any]:
    try:
        return read_mat(path, names)
    except UsageError:
        raise
    except Exception as error:  # whatever scipy makes of a damaged file
        raise UsageError(f"{path}: is damaged behind {MAT_VARIABLE} ({type(error).__name__}: {error})") from error


def _column(
    path: Path, content: dict[str, Any], name: str, default: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    values = np.asarray(content.get(name, default)).ravel()
    if values.dtype.kind not in "fiu" or not np.array_equal(values, np.round(values)):
        raise UsageError(f"{path}: {name} is of type {values.dtype}; expected whole numbers")
    return values.astype(np.int64)


def _centroids(labels: npt.NDArray[np.integer], uids: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Mean x, y of the pixels of each label, (n, 2)."""
    rows, columns = np.nonzero(labels)
    order = np.argsort(uids)
    index = order[np.searchsorted(uids, labels[rows, columns], sorter=order)]
    area = np.maximum(np.bincount(index, minlength=len(uids)), 1)
    x, y = (np.bincount(index, values, len(uids)) / area for values in (columns, rows))
    return np.stack([x, y], axis=1)[: len(uids)]
