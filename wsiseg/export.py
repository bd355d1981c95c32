"""A results folder's nuclei for other tools, and pictures of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.errors import SlideError, UsageError
from wsiseg.featurefile import viewer_origin
from wsiseg.formats.geojson import export_geojson, type_classes
from wsiseg.formats.geoparquet import TYPE, read_metadata, read_nuclei
from wsiseg.formats.quip import QuipSlide, export_quip
from wsiseg.geometry import Box
from wsiseg.report.overlay import OUTLINE, save_overlay
from wsiseg.slide import open_slide
from wsiseg.store import EXPORTS, RECORD_NAME, environment_faults, is_intact, read_record


def slide_results(run: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of one slide's results, or of every slide in a results folder that has nuclei.

    Raises
    ------
    UsageError
        If there are none, or one is of a newer format.
    """
    records_below = sorted(run.glob(f"*/{RECORD_NAME}"))
    folders = [run] if (run / RECORD_NAME).exists() else [path.parent for path in records_below]
    records = [(folder, read_record(folder)) for folder in folders]
    usable = [(folder, record) for folder, record in records if record and record["status"] != "failed"]
    if not usable:
        raise UsageError(f"{run} holds no segmented slide. Expected the output of `wsiseg segment`.")
    return usable


def nuclei_file(folder: Path, record: dict[str, Any]) -> Path:
    """The nuclei of a slide's results.

    Raises
    ------
    SlideError
        They are missing, or not as they were written.
    """
    path = folder / "nuclei.parquet"
    noted = record.get("files", {}).get(path.name)
    if noted is not None and not is_intact(path, noted):
        raise SlideError(
            f"{path}: is missing, or not as it was written.\n"
            "Run the `wsiseg segment` that made it again: what is damaged is computed anew."
        )
    return path


def export_run(run: Path, target: str, out: Path | None, split: int | None = None) -> Iterator[Path]:
    """Write every slide's nuclei as ``target`` ("geojson", "geojson.gz" or "quip-csv"); yields what was written.

    Parameters
    ----------
    run : Path
        A results folder or one slide's folder in it.
    out : Path or None
        Where to; None: the folder ``exports`` beside the slides' folders.
    split : int or None
        Most nuclei in a GeoJSON file.

    Raises
    ------
    UsageError
        There are no results.
    SlideError
        The nuclei of a slide are missing or damaged.
    EnvironmentFault
        The disk refuses.
    """
    for folder, record in slide_results(run):
        slide = record["slide"]
        folder = Path(os.path.abspath(folder))
        destination = out or folder.parent / EXPORTS
        with environment_faults(destination):
            destination.mkdir(parents=True, exist_ok=True)
        nuclei = nuclei_file(folder, record)
        if target == "quip-csv":
            # A record may have come from elsewhere: whatever it says, its names are no paths.
            files = destination / f"{folder.name}_polygon" / (Path(slide["name"]).name or folder.name)
            export_quip(nuclei, files, QuipSlide(slide["name"], slide["width"], slide["height"], slide["mpp"]))
            yield files
        else:
            yield from export_geojson(
                nuclei,
                destination / f"{folder.name}.{target}",
                gzip=target.endswith(".gz"),
                bounds_offset=viewer_origin(Box(*slide["bounds"])),
                identity=slide["fingerprint"],
                split=split,
            )


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
    path = slide or Path(record["slide"]["path"])
    if not path.exists():
        raise SlideError(f"the slide is no longer at {path}: say where it is with --slide")
    x, y, width, height = roi
    with open_slide(path, mpp=record["slide"]["mpp"]) as opened:
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
