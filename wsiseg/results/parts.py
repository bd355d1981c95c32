"""What a batch of tiles has left: its summary, in a part of its own or in one for each tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wsiseg.core.typed import Misfit, as_typed
from wsiseg.errors import DamagedFile
from wsiseg.results.folder import WorkFolder
from wsiseg.results.partfile import read_part_summary
from wsiseg.results.record import LostBox


@dataclass(frozen=True)
class BatchSummary:
    """What a task returns: small, whatever the number of nuclei."""

    tiles: tuple[int, ...]
    nuclei: int
    failed: tuple[tuple[int, str], ...] = ()
    lost: tuple[LostBox, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def covering_parts(work: WorkFolder, tiles: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The committed parts of a batch: the batch itself, or its tiles one by one where it had to be split."""
    if work.part(tiles[0], tiles[-1]).exists():
        return [tiles]
    return [(tile,) for tile in tiles if work.part(tile, tile).exists()]


def part_summary(work: WorkFolder, tiles: tuple[int, ...]) -> BatchSummary:
    """The summary of a committed part.

    Raises
    ------
    DamagedFile
        The part is gone, or not what a batch leaves.
    """
    path = work.part(tiles[0], tiles[-1])
    try:
        return as_typed(read_part_summary(path), BatchSummary)
    except Misfit as error:
        raise DamagedFile(f"{path}: has another summary ({error}). Run the same command again.") from error
