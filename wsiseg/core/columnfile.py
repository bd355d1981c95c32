"""Columns as files that other programs read: Parquet, and CSV that spreadsheets open without harm."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def as_table(columns: Mapping[str, npt.NDArray[np.generic]]) -> pa.Table:
    """Columns (N,) as a table."""
    # Arrow knows Python's strings, not numpy's.
    plain = {name: column.tolist() if column.dtype.kind == "U" else column for name, column in columns.items()}
    return pa.table(plain)


def parquet_bytes(table: pa.Table) -> bytes:
    """The content of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def csv_bytes(table: pa.Table) -> bytes:
    """The content of a CSV file, UTF-8 with its mark, line ends as of RFC 4180.

    Numbers have six digits; Parquet has them all. Text that a spreadsheet would run as a formula gets a leading
    apostrophe, as OWASP advises.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(table.column_names)
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        writer.writerow([_cell(value) for value in row])
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        value = value.replace("\x00", "")
        return f"'{value}" if value.startswith(_FORMULA) else value
    return f"{value:.6g}" if isinstance(value, float) else value
