"""Tiles of a folder: their names and contents for the record, and taken apart for rendering."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.errors import UsageError
from wsiseg.synth.renderers.transfer.texture import Tile, take_apart
from wsiseg.synth.textures import load_images


def list_tiles(folder: Path) -> dict[str, str]:
    """Name and SHA-256 of the pixels of every tile, in the order of the names; those without nuclei included.

    Raises
    ------
    UsageError
        No folder, or no images in it.
    """
    return {name: _digest(image) for name, image in _images(folder)}


def load_tiles(folder: Path) -> list[tuple[str, Tile]]:
    """Name and parts of each tile that has nuclei to take a colour from.

    Raises
    ------
    UsageError
        No folder, no images in it, or none with nuclei.
    """
    tiles = [(name, take_apart(image)) for name, image in _images(folder)]
    usable = [(name, tile) for name, tile in tiles if tile.usable]
    if not usable:
        raise UsageError(f"{folder}: none of its {len(tiles)} images has haematoxylin-stained nuclei")
    return usable


@lru_cache(maxsize=1)
def resident_tiles(folder: str, digest: str) -> list[tuple[str, Tile]]:
    """As :func:`load_tiles`, once a process; refused if the folder's content is no longer that of ``digest``."""
    if digest_of(list_tiles(Path(folder))) != digest:
        raise UsageError(f"{folder}: the textures have changed since this dataset was begun")
    return load_tiles(Path(folder))


def digest_of(tiles: dict[str, str]) -> str:
    """One SHA-256 over the names and contents of :func:`list_tiles`."""
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in tiles.items()).encode()).hexdigest()


def _images(folder: Path) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder of textures")
    images = load_images(folder)
    if not images:
        raise UsageError(f"{folder}: no PNG, WebP or TIFF images in it")
    return images


def _digest(image: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
