"""From a network's maps to instances: each decoder is a frozen value with parameters and a ``decode`` method.

A decoder is local: what it makes of an object depends on the maps within ``margin_px`` of it, neither on the
array's extent nor on the tile's position; so tiles agree wherever their maps do. Where a published method uses a
statistic of the whole map (Otsu's threshold, the range of HoVer-Net's slopes), ``decode`` takes it as an argument:
a slide can have one for all its tiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import ModelError
from wsiseg.models.decoders.hover import HoverDecoder, decode_hover, slope_ranges
from wsiseg.models.decoders.offsets import OffsetDecoder, decode_offsets
from wsiseg.models.decoders.otsu import OtsuDecoder
from wsiseg.models.decoders.seeds import SeedDecoder, decode_seeds
from wsiseg.models.decoders.starconvex import StarConvexDecoder
from wsiseg.models.decoders.watershed import WatershedDecoder, decode_mask

__all__ = [
    "DECODERS",
    "Decoder",
    "HoverDecoder",
    "OffsetDecoder",
    "OtsuDecoder",
    "SeedDecoder",
    "StarConvexDecoder",
    "WatershedDecoder",
    "build_decoder",
    "decode_hover",
    "decode_mask",
    "decode_offsets",
    "decode_seeds",
    "decoder_name",
    "slope_ranges",
]


class Decoder(Protocol):
    """What all decoders have; which maps ``decode`` takes, the head says (:mod:`wsiseg.models.heads`)."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def mpp(self) -> float: ...
    @property
    def max_diameter_um(self) -> float: ...
    @property
    def margin_px(self) -> int: ...
    def decode(self, *maps: Any) -> Nuclei: ...


DECODERS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "offsets": OffsetDecoder,
        "watershed": WatershedDecoder,
        "otsu": OtsuDecoder,
        "seeds": SeedDecoder,
        "hover": HoverDecoder,
        "star": StarConvexDecoder,
    }
)


def build_decoder(name: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """A decoder by name; what ``parameters`` does not give keeps its default.

    Raises
    ------
    ModelError
        An unknown name or parameter, or a value that is no finite number.
    """
    if name not in DECODERS:
        raise ModelError(f"no decoder {name!r}; there are {', '.join(DECODERS)}")
    kind, values = DECODERS[name], dict(parameters or {})
    known = {field.name: type(field.default) for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ModelError(f"decoder {name!r} has no parameters {unknown}; it has {', '.join(known)}")
    for key, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
        if not number or (known[key] is int and value != int(value)):
            wanted = "a whole number" if known[key] is int else "a finite number"
            raise ModelError(f"decoder {name!r}: {key} is {value!r}, expected {wanted}")
    if not values.get("mpp", 1) > 0:
        raise ModelError(f"decoder {name!r}: mpp is {values['mpp']!r}, expected microns per pixel above 0")
    return kind(**{key: int(value) if known[key] is int else float(value) for key, value in values.items()})


def decoder_name(decoder: object) -> str:
    """The name that :func:`build_decoder` knows a decoder by."""
    return next(name for name, kind in DECODERS.items() if type(decoder) is kind)
