"""``python -m wsiseg.train``: render patches, fit, make pseudo-labels, export. See ``--help`` of each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.models.base import ModelCard
from wsiseg.models.decoders.offsets import OffsetDecoder
from wsiseg.models.network import NetworkSegmenter
from wsiseg.models.registry import load_segmenter
from wsiseg.models.unet import UNetConfig
from wsiseg.models.weights_io import load_weights
from wsiseg.synth.render import RenderOptions
from wsiseg.synth.textures import Texture, load_images, load_textures
from wsiseg.train.export import export_run
from wsiseg.train.loop import TrainOptions, train
from wsiseg.train.patches import PatchPool, render_pool
from wsiseg.train.pseudo import probable_nuclei, pseudo_pool

HELD_OUT = 11  # every eleventh texture is for validation only


def main(arguments: list[str] | None = None) -> None:
    """Parse ``arguments`` (of the process by default) and run one step of the recipe."""
    options = _parser().parse_args(arguments)
    options.run(options)


def split(textures: list[Texture], held_out: bool) -> list[Texture]:
    """The textures for validation, or all others."""
    return [t for n, t in enumerate(textures) if (n % HELD_OUT == HELD_OUT // 2) == held_out]


def _render(o: argparse.Namespace) -> None:
    textures = split(load_textures(o.textures, o.masks), o.held_out)
    render_pool(textures, o.count, o.seed, RenderOptions(size=o.size), o.workers).save(o.out)


def _fit(o: argparse.Namespace) -> None:
    pool = PatchPool.join([PatchPool.load(path) for path in o.pool])
    start = dict(load_weights(o.start).state) if o.start else None
    if start is not None:
        start = {k: v.float() if v.is_floating_point() else v for k, v in start.items()}
    options = TrainOptions(steps=o.steps, rate=o.rate, seed=o.seed, threads=o.threads, device=o.device)
    train(pool, PatchPool.load(o.validation), o.out, UNetConfig(), options, start)


def _pseudo(o: argparse.Namespace) -> None:
    segmenter = _network(o.weights)
    images = [_half(image) for _, image in load_images(o.textures)]
    kept = [image for n, image in enumerate(images) if n % HELD_OUT != HELD_OUT // 2]
    pseudo_pool(segmenter, kept).save(o.out)


def _masks(o: argparse.Namespace) -> None:
    from PIL import Image

    segmenter = _network(o.weights)
    o.out.mkdir(parents=True, exist_ok=True)
    for name, image in load_images(o.textures):
        mask = probable_nuclei(segmenter, _half(image)).repeat(2, axis=0).repeat(2, axis=1)
        Image.fromarray(mask.astype(np.uint8) * 255).save(o.out / f"{name}.png")


def _export(o: argparse.Namespace) -> None:
    card = ModelCard.from_dict(json.loads(o.card.read_text()))
    decoder = OffsetDecoder(**json.loads(o.decoder))
    print(export_run(o.run_folder, card, o.out, UNetConfig(), decoder))


def _network(path: Path) -> NetworkSegmenter:
    segmenter = load_segmenter(str(path), device="cpu")
    if not isinstance(segmenter, NetworkSegmenter):
        raise SystemExit(f"{path}: pseudo-labels need a network")
    segmenter.flips = True
    return segmenter


def _half(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    h, w = image.shape[0] // 2, image.shape[1] // 2
    small = image[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).mean(axis=(1, 3))
    return np.rint(small).astype(np.uint8)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wsiseg.train", description=__doc__)
    steps = parser.add_subparsers(required=True)

    render = steps.add_parser("render", help="render a pool of patches from textures of 0.25 mpp")
    render.add_argument("--textures", type=Path, required=True)
    render.add_argument("--masks", type=Path, help="folder of <texture>.png: pixels that may be nuclear")
    render.add_argument("--held-out", action="store_true", help="use the textures kept for validation")
    render.add_argument("--count", type=int, default=1600)
    render.add_argument("--size", type=int, default=400, help="side in pixels of 0.25 µm; the textures' suits")
    render.add_argument("--seed", type=int, default=1)
    render.add_argument("--workers", type=int, default=2)
    render.add_argument("--out", type=Path, required=True)
    render.set_defaults(run=_render)

    fit = steps.add_parser("fit", help="train on pools; resumes a checkpoint in --out")
    fit.add_argument("--pool", type=Path, nargs="+", required=True)
    fit.add_argument("--validation", type=Path, required=True)
    fit.add_argument("--start", type=Path, help="weight file to start from")
    fit.add_argument("--steps", type=int, default=1500)
    fit.add_argument("--rate", type=float, default=2e-3)
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--device", default="cpu", help="cpu or cuda")
    fit.add_argument("--threads", type=int, default=2)
    fit.add_argument("--out", type=Path, required=True)
    fit.set_defaults(run=_fit)

    for name, run, text in (
        ("pseudo", _pseudo, "label the textures with a network: a pool to train on"),
        ("masks", _masks, "where the textures may hold nuclei: --masks of render"),
    ):
        step = steps.add_parser(name, help=text)
        step.add_argument("--textures", type=Path, required=True)
        step.add_argument("--weights", type=Path, required=True)
        step.add_argument("--out", type=Path, required=True)
        step.set_defaults(run=run)

    export = steps.add_parser("export", help="write a weight file and its page from a run")
    export.add_argument("--run-folder", type=Path, required=True)
    export.add_argument("--card", type=Path, required=True, help="JSON of the model card")
    export.add_argument("--decoder", default="{}", help="JSON of OffsetDecoder parameters")
    export.add_argument("--out", type=Path, required=True)
    export.set_defaults(run=_export)
    return parser


if __name__ == "__main__":
    main()
