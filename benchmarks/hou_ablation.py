"""Hou et al.'s ablation from end to end: their renderer alone, with the refiner, with importance weights.

    python benchmarks/hou_ablation.py --textures TILES --annotated IMAGES -o OUT            two hours on two cores
    python benchmarks/hou_ablation.py --textures TILES --annotated IMAGES -o OUT --quick    does it run?

The steps, each a command that goes on where it was stopped, so the same command again goes on with the ablation:

1. `wsiseg synth train hou-refiner-small`: a refiner with its discriminator; and a discriminator against patches
   that nothing refines, for the weights of those.
2. `wsiseg synth hou`: three datasets of the same seed, so of the same nuclei on the same backgrounds: rendered;
   rendered and judged; refined and judged.
3. `wsiseg train` for every variant and seed by one recipe, hou_ablation.toml. With and without weights the images
   are the same. A seed decides start and order of patches in every variant: variants are compared seed by seed.
4. `wsiseg segment` and `wsiseg evaluate` on annotated images, which have no part in anything before.

IMAGES holds the folders `images` and `labels` with files of the same names; --table, --key and --values take a
part of them, as in a recipe. Of each difference there are two intervals of 95%: over seeds (Student's t; what
another training would give) and over images (bootstrap of the mean over seeds; what other images would). Patches
and refiner are one draw each: no interval speaks of others.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from wsiseg.core.names import IMAGE_SUFFIXES
from wsiseg.core.select import Select
from wsiseg.errors import WsisegError
from wsiseg.evaluate import summarize
from wsiseg.synth.dataset import open_dataset
from wsiseg.synth.hou.patch import MPP
from wsiseg.synth.weighting.importance import HIGHEST, LOWEST
from wsiseg.train.recipe import read_recipe
from wsiseg.train.sources.files import find_files

RECIPE = str(Path(__file__).with_suffix(".toml"))
REFINER = "hou-refiner-small"
SCORES = ("aji", "dice", "pq")
Run = Mapping[str, Mapping[str, float]]
"""Scores by image."""


@dataclass(frozen=True)
class Variant:
    """What is trained on: a dataset, with or without its weights."""

    dataset: str
    weights: bool


@dataclass(frozen=True)
class Difference:
    """One variant minus another in one score, with an interval over seeds and one over images."""

    mean: float
    seeds: tuple[float, float] | None
    images: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """What the interval over seeds allows to say."""
        if self.seeds is None:
            return "one seed: not decided"
        low, high = self.seeds
        return "helps" if low > 0 else "hurts" if high < 0 else "not decided"


VARIANTS = {
    "renderer": Variant("rendered", weights=False),
    "renderer+weights": Variant("judged", weights=True),
    "refiner": Variant("refined", weights=False),
    "refiner+weights": Variant("refined", weights=True),
}
DIFFERENCES = {
    "refiner": ("refiner", "renderer"),
    "weights, of refined patches": ("refiner+weights", "refiner"),
    "weights, of rendered patches": ("renderer+weights", "renderer"),
    "refiner and weights": ("refiner+weights", "renderer"),
}
QUICK = {"count": 22, "size": 64, "steps": 4, "refiner_steps": 3, "refiner_size": 48, "seeds": [0, 1]}


def command(*arguments: object) -> str:
    """Run ``python -m …`` and return what it printed."""
    words = [str(argument) for argument in arguments]
    print("$ python -m", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words[:2])} ended with {done.returncode}; the same command again goes on")
    return done.stdout


def make_dataset(name: str, options: argparse.Namespace) -> Path:
    """The dataset ``rendered``, ``judged`` or ``refined``; a refiner before it, where it needs one."""
    out = options.out / f"{name}.zarr"
    words: list[object] = ["--textures", options.textures, "--count", options.count, "--size", options.size]
    if name != "rendered":
        words += ["--refiner", train_refiner(name, options)]
    words += ["--seed", options.seed, "--workers", options.workers, "--dashboard-address", "127.0.0.1:0"]
    command("wsiseg_cli", "synth", "hou", *words, "-o", out)
    return Path(out)


def train_refiner(name: str, options: argparse.Namespace) -> Path:
    """A refiner and its discriminator; for ``judged`` the refiner is never trained and changes nothing."""
    steps = options.refiner_steps
    sets = {"steps": steps, "seed": options.seed, "method.side": options.refiner_size}
    if name == "judged":
        sets["method.warm_up"] = steps
    words = ["--data", f"textures={options.textures}", "--threads", options.threads, "--device", "cpu", "--json"]
    out = options.out / f"{name}-refiner"
    trained = json.loads(command("wsiseg_cli", "synth", "train", REFINER, "-o", out, *set_words(sets), *words))
    return Path(trained["weights"])


def set_words(sets: Mapping[str, object]) -> list[str]:
    """The options that set keys of a recipe."""
    return [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]


def score_run(name: str, seed: int, dataset: Path, images: Sequence[Path], options: argparse.Namespace) -> Run:
    """Train a variant with one seed, segment the images, and score them; at once if it was done before."""
    out = options.out / name / f"seed-{seed}"
    record = out / "scores.json"
    if not record.exists():
        side = round(options.size * MPP / read_recipe(options.recipe)[0]["data"]["mpp"])
        sets = {
            "seed": seed,
            "data.train.0.weights": str(VARIANTS[name].weights).lower(),
            "data.side": side,
            "optimise.crop": side,
            "optimise.steps": options.steps,
            "stop.every": options.steps,
        }
        words = set_words(sets)
        words += [word for override in options.set for word in ("--set", override)]
        pools = ("--pools", options.out / "pools", "--threads", options.threads, "--device", "cpu")
        command("wsiseg_cli", "train", options.recipe, "--data", f"patches={dataset}", "-o", out, *words, *pools)
        (weights,) = out.glob("*.safetensors")
        rows = score_weights(weights, images, options.annotated / "labels", options.mpp)
        chosen = {name: {score: row[score] for score in SCORES} for name, row in rows.items()}
        record.write_text(json.dumps(chosen, indent=1))
    scores: Run = json.loads(record.read_text())
    return scores


def score_weights(weights: Path, images: Sequence[Path], labels: Path, mpp: float) -> Run:
    """All scores, by image, of what a network finds; the results go into ``segmented`` beside its weights."""
    found = weights.parent / "segmented"
    model = ("--model", weights, "--mpp", mpp, "--workers", 0, "--device", "cpu")
    command("wsiseg_cli", "segment", *images, "-o", found, *model)
    truth = ("--truth", labels, "--pred", found, "--allow-missing")
    evaluated = json.loads(command("wsiseg_cli", "evaluate", *truth, "--json"))
    rows = {row["name"]: row["scores"] for row in evaluated["images"]}
    missing = {path.stem for path in images} - set(rows)
    if missing:
        raise SystemExit(f"{labels}: no labels of {', '.join(sorted(missing))}")
    return rows


def annotated_images(options: argparse.Namespace) -> list[Path]:
    """The images that are scored."""
    found = find_files(options.annotated / "images", IMAGE_SUFFIXES)
    return list(Select(options.table, options.key, tuple(options.values)).named(found, options.annotated).values())


def mean_scores(run: Run) -> dict[str, float]:
    """Means over images."""
    return {score: statistics.fmean(row[score] for row in run.values()) for score in SCORES}


def compare(first: Mapping[int, Run], second: Mapping[int, Run], score: str) -> Difference:
    """``first`` minus ``second``, runs by seed, over the seeds and the images that both have."""
    seeds = sorted(set(first) & set(second))
    images = sorted(first[seeds[0]])
    table = np.array([[first[s][i][score] - second[s][i][score] for i in images] for s in seeds])
    summary = summarize(table.mean(axis=0).tolist())
    over_images = None if summary.low is None or summary.high is None else (summary.low, summary.high)
    return Difference(float(table.mean()), student_interval(table.mean(axis=1).tolist()), over_images)


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of the mean of independent normal values; None of a single one."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return middle - half, middle + half


def weight_summary(dataset: Path) -> dict[str, float]:
    """How the weights of a dataset are spread; ``effective``: as many equal weights are worth as much, in share."""
    weight = np.asarray(open_dataset(dataset).weight, dtype=np.float64)
    low, middle, high = np.quantile(weight, (0.1, 0.5, 0.9)).tolist()
    return {
        "mean": float(weight.mean()), "10%": low, "median": middle, "90%": high,
        "lowest": float((weight <= LOWEST + 1e-6).mean()), "highest": float((weight >= HIGHEST - 1e-6).mean()),
        "effective": float(weight.sum() ** 2 / (len(weight) * np.square(weight).sum())),
    }  # fmt: skip


def table(runs: Mapping[str, Mapping[int, Run]], weights: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Lines of markdown: scores, differences, weights."""
    yield "| variant | seeds | " + " | ".join(score.upper() for score in SCORES) + " |"
    yield "|---|---|" + "---|" * len(SCORES)
    for name, by_seed in runs.items():
        means = [mean_scores(run) for run in by_seed.values()]
        cells = [mean_sd([row[score] for row in means]) for score in SCORES]
        yield f"| {name} | {len(means)} | " + " | ".join(cells) + " |"
    yield ""
    yield "| what is added | score | difference | over seeds | over images | verdict |"
    yield "|---|---|---|---|---|---|"
    for name, score, difference in differences(runs):
        spans = f"{span(difference.seeds)} | {span(difference.images)}"
        yield f"| {name} | {score.upper()} | {difference.mean:+.4f} | {spans} | {difference.verdict} |"
    for name, summary in weights.items():
        yield ""
        yield f"weights of {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in summary.items())


