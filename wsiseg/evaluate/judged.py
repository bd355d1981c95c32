"""The patches of runs with what was expected of each and what the truth makes of it, as one table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.core.featurefile import viewer_origin
from wsiseg.core.geometry import Box, FloatArray
from wsiseg.core.nuclei import BoolArray, Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.errors import SlideError, UsageError
from wsiseg.evaluate.compare import Labels, Source, find_sources, listed, match_name
from wsiseg.evaluate.scores import evaluate
from wsiseg.qc.judge import JUDGEMENT
from wsiseg.results.folder import nuclei_file, patches_file, slide_results
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.record import SegmentedRecord

MIN_TRUE = 5
"""True nuclei of a patch from which on its AJI and F1 say something."""
TRUE = ("aji", "f1", "precision", "recall")
"""What a truth makes of a patch."""
NAMED = ("image", "run", "model", "fault")
"""What a patch is called and belongs to, besides the columns of a user's table."""

_PLACE = ("x", "y", "width", "height")
_MEASURED = {"score": np.float64, **dict.fromkeys(TRUE, np.float64), "nuclei": np.int64, "true_nuclei": np.int64}

Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class BadLimits:
    """What makes a patch bad: an AJI below the one, or an F1 (IoU 0.5) below the other."""

    aji: float = 0.40
    f1: float = 0.60

    def __post_init__(self) -> None:
        if not (0 < self.aji < 1 and 0 < self.f1 < 1):
            raise UsageError(
                f"A patch is bad below AJI {self.aji:g} or F1 {self.f1:g}: expected numbers in (0, 1)."
            )

    def bad(self, aji: FloatArray, f1: FloatArray) -> BoolArray:
        """Which patches are bad, by their AJI and F1 (P,)."""
        return (aji < self.aji) | (f1 < self.f1)


@dataclass(frozen=True)
class Judged:
    """The patches of some runs.

    Attributes
    ----------
    columns : mapping of str to array (P,)
        :data:`NAMED` and the table's (str); ``x, y, width, height`` (int64, level 0); :data:`JUDGEMENT` (float64);
        ``score``, the mean of the patch's nuclei (float64, NaN without any); :data:`TRUE` (float64); ``nuclei`` and
        ``true_nuclei`` (int64). ``fault`` is "" for a patch as it is.
    few : int
        Patches that were left out for having too few true nuclei.
    without_truth, without_results : tuple of str
        Names that were left out because the other side has nothing of that name.
    without_patches : tuple of str
        Images of which a run has judged nothing, for want of tissue.
    """

    columns: Columns
    few: int
    without_truth: tuple[str, ...]
    without_results: tuple[str, ...]
    without_patches: tuple[str, ...]


