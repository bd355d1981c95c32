"""``wsiseg tile``: what is stored is exact, complete or resumable, and bounded."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from wsiseg.convert import plan as tilingplan
from wsiseg.convert import shards as tilingwork
from wsiseg.convert.plan import TilingOptions, plan_tiling
from wsiseg.convert.run import finish_tiling, tile_slide, tile_slides
from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.errors import EnvironmentFault, MissingMppError, UsageError
from wsiseg.run.events import Begun, Event, Unchanged
from wsiseg.run.schedule import SerialExecutor, map_bounded
from wsiseg.slide import open_slide
from wsiseg.slide.held import Held
from wsiseg.slide.readers.omezarr.shards import ShardLayout
from wsiseg.slide.slide import Slide
from wsiseg.slide.types import Pixels
from wsiseg.testing import corrupt_tile, write_svs
from wsiseg.testing.runs import StopsAfter

WIDTH, HEIGHT = 1301, 1037  # neither a whole number of chunks, shards, nor of 2 × 2 pixels


def tissue_image(width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """Noise of H&E colours in the left half, white glass in the right."""
    rng = np.random.default_rng(7)
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    half = width // 2
    image[:, :half] = rng.integers((120, 40, 110), (250, 190, 230), (height, half, 3))
    return image


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiling") / "slide.svs"
    return write_svs(path, tissue_image(), mpp=0.5, levels=(1, 4), quality=95, associated=False)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 and shards of 256, so that small slides have many of them."""

    def layout(width: int, height: int, codec: Any) -> ShardLayout:
        return ShardLayout(width, height, codec, chunk=64, shard=256)

    monkeypatch.setattr(tilingplan, "ShardLayout", layout)
    monkeypatch.setattr(tilingplan, "SMALLEST_LEVEL_PX", 100)


def tile(slide: Slide, out: Path, **options: Any) -> dict[str, Any]:
    return tile_slide(slide, out, executor=SerialExecutor(), **options)


def whole(slide: Slide, level: int) -> Pixels:
    size = slide.levels[level]
    return slide.read_level(level, 0, 0, size.width, size.height)


def files(store: Path) -> dict[str, bytes]:
    """Every file of a store but the group's metadata, by its path."""
    found = (path for path in sorted(store.rglob("*")) if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in found}


def shard_files(store: Path) -> list[Path]:
    """Shards with their final name; what is being written has a hidden one."""
    return sorted(path for path in store.glob("*/c/0/*/[!.]*") if path.is_file())


# ---------------------------------------------------------------- exactness


def test_own_levels_are_the_slides_pixel_for_pixel(source: Path, tmp_path: Path) -> None:
    slide = open_slide(source)
    record = tile(slide, tmp_path / "a.ome.zarr")
    store = open_slide(tmp_path / "a.ome.zarr")
    own = [level for level in store.levels if not level.derived]
    assert [(level.width, level.height, level.downsample) for level in own] == [
        (level.width, level.height, level.downsample) for level in slide.levels
    ]
    for level in range(len(slide.levels)):
        np.testing.assert_array_equal(whole(store, level), whole(slide, level))
    assert record["status"] == "complete"
    assert record["exact"]
    assert record["lost"] == 0


def test_every_lattice_reads_the_same_from_the_store(source: Path, tmp_path: Path) -> None:
    slide = open_slide(source)
    tile(slide, tmp_path / "a.ome.zarr")
    store = open_slide(tmp_path / "a.ome.zarr")
    assert store.mpp is not None
    assert slide.mpp is not None
    assert store.mpp.value == slide.mpp.value
    window = Window(-20, 11, 333, 170)
    for downsample in (1.0, 1.37, 2.0, 3.1, 4.0, 8.0, 11.3):
        expected = slide.read_window(window, Scale(downsample))
        np.testing.assert_array_equal(store.read_window(window, Scale(downsample)), expected)
    assert store.scale(2.0) == slide.scale(2.0)
    for mpp in (1.0, 8.0):
        np.testing.assert_array_equal(store.overview(mpp)[0], slide.overview(mpp)[0])


