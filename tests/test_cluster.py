"""Local clusters: how they are set up, and what of them a user sees."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import wsiseg.cluster as cluster
from wsiseg.cluster import ClusterOptions, open_executor
from wsiseg.errors import EnvironmentFault


def surroundings(_argument: int) -> dict[str, Any]:
    import threading

    time.sleep(0.2)
    names = ("CUDA_VISIBLE_DEVICES", "MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")
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


def test_each_cuda_device_gets_a_process_of_its_own_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set-up alone: no device is touched."""
    monkeypatch.setattr(cluster, "cuda_devices", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with open_executor(ClusterOptions(device="cuda", dashboard="127.0.0.1:0")) as executor:
        assert executor.device == "cuda"
        assert executor.slots >= 4
        found = list(executor.map_bounded(surroundings, range(16), "look"))
    by_device = {place["CUDA_VISIBLE_DEVICES"]: place["pid"] for place in found}
    assert set(by_device) == {"0", "1"}
    assert len(set(by_device.values())) == 2
    assert len({place["thread"] for place in found}) > 2


def test_cuda_that_is_not_there_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "cuda_devices", lambda: 0)
    with pytest.raises(EnvironmentFault, match="--device cpu"), open_executor(ClusterOptions(device="cuda")):
        pass


def test_no_workers_means_no_dask() -> None:
    with open_executor(ClusterOptions(workers=0, device="cpu")) as executor:
        assert (executor.slots, executor.dashboard) == (1, None)
        assert list(executor.map_bounded(lambda n: n + 1, [1, 2], "add")) == [2, 3]
