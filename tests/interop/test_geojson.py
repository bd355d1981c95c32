"""GeoJSON for QuPath: what QuPath demands, ids, splitting, repair, and the way back."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.rings import plainly_simple
from wsiseg.errors import UsageError
from wsiseg.interop import geojson
from wsiseg.interop.geojson import Classification, export_geojson, read_geojson
from wsiseg.interop.text import number_texts, ring_texts, uuid5_texts
from wsiseg.results.nuclei import ATTRIBUTES, iter_nuclei, read_nuclei
from wsiseg.testing.nucleifile import NucleiWriter

META = {"slide": "s.svs", "fingerprint": "f" * 64, "mpp": 0.25, "downsample": 2.0}


def blobs(count: int, seed: int = 0, extent: float = 5000.0) -> Nuclei:
    """Star-shaped polygons with 5 to 20 vertices and every attribute of ``nuclei.parquet``."""
    random = np.random.default_rng(seed)
    sizes = random.integers(5, 21, count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    owner = np.repeat(np.arange(count), sizes)
    angle = 2 * np.pi * (np.arange(offsets[-1]) - offsets[owner]) / sizes[owner]
    radius = random.uniform(5, 12, offsets[-1])
    centre = random.uniform(20, extent, (count, 2))
    vertices = centre[owner] + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    columns = {name: random.uniform(0, 99, count).astype(kind) for name, kind in ATTRIBUTES.items()}
    return Nuclei(vertices, offsets, columns)


def write(path: Path, parts: list[Nuclei], meta: dict | None = META) -> Path:
    with NucleiWriter(path, meta or {}) as writer:
        for part in parts:
            writer.write(part)
    return path


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    return write(tmp_path / "nuclei.parquet", [blobs(130), blobs(70, seed=1)])


def check_for_qupath(collection: dict) -> None:
    """The rules of QuPath's reader, by hand."""
    assert set(collection) == {"type", "features"}
    assert collection["type"] == "FeatureCollection"
    seen = set()
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        identity = uuid.UUID(feature["id"])
        assert str(identity) == feature["id"]
        assert identity.version == 5
        seen.add(identity)
        geometry = feature["geometry"]
        assert geometry["type"] == "Polygon"
        (ring,) = geometry["coordinates"]
        assert len(ring) >= 4
        assert ring[0] == ring[-1]
        assert all(len(point) == 2 for point in ring)
        polygon = shapely.Polygon(ring)
        assert polygon.is_valid
        assert polygon.area > 0
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert set(properties["classification"]) == {"name", "color"}
        assert len(properties["classification"]["color"]) == 3
        assert all(isinstance(c, int) and 0 <= c <= 255 for c in properties["classification"]["color"])
        for name, value in properties["measurements"].items():
            assert isinstance(name, str)
            assert isinstance(value, int | float)
            assert np.isfinite(value)
    assert len(seen) == len(collection["features"])


def test_what_qupath_demands(parquet: Path, tmp_path: Path) -> None:
    (path,) = export_geojson(parquet, tmp_path / "out.geojson")
    collection = json.loads(path.read_text("utf-8"))
    check_for_qupath(collection)
    assert len(collection["features"]) == 200
    first = collection["features"][0]["properties"]["measurements"]
    assert set(first) == {"id", *ATTRIBUTES}


def test_round_trip(parquet: Path, tmp_path: Path) -> None:
    (path,) = export_geojson(parquet, tmp_path / "out.geojson.gz")
    back, original = read_geojson(path), read_nuclei(parquet)
    assert np.array_equal(back.offsets, original.offsets)
    np.testing.assert_allclose(back.vertices, original.vertices, atol=0.0005 + 1e-9)
    assert np.array_equal(back.columns["id"], original.columns["id"])
    for name in ATTRIBUTES:
        np.testing.assert_allclose(back.columns[name], original.columns[name], atol=0.5e-4 + 1e-9)


def test_ids_are_uuid5_and_depend_on_slide_and_nucleus_alone(parquet: Path, tmp_path: Path) -> None:
    def ids(path: Path, **options: object) -> list[str]:
        (out,) = export_geojson(path, tmp_path / "ids.geojson", **options)  # type: ignore[arg-type]
        return [feature["id"] for feature in json.loads(out.read_text())["features"]]

    recorded = ids(parquet)
    slide = uuid.uuid5(geojson.NAMESPACE, "f" * 64)
    assert recorded == [str(uuid.uuid5(slide, str(n))) for n in range(1, 201)]
    assert ids(parquet, bounds_offset=(5.0, 6.0)) == recorded
    assert not set(ids(parquet, identity="another slide")) & set(recorded)


