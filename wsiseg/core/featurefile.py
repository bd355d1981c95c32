"""GeoJSON as people have it: which polygons a file holds, whoever wrote it, and what else it holds.

A file may be a geometry, a Feature, a FeatureCollection, a list of these (QuPath [1]_), or a sequence, one a line
or each behind a record separator [2]_; with a byte order mark, in UTF-16 or UTF-32, gzipped whatever its name says.
Geometries may be null or empty, lie in collections in collections, have heights; rings may be open. All of that is
read here and nowhere else; what a polygon means, an area or a nucleus, is the caller's business.

References
----------
.. [1] Bankhead et al., QuPath: Open source software for digital pathology image analysis, Scientific Reports 7
   (2017), DOI 10.1038/s41598-017-17204-5.
.. [2] RFC 7946, The GeoJSON Format, and RFC 8142, GeoJSON Text Sequences.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Box
from wsiseg.core.plainfile import require_plain_file
from wsiseg.errors import UsageError

#: A polygon's rings, the outer one first; a ring is a list of positions without the closing one.
Rings: TypeAlias = list[list[Any]]

NO_GEOMETRY = "feature without geometry"
LARGEST_COORDINATE = 1e12
"""Of products of coordinates 64 bits still hold enough digits; no slide is larger by far."""

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_MOST_EXPANSION = 100
"""GeoJSON packs to a fifth or a tenth of its size; what expands more is made to fill the memory."""
_ALWAYS_EXPANDED = 1 << 24
_BETWEEN = re.compile(r"[\s\x1e]*")
_AREAS = ("Polygon", "MultiPolygon")
_OTHERS = ("Point", "MultiPoint", "LineString", "MultiLineString")
_KINDS = frozenset(("annotation", "detection", "cell", "tile", "tma_core"))
_OLD_KINDS = {f"Path{kind.title()}Object": kind for kind in ("annotation", "detection", "cell", "tile")}


class NotGeoJson(ValueError):
    """Why a document is no GeoJSON."""


@dataclass(frozen=True)
class Feature:
    """A Feature of a file; a bare geometry is one without properties.

    Attributes
    ----------
    geometry, nucleus : Any
        Geometry objects as they stand in the file; ``nucleus`` is QuPath's ``nucleusGeometry``, the nucleus of a
        cell whose outline is ``geometry``. None where the file has none.
    kind : str
        QuPath's ``objectType``: annotation, detection, cell, tile or tma_core; "" where it is not said.
    """

    geometry: Any
    nucleus: Any = None
    kind: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)


def viewer_origin(bounds: Box) -> tuple[float, float]:
    """Where in level 0 GeoJSON's coordinates begin, given the bounds of a slide.

    QuPath shows a slide that has OpenSlide's bounds from their corner, and counts from there. What is written for
    it has this corner taken off, what comes from it added.
    """
    return bounds.x0, bounds.y0


def read_features(path: str | os.PathLike[str], what: str, *, most_bytes: int, most_values: int) -> list[Feature]:
    """All features of a GeoJSON file, in file order.

    Parameters
    ----------
    path : path
    what : str
        The subject of errors, for example "The mask".
    most_bytes, most_values : int
        Limits of the text and of the objects, lists and numbers in it, which decide the memory: about 50 bytes a
        value. Both hold before that memory is taken.

    Raises
    ------
    UsageError
        The file cannot be read, is too large, no JSON, or no GeoJSON.
    """
    name = os.fspath(path)
    try:
        text = _text(path, what, most_bytes)
        # Before they are made: each of these begins or separates a value.
        if sum(map(text.count, "[{,")) > most_values:
            raise _too_large(path, what, f"more than {most_values:,} values")
        return list(_features(_document(text)))
    except NotGeoJson as error:
        raise UsageError(
            f"{what} {name} is not GeoJSON: {error}. Expected a FeatureCollection or a list of features."
        ) from error
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise UsageError(
            f"{what} {name} is not GeoJSON: it is not JSON ({error}). Expected for example an export from QuPath."
        ) from error
    except RecursionError as error:
        raise UsageError(
            f"{what} {name} is nested too deeply to be GeoJSON. Expected a FeatureCollection of polygons."
        ) from error


def polygons_in(geometry: Any, passed: Counter[str]) -> list[Rings]:
    """The polygons of a geometry object, those in collections and MultiPolygons one by one.

    Parameters
    ----------
    geometry : Any
        As it stands in the file.
    passed : Counter
        What has no area is counted here by its kind: points, lines, empty polygons, no geometry.

    Raises
    ------
    NotGeoJson
        Something is not of the form that its type asks for.
    """
    found: list[Rings] = []
    stack = [geometry]
    while stack:
        item = stack.pop()
        if item is None:
            passed[NO_GEOMETRY] += 1
            continue
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "GeometryCollection":
            members = _list(item.get("geometries"), "geometries")
            stack.extend(reversed(members))
            if not members:
                passed["empty GeometryCollection"] += 1
        elif kind in _AREAS:
            coordinates = _list(item.get("coordinates"), "coordinates")
            for part in [coordinates] if kind == "Polygon" else coordinates or [[]]:
                rings = _rings(part)
                if rings:
                    found.append(rings)
                else:
                    passed[f"{kind} of fewer than three corners" if part else f"empty {kind}"] += 1
        else:
            passed[kind if kind in _OTHERS else "geometry of an unknown type"] += 1
    return found


def ring_arrays(rings: Sequence[list[Any]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Positions as vertices, float64 (V, 2), and the offsets (R + 1,) of the rings in them; heights are left out.

    Raises
    ------
    NotGeoJson
        A position is not two finite numbers of at most ``LARGEST_COORDINATE``.
    """
    counts = np.fromiter(map(len, rings), dtype=np.int64, count=len(rings))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    numbers = itertools.chain.from_iterable(position[:2] for ring in rings for position in ring)
    try:
        flat = np.fromiter(numbers, dtype=np.float64)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise NotGeoJson(f"a position that is no pair of numbers ({error})") from error
    if flat.size != 2 * offsets[-1]:
        raise NotGeoJson("a position that is no pair of numbers")
    if not np.isfinite(flat).all():
        raise NotGeoJson("coordinates that are not finite numbers")
    if flat.size and np.abs(flat).max() > LARGEST_COORDINATE:
        raise NotGeoJson(f"coordinates beyond {LARGEST_COORDINATE:.0e}")
    return flat.reshape(-1, 2), offsets


