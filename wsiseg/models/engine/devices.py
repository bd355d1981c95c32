"""What torch can compute on here."""

from __future__ import annotations


def cuda_device_count() -> int:
    """Number of CUDA devices that this process may use; importing torch takes a second the first time."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
