"""``wsiseg import``"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import note, one_line

if TYPE_CHECKING:
    from wsiseg.run.cluster import ClusterOptions


class _Offset(click.ParamType):
    name = "X,Y"

    def convert(
        self, value: str | tuple[float, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            x, y = (float(part) for part in value.split(","))
        except ValueError:
            x = y = math.nan
        if not (math.isfinite(x) and math.isfinite(y)):
            self.fail(f"got {value!r}; expected two numbers X,Y in level-0 pixels", param, ctx)
        return x, y


class _Seams(click.ParamType):
    name = "PITCH[,X,Y]"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, float, float]:
        try:
            pitch, *corner = value.split(",")
            x, y = (float(part) for part in corner or ("0", "0"))
            side = int(pitch)
        except ValueError:
            side, x, y = 0, 0.0, 0.0
        if side < 1 or not (math.isfinite(x) and math.isfinite(y)):
            self.fail(
                f"got {value!r}; expected the side of the tiles, a whole number of level-0 pixels, and if they do "
                "not begin at 0,0 a corner of one: 4000,1,1",
                param,
                ctx,
            )
        return side, x, y


@click.command("import")
@click.argument(
    "segmentations", nargs=-1, required=True, metavar="SEGMENTATION...", type=options.Place(options.NOT_FROM_A_URL)
)
@click.option("--slide", metavar="SLIDE", help="The slide that the segmentation is of, whatever its name.")
@click.option(
    "--slides", multiple=True, metavar="SLIDES",
    help="Slides, a folder of them or a pattern: each segmentation is that of the slide with its name.",
)  # fmt: skip
@options.results_option("Folder for the results, or its URL, as of `wsiseg segment`.")
@click.option(
    "--input-mpp", type=options.Microns(),
    help="Microns per pixel that the segmentation's coordinates count in; without it they are level-0 pixels.",
)  # fmt: skip
@click.option(
    "--scale", type=options.Microns(), metavar="FACTOR",
    help="Level-0 pixels in a pixel of the segmentation, instead of --input-mpp.",
)  # fmt: skip
@click.option(
    "--offset", type=_Offset(), default=(0.0, 0.0),
    help="Level-0 pixels to add to all coordinates, after scaling.",
)  # fmt: skip
@click.option(
    "--seams", type=_Seams(),
    help="Side and corner of the tiles that the segmentation was made in, in level-0 pixels: the audit looks for "
    "nuclei that their lines cut. QuIP tables say it themselves.",
)  # fmt: skip
@options.mpp_options
@options.grade_options
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace results of `wsiseg segment`, or of other settings, in OUTPUT; without it the command is refused.",
)
@options.segmenting_cluster_options
@options.json_option
def command(
    segmentations: tuple[Path, ...],
    slide: str | None,
    slides: tuple[str, ...],
    out: Path | str,
    input_mpp: float | None,
    scale: float | None,
    offset: tuple[float, float],
    seams: tuple[int, float, float] | None,
    mpp: float | None,
    mpp_csv: Path | None,
    qc_all: bool,
    min_grade: str | None,
    overwrite: bool,
    cluster: ClusterOptions,
    as_json: bool,
) -> int:
    """Make results of nuclei that another program has outlined: measured, graded and reported as our own.

    SEGMENTATION is a file or a folder that is searched: QuIP's tables as Hou et al. published them for TCGA (a
    slide's folder of *-features.csv, or its .tar or .tar.gz), GeoJSON (QuPath's; .gz), GeoParquet with polygons (a
    results folder of wsiseg as well), or label images (PNG, TIFF, .npy, .mat). Its name is the slide's, or --slide
    says which slide it is.

    Outlines are taken as they are; those that cross themselves or the slide's edge are mended and counted in the
    report, and what a file does not say, such as a score, stays empty. A seam audit looks for nuclei that the tiles
    of the other program have cut. The same command again computes nothing unless a file has changed.

    \b
    wsiseg import brca_polygon/TCGA-A1.svs.tar.gz --slide TCGA-A1.svs -o results
    wsiseg import qupath/*.geojson --slides slides -o results
    wsiseg import labels.tif --slide a.svs --input-mpp 0.5 -o results
    """
    from wsiseg.interop.importing import ImportOptions
    from wsiseg.interop.pairing import find_segmentations, of_one, pair
    from wsiseg.run.cluster import open_executor
    from wsiseg.run.pipeline import import_outlines
    from wsiseg.slide.discover import find_slides
    from wsiseg_cli.progress import conclude, watch

    if (slide is None) == (not slides):
        raise click.UsageError("give --slide for one slide, or --slides for those with the segmentations' names")
    if scale is not None and input_mpp is not None:
        raise click.UsageError("--scale and --input-mpp say the same in two ways: give one of them")
    paths = find_slides(slides if slide is None else [slide])
    if slide is not None and len(paths) != 1:
        raise click.UsageError(f"--slide {slide}: names {len(paths)} slides; expected one. For several: --slides")
    found = find_segmentations(segmentations)
    pairs = of_one(found, paths[0]) if slide is not None else pair(found, paths)
    without = [one.name for one in found if one not in pairs.values()]
    if without and not as_json:
        note(f"no slide for {len(without)} of {len(found)} segmentations: {one_line(', '.join(without[:5]))}")
    settings = ImportOptions(mpp, mpp_csv, input_mpp, scale, offset, seams, qc_all, overwrite)
    with open_executor(cluster) as executor, watch(quiet=as_json) as on_event:
        result = import_outlines(pairs, out, settings, executor, on_event)
    return conclude(result, min_grade, as_json=as_json)
