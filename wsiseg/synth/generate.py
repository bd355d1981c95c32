"""Datasets of patches, their blocks made in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wsiseg.core.atomic import lock_beside
from wsiseg.run.events import Listener, PatchesDone, ignore
from wsiseg.run.schedule import Executor
from wsiseg.synth.dataset import Block, blocks, create_dataset, finish_dataset, is_written, write_block


class Maker(Protocol):
    """Makes patches: a value that goes to other processes, and gives the same there."""

    def block(self, indices: range) -> Block: ...


@dataclass(frozen=True)
class BlockTask:
    """One block of a dataset: which patches, what makes them, where they go."""

    maker: Maker
    out: str
    block: int
    indices: range


def generate_patches(
    maker: Maker,
    out: Path,
    count: int,
    shape: tuple[int, int],
    mpp: float,
    provenance: Mapping[str, Any],
    executor: Executor,
    on_event: Listener = ignore,
) -> dict[str, Any]:
    """Make a dataset of patches 0 … ``count`` - 1 of ``maker``; what an earlier call left is kept.

    Parameters
    ----------
    maker : Maker
    out : Path
    count : int
    shape : (int, int)
        Height and width of a patch.
    mpp : float
    provenance : mapping
        All that decides the content.
    executor : Executor
    on_event : function, optional
        Told of :class:`wsiseg.run.events.PatchesDone`, first of what an earlier call left.

    Returns
    -------
    dict
        ``status`` (complete or unchanged), ``path``, ``patches``, ``computed`` in this call.

    Raises
    ------
    UsageError
        ``out`` is something else.
    EnvironmentFault
        The disk or the cluster gives out, or another run writes to ``out``.
    """
    with lock_beside(out):
        if create_dataset(out, count, shape, mpp, provenance):
            on_event(PatchesDone(out.name, count, count))
            return {"status": "unchanged", "path": str(out), "patches": count, "computed": 0}
        tasks = [
            BlockTask(maker, str(out.absolute()), number, indices)
            for number, indices in enumerate(blocks(count))
            if not is_written(out, number)
        ]
        done = count - sum(len(task.indices) for task in tasks)
        computed = 0
        on_event(PatchesDone(out.name, done, count))
        for patches in executor.map_bounded(make_block, tasks, "synth-block"):
            computed += patches
            on_event(PatchesDone(out.name, done + computed, count))
        finish_dataset(out)
    return {"status": "complete", "path": str(out), "patches": count, "computed": computed}


def make_block(task: BlockTask) -> int:
    """Make and write one block; returns its number of patches."""
    write_block(Path(task.out), task.block, task.maker.block(task.indices))
    return len(task.indices)
