"""From the outputs of a network that others bring to the raw maps of a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsiseg.errors import ModelError
from wsiseg.models.foreign.interface import ForeignConfig, Interface, Pick

_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class OnnxNetwork:
    """A network in an ONNX file, for :func:`wsiseg.models.engine.openvino.onnx_backend`."""

    path: Path
    interface: Interface

    @property
    def config(self) -> ForeignConfig:
        return self.interface.config


class ScriptNetwork(nn.Module):
    """A TorchScript program with the interface of :mod:`wsiseg.models.networks`."""

    mean: Tensor
    std: Tensor

    def __init__(self, program: nn.Module, interface: Interface) -> None:
        super().__init__()
        self.program = program
        self.config = interface.config
        self.picks = interface.picks
        self.register_buffer("mean", torch.tensor(interface.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(interface.std).view(3, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = self.program(((x * 0.5 + 0.5) - self.mean) / self.std)
        return read_maps(outputs, self.picks, self.config, x.shape[2], x.shape[3])


def read_maps(
    outputs: Any, picks: Mapping[str, Pick], config: ForeignConfig, height: int, width: int
) -> dict[str, Tensor]:
    """A network's outputs (a tensor, a sequence or a mapping of them) as the raw maps of a head.

    Raises
    ------
    ModelError
        An output that is not there, that is not (N, channels, h, w), or of another size than promised.
    """
    maps = {}
    for name, pick in picks.items():
        value = _output(outputs, pick.output)
        if not isinstance(value, Tensor) or value.ndim != 4:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ModelError(f"output {pick.output!r} is {found}; expected a tensor (N, channels, h, w)")
        expected = config.output_shape(height, width)
        if tuple(value.shape[2:]) != expected:
            raise ModelError(
                f"output {pick.output!r} of an image of {height} × {width} is {value.shape[2]} × {value.shape[3]}; "
                f"the manifest says {expected[0]} × {expected[1]}"
            )
        channels = tuple(range(value.shape[1])) if pick.channels is None else pick.channels
        if len(channels) != config.outputs[name] or max(channels) >= value.shape[1]:
            raise ModelError(
                f"output {pick.output!r} has {value.shape[1]} channels; the map {name!r} is to have "
                f"{config.outputs[name]}, and the manifest picks {list(pick.channels or channels)}"
            )
        maps[name] = _raw(value[:, list(channels)].float(), pick)  # in bfloat16 a probability just below 1 is 1
    return maps


def _output(outputs: Any, key: int | str) -> Any:
    if isinstance(outputs, Tensor) and key == 0:
        return outputs
    if isinstance(outputs, Mapping):
        values: Sequence[Any] = list(outputs.values())
        if isinstance(key, str) and key in outputs:
            return outputs[key]
        names = f": {', '.join(map(str, outputs))}"
    else:
        values = outputs if isinstance(outputs, list | tuple) else [outputs]
        names = ""
    if isinstance(key, str) or key >= len(values):
        raise ModelError(f"there is no output {key!r}; the network has {len(values)}{names}")
    return values[key]


def _raw(value: Tensor, pick: Pick) -> Tensor:
    if pick.values == "logits":
        return value if pick.scale == 1.0 else value * pick.scale
    low, high = float(value.min()), float(value.max())
    if not (low >= -_LEAST_PROBABILITY and high <= 1 + 1e-3):
        raise ModelError(f"output {pick.output!r} has values from {low:.3g} to {high:.3g}, not probabilities")
    if value.shape[1] == 1:
        return value.clamp(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY).logit()
    return value.clamp(min=_LEAST_PROBABILITY).log()
