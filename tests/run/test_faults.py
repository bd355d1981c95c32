"""What may happen to a run and what must come of it: names, disks, slides that change, signals, our own errors.

In this process, without Dask; :mod:`test_faults_cluster` has the faults of clusters.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from wsiseg_cli.group import cli
from wsiseg_cli.main import main
from zarr.storage import LocalStore

import wsiseg.run.pipeline as pipeline
import wsiseg.run.steps as steps
import wsiseg.tiles.work as segment
from wsiseg.core.atomic import read_json, write_json
from wsiseg.errors import EnvironmentFault
from wsiseg.evaluate import match_polygons
from wsiseg.models.engine.engine import Engine
from wsiseg.models.registry import DEFAULT_MODEL
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.results.folder import assign_ids, output_lock
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.record import Tiles
from wsiseg.run.schedule import SerialExecutor, Stage, Steps, run_stages
from wsiseg.testing import runs, write_slide
from wsiseg.testing.runs import CLASSICAL, nothing_temporary, same_results

Command = Callable[..., tuple[int, str]]
SIDE = 640
TILE = 160  # at half the slide's resolution: two by two
run = functools.partial(runs.run, tile=TILE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of four tiles."""
    path = tmp_path_factory.mktemp("small") / "small.svs"
    write_slide(path, width=SIDE, height=SIDE, layout="dense", seed=4)
    return path


