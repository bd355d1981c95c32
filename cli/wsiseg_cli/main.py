"""The entry point of the ``wsiseg`` script: from its first line on, Ctrl-C ends the process quietly."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from types import FrameType

_ELSEWHERE = (
    "wsiseg: this is Windows. Expected: Linux or macOS.\n"
    "Install Linux beside it (wsl --install) and wsiseg in there; slides on C: are then under /mnt/c."
)

_YOUNG = 10_000
"""New objects after which Python looks for garbage. Imports make hundreds of thousands, and none is garbage."""


def main() -> None:
    """Run the command line of this process; ends it with the exit code."""
    if os.name != "posix":
        sys.exit(_ELSEWHERE)
    gc.set_threshold(_YOUNG)
    # Else somebody wants it ignored (nohup, a shell's background job) or handled.
    quits = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if quits:
        signal.signal(signal.SIGINT, _quit)
    from wsiseg_cli.group import run
    from wsiseg_cli.interrupt import forget_interrupts, interrupt
    from wsiseg_cli.terminal import guard_streams

    guard_streams()
    forget_interrupts()
    if quits:
        signal.signal(signal.SIGINT, interrupt)
    try:
        run()
    finally:
        gc.freeze()  # nobody waits at the end for libraries to be looked through for garbage


def _quit(_signal: int, _frame: FrameType | None) -> None:
    """Nothing has begun: an exception would only show where in the libraries' imports it came up."""
    with contextlib.suppress(OSError):
        os.write(2, b"\nstopped\n")
    os._exit(130)
