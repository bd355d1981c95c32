"""Nuclei in GeoParquet 1.1: read whole, by box, or one row group at a time; written by :mod:`.nucleiwriter`.

The format is GeoParquet [1]_ with a ``bbox`` covering column, so that readers skip row groups by their statistics,
and ``crs: null`` because the coordinates are pixels.

References
----------
.. [1] GeoParquet 1.1.0, Open Geospatial Consortium, https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from wsiseg.core.compiled import compiled
from wsiseg.core.featurefile import LARGEST_COORDINATE
from wsiseg.core.geometry import Box, FloatArray
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.plainfile import require_plain_file
from wsiseg.errors import UsageError

if TYPE_CHECKING:
    import geopandas

#: The attributes of ``nuclei.parquet`` in file order, after id, geometry, bbox, x and y.
ATTRIBUTES: Mapping[str, str] = {
    "area_um2": "float32",
    "perimeter_um": "float32",
    "eccentricity": "float32",
    "solidity": "float32",
    "score": "float32",
    "hematoxylin_od": "float32",
}
#: What follows them where the model tells types of nuclei apart: the type's name, and its share of the nucleus.
TYPE, TYPE_PROB = "type", "type_prob"
#: Of a slide whose artefacts are mapped, the kinds at the nucleus' centroid as bits (uint16).
ARTEFACT = "artefact"
FORMAT_VERSION = 1

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_HEADER = 13  # byte order, geometry type, ring count, vertex count
_POLYGON = 3


class NotNuclei(ValueError):
    """What in a GeoParquet file is not as nuclei are."""


def read_nuclei(
    path: str | os.PathLike[str],
    box: Box | None = None,
    *,
    columns: Sequence[str] | None = None,
    metadata: pq.FileMetaData | None = None,
) -> Nuclei:
    """Nuclei of a GeoParquet file, in level-0 coordinates and in file order.

    Parameters
    ----------
    path : path
    box : Box, optional
        Only nuclei whose bounds overlap this box; row groups that cannot have any are not read.
    columns : sequence of str, optional
        The attributes to read, by default all: ``id``, ``x``, ``y`` and those that the file declares. ``type``
        is read as int16, the place among the names under ``types`` in :func:`read_metadata`.
    metadata : FileMetaData, optional
        Of a file that still grows (:class:`wsiseg.results.nucleiwriter.Grown`): its own end is not read.

    Raises
    ------
    UsageError
        The file is missing or not a GeoParquet file of polygons.
    """
    with _open(path, metadata) as file, _damage_said(path):
        groups = np.arange(file.num_row_groups)
        if box is not None:
            groups = groups[_overlap(_group_bounds(file), box)]
        names = _attribute_names(file, columns)
        parts = [_read_group(file, int(group), names, box) for group in groups]
        return Nuclei.concatenate(parts) if parts else _none(file, names)


def read_geodataframe(path: str | os.PathLike[str], box: Box | None = None) -> geopandas.GeoDataFrame:
    """Nuclei of a slide as a table with one row and one polygon a nucleus, in level-0 pixels and in file order.

    Parameters
    ----------
    path : path
        A ``nuclei.parquet`` or another GeoParquet file, or a slide's folder of results.
    box : Box, optional
        Only nuclei whose bounds meet this box; row groups that cannot have any are not read.

    Returns
    -------
    GeoDataFrame
        Without a coordinate reference system, because the coordinates are pixels. The columns are those of
        docs/format.md; ``type`` is categorical.

    Raises
    ------
    UsageError
        The file is missing or not a GeoParquet file of polygons.
    """
    import geopandas  # only here: it brings pandas, which no task needs

    path = Path(path)
    file = path / "nuclei.parquet" if path.is_dir() else path
    with _open(file), _damage_said(file):
        return geopandas.read_parquet(file, bbox=None if box is None else (box.x0, box.y0, box.x1, box.y1))


def iter_nuclei(path: str | os.PathLike[str], *, columns: Sequence[str] | None = None) -> Iterator[Nuclei]:
    """The row groups of a file one after the other, with the memory of one; see :func:`read_nuclei`."""
    with _open(path) as file:
        names = _attribute_names(file, columns)
        for group in range(file.num_row_groups):
            with _damage_said(path):
                nuclei = _read_group(file, group, names, None)
            yield nuclei


def read_row_groups_bounds(path: str | os.PathLike[str]) -> FloatArray:
    """Bounds of the nuclei in each row group, shape (R, 4) as x0, y0, x1, y1, from the file's statistics alone."""
    with _open(path) as file:
        return _group_bounds(file)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The file's ``wsiseg`` metadata; ``{}`` for a file that another program made."""
    with _open(path) as file, _damage_said(path):
        metadata = _wsiseg_metadata(file)
        _types(metadata)
        return metadata


def count_nuclei(path: str | os.PathLike[str]) -> int:
    """Number of nuclei in a file, from its footer."""
    with _open(path) as file:
        return file.metadata.num_rows


