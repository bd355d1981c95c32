"""maps.zarr: right pixels at the right place, any order of tasks, deterministic bytes, valid metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import zarr

from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import UsageError
from wsiseg.results import maps
from wsiseg.results.nuclei import read_nuclei
from wsiseg.slide import open_slide
from wsiseg.testing.nucleifile import NucleiWriter

MPP = 0.25
SIZE = (5000, 1300)  # lattice pixels: two shards, the second one cut off


def discs(seed: int = 0, count: int = 400, scale: float = 2.0, span: tuple[float, float] = (0, 5000)) -> Nuclei:
    random = np.random.default_rng(seed)
    xy = np.stack([random.uniform(*span, count), random.uniform(0, 1300, count)], axis=1) * scale
    return Nuclei.from_geometry(shapely.buffer(shapely.points(xy), random.uniform(6, 20, count), quad_segs=4))


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "nuclei.parquet"
    with NucleiWriter(path, {"slide": "x"}, {}) as writer:
        for seed in range(3):
            writer.write(discs(seed))
    return path


def build(path: Path, parquet: Path, scale: Scale, *, backwards: bool = False, twice: bool = False) -> Path:
    maps.create_labels(path, SIZE, scale, MPP)
    shards = list(maps.shard_windows(SIZE, [Window(0, 0, *SIZE)]))
    for shard in [*(reversed(shards) if backwards else shards), *(shards if twice else [])]:
        maps.write_label_shard(path, shard, scale, read_nuclei(parquet, scale.box(shard)))
    maps.write_label_levels(path)
    return path


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_labels_are_those_drawn_in_one_piece(parquet: Path, tmp_path: Path) -> None:
    path = build(tmp_path / "maps.zarr", parquet, Scale(2.0))
    array = np.asarray(zarr.open_array(str(path / "labels/nuclei/0"), mode="r")[:])
    whole = maps.draw_labels(read_nuclei(parquet), Window(0, 0, *SIZE), Scale(2.0))
    assert array.dtype == np.int32
    assert array.shape == (1300, 5000)
    assert np.array_equal(array, whole)
    assert len(np.unique(array)) > 900


def test_pixel_is_labelled_if_its_centre_is_inside(tmp_path: Path) -> None:
    parquet = tmp_path / "n.parquet"
    ring = np.array([[20.0, 40.0], [26.0, 40.0], [26.0, 44.0], [20.0, 44.0]])
    with NucleiWriter(parquet, {}, {}) as writer:
        writer.write(Nuclei(ring, np.array([0, 4])))
    path = build(tmp_path / "maps.zarr", parquet, Scale(2.0))
    labels, window, scale = maps.read_label_region(path, Box(10, 30, 40, 60))
    assert (window, scale) == (Window(5, 15, 15, 15), Scale(2.0))
    rows, columns = np.nonzero(labels)
    assert sorted({*(rows + window.y).tolist()}) == [20, 21]
    assert sorted({*(columns + window.x).tolist()}) == [10, 11, 12]


def test_levels_are_every_second_pixel(parquet: Path, tmp_path: Path) -> None:
    path = build(tmp_path / "maps.zarr", parquet, Scale(2.0))
    group = zarr.open_group(str(path / "labels/nuclei"), mode="r")
    full = np.asarray(group["0"][:])  # type: ignore[index]
    names = sorted(group.array_keys())
    assert names == ["0", "1", "2", "3"]
    for level, name in enumerate(names):
        assert np.array_equal(np.asarray(group[name][:]), full[:: 2**level, :: 2**level])  # type: ignore[index]
    assert max(group["3"].shape) <= 1024  # type: ignore[union-attr]


def test_order_and_repetition_of_tasks_do_not_matter(parquet: Path, tmp_path: Path) -> None:
    first = build(tmp_path / "a" / "maps.zarr", parquet, Scale(2.0))
    second = build(tmp_path / "b" / "maps.zarr", parquet, Scale(2.0), backwards=True, twice=True)
    mask = np.zeros((170, 640), dtype=bool)
    mask[10:100, 30:600] = True
    for path in (first, second):
        maps.write_masks(path, mask, Scale(16.0), MPP, [[0, 0, 100, 100, "x"]])
    assert digest(first) == digest(second)
    build(second, parquet, Scale(2.0))
    assert digest(first) == digest(second)


def test_planning_again_removes_what_was_there(parquet: Path, tmp_path: Path) -> None:
    path = build(tmp_path / "maps.zarr", parquet, Scale(2.0))
    with NucleiWriter(parquet, {}, {}) as writer:
        writer.write(discs(count=3, span=(0, 100)))
    build(path, parquet, Scale(2.0))
    labels = np.asarray(zarr.open_array(str(path / "labels/nuclei/0"), mode="r")[:])
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_shards_of_areas() -> None:
    first, second = Window(0, 0, 4096, 1300), Window(4096, 0, 904, 1300)
    assert maps.shard_windows(SIZE, []) == ()
    assert maps.shard_windows(SIZE, [Window(-9, -9, 10, 10)]) == (first,)
    assert maps.shard_windows(SIZE, [Window(-9, -9, 9, 10), Window(5000, 10, 5, 5), Window(0, 1300, 9, 9)]) == ()
    assert maps.shard_windows(SIZE, [Window(4096, 0, 1, 1)]) == (second,)
    assert maps.shard_windows(SIZE, [Window(4095, 5, 2, 2)]) == (first, second)
    assert maps.shard_windows(SIZE, [Window(0, 0, 4096, 9000)]) == (first,)


def test_shards_without_nuclei_are_not_stored(tmp_path: Path) -> None:
    parquet = tmp_path / "n.parquet"
    with NucleiWriter(parquet, {}, {}) as writer:
        writer.write(discs(count=20, span=(4200, 4900)))
    path = tmp_path / "maps.zarr"
    maps.create_labels(path, SIZE, Scale(2.0), MPP)
    nothing, summary = (
        maps.write_label_shard(path, shard, Scale(2.0), read_nuclei(parquet, Scale(2.0).box(shard)))
        for shard in maps.shard_windows(SIZE, [Window(0, 0, *SIZE)])
    )
    assert (nothing.nuclei, nothing.covered_px) == (0, 0)
    assert summary.nuclei == 20
    labels = np.asarray(zarr.open_array(str(path / "labels/nuclei/0"), mode="r")[:])
    assert summary.covered_px == np.count_nonzero(labels) > 0
    chunks = [str(p.relative_to(path)) for p in (path / "labels/nuclei/0").rglob("*") if p.is_file()]
    assert sorted(chunks) == ["labels/nuclei/0/c/0/1", "labels/nuclei/0/zarr.json"]


def test_no_nuclei_at_all(tmp_path: Path) -> None:
    parquet = tmp_path / "n.parquet"
    with NucleiWriter(parquet, {}, {}):
        pass
    path = build(tmp_path / "maps.zarr", parquet, Scale(2.0))
    labels, _, _ = maps.read_label_region(path, Box(0, 0, 500, 500))
    assert labels.shape == (250, 250)
    assert not labels.any()


def test_metadata_are_ome_zarr_0_5(parquet: Path, tmp_path: Path) -> None:
    path = build(tmp_path / "maps.zarr", parquet, Scale(2.0))
    maps.write_masks(path, np.ones((41, 157), dtype=bool), Scale(32.0), MPP)
    labels = json.loads((path / "labels" / "zarr.json").read_text())
    assert labels["zarr_format"] == 3
    assert labels["attributes"]["ome"] == {"version": "0.5", "labels": ["lost", "nuclei", "tissue"]}
    for name, downsample, dtype in (("nuclei", 2.0, "int32"), ("tissue", 32.0, "uint8"), ("lost", 32.0, "uint8")):
        meta = json.loads((path / "labels" / name / "zarr.json").read_text())
        ome = meta["attributes"]["ome"]
        assert ome["version"] == "0.5"
        assert ome["image-label"]["source"] == {"image": "../../"}
        (multiscale,) = ome["multiscales"]
        assert [(a["name"], a["type"], a["unit"]) for a in multiscale["axes"]] == [
            ("y", "space", "micrometer"),
            ("x", "space", "micrometer"),
        ]
        for level, dataset in enumerate(multiscale["datasets"]):
            scale, translation = dataset["coordinateTransformations"]
            pixel = MPP * downsample * 2**level
            assert scale == {"type": "scale", "scale": [pixel, pixel]}
            # The centre of the first pixel, from the centre of the slide's first pixel.
            assert translation == {"type": "translation", "translation": [(pixel - MPP) / 2] * 2}
            array = json.loads((path / "labels" / name / dataset["path"] / "zarr.json").read_text())
            assert array["data_type"] == dtype
            assert array["dimension_names"] == ["y", "x"]


def test_masks(tmp_path: Path) -> None:
    tissue = np.random.default_rng(0).random((60, 90)) > 0.5
    path = tmp_path / "maps.zarr"
    lost = [[64.0, 32.0, 129.0, 64.0, "damaged"], [2870.0, 0.0, 9999.0, 10.0, "damaged"], [-50, -50, 0, 0, "out"]]
    for _ in range(2):
        maps.write_masks(path, tissue, Scale(32.0), MPP, lost)
    stored, window, _ = maps.read_label_region(path, Box(0, 0, 1e9, 1e9), name="tissue")
    assert window == Window(0, 0, 90, 60)
    assert np.array_equal(stored, tissue)
    expected = np.zeros((60, 90), dtype=np.uint8)
    expected[1, 2:5] = 1  # touched counts
    expected[0, 89] = 1
    assert np.array_equal(maps.read_label_region(path, Box(0, 0, 1e9, 1e9), name="lost")[0], expected)


def test_overview_makes_it_an_image(tmp_path: Path) -> None:
    path = tmp_path / "maps.zarr"
    image = np.random.default_rng(0).integers(0, 255, (1100, 700, 3), dtype=np.uint8)
    maps.write_masks(path, np.ones((1100, 700), dtype=bool), Scale(32.0), MPP)
    maps.write_overview(path, image, Scale(32.0), MPP)
    group = zarr.open_group(str(path), mode="r")
    assert np.array_equal(np.moveaxis(np.asarray(group["0"][:]), 0, -1), image)  # type: ignore[index]
    assert np.array_equal(np.moveaxis(np.asarray(group["1"][:]), 0, -1), image[::2, ::2])  # type: ignore[index]
    (multiscale,) = group.attrs["ome"]["multiscales"]  # type: ignore[index, call-overload]
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "y", "x"]
    assert multiscale["datasets"][1]["coordinateTransformations"][0]["scale"] == [1.0, 16.0, 16.0]


def test_image_and_labels_have_the_same_number_of_levels_and_one_frame(tmp_path: Path) -> None:
    parquet = tmp_path / "n.parquet"
    with NucleiWriter(parquet, {}, {}) as writer:
        writer.write(discs())
    path = build(tmp_path / "maps.zarr", parquet, Scale(2.0))
    image = np.random.default_rng(0).integers(0, 255, (149, 235, 3), dtype=np.uint8)
    for _ in range(2):  # a run that was stopped writes them again
        maps.write_masks(path, np.ones((75, 118), dtype=bool), Scale(128.0), MPP)
        maps.write_overview(path, image, Scale(64.0), MPP)
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    assert [channel["color"] for channel in ome["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]
    labels = json.loads((path / "labels" / "zarr.json").read_text())["attributes"]["ome"]["labels"]
    assert labels == ["lost", "nuclei", "tissue"]
    depths = {len(ome["multiscales"][0]["datasets"])}
    for name in labels:
        about = json.loads((path / "labels" / name / "zarr.json").read_text())["attributes"]["ome"]
        assert about["image-label"]["source"]["image"] == "../../"
        datasets = about["multiscales"][0]["datasets"]
        depths.add(len(datasets))
        for dataset in datasets:
            assert (path / "labels" / name / dataset["path"] / "zarr.json").exists()
    assert len(depths) == 1
    assert depths.pop() > 3
    # Our own reader of NGFF images agrees on where the pixels are.
    with open_slide(path) as slide:
        assert (slide.width, slide.height) == (235, 149)
        assert f"{64 * MPP:g} microns per pixel" in slide.description.mpp_problem  # of no scanned slide
        assert np.array_equal(slide.read_level(0, 0, 0, 235, 149), image)


def test_a_scale_that_is_no_integer(tmp_path: Path) -> None:
    scale = Scale(1.9841)
    parquet = tmp_path / "n.parquet"
    with NucleiWriter(parquet, {}, {}) as writer:
        writer.write(discs(scale=1.9841))
    path = build(tmp_path / "maps.zarr", parquet, scale)
    whole = maps.draw_labels(read_nuclei(parquet), Window(0, 0, *SIZE), scale)
    box = scale.box(Window(4000, 100, 200, 300))
    labels, window, _ = maps.read_label_region(path, box)
    assert window == Window(4000, 100, 200, 300)
    assert np.array_equal(labels, whole[100:400, 4000:4200])


def test_a_map_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no label map"):
        maps.read_label_region(tmp_path / "nothing.zarr", Box(0, 0, 1, 1))
