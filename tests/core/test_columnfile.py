"""Columns as files."""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.core.columnfile import as_table, csv_bytes, parquet_bytes


def test_parquet_gives_the_columns_back() -> None:
    columns = {"name": np.array(["a", "ü"]), "x": np.array([1, 2]), "p": np.array([0.1, np.nan])}
    read = pq.read_table(pa.BufferReader(parquet_bytes(as_table(columns))))
    assert read.column_names == ["name", "x", "p"]
    assert read.column("name").to_pylist() == ["a", "ü"]
    np.testing.assert_array_equal(read.column("p").to_numpy(), columns["p"])


def test_csv_runs_nothing_in_a_spreadsheet() -> None:
    table = as_table({"name": np.array(["=1+1", "a,b", "-x\n"]), "p": np.array([1 / 3, 2.0, -1.0])})
    text = csv_bytes(table).decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows == [["name", "p"], ["'=1+1", "0.333333"], ["a,b", "2"], ["'-x\n", "-1"]]
