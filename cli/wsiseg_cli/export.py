"""``wsiseg export``"""

from __future__ import annotations

from pathlib import Path

import click

from wsiseg.interop import TARGETS
from wsiseg_cli import options
from wsiseg_cli.terminal import mention, one_line


@click.command("export")
@click.argument("run", type=options.Place(folder=True))
@click.option(
    "--to", "target", required=True, type=click.Choice(list(TARGETS)),
    help="geojson: QuPath detections; quip-csv: the tables of Hou et al.",
)  # fmt: skip
@options.output_option("Folder for the files; default: the folder exports in the results folder.", required=False)
@click.option(
    "--split", type=click.IntRange(min=1),
    help="At most this many nuclei a GeoJSON file (QuPath reads a file whole).",
)  # fmt: skip
def command(run: Path | str, target: str, out: Path | None, split: int | None) -> int:
    """Write the nuclei of RUN, a results folder, its URL, or one slide's folder in it, in another format.

    Coordinates are level-0 pixels; GeoJSON's are relative to the scanned region's corner (OpenSlide's bounds), as
    QuPath shows it. Files are written as a stream: memory does not grow with the slide.
    """
    from wsiseg.interop.export import export_run
    from wsiseg.run.place import folder_of

    if split and target == "quip-csv":
        raise click.UsageError("--split is for GeoJSON; quip-csv has one file a tile of 4000 pixels")
    if isinstance(run, str) and out is None:
        raise click.UsageError(f"{run}: give -o, a folder here for the files")
    with folder_of(run) as folder:
        for path in export_run(folder, target, out, split):
            mention(one_line(str(path)))
    return 0
