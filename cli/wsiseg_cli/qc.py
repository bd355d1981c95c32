"""``wsiseg qc``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsiseg_cli import options
from wsiseg_cli.qcvalidate import validate
from wsiseg_cli.terminal import mention, one_line, tell, tell_json


@click.group("qc")
def command() -> None:
    """Quality of slides and of segmentations."""


@command.command("check")
@options.slides_argument
@options.mpp_options
@options.output_option("Folder for a picture of each slide: its artefacts beside its thumbnail.", required=False)
@options.json_option
def check(slides: tuple[str, ...], mpp: float | None, mpp_csv: Path | None, out: Path | None, as_json: bool) -> int:
    """Look at each SLIDE without segmenting it, in seconds: scale, tissue, artefacts, focus, stain.

    Kinds of artefacts: pen, dark debris, edges of coverslips and bubbles, folds, out of focus, dense eosin without
    nuclei (blood, keratin), under- and overstained (docs/quality.md). A slide that cannot be used is shown with the
    reason; the exit code is then 3, or 4 if none can.
    """
    from wsiseg.errors import SlideError
    from wsiseg.qc.slidecheck import check_slide
    from wsiseg.report.artefactmap import write_picture
    from wsiseg.report.thumbnail import overview_mpp
    from wsiseg.results.folder import assign_ids
    from wsiseg.slide import open_slide
    from wsiseg.slide.discover import find_slides

    paths = find_slides(slides)
    names = assign_ids(paths, out) if out is not None else {}
    shown: list[dict[str, Any]] = []
    for path in paths:
        try:
            with open_slide(path, mpp=mpp, mpp_table=mpp_csv) as slide:
                checked = check_slide(slide)
                if out is not None:
                    picture = out / f"{names[path]}.png"
                    overview = slide.overview(overview_mpp(slide))
                    write_picture(picture, *overview, checked.artefacts, checked.shares)
        except SlideError as error:
            shown.append({"path": str(path), "error": str(error)})
        else:
            shown.append({"path": str(path), **checked.check.to_dict()})
            if out is not None:
                shown[-1]["picture"] = str(picture)
        if not as_json:
            words = checked.check.words if "error" not in shown[-1] else (f"cannot be used: {shown[-1]['error']}",)
            tell("\n  ".join([one_line(str(path)), *(text.replace("\n", " ") for text in words)]))
            if "picture" in shown[-1]:
                mention(f"  {one_line(shown[-1]['picture'])}")
    if as_json:
        tell_json(shown)
    failed = sum("error" in entry for entry in shown)
    return 0 if not failed else 4 if failed == len(shown) else 3


command.add_command(validate)
