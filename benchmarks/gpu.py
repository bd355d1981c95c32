"""A GPU against the processors of its machine: a drawn slide, end to end and stage by stage, in one run.

    python benchmarks/gpu.py                           32,768² at 0.25 mpp, unet-0.5 and unet-0.25
    python benchmarks/gpu.py --processes 4 8 16        also with so many processes that share the device
    python benchmarks/gpu.py --side 4096 --device cpu  where no device is at hand: the same code on the processor

Cold: the whole command in a new process, once the compiled functions are in their cache. Warm: a run on processes
that have segmented a slide before. One tile: its way step by step, each step waited for; medians of --repeat.
Utilisation is what the driver says, as a mean over the run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsiseg.core.geometry import Scale, Window
from wsiseg.models.decoders.offsets_torch import decode_offsets_on_device, label_runs
from wsiseg.models.resident import resident_segmenter
from wsiseg.run.cluster import ClusterOptions, open_executor
from wsiseg.run.events import Event, StageStarted
from wsiseg.run.pipeline import segment_slides
from wsiseg.run.schedule import Executor
from wsiseg.slide import Slide, open_slide
from wsiseg.testing import write_slide
from wsiseg.tiles.measure import measure
from wsiseg.tiles.request import SegmentOptions

_SAMPLE_MS = 100
_TILE_PX = 2272
"""A tile of 2048 with its halo."""
_SMALL = 4096
"""Side of the slide that warms the processes up."""


@contextmanager
def utilisation() -> Iterator[list[tuple[float, float]]]:
    """Percent of the time in which the first device computed, and its memory in MiB, as the driver samples them."""
    samples: list[tuple[float, float]] = []
    if shutil.which("nvidia-smi") is None:
        yield samples
        return
    query = ["nvidia-smi", "-i", "0", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    watcher = subprocess.Popen([*query, "-lms", str(_SAMPLE_MS)], stdout=subprocess.PIPE, text=True)

    def read() -> None:
        for line in watcher.stdout or ():
            busy, used = line.split(",")
            samples.append((float(busy), float(used)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield samples
    finally:
        watcher.kill()
        watcher.wait()
        reader.join()


def row(
    name: str, model: str, seconds: float, record: dict[str, Any], busy: list[tuple[float, float]]
) -> dict[str, Any]:
    """What is told of a run by its record and the driver's samples."""
    grid, found = record["performance"], record["slide"]
    area = found["width"] * found["height"] * (found["mpp"] / record["specification"]["mpp_effective"]) ** 2 / 1e6
    return {
        "run": name,
        "model": model,
        "seconds": seconds,
        "mpx_s": area / seconds,
        "nuclei": record["nuclei"],
        "bound": grid["bound"],
        "tiles_s": grid["tiles_s"],
        "end_s": grid["end_s"],
        "peak_mib": grid["peak_mib"],
        "busy": statistics.fmean(sample[0] for sample in busy) / 100 if busy else None,
        "device_mib": max(sample[1] for sample in busy) if busy else None,
        "timings_s": record["timings_s"],
    }


def cold_run(slide: Path, out: Path, model: str, device: str) -> dict[str, Any]:
    """The whole command, in a process of its own."""
    words = ["segment", str(slide), "-o", str(out), "--model", model, "--device", device, "--json"]
    with utilisation() as busy:
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "wsiseg_cli", *words], stdout=subprocess.PIPE, check=True)
        seconds = time.perf_counter() - started
    return row(f"command, cold, {device}", model, seconds, json.loads(done.stdout)["slides"][0], busy)


def warm_run(slide: Path, out: Path, model: str, executor: Executor, stages: bool) -> dict[str, Any]:
    """A run on processes that are there."""
    begun: list[tuple[float, str]] = []

    def hear(event: Event) -> None:
        if isinstance(event, StageStarted):
            begun.append((time.perf_counter() - started, event.stage))

    with utilisation() as busy:
        started = time.perf_counter()
        result = segment_slides([slide], out, SegmentOptions(model), executor, hear)
        seconds = time.perf_counter() - started
    if stages:
        print(*(f"  {at:6.2f} s  {stage} begins" for at, stage in begun), sep="\n", flush=True)
    (record,) = result.records
    name = f"warm, {executor.slots} processes, {executor.device}"
    return row(name, model, seconds, json.loads(json.dumps(record.to_dict())), busy)


