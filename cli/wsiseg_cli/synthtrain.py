"""``wsiseg synth train``"""

from __future__ import annotations

from pathlib import Path

import click

from wsiseg_cli import options
from wsiseg_cli.named import unique
from wsiseg_cli.terminal import mention, one_line, tell, tell_json


@click.command("train")
@options.training_options("generators' recipes", "steps=1000")
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
    """Train the networks of a renderer: Points2Image, StyleGAN2, AdaIN, Hou's refiner.

    RECIPE is a name of --list or a TOML file (docs/generators.md). OUTPUT gets <name>.safetensors, the renderer's
    weights; while it runs log.jsonl, log.csv, curves.png and samples/. A training that is stopped or killed at any
    moment goes on when the same command is given again.

    \b
    wsiseg synth train --list
    wsiseg synth train adain-small --data annotated=FOLDER -o runs/adain
    wsiseg synth train points2image --data annotated=FOLDER -o runs/p2i --device cuda --set steps=6000
    wsiseg synth train hou-refiner-small --data textures=TILES -o runs/refiner
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

    settings = TrainOptions(device, threads or options.cores(), threads or options.cores())
    with watch_training(quiet=as_json) as on_event:
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
        tell(f"  system: {row['system']}; data: {', '.join(row['data'])}")
