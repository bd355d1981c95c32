"""From a network's maps to instances: each decoder is a frozen value with parameters and a ``decode`` method.

A decoder is local: what it makes of an object depends on the maps within ``margin_px`` of it, neither on the
array's extent nor on the tile's position; so tiles agree wherever their maps do. Where a published method uses a
statistic of the whole map (Otsu's threshold, the range of HoVer-Net's slopes), ``decode`` takes it as an argument:
a slide can have one for all its tiles.
"""

from wsiseg.models.decoders.hover import HoverDecoder, decode_hover
from wsiseg.models.decoders.offsets import OffsetDecoder, decode_offsets
from wsiseg.models.decoders.otsu import OtsuDecoder
from wsiseg.models.decoders.seeds import SeedDecoder, decode_seeds
from wsiseg.models.decoders.starconvex import StarConvexDecoder
from wsiseg.models.decoders.watershed import WatershedDecoder, decode_mask

__all__ = [
    "HoverDecoder",
    "OffsetDecoder",
    "OtsuDecoder",
    "SeedDecoder",
    "StarConvexDecoder",
    "WatershedDecoder",
    "decode_hover",
    "decode_mask",
    "decode_offsets",
    "decode_seeds",
]
