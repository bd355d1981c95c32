"""Running a network on one device: precision, memory layout, batches, and one call at a time.

On a CPU, images run one by one in bfloat16 where the processor has it in hardware (AVX-512 BF16, AMX), else in
float32. On CUDA, images of one size run together; a batch that does not fit is halved.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsiseg.errors import ModelError, UsageError
from wsiseg.models.base import Image
from wsiseg.models.unet import UNet, channels_last, drop_auxiliary, fold_batch_norm

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Placement:
    """Where and how a network runs.

    Attributes
    ----------
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    precision : str
        ``fp32`` or ``bf16``.
    batch : int
        Most images that run together.
    """

    device: str
    precision: str
    batch: int


def place(device: str = "auto", precision: str = "auto") -> Placement:
    """Resolve ``auto``: CUDA where there is a device; bf16 where the hardware computes in it.

    Raises
    ------
    UsageError
        An unknown name, or a CUDA device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        index = device.partition(":")[2] or "0"
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise UsageError(
                f"device {device!r}: this machine shows torch {torch.cuda.device_count()} CUDA devices. "
                "Use --device cpu, or check the driver."
            )
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if kind == "cuda" else cpu_has_bf16()
        precision = "bf16" if fast else "fp32"
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"precision {precision!r}: expected auto, fp32 or bf16")
    return Placement(device, precision, 1 if kind == "cpu" else 8)


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


class Engine:
    """A network that is ready to run: images in, maps out. Safe to call from threads; one runs at a time.

    Parameters
    ----------
    network : UNet
        Trained; the engine takes it over (batch normalisation is folded, auxiliary outputs dropped).
    placement : Placement
    """

    def __init__(self, network: UNet, placement: Placement) -> None:
        self.placement = placement
        self.config = network.config
        dtype = torch.bfloat16 if placement.precision == "bf16" else torch.float32
        ready = drop_auxiliary(fold_batch_norm(network))
        self._network = channels_last(ready.to(placement.device, dtype))
        self._dtype = dtype
        self._lock = threading.Lock()

    def run(self, images: Sequence[Image]) -> list[tuple[Maps, Maps]]:
        """Foreground probability (h, w) and offsets (2, h, w: y, x in pixels), float32, of each image.

        The maps of an image do not depend on which others are given with it.

        Raises
        ------
        ModelError
            Memory does not suffice for a single image, or the network's output is not finite.
        ValueError
            An image whose sides are not multiples of the stride.
        """
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"expected uint8 (h, w, 3), got {image.dtype} {image.shape}")
            if image.shape[0] % self.config.stride_px or image.shape[1] % self.config.stride_px:
                raise ValueError(f"image of {image.shape[:2]}: sides must be multiples of {self.config.stride_px}")
        results: list[tuple[Maps, Maps] | None] = [None] * len(images)
        for group in _same_shape(images, self.placement.batch):
            for index, maps in zip(group, self._run_batch([images[n] for n in group]), strict=True):
                results[index] = maps
        return [maps for maps in results if maps is not None]

    def _run_batch(self, images: list[Image]) -> list[tuple[Maps, Maps]]:
        try:
            with self._lock:
                output = self._forward(images)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if len(images) == 1:
                h, w = images[0].shape[:2]
                raise ModelError(
                    f"the GPU's memory does not suffice for one image of {w} × {h}. Use a smaller --tile."
                ) from error
            half = len(images) // 2
            return self._run_batch(images[:half]) + self._run_batch(images[half:])
        if not np.isfinite(output).all():
            raise ModelError("the network's output is not finite: the weights do not suit this precision or image")
        scale = np.float32(self.config.offset_scale_px)
        return [(maps[0], maps[1:3] * scale) for maps in output]

    @torch.inference_mode()
    def _forward(self, images: list[Image]) -> npt.NDArray[np.float32]:
        stack = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
        # NHWC bytes viewed as NCHW are channels_last already: nothing is copied but the conversion.
        x = stack.to(self.placement.device).permute(0, 3, 1, 2).to(self._dtype)
        output: Tensor = self._network(x / 127.5 - 1.0).float()
        output[:, 0].sigmoid_()
        return output.cpu().contiguous().numpy()


def _same_shape(images: Sequence[Image], most: int) -> list[list[int]]:
    """Indices in groups of equal shape, at most ``most`` in each, in order."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    return [group[i : i + most] for group in by_shape.values() for i in range(0, len(group), most)]
