"""A results folder's nuclei for other tools, and pictures of them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

from wsiseg.core.environment import environment_faults
from wsiseg.errors import UsageError
from wsiseg.interop import TARGETS
from wsiseg.interop.slideexport import SlideExport
from wsiseg.results.folder import EXPORTS, nuclei_file, slide_results


def export(
    run: str | os.PathLike[str], target: str, out: str | os.PathLike[str] | None = None, *, split: int | None = None
) -> list[Path]:
    """Write every slide's nuclei in another program's format; returns what was written.

    As :func:`export_run`, which does it file by file as it is iterated.
    """
    return list(export_run(Path(run), target, Path(out) if out is not None else None, split))


def export_run(run: Path, target: str, out: Path | None, split: int | None = None) -> Iterator[Path]:
    """Write every slide's nuclei as ``target`` (one of :data:`wsiseg.interop.TARGETS`); yields what was written.

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
        There are no results, or no such target.
    SlideError
        The nuclei of a slide are missing or damaged.
    EnvironmentFault
        The disk refuses.
    """
    if target not in TARGETS:
        raise UsageError(f"no export to {target!r}; expected one of {', '.join(TARGETS)}")
    written = importlib.import_module(f"wsiseg.interop.{TARGETS[target]}").export_slide
    for folder, record in slide_results(run):
        folder = Path(os.path.abspath(folder))
        destination = out or folder.parent / EXPORTS
        with environment_faults(destination):
            destination.mkdir(parents=True, exist_ok=True)
        nuclei = nuclei_file(folder, record)
        yield from written(SlideExport(target, folder.name, record.slide, nuclei, destination, split))
