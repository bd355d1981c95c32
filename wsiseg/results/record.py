"""A slide's record (``slide.json``, docs/format.md): its type, and the one place that reads and writes it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from wsiseg.core.atomic import read_json, write_json
from wsiseg.core.sealed import FileNote
from wsiseg.core.typed import Count, Misfit, Number, as_plain, as_typed
from wsiseg.errors import UsageError

FORMAT_VERSION = 1
SCHEMA = "wsiseg.slide"
RECORD_NAME = "slide.json"
_DEEPEST = 32
"""Levels that the values of a specification may be nested."""


@dataclass(frozen=True)
class ErrorNote:
    """Why a slide failed: the error's type and text."""

    kind: str
    message: str


@dataclass(frozen=True)
class SlidePlace:
    """All that is known of every slide."""

    path: str
    name: str


@dataclass(frozen=True, kw_only=True)
class SlideDescription:
    """The slide that was segmented. ``levels``: (width, height); ``bounds``: x0, y0, x1, y1 in level-0 pixels.

    ``bytes`` is None for a slide that is a folder.
    """

    path: str
    name: str
    bytes: Count | None = None
    fingerprint: str
    reader: str
    vendor: str
    width: Count
    height: Count
    levels: tuple[tuple[Count, Count], ...]
    mpp: Number
    mpp_source: str
    bounds: tuple[Number, Number, Number, Number]


@dataclass(frozen=True)
class Tiles:
    """How many tiles the slide has, and what became of them; ``blank`` ones were not looked at."""

    total: Count
    done: Count
    blank: Count
    failed: Count


class LostBox(NamedTuple):
    """A part of the slide that was not segmented, in level-0 pixels, and why."""

    x0: Number
    y0: Number
    x1: Number
    y1: Number
    reason: str


@dataclass(frozen=True)
class Lost:
    """What was not segmented although it was wanted."""

    area_mm2: Number
    fraction_of_tissue: Number
    boxes: tuple[LostBox, ...]


@dataclass(frozen=True)
class Outside:
    """What was found just outside the tissue: whether its mask has missed nuclei.

    Attributes
    ----------
    windows : int
        Windows of 128 µm that were segmented, within 128 µm of the tissue.
    area_mm2 : float
        What of them lies outside.
    nuclei : int
        Nuclei whose centroid lies there. They are not in the result.
    per_mm2 : float
        The same per mm².
    share : float
        Of all nuclei within 128 µm of the tissue, on it or not, those expected outside.
    """

    windows: Count
    area_mm2: Number
    nuclei: Count
    per_mm2: Number
    share: Number


@dataclass(frozen=True)
class Seams:
    """What stitching did, and whether seams can be seen in the result.

    Attributes
    ----------
    band_nuclei : int
        Nuclei in the result whose centroid lies in the seam band.
    duplicates_removed : int
        Owned candidates that were dropped: ownership alone would have kept them twice.
    adopted : int
        Kept candidates that their tile does not own: ownership alone would have lost them.
    density_ratio : float or None
        Nuclei per area within the band over nuclei per area beside it (one to three bands from the seam).
        Near 1 if nothing is lost or doubled at seams; drawn towards 1 where there are few nuclei. None where fewer
        than 50 lie beside seams.
    straight_edge_ratio : float or None
        Of the nuclei that touch a seam, the share with a straight edge on it of at least half the nucleus'
        diameter, over the same share at control lines between the seams. Near 1 if seams do not cut nuclei, and
        above 3 if they do: of nuclei that a seam cuts two thirds have such an edge, of others two in a hundred.
        Drawn towards 1 where few have one. None where fewer than 50 nuclei touch seams or controls.
    """

    band_nuclei: Count
    duplicates_removed: Count
    adopted: Count
    density_ratio: Number | None
    straight_edge_ratio: Number | None


@dataclass(frozen=True)
class Performance:
    """How the run went that ended a slide, by the clock; in a cohort other slides' tasks run in between.

    Attributes
    ----------
    bound : str
        What took most of it: an activity of the tiles ("read", "infer", "measure", …), or "end".
    tiles_s : float
        Seconds from the plan to the last tile.
    end_s : float
        From there to the record: stitching, labels, grade, pictures.
    mpx_per_s : float
        Megapixels at the model's mpp, of the tiles that this run computed, in a second of both.
    peak_mib : float
        The most memory that a process has held when it computed tiles or published.
    device_busy : float or None
        The share of the time in which the devices computed, 0 to 1; None where nobody measured it.
    """

    bound: str
    tiles_s: Number
    end_s: Number
    mpx_per_s: Number
    peak_mib: Number
    device_busy: Number | None = None


