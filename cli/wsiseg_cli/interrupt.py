"""Ctrl-C that is heeded even where a library swallows the exception: in an import, a callback, a finaliser."""

from __future__ import annotations

import threading
from types import FrameType

_came = threading.Event()


def forget_interrupts() -> None:
    """Before a command: what came to an earlier one of this process is not meant for it."""
    _came.clear()


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """As Python's own handler of SIGINT, and it leaves a note."""
    _came.set()
    raise KeyboardInterrupt


def heed_interrupt() -> None:
    """Raise the interrupt again if one came: whoever gets here after it has not been stopped by it."""
    if _came.is_set():
        raise KeyboardInterrupt
