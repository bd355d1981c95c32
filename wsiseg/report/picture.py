"""A region of a segmented slide as a picture, with its nuclei."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsiseg.core.geometry import Box
from wsiseg.errors import SlideError, UsageError
from wsiseg.interop.geojson import type_classes
from wsiseg.report.overlay import OUTLINE, save_overlay
from wsiseg.results.folder import nuclei_file, slide_results
from wsiseg.results.nuclei import TYPE, read_metadata, read_nuclei
from wsiseg.slide import open_slide
from wsiseg.slide.remote import present


def draw_overlay(
    result: Path, roi: tuple[float, float, float, float], out: Path, *, slide: Path | None = None, zoom: int = 1
) -> dict[str, tuple[int, int, int]]:
    """Draw a region of a segmented slide at full resolution with its nuclei, as PNG.

    Nuclei with types have the colours that the GeoJSON export gives these.

    Parameters
    ----------
    result : Path
        One slide's results folder.
    roi : (x, y, width, height)
        In level-0 pixels; what is beyond the slide is cut off.
    slide : Path or None
        The slide's file; None: where the record says it was.
    zoom : int
        Image pixels for each level-0 pixel.

    Returns
    -------
    dict of str to (int, int, int)
        The colours of types, in the order of the model's types; empty without.

    Raises
    ------
    UsageError
        The region lies outside the slide, or the picture would be too large.
    """
    found = slide_results(result)
    if len(found) != 1:
        raise UsageError(f"{result} holds {len(found)} slides: give one slide's folder in it")
    folder, record = found[0]
    path = slide or present(record.slide.path)
    if not path.exists():
        raise SlideError(f"the slide is no longer at {path}: say where it is with --slide")
    x, y, width, height = roi
    with open_slide(path, mpp=record.slide.mpp) as opened:
        box = Box(x, y, x + width, y + height).intersection(Box(0.0, 0.0, opened.width, opened.height))
        if box.empty:
            raise UsageError(
                f"The region {roi} lies outside the slide of {opened.width} × {opened.height} level-0 pixels."
            )
        file = nuclei_file(folder, record)
        nuclei = read_nuclei(file, box)
        classes = type_classes(read_metadata(file).get("types", ()))
        colors = np.array([item.color for item in classes.values()], dtype=np.uint8)
        color = colors[nuclei.columns[TYPE]] if classes else OUTLINE
        save_overlay(opened, nuclei, box, out, zoom=zoom, color=color)
    return {item.name: item.color for item in classes.values()}
