"""Label images and probability maps as others write them: PNG, TIFF, NumPy, MATLAB files of HoVer-Net's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.errors import UsageError

SUFFIXES = frozenset((".png", ".tif", ".tiff", ".npy", ".mat"))
#: The name under which HoVer-Net and SNOW keep the instances in a ``.mat`` file.
MAT_VARIABLE = "inst_map"


def read_labels(path: Path) -> npt.NDArray[np.integer]:
    """Instance labels (h, w) of a file: 0 is background, every other value one object.

    Parameters
    ----------
    path : Path
        PNG (8 or 16 bits; of a palette image the indices), TIFF, ``.npy``, or ``.mat`` up to version 7 with
        ``inst_map``. Whole numbers may be stored as floats.

    Raises
    ------
    UsageError
        The file cannot be read, or does not hold one plane of whole numbers from 0 on.
    """
    image = _read(path, "a label image")
    if image.dtype == bool:
        return image.astype(np.uint8)
    if image.dtype.kind == "f" and image.size and np.isfinite(image).all() and (image == np.round(image)).all():
        image = image.astype(np.int64)
    if image.dtype.kind not in "iu":
        raise UsageError(
            f"{path}: values of type {image.dtype}; expected whole numbers, 0 for background, 1, 2, … for objects"
        )
    if image.size and int(image.min()) < 0:
        raise UsageError(f"{path}: negative label {int(image.min())}; expected 0 for background and 1, 2, …")
    return image


def read_probabilities(path: Path) -> npt.NDArray[np.generic]:
    """A map (h, w) that grows with the foreground's probability: floats, or whole numbers as 0–255.

    Raises
    ------
    UsageError
        The file cannot be read, or is not one plane of real numbers.
    """
    image = _read(path, "a probability map")
    if image.dtype.kind not in "fiu" or np.isnan(image).any():
        raise UsageError(f"{path}: values of type {image.dtype} or not numbers; expected one real number a pixel")
    return image


def _read(path: Path, what: str) -> npt.NDArray[Any]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path}: cannot be read as {what}; expected a file ending in {' '.join(sorted(SUFFIXES))}"
        )
    try:
        image = np.asarray(reader(path))
    except UsageError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they like
        raise UsageError(f"{path}: cannot be read as {what} ({type(error).__name__}: {error})") from error
    plane = image.reshape([side for side in image.shape if side != 1]) if image.ndim > 2 else image
    if plane.ndim != 2:
        raise UsageError(
            f"{path}: an array of shape {image.shape}; expected one plane (height, width), not colours or channels"
        )
    return plane


def _png(path: Path) -> npt.NDArray[Any]:
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image)


def _tiff(path: Path) -> npt.NDArray[Any]:
    import tifffile

    return np.asarray(tifffile.imread(path))


def _npy(path: Path) -> npt.NDArray[Any]:
    return np.asarray(np.load(path, allow_pickle=False))


def _mat(path: Path) -> npt.NDArray[Any]:
    from scipy import io

    try:
        content = io.loadmat(path, variable_names=[MAT_VARIABLE])
    except NotImplementedError as error:
        raise UsageError(f"{path}: MATLAB 7.3; expected version 7 or older (save(…, '-v7'))") from error
    if MAT_VARIABLE not in content:
        held = ", ".join(name for name, _, _ in io.whosmat(path)) or "nothing"
        raise UsageError(f"{path}: holds {held}; expected the variable {MAT_VARIABLE}")
    return np.asarray(content[MAT_VARIABLE])


_READERS = {".png": _png, ".tif": _tiff, ".tiff": _tiff, ".npy": _npy, ".mat": _mat}
