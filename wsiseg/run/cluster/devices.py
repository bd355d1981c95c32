"""What this machine computes on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from dask.system import CPU_COUNT

from wsiseg.errors import EnvironmentFault

DEVICE_BYTES = 4 << 30
"""Device memory that a process is expected to need: its context, a tile's way through network and decoder."""


def resolve_device(device: str) -> str:
    """ "auto" as "cuda" where there is a CUDA device, else "cpu"."""
    if device == "cpu":
        return "cpu"
    count = cuda_devices()
    if device == "cuda" and count == 0:
        raise EnvironmentFault(
            "--device cuda: torch sees no CUDA device. Check nvidia-smi and that torch is a CUDA build, "
            "or use --device cpu."
        )
    return "cuda" if count else "cpu"


def cuda_devices() -> int:
    """Number of visible CUDA devices."""
    from wsiseg.models.engine.devices import cuda_device_count

    return cuda_device_count()


def available_cores() -> int:
    """Cores this process may run on (affinity and container limits respected where the system tells)."""
    return max(1, int(CPU_COUNT))


def cuda_memory() -> tuple[int, ...]:
    """Bytes of memory of each visible CUDA device."""
    from wsiseg.models.engine.devices import cuda_memory

    return cuda_memory()


def visible_devices(count: int) -> list[str]:
    """The first ``count`` CUDA devices by the names that CUDA_VISIBLE_DEVICES has for them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else [str(i) for i in range(count)]
    return names[:count]


def dealt_devices(names: Sequence[str], memory: Sequence[int], cores: int, workers: int | None = None) -> list[str]:
    """The device of each worker process, dealt round.

    A tile's way is mostly the processor's work, which threads of one process do in turns where Python is in
    it: processes share a device better (docs/design.md, "A device and its processes").

    Parameters
    ----------
    names : sequence of str
        Devices as ``CUDA_VISIBLE_DEVICES`` names them: numbers, UUIDs of devices or of MIG slices.
    memory : sequence of int
        Bytes of each.
    cores : int
        Processes that the machine has room for.
    workers : int, optional
        Processes that the user asks for, whatever there is room for.

    Returns
    -------
    list of str
        As many as there are cores, but of each device no more than it has memory for, and at least one.
    """
    if workers:
        return [names[place % len(names)] for place in range(workers)]
    room = {name: max(1, size // DEVICE_BYTES) for name, size in zip(names, memory, strict=True)}
    rounds = (name for turn in range(max(room.values())) for name in names if turn < room[name])
    return list(itertools.islice(rounds, max(cores, len(names))))


def cuda_places(workers: int | None) -> list[str]:
    """The device of each process of a local cluster with ``workers`` of them, or as many as suit this machine."""
    memory = cuda_memory()
    return dealt_devices(visible_devices(len(memory)), memory, available_cores(), workers)


def local_workers(device: str, workers: int | None) -> int:
    """How many processes compute on this machine where ``workers`` are asked for; 0 is this one."""
    if workers is not None:
        return max(1, workers)
    return len(cuda_places(None)) if device == "cuda" else available_cores()


def threads_per_device(count: int) -> int:
    """Threads of the process of each of ``count`` devices where there is one a device, as dask-cuda has it."""
    return max(2, min(12, available_cores() // count))
