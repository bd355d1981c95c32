"""Clusters and the executor that runs tasks on them: the only module that imports ``distributed``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeAlias

import dask
import distributed
import psutil
from dask.system import CPU_COUNT
from dask.utils import format_bytes, parse_bytes
from distributed.utils import LoopRunner, sync

from wsiseg.errors import EnvironmentFault, UsageError, WorkerDied
from wsiseg.run.schedule import Executor, SerialExecutor, map_bounded
from wsiseg.version import __version__

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
    # Two deaths of its workers, and a task is tried alone (run/isolation.py): each costs seconds of starting anew.
    "distributed.scheduler.allowed-failures": 1,
    # A worker that is not back by then is given up for good, with its nanny. On a busy machine a start takes longer
    # than the 15 s of the default, and a run would lose its workers one by one.
    "distributed.deploy.lost-worker-timeout": "1 day",
    # A finished task's record is of no further use to anybody; the default keeps 100,000 of them.
    "distributed.admin.low-level-log-length": 1000,
}
_LEAST_MEMORY = 64 << 20
"""Bytes below which not even an empty worker can start."""
DEVICE_BYTES = 4 << 30
"""Device memory that a process is expected to need: its context, a tile's way through network and decoder."""
_POLL_S = 2.0
"""How often the cluster is looked at while no task ends."""
_NO_WORKERS_S = 60.0
"""For how long a cluster may be without workers; one that restarts is back within seconds."""
_CONNECT_S = 12.0
"""For how long a scheduler, or its file, is waited for at the start."""
_ANSWER_S = 30.0
"""For how long a scheduler may be silent."""
_GRACE_S = 0.5
"""For how long workers may finish what they do when the run has ended or is stopped."""
_LONGEST_SCHEDULER_FILE = 1_000_000  # bytes; one entry a worker
_GIVEN_UP = (OSError, asyncio.CancelledError, concurrent.futures.CancelledError)
"""What Dask raises for a task that it does not know, or not any more."""
Scheduler: TypeAlias = "str | distributed.Client"
_LOST = "the Dask scheduler was lost. What is finished is kept: the same command goes on from there."


@dataclass(frozen=True)
class ClusterOptions:
    """How to run.

    Attributes
    ----------
    scheduler : str, distributed.Client or None
        Address of a running scheduler to join (``tcp://host:port``), or a client that is connected to one; None
        starts a cluster on this machine.
    workers : int or None
        Worker processes of the local cluster; None: one a core, of which those on a CUDA device share it as far
        as it has memory (:func:`dealt_devices`); 0: none, the tasks run in this process.
    device : {"auto", "cpu", "cuda"}
        What the workers compute on.
    dashboard : str
        ``host:port`` of the local cluster's dashboard, on a loopback address; port 0 takes any free one.
    memory_limit : str
        Per worker, as Dask writes it ("auto", "8GiB"); a worker above it is restarted.
    performance_report : Path or None
        Where to write Dask's performance report (HTML).
    scheduler_file : Path or None
        What ``dask scheduler --scheduler-file`` wrote: its address is joined.
    """

    scheduler: Scheduler | None = None
    workers: int | None = None
    device: str = "auto"
    dashboard: str = "127.0.0.1:8787"
    memory_limit: str = "auto"
    performance_report: Path | None = None
    scheduler_file: Path | None = None


