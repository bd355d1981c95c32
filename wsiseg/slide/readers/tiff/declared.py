"""The microns per pixel that a TIFF image declares: Aperio's, OME's, ImageJ's or the resolution tags."""

from __future__ import annotations

import math
import re

from wsiseg.slide import mpp
from wsiseg.slide.readers.tiff import tags
from wsiseg.slide.readers.tiff.directory import Directory
from wsiseg.slide.readers.tiff.omexml import OmeImage
from wsiseg.slide.types import Mpp

# In µm. Of the International System the prefixes that a length of this size could have, case as written.
_PREFIXES = {"": 1e6, "k": 1e9, "h": 1e8, "da": 1e7, "d": 1e5, "c": 1e4, "m": 1e3, "µ": 1.0, "n": 1e-3, "p": 1e-6}
_UNITS = {f"{prefix}m": factor for prefix, factor in _PREFIXES.items()} | {
    "Å": 1e-4, "in": 25400.0, "ft": 304800.0, "yd": 914400.0, "mi": 1.609344e9, "thou": 25.4, "mil": 25.4,
    "li": 25400.0 / 12, "pt": 25400.0 / 72,
}  # fmt: skip
_WORDS = {
    "um": "µm", "micron": "µm", "microns": "µm", "micrometer": "µm", "micrometers": "µm", "micrometre": "µm",
    "micrometres": "µm", "nanometer": "nm", "nanometers": "nm", "nanometre": "nm", "nanometres": "nm",
    "millimeter": "mm", "millimeters": "mm", "millimetre": "mm", "millimetres": "mm", "centimeter": "cm",
    "centimeters": "cm", "centimetre": "cm", "centimetres": "cm", "meter": "m", "metre": "m", "inch": "in",
    "inches": "in", '"': "in", "angstrom": "Å",
}  # fmt: skip
Resolution = tuple[float | None, float | None]
_TAG_UNITS = {2: ("inch", 25400.0), 3: ("cm", 10000.0)}


def declared_mpp(page: Directory, first: Directory, ome: OmeImage | None) -> tuple[Mpp | None, str]:
    """The microns per pixel of a page, or why what is declared cannot be used.

    Parameters
    ----------
    page : Directory
        The base of the slide.
    first : Directory
        The first page of the file, which speaks for all in the programs that describe a file once.
    ome : OmeImage or None
        What OME-XML says of the page.

    Returns
    -------
    mpp : Mpp or None
    reason : str
        ``""`` if ``mpp`` is given or nothing was declared.
    """
    text = page.text(tags.DESCRIPTION) or first.text(tags.DESCRIPTION)
    if text.startswith("Aperio"):
        fields = dict(part.split("=", 1) for part in text.split("|")[1:] if "=" in part)
        known = {name.strip(): value.strip() for name, value in fields.items()}
        if known.get("MPP"):
            return mpp.from_metadata(known["MPP"], None, "aperio.MPP", known.get("AppMag"))
    if ome is not None and any(ome.size):
        return _of_ome(page, ome)
    # Planes of a stack may leave it to the first one.
    source = page if tags.X_RESOLUTION in page.values or page.pixels != first.pixels else first
    if text.startswith("ImageJ=") and (unit := re.search(r"^unit=(.*)$", text, re.MULTILINE)):
        return _of_imagej(_resolution(source), unit.group(1).strip())
    return _of_tags(source, _resolution(source))


def microns(unit: str) -> float | None:
    """Microns in a unit of length; None if it is none that is known."""
    text = unit.strip().replace("\\u00B5", "µ").replace("\\u00b5", "µ").replace("μ", "µ")  # the Greek letter
    text = text.replace("\u212b", "Å").replace("A\u030a", "Å")  # the unit's own sign, and a ring that is apart
    return _UNITS.get(_WORDS.get(text.lower(), text))


def _of_ome(page: Directory, ome: OmeImage) -> tuple[Mpp | None, str]:
    values: list[object] = []
    for size in ome.size:
        if size is None:
            values.append(None)
            continue
        text, unit = size
        factor = microns(unit)
        if factor is None:
            return (
                None,
                f"its OME-XML says {_shown(text)} {_shown(unit)!r} per pixel, which is no length that is known",
            )
        number = mpp.parse(text)
        values.append(round(number * factor, 10) if math.isfinite(number) else text)
    if ome.width and (ome.width, ome.height) != (page.width, page.height):
        return None, (
            f"its OME-XML gives the scale of an image of {ome.width} × {ome.height} pixels, "
            f"and the image has {page.width} × {page.height}"
        )
    return mpp.from_metadata(values[0], values[1], "ome.PhysicalSize")


def _of_imagej(resolution: Resolution, unit: str) -> tuple[Mpp | None, str]:
    factor = microns(unit)
    x, y = resolution
    if not (x and y):
        return None, ""
    if factor is None:
        return None, f"ImageJ gives its scale in {_shown(unit)!r}, which is no length that is known"
    return _of_resolution(x, y, factor, _shown(unit), "imagej")


def _of_tags(page: Directory, resolution: Resolution) -> tuple[Mpp | None, str]:
    x, y = resolution
    if not (x and y):
        return None, ""
    number = page.number(tags.RESOLUTION_UNIT, 2)
    if number in _TAG_UNITS:
        name, factor = _TAG_UNITS[number]
        return _of_resolution(x, y, factor, name, "tiff.resolution")
    if x == y == 1:  # written where nothing is known
        return None, ""
    return None, f"its resolution of {x:g} × {y:g} pixels has no unit"


def _of_resolution(x: float, y: float, factor: float, unit: str, source: str) -> tuple[Mpp | None, str]:
    # Ten decimals: the tag is a fraction of two 32-bit numbers, and 0.25 should not read as 0.25000000001.
    values = round(factor / x, 10), round(factor / y, 10)
    if min(values) > mpp.SCANNED[1]:
        return None, (
            f"its resolution of {x:g} pixels per {unit} is one for printing or display "
            f"({values[0]:g} microns per pixel)"
        )
    return mpp.from_metadata(*values, source)


def _resolution(page: Directory) -> Resolution:
    values = (page.ratio(tag) for tag in (tags.X_RESOLUTION, tags.Y_RESOLUTION))
    x, y = (value if value is not None and math.isfinite(value) and value > 0 else None for value in values)
    return x, y


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:40]
