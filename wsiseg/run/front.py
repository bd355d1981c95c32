"""How far down a slide its tiles are computed and its nuclei stitched: what stages behind the tiles wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from wsiseg.stitch.stage import RowJob


class _Placed(Protocol):
    @property
    def bottom(self) -> float: ...


class Front:
    """Moves down one slide as its tiles end, in any order, and its rows are stitched, one after the other.

    Parameters
    ----------
    tiles : iterable of int
        All that are to be computed.
    """

    def __init__(self, tiles: Iterable[int]) -> None:
        self._left = deque(sorted(tiles))
        self._ahead: set[int] = set()
        self._rows = 0
        self._bottom = float("inf")

    def computed(self, tiles: Iterable[int]) -> None:
        """These tiles have ended."""
        self._ahead.update(tiles)
        while self._left and self._left[0] in self._ahead:
            self._ahead.remove(self._left.popleft())

    def stitches(self, rows: Sequence[RowJob]) -> None:
        """These are to be stitched, one after the other; none where all nuclei are there."""
        if rows:
            self._rows, self._bottom = rows[0].number, float("-inf")

    def stitched(self, job: RowJob, bottom: float) -> None:
        """A row is, and all nuclei above ``bottom`` are there."""
        self._rows, self._bottom = job.number + 1, bottom

    def has_tiles(self, job: RowJob) -> bool:
        """Whether a row can be stitched: its tiles have ended, and the rows before it are stitched."""
        return job.number == self._rows and not (self._left and self._left[0] <= job.last)

    def has_nuclei(self, job: _Placed) -> bool:
        """Whether all nuclei above the job's ``bottom`` are there."""
        return job.bottom <= self._bottom
