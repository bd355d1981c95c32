"""One stored TIFF tile to RGB pixels, and everything that can be wrong with it.

The declared size inside a tile is checked before it is decoded, so that a small tile cannot claim gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsiseg.slide.readers import jpeg
from wsiseg.slide.readers.tiff import jp2

Pixels = npt.NDArray[np.uint8]

NONE, LZW, JPEG, DEFLATE, DEFLATE_OLD, PACKBITS, ZSTD, WEBP = 1, 5, 7, 8, 32946, 32773, 50000, 50001
APERIO_YCBCR, APERIO_RGB, JPEG2000 = 33003, 33005, 34712
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB, ITULAB = 0, 1, 2, 3, 5, 6, 8, 9, 10
NAMES = {
    NONE: "none", LZW: "LZW", JPEG: "JPEG", DEFLATE: "Deflate", DEFLATE_OLD: "Deflate", PACKBITS: "PackBits",
    ZSTD: "Zstandard", WEBP: "WebP", APERIO_YCBCR: "JPEG 2000", APERIO_RGB: "JPEG 2000", JPEG2000: "JPEG 2000",
}  # fmt: skip
UNREAD = {
    2: "CCITT", 3: "CCITT Group 3", 4: "CCITT Group 4", 6: "old-style JPEG", 9: "JBIG", 10: "JBIG",
    22610: "JPEG XR", 32809: "ThunderScan", 33004: "JPEG 2000", 34661: "JBIG", 34676: "SGI LogLuv",
    34677: "SGI LogLuv", 34887: "LERC", 34892: "lossy JPEG of DNG", 34925: "LZMA", 34926: "an old Zstandard",
    34927: "an old WebP", 34933: "PNG", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
OWN_COLOURS = (JPEG, WEBP, APERIO_YCBCR, APERIO_RGB, JPEG2000)  # their decoders deal with YCbCr
_PREDICTED = (LZW, DEFLATE, DEFLATE_OLD, ZSTD)
PHOTOMETRICS = {
    WHITE_IS_ZERO: "grey", BLACK_IS_ZERO: "grey", RGB: "RGB", YCBCR: "YCbCr",
    PALETTE: "a palette", 4: "a transparency mask", CMYK: "CMYK", CIELAB: "CIE L*a*b*", ICCLAB: "ICC L*a*b*",
    ITULAB: "ITU L*a*b*", 32803: "a colour filter array", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw",
}  # fmt: skip
CONVERTIBLE = (PALETTE, CMYK, YCBCR, CIELAB, ICCLAB, ITULAB)
_SPACES = {WHITE_IS_ZERO: "GRAYSCALE", BLACK_IS_ZERO: "GRAYSCALE", RGB: "RGB", YCBCR: "YCBCR"}


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
    premultiplied: bool = True  # of a fourth sample, which is the opacity

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
        elif stored.compression == WEBP:
            pixels = _webp(data, stored)
        else:
            pixels = _plain(data, stored)
    except (RuntimeError, ValueError) as error:  # imagecodecs' errors are RuntimeErrors, simplejpeg's ValueErrors
        raise TileDamage(
            f"{NAMES[stored.compression]}: {str(error).splitlines()[0][:120] if str(error) else 'damaged'}"
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape[:2] != (stored.height, stored.width):
        size = f"{pixels.shape[1]}×{pixels.shape[0]}" if pixels.ndim >= 2 else "no"
        raise TileDamage(f"{size} pixels of {pixels.dtype}, not {stored.width}×{stored.height} of uint8")
    return _rgb(pixels, stored)


def subsampled_jpeg2000(data: bytes) -> bool:
    """Whether components of a JPEG 2000 tile have different sizes, which imagecodecs does not decode."""
    return any(step != 1 for step in jp2.inspect(data).steps)


def contradiction(data: bytes, stored: TileFormat) -> str:
    """What a tile says of its colours against the directory's tags, and how it is read; ``""`` if they agree.

    Raises
    ------
    ValueError
        The tile is damaged.
    """
    if stored.samples != 3:
        return ""
    if stored.compression == JPEG:
        said, tag = jpeg.inspect(data).colour, _SPACES[stored.photometric]
        if said and said != tag:
            shown = {"RGB": "RGB", "YCBCR": "YCbCr"}
            return f"the tag says {shown[tag]} and the JPEG tiles say {shown[said]}: they are read as {shown[said]}"
    elif stored.jpeg2000 and _stored_as_ycbcr(stored) and jp2.inspect(data).decodes_to_rgb:
        return "the tag says YCbCr and the JPEG 2000 tiles have their own transform from RGB: they are read as RGB"
    return ""


def _jpeg(data: bytes, stored: TileFormat) -> Pixels:
    stream = jpeg.inspect(data)
    _require_size(stream.width, stream.height, stored)
    _require_components(stream.components, stored)
    # The stream knows better than the tag, which writers that pass tiles through often leave as it was.
    return jpeg.decode(stream, stored.jpeg_tables, _SPACES[stored.photometric])


def _jpeg2000(data: bytes, stored: TileFormat) -> Pixels:
    stream = jp2.inspect(data)
    _require_size(stream.width, stream.height, stored)
    _require_components(len(stream.steps), stored)
    if any(step != 1 for step in stream.steps):
        raise ValueError("components of different sizes")
    pixels = np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1))
    ycbcr = _stored_as_ycbcr(stored) and not stream.decodes_to_rgb
    return _ycbcr_to_rgb(pixels) if ycbcr and pixels.ndim == 3 else pixels


def _stored_as_ycbcr(stored: TileFormat) -> bool:
    """By the vendor's own compression, else by the tag."""
    return stored.compression == APERIO_YCBCR or (stored.compression == JPEG2000 and stored.photometric == YCBCR)


