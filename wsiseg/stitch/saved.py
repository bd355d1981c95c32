"""A slide's stitching between two of its tasks, as a file: what is known of the parts read, and what is written."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Scale
from wsiseg.core.grid import TileGrid
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.sealed import read_sealed, write_sealed
from wsiseg.core.typed import as_plain, as_typed
from wsiseg.errors import DamagedFile
from wsiseg.results.nucleiwriter import Grown, Written
from wsiseg.results.partfile import BatchSummary
from wsiseg.results.record import LostBox
from wsiseg.stitch.stream import Pending, Stitching

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Sums:
    """What the summaries of some parts come to; ``peak_bytes`` of the process that held most."""

    failed: int = 0
    lost: tuple[LostBox, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int = 0

    def plus(self, summary: BatchSummary) -> Sums:
        names = sorted({*self.seconds, *summary.seconds})
        return Sums(
            self.failed + len(summary.failed),
            (*self.lost, *summary.lost),
            {name: self.seconds.get(name, 0.0) + summary.seconds.get(name, 0.0) for name in names},
            max(self.peak_bytes, summary.peak_bytes),
        )


@dataclass(frozen=True)
class Saved:
    """What a task of a slide's stitching leaves to the next.

    Attributes
    ----------
    stitching : Stitching
    grown : Grown
        ``nuclei.parquet``.
    rows : int
        Tasks that are done.
    first : int
        The first tile of the first part that is not decided.
    sums : Sums
        Of the parts that are read.
    seconds : float
        That all this has taken.
    """

    stitching: Stitching
    grown: Grown
    rows: int = 0
    first: int = 0
    sums: Sums = field(default_factory=Sums)
    seconds: float = 0.0


def save(path: Path, saved: Saved) -> None:
    """Write atomically; :func:`load` gives an equal value back."""
    stitching, grown = saved.stitching, saved.grown
    tally, waiting = stitching.tally, stitching.waiting
    about = {
        "rows": saved.rows,
        "first": saved.first,
        "sums": as_plain(saved.sums),
        "parts": stitching.parts,
        "rows_read": stitching.rows,
        "duplicates": tally.duplicates,
        "adopted": tally.adopted,
        "waiting": waiting is not None,
        "written": as_plain(grown.written),
        "end": grown.end,
        "crc32c": grown.crc32c,
        "seconds": saved.seconds,
    }
    arrays: Arrays = {
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        "footer": np.frombuffer(grown.footer, dtype=np.uint8),
        "counts": tally.counts,
        "tiles": np.array(sorted(tally.tiles), dtype=np.int64),
        "touching": tally.touching,
        "straight": tally.straight,
        "mask_sizes": np.array([len(mask) for mask in stitching.masks], dtype=np.int64),
        "masks": np.concatenate([np.empty(0, dtype=bool), *stitching.masks]),
        "pairs": stitching.pending.pairs,
        **_arrays("pending", stitching.pending.candidates),
        **(_arrays("waiting", waiting) if waiting is not None else {}),
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_sealed(path, buffer.getvalue())


def load(path: Path, grid: TileGrid, scale: Scale, band_px: float) -> Saved:
    """What :func:`save` wrote; ``grid``, ``scale`` and ``band_px`` as it was begun with.

    Raises
    ------
    DamagedFile
        It is gone, not what was written, or what another version wrote.
    """
    with np.load(io.BytesIO(read_sealed(path)), allow_pickle=False) as file:
        try:
            return _saved(file, Stitching.begin(grid, scale, band_px))
        except KeyError as error:
            raise DamagedFile(f"{path}: is of another version ({error}). Run the same command again.") from error


def _saved(file: Mapping[str, npt.NDArray[Any]], begun: Stitching) -> Saved:
    about = json.loads(file["about"].tobytes())
    tally = replace(
        begun.tally,
        duplicates=about["duplicates"],
        adopted=about["adopted"],
        counts=file["counts"],
        tiles=set(file["tiles"].tolist()),
        touching=file["touching"],
        straight=file["straight"],
    )
    stitching = Stitching(
        tally=tally,
        pending=Pending(_nuclei("pending", file), file["pairs"]),
        parts=about["parts"],
        rows=about["rows_read"],
        masks=tuple(np.split(file["masks"], np.cumsum(file["mask_sizes"])[:-1])) if len(file["mask_sizes"]) else (),
        waiting=_nuclei("waiting", file) if about["waiting"] else None,
    )
    grown = Grown(as_typed(about["written"], Written), about["end"], about["crc32c"], file["footer"].tobytes())
    return Saved(stitching, grown, about["rows"], about["first"], as_typed(about["sums"], Sums), about["seconds"])


def _arrays(name: str, nuclei: Nuclei) -> Arrays:
    columns = {f"{name}:{column}": values for column, values in nuclei.columns.items()}
    return {f"{name}.vertices": nuclei.vertices, f"{name}.offsets": nuclei.offsets, **columns}


def _nuclei(name: str, file: Mapping[str, npt.NDArray[Any]]) -> Nuclei:
    columns = {key.partition(":")[2]: file[key] for key in file if key.startswith(f"{name}:")}
    return Nuclei(file[f"{name}.vertices"], file[f"{name}.offsets"], columns)
