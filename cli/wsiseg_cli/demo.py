"""``wsiseg demo``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import mention, tell_json

if TYPE_CHECKING:
    from wsiseg.run.cluster import ClusterOptions


@click.command("demo")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True,
    help="Folder for the slide and the results.",
)  # fmt: skip
@click.option("--size", default=6144, show_default=True, type=click.IntRange(512), help="Side of the slide, px.")
@click.option("--seed", default=0, show_default=True, help="Decides what is drawn.")
@options.model_option
@options.segmenting_cluster_options
@options.json_option
def command(
    out: Path,
    size: int,
    seed: int,
    model: str | None,
    cluster: ClusterOptions,
    as_json: bool,
) -> int:
    """Draw a slide whose nuclei are all known, segment it, and print how well that went.

    It needs no data and no network. The drawn tissue is simpler than real tissue: the scores say that the
    installation works, not how good the model is on your slides.
    """
    from wsiseg.models.registry import DEFAULT_MODEL
    from wsiseg.run.cluster import open_executor
    from wsiseg.testing.demo import MATCH_IOU, run_demo
    from wsiseg_cli.progress import watch

    with open_executor(cluster) as executor, watch(quiet=as_json) as on_event:
        result = run_demo(out, executor, model=model or DEFAULT_MODEL, side=size, seed=seed, on_event=on_event)
    if as_json:
        tell_json(result.to_dict())
        return result.cohort.exit_code
    record = result.cohort.records[0]
    if record.grade is not None:
        grade = record.grade
        mention(f"grade: {grade.grade} ({grade.kind}: {grade.summary})")
        mention(
            f"against the truth: {result.true_nuclei} nuclei drawn, {result.found_nuclei} found, "
            f"F1 {result.f1:.3f} at IoU {MATCH_IOU:g} "
            f"(precision {result.precision:.3f}, recall {result.recall:.3f})"
        )
    mention(f"report: {result.cohort.report}")
    return result.cohort.exit_code
