"""Files that must fail: with which error, in how many lines, how fast and in how little memory."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsiseg.core.geometry import Scale, Window
from wsiseg.errors import SlideError
from wsiseg.slide import open as opening
from wsiseg.slide import open_slide
from wsiseg.slide.held import Held
from wsiseg.slide.info import describe
from wsiseg.testing import truncate, write_svs
from wsiseg.testing.images import texture


@pytest.fixture
def svs(tmp_path: Path) -> Path:
    return write_svs(tmp_path / "slide.svs", texture(300, 400), tile=128, levels=(1, 4))


def refuse(path: Path, said: str) -> None:
    """Opening and reading ends in a SlideError of at most three lines that names the slide, after little work."""
    start = time.process_time()
    with pytest.raises(SlideError, match=said) as error:
        open_slide(path).read_window(Window(0, 0, 64, 64), Scale(1.0))
    assert time.process_time() - start < 5
    assert len(str(error.value).splitlines()) <= 3
    assert path.name[:20] in str(error.value) or not path.name.isprintable()


# --- A: the file -----------------------------------------------------------------------------------------------


def test_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    refuse(tmp_path / "a.svs", "is empty")


@pytest.mark.parametrize("content", [b"II*\0", b"MM\0*", b"II+\0", b"\xff\xd8\xff\xe0", b"\x89PNG", b"abcd"])
def test_four_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.svs").write_bytes(content)
    refuse(tmp_path / "a.svs", "Expected")


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_truncated(svs: Path, fraction: float) -> None:
    truncate(svs, fraction)
    refuse(svs, "truncated|beyond the end|the file ended|Copy")


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_truncated_images(tmp_path: Path, kind: str, fraction: float) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(texture(200, 200)).save(path)
    truncate(path, fraction)
    refuse(path, "cannot be decoded")


def test_html(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_text("<!DOCTYPE html><html>404</html>")
    refuse(tmp_path / "a.svs", "a web page")


def test_a_jpeg_named_svs_opens_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    Image.fromarray(texture(64, 64)).save(path, "JPEG")
    slide = open_slide(path)
    assert slide.reader == "image"
    assert any("plain JPEG" in note for note in describe(slide)["notes"])


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "x.svs").mkdir()
    refuse(tmp_path / "x.svs", "is a directory")


def test_nothing_there(tmp_path: Path) -> None:
    refuse(tmp_path / "a.svs", "does not exist")
    (tmp_path / "b.svs").symlink_to(tmp_path / "gone.svs")
    refuse(tmp_path / "b.svs", "link to")
    (tmp_path / "c.svs").symlink_to(tmp_path / "c.svs")
    refuse(tmp_path / "c.svs", "cannot be looked at")
    refuse(tmp_path / ("n" * 255 + "n.svs"), "cannot be looked at")


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.svs")
    refuse(tmp_path / "a.svs", "named pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(svs: Path) -> None:
    svs.chmod(0)
    refuse(svs, "may not be read")


@pytest.mark.parametrize(
    "name", ["with space.svs", "new\nline.svs", "<img onerror=1>.svs", "-x.svs", "é.svs", "😐.svs"]
)
def test_names(svs: Path, name: str) -> None:
    path = svs.rename(svs.with_name(name))
    assert open_slide(path).read_window(Window(0, 0, 64, 64), Scale(1.0)).shape == (64, 64, 3)
    truncate(path, 0.5)
    refuse(path, "Expected")


# --- B: the structure ------------------------------------------------------------------------------------------


def tags(path: Path, page: int = 0) -> dict[int, tuple[int, int]]:
    """Where the entries of a classic TIFF's directory are: code → (offset of the entry, of its value)."""
    with tifffile.TiffFile(path) as tiff:
        return {tag.code: (tag.offset, tag.valueoffset) for tag in tiff.pages[page].tags}


