"""Slides as sequences of stages, run side by side through one bounded window of tasks.

A slide's work is a generator: it yields a :class:`Stage` (a function and its arguments), is sent the stage's
results, and yields the next; or it yields a :class:`Fork` of several such generators, which go on side by side, and
is sent what they return. :func:`run_stages` drives the slides' generators over one executor and keeps no more than
a fixed number of tasks submitted, whatever the number of slides and tiles, so that neither the scheduler nor the
caller grows with the cohort. No Dask in sight: :mod:`wsiseg.run.cluster` has the executor that runs on one.
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

    ``on_result`` is called in the driving process with (argument, result) as each task ends, and the generator is
    sent no results then: a slide may have a hundred thousand tiles. ``retry`` turns a failed argument and its error
    into new arguments to try instead, or into None where the error is final. What either raises is its slide's
    failure, as a task's error is. ``alone`` tells the arguments that run while nothing else does: what a task's
    death takes with it is then known to be the task's own doing. ``ready`` tells whether an argument's turn has
    come: until then it and those behind it wait for tasks of the slide's other steps to end. ``urgent`` tasks are
    what other steps wait for.
    """

    name: str
    function: Callable[[Any], Any]
    arguments: Sequence[Any]
    on_result: Callable[[Any, Any], None] | None = None
    retry: Callable[[Any, BaseException], Sequence[Any] | None] | None = None
    alone: Callable[[Any], bool] | None = None
    ready: Callable[[Any], bool] | None = None
    urgent: bool = False


@dataclass(frozen=True)
class Fork:
    """Steps that do not wait for one another; what each returns is sent on, in their order, once all have ended.

    Their tasks take turns. Where one of them fails, the others are stopped, and once no task of theirs runs any
    more the error is thrown into the generator that yielded the fork.
    """

    branches: Sequence[Steps]


Steps: TypeAlias = Generator[Stage | Fork, Any, Any]


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
    cores : int
        Of the one machine that all tasks run on, which they share; 1 where there are several.
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
    def cores(self) -> int: ...
    @property
    def torch_threads(self) -> int | None: ...
    @property
    def dashboard(self) -> str | None: ...

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> Future[Any]:
        """Start a task; ``name`` is what the dashboard shows. What the task raises, its future has.

        An ``urgent`` one goes before others that wait for a slot.
        """

    def wait(self, tasks: Collection[Future[Any]]) -> set[Future[Any]]:
        """Those of ``tasks`` that have ended, at least one.

        Raises
        ------
        EnvironmentFault
            None will ever end: there is nobody left to run them.
        """

    def tell(self, event: Event) -> None:
        """Told what happens in a run, to show it where the tasks are watched."""

    def device_busy(self, since: float) -> float | None:
        """The share of the time since then (``time.perf_counter``) in which the devices computed; None: unknown."""

    def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
        """Results of ``function`` over ``tasks`` as they end, never more than a window submitted."""


class SerialExecutor:
    """Runs each task in this process when it is submitted."""

    slots = 1
    window = 1
    torch_threads = None
    dashboard = None

    def __init__(self, device: str = "cpu", cores: int = 1) -> None:
        self.device = device
        self.cores = cores

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> Future[Any]:
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

    def device_busy(self, since: float) -> float | None:
        return None

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


@dataclass(eq=False)
class _Branch:
    """Steps in progress, and what they wait for: the tasks of a stage, or the branches of a fork.

    ``parent``: whose fork they are of, ``place``: their number there. ``results`` is None before the first step.
    """

    steps: Steps
    parent: _Branch | None = None
    place: int = 0
    stage: Stage | None = None
    todo: deque[Any] = field(default_factory=deque)
    results: list[Any] | None = None
    in_flight: int = 0
    error: BaseException | None = None
    stopped: bool = False

    @property
    def ready(self) -> bool:
        """Whether what it waits for has ended."""
        return self.in_flight == 0 and (not self.todo or self.error is not None)

    @property
    def has_task(self) -> bool:
        if not self.todo or self.error is not None:
            return False
        return self.stage is None or self.stage.ready is None or self.stage.ready(self.todo[0])

    @property
    def next_alone(self) -> bool:
        """Whether the next task is to run while nothing else does."""
        stage = self.stage
        return stage is not None and stage.alone is not None and stage.alone(self.todo[0])

    def go_on(self) -> Stage | Fork:
        """The next step, given what came of the last."""
        if self.error is not None:
            error, self.error = self.error, None
            return self.steps.throw(error)
        return self.steps.send(self.results)

    def begin(self, stage: Stage) -> None:
        self.stage, self.todo, self.results = stage, deque(stage.arguments), []

    def fork(self, step: Fork) -> list[_Branch]:
        """The branches that it waits for from now on."""
        self.stage, self.todo, self.results = None, deque(), [None] * len(step.branches)
        self.in_flight = len(step.branches)
        return [_Branch(steps, self, place) for place, steps in enumerate(step.branches)]

    def stop(self) -> None:
        """Let it end with the tasks that run."""
        self.todo.clear()
        self.stopped = True

    def below(self, other: _Branch) -> bool:
        return self.parent is other or (self.parent is not None and self.parent.below(other))


