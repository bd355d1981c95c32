"""Values from files as typed ones: what fits, and with which words and place the rest is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from msgspec import Meta

from wsiseg.core.tables import parse_table
from wsiseg.core.typed import Count, Misfit, Number, as_plain, as_typed
from wsiseg.errors import UsageError


class Pair(NamedTuple):
    x: Number
    name: str


@dataclass(frozen=True)
class Inner:
    """Count and numbers."""

    count: Count
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A table with tables in it."""

    inner: Inner
    by_name: Mapping[str, Inner] | None = None
    where: Path | None = None
    output: Annotated[int, Meta(ge=0, description="a position from 0")] | str = 0


def test_a_value_goes_to_plain_and_back() -> None:
    value = Outer(inner=Inner(3, (Pair(0.5, "a\udcff"),)), output="maps")
    plain = as_plain(value)
    assert plain["inner"] == {"count": 3, "pairs": [[0.5, "a\udcff"]]}
    assert plain["by_name"] is None
    assert as_typed(plain, Outer) == value
    read = as_typed({"inner": {"count": 1}, "unknown": 1}, Outer)
    assert as_plain(read) == as_plain(Outer(inner=Inner(1)))  # defaults are written as well
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_plain(Inner(1, (Pair(float("nan"), ""),)))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"count": True}, "inner.count"),
        ({"count": -1}, "inner.count"),
        ({"count": 2**63}, "inner.count"),
        ({}, "inner"),
        ({"count": 1, "pairs": [[1, "a"], [float("inf"), "b"]]}, "inner.pairs[1][0]"),
        ({"count": 1, "pairs": [[10**400, "a"]]}, "inner.pairs[0][0]"),
        ({"count": 1, "pairs": [[1, "a", 2]]}, "inner.pairs[0]"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(Misfit) as caught:
        as_typed({"inner": value}, Outer)
    assert caught.value.place == place
    assert str(caught.value).startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"iner": {}}, r"t\.iner: unknown key \(did you mean 'inner'\?\); there are inner, by_name, where, output"),
        ({}, r"t\.inner: is missing; expected a table"),
        ({"inner": 3}, r"t\.inner: got 3; expected a table"),
        ({"inner": {"count": -1}}, r"t\.inner\.count: got -1; expected a whole number from 0"),
        ({"inner": {"count": "9" * 999}}, r"t\.inner\.count: got '9{199}; expected a whole number"),
        ({"inner": {"count": 1}, "by_name": {"a": {"cont": 1}}}, r"t\.by_name\.a\.cont: unknown key .*'count'"),
        ({"inner": {"count": 1}, "by_name": [1]}, r"t\.by_name: got \[1\]; expected a table"),
        ({"inner": {"count": 1}, "where": ""}, r"t\.where: got ''; expected the name of data"),
        ({"inner": {"count": 1}, "output": -1}, r"t\.output: got -1; expected a position from 0 or a text"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_words(table: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_table(Outer, table, "t")


def test_a_table_is_read() -> None:
    table = {"inner": {"count": 1}, "by_name": {"a": {"count": 2}}, "where": "data", "output": "maps"}
    expected = Outer(inner=Inner(1), by_name={"a": Inner(2)}, where=Path("data"), output="maps")
    assert parse_table(Outer, table, "t") == expected
    assert parse_table(Outer, table, "t", {"inner": Inner(7)}).inner == Inner(7)


def test_threads_may_meet_a_type_for_the_first_time_together() -> None:
    """Several processes each, since it happens once a process; without care about one in ten crashes."""
    program = """
import sys, threading
from wsiseg.core.typed import as_plain, as_typed
from wsiseg.results.partfile import BatchSummary
from wsiseg.results.record import LostBox
from wsiseg.results.stages import Stitched
from wsiseg.results.record import Seams, Tiles
sys.setswitchinterval(1e-6)
tiles, seams = Tiles(9, 8, 1, 0), Seams(1, 0, 0, None, 1.0)
kept = Stitched(nuclei=1, seams=seams, tiles=tiles, lost=(), segment_s={}, file={"bytes": 1}, seconds=1.0)
value, began, found = as_plain(kept), threading.Barrier(8), []

def read():
    began.wait()
    found.append(as_typed(value, Stitched))

threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [kept] * 8
"""
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
