"""Reading speed: direct decoding against OpenSlide on the same slide, windows and threads, in one run.

    python benchmarks/read.py [SLIDE] [--size 1024] [--windows 60] [--threads 1 2] [--json]

Without a slide, an Aperio SVS with 240² JPEG tiles is written to a temporary folder. Windows are those of a
run: cores row by row, each with a halo, unaligned to the stored tiles. Both sides cache decoded tiles, at
most in 64 MiB or a quarter of the slide, which a first round fills; then both take turns, and the best of the
rounds counts. OpenSlide's pixels are taken as they come (RGBA), one handle a thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide

from wsiseg.core.geometry import Window
from wsiseg.slide import open_slide
from wsiseg.slide.cache import SHARED
from wsiseg.slide.readers.tiff.reader import TiffReader
from wsiseg.slide.types import Pixels
from wsiseg.testing import write_svs

HALO = 96


def synthetic(folder: Path, side: int) -> Path:
    """An SVS of textured tiles in the colours of H&E, 4:2:0 at quality 70, about one byte in eight pixels."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(256, 256, 3))
    smooth = sum(np.roll(noise, (i, j), (0, 1)) for i in range(6) for j in range(6)) / 6
    block = np.clip(np.array([190, 140, 180]) + 30 * smooth, 0, 255).astype(np.uint8)
    tiled = np.tile(block, (-(-side // 256), -(-side // 256), 1))[:side, :side]
    return write_svs(folder / "synthetic.svs", tiled, quality=70, subsampling="420", levels=(1, 4))


def windows(path: Path, size: int, count: int) -> list[Window]:
    """The first ``count`` windows of level 0: cores of ``size`` and a halo, clipped to the slide."""
    with open_slide(path) as slide:
        level = slide.levels[0]
    whole = Window(0, 0, level.width, level.height)
    grid = [(x, y) for y in range(0, level.height, size) for x in range(0, level.width, size)]
    return [Window(x, y, size, size).pad(HALO).intersection(whole) for x, y in grid[:count]]


class OpenSlideHandles:
    """One handle a thread, with one cache of the same size as the direct reader's."""

    def __init__(self, path: Path) -> None:
        self._path, self._local = path, threading.local()
        self._cache = openslide.OpenSlideCache(SHARED.capacity)

    def read(self, window: Window) -> Pixels:
        if not hasattr(self._local, "handle"):
            self._local.handle = openslide.OpenSlide(self._path)
            self._local.handle.set_cache(self._cache)
        return np.asarray(self._local.handle.read_region((window.x, window.y), 0, (window.width, window.height)))


def throughput(read: Callable[[Window], Pixels], todo: list[Window], threads: int) -> float:
    """Mpixel/s of one round."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(read, todo))
        return sum(window.area for window in todo) / (time.perf_counter() - start) / 1e6


def measure(path: Path, size: int, count: int, threads: list[int], rounds: int) -> list[dict[str, float]]:
    """One row for each number of threads."""
    with open_slide(path) as slide:
        vendor, kind, pixels = slide.vendor, slide.reader, slide.width * slide.height
    if kind != "tiff":
        raise SystemExit(f"{path}: is read by {kind}; expected a slide that is decoded directly")
    # A slide that fits into the cache would be read from it alone.
    SHARED.capacity = min(SHARED.capacity, 3 * pixels // 4)
    todo = windows(path, size, count)
    reader, handles = TiffReader(path, vendor), OpenSlideHandles(path)

    def direct(window: Window) -> Pixels:
        return reader.read_level(0, window)[0]

    for window in todo[:4]:
        if not np.array_equal(direct(window), handles.read(window)[:, :, :3]):
            raise SystemExit(f"{path}: the readers disagree in {window}")
    rows = []
    for number in threads:
        speeds = [
            (throughput(direct, todo, number), throughput(handles.read, todo, number)) for _ in range(rounds + 1)
        ]
        best = [max(speed) for speed in zip(*speeds[1:], strict=True)]
        rows.append({"threads": number, "direct": best[0], "openslide": best[1], "ratio": best[0] / best[1]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("slide", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=1024, help="side of a core in pixels")
    parser.add_argument("--windows", type=int, default=49)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=8192, help="of the synthetic slide in pixels")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.slide or synthetic(Path(folder), options.side)
        rows = measure(path, options.size, options.windows, options.threads, options.rounds)
    if options.json:
        json.dump({"slide": path.name, "size_px": options.size, "mpixel_per_s": rows}, sys.stdout, indent=1)
        print()
        return
    print(f"{path.name}, level 0, cores of {options.size}² px; Mpixel/s, best of {options.rounds} rounds")
    print(f"{'threads':>8}{'direct':>10}{'OpenSlide':>11}{'ratio':>8}")
    for row in rows:
        print(f"{row['threads']:>8}{row['direct']:>10.1f}{row['openslide']:>11.1f}{row['ratio']:>8.2f}")


if __name__ == "__main__":
    main()
