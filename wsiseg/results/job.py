"""A stage of a slide that is one task, and why a task's work may be given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wsiseg.results.folder import WorkFolder

LOST_CAUSE = "its worker process died every time"


@dataclass(frozen=True)
class WorkJob:
    """A stage of a slide that is one task."""

    work: WorkFolder
    alone: bool = False

    def retries(self) -> Sequence[WorkJob]:
        return () if self.alone else (replace(self, alone=True),)
