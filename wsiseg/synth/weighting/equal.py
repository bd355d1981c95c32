"""``none``: every patch counts the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from wsiseg.synth.parts import Patch, Texture, Weighting


@dataclass(frozen=True)
class EqualOptions:
    """There is nothing to choose."""

    needs_texture: ClassVar[bool] = False

    def build(self, mpp: float) -> Weighting:
        return _one


def _one(patch: Patch, texture: Texture | None) -> float:
    return 1.0
