"""Values of a TOML table by key; what lacks or does not fit raises TypeError or ValueError with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def only(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuse keys that are not among ``known``."""
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"unknown keys {unknown} in {where}; it has {', '.join(known)}")


def table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table under a key."""
    value = content.get(key)
    if not isinstance(value, Mapping):
        raise TypeError(f"the table [{key}] is missing" if value is None else f"{key} is {value!r}, not a table")
    return value


def text(table: Mapping[str, Any], key: str) -> str:
    """The text under a key, not empty."""
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{key} is missing" if value is None else f"{key} is {value!r}, not a text")
    return value


def number(table: Mapping[str, Any], key: str) -> float:
    """The finite number under a key."""
    value = table.get(key)
    if value is None:
        raise TypeError(f"{key} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{key} is {value!r}, not a finite number")
    return float(value)


def numbers(table: Mapping[str, Any], key: str, count: int) -> list[float]:
    """The list of ``count`` finite numbers under a key."""
    values = table[key]
    if not isinstance(values, list) or len(values) != count:
        raise TypeError(f"{key} is {values!r}: expected {count} numbers")
    return [number({key: value}, key) for value in values]


def whole(table: Mapping[str, Any], key: str, least: int, default: int | None = None) -> int:
    """The whole number under a key, at least ``least``."""
    value = table.get(key, default)
    if type(value) is not int or value < least:
        raise TypeError(
            f"{key} is missing" if value is None else f"{key} is {value!r}: expected a whole number from {least}"
        )
    return value
