"""Tables of a recipe to frozen dataclasses, by their annotations; what does not fit is refused with its place."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from wsiseg.errors import UsageError


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Dataclass)
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "the name of data"}


def parse_table(kind: type[T], values: object, where: str) -> T:
    """A ``kind`` with the fields that the table gives; the others keep their defaults.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are of bool, int, float, str, ``Path``, ``Literal``, tuples of such, None or such,
        dataclasses of the same kind, which are tables in the table or values already, and mappings, which are taken
        as they are.
    values : object
        What the file has there: should be a mapping.
    where : str
        The table's path in the file, for messages.

    Raises
    ------
    UsageError
        No table, an unknown or missing key, a wrong type, or a value that ``kind`` refuses with ``ValueError``.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: got {values!r}; expected a table")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    hints = get_type_hints(kind)
    for key in values:
        if key not in fields:
            raise UsageError(f"{_join(where, key)}: unknown key{suggestion(key, fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{_join(where, missing[0])}: is missing; expected {describe_type(hints[missing[0]])}")
    given = {key: convert(hints[key], value, _join(where, key)) for key, value in values.items()}
    try:
        return kind(**given)
    except ValueError as error:
        raise UsageError(f"{where}: {error}" if where else str(error)) from error


def convert(hint: Any, value: object, where: str) -> Any:
    """``value`` as the annotation ``hint`` wants it; a whole number is a number, an array a tuple.

    Raises
    ------
    UsageError
        It is something else.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (a for a in arguments if a is not type(None))
        return convert(inner, value, where)
    if origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        raise UsageError(f"{where}: got {value!r}; expected {describe_type(hint)}{_close(value, arguments)}")
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(convert(kind, item, f"{where}[{n}]") for n, (kind, item) in pairs)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else parse_table(hint, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str) and value:
        return Path(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise UsageError(f"{where}: got {value!r}; expected {describe_type(hint)}")


def describe_type(hint: Any) -> str:
    """An annotation in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _NAMES:
        return _NAMES[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(a) for a in arguments if a is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin is tuple:
        inner = "such" if arguments[-1] is Ellipsis else str(len(arguments))
        return f"an array of {inner}: {describe_type(arguments[0])}"
    return "a table"


def suggestion(key: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown key: the one that was meant, perhaps, and all that there are."""
    names = list(known)
    return f"{_close(key, names)}; there are {', '.join(names)}" if names else ""


def _close(value: object, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(value), list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
