"""Pools of training patches: arrays in memory, or a folder of ``.npy`` files that is mapped into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from wsiseg.core.atomic import read_json, write_json
from wsiseg.core.environment import environment_faults
from wsiseg.errors import EnvironmentFault

UNKNOWN, KNOWN, OUTSIDE = 0, 1, 2
NAMES = ("images", "labels", "covered", "known", "weight")


@dataclass(frozen=True)
class PatchPool:
    """N patches of one size.

    Attributes
    ----------
    images : uint8 array (N, h, w, 3)
    labels : int16 or int32 array (N, h, w)
        Instances, 0 is background.
    covered : uint8 array (N, h, w)
        Foreground fraction of each pixel times 255; the target of the foreground.
    known : uint8 array (N, h, w)
        ``KNOWN`` where the foreground target is meant, ``UNKNOWN`` where it says nothing (uncertain pseudo-labels),
        ``OUTSIDE`` beyond the image that the patch was taken from: nuclei that touch it are cut.
    weight : float32 array (N,)
        What the patch's loss is multiplied with.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int16] | npt.NDArray[np.int32]
    covered: npt.NDArray[np.uint8]
    known: npt.NDArray[np.uint8]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(
        cls,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int16] | npt.NDArray[np.int32],
        covered: npt.NDArray[np.uint8] | None = None,
        known: npt.NDArray[np.uint8] | None = None,
        weight: npt.NDArray[np.float32] | None = None,
    ) -> PatchPool:
        """A pool of what is given: without more, labels cover their pixels, all is known, every weight is 1."""
        if covered is None:
            covered = (labels > 0).astype(np.uint8) * np.uint8(255)
        if known is None:
            known = np.full(labels.shape, KNOWN, dtype=np.uint8)
        if weight is None:
            weight = np.ones(len(images), dtype=np.float32)
        return cls(images, labels, covered, known, weight)

    @classmethod
    def join(cls, pools: Sequence[PatchPool]) -> PatchPool:
        return cls(*(np.concatenate([getattr(pool, name) for pool in pools]) for name in NAMES))

    @classmethod
    def load(cls, folder: Path) -> PatchPool:
        """Map the pool of ``folder`` into memory, read-only: pages are read as they are used.

        Raises
        ------
        EnvironmentFault
            No pool, or one that was not finished.
        """
        if not is_complete(folder):
            raise EnvironmentFault(f"{folder}: no finished pool of patches is there")
        with environment_faults(folder):
            return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES))

    def __reduce__(self) -> tuple[Any, ...]:
        """A mapped pool travels to another process as its folder."""
        folder = _mapped_from(self)
        if folder is not None:
            return PatchPool.load, (folder,)
        return PatchPool, tuple(getattr(self, name) for name in NAMES)

    def part(self, which: slice | npt.NDArray[np.integer]) -> PatchPool:
        """The patches ``which`` names, in its order."""
        return PatchPool(*(getattr(self, name)[which] for name in NAMES))


def _mapped_from(pool: PatchPool) -> Path | None:
    """The folder whose files all of a pool's arrays are, whole; None where one is in memory or a part."""
    folders: set[Path | None] = set()
    for name in NAMES:
        array = getattr(pool, name)
        # What is a part of a mapped array has that array for its base.
        if not isinstance(array, np.memmap) or not isinstance(array.base, mmap) or array.filename is None:
            return None
        path = Path(os.path.abspath(array.filename))
        folders.add(path.parent if path.name == f"{name}.npy" else None)
    return folders.pop() if len(folders) == 1 else None


def is_complete(folder: Path) -> bool:
    """Whether :func:`write_pool` finished in ``folder``."""
    return (folder / "pool.json").is_file()


def write_pool(folder: Path, parts: Callable[[int], Iterable[PatchPool]]) -> PatchPool:
    """Write patches to ``folder`` as they come, and map them; memory does not grow with the pool.

    A killed call goes on where it was: patches that are there are not asked for again. ``pool.json`` is written
    last and says that all are there; then nothing is computed.

    Parameters
    ----------
    folder : Path
    parts : callable
        Given a number n, the patches from the n-th on, in pools of any length, always the same ones; not empty
        for n = 0.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    if is_complete(folder):
        return PatchPool.load(folder)
    with environment_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        layout = read_json(folder / "layout.json")
        done = _whole(folder, layout) if layout else 0
        for part in parts(done):
            if layout is None:
                layout = {name: _item(getattr(part, name)) for name in NAMES}
                write_json(folder / "layout.json", layout)
            done = _append(folder, layout, part, done)
        if layout is None:
            raise ValueError("a pool needs at least one patch")
        for name in NAMES:
            with (folder / f"{name}.npy").open("rb+") as stream:
                _write_header(stream, layout[name], done)
    write_json(folder / "pool.json", {"count": done})
    return PatchPool.load(folder)


def _item(array: npt.NDArray[Any]) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape[1:])}


def _item_bytes(item: dict[str, Any]) -> int:
    return int(np.dtype(item["dtype"]).itemsize * np.prod(item["shape"], dtype=np.int64))


def _write_header(stream: BinaryIO, item: dict[str, Any], count: int) -> int:
    """Write a ``.npy`` header for ``count`` items; its length, which does not depend on ``count``."""
    stream.seek(0)
    content = {"descr": item["dtype"], "fortran_order": False, "shape": (count, *item["shape"])}
    np.lib.format.write_array_header_1_0(stream, content)
    return stream.tell()


def _whole(folder: Path, layout: dict[str, Any]) -> int:
    """How many patches all of the files hold."""
    counts = []
    for name in NAMES:
        path = folder / f"{name}.npy"
        if not path.is_file():
            return 0
        with path.open("rb+") as stream:
            header = _write_header(stream, layout[name], 0)
        counts.append(max(0, path.stat().st_size - header) // _item_bytes(layout[name]))
    return min(counts)


def _append(folder: Path, layout: dict[str, Any], part: PatchPool, done: int) -> int:
    """Add ``part`` after the first ``done`` patches; how many there are then."""
    for name in NAMES:
        array = np.ascontiguousarray(getattr(part, name))
        if _item(array) != layout[name]:
            raise ValueError(f"{name} of {array.dtype} {array.shape[1:]} in a pool of {layout[name]}")
        path = folder / f"{name}.npy"
        with path.open("rb+" if path.exists() else "wb+") as stream:
            header = _write_header(stream, layout[name], 0)
            stream.seek(header + done * _item_bytes(layout[name]))
            stream.truncate()
            stream.write(array.data)
    return done + len(part)
