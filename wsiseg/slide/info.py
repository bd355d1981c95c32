"""A slide in a few words and numbers, for ``wsiseg info``."""

from __future__ import annotations

from typing import Any

from wsiseg.slide.slide import Slide

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}


def describe(slide: Slide) -> dict[str, Any]:
    """What is known of an open slide, ready for JSON.

    Returns
    -------
    dict
        ``path, name, reader, vendor, width, height, mpp, mpp_source, objective, bounds, background, associated,
        fingerprint, notes, levels, properties``. ``mpp`` is None where it is unknown; ``notes`` are sentences about
        what is unusual.
    """
    description, mpp, box = slide.description, slide.mpp, slide.bounds
    properties = dict(slide.properties)
    return {
        "path": str(slide.path),
        "name": slide.name,
        "reader": slide.reader,
        "vendor": slide.vendor,
        "width": slide.width,
        "height": slide.height,
        "mpp": mpp.value if mpp else None,
        "mpp_source": mpp.source if mpp else None,
        "objective": properties.get("openslide.objective-power") or properties.get("aperio.AppMag"),
        "bounds": [box.x0, box.y0, box.x1, box.y1],
        "background": list(description.background),
        "associated": list(slide.associated),
        "fingerprint": slide.fingerprint(),
        "notes": _notes(slide),
        "levels": [
            {
                "width": level.width,
                "height": level.height,
                "downsample": level.downsample,
                "mpp": mpp.value * level.downsample if mpp else None,
                "tile": [level.tile_width, level.tile_height],
                "derived": level.derived,
            }
            for level in slide.levels
        ],
        "properties": properties,
    }


def _notes(slide: Slide) -> list[str]:
    notes = []
    if slide.mpp is None:
        notes.append(f"mpp unknown: {slide.description.mpp_problem or 'not in the metadata'}; give it with --mpp")
    notes += slide.notes
    if slide.reader == "image":
        kind = slide.properties["image.format"]
        if slide.path.suffix.lower() not in _SUFFIXES[kind]:
            notes.append(f"named {slide.path.suffix or 'without suffix'}, but the content is a plain {kind} image")
    return notes
