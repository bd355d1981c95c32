"""What of an earlier run still holds for a slide: its finished result, or what was begun of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsiseg.errors import DamagedFile, UsageError
from wsiseg.results.folder import SlideFolder, WorkFolder, result_key
from wsiseg.results.plan import PLAN, TISSUE, WHOLE, SlidePlan, read_plan
from wsiseg.results.record import SegmentedRecord, write_record
from wsiseg.results.tissuefile import load_tissue
from wsiseg.slide import Slide, SlideSource
from wsiseg.slide.remote import location

_OF_THE_SLIDE = ("slide_mpp", "mpp_effective", "downsample")
"""What of a specification follows from the slide."""


@dataclass(frozen=True)
class Planned:
    """A plan to carry out in ``work``, or the record of a finished result that is still valid.

    ``notes``: what of an earlier run was not taken over, and why.
    """

    folder: SlideFolder
    plan: SlidePlan | None = None
    unchanged: SegmentedRecord | None = None
    notes: tuple[str, ...] = ()

    @property
    def work(self) -> WorkFolder:
        assert self.plan is not None
        return self.folder.in_progress(self.plan.key, self.plan.source)


@dataclass(frozen=True)
class Wanted:
    """What a slide is asked for, as far as it decides which result may be reused.

    Attributes
    ----------
    specification : mapping
        All that, with the slide's content, decides the result. JSON.
    overwrite : bool
        A result of other settings may be replaced.
    retry_partial : bool
        One of which some area was lost is not good enough.
    found : collection of str
        What of the specification is found rather than asked for: another value replaces a result without
        ``overwrite``, as another content of the slide does.
    """

    specification: Mapping[str, Any]
    overwrite: bool = False
    retry_partial: bool = False
    found: Collection[str] = ("calibration",)


def reuse_or_plan(
    slide: Slide,
    folder: SlideFolder,
    moved: Sequence[SlideFolder],
    wanted: Wanted,
    make: Callable[[str, WorkFolder], SlidePlan],
) -> Planned:
    """The slide's result where it is there already, else its plan: what was begun, or what ``make`` decides.

    Parameters
    ----------
    slide : Slide
    folder : SlideFolder
        Where results of this name lie.
    moved : sequence of SlideFolder
        Results of slides that are no longer where they were: if their content is this slide's, they are its own.
    wanted : Wanted
    make : callable
        Takes the key and the work folder, and writes the plan and the tissue there.

    Raises
    ------
    UsageError
        There is a result of another specification, and it is not to be replaced; or one of a newer format.
    EnvironmentFault
        The result cannot be replaced without losing what is not wsiseg's.
    """
    key = result_key(slide.fingerprint(), wanted.specification)
    folder = own_folder(slide, folder, moved)
    record = folder.record()
    notes: list[str] = []
    if isinstance(record, SegmentedRecord):
        stale = _stale(folder, record, key, slide, wanted)
        if stale is None:
            folder.clean()
            return Planned(folder, unchanged=_at_home(folder, record, slide))
        notes += [stale] if stale else []
    folder.require_replaceable()
    work = _work(slide, folder, key)
    plan = _resumable(work)
    if plan is None:
        if (work.path / PLAN).exists():
            notes.append("what an earlier run had begun is damaged or of another version: begun again")
        work.discard()
        plan = make(key, work)
    work.create()
    return Planned(folder, plan, notes=tuple(notes))


def has_begun(slide: Slide, folder: SlideFolder, specification: Mapping[str, Any]) -> bool:
    """Whether ``folder`` holds a result of a specification, or the plan for one."""
    key = result_key(slide.fingerprint(), specification)
    record = folder.record()
    return (record is not None and record.key == key) or _resumable(_work(slide, folder, key)) is not None


def own_folder(slide: Slide, folder: SlideFolder, moved: Sequence[SlideFolder]) -> SlideFolder:
    """Where the slide's results are: under its name, or where they were put before it was moved."""
    for other in moved:
        record = other.record()
        if isinstance(record, SegmentedRecord) and record.slide.fingerprint == slide.fingerprint():
            return other
    return folder


def _at_home(folder: SlideFolder, record: SegmentedRecord, slide: Slide) -> SegmentedRecord:
    """The record of a finished result, with the place that the slide has now."""
    moved = record.moved(location(slide.path), slide.name)
    if moved != record:
        write_record(folder.final, moved)
    return moved


def _stale(folder: SlideFolder, record: SegmentedRecord, key: str, slide: Slide, wanted: Wanted) -> str | None:
    """Why a finished result is to be computed again; None if it is valid, "" if there is nothing to say."""
    if record.key == key:
        if record.status == "partial" and wanted.retry_partial:
            return ""
        damage = folder.damage(record.files)
        return f"its finished result is not whole, {damage}: computed again" if damage else None
    changed = record.slide.fingerprint != slide.fingerprint()
    varying = (*wanted.found, *(_OF_THE_SLIDE if changed else ()))
    # As JSON: what was read has lists where there are tuples.
    now, held = (
        {name: value for name, value in settings.items() if name not in varying}
        for settings in (json.loads(json.dumps(wanted.specification)), record.specification)
    )
    if held != now and not wanted.overwrite:
        raise UsageError(
            f"{folder.final}: holds results of other settings: {_difference(held, now)}.\n"
            "Give --overwrite to replace them, or another -o to keep them."
        )
    if changed:
        return "the slide's content has changed since it was segmented: computed again"
    found = (name for name in wanted.found if name in wanted.specification)
    other = any(wanted.specification[name] != record.specification.get(name) for name in found)
    return "what its result was made from has changed: made again" if other else ""


def _difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first settings that differ, in words."""
    was, now = _flat(held), _flat(wanted)
    names = [name for name in {**now, **was} if was.get(name) != now.get(name)]
    texts = [f"{name} {was.get(name)} instead of {now.get(name)}"[:120] for name in names[:2]]
    return ", ".join(texts) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= _flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": item}
    return found


def _work(slide: Slide, folder: SlideFolder, key: str) -> WorkFolder:
    return folder.in_progress(key, SlideSource(location(slide.path), slide.require_mpp()))


def _resumable(work: WorkFolder) -> SlidePlan | None:
    """The plan of an earlier run, if it and the tissue beside it are whole."""
    plan = read_plan(work)
    if plan is not None:
        try:
            load_tissue(work.path / TISSUE)
            if (work.path / WHOLE).exists():
                load_tissue(work.path / WHOLE)
        except DamagedFile:
            return None
    return plan
