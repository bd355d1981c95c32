"""Which composition of sampler and renderer trains the best network? Do generated patches beat the few real ones?

    python benchmarks/compositions.py --data textures=TILES --data images=IMAGES --data labels=LABELS \
        --judged FOLDER -o OUT
    python benchmarks/compositions.py … --few                        generated against 1, 2 and 4 real images
    python benchmarks/compositions.py … --seeds 0 1 2 --only NAME    more seeds of some

compositions.toml lists what is trained on. Each variant is three commands, by one recipe and of one cost:
`wsiseg synth` (--count patches), `wsiseg train` (--steps steps; a seed decides start, order and augmentation in all
variants), and `wsiseg segment` with `wsiseg evaluate` on FOLDER's `images` and `labels`, which have no part in
anything before. Nothing is chosen on them: the last weights are kept. IMAGES and LABELS are annotated images at
0.25 mpp, the folders `images` and `labels` of one folder; trained generators are `--data adain=FILE`,
`points2image=FILE`, `stylegan=FILE`. What is done already is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hou_ablation import (
    SCORES,
    Run,
    command,
    compare,
    keep_settings,
    mean_scores,
    mean_sd,
    plain,
    score_weights,
    span,
)

from wsiseg.train.sources.files import IMAGE_SUFFIXES, find_files

PLAN = Path(__file__).with_suffix(".toml")
PATCHES = Path(__file__).with_name("hou_ablation.toml")
REAL = Path(__file__).with_name("compositions_real.toml")


@dataclass(frozen=True)
class Variant:
    """What a network is trained on: what a recipe makes, or images themselves.

    Attributes
    ----------
    data : mapping
        The recipe's (or the source's) names, and what those data are called on the command line.
    side : int, optional
        Of its patches, where a training's crops are too large for them; a step has as many pixels all the same.
    start : str, optional
        The variant whose weights (of the same seed) the training goes on from.
    few : tuple of int, optional
        How many of the images, and which draw of them.
    """

    name: str
    data: Mapping[str, str]
    recipe: str = ""
    set: Sequence[str] = ()
    mpp: float = 0.25
    side: int = 0
    start: str = ""
    few: tuple[int, int] | None = None
    against: str = ""


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")


def variants(plan: Path, few: bool) -> list[Variant]:
    """Those of the plan, or the pairs of real and generated few images."""
    read = tomllib.loads(plan.read_text())
    if not few:
        return [Variant(**row) for row in read["variant"]]
    table = read["few"]
    pairs: list[Variant] = []
    for count in table["counts"]:
        for draw in range(table["draws"]):
            name, part = f"{count} images, draw {draw}", (count, draw)
            pairs.append(Variant(f"real: {name}", {"images": "images", "labels": "labels"}, few=part))
            made = {key: table[key] for key in ("data", "recipe", "set")}
            pairs.append(Variant(f"generated: {name}", few=part, against=pairs[-1].name, **made))
    return pairs


def drawn_images(names: Sequence[str], count: int, draw: int) -> list[str]:
    """``count`` of the names; draws of one size overlap as little as they can."""
    order = np.random.default_rng(count).permutation(sorted(names)).tolist()
    return [order[(draw * count + place) % len(order)] for place in range(count)]


def data_of(variant: Variant, given: Mapping[str, Path], out: Path) -> dict[str, Path]:
    """Where the variant's data lie; of few images a folder with links to them."""
    places = dict(given)
    if variant.few is not None:
        files = {kind: find_files(given[kind], IMAGE_SUFFIXES) for kind in ("images", "labels")}
        for kind, paths in files.items():
            places[kind] = out / "few" / "-".join(map(str, variant.few)) / kind
            places[kind].mkdir(parents=True, exist_ok=True)
            for name in drawn_images(list(files["images"]), *variant.few):
                link = places[kind] / paths[name].name
                if not link.exists():
                    link.symlink_to(paths[name].resolve())
    return {name: places[called] for name, called in variant.data.items()}


def train(variant: Variant, seed: int, given: Mapping[str, Path], options: argparse.Namespace) -> Path:
    """The weights of a network that was trained on the variant's patches or images."""
    data = data_of(variant, given, options.out)
    out = options.out / slug(variant.name) / f"seed-{seed}"
    side = variant.side or options.crop
    sets = [f"seed={seed}", f"data.side={side}", f"optimise.crop={side}", f"optimise.steps={options.steps}"]
    sets += [f"optimise.batch={options.batch * (options.crop // side) ** 2}", f"stop.every={options.steps}"]
    if variant.recipe:
        patches = options.out / slug(variant.name) / "patches.zarr"
        words: list[object] = [w for name, path in data.items() for w in ("--data", f"{name}={path}")]
        words += [w for override in (*variant.set, f"mpp={variant.mpp}") for w in ("--set", override)]
        words += ["--count", options.count, "--seed", options.seed, "--workers", options.workers]
        command("wsiseg_cli", "synth", variant.recipe, *words, "-o", patches)
        recipe, words = PATCHES, ["--data", f"patches={patches}"]
        sets += ["data.train.0.weights=false"]
    else:
        folder = data["images"].parent
        if folder != data["labels"].parent or (data["images"].name, data["labels"].name) != ("images", "labels"):
            raise SystemExit(
                f"{data['images']}, {data['labels']}: expected the folders images and labels of one folder"
            )
        recipe, words = REAL, ["--data", f"annotated={folder}"]
    if variant.start:
        begun = sorted((options.out / slug(variant.start) / f"seed-{seed}").glob("*.safetensors"))
        if not begun:
            raise SystemExit(
                f"{variant.name} goes on from {variant.start!r}, which was not trained with seed {seed}"
            )
        sets.append("start.weights=start")
        words += ["--data", f"start={begun[0]}"]
    words += [w for override in sets for w in ("--set", override)]
    words += ["--pools", options.out / "pools", "--threads", options.threads, "--device", "cpu"]
    command("wsiseg_cli", "train", recipe, *words, "-o", out)
    (weights,) = out.glob("*.safetensors")
    return Path(weights)


