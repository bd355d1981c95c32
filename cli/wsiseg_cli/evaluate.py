"""``wsiseg evaluate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import one_line, tell, tell_json

if TYPE_CHECKING:
    from wsiseg.evaluate.compare import Evaluation

_COLUMNS = ("aji", "dice", "pq", "f1", "precision", "recall")


@click.command("evaluate")
@click.option(
    "--truth", required=True, type=options.Place(options.NOT_FROM_A_URL),
    help="Label images, nuclei.parquet or GeoJSON: a file, or a folder of them.",
)  # fmt: skip
@click.option(
    "--pred", required=True, type=options.Place(options.NOT_FROM_A_URL),
    help="What to score: the same kinds, or a results folder of `wsiseg segment`.",
)  # fmt: skip
@click.option(
    "--probabilities", type=click.Path(exists=True, path_type=Path),
    help="Foreground probability maps of the same names, for the AUC.",
)  # fmt: skip
@click.option(
    "--iou", "ious", multiple=True, default=(0.75,), show_default=True, type=float,
    help="Also give F1 of the objects paired above this IoU (besides 0.5); may be repeated.",
)  # fmt: skip
@click.option(
    "--by-width", "width_mpp", type=float, metavar="MPP",
    help="Also count recall and precision by minor axis, of label images of so many microns per pixel.",
)  # fmt: skip
@click.option("--allow-missing", is_flag=True, help="Leave out images that only one side has.")
@click.option(
    "--worst",
    default=20,
    show_default=True,
    type=click.IntRange(min=0),
    help="How many images to list, lowest AJI first.",
)
@click.option("--seed", default=0, show_default=True, help="Decides the draws behind the intervals.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write everything as JSON to this file."
)
@options.json_option
def command(
    truth: Path,
    pred: Path,
    probabilities: Path | None,
    ious: tuple[float, ...],
    width_mpp: float | None,
    allow_missing: bool,
    worst: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> int:
    """Score segmentations against a truth: per image, and mean ± standard deviation with a 95% interval.

    Images are matched by file name without suffix. Label images are PNG, TIFF, .npy, or .mat with inst_map: 0 is
    background, every other value one object, one pixel a level-0 pixel. Of QuPath's cells the nuclei are compared;
    against results, GeoJSON counts from the corner of the slide's bounds. docs/metrics.md defines the scores.

    \b
    wsiseg segment images/*.png --mpp 0.25 -o out
    wsiseg evaluate --truth labels --pred out
    """
    from wsiseg.core.atomic import write_json
    from wsiseg.evaluate.compare import evaluate_sets

    result = evaluate_sets(
        truth,
        pred,
        probabilities=probabilities,
        ious=ious,
        allow_missing=allow_missing,
        width_mpp=width_mpp,
        seed=seed,
    )
    if out is not None:
        write_json(out, result.to_dict())
    if as_json:
        tell_json(result.to_dict())
    else:
        _print(result, worst)
    return 0


def _print(result: Evaluation, worst: int) -> None:
    width = max([22, *(len(one_line(image.name)) for image in result.images[:worst])])
    tell(f"{'image':{width}}" + "".join(f"{name:>10}" for name in (*_COLUMNS, "true", "found")))
    for image in result.images[:worst]:
        scores = "".join(f"{_number(image.scores[name]):>10}" for name in _COLUMNS)
        note = f"  ({one_line(image.note)})" if image.note else ""
        tell(f"{one_line(image.name):{width}}{scores}{image.true_objects:>10}{image.found_objects:>10}{note}")
    if len(result.images) > worst:
        tell(f"and {len(result.images) - worst} better ones (--worst {len(result.images)})")
    tell("")
    tell(f"{'score':{width}}{'mean':>10}{'sd':>10}{f'{result.confidence:.0%} interval':>20}{'images':>10}")
    for name, summary in result.summary.items():
        if summary.n:
            interval = f"{_number(summary.low)} – {_number(summary.high)}" if summary.low is not None else "–"
            tell(f"{name:{width}}{_number(summary.mean):>10}{_number(summary.sd):>10}{interval:>20}{summary.n:>10}")
    if result.widths:
        tell("")
        columns = ("true", "recall", "untouched", "found", "precision")
        tell(f"{'minor axis, µm':{width}}" + "".join(f"{name:>10}" for name in columns))
        for row in result.widths:
            numbers = (f"{row.true}", _number(row.recall), _number(row.untouched_share), f"{row.found}")
            tell(f"{row.name:{width}}" + "".join(f"{n:>10}" for n in (*numbers, _number(row.precision))))
    for names, what in ((result.without_prediction, "prediction"), (result.without_truth, "truth")):
        if names:
            tell(f"left out, no {what}: {one_line(', '.join(names))}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
