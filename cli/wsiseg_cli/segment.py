"""``wsiseg segment``"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsiseg_cli import options

if TYPE_CHECKING:
    from wsiseg.run.cluster import ClusterOptions


class Roi(click.ParamType):
    name = "X,Y,W,H"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float, float]:
        try:
            x, y, width, height = (float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"got {value!r}; expected four numbers X,Y,W,H in level-0 pixels", param, ctx)
        if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
            self.fail(f"got {value!r}; expected finite numbers, width and height above 0", param, ctx)
        return x, y, width, height


@click.command("segment")
@options.slides_argument
@options.output_option("Folder for the results; a run with the same settings goes on where it stopped.")
@options.model_option
@options.mpp_options
@click.option("--roi", type=Roi(), help="Only this rectangle, in level-0 pixels.")
@click.option(
    "--mask",
    type=options.Readable(),
    help="Only inside the polygons of this GeoJSON file: level-0 pixels, from the corner of the slide's bounds if "
    "it has any, as QuPath writes them.",
)
@click.option("--all", "everywhere", is_flag=True, help="Do not look for tissue: segment the whole slide.")
@click.option(
    "--tile", default=2048, show_default=True, type=click.IntRange(min=64),
    help="Side of a tile in pixels at the model's resolution. Results do not depend on it; memory does.",
)  # fmt: skip
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network; auto: bf16 where the hardware has it.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    show_default=True,
    help="What computes the network; auto: OpenVINO for ONNX files, torch for all others. "
    "OpenVINO is faster on x86 processors: pip install 'wsiseg[openvino]'.",
)
@click.option(
    "--mirrors",
    is_flag=True,
    help="Average the network over the four mirror images of each tile: four times the time, slightly better.",
)
@options.grade_options
@click.option("--retry-partial", is_flag=True, help="Compute slides again of which some area was lost.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace results of other settings in OUTPUT; without it they are kept and the command refused.",
)
@options.cluster_options
@options.json_option
def command(
    slides: tuple[str, ...],
    out: Path,
    model: str | None,
    mpp: float | None,
    mpp_csv: Path | None,
    roi: tuple[float, float, float, float] | None,
    mask: Path | None,
    everywhere: bool,
    tile: int,
    precision: str,
    engine: str,
    mirrors: bool,
    qc_all: bool,
    min_grade: str | None,
    retry_partial: bool,
    overwrite: bool,
    cluster: ClusterOptions,
    as_json: bool,
) -> int:
    """Segment the nuclei of slides, stitch them, grade each slide and write a report.

    SLIDE is a file, a folder (searched for slides) or a glob pattern; DICOM files of one series in one folder are
    one slide. Results of a slide are in OUTPUT/<slide>/:
    nuclei.parquet (GeoParquet, level-0 pixels), maps.zarr (labels, tissue, lost area), thumbnail.png and
    slide.json; of all of them in OUTPUT/report.html and cohort.csv. A stopped or killed run goes on where it
    was when the same command is given again; a finished one computes nothing. A slide that was moved keeps its
    results; results of other settings are not replaced without --overwrite, and what is not wsiseg's never.

    \b
    wsiseg segment slides/*.svs -o results
    wsiseg segment old.svs -o results --mpp 0.25       metadata without microns per pixel
    wsiseg segment a.svs -o results --roi 20000,18000,4096,4096
    wsiseg segment slides -o results --scheduler tcp://head:8786
    wsiseg segment slides -o results --cluster slurm      see docs/cluster.md
    """
    from wsiseg.models.registry import DEFAULT_MODEL
    from wsiseg.run.cluster import open_executor
    from wsiseg.run.pipeline import segment_slides
    from wsiseg.slide.discover import find_slides
    from wsiseg.tiles.request import SegmentOptions
    from wsiseg_cli.progress import conclude, watch

    paths = find_slides(slides)
    settings = SegmentOptions(
        model or DEFAULT_MODEL, tile, mpp, mpp_csv, roi, mask, not everywhere,
        retry_partial, overwrite, precision, engine, mirrors, qc_all,
    )  # fmt: skip
    with open_executor(cluster) as executor, watch(quiet=as_json) as on_event:
        result = segment_slides(paths, out, settings, executor, on_event)
    return conclude(result, min_grade, as_json=as_json)
