"""A plain image as a slide of one level: PNG, JPEG, WebP, BMP and TIFF of rare pixels, read by Pillow.

The image is decoded when it is opened and held in memory, once, as Pillow has it; windows are converted as they are
read. So its size is limited, and what is larger belongs into a pyramid.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from wsiseg.core.geometry import Box, Window
from wsiseg.errors import ReadError, SlideError, shown
from wsiseg.slide.types import WHITE, Description, Level, Pixels, Told, Unread

MAX_PIXELS = 100_000_000  # 400 MB as Pillow holds them
_SMALL_PIXELS = 1 << 24  # whatever they hold
_LEAST_BITS = 1 / 16  # a pixel; a blank JPEG has twice as much, tissue twenty times
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

_GREY = ("1", "L", "LA")
_MODES = (*_GREY, "RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")


def sniff(head: bytes) -> str:
    """The format by Pillow's name from a file's first bytes; ``""`` if it is no image for this reader."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _FORMATS.items() if head.startswith(magic)), "")


class ImageReader:
    """A :class:`wsiseg.slide.types.Reader` over one decoded image.

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
        self._image, frames = _decode(path, kind, told.page if told else 0)
        width, height = self._image.size
        self.description = Description(
            reader="image",
            vendor="",
            levels=(Level(width, height, 1.0, min(width, _TILE), min(height, _TILE)),),
            mpp=told.mpp if told else None,
            mpp_problem=told.problem if told else "",
            bounds=Box(0.0, 0.0, float(width), float(height)),
            properties={"image.format": kind},
            notes=(told.notes if told else ()) + _notes(self._image, frames),
        )

    @property
    def held_bytes(self) -> int:
        """Of the decoded image."""
        return self._image.width * self._image.height * (1 if self._image.mode in ("1", "L", "P") else 4)

    def read_level(self, level: int, window: Window) -> tuple[Pixels, tuple[Unread, ...]]:
        return _to_rgb(self._image.crop((window.x, window.y, window.x1, window.y1))), ()

    def associated_image(self, name: str) -> Pixels:
        raise ReadError(f"a plain image has no associated image {name!r}")

    def close(self) -> None:
        """Nothing stays open; the pixels go with the reader."""


def _decode(path: Path, kind: str, page: int) -> tuple[Image.Image, int]:
    """The frame ``page``, decoded, and the number of frames; of TIFF, whose pages others tell of, none is told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that the limit below allows
            with Image.open(path, formats=[kind]) as image:
                image.seek(page)
                _refuse_bomb(path, kind, image.width, image.height)
                if not (image.mode in _MODES or image.mode.startswith("I;16")):
                    raise _not_rgb(path, kind, image.mode)
                frames = 1 if kind == "TIFF" else getattr(image, "n_frames", 1)
                image.load()
                return image, frames
    except Image.DecompressionBombError as error:
        raise _too_large(path, kind, "too many pixels") from error
    except (SlideError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise what they like for damaged files
        reason = (str(error).splitlines() or ["damaged"])[0][:200]
        raise SlideError(
            f"{shown(path)}: is a {kind} image that cannot be decoded: {reason}.\n"
            "Expected: an intact image. Copy it again and compare its size with the original's."
        ) from error


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*WHITE, 255))
        canvas.alpha_composite(layer)
        return np.array(canvas.convert("RGB"))
    if image.mode.startswith("I;16"):
        # 65535 is white: 16 bits are taken at full scale, never stretched to what an image happens to hold.
        grey = np.asarray(image).astype(np.uint32)
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _notes(image: Image.Image, frames: int) -> tuple[str, ...]:
    notes = []
    if image.mode in _GREY:
        notes.append("a grey image: it is read as bright-field without colour")
    elif image.mode.startswith("I;16"):
        notes.append("a 16-bit grey image: it is read as bright-field without colour, with 65535 as white")
    elif image.mode in ("CMYK", "YCbCr"):
        notes.append(f"{image.mode} colours, converted to RGB without a colour profile")
    if frames > 1:
        notes.append(f"{frames} frames, of which the first is read")
    return tuple(notes)


def _refuse_bomb(path: Path, kind: str, width: int, height: int) -> None:
    pixels, stored = width * height, path.stat().st_size
    if pixels > MAX_PIXELS:
        raise _too_large(path, kind, f"{width} × {height} pixels")
    if pixels > _SMALL_PIXELS and 8 * stored < _LEAST_BITS * pixels:
        raise SlideError(
            f"{shown(path)}: is a {kind} image of {width} × {height} pixels in a file of {stored} bytes: it holds "
            "next to nothing.\n"
            f"Expected: a picture of tissue, at least {_LEAST_BITS:g} bits a pixel.\nGive the part with tissue."
        )


def _not_rgb(path: Path, kind: str, mode: str) -> SlideError:
    return SlideError(
        f"{shown(path)}: is a {kind} image of mode {mode}.\n"
        "Expected: a bright-field picture: 8-bit grey, RGB or RGBA, or 16-bit grey.\nConvert it to 8-bit RGB."
    )


def _too_large(path: Path, kind: str, size: str) -> SlideError:
    return SlideError(
        f"{shown(path)}: is a {kind} image of {size} in a file of {path.stat().st_size} bytes.\n"
        f"Expected: at most {MAX_PIXELS:,} pixels in a plain image, which is decoded whole.\n"
        "Convert it to a tiled pyramid, for example with: vips tiffsave IN OUT.tif --tile --pyramid"
    )
