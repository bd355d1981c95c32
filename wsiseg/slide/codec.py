"""One stored TIFF tile to RGB pixels, and everything that can be wrong with it.

The declared size inside a tile is checked before it is decoded, so that a small tile cannot claim gigabytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsiseg.slide import jpegcheck

Pixels = npt.NDArray[np.uint8]

NONE, LZW, JPEG, DEFLATE, DEFLATE_OLD, ZSTD = 1, 5, 7, 8, 32946, 50000
APERIO_YCBCR, APERIO_RGB, JPEG2000 = 33003, 33005, 34712
NAMES = {
    NONE: "none", LZW: "LZW", JPEG: "JPEG", DEFLATE: "Deflate", DEFLATE_OLD: "Deflate", ZSTD: "Zstandard",
    APERIO_YCBCR: "JPEG 2000", APERIO_RGB: "JPEG 2000", JPEG2000: "JPEG 2000",
}  # fmt: skip

_PHOTOMETRIC_JPEG = {1: "GRAYSCALE", 2: "RGB", 6: "YCBCR"}


class TileDamage(Exception):
    """A stored tile cannot be decoded; the text says why in a few words."""


@dataclass(frozen=True)
class TileFormat:
    """How the tiles of one level are stored."""

    compression: int
    photometric: int
    samples: int
    width: int
    height: int
    predictor: int = 1
    jpeg_tables: bytes = b""

    @property
    def jpeg2000(self) -> bool:
        return self.compression in (APERIO_YCBCR, APERIO_RGB, JPEG2000)


def decode(data: bytes, stored: TileFormat) -> Pixels:
    """Decode one tile.

    Parameters
    ----------
    data : bytes
        As stored; JPEG may be abbreviated (tables in ``stored.jpeg_tables``).
    stored : TileFormat

    Returns
    -------
    uint8 array (stored.height, stored.width, 3)

    Raises
    ------
    TileDamage
    """
    try:
        if stored.compression == JPEG:
            pixels = _jpeg(data, stored)
        elif stored.jpeg2000:
            pixels = _jpeg2000(data, stored)
        else:
            pixels = _plain(data, stored)
    except (RuntimeError, ValueError, struct.error) as error:  # imagecodecs' errors are RuntimeErrors
        raise TileDamage(
            f"{NAMES[stored.compression]}: {str(error).splitlines()[0][:120] if str(error) else 'damaged'}"
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape[:2] != (stored.height, stored.width):
        size = f"{pixels.shape[1]}×{pixels.shape[0]}" if pixels.ndim >= 2 else "no"
        raise TileDamage(f"{size} pixels of {pixels.dtype}, not {stored.width}×{stored.height} of uint8")
    return _rgb(pixels, stored)


def subsampled_jpeg2000(data: bytes) -> bool:
    """Whether components of a JPEG 2000 tile have different sizes, which imagecodecs does not decode."""
    _, _, steps = _codestream_size(data)
    return any(step != 1 for step in steps)


def _jpeg(data: bytes, stored: TileFormat) -> Pixels:
    width, height = jpegcheck.check(data, stored.jpeg_tables)
    if (width, height) != (stored.width, stored.height):
        raise ValueError(f"a tile of {width}×{height}, not {stored.width}×{stored.height}")
    space = _PHOTOMETRIC_JPEG.get(stored.photometric, "YCBCR")
    return np.asarray(
        imagecodecs.jpeg8_decode(
            data,
            tables=stored.jpeg_tables or None,
            colorspace=space,
            outcolorspace="GRAYSCALE" if space == "GRAYSCALE" else "RGB",
        )
    )


def _jpeg2000(data: bytes, stored: TileFormat) -> Pixels:
    width, height, steps = _codestream_size(data)
    if (width, height) != (stored.width, stored.height):
        raise ValueError(f"a tile of {width}×{height}, not {stored.width}×{stored.height}")
    if len(steps) != stored.samples:
        raise ValueError(f"{len(steps)} components, not {stored.samples}")
    pixels = np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1))
    return _ycbcr_to_rgb(pixels) if stored.compression == APERIO_YCBCR and pixels.ndim == 3 else pixels


def _plain(data: bytes, stored: TileFormat) -> Pixels:
    length = stored.width * stored.height * stored.samples
    decoders = {
        LZW: imagecodecs.lzw_decode,
        DEFLATE: imagecodecs.zlib_decode,
        DEFLATE_OLD: imagecodecs.zlib_decode,
        ZSTD: imagecodecs.zstd_decode,
    }
    content = data if stored.compression == NONE else decoders[stored.compression](data, out=length)
    if len(content) < length:
        raise ValueError(f"{len(content)} bytes of pixels, not {length}")
    pixels = np.frombuffer(content, dtype=np.uint8, count=length).reshape(
        stored.height, stored.width, stored.samples
    )
    return np.cumsum(pixels, axis=1, dtype=np.uint8) if stored.predictor == 2 else pixels


def _rgb(pixels: Pixels, stored: TileFormat) -> Pixels:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] != stored.samples:
        raise TileDamage(f"{pixels.shape[2]} components, not {stored.samples}")
    return np.ascontiguousarray(pixels[:, :, :3])


def _codestream_size(data: bytes) -> tuple[int, int, tuple[int, ...]]:
    """Width, height and the sampling steps of all components, from the SIZ marker (ITU-T T.800, A.5.1)."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0:
        raise ValueError("no JPEG 2000 codestream")
    x1, y1, x0, y0 = struct.unpack_from(">IIII", data, start + 8)
    count = struct.unpack_from(">H", data, start + 40)[0]
    if not 1 <= count <= 16:
        raise ValueError(f"{count} components")
    parts = struct.unpack_from(f">{3 * count}B", data, start + 42)
    steps = tuple(max(parts[3 * n + 1], parts[3 * n + 2]) for n in range(count))
    return x1 - x0, y1 - y0, steps


def _ycbcr_to_rgb(pixels: Pixels) -> Pixels:
    """JFIF's conversion in 16-bit fixed point, rounded where OpenSlide's tables are."""
    y = pixels[..., 0].astype(np.int32)
    chroma = np.arange(-128, 128)
    red = (round(1.40200 * 65536) * chroma + _HALF) >> 16
    green_b = np.rint(-0.34414 * 65536 * chroma).astype(np.int32)
    green_r = np.rint(-0.71414 * 65536 * chroma).astype(np.int32)
    blue = (round(1.77200 * 65536) * chroma + _HALF) >> 16
    cb, cr = pixels[..., 1], pixels[..., 2]
    rgb = [y + red[cr], y + ((green_b[cb] + green_r[cr] + _HALF) >> 16), y + blue[cb]]
    return np.clip(np.stack(rgb, axis=-1), 0, 255).astype(np.uint8)


_HALF = 1 << 15
