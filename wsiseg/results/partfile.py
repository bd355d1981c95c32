"""Part files: what a batch of tiles leaves, its candidates as Arrow IPC with its summary and a checksum."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.sealed import SEAL_BYTES, read_sealed, write_sealed
from wsiseg.core.typed import Misfit, as_typed
from wsiseg.errors import DamagedFile
from wsiseg.results.folder import WorkFolder
from wsiseg.results.record import LostBox

_SUMMARY = b"wsiseg.summary"


def write_part(path: Path, nuclei: Nuclei, summary: Mapping[str, Any]) -> None:
    """Write a part, Arrow IPC with the batch's summary as JSON in its schema; final once it has its name.

    Raises
    ------
    EnvironmentFault
        The disk is full, read-only or not permitted.
    """
    table = nuclei.to_arrow()
    document = json.dumps(dict(summary), sort_keys=True, allow_nan=False).encode()
    table = table.replace_schema_metadata({_SUMMARY: document})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_sealed(Path(path), sink.getvalue().to_pybytes())


def check_part(path: Path) -> None:
    """Read a part whole, to see that it is as it was written.

    What a run reads of the parts that it has written itself is not checked again: that would take as long as a
    fifth of stitching. A resumption checks each once.

    Raises
    ------
    DamagedFile
        It is gone, or not what was written.
    """
    read_sealed(Path(path))


def read_part(path: Path, columns: Sequence[str] | None = None) -> Nuclei:
    """The nuclei of a part; ``columns`` limits the attributes that are copied from the mapped file.

    Raises
    ------
    DamagedFile
        It is gone, or cannot be read.
    """
    with _opened(path) as reader:
        table = reader.read_all()
        if columns is not None:
            table = table.select(["vertices", *columns])
        nuclei = Nuclei.from_arrow(table)
        # The mapping ends here, so nothing may still point into it.
        return nuclei.with_columns(**{name: np.array(column) for name, column in nuclei.columns.items()})


def read_part_summary(path: Path) -> dict[str, Any]:
    """The summary of a part, without reading its nuclei.

    Raises
    ------
    DamagedFile
        The part is gone, or cannot be read.
    """
    with _opened(path) as reader:
        return json.loads((reader.schema.metadata or {})[_SUMMARY])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pa.ipc.RecordBatchFileReader]:
    try:
        with pa.memory_map(str(path)) as source:
            content = source.read_buffer(max(0, source.size() - SEAL_BYTES))
            with pa.ipc.open_file(pa.BufferReader(content)) as reader:
                yield reader
    except (OSError, pa.ArrowException) as error:
        raise DamagedFile(f"{path}: cannot be read ({error}). Run the same command again.") from error


@dataclass(frozen=True)
class BatchSummary:
    """What a task returns: small, whatever the number of nuclei. ``peak_bytes``: the most its process has held."""

    tiles: tuple[int, ...]
    nuclei: int
    failed: tuple[tuple[int, str], ...] = ()
    lost: tuple[LostBox, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int = 0


def covering_parts(work: WorkFolder, tiles: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The committed parts of a batch: the batch itself, or its tiles one by one where it had to be split."""
    if work.part(tiles[0], tiles[-1]).exists():
        return [tiles]
    return [(tile,) for tile in tiles if work.part(tile, tile).exists()]


def part_summary(work: WorkFolder, tiles: tuple[int, ...]) -> BatchSummary:
    """The summary of a committed part.

    Raises
    ------
    DamagedFile
        The part is gone, or not what a batch leaves.
    """
    path = work.part(tiles[0], tiles[-1])
    try:
        return as_typed(read_part_summary(path), BatchSummary)
    except Misfit as error:
        raise DamagedFile(f"{path}: has another summary ({error}). Run the same command again.") from error
