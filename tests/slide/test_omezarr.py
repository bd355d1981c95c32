"""OME-Zarr as a slide: stores of wsiseg and of others, damage, and what is refused."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from wsiseg.core.geometry import Scale, Window
from wsiseg.core.ngff import group_metadata, image_metadata
from wsiseg.errors import ReadError, SlideError
from wsiseg.slide import open_slide
from wsiseg.slide.discover import find_slides
from wsiseg.slide.readers.omezarr.reader import NOT_WRITTEN, SCHEMA, OmeZarrReader, ZarrLevel, stored_bits
from wsiseg.slide.readers.omezarr.shards import ShardedLevel, ShardLayout, encode_shard, layout_of, read_index
from wsiseg.slide.types import Pixels

RGB = ("FF0000", "00FF00", "0000FF")
LAYOUT = ShardLayout(300, 200, "zstd", chunk=32, shard=128)


def picture(width: int, height: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def write_store(path: Path, image: Pixels, layout: ShardLayout = LAYOUT, **own: Any) -> Path:
    """A store of one level in wsiseg's layout; ``own`` goes over what wsiseg notes about a finished one."""
    stored = []
    for row, column in layout.shards():
        window = layout.window(row, column)
        pixels = image[window.y : window.y1, window.x : window.x1]
        content = encode_shard(layout, pixels)
        stored.append(len(content) > layout.index_bytes)
        if stored[-1]:
            file = layout.path(path / "0", row, column)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    (path / "0").mkdir(parents=True, exist_ok=True)
    (path / "0" / "zarr.json").write_text(json.dumps(layout.metadata()))
    level = {"path": "0", "downsample": 1.0, "derived": False, "stored": stored_bits(stored), "lost": []}
    note = {
        "schema": SCHEMA,
        "version": 1,
        "complete": True,
        "mpp": 0.25,
        "mpp_source": "metadata:aperio.MPP",
        "bounds": [0.0, 0.0, float(layout.width), float(layout.height)],
        "background": [240, 241, 242],
        "properties": {"aperio.AppMag": "40"},
        "source": {"vendor": "aperio"},
        "levels": [level],
        **own,
    }
    attributes = {"ome": image_metadata("test", [("0", 1.0)], 0.25), "wsiseg": note}
    (path / "zarr.json").write_text(json.dumps(group_metadata(attributes)))
    return path


