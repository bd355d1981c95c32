"""Files that appear under their names only when they are complete, and locks beside them."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from wsiseg.core.environment import environment_faults
from wsiseg.errors import EnvironmentFault

_PREFIX_BYTES = 80
"""Of a temporary name, so that the whole of it fits."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under; the file gets the name ``path`` when the block ends without an error.

    It is on the disk by then, so that a power failure leaves the old file or the whole new one.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        with environment_faults(path):
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that cannot be written cannot be cleaned either
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """:func:`replacing` for several files, under a lock beside the first of them.

    Parameters
    ----------
    paths : sequence of Path
        Final names; folders that are missing are made.

    Raises
    ------
    EnvironmentFault
        The disk refuses: full, read-only, no permission; or another process is writing the first of them.
    """
    with lock_beside(paths[0]), environment_faults(paths[0]), contextlib.ExitStack() as stack:
        for path in paths:
            remove_leftovers(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        yield [stack.enter_context(replacing(path)) for path in reversed(paths)][::-1]


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """:func:`replacing` for a folder, under a lock beside it; what was there is removed last."""
    temporary, retired = temporary_name(folder), temporary_name(folder)
    with lock_beside(folder), environment_faults(folder):
        remove_leftovers(folder)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if folder.exists():
                os.rename(folder, retired)
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(retired, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where the file is missing or is not one."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError):
        return None
    return parse_json(content)


def parse_json(content: bytes) -> dict[str, Any] | None:
    """A JSON object from its text in UTF-8; None where it is not one."""
    try:
        value = json.loads(content.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write atomically: readers see the old file or the whole new one."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name may hold bytes that are no text: Python's lone surrogates, which JSON can only write escaped.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write atomically and durably."""
    with environment_faults(path), replacing(path) as temporary:
        temporary.write_bytes(content)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` to write under first, which no other process has: not even one in another container,
    whose number may be the same."""
    return path.with_name(f"{_temporary_prefix(path)}{secrets.token_hex(6)}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of ``path`` under temporary names; the caller holds its lock."""
    for left in path.parent.glob(f"{glob.escape(_temporary_prefix(path))}*.tmp"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files, ours and zarr's, that killed processes left in a result."""
    for pattern in (".*.tmp", "*.partial"):
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames in ``folder`` survive a power failure, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def lock_beside(path: Path) -> Iterator[None]:
    """Hold a file or store for writing. The lock lies beside it: inside, readers would see a strange node."""
    file = path.with_name(f".{path.name}.lock")
    with environment_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(file, path):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def hold_lock(file: Path, out: Path) -> Iterator[None]:
    """Hold the lock ``file``, which stands for ``out``; refuse at once if another process holds it."""
    lock = filelock.FileLock(file)
    with environment_faults(file):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise EnvironmentFault(
                f"another run is writing to {out}. Wait for it, stop it, or choose another -o."
            ) from error
    try:
        yield
    finally:
        lock.release()


def is_temporary(name: str) -> bool:
    """Whether a file has a name that :func:`temporary_name` gives."""
    return name.startswith(".") and name.endswith(".tmp")


def _temporary_prefix(path: Path) -> str:
    short = path.name
    while len(os.fsencode(short)) > _PREFIX_BYTES:
        short = short[:-1]
    return f".{short}."
