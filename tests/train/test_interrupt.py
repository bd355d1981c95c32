"""Signals during a training: deferred, passed on, and ignored where the process was started to ignore them."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from wsiseg.train.interrupt import deferred_interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_step(number: int) -> None:
    class Stopped(BaseException): ...

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(number, stop)
    try:
        with deferred_interrupt() as interrupt:
            os.kill(os.getpid(), number)
            assert interrupt.requested
            with pytest.raises(Stopped):
                interrupt.raise_if_requested()
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ignored_signal_goes_on_being_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with deferred_interrupt() as interrupt:
            os.kill(os.getpid(), number)
            assert not interrupt.requested
            assert signal.getsignal(number) is signal.SIG_IGN
            interrupt.raise_if_requested()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_nothing_changes() -> None:
    found = []

    def look() -> None:
        before = signal.getsignal(signal.SIGINT)
        with deferred_interrupt():
            found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [True]
