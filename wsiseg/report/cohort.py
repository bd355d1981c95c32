"""The cohort as a table: one row a slide, failed ones included, as CSV and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from wsiseg.artefacts.kinds import KINDS
from wsiseg.core.atomic import write_bytes
from wsiseg.core.columnfile import csv_bytes, parquet_bytes
from wsiseg.report.actions import find_actions
from wsiseg.report.distributions import MEASURES, density_per_mm2, distribute
from wsiseg.results.record import FailedRecord, SegmentedRecord, SlideRecord, Typical

_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()
STAGES = ("tissue", "artefacts", "segment", "outside", "stitch", "labels", "grade", "publish")
"""Of which the seconds are told; in the order of a run."""
_TYPICAL = ("nuclear_area_um2", "hematoxylin_od", "eosin_od", "detail", "expected_aji", "score")

#: Columns in file order: name and type.
COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    *((name, _TEXT) for name in ("id", "path", "status", "grade", "grade_low", "grade_high", "grade_kind")),
    *((name, _WHOLE) for name in ("bad_patches", "patches")),
    *((name, _REAL) for name in ("bad_fraction", "interval_low", "interval_high", "confidence")),
    ("grade_failure", _TEXT),
    ("grade_words", _TEXT),
    ("assessed", pa.bool_()),
    ("patches_placed", _WHOLE),
    ("action", _TEXT),
    ("action_reason", _TEXT),
    ("nuclei", _WHOLE),
    *((name, _REAL) for name in ("tissue_mm2", "nuclei_per_mm2", "lost_mm2", "lost_fraction")),
    *((name, _REAL) for name in _TYPICAL),
    ("usable_mm2", _REAL),
    *((f"artefact_{name}", _REAL) for name in KINDS),
    ("outside_nuclei", _WHOLE),
    *((name, _REAL) for name in ("outside_per_mm2", "outside_share")),
    *((f"z_{measure.name}", _REAL) for measure in MEASURES),
    *((f"tiles_{name}", _WHOLE) for name in ("total", "done", "blank", "failed")),
    *((name, _REAL) for name in ("seam_density_ratio", "seam_straight_edge_ratio")),
    *((f"seam_{name}", _WHOLE) for name in ("nuclei", "duplicates_removed", "adopted")),
    *((name, _WHOLE) for name in ("width", "height")),
    ("mpp", _REAL),
    ("mpp_source", _TEXT),
    ("mpp_effective", _REAL),
    *((name, _TEXT) for name in ("reader", "vendor", "fingerprint", "model", "weights_sha256")),
    ("seconds", _REAL),
    *((f"seconds_{name}", _REAL) for name in STAGES),
    *((name, _TEXT) for name in ("error_kind", "error", "notes", "wsiseg", "created")),
)


def write_cohort(out: Path, records: Sequence[SlideRecord]) -> tuple[Path, Path]:
    """Write ``cohort.csv`` and ``cohort.parquet`` into ``out``, each atomically.

    Parameters
    ----------
    out : Path
        The results folder.
    records : sequence of SlideRecord
        In the order of the rows; what a record of a failed slide lacks is null.

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
    write_bytes(csv_path, csv_bytes(table))
    write_bytes(parquet_path, parquet_bytes(table))
    return csv_path, parquet_path


def cohort_table(records: Sequence[SlideRecord]) -> pa.Table:
    """The records as a table with the columns of :data:`COLUMNS`.

    What compares a slide with others (``z_…``, and of ``action`` outliers) is with regard to these records.
    """
    distributions = distribute(records)
    compared: dict[str, dict[str, Any]] = {record.id: {} for record in records}
    for one in distributions:
        for name, z in one.z.items():
            compared[name][f"z_{one.measure.name}"] = z
    for action in find_actions(records, distributions):
        compared[action.id].setdefault("action", action.action)  # the gravest comes first
        compared[action.id].setdefault("action_reason", action.reason)
    rows = [_row(record, compared[record.id]) for record in records]
    return pa.table({name: pa.array([row.get(name) for row in rows], type=kind) for name, kind in COLUMNS})


def _row(record: SlideRecord, compared: dict[str, Any]) -> dict[str, Any]:
    """The values by column; a column that is not there is null."""
    row = {
        "id": record.id,
        "path": record.slide.path,
        "status": record.status,
        "notes": " | ".join(record.notes or ()) or None,
        "wsiseg": record.versions.get("wsiseg"),
        "created": record.created,
    }
    row |= compared | (_failure(record) if isinstance(record, FailedRecord) else _results(record))
    # A path may hold bytes that are no text; Parquet's strings must be.
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}


def _failure(record: FailedRecord) -> dict[str, Any]:
    return {"error_kind": record.error.kind, "error": record.error.message}


def _results(record: SegmentedRecord) -> dict[str, Any]:
    slide, grade, settings, seams = record.slide, record.grade, record.settings, record.seams
    outside, seconds = record.outside, record.seconds
    return {
        "grade": grade.grade,
        "grade_low": grade.grade_low,
        "grade_high": grade.grade_high,
        "grade_kind": grade.kind,
        "bad_patches": grade.bad,
        "patches": grade.patches,
        "bad_fraction": grade.fraction,
        "interval_low": grade.interval[0],
        "interval_high": grade.interval[1],
        "confidence": grade.confidence,
        "grade_failure": grade.failure,
        "grade_words": grade.words or None,
        "assessed": grade.assessed,
        "patches_placed": grade.placed,
        "nuclei": record.nuclei,
        "tissue_mm2": record.tissue_mm2,
        "nuclei_per_mm2": density_per_mm2(record),
        "lost_mm2": record.lost.area_mm2,
        "lost_fraction": record.lost.fraction_of_tissue,
        **{name: getattr(record.typical or Typical(), name) for name in _TYPICAL},
        "usable_mm2": record.usable_mm2,
        **{f"artefact_{name}": record.artefacts.get(name) for name in KINDS},
        "outside_nuclei": outside.nuclei if outside else None,
        "outside_per_mm2": outside.per_mm2 if outside else None,
        "outside_share": outside.share if outside else None,
        **{f"tiles_{name}": value for name, value in vars(record.tiles).items()},
        "seam_density_ratio": seams.density_ratio,
        "seam_straight_edge_ratio": seams.straight_edge_ratio,
        "seam_nuclei": seams.band_nuclei,
        "seam_duplicates_removed": seams.duplicates_removed,
        "seam_adopted": seams.adopted,
        "width": slide.width,
        "height": slide.height,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "mpp_effective": settings.mpp_effective,
        "reader": slide.reader,
        "vendor": slide.vendor,
        "fingerprint": slide.fingerprint,
        "model": settings.model.name,
        "weights_sha256": settings.model.weights_sha256,
        "seconds": seconds.get("total"),
        **{f"seconds_{name}": seconds.get(name) for name in STAGES},
    }
