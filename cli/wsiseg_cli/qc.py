"""``wsiseg qc``"""

from __future__ import annotations

import click

from wsiseg_cli.qcvalidate import validate


@click.group("qc")
def command() -> None:
    """Quality control by itself: how far a judgement can be trusted."""


command.add_command(validate)
