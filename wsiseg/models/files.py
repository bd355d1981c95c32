"""A model's file as a file: what is worth opening, its hash, whether it is still the one that was read."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from wsiseg.core.plainfile import require_plain_file
from wsiseg.errors import ModelError, UsageError

JOINT = "+"
"""Between the names of models whose maps are averaged."""
LARGEST = 4 << 30  # bytes; a thousand million weights in float32
_SLACK = 64 << 20
"""Bytes that the small compressed parts of a torch file may grow to."""

Identity: TypeAlias = tuple[tuple[int, ...], ...]


def require_file(path: Path, largest: int = LARGEST) -> None:
    """Refuse what is no file of a bearable size; opening a pipe would wait for ever, a device never ends.

    Raises
    ------
    ModelError
    """
    try:
        size = require_plain_file(path, "The model's file")
    except UsageError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        raise ModelError(f"{path}: no such file" if missing else str(error)) from error
    if size > largest:
        raise ModelError(f"{path}: has {size:,} bytes. Expected the file of a model, {largest:,} at most.")


def shallow(parse: Callable[[str], Any], text: str) -> Any:
    """``parse(text)``; brackets without end in it are a ValueError.

    Python's own error has thousands of frames, with which it could not travel from a worker to the caller.
    """
    with contextlib.suppress(RecursionError):
        return parse(text)
    raise ValueError("nested without end")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def identity(files: Sequence[Path]) -> Identity:
    """What changes, for the price of a stat, when one of ``files`` is written or replaced."""
    found: list[tuple[int, ...]] = []
    for path in files:
        try:
            s = path.stat()
        except OSError:
            found.append(())
        else:
            found.append((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns))
    return tuple(found)


def read_torch(path: Path) -> Any:
    """What a file of ``torch.save`` holds, on the CPU; no code in it is run.

    Raises
    ------
    ModelError
        Missing, truncated or foreign file; code in the file; more in it than its size tells.
    """
    import torch

    require_file(path)
    try:
        require_honest(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():  # torch's word for a function or class that the file calls
            raise ModelError(f"{path}: damaged, truncated or not a torch file. Copy it again.") from error
        raise ModelError(
            f"{path}: holds more than tensors, and loading it could run code; refused. "
            "Save the state dict alone with torch.save, or use safetensors."
        ) from error
    except Exception as error:  # out of damaged bytes the unpickler makes whatever error comes
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: damaged, truncated or not a torch file ({text}). Copy it again.") from error


def require_honest(path: Path) -> None:
    """Refuse an archive that takes much more memory than disk: torch does not compress weights.

    Raises
    ------
    ModelError
        It is such an archive.
    OSError, zipfile.BadZipFile
        It cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":  # a file of before 2020, which is no archive
            return
        with zipfile.ZipFile(stream) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    if size > path.stat().st_size + _SLACK:
        raise ModelError(f"{path}: {size:,} bytes are packed into it, which torch does not do; refused")
