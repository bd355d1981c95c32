"""The bounded window: every task once, in order of slides, errors to their slide, never too many in flight."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.schedule import SerialExecutor, Stage, Steps, map_bounded, run_stages, window_size


class ShuffledExecutor(SerialExecutor):
    """Ends tasks in random order and counts how many were submitted at once."""

    slots = 3

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.most = 0
        self.calls: list[tuple[str, Any]] = []

    def submit(self, name: str, function: Any, argument: Any) -> object:
        handle = super().submit(name, function, argument)
        self.calls.append((name, argument))
        self.most = max(self.most, len(self._queue))
        return handle

    def next_done(self) -> tuple[object, Any, BaseException | None]:
        self._queue.rotate(self.random.randrange(len(self._queue)))
        return super().next_done()


def slide(number: int, tiles: int) -> Steps:
    (plan,) = yield Stage("plan", lambda n: n * 100, [number])
    found = yield Stage("tile", lambda t: t + 1, [plan + t for t in range(tiles)])
    nothing = yield Stage("empty", lambda t: t, [])
    return sorted(found), nothing


@given(st.lists(st.integers(0, 12), max_size=6), st.integers(0, 1000))
def test_every_slide_gets_all_its_results(tiles: list[int], seed: int) -> None:
    executor = ShuffledExecutor(seed)
    ended = dict(run_stages(executor, (slide(i, n) for i, n in enumerate(tiles))))
    assert ended == {i: ([i * 100 + t + 1 for t in range(n)], []) for i, n in enumerate(tiles)}
    assert executor.most <= window_size(executor)
    assert len(executor.calls) == len(tiles) + sum(tiles)


def test_an_error_reaches_its_slide_alone_after_its_other_tasks() -> None:
    done: list[int] = []

    def work(tile: int) -> int:
        if tile == 1:
            raise ZeroDivisionError
        done.append(tile)
        return tile

    def faulty() -> Steps:
        with pytest.raises(ZeroDivisionError):
            yield Stage("tile", work, [0, 1])
        return "recovered"

    ended = dict(run_stages(ShuffledExecutor(1), iter([faulty(), slide(1, 3)])))
    assert ended[0] == "recovered"
    assert ended[1][0] == [101, 102, 103]


def test_an_unhandled_error_is_raised() -> None:
    def faulty() -> Steps:
        yield Stage("tile", lambda t: 1 / t, [0])

    with pytest.raises(ZeroDivisionError):
        dict(run_stages(SerialExecutor(), iter([faulty()])))


def test_retry_replaces_a_failed_argument() -> None:
    def work(tiles: tuple[int, ...]) -> tuple[int, ...]:
        if len(tiles) > 1:
            raise ValueError("too many")
        return tiles

    def steps() -> Steps:
        return (
            yield Stage("tile", work, [(1, 2), (3,)], retry=lambda tiles, error: [(tile,) for tile in tiles])
        )

    ((_, found),) = run_stages(SerialExecutor(), iter([steps()]))
    assert sorted(found) == [(1,), (2,), (3,)]


def test_an_earlier_slide_goes_first() -> None:
    executor = SerialExecutor()
    order = [number for number, _ in run_stages(executor, (slide(i, 20) for i in range(4)))]
    assert order == [0, 1, 2, 3]


@given(st.integers(0, 40), st.integers(0, 99))
def test_map_bounded_gives_all_and_holds_back(count: int, seed: int) -> None:
    executor = ShuffledExecutor(seed)
    drawn = iter(range(count))
    assert sorted(map_bounded(executor, lambda n: n * n, drawn, "square")) == [n * n for n in range(count)]
    assert executor.most <= window_size(executor)


def test_an_error_leaves_no_generator_open() -> None:
    closed: list[str] = []

    def holding() -> Steps:
        try:
            yield Stage("tile", lambda t: 1 / t, [0])
        finally:
            closed.append("lock")

    def waiting() -> Steps:
        try:
            yield Stage("tile", lambda t: t, [1, 2, 3])
        finally:
            closed.append("other")

    with pytest.raises(ZeroDivisionError) as caught:  # the traceback keeps every frame alive
        dict(run_stages(ShuffledExecutor(2), iter([holding(), waiting()])))
    assert caught.value is not None
    assert "lock" in closed
    assert set(closed) <= {"lock", "other"}
