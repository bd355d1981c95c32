"""What the colours of a TIFF are: the stream and the vendor decide, the tag where they leave it open."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsiseg.core.geometry import Scale, Window
from wsiseg.errors import SlideError
from wsiseg.slide import open_slide
from wsiseg.slide.readers import jpeg
from wsiseg.slide.readers.tiff import codec, jp2
from wsiseg.slide.readers.tiff.codec import TileDamage, TileFormat

RGB, YCBCR = 2, 6


def picture(side: int = 128, seed: int = 0) -> np.ndarray:
    """Smooth colours, so that smaller chroma costs little."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 64 + 2, side // 64 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def write(
    path: Path, tiles: list[bytes], tag: int, compression: int | str, side: int = 128, **options: Any
) -> Path:
    """Square tiles of 64 pixels that come encoded; the tag is set afterwards, since the writer knows better."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(tiles), shape=(side, side, 3), dtype=np.uint8, tile=(64, 64), compression=compression,
            photometric="rgb", metadata=None, **options,
        )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(tag)
    return path


def tiles_of(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for y in range(0, len(pixels), 64):
        for x in range(0, len(pixels), 64):
            yield np.ascontiguousarray(pixels[y : y + 64, x : x + 64])


def whole(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_window(Window(0, 0, slide.width, slide.height), Scale(1.0))


def notes(path: Path) -> str:
    with open_slide(path) as slide:
        return " ".join(slide.notes)


def near(path: Path, expected: np.ndarray) -> bool:
    return bool(np.abs(whole(path).astype(int) - expected).mean() < 4)


# --- JPEG ------------------------------------------------------------------------------------------------------


def jfif(tile: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def without_marker(data: bytes, marker: int) -> bytes:
    at = data.index(bytes([0xFF, marker]))
    return data[:at] + data[at + 2 + struct.unpack_from(">H", data, at + 2)[0] :]


def with_adobe(data: bytes, transform: int) -> bytes:
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([transform]) + data[2:]


def coded(tile: np.ndarray, stored: str, subsampling: str = "444", ids: bytes = b"") -> bytes:
    """A JPEG stream without any marker of its colours."""
    data = bytes(
        imagecodecs.jpeg8_encode(tile, level=95, colorspace="RGB", outcolorspace=stored, subsampling=subsampling)
    )
    for marker in (0xE0, 0xEE):
        if bytes([0xFF, marker]) in data[:40]:
            data = without_marker(data, marker)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    changed = bytearray(data)
    for n, name in enumerate(ids or b"\1\2\3"):
        changed[frame + 10 + 3 * n] = name
        changed[scan + 5 + 2 * n] = name
    return bytes(changed)


@pytest.mark.parametrize("tag", [RGB, YCBCR])
@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize(
    ("kind", "decided"),
    [
        ("jfif 4:2:0", "YCBCR"), ("jfif 4:4:4", "YCBCR"), ("adobe 0", "RGB"), ("adobe 1", "YCBCR"),
        ("subsampled", "YCBCR"), ("named", "RGB"), ("nothing", ""),
    ],
)  # fmt: skip
def test_the_jpeg_stream_decides(tmp_path: Path, kind: str, decided: str, tag: int, tables: bool) -> None:
    pixels, tagged = picture(), "RGB" if tag == RGB else "YCBCR"
    encode = {
        "jfif 4:2:0": lambda tile: jfif(tile, subsampling=2),
        "jfif 4:4:4": lambda tile: jfif(tile, subsampling=0),
        "adobe 0": lambda tile: with_adobe(coded(tile, "RGB"), 0),
        "adobe 1": lambda tile: with_adobe(coded(tile, "YCBCR"), 1),
        "subsampled": lambda tile: coded(tile, "YCBCR", "422"),
        "named": lambda tile: coded(tile, "RGB", ids=b"RGB"),
        "nothing": lambda tile: coded(tile, tagged),
    }[kind]
    streams = [encode(tile) for tile in tiles_of(pixels)]
    assert {jpeg.inspect(stream).colour for stream in streams} == {decided}
    options = {}
    if tables:  # they say nothing of colours, whatever they hold
        at = streams[0].index(b"\xff\xdb")
        options = {"jpegtables": streams[0][:at] + b"\xff\xd9"}
    path = write(tmp_path / "a.tif", streams, tag, "jpeg", **options)
    assert near(path, pixels)
    contradicted = decided not in ("", tagged)
    assert ("the tag says" in notes(path)) == contradicted
    if not contradicted:
        with openslide.OpenSlide(path) as handle:
            expected = np.asarray(handle.read_region((0, 0), 0, (128, 128)))[:, :, :3]
        np.testing.assert_array_equal(whole(path), expected)


def test_a_damaged_first_tile_does_not_decide(tmp_path: Path) -> None:
    streams = [jfif(tile, subsampling=2) for tile in tiles_of(picture())]
    path = write(tmp_path / "a.tif", [b"\xff\xd8" + bytes(40), *streams[1:]], RGB, "jpeg")
    slide = open_slide(path)
    assert "the tag says" in " ".join(slide.notes)
    read = slide.read_window(Window(64, 64, 64, 64), Scale(1.0))
    assert np.abs(read.astype(int) - picture()[64:, 64:]).mean() < 4


def test_a_second_frame_in_a_jpeg_is_refused() -> None:
    data = jfif(picture(64))
    at = data.index(b"\xff\xc0")
    segment = data[at : at + 2 + struct.unpack_from(">H", data, at + 2)[0]]
    huge = segment[:5] + struct.pack(">HH", 65000, 65000) + segment[9:]
    for first, second in ((huge, segment), (segment, huge)):
        with pytest.raises(ValueError, match="damaged header"):
            jpeg.inspect(data[:at] + first + second + data[at + len(segment) :])


# --- JPEG 2000 -------------------------------------------------------------------------------------------------


def ycbcr(tile: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(tile).convert("YCbCr"))


@pytest.mark.parametrize("tag", [RGB, YCBCR])
@pytest.mark.parametrize("compression", [33003, 33005, 34712])
@pytest.mark.parametrize("container", ["J2K", "JP2", "sYCC"])
@pytest.mark.parametrize("transform", [True, False])
def test_the_jpeg_2000_stream_decides(
    tmp_path: Path, tag: int, compression: int, container: str, transform: bool
) -> None:
    if container == "sYCC" and transform:
        pytest.skip("a stream with two transforms")
    pixels = picture()
    as_ycbcr = not transform and (
        container == "sYCC" or compression == 33003 or (compression == 34712 and tag == YCBCR)
    )
    streams = []
    for tile in tiles_of(pixels):
        data = bytearray(
            imagecodecs.jpeg2k_encode(
                ycbcr(tile) if as_ycbcr else tile, reversible=True, mct=transform, codecformat=container[:3].upper()
                if container != "sYCC" else "JP2",
            )
        )  # fmt: skip
        if container == "sYCC":
            struct.pack_into(">I", data, data.index(b"colr") + 7, 18)
        streams.append(bytes(data))
    path = write(tmp_path / "a.tif", streams, tag, compression)
    assert open_slide(path).reader == "tiff"
    assert near(path, pixels)
    assert ("their own transform" in notes(path)) == (
        (transform or container == "sYCC") and (compression == 33003 or (compression == 34712 and tag == YCBCR))
    )


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def with_size(code: bytes, side: int) -> bytes:
    changed = bytearray(code)
    struct.pack_into(">8I", changed, code.index(b"\xff\x51") + 6, side, side, 0, 0, side, side, 0, 0)
    return bytes(changed)


def test_the_size_of_the_stream_that_will_be_decoded() -> None:
    """A decoy in another box, a header that contradicts, and a stream that is only found by looking for it."""
    code = bytes(imagecodecs.jpeg2k_encode(np.zeros((64, 64, 3), np.uint8), codecformat="J2K"))
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    decoy = box(b"uuid", bytes(16) + code[:60])

    def header(side: int) -> bytes:
        ihdr = box(b"ihdr", struct.pack(">IIHBBBB", side, side, 3, 7, 7, 0, 0))
        return box(b"jp2h", ihdr + box(b"colr", b"\1\0\0" + struct.pack(">I", 16)))

    assert (jp2.inspect(start + decoy + header(64) + box(b"jp2c", code)).width) == 64
    assert jp2.inspect(start + decoy + header(60000) + box(b"jp2c", with_size(code, 60000))).width == 60000
    for damaged, said in (
        (start + decoy + header(64) + box(b"jp2c", with_size(code, 60000)), "two sizes"),
        (start + header(64) + box(b"jp2c", b"\0" * 100), "no JPEG 2000"),
        (start + box(b"jp2c", code), "without image header"),
        (b"\0" * 40 + code, "no JPEG 2000"),
        (start + box(b"jp2h", b"\0\0\0\xffihdr"), "damaged JP2 box"),
        (code[:30], "damaged JPEG 2000 header"),
    ):
        with pytest.raises(ValueError, match=said):
            jp2.inspect(damaged)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TileDamage, match="60000×60000"):
        codec.decode(
            start + decoy + header(60000) + box(b"jp2c", with_size(code, 60000)), TileFormat(33005, 2, 3, 64, 64)
        )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_what_a_stream_may_claim() -> None:
    code = bytes(imagecodecs.jpeg2k_encode(np.zeros((64, 64, 3), np.uint8), codecformat="J2K"))
    size, coding = code.index(b"\xff\x51"), code.index(b"\xff\x52")

    def changed(at: int, form: str, *values: int) -> bytes:
        other = bytearray(code)
        struct.pack_into(form, other, at, *values)
        return bytes(other)

    assert jp2.inspect(code).decodes_to_rgb
    for damaged, said in (
        (changed(size + 22, ">II", 1, 1), "4096 tiles"),
        (changed(size + 22, ">II", 0, 0), "damaged JPEG 2000 size"),
        (changed(size + 40, ">B", 15), "not of 8 bits"),
        (changed(coding + 6, ">H", 65535), "65535 layers"),
        (changed(coding + 9, ">B", 60), "60 decompositions"),
        (changed(size + 38, ">H", 99), "99 components"),
    ):
        with pytest.raises(ValueError, match=said):
            jp2.inspect(damaged)
    # In the header of a tile part as well, behind the main one.
    part = code.index(b"\xff\x90")
    segment = bytearray(code[coding : coding + 14])
    struct.pack_into(">H", segment, 6, 65535)
    with pytest.raises(ValueError, match="65535 layers"):
        jp2.inspect(code[: part + 12] + bytes(segment) + code[part + 12 :])


# --- everything else -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["webp", "packbits", "zstd", "lzw", "deflate", None])
@pytest.mark.parametrize("tiled", [True, False])
def test_other_compressions(tmp_path: Path, compression: str | None, tiled: bool) -> None:
    path = tmp_path / "a.tif"
    predictor = compression in ("zstd", "lzw", "deflate")
    tifffile.imwrite(
        path, picture(), photometric="rgb", metadata=None, compression=compression, predictor=predictor,
        compressionargs={"lossless": True} if compression == "webp" else {},
        **({"tile": (64, 64)} if tiled else {"rowsperstrip": 32}),
    )  # fmt: skip
    np.testing.assert_array_equal(whole(path), picture())


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_tile_of_another_size(lossless: bool) -> None:
    stored = TileFormat(codec.WEBP, 2, 3, 64, 64)
    good = bytes(imagecodecs.webp_encode(picture(64), lossless=lossless, level=90))
    assert codec.decode(good, stored).shape == (64, 64, 3)
    with pytest.raises(TileDamage, match="128×128"):
        codec.decode(bytes(imagecodecs.webp_encode(picture(), lossless=lossless)), stored)
    with pytest.raises(TileDamage, match="no WebP"):
        codec.decode(b"RIFF", stored)


@pytest.mark.parametrize("compression", [codec.LZW, codec.DEFLATE, codec.ZSTD, codec.PACKBITS])
def test_a_tile_that_unpacks_to_more_than_a_tile(compression: int) -> None:
    zeros = bytes(1 << 24)
    packed = {
        codec.LZW: lambda: imagecodecs.lzw_encode(np.arange(1 << 20).astype(np.uint8).tobytes()),
        codec.DEFLATE: lambda: imagecodecs.zlib_encode(zeros),
        codec.ZSTD: lambda: imagecodecs.zstd_encode(zeros),
        codec.PACKBITS: lambda: b"\x81\0" * (1 << 17),  # runs of 128
    }[compression]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(TileDamage):
        assert codec.decode(bytes(packed), TileFormat(compression, 2, 3, 64, 64)).shape == (64, 64, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10


@pytest.mark.parametrize("compression", ["jpeg", "lzw", None])
def test_white_is_zero(tmp_path: Path, compression: str | None) -> None:
    grey = picture()[:, :, 0]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey, photometric="miniswhite", metadata=None, compression=compression, tile=(64, 64))
    assert np.abs(whole(path)[:, :, 1].astype(int) - (255 - grey.astype(int))).mean() < 2
    assert "grey" in notes(path)


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_transparency_is_white(tmp_path: Path, kind: str, tiled: bool) -> None:
    colours, alpha = picture(), np.full((128, 128), 255, np.uint8)
    alpha[:, :40], alpha[:, 40:80] = 0, 128
    weight = alpha[:, :, None] / 255
    stored = colours if kind == "unassalpha" else np.round(colours * weight).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.dstack([stored, alpha]), photometric="rgb", extrasamples=[kind], metadata=None,
        **({"tile": (64, 64)} if tiled else {"rowsperstrip": 32}),
    )  # fmt: skip
    assert open_slide(path).reader == "tiff"
    np.testing.assert_allclose(whole(path), colours * weight + 255 * (1 - weight), atol=1.01)


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        (259, 34934, "JPEG XR"), (259, 34887, "LERC"), (259, 34661, "JBIG"), (259, 50002, "JPEG XL"),
        (259, 6, "old-style JPEG"), (259, 61234, "unknown"), (262, 8, r"CIE L\*a\*b\*"), (262, 5, "CMYK"),
        (262, 6, "YCbCr"), (262, 77, "interpretation 77"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(tmp_path: Path, tag: int, value: int, said: str) -> None:
    """First of three pages, so that no other program takes the same one for the slide."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(picture(64), photometric="rgb", tile=(32, 32), metadata=None)
        tiff.write(picture(), photometric="rgb", tile=(64, 64), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[1].tags[tag].overwrite(value)
    with pytest.raises(SlideError, match=f"is a TIFF with .*{said}.*\n.*\n.*vips tiffsave"):
        open_slide(path)


def test_an_icc_profile_is_kept_and_not_applied(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", tile=(64, 64), metadata=None, iccprofile=profile)
    slide = open_slide(path)
    assert slide.description.icc_profile == profile
    assert slide.properties["icc.size"] == str(len(profile))
    assert "sRGB" in slide.properties["icc.description"]
    np.testing.assert_array_equal(whole(path), picture())