def test_ids_are_those_of_the_standard_library() -> None:
    space, numbers = uuid.uuid4(), [1, 9, 10, 99_999, 2**53, 2**62]
    assert uuid5_texts(space, np.array(numbers)).to_pylist() == [str(uuid.uuid5(space, str(n))) for n in numbers]
    assert len(uuid5_texts(space, np.empty(0, dtype=np.int64))) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=8))
def test_numbers_are_the_nearest_with_four_decimals(values: list[float]) -> None:
    for text, value in zip(number_texts(np.array(values), 4).to_pylist(), values, strict=True):
        assert float(text) == pytest.approx(value, abs=0.5e-4 + abs(value) * 1e-15)
        assert len(text.partition(".")[2]) <= 4
        assert not ("." in text and text.endswith(("0", ".")))


def test_numbers_as_text() -> None:
    numbers = np.array([0.0, -0.0, -0.04, 0.05, 10.0, -12.30, 99.96, 9e14])
    assert number_texts(numbers, 1).to_pylist() == ["0", "0", "0", "0", "10", "-12.3", "100", "900000000000000"]
    assert number_texts(numbers, 0).to_pylist()[4:] == ["10", "-12", "100", "900000000000000"]
    rings = ring_texts(numbers.reshape(4, 2), np.array([0, 3, 3, 4]), 1, (":", ", "), closed=True, padded=True)
    far = "100.0:900000000000000.0"
    assert rings.to_pylist() == ["0.0:0.0, 0.0:0.0, 10.0:-12.3, 0.0:0.0", "", f"{far}, {far}"]


@pytest.mark.parametrize("number", [np.nan, np.inf, -1e15])
def test_numbers_that_fixed_point_cannot_hold_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="fixed point"):
        number_texts(np.array([1.0, number]), 3)


def test_measurements_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    nuclei = blobs(3)
    nuclei.columns["score"][:] = [np.nan, np.inf, 0.5]  # type: ignore[index]
    (path,) = export_geojson(write(tmp_path / "n.parquet", [nuclei]), tmp_path / "out.geojson")
    collection = json.loads(path.read_text(), parse_constant=pytest.fail)
    check_for_qupath(collection)
    have = ["score" in feature["properties"]["measurements"] for feature in collection["features"]]
    assert have == [False, False, True]
    assert np.isnan(read_geojson(path).columns["score"][:2]).all()


def test_bounds_are_subtracted(parquet: Path, tmp_path: Path) -> None:
    (path,) = export_geojson(parquet, tmp_path / "out.geojson", bounds_offset=(1000.0, 200.0))
    moved = read_nuclei(parquet).translate(-1000.0, -200.0)
    np.testing.assert_allclose(read_geojson(path).vertices, moved.vertices, atol=0.00051)


def test_split_keeps_every_nucleus_once_in_order(parquet: Path, tmp_path: Path) -> None:
    paths = export_geojson(parquet, tmp_path / "out.geojson.gz", split=60)
    assert [path.name for path in paths] == [f"out.{n}-of-4.geojson.gz" for n in range(1, 5)]
    parts = [read_geojson(path) for path in paths]
    assert [len(part) for part in parts] == [60, 60, 60, 20]
    assert np.concatenate([part.columns["id"] for part in parts]).tolist() == list(range(1, 201))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["nuclei.parquet", *(path.name for path in paths)]
    )


def test_split_that_is_not_needed_keeps_the_name(parquet: Path, tmp_path: Path) -> None:
    assert export_geojson(parquet, tmp_path / "a.geojson", split=200) == (tmp_path / "a.geojson",)
    with pytest.raises(UsageError, match="positive"):
        export_geojson(parquet, tmp_path / "b.geojson", split=0)


def test_equal_nuclei_give_equal_bytes_whatever_the_slices(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = export_geojson(parquet, tmp_path / "a.geojson")
    (packed,) = export_geojson(parquet, tmp_path / "b.geojson.gz")
    monkeypatch.setattr(geojson, "_SLICE", 7)
    (second,) = export_geojson(parquet, tmp_path / "c.geojson")
    (repacked,) = export_geojson(parquet, tmp_path / "d.geojson.gz")
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(packed.read_bytes()) == first.read_bytes()
    assert gzip.decompress(repacked.read_bytes()) == first.read_bytes()
    (again,) = export_geojson(parquet, tmp_path / "e.geojson.gz")
    assert again.read_bytes() == repacked.read_bytes()


def test_no_nuclei(tmp_path: Path) -> None:
    (path,) = export_geojson(write(tmp_path / "n.parquet", []), tmp_path / "out.geojson")
    assert json.loads(path.read_text()) == {"type": "FeatureCollection", "features": []}
    assert len(read_geojson(path)) == 0


def test_invalid_rings_are_repaired_in_place(tmp_path: Path) -> None:
    good = blobs(4)
    bowtie = np.array([[0, 0], [10, 10], [10, 0], [0, 12]], dtype=np.float64)
    spike = np.array([[0, 0], [8, 0], [8, 8], [8, 20], [8, 8], [0, 8]], dtype=np.float64)
    line = np.array([[0, 0], [5, 5], [9, 9]], dtype=np.float64)
    columns = {name: np.zeros(1, dtype=kind) for name, kind in ATTRIBUTES.items()}
    odd = [Nuclei(ring, np.array([0, len(ring)]), columns) for ring in (bowtie, spike, line)]
    path = write(
        tmp_path / "n.parquet", [good.take([0]), odd[0], good.take([1]), odd[1], odd[2], good.take([2, 3])]
    )
    (out,) = export_geojson(path, tmp_path / "out.geojson")
    collection = json.loads(out.read_text())
    check_for_qupath(collection)
    back = read_geojson(out)
    assert back.columns["id"].tolist() == [1, 2, 3, 4, 6, 7]  # the line has no area
    assert back.areas()[3] == pytest.approx(64.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=9))
