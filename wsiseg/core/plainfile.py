"""Files that a stranger made: opened only where they are plain files, since others may never end."""

from __future__ import annotations

import os
import stat

from wsiseg.errors import UsageError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_plain_file(path: str | os.PathLike[str], what: str) -> int:
    """The size of a file in bytes, of which it is certain that reading it comes to an end.

    Parameters
    ----------
    path : path
    what : str
        The subject of the error, for example "The mask".

    Raises
    ------
    UsageError
        There is none, or it is a folder, a pipe, a socket or a device.
    """
    name = os.fspath(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{what} {name} cannot be read: {reason}.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise UsageError(f"{what} {name} cannot be read: it is {kind}. Expected a plain file.")
    return status.st_size
