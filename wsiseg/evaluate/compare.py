"""Segmentations against truths: matched by name, scored image by image, summarised over images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from wsiseg.core.featurefile import viewer_origin
from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.overlap import label_overlap, polygon_overlap
from wsiseg.core.raster import rasterize
from wsiseg.errors import UsageError
from wsiseg.evaluate.intervals import Summary, summarize
from wsiseg.evaluate.pixels import auc, average_hausdorff
from wsiseg.evaluate.scores import object_f1, score
from wsiseg.evaluate.widths import WidthBin, add_bins, width_bins
from wsiseg.interop.geojson import read_objects
from wsiseg.interop.labelimage import SUFFIXES as LABEL_SUFFIXES
from wsiseg.interop.labelimage import read_labels, read_probabilities
from wsiseg.results.folder import read_records
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.record import RECORD_NAME, FailedRecord, SegmentedRecord, read_record

Labels: TypeAlias = npt.NDArray[np.integer]

#: IoU above which two objects are a pair for PQ, precision, recall and F1.
PAIR_IOU = 0.5
_POLYGON_SUFFIXES: dict[str, Literal["geoparquet", "geojson"]] = {
    ".parquet": "geoparquet",
    ".geojson": "geojson",
    ".geojson.gz": "geojson",
    ".json": "geojson",
}
_LISTED = 8


@dataclass(frozen=True)
class Source:
    """Where the objects of one image are, not yet read.

    Attributes
    ----------
    name : str
        What it is matched by: the file's name without suffix; of results the slide's.
    size : (height, width) or None
        The slide's in level-0 pixels, where the results say it.
    note : str or None
        What a reader of the scores must know, for example that the slide is partial.
    origin : (x, y)
        Of results: where in the slide GeoJSON's coordinates begin.
    """

    name: str
    path: Path
    kind: Literal["labels", "geoparquet", "geojson"]
    size: tuple[int, int] | None = None
    note: str | None = None
    origin: tuple[float, float] = (0.0, 0.0)

    def read(self, origin: tuple[float, float] = (0.0, 0.0)) -> tuple[Labels | Nuclei, tuple[str, ...]]:
        """The objects in level-0 pixels, and what is to be said of the file.

        ``origin`` is that of the slide: GeoJSON counts from the corner of its bounds.
        """
        if self.kind == "labels":
            return read_labels(self.path), ()
        if self.kind == "geoparquet":
            return read_nuclei(self.path, columns=[]), ()
        nuclei, notes = read_objects(self.path)
        if not any(origin):
            return nuclei, notes
        moved = f"moved by {origin[0]:g}, {origin[1]:g} pixels, the corner of the slide's bounds"
        return nuclei.translate(*origin), (*notes, moved)


@dataclass(frozen=True)
class ImageScores:
    """One image: how many objects there are, how many were found, and the scores (None: not defined)."""

    name: str
    true_objects: int
    found_objects: int
    scores: Mapping[str, float | None]
    note: str | None = None
    widths: tuple[WidthBin, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Scores of every image, the lowest AJI first, and their summary over images.

    Attributes
    ----------
    without_prediction, without_truth : tuple of str
        Names that were left out because the other side has nothing of that name.
    seed : int
        Decides the bootstrap's draws.
    widths : tuple of WidthBin
        Of all images together; empty where they were not asked for.
    """

    images: tuple[ImageScores, ...]
    summary: Mapping[str, Summary]
    without_prediction: tuple[str, ...]
    without_truth: tuple[str, ...]
    confidence: float
    seed: int
    widths: tuple[WidthBin, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As ``wsiseg evaluate --json`` writes it."""
        return {"schema": "wsiseg.evaluation", "version": 1, **asdict(self)}


def evaluate_sets(
    truth: Path,
    pred: Path,
    *,
    probabilities: Path | None = None,
    ious: Sequence[float] = (0.75,),
    allow_missing: bool = False,
    width_mpp: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """Score every image of ``pred`` against the one of the same name in ``truth``.

    Parameters
    ----------
    truth, pred : Path
        Each a label image, a ``nuclei.parquet`` or a GeoJSON file; a folder of such files; a results folder of
        ``wsiseg segment`` or one slide's folder in it. Two single files are compared whatever their names. Where
        one side is a label image, the other's polygons are drawn at its size (one label pixel is one level-0
        pixel); two sets of polygons are compared exactly, without accuracy and Hausdorff distance unless the
        pixels are known.
    probabilities : Path or None
        A map of the foreground's probability, or a folder of maps of the same names, for the AUC.
    ious : sequence of float
        IoU above which objects are pairs, for one more F1 each (``f1@0.75``).
    allow_missing : bool
        Leave out what has no partner, and say so, instead of raising.
    width_mpp : float or None
        Microns per pixel; with it recall and precision by minor axis are counted as well, where one side is a
        label image.

    Raises
    ------
    UsageError
        Nothing to compare, a partner is missing, a file cannot be read, or sizes differ.
    """
    if any(not 0 <= threshold < 1 for threshold in ious):
        raise UsageError(f"IoU thresholds {list(ious)}: expected numbers from 0 to below 1, for example --iou 0.5")
    if width_mpp is not None and not 0.01 <= width_mpp <= 100:
        raise UsageError(f"{width_mpp} microns per pixel: expected 0.01 to 100, for example --by-width 0.25")
    truths, preds = find_sources(truth), find_sources(pred)
    if len(truths) == len(preds) == 1 and not _is_collection(truth) and not _is_collection(pred):
        pairs = [(truths[0], preds[0])]
        no_prediction: tuple[str, ...] = ()
        no_truth: tuple[str, ...] = ()
    else:
        by_name = {source.name: source for source in preds}
        pairs = [(source, by_name[source.name]) for source in truths if source.name in by_name]
        matched = {source.name for source, _ in pairs}
        no_prediction = tuple(source.name for source in truths if source.name not in matched)
        no_truth = tuple(source.name for source in preds if source.name not in matched)
    if not pairs or ((no_prediction or no_truth) and not allow_missing):
        raise UsageError(_unmatched(pred, no_prediction, no_truth, bool(pairs)))
    maps = _maps(probabilities, [source.name for source, _ in pairs])
    images = [_score(t, p, maps.get(t.name), ious, width_mpp) for t, p in pairs]
    names = list(images[0].scores)
    summary = {
        name: summarize([image.scores[name] for image in images], confidence=confidence, seed=seed)
        for name in names
    }
    ranked = sorted(images, key=lambda image: (image.scores["aji"] or 0.0, image.name))
    widths = add_bins([image.widths for image in images])
    return Evaluation(tuple(ranked), summary, no_prediction, no_truth, confidence, seed, widths)


def find_sources(path: Path) -> list[Source]:
    """The images whose objects ``path`` holds, by name: see :func:`evaluate_sets`.

    Raises
    ------
    UsageError
        There are none, or two have the same name.
    """
    found = list(_search(path))
    if not found:
        raise UsageError(
            f"{path} holds nothing to evaluate. Expected label images ({' '.join(sorted(LABEL_SUFFIXES))}), "
            "nuclei.parquet, GeoJSON, or the output of `wsiseg segment`."
        )
    seen: dict[str, Source] = {}
    for source in found:
        if source.name in seen:
            raise UsageError(
                f"{seen[source.name].path} and {source.path} have the same name {source.name!r}: "
                "give each image one file"
            )
        seen[source.name] = source
    return sorted(found, key=lambda source: source.name)


def _search(path: Path) -> Iterator[Source]:
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}")
    if not path.is_dir():
        source = _file(path)
        if source is not None:
            yield source
        return
    records = [path / RECORD_NAME] if (path / RECORD_NAME).exists() else sorted(path.glob(f"*/{RECORD_NAME}"))
    for record in records:
        results = _results(record.parent)
        if results is not None:
            yield results
    if not records:
        for file in sorted(path.iterdir()):
            source = _file(file) if file.is_file() and not file.name.startswith(".") else None
            if source is not None:
                yield source


def _file(path: Path) -> Source | None:
    lower = path.name.lower()
    if path.name == "nuclei.parquet" and (path.parent / RECORD_NAME).exists():
        return _results(path.parent)
    for suffix, kind in _POLYGON_SUFFIXES.items():
        if lower.endswith(suffix):
            return Source(_written(path.name[: -len(suffix)]), path, kind)
    if path.suffix.lower() in LABEL_SUFFIXES:
        return Source(match_name(path.name), path, "labels")
    return None


def _results(folder: Path) -> Source | None:
    """One slide's results; None where segmenting it failed."""
    record = read_record(folder)
    if not isinstance(record, SegmentedRecord):
        return None
    slide = record.slide
    note = "partial: some area was lost" if record.status == "partial" else None
    origin = viewer_origin(Box(*slide.bounds))
    size = (slide.height, slide.width)
    return Source(match_name(slide.name), folder / "nuclei.parquet", "geoparquet", size, note, origin)


