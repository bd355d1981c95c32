"""Part files: the candidates of one batch of tiles as Arrow IPC, with the batch's summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wsiseg.nuclei import Nuclei
from wsiseg.store import write_bytes

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
    write_bytes(Path(path), sink.getvalue().to_pybytes())


def read_part(path: Path, columns: Sequence[str] | None = None) -> Nuclei:
    """The nuclei of a part; ``columns`` limits the attributes that are copied from the mapped file."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        table = reader.read_all()
        if columns is not None:
            table = table.select(["vertices", *columns])
        nuclei = Nuclei.from_arrow(table)
        # The mapping ends here, so nothing may still point into it.
        return nuclei.with_columns(**{name: np.array(column) for name, column in nuclei.columns.items()})


def read_part_summary(path: Path) -> dict[str, Any]:
    """The summary of a part, without reading its nuclei."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        return json.loads((reader.schema.metadata or {})[_SUMMARY])
