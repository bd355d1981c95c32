"""What may happen to a cluster during a run, with real processes: workers that die, schedulers that go, signals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import torch

import wsiseg.run.steps as steps
from wsiseg.errors import EnvironmentFault
from wsiseg.evaluate import match_polygons
from wsiseg.models.base import ModelCard
from wsiseg.models.networks import build_network
from wsiseg.models.weightfile import save_weights
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.partfile import BatchSummary
from wsiseg.results.record import Tiles
from wsiseg.run.cluster import ClusterOptions, DaskExecutor, open_executor, patience
from wsiseg.run.cluster import executor as executing
from wsiseg.run.events import Begun, Event, StageStarted, TilesDone
from wsiseg.run.outcome import CohortResult
from wsiseg.run.pipeline import segment_slides
from wsiseg.run.schedule import SerialExecutor, Stage, Steps, run_stages
from wsiseg.testing import Truth, write_slide
from wsiseg.testing.runs import nothing_temporary, same_results
from wsiseg.tiles.batch import BatchJob
from wsiseg.tiles.request import SegmentOptions
from wsiseg.tiles.work import segment_batch

pytestmark = pytest.mark.slow

WSISEG = [sys.executable, "-m", "wsiseg_cli", "segment", "-m", "classical", "--tile", "512", "--device", "cpu"]
LETHAL_TILE = 4
TILE = 256  # of 512 pixels of the slide


def run_on(executor: Any, slides: list[Path], out: Path, watch: Any = lambda event: None) -> CohortResult:
    return segment_slides(slides, out, SegmentOptions("classical", TILE), executor, watch)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of nine tiles, with touching nuclei on their edges."""
    path = tmp_path_factory.mktemp("small") / "small.svs"
    write_slide(path, width=1536, height=1536, layout="seams", seam_px=512, seed=3)
    return path


