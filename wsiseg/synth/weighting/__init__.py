"""What a patch counts in training, by name; see :class:`wsiseg.synth.parts.Weighting`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# name: (module, options)
WEIGHTINGS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "none": ("wsiseg.synth.weighting.equal", "EqualOptions"),
        "importance": ("wsiseg.synth.weighting.importance", "ImportanceOptions"),
    }
)
