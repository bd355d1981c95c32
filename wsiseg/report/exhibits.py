"""What a page shows of a slide's quality, found in its results folder: the slide itself is not needed."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.artefacts.kinds import COLOURS, KINDS
from wsiseg.qc.grade import WORDS
from wsiseg.qc.judge import JUDGEMENT
from wsiseg.report.examples import ERROR_COLOURS, TYPICAL, WORST, named_examples
from wsiseg.report.gallery import ARTEFACTS, OVERVIEW, QUALITY
from wsiseg.report.qualitymap import BANDS, band_of
from wsiseg.report.rows import percent
from wsiseg.results.folder import PICTURES
from wsiseg.results.record import SegmentedRecord

_MOST_BYTES = 1_000_000  # of a picture: ours have a tenth of it
_MOST_TABLE_BYTES = 100_000_000
_COLUMNS = ("index", "reason", *JUDGEMENT)
_SHARES = {kind: f"share_{kind}" for kind in ERROR_COLOURS}
_LEAST_SHARE = 0.01

Patch = Mapping[str, Any]


@dataclass(frozen=True)
class Swatch:
    """A line of a legend: ``colour`` as "#rrggbb"."""

    colour: str
    text: str


@dataclass(frozen=True)
class Picture:
    """``link``: to its file, relative to the page. ``source``: the same, or the picture itself."""

    link: str
    source: str
    title: str
    caption: str
    legend: tuple[Swatch, ...] = ()


@dataclass(frozen=True)
class Exhibits:
    """The maps of a slide, its worst patches and its typical ones."""

    maps: tuple[Picture, ...] = ()
    worst: tuple[Picture, ...] = ()
    typical: tuple[Picture, ...] = ()


def gather_exhibits(folder: Path, record: SegmentedRecord, *, embed: bool) -> Exhibits:
    """The pictures in ``folder``, a slide's results, with what is to be said of them.

    Parameters
    ----------
    embed : bool
        Pictures as part of the page, instead of links to where they are beside it.

    Returns
    -------
    Exhibits
        Without what is not there, as in results of before there were pictures, or cannot be read.
    """
    place = folder / PICTURES
    names = {path.name for path in place.iterdir()} if place.is_dir() else set()
    table = _patches(folder / "patches.parquet") if names else {}
    found = {name: source for name in names if (source := _embedded(place / name) if embed else name)}
    beside = urllib.parse.quote(f"./{folder.name}/{PICTURES}/" if embed else f"./{PICTURES}/", errors="replace")

    def picture(name: str, title: str, caption: str, legend: tuple[Swatch, ...] = ()) -> Picture:
        return Picture(beside + name, found[name] if embed else beside + name, title, caption, legend)

    maps = (
        (OVERVIEW, "The slide", "", ()),
        (QUALITY, "Quality of the outlines", _judged_text(record), _quality_legend(table.values())),
        (ARTEFACTS, "Artefacts", *_artefacts_said(record)),
    )
    examples = named_examples(found)
    shown = {
        one: picture(one.file, one.label, _caption(row := table.get(one.index)), _errors(row)) for one in examples
    }
    return Exhibits(
        tuple(picture(*one) for one in maps if one[0] in found),
        tuple(shown[one] for one in examples if one.kind == WORST),
        tuple(shown[one] for one in examples if one.kind == TYPICAL),
    )


def _embedded(path: Path) -> str | None:
    """A JPEG as a data URI; None where there is none, or something else."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(b"\xff\xd8"):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def _patches(path: Path) -> Mapping[int, Patch]:
    """What the captions say, by the patches' index; empty where the table cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_TABLE_BYTES:
            return {}
        there = pq.read_schema(path).names
        shares = [name for name in _SHARES.values() if name in there]  # not in files of before there were opinions
        rows = pq.read_table(path, columns=[*_COLUMNS, *shares]).to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    return {row["index"]: row for row in rows if row["p_bad"] is not None}


def _artefacts_said(record: SegmentedRecord) -> tuple[str, tuple[Swatch, ...]]:
    shares = {kind: record.artefacts.get(kind) or 0.0 for kind in KINDS}
    legend = tuple(
        Swatch(_hex(COLOURS[kind]), f"{KINDS[kind]} {percent(share)}") for kind, share in shares.items() if share
    )
    return "Shares are of all that is not glass." if legend else "None was found.", legend


def _judged_text(record: SegmentedRecord) -> str:
    grade = record.grade
    placed = f" of {grade.placed:,}" if grade.placed not in (None, grade.patches) else ""
    sample = ", a random sample; the others have no colour" if placed else ""
    return f"{grade.patches:,}{placed} patches were judged{sample}. Frames: the patches below."


def _errors(patch: Patch | None) -> tuple[Swatch, ...]:
    """What the second opinion has against a patch's outlines, by kind, of all that either covers."""
    shares = {kind: (patch or {}).get(name) for kind, name in _SHARES.items()}
    return tuple(
        Swatch(_hex(ERROR_COLOURS[kind]), f"{WORDS[kind]} {percent(share)}")
        for kind, share in shares.items()
        if share is not None and share >= _LEAST_SHARE
    )


def _quality_legend(patches: Collection[Patch]) -> tuple[Swatch, ...]:
    p_bad: npt.NDArray[np.float64] = np.array([patch["p_bad"] for patch in patches], dtype=np.float64)
    counts = np.bincount(band_of(p_bad), minlength=len(BANDS)).tolist()
    limits = [0.0, *(band.below for band in BANDS[:-1]), 1.0]
    return tuple(
        Swatch(_hex(band.colour), f"{band.words}, P(bad) {low:.2f}–{high:.2f}: {count:,}")
        for band, low, high, count in zip(BANDS, limits[:-1], limits[1:], counts, strict=True)
    )


def _caption(patch: Patch | None) -> str:
    """Why it is bad, in words, and what is expected of it, in numbers."""
    if patch is None:
        return ""
    reason, p_bad = str(patch["reason"] or ""), float(patch["p_bad"])
    words = WORDS.get(reason, reason) if reason else BANDS[int(band_of(p_bad))].words
    expected, low, high = (np.nan if patch[name] is None else float(patch[name]) for name in JUDGEMENT[:3])
    aji = (
        f"expected AJI {expected:.2f} (90%: {low:.2f}–{high:.2f})"
        if expected == expected
        else "too little for an AJI"
    )
    return f"{words[:1].upper()}{words[1:]}; {aji}, P(bad) {p_bad:.2f}."


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
