"""JSON and TOML values as typed ones: the place and the cause where they do not fit."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

Count = Annotated[int, Meta(ge=0, le=2**63 - 1, description="a whole number from 0")]
"""A whole number from 0 that every column, format and other program can hold."""
_LARGEST = sys.float_info.max
Number = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST, description="a finite number")]
"""A finite number; a whole one becomes a float."""


_learning = threading.Lock()
_known: set[Any] = set()
"""Types that a value was converted to: what msgspec keeps of them and of their parts is complete."""


class Misfit(ValueError):
    """A value is not of the type that it should be; ``place`` says which ("" for the whole)."""

    def __init__(self, place: str, cause: str) -> None:
        super().__init__(f"{place}: {cause}" if place else cause)
        self.place = place
        self.cause = cause


def as_typed(value: object, kind: type[T]) -> T:
    """A value as ``kind``: dataclasses and what they are made of. Names that these do not have are passed over.

    Raises
    ------
    Misfit
        It is of another kind, or something is missing.
    """
    try:
        if kind in _known:
            return msgspec.convert(value, kind)
        # What msgspec (0.22) keeps of a dataclass is seen by other threads before it is complete: they crash on it.
        with _learning:
            typed = msgspec.convert(value, kind)
            _known.add(kind)
            return typed
    except msgspec.ValidationError as error:
        cause, _, place = str(error).partition(" - at `$")
        raise Misfit(place.removeprefix(".").removesuffix("`"), cause[:1].lower() + cause[1:]) from None
    except RecursionError:
        raise Misfit("", "nested too deep") from None


def as_plain(value: object) -> Any:
    """A typed value as what JSON is made of, as it will be read.

    Raises
    ------
    ValueError
        A number in it is not finite.
    """
    return json.loads(json.dumps(value, default=_by_name, allow_nan=False))


def _by_name(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}
