"""Small data of the kinds that sources read, and the patches that come of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsiseg.interop import snow
from wsiseg.run.events import Event, Listener, StepsDone
from wsiseg.synth.dataset import Block, create_dataset, finish_dataset, write_block
from wsiseg.train.patches import NAMES, PatchPool
from wsiseg.train.source import Frame, Source

FRAME = Frame(mpp=0.5, side=48)
DARK, PALE = (90, 60, 130), (230, 190, 215)
TABLES: dict[str, Any] = {
    "name": "trial",
    "summary": "a trial",
    "licence": "Apache-2.0",
    "network": {"name": "unet", "widths": [4, 8]},
    "head": {"name": "offsets"},
    "data": {
        "mpp": 0.5,
        "side": 64,
        "train": [{"kind": "folder", "data": "discs", "mpp": 0.5, "proportion": 2.0}],
        "validation": [{"kind": "folder", "data": "discs", "mpp": 0.5}],
    },
    "optimise": {"steps": 10, "crop": 32},
}


def discs(seed: int, height: int = 160, width: int = 160, count: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Dark discs on a light, textured ground: image and labels with gaps between their numbers."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), dtype=np.uint16)
    for n in range(count):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        labels[(np.hypot(y - cy, x - cx) < rng.uniform(6, 11)) & (labels == 0)] = 3 * n + 2
    image = np.where(labels[..., None] > 0, DARK, PALE) + rng.normal(0, 6, (height, width, 1))
    return image.clip(0, 255).astype(np.uint8), labels


def write_folder(folder: Path, count: int = 5, **size: int) -> Path:
    """``images`` and ``labels`` in ``folder``, named a, b, …, and tables of their names."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    names = [chr(ord("a") + n) for n in range(count)]
    for n, name in enumerate(names):
        image, labels = discs(n, **size)
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{name}.png")
    (folder / "names.txt").write_text("# the good ones\nb.png\n\nd\n")
    rows = [{"name": n, "split": "train" if n < "c" else "test"} for n in names]
    (folder / "index.csv").write_text("id,split\n" + "".join(f"{row['name']},{row['split']}\n" for row in rows))
    (folder / "index.json").write_text(json.dumps({"licence": "CC0", "size": [1, 2], "images": rows}))
    return folder


def write_dataset(path: Path, count: int = 40, side: int = 96) -> Path:
    provenance = {"method": "test", "seed": 3, "textures": [{"name": "t", "sha256": "0"}]}
    create_dataset(path, count, (side, side), 0.25, provenance)
    pairs = [discs(n, side, side, 6) for n in range(count)]
    for block, start in enumerate(range(0, count, 32)):
        part = pairs[start : start + 32]
        weight = np.linspace(0.2, 2, count, dtype=np.float32)[start : start + 32]
        images, labels = np.stack([i for i, _ in part]), np.stack([x for _, x in part]).astype(np.int32)
        write_block(path, block, Block(images, labels, weight, np.zeros(len(part), dtype=np.int32)))
    finish_dataset(path)
    return path


def write_snow(folder: Path, count: int = 3, side: int = 128) -> Path:
    (folder / "Mask").mkdir(parents=True)
    for n in range(count):
        image, labels = discs(n, side, side)
        snow.write_image(folder / "Image" / f"{snow.tile_name(n)}.png", image)
        snow.write_mask(folder / "Mask" / f"{snow.tile_name(n)}.mat", labels)
    return folder


def whole(source: Source, frame: Frame = FRAME, first: int = 0) -> PatchPool:
    return PatchPool.join(list(source.parts(frame, first)))


def same(one: PatchPool, other: PatchPool) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in NAMES)


class Interrupted(Exception):
    """What ends a training in :func:`interrupted_after`."""


def interrupted_after(steps: int) -> Listener:
    """A listener that ends a training after so many steps; 0: never."""

    def listen(event: Event) -> None:
        if steps and isinstance(event, StepsDone) and event.done == steps:
            raise Interrupted

    return listen