def numeric_columns(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of a file's columns of numbers."""
    with _open(path) as file:
        numbers = (pa.types.is_integer, pa.types.is_floating)
        return tuple(field.name for field in file.schema_arrow if any(of(field.type) for of in numbers))


def to_wkb(nuclei: Nuclei) -> pa.BinaryArray:
    """The polygons as little-endian WKB with closed rings.

    Filling the buffer directly is about ten times as fast as going through one geometry object a nucleus.
    """
    sizes = _HEADER + 16 * (np.diff(nuclei.offsets) + 1)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{len(nuclei)} nuclei are too many for one row group: write fewer at a time")
    buffer = np.empty(int(ends[-1]), dtype=np.uint8)
    raw = np.ascontiguousarray(nuclei.vertices, dtype="<f8").view(np.uint8).ravel()
    _fill_wkb(raw, nuclei.offsets, ends, buffer)
    offsets = pa.py_buffer(ends.astype(np.int32))
    return pa.BinaryArray.from_buffers(pa.binary(), len(nuclei), [None, offsets, pa.py_buffer(buffer)])


def from_wkb(array: pa.BinaryArray, columns: Mapping[str, npt.NDArray[np.generic]] | None = None) -> Nuclei:
    """The inverse of :func:`to_wkb`; of polygons with holes only the exterior ring is kept."""
    attributes = dict(columns or {})
    if len(array) == 0:
        return Nuclei.empty(attributes)
    if not (pa.types.is_binary(array.type) and array.null_count == 0):
        return _from_any_wkb(array, attributes)
    starts = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(array.buffers()[2], dtype=np.uint8)
    counts = _ring_sizes(data, starts)
    if (counts < 0).any():
        return _from_any_wkb(array, attributes)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    raw = np.empty(16 * int(offsets[-1]), dtype=np.uint8)
    _read_rings(data, starts, offsets, raw)
    return Nuclei(raw.view("<f8").reshape(-1, 2).astype(np.float64, copy=False), offsets, attributes)


def _open(path: str | os.PathLike[str], metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    name = os.fspath(path)
    if not os.path.lexists(path):
        raise UsageError(f"{name}: no such file")
    require_plain_file(path, "The file")
    try:
        file = pq.ParquetFile(path, metadata=metadata, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{name}: not a Parquet file that can be read ({' '.join(str(error).split())})") from error
    if _geometry_name(file) is None:
        file.close()
        raise UsageError(f"{name}: Parquet, but not GeoParquet with WKB geometry; expected a nuclei.parquet")
    return file


@contextlib.contextmanager
def _damage_said(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors in the middle of a file, by its name."""
    try:
        yield
    except (pa.ArrowException, OSError, shapely.errors.ShapelyError, NotNuclei) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{os.fspath(path)}: is damaged, or not as wsiseg writes it ({reason}).\n"
            "Expected: an intact nuclei.parquet. `wsiseg segment` with the slide makes it again."
        ) from error


def _geo_metadata(file: pq.ParquetFile) -> dict[str, Any]:
    return _json_object(file, b"geo")


def _wsiseg_metadata(file: pq.ParquetFile) -> dict[str, Any]:
    return _json_object(file, b"wsiseg")


def _json_object(file: pq.ParquetFile, key: bytes) -> dict[str, Any]:
    """A JSON object in the file's metadata; ``{}`` where there is none."""
    try:
        value = json.loads((file.metadata.metadata or {})[key])
    except (KeyError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _geometry_name(file: pq.ParquetFile) -> str | None:
    geo = _geo_metadata(file)
    name, columns = geo.get("primary_column"), geo.get("columns")
    if not isinstance(name, str) or not isinstance(columns, dict) or name not in file.schema_arrow.names:
        return None
    described = columns.get(name)
    return name if isinstance(described, dict) and described.get("encoding") == "WKB" else None


def _attribute_names(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str]:
    schema = file.schema_arrow
    plain = [f.name for f in schema if not (pa.types.is_nested(f.type) or pa.types.is_binary(f.type))]
    plain = [name for name in plain if name != _geometry_name(file)]
    unknown = [name for name in columns or () if name not in plain]
    if unknown:
        raise UsageError(f"no columns {unknown} in the file; it has {plain}")
    return plain if columns is None else list(columns)


def _none(file: pq.ParquetFile, names: Sequence[str]) -> Nuclei:
    table = file.schema_arrow.empty_table()
    return Nuclei.empty({name: _values(file, table.column(name), name) for name in names})


def _group_bounds(file: pq.ParquetFile) -> FloatArray:
    paths = [file.metadata.schema.column(k).path for k in range(file.metadata.num_columns)]
    bounds = np.tile([-np.inf, -np.inf, np.inf, np.inf], (file.num_row_groups, 1))
    for corner, name in enumerate(CORNERS):
        if f"bbox.{name}" not in paths:
            continue
        column = paths.index(f"bbox.{name}")
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                bounds[group, corner] = statistics.min if corner < 2 else statistics.max
    return bounds


def _overlap(bounds: FloatArray, box: Box) -> npt.NDArray[np.bool_]:
    return (bounds[:, 0] < box.x1) & (bounds[:, 2] > box.x0) & (bounds[:, 1] < box.y1) & (bounds[:, 3] > box.y0)


def _read_group(file: pq.ParquetFile, group: int, names: Sequence[str], box: Box | None) -> Nuclei:
    geometry = _geometry_name(file)
    table = file.read_row_group(group, columns=[geometry, *names]).combine_chunks()
    wkb = table.column(geometry)
    columns = {name: _values(file, table.column(name), name) for name in names}
    nuclei = from_wkb(wkb.chunk(0) if wkb.num_chunks else pa.array([], pa.binary()), columns)
    # Compiled code follows the coordinates: what no slide can have must not come so far.
    extremes = (nuclei.vertices.min(), nuclei.vertices.max()) if len(nuclei.vertices) else ()
    if not all(abs(value) <= LARGEST_COORDINATE for value in extremes):
        raise NotNuclei(f"coordinates that are not finite, or beyond {LARGEST_COORDINATE:.0e}")
    return nuclei if box is None else nuclei.take(_overlap(nuclei.bounds(), box))


def _values(file: pq.ParquetFile, column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    """A column as numpy; types by their numbers among the names that the file declares."""
    types = _types(_wsiseg_metadata(file)) if name == TYPE else ()
    if not types:
        return column.to_numpy()
    numbers = pc.index_in(column.cast(pa.string()), pa.array(types, pa.string()))
    if numbers.null_count:
        raise NotNuclei(f"types of nuclei other than those that it declares, {list(types)}")
    return numbers.to_numpy().astype(np.int16)


def _types(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    types = metadata.get("types", [])
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise NotNuclei("types that are no list of names")
    return tuple(types)


def _from_any_wkb(array: pa.Array, columns: Mapping[str, npt.NDArray[np.generic]]) -> Nuclei:
    """As :func:`from_wkb`; rows without a geometry are left out, of a MultiPolygon the largest part is kept."""
    shapes = shapely.from_wkb(array.to_numpy(zero_copy_only=False))
    parts, row = shapely.get_parts(shapes, return_index=True)
    held = np.unique(shapely.get_type_id(parts))
    if not np.isin(held, _POLYGON).all():
        raise NotNuclei("geometry other than polygons; expected one polygon a nucleus")
    filled = ~shapely.is_empty(parts)
    parts, row = parts[filled], row[filled]
    order = np.lexsort((shapely.area(parts), row))
    last = np.flatnonzero(np.diff(row[order], append=-1))  # of each row the largest
    kept = order[last]
    return Nuclei.from_geometry(parts[kept], {name: column[row[kept]] for name, column in columns.items()})


@compiled
def _fill_wkb(raw, offsets, ends, buffer):  # type: ignore[no-untyped-def]
    for n in range(len(offsets) - 1):
        first, last = offsets[n], offsets[n + 1]
        at = ends[n]
        buffer[at : at + _HEADER] = 0
        buffer[at] = 1
        buffer[at + 1] = _POLYGON
        buffer[at + 5] = 1
        count = last - first + 1
        for byte in range(4):
            buffer[at + 9 + byte] = (count >> (8 * byte)) & 255
        at += _HEADER
        size = 16 * (last - first)
        buffer[at : at + size] = raw[16 * first : 16 * last]
        buffer[at + size : at + size + 16] = raw[16 * first : 16 * first + 16]


@compiled
def _ring_sizes(data, starts):  # type: ignore[no-untyped-def]
    """Vertices of each exterior ring without the closing one; -1 where it is not a little-endian 2D polygon."""
    counts = np.empty(len(starts) - 1, dtype=np.int64)
    for n in range(len(counts)):
        at = np.int64(starts[n])
        header = starts[n + 1] - at > _HEADER and data[at] == 1 and data[at + 1] == _POLYGON
        if not header or data[at + 2] or data[at + 3] or data[at + 4]:
            counts[n] = -1
            continue
        count = np.int64(0)
        for byte in range(4):
            count |= np.int64(data[at + 9 + byte]) << (8 * byte)
        counts[n] = count - 1 if _HEADER + 16 * count <= starts[n + 1] - at else -1
    return counts


@compiled
def _read_rings(data, starts, offsets, raw):  # type: ignore[no-untyped-def]
    """The bytes of the rings' vertices into ``raw``, flat, without the closing ones."""
    for n in range(len(offsets) - 1):
        first, last = 16 * offsets[n], 16 * offsets[n + 1]
        at = np.int64(starts[n]) + _HEADER
        raw[first:last] = data[at : at + last - first]
