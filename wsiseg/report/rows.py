"""A slide's record as the report shows it: numbers as text, with their units and what they sort by."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsiseg.qc.rubric import GRADES
from wsiseg.report.cohort import density_per_mm2, lookup, lookup_number, lookup_numbers, lookup_table, notes

#: What to do about an error, by its kind, beside what the message itself says.
REMEDIES: Mapping[str, str] = {
    "MissingMppError": "Give the slide's microns per pixel with --mpp, or those of many slides with --mpp-csv.",
    "ReadError": "Check the file against its source (checksum, size) and copy it again.",
    "SlideError": "Check that the file is a complete slide in a supported format; copy it again if it is cut off.",
    "ModelError": "Check the model's name or file with `wsiseg models`.",
    "EnvironmentFault": "Nothing is wrong with the slide: mend the disk or the cluster and run the same command.",
    "WorkerDied": "Give each worker more memory or use a smaller --tile, and run the same command: it resumes.",
    "UsageError": "Correct the option that the message names and run again.",
}
_OTHER_REMEDY = "Run the same command again; if it fails again, report it with the message."
_PLOT_MAX = 5 / 15  # shares beyond the worst limit need no more room than to be seen as such
_PLOT_PX = 100.0


@dataclass(frozen=True)
class Interval:
    """A share and its interval as positions on a plot that is 100 units wide; None for what lies beyond it."""

    low: float
    high: float
    point: float | None
    beyond: bool
    text: str
    share: float


@dataclass(frozen=True)
class Cell:
    """What a table's cell shows, and the value that it sorts by (None sorts last)."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """One slide in the report; texts are plain, the template escapes them."""

    id: str
    name: str
    path: str
    status: str
    grade: str | None
    rank: int
    grade_note: str
    interval: Interval | None
    nuclei: Cell
    tissue: Cell
    density: Cell
    lost: Cell
    seam: Cell
    mpp: Cell
    mpp_source: str
    seconds: Cell
    error_kind: str | None
    error: str | None
    remedy: str | None
    losses: tuple[str, ...]
    notes: tuple[str, ...]
    details: tuple[tuple[str, str], ...]
    link: str
    thumbnail: str | None


def make_row(record: Mapping[str, Any], thumbnail: str | None = None) -> Row:
    """The row of a record as in ``slide.json``; whatever the record lacks is shown as a dash."""
    name = str(lookup(record, "slide", "name") or record.get("id") or "?")
    grade = lookup(record, "grade", "grade")
    kind = lookup(record, "error", "kind")
    return Row(
        id=str(record.get("id") or name),
        name=name,
        path=str(lookup(record, "slide", "path") or ""),
        status=str(record.get("status") or "failed"),
        grade=grade if grade in GRADES else None,
        rank=GRADES.index(grade) if grade in GRADES else len(GRADES),
        grade_note=_grade_note(record),
        interval=_interval(record),
        nuclei=_cell(lookup_number(record, "nuclei"), ",.0f"),
        tissue=_cell(lookup_number(record, "tissue_mm2"), ",.1f"),
        density=_cell(density_per_mm2(record), ",.0f"),
        lost=_lost_cell(record),
        seam=_cell(lookup_number(record, "seams", "density_ratio"), ".3f"),
        mpp=_cell(lookup_number(record, "slide", "mpp"), ".4g"),
        mpp_source=str(lookup(record, "slide", "mpp_source") or "unknown"),
        seconds=_duration_cell(lookup_number(record, "timings_s", "total")),
        error_kind=str(kind) if kind else None,
        error=str(lookup(record, "error", "message") or kind or "") or None,
        remedy=REMEDIES.get(str(kind), _OTHER_REMEDY) if kind else None,
        losses=_losses(record),
        notes=notes(record),
        details=tuple((label, text) for label, text in _details(record) if text),
        link=urllib.parse.quote(f"./{record.get('id')}/thumbnail.png", errors="replace"),
        thumbnail=thumbnail,
    )


