"""Which of a source's items a recipe means: ``select = { … }``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar

from wsiseg.core.names import listed, stem
from wsiseg.errors import UsageError

_WHOLE = (0.0, 1.0)
_NAME_KEYS = ("id", "name", "image", "file")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Select:
    """Items of a source: those whose names match and that a table names; of these a span; of this a part.

    Attributes
    ----------
    table : str
        A file in the data: lines of names (``.txt``), a CSV with a header, or JSON: a list of objects, or an object
        with one list of objects in it. Empty: all items.
    key, values : str, tuple of str
        With a table of columns: the rows whose ``key`` is one of ``values``. A name is in the column ``id``,
        ``name``, ``image`` or ``file``, with or without suffix.
    span : pair of float
        From which fraction to which of the items, in their order: ``(0.0, 0.8)`` and ``(0.8, 1.0)`` divide them.
    part, every : str, int
        ``validation``: every ``every``-th item, the first in the middle of ``every``; ``training``: the others;
        or ``all``.
    match : str
        A pattern that names have to match, such as ``"liver/[0-9]*"``; ``*`` stands for anything, also for ``/``.
    """

    table: str = ""
    key: str = ""
    values: tuple[str, ...] = ()
    span: tuple[float, float] = _WHOLE
    part: Literal["all", "training", "validation"] = "all"
    every: int = 11
    match: str = "*"

    def __post_init__(self) -> None:
        if bool(self.key) != bool(self.values):
            raise ValueError("expected key and values together, for example key = 'split', values = ['train']")
        if self.key and not self.table:
            raise ValueError(f"key {self.key!r} without a table that has it, for example table = 'index.json'")
        if not 0 <= self.span[0] < self.span[1] <= 1:
            raise ValueError(
                f"span {list(self.span)}: expected two fractions of all, for example [0.0, 0.8] and [0.8, 1.0]"
            )
        if self.every < 2:
            raise ValueError(f"every {self.every}: expected at least 2, of which one is for validation")

    def named(self, found: Mapping[str, Item], folder: Path) -> dict[str, Item]:
        """Those of ``found``, by their names without suffix, that are meant; ``folder`` has the table.

        Raises
        ------
        UsageError
            The table cannot be read, has no such column or rows, or names what was not found; or none is meant.
        """
        kept = [name for name in found if fnmatchcase(name, self.match)]
        if not kept:
            raise UsageError(f"{folder}: no name matches {self.match!r}; there are {listed(found)}")
        if self.table:
            names = _names(folder / self.table, self.key, self.values)
            missing = sorted(names - set(found))
            if missing:
                raise UsageError(f"{folder / self.table}: names {listed(missing)}, which {folder} does not have")
            kept = [name for name in kept if name in names]
        return {name: found[name] for name in self.numbered(kept, folder)}

    def numbered(self, items: Sequence[Item], where: object) -> list[Item]:
        """Those of ``items`` that are meant, by their order alone; ``where`` says in what, for messages.

        Raises
        ------
        UsageError
            There is none.
        """
        first, last = (round(end * len(items)) for end in self.span)
        chosen = list(items[first:last])
        if self.part != "all":
            held = self.part == "validation"
            chosen = [item for n, item in enumerate(chosen) if (n % self.every == self.every // 2) == held]
        if not chosen:
            limits = "" if self.span == _WHOLE else f" between the fractions {list(self.span)}"
            raise UsageError(
                f"{where}: of {len(items)} none is in the part {self.part!r}{limits}; every is {self.every}"
            )
        return chosen


ALL = Select()


def _names(path: Path, key: str, values: Sequence[str]) -> frozenset[str]:
    """The names in a table, without suffix; with ``key`` those of the rows where it is one of ``values``."""
    rows = _rows(path)
    if key:
        if not any(key in row for row in rows):
            raise UsageError(f"{path}: no column {key!r}; it has {listed(rows[0] if rows else ())}")
        kept = [row for row in rows if str(row.get(key)) in values]
        if not kept:
            held = sorted({str(row.get(key)) for row in rows})
            raise UsageError(f"{path}: no row whose {key} is one of {list(values)}; it has {listed(held)}")
        rows = kept
    column = next((name for name in _NAME_KEYS if all(name in row for row in rows)), None)
    if not rows or column is None:
        raise UsageError(f"{path}: no rows with a name; expected a column {' or '.join(_NAME_KEYS)}")
    return frozenset(stem(str(row[column])) for row in rows)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON file, rows of a CSV, or the lines of any other as names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".csv", ".tsv"):
            mark = "\t" if path.suffix.lower() == ".tsv" else ","
            return [dict(row) for row in csv.DictReader(io.StringIO(text), delimiter=mark, skipinitialspace=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as a table of names: {error}") from error
    if path.suffix.lower() == ".json":
        return _objects(path, text)
    lines = (line.strip() for line in text.splitlines())
    return [{"name": line} for line in lines if line and not line.startswith("#")]


def _objects(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON: {error}") from error
    lists = [value] if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    lists = [rows for rows in lists if isinstance(rows, list) and rows and all(isinstance(r, dict) for r in rows)]
    if len(lists) != 1:
        raise UsageError(f"{path}: expected a list of objects, or an object with one such list in it")
    return list(lists[0])
