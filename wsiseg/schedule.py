"""Slides as sequences of stages, run side by side through one bounded window of tasks.

A slide's work is a generator: it yields a :class:`Stage` (a function and its arguments), is sent the stage's
results, and yields the next. :func:`run_stages` drives many such generators over one executor and keeps no more
than a fixed number of tasks submitted, whatever the number of slides and tiles, so that neither the scheduler
nor the caller grows with the cohort. No Dask in sight: :mod:`wsiseg.cluster` has the executor that runs on one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from wsiseg.errors import EnvironmentFault


@dataclass(frozen=True)
class Stage:
    """The same function on many arguments; ``name`` is what the dashboard shows.

    ``on_result`` is called in the driving process with (argument, result) as each task ends. ``retry`` turns a
    failed argument and its error into new arguments to try instead, or into None where the error is final.
    ``alone`` tells the arguments that run while nothing else does: what a task's death takes with it is then
    known to be the task's own doing.
    """

    name: str
    function: Callable[[Any], Any]
    arguments: Sequence[Any]
    on_result: Callable[[Any, Any], None] | None = None
    retry: Callable[[Any, BaseException], Sequence[Any] | None] | None = None
    alone: Callable[[Any], bool] | None = None


Steps: TypeAlias = Generator[Stage, list[Any], Any]


class TaskHandle(Protocol):
    """What an executor gives for a submitted task; only its identity matters here."""


class Executor(Protocol):
    """Runs tasks somewhere.

    ``slots`` tasks run at once, on ``device`` ("cpu", "cuda", or "auto" where only the workers know), each with
    ``torch_threads`` threads (None: torch's own choice); ``dashboard`` is an address to watch them at, if any.
    """

    @property
    def slots(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def torch_threads(self) -> int | None: ...
    @property
    def dashboard(self) -> str | None: ...

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any) -> TaskHandle:
        """Start a task."""

    def next_done(self) -> tuple[TaskHandle, Any, BaseException | None]:
        """Wait for any submitted task: (handle, result, error)."""

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        """Results of ``function`` over ``tasks`` as they end, never more than a window submitted."""


class SerialExecutor:
    """Runs each task in this process when its result is asked for."""

    slots = 1
    torch_threads = None
    dashboard = None

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._queue: deque[tuple[object, Callable[[Any], Any], Any]] = deque()

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any) -> object:
        handle = object()
        self._queue.append((handle, function, argument))
        return handle

    def next_done(self) -> tuple[object, Any, BaseException | None]:
        handle, function, argument = self._queue.popleft()
        try:
            return handle, function(argument), None
        except Exception as error:
            return handle, None, error

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        return map_bounded(self, function, tasks, name)


def map_bounded(
    executor: Executor, function: Callable[[Any], Any], tasks: Iterable[Any], name: str
) -> Iterator[Any]:
    """Results as they end; the next task is submitted when one has ended, the first error is raised."""
    pending = iter(tasks)
    in_flight = 0
    for argument in pending:
        executor.submit(name, function, argument)
        in_flight += 1
        if in_flight >= window_size(executor):
            break
    while in_flight:
        _, result, error = executor.next_done()
        in_flight -= 1
        if error is not None:
            raise error
        for argument in pending:
            executor.submit(name, function, argument)
            in_flight += 1
            break
        yield result


def window_size(executor: Executor) -> int:
    """Tasks submitted at once: one running and one waiting in each slot hide the scheduler's latency."""
    return 2 * max(executor.slots, 1) + 1


@dataclass
class _Active:
    """A slide in progress: its generator and what its current stage still waits for."""

    order: int
    steps: Steps
    stage: Stage | None = None
    todo: deque[Any] = field(default_factory=deque)
    results: list[Any] = field(default_factory=list)
    in_flight: int = 0
    error: BaseException | None = None

    @property
    def stage_over(self) -> bool:
        return self.in_flight == 0 and (not self.todo or self.error is not None)

    @property
    def next_alone(self) -> bool:
        """Whether the next task is to run while nothing else does."""
        stage = self.stage
        return stage is not None and stage.alone is not None and stage.alone(self.todo[0])


def run_stages(executor: Executor, slides: Iterable[Steps]) -> Iterator[tuple[int, Any]]:
    """Drive the generators to their ends; yields (position in ``slides``, return value) as each ends.

    Tasks of earlier slides go first; a further slide is started only when those that run cannot fill the
    window, so that slides finish early rather than all at the end. A task's error, unless the stage's ``retry``
    has an answer, is thrown into its slide's generator once its other tasks have ended; an error that a
    generator does not handle is raised here. So is an :class:`EnvironmentFault`, at once: a full disk or a lost
    cluster is no slide's fault, and waiting for the other tasks may be waiting for ever.
    """
    active: list[_Active] = []
    try:
        yield from _drive(executor, enumerate(slides), active)
    finally:
        # What a generator holds (a lock) must be free when the error arrives, not when it is collected.
        for slide in active:
            slide.steps.close()


def _drive(
    executor: Executor, waiting: Iterator[tuple[int, Steps]], active: list[_Active]
) -> Iterator[tuple[int, Any]]:
    owners: dict[int, tuple[_Active, Any, TaskHandle]] = {}
    window = window_size(executor)
    alone = False
    while True:
        while len(owners) < window and not alone:
            slide = next((s for s in active if s.todo and s.error is None), None)
            if slide is None:
                ready = next((s for s in active if s.stage_over), None)
                if ready is not None:
                    outcome = _advance(ready)
                    if outcome is not None:
                        active.remove(ready)
                        yield ready.order, outcome[0]
                    continue
                following = next(waiting, None)
                if following is None:
                    break
                active.append(_Active(*following))
                continue
            if slide.next_alone:
                if owners:
                    break
                alone = True
            argument = slide.todo.popleft()
            assert slide.stage is not None
            handle = executor.submit(slide.stage.name, slide.stage.function, argument)
            owners[id(handle)] = (slide, argument, handle)
            slide.in_flight += 1
        if not owners:
            return
        handle, result, error = executor.next_done()
        slide, argument, _ = owners.pop(id(handle))
        slide.in_flight -= 1
        alone = False
        _settle(slide, argument, result, error)


def _settle(slide: _Active, argument: Any, result: Any, error: BaseException | None) -> None:
    stage = slide.stage
    assert stage is not None
    if error is None:
        slide.results.append(result)
        if stage.on_result is not None:
            stage.on_result(argument, result)
        return
    if isinstance(error, EnvironmentFault):
        raise error
    again = stage.retry(argument, error) if stage.retry is not None else None
    if again is not None:
        slide.todo.extendleft(reversed(again))
    elif slide.error is None:
        slide.error = error


def _advance(slide: _Active) -> tuple[Any] | None:
    """Send the ended stage's results (or throw its error); (value,) when the generator returned."""
    try:
        if slide.error is not None:
            error, slide.error = slide.error, None
            slide.stage = slide.steps.throw(error)
        elif slide.stage is None:
            slide.stage = next(slide.steps)
        else:
            slide.stage = slide.steps.send(slide.results)
    except StopIteration as end:
        return (end.value,)
    slide.todo, slide.results = deque(slide.stage.arguments), []
    return None
