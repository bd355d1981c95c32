"""Training of the style transfer: ``python -m wsiseg.synth.renderers.adain.train --images … --masks … -o …``.

With ``--encoder`` the encoder has a user's weights of VGG-19, as published. Without, a small one is first trained
on the same images to reproduce them, with a decoder of its own that is then left behind: its features are poorer,
which is a deviation from the paper.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from wsiseg.core.atomic import replacing
from wsiseg.core.environment import environment_faults
from wsiseg.errors import UsageError
from wsiseg.synth.parts import crop, turned
from wsiseg.synth.renderers.adain.networks import (
    SMALL,
    AdaINConfig,
    Decoder,
    StyleTransfer,
    load_vgg,
    normalise,
    style_loss,
    to_images,
    to_tensor,
)
from wsiseg.synth.renderers.adain.styles import Style, content_of, load_styles

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TrainOptions:
    """How the decoder is trained, and the encoder before it where it has no weights.

    Attributes
    ----------
    batch, size : int
        Pairs a step, and the side of their crops in pixels; a multiple of 8.
    rate, decay : float
        Learning rate (Adam), divided by 1 + ``decay`` × step.
    encoder_steps : int
        Steps of the small encoder.
    seed : int
    """

    batch: int = 8
    size: int = 128
    rate: float = 1e-4
    decay: float = 5e-5
    encoder_steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 8 or self.batch < 1:
            raise ValueError(
                f"size {self.size}, batch {self.batch}: expected a multiple of 8 from 32, and 1 or more"
            )


@dataclass
class Trainer:
    """Networks, optimiser, and the steps that were made; ``helper``: None with a given encoder."""

    networks: StyleTransfer
    helper: Decoder | None
    options: TrainOptions
    optimiser: torch.optim.Adam
    step: int = 0

    @classmethod
    def new(cls, options: TrainOptions, encoder: Path | None = None, config: AdaINConfig = SMALL) -> Trainer:
        networks = StyleTransfer.new(AdaINConfig() if encoder else config, options.seed)
        if encoder is not None:
            networks = StyleTransfer(networks.config, load_vgg(encoder), networks.decoder)
            parameters = list(networks.decoder.parameters())
            return cls(networks, None, options, torch.optim.Adam(parameters, options.rate))
        helper = StyleTransfer.new(config, options.seed + 1).decoder
        modules = (networks.encoder, networks.decoder, helper)
        parameters = [parameter for module in modules for parameter in module.parameters()]
        return cls(networks, helper, options, torch.optim.Adam(parameters, options.rate))

    def save(self, path: Path) -> None:
        """Everything that :meth:`restore` needs to go on as if never interrupted."""
        state = {
            "options": asdict(self.options),
            "step": self.step,
            "encoder": self.networks.encoder.state_dict(),
            "decoder": self.networks.decoder.state_dict(),
            "helper": self.helper.state_dict() if self.helper is not None else None,
            "optimiser": self.optimiser.state_dict(),
        }
        with environment_faults(path), replacing(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        UsageError
            It was made with other options, or with another encoder.
        """
        state = torch.load(path, weights_only=True)
        if state["options"] != asdict(self.options) or (state["helper"] is None) != (self.helper is None):
            raise UsageError(f"{path}: was made with {state['options']}; go on with the same, or choose another -o")
        self.step = int(state["step"])
        self.networks.encoder.load_state_dict(state["encoder"])
        self.networks.decoder.load_state_dict(state["decoder"])
        if self.helper is not None:
            self.helper.load_state_dict(state["helper"])
        self.optimiser.load_state_dict(state["optimiser"])


