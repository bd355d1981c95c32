"""Local clusters: how they are set up, and what of them a user sees."""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import pytest
import yaml

from wsiseg.errors import EnvironmentFault, UsageError
from wsiseg.run.cluster import ClusterOptions, DaskExecutor, devices, local, open_executor, patience
from wsiseg.run.cluster import executor as executing


def surroundings(_argument: int) -> dict[str, Any]:
    import threading

    time.sleep(0.2)
    names = ("CUDA_VISIBLE_DEVICES", "MALLOC_TRIM_THRESHOLD_", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
    return {**{name: os.environ.get(name) for name in names}, "pid": os.getpid(), "thread": threading.get_ident()}


def test_cpu_workers_are_processes_of_one_thread_on_loopback(tmp_path: Path) -> None:
    report = tmp_path / "performance.html"
    options = ClusterOptions(workers=2, device="cpu", dashboard="127.0.0.1:0", performance_report=report)
    with open_executor(options) as executor:
        assert (executor.slots, executor.device, executor.torch_threads) == (2, "cpu", 1)
        assert executor.dashboard is not None
        assert executor.dashboard.startswith("http://127.0.0.1:")
        found = list(executor.map_bounded(surroundings, range(8), "look"))
    assert len({place["pid"] for place in found} - {os.getpid()}) == 2
    # Dask's own setting gives memory back after every tile, at the cost of most of the throughput.
    assert {place["MALLOC_TRIM_THRESHOLD_"] for place in found} == {str(4 << 30)}
    assert {place["OMP_NUM_THREADS"] for place in found} == {"1"}
    assert "look" in report.read_text()


def test_a_cluster_that_was_there_before_leaves_nothing_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's nanny sets its defaults for good, and takes what is set already for the user's."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", dask_default("MALLOC_TRIM_THRESHOLD_"))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with open_executor(ClusterOptions(workers=1, device="cpu", dashboard="127.0.0.1:0")) as executor:
        (found,) = executor.map_bounded(surroundings, [0], "look")
    assert found["MALLOC_TRIM_THRESHOLD_"] == str(4 << 30)
    assert found["NUMBA_NUM_THREADS"] == "3"  # what the user says goes before
    assert dict(os.environ) == before


def dask_default(name: str) -> str:
    shipped = yaml.safe_load((Path(distributed.__file__).parent / "distributed.yaml").read_text())
    return str(shipped["distributed"]["nanny"]["pre-spawn-environ"][name])


def kept_profiles(_: int) -> int | None:
    maxlen: int | None = distributed.get_worker().profile_history.maxlen
    return maxlen


def test_a_worker_keeps_few_profiles_of_itself() -> None:
    """Dask's default, one of each second without an end that a run sees, grows by .24 MiB a second."""
    with open_executor(ClusterOptions(workers=1, device="cpu", dashboard="127.0.0.1:0")) as executor:
        assert list(executor.map_bounded(kept_profiles, [0], "look")) == [100]


