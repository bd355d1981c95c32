"""Part files: the candidates of one batch of tiles as Arrow IPC, with the batch's summary and a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wsiseg.nuclei import Nuclei
from wsiseg.store import read_sealed, write_sealed

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


def read_part(path: Path, columns: Sequence[str] | None = None) -> Nuclei:
    """The nuclei of a part; ``columns`` limits the attributes.

    Raises
    ------
    DamagedFile
        It is gone, or not what was written.
    """
    table = _table(path)
    if columns is not None:
        table = table.select(["vertices", *columns])
    nuclei = Nuclei.from_arrow(table)
    # Arrow's memory cannot be written to, and compiled functions tell the two apart.
    return nuclei.with_columns(**{name: np.array(column) for name, column in nuclei.columns.items()})


def read_part_summary(path: Path) -> dict[str, Any]:
    """The summary of a part.

    Raises
    ------
    DamagedFile
        The part is gone, or not what was written.
    """
    return json.loads((_table(path).schema.metadata or {})[_SUMMARY])


def _table(path: Path) -> pa.Table:
    with pa.ipc.open_file(pa.BufferReader(read_sealed(Path(path)))) as reader:
        return reader.read_all()
