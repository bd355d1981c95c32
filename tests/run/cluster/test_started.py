"""Clusters that other libraries start: what these are told."""

from __future__ import annotations

import inspect
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import distributed
import pytest

from wsiseg.errors import EnvironmentFault, UsageError
from wsiseg.run.cluster import ClusterOptions, devices, open_executor
from wsiseg.run.cluster.started import _library, host_options, pod_options

LIBRARIES = {
    "slurm": ("dask_jobqueue", "jobqueue"),
    "kubernetes": ("dask_kubernetes.operator", "kubernetes"),
    "ssh": ("asyncssh", "ssh"),
    "cuda": ("dask_cuda", "cuda"),
}


def started(cluster: str, profile: Path | None = None, workers: int | None = None) -> Any:
    return open_executor(ClusterOptions(workers=workers, cluster=cluster, profile=profile, dashboard="127.0.0.1:0"))


@pytest.mark.parametrize("cluster", list(LIBRARIES))
def test_a_library_that_is_not_installed_is_named(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, extra = LIBRARIES[cluster]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentFault, match=rf"pip install 'wsiseg\[{extra}\]'"), started(cluster):
        pass


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ClusterOptions(cluster="cloud"), "expected one of local, cuda, slurm"),
        (ClusterOptions(cluster="slurm", scheduler="tcp://a:1"), "one of them"),
        (ClusterOptions(cluster="slurm", workers=0), "needs one"),
        (ClusterOptions(profile=Path("wsiseg.toml")), "no profile"),
    ],
)
def test_options_that_contradict_each_other(options: ClusterOptions, expected: str) -> None:
    with pytest.raises(UsageError, match=expected), open_executor(options):
        pass


class Recorded:
    """Stands in for a cluster of a library: a local one that notes what it was told."""

    def __init__(self, *, processes: bool) -> None:
        self.processes = processes

    told: dict[str, Any]
    scaled: dict[str, Any] | None

    def __call__(self, **told: Any) -> Any:
        self.told, self.scaled = told, None
        loop = told["loop"]
        cluster = distributed.LocalCluster(
            1, threads_per_worker=1, processes=self.processes, dashboard_address="127.0.0.1:0", loop=loop
        )
        cluster.adapt = lambda **scaled: setattr(self, "scaled", scaled)
        return cluster


def test_kubernetes_gets_pods_of_one_thread_in_an_image_with_wsiseg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, module = Recorded(processes=False), ModuleType("dask_kubernetes.operator")
    module.KubeCluster = recorded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", module)
    path = tmp_path / "wsiseg.toml"
    path.write_text(
        "[cluster.kubernetes]\nminimum = 2\nmaximum = 20\n[cluster.kubernetes.options]\n"
        'name = "nuclei"\nimage = "registry/wsiseg:1"\nresources = { limits = { memory = "4G" } }\n'
    )
    with started("kubernetes", path) as executor:
        assert executor.window == 41
        assert list(executor.map_bounded(abs, range(-3, 0), "abs"))
    assert recorded.told["n_workers"] == 2
    assert recorded.scaled == {"minimum": 2, "maximum": 20}
    assert recorded.told["image"] == "registry/wsiseg:1"
    assert recorded.told["env"]["OMP_NUM_THREADS"] == "1"
    assert recorded.told["resources"] == {"limits": {"memory": "4G"}}
    with started("kubernetes", path, workers=3):
        pass
    assert recorded.told["n_workers"] == 3
    assert recorded.scaled is None


def test_the_real_cluster_of_pods_takes_what_it_is_told() -> None:
    library = pytest.importorskip("dask_kubernetes.operator", exc_type=ImportError)
    told = pod_options({"name": "nuclei", "image": "registry/wsiseg:1"})
    inspect.signature(library.KubeCluster).bind(**told, n_workers=2, quiet=True, loop=None)
    spec = library.make_cluster_spec(
        name="nuclei", image=told["image"], env=told["env"], worker_command=told["worker_command"], n_workers=2
    )
    (container,) = spec["spec"]["worker"]["spec"]["containers"]
    assert container["image"] == "registry/wsiseg:1"
    assert container["args"][:4] == ["dask", "worker", "--nthreads", "1"]
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in container["env"]


def test_pods_without_wsiseg_are_refused() -> None:
    with pytest.raises(UsageError, match="no image"):
        pod_options({"name": "nuclei"})
    assert pod_options({"custom_cluster_spec": "cluster.yaml"}) == {"custom_cluster_spec": "cluster.yaml"}
    env = pod_options({"image": "i", "env": [{"name": "A", "value": "1"}]})["env"]
    assert {"name": "A", "value": "1"} in env
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in env


def test_hosts_over_ssh_get_a_scheduler_that_encrypts() -> None:
    given = {"hosts": ["a", "a", "b"], "worker_options": {"nthreads": 2, "n_workers": 4}}
    told = host_options(given, "127.0.0.1:8787", "auto", tls=True)
    assert told["scheduler_options"] == {"dashboard_address": "127.0.0.1:8787", "protocol": "tls://"}
    assert told["worker_options"]["nthreads"] == 2
    assert told["worker_options"]["dashboard_address"] == "127.0.0.1:0"
    inspect.signature(distributed.SSHCluster).bind(**told)
    assert "protocol" not in host_options(given, ":0", "auto", tls=False)["scheduler_options"]
    with pytest.raises(UsageError, match=r"expected the scheduler's host.*node1"):
        host_options({"hosts": ["a"]}, ":0", "auto", tls=True)


def test_dask_cudas_cluster_has_a_process_a_device_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, module = Recorded(processes=True), ModuleType("dask_cuda")
    module.LocalCUDACluster = recorded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    monkeypatch.setattr(devices, "cuda_devices", lambda: 2)
    with started("cuda"):
        pass
    assert recorded.told["host"] == "127.0.0.1"
    assert recorded.told["dashboard_address"] == "127.0.0.1:0"
    assert recorded.told["threads_per_worker"] >= 2


def test_dask_cudas_real_cluster_takes_what_it_is_told() -> None:
    library = pytest.importorskip("dask_cuda", exc_type=ImportError)
    names = inspect.signature(library.LocalCUDACluster).parameters
    assert {"n_workers", "threads_per_worker", "memory_limit", "device_memory_limit"} <= set(names)


def test_a_library_that_takes_ctrl_c_when_it_is_imported_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taker.py").write_text("import signal\nsignal.signal(signal.SIGINT, lambda *_: None)\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    _library("taker", "taker", "taker")
    assert signal.getsignal(signal.SIGINT) is before
