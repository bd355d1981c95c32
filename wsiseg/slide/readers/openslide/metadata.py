"""What OpenSlide says of a file, asked at arm's length: vendor, properties, associated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsiseg.errors import ReadError, SlideError, shown
from wsiseg.slide.readers.openslide import guard
from wsiseg.slide.types import WHITE, Pixels


def detect(path: Path) -> str:
    """The vendor by OpenSlide's name; ``""`` if it does not know the file. SlideError if it crashes on it."""
    try:
        return str(guard.identify(path)["vendor"])
    except guard.Refused as refused:
        raise refusal(path, refused) from refused


def read_metadata(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Properties and the names of the associated images of an Aperio or a generic TIFF file.

    Nothing where OpenSlide refuses the file.
    """
    try:
        found = guard.identify(path)
    except guard.Refused:
        return {}, ()
    return dict(found["properties"]), tuple(found["associated"])


def read_associated(path: Path, name: str) -> Pixels:
    """One associated image, uint8 (h, w, 3); ReadError if it is damaged or too large."""
    try:
        (width, height), pixels = guard.associated(path, name)
    except guard.Refused as refused:
        raise ReadError(f"{path.name}: the {name} image cannot be read: {str(refused)[:160]}.") from refused
    return opaque(np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 4), WHITE)


def refusal(path: Path, reason: object) -> SlideError:
    return SlideError(
        f"{shown(path)}: {shown(str(reason))}.\n"
        "Expected: an intact whole-slide image in a compression that OpenSlide supports.\n"
        "Copy it again and compare its size and checksum with the original's, or convert it."
    )


def opaque(pixels: Pixels, background: tuple[int, int, int]) -> Pixels:
    """RGBA (h, w, 4), as the binding delivers it, over the background colour."""
    alpha = pixels[:, :, 3]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(pixels[:, :, :3])
    clear = alpha == 0
    if (clear | (alpha == 255)).all():  # not scanned or scanned: all that most formats have
        pixels = np.array(pixels[:, :, :3])
        np.copyto(pixels, np.array(background, dtype=np.uint8), where=clear[:, :, None])
        return pixels
    weight = alpha[:, :, None].astype(np.uint16)
    over = pixels[:, :, :3] * weight + np.array(background, dtype=np.uint16) * (255 - weight)
    return ((over + 127) // 255).astype(np.uint8)
