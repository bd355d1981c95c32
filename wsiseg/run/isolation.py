"""What is tried when a task's worker died: the task alone, then its pieces alone, then the piece is lost.

Dask blames all tasks that a dead worker had been given, and whatever kills may lie in one tile of many. So every
job that a worker may die of says itself what to try instead of it, each in its turn while nothing else runs: what
dies alone has only itself to blame. A job that is tried alone reads its slide in a process that may die
(:mod:`wsiseg.slide.lethal`), so that a stored tile that crashes its decoder costs no more than a damaged one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from wsiseg.errors import WorkerDied
from wsiseg.run.schedule import Stage


class Job(Protocol):
    """A task's argument. ``alone``: tried while nothing else runs."""

    @property
    def alone(self) -> bool: ...

    def retries(self) -> Sequence[Any]:
        """What to try instead once a worker has died of it, together all of its work; () for nothing more."""


def isolated(
    name: str,
    function: Callable[[Any], Any],
    jobs: Sequence[Job],
    on_result: Callable[[Any, Any], None] | None = None,
    ready: Callable[[Any], bool] | None = None,
    urgent: bool = False,
) -> Stage:
    """A stage whose jobs' deaths cost no more than they must; the rest is as of any stage."""
    return Stage(name, function, jobs, on_result, _retry, lambda job: job.alone, ready, urgent)


def _retry(job: Job, error: BaseException) -> Sequence[Any] | None:
    return (job.retries() or None) if isinstance(error, WorkerDied) else None
