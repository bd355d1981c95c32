"""Signals that wait for the end of a step, so that the state that is saved is a step's."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether the process was asked to stop, and by what."""

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._received: int | None = None

    @property
    def requested(self) -> bool:
        return self._received is not None

    def raise_if_requested(self) -> None:
        """Do what the signal that came would have done at once."""
        if self._received is not None:
            received, self._received = self._received, None
            self._pass_on(received, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:  # whoever insists need not wait
            self._pass_on(number, frame)
        self._received = number

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers.get(number)
        if callable(handler):
            handler(number, frame)
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Within, the first SIGINT or SIGTERM is only noted; outside the main thread nothing changes.

    One that the process was started to ignore (nohup, a shell's background job) goes on being ignored.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    for signal_ in _SIGNALS:
        if signal.getsignal(signal_) is signal.SIG_IGN:
            continue
        interrupt._handlers[signal_] = signal.signal(signal_, interrupt._note)
    try:
        yield interrupt
    finally:
        for number, handler in interrupt._handlers.items():
            signal.signal(number, handler)
