"""A slide's record (``slide.json``, docs/format.md): what one must look like for others to rely on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

FORMAT_VERSION = 1
SCHEMA = "wsiseg.slide"

_NUMBER = (int, float)
_OPTIONAL = (int, float, type(None))
_TEXT = (str, type(None))
_FAILED: Mapping[str, Any] = {
    "error": {"kind": str, "message": str},
    "slide": {"path": str, "name": str},
    "versions": {str: object},
    "created": str,
}
_FINISHED: Mapping[str, Any] = {
    "key": str,
    "slide": {
        "path": str,
        "name": str,
        "fingerprint": str,
        "reader": str,
        "vendor": str,
        "width": int,
        "height": int,
        "levels": [[int]],
        "mpp": _NUMBER,
        "mpp_source": str,
        "bounds": [_NUMBER],
    },
    "specification": {"model": {str: object}, "calibration": {str: object}, "mpp_effective": _NUMBER},
    "tiles": {str: int},
    "lost": {"area_mm2": _NUMBER, "fraction_of_tissue": _NUMBER, "boxes": [[(int, float, str)]]},
    "nuclei": int,
    "tissue_mm2": _NUMBER,
    "artefacts": {str: _OPTIONAL},
    "seams": {str: _OPTIONAL},
    "grade": {
        "kind": str,
        "grade": _TEXT,
        "bad": int,
        "patches": int,
        "fraction": _OPTIONAL,
        "interval": [_OPTIONAL],
        "confidence": _OPTIONAL,
        "grade_low": _TEXT,
        "grade_high": _TEXT,
        "failure": _TEXT,
        "reasons": {str: int},
    },
    "timings_s": {str: (int, float, dict)},
    "versions": {str: object},
    "created": str,
}
"""Types by field; ``[kind]`` is a list of a kind, ``{str: kind}`` a mapping of whatever names to a kind."""
_ADDED: Mapping[str, Any] = {"types": {str: int}, "notes": [str], "files": {str: {"bytes": int}}}
"""What not every finished record has."""


def problem(value: object, folder: str) -> str:
    """Why a JSON value cannot be relied on as the record of the slide in the folder ``folder``; ``""`` if it can.

    Names are checked as well: they become names of files that are written.
    """
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        return f"it is no record: schema is not {SCHEMA!r}"
    if not _is(value.get("version"), int) or value["version"] < 1:
        return f"version is {value.get('version')!r}"
    if value["version"] > FORMAT_VERSION:
        return ""  # what it holds is for its own version to say
    if value.get("id") != folder:
        return f"its id is {value.get('id')!r}, its folder {folder!r}"
    if value.get("status") not in ("complete", "partial", "failed"):
        return f"status is {value.get('status')!r}"
    shape = dict(_FAILED)
    if value["status"] != "failed":
        shape = {**_FINISHED, **{name: kind for name, kind in _ADDED.items() if name in value}}
    wrong = _misfit(value, shape, "")
    name = "" if wrong else value["slide"]["name"]
    if not wrong and (name in ("", ".", "..") or "/" in name or "\0" in name):
        return f"slide.name is {name!r}"
    if not wrong and value["status"] != "failed" and len(value["slide"]["bounds"]) != 4:
        return "slide.bounds are not four numbers"
    return f"{wrong} is missing or of another kind" if wrong else ""


def _misfit(value: Any, shape: Any, place: str) -> str:
    """The first place where ``value`` has not the shape; "" if there is none."""
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return place or "the record"
        if str in shape:
            pairs = [(f"{place}.{name}", item, shape[str]) for name, item in value.items()]
        else:
            prefix = f"{place}." if place else ""
            pairs = [(f"{prefix}{name}", value.get(name, _ABSENT), kind) for name, kind in shape.items()]
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return place
        pairs = [(f"{place}[{n}]", item, shape[0]) for n, item in enumerate(value)]
    else:
        return "" if _is(value, shape) else place
    return next((wrong for inner, item, kind in pairs if (wrong := _misfit(item, kind, inner))), "")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is object
    return isinstance(value, kind) and not (isinstance(value, float) and not math.isfinite(value))


_ABSENT = object()
"""For a field that is not there: of no kind but ``object``."""
