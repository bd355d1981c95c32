"""What synthesis is composed of: a sampler lays nuclei out, a renderer paints them, a weighting weighs the patch.

Any sampler goes with any renderer and any weighting. Each is a callable without state of its own, made from a
frozen dataclass of options by its ``build``; what it gives follows from its arguments alone. Registries of the
options are in :mod:`wsiseg.synth.samplers`, :mod:`wsiseg.synth.renderers` and :mod:`wsiseg.synth.weighting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from wsiseg.core.raster import largest_components
from wsiseg.errors import UsageError


@dataclass(frozen=True, eq=False)
class Field:
    """One real unlabelled tile: name, pixels uint8 (H, W, 3), microns per pixel. Equal is only what is the same."""

    name: str
    image: npt.NDArray[np.uint8]
    mpp: float


class Texture(NamedTuple):
    """A field, and which part of it lies under a patch: from (row, column) on, turned (:func:`turned`)."""

    field: Field
    row: int
    column: int
    turn: int

    def under(self, values: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
        """The part of a map of the field, (H, W, …), under a patch of ``side``²; mirrored where the field ends."""
        return turned(crop(values, (self.row, self.column), side), self.turn)

    def elsewhere(self, side: int) -> Texture:
        """The part of the field in that corner which is farthest from this one."""
        height, width = self.field.image.shape[:2]
        room = max(height - side, 0), max(width - side, 0)
        row, column = (0 if 2 * at > most else most for at, most in zip((self.row, self.column), room, strict=True))
        return self._replace(row=row, column=column)


class Layout(NamedTuple):
    """Where nuclei are, before any pixel.

    Attributes
    ----------
    instances : int32 array (h, w)
        0 background, 1 … n, each label 4-connected.
    """

    instances: npt.NDArray[np.int32]


class Patch(NamedTuple):
    """``image`` uint8 (h, w, 3) and ``instances`` int32 (h, w): 0 background, 1 … n, each label 4-connected."""

    image: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]


class Sampler(Protocol):
    """Gives a layout of ``side`` × ``side`` pixels."""

    def __call__(self, rng: np.random.Generator, side: int, texture: Texture | None) -> Layout: ...


class Renderer(Protocol):
    """Gives the image of a layout with its labels, or, without a layout, an image and the labels that it found in
    it."""

    def __call__(
        self, rng: np.random.Generator, layout: Layout | None, side: int, texture: Texture | None
    ) -> Patch: ...


class Weighting(Protocol):
    """Gives what the loss of a patch is multiplied with."""

    def __call__(self, patch: Patch, texture: Texture | None) -> float: ...


class SamplerOptions(Protocol):
    """A frozen dataclass; fields of type ``Path`` are names of data in a recipe.

    ``build`` gets the microns per pixel of the patches and raises ``UsageError`` where it cannot work at it.
    """

    needs_texture: ClassVar[bool]

    def build(self, mpp: float) -> Sampler: ...


class RendererOptions(Protocol):
    """As :class:`SamplerOptions`; ``suits`` says whether a field can lend it what it takes from textures."""

    needs_texture: ClassVar[bool]
    needs_layout: ClassVar[bool]

    def build(self, mpp: float) -> Renderer: ...

    def suits(self, field: Field) -> bool: ...


class WeightingOptions(Protocol):
    """As :class:`SamplerOptions`."""

    needs_texture: ClassVar[bool]

    def build(self, mpp: float) -> Weighting: ...


def connected(labels: npt.NDArray[np.integer], least: int = 1) -> npt.NDArray[np.int32]:
    """The largest 4-connected component of each label (h, w), if of ``least`` pixels, as 1 … n in their order."""
    largest = largest_components(labels)
    keep = np.bincount(largest.ravel()) >= least
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[largest]


def require_mpp(part: str, mpp: float, expected: float) -> None:
    """Refuse a scale that a part whose lengths are in pixels was not made for.

    Raises
    ------
    UsageError
        ``mpp`` is not ``expected``.
    """
    if mpp != expected:
        raise UsageError(f"mpp {mpp:g}: {part} works at {expected:g} µm a pixel; give mpp = {expected:g}")


def crop(values: npt.NDArray[Any], place: tuple[int, int], side: int) -> npt.NDArray[Any]:
    """``side`` × ``side`` of (H, W, …) from (row, column) on; mirrored where ``values`` end before."""
    i, j = place
    part = values[i : i + side, j : j + side]
    short = [(0, side - part.shape[0]), (0, side - part.shape[1])] + [(0, 0)] * (values.ndim - 2)
    return np.pad(part, short, mode="symmetric") if part.shape[:2] != (side, side) else part


def turned(values: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """One of the eight symmetries of the square, ``turn`` 0–7."""
    quarter = np.rot90(values, turn % 4)
    return np.ascontiguousarray(quarter[:, ::-1] if turn >= 4 else quarter)