def test_processes_of_one_thread_share_the_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set-up alone: no device is touched."""
    monkeypatch.setattr(devices, "cuda_devices", lambda: 2)
    monkeypatch.setattr(devices, "cuda_memory", lambda: (80 << 30, 80 << 30))
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, MIG-5c1f")
    with open_executor(ClusterOptions(device="cuda", dashboard="127.0.0.1:0")) as executor:
        assert (executor.slots, executor.device, executor.torch_threads) == (3, "cuda", 1)
        found = list(executor.map_bounded(surroundings, range(24), "look"))
    processes = {place["pid"]: place["CUDA_VISIBLE_DEVICES"] for place in found}
    assert sorted(processes.values()) == ["3", "3", "MIG-5c1f"]
    assert len({place["thread"] for place in found}) <= len(processes)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "cores", "workers", "expected"),
    [
        ((80 * GIB,), 16, None, "a" * 16),
        ((8 * GIB,), 16, None, "aa"),
        ((1 * GIB,), 16, None, "a"),
        ((80 * GIB, 80 * GIB), 5, None, "ababa"),
        ((8 * GIB, 80 * GIB), 7, None, "ababbbb"),
        ((80 * GIB,) * 4, 2, None, "abcd"),
        ((80 * GIB,) * 4, 16, 2, "ab"),
        ((8 * GIB,), 16, 5, "aaaaa"),
    ],
)
def test_devices_are_dealt_round(memory: tuple[int, ...], cores: int, workers: int | None, expected: str) -> None:
    """One process a core, of each device as many as it has memory for, and at least one."""
    assert "".join(devices.dealt_devices("abcd"[: len(memory)], memory, cores, workers)) == expected


@pytest.mark.parametrize(
    ("device", "workers", "expected"),
    [("cpu", None, 3), ("cpu", 0, 1), ("cpu", 7, 7), ("cuda", None, 2), ("cuda", 5, 5)],
)
def test_as_many_processes_are_foretold_as_a_cluster_starts(
    monkeypatch: pytest.MonkeyPatch, device: str, workers: int | None, expected: int
) -> None:
    monkeypatch.setattr(devices, "cuda_memory", lambda: (8 * GIB,))
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    assert devices.local_workers(device, workers) == expected


def test_devices_behind_an_invalid_one_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA shows none from the first name on that it does not know."""
    monkeypatch.setattr(devices, "cuda_devices", lambda: 1)
    monkeypatch.setattr(devices, "cuda_memory", lambda: (80 << 30,))
    monkeypatch.setattr(devices, "available_cores", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1,0")
    with open_executor(ClusterOptions(device="cuda", dashboard="127.0.0.1:0")) as executor:
        found = list(executor.map_bounded(surroundings, range(4), "look"))
    assert {place["CUDA_VISIBLE_DEVICES"] for place in found} == {"1"}


def test_cuda_that_is_not_there_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: 0)
    with pytest.raises(EnvironmentFault, match="--device cpu"), open_executor(ClusterOptions(device="cuda")):
        pass


def test_no_workers_means_no_dask() -> None:
    with open_executor(ClusterOptions(workers=0, device="cpu")) as executor:
        assert (executor.slots, executor.dashboard) == (1, None)
        assert list(executor.map_bounded(lambda n: n + 1, [1, 2], "add")) == [2, 3]


# addresses


@pytest.fixture
def silent() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def web() -> Iterator[str]:
    """A server of another kind."""

    class Page(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def babbling() -> Iterator[str]:
    """Sends what Dask takes for the length of a message beyond any memory."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=greet, daemon=True).start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", ["silent", "web", "babbling"])
def test_what_answers_as_no_scheduler_does_is_refused(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "CONNECT_S", 1.0)
    address = request.getfixturevalue(kind)
    with (
        pytest.raises(EnvironmentFault, match=f"no Dask scheduler answers at '{address}'.*tcp://host:8786"),
        open_executor(ClusterOptions(scheduler=address)),
    ):
        pass


@pytest.mark.parametrize(
    "address",
    ["", "nonsense", "tcp://", "tcp://nohost.invalid:8786", "tcp://127.0.0.1:99999", "tcp://127.0.0.1:x",
     "http://127.0.0.1:1", "tls://127.0.0.1:1", "inproc://1/2/3"],
)  # fmt: skip
def test_addresses_that_are_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "CONNECT_S", 0.5)
    with (
        pytest.raises(EnvironmentFault, match="no Dask scheduler answers at"),
        open_executor(ClusterOptions(scheduler=address)),
    ):
        pass


def test_a_scheduler_file_names_the_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being started writes it a little later."""
    path = tmp_path / "scheduler.json"
    content = json.dumps({"type": "Scheduler", "address": "tcp://127.0.0.1:9", "workers": {}})
    monkeypatch.setattr(patience, "CONNECT_S", 2.0)
    writing = threading.Timer(0.5, lambda: path.write_text(content))
    writing.start()
    with (
        pytest.raises(EnvironmentFault, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"),
        open_executor(ClusterOptions(scheduler_file=path)),
    ):
        pass
    writing.join()
    both = ClusterOptions(scheduler="tcp://127.0.0.1:9", scheduler_file=path)
    with pytest.raises(UsageError, match="one of them"), open_executor(both):
        pass


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"address": 3}', "[" * 100_000, "\udcff"])
def test_scheduler_files_without_an_address(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "CONNECT_S", 0.1)
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_text(content, errors="surrogateescape")
    with (
        pytest.raises(EnvironmentFault, match=r"scheduler\.json: has no address.*--scheduler-file"),
        open_executor(ClusterOptions(scheduler_file=path)),
    ):
        pass


def test_a_scheduler_file_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UsageError, match="no file"), open_executor(ClusterOptions(scheduler_file=path)):
            pass


