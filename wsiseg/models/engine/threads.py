"""How many threads compute a network: torch's, whose results depend on their number, and windows side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_SIDE_BY_SIDE: ContextVar[int | None] = ContextVar("side_by_side", default=None)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One, for as long as it lasts: sums of several threads differ in their last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def side_by_side(threads: int) -> Iterator[None]:
    """Lets torch compute so many windows of an image at once on processors, for as long as it lasts.

    Each is computed by one thread: the maps are the same, to the byte, whatever the number. It holds for what this
    thread calls.
    """
    token = _SIDE_BY_SIDE.set(threads)
    try:
        yield
    finally:
        _SIDE_BY_SIDE.reset(token)


def share(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """``function`` of each item, in their order, over the threads of :func:`side_by_side`; else by torch's own."""
    import torch

    threads = _SIDE_BY_SIDE.get()
    if threads is None:
        yield from map(function, items)
        return
    with one_thread():
        if min(threads, len(items)) < 2:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(function, items)
