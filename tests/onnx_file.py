"""A tiny ONNX file, written by hand: no package is needed to make one.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx, Apache-2.0).
"""

from __future__ import annotations

import struct
from pathlib import Path


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _image(name: str, dims: tuple[int | str, ...]) -> bytes:
    """ValueInfoProto of float32."""
    shape = b"".join(_bytes(1, _number(1, d) if isinstance(d, int) else _bytes(2, d)) for d in dims)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, shape)))


def _tensor(name: str, dims: tuple[int, ...], values: list[float]) -> bytes:
    numbers = b"".join(_number(1, d) for d in dims)
    return numbers + _number(2, 1) + _bytes(8, name) + _bytes(9, struct.pack(f"<{len(values)}f", *values))


def write_pointwise(
    path: Path, weight: list[list[float]], bias: list[float], dims: tuple[int | str, ...] = ("n", 3, "h", "w")
) -> None:
    """A convolution of 1 × 1 from ``image`` to ``maps``: weight[output][input]."""
    outputs, inputs = len(weight), len(weight[0])
    node = _bytes(1, "image") + _bytes(1, "weight") + _bytes(1, "bias") + _bytes(2, "maps") + _bytes(4, "Conv")
    graph = _bytes(1, node) + _bytes(2, "pointwise")
    graph += _bytes(5, _tensor("weight", (outputs, inputs, 1, 1), [x for row in weight for x in row]))
    graph += _bytes(5, _tensor("bias", (outputs,), bias))
    graph += _bytes(11, _image("image", dims)) + _bytes(12, _image("maps", (dims[0], outputs, *dims[2:])))
    path.write_bytes(_number(1, 8) + _bytes(8, _bytes(1, "") + _number(2, 13)) + _bytes(7, graph))
