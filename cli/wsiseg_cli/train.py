"""``wsiseg train``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsiseg_cli import options
from wsiseg_cli.named import unique
from wsiseg_cli.terminal import mention, one_line, tell, tell_json

if TYPE_CHECKING:
    from wsiseg.run.events import Listener


@click.command("train")
@options.training_options("recipes", "optimise.steps=1000")
@click.option(
    "--workers", type=click.IntRange(min=1),
    help="What makes batches, threads or, on a GPU, processes; and processes that make patches.",
)  # fmt: skip
@click.option(
    "--compile", "compiled", is_flag=True,
    help="Let torch compile the network: minutes at first, and on a GPU faster steps. It needs a C++ compiler.",
)  # fmt: skip
@click.option(
    "--pools", type=click.Path(file_okay=False, path_type=Path),
    help="Where the patches of the data are kept; trainings can share it. By default in OUTPUT.",
)  # fmt: skip
@options.json_option
def command(
    recipe: str | None,
    out: Path | None,
    list_all: bool,
    show: bool,
    data: tuple[tuple[str, Path], ...],
    overrides: tuple[str, ...],
    device: str,
    threads: int | None,
    workers: int | None,
    compiled: bool,
    pools: Path | None,
    as_json: bool,
) -> int:
    """Train a network as a recipe says.

    RECIPE is a name of --list or a TOML file (docs/training.md). OUTPUT gets <name>.safetensors and <name>.md,
    which `wsiseg segment --model OUTPUT/<name>.safetensors` uses; while it runs log.jsonl, curves.png, samples/
    and, with the package tensorboard, tensorboard/. A training that is stopped or killed at any moment goes on
    when the same command is given again, and ends with the weights of one that was not.

    \b
    wsiseg train --list
    wsiseg train unet-0.5-first --data textures=tiles/ -o runs/a
    wsiseg train my.toml --data slides=annotated/ -o runs/b --set optimise.steps=500 --set seed=2
    """
    from wsiseg.train.recipe import read_recipe

    if list_all:
        _list(as_json)
        return 0
    if recipe is None:
        raise click.UsageError("Missing argument 'RECIPE'; `wsiseg train --list` names those that there are.")
    tables, text = read_recipe(recipe, overrides)
    if show:
        tell(text)
        return 0
    if out is None:
        raise click.UsageError("Missing option '-o' / '--output': the folder of the run.")
    from wsiseg.train.run import TrainOptions, train_recipe
    from wsiseg_cli.trainprogress import watch_training

    cores = options.cores()
    settings = TrainOptions(device, threads or cores, workers or max(1, cores - 1), pools, compile=compiled)
    with watch_training(quiet=as_json) as on_event:
        _mention_tensorboard(on_event)
        result = train_recipe(tables, text, unique(data), out, settings, on_event)
    if as_json:
        tell_json(result.to_dict())
        return 0
    for name, scores in result.scores.items():
        mention(f"{one_line(name)}: " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))
    mention(f"best after {result.best_step} of {result.step} steps")
    mention(f"weights: {one_line(str(result.weights))}")
    return 0


def _list(as_json: bool) -> None:
    from wsiseg.train.recipe import data_names, list_recipes, parse_recipe, read_recipe

    rows = []
    for name in list_recipes():
        known = parse_recipe(read_recipe(name)[0])
        rows.append({"name": name, "summary": known.summary, "licence": known.licence, "data": data_names(known)})
    if as_json:
        tell_json(rows)
        return
    for row in rows:
        tell(f"{row['name']}\n  {row['summary']}")
        tell(f"  weights: {row['licence']}; data: {', '.join(row['data'])}")


def _mention_tensorboard(on_event: Listener) -> None:
    from wsiseg.run.events import Note
    from wsiseg.train.journal import has_tensorboard

    if not has_tensorboard():
        on_event(Note("", "no TensorBoard files: `pip install 'wsiseg[train]'` installs what writes them"))
