"""The colours of a patch's own stain, for what is drawn into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsiseg.synth.shapes import Float32
from wsiseg.synth.textures import Texture

_PINK = np.array([0.30, 1.68, 1.02], dtype=np.float32)
_LEAST_EOSIN = 0.06


@dataclass(frozen=True)
class Stain:
    """Optical densities (3,) of what a patch has of each.

    Attributes
    ----------
    eosin : float32 array (3,)
        Scaled to a mean of 1.
    nuclear : float32 array (3,)
        Of a nucleus.
    glass : float32 array (3,)
        Where there is nothing.
    """

    eosin: Float32
    nuclear: Float32
    glass: Float32


def stain_of(rng: np.random.Generator, texture: Texture) -> Stain:
    """Eosin is what absorbs least red among the texture's stained pixels; glass what absorbs least at all."""
    pixels = texture.background[::5, ::5].reshape(-1, 3)
    total = pixels.mean(axis=1)
    stained = pixels[total >= np.quantile(total, 0.5)]
    red = stained[:, 0] / np.maximum(stained.mean(axis=1), 1e-3)
    pink = stained[red <= np.quantile(red, 0.3)].mean(axis=0)
    # A texture that is glass, or haematoxylin all over, has no pink of its own.
    enough, pale = pink.mean() / _LEAST_EOSIN - 1.0, 4.0 * (1.0 - pink[0] / max(float(pink.mean()), 1e-3))
    trust = float(np.clip(enough, 0.0, 1.0) * np.clip(pale, 0.0, 1.0))
    eosin = trust * pink / max(float(pink.mean()), 1e-3) + (1.0 - trust) * _PINK
    nuclear = texture.nuclear_mean[int(rng.integers(len(texture.nuclear_mean)))]
    faintest = pixels[total <= np.quantile(total, 0.01)].mean(axis=0)
    glass = np.minimum(faintest, rng.uniform(0.02, 0.09)) + 0.005
    return Stain(*(np.asarray(c, dtype=np.float32) for c in (eosin / eosin.mean(), nuclear, glass)))
