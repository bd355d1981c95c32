"""OpenSlide in a process that may die: what it says, and what becomes of files that kill it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import psutil
import pytest
import tifffile

from wsiseg.core.geometry import Scale, Window
from wsiseg.errors import ReadError, SlideError
from wsiseg.slide import open_slide
from wsiseg.slide.readers.openslide import guard
from wsiseg.testing import write_svs

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)


@pytest.fixture
def svs(tmp_path: Path) -> Path:
    return write_svs(tmp_path / "slide.svs", PIXELS, tile=128, levels=(1, 4))


def patch_tag(path: Path, page: int, code: int, value: int) -> None:
    """Change a tag of one number of a classic TIFF."""
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[page].tags[code].offset
    with open(path, "r+b") as file:
        file.seek(offset + 2)
        file.write(struct.pack("<HII", 4, 1, value))


def sandboxes(owner: int | None = None) -> list[psutil.Process]:
    return [child for child in psutil.Process(owner).children() if "sandbox.py" in " ".join(child.cmdline())]


def stopped(process: psutil.Process) -> bool:
    gone, _ = psutil.wait_procs([process], timeout=30)
    return bool(gone)


def metadata_equal(path: Path) -> None:
    slide = open_slide(path)
    with openslide.OpenSlide(path) as reference:
        ours = {name: value for name, value in slide.properties.items() if not name.startswith("icc.")}
        assert ours == dict(reference.properties)
        assert slide.associated == tuple(sorted(reference.associated_images))
        for name in slide.associated:
            expected = np.asarray(reference.associated_images[name].convert("RGB"))
            np.testing.assert_array_equal(slide.associated_image(name), expected)


def test_properties_and_associated_images_are_openslides(svs: Path) -> None:
    metadata_equal(svs)
    assert set(open_slide(svs).associated) == {"label", "macro", "thumbnail"}


@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs", "small.svs", "boxes_0.dcm"]
)
def test_real_slides_too(real_data: Callable[[str], Path], name: str) -> None:
    metadata_equal(real_data(f"slides/{name}"))


def test_a_file_that_kills_openslide_is_refused_and_the_next_one_opens(svs: Path, tmp_path: Path) -> None:
    good = shutil.copy(svs, tmp_path / "good.svs")
    # Tiles of no height: OpenSlide 4.0 divides by it, in the level that we would read as well as in the others.
    patch_tag(svs, 0, 323, 0)
    with pytest.raises(SlideError, match=r"OpenSlide crashes on it \(SIGFPE\)|tiles of 128 × 0") as caught:
        open_slide(svs)
    assert len(str(caught.value).splitlines()) <= 3
    pixels = open_slide(good).read_window(Window(0, 0, 64, 64), Scale(1.0))
    assert pixels.shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashes on it \\(SIGSEGV\\)"),
        ("bytearray(40 << 30)", "more than 2 GiB of memory"),
        ("[None for _ in iter(int, 1)]", "more than 5 s of processor time"),
    ],
)
def test_every_way_to_die_is_told(
    svs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    program = tmp_path / "sandbox.py"
    program.write_text(
        guard._PROGRAM.read_text()
        .replace("SECONDS_CPU = 5", "SECONDS_CPU = 1")
        .replace("    path, task = request", f"    {how}\n    path, task = request")
    )
    monkeypatch.setattr(guard, "_PROGRAM", program)
    monkeypatch.setattr(guard, "_sandbox", guard._Sandbox())
    with pytest.raises(guard.Refused, match=said):
        guard.describe(svs)
    guard._sandbox._stop()


def test_a_sandbox_that_was_killed_is_replaced(svs: Path) -> None:
    guard.describe(svs)
    [process] = sandboxes()
    process.kill()
    os.utime(svs, (1, 1))
    assert guard.describe(svs)["sizes"] == [[400, 300], [100, 75]]
    [other] = sandboxes()
    assert other.pid != process.pid


def test_many_threads_share_one(svs: Path, tmp_path: Path) -> None:
    paths = [shutil.copy(svs, tmp_path / f"{i}.svs") for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: guard.describe(Path(path)), paths))
    assert all(each["properties"]["openslide.vendor"] == "aperio" for each in found)
    assert len(sandboxes()) == 1


FORKS = """
import json, sys
from multiprocessing import get_context
from pathlib import Path
import psutil
from wsiseg.slide.readers.openslide import guard

def sizes(path):
    found = guard.describe(Path(path))["sizes"]
    return found, sum("sandbox.py" in " ".join(child.cmdline()) for child in psutil.Process().children())

guard.describe(Path(sys.argv[1]))
with get_context("fork").Pool(2) as pool:
    found = pool.map(sizes, sys.argv[2:])
print(json.dumps([found, guard.describe(Path(sys.argv[2]))["sizes"]]))
"""


def test_a_fork_has_its_own(svs: Path, tmp_path: Path) -> None:
    """A forked process must not write into the pipe of the one that it was forked from.

    In a process of its own: a fork of the test run that failed would go on as a second test run.
    """
    paths = [shutil.copy(svs, tmp_path / f"{i}.svs") for i in range(8)]
    done = subprocess.run([sys.executable, "-c", FORKS, svs, *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    sizes = [[400, 300], [100, 75]]
    assert json.loads(done.stdout) == [[[sizes, 1]] * 8, sizes]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, None])
def test_nothing_outlives_its_owner(svs: Path, end: signal.Signals | None) -> None:
    script = f"from wsiseg.slide import open_slide; open_slide({str(svs)!r}); print('open', flush=True); input()"
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"open\n"
    [child] = sandboxes(owner.pid)
    if end is None:
        owner.communicate(b"\n", timeout=30)
    else:
        owner.send_signal(end)
        owner.communicate(timeout=30)
    assert stopped(child)


def test_an_interrupt_does_not_leave_an_answer_for_the_next_question(
    svs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_svs(tmp_path / "other.svs", PIXELS[:200, :200], tile=128, levels=(1,))
    exactly = guard._exactly

    def interrupted(process: subprocess.Popen[bytes], length: int) -> bytearray:
        monkeypatch.setattr(guard, "_exactly", exactly)
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(guard, "_exactly", interrupted)
    with pytest.raises(KeyboardInterrupt):
        guard.describe(svs)
    assert guard.describe(other)["sizes"] == [[200, 200]]


def test_an_associated_image_that_claims_too_much_is_not_read(svs: Path) -> None:
    with tifffile.TiffFile(svs) as tiff:
        label = next(i for i, page in enumerate(tiff.pages) if "label" in page.description)
    for code in (256, 257, 278):
        patch_tag(svs, label, code, 100_000)
    with pytest.raises(ReadError, match="label image cannot be read"):
        open_slide(svs).associated_image("label")
