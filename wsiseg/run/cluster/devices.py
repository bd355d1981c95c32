"""What this machine computes on."""

from __future__ import annotations

import os

from dask.system import CPU_COUNT

from wsiseg.errors import EnvironmentFault


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


def visible_devices(most: int | None = None) -> list[str]:
    """The CUDA devices by the names that CUDA_VISIBLE_DEVICES has for them, ``most`` at most."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(cuda_devices())]
    return names[:most] if most else names


def threads_per_device(count: int) -> int:
    """Threads of the process of each of ``count`` devices: some read and decode while one holds the device."""
    return max(2, min(12, available_cores() // count))
