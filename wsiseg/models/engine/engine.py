"""Running any network on one device: sizes, precision, memory layout, batches, one call at a time.

On a CPU, images run one by one in bfloat16 where the processor has it in hardware (AVX-512 BF16, AMX), else in
float32, by torch or by OpenVINO. On CUDA, images of one size run together; a batch that does not fit is halved.
What a network's maps lack of its image is mirrored around it first, and networks that need much memory see an
image in windows (:mod:`wsiseg.models.engine.windows`), which idle cores may share
(:func:`wsiseg.models.engine.threads.side_by_side`): the maps always have the image's size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from wsiseg.errors import ModelError, UsageError
from wsiseg.models.base import Image
from wsiseg.models.engine.backend import Backend
from wsiseg.models.engine.pytorch import torch_backend
from wsiseg.models.engine.threads import share
from wsiseg.models.engine.windows import Piece, pieces
from wsiseg.models.foreign.outputs import OnnxNetwork
from wsiseg.models.heads import Head, Maps, head_of

ENGINES = ("auto", "torch", "openvino")
_NO_MEMORY = (
    "the GPU's memory does not suffice for one image. Use a smaller --tile, or fewer --workers where they share it."
)
_NOT_FINITE = "the network's output is not finite: the weights do not suit this precision or image"

_Result = TypeVar("_Result")


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
    engine : str
        ``torch`` or ``openvino``.
    """

    device: str
    precision: str
    batch: int
    engine: str = "torch"