def duration(seconds: float) -> str:
    """For example "4.2 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _cell(number: float | None, form: str) -> Cell:
    return Cell("–") if number is None else Cell(f"{number:{form}}", number)


def _duration_cell(number: float | None) -> Cell:
    return Cell("–") if number is None else Cell(duration(number), number)


def _lost_cell(record: Mapping[str, Any]) -> Cell:
    share = lookup_number(record, "lost", "fraction_of_tissue")
    if share is None:
        return Cell("–")
    return Cell("0" if share == 0 else "< 0.01%" if share < 1e-4 else f"{share:.2%}", share)


def _grade_note(record: Mapping[str, Any]) -> str:
    """Who judged how many patches; what keeps a bare grade from looking like a verdict by a person."""
    grade = record.get("grade")
    if not isinstance(grade, Mapping):
        return ""
    note = f"{grade.get('kind', 'automatic')}, {grade.get('bad')} of {grade.get('patches')} patches bad"
    low, high = grade.get("grade_low"), grade.get("grade_high")
    if grade.get("failure"):
        return f"{note}; {grade['failure']}"
    return f"{note}; could be {low} to {high}" if low and high and low != high else note


def _interval(record: Mapping[str, Any]) -> Interval | None:
    share = lookup_number(record, "grade", "fraction")
    first, last = (lookup_number(record, "grade", "interval", k) for k in (0, 1))
    if share is None or first is None or last is None:
        return None
    confidence = lookup_number(record, "grade", "confidence") or 0.95
    low, high = (round(min(value, _PLOT_MAX) / _PLOT_MAX * _PLOT_PX, 1) for value in (first, last))
    point = round(share / _PLOT_MAX * _PLOT_PX, 1) if share <= _PLOT_MAX else None
    text = f"{share:.1%} bad, {confidence:.0%} interval {first:.1%} to {last:.1%}"
    return Interval(low, high, point, last > _PLOT_MAX, text, share)


def _losses(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What was lost, by reason: "3 areas: JPEG data are damaged"."""
    boxes = lookup(record, "lost", "boxes")
    counts: dict[str, int] = {}
    for box in boxes if isinstance(boxes, Sequence) else ():
        reason = str(box[4]) if isinstance(box, Sequence) and len(box) > 4 else "not known"
        counts[reason] = counts.get(reason, 0) + 1
    return tuple(f"{count:,} area{'s' * (count > 1)}: {reason}" for reason, count in sorted(counts.items()))


def _details(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    def get(*place: str | int) -> Any:
        return lookup(record, *place)

    def number(form: str, *place: str | int) -> str:
        value = lookup_number(record, *place)
        return "" if value is None else f"{value:{form}}"

    def counts(*place: str | int) -> str:
        return ", ".join(f"{name} {value:,.0f}" for name, value in lookup_numbers(record, *place).items())

    def pairs(*place: str | int) -> str:
        return ", ".join(f"{name} {value}" for name, value in lookup_table(record, *place).items())

    width, height = number(",.0f", "slide", "width"), number(",.0f", "slide", "height")
    mpp, effective = number(".4g", "slide", "mpp"), number(".4g", "specification", "mpp_effective")
    lost = number(",.3f", "lost", "area_mm2") if lookup(record, "lost", "area_mm2") else ""
    artefacts, timings = lookup_numbers(record, "artefacts"), lookup_numbers(record, "timings_s")
    return [
        ("Path", str(get("slide", "path") or "")),
        ("Size", f"{width} × {height} px" if width and height else ""),
        ("Read by", " · ".join(str(v) for v in (get("slide", "reader"), get("slide", "vendor")) if v)),
        ("Microns per pixel", f"{mpp} from {get('slide', 'mpp_source')}" if mpp else ""),
        ("Segmented at", f"{effective} µm/px" if effective else ""),
        ("Types of nuclei", counts("types")),
        ("Slide failure", str(get("grade", "failure") or "")),
        ("Bad patches", counts("grade", "reasons")),
        ("Check", str(get("grade", "check") or "")),
        ("Tiles", counts("tiles")),
        ("Lost area", f"{lost} mm²" if lost else ""),
        ("Artefacts", ", ".join(f"{k} {v:.1%}" for k, v in artefacts.items() if v)),
        ("Seams", _seam_text(lookup_numbers(record, "seams"))),
        ("Calibration", pairs("specification", "calibration")),
        ("Timings", ", ".join(f"{k} {duration(v)}" for k, v in timings.items())),
        ("Fingerprint", str(get("slide", "fingerprint") or "")),
        ("Versions", pairs("versions")),
        ("Made", str(get("created") or "")),
    ]


def _seam_text(seams: Mapping[str, float]) -> str:
    if not seams:
        return ""
    density, straight = seams.get("density_ratio"), seams.get("straight_edge_ratio")
    ratios = [
        f"density {density:.3f} of the interior" if density is not None else "",
        f"straight edges {straight:.3f} of the interior" if straight is not None else "",
    ]
    counts = f"{seams.get('duplicates_removed', 0):,.0f} duplicates removed, {seams.get('adopted', 0):,.0f} adopted"
    return "; ".join([text for text in ratios if text] + [counts])
