"""One synthetic patch with its reference, deterministic in (seed, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.synth.parts import crop, turned
from wsiseg.synth.renderers.transfer.texture import Tile, compose, random_eosin
from wsiseg.synth.samplers.polygons import (
    density_level,
    sample_distractors,
    sample_instances,
    sample_prior,
    sample_quad,
)

MPP = 0.25
REVISION = 1
"""Counts up whenever the same seed begins to give other patches."""
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class HouOptions:
    """What a patch is made with.

    Attributes
    ----------
    size : int
        Side in pixels of 0.25 µm; at least 64.
    distractors : bool
        Whether structures that are no nuclei are drawn as well.
    """

    size: int = 256
    distractors: bool = True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class HouPatch:
    """``image`` and ``reference`` uint8 (s, s, 3), ``labels`` int32 (s, s); ``tile``: which one they come from."""

    image: Image
    labels: npt.NDArray[np.int32]
    reference: Image
    tile: int


_DEFAULTS = HouOptions()


def render_patch(tiles: Sequence[Tile], seed: int, index: int, options: HouOptions = _DEFAULTS) -> HouPatch:
    """Patch ``index`` of the endless sequence that ``seed`` names.

    The background and the colours are those of one tile, the textures within nuclei another's. The reference is
    another part of the same tile, as far from the background's as the tile allows, turned and mirrored.

    Raises
    ------
    ValueError
        Without tiles.
    """
    if not tiles:
        raise ValueError("no tiles: a patch needs at least one")
    rng = np.random.default_rng([seed, index])
    chosen = int(rng.integers(len(tiles)))
    tile, size = tiles[chosen], options.size
    place, far = _two_places(rng, tile.image.shape, size)
    turn = int(rng.integers(8))
    background = turned(crop(tile.background, place, size), turn)
    tissue = turned(crop(tile.tissue, place, size), turn)
    textures = (random_eosin(rng, tile, size), random_eosin(rng, tiles[int(rng.integers(len(tiles)))], size))
    prior = sample_prior(rng, density_level(tile.foreground), size)
    labels = sample_instances(rng, prior, tissue, sample_quad(rng, size))
    amount = (prior.spiky, prior.pale) if options.distractors else (0, 0)
    spiky = sample_distractors(rng, amount[0], size, spiky=True)
    pale = sample_distractors(rng, amount[1], size, spiky=False)
    image = compose(rng, labels, tile, background, textures, spiky, pale)
    reference = turned(crop(tile.image, far, size), int(rng.integers(8)))
    return HouPatch(image, labels, np.ascontiguousarray(reference), chosen)


def real_pair(rng: np.random.Generator, tiles: Sequence[Tile], size: int) -> tuple[Image, Image]:
    """A real patch and a reference from the same tile, uint8 (size, size, 3) each: what synthetic pairs imitate."""
    tile = tiles[int(rng.integers(len(tiles)))]
    first, second = _two_places(rng, tile.image.shape, size)
    pair = (turned(crop(tile.image, place, size), int(rng.integers(8))) for place in (first, second))
    one, other = (np.ascontiguousarray(part) for part in pair)
    return one, other


def _two_places(
    rng: np.random.Generator, shape: Sequence[int], size: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top left corners of two parts that overlap as little as a few random draws find."""
    room = np.maximum(np.array(shape[:2]) - size, 0)
    draws = rng.integers(0, room + 1, (16, 2, 2))
    shared = np.maximum(size - np.abs(draws[:, 0] - draws[:, 1]), 0).prod(axis=1)
    (a, b), (c, d) = draws[int(np.argmin(shared))].tolist()
    return (a, b), (c, d)
