"""Options that several commands share."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from wsiseg.core.plainfile import require_plain_file
from wsiseg.core.url import folder_url, is_url
from wsiseg_cli.named import Named
from wsiseg_cli.terminal import note

F = TypeVar("F", bound=Callable[..., Any])


class Microns(click.ParamType):
    """Microns per pixel: a finite number above 0."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"got {value!r}; expected a number of microns per pixel above 0, such as 0.25", param, ctx)
        return number


class Readable(click.Path):
    """A regular file: whatever else has a name, a pipe for example, could keep its reader waiting for ever."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path: Any = super().convert(value, param, ctx)
        require_plain_file(path, "the file")
        return path


def slides_argument(function: F) -> F:
    return click.argument("slides", nargs=-1, required=True, metavar="SLIDE...")(function)


def model_option(function: F) -> F:
    return click.option(
        "-m",
        "--model",
        metavar="NAME|FILE|auto",
        help="A model of `wsiseg models`, a file of weights, or a manifest (.toml); networks joined by + are "
        "averaged. auto: unet-0.25+unet-0.5 on a GPU where "
        "a slide's pixels are fine enough, else unet-0.5; said for each slide. By default unet-0.5.",
    )(function)


def mpp_options(function: F) -> F:
    """--mpp and --mpp-csv: the slide's own microns per pixel."""
    function = click.option(
        "--mpp-csv",
        type=Readable(),
        help="CSV with the columns slide,mpp, for slides whose metadata lack it.",
    )(function)
    return click.option(
        "--mpp",
        type=Microns(),
        help="Microns per level-0 pixel of the slides, instead of what their metadata say.",
    )(function)


def grade_options(function: F) -> F:
    """--qc-all and --min-grade: how much is judged, and what grade is good enough."""
    function = click.option(
        "--min-grade",
        type=click.Choice(["Best", "Good", "Adequate", "Problematic"], case_sensitive=False),
        help="End with exit code 6 where a slide has a worse grade than this; one that is not assessed has none.",
    )(function)
    return click.option(
        "--qc-all",
        is_flag=True,
        help="Judge all patches of a slide for its grade; without it a random sample of 150 where there are more.",
    )(function)


def cluster_options(function: Callable[..., Any], *, segmenting: bool = False) -> Callable[..., Any]:
    """Where the tasks run: options that reach the command as one argument, ``cluster`` (ClusterOptions).

    With ``segmenting``, processes on this machine are forked from one that imports what segmenting needs while the
    command imports its own.
    """

    @functools.wraps(function)
    def command(
        *,
        scheduler: str | None,
        workers: int | None,
        device: str,
        dashboard_address: str,
        memory_limit: str,
        performance_report: Path | None,
        scheduler_file: Path | None,
        cluster: str,
        cluster_profile: Path | None,
        **others: Any,
    ) -> Any:
        local = cluster == "local" and scheduler is None and scheduler_file is None and workers != 0
        forked = segmenting and local and not others.get("dry_run")
        if forked:
            from wsiseg.run.forerunner import start_forerunner

            start_forerunner()
        from wsiseg.run.cluster import ClusterOptions  # it imports Dask

        options = ClusterOptions(
            scheduler, workers, device, dashboard_address, memory_limit, performance_report, scheduler_file,
            cluster, cluster_profile, forked,
        )  # fmt: skip
        if cluster not in ("local", "cuda"):
            note(f"--cluster {cluster}: its workers are waited for")
        return function(cluster=options, **others)

    for option in reversed(
        (
            click.option(
                "-w",
                "--workers",
                type=click.IntRange(min=0),
                help="Worker processes; default one a core; on GPUs they share these. 0 runs without Dask.",
            ),
            click.option(
                "--cluster",
                type=click.Choice(["local", "cuda", "slurm", "pbs", "lsf", "sge", "kubernetes", "ssh"]),
                default="local",
                show_default=True,
                help="What to start workers with, as [cluster.NAME] in wsiseg.toml or Dask's configuration says.",
            ),
            click.option(
                "--cluster-profile",
                type=Readable(),
                metavar="FILE",
                help="That file; by default wsiseg.toml here, else in ~/.config/wsiseg.",
            ),
            click.option(
                "--scheduler",
                metavar="ADDRESS",
                help="Join a running Dask cluster (tcp://host:port) that sees the same files.",
            ),
            click.option(
                "--scheduler-file",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Join the Dask cluster whose scheduler wrote this file (`dask scheduler --scheduler-file`).",
            ),
            click.option(
                "--device",
                type=click.Choice(["auto", "cpu", "cuda"]),
                default="auto",
                show_default=True,
                help="What the workers compute on.",
            ),
            click.option(
                "--memory-limit",
                default="auto",
                show_default=True,
                help="Per worker process, for example 8GiB; a worker above it is restarted.",
            ),
            click.option(
                "--dashboard-address",
                default="127.0.0.1:8787",
                show_default=True,
                help="Where on this machine the local cluster's dashboard listens; port 0 takes a free one.",
            ),
            click.option(
                "--performance-report",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Write Dask's performance report (HTML) to this file.",
            ),
        )
    ):
        command = option(command)
    return command


