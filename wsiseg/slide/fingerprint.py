"""What identifies a slide's content: its size and samples of its bytes, not its name, place or time."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from wsiseg.errors import SlideError, shown

_END = 1 << 20  # of the head and of the tail of a file
_BLOCK = 1 << 16
_BLOCKS = 16  # between head and tail
_WHOLE = 16 << 20  # what is smaller is hashed whole: it takes as long as opening it
_FILES = 64  # of a folder, besides its metadata


def fingerprint(path: Path, extra: str = "") -> str:
    """SHA-256 (hex) of a file's or a folder's size and sampled content.

    Parameters
    ----------
    path : Path
        A file: all of it up to 16 MiB, else its first and last MiB and 16 blocks of 64 KiB between. A folder:
        names and sizes of all files, and the metadata files and 64 others, each sampled as a file.
    extra : str
        Enters the hash; for formats whose other files are not in ``path``.

    Raises
    ------
    SlideError
        The path cannot be read.
    """
    digest = hashlib.sha256(f"wsiseg.fingerprint/1\0{extra}\0".encode())
    try:
        if path.is_dir():
            _add_folder(digest, path)
        else:
            _add_file(digest, path)
    except OSError as error:
        raise SlideError(f"{shown(path)}: cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}\0".encode())
        middle = size - 2 * _END
        if size <= _WHOLE:
            for block in iter(lambda: file.read(_END), b""):
                digest.update(block)
            return
        digest.update(file.read(_END))
        for n in range(_BLOCKS):
            file.seek(_END + n * (middle - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
        file.seek(size - _END)
        digest.update(file.read(_END))


def _add_folder(digest: hashlib._Hash, path: Path) -> None:
    files = sorted(
        os.path.relpath(os.path.join(folder, name), path) for folder, _, names in os.walk(path) for name in names
    )
    for name in files:
        state = (path / name).stat()
        if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for ever
            raise SlideError(
                f"{shown(path)}: {shown(name)} in it is no regular file.\n"
                "Expected: a folder of files, as OME-Zarr is. Remove it or copy the folder again."
            )
        size = state.st_size
        digest.update(f"{name.replace(os.sep, '/')}\0{size}\0".encode("utf-8", "surrogateescape"))
    metadata = {name for name in files if os.path.basename(name) in ("zarr.json", ".zattrs", ".zarray", ".zgroup")}
    others = [name for name in files if name not in metadata]
    step = max(1, len(others) // _FILES)
    for name in sorted(metadata | set(others[::step])):
        _add_file(digest, path / name)
