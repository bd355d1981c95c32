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


def _elsewhere(name: str, dims: tuple[int, ...], location: str) -> bytes:
    """A tensor whose numbers lie in another file."""
    numbers = b"".join(_number(1, d) for d in dims)
    entry = _bytes(1, "location") + _bytes(2, location)
    return numbers + _number(2, 1) + _bytes(8, name) + _bytes(13, entry) + _number(14, 1)


def write_pointwise(
    path: Path,
    weight: list[list[float]],
    bias: list[float],
    dims: tuple[int | str, ...] = ("n", 3, "h", "w"),
    *,
    location: str | None = None,
    alias: str | None = None,
) -> None:
    """A convolution of 1 × 1 from ``image`` to ``maps``: weight[output][input].

    ``location`` names a file that is to hold the weights, ``alias`` a second output that is the same as the first.
    """
    outputs, inputs = len(weight), len(weight[0])
    node = _bytes(1, "image") + _bytes(1, "weight") + _bytes(1, "bias") + _bytes(2, "maps") + _bytes(4, "Conv")
    graph = _bytes(1, node) + _bytes(2, "pointwise")
    shape = (outputs, inputs, 1, 1)
    flat = [x for row in weight for x in row]
    kernel = _tensor("weight", shape, flat) if location is None else _elsewhere("weight", shape, location)
    graph += _bytes(5, kernel)
    graph += _bytes(5, _tensor("bias", (outputs,), bias))
    graph += _bytes(11, _image("image", dims)) + _bytes(12, _image("maps", (dims[0], outputs, *dims[2:])))
    if alias is not None:
        graph += _bytes(1, _bytes(1, "maps") + _bytes(2, alias) + _bytes(4, "Identity"))
        graph += _bytes(12, _image(alias, (dims[0], outputs, *dims[2:])))
    path.write_bytes(_number(1, 8) + _bytes(8, _bytes(1, "") + _number(2, 13)) + _bytes(7, graph))