@pytest.mark.parametrize(
    ("given", "taken"),
    [("127.0.0.1:8787", "127.0.0.1:8787"), (":0", "127.0.0.1:0"), ("8787", "127.0.0.1:8787"),
     ("localhost:1", "localhost:1"), ("127.3.2.1:1", "127.3.2.1:1"), ("[::1]:5", "[::1]:5")],
)  # fmt: skip
def test_the_dashboard_listens_on_this_machine(given: str, taken: str) -> None:
    assert local.loopback(given) == taken


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:8787", "[::]:8787", "::8787", "192.0.2.7:1", "somewhere:1", "*:1", "0:8787", "127.0.0.1.example:1",
     "[::ffff:192.0.2.7]:1"],
)  # fmt: skip
def test_a_dashboard_beyond_this_machine_is_refused_with_the_tunnel(address: str) -> None:
    with (
        pytest.raises(UsageError, match="ssh -L"),
        open_executor(ClusterOptions(workers=1, device="cpu", dashboard=address)),
    ):
        pass


@pytest.mark.parametrize("address", ["", "nonsense", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999", "[::1]:-1"])
def test_a_dashboards_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="expected host:port"):
        local.loopback(address)


# a cluster without workers


class Scheduler:
    """What is asked of a client while no task ends; ``workers`` are those that there are."""

    status = "running"
    loop = None

    def __init__(self) -> None:
        self.workers = 1
        self.scheduler = SimpleNamespace(ncores=None)

    def sync(self, *_: Any, **__: Any) -> dict[str, int]:
        return {str(n): 1 for n in range(self.workers)}


def test_only_a_minute_without_workers_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(executing, "time", SimpleNamespace(monotonic=lambda: clock.now))
    client: Any = Scheduler()
    executor = DaskExecutor(client, 1, "cpu")
    clock.now = 1000.0  # of results, between which nobody asked
    client.workers = 0
    executor._check_cluster()
    clock.now += 59
    executor._check_cluster()
    client.workers = 1
    executor._check_cluster()
    clock.now += 1000
    client.workers = 0
    executor._check_cluster()
    clock.now += 61
    with pytest.raises(EnvironmentFault, match=r"no worker for 60 s.*the same command"):
        executor._check_cluster()


@pytest.mark.parametrize("given_up", [concurrent.futures.CancelledError, asyncio.CancelledError, OSError])
def test_a_task_that_dask_gave_up_is_a_fault_of_the_cluster(given_up: type[BaseException]) -> None:
    async def gather(*_: Any, **__: Any) -> None:
        raise given_up("scheduler-connection-lost")

    client: Any = SimpleNamespace(loop=None, status="running", gather=gather)
    task: concurrent.futures.Future[Any] = concurrent.futures.Future()
    remote: Any = SimpleNamespace(status="cancelled")
    asyncio.run(DaskExecutor(client, 1, "cpu")._fulfil(remote, task))
    with pytest.raises(EnvironmentFault, match="scheduler was lost"):
        task.result()


@pytest.mark.parametrize("limit", ["-1GiB", "1B", "nan", "abc", ""])
def test_a_memory_limit_that_none_can_work_in_is_refused(limit: str) -> None:
    with pytest.raises(UsageError, match="expected a size"), open_executor(ClusterOptions(memory_limit=limit)):
        pass


@pytest.mark.parametrize("limit", ["auto", "0", "1GiB", "512 MB"])
def test_memory_limits_as_dask_writes_them(limit: str) -> None:
    local.require_memory_limit(limit)


CLOSES = """
import subprocess, sys, time
from types import SimpleNamespace
import wsiseg.run.cluster.local as local

child = subprocess.Popen(["sleep", "60"])
gone = subprocess.Popen(["true"])
gone.wait()
nannies = [SimpleNamespace(pid=pid) for pid in (None, gone.pid, child.pid)]
slow = SimpleNamespace(workers=dict(enumerate(nannies)), close=lambda timeout: time.sleep(2 * local._GRACE_S))
local.close(slow)
print(child.wait(30))
"""


def test_a_cluster_that_closes_slowly_costs_its_living_workers_alone() -> None:
    """In a process of its own: a dead worker's nanny has no pid, which psutil would take for this process."""
    done = subprocess.run([sys.executable, "-c", CLOSES], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "-9\n", "")
