"""``wsiseg report``"""

from __future__ import annotations

from pathlib import Path

import click

from wsiseg_cli.terminal import mention, one_line


@click.command("report")
@click.argument("results", type=click.Path(exists=True, file_okay=False, path_type=Path))
def command(results: Path) -> int:
    """Write the cohort's tables and all pages of the RESULTS folder again; no slide is needed."""
    from wsiseg.errors import UsageError
    from wsiseg.results.folder import output_lock, read_records
    from wsiseg.run.pipeline import write_reports

    if not read_records(results):
        raise UsageError(f"{results} has no finished slides. Expected the output folder of `wsiseg segment`.")
    with output_lock(results):
        mention(one_line(str(write_reports(results))))
    return 0
