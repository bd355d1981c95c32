"""The nuclei file: GeoParquet that others read, written in a stream, all or nothing."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import EnvironmentFault, UsageError
from wsiseg.results.nuclei import (
    ATTRIBUTES,
    count_nuclei,
    from_wkb,
    iter_nuclei,
    read_metadata,
    read_nuclei,
    read_row_groups_bounds,
    to_wkb,
)
from wsiseg.testing.nucleifile import NucleiWriter

METADATA = {"slide": "a.svs", "mpp": 0.25, "downsample": 2.0}


def discs(count: int, seed: int = 0, corner: tuple[float, float] = (0.0, 0.0)) -> Nuclei:
    """Ragged polygons in 1000 × 1000 px from ``corner`` on, with every attribute and one too many."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 40, count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    angle = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)) / np.repeat(sizes, sizes) * 2 * np.pi
    centre = np.repeat(rng.uniform(20, 980, (count, 2)) + corner, sizes, axis=0)
    radius = np.repeat(rng.uniform(3, 15, count), sizes)[:, None]
    vertices = centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    columns = {name: rng.random(count).astype(np.float32) for name in reversed(list(ATTRIBUTES))}
    return Nuclei(vertices, offsets, {**columns, "tile": np.arange(count)})


def write(path: Path, *groups: Nuclei) -> Path:
    with NucleiWriter(path, METADATA) as writer:
        for group in groups:
            writer.write(group)
    return path


def same(one: Nuclei, other: Nuclei) -> bool:
    return one.vertices.tobytes() == other.vertices.tobytes() and (one.offsets == other.offsets).all()


def test_round_trip(tmp_path: Path) -> None:
    groups = [discs(50, 1), discs(70, 2)]
    path = write(tmp_path / "nuclei.parquet", *groups)
    expected, got = Nuclei.concatenate(groups), read_nuclei(path)
    assert same(got, expected)
    assert list(got.columns) == ["id", "x", "y", *ATTRIBUTES]
    assert got.columns["id"].tolist() == list(range(1, 121))
    np.testing.assert_array_equal(np.stack([got.columns["x"], got.columns["y"]], 1), expected.centroids())
    for name in ATTRIBUTES:
        assert got.columns[name].dtype == np.float32
        np.testing.assert_array_equal(got.columns[name], expected.columns[name])
    assert count_nuclei(path) == 120
    assert read_metadata(path) == {**METADATA, "format": 1}


def test_geopandas_reads_it(tmp_path: Path) -> None:
    nuclei = discs(60)
    path = write(tmp_path / "nuclei.parquet", nuclei)
    frame = geopandas.read_parquet(path)
    assert frame.crs is None
    assert frame.geometry.name == "geometry"
    assert shapely.equals_identical(frame.geometry.to_numpy(), nuclei.geometry()).all()
    np.testing.assert_allclose(frame.geometry.area, nuclei.areas())
    # The covering works for others as well: a box is answered from the bbox column.
    some = geopandas.read_parquet(path, bbox=(100, 100, 400, 300))
    assert sorted(some["id"]) == sorted(read_nuclei(path, Box(100, 100, 400, 300)).columns["id"])
    assert 0 < len(some) < 60


def test_layout_is_the_documented_one(tmp_path: Path) -> None:
    nuclei = discs(30)
    file = pq.ParquetFile(write(tmp_path / "nuclei.parquet", nuclei))
    assert file.schema_arrow.names == ["id", "geometry", "bbox", "x", "y", *ATTRIBUTES]
    assert [f.name for f in file.schema_arrow.field("bbox").type] == ["xmin", "ymin", "xmax", "ymax"]
    assert {file.metadata.row_group(0).column(k).compression for k in range(file.metadata.num_columns)} == {"ZSTD"}
    geo = json.loads(file.metadata.metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert geo["version"] == "1.1.0"
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert "crs" in column
    assert column["crs"] is None
    assert column["covering"]["bbox"]["ymax"] == ["bbox", "ymax"]
    bounds = nuclei.bounds()
    assert column["bbox"] == [*bounds[:, :2].min(0), *bounds[:, 2:].max(0)]


def test_same_nuclei_same_bytes(tmp_path: Path) -> None:
    groups = [discs(50, 1), discs(70, 2)]
    one = write(tmp_path / "one.parquet", *groups).read_bytes()
    assert write(tmp_path / "two.parquet", *groups).read_bytes() == one


@pytest.mark.parametrize("groups", [[], [discs(0)], [discs(0), discs(0)]])
def test_no_nuclei_is_a_valid_file(tmp_path: Path, groups: list[Nuclei]) -> None:
    path = write(tmp_path / "nuclei.parquet", *groups)
    got = read_nuclei(path)
    assert len(got) == 0
    assert {n: c.dtype for n, c in got.columns.items()} == {
        "id": np.int64, "x": np.float64, "y": np.float64, **dict.fromkeys(ATTRIBUTES, np.float32)
    }  # fmt: skip
    assert list(iter_nuclei(path)) == []
    assert read_row_groups_bounds(path).shape == (0, 4)
    assert len(geopandas.read_parquet(path)) == 0
    assert len(read_nuclei(path, Box(0, 0, 10, 10))) == 0
    assert "bbox" not in json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]


