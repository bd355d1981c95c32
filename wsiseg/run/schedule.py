"""Slides as sequences of stages, run side by side through one bounded window of tasks.

A slide's work is a generator: it yields a :class:`Stage` (a function and its arguments), is sent the stage's
results, and yields the next. :func:`run_stages` drives many such generators over one executor and keeps no more
than a fixed number of tasks submitted, whatever the number of slides and tiles, so that neither the scheduler
nor the caller grows with the cohort. No Dask in sight: :mod:`wsiseg.run.cluster` has the executor that runs on one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from wsiseg.errors import EnvironmentFault
from wsiseg.run.events import Event


@dataclass(frozen=True)
class Stage:
    """The same function on many arguments; ``name`` is what the dashboard shows.

    ``on_result`` is called in the driving process with (argument, result) as each task ends. ``retry`` turns a
    failed argument and its error into new arguments to try instead, or into None where the error is final. What
    either raises is its slide's failure, as a task's error is. ``alone`` tells the arguments that run while nothing
    else does: what a task's death takes with it is then known to be the task's own doing.
    """

    name: str
    function: Callable[[Any], Any]
    arguments: Sequence[Any]
    on_result: Callable[[Any, Any], None] | None = None
    retry: Callable[[Any, BaseException], Sequence[Any] | None] | None = None
    alone: Callable[[Any], bool] | None = None


Steps: TypeAlias = Generator[Stage, list[Any], Any]


class Executor(Protocol):
    """Runs tasks somewhere.

    A task belongs to whoever submitted it: its ``Future`` tells its outcome to nobody else, so several callers, one
    after the other or at once, share an executor, and an error or an abandoned caller leaves it as it was. Who has
    no more use for a task cancels its future: it is then forgotten, even if it is running already.

    Attributes
    ----------
    slots : int
        Tasks that run at once.
    window : int
        Tasks that are worth having submitted at once.
    device : str
        What they run on: "cpu", "cuda", or "auto" where only the workers know.
    torch_threads : int or None
        Threads of each; None: torch's own choice.
    dashboard : str or None
        An address to watch them at.
    """

    @property
    def slots(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def torch_threads(self) -> int | None: ...
    @property
    def dashboard(self) -> str | None: ...

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """Start a task; ``name`` is what the dashboard shows. What the task raises, its future has."""

    def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
        """Those of ``tasks`` that have ended, at least one.

        Raises
        ------
        EnvironmentFault
            None will ever end: there is nobody left to run them.
        """

    def tell(self, event: Event) -> None:
        """Told what happens in a run, to show it where the tasks are watched."""

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        """Results of ``function`` over ``tasks`` as they end, never more than a window submitted."""


class SerialExecutor:
    """Runs each task in this process when it is submitted."""

    slots = 1
    window = 1
    torch_threads = None
    dashboard = None

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        task: Future[Any] = Future()
        try:
            task.set_result(function(argument))
        except Exception as error:
            task.set_exception(error)
        return task

    def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
        return set(tasks)

    def tell(self, event: Event) -> None:
        pass

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        return map_bounded(self, function, tasks, name)


def map_bounded(
    executor: Executor, function: Callable[[Any], Any], tasks: Iterable[Any], name: str
) -> Iterator[Any]:
    """Results as they end; the next task is submitted when one has ended, the first error is raised.

    What is still submitted when the iteration ends, by an error or because nobody goes on with it, is cancelled.
    """
    waiting = iter(tasks)
    submitted: set[Future[Any]] = set()
    try:
        while True:
            for argument in itertools.islice(waiting, max(0, executor.window - len(submitted))):
                submitted.add(executor.submit(name, function, argument))
            if not submitted:
                return
            for task in executor.wait(submitted):
                submitted.remove(task)
                yield task.result()
    finally:
        _cancel(submitted)


def _cancel(tasks: Iterable[Future[Any]]) -> None:
    for task in tasks:
        task.cancel()


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


_Owners: TypeAlias = dict[Future[Any], tuple[_Active, Any]]
"""Submitted tasks: whose each is, and its argument."""


def run_stages(executor: Executor, slides: Iterable[Steps]) -> Iterator[tuple[int, Any]]:
    """Drive the generators to their ends; yields (position in ``slides``, return value) as each ends.

    Tasks of earlier slides go first; a further slide is started only when those that run cannot fill the
    window, so that slides finish early rather than all at the end. A task's error, unless the stage's ``retry``
    has an answer, is thrown into its slide's generator once its other tasks have ended; an error that a
    generator does not handle is raised here. So is an :class:`EnvironmentFault`, at once: a full disk or a lost
    cluster is no slide's fault, and waiting for the other tasks may be waiting for ever. However it ends, no task
    of it stays submitted.
    """
    active: list[_Active] = []
    owners: _Owners = {}
    try:
        yield from _drive(executor, enumerate(slides), active, owners)
    finally:
        _cancel(owners)
        # What a generator holds (a lock) must be free when the error arrives, not when it is collected.
        for slide in active:
            slide.steps.close()


def _drive(
    executor: Executor, waiting: Iterator[tuple[int, Steps]], active: list[_Active], owners: _Owners
) -> Iterator[tuple[int, Any]]:
    alone = False
    while True:
        while len(owners) < executor.window and not alone:
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
            task = executor.submit(slide.stage.name, slide.stage.function, argument)
            owners[task] = (slide, argument)
            slide.in_flight += 1
        if not owners:
            return
        done = executor.wait(owners)
        for task in [task for task in owners if task in done]:
            slide, argument = owners.pop(task)
            slide.in_flight -= 1
            _settle(slide, argument, task)
        alone = False


def _settle(slide: _Active, argument: Any, task: Future[Any]) -> None:
    stage = slide.stage
    assert stage is not None
    error = task.exception()
    if error is None:
        result = task.result()
        slide.results.append(result)
        if stage.on_result is not None:
            _guarded(slide, stage.on_result, argument, result)
        return
    if isinstance(error, EnvironmentFault):
        raise error
    again = _guarded(slide, stage.retry, argument, error) if stage.retry is not None else None
    if again is not None:
        slide.todo.extendleft(reversed(again))
    elif slide.error is None:
        slide.error = error


def _guarded(slide: _Active, callback: Callable[[Any, Any], Any], argument: Any, outcome: Any) -> Any:
    """What a stage's callback returns; what it raises is its slide's failure, not the others'."""
    try:
        return callback(argument, outcome)
    except EnvironmentFault:
        raise
    except Exception as error:
        slide.error = slide.error or error
        return None


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
