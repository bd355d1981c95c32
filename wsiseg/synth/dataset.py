"""Synthetic patches on disk: one zarr v3 group, written block by block, the same bytes whoever writes them.

    DATASET/  image (N, h, w, 3) uint8, instances (N, h, w) int32, weight (N,) float32, texture (N,) int32

The group's attributes, under ``wsiseg``, say what made it (docs/synthesis.md). A block is one shard of each array,
so that writers share no file; its last file is the weights', whose name says that the block is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec, ZstdCodec

from wsiseg.core.atomic import read_json, write_json
from wsiseg.core.environment import environment_faults
from wsiseg.errors import EnvironmentFault, UsageError

SCHEMA = "wsiseg-patches-1"
BLOCK = 32
"""Patches a shard."""
_ARRAYS: Mapping[str, tuple[str, int]] = {
    "image": ("uint8", 3),
    "instances": ("int32", 0),
    "texture": ("int32", -1),
    "weight": ("float32", -1),
}


@dataclass(frozen=True)
class PatchDataset:
    """An opened dataset; arrays read what is asked of them.

    Attributes
    ----------
    image : zarr array (N, h, w, 3) of uint8
    instances : zarr array (N, h, w) of int32
        Labels 1 … n within each patch, 0 is background.
    weight : zarr array (N,) of float32
        What the patch's loss is multiplied with.
    texture : zarr array (N,) of int32
        Which of ``provenance["textures"]`` the patch comes from.
    mpp : float
        Microns per pixel.
    provenance : dict
        What made it.
    """

    image: zarr.Array
    instances: zarr.Array
    weight: zarr.Array
    texture: zarr.Array
    mpp: float
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return int(self.weight.shape[0])


@dataclass(frozen=True)
class Block:
    """Patches of one shard: ``image`` (n, h, w, 3), ``instances`` (n, h, w), ``weight`` and ``texture`` (n,)."""

    image: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]
    texture: npt.NDArray[np.int32]


def open_dataset(path: Path) -> PatchDataset:
    """Open a complete dataset.

    Raises
    ------
    UsageError
        There is none, or it is not complete.
    """
    note = _note(path)
    if note is None:
        raise UsageError(f"{path}: is no dataset of patches ({SCHEMA})")
    if not note["complete"]:
        raise UsageError(f"{path}: is not complete; give the command that makes it again, it goes on from there")
    group = zarr.open_group(str(path), mode="r", zarr_format=3)
    arrays = {name: _array(group, name) for name in _ARRAYS}
    return PatchDataset(**arrays, mpp=float(note["mpp"]), provenance=note["provenance"])


def create_dataset(
    path: Path, count: int, shape: tuple[int, int], mpp: float, provenance: Mapping[str, Any]
) -> bool:
    """Make an empty dataset of ``count`` patches of ``shape`` (h, w), or find the one that an earlier call began.

    Returns
    -------
    bool
        Whether it is there already, complete.

    Raises
    ------
    UsageError
        ``path`` is something else, or a dataset made otherwise.
    EnvironmentFault
        The disk refuses.
    """
    wanted = json.loads(
        json.dumps({"schema": SCHEMA, "count": count, "shape": shape, "mpp": mpp, "provenance": dict(provenance)})
    )
    found = _note(path)
    if found is not None:
        complete = bool(found.pop("complete"))
        if found != wanted:
            what = _difference(found, wanted)
            raise UsageError(f"{path}: holds a dataset made otherwise ({what}); choose another -o")
        return complete
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path}: is in the way; it is no dataset of patches")
    with environment_faults(path):
        # Under its own name only when whole: a kill leaves no group without its arrays.
        begun = path.with_name(f".{path.name}.begun")
        shutil.rmtree(begun, ignore_errors=True)
        _skeleton(begun, count, shape, {**wanted, "complete": False})
        if path.exists():
            path.rmdir()
        begun.rename(path)
    return False


def blocks(count: int) -> list[range]:
    """The indices of the patches of each block."""
    return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def is_written(path: Path, block: int) -> bool:
    return _last_file(path, block).exists()


def write_block(path: Path, block: int, content: Block) -> None:
    """Write block number ``block``; it is there afterwards, or (after a kill) not.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    part = slice(block * BLOCK, block * BLOCK + len(content.weight))
    with environment_faults(path):
        group = zarr.open_group(str(path), mode="r+", zarr_format=3)
        for name in _ARRAYS:  # the weights come last
            array = _array(group, name)
            # What a failed disk left would be read first, to be completed, where a block is not full.
            (path / name / "c" / "/".join([str(block)] + ["0"] * (array.ndim - 1))).unlink(missing_ok=True)
            array[part] = getattr(content, name)


def finish_dataset(path: Path) -> None:
    """Mark it complete and remove what killed writers left.

    Raises
    ------
    EnvironmentFault
        A block is missing.
    """
    note = _note(path)
    assert note is not None
    missing = [b for b in range(len(blocks(note["count"]))) if not is_written(path, b)]
    if missing:
        raise EnvironmentFault(f"{path}: blocks {missing[:5]} that were written are not there")
    with environment_faults(path):
        for left in path.rglob("*.partial"):
            left.unlink(missing_ok=True)
    root = read_json(path / "zarr.json")
    assert root is not None
    root["attributes"]["wsiseg"]["complete"] = True
    write_json(path / "zarr.json", root)


def _skeleton(path: Path, count: int, shape: tuple[int, int], note: Mapping[str, Any]) -> None:
    group = zarr.create_group(str(path), zarr_format=3, attributes={"wsiseg": dict(note)})
    for name, (dtype, channels) in _ARRAYS.items():
        inner = () if channels < 0 else (*shape, channels) if channels else tuple(shape)
        axes = ("patch", "y", "x", "channel")[: 1 + len(inner)]
        group.create_array(
            name,
            shape=(count, *inner),
            dtype=dtype,
            # Pictures can be read one by one; numbers are one chunk a block.
            chunks=(1, *inner) if inner else (BLOCK,),
            shards=(BLOCK, *inner) if inner else None,
            serializer=BytesCodec(),
            compressors=[ZstdCodec(level=3)],
            fill_value=0,
            config={"write_empty_chunks": True},
            dimension_names=list(axes),
        )


def _last_file(path: Path, block: int) -> Path:
    return path / "weight" / "c" / str(block)


def _note(path: Path) -> dict[str, Any] | None:
    """The attributes of a dataset; None for anything else."""
    root = read_json(path / "zarr.json") if path.is_dir() else None
    note = (root or {}).get("attributes", {}).get("wsiseg")
    return dict(note) if isinstance(note, dict) and note.get("schema") == SCHEMA else None


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    flat = [{**values, **values["provenance"]} for values in (found, wanted)]
    names = sorted(set(flat[0]) | set(flat[1]) - {"provenance"})
    return ", ".join(name for name in names if name != "provenance" and flat[0].get(name) != flat[1].get(name))


def _array(group: zarr.Group, name: str) -> zarr.Array:
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found
