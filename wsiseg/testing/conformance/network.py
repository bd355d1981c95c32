"""What every network must pass, and the facts of a network that the documentation states.

A network is a torch module with ``config``; see :mod:`wsiseg.models.networks`. A new network passes when each
function here returns for it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")


def configuration(network: nn.Module) -> Any:
    """What the network says of itself; torch's types allow for any attribute and know none."""
    return network.config


def image(height: int, width: int, batch: int = 1, device: torch.device = CPU, seed: int = 0) -> Tensor:
    """Smooth noise (batch, 3, height, width) in [-1, 1]."""
    if device.type == "meta":
        return torch.empty(batch, 3, height, width, device=device)
    noise = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(nn.functional.avg_pool2d(noise, 3, 1, 1) * 3).to(device)


def check_shapes(network: nn.Module, height: int, width: int) -> None:
    """Maps by name, with the channels and the size that the configuration promises."""
    device = next(network.parameters()).device
    maps = network(image(height, width, 2, device))
    assert {name: value.shape[1] for name, value in maps.items()} == dict(configuration(network).outputs)
    for value in maps.values():
        assert value.shape[0] == 2
        assert tuple(value.shape[2:]) == configuration(network).output_shape(height, width)
        assert value.dtype == torch.float32


def check_refusals(network: nn.Module, height: int, width: int) -> None:
    """A size that does not fit is refused in words, by the configuration and by the network alike."""
    messages = []
    for refuse in (configuration(network).output_shape, lambda h, w: network(image(h, w))):
        try:
            refuse(height, width)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) == 2, f"{height} × {width} was accepted"
    assert all(f"{height} × {width}" in message for message in messages)


def check_gradients(network: nn.Module, height: int, width: int) -> None:
    """In training every parameter gets a finite gradient that is not zero, from a loss over all maps."""
    network.train()
    torch.manual_seed(0)
    maps = network(image(height, width, 2))
    sum((value - 1).square().mean() for value in maps.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} is not used"
        assert bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite"
        assert bool(parameter.grad.any()), f"the gradient of {name} is zero"
    network.zero_grad(set_to_none=True)
    network.eval()


@torch.inference_mode()
def check_determinism(network: nn.Module, height: int, width: int) -> None:
    """In evaluation the same image gives the same maps, alone or in a batch with another, and leaves no trace."""
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = image(height, width, 2)
    first, second, alone = network(x), network(x), network(x[:1])
    for name, value in first.items():
        assert torch.equal(value, second[name])
        scale = float(value.abs().max())
        torch.testing.assert_close(value[:1], alone[name], rtol=0, atol=2e-4 * scale)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@torch.inference_mode()
def check_bfloat16(network: nn.Module, height: int, width: int) -> None:
    """In bfloat16 and channels-last the maps are of that type and near those of float32."""
    network.eval()
    x = image(height, width)
    small = copy.deepcopy(network).to(torch.bfloat16)
    small.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    maps = small(x.to(torch.bfloat16).to(memory_format=torch.channels_last))
    for name, expected in network(x).items():
        assert maps[name].dtype == torch.bfloat16
        error = float((maps[name].float() - expected).square().mean().sqrt())
        assert error < 0.1 * float(expected.square().mean().sqrt()), f"{name} is far off in bfloat16"


@torch.inference_mode()
def check_round_trip(network: nn.Module, other: nn.Module, folder: Path, height: int, width: int) -> None:
    """Weights saved as safetensors and loaded into ``other``, built alike, give the same maps."""
    network.eval()
    other.eval()
    save_model(network, str(folder / "weights.safetensors"))
    missing, unexpected = load_model(other, str(folder / "weights.safetensors"), strict=True)
    assert not missing
    assert not unexpected
    x = image(height, width)
    for name, value in network(x).items():
        assert torch.equal(value, other(x)[name])


def parameter_count(network: nn.Module) -> int:
    """Trainable numbers; the statistics of batch normalisation are none."""
    return sum(parameter.numel() for parameter in network.parameters())


def flops_per_px(network: nn.Module, height: int, width: int) -> float:
    """Floating-point operations of convolutions, two a multiplication, for one pixel of the maps.

    ``network`` lives on the device "meta": nothing is computed.
    """
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = network(image(height, width, device=torch.device("meta")))
    first = next(iter(maps.values()))
    return counter.get_total_flops() / (first.shape[2] * first.shape[3])


@torch.inference_mode()
def reach_px(network: nn.Module, height: int, width: int, silence: float | Tensor) -> int:
    """How many pixels away a pixel can have an effect, at most: half of the receptive field.

    All weights are made positive and all biases zero, so that nothing cancels, and a single bright pixel is put
    into ``silence``, an image that the network sees as zeros. Its weights are spoilt.
    """
    network.double().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan = module.weight[0].numel()
            module.weight.fill_(fan**-0.5)
            if module.bias is not None:
                module.bias.zero_()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.fill_(0.0 if name.endswith("mean") else 1.0)
    farthest = 0
    border = (height - configuration(network).output_shape(height, width)[0]) // 2
    for row in range(
        height // 2, height // 2 + configuration(network).stride_px
    ):  # wherever it falls in the pooling's lattice
        x = torch.zeros(1, 3, height, width, dtype=torch.float64) + silence
        x[:, :, row, width // 2] += 1.0
        for value in network(x).values():
            rows = torch.nonzero(value.abs().amax(dim=(0, 1, 3)) > 0).flatten() + border
            assert rows.min() > border, "the image is too small to see how far it goes"
            assert rows.max() < height - 1 - border, "the image is too small to see how far it goes"
            farthest = max(farthest, int((rows - row).abs().max()))
    return farthest
