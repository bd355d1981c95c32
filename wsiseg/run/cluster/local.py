"""A cluster on this machine: its loop, its processes, its end."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
import distributed
import psutil
from dask.utils import format_bytes, parse_bytes
from distributed.utils import LoopRunner
from tornado.ioloop import PeriodicCallback

from wsiseg.errors import EnvironmentFault, UsageError
from wsiseg.run.cluster import devices
from wsiseg.run.cluster.logs import log_level
from wsiseg.run.cluster.options import ClusterOptions
from wsiseg.run.forerunner import can_fork, start_forerunner

_LEAST_MEMORY = 64 << 20
"""Bytes below which not even an empty worker can start."""
_REVIVE_MS = 1000
_GRACE_S = 0.5
"""For how long workers may finish what they do when the run has ended or is stopped."""


@contextlib.contextmanager
def event_loop() -> Iterator[Any]:
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


def start(options: ClusterOptions, loop: Any) -> tuple[Any, int, str]:
    device, dashboard = devices.resolve_device(options.device), loopback(options.dashboard)
    require_memory_limit(options.memory_limit)
    try:
        if device == "cuda":
            return _cuda_cluster(options, dashboard, loop)
        workers = devices.local_workers("cpu", options.workers)
        with warnings.catch_warnings():
            # Another port is taken, and the one that is taken is shown.
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            cluster = whole(
                lambda: distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=dashboard,
                    memory_limit=options.memory_limit,
                    silence_logs=log_level(),
                    loop=loop,
                ),
                close,
            )
    except ValueError as error:
        raise UsageError(f"cannot start a local Dask cluster: {error}") from error
    except (OSError, RuntimeError, TimeoutError) as error:
        raise EnvironmentFault(f"cannot start a local Dask cluster: {error}{_script_hint()}") from error
    return cluster, workers, device


@contextlib.contextmanager
def forking(options: ClusterOptions) -> Iterator[None]:
    """Where they are asked for and can be had, workers that start while this lasts are forks of a forerunner."""
    if not (options.forked and can_fork()):
        yield
        return
    start_forerunner()
    distributed.utils._forkserver_preload_set = True  # else Dask imports pandas, in this process as well
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def _script_hint() -> str:
    """What is most likely wrong where a script starts a cluster: its workers import it, and start clusters."""
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if script.suffix != ".py" or script.name == "__main__.py":
        return ""
    return (
        f'\nEach worker imports {script.name}: what starts them must stand below `if __name__ == "__main__":` '
        "there. Or use workers=0."
    )


def require_memory_limit(text: str) -> None:
    """Refuse what is no size of memory, or one in which no worker can start: Dask would try again and again.

    Raises
    ------
    UsageError
    """
    if text == "auto":
        return
    try:
        size = parse_bytes(text)
    except (ValueError, OverflowError):
        size = -1
    if size != 0 and size < _LEAST_MEMORY:
        raise UsageError(
            f"--memory-limit {text!r}: expected a size from {format_bytes(_LEAST_MEMORY)} on, for example 8GiB, "
            "0 for no limit, or auto."
        )


def loopback(address: str) -> str:
    """``host:port`` of the dashboard, if nobody but this machine can reach it.

    Dask's dashboard has no password. Its ``http_prefix`` is none either: it is told to whoever asks for ``/``.
    """
    host, _, port = address.rpartition(":")
    host = host or "127.0.0.1"
    if not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--dashboard-address {address!r}: expected host:port, for example 127.0.0.1:8787")
    try:
        own = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        own = False
    if not own:
        raise UsageError(
            f"--dashboard-address {address}: beyond this machine, anybody could see and disturb the run; the "
            "dashboard has no password.\nLeave it on 127.0.0.1 and open a tunnel where your browser is: "
            f"ssh -L {port}:127.0.0.1:{port} THIS-MACHINE"
        )
    return f"{host}:{port}"


def whole(start: Callable[[], Any], close: Callable[[Any], None]) -> Any:
    """Start a cluster; an interrupt waits till it stands, because half of one cannot be closed."""
    with ThreadPoolExecutor(1) as thread:
        cluster = thread.submit(start)
        try:
            return cluster.result()
        except BaseException:
            with contextlib.suppress(Exception):
                close(cluster.result())
            raise


def _cuda_cluster(options: ClusterOptions, dashboard: str, loop: Any) -> tuple[Any, int, str]:
    """Processes of one thread that share the devices; each sees its own device only."""
    places = devices.cuda_places(options.workers)
    workers = {
        f"gpu-{name}-{place}": {
            "cls": distributed.Nanny,
            "options": {
                "nthreads": 1,
                "host": "127.0.0.1",
                "memory_limit": options.memory_limit,
                "silence_logs": log_level(),
                "env": {"CUDA_VISIBLE_DEVICES": name},
            },
        }
        for place, name in enumerate(places)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "dashboard_address": dashboard, "dashboard": True},
    }
    cluster = whole(
        lambda: distributed.SpecCluster(scheduler=scheduler, workers=workers, silence_logs=log_level(), loop=loop),
        close,
    )
    return cluster, len(places), "cuda"


def revive(cluster: Any, loop: Any) -> PeriodicCallback:
    """Start workers anew that left with their nannies, for as long as the callback that is returned runs.

    A nanny brings back a worker that was killed. One whose process ends in order, as by ``sys.exit`` in a library,
    takes its nanny along, and Dask's cluster would be smaller for good.
    """

    def look() -> None:
        gone = [name for name, nanny in cluster.workers.items() if nanny.status == distributed.Status.closed]
        for name in gone:
            del cluster.workers[name]
        if gone:
            cluster.scale(len(cluster.worker_spec))

    callback = PeriodicCallback(look, _REVIVE_MS)
    loop.add_callback(callback.start)
    return callback


def close(cluster: Any) -> None:
    """End the cluster without waiting for tiles: killing is safe, parts are committed by renaming."""
    processes = _processes(cluster)

    def kill() -> None:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()

    # Not after a first attempt: a close that runs out of time is cancelled half-way and cannot be repeated.
    timer = threading.Timer(_GRACE_S, kill)
    timer.start()
    with contextlib.suppress(Exception):
        cluster.close(timeout=5)
    timer.cancel()


def _processes(cluster: Any) -> list[psutil.Process]:
    """The workers that live. A dead one's nanny has no pid, and psutil takes none for the process that asks."""
    found = []
    for pid in [nanny.pid for nanny in cluster.workers.values()]:
        if pid is not None:
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(pid))
    return found
