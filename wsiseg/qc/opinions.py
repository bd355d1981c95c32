"""The tasks that ask second opinions on a slide's patches.

They see the image alone, so that they run beside the tiles; what they find is kept until there are nuclei.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from wsiseg.core.geometry import Box
from wsiseg.errors import ReadError
from wsiseg.models.resident import resident_segmenter
from wsiseg.qc.blocks import (
    OPINIONS,
    BlockJob,
    GradeJob,
    choose_patches,
    chosen_patches,
    missing_blocks,
    read_block,
    read_blocks,
    read_patch,
    seconds_of,
    write_block,
)
from wsiseg.qc.opinion import Opinion, opinion_on
from wsiseg.results.folder import WorkFolder
from wsiseg.results.planned import open_planned, read_planned


def plan_opinions(job: GradeJob) -> list[BlockJob]:
    """Choose the slide's patches; the blocks of them on which there is no opinion yet."""
    choose_patches(job)
    return missing_blocks(job, OPINIONS)


def ask_opinions(job: BlockJob) -> None:
    """The opinions on some patches, into the work folder; of one that cannot be read there is none."""
    started = time.perf_counter()
    found: dict[int, Opinion | None] = dict.fromkeys(job.indices)
    if not job.lost and job.opinion is not None:
        plan, _ = read_planned(job.work)
        patches, segmenter = chosen_patches(job.work), resident_segmenter(job.opinion)
        with open_planned(job.work, plan, guarded=job.alone) as slide:
            for index in job.indices:
                try:
                    found[index] = opinion_on(slide, patches.box(index), segmenter)
                except ReadError:
                    continue
    write_block(job, _as_table(found), time.perf_counter() - started)


def opinions_on(job: BlockJob) -> dict[int, Opinion]:
    """The opinions on a job's patches, where there are any.

    Raises
    ------
    SlideError
        They were not asked.
    """
    return _as_opinions(read_block(job, OPINIONS))


def opinion_on_patch(work: WorkFolder, index: int) -> Opinion | None:
    """The opinion on one patch of a slide; raises as :func:`opinions_on`."""
    return _as_opinions(read_patch(work, OPINIONS, index)).get(index)


def asking_seconds(work: WorkFolder) -> float:
    """What all opinions took, all workers together."""
    return seconds_of(read_blocks(work, OPINIONS, ["index"]))


def _as_table(found: Mapping[int, Opinion | None]) -> pa.Table:
    """A row for each patch; null where there is no opinion on it."""
    lost = [None if one is None else [[b.x0, b.y0, b.x1, b.y1] for b in one.lost] for one in found.values()]
    return pa.table(
        {
            "index": pa.array(list(found), pa.int64()),
            "height": pa.array([one and one.labels.shape[0] for one in found.values()], pa.int32()),
            "labels": pa.array([one and one.labels.astype("<i4").tobytes() for one in found.values()], pa.binary()),
            "score": pa.array([one and one.score for one in found.values()], pa.list_(pa.float32())),
            "lost": pa.array(lost, pa.list_(pa.list_(pa.float64()))),
        }
    )


def _as_opinions(tables: list[pa.Table]) -> dict[int, Opinion]:
    rows = [row for table in tables for row in table.to_pylist() if row["labels"] is not None]
    return {
        row["index"]: Opinion(
            np.frombuffer(row["labels"], dtype="<i4").reshape(row["height"], -1),
            np.array(row["score"], dtype=np.float32),
            tuple(Box(*corners) for corners in row["lost"]),
        )
        for row in rows
    }
