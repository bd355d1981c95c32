"""What to do about which slide of a cohort, and why: ``actions.csv``, and the list in the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from wsiseg.artefacts.kinds import KINDS
from wsiseg.core.atomic import write_bytes
from wsiseg.core.columnfile import csv_bytes
from wsiseg.qc.rubric import GRADES
from wsiseg.qc.scale import SCALE_WRONG
from wsiseg.report.distributions import Distribution, distribute
from wsiseg.report.remedies import remedy
from wsiseg.results.record import FailedRecord, SegmentedRecord, SlideRecord

EXCLUDE, RESCAN, AGAIN, REVIEW = "exclude", "rescan", "run again", "review"
ACTIONS = {
    EXCLUDE: "Whatever is measured on it is not to be trusted.",
    RESCAN: "The glass may be good and the image is not.",
    AGAIN: "There is no result.",
    REVIEW: "A person should look before the slide is used.",
}
"""What can be done, the gravest first, and what it means."""

FILE = "actions.csv"
SPOILED = 0.2
"""Share of all that is not glass under one kind of artefact from which on a slide is to be scanned again."""
BADLY_STAINED = 0.5
_BAD = ("Problematic", "Unacceptable")
_CUT = 3.0  # straight_edge_ratio above which seams cut nuclei
_REMEDIES = {
    "out_of_focus": "scan it again",
    "pen": "clean the glass and scan it again",
    "dark": "clean the glass and scan it again",
    "edge": "mend the coverslip and scan it again",
    "fold": "take another section",
}


@dataclass(frozen=True)
class Action:
    """One thing to do about a slide; ``reason``: sentences without their full stop."""

    id: str
    path: str
    action: str
    reason: str


def find_actions(records: Sequence[SlideRecord], distributions: Sequence[Distribution]) -> tuple[Action, ...]:
    """What to do, the gravest first, then by the order of the records; at most one of each action a slide."""
    outliers = {name for distribution in distributions for name in distribution.outliers}
    found = [
        Action(record.id, record.slide.path, action, "; ".join(reasons))
        for record in records
        for action, reasons in _of_a_slide(record, distributions if record.id in outliers else ()).items()
    ]
    return tuple(sorted(found, key=lambda one: list(ACTIONS).index(one.action)))


def write_actions(out: Path, records: Sequence[SlideRecord]) -> Path:
    """Write ``actions.csv`` into ``out``, atomically: ``id``, ``path``, ``action``, ``reason``.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    actions = find_actions(records, distribute(records))
    # A path may hold bytes that are no text.
    columns = {
        name: [str(getattr(action, name)).encode("utf-8", "replace").decode() for action in actions]
        for name in ("id", "path", "action", "reason")
    }
    table = pa.table({name: pa.array(values, type=pa.string()) for name, values in columns.items()})
    write_bytes(out / FILE, csv_bytes(table))
    return out / FILE


def _of_a_slide(record: SlideRecord, distributions: Sequence[Distribution]) -> dict[str, list[str]]:
    if isinstance(record, FailedRecord):
        return {AGAIN: [f"{record.error.message or record.error.kind} {remedy(record.error.kind)}"]}
    grounds = ((EXCLUDE, _unusable), (RESCAN, _spoiled), (REVIEW, _doubtful))
    found = {action: list(reasons(record)) for action, reasons in grounds}
    if not found[EXCLUDE]:
        found[REVIEW] += [one.words(record.id) for one in distributions if record.id in one.outliers]
    else:
        found[REVIEW] = []  # who excludes a slide need not look at it
    return {action: reasons for action, reasons in found.items() if reasons}


def _unusable(record: SegmentedRecord) -> Iterator[str]:
    grade = record.grade
    if record.tissue_mm2 == 0:
        yield "no tissue was found"
    elif record.nuclei == 0:
        yield "no nucleus was found on its tissue"
    if grade.failure:
        yield grade.failure
    elif grade.assessed and grade.grade_low in _BAD and grade.fraction is not None:
        yield (
            f"graded {grade.grade}, and {grade.grade_low} at best: of its patches {grade.interval[0]:.0%} to "
            f"{grade.interval[1]:.0%} are bad"
        )


def _spoiled(record: SegmentedRecord) -> Iterator[str]:
    for name, what in _REMEDIES.items():
        share = record.artefacts.get(name) or 0.0
        if share >= SPOILED:
            yield f"{KINDS[name]} on {share:.0%} of it: {what}"
    if any(note.startswith(SCALE_WRONG) for note in record.notes or ()):
        yield (
            f"its nuclei look too large or too small: its {record.slide.mpp:.4g} µm per pixel are "
            "probably wrong; give the scanner's with --mpp, or scan it again"
        )


def _doubtful(record: SegmentedRecord) -> Iterator[str]:
    grade = record.grade
    if not grade.assessed:
        yield f"not assessed: {grade.words}".rstrip(". ")
    elif grade.grade in _BAD and grade.grade_low in GRADES and grade.grade_low not in _BAD:
        yield f"graded {grade.grade}, and could be {grade.grade_low}"
    for name in ("understained", "overstained"):
        share = record.artefacts.get(name) or 0.0
        if share >= BADLY_STAINED:
            yield f"{KINDS[name]} on {share:.0%} of it"
    if (record.seams.straight_edge_ratio or 0.0) >= _CUT:
        yield "nuclei are cut at the seams between tiles"
