"""``wsiseg qc validate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import mention, one_line, tell, tell_json

if TYPE_CHECKING:
    from wsiseg.evaluate.validation import Group, Validation


@click.command("validate")
@click.argument("truth", type=options.Place(options.NOT_FROM_A_URL))
@click.argument("results", nargs=-1, type=options.Place(options.NOT_FROM_A_URL), metavar="[RESULTS]...")
@click.option(
    "--degraded", multiple=True, type=options.Place(options.NOT_FROM_A_URL), metavar="RESULTS",
    help="Results of degraded images or outlines, apart; the folder's name is their fault. May be repeated.",
)  # fmt: skip
@click.option(
    "--table", type=options.Readable(),
    help="CSV with the column slide, and truth (name of its truth), fault (empty: none) and others to group by.",
)  # fmt: skip
@click.option(
    "--by", default="model", show_default=True, metavar="COLUMN",
    help="Groups that are reported besides all together: model, run, fault, image, or a column of --table.",
)  # fmt: skip
@click.option(
    "--truth-mpp", type=options.Microns(),
    help="Microns per pixel of the label images, where one label pixel is not one level-0 pixel.",
)  # fmt: skip
@click.option("--bad-aji", default=0.40, show_default=True, help="A patch is bad below this AJI …")
@click.option("--bad-f1", default=0.60, show_default=True, help="… or below this F1 at IoU 0.5.")
@click.option(
    "--min-true", default=5, show_default=True, type=click.IntRange(min=0),
    help="Leave out patches of fewer true nuclei.",
)  # fmt: skip
@click.option("--allow-missing", is_flag=True, help="Leave out images that only one side has.")
@click.option("--seed", default=0, show_default=True, help="Decides the draws behind the intervals.")
@click.option(
    "--resamples", default=1000, show_default=True, type=click.IntRange(min=2), help="How many draws these are."
)
@options.output_option(
    "Folder for validation.html (reliability plots), validation.json, and the patches as CSV and Parquet.",
    required=False,
)
@options.json_option
def validate(
    truth: Path,
    results: tuple[Path, ...],
    degraded: tuple[Path, ...],
    table: Path | None,
    by: str,
    truth_mpp: float | None,
    bad_aji: float,
    bad_f1: float,
    min_true: int,
    allow_missing: bool,
    seed: int,
    resamples: int,
    out: Path | None,
    as_json: bool,
) -> int:
    """Predicted against true quality: how right the judgement of patches is on annotated images.

    TRUTH is label images, nuclei.parquet or GeoJSON, a file or a folder of them, complete wherever patches were
    judged; RESULTS are folders of `wsiseg segment` over the same images. Each patch's expected AJI, interval and
    P(bad) are held against its true AJI and F1, beside a constant and the mean score of its nuclei. docs/quality.md
    says what each figure means.

    \b
    wsiseg segment images/*.png --mpp 0.25 -o out
    wsiseg qc validate labels out -o validation
    wsiseg qc validate labels out --degraded out-blurred --by fault
    """
    from wsiseg.errors import UsageError
    from wsiseg.evaluate.judged import BadLimits, judged_patches
    from wsiseg.evaluate.reliability import write_validation
    from wsiseg.evaluate.validation import validate as validate_patches

    if not results and not degraded:
        raise UsageError("no results given; expected a folder of `wsiseg segment`, in RESULTS or --degraded")
    limits = BadLimits(bad_aji, bad_f1)
    judged = judged_patches(
        truth,
        results,
        degraded=degraded,
        table=table,
        truth_mpp=truth_mpp,
        min_true=min_true,
        allow_missing=allow_missing,
    )
    validation = validate_patches(judged, by=by, limits=limits, seed=seed, resamples=resamples)
    page = write_validation(out, judged, validation) if out is not None else None
    if as_json:
        tell_json(validation.to_dict())
        return 0
    for group in validation.groups:
        _print(group, validation.by)
    _print_left_out(validation)
    if page is not None:
        mention(one_line(str(page)))
    return 0


def _print(group: Group, by: str) -> None:
    from wsiseg.evaluate.reliability import METRIC_WORDS, estimate_text, group_title

    tell(one_line(group_title(group, by)))
    tell(f"{'':11}{'judge':>24}" + "".join(f"{n:>11}{f'judge − {n}':>26}" for n in group.better))
    for metric, word in METRIC_WORDS.items():
        judge, *others = (figures[metric] for figures in group.figures.values())
        differences = (figures[metric] for figures in group.better.values())
        beside = (
            f"{'–' if other.value is None else f'{other.value:.3f}':>11}{estimate_text(difference):>26}"
            for other, difference in zip(others, differences, strict=True)
        )
        tell(f"{word:11}{estimate_text(judge):>24}" + "".join(beside))
    tell("")


def _print_left_out(validation: Validation) -> None:
    from wsiseg.evaluate.reliability import left_out

    for text in left_out(validation):
        tell(one_line(text))
