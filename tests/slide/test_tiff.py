"""Direct decoding: equal to OpenSlide pixel for pixel, and damage confined to the stored tile."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.errors import ReadError
from wsiseg.slide import open_slide
from wsiseg.slide.cache import SHARED, TileCache
from wsiseg.slide.readers.jpeg import decode, inspect
from wsiseg.slide.readers.openslide.reader import OpenSlideReader
from wsiseg.slide.readers.tiff.blocks import Unsuited
from wsiseg.slide.readers.tiff.directory import TiffDamage
from wsiseg.slide.readers.tiff.pages import NotBrightfield
from wsiseg.slide.readers.tiff.reader import Elsewhere, TiffReader
from wsiseg.testing import corrupt_tile, drop_tile, write_svs
from wsiseg.testing.images import texture


def oracle(path: Path, level: int) -> np.ndarray:
    with openslide.OpenSlide(path) as handle:
        return np.asarray(handle.read_region((0, 0), level, handle.level_dimensions[level]))[:, :, :3]


@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs", "small.svs", "😐.svs", "boxes.tiff"]
)
def test_real_slides_equal_openslide(name: str, real_data: Callable[[str], Path]) -> None:
    path = real_data(f"slides/{name}")
    slide = open_slide(path)
    assert slide.reader == "tiff"
    for index, level in enumerate(slide.levels):
        pixels = slide.read_level(index, 0, 0, level.width, level.height)
        np.testing.assert_array_equal(pixels, oracle(path, index))
    with openslide.OpenSlide(path) as handle:
        assert set(slide.associated) == set(handle.associated_images)
        for image in slide.associated:
            expected = np.asarray(handle.associated_images[image])[:, :, :3]
            np.testing.assert_array_equal(slide.associated_image(image), expected)


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_synthetic_jpeg_equals_openslide(tmp_path: Path, subsampling: str) -> None:
    path = write_svs(tmp_path / "a.svs", texture(701, 533), tile=128, subsampling=subsampling, levels=(1, 2, 4))
    slide = open_slide(path)
    assert (slide.reader, slide.vendor) == ("tiff", "aperio")
    assert [level.downsample for level in slide.levels] == [1, 2, 4]
    for index, level in enumerate(slide.levels):
        pixels = slide.read_level(index, 0, 0, level.width, level.height)
        np.testing.assert_array_equal(pixels, oracle(path, index))


@pytest.mark.parametrize("compression", [33003, 33005])
def test_aperio_jpeg2000_equals_openslide(tmp_path: Path, compression: int) -> None:
    """Every pair of chroma values at five luma values; 33003 stores YCbCr, 33005 RGB."""
    chroma = np.mgrid[0:256, 0:256].astype(np.uint8)
    tiles = [np.stack([np.full((256, 256), y, np.uint8), *chroma], axis=-1) for y in (0, 64, 128, 200, 255)]
    coded = [imagecodecs.jpeg2k_encode(tile, codecformat="J2K", reversible=True, mct=False) for tile in tiles]
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(coded), shape=(256, 1280, 3), dtype=np.uint8, tile=(256, 256), compression=compression,
            photometric="rgb", metadata=None, software=False,
            description="Aperio Image Library v11\r\n1280x256 (256x256) J2K/YUV16 Q=30|AppMag = 40|MPP = 0.25",
        )  # fmt: skip
    slide = open_slide(path)
    assert slide.reader == "tiff"
    np.testing.assert_array_equal(slide.read_level(0, 0, 0, 1280, 256), oracle(path, 0))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_generic_tiff(tmp_path: Path, compression: str | None, channels: int) -> None:
    pixels = texture(300, 260)[:, :, :channels].squeeze()
    path = tmp_path / "generic.tif"
    tifffile.imwrite(
        path, pixels, tile=(64, 64), compression=compression, photometric="rgb" if channels == 3 else "minisblack",
        predictor=2 if compression in ("lzw", "deflate") else None, resolution=(40000, 40000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    slide = open_slide(path)
    assert slide.reader == "tiff"
    assert slide.require_mpp().value == 0.25
    assert slide.require_mpp().source == "metadata:tiff.resolution"
    np.testing.assert_array_equal(slide.read_level(0, 0, 0, 260, 300), oracle(path, 0))


def test_ome_tiff_with_subdirectories(tmp_path: Path) -> None:
    pixels = texture(512, 512)
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "YXS",
        "PhysicalSizeX": 500.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 500.0,
        "PhysicalSizeYUnit": "nm",
    }
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate"}
        tiff.write(pixels, subifds=1, metadata=metadata, **options)
        tiff.write(pixels[::2, ::2], subfiletype=1, **options)
    slide = open_slide(path)
    assert [(level.width, level.downsample) for level in slide.levels] == [(512, 1), (256, 2)]
    assert slide.require_mpp().value == 0.5
    np.testing.assert_array_equal(slide.read_level(0, 0, 0, 512, 512), pixels)
    np.testing.assert_array_equal(slide.read_level(1, 0, 0, 256, 256), pixels[::2, ::2])


@pytest.fixture
def svs(tmp_path: Path) -> Path:
    return write_svs(
        tmp_path / "slide.svs", texture(500, 700, period=40), tile=128, levels=(1, 4), associated=False
    )


def test_a_damaged_tile_is_lost_alone(svs: Path) -> None:
    window = Window(-10, -10, 720, 520)
    clean = open_slide(svs).read_window(window, Scale(1.0))
    corrupt_tile(svs, 6 + 2)  # row 1, column 2 of six columns
    slide = open_slide(svs)
    pixels, lost = slide.read_lossy(window, Scale(1.0))
    assert [part.box for part in lost] == [Box(256, 128, 384, 256)]
    assert not lost[0].missing
    tile = Window(256, 128, 128, 128).within(window)
    assert (pixels[tile] == 255).all()
    pixels[tile] = clean[tile]
    np.testing.assert_array_equal(pixels, clean)
    with pytest.raises(ReadError, match=r"x 256–384, y 128–256") as error:
        slide.read_window(window, Scale(1.0))
    assert len(str(error.value).splitlines()) <= 3
    # Elsewhere nothing is wrong, and a window that only touches the tile reports all of it.
    slide.read_window(Window(0, 0, 256, 500), Scale(1.0))
    _, touched = slide.read_lossy(Window(190, 100, 3, 3), Scale(2.0))
    assert [part.box for part in touched] == [Box(256, 128, 384, 256)]


def test_lost_boxes_are_clipped_to_the_slide(svs: Path) -> None:
    corrupt_tile(svs, 23)
    _, lost = open_slide(svs).read_lossy(Window(600, 400, 300, 300), Scale(1.0))
    assert [part.box for part in lost] == [Box(640, 384, 700, 500)]


def test_a_missing_tile_is_background_and_counted(svs: Path) -> None:
    drop_tile(svs, 0)
    slide = open_slide(svs)
    pixels, lost = slide.read_lossy(Window(0, 0, 130, 130), Scale(1.0))
    assert [(part.box, part.missing) for part in lost] == [(Box(0, 0, 128, 128), True)]
    assert (pixels[:128, :128] == 255).all()
    np.testing.assert_array_equal(slide.read_window(Window(0, 0, 130, 130), Scale(1.0)), pixels)


def test_the_overview_fills_a_damaged_part_from_a_finer_level(svs: Path) -> None:
    clean, _ = open_slide(svs).overview(2.0)
    corrupt_tile(svs, 0, level=1)
    again, scale = open_slide(svs).overview(2.0)
    assert scale.downsample == 8
    assert np.abs(again.astype(int) - clean).mean() < 2
    corrupt_tile(svs, 0)
    blank, _ = open_slide(svs).overview(2.0)
    assert (blank[:16, :16] == 255).all()
    assert (blank[20:] != 255).any()


def test_a_zeroed_disk_sector_is_found(svs: Path) -> None:
    with tifffile.TiffFile(svs) as tiff:
        page = tiff.pages[0]
        offset, count = page.dataoffsets[3], page.databytecounts[3]
    original = svs.read_bytes()
    for start in np.linspace(0, count - 512, 20).astype(int):
        data = bytearray(original)
        data[offset + start : offset + start + 512] = bytes(512)
        svs.write_bytes(data)
        _, lost = open_slide(svs).read_lossy(Window(384, 0, 128, 128), Scale(1.0))
        assert [part.box for part in lost] == [Box(384, 0, 512, 128)]


# --- JPEG streams ----------------------------------------------------------------------------------------------


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    quality=st.integers(1, 100),
    subsampling=st.integers(0, 2),
    rows=st.integers(0, 3),
    grey=st.booleans(),
    optimize=st.booleans(),
    noise=st.booleans(),
)
def test_intact_jpeg_passes(
    height: int, width: int, quality: int, subsampling: int, rows: int, grey: bool, optimize: bool, noise: bool
) -> None:
    pixels = texture(height, width, seed=height)
    if noise:
        pixels = np.random.default_rng(width).integers(0, 256, pixels.shape, dtype=np.uint8)
    options = {"quality": quality, "restart_marker_rows": rows, "optimize": optimize}
    data = jpeg(pixels[:, :, 0], **options) if grey else jpeg(pixels, subsampling=subsampling, **options)
    stream = inspect(data)
    assert (stream.width, stream.height, stream.components) == (width, height, 1 if grey else 3)
    np.testing.assert_array_equal(decode(stream).squeeze(), np.asarray(Image.open(io.BytesIO(data))).squeeze())


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 2}, {"progressive": True}])
def test_damaged_jpeg_is_found(options: dict[str, object]) -> None:
    data = jpeg(texture(256, 256, period=32), quality=70, **options)
    start = data.index(b"\xff\xda") + 14
    rng = np.random.default_rng(2)
    assert all(_refused(data[:cut]) for cut in rng.integers(0, len(data) - 2, 100))
    flipped = 0
    zeroed = 0
    for position in rng.integers(start, len(data) - 512, 200):
        zeroed += _refused(data[:position] + bytes(512) + data[position + 512 :])
        bit = bytearray(data)
        bit[position] ^= 1 << int(rng.integers(8))
        flipped += _refused(bytes(bit))
    # A flipped bit often changes one coefficient and no length: nothing in the stream can tell.
    assert flipped >= 20
    assert zeroed >= 190


def test_what_a_decoder_would_make_up_is_refused() -> None:
    data = jpeg(texture(64, 64))
    huffman, scan = data.index(b"\xff\xc4"), data.index(b"\xff\xda")
    with pytest.raises(ValueError, match="Huffman tables are missing"):
        decode(inspect(data[:huffman] + data[scan:]))
    progressive = jpeg(texture(64, 64), progressive=True)
    with pytest.raises(ValueError, match="more than 100 scans"):
        decode(inspect(progressive[:-2] + progressive[progressive.index(b"\xff\xda") : -2] * 100))


def test_what_does_not_decide_pixels_is_no_damage() -> None:
    data = jpeg(texture(64, 64))
    assert not _refused(data + bytes(100))
    version = data.index(b"JFIF") + 5
    assert not _refused(data[:version] + b"\x09" + data[version + 1 :])


def _refused(data: bytes) -> bool:
    try:
        decode(inspect(data))
    except ValueError:
        return True
    return False


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_answered(data: st.DataObject) -> None:
    whole = bytearray(jpeg(texture(32, 32), quality=50))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    _refused(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    _refused(data.draw(st.binary(max_size=80)))


# --- headers from strangers ------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_headers_are_answered(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.svs"
    template = tmp_path_factory.getbasetemp() / "template.svs"
    if not template.exists():
        write_svs(template, texture(64, 64), tile=16, levels=(1, 4), associated=False)
    content = bytearray(template.read_bytes())
    spots = [*range(16), *range(max(0, len(content) - 1500), len(content))]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(spots))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        reader = TiffReader(path, "")
    except (TiffDamage, Elsewhere, Unsuited, NotBrightfield):
        return
    level = reader.description.levels[0]
    reader.read_level(0, Window(0, 0, min(level.width, 64), min(level.height, 64)))


def test_a_reader_closes_its_file(svs: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        open_slide(svs).read_window(Window(0, 0, 10, 10), Scale(1.0))
    with open_slide(svs) as slide:
        slide.read_window(Window(0, 0, 10, 10), Scale(1.0))
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


def test_the_cache_is_bounded() -> None:
    cache = TileCache(1000)
    for key in range(50):
        cache.put(("reader", key), np.zeros((10, 10, 3), dtype=np.uint8))
        assert cache.used <= 1000
    assert cache.get(("reader", 49)) is not None
    assert cache.get(("reader", 0)) is None
    cache.put(("reader", 99), np.zeros(5000, dtype=np.uint8))
    assert cache.get(("reader", 99)) is None
    cache.discard("reader")
    assert cache.used == 0
    assert SHARED.capacity <= 64 << 20


# --- what is left to OpenSlide ---------------------------------------------------------------------------------


def test_openslide_reads_on_after_an_error(svs: Path) -> None:
    """A handle that failed fails for good; a new one reads the rest, and the damage is narrowed to blocks."""
    clean = OpenSlideReader(svs).read_level(0, Window(0, 0, 700, 500))[0]
    corrupt_tile(svs, 0)
    reader = OpenSlideReader(svs)
    pixels, unread = reader.read_level(0, Window(0, 0, 700, 500))
    assert [part.window for part in unread] == [Window(0, 0, 256, 256)]
    assert (pixels[:256, :256] == 255).all()
    np.testing.assert_array_equal(pixels[256:], clean[256:])
    np.testing.assert_array_equal(pixels[:, 256:], clean[:, 256:])
    assert reader.read_level(0, Window(100, 0, 20, 20))[1] == unread
    assert reader.read_level(0, Window(300, 300, 20, 20))[1] == ()


def test_openslide_levels_do_not_depend_on_the_window(real_data: Callable[[str], Path]) -> None:
    reader = OpenSlideReader(
        real_data("slides/tcga-cr-7395-01a-01-ts1.svs")
    )  # its second level is reduced 2.0005 times
    whole, _ = reader.read_level(1, Window(1000, 700, 400, 300))
    part, _ = reader.read_level(1, Window(1101, 803, 150, 77))
    np.testing.assert_array_equal(part, whole[103:180, 101:251])


def test_subsampled_jpeg2000_is_left_to_openslide(tmp_path: Path) -> None:
    """imagecodecs does not upsample; the codestream's header tells before anything is decoded."""
    pixels = texture(128, 128)
    coded = bytearray(imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", reversible=True, mct=False))
    steps = coded.index(b"\xff\x4f\xff\x51") + 42
    for component in (1, 2):
        struct.pack_into("BB", coded, steps + 3 * component + 1, 2, 1)
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter([bytes(coded)]), shape=pixels.shape, dtype=np.uint8, tile=(128, 128), compression=33003,
            photometric="rgb", metadata=None,
            description="Aperio Image Library v11\r\n128x128 (128x128) J2K|MPP = 0.25",
        )  # fmt: skip
    assert open_slide(path).reader == "openslide"
