"""Microns per pixel: where a number came from, and when it is too absurd to use."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsiseg.errors import UsageError
from wsiseg.slide.types import Mpp

# Light microscopes resolve about 0.2 µm, and slides are scanned at 0.1 to 1: what metadata declare beyond ten times
# that is an error. A user's own value may be any that could be meant: 0.01 for any optics, 100 for an overview.
SCANNED = (0.05, 10.0)
MEANT = (0.01, 100.0)
ANISOTROPY = 0.05
CONTRADICTION = 0.1
BASE_MPP = 10.0  # mpp × objective power of a usual scanner: 0.25 at 40x, 0.5 at 20x


def parse(text: object) -> float:
    """A number from metadata, with a decimal point or a decimal comma; NaN if it is none."""
    try:
        return float(str(text).strip().replace(",", "."))
    except ValueError:
        return math.nan


def problem(value: float, limits: tuple[float, float] = MEANT) -> str:
    """Why ``value`` cannot be the microns per pixel of a slide, or ``""``."""
    if not math.isfinite(value):
        return "is not a number"
    if value <= 0:
        return "is not positive"
    if not limits[0] <= value <= limits[1]:
        return f"is outside {limits[0]:g}–{limits[1]:g}"
    return ""


def from_metadata(x: object, y: object, source: str, objective: object = None) -> tuple[Mpp | None, str]:
    """The microns per pixel that metadata declare, or why they are not usable.

    Parameters
    ----------
    x, y : str, float or None
        The declared values for both axes; one may be None. A decimal comma is accepted.
    source : str
        Name of the field, for example ``"aperio.MPP"``; kept as ``"metadata:aperio.MPP"``.
    objective : str, float or None
        Objective power; a contradiction with the mpp is noted, not resolved.

    Returns
    -------
    mpp : Mpp or None
        The mean of both axes.
    reason : str
        ``""`` if ``mpp`` is given or nothing was declared.
    """
    declared = [value for value in (x, y) if value is not None and str(value).strip()]
    if not declared:
        return None, ""
    values = [parse(value) for value in declared]
    for text, value in zip(declared, values, strict=True):
        if why := problem(value, SCANNED):
            return None, f"its metadata say {_brief(text)} microns per pixel ({source}), which {why}"
    if max(values) / min(values) > 1 + ANISOTROPY:
        return (
            None,
            f"its metadata say {values[0]:g} × {values[1]:g} microns per pixel ({source}): pixels are not square",
        )
    value = math.fsum(values) / len(values)
    return Mpp(value, f"metadata:{source}", _contradiction(value, parse(objective))), ""


def from_option(value: float) -> Mpp:
    """The microns per pixel given by the user.

    Raises
    ------
    UsageError
        The value is absurd.
    """
    if problem(value):
        raise UsageError(
            f"--mpp {value:g} {problem(value)}: expected µm per level-0 pixel, such as 0.25 (40x) or 0.5 (20x)."
        )
    return Mpp(float(value), "option")


def override_note(given: Mpp, declared: Mpp | None) -> str:
    """A sentence where the microns per pixel that were given are not those of the metadata, by more than 10%."""
    if declared is None or abs(math.log(given.value / declared.value)) <= math.log(1 + CONTRADICTION):
        return ""
    where, factor = declared.source.partition(":")[2], given.value / declared.value
    return (
        f"The microns per pixel that were given, {given.value:g}, contradict the slide's metadata, which say "
        f"{declared.value:g} ({where}): every length is {factor:.2g} times what it would be by these."
    )


@dataclass(frozen=True)
class MppTable:
    """Microns per pixel of many slides: ``entries`` maps a file name or a path to the value."""

    name: str
    entries: Mapping[str, float]

    def lookup(self, path: Path) -> Mpp | None:
        """The entry for the slide's path as given, its absolute path, its name or its name without suffix."""
        for key in (str(path), str(path.absolute()), path.name, path.stem):
            if key in self.entries:
                return Mpp(self.entries[key], f"table:{self.name}")
        return None


def read_mpp_table(path: str | Path) -> MppTable:
    """Read a CSV with the columns ``slide`` and ``mpp``; comma, semicolon or tab separated.

    Raises
    ------
    UsageError
        The file cannot be read, lacks a column, repeats a slide or holds an absurd value.
    """
    path = Path(path)
    try:
        return MppTable(path.name, _entries(path, path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path}: cannot be read as a table: {error}. Expected a CSV with columns slide,mpp."
        ) from error


def _entries(path: Path, text: str) -> dict[str, float]:
    """Microns per pixel by slide."""
    header = text.partition("\n")[0]
    separator = next((mark for mark in ("\t", ";") if mark in header), ",")
    rows = csv.DictReader(text.splitlines(), delimiter=separator, skipinitialspace=True)
    if not {"slide", "mpp"} <= set(rows.fieldnames or ()):
        raise UsageError(f"{path}: columns are {header.strip() or 'none'!r}; expected a header with slide,mpp.")
    entries: dict[str, float] = {}
    for row in rows:
        slide, value = (row["slide"] or "").strip(), parse(row["mpp"])
        if problem(value):
            raise UsageError(f"{path}, line {rows.line_num}: mpp {row['mpp']!r} of {slide!r} {problem(value)}.")
        if not slide or entries.setdefault(slide, value) != value:
            raise UsageError(
                f"{path}, line {rows.line_num}: {'a second value for ' + slide if slide else 'no slide name'}."
            )
    return entries


def _brief(text: object) -> str:
    shown = f"{text:g}" if isinstance(text, float) else str(text).strip()
    return "".join(c if c.isprintable() else "?" for c in shown)[:40]


def _contradiction(value: float, objective: float) -> str:
    if not math.isfinite(objective) or objective <= 0 or 0.6 <= value * objective / BASE_MPP <= 1.67:
        return ""
    return (
        f"{value:g} mpp does not fit the objective of {objective:g}x, which usually gives {BASE_MPP / objective:g}"
    )
