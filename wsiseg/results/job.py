"""A stage of a slide that is one task, and why a task's work may be given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from wsiseg.results.folder import WorkFolder

LOST_CAUSE = "its worker process died every time"


class _Alone(Protocol):
    @property
    def alone(self) -> bool: ...


_J = TypeVar("_J", bound=_Alone)


def once_alone(job: _J) -> Sequence[_J]:
    """What to try instead of a job that a worker died of and that has no pieces: the same once, alone."""
    return () if job.alone else (replace(job, alone=True),)  # type: ignore[type-var]


@dataclass(frozen=True)
class WorkJob:
    """A stage of a slide that is one task."""

    work: WorkFolder
    alone: bool = False

    def retries(self) -> Sequence[WorkJob]:
        return once_alone(self)
