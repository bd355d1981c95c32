"""``wsiseg report``"""

from __future__ import annotations

from pathlib import Path

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import mention, one_line


@click.command("report")
@click.argument("results", type=options.Place(folder=True))
def command(results: Path | str) -> int:
    """Write the cohort's tables and all pages of RESULTS, a folder or its URL, again; no slide is needed."""
    from wsiseg.run.pipeline import report_again

    mention(one_line(report_again(results)))
    return 0