def tile_way(slide_path: Path, model: str, device: str, side: int, repeat: int) -> dict[str, float]:
    """Milliseconds of each step of one tile's way; a device is waited for after each."""
    segmenter: Any = resident_segmenter(SegmentOptions(model).choice(device, 1))
    spent: dict[str, list[float]] = {}
    with open_slide(slide_path) as slide:
        scale = slide.scale(segmenter.mpp)
        width, height = slide.lattice(scale).whole
        side = min(side, width, height) // segmenter.stride_px * segmenter.stride_px
        window = Window((width - side) // 2, (height - side) // 2, side, side)
        for _ in range(repeat + 1):
            go_tiles_way(slide, window, scale, segmenter, device, spent)
    first = {"network, first time": spent["upload, network"][0]}
    return {**{name: statistics.median(values[1:]) for name, values in spent.items()}, **first}


def go_tiles_way(
    slide: Slide, window: Window, scale: Scale, segmenter: Any, device: str, spent: dict[str, list[float]]
) -> None:
    """One tile from its pixels to its measured nuclei; milliseconds of each step are appended to ``spent``."""
    import torch

    def timed(name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = step()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.setdefault(name, []).append((time.perf_counter() - started) * 1000)
        return found

    decoder = segmenter.decoder
    image, _ = timed("read", lambda: slide.read_lossy(window, scale))
    foreground, offsets = timed("upload, network", lambda: segmenter.engine.run_on_device([image])[0])
    labels, scores = timed("decoding", lambda: decode_offsets_on_device(foreground, offsets, decoder))
    runs = timed("runs of labels to the host", lambda: label_runs(labels))
    nuclei = timed("outlines", lambda: decoder.nuclei(runs, scores.cpu().numpy()))
    timed("measuring", lambda: measure(nuclei, image, slide.lattice(scale).mpp))
    if device == "cuda":
        pinned = torch.from_numpy(image).pin_memory()
        timed("upload alone", lambda: pinned.to(device, non_blocking=True))


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"\n{'run':34} {'model':10} {'s':>7} {'Mpx/s':>7} {'tiles s':>8} {'end s':>6} {'bound':>8} {'busy':>5} "
        f"{'device MiB':>10} {'peak MiB':>8} {'nuclei':>8}"
    )
    for r in rows:
        busy = "–" if r["busy"] is None else f"{r['busy']:.0%}"
        device = "–" if r["device_mib"] is None else f"{r['device_mib']:.0f}"
        print(
            f"{r['run']:34} {r['model']:10} {r['seconds']:7.1f} {r['mpx_s']:7.1f} {r['tiles_s']:8.1f} "
            f"{r['end_s']:6.1f} {r['bound']:>8} {busy:>5} {device:>10} {r['peak_mib']:8.0f} {r['nuclei']:8}"
        )
        parts = ", ".join(f"{name} {value:.1f}" for name, value in flat(r["timings_s"]) if value >= 0.05)
        print(f"    seconds of all processes: {parts}", flush=True)


def flat(timings: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in timings.items():
        if isinstance(value, dict):
            yield from value.items()
        elif name not in ("segment", "total"):
            yield name, value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="instead of a drawn one")
    parser.add_argument("--side", type=int, default=32768, help="of the drawn slide (32768)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--models", nargs="+", default=["unet-0.5", "unet-0.25"])
    parser.add_argument("--rounds", type=int, default=2, help="warm runs of the first model (2)")
    parser.add_argument("--processes", nargs="*", type=int, default=[], help="numbers of processes to compare")
    parser.add_argument("--repeat", type=int, default=5, help="of the tile (5)")
    parser.add_argument("--no-cold", action="store_true", help="leave the command's own run out")
    parser.add_argument("--no-processors", action="store_true", help="leave the run without the device out")
    parser.add_argument("--stages", action="store_true", help="tell when each stage of a warm run begins")
    parser.add_argument("--out", type=Path, help="write all figures there as JSON")
    return parser.parse_args()


def warm_rows(
    options: argparse.Namespace, device: str, workers: int | None, models: dict[str, int], slide: Path, folder: Path
) -> list[dict[str, Any]]:
    """Runs of each model, as many as ``models`` says, on one set of processes."""
    rows = []
    settings = ClusterOptions(workers=workers, device=device, dashboard="127.0.0.1:0")
    with open_executor(settings) as executor:
        for model, rounds in models.items():
            for number in range(-1, rounds):
                out = folder / f"{device}-{workers}-{model}-{number}"
                if number < 0:
                    segment_slides([folder / "small.svs"], out, SegmentOptions(model, 512), executor)
                else:
                    rows.append(warm_run(slide, out, model, executor, options.stages))
                shutil.rmtree(out)
    return rows


def main() -> None:
    options = parse()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        slide = options.slide or folder / "slide.svs"
        write_slide(folder / "small.svs", width=_SMALL, height=_SMALL, layout="dense", seed=1)
        if options.slide is None:
            write_slide(slide, width=options.side, height=options.side, layout="dense", seed=0)
        started = time.perf_counter()
        cold_run(folder / "small.svs", folder / "first", options.models[0], "cpu")
        print(f"functions compiled, first slide done in {time.perf_counter() - started:.1f} s", flush=True)
        if not options.no_cold:
            rows += [cold_run(slide, folder / f"cold-{m}", m, options.device) for m in options.models]
            show(rows)
        wanted = dict.fromkeys(options.models, 1) | {options.models[0]: options.rounds}
        rows += warm_rows(options, options.device, None, wanted, slide, folder)
        for count in options.processes:
            rows += warm_rows(options, options.device, count, {options.models[0]: 1}, slide, folder)
        if options.device != "cpu" and not options.no_processors:
            rows += warm_rows(options, "cpu", None, {options.models[0]: 1}, slide, folder)
        ways = {model: tile_way(slide, model, options.device, _TILE_PX, options.repeat) for model in options.models}
    print(f"{os.cpu_count()} cores, {device_name(options.device)}")
    show(rows)
    for model, way in ways.items():
        print(f"\none tile of {model}, ms: " + ", ".join(f"{name} {value:.1f}" for name, value in way.items()))
    if options.out:
        options.out.write_text(json.dumps({"runs": rows, "tile_ms": ways}, indent=1))


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(0) if device == "cuda" else f"no device, torch {torch.__version__}"


if __name__ == "__main__":
    main()
