"""A QuIP archive imported up to ``nuclei.parquet``: seconds by stage, nuclei a second, peak memory.

    python benchmarks/importing.py [--nuclei 1000000] [--json]

Discs of 24 corners on a slide of one colour whose side grows with their number, in a ``.tar.gz`` of tables of 4000²
pixels, cut at their edges' lines as often as chance has it. Making them is not timed; one process does all.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from wsiseg.core.geometry import Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.interop.importing import (
    ImportJob,
    ImportOptions,
    SortJob,
    join_outlines,
    measure_jobs,
    measure_outlines,
    plan_import,
    sort_outlines,
)
from wsiseg.interop.pairing import find_segmentations
from wsiseg.interop.quip import HEADER, ORIGIN_PX, TILE_PX
from wsiseg.interop.text import content, joined, ring_texts
from wsiseg.results.folder import SlideFolder
from wsiseg.results.job import WorkJob
from wsiseg.testing import write_svs

SPACING = 50.0  # level-0 pixels of 0.25 µm: 6,400 nuclei in a tile of 4000²
CORNERS = 24


def write_archive(path: Path, side: int) -> int:
    """Tables of a slide of ``side`` pixels; how many nuclei they hold."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    total, rng = 0, np.random.default_rng(0)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for y in range(ORIGIN_PX, side, TILE_PX):
            for x in range(ORIGIN_PX, side, TILE_PX):
                width, height = min(TILE_PX, side - x), min(TILE_PX, side - y)
                place = np.stack(np.meshgrid(np.arange(width // SPACING), np.arange(height // SPACING)), axis=-1)
                centre = (x, y) + (place.reshape(-1, 2) + rng.uniform(0.0, 1.0, (place.size // 2, 2))) * SPACING
                radius = rng.uniform(8, 14, (len(centre), CORNERS, 1))
                ring = np.clip(centre[:, None] + radius * circle, (x, y), (x + width, y + height))
                nuclei = Nuclei(ring.reshape(-1, 2), np.arange(len(centre) + 1) * CORNERS)
                rows = joined("0,0,[", ring_texts(nuclei.vertices, nuclei.offsets, 1, (":", ":")), "]\n")
                table = HEADER + bytes(content(rows))
                info = tarfile.TarInfo(f"p/s.svs/{x}_{y}_{width}_{height}_0.25_1-features.csv")
                info.size, info.mtime = len(table), 1_600_000_000
                archive.addfile(info, io.BytesIO(table))
                total += len(nuclei)
    return total


def pixels(window: Window) -> np.ndarray:
    return np.full((window.height, window.width, 3), (190, 120, 180), dtype=np.uint8)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--nuclei", type=int, default=1_000_000)
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = arguments.parse_args()
    side = int(np.sqrt(options.nuclei) * SPACING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = folder / "s.svs"
        write_svs(slide, pixels, (side, side), key=lambda window: (window.width, window.height))
        total = write_archive(folder / "s.svs.tar.gz", side)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = [time.perf_counter()]
        (segmentation,) = find_segmentations([folder / "s.svs.tar.gz"])
        planned = plan_import(ImportJob(SlideFolder(folder, "s"), slide, segmentation, ImportOptions()))
        assert planned.plan is not None
        times.append(time.perf_counter())
        found = sort_outlines(SortJob(planned.work, segmentation))
        times.append(time.perf_counter())
        sorted_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for job in measure_jobs(planned.work, planned.plan, found, set()):
            measure_outlines(job)
        times.append(time.perf_counter())
        stitched = join_outlines(WorkJob(planned.work))
        times.append(time.perf_counter())
        result = {
            "nuclei": stitched.nuclei,
            "expected": total,
            "tiles": len(found.tiles),
            "archive_mb": round((folder / "s.svs.tar.gz").stat().st_size / 1e6, 1),
            "straight_edge_ratio": stitched.seams.straight_edge_ratio,
            **dict(zip(("plan_s", "sort_s", "measure_s", "join_s"), np.diff(times).round(2).tolist(), strict=True)),
            "nuclei_per_s": round(total / (times[-1] - times[0])),
            "peak_rss_before_mb": round(before / 1024),
            "peak_rss_sorted_mb": round(sorted_peak / 1024),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
    if options.json:
        json.dump(result, sys.stdout)
        print()
    else:
        print("\n".join(f"{name:>20}  {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
