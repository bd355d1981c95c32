"""Instances as columns: ragged polygons and one array for each attribute; never one object a nucleus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from wsiseg.core.geometry import Box, FloatArray, Scale
from wsiseg.core.rings import IntArray, common_areas, copy_rings, ring_bounds, ring_moments

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Nuclei:
    """N simple polygons and their attributes.

    Attributes
    ----------
    vertices : float64 array (V, 2)
        x, y of every ring, one ring after the other, each without a closing vertex. Which coordinates they are
        in (image, lattice or level 0) is the caller's business; :meth:`translate` and :meth:`scale` convert.
    offsets : int64 array (N + 1,)
        Ring n is ``vertices[offsets[n]:offsets[n + 1]]``.
    columns : mapping of str to array (N,)
        Attributes by name, for example ``score`` (float32) or ``type`` (int16).
    """

    vertices: FloatArray
    offsets: IntArray
    columns: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or len(self.offsets) == 0 or self.offsets[-1] != len(self.vertices):
            raise ValueError(
                f"offsets of shape {self.offsets.shape} do not partition {len(self.vertices)} vertices"
            )
        for name, column in self.columns.items():
            if len(column) != len(self):
                raise ValueError(f"column {name!r} has {len(column)} rows for {len(self)} nuclei")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def empty(cls, columns: Mapping[str, npt.NDArray[np.generic]] | None = None) -> Nuclei:
        """No nuclei; ``columns`` gives names and dtypes of empty columns."""
        none = {name: np.empty(0, dtype=array.dtype) for name, array in (columns or {}).items()}
        return cls(np.empty((0, 2)), np.zeros(1, dtype=np.int64), none)

    @classmethod
    def concatenate(cls, parts: Sequence[Nuclei]) -> Nuclei:
        """All nuclei of ``parts`` in order; the parts must have the same columns."""
        if not parts:
            return cls.empty()
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        names = list(parts[0].columns)
        if any(list(part.columns) != names for part in parts):
            raise ValueError("parts with different columns cannot be joined")
        return cls(
            np.concatenate([part.vertices for part in parts]),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            {name: np.concatenate([part.columns[name] for part in parts]) for name in names},
        )

    def take(self, index: npt.ArrayLike) -> Nuclei:
        """The nuclei at ``index``: integers in any order, or a boolean mask of length N."""
        chosen = np.asarray(index)
        if chosen.dtype != bool:
            chosen = chosen.astype(np.int64)
        chosen = np.arange(len(self))[chosen]
        counts = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        vertices = np.empty((int(offsets[-1]), 2), dtype=self.vertices.dtype)
        copy_rings(np.ascontiguousarray(self.vertices), self.offsets, chosen, vertices)
        return Nuclei(vertices, offsets, {name: column[chosen] for name, column in self.columns.items()})

    def with_columns(self, **columns: npt.NDArray[np.generic]) -> Nuclei:
        """The same nuclei with columns added or replaced."""
        return Nuclei(self.vertices, self.offsets, {**self.columns, **columns})

    def translate(self, dx: float, dy: float) -> Nuclei:
        return Nuclei(self.vertices + np.array([dx, dy]), self.offsets, self.columns)

    def scale(self, scale: Scale) -> Nuclei:
        """From lattice coordinates of ``scale`` to level-0 coordinates."""
        return Nuclei(scale.to_level0(self.vertices), self.offsets, self.columns)

    def areas(self) -> FloatArray:
        """Area of each polygon in squared coordinate units (shoelace formula)."""
        return np.asarray(ring_moments(*self._rings())[0])

    def centroids(self) -> FloatArray:
        """Area centroid of each polygon, shape (N, 2): the reference point that decides ownership."""
        return np.asarray(ring_moments(*self._rings())[1])

    def bounds(self) -> FloatArray:
        """x0, y0, x1, y1 of each polygon, shape (N, 4)."""
        return np.asarray(ring_bounds(*self._rings()))

    def common_areas(self, pairs: IntArray) -> FloatArray:
        """Area of intersection of each pair (M, 2) of the nuclei: :func:`wsiseg.core.rings.common_areas`."""
        return common_areas(*self._rings(), pairs)

    def within(self, box: Box) -> BoolArray:
        """Which nuclei have their bounds inside ``box``."""
        bounds = self.bounds()
        return (
            (bounds[:, 0] >= box.x0)
            & (bounds[:, 1] >= box.y0)
            & (bounds[:, 2] <= box.x1)
            & (bounds[:, 3] <= box.y1)
        )

    def overlapping(self, box: Box) -> BoolArray:
        """Which nuclei have bounds that overlap ``box``."""
        bounds = self.bounds()
        return (bounds[:, 0] < box.x1) & (bounds[:, 2] > box.x0) & (bounds[:, 1] < box.y1) & (bounds[:, 3] > box.y0)

    def geometry(self) -> npt.NDArray[np.object_]:
        """The polygons as shapely geometries, shape (N,)."""
        if len(self) == 0:
            return np.empty(0, dtype=object)
        rings = shapely.linearrings(self.vertices, indices=np.repeat(np.arange(len(self)), np.diff(self.offsets)))
        return np.asarray(shapely.polygons(rings))

    @classmethod
    def from_geometry(
        cls, polygons: npt.ArrayLike, columns: Mapping[str, npt.NDArray[np.generic]] | None = None
    ) -> Nuclei:
        """From shapely polygons; only the exterior rings are kept."""
        rings = shapely.get_exterior_ring(np.asarray(polygons, dtype=object))
        if len(rings) == 0:
            return cls.empty(columns)
        counts = shapely.get_num_coordinates(rings) - 1
        ends = np.cumsum(counts + 1) - 1
        keep = np.ones(int(ends[-1]) + 1, dtype=bool)
        keep[ends] = False
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(shapely.get_coordinates(rings)[keep], offsets, dict(columns or {}))

    def to_arrow(self) -> pa.Table:
        """A table with ``vertices`` (list of flat x, y, x, y, … float64) and the columns."""
        flat = pa.ListArray.from_arrays(
            pa.array(self.offsets * 2, type=pa.int32()), pa.array(self.vertices.reshape(-1))
        )
        return pa.table({"vertices": flat, **{name: pa.array(col) for name, col in self.columns.items()}})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Nuclei:
        """The inverse of :meth:`to_arrow`."""
        flat = table.column("vertices").combine_chunks()
        if isinstance(flat, pa.ChunkedArray):
            flat = pa.concat_arrays(flat.chunks) if flat.num_chunks else pa.array([], pa.list_(pa.float64()))
        counts = np.diff(flat.offsets.to_numpy()) // 2
        columns = {n: table.column(n).to_numpy() for n in table.column_names if n != "vertices"}
        return cls(
            flat.flatten().to_numpy().reshape(-1, 2).copy(),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            columns,
        )

    def _rings(self) -> tuple[FloatArray, IntArray]:
        """Vertices and offsets as the kernels take them: one memory layout, compiled once."""
        return np.ascontiguousarray(self.vertices, dtype=np.float64), self.offsets