def differences(runs: Mapping[str, Mapping[int, Run]]) -> Iterator[tuple[str, str, Difference]]:
    """Of the variants that share a seed: what is added, score, difference."""
    for name, (first, second) in DIFFERENCES.items():
        if set(runs.get(first, ())) & set(runs.get(second, ())):
            for score in SCORES:
                yield name, score, compare(runs[first], runs[second], score)


def mean_sd(values: Sequence[float], digits: int = 4) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def span(interval: tuple[float, float] | None, digits: int = 4) -> str:
    return "–" if interval is None else f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


def settle(options: argparse.Namespace) -> None:
    """Write what decides the scores into the folder, or refuse one that was begun otherwise."""
    keys = ("textures", "annotated", "table", "key", "values", "mpp", "count", "size", "seed", "steps", "set")
    keys += ("refiner_steps", "refiner_size", "threads")
    wanted: dict[str, Any] = {key: plain(getattr(options, key)) for key in keys}
    wanted["recipe"] = Path(options.recipe).read_text() if Path(options.recipe).is_file() else options.recipe
    keep_settings(options.out, wanted)


def keep_settings(out: Path, wanted: Mapping[str, Any], later: Mapping[str, Any] | None = None) -> None:
    """Write them into the folder, or refuse one that was begun with others; ``later`` ones it may lack."""
    path, later = out / "settings.json", later or {}
    began = json.loads(path.read_text()) if path.exists() else dict(wanted)
    for key, value in {**wanted, **later}.items():
        if began.get(key) != value and (key in wanted or key in began):
            raise SystemExit(
                f"{out}: was begun with {key} {began.get(key)!r}, not {value!r}; "
                "give that again, or choose another -o"
            )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**began, **later}, indent=1))


