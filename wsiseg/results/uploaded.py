"""What of a slide's results is at a URL, noted in the folder that they were made in.

    OUT/<slide-id>/uploaded.json    all that the record lists is at that URL; what is large may be there alone

The note goes with its folder: a slide that is computed again has a new folder, without one.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from wsiseg.core.sealed import read_sealed_json, write_sealed_json
from wsiseg.core.typed import Misfit, as_plain, as_typed

UPLOADED = "uploaded.json"
_LARGE = ("nuclei.parquet", "maps.zarr", "artefacts.png")
"""What no report over all slides needs."""


@dataclass(frozen=True)
class Uploaded:
    """Where a slide's results are as well.

    Attributes
    ----------
    url : str
        Of the slide's folder.
    record : str
        SHA-256 of the ``slide.json`` there.
    page : str
        SHA-256 of the ``report.html`` there; "" while there is none.
    """

    url: str
    record: str
    page: str = ""

    def with_page(self, page: str) -> Uploaded:
        """The note once the slide's page is there, too."""
        return replace(self, page=page)


def read_uploaded(folder: Path) -> Uploaded | None:
    """The note in a slide's folder; None where its results are here alone."""
    value = read_sealed_json(folder / UPLOADED)
    if value is not None:
        with contextlib.suppress(Misfit):
            return as_typed(value, Uploaded)
    return None


def write_uploaded(folder: Path, uploaded: Uploaded) -> None:
    """Write the note, atomically."""
    write_sealed_json(folder / UPLOADED, as_plain(uploaded))


def drop_large(folder: Path) -> None:
    """Remove from this disk what need not be twice: :func:`bring_back` fetches it where it is asked for."""
    for name in _LARGE:
        path = folder / name
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def bring_back(path: Path) -> Path:
    """A file of a slide's results, fetched from the URL if it is there alone.

    Raises
    ------
    EnvironmentFault
        It cannot be fetched.
    """
    uploaded = None if path.exists() else read_uploaded(path.parent)
    if uploaded is not None:
        from wsiseg.results.remote import fetch_file  # only here: few results are at URLs

        fetch_file(f"{uploaded.url}/{path.name}", path)
    return path


def checksum(content: bytes | None) -> str:
    """SHA-256 of a file's content; "" of none."""
    return "" if content is None else hashlib.sha256(content).hexdigest()
