"""What makes an image, by name; see :class:`wsiseg.synth.parts.Renderer`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# name: (module, options)
RENDERERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "transfer": ("wsiseg.synth.renderers.transfer.renderer", "TransferOptions"),
        "layered": ("wsiseg.synth.renderers.layered", "LayeredOptions"),
        "adain": ("wsiseg.synth.renderers.adain.renderer", "AdaINOptions"),
        "points2image": ("wsiseg.synth.renderers.points2image.options", "Points2ImageOptions"),
        "stylegan": ("wsiseg.synth.renderers.stylegan.options", "SnowOptions"),
    }
)
