"""What makes a device compute the same every time, and what may keep torch from compiling for it."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from wsiseg.errors import EnvironmentFault

_COMPILER = ("torch._dynamo", "torch._inductor")
"""Where torch defines the errors of its compiler."""


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


@contextlib.contextmanager
def compiler_faults() -> Iterator[None]:
    """Within, a network that torch cannot compile is the environment's fault.

    Raises
    ------
    EnvironmentFault
        There is no compiler, or none that torch's code suits.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(_COMPILER):
            raise
        raise EnvironmentFault(
            f"torch cannot compile the network here: {str(error).strip().splitlines()[0]}\n"
            "Expected: a C++ compiler, on a GPU Triton as well, that this version of torch knows. Train without "
            "--compile: the same command without it goes on."
        ) from error