def test_plainly_simple_never_passes_an_invalid_ring(points: list[tuple[int, int]]) -> None:
    ring = np.array(points, dtype=np.float64)
    plain = plainly_simple(ring, np.array([0, len(ring)]))[0]
    polygon = shapely.Polygon(ring)
    assert not plain or (polygon.is_valid and polygon.area > 0)


def test_plainly_simple_passes_ordinary_rings() -> None:
    nuclei = blobs(300)
    rounded = np.round(nuclei.vertices, 3)
    valid = shapely.is_valid(Nuclei(rounded, nuclei.offsets).geometry())
    assert np.array_equal(plainly_simple(rounded, nuclei.offsets), valid)
    assert valid.mean() > 0.9


def test_classes(tmp_path: Path) -> None:
    nuclei = blobs(4).with_columns(type=np.array([1, 2, 0, 1], dtype=np.int16), type_prob=np.ones(4))
    path = tmp_path / "n.parquet"
    with NucleiWriter(path, META, types=["none", "a", "b"]) as writer:
        writer.write(nuclei)
    classes = {1: Classification("Tumour", (200, 0, 0)), 2: Classification('Strömung "x"', (0, 150, 0))}
    (out,) = export_geojson(path, tmp_path / "out.geojson", classes=classes)
    collection = json.loads(out.read_text("utf-8"))
    check_for_qupath(collection)
    names = [feature["properties"]["classification"]["name"] for feature in collection["features"]]
    assert names == ["Tumour", 'Strömung "x"', "Nucleus", "Tumour"]
    assert "type" not in collection["features"][0]["properties"]["measurements"]


def test_a_failure_leaves_the_old_file_and_nothing_else(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.geojson"
    out.write_text("old")

    def broken(path: Path) -> object:
        yield from list(iter_nuclei(path))[:1]
        raise RuntimeError("the disk went away")

    monkeypatch.setattr(geojson, "iter_nuclei", broken)
    with pytest.raises(RuntimeError):
        export_geojson(parquet, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nuclei.parquet", "out.geojson"]


def test_a_file_that_does_not_say_its_slide(tmp_path: Path) -> None:
    path = write(tmp_path / "n.parquet", [blobs(2)], meta={"mpp": 0.25})
    with pytest.raises(UsageError, match="identity"):
        export_geojson(path, tmp_path / "out.geojson")
    export_geojson(path, tmp_path / "out.geojson", identity="given")


def test_reading_what_others_write(tmp_path: Path) -> None:
    square = [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]
    small = [[[9, 9], [10, 9], [10, 10], [9, 9]]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": square},
         "properties": {"measurements": [{"name": "Area", "value": 16.0}]}},
        {"type": "Feature", "geometry": None, "properties": None},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}},
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [small, square]}},
    ]  # fmt: skip
    path = tmp_path / "qupath.geojson"
    path.write_text(json.dumps(features))
    back = read_geojson(path)
    assert back.areas().tolist() == [16.0, 16.0]
    assert back.columns["Area"][0] == 16.0
    assert np.isnan(back.columns["Area"][1])


@pytest.mark.parametrize("content", [b"", b"no json", b'{"type": "Topology"}', b"[1, 2]", b"\x1f\x8bbroken"])
def test_what_is_not_geojson_is_said(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.geojson"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not GeoJSON"):
        read_geojson(path)


def test_a_measurement_that_is_no_float_is_none(tmp_path: Path) -> None:
    square = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4]]]}
    measured = {"measurements": {"huge": 10**400, "area": 16, "name": "a", "none": None}}
    path = tmp_path / "x.geojson"
    path.write_text(json.dumps([{"type": "Feature", "geometry": square, "properties": measured}]))
    back = read_geojson(path)
    assert {name: column.tolist() for name, column in back.columns.items()} == {"area": [16.0]}
    assert back.areas().tolist() == [16.0]
