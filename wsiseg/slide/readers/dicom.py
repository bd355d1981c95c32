"""What a DICOM file's header says of the series that it belongs to: one slide is one series, in several files.

The encoding is that of DICOM PS3.5 section 7 and PS3.10 section 7 (https://dicom.nema.org/medical/dicom/current).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_ENCAPSULATED = "1.2.840.10008.1.2.4."  # compressed pixels; written as _EXPLICIT is
_TRANSFER_SYNTAX, _CLASS, _SERIES = (0x0002, 0x0010), (0x0008, 0x0016), (0x0020, 0x000E)
_ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF
_PREAMBLE = 132
_HEADER = 1 << 20  # bytes; the series comes before everything that can be long


@dataclass(frozen=True)
class Series:
    """The series of a file.

    Attributes
    ----------
    uid : str
        Series Instance UID.
    kind : str
        SOP Class UID; ``WHOLE_SLIDE_IMAGE`` for a slide.
    """

    uid: str
    kind: str


def read_series(path: Path) -> Series | None:
    """The series of a DICOM file; None where the file is no DICOM, is damaged or does not say."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            data = file.read(_PREAMBLE) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
            if not is_dicom(data):
                return None
            data += file.read(_HEADER)
        found = dict(_texts(data))
        return Series(found[_SERIES], found.get(_CLASS, ""))
    except (OSError, KeyError, struct.error, UnicodeDecodeError, RecursionError):
        return None


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with ``head`` is DICOM."""
    return head[128:_PREAMBLE] == b"DICM"


def odd_neighbour(path: Path) -> str:
    """The name of a pipe, device or the like beside a file; ``""`` where there is none."""
    with os.scandir(path.parent) as entries:
        return next((entry.name for entry in entries if _is_odd(entry)), "")


def _is_odd(entry: os.DirEntry[str]) -> bool:
    return not (entry.is_file() or entry.is_dir()) and os.path.exists(entry.path)


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting: a pipe would wait for someone to write."""
    return os.open(path, flags | os.O_NONBLOCK)


def _texts(data: bytes) -> Iterator[tuple[tuple[int, int], str]]:
    """Tags and values of transfer syntax, class and series, the last of which ends it."""
    at, syntax = 132, _EXPLICIT
    while True:
        tag: tuple[int, int] = struct.unpack_from("<HH", data, at)
        if tag[0] > 2 and not (syntax in (_IMPLICIT, _EXPLICIT) or syntax.startswith(_ENCAPSULATED)):
            return
        explicit = tag[0] <= 2 or syntax != _IMPLICIT
        start, length = _value(data, at, explicit)
        if tag in (_TRANSFER_SYNTAX, _CLASS, _SERIES):
            text = data[start : start + length].decode("ascii").strip("\0 ")
            syntax = text if tag == _TRANSFER_SYNTAX else syntax
            yield tag, text
        if tag >= _SERIES:
            return
        at = _after(data, start, length, explicit)


def _value(data: bytes, at: int, explicit: bool) -> tuple[int, int]:
    """Where an element's value starts, and its length."""
    if not explicit or struct.unpack_from("<H", data, at)[0] == 0xFFFE:
        return at + 8, struct.unpack_from("<I", data, at + 4)[0]
    if data[at + 4 : at + 6] in _LONG:
        return at + 12, struct.unpack_from("<I", data, at + 8)[0]
    return at + 8, struct.unpack_from("<H", data, at + 6)[0]


def _after(data: bytes, at: int, length: int, explicit: bool) -> int:
    """Where a value ends that starts at ``at``; one of undefined length is a sequence or an item of one."""
    if length != _UNDEFINED:
        return at + length
    while True:
        tag = struct.unpack_from("<HH", data, at)
        start, inner = _value(data, at, explicit)
        if tag in (_ITEM_END, _SEQUENCE_END):
            return start
        at = _after(data, start, inner, explicit)
