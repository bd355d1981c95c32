"""Points2Image as a renderer: any layout to an image, by a trained generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from wsiseg.errors import UsageError
from wsiseg.models.engine.threads import one_thread
from wsiseg.models.files import sha256_of
from wsiseg.synth.parts import Field, Layout, Patch, Renderer, Texture, require_mpp
from wsiseg.synth.renderers.networkfile import to_images

if TYPE_CHECKING:
    from wsiseg.synth.renderers.points2image.networks import NetworkPair


@dataclass(frozen=True)
class Points2ImageOptions:
    """A trained generator.

    Attributes
    ----------
    weights : Path
        As the training of ``system = "points2image"`` writes (docs/generators.md).
    """

    weights: Path

    needs_texture: ClassVar[bool] = False
    needs_layout: ClassVar[bool] = True

    def build(self, mpp: float) -> Renderer:
        """The renderer of patches at ``mpp``.

        Raises
        ------
        ModelError
            The weights cannot be read.
        UsageError
            They are of another scale.
        """
        pair = _resident(str(self.weights), sha256_of(self.weights) if self.weights.is_file() else "")
        require_mpp(str(self.weights), mpp, pair.mpp)

        def render(rng: np.random.Generator, layout: Layout | None, side: int, texture: Texture | None) -> Patch:
            if layout is None:
                raise UsageError("Points2Image draws what a layout says; expected a recipe with a [sampler]")
            return Patch(generate(pair, rng, layout.instances), layout.instances)

        return render

    def suits(self, field: Field) -> bool:
        """It takes nothing from textures."""
        return True


def generate(pair: NetworkPair, rng: np.random.Generator, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """The image uint8 (h, w, 3) of a layout int32 (h, w) of any size, on one thread."""
    import torch

    from wsiseg.synth.renderers.points2image.maps import layout_maps
    from wsiseg.synth.renderers.points2image.networks import draw_noise

    height, width = labels.shape
    pad = [(0, -n % pair.config.stride_px) for n in (height, width)]
    maps = torch.from_numpy(layout_maps(np.pad(labels, pad, mode="symmetric")))[None]
    source = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with one_thread(), torch.inference_mode():
        noise = draw_noise(pair.config, (1, *maps.shape[2:]), source)
        image: npt.NDArray[np.uint8] = to_images(pair.generator(maps, noise))[0]
    return np.ascontiguousarray(image[:height, :width])


@lru_cache(maxsize=1)
def _resident(path: str, digest: str) -> NetworkPair:
    from wsiseg.synth.renderers.points2image.networks import NetworkPair

    return NetworkPair.load(Path(path))
