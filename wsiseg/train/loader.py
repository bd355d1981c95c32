"""Batches made ahead in processes, for a device that is faster than this process' threads.

Each process maps the pools for itself; tensors come back through shared memory, in the order of the steps, and are
pinned where there is a CUDA device, so that they can be copied while it computes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.util import Finalize

import torch
from torch.utils.data import DataLoader, Dataset

from wsiseg.errors import EnvironmentFault
from wsiseg.train.batches import Batch, BatchMaker

_AHEAD = 2
"""Batches that each process has ready."""
_LAST = -100
"""Below the priority of what a process sends before it ends."""


@dataclass(frozen=True)
class _Steps(Dataset[Batch]):
    """The batch of each step."""

    maker: BatchMaker

    def __getitem__(self, step: int) -> Batch:
        return self.maker.make(step)


def loaded_batches(maker: BatchMaker, first: int, stop: int, processes: int) -> Generator[Batch, None, None]:
    """The batches of the steps from ``first`` to before ``stop``, made by ``processes`` processes.

    They are those of :func:`wsiseg.train.batches.batches`, whatever the number of processes.

    Raises
    ------
    EnvironmentFault
        A process was killed.
    """
    steps: DataLoader[Batch] = DataLoader(
        _Steps(maker),
        batch_size=None,
        sampler=range(first, stop),
        num_workers=processes,
        prefetch_factor=_AHEAD,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn",  # a fork would carry along what CUDA and threads hold
        worker_init_fn=_begin,
        generator=torch.Generator(),
    )
    try:
        yield from steps
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise EnvironmentFault(
            f"a process that makes batches died: {str(error).splitlines()[0]}\nExpected: memory, and shared memory "
            "(/dev/shm), for all of them. The same command goes on; give it fewer --workers."
        ) from error


def _begin(number: int) -> None:
    """In a process, before its first batch."""
    # Ctrl-C reaches the whole group of processes; when to stop is for the training to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # After its last one nothing is left to tidy up, and taking torch apart takes longer than torch itself waits.
    Finalize(None, os._exit, args=(0,), exitpriority=_LAST)
