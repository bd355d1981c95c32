"""What makes a device compute the same every time."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Within, a CUDA ``device`` gives the same result for the same computation; a processor does anyway.

    Algorithms of torch that have no such variant would be said in a warning; the networks of this package use none
    whose result depends on an order: they pool windows that do not overlap. Settings are put back afterwards.
    """
    if not device.startswith("cuda"):
        yield
        return
    # Read when CUDA's library for matrices is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # its attributes are made at run time
    benchmark, filled = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False  # it would choose among algorithms by their time
    memory.fill_uninitialized_memory = False  # nothing here reads what it has not written
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="max_pool2d_with_indices_backward_cuda")
            yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = filled
