"""``wsiseg overlay``"""

from __future__ import annotations

from pathlib import Path

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import mention, one_line, tell


@click.command("overlay")
@click.argument("result", type=options.Place(options.NOT_FROM_A_URL, folder=True))
@click.option("--roi", required=True, metavar="X,Y,W,H", help="The region, in level-0 pixels.")
@click.option("--slide", type=click.Path(path_type=Path), help="The slide, if it is no longer where it was.")
@click.option("--zoom", default=1, show_default=True, type=click.IntRange(1, 8), help="Image pixels a slide pixel.")
@options.output_option("PNG file to write.")
def command(result: Path, roi: str, slide: Path | None, zoom: int, out: Path) -> int:
    """Draw a region at full resolution with the outlines of its nuclei. RESULT is one slide's results folder.

    Types of nuclei, where the model has them, are told by colours, which are printed.
    """
    from wsiseg.report.picture import draw_overlay
    from wsiseg_cli.segment import Roi

    x, y, width, height = Roi().convert(roi, None, None)
    for name, color in draw_overlay(result, (x, y, width, height), out, slide=slide, zoom=zoom).items():
        tell(f"{one_line(name)} #{bytes(color).hex()}", color=color)
    mention(one_line(str(out)))
    return 0
