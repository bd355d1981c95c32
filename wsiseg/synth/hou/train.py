"""Training of the refiner against the discriminator: ``python -m wsiseg.synth.hou.train --textures … -o …``.

The segmenter's term of the refiner's loss (1e-7 of it) needs a segmenter that is trained alongside; this loop
trains the two networks alone, so it leaves that term out unless :func:`train_step` is given one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsiseg.core.atomic import replacing
from wsiseg.core.environment import environment_faults
from wsiseg.errors import UsageError
from wsiseg.synth.hou.history import HistoryBuffer
from wsiseg.synth.hou.patch import HouOptions, HouPatch, real_pair, render_patch
from wsiseg.synth.hou.tiles import load_tiles
from wsiseg.synth.renderers.transfer.refiner import (
    RefinerConfig,
    RefinerPair,
    discriminator_loss,
    real_probability,
    refiner_loss,
    to_images,
    to_tensor,
)
from wsiseg.synth.renderers.transfer.texture import Tile

_CONFIG = RefinerConfig()
SegmenterLoss = Callable[[Tensor, Sequence[HouPatch]], Tensor]


@dataclass(frozen=True)
class TrainOptions:
    """How the two networks are trained.

    Attributes
    ----------
    batch, size : int
        Patches a step, and their side in px.
    history : int
        Capacity of the history buffer, in patches.
    refiner_rate, discriminator_rate : float
        Learning rates (Adam).
    warm_up : int
        First steps in which the discriminator learns alone, against patches that the refiner leaves as they are.
    seed : int
    """

    batch: int = 4
    size: int = 128
    history: int = 256
    refiner_rate: float = 2e-4
    discriminator_rate: float = 5e-4
    warm_up: int = 200
    seed: int = 0


@dataclass
class Trainer:
    """The networks, their optimisers, the history, and the number of steps that were made."""

    pair: RefinerPair
    options: TrainOptions
    history: HistoryBuffer
    refiner_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam
    step: int = 0

    @classmethod
    def new(cls, options: TrainOptions, config: RefinerConfig = _CONFIG) -> Trainer:
        pair = RefinerPair.new(config, options.seed)
        return cls(
            pair,
            options,
            HistoryBuffer(options.history),
            torch.optim.Adam(pair.refiner.parameters(), options.refiner_rate, betas=(0.5, 0.99)),
            torch.optim.Adam(pair.discriminator.parameters(), options.discriminator_rate, betas=(0.5, 0.99)),
        )

    def save(self, path: Path) -> None:
        """Everything that :meth:`load` needs to go on as if never interrupted."""
        state = {
            "options": asdict(self.options),
            "config": asdict(self.pair.config),
            "step": self.step,
            "refiner": self.pair.refiner.state_dict(),
            "discriminator": self.pair.discriminator.state_dict(),
            "refiner_optimiser": self.refiner_optimiser.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
            "history": {key: torch.from_numpy(value) for key, value in self.history.state().items()},
        }
        with environment_faults(path), replacing(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: Path, options: TrainOptions) -> Trainer:
        """Go on from a checkpoint.

        Raises
        ------
        UsageError
            It was made with other options.
        """
        state = torch.load(path, weights_only=True)
        if state["options"] != asdict(options):
            raise UsageError(f"{path}: was made with {state['options']}; go on with the same, or choose another -o")
        trainer = cls.new(options, RefinerConfig(**state["config"]))
        trainer.step = int(state["step"])
        trainer.pair.refiner.load_state_dict(state["refiner"])
        trainer.pair.discriminator.load_state_dict(state["discriminator"])
        trainer.refiner_optimiser.load_state_dict(state["refiner_optimiser"])
        trainer.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        trainer.history.restore({key: value.numpy() for key, value in state["history"].items()})
        return trainer


def train_step(
    trainer: Trainer, tiles: Sequence[Tile], segmenter_loss: SegmenterLoss | None = None
) -> dict[str, float]:
    """One step of the refiner and one of the discriminator; what is drawn depends on seed and step alone.

    Half of the discriminator's synthetic pairs are fresh, half come from the history.
    """
    options, pair = trainer.options, trainer.pair
    rng = np.random.default_rng([options.seed, trainer.step, 1])
    first = trainer.step * options.batch
    patches = [render_patch(tiles, options.seed, first + k, HouOptions(options.size)) for k in range(options.batch)]
    references = np.stack([patch.reference for patch in patches])
    image, reference = to_tensor(np.stack([patch.image for patch in patches])), to_tensor(references)

    learns = trainer.step >= options.warm_up  # an untrained discriminator has nothing to say yet
    pair.discriminator.requires_grad_(False)
    with torch.set_grad_enabled(learns):
        refined = pair.refiner(image, reference)
        extra = segmenter_loss(refined, patches) if segmenter_loss is not None else None
        loss = refiner_loss(pair.discriminator(refined, reference), refined, image, extra)
    if learns:
        trainer.refiner_optimiser.zero_grad()
        loss.backward()
        trainer.refiner_optimiser.step()

    pair.discriminator.requires_grad_(True)
    images = to_images(refined)
    synthetic, seen = images, references
    half = options.batch // 2
    if half and len(trainer.history) >= half:
        old, old_references = trainer.history.sample(rng, half)
        synthetic = np.concatenate([images[half:], old])
        seen = np.concatenate([references[half:], old_references])
    trainer.history.push(rng, images, references)
    real = [real_pair(rng, tiles, options.size) for _ in range(options.batch)]
    patches_real, references_real = (to_tensor(np.stack(part)) for part in zip(*real, strict=True))
    logits_real = pair.discriminator(patches_real, references_real)
    logits_synthetic = pair.discriminator(to_tensor(synthetic), to_tensor(seen))
    judged = discriminator_loss(logits_real, logits_synthetic)
    trainer.discriminator_optimiser.zero_grad()
    judged.backward()
    trainer.discriminator_optimiser.step()
    trainer.step += 1
    return {
        "refiner": float(loss.detach()),
        "discriminator": float(judged.detach()),
        "real": float(real_probability(logits_real.detach()).mean()),
        "synthetic": float(real_probability(logits_synthetic.detach()).mean()),
        "change": float((refined - image).detach().abs().mean() * 127.5),
    }


def train(tiles: Sequence[Tile], out: Path, steps: int, options: TrainOptions, every: int = 50) -> RefinerPair:
    """Train up to ``steps`` steps; writes ``refiner.safetensors``, ``log.jsonl`` and a checkpoint into ``out``.

    Goes on from the checkpoint that an earlier call with the same options left.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    trainer = Trainer.load(checkpoint, options) if checkpoint.exists() else Trainer.new(options)
    started = time.perf_counter()
    while trainer.step < steps:
        numbers = train_step(trainer, tiles)
        if trainer.step % every == 0 or trainer.step == steps:
            line = {"step": trainer.step, **{key: round(value, 4) for key, value in numbers.items()}}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), f"{time.perf_counter() - started:.0f} s", flush=True)
            trainer.pair.save(out / "refiner.safetensors")
            trainer.save(checkpoint)
    return trainer.pair


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m wsiseg.synth.hou.train", description=train.__doc__)
    parser.add_argument("--textures", type=Path, required=True, help="folder of unlabelled tiles at 0.25 mpp")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--batch", type=int, default=TrainOptions.batch)
    parser.add_argument("--size", type=int, default=TrainOptions.size)
    parser.add_argument(
        "--warm-up", type=int, default=TrainOptions.warm_up,
        help="first steps of the discriminator alone; as many as --steps: a refiner that changes nothing",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=TrainOptions.seed)
    given = parser.parse_args()
    options = TrainOptions(batch=given.batch, size=given.size, warm_up=given.warm_up, seed=given.seed)
    train([tile for _, tile in load_tiles(given.textures)], given.out, given.steps, options, given.every)


if __name__ == "__main__":
    main()
