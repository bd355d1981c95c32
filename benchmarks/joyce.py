"""Joyce & Bunyak's protocol from end to end: tiles in SNOW's layout, their U-Net, Otsu, four scores.

    python benchmarks/joyce.py --textures TILES -o OUT                                    minutes on two cores
    python benchmarks/joyce.py --textures TILES -o OUT --count 5000 --size 512 --epochs 50 --batch 16  the paper's
    python benchmarks/joyce.py --snow SNOW -o OUT --epochs 50 --batch 16                          SNOW or its like

The steps, each a command that goes on where it was stopped:

1. `wsiseg synth hou`, `wsiseg synth export`: tiles in SNOW's layout, unless there are some (`--snow`).
2. `wsiseg train joyce`: on the first 72% of the tiles, in the order of their names, validated on the next 8%.
   Instances > 0 are foreground, the red channel is the input, Adam and cross-entropy.
3. For the last 20%: the probability as an image of 8 bits; Otsu's threshold of each, within the bounds that keep an
   empty tile empty; the truth from .mat to .png with 255 where it is > 0.
4. `wsiseg evaluate --probabilities`: the four scores as means over tiles. And, since the paper's come from Keras,
   which counts pixels, over all pixels of all tiles.

Two rows stand beside the network's: the red channel itself with Otsu, which has learned nothing, and all
background. The truth is that of the synthesis, not of people: the scores say how well a network learns a renderer's
nuclei.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsiseg.core.names import IMAGE_SUFFIXES
from wsiseg.core.select import Select
from wsiseg.interop import snow
from wsiseg.models.decoders.otsu import OtsuDecoder
from wsiseg.models.registry import load_segmenter
from wsiseg.train.sources.files import find_files, image_size, read_image

TEST_SPAN = (0.8, 1.0)
STRIDE = 16  # the sides of what the network sees are multiples of it
SCORES = ("accuracy", "auc", "pixel_precision", "pixel_recall")
PAPER = {"accuracy": 0.9840, "auc": 0.9981, "pixel_precision": 0.9556, "pixel_recall": 0.9559}
Pixels = npt.NDArray[np.uint8]
Predict = Callable[[Pixels], npt.NDArray[np.float32]]


def command(*arguments: object) -> str:
    """Run ``wsiseg`` and return what it printed."""
    words = [str(argument) for argument in arguments]
    print("$ wsiseg", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "wsiseg_cli", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"wsiseg {words[0]} ended with {done.returncode}")
    return done.stdout


def make_tiles(textures: Path, out: Path, count: int, size: int, seed: int, workers: int) -> Path:
    """``count`` synthetic tiles in SNOW's layout."""
    dataset, tiles = out / "patches.zarr", out / "tiles"
    command(
        "synth", "hou", "--textures", textures, "--count", count, "--size", size, "--seed", seed, "-o", dataset,
        "--workers", workers, "--dashboard-address", "127.0.0.1:0",
    )  # fmt: skip
    command("synth", "export", dataset, "-o", tiles)
    return tiles


def train(recipe: str, tiles: Path, out: Path, overrides: list[str], threads: int) -> Path:
    """The weights of a recipe named joyce on ``tiles``."""
    sets = [word for override in overrides for word in ("--set", override)]
    command("train", recipe, "--data", f"snow={tiles}", "-o", out / "run", "--threads", threads, *sets)
    return out / "run" / "joyce.safetensors"


def held_out(tiles: Path) -> dict[str, tuple[Path, Path]]:
    """Image and mask of the tiles that training did not see."""
    images = find_files(tiles / snow.IMAGE_FOLDER, IMAGE_SUFFIXES)
    masks = find_files(tiles / snow.mask_folder(tiles), (".mat",))
    return {name: (image, masks[name]) for name, image in Select(span=TEST_SPAN).named(images, tiles).items()}


