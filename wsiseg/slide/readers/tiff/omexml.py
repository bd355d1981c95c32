"""What the OME-XML of a TIFF says about its images: which pages they have, their size and their channels.

Read as a stream of elements, not as a tree: the XML comes from a stranger. A document type is refused, and with it
every entity of its own; what follows an error is not read.

.. [1] OME-TIFF specification: https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/specification.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.parsers import expat

_FLUORESCENT = re.compile(
    r"fluor|\b(dapi|hoechst|fitc|tritc|cy ?[2357]\d?(\.5)?|e?[gyr]fp|mcherry|rhodamine|texas ?red|alexa|opal|"
    r"af ?\d{3}|dylight|atto ?\d{3}|sytox|draq5|autofluorescence)",
    re.IGNORECASE,
)
_MAX_IMAGES, _MAX_PLANES = 256, 1 << 14  # more than a file with 4096 directories can need
_COLOURS = {"red": 0, "green": 1, "blue": 2, "r": 0, "g": 1, "b": 2}


@dataclass(frozen=True)
class Channel:
    """One channel: its name, how many samples of a page it has, and whether fluorescence is said of it."""

    name: str
    samples: int
    fluorescent: bool

    @property
    def colour(self) -> int | None:
        """0, 1 or 2 if it is named red, green or blue."""
        return _COLOURS.get(re.sub(r"^channel\W*|\W*channel$", "", self.name.strip().lower()))


@dataclass(frozen=True)
class _Block:
    """Pages in a row, from the first plane's position on; ``page`` and ``count`` None where nothing is said."""

    page: int | None
    first: tuple[int, int, int]  # z, c, t
    count: int | None


