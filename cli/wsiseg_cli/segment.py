"""``wsiseg segment``"""

from __future__ import annotations

import importlib
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import one_line

if TYPE_CHECKING:
    from wsiseg.run.cluster import ClusterOptions
    from wsiseg.run.estimate import Estimate
    from wsiseg.tiles.request import SegmentOptions


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
@options.results_option(
    "Folder for the results, or its URL (docs/remote.md); a run with the same settings goes on where it stopped."
)
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
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what a run would take on this machine (tiles, time, memory, disk), by a trial of one tile a slide; "
    "writes nothing.",
)
@options.segmenting_cluster_options
@options.json_option
def command(
    slides: tuple[str, ...],
    out: Path | str,
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
    dry_run: bool,
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
    wsiseg segment 's3://bucket/slides/*.svs' -o s3://bucket/results
    wsiseg segment slides -o results --dry-run         what it would take
    wsiseg segment slides -o results --cluster slurm      see docs/cluster.md
    """
    from wsiseg.models.registry import DEFAULT_MODEL
    from wsiseg.run.cluster import open_executor
    from wsiseg.slide.discover import find_slides
    from wsiseg.tiles.request import SegmentOptions
    from wsiseg_cli.progress import conclude, watch

    paths = find_slides(slides)
    settings = SegmentOptions(
        model or DEFAULT_MODEL, tile, mpp, mpp_csv, roi, mask, not everywhere,
        retry_partial, overwrite, precision, engine, mirrors, qc_all,
    )  # fmt: skip
    if dry_run:
        return _estimate(paths, settings, cluster, as_json=as_json)
    threading.Thread(target=_import_early).start()
    with open_executor(cluster) as executor, watch(quiet=as_json) as on_event:
        from wsiseg.run.pipeline import segment_slides

        result = segment_slides(paths, out, settings, executor, on_event)
    return conclude(result, min_grade, as_json=as_json)


def _import_early() -> None:
    """Seconds of imports, while this process does nothing but wait for its workers to start and to compute."""
    importlib.import_module("wsiseg.run.pipeline")
    importlib.import_module("pandas")  # Arrow's wish for the first table, which is the report's


def _estimate(paths: list[Path], settings: SegmentOptions, cluster: ClusterOptions, *, as_json: bool) -> int:
    """``--dry-run``: what each slide is expected to take; the exit code is that of a run with the same failures."""
    from dataclasses import asdict

    from wsiseg.errors import SlideError, UsageError
    from wsiseg.run.cluster import local_workers, resolve_device
    from wsiseg.run.estimate import estimate_slide
    from wsiseg_cli.terminal import tell, tell_json

    if cluster.scheduler is not None or cluster.scheduler_file is not None:
        raise UsageError("--dry-run tries a tile on this machine, not on a scheduler's workers: leave that out.")
    device = resolve_device(cluster.device)
    workers = local_workers(device, cluster.workers)
    shown: list[dict[str, object]] = []
    for path in paths:
        try:
            found = estimate_slide(path, settings, device=device, workers=workers)
        except SlideError as error:
            shown.append({"slide": path.name, "error": str(error)})
            if not as_json:
                tell(f"{one_line(path.name)}: cannot be segmented: {one_line(str(error))}")
        else:
            shown.append(asdict(found))
            if not as_json:
                tell(_expected(found))
    if as_json:
        tell_json(shown)
    failed = sum("error" in one for one in shown)
    return 0 if not failed else 4 if failed == len(shown) else 3


def _expected(found: Estimate) -> str:
    """An estimate in words."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found.activities.items() if share >= 0.01)
    tried = (
        f"one tile is tried: {found.tile_s:.1f} s on one process ({shares})"
        if found.tiles
        else "no tile to compute"
    )
    return (
        f"{one_line(found.slide)}: {found.tiles} tiles of {found.tile_px} px at {found.mpp:.3g} µm/px, "
        f"{found.tissue_mm2:.2f} mm² of tissue, {one_line(found.model)}\n"
        f"  time    {found.seconds_low:.0f} to {found.seconds_high:.0f} s with {found.workers} processes here\n"
        f"  memory  about {found.memory_mib:,.0f} MiB a process\n"
        f"  disk    about {found.disk_mib:,.0f} MiB, and {found.work_mib:,.0f} MiB more until it is finished\n"
        f"  {tried}; nothing was written"
    )
