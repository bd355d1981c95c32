"""SNOW's way as a renderer: an image from a seed, and the nuclei that a segmenter finds in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from wsiseg.core.raster import rasterize
from wsiseg.errors import UsageError
from wsiseg.models.engine.threads import one_thread
from wsiseg.models.files import sha256_of
from wsiseg.synth.parts import Field, Layout, Patch, Renderer, Texture, connected, require_mpp
from wsiseg.synth.renderers.networkfile import to_images

if TYPE_CHECKING:
    from wsiseg.models.base import Segmenter
    from wsiseg.synth.renderers.stylegan.networks import StyleGan


@dataclass(frozen=True)
class SnowOptions:
    """A trained generator and what finds the nuclei in its images.

    Attributes
    ----------
    weights : Path
        As the training of ``system = "stylegan"`` writes (docs/generators.md).
    model : str
        The annotator: a name of ``wsiseg models list`` or the path of a model. It looks at images at its own scale.
    truncation : float
        Below 1 images are nearer to the mean one: more typical, less different.
    """

    weights: Path
    model: str = "unet-0.5"
    truncation: float = 1.0

    needs_texture: ClassVar[bool] = False
    needs_layout: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 1:
            raise ValueError(f"truncation: got {self.truncation}; expected 0 to 1")

    def build(self, mpp: float) -> Renderer:
        """The renderer of patches at ``mpp``.

        Raises
        ------
        ModelError
            The weights or the annotator cannot be read.
        UsageError
            They are of another scale.
        """
        made = _resident(str(self.weights), sha256_of(self.weights) if self.weights.is_file() else "")
        require_mpp(str(self.weights), mpp, made.mpp)
        annotator = _annotator(self.model)

        def render(rng: np.random.Generator, layout: Layout | None, side: int, texture: Texture | None) -> Patch:
            if layout is not None:
                raise UsageError("SNOW's generator cannot follow a layout; expected a recipe without a [sampler]")
            if side != made.config.side:
                raise UsageError(f"side: got {side}; expected {made.config.side}, which {self.weights} gives")
            image = image_of(made, int(rng.integers(2**62)), self.truncation)
            return Patch(image, annotate(annotator, image, mpp))

        return render

    def suits(self, field: Field) -> bool:
        """It takes nothing from textures."""
        return True


def image_of(made: StyleGan, seed: int, truncation: float = 1.0) -> npt.NDArray[np.uint8]:
    """The image uint8 (side, side, 3) of a seed, on one thread; its code and its noise follow from the seed."""
    import torch

    source = torch.Generator().manual_seed(seed)
    with one_thread(), torch.inference_mode():
        code = torch.randn((1, made.config.code), generator=source)
        image: npt.NDArray[np.uint8] = to_images(made.synthesis(made.styles(code, truncation), source))[0]
    return image


def annotate(annotator: Segmenter, image: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.int32]:
    """The nuclei that ``annotator`` finds in an image uint8 (h, w, 3) at ``mpp``, int32 (h, w).

    The image is brought to the annotator's scale and mirrored at its edges; labels are 1 … n, each 4-connected.
    """
    from PIL import Image

    height, width = image.shape[:2]
    factor = mpp / annotator.mpp
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    how = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    seen = np.asarray(Image.fromarray(image).resize(size, how))
    pad = min(annotator.margin_px, min(seen.shape[:2]) - 1)
    after = [pad + -(n + 2 * pad) % annotator.stride_px for n in seen.shape[:2]]
    padded = np.pad(seen, ((pad, after[0]), (pad, after[1]), (0, 0)), mode="symmetric")
    with one_thread():
        (nuclei,) = annotator.segment([padded], annotator.calibrate([seen]))
    moved = replace(nuclei, vertices=(nuclei.vertices - pad) / factor)
    return connected(rasterize(moved, np.arange(1, len(moved) + 1), (height, width)))


@lru_cache(maxsize=1)
def _resident(path: str, digest: str) -> StyleGan:
    from wsiseg.synth.renderers.stylegan.networks import StyleGan

    return StyleGan.load(Path(path))


@lru_cache(maxsize=1)
def _annotator(model: str) -> Segmenter:
    from wsiseg.models.registry import load_segmenter

    # One kind of arithmetic everywhere, or the same seed would get other labels on another processor.
    return load_segmenter(model, device="cpu", precision="fp32", engine="torch")