def judged_patches(
    truth: Path,
    results: Sequence[Path],
    *,
    degraded: Sequence[Path] = (),
    table: Path | None = None,
    truth_mpp: float | None = None,
    min_true: int = MIN_TRUE,
    allow_missing: bool = False,
) -> Judged:
    """Every judged patch of the runs that has a truth.

    Parameters
    ----------
    truth : Path
        As of :func:`wsiseg.evaluate.compare.evaluate_sets`. It must be complete wherever a patch was judged.
        One label pixel is one level-0 pixel, unless ``truth_mpp`` is given. Polygons are drawn at level 0.
    results : sequence of Path
        Results folders of ``wsiseg segment``, or slides' folders in one. Each may hold the same images.
    degraded : sequence of Path
        The same, of images or outlines that were degraded; the folder's name becomes their ``fault``.
    table : Path or None
        CSV with the column ``slide``: file name, with or without suffix, or the name of the result's folder. Its
        column ``truth`` says which image of ``truth`` belongs to it, ``fault`` what was degraded; others may be
        named to group by.
    truth_mpp : float or None
        Microns per pixel of the label images, where these are not the slides'.
    min_true : int
        Patches of fewer true nuclei are left out.
    allow_missing : bool
        Leave out what has no partner, and say so, instead of raising.

    Raises
    ------
    UsageError
        Nothing to compare, a partner is missing, sizes differ, a table or a truth cannot be read, or the patches
        were not judged.
    SlideError
        Results are damaged.
    """
    truths = {source.name: source for source in find_sources(truth)}
    said = _read_table(table) if table else _Table((), {})
    parts: list[Columns] = []
    without: list[str] = []
    blank: list[str] = []
    matched: set[str] = set()
    named_slides: set[str] = set()
    for run, fault in [*((run, "") for run in results), *((run, _name(run)) for run in degraded)]:
        for folder, record in slide_results(run):
            row = said.row(folder, record)
            named_slides.add(row.get("slide", ""))
            name = match_name(row.get("truth") or record.slide.name)
            if name not in truths:
                without.append(name)
                continue
            matched.add(name)
            named = {
                **{column: row.get(column, "") for column in said.columns},
                "image": name,
                "run": _name(run),
                "model": record.settings.model.name,
                "fault": row.get("fault") or fault,
            }
            part = _patches(folder, record, truths[name], truth_mpp, named)
            blank += [] if len(part["x"]) else [name]
            parts.append(part)
    unused = tuple(name for name in truths if name not in matched)
    if not parts or ((without or unused) and not allow_missing):
        raise UsageError(_unmatched(truth, without, unused, bool(parts)))
    strangers = sorted(said.rows.keys() - named_slides)
    if strangers and not allow_missing:
        raise UsageError(
            f"{table}: no results for {listed(strangers)}. Expected the names of slides that were segmented; "
            "--allow-missing takes the others."
        )
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    enough = np.asarray(columns["true_nuclei"]) >= min_true
    if not enough.any():
        raise UsageError(
            f"{truth}: none of {len(enough)} judged patches has {min_true} true nuclei or more. Expected a truth "
            "that is complete where patches were judged; --min-true lowers the limit."
        )
    kept = {name: column[enough] for name, column in columns.items()}
    left_out = (tuple(sorted(set(names))) for names in (without, unused, blank))
    return Judged(kept, int((~enough).sum()), *left_out)


def true_scores(truth: Labels, pred: Labels) -> dict[str, float]:
    """:data:`TRUE` of a patch, whose labels (h, w) both are cut at its border."""
    scores = evaluate(truth, pred)
    return {name: getattr(scores, name) for name in TRUE}


def _patches(
    folder: Path, record: SegmentedRecord, truth: Source, truth_mpp: float | None, named: Mapping[str, str]
) -> Columns:
    """The patches of one slide."""
    table = _judgements(patches_file(folder, record))
    nuclei = read_nuclei(nuclei_file(folder, record))
    known = truth.read(viewer_origin(Box(*record.slide.bounds)))[0]
    factor = _level0_pixels(known, record, truth, truth_mpp)
    boxes = [Box(x, y, x + w, y + h) for x, y, w, h in zip(*(table[n].tolist() for n in _PLACE), strict=True)]
    rows = [_compared(known, factor, nuclei, box) for box in boxes]
    measured = {name: np.array([row[name] for row in rows], dtype=kind) for name, kind in _MEASURED.items()}
    texts = {name: np.full(len(rows), text) for name, text in named.items()}
    return {**texts, **table, **measured}


def _compared(truth: Labels | Nuclei, factor: float, nuclei: Nuclei, box: Box) -> dict[str, float]:
    """One patch: the scores of its nuclei, in the truth's pixels of ``factor`` level-0 pixels."""
    x0, y0, x1, y1 = (round(edge / factor) for edge in (box.x0, box.y0, box.x1, box.y1))
    if isinstance(truth, Nuclei):
        true = _drawn(truth.take(truth.overlapping(box)), 1.0, (y1 - y0, x1 - x0), (x0, y0))
    else:
        true = truth[y0:y1, x0:x1]
    near = nuclei.take(nuclei.overlapping(box))
    pred = _drawn(near, factor, (true.shape[0], true.shape[1]), (x0, y0))
    seen = np.unique(pred)
    seen = seen[seen > 0]
    scored = "score" in near.columns and len(seen) > 0
    return {
        "score": float(np.asarray(near.columns["score"], np.float64)[seen - 1].mean()) if scored else np.nan,
        **true_scores(true, pred),
        "nuclei": len(seen),
        "true_nuclei": int(np.count_nonzero(np.unique(true))),
    }


