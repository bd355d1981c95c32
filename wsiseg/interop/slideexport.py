"""What a format is given to write: one slide's nuclei, and what is known of the slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsiseg.results.record import SlideDescription


@dataclass(frozen=True)
class SlideExport:
    """One slide to be written in another program's format by a module's ``export_slide``.

    Attributes
    ----------
    target : str
        The name in :data:`wsiseg.interop.TARGETS` that was asked for.
    id : str
        The slide's name among the results; good for names of files.
    slide : SlideDescription
        The slide's own name may be anything.
    nuclei : Path
        GeoParquet, to be read row group by row group (:func:`wsiseg.results.nuclei.iter_nuclei`).
    folder : Path
        Where the files go, each under its name only when it is whole.
    split : int or None
        Most nuclei in a file; a format that knows no such thing refuses it.
    """

    target: str
    id: str
    slide: SlideDescription
    nuclei: Path
    folder: Path
    split: int | None
