"""``wsiseg tile``"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsiseg_cli import options
from wsiseg_cli.interrupt import heed_interrupt
from wsiseg_cli.terminal import note, one_line, tell_json

if TYPE_CHECKING:
    from wsiseg.run.cluster import ClusterOptions
    from wsiseg.run.events import Event


@click.command("tile")
@options.slides_argument
@options.output_option("Folder for the stores, one <slide>.ome.zarr each.")
@click.option(
    "--mpp", type=options.Microns(),
    help="Microns per pixel of the store; default: the slide's own, copied pixel for pixel.",
)  # fmt: skip
@click.option(
    "--slide-mpp", type=options.Microns(),
    help="Microns per level-0 pixel of the slides, instead of what their metadata say.",
)  # fmt: skip
@click.option(
    "--mpp-csv", type=options.Readable(),
    help="CSV with the columns slide,mpp, for slides whose metadata lack it.",
)  # fmt: skip
@click.option("--tissue-only/--all", default=False, help="Store only chunks that touch tissue; default: all.")
@click.option(
    "--codec", type=click.Choice(["zstd", "jpeg"]), default="zstd", show_default=True,
    help="zstd: every pixel exact, 5-10 times the SVS; jpeg (quality 90): lossy, 1.3-2 times the SVS.",
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
    cluster: ClusterOptions,
    as_json: bool,
) -> int:
    """Copy slides, chunk by chunk and in parallel, into OME-Zarr 0.5 that `wsiseg segment` and viewers read.

    The slide's own levels are copied as they are, and coarser ones added for viewers. A stopped run goes on where
    it was when the same command is given again.
    """
    from wsiseg.convert.run import TilingOptions, tile_slides
    from wsiseg.run.cluster import open_executor
    from wsiseg.slide.discover import find_slides

    settings = TilingOptions(mpp, tissue_only, "jpeg" if codec == "jpeg" else "zstd")
    paths = find_slides(slides)
    with open_executor(replace(cluster, device="cpu")) as executor:
        listener = _quiet if as_json else _show
        results = tile_slides(paths, out, settings, executor, listener, mpp=slide_mpp, mpp_table=mpp_csv)
    if as_json:
        tell_json([_in_own_words(result) for result in results])
    failed = sum(result["status"] == "failed" for result in results)
    damaged = sum(bool(result.get("lost")) for result in results)
    if failed == len(results):
        return 4
    return 3 if failed or damaged else 0


def _in_own_words(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """In this command --mpp is the store's, so the advice on a slide's is another option's name."""
    if record["status"] != "failed":
        return record
    message = record["error"]["message"].replace("--mpp VALUE", "--slide-mpp VALUE")
    return {**record, "error": {**record["error"], "message": message}}


def _quiet(event: Event) -> None:
    heed_interrupt()


def _show(event: Event) -> None:
    from wsiseg.run.events import Begun, StoreEnded, Unchanged

    heed_interrupt()
    match event:
        case Begun(name, total):
            note(f"{one_line(name)}: {total} shards")
        case Unchanged(name):
            note(f"{one_line(name)}: already there")
        case StoreEnded(name, record):
            note(f"{one_line(name)}: {_outcome(record)}")


def _outcome(record: Mapping[str, Any]) -> str:
    if record["status"] == "failed":
        return f"FAILED: {_in_own_words(record)['error']['message']}"
    stored = f"{record['bytes'] / 1e6:.1f} MB, {record['shards']['computed']} shards written"
    lost = f", {record['lost']} damaged parts of the slide are missing" if record["lost"] else ""
    return f"{one_line(record['path'])} ({stored}{lost})"
