"""What every format that nuclei are exchanged in must pass.

A format is a function that writes nuclei to a path and one that reads them back. It conforms when each of
:data:`CHECKS` returns for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsiseg.core.nuclei import Nuclei
from wsiseg.testing.conformance.nuclei import check_polygons


@dataclass(frozen=True)
class Format:
    """How nuclei go out and come back.

    Attributes
    ----------
    write : callable
        Takes the nuclei and a path that does not exist yet, at which a file or a folder is made.
    read : callable
        Takes the path.
    tolerance_px : float
        By how much a vertex may move.
    """

    write: Callable[[Nuclei, Path], None]
    read: Callable[[Path], Nuclei]
    tolerance_px: float


def check_round_trip(form: Format, nuclei: Nuclei, folder: Path) -> None:
    """Every nucleus comes back once, with its vertices in their order; the nuclei's own order may be another."""
    form.write(nuclei, folder / "there")
    back = form.read(folder / "there")
    assert len(back) == len(nuclei)
    high = np.ceil(nuclei.vertices.max(axis=0)) + 1
    check_polygons(back, int(high[0]), int(high[1]))
    one, other = (_sorted(each) for each in (nuclei, back))
    np.testing.assert_array_equal(np.diff(one.offsets), np.diff(other.offsets))
    np.testing.assert_allclose(other.vertices, one.vertices, rtol=0, atol=form.tolerance_px)


def check_stability(form: Format, nuclei: Nuclei, folder: Path) -> None:
    """The same nuclei give the same bytes; what was read and is written again is as it was."""
    for name in ("one", "two"):
        form.write(nuclei, folder / name)
    assert _contents(folder / "one") == _contents(folder / "two")
    back = form.read(folder / "one")
    form.write(back, folder / "again")
    again = form.read(folder / "again")
    np.testing.assert_array_equal(_sorted(again).vertices, _sorted(back).vertices)


def check_nothing(form: Format, nuclei: Nuclei, folder: Path) -> None:
    """A slide without nuclei is no error."""
    form.write(nuclei.take(np.zeros(0, dtype=np.int64)), folder / "empty")
    assert len(form.read(folder / "empty")) == 0


CHECKS = (check_round_trip, check_stability, check_nothing)


def _sorted(nuclei: Nuclei) -> Nuclei:
    """The same nuclei give the same bytes; what was read and is written again is as it was."""
    return nuclei.take(np.lexsort(np.floor(nuclei.centroids()).T))


def _contents(path: Path) -> Mapping[str, bytes]:
    files = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}