@dataclass(frozen=True)
class OmeImage:
    """One Image element.

    Attributes
    ----------
    name : str
    width, height : int
        As declared; 0 if not.
    size : tuple of (str, str) or None
        PhysicalSizeX and Y with their units, as written.
    sizes : mapping of str to int
        Number of positions along "Z", "C" (samples counted) and "T".
    order : str
        The axes of planes that follow each other, the fastest first: a permutation of "ZCT".
    channels : tuple of Channel
    """

    name: str
    width: int
    height: int
    size: tuple[tuple[str, str] | None, tuple[str, str] | None]
    sizes: Mapping[str, int]
    order: str
    channels: tuple[Channel, ...]
    blocks: tuple[_Block, ...]

    def pages(self, held: int, samples: int) -> dict[int, tuple[int, int, int]]:
        """Where in the image (z, c, t) those of the file's ``held`` pages are that belong to it.

        ``samples`` of the channel axis are in one page.
        """
        counts = {axis: max(1, self.sizes[axis] // (max(1, samples) if axis == "C" else 1)) for axis in "ZCT"}
        planes = counts["Z"] * counts["C"] * counts["T"]
        steps, step = {}, 1
        for axis in self.order:
            steps[axis], step = step, step * counts[axis]
        found: dict[int, tuple[int, int, int]] = {}
        left = _MAX_PLANES
        for block in self.blocks:
            page = block.page or 0
            count = block.count if block.count is not None else (planes if block.page is None else 1)
            start = sum(steps[axis] * first for axis, first in zip("ZCT", block.first, strict=True))
            here = max(0, min(count, held - page, planes - start, left))
            left -= here
            for n in range(here):
                z, c, t = ((start + n) // steps[axis] % counts[axis] for axis in "ZCT")
                found.setdefault(page + n, (z, c, t))
        return found


def parse(text: str) -> tuple[OmeImage, ...]:
    """The images that a description lists; none if it is no OME-XML."""
    if "OME" not in text[:4096] or not text.lstrip("\ufeff \t\r\n").startswith("<"):
        return ()
    reading = _Reading()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reading.start
    parser.EndElementHandler = reading.end
    parser.CharacterDataHandler = reading.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(text.lstrip("\ufeff \t\r\n"), True)
    except (expat.ExpatError, _Doctype, ValueError):
        reading.close()  # the images before the error were read
    return tuple(reading.images)


class _Doctype(Exception):
    pass


def _refuse_doctype(*_: object) -> None:
    raise _Doctype


class _Reading:
    """The state between the parser's calls."""

    def __init__(self) -> None:
        self.images: list[OmeImage] = []
        self._file = ""
        self._uuid: list[str] | None = None
        self._image: dict[str, str] | None = None
        self._pixels: dict[str, str] | None = None
        self._channels: list[dict[str, str]] = []
        self._blocks: list[tuple[dict[str, str], str]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        if name == "OME":
            self._file = attributes.get("UUID", "")
        elif name == "Image":
            self._image, self._pixels, self._channels, self._blocks = attributes, None, [], []
        elif name == "Pixels" and self._image is not None and self._pixels is None:
            self._pixels = attributes
        elif name == "Channel" and self._pixels is not None:
            self._channels.append(attributes)
        elif name == "TiffData" and self._pixels is not None:
            self._blocks.append((attributes, ""))
        elif name == "UUID" and self._blocks:
            self._uuid = []

    def text(self, text: str) -> None:
        if self._uuid is not None:
            self._uuid.append(text)

    def end(self, tag: str) -> None:
        name = tag.rpartition(":")[2]
        if name == "UUID" and self._uuid is not None and self._blocks:
            self._blocks[-1] = (self._blocks[-1][0], "".join(self._uuid).strip())
            self._uuid = None
        elif name == "Image":
            self.close()

    def close(self) -> None:
        """An image ends, by its end or by an error behind its pixels."""
        if self._image is not None and self._pixels is not None and len(self.images) < _MAX_IMAGES:
            # A block of another UUID is in another file of the same set.
            here = [block for block, uuid in self._blocks if not (uuid and self._file) or uuid == self._file]
            self.images.append(_image(self._image, self._pixels, self._channels, here))
        self._image = self._pixels = None


def _image(
    image: Mapping[str, str],
    pixels: Mapping[str, str],
    channels: list[dict[str, str]],
    blocks: list[dict[str, str]],
) -> OmeImage:
    order = "".join(axis for axis in pixels.get("DimensionOrder", "").upper() if axis in "ZCT")
    size_x, size_y = (
        (pixels[f"PhysicalSize{axis}"], pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if f"PhysicalSize{axis}" in pixels
        else None
        for axis in "XY"
    )
    return OmeImage(
        name=image.get("Name", ""),
        width=_number(pixels.get("SizeX"), 0),
        height=_number(pixels.get("SizeY"), 0),
        size=(size_x, size_y),
        sizes={axis: _number(pixels.get(f"Size{axis}"), 1) for axis in "ZCT"},
        order=order if sorted(order) == ["C", "T", "Z"] else "CZT",
        channels=tuple(_channel(channel) for channel in channels),
        blocks=tuple(_block(block) for block in blocks),
    )


def _channel(channel: Mapping[str, str]) -> Channel:
    name = channel.get("Name", "")
    transmitted = channel.get("IlluminationType") == "Transmitted" or channel.get("ContrastMethod") == "Brightfield"
    said = (
        channel.get("ContrastMethod") == "Fluorescence"
        or channel.get("IlluminationType") == "Epifluorescence"
        or bool(channel.get("Fluor") or channel.get("EmissionWavelength") or _FLUORESCENT.search(name))
    )
    return Channel(name, max(1, _number(channel.get("SamplesPerPixel"), 1)), said and not transmitted)


def _block(block: Mapping[str, str]) -> _Block:
    z, c, t = (_number(block.get(f"First{axis}"), 0) for axis in "ZCT")
    return _Block(
        _number(block["IFD"], 0) if "IFD" in block else None,
        (z, c, t),
        _number(block["PlaneCount"], 0) if "PlaneCount" in block else None,
    )


def _number(text: str | None, default: int) -> int:
    """A count that is written in up to nine digits."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text.strip()) else default
