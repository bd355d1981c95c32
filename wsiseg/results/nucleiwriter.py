"""``nuclei.parquet`` as it is written: row group by row group, by processes that follow one another.

Nothing in the file depends on time, machine, batch order or how many processes wrote it: the same nuclei in the
same row groups give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsiseg.core.atomic import sync_folder
from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.sealed import FileNote, begins_with
from wsiseg.results.nuclei import CORNERS, FORMAT_VERSION, TYPE, TYPE_PROB, to_wkb
from wsiseg.results.rowgroups import MAGIC, footer_bytes, read_metadata, take_apart

_BBOX = pa.struct([pa.field(name, pa.float64(), nullable=False) for name in CORNERS])


@dataclass(frozen=True)
class NucleiFormat:
    """What a file of nuclei declares.

    Attributes
    ----------
    metadata : mapping
        JSON for the file's ``wsiseg`` key, for example slide, mpp and downsample. ``format`` is added.
    attributes : mapping of str to numpy dtype name
        The columns to write, in file order. Other columns of the nuclei are left out.
    types : sequence of str
        Names of the types of nuclei. The nuclei's columns ``type``, numbers from 0, and ``type_prob`` are then
        written as well, the types by their names, and the names in order are in the ``wsiseg`` key.
    """

    metadata: Mapping[str, Any]
    attributes: Mapping[str, str]
    types: Sequence[str] = ()

    @cached_property
    def columns(self) -> dict[str, np.dtype[Any]]:
        typed = {TYPE: "int16", TYPE_PROB: "float32"} if self.types else {}
        return {name: np.dtype(kind) for name, kind in {**self.attributes, **typed}.items()}

    @cached_property
    def schema(self) -> pa.Schema:
        fields = [("id", pa.int64()), ("geometry", pa.binary()), ("bbox", _BBOX)]
        fields += [("x", pa.float64()), ("y", pa.float64())]
        named = {TYPE: pa.dictionary(pa.int16(), pa.string())} if self.types else {}
        fields += [(name, named.get(name) or pa.from_numpy_dtype(kind)) for name, kind in self.columns.items()]
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])

    def key_values(self, written: Written) -> dict[str, str]:
        geometry: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": None,
            "covering": {"bbox": {name: ["bbox", name] for name in CORNERS}},
        }
        if written.bounds:
            geometry["bbox"] = list(written.bounds)
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
        types = {"types": list(self.types)} if self.types else {}
        about = {**self.metadata, **types, "format": FORMAT_VERSION}
        return {"geo": json.dumps(geo), "wsiseg": json.dumps(about, sort_keys=True, allow_nan=False)}


@dataclass(frozen=True)
class Written:
    """The nuclei of a file so far: how many, how many of each type, and their bounds x0, y0, x1, y1; () of none."""

    count: int = 0
    by_type: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()


class RowGroups:
    """Nuclei that are written to a sink, each call's as one row group.

    Parameters
    ----------
    declared : NucleiFormat
    sink : path or pyarrow file
    written : Written
        What stands before them in the file.
    """

    def __init__(self, declared: NucleiFormat, sink: Any, written: Written) -> None:
        self.declared, self.written = declared, written
        self._writer = pq.ParquetWriter(
            sink,
            declared.schema,
            compression="zstd",
            # Coordinates hardly repeat: dictionaries cost time and space. A WKB's minimum says nothing.
            use_dictionary=[TYPE] if declared.types else False,
            write_statistics=[f"bbox.{name}" for name in CORNERS] + ["id"],
        )

    def write(self, nuclei: Nuclei) -> None:
        """Append ``nuclei``, in level-0 coordinates; ids go on from the last one.

        Raises
        ------
        ValueError
            A declared attribute is missing, or a type has no name.
        """
        if len(nuclei) == 0:
            return
        missing = [name for name in self.declared.columns if name not in nuclei.columns]
        if missing:
            raise ValueError(f"nuclei without the columns {missing}; they have {sorted(nuclei.columns)}")
        names = self.declared.types
        by_type = np.bincount(nuclei.columns[TYPE], minlength=len(names)) if names else np.empty(0, np.int64)
        if len(by_type) > len(names):
            raise ValueError(f"a nucleus has type {len(by_type) - 1}; the names are {list(names)}")
        bounds = nuclei.bounds()
        self._writer.write_table(self._table(nuclei, bounds), row_group_size=len(nuclei))
        before = self.written
        if before.bounds:
            bounds = np.vstack([bounds, before.bounds])
        corners = (*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist())
        counts = by_type + np.array(before.by_type or [0] * len(names), dtype=np.int64)
        self.written = Written(before.count + len(nuclei), tuple(counts.tolist()), corners)

    def close(self, key_values: Mapping[str, str] | None = None) -> None:
        if key_values:
            self._writer.add_key_value_metadata(dict(key_values))
        self._writer.close()

    def _table(self, nuclei: Nuclei, bounds: FloatArray) -> pa.Table:
        declared, before, centroids = self.declared, self.written.count, nuclei.centroids()
        corners = [pa.array(np.ascontiguousarray(bounds[:, k])) for k in range(4)]
        columns = [
            pa.array(np.arange(before + 1, before + len(nuclei) + 1)),
            to_wkb(nuclei),
            pa.StructArray.from_arrays(corners, fields=list(_BBOX)),
            pa.array(np.ascontiguousarray(centroids[:, 0])),
            pa.array(np.ascontiguousarray(centroids[:, 1])),
        ]
        plain = {name: pa.array(nuclei.columns[name].astype(kind)) for name, kind in declared.columns.items()}
        if declared.types:
            plain[TYPE] = pa.DictionaryArray.from_arrays(plain[TYPE], pa.array(list(declared.types)))
        return pa.Table.from_arrays([*columns, *plain.values()], schema=declared.schema)


@dataclass(frozen=True)
class Grown:
    """How far a file of nuclei has grown.

    It can be read by its ``footer``, which lies elsewhere until the file is complete; what was written of it is not
    written again, so that readers and the one who appends do not meet.

    Attributes
    ----------
    written : Written
    end : int
        Where the next row group goes.
    crc32c : int
        Of all before.
    footer : bytes
        Of all before, see :func:`wsiseg.results.rowgroups.read_metadata`.
    """

    written: Written
    end: int
    crc32c: int
    footer: bytes

    def is_in(self, path: Path) -> bool:
        """Whether a file begins as this was written; a large one is judged by its size alone."""
        return begins_with(path, self.end, self.crc32c)

    @classmethod
    def nothing(cls, declared: NucleiFormat) -> Grown:
        """A file that has not begun."""
        return cls(Written(), len(MAGIC), google_crc32c.value(MAGIC), footer_bytes(_empty(declared, Written())))


class Stretch:
    """Nuclei that are to be appended to a file that has grown so far; memory is that of all of them, as written.

    Parameters
    ----------
    declared : NucleiFormat
    grown : Grown
    """

    def __init__(self, declared: NucleiFormat, grown: Grown) -> None:
        self._grown = grown
        self._sink = pa.BufferOutputStream()
        self._rows = RowGroups(declared, self._sink, grown.written)

    def write(self, nuclei: Nuclei) -> None:
        """As :meth:`RowGroups.write`."""
        self._rows.write(nuclei)

    def append(self, path: Path) -> Grown:
        """Put them into the file; done twice, it writes the same bytes to the same place.

        Raises
        ------
        EnvironmentFault
            The disk is full, read-only or not permitted.
        """
        self._rows.close()
        data, metadata = take_apart(self._sink.getvalue(), self._grown.end)
        whole = read_metadata(self._grown.footer)
        whole.append_row_groups(metadata)
        _write_at(path, self._grown.end, data)
        checksum = google_crc32c.extend(self._grown.crc32c, data.to_pybytes())
        return Grown(self._rows.written, self._grown.end + data.size, checksum, footer_bytes(whole))


def complete(path: Path, declared: NucleiFormat, grown: Grown) -> FileNote:
    """Give a file that has grown its footer; what the file is known by then.

    Raises
    ------
    EnvironmentFault
        The disk is full, read-only or not permitted.
    """
    whole = _empty(declared, grown.written)
    whole.append_row_groups(read_metadata(grown.footer))
    footer = footer_bytes(whole)
    _write_at(path, grown.end, footer, grown.end + len(footer))
    sync_folder(path.parent)
    return {"bytes": grown.end + len(footer), "crc32c": f"{google_crc32c.extend(grown.crc32c, footer):08x}"}


def _empty(declared: NucleiFormat, written: Written) -> pq.FileMetaData:
    """The metadata of a file without row groups; its key-values are kept where others are appended."""
    sink = pa.BufferOutputStream()
    RowGroups(declared, sink, written).close(declared.key_values(written))
    return pq.read_metadata(pa.BufferReader(sink.getvalue()))


def _write_at(path: Path, place: int, data: pa.Buffer | bytes, size: int | None = None) -> None:
    """Write in a file that is made where it is missing; ``size``: what it is cut to. On the disk when this ends."""
    with environment_faults(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(descriptor, "rb+") as file:
            if place == len(MAGIC):
                file.write(MAGIC)
            file.seek(place)
            file.write(data)
            file.flush()
            if size is not None:
                file.truncate(size)
            os.fsync(file.fileno())
