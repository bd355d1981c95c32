"""Tables that people write, in TOML, to frozen dataclasses: what does not fit is refused with its place, in words.

msgspec checks the values. Names are compared here: whoever mistyped one wants to hear which was meant.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from wsiseg.errors import UsageError


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Dataclass)
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "the name of data"}
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


def parse_table(kind: type[T], values: object, where: str, made: Mapping[str, Any] = _NOTHING) -> T:
    """A ``kind`` with the fields that the table gives; the others keep their defaults.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are of what msgspec reads and ``Path``; a dataclass, or a mapping of names to one,
        is a table in the table.
    values : object
        What the file has there: should be a mapping.
    where : str
        The table's path in the file, for messages.
    made : mapping
        Fields whose values have been made from the table already.

    Raises
    ------
    UsageError
        No table, an unknown or missing key, a wrong type, or a value that ``kind`` refuses with ``ValueError``.
    """
    table = require_table(values, where)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    hints = get_type_hints(kind, include_extras=True)
    for key in table:
        if key not in fields:
            raise UsageError(f"{_join(where, key)}: unknown key{suggestion(key, fields)}")
    for name, field in fields.items():
        if name not in table and field.default is field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{_join(where, name)}: is missing; expected {describe_type(hints[name])}")
    given = {
        key: made[key] if key in made else parse_value(hints[key], value, _join(where, key))
        for key, value in table.items()
    }
    try:
        return kind(**given)
    except ValueError as error:
        raise UsageError(f"{where}: {error}" if where else str(error)) from error


def parse_value(hint: Any, value: object, where: str) -> Any:
    """``value`` as the annotation ``hint`` wants it; a whole number is a number, an array a tuple.

    Raises
    ------
    UsageError
        It is something else.
    """
    kind, arguments = _without_none(hint), get_args(_without_none(hint))
    if _is_table(kind):
        return parse_table(kind, value, where)
    if _is_mapping(kind) and _is_table(arguments[1]):
        tables = require_table(value, where)
        return {name: parse_table(arguments[1], table, f"{where}.{name}") for name, table in tables.items()}
    try:
        return msgspec.convert(value, kind, dec_hook=_as_path)
    except msgspec.ValidationError:
        close = _close(value, arguments) if get_origin(kind) is Literal else ""
        raise UsageError(f"{where}: got {value!r:.200}; expected {describe_type(kind)}{close}") from None


def require_table(value: object, where: str) -> Mapping[str, Any]:
    """The value, a table.

    Raises
    ------
    UsageError
        It is none.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: got {value!r:.200}; expected a table")
    return value


def describe_type(hint: Any) -> str:
    """An annotation in words; a constraint has its own."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _NAMES:
        return _NAMES[hint]
    if origin is Annotated:
        (words,) = (meta.description for meta in arguments[1:] if meta.description)
        return words
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


def _as_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError


def _without_none(hint: Any) -> Any:
    """The annotation of a field that may be left out: a file has nothing that is None."""
    kept = [a for a in get_args(hint) if a is not type(None)]
    return kept[0] if get_origin(hint) in (Union, types.UnionType) and len(kept) == 1 else hint


def _is_table(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