def foreign(
    path: Path,
    images: list[Pixels],
    *,
    version: str = "0.5",
    axes: str = "tczyx",
    unit: str | None = "micrometer",
    pixel: float = 0.5,
    colors: tuple[str, ...] = (),
    dtype: str = "uint8",
    **array: Any,
) -> Path:
    """A store as other tools write it, by zarr-python."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for i, image in enumerate(images):
        data = np.moveaxis(image, 2, 0).astype(dtype)
        for place, axis in enumerate(axes):
            if axis in "tz":
                data = np.expand_dims(data, place)
        group.create_array(str(i), data=data, chunks=tuple(min(100, size) for size in data.shape), **array)
        size = pixel * images[0].shape[1] / image.shape[1]
        scale = [size if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"t": "time", "c": "channel"}
    described: list[dict[str, str]] = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    if unit:
        for axis in described[-2:]:
            axis["unit"] = unit
    multiscale: dict[str, Any] = {"axes": described, "datasets": datasets}
    omero = {"omero": {"channels": [{"color": color, "label": f"C{i}"} for i, color in enumerate(colors)]}}
    if version == "0.4":
        group.attrs.update({"multiscales": [{**multiscale, "version": version}], **(omero if colors else {})})
    else:
        ome = {"version": version, "multiscales": [multiscale], **(omero if colors else {})}
        group.attrs.update({"ome": ome})
    return path


def read_all(path: Path, level: int = 0) -> Pixels:
    slide = open_slide(path)
    size = slide.levels[level]
    return slide.read_level(level, 0, 0, size.width, size.height)


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("codec", ["zstd", "jpeg"])
def test_layout_round_trip_through_its_metadata(codec: Any) -> None:
    layout = ShardLayout(1234, 567, codec)
    assert layout_of(json.loads(json.dumps(layout.metadata()))) == layout


@pytest.mark.parametrize(
    "change",
    [
        {"data_type": "uint16"},
        {"fill_value": 0},
        {"shape": [4, 200, 300]},
        {"shape": [200, 300]},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
        {"codecs": [{"name": "bytes"}]},
        {"codecs": []},
    ],
)
def test_any_other_layout_is_left_to_zarr_python(change: dict[str, Any]) -> None:
    assert layout_of({**LAYOUT.metadata(), **change}) is None


def test_transposed_planes_are_another_layout() -> None:
    metadata = ShardLayout(300, 200, "jpeg", 32, 128).metadata()
    metadata["codecs"][0]["configuration"]["codecs"][0]["configuration"]["order"] = [2, 1, 0]
    assert layout_of(metadata) is None


def test_shards_of_zarr_python_are_read_directly(tmp_path: Path) -> None:
    image = picture(300, 200)
    array = zarr.create_array(
        str(tmp_path / "0"),
        shape=(3, 200, 300),
        chunks=(3, 32, 32),
        shards=(3, 128, 128),
        dtype="uint8",
        compressors=[ZstdCodec(level=5), Crc32cCodec()],
        fill_value=255,
        dimension_names=["c", "y", "x"],
    )
    array[:] = np.moveaxis(image, 2, 0)
    layout = layout_of(json.loads((tmp_path / "0" / "zarr.json").read_text()))
    assert layout == LAYOUT
    pixels, unread = ShardedLevel(tmp_path / "0", LAYOUT, lambda row, column: "missing").read(
        Window(0, 0, 300, 200), (0, 0, 0)
    )
    assert unread == ()
    np.testing.assert_array_equal(pixels, image)


def test_zarr_python_reads_our_shards(tmp_path: Path) -> None:
    image = picture(300, 200)
    image[64:96, 32:128] = 255  # absent chunks inside a shard
    write_store(tmp_path / "a.zarr", image)
    array = zarr.open_array(str(tmp_path / "a.zarr" / "0"), mode="r")
    np.testing.assert_array_equal(np.moveaxis(np.asarray(array[:]), 0, 2), image)


def test_absent_chunks_cost_nothing_and_read_white(tmp_path: Path) -> None:
    image = picture(300, 200)
    image[:128, :128] = 255
    image[128:, 128:160] = 255
    keep = np.ones((4, 4), dtype=bool)
    keep[1, 2] = False
    write_store(tmp_path / "a.zarr", image)
    assert not LAYOUT.path(tmp_path / "a.zarr" / "0", 0, 0).exists()
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), image)
    file = tmp_path / "shard"
    file.write_bytes(encode_shard(LAYOUT, image[128:, 128:256], keep))
    with open(file, "rb") as opened:
        index = read_index(opened.fileno(), LAYOUT)
    absent = index[:, :, 0] == np.uint64(2**64 - 1)
    assert absent[:3, 0].all()  # white
    assert absent[1, 2]  # not kept
    assert absent[3].all()  # beyond the picture
    assert absent.sum() == 4 + 3 + 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("omezarr") / "a.zarr", picture(300, 200))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(0, 299), st.integers(0, 199)] * 2))
def test_any_window_is_that_part_of_the_picture(store: Path, corners: tuple[int, int, int, int]) -> None:
    x0, x1 = sorted(corners[::2])
    y0, y1 = sorted(corners[1::2])
    window = Window(x0, y0, x1 - x0 + 1, y1 - y0 + 1)
    pixels, unread = OmeZarrReader(store).read_level(0, window)
    assert unread == ()
    np.testing.assert_array_equal(pixels, picture(300, 200)[y0 : y1 + 1, x0 : x1 + 1])


def test_threads_and_pickles_read_the_same(store: Path) -> None:
    slide = open_slide(store)
    windows = [Window(7 * i % 180, 11 * i % 90, 100, 90) for i in range(40)]
    expected = [picture(300, 200)[w.y : w.y1, w.x : w.x1] for w in windows]
    for reader in (slide, pickle.loads(pickle.dumps(slide))):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for got, want in zip(
                pool.map(lambda w, r=reader: r.read_window(w, Scale(1.0)), windows), expected, strict=True
            ):
                np.testing.assert_array_equal(got, want)


# ---------------------------------------------------------------- what wsiseg notes


def test_metadata_come_back(store: Path) -> None:
    slide = open_slide(store)
    assert slide.reader == "ome-zarr"
    assert slide.vendor == "aperio"
    assert slide.mpp is not None
    assert (slide.mpp.value, slide.mpp.source) == (0.25, "metadata:ome-zarr (metadata:aperio.MPP)")
    assert slide.properties == {"aperio.AppMag": "40"}
    assert slide.associated == ()
    # beyond the slide: the source's background, not the fill value
    assert (slide.read_window(Window(-5, -5, 3, 3), Scale(1.0)) == (240, 241, 242)).all()


def test_derived_levels_are_never_read_for_a_lattice(tmp_path: Path) -> None:
    image = picture(300, 200)
    path = write_store(tmp_path / "a.zarr", image)
    half = ShardLayout(150, 100, "zstd", 32, 128)
    black = np.zeros((100, 150, 3), dtype=np.uint8)  # would be seen if it were used
    write_store(tmp_path / "b.zarr", black, half)
    (tmp_path / "b.zarr" / "0").rename(path / "1")
    root = json.loads((path / "zarr.json").read_text())
    own = root["attributes"]["wsiseg"]
    own["levels"].append({"path": "1", "downsample": 2.0, "derived": True, "stored": "c0", "lost": []})
    datasets = root["attributes"]["ome"]["multiscales"][0]["datasets"]
    datasets.append({"path": "1", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]})
    (path / "zarr.json").write_text(json.dumps(root))
    slide = open_slide(path)
    assert [level.derived for level in slide.levels] == [False, True]
    mean = image.reshape(100, 2, 150, 2, 3).astype(int).sum(axis=(1, 3))
    np.testing.assert_array_equal(slide.read_window(Window(0, 0, 150, 100), Scale(2.0)), (mean + 2) // 4)
    assert (slide.read_level(1, 0, 0, 150, 100) == 0).all()


def test_damaged_parts_of_the_source_are_told(tmp_path: Path) -> None:
    level = {"path": "0", "downsample": 1.0, "derived": False, "stored": "fc"}
    level["lost"] = [[10, 20, 30, 40, "broken JPEG"]]  # type: ignore[assignment]
    slide = open_slide(write_store(tmp_path / "a.zarr", picture(300, 200), levels=[level]))
    _, lost = slide.read_lossy(Window(0, 0, 20, 30), Scale(1.0))
    assert [(part.box.x0, part.box.y0, part.box.x1, part.box.y1) for part in lost] == [(10, 20, 40, 60)]
    assert lost[0].reason == "damaged in the source: broken JPEG"
    assert slide.read_lossy(Window(50, 0, 20, 30), Scale(1.0))[1] == ()
    with pytest.raises(ReadError, match="broken JPEG"):
        slide.read_window(Window(0, 0, 20, 30), Scale(1.0))


# ---------------------------------------------------------------- damage


def test_a_changed_byte_loses_its_chunk_only(tmp_path: Path) -> None:
    image = picture(300, 200)
    path = write_store(tmp_path / "a.zarr", image)
    file = LAYOUT.path(path / "0", 0, 1)
    with open(file, "rb") as opened:
        offset = int(read_index(opened.fileno(), LAYOUT)[2, 1, 0])
    content = bytearray(file.read_bytes())
    content[offset + 100] ^= 1
    file.write_bytes(content)
    pixels, lost = open_slide(path).read_lossy(Window(0, 0, 300, 200), Scale(1.0))
    assert [(part.box.x0, part.box.y0, part.box.x1, part.box.y1) for part in lost] == [(160, 64, 192, 96)]
    assert "checksum" in lost[0].reason
    assert (pixels[64:96, 160:192] == (240, 241, 242)).all()
    pixels[64:96, 160:192] = image[64:96, 160:192]
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize(("keep", "reason"), [(0.0, "cut short"), (0.5, "checksum"), (0.999, "checksum")])
def test_a_cut_shard_is_lost_and_the_others_are_not(tmp_path: Path, keep: float, reason: str) -> None:
    path = write_store(tmp_path / "a.zarr", picture(300, 200))
    file = LAYOUT.path(path / "0", 1, 2)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    _, lost = open_slide(path).read_lossy(Window(0, 0, 300, 200), Scale(1.0))
    assert [(part.box.x0, part.box.y0, part.box.x1, part.box.y1) for part in lost] == [(256, 128, 300, 200)]
    assert reason in lost[0].reason


def test_a_shard_that_was_not_copied_is_lost_not_white(tmp_path: Path) -> None:
    image = picture(300, 200)
    image[:128, :128] = 255
    path = write_store(tmp_path / "a.zarr", image)
    assert open_slide(path).read_lossy(Window(0, 0, 300, 200), Scale(1.0))[1] == ()
    LAYOUT.path(path / "0", 0, 2).unlink()
    _, lost = open_slide(path).read_lossy(Window(0, 0, 300, 200), Scale(1.0))
    assert [(part.box.x0, part.box.y0) for part in lost] == [(256, 0)]
    assert not lost[0].missing
    assert "missing from the store" in lost[0].reason


def test_an_unfinished_store_says_what_is_not_written(tmp_path: Path) -> None:
    image = picture(300, 200)
    level = {"path": "0", "downsample": 1.0, "derived": False}
    path = write_store(tmp_path / "a.zarr", image, complete=False, levels=[level])
    LAYOUT.path(path / "0", 1, 0).unlink()
    slide = open_slide(path)
    np.testing.assert_array_equal(slide.read_window(Window(0, 0, 300, 128), Scale(1.0)), image[:128])
    _, lost = slide.read_lossy(Window(0, 0, 300, 200), Scale(1.0))
    assert [(part.box.y0, part.reason) for part in lost] == [(128, NOT_WRITTEN)]
    with pytest.raises(ReadError, match="did not finish"):
        slide.read_window(Window(0, 100, 100, 100), Scale(1.0))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"version": 2}, "is version 2"),
        ({"levels": None}, "damaged"),
        ({"bounds": [1]}, "damaged"),
        ({"levels": [{"path": "0", "stored": "xyz"}]}, "damaged"),
    ],
)
def test_damaged_notes_are_an_error_of_the_slide(tmp_path: Path, own: dict[str, Any], message: str) -> None:
    path = write_store(tmp_path / "a.zarr", picture(300, 200), **own)
    with pytest.raises(SlideError, match=message):
        open_slide(path)


# ---------------------------------------------------------------- stores of others


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "cyx", "czyx"])
def test_stores_of_other_tools_open(tmp_path: Path, version: str, axes: str) -> None:
    images = [picture(301, 203), picture(150, 101, 1), picture(75, 50, 2)]
    path = foreign(tmp_path / "a.zarr", images, version=version, axes=axes)
    slide = open_slide(path)
    assert [level.downsample for level in slide.levels] == [1.0, 2.0, 4.0]
    assert slide.mpp is not None
    assert (slide.mpp.value, slide.mpp.source) == (0.5, "metadata:ome-zarr")
    for level, image in enumerate(images):
        np.testing.assert_array_equal(read_all(path, level), image)
    np.testing.assert_array_equal(
        slide.read_window(Window(33, 71, 155, 111), Scale(1.0)), images[0][71:182, 33:188]
    )
    assert pickle.loads(pickle.dumps(slide)).mpp == slide.mpp


def test_compressors_and_shards_of_other_tools(tmp_path: Path) -> None:
    image = picture(300, 200)
    path = foreign(tmp_path / "a.zarr", [image], axes="cyx", compressors=BloscCodec(cname="lz4"))
    np.testing.assert_array_equal(read_all(path), image)
    group = zarr.open_group(str(path), mode="a")
    group.create_array(
        "0",
        data=np.moveaxis(image, 2, 0),
        chunks=(1, 50, 50),
        shards=(3, 100, 100),
        overwrite=True,
    )
    np.testing.assert_array_equal(read_all(path), image)
    assert (open_slide(path).levels[0].tile_width, open_slide(path).levels[0].tile_height) == (50, 50)


def test_a_damaged_chunk_of_another_tool_is_lost_alone(tmp_path: Path) -> None:
    image = picture(300, 200)
    path = foreign(tmp_path / "a.zarr", [image], axes="cyx", compressors=ZstdCodec())
    (path / "0" / "c" / "0" / "1" / "2").write_bytes(b"no zstd")
    pixels, lost = open_slide(path).read_lossy(Window(0, 0, 300, 200), Scale(1.0))
    assert [(part.box.x0, part.box.y0, part.box.x1, part.box.y1) for part in lost] == [(200, 100, 300, 200)]
    assert (pixels[100:, 200:] == 255).all()
    pixels[100:, 200:] = image[100:, 200:]
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize(
    ("unit", "pixel", "mpp"),
    [("nanometer", 250.0, 0.25), ("millimeter", 0.0005, 0.5), (None, 1.0, None), ("micrometer", 250.0, None)],
)
def test_units_become_microns(tmp_path: Path, unit: str | None, pixel: float, mpp: float | None) -> None:
    slide = open_slide(foreign(tmp_path / "a.zarr", [picture(60, 50)], unit=unit, pixel=pixel))
    assert (slide.mpp and slide.mpp.value) == (pytest.approx(mpp) if mpp else None)
    assert bool(slide.description.mpp_problem) == (unit is not None and mpp is None)


def test_the_transformation_of_all_levels_counts(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)], axes="cyx", pixel=2.0)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [1.0, 0.125, 0.125]}
    ]
    (path / "zarr.json").write_text(json.dumps(root))
    mpp = open_slide(path).mpp
    assert mpp is not None
    assert mpp.value == 0.25


def test_bioformats2raw_first_image(tmp_path: Path) -> None:
    image = picture(120, 90)
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    foreign(tmp_path / "a.zarr" / "0", [image], version="0.4", colors=("FF0000", "00FF00", "0000FF"))
    foreign(tmp_path / "a.zarr" / "1", [picture(20, 20)], version="0.4")
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), image)
    assert open_slide(tmp_path / "a.zarr").properties["ome-zarr.images"] == "2"


def test_a_foreign_level_is_read_by_zarr_python(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    level = ZarrLevel(zarr.open_array(str(path / "0"), mode="r"), tuple("tczyx"))
    assert (level.width, level.height) == (60, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "uint16"}, "uint16"),
        ({"version": "0.6"}, "version 0.6"),
        ({"colors": ("0000FF", "00FF00", "FF0000")}, "not red, green, blue"),
    ],
)
def test_what_is_no_bright_field_image_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)], **options)
    with pytest.raises(SlideError, match=message) as caught:
        open_slide(path)
    assert "Expected:" in str(caught.value)


@pytest.mark.parametrize(("shape", "message"), [((1, 2, 1, 40, 40), "c 2"), ((1, 3, 1, 0, 40), "y 0")])
def test_other_channels_and_no_pixels_are_refused(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    zarr.create_array(str(path / "0"), data=np.zeros(shape, dtype=np.uint8), overwrite=True)
    with pytest.raises(SlideError, match=message):
        open_slide(path)


def test_of_several_planes_the_middle_one_is_read_and_said(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    planes = [np.moveaxis(picture(60, 50, seed), 2, 0) for seed in range(10)]
    stack = np.stack([np.stack(planes[:5], axis=1), np.stack(planes[5:], axis=1)])
    zarr.create_array(str(path / "0"), data=stack, overwrite=True)
    np.testing.assert_array_equal(read_all(path), picture(60, 50, 2))
    assert open_slide(path).notes == (
        "5 focal planes, of which the middle one, number 3, is read",
        "2 points in time, of which the first is read",
    )


def with_channels(path: Path, channels: list[dict[str, Any]]) -> Path:
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["ome"]["omero"] = {"channels": channels}
    (path / "zarr.json").write_text(json.dumps(root))
    return path


def test_channels_that_are_named_are_put_in_order(tmp_path: Path) -> None:
    """The names decide, not the colours, which a viewer can change."""
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)], axes="cyx")
    for labels, order in ((("Blue", "Green", "Red"), [2, 1, 0]), (("G channel", "r", "B"), [1, 0, 2])):
        with_channels(path, [{"label": label, "color": "FFFFFF"} for label in labels])
        np.testing.assert_array_equal(read_all(path), picture(60, 50)[:, :, order])


@pytest.mark.parametrize(
    "channels",
    [
        [{"label": label, "color": color} for label, color in zip(("DAPI", "FITC", "Texas Red"), RGB, strict=True)],
        [{"label": label} for label in ("Hoechst 33342", "Cy3", "Cy5")],
        [{"label": f"C{i}", "color": color} for i, color in enumerate(("FFFFFF", "00FFFF", "FF00FF"))],
        [{"label": str(i), "color": RGB[i], "window": {"start": 0, "end": 40 * (i + 1)}} for i in range(3)],
    ],
)
def test_fluorescence_of_8_bits_is_refused_by_its_channels(tmp_path: Path, channels: list[dict[str, Any]]) -> None:
    path = with_channels(foreign(tmp_path / "a.zarr", [picture(60, 50)]), channels)
    with pytest.raises(SlideError, match="not red, green, blue") as caught:
        open_slide(path)
    assert channels[0]["label"] in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_display_range_is_not_applied_and_said(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    with_channels(path, [{"label": f"Channel {i}", "window": {"start": 20, "end": 200}} for i in range(3)])
    np.testing.assert_array_equal(read_all(path), picture(60, 50))
    assert open_slide(path).notes == ("shown by viewers from 20 to 200; read from 0 to 255",)


def test_a_unit_that_nobody_knows_is_no_micrometre(tmp_path: Path) -> None:
    slide = open_slide(foreign(tmp_path / "a.zarr", [picture(60, 50)], unit="pixel", pixel=1.0))
    assert slide.mpp is None
    assert slide.description.mpp_problem == "its pixel size of 1 has the unit 'pixel'"


@pytest.mark.parametrize("unit", ["micrometre", "µm", "um"])
def test_units_have_several_names(tmp_path: Path, unit: str) -> None:
    mpp = open_slide(foreign(tmp_path / "a.zarr", [picture(60, 50)], unit=unit)).mpp
    assert mpp is not None
    assert mpp.value == 0.5


def test_what_else_a_store_holds_is_said(tmp_path: Path) -> None:
    image = picture(120, 90)
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    foreign(tmp_path / "a.zarr" / "0", [image], version="0.4")
    foreign(tmp_path / "a.zarr" / "1", [picture(20, 20)], version="0.4")
    assert open_slide(tmp_path / "a.zarr").notes == ("2 images, of which the first, 0, is read",)


def test_levels_of_another_picture_are_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(120, 90), picture(60, 60)])
    with pytest.raises(SlideError, match="level 1 has 60 × 60 pixels, which is not the shape of level 0, 120 × 90"):
        open_slide(path)


def test_the_image_that_a_plate_names_is_a_slide(tmp_path: Path) -> None:
    plate = tmp_path / "plate.zarr"
    zarr.open_group(str(plate), mode="w").attrs["ome"] = {"version": "0.5", "plate": {"wells": [{"path": "B/2"}]}}
    zarr.open_group(str(plate / "B" / "2"), mode="w").attrs["ome"] = {"well": {"images": [{"path": "7"}]}}
    image = foreign(plate / "B" / "2" / "7", [picture(60, 50)])
    for folder in (plate, plate / "B" / "2"):
        with pytest.raises(SlideError, match="Give the folder of one image in it, for example ") as caught:
            open_slide(folder)
        named = str(caught.value).rpartition("for example ")[2]
        assert Path(named) == image
    assert find_slides([named]) == [image]
    np.testing.assert_array_equal(read_all(Path(named)), picture(60, 50))


# ---------------------------------------------------------------- stores of strangers


def claim(path: Path, **changes: Any) -> Path:
    """Change what the array's metadata say."""
    meta = json.loads((path / "0" / "zarr.json").read_text())
    (path / "0" / "zarr.json").write_text(json.dumps(meta | changes))
    return path


