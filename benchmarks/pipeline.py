"""End-to-end speed of `wsiseg segment` against the network alone, on the same cores, in one run.

    python benchmarks/pipeline.py                     a synthetic slide of 16,384² pixels at 0.25 mpp
    python benchmarks/pipeline.py --slide big.svs     a slide of yours
    python benchmarks/pipeline.py --count 4           a cohort: the end of a slide overlaps the next one's tiles
    python benchmarks/pipeline.py --rounds 3 --json

The ceiling: as many processes as the run has workers, each passing tiles of the run's own size through the network
and doing nothing else, same precision, same malloc settings, same threads. The ratio counts the same tiles for
both, so halos and blank rims weigh the same; "slide Mpx/s" counts what the tiles own, once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from wsiseg.models.registry import DEFAULT_MODEL
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.run.cluster import ClusterOptions, open_executor
from wsiseg.run.pipeline import segment_slides
from wsiseg.run.schedule import Executor
from wsiseg.testing import write_slide
from wsiseg.tiles.request import SegmentOptions


def network_seconds(job: tuple[ModelChoice, int, int]) -> float:
    """Seconds of the network alone for some tiles of a side, in one worker."""
    import numpy as np

    choice, side, count = job
    segmenter: Any = resident_segmenter(choice)
    image = np.random.default_rng(0).integers(100, 255, (side, side, 3), dtype=np.uint8)
    segmenter.maps([image])
    started = time.perf_counter()
    for _ in range(count):
        segmenter.maps([image])
    return time.perf_counter() - started


def measure_network(executor: Executor, choice: ModelChoice, side: int, tiles: int) -> float:
    """Tiles a second of the network alone on all workers."""
    each = max(2, tiles // executor.slots)
    jobs = [(choice, side, each)] * executor.slots
    seconds = list(executor.map_bounded(network_seconds, jobs, "network-alone"))
    return each * len(jobs) / max(seconds)


def measure_round(slides: list[Path], out: Path, settings: SegmentOptions, executor: Executor) -> dict[str, Any]:
    """Segment the slides, then pass as many tiles as they have through the network alone."""
    result = segment_slides(slides, out, settings, executor)
    specification = result.records[0].specification
    tiles = sum(record.tiles.done for record in result.records)
    side = settings.tile + 2 * specification["halo_px"]
    choice = settings.choice(executor.device, executor.torch_threads)
    ceiling = measure_network(executor, choice, side, min(tiles, 8))
    owned = tiles * settings.tile**2 / 1e6
    return {
        "tiles": tiles,
        "seconds": result.seconds,
        "ratio": tiles / result.seconds / ceiling,
        "network_mpx_s": ceiling * side**2 / 1e6,
        "slide_mpx_s": owned / result.seconds,
        "level0_mpx_s": owned * specification["downsample"] ** 2 / result.seconds,
        "nuclei": sum(record.nuclei for record in result.records),
        "timings_s": [record.to_dict()["timings_s"] for record in result.records],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--side", type=int, default=16384, help="of the synthetic slides")
    parser.add_argument("--count", type=int, default=1, help="of synthetic slides")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        slides = [options.slide] if options.slide else []
        for seed in range(0 if slides else options.count):
            slides.append(Path(folder) / f"slide{seed}.svs")
            write_slide(slides[-1], width=options.side, height=options.side, layout="dense", seed=seed)
        with open_executor(ClusterOptions(workers=options.workers, dashboard="127.0.0.1:0")) as executor:
            settings = SegmentOptions(options.model, options.tile)
            rounds = [
                measure_round(slides, Path(folder) / f"out{number}", settings, executor)
                for number in range(options.rounds)
            ]
    names = ("ratio", "network_mpx_s", "slide_mpx_s")
    summary = {name: statistics.median(r[name] for r in rounds) for name in names}
    if options.json:
        print(json.dumps({"rounds": rounds, "median": summary}, indent=1))
        return
    for r in rounds:
        print(
            f"{r['tiles']} tiles, {r['nuclei']} nuclei in {r['seconds']:.1f} s: {r['slide_mpx_s']:.2f} Mpx/s of "
            f"the slide at the model's mpp ({r['level0_mpx_s']:.1f} at level 0); network alone "
            f"{r['network_mpx_s']:.2f} Mpx/s with halos; end to end is {r['ratio']:.2f} of it"
        )
    print(f"median ratio {summary['ratio']:.2f}")


if __name__ == "__main__":
    main()
