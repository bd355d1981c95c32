"""A slide's record as the report shows it: numbers as text, with their units and what they sort by."""

from __future__ import annotations

import math
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wsiseg.core.typed import as_plain
from wsiseg.qc.grade import WORDS
from wsiseg.qc.rubric import GRADES
from wsiseg.report.actions import Action
from wsiseg.report.distributions import density_per_mm2
from wsiseg.report.pace import pace_text
from wsiseg.report.remedies import remedy
from wsiseg.results.folder import SLIDE_PAGE
from wsiseg.results.record import (
    ErrorNote,
    FailedRecord,
    GradeRecord,
    Lost,
    Outside,
    Seams,
    SegmentedRecord,
    Settings,
    SlideRecord,
    Typical,
)

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


DASH = Cell("–")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One slide in the report; texts are plain, the template escapes them. What a failed slide lacks is a dash."""

    id: str
    name: str
    path: str
    status: str
    grade: str | None = None
    rank: int = len(GRADES)
    grade_note: str = ""
    interval: Interval | None = None
    nuclei: Cell = DASH
    tissue: Cell = DASH
    density: Cell = DASH
    lost: Cell = DASH
    seam: Cell = DASH
    mpp: Cell = DASH
    mpp_source: str = "unknown"
    seconds: Cell = DASH
    error_kind: str | None = None
    error: str | None = None
    remedy: str | None = None
    losses: tuple[str, ...] = ()
    notes: tuple[str, ...]
    details: tuple[tuple[str, str], ...]
    link: str
    page: str | None
    thumbnail: str | None
    actions: tuple[Action, ...] = ()


def make_row(record: SlideRecord, thumbnail: str | None = None, actions: Sequence[Action] = ()) -> Row:
    """The row of a record, with what is to be done about its slide."""
    row = Row(
        id=record.id,
        name=record.slide.name,
        path=record.slide.path,
        status=record.status,
        notes=record.notes or (),
        details=tuple((label, text) for label, text in _details(record) if text),
        link=_link(record, "thumbnail.png"),
        page=_link(record, SLIDE_PAGE) if isinstance(record, SegmentedRecord) else None,
        thumbnail=thumbnail,
        actions=tuple(actions),
    )
    return _failed(row, record.error) if isinstance(record, FailedRecord) else _segmented(row, record)


def _link(record: SlideRecord, name: str) -> str:
    return urllib.parse.quote(f"./{record.id}/{name}", errors="replace")


def _failed(row: Row, error: ErrorNote) -> Row:
    message = error.message or error.kind
    return replace(row, error_kind=error.kind, error=message or None, remedy=remedy(error.kind))


def _segmented(row: Row, record: SegmentedRecord) -> Row:
    grade = record.grade.grade
    return replace(
        row,
        grade=grade if grade in GRADES else None,
        rank=GRADES.index(grade) if grade in GRADES else len(GRADES),
        grade_note=_grade_note(record.grade),
        interval=_interval(record.grade),
        nuclei=Cell(f"{record.nuclei:,}", float(record.nuclei)),
        tissue=_cell(record.tissue_mm2),
        density=_cell(density_per_mm2(record)),
        lost=_lost_cell(record.lost.fraction_of_tissue),
        seam=_cell(record.seams.density_ratio, ".3f"),
        mpp=_cell(record.slide.mpp, ".4g"),
        mpp_source=record.slide.mpp_source or "unknown",
        seconds=_duration_cell(record.seconds.get("total")),
        losses=_losses(record.lost),
    )


def duration(seconds: float) -> str:
    """For example "4.2 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def amount(number: float) -> str:
    """Three digits that count, whole numbers whole: "1,234", "12.3", "0.72", "0.0041"; nothing becomes nothing."""
    if number == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(number)))
    if digits > 6:
        return f"{number:.1e}"
    text = f"{number:,.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _cell(number: float | None, form: str = "") -> Cell:
    return DASH if number is None else Cell(f"{number:{form}}" if form else amount(number), float(number))


def _duration_cell(number: float | None) -> Cell:
    return DASH if number is None else Cell(duration(number), number)


def _lost_cell(share: float) -> Cell:
    return Cell("0" if share == 0 else "< 0.01%" if share < 1e-4 else f"{share:.2%}", share)


def percent(share: float) -> str:
    """A share that is not nothing, with one digit: "2.0%", and "< 0.1%" rather than none."""
    return "< 0.1%" if 0 < share < 5e-4 else f"{share:.1%}"


def _grade_note(grade: GradeRecord) -> str:
    """Who judged how many patches; what keeps a bare grade from looking like a verdict by a person."""
    note = f"{grade.kind}, {grade.summary}"
    if not grade.assessed:
        return f"{grade.grade}: {grade.words}"
    if grade.failure:
        return f"{note}; {grade.failure}"
    low, high = grade.grade_low, grade.grade_high
    return f"{note}; could be {low} to {high}" if low != high else note