class DaskExecutor:
    """Submits tasks to a cluster; see :class:`wsiseg.run.schedule.Executor`."""

    def __init__(self, client: distributed.Client, slots: int, device: str) -> None:
        self._client = client
        self._loop: Any = client.loop
        self._deserted_since: float | None = None
        self.slots = slots
        # One running and one waiting in each slot hide the scheduler's latency.
        self.window = 2 * max(slots, 1) + 1
        self.device = device
        # As many processes as cores share the machine better than threads.
        self.torch_threads = 1

    @property
    def dashboard(self) -> str | None:
        link = self._client.dashboard_link
        return str(link) if link else None

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        if self._client.status != "running":
            raise EnvironmentFault(_LOST)
        # A key of its own: two tasks are never the same task, although retries have equal arguments.
        remote = self._client.submit(function, argument, key=f"{name}-{uuid.uuid4().hex}", pure=False)
        task: Future[Any] = Future()
        task.add_done_callback(lambda task: remote.release() if task.cancelled() else None)
        self._loop.add_callback(self._fulfil, remote, task)
        return task

    async def _fulfil(self, remote: distributed.Future, task: Future[Any]) -> None:
        """Wait for a task of Dask's and pass its outcome on."""
        result, error = None, None
        try:
            (result,) = await self._client.gather([remote], asynchronous=True)
        except BaseException as caught:
            own = remote.status == "error" or not isinstance(caught, _GIVEN_UP)
            error = _translated(caught) if own else EnvironmentFault(_LOST)
        if not task.set_running_or_notify_cancel():
            return
        if error is None:
            task.set_result(result)
        else:
            task.set_exception(error)
        if not isinstance(error, EnvironmentFault | WorkerDied):
            self._deserted_since = None  # some worker is there

    def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
        while True:
            ended = concurrent.futures.wait(tasks, _POLL_S, concurrent.futures.FIRST_COMPLETED)
            if ended.done:
                return ended.done
            self._check_cluster()

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
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = now
        elif now - self._deserted_since > _NO_WORKERS_S:
            raise EnvironmentFault(
                f"the cluster has had no worker for {_NO_WORKERS_S:.0f} s: they died or do not start (too little "
                "memory: see --memory-limit). What is finished is kept: the same command goes on from there."
            )

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        return map_bounded(self, function, tasks, name)


def _translated(error: BaseException) -> BaseException:
    """A task's error; that its workers died is said in our words."""
    if not isinstance(error, distributed.KilledWorker):
        return error
    return WorkerDied(
        "the worker processes that computed it died every time: too little memory (see --memory-limit, or "
        "take a smaller --tile) or a crash in a library"
    )


@contextlib.contextmanager
def open_executor(options: ClusterOptions) -> Iterator[Executor]:
    """An executor for the duration of the block: on a cluster started here, or the scheduler's that is named.

    With ``workers`` 0 and no scheduler the tasks run in this process, one after the other, without Dask.

    Raises
    ------
    UsageError
        If the options make no sense.
    EnvironmentFault
        If no cluster can be started or reached, or it has no workers.
    """
    joins = options.scheduler is not None or options.scheduler_file is not None
    if options.workers == 0 and not joins:
        yield SerialExecutor(resolve_device(options.device))
        return
    if options.performance_report is not None and not options.performance_report.absolute().parent.is_dir():
        raise UsageError(f"{options.performance_report}: there is no such folder to write the report to")
    with contextlib.ExitStack() as stack:
        if isinstance(options.scheduler, distributed.Client):
            client, slots, device = _borrow(options.scheduler, options.device)
        else:
            client, slots, device = _open_client(options, joins, stack)
        if options.performance_report is not None:
            stack.enter_context(client.as_current())
            stack.enter_context(
                distributed.performance_report(filename=str(options.performance_report), stacklevel=0)
            )
        yield DaskExecutor(client, slots, device)


def _open_client(
    options: ClusterOptions, joins: bool, stack: contextlib.ExitStack
) -> tuple[distributed.Client, int, str]:
    """A client of the cluster that the options name or that is started, closed with ``stack``; slots and device."""
    _silence_libraries()
    stack.enter_context(dask.config.set(_CONFIG))
    loop = stack.enter_context(_event_loop())
    if joins:
        client, slots, device = _join(_scheduler_address(options), options.device, loop)
    else:
        cluster, slots, device = _start(options, loop)
        stack.callback(_close, cluster)
        client = distributed.Client(cluster, set_as_default=False)
    stack.callback(client.close, timeout=2)
    return client, slots, device


def resolve_device(device: str) -> str:
    """ "auto" as "cuda" where there is a CUDA device, else "cpu"."""
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
    from wsiseg.models.engine.devices import cuda_device_count

    return cuda_device_count()


def cuda_memory() -> tuple[int, ...]:
    """Bytes of memory of each visible CUDA device."""
    from wsiseg.models.engine.devices import cuda_memory

    return cuda_memory()


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
    device, dashboard = resolve_device(options.device), _loopback(options.dashboard)
    _require_memory_limit(options.memory_limit)
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
        raise EnvironmentFault(f"cannot start a local Dask cluster: {error}{_script_hint()}") from error
    return cluster, workers, device


