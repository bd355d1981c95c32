"""Files of a folder that are training data: which of them, in which order, with what content."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from wsiseg.errors import SlideError, UsageError

IMAGE_SUFFIXES = (".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy")
Part = Literal["all", "training", "validation"]
WHOLE = (0.0, 1.0)
_NAME_KEYS = ("id", "name", "image", "file")
_LISTED = 5
Item = TypeVar("Item")


@dataclass(frozen=True)
class Choice:
    """Which items of a folder are meant, by their names.

    Attributes
    ----------
    table : str
        A file in the folder: lines of names (``.txt``), a CSV with a header, or JSON: a list of objects, or an
        object with one list of objects in it. Empty: all files.
    key, values : str, tuple of str
        With a table of columns: the rows whose ``key`` is one of ``values``. A name is in the column ``id``,
        ``name``, ``image`` or ``file``, with or without suffix.
    """

    table: str = ""
    key: str = ""
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.key) != bool(self.values):
            raise ValueError("expected key and values together, for example key = 'split', values = ['train']")
        if self.key and not self.table:
            raise ValueError(f"key {self.key!r} without a table that has it, for example table = 'index.json'")

    def names(self, folder: Path) -> frozenset[str] | None:
        """The names that are meant, without suffix; None for all.

        Raises
        ------
        UsageError
            The table cannot be read, or has no such column or rows.
        """
        if not self.table:
            return None
        path = folder / self.table
        rows = _rows(path)
        if self.key:
            if not any(self.key in row for row in rows):
                raise UsageError(f"{path}: no column {self.key!r}; it has {_listed(rows[0] if rows else ())}")
            kept = [row for row in rows if str(row.get(self.key)) in self.values]
            if not kept:
                held = {str(row.get(self.key)) for row in rows}
                raise UsageError(
                    f"{path}: no row whose {self.key} is one of {list(self.values)}; it has {_listed(sorted(held))}"
                )
            rows = kept
        column = next((key for key in _NAME_KEYS if all(key in row for row in rows)), None)
        if not rows or column is None:
            raise UsageError(f"{path}: no rows with a name; expected a column {' or '.join(_NAME_KEYS)}")
        return frozenset(stem(str(row[column])) for row in rows)


def select(
    items: Sequence[Item], where: object, part: Part, every: int, span: tuple[float, float] = WHOLE
) -> list[Item]:
    """The items from one fraction of all to another.

    Of these all; or for validation every ``every``-th, the first in the middle of ``every``; or for training the
    others.

    Raises
    ------
    UsageError
        There is none. ``where`` says in what.
    """
    first, last = (round(end * len(items)) for end in span)
    chosen = list(items[first:last])
    if part != "all":
        chosen = [item for n, item in enumerate(chosen) if (n % every == every // 2) == (part == "validation")]
    if not chosen:
        limits = "" if span == WHOLE else f" between the fractions {list(span)}"
        raise UsageError(f"{where}: of {len(items)} none is in the part {part!r}{limits}; every is {every}")
    return chosen


def check_selection(every: int, span: tuple[float, float] = WHOLE) -> None:
    """Raise ValueError for what :func:`select` cannot do."""
    if not 0 <= span[0] < span[1] <= 1:
        raise ValueError(f"span {list(span)}: expected two fractions of all, for example [0.0, 0.8] and [0.8, 1.0]")
    if every < 2:
        raise ValueError(f"every {every}: expected at least 2, of which one is for validation")


def stem(name: str) -> str:
    """A file's name without the suffix of an image; a dot elsewhere in it stays."""
    lower = name.lower()
    return next((name[: -len(s)] for s in (*IMAGE_SUFFIXES, ".mat") if lower.endswith(s)), name)


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


def choose(found: Mapping[str, Path], names: frozenset[str] | None, folder: Path) -> dict[str, Path]:
    """Those of ``found`` that are named, in their order.

    Raises
    ------
    UsageError
        A name has no file.
    """
    if names is None:
        return dict(found)
    missing = sorted(names - set(found))
    if missing:
        raise UsageError(f"{folder}: no file for {_listed(missing)}, which the table names")
    return {name: path for name, path in found.items() if name in names}


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
            f"no labels for {_listed(missing)} in {folder}. Images and labels are matched by their names without "
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
    from wsiseg.geometry import Scale, Window
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


def _rows(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON file, rows of a CSV, or the lines of any other as names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a table of names: {error}") from error
    if path.suffix.lower() == ".json":
        return _objects(path, text)
    if path.suffix.lower() in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        return [dict(row) for row in csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)]
    lines = (line.strip() for line in text.splitlines())
    return [{"name": line} for line in lines if line and not line.startswith("#")]


def _objects(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path}: is not JSON: {error}") from error
    lists = [value] if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    lists = [rows for rows in lists if isinstance(rows, list) and rows and all(isinstance(r, dict) for r in rows)]
    if len(lists) != 1:
        raise UsageError(f"{path}: expected a list of objects, or an object with one such list in it")
    return list(lists[0])


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return ", ".join(known[:_LISTED]) + more if known else "nothing"