@pytest.fixture(scope="module")
def clean(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its results."""
    out = tmp_path_factory.mktemp("clean")
    assert run([small], out)[0].exit_code == 0
    return out / "small"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another slide of the same size."""
    path = tmp_path_factory.mktemp("other") / "other.svs"
    write_slide(path, width=SIDE, height=SIDE, layout="dense", seed=9)
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """``wsiseg segment …`` in this process: (exit code, standard error)."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> tuple[int, str]:
        words = ["wsiseg", "segment", "-m", "classical", "--tile", str(TILE), "-w", "0", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err

    yield call
    signal.signal(signal.SIGTERM, handler)


def brief(message: str) -> bool:
    return "Traceback" not in message and len(message.strip().splitlines()[-3:]) <= 3


# names


def test_no_name_is_too_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "plain.svs"
    write_slide(plain, width=256, height=256, layout="dense", seed=1)
    names = [
        b"with space.svs",
        b"new\nline.svs",
        b"<img src=x onerror=alert(1)>.svs",
        b"-o.svs",
        b"n" * 251 + b".svs",
        unicodedata.normalize("NFC", "é.svs").encode(),
        unicodedata.normalize("NFD", "é.svs").encode(),
        b"bytes \xff\xfe.svs",
        b"\x1b[31mred.svs",
        b"report.html.svs",
        b"..svs",
        b"one/same.svs",
        b"two/same.svs",
        b"one/../two/../one/Same.SVS",
    ]
    slides = os.path.join(os.fsencode(tmp_path), b"slides")
    for name in names:
        path = os.path.join(slides, name)
        os.makedirs(os.path.dirname(os.path.normpath(path)), exist_ok=True)
        shutil.copy(plain, os.path.normpath(path))
    words = [sys.executable, "-m", "wsiseg_cli", "segment", "-m", "classical", "-w", "0", "-o", "../out", "--"]
    done = subprocess.run([*words, *names], cwd=slides, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert b"\x1b" not in done.stderr
    out = tmp_path / "out"
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*/slide.json"))]
    assert len(records) == len(names)
    for record in records:
        assert re.fullmatch(r"[\w][\w.\-]*", record["id"])
        assert len(record["id"].encode()) < 100
        assert record["status"] == "complete"
    paths = {os.fsencode(record["slide"]["path"]) for record in records}
    assert paths == {os.path.normpath(os.path.join(slides, name)) for name in names}
    monkeypatch.chdir(slides)
    again = CliRunner().invoke(cli, [*words[3:], *map(os.fsdecode, names)])
    assert "0 tiles in" in again.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "plain.svs", "slides"]
    assert (out / "report.html").is_file()
    assert "<img src=x onerror" not in (out / "report.html").read_text()
    assert len(pq.read_table(out / "cohort.parquet")) == len(names)
    assert nothing_temporary(out)


def test_a_slide_keeps_its_id_when_a_namesake_joins(small: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "s.svs", tmp_path / "b" / "s.svs"
    for path in (first, second):
        path.parent.mkdir()
        shutil.copy(small, path)
    out = tmp_path / "out"
    assert run([first], out)[0].records[0].id == "s"
    result, _ = run([first, second], out)
    assert [record.id == "s" for record in result.records] == [True, False]
    assert result.tiles_computed == 4
    assert list(assign_ids([second, first], out).values()) == [result.records[1].id, "s"]


# the output


@pytest.mark.parametrize("place", ["/proc/wsiseg", "/sys/wsiseg", "slide.svs/x", "x" * 300])
def test_an_output_that_cannot_be_made(small: Path, tmp_path: Path, command: Command, place: str) -> None:
    (tmp_path / "slide.svs").write_bytes(b"")
    code, message = command(small, "-o", tmp_path / place)
    assert code == 5
    assert "choose" in message
    assert brief(message)


@pytest.mark.parametrize("cause", [errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_disk_that_refuses(
    small: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, cause: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(cause, os.strerror(cause))

    monkeypatch.setattr("wsiseg.core.atomic.os.fsync", refuse)
    code, message = command(small, "-o", tmp_path)
    assert code == 5
    assert str(tmp_path) in message
    assert brief(message)


def _full_for(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """No space for files whose path has ``point`` in it, whoever writes them."""

    def guard(module: Any, name: str, path: Callable[..., object]) -> None:
        original = getattr(module, name)

        def write(*arguments: Any, **more: Any) -> Any:
            if point in str(path(*arguments)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **more)

        monkeypatch.setattr(module, name, write)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if point == "rows":
        monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    guard(LocalStore, "set", lambda zarr, key, *_: zarr.root / key)
    guard(os, "replace", lambda _, final: final)


POINTS = [
    "plan.json",
    ".arrow",
    "rows",
    "nuclei/0/c/",
    "grading.json",
    "patches.json",
    "patches.parquet",
    "slide.json",
    "report.html",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_ends_the_run_and_the_same_command_resumes(
    small: Path, clean: Path, tmp_path: Path, command: Command, point: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _full_for(patch, point)
        code, message = command(small, "-o", tmp_path)
    assert code == 5, message
    assert "disk is full" in message
    assert "the same command resumes" in message
    assert brief(message)
    assert (tmp_path / "small").exists() == (point == "report.html")
    assert command(small, "-o", tmp_path)[0] == 0
    same_results(clean, tmp_path / "small")
    assert nothing_temporary(tmp_path)


def test_a_second_run_on_the_same_output_is_refused(small: Path, tmp_path: Path, command: Command) -> None:
    with output_lock(tmp_path):
        code, message = command(small, "-o", tmp_path)
    assert code == 5
    assert "another run" in message
    assert brief(message)


def test_what_a_killed_process_left_is_not_published(small: Path, clean: Path, tmp_path: Path) -> None:
    class Killed(SerialExecutor):
        def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> object:
            if name == "grade-patches":
                raise KeyboardInterrupt
            return super().submit(name, function, argument, urgent)

    with pytest.raises(KeyboardInterrupt):
        run([small], tmp_path, Killed())
    (result,) = tmp_path.glob(".work/*/*/result")
    (result / ".nuclei.parquet.123.tmp").write_bytes(b"half")
    (result / "maps.zarr" / "zarr.123.partial").write_bytes(b"half")
    (tmp_path / ".report.html.123.tmp").write_bytes(b"half")
    assert run([small], tmp_path)[0].exit_code == 0
    same_results(clean, tmp_path / "small")
    assert nothing_temporary(tmp_path)


def test_a_failed_slide_appears_with_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, seen = tmp_path / "bad.svs", []
    bad.write_bytes(b"not a slide")
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda old, new: (seen.append(sorted(os.listdir(old))), rename(old, new)))
    run([bad], tmp_path / "out")
    assert seen == [["slide.json"]]
    assert nothing_temporary(tmp_path / "out")


# the slide


class Meddler(SerialExecutor):
    """Does something to the world before one of the tasks."""

    def __init__(self, task: str, action: Callable[[], object]) -> None:
        super().__init__()
        self.task, self.action = task, action

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> object:
        if name == self.task:
            self.action()
        return super().submit(name, function, argument, urgent)


@pytest.mark.parametrize("task", ["segment-batch", "stitch-slide", "publish-slide"])
@pytest.mark.parametrize("how", ["replaced", "overwritten", "deleted"])
def test_a_slide_that_changes_during_the_run_fails(
    small: Path, other: Path, clean: Path, tmp_path: Path, task: str, how: str
) -> None:
    slide, out = tmp_path / "small.svs", tmp_path / "out"
    shutil.copy(small, slide)

    def meddle() -> None:
        if how == "overwritten":
            slide.write_bytes(other.read_bytes())
        else:
            slide.unlink()
        if how == "replaced":
            shutil.copy(other, slide)

    result, _ = run([slide], out, Meddler(task, meddle))
    assert result.exit_code == 4
    message = result.records[0].error.message
    assert str(slide) in message
    assert ("changed during the run" in message) == (how != "deleted"), message
    assert json.loads((out / "small" / "slide.json").read_text())["status"] == "failed"
    shutil.copy(small, slide)
    assert run([slide], out)[0].exit_code == 0
    _same_but_for_the_path(clean, out / "small")
    assert nothing_temporary(out)


def _same_but_for_the_path(first: Path, second: Path) -> None:
    for name in ("nuclei.parquet", "patches.parquet", "thumbnail.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_slide_overwritten_while_its_tiles_are_computed(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has it open, reads both, and must commit neither."""
    slide = tmp_path / "s.svs"
    shutil.copy(small, slide)
    compute, calls = segment._segment_tile, []

    def overwrite(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            slide.write_bytes(slide.read_bytes() + b"\0")
        return compute(*arguments)

    monkeypatch.setattr(segment, "_segment_tile", overwrite)
    result, _ = run([slide], tmp_path / "out")
    assert "changed during the run" in result.records[0].error.message
    assert not list((tmp_path / "out").rglob("*.arrow"))


# tiles and models


class Broken:
    """A segmenter that fails on some calls."""

    def __init__(self, inner: Any, fails: Callable[[int], bool], error: BaseException) -> None:
        self.inner, self.fails, self.error, self.calls = inner, fails, error, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def segment(self, images: Any, calibration: Any) -> Any:
        self.calls += 1
        if self.fails(self.calls):
            raise self.error
        return self.inner.segment(images, calibration)


def _break(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool], error: BaseException) -> None:
    broken = Broken(resident_segmenter(ModelChoice(CLASSICAL, "cpu")), fails, error)
    monkeypatch.setattr(segment, "resident_segmenter", lambda choice, planned: broken)


@pytest.mark.parametrize("error", [ValueError("decoder"), MemoryError("no memory"), IndexError(3)])
def test_an_error_in_a_tile_costs_that_tile_alone(
    small: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _break(monkeypatch, lambda call: call == 2, error)
    result, _ = run([small], tmp_path)
    (record,) = result.records
    assert result.exit_code == 3
    assert record.status == "partial"
    assert record.tiles == Tiles(total=4, done=3, blank=0, failed=1)
    ((x0, y0, x1, y1, reason),) = record.lost.boxes
    assert (x0, y0, x1, y1) == (SIDE / 2, 0, SIDE, SIDE / 2)
    assert type(error).__name__ in reason
    whole, found = read_nuclei(clean / "nuclei.parquet"), read_nuclei(tmp_path / "small" / "nuclei.parquet")
    x, y = whole.centroids().T
    expected = whole.take((x < x0) | (y >= y1))
    match = match_polygons(expected, found, iou=0.99)
    assert match.recall > 0.99  # those at the lost tile's seam may have had their better half there
    away = expected.take((expected.bounds()[:, 2] < x0 - 50) | (expected.bounds()[:, 1] > y1 + 50))
    assert match_polygons(away, found, iou=0.999).recall == 1.0


def test_a_networks_output_that_is_no_number_costs_its_tile(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Engine._forward, []

    def faulty(self: Any, images: Any) -> Any:
        calls.append(1)
        backend = self._backend
        try:
            if len(calls) == 2:
                self._backend = lambda some: backend(some) * np.nan
            return forward(self, images)
        finally:
            self._backend = backend

    monkeypatch.setattr(Engine, "_forward", faulty)
    options = pipeline.SegmentOptions(DEFAULT_MODEL, TILE)
    result = pipeline.segment_slides([small], tmp_path, options, SerialExecutor())
    (record,) = result.records
    assert (record.status, record.tiles.failed) == ("partial", 1)
    assert "not finite" in record.lost.boxes[0][4]


def test_a_slide_of_which_every_tile_fails_has_failed(
    small: Path, clean: Path, tmp_path: Path, command: Command
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _break(patch, lambda call: True, ValueError("decoder"))
        code, message = command(small, "-o", tmp_path)
    assert code == 4
    assert "none of its 4 tiles" in message
    assert "ValueError: decoder" in message
    assert nothing_temporary(tmp_path)
    assert command(small, "-o", tmp_path)[0] == 0
    same_results(clean, tmp_path / "small")


def test_file_handles_that_run_out_are_no_tiles_fault(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    _break(monkeypatch, lambda call: call == 2, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    code, message = command(small, "-o", tmp_path)
    assert code == 5
    assert "ulimit -n" in message


def test_a_fault_of_the_program_costs_its_slide_alone(
    small: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    other = tmp_path / "other.svs"
    shutil.copy(small, other)
    stitch = steps.stitch_row

    def faulty(job: Any) -> Any:
        if "other" in str(job.work.path):
            raise ZeroDivisionError("a bug")
        return stitch(job)

    monkeypatch.setattr(steps, "stitch_row", faulty)
    code, message = command(other, small, "-o", tmp_path / "out")
    assert code == 3
    assert "other: FAILED: ZeroDivisionError: a bug" in message
    assert "Traceback" not in message
    same_results(clean, tmp_path / "out" / "small")


# signals, and how the process ends

STAGES = ["wsiseg.run.cluster.open_executor", "wsiseg.run.pipeline.run_stages", "wsiseg.run.pipeline.write_reports"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_says_how_to_go_on(
    small: Path, clean: Path, tmp_path: Path, command: Command, number: int, code: int, stage: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)

    # A process that was started in the background may have been told to ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage, interrupted)
            got, message = command(small, "-o", tmp_path / "out folder")
    finally:
        signal.signal(signal.SIGINT, before)
    assert got == code
    assert f"wsiseg segment -m classical --tile {TILE} -w 0 {small} -o '{tmp_path}/out folder'" in message
    assert brief(message)
    assert command(small, "-o", tmp_path / "out folder")[0] == 0
    same_results(clean, tmp_path / "out folder" / "small")


def test_an_internal_error_is_one_without_a_traceback(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("bug \x1b[31m")

    monkeypatch.setattr(pipeline, "write_reports", bug)
    code, message = command(small, "-o", tmp_path)
    assert code == 1
    assert "internal error: RuntimeError: bug \\x1b[31m" in message
    assert "--debug" in message
    assert brief(message)


# the schedule


def test_a_fault_of_the_environment_is_raised_at_once() -> None:
    done: list[int] = []

    def work(n: int) -> None:
        if n == 1:
            raise EnvironmentFault("full")
        done.append(n)

    def steps() -> Steps:
        yield Stage("tile", work, [0, 1, 2, 3, 4])

    with pytest.raises(EnvironmentFault):
        dict(run_stages(SerialExecutor(), iter([steps(), steps()])))
    assert done == [0]


class Waiting(SerialExecutor):
    """Runs a task when it is waited for, as late as a cluster may."""

    slots, window = 4, 9

    def __init__(self) -> None:
        super().__init__()
        self.queue: dict[Future[Any], tuple[str, Callable[[Any], Any], Any]] = {}
        self.most = 0

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> Future[Any]:
        task: Future[Any] = Future()
        self.queue[task] = (name, function, argument)
        self.most = max(self.most, len(self.queue))
        return task

    def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
        task = next(task for task in self.queue if task in tasks)
        task.set_result(super().submit(*self.queue.pop(task)).result())
        return {task}


def test_suspects_run_while_nothing_else_does() -> None:
    class Watching(Waiting):
        alone = 0

        def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
            suspects = [argument for _, _, argument in self.queue.values() if argument < 0]
            assert not suspects or len(self.queue) == 1
            self.alone += len(suspects)
            return super().wait(tasks)

    def steps(numbers: list[int]) -> Steps:
        return (yield Stage("tile", abs, numbers, alone=lambda n: n < 0))

    executor = Watching()
    ended = dict(run_stages(executor, iter([steps([1, 2, -3, 4, -5, 6]), steps([7, 8]), steps([-9])])))
    assert [sorted(found) for _, found in sorted(ended.items())] == [[1, 2, 3, 4, 5, 6], [7, 8], [9]]
    assert executor.alone == 3


def test_a_cohort_keeps_a_bounded_number_of_tasks(small: Path, tmp_path: Path) -> None:
    slides = [tmp_path / f"{n}.svs" for n in range(10)]
    write_slide(slides[0], width=256, height=256, layout="dense", seed=1)
    for path in slides[1:]:
        shutil.copy(slides[0], path)
    executor = Waiting()
    assert run(slides, tmp_path / "out", executor)[0].exit_code == 0
    assert 2 <= executor.most <= executor.window


def test_a_record_may_hold_bytes_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.svs")
    write_json(tmp_path / "a.json", {"name": name, "plain": "é"})
    assert read_json(tmp_path / "a.json") == {"name": name, "plain": "é"}
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")
