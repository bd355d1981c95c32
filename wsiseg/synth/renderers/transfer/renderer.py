"""``transfer``: after Hou et al., nuclei in a real tile's colours over that tile without its own, and a refiner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wsiseg.synth.parts import Field, Layout, Patch, Renderer, Texture, require_mpp
from wsiseg.synth.renderers.transfer.texture import compose, random_eosin, reference_of, take_apart_once
from wsiseg.synth.samplers.polygons import MPP, sample_distractors, sample_prior

if TYPE_CHECKING:
    from wsiseg.synth.renderers.transfer.refiner import RefinerPair


@dataclass(frozen=True)
class TransferOptions:
    """Texture transfer over textures of 0.25 µm a pixel.

    Attributes
    ----------
    distractors : bool
        Whether structures that are no nuclei are drawn as well.
    refiner : Path, optional
        A trained refiner, which gets another part of the same texture as reference.
    """

    distractors: bool = True
    refiner: Path | None = None
    needs_texture: ClassVar[bool] = True
    needs_layout: ClassVar[bool] = True

    def build(self, mpp: float) -> Renderer:
        require_mpp("the renderer transfer", mpp, MPP)
        if self.refiner is None:
            return _Transfer(self.distractors, None)
        from wsiseg.synth.renderers.transfer.refiner import RefinerPair

        return _Transfer(self.distractors, RefinerPair.load(self.refiner))

    def suits(self, field: Field) -> bool:
        return take_apart_once(field).usable


@dataclass(frozen=True)
class _Transfer:
    distractors: bool
    pair: RefinerPair | None

    def __call__(
        self, rng: np.random.Generator, layout: Layout | None, side: int, texture: Texture | None
    ) -> Patch:
        assert layout is not None
        assert texture is not None
        tile = take_apart_once(texture.field)
        labels, background = layout.instances, texture.under(tile.background, side)
        eosins = random_eosin(rng, tile, side), random_eosin(rng, tile, side)
        prior = sample_prior(rng, 0.0, side)  # of which only the distractors are used
        amount = (prior.spiky, prior.pale) if self.distractors else (0, 0)
        spiky = sample_distractors(rng, amount[0], side, spiky=True)
        pale = sample_distractors(rng, amount[1], side, spiky=False)
        image = compose(rng, labels, tile, background, eosins, spiky, pale)
        if self.pair is not None:
            image = self.pair.refine_alone(image, reference_of(texture, side))[0]
        return Patch(image, labels)