@pytest.fixture(scope="module")
def clean(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its results."""
    out = tmp_path_factory.mktemp("clean")
    run_on(SerialExecutor(), [small], out)
    return out / "small"


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    """Two workers that may die."""
    few, options = {"distributed.scheduler.allowed-failures": 1}, ClusterOptions(None, 2, "cpu", "127.0.0.1:0")
    with dask.config.set(few), open_executor(options) as opened:
        yield opened


def pids(executor: DaskExecutor) -> list[int]:
    return list(executor._client.run(os.getpid).values())


# workers


def test_a_killed_worker_changes_nothing(executor: Any, small: Path, clean: Path, tmp_path: Path) -> None:
    stages: list[type[Event]] = []

    def kill(event: Event) -> None:
        if isinstance(event, Begun) or (isinstance(event, StageStarted) and event.stage == "grade-patches"):
            stages.append(type(event))
            os.kill(pids(executor)[0], signal.SIGKILL)

    result = run_on(executor, [small], tmp_path, kill)
    assert len(stages) == 2
    assert result.exit_code == 0
    same_results(clean, tmp_path / "small")
    assert nothing_temporary(tmp_path)


def lethal_batch(job: BatchJob) -> BatchSummary:
    """Dies of one tile, as of a segmentation fault in a library."""
    if LETHAL_TILE in job.tiles and not job.lost:
        os.kill(os.getpid(), signal.SIGSEGV)
    return segment_batch(job)


def test_a_tile_that_kills_its_worker_costs_that_tile_alone(
    executor: Any,
    small: Path,
    clean: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(steps, "segment_batch", lethal_batch)
    events: list[Event] = []
    result = run_on(executor, [small], tmp_path, events.append)
    (record,) = result.records
    assert result.exit_code == 3
    assert record.status == "partial"
    assert record.tiles == Tiles(total=9, done=8, blank=0, failed=1)
    assert record.lost.boxes == ((512, 512, 1024, 1024, "its worker process died every time"),)
    assert [event.done for event in events if isinstance(event, TilesDone)][-1] == 9
    whole, found = read_nuclei(clean / "nuclei.parquet"), read_nuclei(tmp_path / "small" / "nuclei.parquet")
    b = whole.bounds()
    away = whole.take((b[:, 2] < 462) | (b[:, 0] > 1074) | (b[:, 3] < 462) | (b[:, 1] > 1074))
    assert match_polygons(away, found, iou=0.999).recall == 1.0
    x, y = found.centroids().T
    assert not ((x > 562) & (x < 974) & (y > 562) & (y < 974)).any()
    assert "Traceback" not in capfd.readouterr().err
    # Asked for explicitly, the lost tile is tried again.
    monkeypatch.setattr(steps, "segment_batch", segment_batch)
    options = SegmentOptions("classical", TILE, retry_partial=True)
    assert segment_slides([small], tmp_path, options, executor).exit_code == 0
    same_results(clean, tmp_path / "small")


def hungry(marker: str) -> str:
    """Takes more memory than a worker has the first time."""
    path = Path(marker)
    if path.exists():
        return "fed"
    path.touch()
    hoard = []
    for _ in range(60):
        hoard.append(np.ones(8_000_000))  # 64 MB
        time.sleep(0.05)
    return "survived"


def test_a_worker_over_its_memory_is_restarted_and_its_task_tried_again(tmp_path: Path) -> None:
    def steps() -> Steps:
        return (yield Stage("hungry", hungry, [str(tmp_path / "marker")]))

    options = ClusterOptions(workers=1, device="cpu", dashboard="127.0.0.1:0", memory_limit="1GiB")
    with open_executor(options) as executor:
        before = pids(executor)  # type: ignore[arg-type]
        assert list(run_stages(executor, iter([steps()]))) == [(0, ["fed"])]
        assert pids(executor) != before  # type: ignore[arg-type]


def test_a_restart_after_a_while_of_results_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as results come nobody looks whether there are workers; an hour of them is none without workers."""
    clock = SimpleNamespace(ahead=0.0, sleep=time.sleep)
    clock.monotonic = lambda: time.monotonic() + clock.ahead
    monkeypatch.setattr(executing, "time", clock)
    monkeypatch.setattr(patience, "POLL_S", 0.05)
    with open_executor(ClusterOptions(workers=1, device="cpu", dashboard="127.0.0.1:0")) as executor:
        numbers = executor.map_bounded(abs, range(-20, 0), "abs")
        found = [next(numbers) for _ in range(10)]
        clock.ahead = 3600.0
        os.kill(pids(executor)[0], signal.SIGKILL)  # type: ignore[arg-type]
        assert sorted([*found, *numbers]) == list(range(1, 21))


def test_a_worker_that_is_slow_to_come_back_is_not_given_up() -> None:
    """Dask's cluster closes the nanny of a worker that is not back in 15 s, as on a busy machine."""
    given_up_at_once = {"distributed.deploy.lost-worker-timeout": "100 ms"}
    options = ClusterOptions(workers=1, device="cpu", dashboard="127.0.0.1:0")
    with dask.config.set(given_up_at_once), open_executor(options) as executor:
        os.kill(pids(executor)[0], signal.SIGKILL)  # type: ignore[arg-type]
        time.sleep(1.0)
        assert executor._client.cluster.workers  # type: ignore[attr-defined]
        assert sorted(executor.map_bounded(abs, range(-4, 0), "abs")) == [1, 2, 3, 4]


def test_living_workers_see_weights_that_were_overwritten(executor: Any, tmp_path: Path) -> None:
    slide, weights, digests = tmp_path / "s.svs", tmp_path / "m.safetensors", []
    write_slide(slide, width=512, height=512, layout="dense", seed=4)
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = build_network("unet", {"widths": [4, 8, 8]}).state_dict()
        save_weights(weights, state, ModelCard("tiny", "random", "CC0-1.0"), {"widths": [4, 8, 8]}, {})
        digests.append(hashlib.sha256(weights.read_bytes()).hexdigest())
        options = SegmentOptions(str(weights), 512)
        (record,) = segment_slides([slide], tmp_path / str(seed), options, executor).records
        assert record.status == "complete"
        assert record.settings.model.weights_sha256 == digests[-1]
    assert digests[0] != digests[1]


# clusters of others


@contextlib.contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    file = folder / "scheduler.json"
    words = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    with process(sys.executable, "-m", "dask", *words) as started:
        until = time.monotonic() + 60
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < until
            time.sleep(0.1)
        yield started, json.loads(file.read_text())["address"]


def workers(address: str) -> Any:
    words = ("worker", address, "--host", "127.0.0.1", "--nworkers", "2", "--nthreads", "1", "--no-dashboard")
    return process(sys.executable, "-m", "dask", *words)


THREADS = "__import__('torch').get_num_threads()"  # the workers of others cannot import this module


def test_a_joined_cluster_gives_the_same_and_its_end_is_an_error(
    small: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "NO_WORKERS_S", 3.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # the tests' own setting is not to reach the workers
    with scheduler(tmp_path) as (started, address):
        with pytest.raises(EnvironmentFault, match="no worker"), open_executor(ClusterOptions(scheduler=address)):
            pass
        monkeypatch.setattr(patience, "NO_WORKERS_S", 60.0)
        with workers(address) as fleet, open_executor(ClusterOptions(scheduler=address)) as executor:
            until = time.monotonic() + 30
            while len(pids(executor)) < 2 and time.monotonic() < until:  # type: ignore[arg-type]
                time.sleep(0.2)
            result = segment_slides([small], tmp_path / "out", SegmentOptions("classical", TILE), executor)
            assert result.exit_code == 0
            same_results(clean, tmp_path / "out" / "small")
            assert list(executor.map_bounded(eval, [THREADS] * 4, "threads")) == [1] * 4

            # All workers go for good.
            monkeypatch.setattr(patience, "NO_WORKERS_S", 3.0)
            os.killpg(fleet.pid, signal.SIGKILL)
            began = time.monotonic()
            with pytest.raises(EnvironmentFault, match=r"no worker.*the same command"):
                run_on(executor, [small], tmp_path / "no workers")
            assert time.monotonic() - began < 20

            # The scheduler goes while tasks wait for it.
            monkeypatch.setattr(patience, "NO_WORKERS_S", 60.0)
            began = time.monotonic()
            os.killpg(started.pid, signal.SIGKILL)
            for _ in range(2):
                with pytest.raises(EnvironmentFault, match=r"scheduler was lost.*the same command"):
                    list(executor.map_bounded(time.sleep, [100] * 4, "waiting"))
            assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("address", "expected"), [("tcp://127.0.0.1:9", "no Dask scheduler"), ("nonsense", "tcp://host")]
)
def test_a_scheduler_that_is_not_there(address: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "CONNECT_S", 1.0)
    with pytest.raises(EnvironmentFault, match=expected), open_executor(ClusterOptions(scheduler=address)):
        pass


# processes


def start(*words: object, limit: int | None = None) -> subprocess.Popen[str]:
    command = [*WSISEG, *map(str, words)]
    if limit is not None:
        command = ["prlimit", f"--nofile={limit}:{limit}", *command]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A test run that was started in the background passes on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def session(leader: int) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(one.pid) == leader and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["workers start", "dashboard", r"\d+ tiles"])