def listed(counted: Mapping[str, int]) -> str:
    """Kinds and their numbers in words, the most frequent first: ``"3 × MultiPoint, Point"``."""
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(kind if number == 1 else f"{number} × {kind}" for kind, number in ranked)


def _text(path: str | os.PathLike[str], what: str, most_bytes: int) -> str:
    size = require_plain_file(path, what)
    if size > most_bytes:
        raise _too_large(path, what, f"{size:,} bytes, where {most_bytes:,} are the most")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{what} {os.fspath(path)} cannot be read: {error.strerror or error}.") from error
    if content.startswith(_ZIP):
        raise ValueError("it is a zip archive, which has to be unpacked first")
    if content.startswith(_GZIP):
        most = min(most_bytes, max(_ALWAYS_EXPANDED, _MOST_EXPANSION * size))
        content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
        if len(content) > most:
            raise _too_large(path, what, f"more than {most:,} bytes when it is unpacked")
    # As the standard asks, a reader tells the encodings of Unicode apart; a name in another one costs that name.
    return content.decode(json.detect_encoding(content), "replace")


def _too_large(path: str | os.PathLike[str], what: str, size: str) -> UsageError:
    return UsageError(
        f"{what} {os.fspath(path)} is too large: it has {size}.\n"
        "Expected: outlines of areas or nuclei. Simplify the outlines, or split the file."
    )


def _document(text: str) -> Any:
    """The JSON value of a text; of a sequence of values their list."""
    decoder = json.JSONDecoder()
    values: list[Any] = []
    at = _skip(text, 0)
    while at < len(text) or not values:
        value, at = decoder.raw_decode(text, at)
        if not isinstance(value, dict | list):
            raise NotGeoJson(f"a value of type {type(value).__name__}")
        values.append(value)
        at = _skip(text, at)
    return values[0] if len(values) == 1 else values


def _skip(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return between.end() if between else at


def _features(document: Any) -> Iterator[Feature]:
    stack = [document]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(reversed(item))
        elif item is None:
            yield Feature(None)
        elif not isinstance(item, dict):
            raise NotGeoJson(f"a value of type {type(item).__name__} in the place of a feature")
        elif item.get("type") == "FeatureCollection":
            stack.append(_list(item.get("features"), "features"))
        elif item.get("type") == "Feature" or "geometry" in item:
            properties = item.get("properties")
            known = properties if isinstance(properties, dict) else {}
            yield Feature(item.get("geometry"), item.get("nucleusGeometry"), _kind(item, known), known)
        elif item.get("type") in (*_AREAS, *_OTHERS, "GeometryCollection"):
            yield Feature(item)
        else:
            raise NotGeoJson(f"an object of type {item.get('type')!r:.40}")


def _kind(item: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    """QuPath's type of object: since 0.4 objectType, in 0.3 object_type, before that the feature's id."""
    said = properties.get("objectType", properties.get("object_type"))
    kind = said.lower() if isinstance(said, str) else _OLD_KINDS.get(str(item.get("id")), "")
    return kind if kind in _KINDS else ""


def _rings(part: Any) -> Rings:
    """The rings of a polygon that have three corners or more; [] if the outer one has not."""
    rings = [_open(ring) for ring in _list(part, "coordinates of a polygon")]
    return [ring for ring in rings if len(ring) >= 3] if rings and len(rings[0]) >= 3 else []


def _open(ring: Any) -> list[Any]:
    """A ring without its closing position, if it has one."""
    positions = _list(ring, "a ring")
    return positions[:-1] if len(positions) > 1 and positions[0] == positions[-1] else positions


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise NotGeoJson(f"{what} of type {type(value).__name__}, not a list")
    return value