# ---- reading a part of a file


def test_row_groups_one_by_one(tmp_path: Path) -> None:
    groups = [discs(20, 1), discs(0), discs(40, 2, (1000, 0)), discs(30, 3, (0, 5000))]
    path = write(tmp_path / "nuclei.parquet", *groups)
    got = list(iter_nuclei(path, columns=["id", "score"]))
    filled = [group for group in groups if len(group)]
    assert all(same(a, b) for a, b in zip(got, filled, strict=True))
    assert [g.columns["id"][0] for g in got] == [1, 21, 61]
    assert list(got[0].columns) == ["id", "score"]
    bounds = read_row_groups_bounds(path)
    for row, group in zip(bounds, filled, strict=True):
        assert row.tolist() == [*group.bounds()[:, :2].min(0), *group.bounds()[:, 2:].max(0)]


@settings(max_examples=25, deadline=None)
@given(x=st.floats(-100, 2100), y=st.floats(-100, 1100), width=st.floats(0, 900), height=st.floats(0, 900))
def test_box_gives_what_overlaps_it(
    tmp_path_factory: pytest.TempPathFactory, x: float, y: float, width: float, height: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "boxes.parquet"
    groups = [discs(40, seed, (1000.0 * seed, 0)) for seed in range(2)]
    if not path.exists():
        write(path, *groups)
    box = Box(x, y, x + width, y + height)
    bounds = Nuclei.concatenate(groups).bounds()
    overlap = np.array([box.intersects(Box(*row)) for row in bounds.tolist()])
    if box.empty:
        overlap = (bounds[:, 0] < box.x1) & (bounds[:, 2] > box.x0)
        overlap &= (bounds[:, 1] < box.y1) & (bounds[:, 3] > box.y0)
    assert read_nuclei(path, box).columns["id"].tolist() == (np.flatnonzero(overlap) + 1).tolist()


def test_a_box_reads_only_the_row_groups_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "nuclei.parquet", *[discs(40, k, (2000.0 * k, 0)) for k in range(5)])
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        read.append(group)
        return original(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert len(read_nuclei(path, Box(4000, 0, 5000, 1000))) == 40
    assert read == [2]


def test_what_geopandas_wrote_can_be_read(tmp_path: Path) -> None:
    nuclei = discs(30)
    frame = geopandas.GeoDataFrame({"score": nuclei.columns["score"]}, geometry=nuclei.geometry())
    frame.to_parquet(tmp_path / "other.parquet")
    got = read_nuclei(tmp_path / "other.parquet")
    assert same(got, nuclei)
    assert list(got.columns) == ["score"]
    box = Box(100, 100, 500, 500)
    assert len(read_nuclei(tmp_path / "other.parquet", box)) == sum(
        box.intersects(Box(*row)) for row in nuclei.bounds().tolist()
    )
    assert read_metadata(tmp_path / "other.parquet") == {}


@pytest.mark.parametrize("case", ["missing", "text", "plain parquet", "points", "truncated"])
def test_files_that_are_not_nuclei(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.parquet"
    if case == "text":
        path.write_text("hello")
    elif case == "plain parquet":
        pq.write_table(pa.table({"a": [1]}), path)
    elif case == "points":
        geopandas.GeoDataFrame(geometry=shapely.points([[0, 0], [1, 1]])).to_parquet(path)
    elif case == "truncated":
        path.write_bytes(write(tmp_path / "b.parquet", discs(30)).read_bytes()[:-200])
    with pytest.raises(UsageError, match=r"a\.parquet|polygons"):
        read_nuclei(path)


def test_unknown_column(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"colour.*score"):
        read_nuclei(write(tmp_path / "a.parquet", discs(3)), columns=["colour"])


# ---- all or nothing


def test_an_error_leaves_nothing_behind_and_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "nuclei.parquet"

    def fail() -> None:
        with NucleiWriter(path, METADATA) as writer:
            writer.write(discs(50))
            assert not path.exists() or path.read_bytes() == b"old"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_final_name_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "nuclei.parquet"
    with NucleiWriter(path, METADATA) as writer:
        writer.write(discs(50))
        assert not path.exists()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="file"):
        write(tmp_path / "file" / "nuclei.parquet", discs(3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr("wsiseg.core.atomic.temporary_name", lambda path: full)

    def fill() -> None:
        with NucleiWriter(tmp_path / "nuclei.parquet", METADATA) as writer:
            writer.write(discs(3000))

    with pytest.raises(EnvironmentFault, match="disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_missing_attribute_and_closed_writer(tmp_path: Path) -> None:
    bare = discs(3)
    bare = Nuclei(bare.vertices, bare.offsets, {n: c for n, c in bare.columns.items() if n != "score"})
    with pytest.raises(ValueError, match="score"):
        write(tmp_path / "a.parquet", bare)
    with pytest.raises(ValueError, match="with"):
        NucleiWriter(tmp_path / "a.parquet", METADATA).write(discs(3))
    assert list(tmp_path.iterdir()) == []


def test_other_attributes(tmp_path: Path) -> None:
    nuclei = discs(5).with_columns(**{"class": np.array([1, 2, 3, 1, 2], dtype=np.int16)})
    with NucleiWriter(tmp_path / "a.parquet", {}, {"score": "float32", "class": "int16"}) as writer:
        writer.write(nuclei)
    got = read_nuclei(tmp_path / "a.parquet")
    assert list(got.columns) == ["id", "x", "y", "score", "class"]
    assert got.columns["class"].tolist() == [1, 2, 3, 1, 2]


# ---- WKB


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), seed=st.integers(0, 1000))
def test_wkb_equals_shapely(count: int, seed: int) -> None:
    nuclei = discs(count, seed)
    expected = shapely.to_wkb(nuclei.geometry(), byte_order=1)
    assert to_wkb(nuclei).to_pylist() == list(expected)
    back = from_wkb(to_wkb(nuclei))
    assert same(back, nuclei)
    assert same(from_wkb(to_wkb(nuclei)[count // 3 :]), nuclei.take(np.arange(count // 3, count)))


def test_foreign_wkb() -> None:
    nuclei = discs(4)
    big = pa.array(list(shapely.to_wkb(nuclei.geometry(), byte_order=0)), pa.binary())
    assert same(from_wkb(big), nuclei)
    large = to_wkb(nuclei).cast(pa.large_binary())
    assert same(from_wkb(large), nuclei)
    square = shapely.box(0, 0, 10, 10)
    ring = shapely.difference(square, shapely.box(4, 4, 6, 6))
    back = from_wkb(pa.array(list(shapely.to_wkb(np.array([ring]))), pa.binary()))
    assert back.areas().tolist() == [100.0]


def test_rows_without_a_polygon_are_left_out_and_of_several_the_largest_is_kept(tmp_path: Path) -> None:
    small, large = shapely.box(0, 0, 1, 1), shapely.box(5, 5, 8, 8)
    shapes = [large, None, shapely.MultiPolygon([small, large]), shapely.Polygon(), small]
    frame = geopandas.GeoDataFrame({"score": [1.0, 2.0, 3.0, 4.0, 5.0]}, geometry=shapes)
    frame.to_parquet(tmp_path / "other.parquet")
    got = read_nuclei(tmp_path / "other.parquet")
    assert got.areas().tolist() == [9.0, 9.0, 1.0]
    assert got.columns["score"].tolist() == [1.0, 3.0, 5.0]


@pytest.mark.parametrize("case", ["page", "nan", "far", "wkb", "geo", "types", "pipe"])
def test_damage_and_nonsense_in_the_middle_are_said_by_name(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "a.parquet", discs(300))
    table = pq.read_table(path)
    if case == "page":
        content = bytearray(path.read_bytes())
        content[300 : len(content) // 2] = b"x" * (len(content) // 2 - 300)
        path.write_bytes(content)
    elif case == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        geometry = table["geometry"].to_pylist()
        metadata = dict(pq.read_metadata(path).metadata)
        if case in ("nan", "far"):
            geometry[7] = geometry[7][:-8] + struct.pack("<d", {"nan": np.nan, "far": 1e300}[case])
            geometry[7] = geometry[7][:13] + geometry[7][-16:] + geometry[7][29:]
        elif case == "wkb":
            geometry[7] = b"\x01\x03\x00\x00\x00\xff\xff\xff\x7f"
        elif case == "geo":
            metadata[b"geo"] = b'{"primary_column": ["geometry"], "columns": [3]}'
        elif case == "types":
            metadata[b"wsiseg"] = b'{"types": {"a": 1}}'
            table = table.append_column("type", pa.array(["a"] * len(table)))
        place = table.schema.get_field_index("geometry")
        table = table.set_column(place, "geometry", pa.array(geometry, pa.binary()))
        pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(UsageError, match=r"a\.parquet") as caught:
        read_nuclei(path)
    assert len(str(caught.value).splitlines()) <= 3