def _webp(data: bytes, stored: TileFormat) -> Pixels:
    _require_size(*_webp_size(data), stored)
    pixels = np.asarray(imagecodecs.webp_decode(data))
    return pixels[:, :, : stored.samples] if pixels.ndim == 3 else pixels


def _webp_size(data: bytes) -> tuple[int, int]:
    """From the first chunk: VP8X (extended), VP8L (lossless) or VP8 (RFC 9649)."""
    kind, head = data[12:16], data[20:30]
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(head) < 10:
        raise ValueError("no WebP image")
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _require_size(width: int, height: int, stored: TileFormat) -> None:
    if (width, height) != (stored.width, stored.height):
        raise ValueError(f"a tile of {width}×{height}, not {stored.width}×{stored.height}")


def _require_components(components: int, stored: TileFormat) -> None:
    if components != stored.samples:
        raise ValueError(f"{components} components, not {stored.samples}")


def _plain(data: bytes, stored: TileFormat) -> Pixels:
    length = stored.width * stored.height * stored.samples
    decoders = {
        LZW: imagecodecs.lzw_decode,
        DEFLATE: imagecodecs.zlib_decode,
        DEFLATE_OLD: imagecodecs.zlib_decode,
        PACKBITS: imagecodecs.packbits_decode,
        ZSTD: imagecodecs.zstd_decode,
    }
    content = data if stored.compression == NONE else decoders[stored.compression](data, out=length)
    if len(content) < length:
        raise ValueError(f"{len(content)} bytes of pixels, not {length}")
    pixels = np.frombuffer(content, dtype=np.uint8, count=length).reshape(
        stored.height, stored.width, stored.samples
    )
    predicted = stored.predictor == 2 and stored.compression in _PREDICTED
    return np.cumsum(pixels, axis=1, dtype=np.uint8) if predicted else pixels


def _rgb(pixels: Pixels, stored: TileFormat) -> Pixels:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] != stored.samples:
        raise TileDamage(f"{pixels.shape[2]} components, not {stored.samples}")
    if stored.photometric == WHITE_IS_ZERO:
        pixels = 255 - pixels
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return _over_white(pixels, stored) if pixels.shape[2] == 4 else np.ascontiguousarray(pixels)


def _over_white(pixels: Pixels, stored: TileFormat) -> Pixels:
    """RGB and opacity over a white ground."""
    colours, alpha = pixels[:, :, :3], pixels[:, :, 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(colours)
    weight = alpha.astype(np.uint32)
    part = colours.astype(np.uint32) * (255 if stored.premultiplied else weight)
    return np.minimum((part + 255 * (255 - weight) + 127) // 255, 255).astype(np.uint8)


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
