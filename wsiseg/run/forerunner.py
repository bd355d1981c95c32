"""The process that the workers of this machine are forked from: it imports once what each of them needs.

Importing torch, Dask and the stages takes a core four seconds. A process forked from one that has done it has them
at once, and shares their memory. It is a fork server of :mod:`multiprocessing`, which runs no thread of ours and
touches no device. A command that will need workers starts it first of all, and both import at the same time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from typing import Any

WORKER_ENVIRONMENT = {
    # What Dask's defaults cost here (docs/design.md, "Dask"): its nanny makes malloc give memory back after every
    # tile, which the network's activations then fault in again page by page. Keeping it is worth two thirds more
    # throughput; what a worker holds stays bounded by its largest tile.
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
"""What a worker's libraries and its malloc read when its process starts: a fork has it of the process before it."""
_DASK_DEFAULTS = {"MALLOC_TRIM_THRESHOLD_": "65536"}
"""Of these variables, what Dask sets by itself and not as here; a test compares it with Dask's own."""
_IMPORTED = ["wsiseg.run.inherited"]


def can_fork() -> bool:
    """Whether workers are forked here: the system libraries of macOS do not survive it."""
    return sys.platform == "linux"


def start_forerunner() -> None:
    """Start it unless it runs; it goes on importing after this has returned, and ends with this process."""
    if not can_fork():
        return
    forkserver.set_forkserver_preload(list(_IMPORTED))
    with workers_environment(), _without_interrupts():
        forkserver.ensure_running()
    atexit.register(_end, _process_id())


def _process_id() -> int | None:
    server: Any = forkserver
    found: int | None = server._forkserver._forkserver_pid
    return found


def _end(process_id: int | None) -> None:
    """It would end by itself, but only once it has imported, and hold this process's output until then."""
    if process_id is not None and process_id == _process_id():
        with contextlib.suppress(OSError):
            os.kill(process_id, signal.SIGKILL)


@contextlib.contextmanager
def workers_environment() -> Iterator[None]:
    """This process's environment as its workers have theirs, for as long as it lasts; then as it was.

    What the user says goes before. A cluster that this process had before leaves Dask's defaults there (its nanny
    sets them and does not take them back): those are nobody's word.
    """
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    for name, value in WORKER_ENVIRONMENT.items():
        if before[name] in (None, _DASK_DEFAULTS.get(name)):
            os.environ[name] = value
    try:
        yield
    finally:
        for name, earlier in before.items():
            if earlier is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = earlier


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started here ignore Ctrl-C, which a terminal sends to all: this one ends them in order."""
    resource_tracker.ensure_running()  # which the server starts otherwise, and that would undo the mask
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
