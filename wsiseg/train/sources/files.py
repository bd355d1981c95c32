"""Files of a folder that are training data: their names, their order and their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.names import IMAGE_SUFFIXES, listed, stem
from wsiseg.errors import SlideError, UsageError


def find_images(folder: Path) -> dict[str, Path]:
    """Images of ``folder``, or, where it has none itself, of the folders in it, at any depth.

    Returns
    -------
    dict
        Path by name without suffix, in the order of the names; deeper ones are named from ``folder``, as ``a/b/1``.

    Raises
    ------
    UsageError
        As :func:`find_files`.
    """
    if not folder.is_dir() or any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()):
        return find_files(folder, IMAGE_SUFFIXES)
    found: dict[str, Path] = {}
    for root, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(root)
        if here != folder and any(path.suffix.lower() in IMAGE_SUFFIXES for path in here.iterdir()):
            place = here.relative_to(folder).as_posix()
            found |= {f"{place}/{name}": path for name, path in find_files(here, IMAGE_SUFFIXES).items()}
    if not found:
        raise UsageError(f"{folder}: no files of images in it or its folders; expected {' '.join(IMAGE_SUFFIXES)}")
    return found


def find_files(folder: Path, suffixes: Sequence[str], ending: str = "") -> dict[str, Path]:
    """Files of ``folder`` by their name without ``ending`` and suffix, in the order of the names.

    Raises
    ------
    UsageError
        There is no such folder, no file, or two of one name.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        name = stem(path.name)
        if not name.endswith(ending):
            continue
        name = name[: len(name) - len(ending)]
        if name in found:
            raise UsageError(f"{found[name]} and {path} have the same name {name!r}: keep one of them")
        found[name] = path
    if not found:
        what = f"ending in {ending}" if ending else "of images"
        raise UsageError(f"{folder}: no files {what}; expected {' '.join(suffixes)}")
    return found


def match(images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, tuple[Path, Path]]:
    """Image and labels of each name.

    Raises
    ------
    UsageError
        An image has no labels.
    """
    missing = [name for name in images if name not in labels]
    if missing:
        folder = next(iter(labels.values())).parent if labels else "there"
        raise UsageError(
            f"no labels for {listed(missing)} in {folder}. Images and labels are matched by their names without "
            "suffix; leave out with a table of names what is not annotated"
        )
    return {name: (path, labels[name]) for name, path in images.items()}


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """An image as uint8 (h, w, 3): what :func:`wsiseg.slide.open_slide` reads, or ``.npy``.

    Raises
    ------
    UsageError
        It cannot be read, or is no picture of 8 bits.
    """
    if path.suffix.lower() == ".npy":
        pixels = _npy(path)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UsageError(f"{path}: {pixels.dtype} {pixels.shape}; expected uint8 (height, width, 3)")
        return np.ascontiguousarray(pixels)
    from wsiseg.core.geometry import Scale, Window
    from wsiseg.slide import open_slide

    try:
        with open_slide(path) as slide:
            return slide.read_window(Window(0, 0, slide.width, slide.height), Scale(1.0))
    except SlideError as error:
        raise UsageError(str(error)) from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's head.

    Raises
    ------
    UsageError
        As :func:`read_image`.
    """
    from PIL import Image

    if path.suffix.lower() == ".npy":
        shape = _npy(path, mapped=True).shape
        return (int(shape[0]), int(shape[1])) if len(shape) == 3 else read_image(path).shape[:2]
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # the reader knows more formats, and says what is wrong with the others
        pixels = read_image(path)
        return pixels.shape[0], pixels.shape[1]


def digest_files(named: Iterable[tuple[str, Sequence[Path]]]) -> str:
    """SHA-256 over the names and the content of the files of each."""
    total = hashlib.sha256()
    for name, paths in named:
        total.update(name.encode("utf-8", "backslashreplace"))
        for path in paths:
            try:
                with path.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return total.hexdigest()


def _npy(path: Path, mapped: bool = False) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False, mmap_mode="r" if mapped else None))
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: cannot be read as an array: {error}") from error