def test_a_signal_to_a_run_on_a_cluster(
    drawn: tuple[Path, Truth], tmp_path: Path, number: signal.Signals, when: str
) -> None:
    """As a terminal sends Ctrl-C to the whole group, and a batch system its SIGTERM to the first process."""
    running = start(drawn[0], "-o", tmp_path / "out", "-w", 2, "--dashboard-address", "127.0.0.1:0")
    assert running.stderr is not None
    seen = ""
    if when == "workers start":
        while len(session(running.pid)) < 3 and running.poll() is None:
            time.sleep(0.02)
    else:
        for line in running.stderr:
            seen += line
            if re.search(when, line):
                break
    stopped = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(running.pid, number)
    else:
        os.kill(running.pid, number)
    _, rest = running.communicate(timeout=30)
    assert time.monotonic() - stopped < 10
    assert running.returncode == 128 + number
    lines = [line for line in (seen + rest).splitlines() if line]
    assert "Traceback" not in rest, rest
    assert lines[-2] == "stopped; nothing finished is lost. To go on:"
    assert "segment -m classical" in lines[-1]
    assert all(re.match(r"dashboard: |drawn: |stopped|  ", line) for line in lines), lines
    until = time.monotonic() + 5
    while session(running.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert session(running.pid) == []


def test_few_file_handles_suffice(small: Path, clean: Path, tmp_path: Path) -> None:
    slides = [tmp_path / f"{n}.svs" for n in range(3)]
    for path in slides:
        shutil.copy(small, path)
    with start(*slides, "-o", tmp_path / "out", "-w", 2, "--tile", TILE, limit=256) as running:
        _, message = running.communicate(timeout=300)
    assert running.returncode == 0, message
    assert "Traceback" not in message
    whole = read_nuclei(clean / "nuclei.parquet")
    for path in slides:
        found = read_nuclei(tmp_path / "out" / path.stem / "nuclei.parquet")
        assert np.array_equal(found.vertices, whole.vertices)


def test_two_runs_at_once_share_the_machine_in_silence(tmp_path: Path) -> None:
    slide = tmp_path / "s.svs"
    write_slide(slide, width=1024, height=1024, layout="dense", seed=4)
    address = f"127.0.0.1:{_free_port()}"
    both = [start(slide, "-o", tmp_path / name, "-w", 1, "--dashboard-address", address) for name in "ab"]
    messages = [running.communicate(timeout=200)[1] for running in both]
    assert [running.returncode for running in both] == [0, 0], messages
    same_results(tmp_path / "a" / "s", tmp_path / "b" / "s")
    ports = [re.findall(r"dashboard: http://127.0.0.1:(\d+)/status", message)[0] for message in messages]
    assert ports[0] != ports[1]
    for message in messages:
        assert all(re.match(r"dashboard: |s: |\[1/1\] s: ", line) for line in message.splitlines()), message


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_kills_at_any_moment_and_a_resumption(
    drawn: tuple[Path, Truth], drawn_results: Path, tmp_path: Path
) -> None:
    choice, out = random.Random(7), tmp_path / "out"
    for _ in range(5):
        running = start(drawn[0], "-o", out, "-w", 0)
        time.sleep(choice.uniform(2.0, 7.0))
        running.kill()
        running.communicate()
        for folder in out.glob("*/"):
            assert folder.name == ".work" or (folder / "slide.json").is_file()
    with start(drawn[0], "-o", out, "-w", 0) as running:
        running.communicate(timeout=120)
    assert running.returncode == 0
    same_results(drawn_results / "drawn", out / "drawn")
    assert nothing_temporary(out)