@dataclass
class _Slide:
    """A slide in progress; its branches in the order in which their tasks take turns."""

    order: int
    branches: list[_Branch]

    def ready(self) -> _Branch | None:
        return next((branch for branch in self.branches if branch.ready), None)

    def with_task(self) -> _Branch | None:
        return next((branch for branch in self.branches if branch.has_task), None)

    @property
    def waits_for(self) -> list[str]:
        """Names of the stages whose next task is not ready."""
        return [branch.stage.name for branch in self.branches if branch.stage is not None and branch.todo]

    def had_turn(self, branch: _Branch) -> None:
        self.branches.remove(branch)
        self.branches.append(branch)

    def advance(self, branch: _Branch) -> tuple[Any] | None:
        """Go on with a branch that is ready; (value,) when it was the slide's last.

        Raises
        ------
        Exception
            What the slide's own generator raises; of its branches only an :class:`EnvironmentFault`.
        """
        if branch.stopped:
            branch.steps.close()
            return self._ended(branch, None)
        try:
            step = branch.go_on()
        except StopIteration as end:
            return self._ended(branch, end.value)
        except Exception as error:
            if branch.parent is None or isinstance(error, EnvironmentFault):
                raise
            self._failed(branch, branch.parent, error)
            return None
        if isinstance(step, Fork):
            self.branches += branch.fork(step)
        else:
            branch.begin(step)
        return None

    def _ended(self, branch: _Branch, value: Any) -> tuple[Any] | None:
        self.branches.remove(branch)
        parent = branch.parent
        if parent is None:
            return (value,)
        assert parent.results is not None
        parent.results[branch.place] = value
        parent.in_flight -= 1
        return None

    def _failed(self, branch: _Branch, parent: _Branch, error: BaseException) -> None:
        self._ended(branch, None)
        parent.error = parent.error or error
        for other in self.branches:
            if other.below(parent):
                other.stop()


_Owners: TypeAlias = dict[Future[Any], tuple[_Branch, Any]]
"""Submitted tasks: whose each is, and its argument."""


def run_stages(executor: Executor, slides: Iterable[Steps]) -> Iterator[tuple[int, Any]]:
    """Drive the generators to their ends; yields (position in ``slides``, return value) as each ends.

    Tasks of earlier slides go first; a further slide is started only when those that run cannot fill the
    window, so that slides finish early rather than all at the end. A task's error, unless the stage's ``retry``
    has an answer, is thrown into its generator once the stage's other tasks have ended; an error that a slide's
    generator does not handle is raised here. So is an :class:`EnvironmentFault`, at once: a full disk or a lost
    cluster is no slide's fault, and waiting for the other tasks may be waiting for ever. However it ends, no task
    of it stays submitted.
    """
    active: list[_Slide] = []
    owners: _Owners = {}
    try:
        yield from _drive(executor, enumerate(slides), active, owners)
    finally:
        _cancel(owners)
        # What a generator holds (a lock) must be free when the error arrives, not when it is collected.
        for slide in active:
            for branch in reversed(slide.branches):
                branch.steps.close()


def _drive(
    executor: Executor, waiting: Iterator[tuple[int, Steps]], active: list[_Slide], owners: _Owners
) -> Iterator[tuple[int, Any]]:
    alone = False
    while True:
        while len(owners) < executor.window and not alone:
            # What is ready goes on before anything is submitted: else a later slide's many tasks would keep an
            # earlier one from ending, and a branch's many tasks the other branches.
            ready = next(((slide, branch) for slide in active if (branch := slide.ready())), None)
            if ready is not None:
                slide, branch = ready
                outcome = slide.advance(branch)
                if outcome is not None:
                    active.remove(slide)
                    yield slide.order, outcome[0]
                continue
            turn = next(((slide, branch) for slide in active if (branch := slide.with_task())), None)
            if turn is None:
                following = next(waiting, None)
                if following is None:
                    break
                active.append(_Slide(following[0], [_Branch(following[1])]))
                continue
            slide, branch = turn
            if branch.next_alone:
                if owners:
                    break
                alone = True
            argument = branch.todo.popleft()
            assert branch.stage is not None
            stage = branch.stage
            task = executor.submit(stage.name, stage.function, argument, stage.urgent)
            owners[task] = (branch, argument)
            branch.in_flight += 1
            slide.had_turn(branch)
        if not owners:
            if active:
                raise RuntimeError(f"nothing is left to wait for: {[slide.waits_for for slide in active]}")
            return
        done = executor.wait(owners)
        for task in [task for task in owners if task in done]:
            branch, argument = owners.pop(task)
            branch.in_flight -= 1
            _settle(branch, argument, task)
        alone = False


def _settle(branch: _Branch, argument: Any, task: Future[Any]) -> None:
    stage = branch.stage
    assert stage is not None
    error = task.exception()
    if isinstance(error, EnvironmentFault):
        raise error
    if branch.stopped:
        return
    if error is None:
        result = task.result()
        assert branch.results is not None
        if stage.on_result is not None:
            _guarded(branch, stage.on_result, argument, result)
        else:
            branch.results.append(result)
        return
    again = _guarded(branch, stage.retry, argument, error) if stage.retry is not None else None
    if again is not None:
        branch.todo.extendleft(reversed(again))
    elif branch.error is None:
        branch.error = error


def _guarded(branch: _Branch, callback: Callable[[Any, Any], Any], argument: Any, outcome: Any) -> Any:
    """What a stage's callback returns; what it raises is its slide's failure, not the others'."""
    try:
        return callback(argument, outcome)
    except EnvironmentFault:
        raise
    except Exception as error:
        branch.error = branch.error or error
        return None