def place(device: str = "auto", precision: str = "auto", engine: str = "auto") -> Placement:
    """Resolve ``auto``: CUDA where there is a device; bf16 where the hardware computes in it; torch.

    Raises
    ------
    UsageError
        An unknown name, a CUDA device that is not there, or OpenVINO on one.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r}: expected {', '.join(ENGINES)}")
    if engine == "openvino" and device == "auto":
        device = "cpu"
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind != "cuda" and device != "cpu":
        raise UsageError(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and engine == "openvino":
        raise UsageError(f"device {device!r}: OpenVINO is for processors only. Use --device cpu or --engine torch.")
    if kind == "cuda":
        index = device.partition(":")[2] or "0"
        if not index.isdecimal() or int(index) >= torch.cuda.device_count():
            raise UsageError(
                f"device {device!r}: this machine shows torch {torch.cuda.device_count()} CUDA devices. "
                "Use --device cpu, or check the driver."
            )
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if kind == "cuda" else cpu_has_bf16()
        precision = "bf16" if fast else "fp32"
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"precision {precision!r}: expected auto, fp32 or bf16")
    return Placement(device, precision, 1 if kind == "cpu" else 8, "torch" if engine == "auto" else engine)


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


class Engine:
    """A network that is ready to run: images in, the decoder's maps out. Threads may share it; one runs at a time.

    Parameters
    ----------
    network : Module or OnnxNetwork
        Trained, with a ``config`` as those of :mod:`wsiseg.models.networks`; the engine takes it over (batch
        normalisation is folded, auxiliary maps dropped).
    placement : Placement
    head : Head, optional
        What the maps mean; by default the head that has such maps.
    """

    def __init__(self, network: nn.Module | OnnxNetwork, placement: Placement, head: Head | None = None) -> None:
        self.placement = placement
        config: Any = network.config
        self.config = config
        self.head = head or head_of(config.outputs)
        self._channels = {name: config.outputs[name] for name in self.head.inputs if name in config.outputs}
        self._backend = _backend(network, placement, tuple(self._channels))
        on_torch = (placement.device, placement.engine) == ("cpu", "torch")
        self._shared = on_torch and isinstance(network, nn.Module)  # OpenVINO has threads of its own
        self._lock = threading.Lock()

    def run(self, images: Sequence[Image]) -> list[tuple[Maps, ...]]:
        """:meth:`run_on_device`, with the maps as arrays."""
        return [tuple(one.cpu().numpy() for one in maps) for maps in self.run_on_device(images)]

    @torch.inference_mode()
    def run_on_device(self, images: Sequence[Image]) -> list[tuple[Tensor, ...]]:
        """What the head's decoder reads of each image: float32 (h, w) or (channels, h, w), of the image's size.

        See :meth:`wsiseg.models.heads.Head.activate`. The maps of an image do not depend on which others are given
        with it. They lie where the network ran: only bytes go up, and nothing comes down.

        Raises
        ------
        ModelError
            Memory does not suffice for a single image, or the network's output is not finite.
        ValueError
            An image whose sides are not multiples of the stride.
        """
        stride = self.config.stride_px
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"expected uint8 (h, w, 3), got {image.dtype} {image.shape}")
            if image.shape[0] % stride or image.shape[1] % stride or image.size == 0:
                raise ValueError(f"image of {image.shape[:2]}: sides must be multiples of {stride}, and not 0")
        found = [pieces(image, self.config) for image in images]
        flat = [(n, piece) for n, parts in enumerate(found) for piece in parts]
        whole: list[Tensor | None] = [None] * len(images)
        groups = _same_shape([piece.pixels for _, piece in flat], self.placement.batch)
        batches = [[flat[k][1].pixels for k in group] for group in groups]
        with self._lock:
            computed = (share if self._shared else map)(self._run_batch, batches)
            for group, outputs in zip(groups, computed, strict=True):
                for k, output in zip(group, outputs, strict=True):
                    n, piece = flat[k]
                    whole[n] = _place(whole[n], piece, output, images[n].shape[:2], alone=len(found[n]) == 1)
        return [self.head.split(maps, self._channels) for maps in whole if maps is not None]

    def _run_batch(self, images: list[Image]) -> list[Tensor]:
        output = self._attempt(lambda: self._forward(images))
        if output is not None:
            return list(output)
        torch.cuda.empty_cache()
        if len(images) == 1:
            raise ModelError(_NO_MEMORY)
        half = len(images) // 2
        return self._run_batch(images[:half]) + self._run_batch(images[half:])

    def with_memory(self, compute: Callable[[], _Result]) -> _Result:
        """What ``compute`` gives on the device; tried again with all that is free where memory does not suffice.

        Raises
        ------
        ModelError
            It does not suffice then either.
        """
        with self._lock:
            result = self._attempt(compute)
            if result is None:
                torch.cuda.empty_cache()
                result = self._attempt(compute)
        if result is None:
            raise ModelError(_NO_MEMORY)
        return result

    def _attempt(self, compute: Callable[[], _Result]) -> _Result | None:
        """What ``compute`` gives, or None where the GPU's memory does not suffice.

        The error ends here: while it lives, its traceback holds what the failed attempt has allocated.
        """
        try:
            return compute()
        except torch.cuda.OutOfMemoryError:
            return None

    @torch.inference_mode()  # which holds for one thread
    def _forward(self, images: list[Image]) -> Tensor:
        """All maps of images of one shape, one after the other: (N, channels, h', w')."""
        raw = self._backend(images)
        if not bool(raw.isfinite().all()):  # a sigmoid or an argmax would make numbers of what is none
            raise ModelError(_NOT_FINITE)
        parts = raw.split(list(self._channels.values()), dim=1)
        active = self.head.activate(dict(zip(self._channels, parts, strict=True)))
        return torch.cat([x[:, None] if x.ndim == 3 else x for x in active], dim=1).contiguous()


def _backend(network: nn.Module | OnnxNetwork, placement: Placement, maps: tuple[str, ...]) -> Backend:
    if isinstance(network, OnnxNetwork):
        from wsiseg.models.engine.openvino import onnx_backend

        return onnx_backend(network, placement.precision, maps)
    if placement.engine == "openvino":
        from wsiseg.models.engine.openvino import openvino_backend

        return openvino_backend(network, placement.precision, maps)
    return torch_backend(network, placement.device, placement.precision, maps)


def _place(whole: Tensor | None, piece: Piece, output: Tensor, shape: tuple[int, ...], alone: bool) -> Tensor:
    """Put what is kept of a piece's maps into those of its image."""
    part = output[:, piece.inner[0], piece.inner[1]]
    if alone:
        return part
    if whole is None:
        whole = output.new_empty((len(output), *shape))
    whole[:, piece.outer[0], piece.outer[1]] = part
    return whole


def _same_shape(images: Sequence[Image], most: int) -> list[list[int]]:
    """Indices in groups of equal shape, at most ``most`` in each, in order."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    return [group[i : i + most] for group in by_shape.values() for i in range(0, len(group), most)]