def _script_hint() -> str:
    """What is most likely wrong where a script starts a cluster: its workers import it, and start clusters."""
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if script.suffix != ".py" or script.name == "__main__.py":
        return ""
    return (
        f'\nEach worker imports {script.name}: what starts them must stand below `if __name__ == "__main__":` '
        "there. Or use workers=0."
    )


def _require_memory_limit(text: str) -> None:
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


def _loopback(address: str) -> str:
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
    """Processes of one thread that share the devices; each sees its own device only."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    memory = cuda_memory()
    names = [name.strip() for name in visible.split(",")] if visible else [str(i) for i in range(len(memory))]
    places = dealt_devices(names[: len(memory)], memory, available_cores(), options.workers)
    workers = {
        f"gpu-{name}-{place}": {
            "cls": distributed.Nanny,
            "options": {
                "nthreads": 1,
                "host": "127.0.0.1",
                "memory_limit": options.memory_limit,
                "env": {"CUDA_VISIBLE_DEVICES": name},
            },
        }
        for place, name in enumerate(places)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "dashboard_address": dashboard, "dashboard": True},
    }
    cluster = _whole(
        lambda: distributed.SpecCluster(scheduler=scheduler, workers=workers, silence_logs=_log_level(), loop=loop)
    )
    return cluster, len(places), "cuda"


def dealt_devices(names: Sequence[str], memory: Sequence[int], cores: int, workers: int | None = None) -> list[str]:
    """The device of each worker process, dealt round.

    A tile's way is mostly the processor's work, which threads of one process do in turns where Python is in
    it: processes share a device better (docs/design.md, "A device and its processes").

    Parameters
    ----------
    names : sequence of str
        Devices as ``CUDA_VISIBLE_DEVICES`` names them: numbers, UUIDs of devices or of MIG slices.
    memory : sequence of int
        Bytes of each.
    cores : int
        Processes that the machine has room for.
    workers : int, optional
        Processes that the user asks for, whatever there is room for.

    Returns
    -------
    list of str
        As many as there are cores, but of each device no more than it has memory for, and at least one.
    """
    if workers:
        return [names[place % len(names)] for place in range(workers)]
    room = {name: max(1, size // DEVICE_BYTES) for name, size in zip(names, memory, strict=True)}
    rounds = (name for turn in range(max(room.values())) for name in names if turn < room[name])
    return list(itertools.islice(rounds, max(cores, len(names))))


def _scheduler_address(options: ClusterOptions) -> str:
    """Where the scheduler is that the options name."""
    if options.scheduler_file is None:
        assert isinstance(options.scheduler, str)
        return options.scheduler
    if options.scheduler is not None:
        raise UsageError("--scheduler and --scheduler-file both name a scheduler. Give one of them.")
    return _read_scheduler_file(options.scheduler_file)


def _read_scheduler_file(path: Path) -> str:
    """The address in a file of Dask's; a scheduler that is just being started has not written it yet."""
    until = time.monotonic() + _CONNECT_S
    while True:
        try:
            if path.exists() and not path.is_file():
                raise UsageError(f"--scheduler-file {path}: is no file")
            with path.open("rb") as stream:
                content = json.loads(stream.read(_LONGEST_SCHEDULER_FILE))
            address = content["address"]
            if not isinstance(address, str):
                raise TypeError(f"address is {address!r}")
            return address
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
            raise EnvironmentFault(
                f"--scheduler-file {path}: has no address of a scheduler after {_CONNECT_S:.0f} s ({error}). "
                f"Expected what `dask scheduler --scheduler-file {path}` writes, on a disk that this machine sees."
            ) from error


def _join(address: str, device: str, loop: Any) -> tuple[distributed.Client, int, str]:
    _require_scheduler(address, loop)
    try:
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False, loop=loop)
    except Exception as error:  # what a scheduler of another version makes Dask raise is anything
        raise EnvironmentFault(f"cannot join the Dask scheduler at {address}: {_reason(error)}.") from error
    try:
        slots, device = _examine_workers(client, address, device, loop)
        return client, slots, device
    except BaseException:
        client.close(timeout=2)
        raise


