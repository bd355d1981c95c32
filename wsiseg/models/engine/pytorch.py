"""Networks in torch, on a processor or a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsiseg.models.base import Image
from wsiseg.models.engine.backend import Backend
from wsiseg.models.engine.folding import fold_batch_norm
from wsiseg.models.networks.sizes import input_side
from wsiseg.models.networks.unet import UNet, drop_auxiliary


def torch_backend(network: nn.Module, device: str, precision: str, maps: Sequence[str]) -> Backend:
    """``network`` in ``precision`` (``fp32``, ``bf16``) on ``device``, in the layout that is fastest.

    The network is taken over: batch normalisation is folded, maps that are not in ``maps`` are dropped.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    ready = simplified(network).to(device, dtype)
    ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def compute(images: Sequence[Image]) -> Tensor:
        # NHWC bytes viewed as NCHW are channels_last already: nothing is copied but the conversion.
        x = _bytes_on(device, images).permute(0, 3, 1, 2).to(dtype)
        found: dict[str, Tensor] = ready(x / 127.5 - 1.0)
        return torch.cat([found[name] for name in maps], dim=1).float()

    return compute


def _bytes_on(device: str, images: Sequence[Image]) -> Tensor:
    """Images (N, h, w, 3) on a device: joined in memory that a CUDA device copies from by itself."""
    shape = (len(images), *images[0].shape)
    joined = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.device(device).type == "cuda")
    np.stack(images, out=joined.numpy())
    return joined.to(device, non_blocking=True)


def simplified(network: nn.Module) -> nn.Module:
    """The network for inference in float32, in place: no auxiliary maps, batch normalisation folded."""
    config: Any = network.config
    ready = drop_auxiliary(network) if isinstance(network, UNet) else network
    ready = ready.to("cpu", torch.float32).eval()
    if not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules()):
        return ready
    side = input_side(config, config.stride_px)[0]
    return fold_batch_norm(ready, torch.zeros(1, 3, side, side))
