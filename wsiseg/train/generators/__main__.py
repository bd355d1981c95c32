"""``python -m wsiseg.train.generators RECIPE -o OUT --data NAME=PATH``: train a renderer's networks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wsiseg.core.recipes import read_tables, recipe_names
from wsiseg.errors import WsisegError
from wsiseg.run.events import Event, StepsDone
from wsiseg.train.generators.recipe import RECIPES
from wsiseg.train.generators.run import train_generator
from wsiseg.train.run import TrainOptions

_EVERY = 50


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m wsiseg.train.generators", description=__doc__)
    names = ", ".join(recipe_names(RECIPES))
    parser.add_argument("recipe", help=f"a TOML file, or one of {names}")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder; the same command goes on in it")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    pairs = [text.partition("=") for text in given.data]
    data = {name: Path(path) for name, _, path in pairs}
    options = TrainOptions(given.device, given.threads, given.threads)
    try:
        tables, text = read_tables(given.recipe, RECIPES, given.overrides)
        result = train_generator(tables, text, data, given.out, options, _tell)
    except WsisegError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(json.dumps({"weights": str(result.weights), "steps": result.steps}))


def _tell(event: Event) -> None:
    if isinstance(event, StepsDone) and event.done % _EVERY == 0:
        print(f"{event.done} of {event.total} steps, losses {event.loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
