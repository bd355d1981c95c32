"""``importance``: how much a synthetic patch counts in training: more where the discriminator takes it for real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from wsiseg.synth.parts import Patch, Texture, Weighting

LOWEST, HIGHEST = 0.2, 2.0


@dataclass(frozen=True)
class ImportanceOptions:
    """Weights by a discriminator's opinion of an image beside another part of its texture.

    Attributes
    ----------
    refiner : Path
        A trained refiner, whose discriminator is asked.
    """

    refiner: Path
    needs_texture: ClassVar[bool] = True

    def build(self, mpp: float) -> Weighting:
        from wsiseg.synth.renderers.transfer.refiner import RefinerPair
        from wsiseg.synth.renderers.transfer.texture import reference_of

        pair = RefinerPair.load(self.refiner)

        def weigh(patch: Patch, texture: Texture | None) -> float:
            assert texture is not None
            probability = pair.judge_alone(patch.image, reference_of(texture, len(patch.image)))
            return float(importance_weight(probability))

        return weigh


def importance_weight(probability: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """w = clip(p / (1 - p + 1e-6), 0.2, 2.0).

    Parameters
    ----------
    probability : array (...)
        Spatial mean of the discriminator's probability that the patch is real, 0–1. A discriminator that is right
        about the odds makes p / (1 - p) the ratio of the densities of real and synthetic patches, so the weighted
        loss over synthetic patches estimates the loss over real ones [1]_; the clip bounds its variance.

    Returns
    -------
    float32 array (...)

    References
    ----------
    .. [1] Hou et al. 2019, doi:10.1109/CVPR.2019.00873.
    """
    p = np.asarray(probability, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("a probability lies between 0 and 1")
    return np.clip(p / (1.0 - p + 1e-6), LOWEST, HIGHEST).astype(np.float32)
