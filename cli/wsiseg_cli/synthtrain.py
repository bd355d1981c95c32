"""``wsiseg synth train``"""

from __future__ import annotations

import os
from pathlib import Path

import click

from wsiseg_cli import options
from wsiseg_cli.named import Named, unique
from wsiseg_cli.terminal import mention, one_line, tell, tell_json


@click.command("train")
@click.argument("recipe", required=False)
@options.output_option("Folder of the run; the same command goes on where it stopped.", required=False)
@click.option("--list", "list_all", is_flag=True, help="List the generators' recipes that come with wsiseg.")
@click.option("--show", is_flag=True, help="Print the recipe instead of training it.")
@click.option(
    "--data", "data", type=Named(), multiple=True,
    help="Where the data lie that the recipe calls NAME; may be repeated.",
)  # fmt: skip
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE",
    help="Override a value of the recipe, for example steps=1000; may be repeated.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch; by default all cores.")
@options.json_option
def train(
    recipe: str | None,
    out: Path | None,
    list_all: bool,
    show: bool,
    data: tuple[tuple[str, Path], ...],
    overrides: tuple[str, ...],
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Train a renderer that is a network: Points2Image, StyleGAN2 or AdaIN.

    RECIPE is a name of --list or a TOML file (docs/generators.md). OUTPUT gets <name>.safetensors, the renderer's
    weights; while it runs log.jsonl, log.csv, curves.png and samples/. A training that is stopped or killed at any
    moment goes on when the same command is given again.

    \b
    wsiseg synth train --list
    wsiseg synth train adain-small --data annotated=FOLDER -o runs/adain
    wsiseg synth train points2image --data annotated=FOLDER -o runs/p2i --device cuda --set steps=6000
    """
    if list_all:
        _list(as_json)
        return
    if recipe is None:
        raise click.UsageError("Missing argument 'RECIPE'; `wsiseg synth train --list` names those that there are.")
    from wsiseg.train.generators.recipe import read_generator_recipe

    tables, text = read_generator_recipe(recipe, overrides)
    if show:
        tell(text)
        return
    if out is None:
        raise click.UsageError("Missing option '-o' / '--output': the folder of the run.")
    from wsiseg.train.generators.run import train_generator
    from wsiseg.train.run import TrainOptions
    from wsiseg_cli.trainprogress import watch_training

    count = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with watch_training(quiet=as_json) as on_event:
        settings = TrainOptions(device, count, count)
        result = train_generator(tables, text, unique(data), out, settings, on_event)
    if as_json:
        tell_json(result.to_dict())
    else:
        mention(f"weights after {result.steps} steps: {one_line(str(result.weights))}")


def _list(as_json: bool) -> None:
    from wsiseg.train.generators.recipe import (
        generator_data,
        list_generator_recipes,
        parse_generator_recipe,
        read_generator_recipe,
    )

    rows = []
    for name in list_generator_recipes():
        known = parse_generator_recipe(read_generator_recipe(name)[0])
        rows.append({"name": name, "summary": known.summary, "system": known.system, "data": generator_data(known)})
    if as_json:
        tell_json(rows)
        return
    for row in rows:
        tell(f"{row['name']}\n  {row['summary']}")
        tell(f"  renderer: {row['system']}; data: {', '.join(row['data'])}")
