"""Clusters that are started by other libraries: batch systems, Kubernetes, SSH, dask-cuda."""

from __future__ import annotations

import contextlib
import importlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dask
import distributed

from wsiseg.errors import EnvironmentFault, UsageError
from wsiseg.run.cluster import devices, local
from wsiseg.run.cluster.batch import CLASSES, job_options, replace_ended, scale_jobs
from wsiseg.run.cluster.devices import resolve_device, threads_per_device
from wsiseg.run.cluster.encryption import encrypted
from wsiseg.run.cluster.local import loopback, require_memory_limit, whole
from wsiseg.run.cluster.logs import log_level
from wsiseg.run.cluster.options import ClusterOptions
from wsiseg.run.cluster.profile import Profile, seconds
from wsiseg.run.cluster.settings import WORKER_ENVIRONMENT

_CLOSE_S = 30.0
"""For how long jobs and pods are taken back at the end."""
_DASK_IMAGE = "ghcr.io/dask/dask"


@dataclass(frozen=True)
class StartedCluster:
    """A cluster that was started for a run.

    Attributes
    ----------
    cluster : distributed.deploy.Cluster
    most : int
        Worker processes that it may grow to; 0 where it stays as it is.
    patience_s : float
        For how long it may be without workers.
    """

    cluster: Any
    most: int
    patience_s: float


def start_cluster(
    options: ClusterOptions, profile: Profile, loop: Any, stack: contextlib.ExitStack
) -> StartedCluster:
    """The cluster that ``options.cluster`` names, set up as the profile and Dask's configuration say.

    It is closed with ``stack``.

    Raises
    ------
    UsageError
        The profile asks for what the library does not know, or lacks what it needs.
    EnvironmentFault
        The library is not installed, or the cluster cannot be started.
    """
    kind = options.cluster
    start, patience = _STARTERS[kind]
    try:
        started = start(options, profile, loop, stack)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--cluster {kind}: {_one_line(error)}. It is set up by [cluster.{kind}.options] in wsiseg.toml or by "
            "Dask's configuration: see docs/cluster.md."
        ) from error
    except (ImportError, OSError, RuntimeError, TimeoutError) as error:
        raise EnvironmentFault(f"--cluster {kind}: cannot be started: {_one_line(error)}.") from error
    given = seconds(profile.patience, "patience")
    return StartedCluster(started[0], started[1], given or patience)


def _batch(options: ClusterOptions, profile: Profile, loop: Any, stack: contextlib.ExitStack) -> tuple[Any, int]:
    library = _library("dask_jobqueue", "dask-jobqueue", "jobqueue")
    told = job_options(options.cluster, profile, loopback(options.dashboard))
    security = encrypted(profile.shared, stack) if profile.tls else None
    make = getattr(library, CLASSES[options.cluster])
    cluster = whole(lambda: make(**told, security=security, loop=loop, silence_logs=log_level()), _close)
    stack.callback(_close, cluster)
    stack.callback(replace_ended(cluster, loop).stop)
    return cluster, scale_jobs(cluster, told["processes"], profile, options.workers)


def _kubernetes(
    options: ClusterOptions, profile: Profile, loop: Any, stack: contextlib.ExitStack
) -> tuple[Any, int]:
    """A cluster by the Dask operator. Its listeners are services inside of Kubernetes (ClusterIP)."""
    library = _library("dask_kubernetes.operator", "dask-kubernetes", "kubernetes")
    told = pod_options(profile.options)
    least, most = (options.workers, options.workers) if options.workers else (profile.minimum, profile.maximum)
    cluster = whole(lambda: library.KubeCluster(**told, n_workers=least, quiet=True, loop=loop), _close)
    stack.callback(_close, cluster)
    if least < most:
        cluster.adapt(minimum=least, maximum=most)
    return cluster, most


