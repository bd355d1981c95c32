"""``wsiseg qc``"""

from __future__ import annotations

import click

from wsiseg_cli.qcvalidate import validate


@click.group("qc")
def command() -> None:
    """Quality of slides and of segmentations."""


command.add_command(validate)
