"""The tasks that map a slide's artefacts: block by block at 1 µm, then the overview, then one map of both.

They read and write the slide's work folder and may run twice. A block's map is a file of its own, so that a stopped
run goes on with the blocks that it lacks. Blocks lie on a lattice of their own, the same for every tile size; what
they hold is told from the tissue of the whole slide, so a region of interest has the artefacts that the slide has
there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.artefacts.fine import blocks, find_fine
from wsiseg.artefacts.map import join_artefacts
from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Window
from wsiseg.errors import DamagedFile, SlideError
from wsiseg.results.artefactfile import ARTEFACT_MAP, load_artefacts, save_bits
from wsiseg.results.folder import WorkFolder
from wsiseg.results.job import WorkJob
from wsiseg.results.planned import open_planned, read_planned, read_whole
from wsiseg.results.stages import ARTEFACTS, Timed
from wsiseg.tissue import TISSUE_MPP

_BLOCKS = "artefacts"
"""The folder in the work folder with the blocks' maps."""


@dataclass(frozen=True)
class BlockJob:
    """A block of cells; ``alone``: a worker died of it, ``lost``: it is given up, and without artefacts."""

    work: WorkFolder
    number: int
    block: Window
    alone: bool = False
    lost: bool = False

    @property
    def name(self) -> str:
        return f"{_BLOCKS}/{self.number:06d}"

    @property
    def file(self) -> Path:
        return self.work.path / f"{self.name}.npz"

    def retries(self) -> Sequence[BlockJob]:
        """The same alone, then without: see :mod:`wsiseg.run.isolation`."""
        if not self.alone:
            return (replace(self, alone=True),)
        return () if self.lost else (replace(self, lost=True),)


def plan_artefacts(job: WorkJob) -> list[BlockJob]:
    """The blocks that are still to be looked at."""
    work = job.work
    if _joined(work) is not None:
        return []
    with environment_faults(work.path):
        (work.path / _BLOCKS).mkdir(exist_ok=True)
    return [block for block in _block_jobs(work) if _bits(block) is None]


def find_block(job: BlockJob) -> float:
    """The artefacts of a block, into the work folder; the seconds it took."""
    started = time.perf_counter()
    plan, _ = read_planned(job.work)
    tissue = read_whole(job.work)
    if job.lost:
        bits = np.zeros(job.block.shape, dtype=np.uint16)
    else:
        with open_planned(job.work, plan, guarded=job.alone) as slide:
            bits = find_fine(slide, tissue, job.block)
    save_bits(job.file, bits, tissue.scale.downsample)
    seconds = time.perf_counter() - started
    job.work.finish_stage(job.name, Timed(seconds))
    return seconds


def join_blocks(job: WorkJob) -> float:
    """The slide's map, of its blocks and its overview; the seconds that all of it has taken.

    Raises
    ------
    SlideError
        A block is missing.
    """
    work, finished = job.work, _joined(job.work)
    if finished is not None:
        return finished.seconds
    started = time.perf_counter()
    plan, _ = read_planned(work)
    jobs = _block_jobs(work)

    def found(block: BlockJob) -> tuple[Window, npt.NDArray[np.uint16]]:
        bits = _bits(block)
        if bits is None:
            raise SlideError(f"{work.path} was changed during the run. Run the same command again.")
        return block.block, bits

    with open_planned(work, plan, guarded=job.alone) as slide:
        image, _ = slide.overview(max(TISSUE_MPP, plan.mpp))
    artefacts = join_artefacts(read_whole(work), image, plan.mpp, map(found, jobs))
    save_bits(work.path / ARTEFACT_MAP, artefacts.bits, artefacts.scale.downsample)
    timed = (work.stage(block.name, Timed) for block in jobs)
    seconds = sum(one.seconds for one in timed if one) + time.perf_counter() - started
    work.finish_stage(ARTEFACTS, Timed(seconds))
    return seconds


def _joined(work: WorkFolder) -> Timed | None:
    """What the finished stage has left, if its map is whole."""
    try:
        load_artefacts(work.path / ARTEFACT_MAP)
    except DamagedFile:
        return None
    return work.stage(ARTEFACTS, Timed)


def _block_jobs(work: WorkFolder) -> list[BlockJob]:
    plan, tissue = read_planned(work)
    whole = read_whole(work)
    wanted = replace(tissue, core=tissue.mask & whole.core)
    return [BlockJob(work, number, block) for number, block in enumerate(blocks(wanted, plan.mpp))]


def _bits(job: BlockJob) -> npt.NDArray[np.uint16] | None:
    """The map of a block; None where it is not there or damaged."""
    try:
        return load_artefacts(job.file).bits
    except DamagedFile:
        return None
