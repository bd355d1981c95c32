"""Reading speed: direct decoding against OpenSlide and tiffslide, same slide, windows and threads, in one run.

    python benchmarks/read.py [SLIDE] [--size 1024] [--windows 49] [--threads 1 2] [--downsample 1 2]

Without a slide, an Aperio SVS with 240² JPEG tiles is written to a temporary folder. Windows are those of a
run: cores row by row, each with a halo, unaligned to the stored tiles. At a downsample of 2, half the level's
resolution, the others read level 0 and Pillow averages its pixels, as there is no such level. Both we and
OpenSlide cache decoded tiles, at most in 64 MiB or a quarter of the slide, which a first round fills; then all take
turns, and the best of the rounds counts. OpenSlide's pixels are taken as they come (RGBA), one handle a thread.
tiffslide is compared where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from wsiseg.core.geometry import Scale, Window
from wsiseg.slide import open_slide
from wsiseg.slide.cache import SHARED
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


def windows(path: Path, size: int, count: int, scale: Scale) -> list[Window]:
    """The first ``count`` windows of the lattice: cores of ``size`` and a halo, clipped to the slide."""
    with open_slide(path) as slide:
        width, height = slide.lattice(scale).whole
    whole = Window(0, 0, width, height)
    grid = [(x, y) for y in range(0, height, size) for x in range(0, width, size)]
    return [Window(x, y, size, size).pad(HALO).intersection(whole) for x, y in grid[:count]]


class Handles:
    """Another library's handles, one a thread; ``read`` gives the lattice pixels of a window."""

    def __init__(self, opened: Callable[[], Any], scale: Scale) -> None:
        self._opened, self._factor, self._local = opened, round(scale.downsample), threading.local()

    def read(self, window: Window) -> Pixels:
        if not hasattr(self._local, "handle"):
            self._local.handle = self._opened()
        f = self._factor
        image = self._local.handle.read_region(
            (window.x * f, window.y * f), 0, (window.width * f, window.height * f)
        )
        return np.asarray(image if f == 1 else image.reduce(f))[:, :, :3]


def openslide_handles(path: Path, scale: Scale) -> Handles:
    """With one cache of the same size as the direct reader's."""
    cache = openslide.OpenSlideCache(SHARED.capacity)

    def opened() -> openslide.OpenSlide:
        handle = openslide.OpenSlide(path)
        handle.set_cache(cache)
        return handle

    return Handles(opened, scale)


def tiffslide_handles(path: Path, scale: Scale) -> Handles:
    from tiffslide import TiffSlide

    return Handles(lambda: TiffSlide(path), scale)


def throughput(read: Callable[[Window], Pixels], todo: list[Window], threads: int) -> float:
    """Mpixel/s of the lattice in one round."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(read, todo))
        return sum(window.area for window in todo) / (time.perf_counter() - start) / 1e6


def measure(path: Path, options: argparse.Namespace, downsample: int) -> list[dict[str, float]]:
    """One row for each number of threads."""
    scale = Scale(float(downsample))
    with open_slide(path) as slide:
        if slide.reader != "tiff":
            raise SystemExit(f"{path}: is read by {slide.reader}; expected a slide that is decoded directly")
        # A slide that fits into the cache would be read from it alone.
        SHARED.capacity = min(SHARED.capacity, 3 * slide.width * slide.height // 4)
        todo = windows(path, options.size, options.windows, scale)
        ways: dict[str, Callable[[Window], Pixels]] = {
            "direct": lambda window: slide.read_lossy(window, scale)[0],
            "openslide": openslide_handles(path, scale).read,
        }
        if importlib.util.find_spec("tiffslide"):
            ways["tiffslide"] = tiffslide_handles(path, scale).read
        for window in todo[:4]:
            if not same_pixels(ways["direct"](window), ways["openslide"](window)):
                raise SystemExit(f"{path}: the readers disagree in {window}")
        return [row(ways, todo, number, options.rounds) | {"downsample": downsample} for number in options.threads]


def same_pixels(one: Pixels, other: Pixels) -> bool:
    """Equal but for how a mean is rounded."""
    return bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1)


def row(
    ways: dict[str, Callable[[Window], Pixels]], todo: list[Window], threads: int, rounds: int
) -> dict[str, float]:
    """The best speed of each; the first round fills the caches."""
    speeds = [{name: throughput(read, todo, threads) for name, read in ways.items()} for _ in range(rounds + 1)]
    return {"threads": threads} | {name: max(speed[name] for speed in speeds[1:]) for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("slide", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=1024, help="side of a core in pixels")
    parser.add_argument("--windows", type=int, default=49)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--downsample", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=8192, help="of the synthetic slide in pixels")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.slide or synthetic(Path(folder), options.side)
        rows = [row for downsample in options.downsample for row in measure(path, options, downsample)]
    if options.json:
        json.dump({"slide": path.name, "size_px": options.size, "mpixel_per_s": rows}, sys.stdout, indent=1)
        print()
        return
    print(f"{path.name}, cores of {options.size}² px; Mpixel/s, best of {options.rounds} rounds")
    for one in rows:
        others = [name for name in ("openslide", "tiffslide") if name in one]
        compared = ", ".join(f"{name} {one[name]:.1f} ({one['direct'] / one[name]:.2f} times)" for name in others)
        print(f"downsample {one['downsample']}, {one['threads']} threads: direct {one['direct']:.1f}, {compared}")


if __name__ == "__main__":
    main()
