"""The executor that runs tasks on a cluster of Dask's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import distributed

from wsiseg.errors import ClusterLost, WorkerDied
from wsiseg.run.board import Board
from wsiseg.run.cluster import patience
from wsiseg.run.cluster.attended import Attended
from wsiseg.run.cluster.busy import DeviceUse
from wsiseg.run.cluster.page import TOPIC
from wsiseg.run.events import Event, SlideEnded, Started
from wsiseg.run.schedule import map_bounded

_GIVEN_UP = (OSError, asyncio.CancelledError, concurrent.futures.CancelledError)
"""What Dask raises for a task that it does not know, or not any more."""
_RECENT_S = 30.0
"""The page's device use is a mean over these."""
_TELL_S = 1.0
"""How often the dashboard's page is told how a run stands."""
_KEPT = "What is finished is kept: the same command goes on from there."
_LOST = f"the Dask scheduler was lost. {_KEPT}"


class DaskExecutor:
    """Submits tasks to a cluster; see :class:`wsiseg.run.schedule.Executor`.

    Workers may join and leave: the window follows their number.

    Parameters
    ----------
    client : distributed.Client
    slots : int
        Tasks that its workers run at once.
    device : str
        What they run on.
    cores : int
        Of the one machine that all workers are on; 1 where they may be on several.
    most : int
        Tasks that they may come to run at once: a cluster that grows with its work must see that there is more.
    guarded : bool
        Whether workers may join that wsiseg did not start, and are to be examined by each task.
    patience_s : float, optional
        For how long there may be no worker; by default :data:`wsiseg.run.cluster.patience.NO_WORKERS_S`.
    """

    def __init__(
        self,
        client: distributed.Client,
        slots: int,
        device: str,
        *,
        cores: int = 1,
        most: int = 0,
        guarded: bool = False,
        patience_s: float | None = None,
    ) -> None:
        self._client = client
        self._loop: Any = client.loop
        self._most = most
        self._guarded_by = device if guarded else None
        self._patience_s = patience_s
        self._deserted_since: float | None = None
        self._counted_at = time.monotonic()
        self._board = Board()
        self._told_at = 0.0
        self._use = None if device == "cpu" else DeviceUse(client)
        self.slots = slots
        self.device = device
        self.cores = cores
        # As many processes as cores share the machine better than threads.
        self.torch_threads = 1

    @property
    def window(self) -> int:
        # One running and one waiting in each slot hide the scheduler's latency.
        return 2 * max(self.slots, self._most, 1) + 1

    @property
    def dashboard(self) -> str | None:
        link = self._client.dashboard_link
        return str(link) if link else None

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> Future[Any]:
        if self._client.status != "running":
            raise ClusterLost(_LOST)
        # A key of its own: two tasks are never the same task, although retries have equal arguments.
        attended = Attended(function, self._guarded_by)
        key = f"{name}-{uuid.uuid4().hex}"
        remote = self._client.submit(attended, argument, key=key, pure=False, priority=int(urgent))
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
            error = _translated(caught) if own else ClusterLost(_LOST)
        if not task.set_running_or_notify_cancel():
            return
        if error is None:
            task.set_result(result)
        else:
            task.set_exception(error)
        if not isinstance(error, ClusterLost | WorkerDied):
            self._deserted_since = None  # some worker is there

    def tell(self, event: Event) -> None:
        """Count it for the dashboard's page, which is told how the run stands once a second."""
        self._board.hear(event)
        if isinstance(event, SlideEnded | Started) or time.monotonic() - self._told_at > _TELL_S:
            self._told_at = time.monotonic()
            recent = self.device_busy(time.perf_counter() - _RECENT_S)
            self._loop.add_callback(self._post, {**self._board.shown(), "device_busy": recent})

    def device_busy(self, since: float) -> float | None:
        return self._use.mean(since) if self._use else None

    async def _post(self, shown: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a scheduler that is lost is found out elsewhere
            if self._client.scheduler is not None:
                await self._client.scheduler.log_event(topic=TOPIC, msg=shown)

    def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
        if time.monotonic() - self._counted_at > patience.COUNT_S:
            self._counted_at = time.monotonic()
            self._loop.add_callback(self._count)
        while True:
            ended = concurrent.futures.wait(tasks, patience.POLL_S, concurrent.futures.FIRST_COMPLETED)
            if ended.done:
                return ended.done
            self._check_cluster()

    async def _count(self) -> None:
        """How many tasks run at once now; a scheduler that does not answer is :meth:`_check_cluster`'s."""
        try:
            if self._client.scheduler is not None:
                self.slots = sum((await self._client.scheduler.ncores()).values())
        except OSError:
            return

    def _check_cluster(self) -> None:
        """Dask waits for ever for a scheduler that is gone and for workers that do not come back."""
        scheduler = self._client.scheduler
        try:
            if scheduler is None or self._client.status != "running":
                raise ConnectionError(self._client.status)
            workers = self._client.sync(scheduler.ncores, callback_timeout=patience.ANSWER_S)
        except (OSError, TimeoutError) as error:
            raise ClusterLost(_LOST) from error
        self.slots = sum(workers.values())
        now, waited = time.monotonic(), self._patience_s or patience.NO_WORKERS_S
        if workers:
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = now
        elif now - self._deserted_since > waited:
            raise ClusterLost(
                f"the cluster has had no worker for {waited:.0f} s: they died or do not start (too little memory: "
                f"see --memory-limit). {_KEPT}"
            )

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        return map_bounded(self, function, tasks, name)


def _translated(error: BaseException) -> BaseException:
    """A task's error; that its workers died, or cannot have it, is said in our words."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "wsiseg":
        return ClusterLost(f"a worker joined that cannot import wsiseg; install it there, or stop it. {_KEPT}")
    if not isinstance(error, distributed.KilledWorker):
        return error
    return WorkerDied(
        "the worker processes that computed it died every time: too little memory (see --memory-limit, or "
        "take a smaller --tile) or a crash in a library"
    )