def scores(variant: Variant, seed: int, given: Mapping[str, Path], options: argparse.Namespace) -> Run:
    """Scores by image of a network trained on the variant; at once if that was done before."""
    record = options.out / slug(variant.name) / f"seed-{seed}.json"
    if not record.exists():
        weights = train(variant, seed, given, options)
        images = list(find_files(options.judged / "images", IMAGE_SUFFIXES).values())
        record.write_text(json.dumps(score_weights(weights, images, options.judged / "labels", 0.25), indent=1))
    rows = json.loads(record.read_text())
    return {name: {score: row[score] for score in SCORES} for name, row in rows.items()}


def table(runs: Mapping[str, Mapping[int, Run]], against: Mapping[str, str]) -> Iterator[str]:
    """Lines of markdown, best first; differences are of the seeds that both have, with an interval over images."""
    yield "| trained on | seeds | " + " | ".join(score.upper() for score in SCORES) + " | AJI against |"
    yield "|---|---|" + "---|" * (len(SCORES) + 1)
    means = {name: [mean_scores(run) for run in by_seed.values()] for name, by_seed in runs.items() if by_seed}
    for name in sorted(means, key=lambda name: -statistics.fmean(row["aji"] for row in means[name])):
        cells = [mean_sd([row[score] for row in means[name]], 3) for score in SCORES]
        other = against.get(name, "")
        if set(runs.get(other, ())) & set(runs[name]):
            difference = compare(runs[name], runs[other], "aji")
            cells.append(f"{difference.mean:+.3f} ({span(difference.images, 3)}) {other}")
        else:
            cells.append("–")
        yield f"| {name} | {len(means[name])} | " + " | ".join(cells) + " |"


def settle(options: argparse.Namespace, given: Mapping[str, Path]) -> None:
    """Write what decides the scores into the folder, or refuse one that was begun otherwise."""
    wanted = {key: plain(getattr(options, key)) for key in ("count", "steps", "batch", "crop", "seed", "judged")}
    wanted["recipes"] = hashlib.sha256(PATCHES.read_bytes() + REAL.read_bytes()).hexdigest()
    keep_settings(options.out, wanted, {f"data {name}": plain(path) for name, path in given.items()})


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="as compositions.toml calls them"
    )
    parser.add_argument("--judged", type=Path, required=True, help="folder with images and labels, to score on")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of everything; goes on where it was")
    parser.add_argument("--few", action="store_true", help="the plan's few images instead of its variants")
    parser.add_argument("--only", nargs="+", default=[], help="only variants of these names")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the trainings (0)")
    parser.add_argument("--seed", type=int, default=1, help="of the patches (1)")
    parser.add_argument("--count", type=int, default=2000, help="patches of a dataset (2000)")
    parser.add_argument("--steps", type=int, default=400, help="of each training (400)")
    parser.add_argument("--batch", type=int, default=8, help="crops of a step (8)")
    parser.add_argument("--crop", type=int, default=128, help="their side in pixels of 0.5 µm (128)")
    parser.add_argument("--workers", type=int, default=2, help="processes that make patches (2)")
    parser.add_argument("--threads", type=int, default=2, help="threads of a training (2)")
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    given = {name: Path(path) for name, _, path in (text.partition("=") for text in options.data)}
    settle(options, given)
    wanted = [v for v in variants(PLAN, options.few) if not options.only or v.name in options.only]
    lacking = {v.name: sorted(set(v.data.values()) - set(given)) for v in wanted}
    for name, names in lacking.items():
        if names:
            print(f"{name}: left out, no --data {', '.join(names)}")
    ready = [v for v in wanted if not lacking[v.name]]
    if not ready:
        raise SystemExit("Nothing to train on: give --data as compositions.toml calls it.")
    runs: dict[str, dict[int, Run]] = {variant.name: {} for variant in ready}
    against = {v.name: v.against or ready[0].name for v in ready if v is not ready[0]}
    for seed in options.seeds:  # seed by seed: stopped halfway, it has compared something
        for variant in ready:
            runs[variant.name][seed] = scores(variant, seed, given, options)
            (options.out / "table.md").write_text("\n".join(table(runs, against)) + "\n")
    print(*table(runs, against), sep="\n")


if __name__ == "__main__":
    main()
