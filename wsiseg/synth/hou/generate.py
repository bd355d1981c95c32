"""``wsiseg synth hou``: patches whose texture, nuclei and paint share one sequence of random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsiseg.errors import ModelError, UsageError
from wsiseg.models.files import require_file, sha256_of
from wsiseg.run.events import Listener, ignore
from wsiseg.run.schedule import Executor
from wsiseg.synth.dataset import Block
from wsiseg.synth.generate import generate_patches
from wsiseg.synth.hou.patch import MPP, REVISION, HouOptions, render_patch
from wsiseg.synth.hou.tiles import digest_of, list_tiles, resident_tiles
from wsiseg.synth.weighting.importance import importance_weight
from wsiseg.version import __version__

if TYPE_CHECKING:
    from wsiseg.synth.renderers.transfer.refiner import RefinerPair


_DEFAULTS = HouOptions()


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
        As :meth:`wsiseg.synth.renderers.transfer.refiner.RefinerPair.save` writes. Images are then refined, and
        each patch's weight follows from the discriminator's opinion of it; without it all weights are 1.
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
    refiner_digest = None
    if refiner is not None:
        refiner_digest = _file_digest(refiner)
        _resident_refiner(str(refiner.absolute()), refiner_digest)  # a damaged file is an error before any work
    maker = HouMaker(
        seed, options, str(textures.absolute()), digest_of(tiles),
        str(refiner.absolute()) if refiner is not None else None, refiner_digest,
    )  # fmt: skip
    shape = (options.size, options.size)
    provenance = _provenance(tiles, seed, options, refiner_digest)
    return generate_patches(maker, out, count, shape, MPP, provenance, executor, on_event)


@dataclass(frozen=True)
class HouMaker:
    """Makes blocks; the digests say which textures and which refiner were meant."""

    seed: int
    options: HouOptions
    textures: str
    textures_digest: str
    refiner: str | None
    refiner_digest: str | None

    def block(self, indices: range) -> Block:
        usable = resident_tiles(self.textures, self.textures_digest)
        tiles = [tile for _, tile in usable]
        names = list(list_positions(self.textures, self.textures_digest))
        positions = np.array([names.index(name) for name, _ in usable], dtype=np.int32)
        patches = [render_patch(tiles, self.seed, index, self.options) for index in indices]
        images = [patch.image for patch in patches]
        weight = np.ones(len(patches), dtype=np.float32)
        if self.refiner is not None and self.refiner_digest is not None:
            pair = _resident_refiner(self.refiner, self.refiner_digest)
            refined = [pair.refine_alone(patch.image, patch.reference) for patch in patches]
            images = [image for image, _ in refined]
            weight = importance_weight([probability for _, probability in refined])
        instances = np.stack([patch.labels for patch in patches])
        return Block(np.stack(images), instances, weight, positions[[patch.tile for patch in patches]])


@lru_cache(maxsize=1)
def list_positions(folder: str, digest: str) -> tuple[str, ...]:
    """Names of all textures of ``folder`` in the order of the provenance; once a process."""
    return tuple(list_tiles(Path(folder)))


@lru_cache(maxsize=1)
def _resident_refiner(path: str, digest: str) -> RefinerPair:
    from wsiseg.synth.renderers.transfer.refiner import RefinerPair

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
