"""A results folder's nuclei for other tools, and pictures of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from wsiseg.core.environment import environment_faults
from wsiseg.core.featurefile import viewer_origin
from wsiseg.core.geometry import Box
from wsiseg.interop.geojson import export_geojson
from wsiseg.interop.quip import QuipSlide, export_quip
from wsiseg.results.folder import EXPORTS, nuclei_file, slide_results


def export(
    run: str | os.PathLike[str], target: str, out: str | os.PathLike[str] | None = None, *, split: int | None = None
) -> list[Path]:
    """Write every slide's nuclei in another program's format; returns what was written.

    As :func:`export_run`, which does it file by file as it is iterated.
    """
    return list(export_run(Path(run), target, Path(out) if out is not None else None, split))


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
        slide = record.slide
        folder = Path(os.path.abspath(folder))
        destination = out or folder.parent / EXPORTS
        with environment_faults(destination):
            destination.mkdir(parents=True, exist_ok=True)
        nuclei = nuclei_file(folder, record)
        if target == "quip-csv":
            # A record may have come from elsewhere: whatever it says, its names are no paths.
            files = destination / f"{folder.name}_polygon" / (Path(slide.name).name or folder.name)
            export_quip(nuclei, files, QuipSlide(slide.name, slide.width, slide.height, slide.mpp))
            yield files
        else:
            yield from export_geojson(
                nuclei,
                destination / f"{folder.name}.{target}",
                gzip=target.endswith(".gz"),
                bounds_offset=viewer_origin(Box(*slide.bounds)),
                identity=slide.fingerprint,
                split=split,
            )