def train_step(trainer: Trainer, styles: Sequence[Style]) -> dict[str, float]:
    """One step; what is drawn depends on seed and step alone."""
    options, networks = trainer.options, trainer.networks
    rng = np.random.default_rng([options.seed, trainer.step])
    for group in trainer.optimiser.param_groups:
        group["lr"] = options.rate / (1.0 + options.decay * trainer.step)
    content, style = draw_batch(rng, styles, options)
    if trainer.helper is not None and trainer.step < options.encoder_steps:
        loss = functional.mse_loss(trainer.helper(networks.encoder(style)[-1]), style)
        name = "encoder"
    else:
        with torch.no_grad():
            real = networks.encoder(style)
            target = normalise(networks.encoder(content)[-1], real[-1])
        networks.encoder.requires_grad_(False)  # gradients pass through it, none stay
        loss = style_loss(networks.encoder(networks.decoder(target)), target, real)
        name = "decoder"
    trainer.optimiser.zero_grad()
    loss.backward()
    trainer.optimiser.step()
    trainer.step += 1
    return {name: float(loss.detach())}


def draw_batch(
    rng: np.random.Generator, styles: Sequence[Style], options: TrainOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks and images of other places, float32 (batch, 3, size, size) in 0–1 each."""
    masks = [content_of(_crop(rng, one.labels, options.size)) for one in _choose(rng, styles, options.batch)]
    images = [_crop(rng, one.image, options.size) for one in _choose(rng, styles, options.batch)]
    return to_tensor(np.stack(masks)), to_tensor(np.stack(images))


def train(
    styles: Sequence[Style],
    out: Path,
    steps: int,
    options: TrainOptions,
    encoder: Path | None = None,
    every: int = 100,
) -> StyleTransfer:
    """Train up to ``steps`` steps; writes ``adain.safetensors``, ``log.jsonl``, ``sheet.png`` and a checkpoint.

    Goes on from the checkpoint that an earlier call with the same options left.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    trainer = Trainer.new(options, encoder)
    if checkpoint.exists():
        trainer.restore(checkpoint)
    while trainer.step < steps:
        numbers = train_step(trainer, styles)
        if trainer.step % every == 0 or trainer.step == steps:
            line = {"step": trainer.step, **{key: round(value, 5) for key, value in numbers.items()}}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            trainer.networks.save(out / "adain.safetensors")
            _save_picture(out / "sheet.png", sheet(trainer, styles))
            trainer.save(checkpoint)
    return trainer.networks


def sheet(trainer: Trainer, styles: Sequence[Style], rows: int = 4) -> Images:
    """Masks, real tiles, and the masks in their style, side by side; uint8 (h, w, 3)."""
    content, style = draw_batch(np.random.default_rng(trainer.options.seed), styles, trainer.options)
    pairs = zip(to_images(content)[:rows], to_images(style)[:rows], strict=True)
    return np.concatenate(
        [np.concatenate([mask, real, trainer.networks.transfer_alone(mask, real)], axis=1) for mask, real in pairs]
    )


def _choose(rng: np.random.Generator, styles: Sequence[Style], count: int) -> list[Style]:
    return [styles[k] for k in rng.integers(0, len(styles), count).tolist()]


def _crop(rng: np.random.Generator, values: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.generic]:
    room = np.maximum(np.array(values.shape[:2]) - size, 0)
    row, column = rng.integers(0, room + 1).tolist()
    return turned(crop(values, (row, column), size), int(rng.integers(8)))


def _save_picture(path: Path, picture: Images) -> None:
    with environment_faults(path), replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m wsiseg.synth.renderers.adain.train", description=train.__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of real images")
    parser.add_argument("--masks", type=Path, required=True, help="folder of their label images, by the same names")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--encoder", type=Path, help="weights of VGG-19 (safetensors); without, a small encoder is trained"
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--batch", type=int, default=TrainOptions.batch)
    parser.add_argument("--size", type=int, default=TrainOptions.size)
    parser.add_argument("--rate", type=float, default=TrainOptions.rate)
    parser.add_argument("--encoder-steps", type=int, default=TrainOptions.encoder_steps)
    parser.add_argument("--seed", type=int, default=TrainOptions.seed)
    given = parser.parse_args()
    options = TrainOptions(given.batch, given.size, given.rate, encoder_steps=given.encoder_steps, seed=given.seed)
    train(load_styles(given.images, given.masks), given.out, given.steps, options, given.encoder, given.every)


if __name__ == "__main__":
    main()
