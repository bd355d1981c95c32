"""Memory of every process and time of a tile, on a small and on a sixteen times larger slide.

    python benchmarks/scaling.py                      synthetic slides of 10k² and 40k² pixels at 0.25 mpp
    python benchmarks/scaling.py --sides 5000 20000 --model classical
    python benchmarks/scaling.py --stubs 1000 100000  tiles that cost nothing: what a driver takes of each

Each slide is segmented by `wsiseg segment` in processes of its own; a watcher samples the memory that each process
holds alone (USS: shared library pages counted for none) and keeps the peak of the driver, of the scheduler that
lives in it, and of each worker. Time of a tile: seconds of all tile stages by the number of tiles. Of stub tiles,
which are a slide's stage with nothing to do, the driver's own processor time is the steadier measure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from wsiseg.models.registry import DEFAULT_MODEL
from wsiseg.results.partfile import BatchSummary
from wsiseg.run.cluster import ClusterOptions, open_executor
from wsiseg.run.schedule import Stage, Steps, run_stages
from wsiseg.testing import write_slide


def peak_memory(command: list[str]) -> tuple[float, list[float]]:
    """Peak MiB of the main process, and of its children in falling order."""
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks: dict[int, float] = {}
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in family:
            try:
                held = member.memory_full_info().uss / 2**20
            except psutil.Error:
                continue
            peaks[member.pid] = max(peaks.get(member.pid, 0.0), held)
        time.sleep(0.2)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    main = peaks.pop(process.pid)
    return main, sorted(peaks.values(), reverse=True)


def run(side: int, model: str, workers: int, folder: Path) -> dict[str, Any]:
    slide = folder / f"slide{side}.svs"
    if not slide.exists():
        write_slide(slide, width=side, height=side, layout="dense")
    out = folder / f"out{side}"
    command = [sys.executable, "-m", "wsiseg_cli", "segment", str(slide), "-o", str(out), "-m", model]
    started = time.perf_counter()
    driver, children = peak_memory([*command, "-w", str(workers), "--dashboard-address", "127.0.0.1:0"])
    seconds = time.perf_counter() - started
    record = json.loads((out / slide.stem / "slide.json").read_text())
    tiles = record["tiles"]["done"]
    return {
        "side": side,
        "tiles": tiles,
        "nuclei": record["nuclei"],
        "seconds": seconds,
        "driver_mib": driver,
        "workers_mib": children[:workers],
        "tile_s": sum(record["timings_s"]["segment_by_activity"].values()) / tiles,
        "wall_s_per_tile": seconds / tiles,
    }


def stub_tile(tile: int) -> BatchSummary:
    """What a tile of 300 nuclei leaves for the driver."""
    seconds = {"read": 0.1, "infer": 1.0, "measure": 0.1, "write": 0.01}
    return BatchSummary((tile,), 300, seconds=seconds, peak_bytes=1 << 30)


def run_stubs(tiles: int, workers: int) -> dict[str, float]:
    """Wall and driver's processor time of a tile, ms, and MiB that the driver holds alone before and after."""

    def steps() -> Steps:
        yield Stage("segment-batch", stub_tile, range(tiles), on_result=lambda tile, summary: None)

    me = psutil.Process()
    with open_executor(ClusterOptions(workers=workers, device="cpu", dashboard="127.0.0.1:0")) as executor:
        list(executor.map_bounded(stub_tile, range(4 * workers), "segment-batch"))
        before, started, spent = me.memory_full_info().uss, time.perf_counter(), time.process_time()
        list(run_stages(executor, [steps()]))
        wall, spent = time.perf_counter() - started, time.process_time() - spent
        after = me.memory_full_info().uss
    return {
        "tiles": tiles,
        "wall_ms": 1e3 * wall / tiles,
        "driver_ms": 1e3 * spent / tiles,
        "before_mib": before / 2**20,
        "after_mib": after / 2**20,
    }


def compare_stubs(counts: list[int], workers: int, as_json: bool) -> None:
    rows = [run_stubs(count, workers) for count in counts]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for r in rows:
        print(
            f"{r['tiles']:.0f} stub tiles: {r['wall_ms']:.2f} ms of wall and {r['driver_ms']:.2f} ms of the "
            f"driver's processor a tile; driver {r['before_mib']:.0f} → {r['after_mib']:.0f} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs=2, default=(10_000, 40_000))
    parser.add_argument("--stubs", type=int, nargs="+", help="so many tiles that cost nothing, instead of slides")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps slides and results here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.stubs:
        compare_stubs(options.stubs, options.workers, options.json)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        small, large = (run(side, options.model, options.workers, folder) for side in options.sides)
    ratios = {
        "driver": large["driver_mib"] / small["driver_mib"],
        "worker": max(large["workers_mib"]) / max(small["workers_mib"]),
        "tile_time": large["tile_s"] / small["tile_s"],
    }
    if options.json:
        print(json.dumps({"small": small, "large": large, "ratios": ratios}, indent=1))
        return
    for r in (small, large):
        workers = ", ".join(f"{held:.0f}" for held in r["workers_mib"])
        print(
            f"{r['side']}²: {r['tiles']} tiles, {r['nuclei']} nuclei, {r['seconds']:.0f} s; peak MiB driver "
            f"{r['driver_mib']:.0f}, workers {workers}; {r['tile_s']:.2f} s a tile"
        )
    print("large over small: " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))


if __name__ == "__main__":
    main()
