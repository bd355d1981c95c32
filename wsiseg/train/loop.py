"""The training loop: AdamW, one cosine, a moving average of the weights, checkpoints to resume from."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsiseg.models.unet import UNet, UNetConfig, channels_last
from wsiseg.train.augment import colour_jitter, crop, learning_rate, network_input, targets
from wsiseg.train.losses import LossWeights, offset_loss
from wsiseg.train.patches import PatchPool


@dataclass(frozen=True)
class TrainOptions:
    """A training run.

    Attributes
    ----------
    steps, batch, side : int
        Optimiser steps, patches a step, side of a crop in pixels.
    rate : float
        Peak learning rate.
    average : float
        Decay of the moving average of the weights.
    checkpoint_s : float
        Seconds between checkpoints.
    threads : int
        Threads of torch.
    device : str
        ``cpu`` or ``cuda``.
    """

    steps: int = 1500
    batch: int = 8
    side: int = 192
    rate: float = 2e-3
    weight_decay: float = 1e-4
    average: float = 0.995
    seed: int = 0
    checkpoint_s: float = 120.0
    threads: int = 2
    device: str = "cpu"
    weights: LossWeights = field(default_factory=LossWeights)


def train(
    pool: PatchPool,
    validation: PatchPool,
    out: Path,
    config: UNetConfig,
    options: TrainOptions,
    start: dict[str, Tensor] | None = None,
) -> UNet:
    """Train and return the averaged network; ``out`` gets ``checkpoint.pt`` and ``log.jsonl``.

    A ``checkpoint.pt`` that is already there is resumed. ``start`` gives initial weights of a first run.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    network = channels_last(UNet(config).to(options.device))
    average = channels_last(UNet(config).to(options.device))
    if start is not None:
        network.load_state_dict(start)
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), options.rate, weight_decay=options.weight_decay)
    first = 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=options.device)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["step"])
    saved, began = time.monotonic(), time.monotonic()
    for step, (images, target) in enumerate(_batches(pool, options, first), start=first):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        network.train()
        images, target = images.to(options.device), target.to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            output = network(network_input(images).to(memory_format=torch.channels_last))
        terms = offset_loss(output, target, config.offset_scale_px, options.weights)
        optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        _update_average(average, network, min(options.average, (step + 1) / (step + 10)))
        if step % 50 == 0 or step == options.steps - 1:
            row = {"step": step, "s": round(time.monotonic() - began, 1)}
            _log(out, {**row, **{name: round(float(value.detach()), 4) for name, value in terms.items()}})
        if time.monotonic() - saved > options.checkpoint_s or step == options.steps - 1:
            state = {"network": network.state_dict(), "average": average.state_dict()}
            torch.save({**state, "optimiser": optimiser.state_dict(), "step": step + 1}, out / "checkpoint.tmp")
            (out / "checkpoint.tmp").replace(checkpoint)
            score = validate(average, validation, options)
            _log(out, {"step": step, "validation": score})
            saved = time.monotonic()
    (out / "options.json").write_text(json.dumps(asdict(options), indent=1))
    return average.eval()


@torch.inference_mode()
def validate(network: UNet, pool: PatchPool, options: TrainOptions) -> dict[str, float]:
    """Mean losses on whole patches of ``pool``, without augmentation."""
    network.eval()
    sums: dict[str, float] = {}
    side = pool.images.shape[1] // network.config.stride_px * network.config.stride_px
    for n in range(len(pool)):
        whole = targets(pool.labels[n], pool.covered[n], pool.known[n])[None, :, :side, :side]
        target = torch.from_numpy(whole).to(options.device)
        image = torch.from_numpy(pool.images[n, :side, :side].transpose(2, 0, 1)[None].astype(np.float32))
        image = image.to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            output = network(network_input(image).to(memory_format=torch.channels_last))
        terms = offset_loss(output, target, network.config.offset_scale_px, options.weights)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: round(value / len(pool), 4) for name, value in sums.items()}


def _batches(pool: PatchPool, options: TrainOptions, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the steps from ``first`` on, each a function of its step, made one ahead in a thread."""

    def make(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([options.seed, step])
        chosen = rng.integers(len(pool), size=options.batch)
        pairs = [crop(pool, int(n), options.side, rng) for n in chosen]
        images = torch.from_numpy(np.stack([image for image, _ in pairs]).transpose(0, 3, 1, 2).copy()).float()
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        return colour_jitter(images, generator), torch.from_numpy(np.stack([t for _, t in pairs]))

    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(make, first)
        for step in range(first, options.steps):
            ready = ahead.result()
            if step + 1 < options.steps:
                ahead = executor.submit(make, step + 1)
            yield ready


@torch.no_grad()
def _update_average(average: UNet, network: UNet, decay: float) -> None:
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _log(out: Path, row: dict[str, object]) -> None:
    with (out / "log.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