def segmenting_cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """:func:`cluster_options` of a command whose tasks run the network."""
    return cluster_options(function, segmenting=True)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


class Place(click.Path):
    """A path, or the URL of a folder; of that a path would make a folder named ``s3:``.

    Parameters
    ----------
    refused : str, optional
        What to say of a URL; "": it is taken.
    folder : bool
        The path must be that of a folder that is there.
    """

    def __init__(self, refused: str = "", *, folder: bool = False) -> None:
        super().__init__(exists=folder, file_okay=not folder, path_type=Path)
        self._refused = refused

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not is_url(os.fspath(value)):
            return super().convert(value, param, ctx)
        if self._refused:
            self.fail(f"got {value!r}; {self._refused}", param, ctx)
        return folder_url(value)


NOT_FROM_A_URL = "results are read from a file system here: expected a path. Copy what is wanted from the URL."
_TO_A_DISK = "this is written to a file system: expected a path. Copy what is finished to the URL."


def output_option(help_text: str, *, required: bool = True) -> Callable[[F], F]:
    return click.option("-o", "--output", "out", type=Place(_TO_A_DISK), required=required, help=help_text)


def results_option(help_text: str) -> Callable[[F], F]:
    """``--output`` of a command that makes results: a folder, or the URL of one."""
    return click.option("-o", "--output", "out", type=Place(), required=True, metavar="PATH|URL", help=help_text)


def recipe_options(example: str) -> Callable[[F], F]:
    """What a recipe needs and what of it is other: ``data`` and ``overrides``, ``example`` one of these."""

    def decorated(function: F) -> F:
        function = click.option(
            "--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE",
            help=f"Override a value of the recipe, for example {example}; may be repeated.",
        )(function)  # fmt: skip
        return click.option(
            "--data", "data", type=Named(), multiple=True,
            help="Where the data lie that the recipe calls NAME; may be repeated.",
        )(function)  # fmt: skip

    return decorated


def training_options(recipes: str, example: str) -> Callable[[F], F]:
    """The argument and the options of a training by a recipe, ``recipes`` the kind of them."""
    given = (
        click.argument("recipe", required=False),
        output_option("Folder of the run; the same command goes on where it stopped.", required=False),
        click.option("--list", "list_all", is_flag=True, help=f"List the {recipes} that come with wsiseg."),
        click.option("--show", is_flag=True, help="Print the recipe instead of training it."),
        recipe_options(example),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option("--threads", type=click.IntRange(min=1), help="Threads of torch; by default all cores."),
    )
    return lambda function: functools.reduce(lambda made, option: option(made), reversed(given), function)


def cores() -> int:
    """Cores this process may run on; asked without importing Dask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resume_command() -> str:
    """The command line of this process, to be typed again."""
    import shlex

    program = Path(sys.argv[0])
    # With `python -m`, the script is the package's __main__.py.
    words = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*words, *sys.argv[1:]])
