"""One task of ``wsiseg tile``: compute a shard of one level and commit it. No Dask in sight."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.atomic import write_bytes
from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Scale, Window
from wsiseg.errors import ReadError
from wsiseg.slide.open import SlideSource
from wsiseg.slide.readers.omezarr.shards import FILL, ShardedLevel, ShardLayout, encode_shard
from wsiseg.slide.resample import box_mean
from wsiseg.slide.slide import Slide
from wsiseg.slide.types import WHITE, Lost, Pixels

_READ_PX = 6144  # side of the largest square of stored pixels that is held at once: 108 MiB
_SMALLEST_BLOCK_PX = 32
COARSEST_RATIO = _READ_PX // _SMALLEST_BLOCK_PX
"""Stored pixels along the side of one pixel, at most: the smallest block that is read then has the largest size."""


@dataclass(frozen=True)
class PlannedLevel:
    """One array of the store.

    Attributes
    ----------
    path : str
        Its folder in the store.
    layout : ShardLayout
    downsample : float
        Pixels of the store's level 0 per pixel.
    scale : Scale
        Its pixels on the slide.
    read_ratio : float
        Stored pixels of the slide along the side of one pixel; 1 for a copied level.
    derived : bool
        The mean of 2 × 2 pixels of the level before.
    """

    path: str
    layout: ShardLayout
    downsample: float
    scale: Scale
    read_ratio: float
    derived: bool

    def shard_file(self, out: Path, row: int, column: int) -> Path:
        return self.layout.path(out / self.path, row, column)


@dataclass(frozen=True)
class ShardTask:
    """A shard to write.

    ``source`` is None for a derived level, which is made from ``finer``, already in the store. ``keep`` is a bool
    array (side, side) of the chunks that touch tissue, or None for all.
    """

    out: Path
    level: PlannedLevel
    row: int
    column: int
    source: SlideSource | None = None
    finer: PlannedLevel | None = None
    keep: npt.NDArray[np.bool_] | None = None

    @property
    def file(self) -> Path:
        return self.level.shard_file(self.out, self.row, self.column)


@dataclass(frozen=True)
class ShardSummary:
    """What became of a task: computed now or before, bytes of its file, how many parts of the source are lost."""

    level: str
    row: int
    column: int
    computed: bool
    bytes: int
    lost: int


def write_shards(tasks: tuple[ShardTask, ...]) -> tuple[ShardSummary, ...]:
    """Write several shards in order: a later one may be derived from an earlier one."""
    return tuple(write_shard(task) for task in tasks)


def write_shard(task: ShardTask) -> ShardSummary:
    """Compute a shard and give it its final name; one that has it already is left alone.

    A shard without a single chunk is written too, as an index of absent chunks: until the store is finished the
    file says that it was done.

    Raises
    ------
    ReadError
        A shard of this store that the task needs is damaged.
    EnvironmentFault
        The disk refuses.
    """
    if task.file.exists():
        return ShardSummary(
            task.level.path, task.row, task.column, False, task.file.stat().st_size, len(read_lost(task.file))
        )
    layout = task.level.layout
    window = layout.window(task.row, task.column)
    pixels = np.full((*window.shape, 3), FILL, dtype=np.uint8)
    slide = None if task.source is None else task.source.open()
    lost: dict[tuple[Window, str], None] = {}
    for block in _blocks(window, task.level.read_ratio, task.keep, layout):
        if slide is None:
            pixels[block.within(window)] = _from_finer(task, block)
        else:
            pixels[block.within(window)], damaged = _from_slide(slide, task.level, block)
            lost |= dict.fromkeys(damaged)
    content = encode_shard(layout, pixels, task.keep)
    with environment_faults(task.file):
        task.file.parent.mkdir(parents=True, exist_ok=True)
    if lost:  # before the shard, so that a shard that is there has said what it lacks
        write_bytes(lost_file(task.file), json.dumps([_window_list(*entry) for entry in lost]).encode())
    write_bytes(task.file, content)
    return ShardSummary(task.level.path, task.row, task.column, True, len(content), len(lost))


def lost_file(shard: Path) -> Path:
    """Where a shard's task notes the parts of the source that it could not read."""
    return shard.with_name(f"{shard.name}.lost.json")


def read_lost(shard: Path) -> list[list[Any]]:
    """[x, y, width, height, reason] of each part of a shard's source that was damaged, in pixels of the level."""
    try:
        return list(json.loads(lost_file(shard).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []


def _blocks(
    window: Window, ratio: float, keep: npt.NDArray[np.bool_] | None, layout: ShardLayout
) -> Iterator[Window]:
    """Squares that cover ``window`` and can be read at once, without those that hold no chunk to keep."""
    side = layout.shard
    while side > _SMALLEST_BLOCK_PX and side * ratio > _READ_PX:
        side //= 2
    for y in range(window.y, window.y1, side):
        for x in range(window.x, window.x1, side):
            block = Window(x, y, side, side).intersection(window)
            if keep is None:
                yield block
                continue
            rows = slice((block.y - window.y) // layout.chunk, -(-(block.y1 - window.y) // layout.chunk))
            columns = slice((block.x - window.x) // layout.chunk, -(-(block.x1 - window.x) // layout.chunk))
            touched = np.argwhere(keep[rows, columns])
            if len(touched) == 0:
                continue
            (top, left), (bottom, right) = touched.min(axis=0), touched.max(axis=0) + 1
            first_x, first_y = columns.start * layout.chunk, rows.start * layout.chunk
            yield Window(
                window.x + first_x + int(left) * layout.chunk,
                window.y + first_y + int(top) * layout.chunk,
                int(right - left) * layout.chunk,
                int(bottom - top) * layout.chunk,
            ).intersection(block)


def _from_slide(slide: Slide, level: PlannedLevel, block: Window) -> tuple[Pixels, list[tuple[Window, str]]]:
    scale = level.scale
    pixels, lost = slide.read_lossy(block, scale)
    damaged = [part for part in lost if not part.missing]
    return pixels, [(_lost_window(part, scale, level.layout), part.reason) for part in damaged]


def _lost_window(part: Lost, scale: Scale, layout: ShardLayout) -> Window:
    return scale.window(part.box).intersection(Window(0, 0, layout.width, layout.height))


def _from_finer(task: ShardTask, block: Window) -> Pixels:
    """The mean of 2 × 2 pixels, rounded half up; at an odd edge of those that there are."""
    assert task.finer is not None
    layout = task.finer.layout
    wanted = Window(block.x * 2, block.y * 2, block.width * 2, block.height * 2)
    inside = wanted.intersection(Window(0, 0, layout.width, layout.height))
    source = ShardedLevel(task.out / task.finer.path, layout, lambda row, column: "it was not written")
    pixels, unread = source.read(inside, WHITE)
    if unread:
        raise ReadError(
            f"{task.out}: level {task.finer.path} cannot be read back: {unread[0].reason}.\n"
            "Expected: the shards that were just written. Delete the folder and tile again; check the disk."
        )
    right, bottom = wanted.width - inside.width, wanted.height - inside.height
    if right or bottom:
        pixels = np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
    return box_mean(pixels, 2)


def _window_list(window: Window, reason: str) -> list[Any]:
    return [window.x, window.y, window.width, window.height, reason]
