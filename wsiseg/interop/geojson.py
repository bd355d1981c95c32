"""GeoJSON as QuPath reads it: streamed from ``nuclei.parquet``, and read back.

QuPath [1]_ takes a FeatureCollection in level-0 pixels from the top left corner of its own view of the slide. A
feature is a detection only if ``properties.objectType`` says so, its ``id`` must be a UUID, its rings closed and
valid, and its ``measurements`` an object of numbers. The text is built column by column; memory is bounded by a
slice of features, whatever the slide.

References
----------
.. [1] Bankhead et al., QuPath: Open source software for digital pathology image analysis, Scientific Reports 7
   (2017), DOI 10.1038/s41598-017-17204-5.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wsiseg.core.atomic import replacing_all
from wsiseg.core.featurefile import (
    Feature,
    NotGeoJson,
    listed,
    polygons_in,
    read_features,
    ring_arrays,
    viewer_origin,
)
from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import UsageError
from wsiseg.interop.mending import mend
from wsiseg.interop.segmentation import Contents, Segmentation
from wsiseg.interop.slideexport import SlideExport
from wsiseg.interop.text import LARGEST, Texts, content, joined, number_texts, ring_texts, uuid5_texts
from wsiseg.results.nuclei import TYPE, count_nuclei, iter_nuclei, read_metadata

COORDINATE_DECIMALS = 3  # 0.001 px is 0.25 nm at 40x
MEASUREMENT_DECIMALS = 4
# The namespace of slides' fingerprints; a slide's UUID is in turn the namespace of its nuclei's ids.
NAMESPACE = uuid.UUID("5d0f2a0e-6f0c-5c0b-9d3b-3f3a2f0c7e11")

_SLICE = 20_000  # features formatted at once: about 30 MB of buffer
_GZIP_LEVEL = 2  # 80 MB/s; level 6 saves a tenth of the size at a quarter of the speed
_NOT_MEASUREMENTS = frozenset({"x", "y", TYPE})
# Okabe & Ito's colours, which most colour-blind people tell apart, without black and those that H&E itself has.
_UNTYPED = (128, 128, 128)
_COLOURS = ((0, 158, 115), (213, 94, 0), (0, 114, 178), (240, 228, 66), (86, 180, 233), (230, 159, 0))
_FOUND = ("detection", "cell")  # QuPath's objects that are nuclei where others are around them
_MOST_BYTES, _MOST_VALUES = 1 << 32, 200_000_000  # read back: two million nuclei, 10 GB of memory
_HEAD, _TAIL = b'{"type":"FeatureCollection","features":[\n', b"\n]}\n"

Write: TypeAlias = Callable[[bytes | memoryview], object]


@dataclass(frozen=True)
class Classification:
    """A class as QuPath shows it: its name and its colour (red, green, blue; 0–255)."""

    name: str = "Nucleus"
    color: tuple[int, int, int] = (61, 90, 254)

    def json(self) -> str:
        return json.dumps({"name": self.name, "color": list(self.color)}, separators=(",", ":"))


NUCLEUS = Classification()


def export_slide(job: SlideExport) -> Iterator[Path]:
    """A slide of a results folder for QuPath; see :func:`export_geojson`."""
    yield from export_geojson(
        job.nuclei,
        job.folder / f"{job.id}.{job.target}",
        gzip=job.target.endswith(".gz"),
        bounds_offset=viewer_origin(Box(*job.slide.bounds)),
        identity=job.slide.fingerprint,
        split=job.split,
    )


def export_geojson(
    nuclei_parquet: Path,
    out_path: Path,
    *,
    gzip: bool | None = None,
    bounds_offset: tuple[float, float] = (0.0, 0.0),
    classification: Classification = NUCLEUS,
    classes: Mapping[int, Classification] | None = None,
    identity: str | None = None,
    split: int | None = None,
) -> tuple[Path, ...]:
    """Write the nuclei of a slide as GeoJSON for QuPath.

    Parameters
    ----------
    nuclei_parquet : Path
        ``nuclei.parquet`` of a results folder.
    out_path : Path
        ``….geojson`` or ``….geojson.gz``; a file has this name only when it is complete.
    gzip : bool, optional
        Compress. By default as the name says.
    bounds_offset : (float, float)
        OpenSlide's ``bounds-x`` and ``bounds-y`` in level-0 pixels, subtracted, since QuPath shows such slides
        from there.
    classification : Classification
        The class of every nucleus without a type.
    classes : mapping of int to Classification, optional
        Classes by the number of a nucleus' type, where the file has types; ``classification`` for the rest. By
        default those of :func:`type_classes`.
    identity : str, optional
        What tells this slide from others, so that ids are unique across slides and the same in every export.
        By default what the file records as its slide (its fingerprint).
    split : int, optional
        At most so many features a file, in file order, which follows the tiles: QuPath parses a file as a whole.
        Where more than one file is needed the names become ``NAME.1-of-4.geojson`` and so on.

    Returns
    -------
    tuple of Path
        The files written.

    Raises
    ------
    UsageError
        ``split`` is not positive, or the file does not record its slide and ``identity`` is missing.
    EnvironmentFault
        The disk refuses.
    """
    if split is not None and split < 1:
        raise UsageError(f"{split} features a file: expected a positive number, for example --split 100000")
    nuclei_parquet, out_path = Path(nuclei_parquet), Path(out_path)
    total = count_nuclei(nuclei_parquet)
    if identity is None:
        identity = _recorded_identity(nuclei_parquet)
    files = max(1, -(-total // split)) if split else 1
    paths = tuple(_part_path(out_path, n + 1, files) for n in range(files))
    compress = out_path.name.endswith(".gz") if gzip is None else gzip
    if classes is None:
        classes = type_classes(read_metadata(nuclei_parquet).get("types", ()))
    namespace = uuid.uuid5(NAMESPACE, identity)
    dx, dy = bounds_offset
    slices = ((run, part.translate(-dx, -dy)) for run, part in _slices(iter_nuclei(nuclei_parquet), split))
    with replacing_all(paths) as temporaries:
        runs = itertools.groupby(slices, key=lambda item: item[0])
        for run, group in runs if total else iter([(0, iter(()))]):
            with _writer(temporaries[run], compress) as write:
                _write_collection(write, (part for _, part in group), namespace, classification, classes)
    return paths


def type_classes(names: Sequence[str]) -> dict[int, Classification]:
    """A class for each type of nuclei by its number: its name, and a colour that tells it from others.

    The first, for nuclei without a type, is grey; colours repeat after the sixth of the others.
    """
    colours = itertools.chain([_UNTYPED], itertools.cycle(_COLOURS))
    return {n: Classification(name, colour) for n, (name, colour) in enumerate(zip(names, colours, strict=False))}


def read_geojson(path: Path) -> Nuclei:
    """Polygons of a GeoJSON file as :func:`export_geojson`, QuPath or a peer writes them.

    Parameters
    ----------
    path : Path
        GeoJSON in any of the forms that :mod:`wsiseg.core.featurefile` reads. Of a feature with several polygons
        the largest is kept, of a QuPath cell its nucleus where it has one; holes, points and lines are left out.
        Where the file tells QuPath's detections or cells from other objects, such as the annotations around them,
        only those are taken.

    Returns
    -------
    Nuclei
        In the file's coordinates, with a float64 column for every measurement (NaN where a feature lacks it),
        and ``id`` as int64 where every feature has one.

    Raises
    ------
    UsageError
        The file is not GeoJSON, or holds things but no polygon.
    """
    return read_objects(path)[0]


def read_objects(path: Path) -> tuple[Nuclei, tuple[str, ...]]:
    """:func:`read_geojson`, and what the file holds beside them: a few words, or nothing."""
    held: Counter[str] = Counter()
    nuclei = _read_counting(path, held)
    return nuclei, (f"passed over: {listed(held)}",) if held else ()


def describe_outlines(segmentation: Segmentation) -> Contents:
    """GeoJSON says nothing of itself; see :mod:`wsiseg.interop.segmentation`."""
    return Contents(from_bounds=True)


def iter_outlines(segmentation: Segmentation, passed: Counter[str]) -> Iterator[Nuclei]:
    """The outlines of one file after the other, each of which is read whole."""
    for path in segmentation.paths:
        yield _read_counting(path, passed)


def _read_counting(path: Path, held: Counter[str]) -> Nuclei:
    """:func:`read_geojson`; what the file holds beside is added to ``held``."""
    features = read_features(path, "The file", most_bytes=_MOST_BYTES, most_values=_MOST_VALUES)
    found = [feature for feature in features if feature.kind in _FOUND]
    chosen = found or features
    if found:
        held.update(feature.kind or "other object" for feature in features if feature.kind not in _FOUND)
    try:
        rings, owner = _exteriors(chosen, held)
        vertices, offsets = ring_arrays(rings)
    except NotGeoJson as error:
        raise UsageError(
            f"The file {path} is not GeoJSON of polygons: {error}. Expected one polygon an object."
        ) from error
    if features and not rings:
        raise UsageError(
            f"The file {path} holds {listed(held)}, but no polygons. Expected the outlines of nuclei, for example "
            "detections or cells exported from QuPath."
        )
    records = [_measurement_dict(chosen[n].properties) for n in owner]
    names = dict.fromkeys(itertools.chain.from_iterable(records))
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.array([record.get(name, np.nan) for record in records], dtype=np.float64) for name in names
    }
    identities = columns.get("id")
    if identities is not None and np.all(np.abs(identities) < 2**53):
        columns["id"] = identities.astype(np.int64)
    return Nuclei(vertices, offsets, columns)


def _exteriors(features: Sequence[Feature], passed: Counter[str]) -> tuple[list[list[Any]], list[int]]:
    """The outer rings in file order, and the feature that each belongs to."""
    rings, owner = [], []
    for place, feature in enumerate(features):
        outlines = polygons_in(feature.nucleus or feature.geometry, passed)
        if outlines:
            rings.append(outlines[0][0] if len(outlines) == 1 else _largest([part[0] for part in outlines]))
            owner.append(place)
    return rings, owner


def _largest(rings: list[list[Any]]) -> list[Any]:
    vertices, offsets = ring_arrays(rings)
    return rings[int(np.argmax(Nuclei(vertices, offsets).areas()))]


def _write_collection(
    write: Write,
    parts: Iterable[Nuclei],
    namespace: uuid.UUID,
    classification: Classification,
    classes: Mapping[int, Classification],
) -> None:
    texts = pa.array([classification.json(), *(chosen.json() for chosen in classes.values())], pa.large_string())
    write(_HEAD)
    separator = b""
    for part in parts:
        valid = _valid(part)
        if len(valid) == 0:
            continue
        write(separator)
        write(_features(valid, namespace, texts.take(_class_choice(valid, classes))))
        separator = b",\n"
    write(_TAIL)


def _features(nuclei: Nuclei, namespace: uuid.UUID, classifications: Texts) -> memoryview:
    """The features of N nuclei with their classifications as JSON (N,), separated by commas and line feeds."""
    features = joined(
        '{"type":"Feature","id":"',
        uuid5_texts(namespace, nuclei.columns["id"].astype(np.int64)),
        '","geometry":{"type":"Polygon","coordinates":[[[',
        ring_texts(nuclei.vertices, nuclei.offsets, COORDINATE_DECIMALS, (",", "],["), closed=True),
        ']]]},"properties":{"objectType":"detection","classification":',
        classifications,
        ',"measurements":{',
        _measurements(nuclei),
        "}}},\n",
    )
    return content(features)[:-2]  # without the last separator


def _measurements(nuclei: Nuclei) -> Texts:
    """The numbers among a nucleus' columns as the members of a JSON object; without those that are not finite."""
    members = []
    for name, column in nuclei.columns.items():
        if column.dtype.kind in "fiub" and name not in _NOT_MEASUREMENTS:
            values = column.astype(np.float64)
            finite = np.isfinite(values)
            text = number_texts(np.where(finite, values, 0.0), MEASUREMENT_DECIMALS)
            member = joined(json.dumps(name, ensure_ascii=False) + ":", text)
            members.append(member if finite.all() else pc.if_else(finite, member, None))
    return joined(*members, between=",")