def _drawn(nuclei: Nuclei, factor: float, shape: tuple[int, int], origin: tuple[int, int]) -> Labels:
    small = Nuclei(nuclei.vertices / factor, nuclei.offsets)
    return rasterize(small, np.arange(1, len(small) + 1), shape, origin)


def _level0_pixels(
    truth: Labels | Nuclei, record: SegmentedRecord, source: Source, truth_mpp: float | None
) -> float:
    """Level-0 pixels for each pixel of the truth."""
    slide = record.slide
    if isinstance(truth, Nuclei):
        if truth_mpp is not None:
            raise UsageError(f"{source.path}: polygons; expected them in level-0 pixels, without --truth-mpp")
        return 1.0
    factor = 1.0 if truth_mpp is None else truth_mpp / slide.mpp
    if any(
        abs(side * factor - own) > factor
        for side, own in zip(truth.shape, (slide.height, slide.width), strict=True)
    ):
        given = "one level-0 pixel" if truth_mpp is None else f"{truth_mpp:g} µm by --truth-mpp"
        raise UsageError(
            f"{source.path}: {truth.shape[1]} × {truth.shape[0]} label pixels of {given}, and a slide of "
            f"{slide.width} × {slide.height} level-0 pixels of {slide.mpp:g} µm.\n"
            "Expected: labels that cover the slide. Say their microns per pixel with --truth-mpp."
        )
    return factor


def _judgements(path: Path) -> Columns:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise SlideError(
            f"{path}: cannot be read as judged patches ({' '.join(str(error).split())}).\n"
            f"Expected: the columns {', '.join((*_PLACE, *JUDGEMENT))}. Run `wsiseg segment` again."
        ) from error
    missing = {*_PLACE, *JUDGEMENT} - set(table.column_names)
    if missing and len(table):  # of a slide without a patch there is not even a column
        raise UsageError(
            f"{path}: has no {', '.join(sorted(missing))}: the run is of before there was a judge.\n"
            "Run `wsiseg segment` again, into another folder or with --overwrite."
        )
    kinds = {**dict.fromkeys(_PLACE, np.int64), **dict.fromkeys(JUDGEMENT, np.float64)}
    if not len(table):
        return {name: np.empty(0, kind) for name, kind in kinds.items()}
    return {name: table.column(name).to_numpy().astype(kind) for name, kind in kinds.items()}


@dataclass(frozen=True)
class _Table:
    """A user's table: its columns without ``slide``, and its rows by slide."""

    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, str]]

    def row(self, folder: Path, record: SegmentedRecord) -> Mapping[str, str]:
        names = (record.slide.path, record.slide.name, match_name(record.slide.name), folder.name)
        return next((self.rows[name] for name in names if name in self.rows), {})


def _read_table(path: Path) -> _Table:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        separator = next((mark for mark in ("\t", ";") if lines and mark in lines[0]), ",")
        reader = csv.DictReader(lines, delimiter=separator, skipinitialspace=True)
        rows = [{name: (text or "").strip() for name, text in row.items() if name} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path}: cannot be read as a table: {error}. Expected a CSV with a column slide."
        ) from error
    columns = tuple(name for name in reader.fieldnames or () if name)
    if "slide" not in columns:
        raise UsageError(f"{path}: columns are {', '.join(columns) or 'none'}; expected a header with slide.")
    if taken := set(columns) & {"image", "run", "model", *_PLACE, *JUDGEMENT, *_MEASURED}:
        raise UsageError(
            f"{path}: the column {sorted(taken)[0]!r} has a meaning of its own; expected another name."
        )
    by_slide = {row["slide"]: row for row in rows}
    if len(by_slide) < len(rows):
        raise UsageError(f"{path}: a slide has two rows; expected one row a slide.")
    return _Table(tuple(name for name in columns if name not in ("slide", "truth")), by_slide)


def _name(run: Path) -> str:
    return run.resolve().name


def _unmatched(truth: Path, without: Sequence[str], unused: Sequence[str], some: bool) -> str:
    parts = [f"no truth in {truth} for {listed(sorted(set(without)))}"] * bool(without)
    parts += [f"no results for {listed(unused)}"] * bool(unused)
    remedy = "--allow-missing takes the others." if some else "Nothing is left to validate."
    return "; ".join(parts) + f". Images are matched by file name without suffix. {remedy}"