def pod_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What dask-kubernetes is told: pods of one worker of one thread, in whose image wsiseg is.

    Raises
    ------
    UsageError
        No image is named: Dask's own has no wsiseg.
    """
    if given.get("custom_cluster_spec") or dask.config.get("kubernetes.custom-cluster-spec", None):
        return dict(given)
    image = given.get("image") or dask.config.get("kubernetes.image", _DASK_IMAGE)
    if str(image).startswith(_DASK_IMAGE):
        raise UsageError(
            "--cluster kubernetes: no image is named. Expected `image` in [cluster.kubernetes.options]: one with "
            "this version of wsiseg, as the Containerfile builds it."
        )
    env = given.get("env") or dask.config.get("kubernetes.env", None) or {}
    if isinstance(env, Mapping):
        env = {**WORKER_ENVIRONMENT, **env}
    else:
        env = [*({"name": name, "value": value} for name, value in WORKER_ENVIRONMENT.items()), *env]
    command = given.get("worker_command") or ["dask", "worker", "--nthreads", "1"]
    return {**given, "image": image, "env": env, "worker_command": command}


def _ssh(options: ClusterOptions, profile: Profile, loop: Any, stack: contextlib.ExitStack) -> tuple[Any, int]:
    _library("asyncssh", "asyncssh", "ssh")
    told = host_options(profile.options, loopback(options.dashboard), options.memory_limit, profile.tls)
    security = encrypted(profile.shared, stack) if profile.tls else None
    cluster = whole(lambda: distributed.SSHCluster(**told, security=security, loop=loop), _close)
    stack.callback(_close, cluster)
    return cluster, 0


def host_options(given: Mapping[str, Any], dashboard: str, memory_limit: str, tls: bool) -> dict[str, Any]:
    """What ``distributed.SSHCluster`` is told: the first host has the scheduler, workers have one thread.

    Raises
    ------
    UsageError
        No hosts are named.
    """
    hosts = given.get("hosts")
    if not isinstance(hosts, list) or len(hosts) < 2:
        raise UsageError(
            f"--cluster ssh: hosts = {hosts!r} in [cluster.ssh.options]; expected the scheduler's host and then "
            'one or more for workers, such as ["node1", "node1", "node2"].'
        )
    scheduler = {**given.get("scheduler_options", {}), "dashboard_address": dashboard}
    if tls:
        scheduler["protocol"] = "tls://"
    worker = {
        "nthreads": 1,
        "memory_limit": memory_limit,
        "dashboard_address": "127.0.0.1:0",
        **given.get("worker_options", {}),
    }
    return {**given, "scheduler_options": scheduler, "worker_options": worker}


def _cuda(options: ClusterOptions, profile: Profile, loop: Any, stack: contextlib.ExitStack) -> tuple[Any, int]:
    """dask-cuda's cluster: a process a device, on the cores that are near it."""
    library = _library("dask_cuda", "dask-cuda", "cuda")
    resolve_device("cuda")
    require_memory_limit(options.memory_limit)
    there = devices.cuda_devices()
    told = {
        "n_workers": options.workers,
        "threads_per_worker": threads_per_device(min(options.workers or there, there)),
        "memory_limit": options.memory_limit,
        "device_memory_limit": 0,  # results are small and on the host: nothing to spill
        **profile.options,
        "host": "127.0.0.1",
        "dashboard_address": loopback(options.dashboard),
    }
    cluster = whole(lambda: library.LocalCUDACluster(**told, silence_logs=log_level(), loop=loop), local.close)
    stack.callback(local.close, cluster)
    return cluster, 0


_Start = Callable[[ClusterOptions, Profile, Any, contextlib.ExitStack], tuple[Any, int]]
_DAY_S = 86_400.0
_STARTERS: dict[str, tuple[_Start, float]] = {
    **dict.fromkeys(CLASSES, (_batch, _DAY_S)),
    "kubernetes": (_kubernetes, 600.0),
    "ssh": (_ssh, 60.0),
    "cuda": (_cuda, 60.0),
}
"""How each cluster is started, and for how long it may be without workers: a job may queue for hours."""


def _library(module: str, package: str, extra: str) -> Any:
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentFault(
            f"this cluster is started by {package}, which cannot be imported here ({_one_line(error)}): "
            f"pip install 'wsiseg[{extra}]'"
        ) from error
    finally:
        # dask-jobqueue takes Ctrl-C for itself when it is imported: a run would end without a word on how to go on.
        if signal.getsignal(signal.SIGINT) is not interrupt:
            signal.signal(signal.SIGINT, interrupt)


def _close(cluster: Any) -> None:
    """Take back what was asked for; what is being computed is lost, and computed again by the next run."""
    with contextlib.suppress(Exception):
        cluster.close(timeout=_CLOSE_S)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:500] or type(error).__name__