def plain(value: object) -> object:
    return str(value.resolve()) if isinstance(value, Path) else value


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, required=True, help="folder of unlabelled tiles at 0.25 mpp")
    parser.add_argument("--annotated", type=Path, required=True, help="folder with images and labels, to score on")
    parser.add_argument("--mpp", type=float, default=0.25, help="of the annotated images (0.25)")
    parser.add_argument("--table", default="", help="file in IMAGES that says which are meant (all)")
    parser.add_argument("--key", default="", help="its column, for example split")
    parser.add_argument("--values", nargs="+", default=[], help="what may be in it, for example train")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of everything; goes on where it was")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trainings (0 1 2)")
    parser.add_argument("--count", type=int, default=800, help="patches of a dataset (800)")
    parser.add_argument("--size", type=int, default=256, help="their side in pixels of 0.25 µm (256)")
    parser.add_argument("--seed", type=int, default=1, help="of patches and refiner (1)")
    parser.add_argument("--refiner-steps", type=int, default=1500, help="of refiner and discriminator (1500)")
    parser.add_argument("--refiner-size", type=int, default=128, help="side of the patches they learn from (128)")
    parser.add_argument("--steps", type=int, default=400, help="of each training (400)")
    parser.add_argument("--recipe", default=RECIPE, help="another recipe with data called patches, for example hou")
    parser.add_argument("--set", action="append", default=[], help="as of wsiseg train; may be repeated")
    parser.add_argument("--workers", type=int, default=2, help="processes that make patches (2)")
    parser.add_argument("--threads", type=int, default=2, help="threads of a training (2)")
    parser.add_argument("--quick", action="store_true", help="a few tiny patches and steps: does it run?")
    if parser.parse_args(words).quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    try:
        images = annotated_images(options)
    except (WsisegError, ValueError) as error:
        raise SystemExit(str(error)) from error
    settle(options)
    datasets = {name: make_dataset(name, options) for name in {VARIANTS[v].dataset: 0 for v in options.variants}}
    runs: dict[str, dict[int, Run]] = {name: {} for name in options.variants}
    for seed in options.seeds:  # seed by seed: stopped halfway, it has compared something
        for name in options.variants:
            runs[name][seed] = score_run(name, seed, datasets[VARIANTS[name].dataset], images, options)
    weights = {name: weight_summary(path) for name, path in datasets.items() if name != "rendered"}
    lines = list(table(runs, weights))
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    print(f"\n{len(images)} images\n", *lines, sep="\n")


if __name__ == "__main__":
    main()