def regular(*shape: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": shape}}


def test_chunks_that_cost_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    million = 10**6
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)], axes="cyx")
    claim(path, shape=[3, million, million], chunk_grid=regular(3, million, million))
    with pytest.raises(SlideError, match="chunks of 3 × 1000000 × 1000000") as caught:
        open_slide(path)
    assert len(str(caught.value).splitlines()) <= 3
    claim(path, chunk_grid=regular(3, 512, 512))
    with pytest.raises(SlideError, match="no level smaller than 1000000 × 1000000"):
        open_slide(path)


@pytest.mark.parametrize(("chunk", "shard"), [(1, 4096), (16384, 16384)])
def test_shards_of_ours_have_the_same_limits(tmp_path: Path, chunk: int, shard: int) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)], axes="cyx")
    layout = ShardLayout(60, 50, "zstd", chunk, shard)
    (path / "0" / "zarr.json").write_text(json.dumps(layout.metadata()))
    with pytest.raises(SlideError, match="chunks of 3"):
        open_slide(path)


def test_a_shard_index_cannot_claim_memory(tmp_path: Path) -> None:
    layout = ShardLayout(100, 100, "zstd", 64, 128)
    data = bytearray(encode_shard(layout, picture(100, 100)))
    index = np.frombuffer(data[-layout.index_bytes : -4], dtype="<u8").reshape(2, 2, 2).copy()
    index[0, 0, 1] = 1 << 62
    data[-layout.index_bytes :] = index.tobytes() + struct.pack("<I", google_crc32c.value(index.tobytes()))
    layout.path(tmp_path, 0, 0).parent.mkdir(parents=True)
    layout.path(tmp_path, 0, 0).write_bytes(data)
    _, unread = ShardedLevel(tmp_path, layout, lambda row, column: "").read(Window(0, 0, 100, 100), (255, 255, 255))
    assert [(part.window, part.reason) for part in unread] == [
        (Window(0, 0, 64, 64), f"the shard's index claims a chunk of {1 << 62} bytes")
    ]


