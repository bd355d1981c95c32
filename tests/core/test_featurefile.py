"""GeoJSON as people have it: forms, encodings, what lies beside polygons, and what no file may cost."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from wsiseg.core.featurefile import Feature, NotGeoJson, listed, polygons_in, read_features, ring_arrays
from wsiseg.errors import UsageError

RING = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
SQUARE = {"type": "Polygon", "coordinates": [RING]}


def read(path: Path, *, most_bytes: int = 1 << 20, most_values: int = 100_000) -> list[Feature]:
    return read_features(path, "The mask", most_bytes=most_bytes, most_values=most_values)


def file(folder: Path, content: str | bytes) -> Path:
    path = folder / "f.geojson"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def collection(*features: object) -> dict[str, object]:
    return {"type": "FeatureCollection", "features": list(features)}


def feature(geometry: object, **members: object) -> dict[str, object]:
    return {"type": "Feature", "properties": {}, "geometry": geometry, **members}


TEXT = json.dumps(collection(feature(SQUARE), feature(SQUARE)))


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        gzip.compress(TEXT.encode("utf-8-sig")),
        gzip.compress(TEXT[:50].encode()) + gzip.compress(TEXT[50:].encode()),
        json.dumps([feature(SQUARE), [[feature(SQUARE)]]]).encode(),
        f"{json.dumps(feature(SQUARE))}\n{json.dumps(feature(SQUARE))}\n".encode(),
        f"\x1e{json.dumps(feature(SQUARE))}\n\x1e{json.dumps(SQUARE, indent=1)}\n".encode(),
        json.dumps(collection(feature(SQUARE), {"geometry": SQUARE, "bbox": 3, "x": [None]})).encode(),
        TEXT.replace('"properties": {}', '"properties": {"name": "Mantel\xe4"}').encode("latin-1"),
    ],
)
def test_every_form_gives_the_same_geometries(content: bytes, tmp_path: Path) -> None:
    assert [found.geometry for found in read(file(tmp_path, content))] == [SQUARE, SQUARE]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON .Expecting value"),
        (TEXT[:-20].encode(), "not JSON"),
        (b"\x1f\x8bbroken", "not JSON"),
        (gzip.compress(TEXT.encode())[:-9], "not JSON .Compressed file ended"),
        (b"PK\x03\x04....", "zip archive"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"type":' * 100_000, "nested too deeply"),
        (b"[1, 2]", "a value of type int"),
        (b'"polygon"', "a value of type str"),
        (b"1 " * 1000, "a value of type int"),
        (b"null", "a value of type NoneType"),
        (b'{"type": "Topology"}', "an object of type 'Topology'"),
        (b'{"type": "FeatureCollection", "features": null}', "features of type NoneType"),
        (b'{"type": "FeatureCollection", "features": {"a": 1}}', "features of type dict"),
        (b"9" * 5000, "not JSON"),
    ],
)
def test_what_is_no_geojson_is_said_by_name(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read(file(tmp_path, content))
    assert str(tmp_path / "f.geojson") in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_limits_hold_before_the_memory_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bytes, where"):
        read(file(tmp_path, TEXT), most_bytes=len(TEXT) - 1)
    with pytest.raises(UsageError, match="more than 20 values"):
        read(file(tmp_path, TEXT), most_values=20)
    bomb = gzip.compress(b"[" + b" " * 40_000_000 + b"]")
    assert len(bomb) < 50_000
    with pytest.raises(UsageError, match="more than 16,777,216 bytes when it is unpacked"):
        read(file(tmp_path, bomb), most_bytes=1 << 30)


def test_what_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    endless = {tmp_path / "pipe": "a named pipe", Path("/dev/zero"): "a device", tmp_path: "a folder"}
    for path, kind in endless.items():
        with pytest.raises(UsageError, match=f"cannot be read: it is {kind}"):
            read(path)
    with pytest.raises(UsageError, match="No such file"):
        read(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot be read"):
        read(Path("a\0b"))


def test_what_lies_beside_polygons_is_counted() -> None:
    nested = {"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point", "coordinates": [1, 2]}]}
    for _ in range(5000):  # deeper than Python's stack
        nested = {"type": "GeometryCollection", "geometries": [nested]}
    passed: Counter[str] = Counter()
    hole = [[2, 2], [4, 2], [4, 4]]
    multi = {"type": "MultiPolygon", "coordinates": [[RING, hole, [[1, 1]]], [], [[[0, 0], [1, 1], [0, 0]]]]}
    others: list[object] = [
        None,
        {"type": "MultiPoint", "coordinates": [[1, 2]]},
        {"type": "MultiPoint", "coordinates": []},
        {"type": "LineString", "coordinates": [[0, 0], [1, 1]]},
        {"type": "Polygon", "coordinates": []},
        {"type": "MultiPolygon", "coordinates": []},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "Circle", "radius": 3},
        7,
    ]
    found = [rings for geometry in (nested, multi, *others) for rings in polygons_in(geometry, passed)]
    assert found == [[RING[:-1]], [RING[:-1], hole]]
    assert passed == {
        "Point": 1,
        "empty MultiPolygon": 2,
        "MultiPolygon of fewer than three corners": 1,
        "feature without geometry": 1,
        "MultiPoint": 2,
        "LineString": 1,
        "empty Polygon": 1,
        "empty GeometryCollection": 1,
        "geometry of an unknown type": 2,
    }
    assert listed(Counter(Point=1, LineString=3)) == "3 × LineString, Point"


@pytest.mark.parametrize(
    "coordinates", [None, 3, "abc", {"a": 1}, [3], ["abc"], [{}], [[RING[0], None, RING[1]][:1], 5]]
)
def test_coordinates_of_another_form_are_no_geojson(coordinates: object) -> None:
    with pytest.raises(NotGeoJson, match="not a list"):
        polygons_in({"type": "Polygon", "coordinates": coordinates}, Counter())


def test_positions_become_vertices_and_heights_are_left_out() -> None:
    vertices, offsets = ring_arrays([[[0, 1, 99], [2, 3, 99], [4, 5]], [[6.5, 7], [8, 9], [1, 1]]])
    assert np.array_equal(vertices, [[0, 1], [2, 3], [4, 5], [6.5, 7], [8, 9], [1, 1]])
    assert offsets.tolist() == [0, 3, 6]
    assert ring_arrays([])[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("position", "says"),
    [
        ([1], "no pair"), ([], "no pair"), ({"x": 1}, "no pair"), (5, "no pair"), (["a", 1], "no pair"),
        ([[1], [2]], "no pair"), ([10**400, 1], "no pair"), ([None, 1], "not finite"),
        ([float("nan"), 0], "not finite"), ([1e400, 0], "not finite"), ([1e13, 0], "beyond 1e"),
    ],
)  # fmt: skip
def test_positions_that_are_none_are_said(position: object, says: str) -> None:
    with pytest.raises(NotGeoJson, match=says):
        ring_arrays([[[0, 0], position, [1, 1]]])


def test_qupath_says_what_an_object_is(tmp_path: Path) -> None:
    objects = [
        feature(SQUARE, properties={"objectType": "cell"}, nucleusGeometry=SQUARE),
        feature(SQUARE, properties={"object_type": "Detection"}),
        feature(SQUARE, id="PathAnnotationObject"),
        feature(SQUARE, properties={"objectType": 3}),
        feature(SQUARE, properties=None),
        SQUARE,
    ]
    found = read(file(tmp_path, json.dumps(objects)))
    assert [item.kind for item in found] == ["cell", "detection", "annotation", "", "", ""]
    assert [item.nucleus for item in found] == [SQUARE, None, None, None, None, None]