def test_derived_levels_are_means_of_two_by_two(source: Path, tmp_path: Path) -> None:
    tile(open_slide(source), tmp_path / "a.ome.zarr")
    store = open_slide(tmp_path / "a.ome.zarr")
    derived = [i for i, level in enumerate(store.levels) if level.derived]
    assert len(derived) == 2  # 325 → 163 → 82
    for level in derived:
        finer = np.pad(whole(store, level - 1).astype(int), ((0, 1), (0, 1), (0, 0)), mode="edge")
        height, width = store.levels[level].height, store.levels[level].width
        block = finer[: height * 2, : width * 2].reshape(height, 2, width, 2, 3).sum(axis=(1, 3))
        np.testing.assert_array_equal(whole(store, level), (block + 2) // 4)
        assert store.levels[level].downsample == 2 * store.levels[level - 1].downsample


def test_jpeg_is_close_smaller_and_says_that_it_is_lossy(tmp_path: Path) -> None:
    y, x = np.mgrid[:300, :400]
    smooth = np.stack([150 + 80 * np.sin(x / 31), 120 + 60 * np.cos(y / 23), 180 + 0 * x], axis=2)
    source = write_svs(tmp_path / "s.svs", smooth.astype(np.uint8), levels=(1,), associated=False)
    slide = open_slide(source)
    exact, lossy = tile(slide, tmp_path / "z.ome.zarr"), tile(slide, tmp_path / "j.ome.zarr", codec="jpeg")
    assert (exact["exact"], lossy["exact"]) == (True, False)
    assert lossy["bytes"] < exact["bytes"] / 2
    difference = whole(open_slide(tmp_path / "j.ome.zarr"), 0).astype(int) - whole(slide, 0)
    assert 0 < np.abs(difference).mean() < 1.5


def test_mpp_resamples_level_zero_and_derives_the_rest(source: Path, tmp_path: Path) -> None:
    slide = open_slide(source)
    tile(slide, tmp_path / "a.ome.zarr", mpp=0.8)
    store = open_slide(tmp_path / "a.ome.zarr")
    scale = slide.scale(0.8)
    width, height = scale.size(slide.width, slide.height)
    assert (store.width, store.height) == (width, height)
    assert store.mpp is not None
    assert store.mpp.value == pytest.approx(0.8)
    np.testing.assert_array_equal(whole(store, 0), slide.read_window(Window(0, 0, width, height), scale))
    assert [level.derived for level in store.levels] == [False] + [True] * (len(store.levels) - 1)
    assert store.bounds.x1 == pytest.approx(slide.bounds.x1 / scale.downsample)


def test_blocks_that_are_read_stay_bounded_and_change_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = open_slide(source)
    tile(slide, tmp_path / "a.ome.zarr", mpp=1.1)
    largest = 0
    read = Slide.read_lossy

    def watched(self: Slide, window: Window, scale: Scale) -> Any:
        nonlocal largest
        largest = max(largest, max(window.shape) * scale.downsample)
        return read(self, window, scale)

    monkeypatch.setattr(tilingwork, "_READ_PX", 150)
    monkeypatch.setattr(Slide, "read_lossy", watched)
    tile(slide, tmp_path / "b.ome.zarr", mpp=1.1)
    assert 0 < largest <= 150
    assert files(tmp_path / "a.ome.zarr") == files(tmp_path / "b.ome.zarr")


def test_finer_than_the_slide_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="finer than"):
        tile(open_slide(source), tmp_path / "a.ome.zarr", mpp=0.1)
    assert not (tmp_path / "a.ome.zarr").exists()


