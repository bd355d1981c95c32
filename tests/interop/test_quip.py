"""The CSV folders of Hou et al.: names, rows, each nucleus in one file, and the way back."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import shapely

from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import UsageError
from wsiseg.interop import quip
from wsiseg.interop.quip import QuipSlide, export_quip, iter_quip, read_quip
from wsiseg.results.nuclei import read_nuclei
from wsiseg.testing.nucleifile import NucleiWriter

SLIDE = QuipSlide("TCGA-XX.svs", 9001, 4500, 0.2325)


def squares(centres: list[tuple[float, float]], half: float = 4.0) -> Nuclei:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    vertices = (np.array(centres)[:, None] + corners).reshape(-1, 2)
    return Nuclei(vertices, np.arange(len(centres) + 1, dtype=np.int64) * 4)


def write(path: Path, parts: list[Nuclei]) -> Path:
    with NucleiWriter(path, {"slide": "x"}, {}) as writer:
        for part in parts:
            writer.write(part)
    return path


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Path]:
    # Astride tile lines, at the origin's odd pixel, beyond the last whole tile.
    centres = [(10.0, 10.0), (0.5, 0.5), (4000.5, 30.0), (4001.0, 30.0), (8999.0, 4400.0), (4003.0, 4001.5)]
    parquet = write(tmp_path / "n.parquet", [squares(centres[:3]), squares(centres[3:])])
    folder = tmp_path / "luad_polygon" / SLIDE.name
    assert export_quip(parquet, folder, SLIDE) == 4
    return parquet, folder


def test_names_and_headers(exported: tuple[Path, Path]) -> None:
    _, folder = exported
    names = sorted(path.name for path in folder.iterdir())
    stems = [
        "1_1_4000_4000_0.2325_1",
        "4001_1_4000_4000_0.2325_1",
        "4001_4001_4000_499_0.2325_1",
        "8001_4001_1000_499_0.2325_1",
    ]
    assert names == sorted(f"{stem}-{kind}" for stem in stems for kind in ("algmeta.json", "features.csv"))
    for stem in stems:
        assert (folder / f"{stem}-features.csv").read_text().splitlines()[0] == "AreaInPixels,PhysicalSize,Polygon"
        meta = json.loads((folder / f"{stem}-algmeta.json").read_text())
        x, y, width, height = (int(v) for v in stem.split("_")[:4])
        assert (meta["tile_minx"], meta["tile_miny"]) == (x, y)
        assert (meta["tile_width"], meta["tile_height"]) == (width, height)
        assert (meta["image_width"], meta["image_height"], meta["mpp"]) == (9001, 4500, 0.2325)


def test_rows_are_unclosed_polygons_with_one_decimal(exported: tuple[Path, Path]) -> None:
    _, folder = exported
    with open(folder / "1_1_4000_4000_0.2325_1-features.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Polygon"] for row in rows] == [
        "[6.0:6.0:14.0:6.0:14.0:14.0:6.0:14.0]",
        "[-3.5:-3.5:4.5:-3.5:4.5:4.5:-3.5:4.5]",
        "[3996.5:26.0:4004.5:26.0:4004.5:34.0:3996.5:34.0]",
    ]
    assert all(row["AreaInPixels"] == row["PhysicalSize"] == "64" for row in rows)
    for path in folder.glob("*.csv"):
        for line in path.read_text().splitlines()[1:]:
            assert re.fullmatch(r"\d+,\d+,\[-?\d+\.\d(:-?\d+\.\d){5,}\]", line)


def test_each_nucleus_is_in_one_file_and_comes_back_whole(exported: tuple[Path, Path]) -> None:
    parquet, folder = exported
    back, original = read_quip(folder), read_nuclei(parquet)
    assert len(back) == len(original) == 6
    key = [tuple(ring) for ring in back.vertices.reshape(6, 8).tolist()]
    assert sorted(key) == sorted(tuple(ring) for ring in original.vertices.reshape(6, 8).tolist())
    assert back.columns["area_px"].tolist() == [64.0] * 6
    x, y = back.columns["tile_x"], back.columns["tile_y"]
    centroid = back.centroids()
    inside = (centroid[:, 0] < x + back.columns["tile_w"]) & (centroid[:, 1] < y + back.columns["tile_h"])
    assert inside.all()
    assert ((centroid[:, 0] >= x) | (x == 1)).all()


@pytest.mark.parametrize(("mpp", "factor", "physical"), [(0.374, 1, 64), (0.375, 2, 256), (0.5, 2, 256)])
def test_physical_size_counts_resampled_pixels(mpp: float, factor: int, physical: int, tmp_path: Path) -> None:
    slide = QuipSlide("x.svs", 4000, 4000, mpp)
    parquet = write(tmp_path / "n.parquet", [squares([(50.0, 50.0)])])
    export_quip(parquet, tmp_path / "out", slide)
    (path,) = (tmp_path / "out").glob("*.csv")
    assert path.name == f"1_1_3999_3999_{mpp:g}_{factor}-features.csv"
    row = next(iter(csv.DictReader(path.open())))
    assert (int(row["AreaInPixels"]), int(row["PhysicalSize"])) == (64, physical)


def test_random_polygons_to_one_decimal(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    geometry = shapely.buffer(shapely.points(random.uniform(0, 9000, (200, 2))), random.uniform(3, 9, 200))
    original = Nuclei.from_geometry(geometry)
    export_quip(write(tmp_path / "n.parquet", [original]), tmp_path / "out", QuipSlide("x", 9000, 9000, 0.25))
    back = read_quip(tmp_path / "out")
    order = np.lexsort(original.centroids().round().T), np.lexsort(back.centroids().round().T)
    assert len(back) == 200
    np.testing.assert_allclose(np.sort(back.vertices, axis=0), np.sort(original.vertices, axis=0), atol=0.05 + 1e-6)
    np.testing.assert_allclose(back.columns["area_px"][order[1]], original.areas()[order[0]], atol=0.51)


def test_export_replaces_an_export_and_nothing_else(exported: tuple[Path, Path], tmp_path: Path) -> None:
    parquet, folder = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    export_quip(parquet, folder, SLIDE)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="other files"):
        export_quip(parquet, foreign, SLIDE)
    assert (foreign / "thesis.tex").read_text() == "years of work"


def test_a_failure_leaves_the_earlier_export(exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    parquet, folder = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken(path: Path, **options: object) -> object:
        yield squares([(1.0, 1.0)])
        raise RuntimeError("killed")

    monkeypatch.setattr(quip, "iter_nuclei", broken)
    with pytest.raises(RuntimeError):
        export_quip(parquet, folder, SLIDE)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_reading_published_oddities(tmp_path: Path) -> None:
    header = "AreaInPixels,PhysicalSize,Polygon\n"
    (tmp_path / "1_1_4000_4000_0.252_1-features.csv").write_text(header)
    (tmp_path / "4001_1_4000_4000_0.252_1-features.csv").write_text(
        header + "12,12,[1.0:2.0:5.0:2.0:5.0:5.0]\n3,3,[1.0:2.0:5.0:2.0]\n7,7,[9:9:12:9:12.5:13]\n"
    )
    (tmp_path / "unrelated.csv").write_text("a,b\n")
    parts = list(iter_quip(tmp_path))
    assert [len(part) for part in parts] == [0, 2]
    assert read_quip(tmp_path).vertices[-1].tolist() == [12.5, 13.0]


def test_what_is_not_such_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"features\.csv"):
        read_quip(tmp_path)
    path = tmp_path / "1_1_4000_4000_0.25_1-features.csv"
    path.write_text("AreaInPixels,PhysicalSize,Polygon\n9,9,[1:2:3:4:5:6:7]\n")
    with pytest.raises(UsageError, match="odd number"):
        read_quip(tmp_path)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_quip(tmp_path)


GOOD_ROW = "9,9,[1:2:3:4:5:7]\n"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (GOOD_ROW + "9,9,[1:2:3:x:5:6]\n", "line 3 has 'x' as a coordinate"),
        (GOOD_ROW * 2 + "9,9,[1:2:3:nan:5:6]\n", "line 4 has 'nan' as a coordinate"),
        ("9,9,[1:2:3:1e300:5:6]\n", "line 2 has '1e300' as a coordinate"),
        (GOOD_ROW + "many,9,[1:2:3:4:5:6]\n", "line 3 has 'many' as an area"),
        (GOOD_ROW * 2 + "9,9,[1:2:3:4:5]\n", "line 4 has an odd number of coordinates"),
        (GOOD_ROW * 2 + "9\n", r"Row #4: Expected 3 columns, got 1"),
    ],
)
def test_a_bad_row_is_named_by_its_line(rows: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "1_1_4000_4000_0.25_1-features.csv"
    path.write_text("AreaInPixels,PhysicalSize,Polygon\n" + rows)
    with pytest.raises(UsageError, match=says) as caught:
        read_quip(tmp_path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_byte_order_mark_and_quotes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "1_1_4000_4000_0.25_1-features.csv"
    path.write_text('AreaInPixels,PhysicalSize,Polygon\r\n9,9,"[1:2:3:4:5:7]"\r\n', encoding="utf-8-sig")
    assert read_quip(tmp_path).vertices.tolist() == [[1, 2], [3, 4], [5, 7]]


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1_1_4000_4000_0.25_1-features.csv")
    with pytest.raises(UsageError, match="a named pipe"):
        read_quip(tmp_path)
