"""The disk's refusals as errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from wsiseg.errors import EnvironmentFault, SlideError

WORK = ".work"
_EXHAUSTED = {
    errno.ENOSPC: "the disk is full: free space there or choose another -o; the same command resumes",
    errno.EFBIG: "a file would be larger than allowed: raise the limit (ulimit -f unlimited) or choose another "
    "disk with -o; the same command resumes",
    errno.EDQUOT: "the disk quota is used up: free space or choose another -o; the same command resumes",
    errno.EROFS: "the file system is read-only: choose another -o",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n 4096); the same command resumes",
    errno.ENFILE: "too many files are open on this machine: close some programs; the same command resumes",
}
_REFUSED = {
    errno.EACCES: "no permission to write there: choose another -o or change the permissions",
    errno.EPERM: "no permission to write there: choose another -o or change the permissions",
    errno.ENOTDIR: "a file is in the way: choose another -o",
    errno.EEXIST: "a file is in the way: choose another -o",
    errno.EISDIR: "a folder is in the way: choose another -o",
    errno.ENOENT: "its folder cannot be made or was removed: choose another -o",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter -o",
    errno.EIO: "the disk reports an input/output error: check it or choose another -o; the same command resumes",
    errno.ESTALE: "the network disk has lost the folder: the same command resumes",
}


def absolute(path: Path) -> Path:
    """The path as every process has it that sees the same files: workers may run in another folder.

    Raises
    ------
    EnvironmentFault
        It is relative, and this process' folder has been removed.
    """
    try:
        return Path(os.path.abspath(path))
    except FileNotFoundError as error:
        raise EnvironmentFault(
            f"{path}: is relative to a folder that has been removed. Change to another one, or give a full path."
        ) from error


@contextlib.contextmanager
def environment_faults(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into errors that say what to do.

    Raises
    ------
    EnvironmentFault
        The disk, or a folder on it, cannot be used.
    SlideError
        The slide's work folder has been removed: that is this slide's misfortune alone.
    """
    try:
        yield
    except OSError as error:
        attempt = _vanished_attempt(path) if error.errno == errno.ENOENT else None
        if attempt is not None:
            raise SlideError(f"{attempt} was removed during the run. Run the same command again.") from error
        fault = environment_fault(error, path, _EXHAUSTED | _REFUSED)
        if fault is None:
            raise
        raise fault from error


def environment_fault(
    error: BaseException, path: Path, causes: Mapping[int, str] = _EXHAUSTED
) -> EnvironmentFault | None:
    """The error for the user if something has run out, whatever was being done; None for another error."""
    cause = causes.get(error.errno or 0) if isinstance(error, OSError) else None
    return EnvironmentFault(f"cannot write {path}: {cause}.") if cause is not None else None


def _vanished_attempt(path: Path) -> Path | None:
    """The attempt's folder that ``path`` is or lies in, if it is gone while the results folder is still there."""
    for attempt in (path, *path.parents):
        if attempt.parent.parent.name == WORK:
            return attempt if not attempt.exists() and attempt.parents[2].exists() else None
    return None
