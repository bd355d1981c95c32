"""The cohort as a table: one row a slide, failed ones included, as CSV and Parquet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.core.atomic import write_bytes

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()

#: Columns in file order: name, type, and where the value stands in ``slide.json``.
COLUMNS: tuple[tuple[str, pa.DataType, tuple[str | int, ...]], ...] = (
    ("id", _TEXT, ("id",)),
    ("path", _TEXT, ("slide", "path")),
    ("status", _TEXT, ("status",)),
    ("grade", _TEXT, ("grade", "grade")),
    ("grade_low", _TEXT, ("grade", "grade_low")),
    ("grade_high", _TEXT, ("grade", "grade_high")),
    ("grade_kind", _TEXT, ("grade", "kind")),
    ("bad_patches", _WHOLE, ("grade", "bad")),
    ("patches", _WHOLE, ("grade", "patches")),
    ("bad_fraction", _REAL, ("grade", "fraction")),
    ("interval_low", _REAL, ("grade", "interval", 0)),
    ("interval_high", _REAL, ("grade", "interval", 1)),
    ("confidence", _REAL, ("grade", "confidence")),
    ("grade_failure", _TEXT, ("grade", "failure")),
    ("nuclei", _WHOLE, ("nuclei",)),
    ("tissue_mm2", _REAL, ("tissue_mm2",)),
    ("nuclei_per_mm2", _REAL, ()),
    ("lost_mm2", _REAL, ("lost", "area_mm2")),
    ("lost_fraction", _REAL, ("lost", "fraction_of_tissue")),
    ("tiles_failed", _WHOLE, ("tiles", "failed")),
    ("seam_density_ratio", _REAL, ("seams", "density_ratio")),
    ("seam_straight_edge_ratio", _REAL, ("seams", "straight_edge_ratio")),
    ("width", _WHOLE, ("slide", "width")),
    ("height", _WHOLE, ("slide", "height")),
    ("mpp", _REAL, ("slide", "mpp")),
    ("mpp_source", _TEXT, ("slide", "mpp_source")),
    ("mpp_effective", _REAL, ("specification", "mpp_effective")),
    ("reader", _TEXT, ("slide", "reader")),
    ("vendor", _TEXT, ("slide", "vendor")),
    ("fingerprint", _TEXT, ("slide", "fingerprint")),
    ("model", _TEXT, ("specification", "model", "name")),
    ("weights_sha256", _TEXT, ("specification", "model", "weights_sha256")),
    ("seconds", _REAL, ("timings_s", "total")),
    ("error_kind", _TEXT, ("error", "kind")),
    ("error", _TEXT, ("error", "message")),
    ("notes", _TEXT, ()),
    ("wsiseg", _TEXT, ("versions", "wsiseg")),
    ("created", _TEXT, ("created",)),
)


def write_cohort(out: Path, records: Sequence[Mapping[str, Any]]) -> tuple[Path, Path]:
    """Write ``cohort.csv`` and ``cohort.parquet`` into ``out``, each atomically.

    Parameters
    ----------
    out : Path
        The results folder.
    records : sequence of mappings
        As in ``slide.json`` (``docs/format.md``), in the order of the rows; what a record lacks is null.

    Returns
    -------
    (Path, Path)
        The CSV and the Parquet file.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    table = cohort_table(records)
    csv_path, parquet_path = out / "cohort.csv", out / "cohort.parquet"
    write_bytes(csv_path, _csv(table))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(parquet_path, sink.getvalue().to_pybytes())
    return csv_path, parquet_path


def cohort_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The records as a table with the columns of :data:`COLUMNS`, whatever the records hold."""
    columns = {}
    for name, kind, place in COLUMNS:
        derive = _DERIVED.get(name)
        values = [derive(record) if derive else lookup(record, *place) for record in records]
        columns[name] = pa.array([_cast(value, kind) for value in values], type=kind)
    return pa.table(columns)


def lookup(record: Any, *place: str | int) -> Any:
    """The value at a path of keys and indices; None where a step is missing or null."""
    for step in place:
        try:
            record = record[step]
        except (KeyError, IndexError, TypeError):
            return None
    return record


def lookup_number(record: Any, *place: str | int) -> float | None:
    """The finite number at a path; None where there is none."""
    value = lookup(record, *place)
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def lookup_table(record: Any, *place: str | int) -> Mapping[str, Any]:
    """The names and values at a path; none where there is something else."""
    value = lookup(record, *place)
    return value if isinstance(value, Mapping) else {}


def lookup_numbers(record: Any, *place: str | int) -> dict[str, float]:
    """The names at a path that have a finite number."""
    table = lookup_table(record, *place)
    found = {str(name): lookup_number(table, name) for name in table}
    return {name: number for name, number in found.items() if number is not None}


def density_per_mm2(record: Mapping[str, Any]) -> float | None:
    """Nuclei per mm² of tissue; None without tissue."""
    nuclei, area = lookup_number(record, "nuclei"), lookup_number(record, "tissue_mm2")
    return nuclei / area if nuclei is not None and area else None


def notes(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The record's notes; () where it has none, as those that older versions wrote."""
    found = lookup(record, "notes")
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


_DERIVED: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "nuclei_per_mm2": density_per_mm2,
    "notes": lambda record: " | ".join(notes(record)) or None,
}


def _cast(value: Any, kind: pa.DataType) -> Any:
    """The value as the column's type, or None: one odd record must not cost the table."""
    if value is None or isinstance(value, bool):
        return None
    try:
        if kind == _TEXT:
            # A path may hold bytes that are no text; Parquet's strings must be.
            return str(value).encode("utf-8", "replace").decode()
        return float(value) if kind == _REAL else _whole(int(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _whole(value: int) -> int | None:
    return value if abs(value) < 2**63 else None


def _csv(table: pa.Table) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(table.column_names)
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        writer.writerow([_cell(value) for value in row])
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Numbers with six digits, Parquet has them all. Text that a spreadsheet would run as a formula gets a leading
    apostrophe, as OWASP advises."""
    if isinstance(value, str):
        value = value.replace("\x00", "")
        return f"'{value}" if value.startswith(_FORMULA) else value
    return f"{value:.6g}" if isinstance(value, float) else value
