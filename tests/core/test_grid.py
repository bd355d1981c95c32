"""The tile grid against brute force: partition, owners, reads, seams, tiles that touch tissue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.core.geometry import Window
from wsiseg.core.grid import TileGrid, round_up
from wsiseg.errors import UsageError

unhurried = settings(deadline=None, max_examples=60)


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    stride = draw(st.sampled_from([1, 2, 8, 16]))
    tile, halo = round_up(draw(st.integers(7, 100)), stride), stride * draw(st.integers(0, 3))
    return TileGrid(draw(st.integers(1, 150)), draw(st.integers(1, 150)), tile, halo, stride)


@unhurried
@given(grids())
def test_cores_partition_the_slide(grid: TileGrid) -> None:
    count = np.zeros((grid.height, grid.width), dtype=int)
    whole = Window(0, 0, grid.width, grid.height)
    for index in range(len(grid)):
        core = grid.core(index)
        assert core.area > 0
        assert core.intersection(whole) == core
        count[core.within(whole)] += 1
        row, column = grid.position(index)
        assert index == row * grid.columns + column
    assert (count == 1).all()


@unhurried
@given(grids(), st.integers(0, 10_000))
def test_every_point_has_the_owner_whose_core_holds_it(grid: TileGrid, seed: int) -> None:
    rng = np.random.default_rng(seed)
    xy = rng.uniform([-20, -20], [grid.width + 20, grid.height + 20], (40, 2))
    xy[::2] = np.floor(xy[::2])  # seams lie on whole numbers
    owner = grid.owner(xy)
    for (x, y), index in zip(np.clip(xy, 0, [grid.width - 0.5, grid.height - 0.5]), owner, strict=True):
        x0, y0, x1, y1 = _cores(grid)
        assert np.flatnonzero((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)).tolist() == [index]


@unhurried
@given(grids())
def test_a_tile_reads_its_core_and_halo_in_whole_strides_on_the_same_phase(grid: TileGrid) -> None:
    for index in range(len(grid)):
        read, needed = grid.read(index), grid.core(index).pad(grid.halo)
        assert read.intersection(needed) == needed
        assert read.x % grid.stride == read.y % grid.stride == 0
        assert read.width % grid.stride == read.height % grid.stride == 0
        assert read.width - needed.width < grid.stride
        assert read.height - needed.height < grid.stride


@unhurried
@given(grids(), st.integers(0, 3))
def test_beyond_the_slide_no_more_is_read_than_the_rim(grid: TileGrid, strides: int) -> None:
    rim = strides * grid.stride
    whole = Window(0, 0, round_up(grid.width, grid.stride), round_up(grid.height, grid.stride))
    narrow = replace(grid, rim=rim)
    for index in range(len(grid)):
        assert narrow.read(index) == grid.read(index).intersection(whole.pad(rim))
        assert narrow.read(index).intersection(whole) == grid.read(index).intersection(whole)
        assert narrow.read(index).width % grid.stride == narrow.read(index).height % grid.stride == 0


@unhurried
@given(grids(), st.data())
def test_a_tile_reads_no_more_than_a_halo_around_what_is_wanted_of_it(grid: TileGrid, data: st.DataObject) -> None:
    """What is wanted sees all that it would see of the whole tile, as far as the halo goes, on the same phase."""
    grid = replace(grid, rim=min(grid.halo, grid.stride))
    index = data.draw(st.integers(0, len(grid) - 1))
    core = grid.core(index)
    x, y = data.draw(st.integers(core.x, core.x1 - 1)), data.draw(st.integers(core.y, core.y1 - 1))
    wanted = Window(x, y, data.draw(st.integers(1, core.x1 - x)), data.draw(st.integers(1, core.y1 - y)))
    whole, read = grid.read(index), grid.read(index, wanted)
    seen = wanted.pad(grid.halo).intersection(whole)
    assert seen.intersection(read) == seen
    assert read.intersection(whole) == read
    assert read.width < wanted.width + 2 * (grid.halo + grid.stride)
    assert read.height < wanted.height + 2 * (grid.halo + grid.stride)
    assert all(value % grid.stride == 0 for value in (read.x, read.y, read.width, read.height))
    assert grid.read(index, core) == whole


def test_a_rim_is_of_whole_strides() -> None:
    with pytest.raises(ValueError, match="rim 12 is not a multiple of the stride 8"):
        TileGrid(100, 100, 64, 16, 8, rim=12)


@unhurried
@given(grids(), st.integers(0, 10_000))
def test_distance_to_the_nearest_seam(grid: TileGrid, seed: int) -> None:
    xy = np.random.default_rng(seed).uniform([-30, -30], [grid.width + 30, grid.height + 30], (30, 2))
    across = [abs(xy[:, 0] - grid.core(c).x) for c in range(1, grid.columns)]
    down = [abs(xy[:, 1] - grid.core(r * grid.columns).y) for r in range(1, grid.rows)]
    expected = np.min([np.full(len(xy), np.inf), *across, *down], axis=0)
    np.testing.assert_array_equal(grid.seam_distance(xy), expected)


@unhurried
@given(grids(), st.integers(6, 320).map(lambda eighths: eighths / 8), st.integers(0, 10_000))
def test_tiles_that_touch_a_mask(grid: TileGrid, pixel: float, seed: int) -> None:
    shape = (int(np.ceil(grid.height / pixel)), int(np.ceil(grid.width / pixel)))
    mask = np.random.default_rng(seed).random(shape) < 3 / (shape[0] * shape[1])
    x0, y0, x1, y1 = _cores(grid)
    expected = np.zeros(len(grid), dtype=bool)
    for row, column in np.argwhere(mask):
        down = (y0 < (row + 1) * pixel) & (y1 > row * pixel)
        expected |= down & (x0 < (column + 1) * pixel) & (x1 > column * pixel)
    found = grid.touching(mask, pixel)
    assert found.tolist() == np.flatnonzero(expected).tolist()
    assert grid.touching(np.zeros(shape, dtype=bool), pixel).size == 0
    assert grid.touching(np.ones(shape, dtype=bool), pixel).tolist() == list(range(len(grid)))


@given(st.integers(-100, 1000), st.integers(1, 70))
def test_rounding_up(value: int, step: int) -> None:
    assert round_up(value, step) == min(k * step for k in range(-200, 1200) if k * step >= value)


def test_what_is_no_grid_is_refused() -> None:
    with pytest.raises(UsageError, match=r"multiple of 16, the network's stride\. Try --tile 96"):
        TileGrid(500, 500, 100, 0, 16)
    with pytest.raises(UsageError, match="at most"):
        TileGrid(500, 500, 10**30, 0, 1)
    with pytest.raises(UsageError, match="positive"):
        TileGrid(500, 500, 0, 0, 1)
    with pytest.raises(ValueError, match="halo 20"):
        TileGrid(500, 500, 96, 20, 16)
    grid = TileGrid(500, 400, 100, 0)
    assert (grid.columns, grid.rows, len(grid)) == (5, 4, 20)
    for index in (-1, 20):
        with pytest.raises(IndexError):
            grid.position(index)


def _cores(grid: TileGrid) -> tuple[np.ndarray, ...]:
    cores = [grid.core(index) for index in range(len(grid))]
    return tuple(np.array([(c.x, c.y, c.x1, c.y1) for c in cores], dtype=float).T)
