"""What is costly to open, once a process: shared by its threads, bounded in number and in bytes."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeAlias, TypeVar

Value = TypeVar("Value")
Identity: TypeAlias = tuple[int, int, int, int, int]


class Held(Generic[Value]):
    """The values that were asked for last, each made once however many threads ask for it at the same time.

    Parameters
    ----------
    count : int
        Most values that are kept.
    capacity : int
        Bytes that they may hold together; the one that was asked for last stays, however large.
    size : function
        Bytes that a value holds.

    Notes
    -----
    A value that is dropped is not closed: another thread may be using it. It goes with its last user.
    """

    def __init__(self, count: int, capacity: int, size: Callable[[Value], int]) -> None:
        self._count, self._capacity, self._size = count, capacity, size
        self._values: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made now if it is not there; what ``make`` raises is raised and not kept."""
        with self._lock:
            found = self._values.get(key)
            mine = found is None
            if found is None:
                found = self._values[key] = Future()
            self._values.move_to_end(key)
        if mine:
            try:
                found.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._values.pop(key, None)
                found.set_exception(error)
            else:
                dropped = self._surplus()
                del dropped  # outside of the lock: what it held may take locks of its own when it goes
        return found.result()

    def _surplus(self) -> list[Future[Value]]:
        with self._lock:
            sizes = {
                key: self._size(value.result()) if value.done() and not value.exception() else 0
                for key, value in self._values.items()
            }
            used, dropped = sum(sizes.values()), []
            for key in list(self._values)[:-1]:
                if len(self._values) <= self._count and used <= self._capacity:
                    break
                used -= sizes[key]
                dropped.append(self._values.pop(key))
            return dropped


def identity(path: str | os.PathLike[str]) -> Identity:
    """What tells, for the price of a stat, that a file is still the one that was opened.

    Raises
    ------
    OSError
        It cannot be looked at.
    """
    state = os.stat(path)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
