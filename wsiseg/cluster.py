"""Clusters and the executor that runs tasks on them: the only module that imports ``distributed``."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
import distributed
import psutil
from dask.system import CPU_COUNT
from distributed.comm import get_address_host_port
from distributed.utils import LoopRunner

from wsiseg import __version__
from wsiseg.errors import EnvironmentFault, UsageError, WorkerDied
from wsiseg.schedule import Executor, SerialExecutor, map_bounded

# What Dask's defaults cost here (docs/design.md, "Dask"): its nanny makes malloc give memory back after every
# tile, which the network's activations then fault in again page by page. Keeping it is worth two thirds more
# throughput; what a worker holds stays bounded by its largest tile.
_WORKER_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
_CONFIG = {
    "distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT,
    "distributed.worker.daemon": True,
    # A finished task's record is of no further use to anybody; the default keeps 100,000 of them.
    "distributed.admin.low-level-log-length": 1000,
}
_POLL_S = 2.0
"""How often the cluster is looked at while no task ends."""
_NO_WORKERS_S = 60.0
"""For how long a cluster may be without workers; one that restarts is back within seconds."""
_CONNECT_S = 15.0
"""For how long a scheduler is waited for at the start."""
_ANSWER_S = 30.0
"""For how long a scheduler may be silent."""
_GRACE_S = 0.5
"""For how long workers may finish what they do when the run has ended or is stopped."""
_LOST = "the Dask scheduler was lost. What is finished is kept: the same command goes on from there."


@dataclass(frozen=True)
class ClusterOptions:
    """How to run.

    Attributes
    ----------
    scheduler : str or None
        Address of a running scheduler to join (``tcp://host:port``); None starts a cluster on this machine.
    workers : int or None
        Worker processes of the local cluster; None: one a CUDA device if there is one, else one a core; 0: none,
        the tasks run in this process.
    device : {"auto", "cpu", "cuda"}
        What the workers compute on.
    dashboard : str
        ``host:port`` of the local cluster's dashboard; port 0 takes any free one.
    memory_limit : str
        Per worker, as Dask writes it ("auto", "8GiB"); a worker above it is restarted.
    performance_report : Path or None
        Where to write Dask's performance report (HTML).
    """

    scheduler: str | None = None
    workers: int | None = None
    device: str = "auto"
    dashboard: str = "127.0.0.1:8787"
    memory_limit: str = "auto"
    performance_report: Path | None = None


class DaskExecutor:
    """Submits tasks to a cluster and hands back results as they end."""

    def __init__(self, client: distributed.Client, slots: int, device: str) -> None:
        self._client = client
        self._done: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()
        self._workers_seen = time.monotonic()
        self.slots = slots
        self.device = device
        # One thread computes in a CPU worker: as many processes as cores share the machine better than threads.
        self.torch_threads = None if device == "cuda" else 1

    @property
    def dashboard(self) -> str:
        return str(self._client.dashboard_link)

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any) -> distributed.Future:
        # A key of its own: two tasks are never the same task, although retries have equal arguments.
        future = self._client.submit(function, argument, key=f"{name}-{uuid.uuid4().hex}", pure=False)
        future.add_done_callback(self._done.put)
        return future

    def next_done(self) -> tuple[distributed.Future, Any, BaseException | None]:
        while True:
            try:
                future = self._done.get(timeout=_POLL_S)
                break
            except queue.Empty:
                self._check_cluster()
        if future.status == "finished":
            return future, future.result(), None
        if future.status == "cancelled":
            return future, None, EnvironmentFault(_LOST)
        error = future.exception()
        if isinstance(error, distributed.KilledWorker):
            error = WorkerDied(
                "the worker processes that computed it died every time: too little memory (see --memory-limit, or "
                "take a smaller --tile) or a crash in a library"
            )
        return future, None, error

    def _check_cluster(self) -> None:
        """Dask waits for ever for a scheduler that is gone and for workers that do not come back."""
        scheduler = self._client.scheduler
        try:
            if scheduler is None or self._client.status != "running":
                raise ConnectionError(self._client.status)
            workers = self._client.sync(scheduler.ncores, callback_timeout=_ANSWER_S)
        except (OSError, TimeoutError) as error:
            raise EnvironmentFault(_LOST) from error
        now = time.monotonic()
        if workers:
            self._workers_seen = now
        elif now - self._workers_seen > _NO_WORKERS_S:
            raise EnvironmentFault(
                f"the cluster has had no worker for {_NO_WORKERS_S:.0f} s: they died or do not start (too little "
                "memory: see --memory-limit). What is finished is kept: the same command goes on from there."
            )

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        return map_bounded(self, function, tasks, name)


@contextlib.contextmanager
def open_executor(options: ClusterOptions) -> Iterator[Executor]:
    """An executor for the duration of the block: on a cluster started here or joined at ``options.scheduler``.

    With ``workers`` 0 and no scheduler the tasks run in this process, one after the other, without Dask.

    Raises
    ------
    EnvironmentFault
        If no cluster can be started or reached, or it has no workers.
    """
    if options.workers == 0 and options.scheduler is None:
        yield SerialExecutor(resolve_device(options.device))
        return
    if options.performance_report is not None and not options.performance_report.absolute().parent.is_dir():
        raise UsageError(f"{options.performance_report}: there is no such folder to write the report to")
    _silence_libraries()
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        if options.scheduler is not None:
            client, slots, device = _join(options.scheduler, options.device)
            stack.callback(client.close)
        else:
            cluster, slots, device = _start(options, stack.enter_context(_event_loop()))
            stack.callback(_close, cluster)
            client = distributed.Client(cluster, set_as_default=False)
            stack.callback(client.close, timeout=2)
        if options.performance_report is not None:
            stack.enter_context(client.as_current())
            stack.enter_context(
                distributed.performance_report(filename=str(options.performance_report), stacklevel=0)
            )
        yield DaskExecutor(client, slots, device)


def resolve_device(device: str) -> str:
    """"auto" as "cuda" where there is a CUDA device, else "cpu"."""
    if device == "cpu":
        return "cpu"
    count = cuda_devices()
    if device == "cuda" and count == 0:
        raise EnvironmentFault(
            "--device cuda: torch sees no CUDA device. Check nvidia-smi and that torch is a CUDA build, "
            "or use --device cpu."
        )
    return "cuda" if count else "cpu"


def cuda_devices() -> int:
    """Number of visible CUDA devices."""
    from wsiseg.models.devices import cuda_device_count

    return cuda_device_count()


@contextlib.contextmanager
def _event_loop() -> Iterator[Any]:
    """A cluster's loop, in its thread. A terminal sends Ctrl-C to all processes; those of this loop ignore it.

    They inherit the mask of the thread that starts them, now or after a death. This process stops them in order.
    """
    runner = LoopRunner()
    resource_tracker.ensure_running()  # starting it later, among the first processes, would undo the mask
    if hasattr(signal, "pthread_sigmask"):
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            runner.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    else:
        runner.start()
    try:
        yield runner.loop
    finally:
        runner.stop()


def _start(options: ClusterOptions, loop: Any) -> tuple[Any, int, str]:
    device = resolve_device(options.device)
    host = options.dashboard.rpartition(":")[0]
    if host not in ("127.0.0.1", "localhost", "[::1]", ""):
        logging.getLogger("wsiseg").warning(
            "the dashboard listens on %s: anybody who reaches it can see and disturb this run", host
        )
    dashboard = options.dashboard if host else f"127.0.0.1{options.dashboard}"
    try:
        if device == "cuda":
            return _cuda_cluster(options, dashboard, loop)
        workers = options.workers or available_cores()
        with warnings.catch_warnings():
            # Another port is taken, and the one that is taken is shown.
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            cluster = _whole(
                lambda: distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=dashboard,
                    memory_limit=options.memory_limit,
                    silence_logs=_log_level(),
                    loop=loop,
                )
            )
    except ValueError as error:
        raise UsageError(f"cannot start a local Dask cluster: {error}") from error
    except (OSError, RuntimeError, TimeoutError) as error:
        raise EnvironmentFault(f"cannot start a local Dask cluster: {error}") from error
    return cluster, workers, device


def _whole(start: Callable[[], Any]) -> Any:
    """Start a cluster; an interrupt waits till it stands, because half of one cannot be closed."""
    with ThreadPoolExecutor(1) as thread:
        cluster = thread.submit(start)
        try:
            return cluster.result()
        except BaseException:
            with contextlib.suppress(Exception):
                _close(cluster.result())
            raise


def _cuda_cluster(options: ClusterOptions, dashboard: str, loop: Any) -> tuple[Any, int, str]:
    """One process a device; its threads read and decode while one of them holds the device."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(cuda_devices())]
    names = names[: options.workers] if options.workers else names
    threads = max(2, min(12, available_cores() // len(names)))
    workers = {
        f"gpu-{name}": {
            "cls": distributed.Nanny,
            "options": {
                "nthreads": threads,
                "host": "127.0.0.1",
                "memory_limit": options.memory_limit,
                "env": {"CUDA_VISIBLE_DEVICES": name},
            },
        }
        for name in names
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "dashboard_address": dashboard, "dashboard": True},
    }
    cluster = _whole(
        lambda: distributed.SpecCluster(
            scheduler=scheduler, workers=workers, silence_logs=_log_level(), loop=loop
        )
    )
    return cluster, threads * len(names), "cuda"


def _join(address: str, device: str) -> tuple[distributed.Client, int, str]:
    try:
        get_address_host_port(address)  # before a Client that could not even be closed
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise EnvironmentFault(
            f"no Dask scheduler answers at {address} ({error}). Expected an address such as tcp://host:8786 "
            "of a running `dask scheduler`."
        ) from error
    try:
        client.wait_for_workers(1, timeout=_NO_WORKERS_S)
        found = set(client.run(_worker_version).values())
    except TimeoutError as error:
        client.close()
        raise EnvironmentFault(
            f"the scheduler at {address} has had no worker for {_NO_WORKERS_S:.0f} s. Start some: "
            f"`dask worker {address}`."
        ) from error
    except ImportError as error:
        client.close()
        raise EnvironmentFault(f"the workers of {address} cannot import wsiseg; install it there.") from error
    if found != {__version__}:
        client.close()
        versions = ", ".join(sorted(found))
        raise EnvironmentFault(f"the workers of {address} have wsiseg {versions}; this is {__version__}.")
    slots = sum(client.nthreads().values())
    # Which device the cluster's workers have, only they can tell.
    return client, slots, device


def _worker_version() -> str:
    return __version__


def _silence_libraries() -> None:
    """What Dask logs about lost workers and connections, the caller is told as an error or a slide's record."""
    for name in ("distributed", "tornado", "bokeh", "asyncio", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "bokeh", "asyncio"):
            logging.getLogger(name).setLevel(_log_level())


def _log_level() -> int:
    return logging.WARNING if logging.getLogger("wsiseg").isEnabledFor(logging.DEBUG) else logging.CRITICAL


def _close(cluster: Any) -> None:
    """End the cluster without waiting for tiles: killing is safe, parts are committed by renaming."""
    processes = [nanny.pid for nanny in cluster.workers.values()]

    def kill() -> None:
        for pid in processes:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()

    # Not after a first attempt: a close that runs out of time is cancelled half-way and cannot be repeated.
    timer = threading.Timer(_GRACE_S, kill)
    timer.start()
    with contextlib.suppress(Exception):
        cluster.close(timeout=5)
    timer.cancel()


def available_cores() -> int:
    """Cores this process may run on (affinity and container limits respected where the system tells)."""
    return max(1, int(CPU_COUNT))