@dataclass(frozen=True)
class GradeRecord:
    """The slide's grade and what it rests on, see :class:`wsiseg.qc.rubric.Grade`; ``rubric``: shares as "1/15".

    Grades of before there was a judge have no ``words`` and no ``placed``; all of them were assessed.
    """

    kind: str
    grade: str
    bad: Count
    patches: Count
    fraction: Number | None
    interval: tuple[Number, Number]
    confidence: Number
    grade_low: str
    grade_high: str
    failure: str | None
    reasons: Mapping[str, Count]
    check: str | None = None
    rubric: Mapping[str, str | Number] | None = None
    assessed: bool = True
    words: str = ""
    placed: Count | None = None

    @property
    def summary(self) -> str:
        """The share of bad patches and of how many, in a few words."""
        if self.fraction is None or self.placed is None:
            return f"{self.bad} of {self.patches} patches bad"
        return f"{self.fraction:.0%} of {self.patches:,} patches expected bad"


@dataclass(frozen=True, kw_only=True)
class Typical:
    """What a slide's judged patches typically have: medians, None where nothing could be measured.

    Attributes
    ----------
    nuclear_area_um2 : float or None
        Of the patches' median areas, each patch weighed by its nuclei.
    hematoxylin_od, eosin_od : float or None
        Of the tissue's mean optical densities (base 10).
    detail : float or None
        Of how sharp the image is: detail finer than 1 µm over detail of 1–4 µm.
    expected_aji, score : float or None
        Of the patches' expected AJI, and of the mean score of their nuclei.
    """

    nuclear_area_um2: Number | None = None
    hematoxylin_od: Number | None = None
    eosin_od: Number | None = None
    detail: Number | None = None
    expected_aji: Number | None = None
    score: Number | None = None


@dataclass(frozen=True)
class ModelNote:
    """What a specification says of the model that others rely on."""

    name: str
    weights_sha256: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class ImportNote:
    """What a specification says of imported outlines: their format, and what their files call the slide."""

    format: str
    name: str


@dataclass(frozen=True)
class ContentNote:
    """What a specification says of the files of an import."""

    sha256: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a specification says that others rely on. The whole of it is hashed, and stays as it was written."""

    model: ModelNote
    calibration: Mapping[str, str | Number]
    mpp_effective: Number
    mpp_requested: Number | None = None
    tile_px: Count | None = None
    halo_px: Count | None = None
    imported_from: ImportNote | None = None
    imported: ContentNote | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentedRecord:
    """The record of a slide that was segmented, with or without losses.

    ``types`` is None, and not in the JSON, for a model without types. ``outside`` is None where nothing is outside.
    ``usable_mm2``: tissue without a spoiling artefact; None in records of before they were mapped. ``typical`` is
    None in records of before it was noted. ``performance``: None where the run that ended it computed no tile, and
    in older records.
    """

    schema: Literal["wsiseg.slide"] = "wsiseg.slide"
    version: Count = FORMAT_VERSION
    id: str
    status: Literal["complete", "partial"]
    error: None = None
    notes: tuple[str, ...] = ()
    key: str
    slide: SlideDescription
    specification: Mapping[str, Any]
    tiles: Tiles
    lost: Lost
    nuclei: Count
    types: Mapping[str, Count] | None = None
    tissue_mm2: Number
    artefacts: Mapping[str, Number | None]
    usable_mm2: Number | None = None
    outside: Outside | None = None
    seams: Seams
    grade: GradeRecord
    typical: Typical | None = None
    timings_s: Mapping[str, Number | Mapping[str, Number]]
    performance: Performance | None = None
    files: Mapping[str, FileNote] = field(default_factory=dict)
    versions: Mapping[str, str]
    created: str

    @property
    def settings(self) -> Settings:
        """The specification's, as typed values."""
        return as_typed(self.specification, Settings)

    @property
    def seconds(self) -> dict[str, float]:
        """``timings_s`` by stage, without those of a stage's parts."""
        return {name: value for name, value in self.timings_s.items() if not isinstance(value, Mapping)}

    def moved(self, path: str, name: str) -> SegmentedRecord:
        """The record of the same slide at another place."""
        return replace(self, slide=replace(self.slide, path=path, name=name))

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return _json(self)


