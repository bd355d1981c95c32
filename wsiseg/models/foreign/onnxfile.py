"""ONNX files that are whole: no tensor of theirs lies in another file or in memory.

ONNX lets a tensor name a file that holds its numbers; such weights could change without the file's hash, and what
runs the graph may take other places for one. Messages and field numbers are those of onnx.proto3
(https://github.com/onnx/onnx, Apache-2.0), the encoding that of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from wsiseg.errors import ModelError

# Which fields of a message are messages that may hold a tensor.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_DEEPEST = 50
_MOST_FIELDS = 5_000_000
"""In all; a tensor's numbers are one."""


def require_whole(path: Path) -> None:
    """Refuse an ONNX file that is not one, or of which a tensor lies elsewhere.

    Raises
    ------
    ModelError
    """
    try:
        with path.open("rb") as stream:
            content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        elsewhere = _Search().lies_elsewhere(content, "model", 0)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (IndexError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one. Export or copy it again.") from error
    if elsewhere:
        raise ModelError(
            f"{path}: its weights lie in another file, which could change unseen; refused. Export it as one file: "
            "torch.onnx.export(…, external_data=False), or onnx.save(onnx.load(path), path)."
        )


class _Search:
    """Looks through a message and those in it, and counts what it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def lies_elsewhere(self, message: memoryview, kind: str, depth: int) -> bool:
        """Whether the numbers of a tensor in ``message`` lie elsewhere."""
        if depth > _DEEPEST:
            raise ValueError("messages in messages")
        for field, value in _fields(message):
            self.seen += 1
            if field == 0 or self.seen > _MOST_FIELDS:
                raise ValueError("no field" if field == 0 else "fields without end")
            if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
                return True
            inside = _INSIDE[kind].get(field)
            if inside is None:
                continue
            if isinstance(value, int):
                raise ValueError(f"a number for a {inside}")
            if self.lies_elsewhere(value, inside, depth + 1):
                return True
        return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of an encoded message: number, and value or content."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == 0:
            value, at = _varint(message, at)
        else:
            if wire == 2:
                length, at = _varint(message, at)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError(f"wire type {wire}")
            if at + length > len(message):
                raise IndexError("truncated")
            value, at = message[at : at + length], at + length
        yield field, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number without end")
