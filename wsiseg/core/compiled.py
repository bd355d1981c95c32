"""Functions compiled by numba, and where what was compiled is kept for the next process.

numba keeps it beside the module or else in the user's cache folder. An installation for many users, a container, a
HOME that cannot be written have neither, and numba then refuses to define the function. Here it is kept in a folder
of this user's among the temporary files, and where not even that can be had, each process compiles for itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

_SETTINGS: Any = numba.config  # its names are made at run time
_KEPT: list[tuple[Any, _Cache]] = []
"""The functions that are defined here, each with the place where it is kept."""


def compiled(function: Callable[..., Any]) -> Any:
    """``numba.njit(cache=True, nogil=True)``, wherever it runs."""
    dispatcher: Any = numba.njit(nogil=True)(function)
    cache = _cache(function)
    if cache is not None:
        dispatcher._cache = cache
        _KEPT.append((dispatcher, cache))
    return dispatcher


def load_compiled() -> None:
    """Load what is kept of the functions that are defined by now, which else their first calls do.

    That is for a process that others are forked from. It starts no threads.
    """
    for dispatcher, cache in _KEPT:
        for signature in cache.signatures(dispatcher.targetctx.codegen()):
            dispatcher.compile(signature)


def cache_folder() -> Path | None:
    """Where this package's compiled functions are kept; None if nowhere."""
    cache = _cache(cache_folder)
    return None if cache is None else Path(cache.cache_path)


class _Cache(FunctionCache):
    """numba's cache, whose faults (a full disk, a damaged file) cost time and nothing else."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever unpickling a damaged file raises
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def signatures(self, codegen: Any) -> list[Any]:
        """The signatures for which this processor can have the function from here."""
        try:
            kept = list(self._cache_file._load_index())
        except Exception:  # whatever unpickling a damaged file raises: the first calls then load or compile
            return []
        return [key[0] for key in kept if key == self._index_key(key[0], codegen)]

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def _cache(function: Callable[..., Any]) -> _Cache | None:
    if _SETTINGS.CACHE_DIR or _has_home():
        with contextlib.suppress(RuntimeError):  # no place that can be written
            return _Cache(function)
    folder = _own_folder()
    if folder is None:
        return None
    before = _SETTINGS.CACHE_DIR
    _SETTINGS.CACHE_DIR = str(folder)
    try:
        return _Cache(function)
    except RuntimeError:
        return None
    finally:
        _SETTINGS.CACHE_DIR = before


def _has_home() -> bool:
    """Without one, numba would take a folder named ``~`` in the current folder for the user's."""
    return os.path.isabs(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~")))


@functools.cache
def _own_folder() -> Path | None:
    """A folder among the temporary files that nobody but this user can have filled, or put in place.

    What is kept is unpickled: whoever could write there could run code as this user.
    """
    if os.name != "posix":
        return None
    user = os.geteuid()
    try:
        folder = Path(tempfile.gettempdir()) / f"wsiseg-{user}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        own, parent = folder.lstat(), folder.parent.stat()
    except OSError:
        return None
    # Others must not be able to rename it away either: their own folder, or one where only owners may.
    kept = parent.st_uid in (0, user) and (not parent.st_mode & 0o022 or bool(parent.st_mode & stat.S_ISVTX))
    alone = stat.S_ISDIR(own.st_mode) and own.st_uid == user and not own.st_mode & 0o077
    return folder if kept and alone else None
