"""Which pages of a TIFF are the slide: the levels of one image, and in words what else the file holds.

A file may hold several images (scenes, series, the label), stacks of planes along z or t, and channels as planes of
their own, in any order. OME-XML says what a page is; ImageJ says the axes of a stack; elsewhere the flag "reduced"
and the size do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from wsiseg.slide.readers.tiff import omexml, tags
from wsiseg.slide.readers.tiff.directory import Directory, TiffDamage
from wsiseg.slide.readers.tiff.omexml import OmeImage

Planes = tuple[Directory, ...]
Alike = Callable[[Directory, Directory], bool]

_ASSOCIATED = re.compile(r"\b(label|macro|overview|thumbnail|preview|barcode)\b", re.IGNORECASE)
_SHOWN, _LONGEST = 6, 60  # names or sizes in a sentence, characters in a name


class NotBrightfield(Exception):
    """Not for any reader: the pixels are no 8-bit grey or RGB of one image; the text says what they are."""


@dataclass(frozen=True)
class Selection:
    """The slide in a file.

    Attributes
    ----------
    levels : tuple of tuple of Directory
        By falling size. A level has one page, or three of one sample: red, green, blue.
    page : int
        Position of the base's first page in the main chain.
    ome : OmeImage or None
        What OME-XML says of it.
    notes : tuple of str
        What else the file holds, and why this was chosen.
    """

    levels: tuple[Planes, ...]
    page: int
    ome: OmeImage | None = None
    notes: tuple[str, ...] = ()

    @property
    def base(self) -> Directory:
        return self.levels[0][0]


def choose(pages: Sequence[Directory], vendor: str, alike: Alike) -> Selection:
    """The slide among the pages of a file.

    Parameters
    ----------
    pages : sequence of Directory
        The main chain, subdirectories as children.
    vendor : str
        As OpenSlide names it.
    alike : function
        Whether a smaller page shows what a larger one does; asked where the file does not say.

    Raises
    ------
    NotBrightfield
        The slide is fluorescence, or its planes are channels that are not red, green and blue.
    TiffDamage
        There is no image with a size.
    """
    described = next((images for page in pages if (images := omexml.parse(page.text(tags.DESCRIPTION)))), ())
    if vendor == "aperio":
        selection = _choose_aperio(pages)
    elif described:
        selection = _choose_ome(pages, described, alike) or _choose_plain(pages, alike)
    else:
        selection = _choose_plain(pages, alike)
    return selection


def reduces(directory: Directory, base: Directory) -> bool:
    """Whether a page has the shape of ``base`` at lower resolution, its sizes rounded to whole pixels."""
    if not directory.pixels or directory.pixels >= base.pixels:
        return False
    ratio = base.width / directory.width
    # Rounded by up to one in either direction.
    return abs(base.height / ratio - directory.height) <= 1 + directory.height / directory.width


# --- Aperio ----------------------------------------------------------------------------------------------------


def _choose_aperio(pages: Sequence[Directory]) -> Selection:
    """All tiled pages are levels; what is in strips is thumbnail, label and macro."""
    tiled = [page for page in pages if page.tiled] or [pages[0]]
    base = _largest(tiled)
    if re.search(r"\|\s*(Dye|EmissionWavelength)\s*=", base.text(tags.DESCRIPTION)):
        raise NotBrightfield("fluorescence by its description")
    same = [page for page in tiled if page.width == base.width and page.height == base.height]
    notes = (_stack_note(len(same), "planes", 0),) if len(same) > 1 else ()
    return Selection(_levels(base, [p for p in tiled if reduces(p, base)]), list(pages).index(base), None, notes)


# --- OME-TIFF --------------------------------------------------------------------------------------------------


def _choose_ome(pages: Sequence[Directory], images: Sequence[OmeImage], alike: Alike) -> Selection | None:
    """The largest image that the XML lists; None if none of its pages are in this file."""
    held = []
    for image in images:
        places = image.pages(len(pages), 1)
        if places and (samples := pages[min(places)].samples) > 1:
            places = image.pages(len(pages), samples)
        if places and pages[min(places)].pixels:
            held.append((image, places))
    if not held:
        return None
    slides = [entry for entry in held if not _ASSOCIATED.search(entry[0].name)] or held
    image, places = max(slides, key=lambda entry: pages[min(entry[1])].pixels)
    notes = []
    if len(held) > 1:
        names = _listed(_quoted(other.name) for other, _ in held)
        notes.append(f"the file holds {len(held)} images ({names}): the largest, {_quoted(image.name)}, is read")
    z, t = (sorted({place[axis] for place in places.values()}) for axis in (0, 2))
    chosen_z, chosen_t = z[len(z) // 2], t[0]
    if len(z) > 1:
        notes.append(_stack_note(len(z), "planes along z", len(z) // 2))
    if len(t) > 1:
        notes.append(_stack_note(len(t), "points in time", 0))
    numbers = sorted((c, page) for page, (z, c, t) in places.items() if (z, t) == (chosen_z, chosen_t))
    planes = _in_colour([pages[page] for _, page in numbers], image)
    mapped = {page for _, others in held for page in others}
    spare = [page for number, page in enumerate(pages) if number not in mapped]
    if len(planes) == 3:
        notes.append("red, green and blue are read from a page each")
    base = planes[0]
    below = list(_levels_below(planes))
    if len(planes) == 1:
        below += [(page,) for page in spare if page.tiled and reduces(page, base) and alike(page, base)]
    levels = {(level[0].width, level[0].height): level for level in reversed(below)}
    notes += _further([page for page in spare if (page,) not in below])
    ordered = (planes, *(levels[size] for size in sorted(levels, reverse=True)))
    return Selection(ordered, list(pages).index(base), image, tuple(notes))


def _in_colour(planes: list[Directory], image: OmeImage) -> Planes:
    """One page, or three in the order red, green, blue; NotBrightfield if they are anything else."""
    if any(channel.fluorescent for channel in image.channels):
        raise NotBrightfield(f"fluorescence by its OME-XML: {_named(image)}")
    if len(planes) == 1:
        return (planes[0],)
    if len(planes) == 3 and all(plane.samples == 1 for plane in planes):
        if len(image.channels) == 1 and image.channels[0].samples == 3:
            return tuple(planes)
        colours = [channel.colour for channel in image.channels]
        if sorted(colour for colour in colours if colour is not None) == [0, 1, 2] and len(colours) == 3:
            return tuple(planes[colours.index(colour)] for colour in range(3))
    raise NotBrightfield(f"{len(planes)} channels that are not red, green and blue by name: {_named(image)}")


def _named(image: OmeImage) -> str:
    return _listed(_quoted(channel.name) for channel in image.channels) or "no names"


def _levels_below(planes: Planes) -> Iterable[Planes]:
    """The reductions that the pages themselves refer to, those of three planes side by side."""
    for together in zip(*(plane.children for plane in planes), strict=False):
        if all(child.tiled and reduces(child, plane) for child, plane in zip(together, planes, strict=True)):
            yield together


# --- any other TIFF --------------------------------------------------------------------------------------------


def _choose_plain(pages: Sequence[Directory], alike: Alike) -> Selection:
    images = [page for page in pages if not page.subfile & (tags.MASK | tags.APERIO_MACRO)] or list(pages)
    base = _largest([page for page in images if not page.subfile & tags.REDUCED] or images)
    if max(page.pixels for page in images) > base.pixels:
        base = _largest(images)  # the flag is wrong
    stack = [page for page in images if _kind(page) == _kind(base)]
    notes = []
    if _planes_of_imagej(base) > 1 or len(stack) > 1:
        base, note = _plane(stack)
        notes.append(note)
    at = list(pages).index(base)
    end = min((number for page in stack if (number := list(pages).index(page)) > at), default=len(pages))
    near = pages[at + 1 : end] if len(stack) > 1 else pages
    # A page that is flagged as reduced reduces the only other image. Pages without the flag that get smaller and
    # smaller may be a pyramid. What is not certain is looked at.
    full = [page for page in images if not page.subfile & tags.REDUCED]
    falling = all(one.pixels > other.pixels for one, other in pairwise(full))
    chain = [
        page
        for page in near
        if page.tiled
        and page in images
        and reduces(page, base)
        and (page.subfile & tags.REDUCED or falling)
        and ((len(full) <= 1 and page.subfile & tags.REDUCED) or alike(page, base))
    ]
    below = [planes[0] for planes in _levels_below((base,))] + chain
    used = {base, *stack, *below}
    notes += _further([page for page in images if page not in used])
    return Selection(_levels(base, below), at, None, tuple(notes))


def _plane(stack: Sequence[Directory]) -> tuple[Directory, str]:
    """The page to read of several that have the same form, and a sentence on it."""
    text = stack[0].text(tags.DESCRIPTION)
    if text.startswith("ImageJ="):
        said = {axis: _said(text, axis) for axis in ("channels", "slices", "frames")}
        images = max(_said(text, "images"), said["channels"] * said["slices"] * said["frames"])
        if said["channels"] > 1 and stack[0].samples == 1:
            raise NotBrightfield(f"{said['channels']} grey channels by ImageJ's description")
        if images > len(stack):
            raise NotBrightfield(f"{images} planes by ImageJ's description, of which {len(stack)} have a page")
        if said["slices"] > 1:
            middle = said["slices"] // 2
            return stack[middle], _stack_note(said["slices"], "planes along z", middle)
        return stack[0], _stack_note(images, "points in time", 0)
    if stack[0].samples == 1:
        raise NotBrightfield(f"{len(stack)} grey pages of the same size, channels or planes: nothing says which")
    return stack[len(stack) // 2], _stack_note(len(stack), "pages of the same size", len(stack) // 2)


def _planes_of_imagej(page: Directory) -> int:
    text = page.text(tags.DESCRIPTION)
    return _said(text, "images") if text.startswith("ImageJ=") else 1


def _said(text: str, name: str) -> int:
    found = re.search(rf"^{name}=([0-9]{{1,9}})\s*$", text, re.MULTILINE)
    return max(1, int(found.group(1))) if found else 1


def _kind(page: Directory) -> tuple[int, ...]:
    flags = page.subfile & tags.REDUCED
    return page.width, page.height, page.samples, page.bits, page.photometric, flags


# --- of all ----------------------------------------------------------------------------------------------------


def _largest(pages: Sequence[Directory]) -> Directory:
    base = max(pages, key=lambda page: page.pixels)
    if not base.pixels:
        raise TiffDamage(f"an image of {base.width} × {base.height} pixels; expected a positive size")
    return base


def _levels(base: Directory, below: Sequence[Directory]) -> tuple[Planes, ...]:
    """The base and its reductions by falling size; of two of the same size the first."""
    levels = {(page.width, page.height): page for page in reversed(below)}
    return ((base,), *((levels[size],) for size in sorted(levels, reverse=True)))


def _stack_note(count: int, what: str, read: int) -> str:
    middle = ", the middle one," if read and read == count // 2 else ""
    return f"the file holds {count} {what}: number {read + 1}{middle} is read"


def _further(pages: Sequence[Directory]) -> list[str]:
    if not pages:
        return []
    sizes = Counter(f"{page.width} × {page.height}" for page in pages)
    shown = _listed(size if count == 1 else f"{count} of {size}" for size, count in sizes.items())
    return [f"the file holds {len(pages)} further image{'s' * (len(pages) > 1)} that are not read: {shown} pixels"]


def _quoted(name: str) -> str:
    """A name from the file, as it may be printed."""
    shown = "".join(c if c.isprintable() else "?" for c in name)
    return f"'{shown[:_LONGEST]}'" if shown else "one without name"


def _listed(parts: Iterable[str]) -> str:
    shown = list(parts)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
