"""OpenSlide at arm's length: files from strangers are first opened by a process that may die.

One such process (``sandbox.py``) serves each process that opens slides. It starts with the first slide, forks for
every question, is started anew should it die, and ends with its owner, in whatever way that ends: its requests end
then.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wsiseg.errors import EnvironmentFault

_PROGRAM = Path(__file__).with_name("sandbox.py")
_ENDED = {
    "memory": "needs more than 2 GiB of memory for it",
    "SIGXCPU": "needs more than 5 s of processor time to open it",
    "SIGALRM": "does not open it within 30 s",
}
_ATTEMPTS = 2  # the sandbox itself may have been killed between two requests


class Identity(NamedTuple):
    """What tells one state of a file from another."""

    inode: int
    size: int
    changed_ns: int


class Refused(Exception):
    """The file cannot be used with OpenSlide; the text says why, as the end of a sentence that names the file."""


class _Lost(Exception):
    """The sandbox ended before it answered."""


class _Sandbox:
    """The process, and the pipes to it; one request at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def ask(self, request: Mapping[str, str]) -> bytes:
        """The answer's bytes. EnvironmentFault if no process can be started."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(_ATTEMPTS):
                process = self._process = self._process or _start()
                try:
                    return _exchange(process, line)
                except (_Lost, OSError):
                    self._stop()
                except BaseException:  # interrupted: what it still answers must not become the next answer
                    self._stop()
                    raise
        raise EnvironmentFault("The process that opens slides with OpenSlide is killed again and again.")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _close(process)
            process.wait()

    def _forget(self) -> None:
        """In a fork: the process belongs to the one that was forked, which may be in the middle of a request."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            _close(process)
            process.returncode = 0  # not this process's child: never waited for


_sandbox = _Sandbox()


def identify(path: Path) -> dict[str, Any]:
    """The ``vendor`` by OpenSlide's name, ``""`` if it does not know the file; ``properties`` and ``associated``.

    The properties and the names of the associated images are those of Aperio's files and of generic TIFF, of no
    other; where OpenSlide refuses such a file there are none.

    Raises
    ------
    Refused
        OpenSlide crashes on the file, or takes too much time or memory.
    """
    return _answered(_absolute(path), _identity(path), "identify")


def describe(path: Path) -> dict[str, Any]:
    """What OpenSlide says of the file: ``properties``, ``associated``, ``sizes`` and ``downsamples`` of the levels.

    Raises
    ------
    Refused
        OpenSlide does not open the file, or crashes on it, also where it only reads some of its pixels.
    """
    return _answered(_absolute(path), _identity(path), "describe")


def associated(path: Path, name: str) -> tuple[tuple[int, int], bytes]:
    """Size (width, height) and RGBA of an associated image.

    Raises
    ------
    Refused
        There is no such image, it is damaged or too large.
    """
    answer, pixels = _ask(_absolute(path), "associated", name)
    width, height = answer["size"]
    return (width, height), pixels


@functools.lru_cache(maxsize=16)
def _answered(path: str, identity: Identity, task: str) -> dict[str, Any]:
    return _ask(path, task)[0]


def _ask(path: str, task: str, name: str = "") -> tuple[dict[str, Any], bytes]:
    payload = _sandbox.ask({"path": path, "task": task, "name": name})
    line, _, pixels = payload.partition(b"\n")
    try:
        answer = json.loads(line)
    except ValueError:
        answer = {"refused": "its metadata are too large"}
    if "ended" in answer:
        how = answer["ended"]
        raise Refused(f"OpenSlide {_ENDED.get(how, f'crashes on it ({how})')}")
    if "refused" in answer:
        raise Refused(f"OpenSlide cannot open it: {answer['refused']}")
    return answer, pixels


def _absolute(path: Path) -> str:
    """As the sandbox must be told: it stays in the folder where it was started."""
    return os.path.abspath(path)


def _identity(path: Path) -> Identity:
    state = os.stat(path)
    return Identity(state.st_ino, state.st_size, state.st_mtime_ns)


def _start() -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        return subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # nothing half written that a fork of this process could write again
            start_new_session=True,  # no signals of a terminal
            env=environment,
        )
    except OSError as error:
        raise EnvironmentFault(f"{sys.executable}: cannot be started to open slides: {error.strerror}.") from error


def _exchange(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    assert process.stdin is not None
    process.stdin.write(line)
    return bytes(_exactly(process, struct.unpack("<Q", _exactly(process, 8))[0]))


def _exactly(process: subprocess.Popen[bytes], length: int) -> bytearray:
    assert process.stdout is not None
    data = bytearray()
    while len(data) < length:
        piece = process.stdout.read(length - len(data))
        if not piece:
            raise _Lost
        data += piece
    return data


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
