"""``wsiseg synth hou``: a dataset of patches, its blocks made in parallel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsiseg.core.atomic import lock_beside
from wsiseg.errors import ModelError, UsageError
from wsiseg.models.engine.threads import one_thread
from wsiseg.models.files import require_file, sha256_of
from wsiseg.run.events import Listener, PatchesDone, ignore
from wsiseg.run.schedule import Executor
from wsiseg.synth.dataset import Block, blocks, create_dataset, finish_dataset, is_written, write_block
from wsiseg.synth.hou.patch import MPP, REVISION, HouOptions, render_patch
from wsiseg.synth.hou.tiles import digest_of, list_tiles, resident_tiles
from wsiseg.synth.hou.weights import importance_weight
from wsiseg.version import __version__

if TYPE_CHECKING:
    from wsiseg.synth.hou.refiner import RefinerPair


_DEFAULTS = HouOptions()


@dataclass(frozen=True)
class BlockTask:
    """One block of a dataset: which patches, what makes them, where they go."""

    out: str
    block: int
    indices: range
    seed: int
    options: HouOptions
    textures: str
    textures_digest: str
    refiner: str | None
    refiner_digest: str | None


def generate_hou(
    textures: Path,
    out: Path,
    count: int,
    seed: int,
    executor: Executor,
    *,
    options: HouOptions = _DEFAULTS,
    refiner: Path | None = None,
    on_event: Listener = ignore,
) -> dict[str, Any]:
    """Make a dataset of ``count`` patches in the manner of Hou et al. (:mod:`wsiseg.synth.hou`).

    The content is a function of the textures' pixels, seed, options, refiner and the libraries' versions: not of
    the executor, the order or interruptions. A stopped call goes on where it was when it is made again.

    Parameters
    ----------
    textures : Path
        Folder of unlabelled H&E tiles of 0.25 µm a pixel (PNG, WebP, TIFF).
    out : Path
        The dataset, by custom ``*.zarr``; its format is that of :mod:`wsiseg.synth.dataset`.
    count : int
    seed : int
        Not negative.
    executor : Executor
    options : HouOptions
    refiner : Path, optional
        As :meth:`wsiseg.synth.hou.refiner.RefinerPair.save` writes. Images are then refined, and each patch's
        weight follows from the discriminator's opinion of it; without it all weights are 1.
    on_event : function, optional
        Told of :class:`wsiseg.run.events.PatchesDone`, first of what an earlier call left.

    Returns
    -------
    dict
        ``status`` (complete or unchanged), ``path``, ``patches``, ``computed`` in this call.

    Raises
    ------
    UsageError
        A request that makes no sense, or ``out`` is something else.
    ModelError
        The refiner cannot be read.
    EnvironmentFault
        The disk or the cluster gives out, or another run writes to ``out``.
    """
    if count < 1 or seed < 0 or options.size < 64:
        raise UsageError(f"count {count}, seed {seed}, size {options.size}: must be at least 1, 0 and 64")
    tiles = list_tiles(textures)
    digest = digest_of(tiles)
    refiner_digest = None
    if refiner is not None:
        refiner_digest = _file_digest(refiner)
        _resident_refiner(str(refiner), refiner_digest)  # a damaged file is an error before any work
    provenance = _provenance(tiles, seed, options, refiner_digest)
    with lock_beside(out):
        if create_dataset(out, count, (options.size, options.size), MPP, provenance):
            on_event(PatchesDone(out.name, count, count))
            return {"status": "unchanged", "path": str(out), "patches": count, "computed": 0}
        tasks = [
            BlockTask(
                str(out.absolute()), number, indices, seed, options, str(textures.absolute()), digest,
                str(refiner.absolute()) if refiner is not None else None, refiner_digest,
            )
            for number, indices in enumerate(blocks(count))
            if not is_written(out, number)
        ]  # fmt: skip
        done = count - sum(len(task.indices) for task in tasks)
        computed = 0
        on_event(PatchesDone(out.name, done, count))
        for patches in executor.map_bounded(make_block, tasks, "synth-block"):
            computed += patches
            on_event(PatchesDone(out.name, done + computed, count))
        finish_dataset(out)
    return {"status": "complete", "path": str(out), "patches": count, "computed": computed}


def make_block(task: BlockTask) -> int:
    """Make and write one block; returns its number of patches."""
    usable = resident_tiles(task.textures, task.textures_digest)
    tiles = [tile for _, tile in usable]
    names = list(list_positions(task.textures, task.textures_digest))
    positions = np.array([names.index(name) for name, _ in usable], dtype=np.int32)
    patches = [render_patch(tiles, task.seed, index, task.options) for index in task.indices]
    images = np.stack([patch.image for patch in patches])
    weight = np.ones(len(patches), dtype=np.float32)
    if task.refiner is not None and task.refiner_digest is not None:
        pair = _resident_refiner(task.refiner, task.refiner_digest)
        images, probability = _refine(pair, images, np.stack([patch.reference for patch in patches]))
        weight = importance_weight(probability)
    instances = np.stack([patch.labels for patch in patches])
    texture = positions[[patch.tile for patch in patches]]
    write_block(Path(task.out), task.block, Block(images, instances, weight, texture))
    return len(patches)


@lru_cache(maxsize=1)
def list_positions(folder: str, digest: str) -> tuple[str, ...]:
    """Names of all textures of ``folder`` in the order of the provenance; once a process."""
    return tuple(list_tiles(Path(folder)))


def _refine(pair: RefinerPair, images: Any, references: Any) -> tuple[Any, Any]:
    """Patch by patch on one thread: sums of many threads, or of other batches, differ in their last bits."""
    with one_thread():
        parts = [pair.refine(images[k : k + 1], references[k : k + 1]) for k in range(len(images))]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


@lru_cache(maxsize=1)
def _resident_refiner(path: str, digest: str) -> RefinerPair:
    from wsiseg.synth.hou.refiner import RefinerPair

    if _file_digest(Path(path)) != digest:
        raise UsageError(f"{path}: has changed since this dataset was begun")
    return RefinerPair.load(Path(path))


def _provenance(
    tiles: dict[str, str], seed: int, options: HouOptions, refiner_digest: str | None
) -> dict[str, Any]:
    libraries = ["numpy", "scipy", "numba", "zarr", *(["torch"] if refiner_digest else [])]
    return {
        "method": "hou",
        "revision": REVISION,
        "seed": seed,
        "options": options.to_dict(),
        "refiner_sha256": refiner_digest,
        "textures": [{"name": name, "sha256": digest} for name, digest in tiles.items()],
        "versions": {"wsiseg": __version__, **{name: version(name) for name in libraries}},
    }


def _file_digest(path: Path) -> str:
    try:
        require_file(path)
        return sha256_of(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
