"""The bounded window: every task once, in order of slides, errors to their slide, never too many in flight.

What an executor is, the conformance tests at the end ask of each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import EnvironmentFault
from wsiseg.run.cluster import ClusterOptions, open_executor
from wsiseg.run.schedule import Executor, Fork, SerialExecutor, Stage, Steps, map_bounded, run_stages
from wsiseg.testing.runs import ShuffledExecutor


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
    assert executor.most <= executor.window
    assert len(executor.calls) == len(tiles) + sum(tiles)


def test_what_is_told_as_it_comes_is_not_kept() -> None:
    heard: list[tuple[int, int]] = []

    def steps() -> Steps:
        return (
            yield Stage("tile", lambda t: t * t, range(50), on_result=lambda t, square: heard.append((t, square)))
        )

    assert dict(run_stages(ShuffledExecutor(3), [steps()])) == {0: []}
    assert sorted(heard) == [(t, t * t) for t in range(50)]


@given(st.integers(0, 1000))
def test_what_is_not_ready_waits_for_the_steps_beside_it(seed: int) -> None:
    done: set[int] = set()
    begun: list[tuple[int, int]] = []

    def tiles() -> Steps:
        yield Stage("tile", lambda t: t, range(20), on_result=lambda t, _: done.add(t))

    def row(last: int) -> int:
        begun.append((last, len(done)))
        return last

    def rows() -> Steps:
        return (yield Stage("row", row, [4, 9, 19], ready=lambda last: done.issuperset(range(last + 1))))

    def both() -> Steps:
        return (yield Fork([tiles(), rows()]))

    executor = ShuffledExecutor(seed)
    tiled, stitched = dict(run_stages(executor, [both()]))[0]
    assert (tiled, sorted(stitched)) == (None, [4, 9, 19])
    assert all(there > last for last, there in begun)
    assert executor.most == executor.window


def test_what_will_never_be_ready_is_no_silence() -> None:
    def steps() -> Steps:
        yield Fork([slide(0, 2), iter_of(Stage("late", abs, [1], ready=lambda _: False))])

    def iter_of(stage: Stage) -> Steps:
        yield stage

    with pytest.raises(RuntimeError, match=r"nothing is left to wait for: \[\['late'\]\]"):
        dict(run_stages(ShuffledExecutor(1), [steps()]))


def test_steps_that_fail_do_not_leave_others_waiting() -> None:
    def fails() -> Steps:
        yield Stage("tile", lambda t: 1 // t, [0])

    def waits() -> Steps:
        yield Stage("row", abs, [1], ready=lambda _: False)

    def both() -> Steps:
        with pytest.raises(ZeroDivisionError):
            yield Fork([fails(), waits()])
        return "ended"

    assert dict(run_stages(ShuffledExecutor(1), [both()])) == {0: "ended"}


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
        return (yield Stage("tile", work, [(1, 2), (3,)], retry=lambda tiles, error: [(tile,) for tile in tiles]))

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
    assert executor.most <= executor.window


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


# steps side by side


def tenfold(numbers: list[int]) -> Steps:
    found = yield Stage("ten", lambda n: 10 * n, numbers)
    return sorted((yield Stage("hundred", lambda n: 10 * n, found)))


def forked(*branches: list[int]) -> Steps:
    nested = yield Fork([tenfold([number]) for number in branches[0]])
    return nested, (yield Fork([tenfold(numbers) for numbers in branches]))


@given(st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=4), st.integers(0, 1000))
def test_a_fork_gives_what_its_branches_return_in_their_order(branches: list[list[int]], seed: int) -> None:
    executor = ShuffledExecutor(seed)
    expected = ([[100 * n] for n in branches[0]], [sorted(100 * n for n in numbers) for numbers in branches])
    assert dict(run_stages(executor, (forked(*branches) for _ in range(3)))) == dict.fromkeys(range(3), expected)
    assert executor.most <= executor.window


def test_branches_take_turns() -> None:
    executor = ShuffledExecutor()
    executor.window = 1

    def steps() -> Steps:
        yield Fork([tenfold([1, 2, 3, 4]), tenfold([5])])

    dict(run_stages(executor, iter([steps()])))
    assert executor.calls[:4] == [("ten", 1), ("ten", 5), ("ten", 2), ("hundred", 50)]


@given(st.integers(0, 99))
def test_an_error_in_a_branch_stops_the_others_and_reaches_who_forked(seed: int) -> None:
    closed: list[str] = []

    def faulty() -> Steps:
        yield Stage("bad", lambda n: 1 / n, [0])

    def long() -> Steps:
        try:
            yield Fork([tenfold(list(range(1000))), tenfold(list(range(1000)))])
        finally:
            closed.append("long")

    def steps() -> Steps:
        with pytest.raises(ZeroDivisionError):
            yield Fork([long(), faulty()])
        assert closed == ["long"]
        return (yield Stage("after", abs, [-1]))

    executor = ShuffledExecutor(seed)
    ended = dict(run_stages(executor, iter([steps(), slide(1, 3)])))
    assert ended[0] == [1]
    assert ended[1][0] == [101, 102, 103]
    assert len(executor.calls) < 1000


def test_an_error_that_its_branch_handles_stops_nothing() -> None:
    def faulty() -> Steps:
        try:
            yield Stage("bad", lambda n: 1 / n, [0])
        except ZeroDivisionError:
            return "handled"

    def steps() -> Steps:
        return (yield Fork([faulty(), tenfold([1, 2])]))

    assert dict(run_stages(ShuffledExecutor(), iter([steps()]))) == {0: ["handled", [100, 200]]}


def test_a_fault_of_the_environment_in_a_branch_ends_the_run_at_once() -> None:
    done: list[int] = []

    def full() -> Steps:
        yield Stage("full", out_of_disk, [0])

    def other() -> Steps:
        yield Stage("other", done.append, list(range(20)))

    def steps() -> Steps:
        yield Fork([other(), full()])

    with pytest.raises(EnvironmentFault, match="disk"):
        dict(run_stages(SerialExecutor(), iter([steps()])))
    assert done == [0]


def test_a_later_slides_tasks_do_not_keep_an_earlier_one_from_its_end() -> None:
    """While the first is at a stage of one task the second begins; then the first goes on before it."""
    executor = ShuffledExecutor(3)
    order = [number for number, _ in run_stages(executor, (slide(n, tiles) for n, tiles in enumerate([2, 400])))]
    assert order == [0, 1]
    assert executor.calls.index(("tile", 1)) < 30


# what every executor does


@pytest.fixture(scope="module", params=["serial", "shuffled", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "dask":
        with open_executor(ClusterOptions(workers=2, device="cpu", dashboard="127.0.0.1:0")) as opened:
            yield opened
    else:
        yield SerialExecutor() if request.param == "serial" else ShuffledExecutor()


def squared(number: int) -> int:
    if number < 0:
        raise ZeroDivisionError(f"{number} is negative")
    return number * number


def marked(path: str) -> str:
    time.sleep(0.1)
    Path(path).touch()
    return path


def squares(numbers: list[int]) -> Steps:
    return (yield Stage("square", squared, numbers))


def test_a_task_ends_with_what_its_function_gives_or_raises(executor: Executor) -> None:
    assert executor.window >= executor.slots >= 1
    good, bad = executor.submit("square", squared, 3), executor.submit("square", squared, -3)
    ended: set[Future[Any]] = set()
    while ended != {good, bad}:
        ended |= executor.wait({good, bad} - ended)
    assert good.result() == 9
    with pytest.raises(ZeroDivisionError, match="-3 is negative"):
        bad.result()


def test_an_executor_goes_on_after_an_error(executor: Executor) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            list(executor.map_bounded(squared, [1, -1, *range(20)], "square"))
        assert sorted(executor.map_bounded(squared, range(20), "square")) == [n * n for n in range(20)]
        with pytest.raises(ZeroDivisionError):
            dict(run_stages(executor, iter([squares([1, 2, 3, -1, *range(20)])])))
        ended = dict(run_stages(executor, (squares([n] * 4) for n in range(9))))
        assert ended == {n: [n * n] * 4 for n in range(9)}


@pytest.mark.parametrize("closed", [True, False])
def test_an_abandoned_iteration_leaves_nothing_to_the_next(executor: Executor, closed: bool) -> None:
    abandoned = executor.map_bounded(squared, range(100, 150), "square")
    first = next(abandoned)
    assert first >= 100**2
    if closed:
        abandoned.close()  # type: ignore[attr-defined]
    assert sorted(executor.map_bounded(squared, range(20), "square")) == [n * n for n in range(20)]
    stages = run_stages(executor, (squares([n] * 4) for n in range(200, 230)))
    assert next(stages)[0] in range(9)
    if closed:
        stages.close()  # type: ignore[attr-defined]
    assert dict(run_stages(executor, iter([squares([1, 1, 1])]))) == {0: [1, 1, 1]}


def test_two_runs_share_an_executor(executor: Executor) -> None:
    runs = [run_stages(executor, (squares([n] * 3) for n in range(low, low + 9))) for low in (0, 100)]
    found: list[dict[int, Any]] = [{}, {}]
    for _ in range(9):
        for run, ended in zip(runs, found, strict=True):
            number, result = next(run)
            ended[number] = result
    assert found == [{n: [(low + n) ** 2] * 3 for n in range(9)} for low in (0, 100)]


def test_a_cancelled_task_is_forgotten(executor: Executor, tmp_path: Path) -> None:
    """At most those that run already still do."""
    tasks = [executor.submit("mark", marked, str(tmp_path / str(n))) for n in range(executor.window)]
    for task in tasks:
        task.cancel()
    assert sorted(executor.map_bounded(squared, range(4), "square")) == [0, 1, 4, 9]
    assert len(list(tmp_path.iterdir())) <= 2 * executor.slots


def test_an_urgent_task_goes_before_those_that_wait(executor: Executor, tmp_path: Path) -> None:
    if isinstance(executor, SerialExecutor):
        pytest.skip("it has no queue")
    others = [executor.submit("mark", marked, str(tmp_path / str(n))) for n in range(20)]
    urgent = executor.submit("mark", marked, str(tmp_path / "urgent"), urgent=True)
    while not urgent.done():
        executor.wait({urgent})
    assert sum(task.done() for task in others) < 10
    for task in others:
        task.result()


def test_a_fault_of_the_environment_ends_a_run_and_not_the_executor(executor: Executor) -> None:
    def steps() -> Steps:
        yield Stage("fault", out_of_disk, range(20))

    with pytest.raises(EnvironmentFault, match="disk"):
        dict(run_stages(executor, iter([steps()])))
    assert dict(run_stages(executor, iter([squares([2, 2])]))) == {0: [4, 4]}


def out_of_disk(_: int) -> None:
    raise EnvironmentFault("the disk is full")
