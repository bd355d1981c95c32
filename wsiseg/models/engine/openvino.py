"""Networks in OpenVINO, on processors: the extra ``wsiseg[openvino]``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence, Set
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsiseg.errors import ModelError, UsageError
from wsiseg.models.base import Image
from wsiseg.models.engine.backend import Backend
from wsiseg.models.engine.pytorch import simplified
from wsiseg.models.foreign.outputs import OnnxNetwork, read_maps
from wsiseg.models.networks.sizes import input_side

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_MOST_ERROR = 0.1  # of a map's root mean square; a wrong conversion is off by more than bfloat16


def openvino_backend(network: nn.Module, precision: str, maps: Sequence[str]) -> Backend:
    """``network`` converted, its maps on a random image compared with those of torch.

    The network is taken over, as by torch's backend.

    Raises
    ------
    UsageError
        OpenVINO is not installed.
    ModelError
        OpenVINO cannot convert the network, or the result gives other maps.
    """
    require_openvino()
    import openvino

    whole = _Whole(simplified(network), maps).eval()
    config: Any = network.config
    side = input_side(config, config.stride_px)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, of every comparison of sizes: below, maps are compared
            model = openvino.convert_model(whole, example_input=torch.zeros(1, side, side, 3, dtype=torch.uint8))
        model.reshape([-1, -1, -1, 3])
    except Exception as error:  # whatever the converter raises
        raise ModelError(f"OpenVINO cannot convert the network ({_line(error)}). Use --engine torch.") from error
    compute = compiled(model, precision)

    def backend(images: Sequence[Image]) -> Tensor:
        return compute(np.stack(images))[0]

    other = [input_side(config, count * config.stride_px)[0] for count in (3, 2)]
    sample = np.random.default_rng(0).integers(0, 256, (1, *other, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected, found = whole(torch.from_numpy(sample)), backend(list(sample))
    alike = found.shape == expected.shape
    off = float((found - expected).square().mean().sqrt()) if alike else float("inf")
    if not off <= _MOST_ERROR * float(expected.square().mean().sqrt()) + 1e-6:
        raise ModelError("OpenVINO's maps of this network differ from torch's. Use --engine torch.")
    return backend


def onnx_backend(network: OnnxNetwork, precision: str, maps: Sequence[str]) -> Backend:
    """A network in an ONNX file.

    Raises
    ------
    UsageError
        OpenVINO is not installed.
    ModelError
        The file cannot be read, or it does not take images (N, 3, h, w) of any size.
    """
    require_openvino()
    import openvino
    from openvino.preprocess import PrePostProcessor

    path, about = network.path, network.interface
    try:
        model = _core().read_model(path)
    except RuntimeError as error:
        raise ModelError(f"{path}: no ONNX file that OpenVINO can read ({_line(error)})") from error
    shapes = [item.partial_shape for item in model.inputs]
    if len(shapes) != 1 or shapes[0].rank.is_dynamic or len(shapes[0]) != 4:
        raise ModelError(f"{path}: its inputs are {[str(shape) for shape in shapes]}; expected one of (N, 3, h, w)")
    try:
        model.reshape([-1, 3, -1, -1])
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        to_float = steps.input().preprocess().convert_element_type(openvino.Type.f32)
        to_float.mean([255 * x for x in about.mean]).scale([255 * x for x in about.std])
        compute = compiled(steps.build(), precision)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: it does not take images (N, 3, h, w) of any height and width ({_line(error)}). "
            "Export it with dynamic axes."
        ) from error
    names = _names([item.names for item in model.outputs], {pick.output for pick in about.picks.values()})

    def backend(images: Sequence[Image]) -> Tensor:
        outputs = dict(zip(names, compute(np.stack(images)), strict=True))
        found = read_maps(outputs, about.picks, about.config, *images[0].shape[:2])
        return torch.cat([found[name] for name in maps], dim=1)

    return backend


def compiled(model: Any, precision: str) -> Callable[[npt.NDArray[np.uint8]], list[Tensor]]:
    """A model of OpenVINO that takes uint8 (N, h, w, 3), ready to run, with as many threads as torch has."""
    options = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = _core().compile_model(model, "CPU", options).create_infer_request()

    def compute(images: npt.NDArray[np.uint8]) -> list[Tensor]:
        request.infer([images])
        # Copies: the request's own memory is written again by the next call.
        return [torch.from_numpy(np.array(tensor.data, dtype=np.float32)) for tensor in request.output_tensors]

    return compute


@cache
def _core() -> Any:
    """One for as long as the process lives.

    The first model that a core compiles gives its thread another stack for signals, and the core takes that memory
    away when it ends. If it ends on another thread, the earlier stack is not put back: the next signal (Ctrl-C, the
    end of a child) kills the process without a word.
    """
    import openvino

    return openvino.Core()


def require_openvino() -> None:
    """Raise UsageError, with the remedy, where OpenVINO is not installed."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "OpenVINO is not installed. Install it with: pip install 'wsiseg[openvino]', or use --engine torch."
        ) from error


class _Whole(nn.Module):
    """From bytes to one tensor of maps, so that OpenVINO does all of it."""

    def __init__(self, network: nn.Module, maps: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.maps = tuple(maps)

    def forward(self, images: Tensor) -> Tensor:
        found = self.network(images.permute(0, 3, 1, 2).float() / 127.5 - 1.0)
        return torch.cat([found[name] for name in self.maps], dim=1)


def _names(outputs: Sequence[Set[str]], asked: Set[int | str]) -> list[str]:
    """One name for each output, if there is one that is asked for: OpenVINO gives equal outputs all their names."""
    names: list[str] = []
    for position, found in enumerate(outputs):
        free = sorted(found - set(names), key=lambda name: (name not in asked, name))
        names.append(free[0] if free else str(position))
    return names


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
