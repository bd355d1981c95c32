"""Files with checksums: what was damaged after it was written is found when it is read."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import google_crc32c

from wsiseg.core.atomic import read_json, write_bytes, write_json
from wsiseg.core.typed import Count
from wsiseg.errors import DamagedFile

_CHECKED_BYTES = 64 << 20
"""A finished file up to this size is read to see that it is intact; of a larger one the size alone must agree."""
_BLOCK_BYTES = 4 << 20
_SEAL = struct.Struct("<4sI")
_SEAL_MARK = b"WSC1"
SEAL_BYTES = _SEAL.size
"""How much longer a sealed file is than its content."""


class FileNote(TypedDict):
    """What a finished file is known by: its checksum, or, of a store, how many files it has."""

    bytes: Count
    crc32c: NotRequired[str]
    files: NotRequired[Count]


def describe_file(path: Path) -> FileNote:
    """A file's ``bytes`` and ``crc32c``."""
    size, value = _checksum(path)
    return {"bytes": size, "crc32c": f"{value:08x}"}


def begins_with(path: Path, size: int, crc32c: int) -> bool:
    """Whether a file still begins with so many bytes of this checksum; many are judged by their number alone."""
    try:
        if path.stat().st_size < size:
            return False
        return size > _CHECKED_BYTES or _checksum(path, size) == (size, crc32c)
    except OSError:
        return False


def _checksum(path: Path, most: int | None = None) -> tuple[int, int]:
    """How many bytes a file has, or ``most`` of them, and their checksum."""
    value, size = 0, 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES if most is None else min(_BLOCK_BYTES, most - size)):
            value, size = google_crc32c.extend(value, block), size + len(block)
    return size, value


def is_intact(path: Path, noted: FileNote) -> bool:
    """Whether a file, or a store, still is as it was described; a large file is judged by its size alone."""
    try:
        if path.is_dir():
            return describe_store(path) == noted
        size = path.stat().st_size
        return size == noted["bytes"] and (size > _CHECKED_BYTES or describe_file(path) == noted)
    except OSError:
        return False


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """:func:`write_json` with a checksum beside the values."""
    plain = json.loads(json.dumps(value))  # as it will be read
    write_json(path, {**plain, "crc32c": _json_checksum(plain)})


def read_sealed_json(path: Path) -> dict[str, Any] | None:
    """What :func:`write_sealed_json` wrote; None where it is missing or was changed since."""
    value = read_json(path)
    if value is None or value.pop("crc32c", None) != _json_checksum(value):
        return None
    return value


def write_sealed(path: Path, content: bytes) -> None:
    """:func:`write_bytes` with a checksum behind the content."""
    write_bytes(path, content + _SEAL.pack(_SEAL_MARK, google_crc32c.value(content)))


def read_sealed(path: Path) -> bytes:
    """What :func:`write_sealed` wrote.

    Raises
    ------
    DamagedFile
        It cannot be read, or is not what was written.
    """
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise DamagedFile(f"{path}: cannot be read: {error.strerror}. Run the same command again.") from error
    content, seal = stored[: -_SEAL.size], stored[-_SEAL.size :]
    if seal != _SEAL.pack(_SEAL_MARK, google_crc32c.value(content)):
        raise DamagedFile(f"{path}: was damaged after it was written. Run the same command again.")
    return content


def describe_store(path: Path) -> FileNote:
    """Of a folder the number and the size of its files: it may have thousands."""
    sizes = [os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names]
    return {"bytes": sum(sizes), "files": len(sizes)}


def _json_checksum(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True)
    return f"{google_crc32c.value(text.encode()):08x}"
