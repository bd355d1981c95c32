"""A plain image as a slide of one level: PNG, JPEG, WebP, BMP and TIFF of rare pixels, read by Pillow.

The image is decoded when it is opened and held in memory, so its size is limited; what is larger belongs into a
pyramid.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from wsiseg.errors import ReadError, SlideError
from wsiseg.geometry import Box, Window
from wsiseg.slide.base import WHITE, Description, Level, Pixels, Unread
from wsiseg.slide.tiff import Told

MAX_PIXELS = 100_000_000
_TILE = 1024  # of the lazy views; the image itself has none
_FORMATS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}


def sniff(head: bytes) -> str:
    """The format by Pillow's name from a file's first bytes; ``""`` if it is no image for this reader."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _FORMATS.items() if head.startswith(magic)), "")


class ImageReader:
    """A :class:`wsiseg.slide.base.Reader` over one decoded image.

    Parameters
    ----------
    path : Path
    kind : str
        As :func:`sniff` names it.
    told : Told, optional
        What the directories of a TIFF say: which page is the slide, and its scale.

    Raises
    ------
    SlideError
        Too large, damaged, or of pixels that are no picture.
    """

    def __init__(self, path: Path, kind: str, told: Told | None = None) -> None:
        self._pixels = _decode(path, kind, told.page if told else 0)
        height, width = self._pixels.shape[:2]
        self.description = Description(
            reader="image",
            vendor="",
            levels=(Level(width, height, 1.0, min(width, _TILE), min(height, _TILE)),),
            mpp=told.mpp if told else None,
            mpp_problem=told.problem if told else "",
            bounds=Box(0.0, 0.0, float(width), float(height)),
            properties={"image.format": kind},
            notes=told.notes if told else (),
        )

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        return self._pixels[window.y : window.y1, window.x : window.x1].copy(), ()

    def associated_image(self, name: str) -> Pixels:
        raise ReadError(f"a plain image has no associated image {name!r}")

    def close(self) -> None:
        """Nothing stays open; the pixels go with the reader."""


def _decode(path: Path, kind: str, page: int) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that the limit below allows
            with Image.open(path, formats=[kind]) as image:
                image.seek(page)
                if image.width * image.height > MAX_PIXELS:
                    raise _too_large(path, kind, image.width, image.height)
                return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise _too_large(path, kind) from error
    except _NotRgb as error:
        raise SlideError(
            f"{path}: is a {kind} image of {error}.\n"
            "Expected: a bright-field picture: 8-bit grey, RGB or RGBA, or 16-bit grey.\nConvert it to 8-bit RGB."
        ) from error
    # Pillow's decoders raise what they like for damaged files.
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, AttributeError, EOFError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:200]
        raise SlideError(
            f"{path}: is a {kind} image that cannot be decoded: {reason}.\n"
            "Expected: an intact image. Copy it again and compare its size with the original's."
        ) from error


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*WHITE, 255))
        canvas.alpha_composite(layer)
        return np.asarray(canvas.convert("RGB")).copy()
    if image.mode.startswith("I;16"):
        # 65535 is white: 16 bits are taken at full scale, never stretched to what an image happens to hold.
        grey = np.asarray(image).astype(np.uint32)
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr"):
        return np.asarray(image.convert("RGB")).copy()
    raise _NotRgb(f"mode {image.mode}")


class _NotRgb(Exception):
    pass


def _too_large(path: Path, kind: str, width: int = 0, height: int = 0) -> SlideError:
    size = f"{width} × {height} pixels" if width else "too many pixels"
    return SlideError(
        f"{path}: is a {kind} image of {size} in a file of {path.stat().st_size} bytes.\n"
        f"Expected: at most {MAX_PIXELS:,} pixels in a plain image, which is decoded whole.\n"
        "Convert it to a tiled pyramid, for example with: vips tiffsave IN OUT.tif --tile --pyramid"
    )