def patch(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_directories_that_loop(svs: Path) -> None:
    with tifffile.TiffFile(svs) as tiff:
        first = tiff.pages[0].offset
    content = svs.read_bytes()
    entries = struct.unpack_from("<H", content, first)[0]
    patch(svs, first + 2 + 12 * entries, struct.pack("<I", first))
    refuse(svs, "loop")


def test_no_directory(svs: Path) -> None:
    patch(svs, 4, struct.pack("<I", 0))
    refuse(svs, "without any image directory")


@pytest.mark.parametrize("tag", [256, 257, 322, 323])
def test_no_extent(svs: Path, tag: int) -> None:
    """The next level would do, at a wrong scale."""
    patch(svs, tags(svs)[tag][0] + 8, struct.pack("<I", 0))
    refuse(svs, "positive size")


def test_no_tile_offsets(svs: Path) -> None:
    patch(svs, tags(svs)[324][0], struct.pack("<H", 60000))
    refuse(svs, "0 tile offsets")


def test_an_offset_past_the_end(svs: Path) -> None:
    patch(svs, tags(svs)[324][1], struct.pack("<I", 0xFFFFFF00))
    refuse(svs, "beyond the end")


def test_an_unknown_compression(svs: Path) -> None:
    patch(svs, tags(svs)[259][0] + 8, struct.pack("<H", 52479))
    refuse(svs, "compression")


def test_a_million_squared_in_ten_kilobytes(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", texture(64, 64), tile=32, levels=(1,), associated=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for tag in (256, 257):
        entry = tags(path)[tag][0]
        patch(path, entry + 2, struct.pack("<HII", 4, 1, 1_000_000))
    refuse(path, "tile offsets for an image of 1000000 × 1000000")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10


def test_a_tile_that_claims_gigabytes(svs: Path) -> None:
    """The size inside the JPEG is compared with the directory's before anything is decoded."""
    with tifffile.TiffFile(svs) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    data = svs.read_bytes()[offset : offset + count]
    frame = data.index(b"\xff\xc0")
    patch(svs, offset + frame + 5, struct.pack(">HH", 65000, 65000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(svs, "65000×65000|the data end early")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10


def test_an_image_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (30_000, 30_000)).save(path)
    refuse(path, "vips")


@pytest.mark.parametrize(("kind", "bytes_a_pixel"), [("png", 0.01), ("webp", 0.01), ("bmp", 0)])
def test_a_picture_of_nothing(tmp_path: Path, kind: str, bytes_a_pixel: float) -> None:
    """25 million pixels in some kilobytes are refused before they are decoded; a smaller blank picture is not."""
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (5000, 5000), "white").save(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind == "bmp":  # stored whole, and then cut
        truncate(path, 0.001)
        refuse(path, "next to nothing")
    else:
        assert path.stat().st_size < bytes_a_pixel * 5000**2
        refuse(path, "5000 × 5000 pixels in a file of [0-9]+ bytes: it holds next to nothing")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
    Image.new("RGB", (4000, 4000), "white").save(path)
    assert open_slide(path).width == 4000


def test_a_plain_image_is_held_once(tmp_path: Path) -> None:
    """In a process of its own, whose peak is the decoded image and one window."""
    path = tmp_path / "a.bmp"
    Image.new("RGB", (9000, 7000), "pink").save(path)
    script = f"""
import resource
from wsiseg.core.geometry import Scale, Window
from wsiseg.slide import open_slide
from wsiseg.slide.readers.image import ImageReader
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
slide = open_slide({str(path)!r})
pixels = slide.read_window(Window(8000, 6000, 1500, 1500), Scale(1.0))
assert pixels[0, 0].tolist() == [255, 192, 203] and pixels[1400, 1400].tolist() == [255, 255, 255]
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert int(done.stdout) < 1.5 * 4 * 9000 * 7000 / 2**20


def test_shared_readers_hold_a_bounded_number_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(opening._HELD_OPEN, 3 * 4 * 100 * 100, opening._held_bytes)
    monkeypatch.setattr(opening, "_readers", held)
    slides = []
    for n in range(6):
        path = tmp_path / f"{n}.png"
        Image.fromarray(texture(100, 100, seed=n)).save(path)
        slides.append(pickle.loads(pickle.dumps(open_slide(path))))
    assert [Path(key[0]).stem for key in held._values] == ["3", "4", "5"]
    for n, slide in enumerate(slides):  # what went out of the shared ones is still read from
        read = slide.read_window(Window(0, 0, 100, 100), Scale(1.0))
        np.testing.assert_array_equal(read, texture(100, 100, seed=n))


def test_threads_share_a_plain_image(tmp_path: Path) -> None:
    pixels = texture(600, 700)
    Image.fromarray(pixels).convert("P").save(tmp_path / "a.png")
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    slide = open_slide(tmp_path / "a.png")
    windows = [Window(x, y, 100, 100) for y in range(0, 600, 100) for x in range(0, 700, 100)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda window: slide.read_window(window, Scale(1.0)), windows)
        for window, read in zip(windows, found, strict=True):
            np.testing.assert_array_equal(read, expected[window.y : window.y1, window.x : window.x1])


@pytest.mark.parametrize(
    ("mode", "note"), [("L", "a grey image"), ("1", "a grey image"), ("CMYK", "CMYK colours"), ("RGB", "")]
)
def test_what_is_unusual_of_a_plain_image_is_said(tmp_path: Path, mode: str, note: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(texture(50, 70)).convert(mode).save(path)
    notes = open_slide(path).notes
    assert len(notes) == bool(note)
    assert all(said.startswith(note) for said in notes)


def test_frames_are_counted(tmp_path: Path) -> None:
    frames = [Image.fromarray(texture(50, 70, seed=n)) for n in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    slide = open_slide(tmp_path / "a.webp")
    assert slide.notes == ("3 frames, of which the first is read",)
    np.testing.assert_array_equal(slide.read_window(Window(0, 0, 70, 50), Scale(1.0)), texture(50, 70))


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((256, 256, 3), "uint16", "16-bit"),
        ((256, 256, 5), "uint8", "5 channels"),
        ((256, 256), "float32", "32-bit"),
    ],
)
def test_pixels_that_are_not_brightfield(tmp_path: Path, shape: tuple[int, ...], dtype: str, said: str) -> None:
    path = tmp_path / "a.tif"
    photometric = "rgb" if shape[-1] == 3 else "minisblack"
    planar = {"planarconfig": "contig"} if len(shape) == 3 else {}
    tifffile.imwrite(path, np.zeros(shape, dtype), tile=(64, 64), photometric=photometric, **planar)
    refuse(path, said)


@pytest.mark.parametrize("name", ["broken.svs", "unopenable.tiff", "unreadable.svs"])
def test_broken_files_of_others(
    name: str, real_data: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    refuse(real_data(f"broken/{name}"), "Expected")
    assert capfd.readouterr().err == ""


def test_a_tile_of_another_page_that_is_too_large(svs: Path) -> None:
    """Found before a reader that knows no limits is asked for the label."""
    with tifffile.TiffFile(svs) as tiff:
        level = next(number for number, page in enumerate(tiff.pages) if number and page.is_tiled)
    patch(svs, tags(svs, level)[322][0] + 2, struct.pack("<HII", 4, 1, 1 << 27))
    refuse(svs, "134217728 × 128 pixels")


def test_a_width_that_is_no_integer(svs: Path) -> None:
    patch(svs, tags(svs)[256][0] + 2, struct.pack("<HIf", 11, 1, float("nan")))
    refuse(svs, "positive size")


def test_directories_that_share_one_huge_value(svs: Path) -> None:
    """Memory is bounded over the whole file, not for each value alone."""
    with tifffile.TiffFile(svs) as tiff:
        pages = len(tiff.pages)
    with open(svs, "ab") as file:
        file.truncate(1 << 28)
    for page in range(pages):
        patch(svs, tags(svs, page)[258][0], struct.pack("<HHII", 324, 16, 1 << 24, 8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(svs, "bytes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


# --- C: pixels of plain images ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "I;16"])
def test_image_modes(tmp_path: Path, mode: str) -> None:
    pixels = texture(50, 70)
    path = tmp_path / "a.png"
    if mode == "I;16":
        Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(path)
        expected = np.repeat(pixels[:, :, :1], 3, axis=2)
    else:
        image = Image.fromarray(pixels).convert(mode)
        image.save(path)
        expected = np.asarray(image.convert("RGB"))
    slide = open_slide(path, mpp=0.5)
    assert (slide.reader, len(slide.levels), slide.width, slide.height) == ("image", 1, 70, 50)
    np.testing.assert_array_equal(slide.read_window(Window(0, 0, 70, 50), Scale(1.0)), expected)


def test_transparency_becomes_white(tmp_path: Path) -> None:
    pixels = np.zeros((10, 10, 4), dtype=np.uint8)
    pixels[:5, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = open_slide(tmp_path / "a.png").read_window(Window(0, 0, 10, 10), Scale(1.0))
    assert (read[:5] == 0).all()
    assert (read[5:] == 255).all()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif"])
def test_image_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(texture(50, 70)).save(path)
    slide = open_slide(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(slide.read_window(Window(0, 0, 70, 50), Scale(1.0)), expected)
    assert slide.mpp is None


def test_a_disk_that_does_not_give_the_header_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a.svs").write_bytes(b"II*\0" + bytes(600))
    monkeypatch.setattr("wsiseg.slide.open.shell", refuse)
    with pytest.raises(SlideError, match=r"a\.svs: cannot be read: Input/output error"):
        open_slide(tmp_path / "a.svs")