def test_real_slide_round_trip(
    tmp_path: Path, real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # real chunks and shards
    slide = open_slide(real_data("slides/CMU-1-Small-Region.svs"))
    tile(slide, tmp_path / "cmu.ome.zarr")
    store = open_slide(tmp_path / "cmu.ome.zarr")
    np.testing.assert_array_equal(whole(store, 0), whole(slide, 0))
    assert store.mpp is not None
    assert (store.mpp.value, store.mpp.source) == (0.499, "metadata:ome-zarr (metadata:aperio.MPP)")
    assert store.vendor == "aperio"
    assert store.properties == slide.properties
    level0 = zarr.open_array(str(tmp_path / "cmu.ome.zarr" / "0"), mode="r")
    np.testing.assert_array_equal(np.moveaxis(np.asarray(level0[:]), 0, 2), whole(slide, 0))


# ---------------------------------------------------------------- the store


def test_zarr_python_reads_the_same(source: Path, tmp_path: Path) -> None:
    tile(open_slide(source), tmp_path / "a.ome.zarr")
    store = open_slide(tmp_path / "a.ome.zarr")
    group = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="r")
    assert sorted(group.array_keys()) == [str(i) for i in range(len(store.levels))]
    for i in range(len(store.levels)):
        np.testing.assert_array_equal(np.moveaxis(np.asarray(group[str(i)][:]), 0, 2), whole(store, i))


