"""The nuclei of a slide that are stitched so far: ``nuclei.parquet`` while it still grows.

Its footer and the areas that were lost lie beside it in the work folder, so that what needs a piece of the slide
need not wait for the whole. ``nuclei.parquet`` is only added to, and a footer is replaced by a longer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.sealed import read_sealed, write_sealed
from wsiseg.results.folder import WorkFolder
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.record import LostBox
from wsiseg.results.rowgroups import read_metadata

_FOUND, _FOOTER = "found", "nuclei.footer"


@dataclass(frozen=True)
class Found:
    """Areas without nuclei because they were lost, of all rows of tiles that are stitched."""

    lost: tuple[LostBox, ...]


def nuclei_path(work: WorkFolder) -> Path:
    """Where the nuclei are written."""
    return work.result / "nuclei.parquet"


def show_found(work: WorkFolder, footer: bytes, lost: tuple[LostBox, ...]) -> None:
    """Let others read what has been written; ``footer``: of :class:`wsiseg.results.nucleiwriter.Grown`."""
    work.finish_stage(_FOUND, Found(lost))
    write_sealed(work.path / _FOOTER, footer)


def read_found(work: WorkFolder, box: Box, columns: Sequence[str] | None = None) -> Nuclei:
    """The nuclei whose bounds overlap a box; all of them once the rows of tiles around it are stitched.

    Raises
    ------
    DamagedFile, UsageError
        They are gone, or not what was written.
    """
    metadata = read_metadata(read_sealed(work.path / _FOOTER))
    return read_nuclei(nuclei_path(work), box, columns=columns, metadata=metadata)


def read_lost(work: WorkFolder) -> tuple[LostBox, ...]:
    """The areas that were lost, as far as :func:`read_found` knows.

    Raises
    ------
    SlideError
        They are gone.
    """
    return work.require_stage(_FOUND, Found).lost


def check_found(work: WorkFolder) -> None:
    """Read the footer whole, to see that it is as it was written.

    Raises
    ------
    DamagedFile, SlideError
        It is not.
    """
    read_lost(work)
    read_metadata(read_sealed(work.path / _FOOTER))
