"""Workers that join, leave and die, and schedulers that fall silent, during runs of stub tiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import pytest
from distributed.chaos import KillWorker

from wsiseg.errors import ClusterLost
from wsiseg.run.cluster import ClusterOptions, DaskExecutor, attended, open_executor, patience
from wsiseg.run.cluster.attended import Attended
from wsiseg.run.isolation import isolated
from wsiseg.run.schedule import Steps, run_stages


@dataclass(frozen=True)
class StubTile:
    number: int
    alone: bool = False

    def retries(self) -> tuple[StubTile, ...]:
        return (replace(self, alone=True),)


def nuclei_of(tile: StubTile) -> tuple[int, int]:
    """A tile's number and so many nuclei."""
    time.sleep(0.03)
    return tile.number, tile.number * 7919 % 101


def run_stub_tiles(executor: Any, tiles: int) -> list[tuple[int, int]]:
    def steps() -> Steps:
        return (yield isolated("stub-tile", nuclei_of, [StubTile(number) for number in range(tiles)]))

    ((_, found),) = run_stages(executor, iter([steps()]))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graceful", "segfault", "sys.exit"])
def test_workers_that_die_at_random_change_nothing(mode: Any) -> None:
    """And they come back: ``sys.exit`` in a worker takes its nanny along."""
    with open_executor(ClusterOptions(workers=2, device="cpu", dashboard="127.0.0.1:0")) as executor:
        client = executor._client  # type: ignore[attr-defined]
        before = set(client.run(os.getpid).values())
        # Of an exponential distribution, longer than a worker takes to import what its first task needs.
        client.register_plugin(KillWorker(delay="6 s", mode=mode))
        for _ in range(8):  # until one has died: in a fourteenth of the rounds none does
            assert run_stub_tiles(executor, 500) == [(n, n * 7919 % 101) for n in range(500)]
            client.wait_for_workers(1)
            if set(client.run(os.getpid).values()) != before:
                return
        raise AssertionError("no worker has died")


@pytest.mark.slow
def test_workers_that_join_and_leave_widen_and_narrow_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "COUNT_S", 0.1)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        open_executor(ClusterOptions(scheduler=cluster.scheduler_address)) as executor,
    ):
        assert executor.window == 3
        cluster.scale(2)
        cluster.wait_for_workers(2)
        seen = {executor.window for _ in executor.map_bounded(time.sleep, [0.05] * 40, "nap")}
        assert executor.window == 5
        assert seen <= {3, 5}
        cluster.scale(1)  # it leaves in order: what it was given goes to the other
        assert len(list(executor.map_bounded(time.sleep, [0.05] * 60, "nap"))) == 60
        assert executor.window == 3


def test_a_worker_that_joins_and_is_not_like_the_others_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterLost, match=r"has wsiseg .*this is 0\.0\.0.*the same command"):
        Attended(abs, "cpu", version="0.0.0")(-1)
    monkeypatch.setattr(attended, "_has_cuda", lambda: False)
    with pytest.raises(ClusterLost, match="no CUDA device"):
        Attended(abs, "cuda")(-1)
    assert Attended(abs, "cpu")(-1) == 1
    assert Attended(abs, version="0.0.0")(-1) == 1  # of a cluster of our own


def test_a_worker_without_wsiseg_ends_the_run() -> None:
    async def gather(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'wsiseg'", name="wsiseg")

    import asyncio
    import concurrent.futures

    client: Any = SimpleNamespace(loop=None, status="running", gather=gather)
    task: concurrent.futures.Future[Any] = concurrent.futures.Future()
    remote: Any = SimpleNamespace(status="error")
    asyncio.run(DaskExecutor(client, 1, "cpu")._fulfil(remote, task))
    with pytest.raises(ClusterLost, match="cannot import wsiseg"):
        task.result()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A scheduler with one worker, in processes of their own; its file."""
    file = tmp_path / "scheduler.json"
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    dask = [sys.executable, "-m", "dask"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    started = [subprocess.Popen([*dask, "scheduler", *words], **quiet)]
    try:
        until = time.monotonic() + 60
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < until
            time.sleep(0.1)
        worker = [
            "worker",
            "--scheduler-file",
            str(file),
            "--host",
            "127.0.0.1",
            "--nthreads",
            "1",
            "--no-dashboard",
        ]
        started.append(subprocess.Popen([*dask, *worker], **quiet))
        yield started[0], file
    finally:
        for one in started:
            os.killpg(one.pid, signal.SIGKILL)
            one.wait()


@pytest.mark.slow
def test_a_scheduler_that_falls_silent_is_lost_within_a_minute(
    scheduler: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, file = scheduler
    with open_executor(ClusterOptions(scheduler_file=file)) as executor:
        assert list(executor.map_bounded(abs, [-1], "abs")) == [1]
        os.kill(process.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(ClusterLost, match="scheduler was lost"):
            list(executor.map_bounded(time.sleep, [100], "waiting"))
        assert time.monotonic() - began < 60
