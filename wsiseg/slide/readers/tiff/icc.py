"""The name of an ICC profile, and no more: pixels are never transformed.

.. [1] ICC.1:2010 (profile version 4.3), 7.2, 7.3, 10.13; version 2: ICC.1:2001-04, 6.5.17.
"""

from __future__ import annotations

import struct

_MAX_TAGS = 256


def describe(profile: bytes) -> str:
    """The profile's own description; ``""`` if there is none that can be read."""
    try:
        count = struct.unpack_from(">I", profile, 128)[0]
        for n in range(min(count, _MAX_TAGS)):
            name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * n)
            if name == b"desc":
                return _text(profile[offset : offset + size])
    except struct.error:
        pass  # a damaged profile has no name
    return ""


def _text(data: bytes) -> str:
    if data[:4] == b"desc":
        length = struct.unpack_from(">I", data, 8)[0]
        text = data[12 : 12 + length].split(b"\0")[0].decode("ascii", "replace")
    elif data[:4] == b"mluc":
        length, offset = struct.unpack_from(">II", data, 20)
        text = data[offset : offset + length].decode("utf-16-be", "replace")
    else:
        text = ""
    return "".join(c for c in text if c.isprintable())[:200]
