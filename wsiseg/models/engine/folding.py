"""Batch normalisation merged into the convolutions before it, for any network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@torch.no_grad()
def fold_batch_norm(network: nn.Module, example: Tensor) -> nn.Module:
    """Merge each batch normalisation into the convolution whose output it alone reads, in place.

    For inference only. One run on ``example`` shows which tensors go where; a normalisation behind anything but a
    convolution, or of an output that something else reads as well or that the network returns, stays.

    Parameters
    ----------
    network : Module
    example : Tensor (N, 3, h, w)
        An image that the network takes; its values do not matter.
    """
    network.eval()
    uses = _Uses()
    with uses:
        outputs = network(example)
    uses.read(_tensors([outputs]))
    owners: dict[int, tuple[str, nn.Module]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and module.weight is not None:
            owners[id(module.weight)] = (name, module)
    for produced, norm_weight in uses.pairs():
        (_, conv), (name, norm) = owners.get(produced, ("", None)), owners.get(norm_weight, ("", None))
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded = nn.utils.fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = folded.weight, folded.bias
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Identity())
    return network


class _Uses(TorchFunctionMode):
    """Which calls of torch read which tensor while a network runs."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: list[Tensor] = []  # so that an id means one tensor
        self._readers: Counter[int] = Counter()
        self._convolutions: dict[int, int] = {}  # output: weight
        self._norms: list[tuple[int, int]] = []  # input, weight
        self._weights: Counter[int] = Counter()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not _tensors([result]):  # a shape or a flag is no use of the values
            return result
        given = [*_tensors(args), *_tensors(kwargs.values())]
        self.read(given)
        if func is torch.conv2d:
            self._alive.append(result)
            self._convolutions[id(result)] = id(given[1])
            self._weights[id(given[1])] += 1
        weight = kwargs.get("weight")
        if func is nn.functional.batch_norm and isinstance(weight, Tensor):
            self._norms.append((id(args[0]), id(weight)))
            self._weights[id(weight)] += 1
        return result

    def read(self, tensors: list[Tensor]) -> None:
        """Note that something reads these tensors."""
        self._alive += tensors
        self._readers.update({id(tensor) for tensor in tensors})

    def pairs(self) -> list[tuple[int, int]]:
        """Weights of convolutions and of the normalisations that alone read their output, each used once."""
        found = [(self._convolutions[x], norm) for x, norm in self._norms if x in self._convolutions]
        lonely = {self._convolutions[x]: self._readers[x] for x, _ in self._norms if x in self._convolutions}
        return [
            (conv, norm)
            for conv, norm in found
            if lonely[conv] == 1 and self._weights[conv] == 1 and self._weights[norm] == 1
        ]


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
        elif isinstance(value, Mapping):
            found += _tensors(value.values())
    return found
