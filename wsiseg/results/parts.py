"""What a batch of tiles has left: its summary, in a part of its own or in one for each tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from wsiseg.results.folder import WorkFolder
from wsiseg.results.partfile import read_part_summary


@dataclass(frozen=True)
class BatchSummary:
    """What a task returns: small, whatever the number of nuclei."""

    tiles: tuple[int, ...]
    nuclei: int
    failed: tuple[tuple[int, str], ...] = ()
    lost: tuple[tuple[float, float, float, float, str], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BatchSummary:
        return cls(
            tuple(value["tiles"]),
            value["nuclei"],
            tuple((int(tile), str(cause)) for tile, cause in value["failed"]),
            tuple((float(x0), float(y0), float(x1), float(y1), str(c)) for x0, y0, x1, y1, c in value["lost"]),
            dict(value["seconds"]),
        )


def covering_parts(work: WorkFolder, tiles: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The committed parts of a batch: the batch itself, or its tiles one by one where it had to be split."""
    if work.part(tiles[0], tiles[-1]).exists():
        return [tiles]
    return [(tile,) for tile in tiles if work.part(tile, tile).exists()]


def part_summary(work: WorkFolder, tiles: tuple[int, ...]) -> BatchSummary:
    """The summary of a committed part."""
    return BatchSummary.from_dict(read_part_summary(work.part(tiles[0], tiles[-1])))