def match_name(name: str) -> str:
    """What an image is matched by: its file's name without suffix."""
    return _written(Path(name).stem.removesuffix(".ome"))


def _written(name: str) -> str:
    """The name as text that can be written: a file's name may hold bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _is_collection(path: Path) -> bool:
    return path.is_dir() and not (path / RECORD_NAME).exists()


def _unmatched(pred: Path, no_prediction: Sequence[str], no_truth: Sequence[str], some: bool) -> str:
    parts = [f"no prediction for {listed(no_prediction)}"] * bool(no_prediction)
    parts += [f"no truth for {listed(no_truth)}"] * bool(no_truth)
    wrong = sum(isinstance(record, FailedRecord) for record in read_records(pred))
    parts += [f"{wrong} slides in {pred} failed to be segmented"] * bool(wrong)
    remedy = "--allow-missing scores the others." if some else "Nothing is left to score."
    return "; ".join(parts) + f". Images are matched by file name without suffix. {remedy}"


def listed(names: Sequence[str]) -> str:
    """How many there are and the first of them, for a message."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} of the images: {', '.join(names[:_LISTED])}{more}"


def _maps(path: Path | None, names: Sequence[str]) -> dict[str, Path]:
    if path is None:
        return {}
    if path.is_file() and len(names) == 1:
        return {names[0]: path}
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder of probability maps")
    found = {
        match_name(file.name): file for file in sorted(path.iterdir()) if file.suffix.lower() in LABEL_SUFFIXES
    }
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(f"{path} has no probability map for {listed(missing)}")
    return found


