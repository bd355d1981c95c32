"""``adain``: the renderer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from wsiseg.synth.parts import Field, Layout, Patch, Renderer, Texture, require_mpp
from wsiseg.synth.renderers.adain.styles import Style, content_of, load_styles, tiles_of

if TYPE_CHECKING:
    from wsiseg.synth.renderers.adain.networks import StyleTransfer


@dataclass(frozen=True)
class AdaINOptions:
    """A layout in the style of the real tile that has the closest number of nuclei.

    Attributes
    ----------
    weights : Path
        As the training of ``system = "adain"`` writes (docs/generators.md).
    images, masks : Path
        Folders of real images and of their label images, by the same names, at the recipe's scale.
    styles : int
        How many of them are used, in the order of their names; 0: all.
    """

    weights: Path
    images: Path
    masks: Path
    styles: int = 0
    needs_texture: ClassVar[bool] = False
    needs_layout: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.styles < 0:
            raise ValueError(f"styles {self.styles}: expected how many images, or 0 for all")

    def build(self, mpp: float) -> Renderer:
        """The renderer of patches at ``mpp``.

        Raises
        ------
        ModelError
            The weights cannot be read.
        UsageError
            They are of another scale, or images and label images do not belong together.
        """
        from wsiseg.synth.renderers.adain.networks import StyleTransfer

        network = StyleTransfer.load(self.weights)
        require_mpp(str(self.weights), mpp, network.mpp)
        return _AdaIN(network, _Styles(load_styles(self.images, self.masks, self.styles)))

    def suits(self, field: Field) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class _Styles:
    images: list[Style]


@dataclass(frozen=True)
class _AdaIN:
    network: StyleTransfer
    styles: _Styles

    def __call__(
        self, rng: np.random.Generator, layout: Layout | None, side: int, texture: Texture | None
    ) -> Patch:
        assert layout is not None
        labels = layout.instances
        style = _closest(rng, _tiles_once(self.styles, side), int(labels.max(initial=0)))
        return Patch(self.network.transfer_alone(content_of(labels), style), labels)


@lru_cache(maxsize=4)
def _tiles_once(styles: _Styles, side: int) -> list[tuple[npt.NDArray[np.uint8], int]]:
    return tiles_of(styles.images, side)


def _closest(
    rng: np.random.Generator, tiles: list[tuple[npt.NDArray[np.uint8], int]], count: int
) -> npt.NDArray[np.uint8]:
    """The tile whose number of nuclei is closest to ``count``; any of those that are equally close."""
    apart = np.array([abs(number - count) for _, number in tiles])
    return tiles[int(rng.choice(np.flatnonzero(apart == apart.min())))][0]
