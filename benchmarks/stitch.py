"""A million nuclei stitched and written: seconds, nuclei a second, peak memory.

    python benchmarks/stitch.py [--nuclei 1000000] [--tile 2048] [--json]

Tiles of 2048 lattice pixels with a halo of 96 and a band of 16 hand over discs with the noise of two predictions of
the same nucleus; the parts lie on disk as a run leaves them. Making them is not timed. First they are only
stitched, then stitched and written as a run does it: a row of tiles at a time, what the next row needs in a file.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wsiseg.core.geometry import Scale
from wsiseg.core.grid import TileGrid
from wsiseg.core.nuclei import Nuclei
from wsiseg.results.nuclei import ATTRIBUTES, read_nuclei
from wsiseg.results.nucleiwriter import Grown, NucleiFormat, Stretch, complete
from wsiseg.results.partfile import read_part, write_part
from wsiseg.results.record import Seams
from wsiseg.stitch.saved import Saved, load, save
from wsiseg.stitch.stream import Stitching, stitch, stitch_rows
from wsiseg.tiles.candidates import select_candidates

SPACING = 34.0  # dense tissue: about 3,600 nuclei in a tile of 2048² pixels at 0.5 µm
CORNERS = 30
SCALE = Scale(2.0)


def make_parts(folder: Path, grid: TileGrid, band_px: float) -> tuple[list[Path], list[tuple[int, int]]]:
    """One part a tile, each nucleus with noise that depends on the tile that saw it."""
    paths, ranges = [], []
    for tile in range(len(grid)):
        read = grid.read(tile)
        # The lattice of places is the slide's: two tiles that read a place draw the same nucleus there.
        i0, j0 = max(0, int(read.y // SPACING)), max(0, int(read.x // SPACING))
        i1, j1 = int(min(read.y1, grid.height) // SPACING), int(min(read.x1, grid.width) // SPACING)
        i, j = (index.ravel() for index in np.meshgrid(np.arange(i0, i1), np.arange(j0, j1), indexing="ij"))
        shift = np.stack([np.sin(12.9898 * i + 78.233 * j), np.cos(39.346 * i + 11.135 * j)], axis=1)
        centre = (np.stack([j, i], axis=1) + 0.5 + 0.2 * shift) * SPACING
        rng = np.random.default_rng([1, tile])
        angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
        radius = 8 + 3 * shift[:, :1] + rng.normal(0, 0.4, (len(i), CORNERS))
        ring = centre[:, None] + radius[:, :, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        columns = {name: rng.random(len(i)).astype(np.float32) for name in ATTRIBUTES}
        nuclei = Nuclei(np.round(ring).reshape(-1, 2), np.arange(len(i) + 1) * CORNERS, columns)
        paths.append(folder / f"{tile:08d}.arrow")
        ranges.append((tile, tile))
        write_part(paths[-1], select_candidates(nuclei, grid, tile, band_px).scale(SCALE), {})
    return paths, ranges


def stitch_by_rows(
    paths: list[Path], ranges: list[tuple[int, int]], grid: TileGrid, band_px: float, folder: Path
) -> tuple[Grown, Seams]:
    """As the tasks of a run, one after the other; what is written, and the audit."""
    declared, state = NucleiFormat({"downsample": SCALE.downsample}, ATTRIBUTES), folder / "stitching.npz"
    save(state, Saved(Stitching.begin(grid, SCALE, band_px), Grown.nothing(declared)))
    for row in range(grid.rows):
        saved, last = load(state, grid, SCALE, band_px), (row + 1) * grid.columns
        first, stretch = saved.stitching.parts, Stretch(declared, saved.grown)
        stitching = stitch_rows(
            saved.stitching,
            lambda part, first=first: read_part(paths[first + part]),  # type: ignore[misc]
            ranges[first:last],
            last if last < len(grid) else None,
            stretch.write,
        )
        save(state, Saved(stitching, stretch.append(folder / "nuclei.parquet"), row + 1))
    saved = load(state, grid, SCALE, band_px)
    complete(folder / "nuclei.parquet", declared, saved.grown)
    return saved.grown, saved.stitching.tally.audit()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--nuclei", type=int, default=1_000_000)
    arguments.add_argument("--tile", type=int, default=2048)
    arguments.add_argument("--band", type=float, default=16.0)
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = arguments.parse_args()
    side = int(np.ceil(np.sqrt(options.nuclei))) * int(SPACING)
    grid = TileGrid(side, side, options.tile, 96)
    with tempfile.TemporaryDirectory() as folder:
        paths, ranges = make_parts(Path(folder), grid, options.band)
        # Compile before the clock starts.
        stitch(lambda _: read_part(paths[0]), ranges[:1], grid, SCALE, len, band_px=options.band)
        target = Path(folder) / "nuclei.parquet"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, start_cpu = time.perf_counter(), time.process_time()
        stitch(lambda part: read_part(paths[part]), ranges, grid, SCALE, lambda _: None, band_px=options.band)
        stitched, stitched_cpu = time.perf_counter(), time.process_time()
        grown, audit = stitch_by_rows(paths, ranges, grid, options.band, Path(folder))
        done, done_cpu = time.perf_counter(), time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read_nuclei(target)
        result = {
            "nuclei": grown.written.count,
            "expected": (side // int(SPACING)) ** 2,
            "tiles": len(grid),
            "band_nuclei": audit.band_nuclei,
            "duplicates_removed": audit.duplicates_removed,
            "adopted": audit.adopted,
            "stitch_s": round(stitched - start, 2),
            "stitch_and_write_s": round(done - stitched, 2),
            "stitch_cpu_s": round(stitched_cpu - start_cpu, 2),
            "stitch_and_write_cpu_s": round(done_cpu - stitched_cpu, 2),
            "nuclei_per_s": round(grown.written.count / (done - stitched)),
            "read_s": round(time.perf_counter() - done, 2),
            "file_mb": round(target.stat().st_size / 1e6, 1),
            "peak_rss_mb": round(peak / 1024),
            "peak_rss_before_mb": round(before / 1024),
        }
    if options.json:
        json.dump(result, sys.stdout)
        print()
    else:
        print("\n".join(f"{name:>20}  {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
