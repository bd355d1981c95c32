"""What torch can compute on here."""

from __future__ import annotations

import ctypes
import os


def cuda_device_count() -> int:
    """Number of CUDA devices that this process may use.

    Torch, which takes seconds to import, is asked only where there is a driver.
    """
    if not has_driver():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cuda_memory() -> tuple[int, ...]:
    """Bytes of memory of each CUDA device that this process may use. No context is made on any."""
    import torch

    return tuple(int(torch.cuda.get_device_properties(n).total_memory) for n in range(cuda_device_count()))


def has_driver() -> bool:
    """Whether NVIDIA's driver library is there, or the device of AMD's, which torch shows as CUDA devices."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return os.path.exists("/dev/kfd")
    return True
