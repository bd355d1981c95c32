"""Outlines sorted by tile on their way to parts: one file a tile, to which each piece of the input is appended.

A file is a sequence of Arrow streams, so memory is that of one piece, or of one tile, in whatever order the input
is. What a kill leaves here is no decision and is never taken up: the input is read again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from wsiseg.core.nuclei import Nuclei


def append_outlines(path: Path, nuclei: Nuclei) -> None:
    """Add nuclei to a file, which is made if it is not there."""
    table = nuclei.to_arrow()
    with open(path, "ab") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def read_outlines(path: Path) -> Nuclei:
    """All nuclei of a file in the order in which they came."""
    parts = []
    with pa.memory_map(str(path)) as source:
        while source.tell() < source.size():
            with pa.ipc.open_stream(source) as reader:
                parts.append(Nuclei.from_arrow(reader.read_all()))
        return Nuclei.concatenate(parts)  # copies, before the mapping ends


def spilled_bytes(folder: Path) -> int:
    """Size of all files in the folder together; 0 where there is none."""
    return sum(entry.stat().st_size for entry in os.scandir(folder)) if folder.is_dir() else 0