def _valid(nuclei: Nuclei) -> Nuclei:
    """The nuclei as they will be written, rounded, with invalid rings repaired and empty ones left out."""
    return mend(Nuclei(np.round(nuclei.vertices, COORDINATE_DECIMALS), nuclei.offsets, nuclei.columns)).nuclei


def _class_choice(nuclei: Nuclei, classes: Mapping[int, Classification]) -> npt.NDArray[np.int64]:
    choice = np.zeros(len(nuclei), dtype=np.int64)
    if TYPE in nuclei.columns:
        for place, value in enumerate(classes):
            choice[nuclei.columns[TYPE] == value] = place + 1
    return choice


def _slices(parts: Iterable[Nuclei], split: int | None) -> Iterator[tuple[int, Nuclei]]:
    """(index of the file, nuclei): pieces that cross no file's end and are small enough to format at once."""
    done = 0
    for part in parts:
        start = 0
        while start < len(part):
            room = split - done % split if split else _SLICE
            stop = min(start + min(room, _SLICE), len(part))
            yield (done // split if split else 0), part.take(np.arange(start, stop))
            done += stop - start
            start = stop


@contextlib.contextmanager
def _writer(path: Path, compress: bool) -> Iterator[Write]:
    with open(path, "wb") as file:
        if not compress:
            yield file.write
            return
        # A bare compressor, for its header holds neither a time nor a name: equal nuclei give equal bytes.
        packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
        yield lambda text: file.write(packer.compress(text))
        file.write(packer.flush())


def _part_path(path: Path, number: int, files: int) -> Path:
    if files == 1:
        return path
    for suffix in (".geojson.gz", ".json.gz", ".geojson", ".json"):
        if path.name.endswith(suffix):
            return path.with_name(f"{path.name.removesuffix(suffix)}.{number}-of-{files}{suffix}")
    return path.with_name(f"{path.name}.{number}-of-{files}")


def _recorded_identity(path: Path) -> str:
    metadata = read_metadata(path)
    slide = metadata.get("slide")
    recorded = slide if isinstance(slide, dict) else metadata
    identity = recorded.get("fingerprint") or slide
    if not identity:
        raise UsageError(
            f"{path} does not record the slide it belongs to: expected nuclei.parquet as wsiseg writes it. "
            "Give an identity to export it nevertheless."
        )
    return str(identity)


def _measurement_dict(properties: Mapping[str, Any]) -> dict[str, float]:
    """Measurements by name; QuPath before 0.3 wrote a list of {name, value}."""
    measurements = properties.get("measurements")
    if isinstance(measurements, list):
        measurements = {item.get("name"): item.get("value") for item in measurements if isinstance(item, dict)}
    if not isinstance(measurements, dict):
        return {}
    numbers = {str(name): value for name, value in measurements.items() if isinstance(value, int | float)}
    try:
        return {name: float(value) for name, value in numbers.items()}
    except OverflowError:  # a whole number may have any number of digits
        return {name: float(value) for name, value in numbers.items() if abs(value) <= LARGEST}
