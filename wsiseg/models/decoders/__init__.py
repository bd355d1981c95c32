"""From a network's maps to instances: each decoder is a frozen value with parameters and a ``decode`` method.

A decoder is local: what it makes of an object depends on the maps within ``margin_px`` of it, neither on the
array's extent nor on the tile's position; so tiles agree wherever their maps do.
"""

from wsiseg.models.decoders.offsets import OffsetDecoder, decode_offsets
from wsiseg.models.decoders.watershed import WatershedDecoder, decode_mask

__all__ = ["OffsetDecoder", "WatershedDecoder", "decode_mask", "decode_offsets"]