def _interval(grade: GradeRecord) -> Interval | None:
    share, (first, last) = grade.fraction, grade.interval
    if share is None or not grade.assessed:
        return None
    low, high = (round(min(value, _PLOT_MAX) / _PLOT_MAX * _PLOT_PX, 1) for value in (first, last))
    point = round(share / _PLOT_MAX * _PLOT_PX, 1) if share <= _PLOT_MAX else None
    text = f"{share:.1%} bad, {grade.confidence:.0%} interval {first:.1%} to {last:.1%}"
    return Interval(low, high, point, last > _PLOT_MAX, text, share)


def _losses(lost: Lost) -> tuple[str, ...]:
    """What was lost, by reason: "3 areas: JPEG data are damaged"."""
    counts = Counter(box.reason for box in lost.boxes)
    return tuple(f"{count:,} area{'s' * (count > 1)}: {reason}" for reason, count in sorted(counts.items()))


def _details(record: SlideRecord) -> list[tuple[str, str]]:
    return [
        ("Path", record.slide.path),
        *(_measured(record) if isinstance(record, SegmentedRecord) else ()),
        ("Versions", _pairs(record.versions)),
        ("Made", record.created),
    ]


def _measured(record: SegmentedRecord) -> list[tuple[str, str]]:
    slide, grade, settings = record.slide, record.grade, record.settings
    return [
        ("Size", f"{slide.width:,} × {slide.height:,} px"),
        ("Read by", " · ".join(text for text in (slide.reader, slide.vendor) if text)),
        ("Microns per pixel", f"{slide.mpp:.4g} from {slide.mpp_source}"),
        ("Imported from", _import_text(settings)),
        ("Segmented at", f"{settings.mpp_effective:.4g} µm/px"),
        ("Types of nuclei", _counts(record.types or {})),
        ("Grade in words", grade.words),
        ("Slide failure", grade.failure or ""),
        ("Patches", f"{grade.patches:,} judged of {grade.placed:,}" if grade.placed is not None else ""),
        ("Bad patches", _counts({WORDS.get(name, name): count for name, count in grade.reasons.items()})),
        ("Judge", grade.check or ""),
        ("Tiles", _counts(as_plain(record.tiles))),
        ("Lost area", f"{amount(record.lost.area_mm2)} mm²" if record.lost.area_mm2 else ""),
        ("Artefacts", ", ".join(f"{name} {percent(share)}" for name, share in record.artefacts.items() if share)),
        ("Usable tissue", f"{amount(record.usable_mm2)} mm²" if record.usable_mm2 is not None else ""),
        ("Typical patch", _typical_text(record.typical)),
        ("Outside the tissue", _outside_text(record.outside)),
        ("Seams", _seam_text(record.seams)),
        ("Calibration", _pairs(settings.calibration)),
        ("Timings", ", ".join(f"{name} {duration(value)}" for name, value in record.seconds.items())),
        ("Last run", pace_text(record.performance) if record.performance else ""),
        ("Fingerprint", slide.fingerprint),
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _typical_text(typical: Typical | None) -> str:
    """What the judged patches have, as medians."""
    if typical is None:
        return ""
    told = (
        ("nuclei of {:.1f} µm²", typical.nuclear_area_um2),
        ("haematoxylin {:.2f} OD", typical.hematoxylin_od),
        ("eosin {:.2f} OD", typical.eosin_od),
        ("fine detail {:.2f}", typical.detail),
        ("score {:.2f}", typical.score),
        ("expected AJI {:.2f}", typical.expected_aji),
    )
    return ", ".join(form.format(value) for form, value in told if value is not None)


def _import_text(settings: Settings) -> str:
    if settings.imported_from is None or settings.imported is None:
        return ""
    source = settings.imported_from
    return f"{source.name} as {source.format}, SHA-256 {settings.imported.sha256}"


def _outside_text(outside: Outside | None) -> str:
    if outside is None:
        return ""
    return f"{outside.nuclei:,} nuclei in {outside.windows} windows beside it, {amount(outside.per_mm2)} per mm²"


def _seam_text(seams: Seams) -> str:
    density, straight = seams.density_ratio, seams.straight_edge_ratio
    ratios = [
        f"density {density:.3f} of the interior" if density is not None else "",
        f"straight edges {straight:.3f} of the interior" if straight is not None else "",
    ]
    counts = f"{seams.duplicates_removed:,} duplicates removed, {seams.adopted:,} adopted"
    return "; ".join([text for text in ratios if text] + [counts])
