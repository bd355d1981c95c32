"""A slide as a value: scale and snapping, windows, pickling, fingerprints, lazy views."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.slide import Slide, open_slide
from wsiseg.slide.info import describe
from wsiseg.slide.lazy import LevelView
from wsiseg.slide.types import nominal_downsample
from wsiseg.testing import write_svs
from wsiseg.testing.images import texture


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = texture(611, 803, period=24)
    return write_svs(tmp_path_factory.mktemp("value") / "slide.svs", pixels, tile=96, mpp=0.252, levels=(1, 2, 8))


@pytest.fixture(scope="module")
def slide(path: Path) -> Slide:
    return open_slide(path)


def test_what_a_slide_says(slide: Slide) -> None:
    assert (slide.name, slide.reader, slide.vendor, slide.width, slide.height) == (
        "slide.svs",
        "tiff",
        "aperio",
        803,
        611,
    )
    assert [level.downsample for level in slide.levels] == [1, 2, 8]
    assert slide.bounds == Box(0, 0, 803, 611)
    assert slide.associated == ("label", "macro", "thumbnail")
    assert slide.associated_image("label").shape[2] == 3
    with pytest.raises(KeyError, match="thumbnail"):
        slide.associated_image("nothing")
    told = describe(slide)
    assert told["mpp"] == 0.252
    assert told["levels"][2]["mpp"] == pytest.approx(8 * 0.252)
    assert told["notes"] == []


@pytest.mark.parametrize(
    ("mpp", "downsample"),
    [
        (0.252, 1),
        (0.25, 1),
        (0.5, 2),
        (0.52, 2),
        (0.54, 0.54 / 0.252),
        (1.0, 4),
        (2.0, 8),
        (8.0, 32),
        (0.1, 0.1 / 0.252),
    ],
)
def test_the_scale_snaps_to_whole_multiples(slide: Slide, mpp: float, downsample: float) -> None:
    assert slide.scale(mpp).downsample == pytest.approx(downsample, rel=1e-12)


def test_the_scale_without_snapping(slide: Slide) -> None:
    assert slide.scale(0.5, snap=0).downsample == 0.5 / 0.252
    assert slide.scale(0.504, snap=0).downsample == 2


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_no_scale_for_absurd_numbers(slide: Slide, mpp: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        slide.scale(mpp)


@pytest.mark.parametrize(
    ("size", "level", "downsample"),
    [
        ((4443, 3567), (2221, 1783), 2),
        ((46000, 32914), (11500, 8228), 4),
        ((2220, 2967), (69, 92), 32),
        ((803, 611), (401, 305), 2),
        ((2220, 2967), (8, 11), 256),
        ((3000, 3000), (1000, 1000), 3),
        ((100, 100), (100, 100), 1),
        ((1000, 1000), (625, 625), 1.6),
    ],
)
def test_nominal_downsample(size: tuple[int, int], level: tuple[int, int], downsample: float) -> None:
    assert nominal_downsample(*size, *level) == downsample


@settings(max_examples=60, deadline=None)
@given(
    downsample=st.one_of(st.sampled_from([1.0, 2.0, 3.0, 8.0, 16.0]), st.floats(0.4, 20)),
    x=st.integers(-30, 300),
    y=st.integers(-30, 300),
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    dx=st.integers(0, 119),
    dy=st.integers(0, 119),
)
def test_windows_agree(
    slide: Slide, downsample: float, x: int, y: int, width: int, height: int, dx: int, dy: int
) -> None:
    scale, outer = Scale(downsample), Window(x, y, width, height)
    inner = Window(x + dx % width, y + dy % height, 1, 1)
    whole = slide.read_window(outer, scale)
    assert whole.shape == (height, width, 3)
    np.testing.assert_array_equal(whole[inner.within(outer)], slide.read_window(inner, scale))


def test_beyond_the_slide_is_white(slide: Slide) -> None:
    assert (slide.read_window(Window(900, 700, 20, 20), Scale(1.0)) == 255).all()
    assert (slide.read_window(Window(-100, -100, 99, 99), Scale(1.3)) == 255).all()
    assert slide.read_window(Window(5, 5, 0, 3), Scale(1.0)).shape == (3, 0, 3)
    edge = slide.read_window(Window(800, 0, 6, 4), Scale(1.0))
    assert (edge[:, 3:] == 255).all()


def test_a_lattice_takes_the_coarsest_level_that_divides_it(slide: Slide) -> None:
    """The pixels at d = 4 are means of level 1, not of level 0 and not an enlargement of level 2."""
    level = slide.read_level(1, 0, 0, 400, 304).astype(np.int64)
    expected = (level.reshape(152, 2, 200, 2, 3).sum(axis=(1, 3)) + 2) // 4
    np.testing.assert_array_equal(slide.read_window(Window(0, 0, 200, 152), Scale(4.0)), expected)


def test_read_and_overview(slide: Slide) -> None:
    pixels = slide.read(Box(100, 50, 300, 150), 0.504)
    np.testing.assert_array_equal(pixels, slide.read_window(Window(50, 25, 100, 50), Scale(2.0)))
    image, scale = slide.overview(2.0)
    assert scale == Scale(8.0)
    assert image.shape == (77, 101, 3)
    np.testing.assert_array_equal(image, slide.read_window(Window(0, 0, 101, 77), scale))


def test_strips_do_not_change_the_overview(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = slide.overview(0.6)
    monkeypatch.setattr("wsiseg.slide.resample._STRIP_PIXELS", 20_000)
    np.testing.assert_array_equal(slide.overview(0.6)[0], image)


def test_threads_read_the_same(slide: Slide) -> None:
    windows = [Window(x, y, 150, 150) for x in range(0, 800, 90) for y in range(0, 600, 90)]
    alone = [slide.read_window(window, Scale(1.0)) for window in windows]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda window: slide.read_window(window, Scale(1.0)), windows))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_slide_pickles_as_its_path(path: Path) -> None:
    slide = open_slide(path, mpp=0.3)
    data = pickle.dumps(slide)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again.mpp == slide.mpp
    again.close()  # shared within the process: closing one must not close the others
    other = pickle.loads(data)
    window = Window(10, 10, 50, 50)
    np.testing.assert_array_equal(other.read_window(window, Scale(2.0)), slide.read_window(window, Scale(2.0)))


def test_the_fingerprint_is_of_the_content(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other name.svs"
    shutil.copy(path, copy)
    assert open_slide(copy).fingerprint() == open_slide(path).fingerprint()
    with open(copy, "r+b") as file:
        file.seek(20_000)
        byte = file.read(1)[0]
        file.seek(20_000)
        file.write(bytes([byte ^ 1]))
    assert open_slide(copy).fingerprint() != open_slide(path).fingerprint()


def test_the_fingerprint_of_a_small_file_is_of_every_byte(tmp_path: Path) -> None:
    from wsiseg.slide.fingerprint import fingerprint

    file = tmp_path / "a"
    content = bytearray(np.random.default_rng(0).bytes(6 << 20))
    file.write_bytes(content)
    before = fingerprint(file)
    for place in range(1 << 20, 5 << 20, 500_009):
        content[place] ^= 1
        file.write_bytes(content)
        assert fingerprint(file) != before
        content[place] ^= 1


def test_the_fingerprint_of_a_large_file_is_sampled(tmp_path: Path) -> None:
    from wsiseg.slide.fingerprint import fingerprint

    file = tmp_path / "a"
    with open(file, "wb") as sparse:
        sparse.truncate(5 << 30)
    before = fingerprint(file)
    with open(file, "r+b") as sparse:
        sparse.seek(-5, 2)
        sparse.write(b"x")
    assert fingerprint(file) != before


def test_dicom(real_data: Callable[[str], Path]) -> None:
    slide = open_slide(real_data("slides/boxes_0.dcm"))
    assert (slide.reader, slide.vendor) == ("openslide", "dicom")
    assert slide.require_mpp().value == pytest.approx(0.499)
    assert slide.read_window(Window(0, 0, 16, 16), Scale(1.0)).shape == (16, 16, 3)
    assert pickle.loads(pickle.dumps(slide)).fingerprint() == slide.fingerprint()


# --- lazy views ------------------------------------------------------------------------------------------------


def whole(slide: Slide, level: int) -> np.ndarray:
    size = slide.levels[level]
    return slide.read_level(level, 0, 0, size.width, size.height)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_dask_level(slide: Slide, level: int) -> None:
    array = slide.dask(level)
    assert array.dtype == np.uint8
    assert (
        array.chunksize[0] % slide.levels[level].tile_height == 0
        or array.chunksize[0] == slide.levels[level].height
    )
    np.testing.assert_array_equal(array.compute(scheduler="synchronous"), whole(slide, level))
    assert array.name == slide.dask(level).name


def test_dask_reads_only_what_is_asked(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = slide.read_level

    def spy(level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        asked.append(width * height)
        return read(level, x, y, width, height)

    monkeypatch.setattr(slide, "read_level", spy)
    array = slide.dask(0)
    assert asked == []
    part = array[10:30, 40:70].compute(scheduler="synchronous")
    np.testing.assert_array_equal(part, read(0, 40, 10, 30, 20))
    assert len(asked) == 1


def steps(low: int = -120, high: int = 120) -> st.SearchStrategy[slice]:
    corner = st.none() | st.integers(low, high)
    return st.builds(slice, corner, corner, st.none() | st.integers(1, 300) | st.integers(-300, -1))


@settings(max_examples=150, deadline=None)
@given(key=st.data())
def test_the_view_is_indexed_as_numpy_is(slide: Slide, key: st.DataObject) -> None:
    """Integers, slices of any step, lists, new axes and an ellipsis anywhere, with as few entries as one likes."""
    expected = whole(slide, 2)
    view = LevelView(slide, 2)
    shape = view.shape
    axes = [
        st.integers(-size, size - 1) | steps() | st.lists(st.integers(-size, size - 1), min_size=2, max_size=2)
        for size in shape
    ]
    before = key.draw(st.integers(0, 3))
    parts = [key.draw(axis) for axis in axes[:before]]
    if key.draw(st.booleans()):
        after = key.draw(st.integers(0, 3 - before))
        parts = [*parts, ..., *[key.draw(axis) for axis in axes[3 - after :]]]
    for _ in range(key.draw(st.integers(0, 2))):
        parts.insert(key.draw(st.integers(0, len(parts))), None)
    index = parts[0] if len(parts) == 1 and key.draw(st.booleans()) else tuple(parts)
    np.testing.assert_array_equal(view[index], expected[index])


@settings(max_examples=30, deadline=None)
@given(key=st.tuples(*[st.integers(0, 99) | steps(low=0)] * 3))
def test_dask_is_indexed_as_numpy_is(slide: Slide, key: tuple[Any, ...]) -> None:
    expected, array = whole(slide, 2), slide.dask(2)
    assert array.shape == expected.shape
    key = tuple(k if isinstance(k, slice) else k % n for k, n in zip(key, expected.shape, strict=True))
    for index in (key, key[:2], key[0], (..., key[2])):
        part = array[index]
        assert part.shape == expected[index].shape
        np.testing.assert_array_equal(part.compute(scheduler="synchronous"), expected[index])


def test_views_with_single_rows_masks_and_nothing(slide: Slide) -> None:
    expected = whole(slide, 1)
    view, array = LevelView(slide, 1), slide.dask(1)
    np.testing.assert_array_equal(array[5].compute(scheduler="synchronous"), expected[5])
    np.testing.assert_array_equal(array[5, 7].compute(scheduler="synchronous"), expected[5, 7])
    np.testing.assert_array_equal(array[..., 1].compute(scheduler="synchronous"), expected[..., 1])
    np.testing.assert_array_equal(array[[3, 1], 2:0:-1].compute(scheduler="synchronous"), expected[[3, 1], 2:0:-1])
    mask = expected[:, :, 0] > 100
    np.testing.assert_array_equal(view[mask], expected[mask])
    np.testing.assert_array_equal(view[mask[:, 0]], expected[mask[:, 0]])
    assert view[3:3].shape == (0, *expected.shape[1:])
    for wrong in (expected.shape[0], (..., 3), (0, 0, 0, 0), (..., 0, ...), 1.5):
        with pytest.raises(IndexError):
            view[wrong]


@settings(max_examples=30, deadline=None)
@given(y=st.integers(-10, 9), x=st.integers(-10, 9), step=st.integers(1, 7), channel=st.integers(-3, 2))
def test_zarr_is_indexed_as_numpy_is(slide: Slide, y: int, x: int, step: int, channel: int) -> None:
    expected, array = whole(slide, 1), slide.zarr()["1"]
    for index in (y, (y, x), (..., channel), np.s_[y, ::step], np.s_[::step, x:, channel]):
        np.testing.assert_array_equal(array[index], expected[index])


def test_zarr_group(slide: Slide) -> None:
    group = slide.zarr()
    assert sorted(group.array_keys()) == ["0", "1", "2"]
    assert group.attrs["wsiseg"]["downsamples"] == [1, 2, 8]
    for level in range(3):
        np.testing.assert_array_equal(group[str(level)][:], whole(slide, level))
    np.testing.assert_array_equal(group["0"][100:333, 77:801, 1], whole(slide, 0)[100:333, 77:801, 1])
    with pytest.raises((PermissionError, ValueError)):
        group["0"][:5, :5] = 0


def _sum(array: object) -> int:
    return int(np.asarray(array[100:200, 100:200]).sum(dtype=np.int64))


def _read(slide: Slide) -> int:
    return int(slide.read_window(Window(0, 0, 90, 90), Scale(3.0)).sum(dtype=np.int64))


def test_views_work_in_other_processes(slide: Slide) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_sum, slide.zarr()["0"]).result(60) == _sum(whole(slide, 0))
        assert pool.submit(_sum, slide.dask(0)).result(60) == _sum(whole(slide, 0))
        assert pool.submit(_read, slide).result(60) == _read(slide)


def test_a_chunk_that_is_not_there(slide: Slide) -> None:
    from wsiseg.slide.lazy import SlideStore

    store = SlideStore(slide)
    for key in (
        "9/c/0/0/0",
        "0/c/99/0/0",
        "0/c/0/99/0",
        "0/c/0/0/1",
        "0/c/-1/0/0",
        "x/c/0/0/0",
        "0/zarr",
        "../zarr.json",
    ):
        assert store._place(key) is None
