"""``wsiseg info``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import one_line, tell, tell_json


@click.command("info")
@options.slides_argument
@options.mpp_options
@click.option("--properties", is_flag=True, help="Print every property of the file as well.")
@options.json_option
def command(
    slides: tuple[str, ...], mpp: float | None, mpp_csv: Path | None, properties: bool, as_json: bool
) -> int:
    """Show what each SLIDE is: size, levels, microns per pixel and where that number comes from.

    A slide that cannot be opened is shown with the reason; the exit code is then 3, or 4 if none can.
    """
    from wsiseg.errors import SlideError
    from wsiseg.slide import open_slide
    from wsiseg.slide.discover import find_slides
    from wsiseg.slide.info import describe

    shown: list[dict[str, Any]] = []
    for path in find_slides(slides):
        try:
            slide = open_slide(path, mpp=mpp, mpp_table=mpp_csv)
            shown.append(describe(slide))
            slide.close()
        except SlideError as error:
            shown.append({"path": str(path), "error": str(error)})
    if as_json:
        tell_json(shown)
    else:
        tell("\n\n".join(_text(entry, properties) for entry in shown))
    failed = sum("error" in entry for entry in shown)
    return 0 if not failed else 4 if failed == len(shown) else 3


def _text(entry: dict[str, Any], properties: bool) -> str:
    if "error" in entry:
        return f"{one_line(entry['path'])}\n  cannot be used: {entry['error']}"
    lines = [one_line(entry["path"])]
    hidden = ("path", "properties", "levels")
    lines += [f"  {name:<12}{_value(value)}" for name, value in entry.items() if name not in hidden]
    for index, level in enumerate(entry["levels"]):
        lines.append(f"  level {index:<6}" + ", ".join(f"{name} {_value(v)}" for name, v in level.items()))
    if properties:
        lines += [f"  {one_line(name)} = {one_line(value)}" for name, value in sorted(entry["properties"].items())]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{one_line(str(name))} {_value(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return "none" if value is None else one_line(str(value))
