"""Where nuclei are, before any pixel, by name; see :class:`wsiseg.synth.parts.Sampler`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# name: (module, options)
SAMPLERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "polygons": ("wsiseg.synth.samplers.polygons", "PolygonsOptions"),
        "blobs": ("wsiseg.synth.samplers.blobs.sampler", "BlobsOptions"),
        "ellipses": ("wsiseg.synth.samplers.ellipses", "EllipsesOptions"),
        "points": ("wsiseg.synth.samplers.points", "PointsOptions"),
        "layered": ("wsiseg.synth.samplers.layered", "LayeredOptions"),
    }
)