@dataclass(frozen=True, kw_only=True)
class FailedRecord:
    """The record of a slide that could not be segmented: all that a result would say is None."""

    schema: Literal["wsiseg.slide"] = "wsiseg.slide"
    version: Count = FORMAT_VERSION
    id: str
    status: Literal["failed"] = "failed"
    error: ErrorNote
    slide: SlidePlace
    key: None = None
    specification: None = None
    tiles: None = None
    lost: None = None
    nuclei: None = None
    tissue_mm2: None = None
    artefacts: None = None
    outside: None = None
    seams: None = None
    grade: None = None
    timings_s: None = None
    notes: None = None
    versions: Mapping[str, str]
    created: str

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return _json(self)


SlideRecord = SegmentedRecord | FailedRecord


class NotARecord(ValueError):
    """A JSON value cannot be relied on as a slide's record; the text says why."""


def read_record(folder: Path) -> SlideRecord | None:
    """The record of the slide whose results are in ``folder``; None where there is none that can be relied on.

    Raises
    ------
    UsageError
        It is of a newer format than this version knows.
    """
    value = read_json(folder / RECORD_NAME)
    if value is not None:
        with contextlib.suppress(NotARecord):
            return parse_record(value, folder)
    return None


def why_no_record(folder: Path) -> str:
    """Why :func:`read_record` finds none in ``folder``."""
    if not (folder / RECORD_NAME).exists():
        return f"it has no {RECORD_NAME}"
    value = read_json(folder / RECORD_NAME)
    if value is None:
        return f"{RECORD_NAME}: not JSON"
    try:
        parse_record(value, folder)
    except NotARecord as error:
        return f"{RECORD_NAME}: {error}"
    return f"{RECORD_NAME} has just appeared"


def write_record(folder: Path, record: SlideRecord) -> None:
    """Write the record into a slide's folder, atomically."""
    write_json(folder / RECORD_NAME, record.to_dict())


@dataclass(frozen=True)
class _Head:
    """What tells a record of any version."""

    schema: Literal["wsiseg.slide"]
    version: Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class _Status:
    id: str
    status: Literal["complete", "partial", "failed"]


def parse_record(value: object, folder: Path | str) -> SlideRecord:
    """A JSON value as the record of the slide whose results are in ``folder``, a path or a URL.

    Names are checked as well: they become names of files that are written.

    Raises
    ------
    NotARecord
        It cannot be relied on.
    UsageError
        It is of a newer format than this version knows.
    """
    try:
        version = as_typed(value, _Head).version
        if version > FORMAT_VERSION:  # what it holds is for its own version to say
            raise UsageError(
                f"{folder}: holds results of format {version}, made by a newer wsiseg.\n"
                f"Expected: format {FORMAT_VERSION} at most. Use that wsiseg, or choose another folder."
            )
        head = as_typed(value, _Status)
        record: SlideRecord
        if head.status == "failed":
            record = as_typed(value, FailedRecord)
        else:
            record = as_typed(value, SegmentedRecord)
            _check_specification(record.specification)
    except Misfit as error:
        raise NotARecord(str(error)) from None
    name = os.path.basename(os.path.abspath(folder))
    if record.id != name:
        raise NotARecord(f"its id is {record.id!r}, its folder {name!r}")
    if record.slide.name in ("", ".", "..") or "/" in record.slide.name or "\0" in record.slide.name:
        raise NotARecord(f"slide.name is {record.slide.name!r}")
    return record


def _check_specification(value: Mapping[str, Any]) -> None:
    try:
        as_typed(value, Settings)
    except Misfit as error:
        raise Misfit(f"specification.{error.place}".removesuffix("."), error.cause) from None
    if _deeper(value, _DEEPEST):
        raise Misfit("specification", "nested too deep")


def _deeper(value: object, levels: int) -> bool:
    """Whether a JSON value is nested deeper than so many levels."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner)


def _json(record: SlideRecord) -> dict[str, Any]:
    plain: dict[str, Any] = as_plain(record)
    if plain.get("types", record) is None:
        del plain["types"]
    return plain