def test_a_jpeg_chunk_cannot_claim_memory(tmp_path: Path) -> None:
    layout = ShardLayout(64, 64, "jpeg", 64, 64)
    data = bytearray(encode_shard(layout, picture(64, 64)))
    frame = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, frame + 5, 65000, 65000)
    end = len(data) - layout.index_bytes
    struct.pack_into("<I", data, end - 4, google_crc32c.value(bytes(data[: end - 4])))
    layout.path(tmp_path, 0, 0).parent.mkdir(parents=True)
    layout.path(tmp_path, 0, 0).write_bytes(data)
    _, unread = ShardedLevel(tmp_path, layout, lambda row, column: "").read(Window(0, 0, 64, 64), (255, 255, 255))
    assert [part.reason for part in unread] == ["a chunk cannot be decoded (not 64 × 64 pixels)"]


def test_an_array_without_any_chunk_is_no_picture(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    shutil.rmtree(path / "0" / "c")
    with pytest.raises(SlideError, match="not one of its chunks is there"):
        open_slide(path)


@pytest.mark.parametrize("leads", ["../other.zarr/0", "{absolute}", "link", ".", "", 3, "x/../../other.zarr/0"])
def test_metadata_do_not_lead_out_of_the_folder(tmp_path: Path, leads: Any) -> None:
    other = foreign(tmp_path / "other.zarr", [picture(60, 50)])
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    (path / "link").symlink_to(other / "0")
    root = json.loads((path / "zarr.json").read_text())
    dataset = root["attributes"]["ome"]["multiscales"][0]["datasets"][0]
    dataset["path"] = str(other / "0") if leads == "{absolute}" else leads
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(SlideError, match=r"lead to|cannot be opened") as caught:
        open_slide(path)
    assert "no folder inside of its own" in str(caught.value) or leads == 3


def test_a_store_reached_by_a_link_opens(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    (tmp_path / "link").symlink_to(path)
    np.testing.assert_array_equal(read_all(tmp_path / "link"), picture(60, 50))


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
def test_json_nested_without_end_is_refused(tmp_path: Path, name: str) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    (path / name).write_text("[" * 200_000)
    with pytest.raises(SlideError, match="cannot be"):
        open_slide(path)


def test_a_pipe_in_a_store_is_found_before_it_is_opened(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", [picture(60, 50)])
    os.mkfifo(path / "0" / "c" / "pipe")
    with pytest.raises(SlideError, match="pipe in it is no regular file"):
        open_slide(path).fingerprint()


def _plate(path: Path) -> None:
    zarr.open_group(str(path), mode="w").attrs.update({"ome": {"version": "0.5", "plate": {}}})


def _plain(path: Path) -> None:
    zarr.open_group(str(path), mode="w").create_array("x", shape=(4,), dtype="uint8")


def _broken_json(path: Path) -> None:
    (foreign(path, [picture(60, 50)]) / "zarr.json").write_text('{"zarr_format": 3, "attr')


def _no_array(path: Path) -> None:
    (foreign(path, [picture(60, 50)]) / "0" / "zarr.json").unlink()


def _no_datasets(path: Path) -> None:
    root = json.loads((foreign(path, [picture(60, 50)]) / "zarr.json").read_text())
    root["attributes"]["ome"]["multiscales"][0]["datasets"] = []
    (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_plate, "plate"),
        (_plain, "without 'multiscales'"),
        (_broken_json, "cannot be read"),
        (_no_array, "level 0 cannot be opened"),
        (_no_datasets, "metadata are damaged"),
        (lambda path: path.mkdir(), "without OME-Zarr metadata"),
    ],
)
def test_what_is_no_image_says_so(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "a.zarr")
    with pytest.raises(SlideError, match=message):
        open_slide(tmp_path / "a.zarr")


def test_lazy_views(store: Path) -> None:
    slide = open_slide(store)
    np.testing.assert_array_equal(slide.dask(0).compute(scheduler="synchronous"), picture(300, 200))
