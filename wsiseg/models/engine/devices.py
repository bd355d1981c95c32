"""What torch can compute on here."""

from __future__ import annotations


def cuda_device_count() -> int:
    """Number of CUDA devices that this process may use; importing torch takes a second the first time."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cuda_memory() -> tuple[int, ...]:
    """Bytes of memory of each CUDA device that this process may use. No context is made on any."""
    import torch

    return tuple(int(torch.cuda.get_device_properties(n).total_memory) for n in range(cuda_device_count()))
