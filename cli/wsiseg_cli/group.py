"""``wsiseg``: the group of commands, and how their errors end the process."""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
from types import FrameType

import click

from wsiseg.errors import ClusterLost, EnvironmentFault, WsisegError
from wsiseg.version import __version__
from wsiseg_cli.options import resume_command
from wsiseg_cli.terminal import note, output_fault

# Name → one line for the overview. A command's module is imported when the command is used, so that
# `wsiseg --help` starts neither torch nor Dask.
_COMMANDS = {
    "segment": "Segment nuclei of slides, stitch, grade and report them.",
    "import": "Grade and report segmentations that were made elsewhere.",
    "info": "Show what a slide is: levels, microns per pixel, properties.",
    "tile": "Copy slides lazily into OME-Zarr.",
    "export": "Write a slide's nuclei in a format other tools read.",
    "overlay": "Draw a region of a slide with its nuclei.",
    "report": "Make the cohort tables and report.html of a results folder again.",
    "qc": "Check slides without segmenting them; measure how far judgements can be trusted.",
    "evaluate": "Score segmentations against a truth: label images or nuclei.",
    "models": "List the segmentation models that are installed.",
    "train": "Train a network as a recipe says.",
    "synth": "Make synthetic training patches whose nuclei are all known.",
    "demo": "Make a synthetic slide, segment it and compare with the truth.",
    "doctor": "Check the installation: libraries, cores, memory, GPU.",
}
_MODULES = {"import": "importing"}
"""Where a command's module cannot have its name."""

_NO_FOLDER = "the current folder was removed. Change to one that exists and run the same command."
_RESUMABLE = (("segment",), ("import",), ("tile",), ("train",), ("synth",), ("demo",))


def module_of(command: str) -> str:
    """The name of a command's module in this package."""
    return _MODULES.get(command, command)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"wsiseg_cli.{module_of(cmd_name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="wsiseg")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Whole-slide nucleus segmentation on Dask.

    \b
    wsiseg segment slides/*.svs -o results    nuclei, grades and a report
    wsiseg info slide.svs                     what a slide is
    wsiseg demo                               a complete run on a synthetic slide

    Exit codes: 0 ok, 1 internal error, 2 usage, 3 some slides failed or are partial, 4 all failed,
    5 environment (disk, device, cluster), 6 a grade below --min-grade, 130 and 143 stopped by a signal.
    """
    ctx.obj = {"debug": debug}
    if debug:
        logging.getLogger("wsiseg").setLevel(logging.DEBUG)


def run() -> None:
    """Run the command that ``sys.argv`` names and end the process with its exit code."""
    debug = "--debug" in sys.argv
    try:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, _terminated)
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        note(text.getvalue().rstrip("\n"))
        code = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        code = _stopped(130)
    except _Terminated:
        code = _stopped(143)
    except WsisegError as error:
        if debug:
            raise
        code = _refused(EnvironmentFault(_NO_FOLDER) if _without_folder() else error)
    except Exception as error:
        if debug:
            raise
        code = _unexpected(error)
    fault = output_fault()
    if fault is not None:
        note(f"wsiseg: {fault}")
        code = EnvironmentFault.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _refused(error: WsisegError) -> int:
    note(f"wsiseg: {error}")
    if isinstance(error, ClusterLost) and _resumable():
        note(f"To go on:\n  {resume_command()}")
    return error.exit_code


def _resumable() -> bool:
    """Whether this process's command goes on where it was stopped."""
    words = tuple(word for word in sys.argv[1:] if not word.startswith("-"))
    at_once = words[:2] in (("synth", "truth"), ("synth", "sheet"))
    return not at_once and any(words[: len(path)] == path for path in _RESUMABLE)


def _unexpected(error: Exception) -> int:
    if _without_folder():
        return _refused(EnvironmentFault(_NO_FOLDER))
    note(
        f"wsiseg: internal error: {type(error).__name__}: {error}"
        "\nPlease report it, with the output of the same command after `wsiseg --debug`."
    )
    return 1


def _without_folder() -> bool:
    """Whether the current folder is gone: many a library then fails, each in its own way."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


class _Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whoever insists need not wait for the workers
    raise _Terminated


def _stopped(code: int) -> int:
    if _resumable():
        note(f"\nstopped; nothing finished is lost. To go on:\n  {resume_command()}")
    else:
        note("\nstopped")
    # CPython remembers a KeyboardInterrupt that left an exec() of text (every dataclass is made by one), caught
    # since or not, and dies of SIGINT instead of exiting with the code. The next exec() makes it forget.
    exec("")
    return code
