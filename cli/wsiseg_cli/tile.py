"""``wsiseg tile``"""

from __future__ import annotations

import json
from pathlib import Path

import click

from wsiseg_cli import options


@click.command("tile")
@options.slides_argument
@options.output_option("Folder for the stores, one <slide>.ome.zarr each.")
@click.option(
    "--mpp", type=click.FloatRange(min=0, min_open=True),
    help="Microns per pixel of the store; default: the slide's own, copied pixel for pixel.",
)  # fmt: skip
@click.option(
    "--slide-mpp", type=click.FloatRange(min=0, min_open=True),
    help="Microns per level-0 pixel of the slides, instead of what their metadata say.",
)  # fmt: skip
@click.option(
    "--mpp-csv", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with the columns slide,mpp, for slides whose metadata lack it.",
)  # fmt: skip
@click.option("--tissue-only/--all", default=False, help="Store only chunks that touch tissue; default: all.")
@click.option(
    "--codec", type=click.Choice(["zstd", "jpeg"]), default="zstd", show_default=True,
    help="zstd keeps every pixel exactly; jpeg (quality 90) is far smaller and changes them slightly.",
)  # fmt: skip
@options.cluster_options
@options.json_option
def command(
    slides: tuple[str, ...],
    out: Path,
    mpp: float | None,
    slide_mpp: float | None,
    mpp_csv: Path | None,
    tissue_only: bool,
    codec: str,
    workers: int | None,
    scheduler: str | None,
    device: str,
    memory_limit: str,
    dashboard_address: str,
    performance_report: Path | None,
    as_json: bool,
) -> int:
    """Copy slides, chunk by chunk and in parallel, into OME-Zarr 0.5 that `wsiseg segment` and viewers read.

    The slide's own levels are copied as they are, and coarser ones added for viewers. A stopped run goes on where
    it was when the same command is given again.
    """
    from wsiseg.cluster import ClusterOptions, open_executor
    from wsiseg.inputs import find_slides
    from wsiseg.tiling import TilingOptions, tile_slides

    cluster = ClusterOptions(scheduler, workers, "cpu", dashboard_address, memory_limit, performance_report)
    settings = TilingOptions(to_mpp, tissue_only, codec)
    with open_executor(cluster) as executor:
        try:
            results = tile_slides(find_slides(slides), out, settings, executor, mpp=mpp, mpp_table=mpp_csv)
        except (KeyboardInterrupt, SystemExit):
            click.echo(f"\nstopped. To go on:\n  {options.resume_command()}", err=True)
            raise
    if as_json:
        click.echo(json.dumps(results, indent=1))
    return 0