def _score(
    truth: Source, pred: Source, probability: Path | None, ious: Sequence[float], width_mpp: float | None
) -> ImageScores:
    (t, t_notes), (p, p_notes) = truth.read(pred.origin), pred.read(truth.origin)
    distance, area = None, None
    widths: tuple[WidthBin, ...] = ()
    if isinstance(t, Nuclei) and isinstance(p, Nuclei):
        if width_mpp is not None:
            raise UsageError(
                f"{truth.path} and {pred.path}: two sets of polygons; by width only label images are counted, "
                "so give a label image as the truth"
            )
        size = truth.size or pred.size
        overlap = polygon_overlap(t, p, total=float(size[0] * size[1]) if size else None)
    else:
        shape = t.shape if isinstance(t, np.ndarray) else p.shape if isinstance(p, np.ndarray) else None
        t, p = _drawn(t, truth, shape), _drawn(p, pred, shape)
        if t.shape != p.shape:
            raise UsageError(_sizes(truth.path, t.shape, pred.path, p.shape))
        overlap = label_overlap(t, p)
        distance = average_hausdorff(t, p)
        if width_mpp is not None:
            widths = width_bins(t, p, overlap, width_mpp, PAIR_IOU)
    if probability is not None:
        values = read_probabilities(probability)
        drawn = _drawn(t, truth, values.shape)
        if drawn.shape != values.shape:
            raise UsageError(_sizes(truth.path, drawn.shape, probability, values.shape))
        area = auc(drawn, values)
    scores: dict[str, float | None] = score(overlap, PAIR_IOU).to_dict()
    scores |= {f"f1@{iou:g}": value for iou, value in object_f1(overlap, ious).items()}
    scores |= {"average_hausdorff_px": distance, "auc": area}
    said = [note for note in (truth.note, pred.note) if note]
    said += [f"{side}: {note}" for side, notes in (("truth", t_notes), ("prediction", p_notes)) for note in notes]
    counts = len(overlap.truth_area), len(overlap.pred_area)
    return ImageScores(truth.name, *counts, scores, "; ".join(said) or None, widths)


def _drawn(objects: Labels | Nuclei, source: Source, shape: tuple[int, ...] | None) -> Labels:
    """A label image as it is; polygons drawn at ``shape``, which must be their slide's where that is known."""
    if isinstance(objects, np.ndarray):
        return objects
    assert shape is not None
    if source.size is not None and source.size != shape:
        raise UsageError(
            f"{source.path}: a slide of {source.size[1]} × {source.size[0]} level-0 pixels against a label image "
            f"of {shape[1]} × {shape[0]}; expected one label pixel for each level-0 pixel"
        )
    return rasterize(objects, np.arange(1, len(objects) + 1), (shape[0], shape[1]))


def _sizes(first: Path, one: Sequence[int], second: Path, other: Sequence[int]) -> str:
    return (
        f"{first} is {one[1]} × {one[0]} pixels, {second} {other[1]} × {other[0]}: "
        "expected images of the same size at the same scale"
    )
