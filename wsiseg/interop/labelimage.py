"""Label images and probability maps as others write them: PNG, TIFF, NumPy, MATLAB files of HoVer-Net's layout."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.plainfile import require_plain_file
from wsiseg.core.raster import trace
from wsiseg.errors import UsageError
from wsiseg.interop.segmentation import Contents, Segmentation
from wsiseg.slide.readers.image import MAX_PIXELS

SUFFIXES = frozenset((".png", ".tif", ".tiff", ".npy", ".mat"))
#: The name under which HoVer-Net and SNOW keep the instances in a ``.mat`` file.
MAT_VARIABLE = "inst_map"
_MAT_NUMBERS = frozenset(
    ("double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "logical")
)
_LISTED = 8


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
        image = image.astype(np.int64) if np.abs(image).max() < 2**53 else image
    if image.dtype.kind not in "iu":
        raise UsageError(
            f"{path}: values of type {image.dtype}; expected whole numbers, 0 for background, 1, 2, … for objects"
        )
    low, high = (int(image.min()), int(image.max())) if image.size else (0, 0)
    if low < 0:
        raise UsageError(f"{path}: negative label {low}; expected 0 for background and 1, 2, …")
    if high > np.iinfo(np.int64).max:
        raise UsageError(f"{path}: label {high}; expected 0 for background and numbers below 2⁶³")
    return image


def describe_outlines(segmentation: Segmentation) -> Contents:
    """The size of a label image; see :mod:`wsiseg.interop.segmentation`.

    Raises
    ------
    UsageError
        There are several: they would lie on top of each other.
    """
    if len(segmentation.paths) > 1:
        names = ", ".join(path.name for path in segmentation.paths)
        raise UsageError(f"{len(segmentation.paths)} label images for one slide: {names}. Expected one.")
    height, width = read_labels(segmentation.paths[0]).shape
    return Contents(size=(width, height))


def iter_outlines(segmentation: Segmentation, passed: Counter[str]) -> Iterator[Nuclei]:
    """The outer outline of every label; of one in several pieces that of the largest."""
    for path in segmentation.paths:
        labels = read_labels(path)
        if labels.size and labels.max() > np.iinfo(np.int32).max:
            labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + (labels.min() > 0)
        traced = trace(labels)
        yield Nuclei(traced.vertices, traced.offsets)


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


def read_mat(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The variables of a MATLAB file, of those ``names`` that it holds; their sizes are looked at before.

    Raises
    ------
    UsageError
        MATLAB 7.3, or a variable is too large.
    """
    from scipy import io

    try:
        held = {name: (shape, kind) for name, shape, kind in io.whosmat(path)}
    except NotImplementedError as error:
        raise UsageError(f"{path}: MATLAB 7.3; expected version 7 or older (save(…, '-v7'))") from error
    if MAT_VARIABLE not in held:
        some = ", ".join(itertools.islice(held, _LISTED)) or "nothing"
        raise UsageError(f"{path}: holds {some}; expected the variable {MAT_VARIABLE}")
    wanted = [name for name in names if name in held]
    for name in wanted:
        shape, kind = held[name]
        if kind not in _MAT_NUMBERS:
            raise UsageError(f"{path}: {name} is of type {kind}; expected numbers")
        _require_affordable(path, shape)
    return io.loadmat(path, variable_names=wanted) if wanted else {}


def _read(path: Path, what: str) -> npt.NDArray[Any]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path}: cannot be read as {what}; expected a file ending in {' '.join(sorted(SUFFIXES))}"
        )
    require_plain_file(path, "The file")
    try:
        image = np.asarray(reader(path))
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # decoders of damaged files raise whatever they like
        raise UsageError(f"{path}: cannot be read as {what} ({type(error).__name__}: {error})") from error
    plane = image.reshape([side for side in image.shape if side != 1]) if image.ndim > 2 else image
    if plane.ndim != 2:
        raise UsageError(
            f"{path}: an array of shape {image.shape}; expected one plane (height, width), not colours or channels"
        )
    return plane


def _require_affordable(path: Path, shape: Sequence[int]) -> None:
    """Refuse by what the header says, before anything of that size is made."""
    pixels = math.prod(map(int, shape))
    if pixels > MAX_PIXELS:
        raise UsageError(
            f"{path}: {pixels / 1e6:,.0f} megapixels ({' × '.join(map(str, shape))}), where "
            f"{MAX_PIXELS / 1e6:.0f} are the most.\nExpected: an image of a field. Cut it into smaller ones; of a "
            "whole slide compare outlines: nuclei.parquet or GeoJSON."
        )


def _png(path: Path) -> npt.NDArray[Any]:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes that the limit allows
        try:
            with Image.open(path, formats=["PNG"]) as image:
                _require_affordable(path, (image.height, image.width))
                return np.array(image)
        except Image.DecompressionBombError as error:
            raise UsageError(
                f"{path}: more than {MAX_PIXELS / 1e6:.0f} megapixels ({error}).\n"
                "Expected: an image of a field. Cut it into smaller ones."
            ) from error


def _tiff(path: Path) -> npt.NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        _require_affordable(path, file.series[0].shape)
        _require_affordable(path, file.series[0].keyframe.chunks)  # a stored tile may be larger than its image
        return np.asarray(file.asarray())


def _npy(path: Path) -> npt.NDArray[Any]:
    # Mapped, so that a size that the file does not have is noticed before memory is taken for it.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    _require_affordable(path, mapped.shape)
    return np.array(mapped)


def _mat(path: Path) -> npt.NDArray[Any]:
    return np.asarray(read_mat(path, [MAT_VARIABLE])[MAT_VARIABLE])


_READERS = {".png": _png, ".tif": _tiff, ".tiff": _tiff, ".npy": _npy, ".mat": _mat}