def test_metadata_are_ngff_0_5(source: Path, tmp_path: Path) -> None:
    tile(open_slide(source), tmp_path / "a.ome.zarr")
    root = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    ome = root["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    assert multiscale["axes"] == [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    assert {"name", "type", "metadata"} <= set(multiscale)
    assert [channel["color"] for channel in ome["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]
    for dataset, downsample in zip(multiscale["datasets"], (1, 4, 8, 16), strict=True):
        scale, translation = dataset["coordinateTransformations"]
        assert scale == {"type": "scale", "scale": [1.0, 0.5 * downsample, 0.5 * downsample]}
        assert translation["translation"] == [0.0] + [0.5 * (downsample - 1) / 2] * 2  # pixel centres: half a pixel
        array = json.loads((tmp_path / "a.ome.zarr" / dataset["path"] / "zarr.json").read_text())
        assert array["dimension_names"] == ["c", "y", "x"]
        assert array["fill_value"] == 255
        assert array["codecs"][0]["name"] == "sharding_indexed"


def test_unknown_mpp_has_no_unit_and_stays_unknown(tmp_path: Path) -> None:
    source = write_svs(tmp_path / "s.svs", tissue_image(200, 150), mpp=None, levels=(1,), associated=False)
    record = tile(open_slide(source), tmp_path / "a.ome.zarr")
    assert record["mpp"] is None
    store = open_slide(tmp_path / "a.ome.zarr")
    assert store.mpp is None
    root = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())
    assert "unit" not in root["attributes"]["ome"]["multiscales"][0]["axes"][2]
    with pytest.raises(MissingMppError):
        tile(open_slide(source), tmp_path / "b.ome.zarr", mpp=1.0)


def test_mpp_override_keeps_its_origin_through_two_stores(source: Path, tmp_path: Path) -> None:
    tile(open_slide(source, mpp=0.33), tmp_path / "a.ome.zarr")
    tile(open_slide(tmp_path / "a.ome.zarr"), tmp_path / "b.ome.zarr")
    mpp = open_slide(tmp_path / "b.ome.zarr").mpp
    assert mpp is not None
    assert (mpp.value, mpp.source) == (0.33, "metadata:ome-zarr (option)")


def test_white_chunks_and_shards_are_not_stored(source: Path, tmp_path: Path) -> None:
    image = np.full((600, 900, 3), 255, dtype=np.uint8)
    image[300:320, 40:60] = (200, 100, 180)
    svs = write_svs(tmp_path / "s.svs", image, mpp=0.5, levels=(1,), tile=80, quality=100, associated=False)
    record = tile(open_slide(svs), tmp_path / "a.ome.zarr")
    level0 = [path for path in shard_files(tmp_path / "a.ome.zarr") if path.parts[-5] == "0"]
    assert len(level0) == 1
    assert (level0[0].parent.name, level0[0].name) == ("1", "0")
    assert level0[0].stat().st_size < 3 * 80 * 80 * 3
    assert record["shards"]["stored"] < record["shards"]["total"]
    store = open_slide(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(whole(store, 0), whole(open_slide(svs), 0))


def test_tissue_only_leaves_out_what_is_far_from_tissue(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(225, 240, (1024, 2048, 3)).astype(np.uint8)  # grey glass: nothing is white
    image[:, :500] = rng.integers((120, 40, 110), (200, 120, 190), (1024, 500, 3))
    svs = write_svs(tmp_path / "s.svs", image, mpp=2.0, levels=(1,), associated=False)
    slide = open_slide(svs)
    everything, near = tile(slide, tmp_path / "a.ome.zarr"), tile(slide, tmp_path / "t.ome.zarr", tissue_only=True)
    assert near["bytes"] < everything["bytes"] / 2
    store = open_slide(tmp_path / "t.ome.zarr")
    # 80 µm are 40 pixels: from the edge at 500 into the chunk that ends at 576
    np.testing.assert_array_equal(whole(store, 0)[:, :576], whole(slide, 0)[:, :576])
    assert (whole(store, 0)[:, 700:] == 255).all()


# ---------------------------------------------------------------- kills and resumption


@pytest.mark.parametrize("tasks", [0, 1, 17, 31])
def test_a_stopped_run_goes_on_and_computes_nothing_twice(source: Path, tmp_path: Path, tasks: int) -> None:
    slide = open_slide(source)
    reference = tile(slide, tmp_path / "ref.ome.zarr")
    out = tmp_path / "a.ome.zarr"
    with pytest.raises(KeyboardInterrupt):
        tile_slide(slide, out, executor=StopsAfter(1 + tasks))  # the first one plans
    assert len(shard_files(out)) >= tasks
    before = {path: path.stat().st_mtime_ns for path in shard_files(out)}
    events: list[Event] = []
    record = tile(slide, out, on_event=events.append)
    assert record["shards"]["computed"] == reference["shards"]["computed"] - len(before)
    after = {path: path.stat().st_mtime_ns for path in shard_files(out)}
    assert all(after[path] == time for path, time in before.items() if path in after)
    assert isinstance(events[0], Begun)
    assert events[0].done <= len(before)
    assert files(out) == files(tmp_path / "ref.ome.zarr")


def test_a_task_that_is_given_out_again_leaves_its_shard_alone(source: Path, tmp_path: Path) -> None:
    plan = plan_tiling(open_slide(source), tmp_path / "a.ome.zarr", TilingOptions())
    ((task,), *_) = plan.stages[0]
    first = tilingwork.write_shard(task)
    before = task.file.stat().st_mtime_ns
    again = tilingwork.write_shard(task)
    assert (first.computed, again.computed) == (True, False)
    assert first.bytes == again.bytes == task.file.stat().st_size
    assert task.file.stat().st_mtime_ns == before


def test_a_complete_store_is_left_alone(source: Path, tmp_path: Path) -> None:
    slide = open_slide(source)
    tile(slide, tmp_path / "a.ome.zarr")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a.ome.zarr").rglob("*")}
    events: list[Event] = []
    record = tile(slide, tmp_path / "a.ome.zarr", on_event=events.append)
    assert record["status"] == "unchanged"
    assert record["shards"]["computed"] == 0
    assert [type(event) for event in events] == [Unchanged]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a.ome.zarr").rglob("*")} == before


KILLED = """
import sys, time
from pathlib import Path
from wsiseg.convert import plan as tilingplan
from wsiseg.convert import shards as tilingwork
from wsiseg.run.schedule import SerialExecutor
from wsiseg.slide import open_slide
from wsiseg.slide.readers.omezarr.shards import ShardLayout
from wsiseg.convert.run import tile_slide
tilingplan.ShardLayout = lambda w, h, codec: ShardLayout(w, h, codec, chunk=64, shard=256)
tilingplan.SMALLEST_LEVEL_PX = 100
encode = tilingwork.encode_shard
def slow(*arguments):
    time.sleep(0.05)
    return encode(*arguments)
tilingwork.encode_shard = slow
tile_slide(open_slide(sys.argv[1]), Path(sys.argv[2]), executor=SerialExecutor())
"""


def test_kill_9_leaves_a_store_that_goes_on(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(source), str(out)])
    deadline = time.monotonic() + 60
    while len(shard_files(out)) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(shard_files(out))
    slide = open_slide(source)
    assert open_slide(out).read_lossy(Window(0, 0, WIDTH, HEIGHT), Scale(1.0))[1]  # what is not written is lost
    record = tile(slide, out)
    assert 5 <= done < record["shards"]["total"]
    assert record["shards"]["computed"] == record["shards"]["total"] - done
    tile(slide, tmp_path / "ref.ome.zarr")
    assert files(out) == files(tmp_path / "ref.ome.zarr")


def test_what_a_killed_task_left_is_removed_at_the_end(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    with pytest.raises(KeyboardInterrupt):
        tile_slide(open_slide(source), out, executor=StopsAfter(3))
    leftover = shard_files(out)[0].with_name(".9.12345.tmp")
    leftover.write_bytes(b"half a shard")
    tile(open_slide(source), out)
    assert not leftover.exists()
    assert not list(tmp_path.glob(".*.lock"))


def test_other_options_another_slide_or_strangers_are_refused(source: Path, tmp_path: Path) -> None:
    slide = open_slide(source)
    out = tmp_path / "a.ome.zarr"
    tile(slide, out)
    with pytest.raises(UsageError, match="other content or options"):
        tile(slide, out, codec="jpeg")
    other = write_svs(tmp_path / "o.svs", tissue_image(300, 200), mpp=0.5, levels=(1,), associated=False)
    with pytest.raises(UsageError, match=r"slide\.svs"):
        tile(open_slide(other), out)
    same_size = write_svs(
        tmp_path / "slide2.svs", tissue_image() ^ 1, mpp=0.5, levels=(1, 4), quality=95, associated=False
    )
    with pytest.raises(UsageError, match="other content"):
        tile(open_slide(same_size), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not written by wsiseg"):
        tile(slide, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_two_runs_on_one_store_are_refused(source: Path, tmp_path: Path) -> None:
    slide = open_slide(source)
    out = tmp_path / "a.ome.zarr"

    class Second(SerialExecutor):
        def submit(
            self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False
        ) -> Future[Any]:
            with pytest.raises(EnvironmentFault, match="another run"):
                tile(slide, out)
            return super().submit(name, function, argument, urgent)

    assert tile_slide(slide, out, executor=Second())["status"] == "complete"


def test_a_vanished_shard_stops_the_finish(source: Path, tmp_path: Path) -> None:
    plan = plan_tiling(open_slide(source), tmp_path / "a.ome.zarr", TilingOptions())
    tile(open_slide(source), plan.out)
    shard_files(plan.out)[0].unlink()
    with pytest.raises(EnvironmentFault, match="is gone"):
        finish_tiling(plan)


# ---------------------------------------------------------------- damage, executors, cohorts


def test_damage_of_the_source_is_lost_in_the_store_too(source: Path, tmp_path: Path) -> None:
    svs = tmp_path / "s.svs"
    shutil.copy(source, svs)
    corrupt_tile(svs, 1)
    slide = open_slide(svs)
    window = Window(0, 0, WIDTH, HEIGHT)
    pixels, lost = slide.read_lossy(window, Scale(1.0))
    assert len(lost) == 1
    record = tile(slide, tmp_path / "a.ome.zarr")
    assert record["lost"] == 1
    store = open_slide(tmp_path / "a.ome.zarr")
    again, lost_again = store.read_lossy(window, Scale(1.0))
    np.testing.assert_array_equal(again, pixels)
    assert [part.box for part in lost_again] == [part.box for part in lost]
    assert "damaged in the source" in lost_again[0].reason
    assert not lost_again[0].missing
    assert store.read_lossy(Window(0, 500, 200, 200), Scale(1.0))[1] == ()
    assert not list((tmp_path / "a.ome.zarr").rglob("*.json.*"))
    assert not list((tmp_path / "a.ome.zarr").rglob("*lost*"))


class PoolExecutor:
    """The executor's protocol over processes."""

    slots = 2
    window = 5

    def __init__(self, pool: concurrent.futures.Executor) -> None:
        self._pool = pool

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> Future[Any]:
        return self._pool.submit(function, argument)

    def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
        return concurrent.futures.wait(tasks, return_when=concurrent.futures.FIRST_COMPLETED).done

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        return map_bounded(self, function, tasks, name)


@pytest.mark.parametrize("pool", [concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor])
def test_any_executor_writes_the_same_bytes(source: Path, tmp_path: Path, pool: type) -> None:
    slide = open_slide(source)
    tile(slide, tmp_path / "a.ome.zarr")
    with pool(2) as workers:
        tile_slide(slide, tmp_path / "b.ome.zarr", executor=PoolExecutor(workers))
    assert files(tmp_path / "a.ome.zarr") == files(tmp_path / "b.ome.zarr")


def test_the_plan_and_its_tasks_travel(source: Path, tmp_path: Path) -> None:
    plan = plan_tiling(open_slide(source), tmp_path / "a.ome.zarr", TilingOptions())
    again = pickle.loads(pickle.dumps(plan))
    assert again.key == plan.key
    assert again.levels == plan.levels
    assert again.shards == plan.shards
    assert not (tmp_path / "a.ome.zarr").exists()
    # a stage depends on earlier ones only
    written: set[str] = set()
    for stage in plan.stages:
        for entry in stage:
            inside = set(written)
            for task in entry:
                assert task.finer is None or task.finer.path in inside
                inside.add(task.level.path)
        written |= {task.level.path for entry in stage for task in entry}
    assert written == {level.path for level in plan.levels}


class Elsewhere(SerialExecutor):
    """What tasks are given and give back travels; ``inside`` while one of them runs."""

    inside = False

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> Future[Any]:
        argument = pickle.loads(pickle.dumps(argument))

        def run(argument: Any) -> bytes:
            Elsewhere.inside = True
            try:
                return pickle.dumps(function(argument))
            finally:
                Elsewhere.inside = False

        return super().submit(name, lambda argument: pickle.loads(run(argument)), argument, urgent)


def test_slides_are_opened_and_shards_looked_at_in_tasks_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsiseg.slide import open as opening

    opened = []

    def watched(path: Path) -> Any:
        opened.append(Elsewhere.inside)
        return open_reader(path)

    open_reader = opening._open_reader
    monkeypatch.setattr(opening, "_open_reader", watched)
    monkeypatch.setattr(opening, "_readers", Held(4, 1 << 30, opening._held_bytes))
    monkeypatch.chdir(tmp_path)
    shutil.copy(source, "s.svs")
    (record,) = tile_slides([Path("s.svs")], Path("out"), TilingOptions(), Elsewhere())
    assert opened
    assert all(opened)
    tile(open_slide(source), tmp_path / "ref.ome.zarr")
    assert files(tmp_path / "out" / "s.ome.zarr") == {
        name: content.replace(b'"slide.svs"', b'"s.svs"')
        for name, content in files(tmp_path / "ref.ome.zarr").items()
    }
    assert Path(record["path"]).is_absolute()  # a worker may have another current folder
    assert record["shards"]["computed"] == record["shards"]["total"] > 20


def test_a_slide_that_changes_meanwhile_makes_no_complete_store(source: Path, tmp_path: Path) -> None:
    slide = tmp_path / "s.svs"
    shutil.copy(source, slide)

    class Replaced(SerialExecutor):
        def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> object:
            if name == "complete-store":  # as a sync of the archive may
                write_svs(slide, tissue_image()[::-1], mpp=0.5, levels=(1, 4), quality=95, associated=False)
            return super().submit(name, function, argument, urgent)

    (record,) = tile_slides([slide], tmp_path / "out", TilingOptions(), Replaced())
    assert record["status"] == "failed"
    assert "was changed while it was copied" in record["error"]["message"]
    group = json.loads((tmp_path / "out" / "s.ome.zarr" / "zarr.json").read_text())
    assert group["attributes"]["wsiseg"]["complete"] is False


def test_too_coarse_is_refused_before_it_costs(source: Path, tmp_path: Path) -> None:
    # two levels, the coarser at 2 µm: 32 pixels of 384 µm are the largest square that is read at once
    with pytest.raises(UsageError, match="Give at most 384"):
        tile(open_slide(source), tmp_path / "a.ome.zarr", mpp=400)
    assert tile(open_slide(source), tmp_path / "b.ome.zarr", mpp=384)["levels"] == [[2, 2, False]]


def test_the_key_does_not_depend_on_path_or_version(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other name.svs"
    shutil.copy(source, copy)
    plans = [plan_tiling(open_slide(path), tmp_path / "a.ome.zarr", TilingOptions()) for path in (source, copy)]
    assert plans[0].key == plans[1].key
    assert len({plan_tiling(open_slide(source), tmp_path, options).key for options in _OPTIONS}) == len(_OPTIONS)


_OPTIONS = [TilingOptions(), TilingOptions(codec="jpeg"), TilingOptions(mpp=1.0), TilingOptions(tissue_only=True)]


def test_a_cohort_survives_a_slide_that_fails(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"not a slide")
    events: list[Event] = []
    records = tile_slides([broken, source], tmp_path / "out", TilingOptions(), SerialExecutor(), events.append)
    assert [record["status"] for record in records] == ["failed", "complete"]
    assert records[0]["error"]["kind"] == "SlideError"
    assert (tmp_path / "out" / "slide.ome.zarr" / "zarr.json").exists()
    assert not (tmp_path / "out" / "broken.ome.zarr").exists()
    with pytest.raises(UsageError, match="finer than"):  # alone: the request's fault, not the slide's
        tile_slides([source], tmp_path / "out", TilingOptions(mpp=0.1), SerialExecutor())
    two = tile_slides([source, broken], tmp_path / "fine", TilingOptions(mpp=0.1), SerialExecutor())
    assert [record["status"] for record in two] == ["failed", "failed"]
    (override,) = tile_slides([source], tmp_path / "o.zarr", TilingOptions(), SerialExecutor(), mpp=0.4)
    assert override["mpp"] == 0.4
    with pytest.raises(UsageError, match="one store for 2 slides"):
        tile_slides([broken, source], tmp_path / "one.zarr", TilingOptions(), SerialExecutor())


def test_a_full_disk_is_a_fault_of_the_environment(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise EnvironmentFault(f"cannot write {path}: the disk is full")

    slide = open_slide(source)
    with monkeypatch.context() as patch:
        patch.setattr(tilingwork, "write_bytes", full)
        with pytest.raises(EnvironmentFault, match="disk is full"):
            tile(slide, tmp_path / "a.ome.zarr")
    assert tile(slide, tmp_path / "a.ome.zarr")["status"] == "complete"


def test_no_chunk_of_tissue_makes_an_empty_store(tmp_path: Path) -> None:
    white = np.full((300, 400, 3), 255, dtype=np.uint8)
    svs = write_svs(tmp_path / "s.svs", white, mpp=0.5, levels=(1,), quality=100, associated=False)
    for name, options in (("a", {}), ("t", {"tissue_only": True})):
        record = tile(open_slide(svs), tmp_path / f"{name}.ome.zarr", **options)
        assert record["bytes"] == 0
        assert (whole(open_slide(tmp_path / f"{name}.ome.zarr"), 0) == 255).all()


def test_plan_covers_every_pixel_once() -> None:
    level = tilingwork.PlannedLevel("0", ShardLayout(1301, 1037, "zstd", 64, 256), 1.0, Scale(1.0), 1.0, False)
    count = np.zeros((1037, 1301), dtype=int)
    for row, column in level.layout.shards():
        window = level.layout.window(row, column)
        for block in tilingwork._blocks(window, 3.3, None, level.layout):
            count[block.y : block.y1, block.x : block.x1] += 1
    assert (count == 1).all()
    assert dataclasses.replace(level, path="1").layout == level.layout
    assert Box(0, 0, 1301, 1037).area == count.sum()