def write_predictions(tiles: Path, out: Path, predict: Predict) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """``truth``, ``probability`` and ``mask`` (0 or 255) of each tile, also written to folders of these names."""
    decoder = OtsuDecoder()
    folders = [out / name for name in ("truth", "probability", "mask")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for name, (image, mask) in held_out(tiles).items():
        values = np.clip(predict(read_image(image)), 0, 1)
        truth, found = snow.read_mask(mask).labels > 0, decoder.mask(values)
        planes = (truth.astype(np.uint8) * 255, (values * 255).astype(np.uint8), found.astype(np.uint8) * 255)
        for folder, plane in zip(folders, planes, strict=True):
            Image.fromarray(plane).save(folder / f"{name}.png")
        yield planes


def pooled_scores(planes: Iterator[tuple[Pixels, Pixels, Pixels]]) -> dict[str, float]:
    """The four scores over all pixels of all tiles; ties of the AUC count half."""
    inside, outside, table = np.zeros(256, np.int64), np.zeros(256, np.int64), np.zeros((2, 2), np.int64)
    for truth, probability, found in planes:
        foreground = truth > 0
        inside += np.bincount(probability[foreground], minlength=256)
        outside += np.bincount(probability[~foreground], minlength=256)
        table += np.bincount(2 * foreground.ravel() + (found.ravel() > 0), minlength=4).reshape(2, 2)
    (tn, fp), (fn, tp) = table.tolist()
    below = np.cumsum(outside) - outside
    pairs = int(inside.sum()) * int(outside.sum())
    return {
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "auc": float((inside * (below + outside / 2)).sum() / pairs) if pairs else float("nan"),
        "pixel_precision": tp / (tp + fp) if tp + fp else float("nan"),
        "pixel_recall": tp / (tp + fn) if tp + fn else float("nan"),
    }


def score(tiles: Path, out: Path, predict: Predict) -> dict[str, dict[str, float | None]]:
    """``tiles``: means over tiles by ``wsiseg evaluate``; ``pixels``: over all pixels."""
    pixels = pooled_scores(write_predictions(tiles, out, predict))
    maps = ("--pred", out / "mask", "--probabilities", out / "probability")
    evaluated = json.loads(command("evaluate", "--truth", out / "truth", *maps, "--json"))
    return {"tiles": {name: evaluated["summary"][name]["mean"] for name in SCORES}, "pixels": dict(pixels)}


def network(weights: Path) -> Predict:
    """The foreground's probability by a weight file, for images whose sides its network takes."""
    segmenter: Any = load_segmenter(str(weights))

    def predict(image: Pixels) -> npt.NDArray[np.float32]:
        height, width = image.shape[:2]
        pad = [(0, -side % segmenter.stride_px) for side in (height, width)]
        (maps,) = segmenter.maps([np.pad(image, (*pad, (0, 0)), mode="symmetric")])
        return np.asarray(maps[0][:height, :width], dtype=np.float32)

    return predict


def red_channel(image: Pixels) -> npt.NDArray[np.float32]:
    """Dark in red is taken for nuclear: what the network's input says by itself."""
    return np.asarray(1 - image[..., 0] / 255, dtype=np.float32)


def nothing(image: Pixels) -> npt.NDArray[np.float32]:
    """All background."""
    return np.zeros(image.shape[:2], dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--textures", type=Path, help="folder of unlabelled tiles at 0.25 mpp, to make tiles from")
    where.add_argument("--snow", type=Path, help="tiles that are there, in SNOW's layout")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for tiles, run, maps and scores")
    parser.add_argument("--count", type=int, default=160, help="tiles to make (160)")
    parser.add_argument("--size", type=int, default=256, help="their side in pixels (256)")
    parser.add_argument("--seed", type=int, default=1, help="of the tiles (1)")
    parser.add_argument("--epochs", type=float, default=8, help="of the training (8)")
    parser.add_argument("--batch", type=int, default=4, help="tiles a step (4: few tiles need many steps)")
    parser.add_argument("--recipe", default="joyce", help="a recipe of that name and data (joyce)")
    parser.add_argument("--set", action="append", default=[], help="as of wsiseg train; may be repeated")
    parser.add_argument("--workers", type=int, default=2, help="processes and threads (2)")
    options = parser.parse_args()
    started = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    tiles = options.snow or make_tiles(
        options.textures, options.out, options.count, options.size, options.seed, options.workers
    )
    made = time.perf_counter()
    image, _ = next(iter(held_out(tiles).values()))
    side = min(image_size(image)) // STRIDE * STRIDE  # whole tiles, as in the paper
    sizes = [f"data.side={side}", f"optimise.crop={side}", f"optimise.batch={options.batch}"]
    overrides = [f"optimise.epochs={options.epochs:g}", *sizes, *options.set]
    weights = train(options.recipe, tiles, options.out, overrides, options.workers)
    trained = time.perf_counter()
    rows = {
        "U-Net": score(tiles, options.out / "unet", network(weights)),
        "red channel": score(tiles, options.out / "red", red_channel),
        "background": score(tiles, options.out / "background", nothing),
    }
    ended = time.perf_counter()
    seconds = {"tiles": made - started, "train": trained - made, "score": ended - trained}
    report(rows, seconds, len(held_out(tiles)))
    record = {"scores": rows, "paper": PAPER, "seconds": seconds, "overrides": overrides, "tiles": str(tiles)}
    (options.out / "joyce.json").write_text(json.dumps(record, indent=1))


def report(rows: dict[str, dict[str, dict[str, float | None]]], seconds: dict[str, float], count: int) -> None:
    """Print a table of the scores."""
    print(f"\n{count} tiles that were kept aside" + "".join(f"{name:>17}" for name in SCORES))
    for name, row in rows.items():
        for unit, scores in row.items():
            values = "".join("          not def." if v is None or v != v else f"{v:17.4f}" for v in scores.values())
            print(f"{name + ', over ' + unit:<{len(str(count)) + 26}}{values}")
    width = len(str(count)) + 26
    print(f"{'Joyce & Bunyak, on SNOW':<{width}}" + "".join(f"{PAPER[name]:17.4f}" for name in SCORES))
    print("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