def _borrow(client: distributed.Client, device: str) -> tuple[distributed.Client, int, str]:
    """A caller's own client, which stays open; slots and device.

    Raises
    ------
    UsageError, EnvironmentFault
    """
    if client.asynchronous:
        raise UsageError(
            "scheduler=: an asynchronous Client. Expected an ordinary one, or the scheduler's address: "
            "client.scheduler.address"
        )
    if client.status != "running" or client.scheduler is None:
        raise EnvironmentFault(f"scheduler=: the Client is {client.status}. Connect a new one to its cluster.")
    slots, device = _examine_workers(client, str(client.scheduler.address), device, client.loop)
    return client, slots, device


def _require_scheduler(address: str, loop: Any) -> None:
    """Refuse what does not answer as a scheduler does: a Client would wait for it for ever.

    Raises
    ------
    EnvironmentFault
    """

    async def ask() -> Any:
        security = distributed.Security().get_connection_args("client")  # as Dask's configuration says
        async with distributed.rpc(address, timeout=_CONNECT_S, connection_args=security) as remote:
            return await remote.identity()

    try:
        found = sync(loop, ask, callback_timeout=_CONNECT_S)
        if not isinstance(found, dict) or "workers" not in found:
            raise TypeError("something else answers there")
    except Exception as error:  # a server of another kind may answer anything, and Dask then raise anything
        raise EnvironmentFault(
            f"no Dask scheduler answers at {address!r} within {_CONNECT_S:.0f} s ({_reason(error)}). Expected an "
            "address such as tcp://host:8786 of a running `dask scheduler`."
        ) from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__


def _examine_workers(client: distributed.Client, address: str, device: str, loop: Any) -> tuple[int, str]:
    """How many tasks a joined cluster's workers run at once, and what on, if they can run ours and are alike."""

    async def ask() -> list[tuple[str, bool]]:
        found = await client.run(_worker_facts, device != "cpu", asynchronous=True)
        return list(found.values())

    try:
        client.wait_for_workers(1, timeout=_NO_WORKERS_S)
        found = sync(loop, ask, callback_timeout=_NO_WORKERS_S)  # a worker that is stopped would never answer
    except (OSError, TimeoutError) as error:
        raise EnvironmentFault(
            f"the scheduler at {address} has had no worker for {_NO_WORKERS_S:.0f} s that answers. Start some: "
            f"`dask worker {address}`."
        ) from error
    except ImportError as error:
        raise EnvironmentFault(f"the workers of {address} cannot import wsiseg; install it there.") from error
    versions = ", ".join(sorted({version for version, _ in found}))
    if versions != __version__:
        raise EnvironmentFault(f"the workers of {address} have wsiseg {versions}; this is {__version__}.")
    with_cuda = sum(cuda for _, cuda in found)
    if device != "cpu" and 0 < with_cuda < len(found):
        raise EnvironmentFault(
            f"{with_cuda} of the {len(found)} workers of {address} have a CUDA device: nuclei of one slide would "
            "be of two kinds.\nUse --device cpu, or workers of one kind."
        )
    if device == "cuda" and not with_cuda:
        raise EnvironmentFault(f"--device cuda: no worker of {address} has a CUDA device. Use --device cpu.")
    return sum(client.nthreads().values()), "cuda" if with_cuda else "cpu"


def _worker_facts(cuda: bool) -> tuple[str, bool]:
    """A worker's version and, if that is asked, whether it has a CUDA device."""
    return __version__, cuda and cuda_devices() > 0


def _silence_libraries() -> None:
    """What Dask logs about lost workers and connections, the caller is told as an error or a slide's record."""
    for name in ("distributed", "tornado", "bokeh", "asyncio", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "bokeh", "asyncio"):
            logging.getLogger(name).setLevel(_log_level())


def _log_level() -> int:
    return logging.WARNING if logging.getLogger("wsiseg").isEnabledFor(logging.DEBUG) else logging.CRITICAL


def _close(cluster: Any) -> None:
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


def available_cores() -> int:
    """Cores this process may run on (affinity and container limits respected where the system tells)."""
    return max(1, int(CPU_COUNT))
