"""Networks × engines: megapixels a second, milliseconds, and the memory that a run adds.

    python benchmarks/networks.py [--names unet unet-stem2 …] [--engines torch openvino] [--precisions bf16 fp32]
                                  [--side 1088] [--repeat 3] [--threads N] [--device cpu] [--decode] [--json]

Fresh weights: speed does not depend on them, but what a decoder finds does, so only the network is timed. The
engines of a network take turns in one process, round after round, and the best of each counts: on a busy machine
compare the engines of one network. Memory is what the first run adds in a process of its own. Megapixels are those
of the maps.
``--decode`` times the shipped model with its decoder instead.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

# Names of the registry, and parameters worth a row of their own.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {}),
    "unet-stem2": ("unet", {"widths": [32, 64, 128, 256], "stem": 2}),
    "joyce": ("joyce", {}),
    "hou": ("hou", {}),
    "unet-resnet34": ("unet-resnet34", {}),
    "unet-densenet121": ("unet-densenet121", {}),
    "unet-xception": ("unet-xception", {}),
    "hovernet-fast": ("hovernet-fast", {}),
    "hovernet-original": ("hovernet-original", {}),
    "cnn3": ("cnn3", {}),
}
HEAVY = {"hovernet-fast": 256, "hovernet-original": 256, "cnn3": 256}
"""Sides for networks of thousands of operations a pixel, with one round only."""


def engines_of(options: argparse.Namespace) -> list[tuple[str, str]]:
    return [(engine, precision) for engine in options.engines for precision in options.precisions]


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one network, in this process; with one engine only, what its first run adds to the memory."""
    import torch

    from wsiseg.errors import WsisegError
    from wsiseg.models.engine.engine import Engine, place
    from wsiseg.models.networks import build_network

    torch.set_num_threads(options.threads)
    kind, parameters = ROWS[name]
    rows, engines = [], []
    for engine, precision in engines_of(options):
        network: Any = build_network(kind, parameters).eval()
        stride = network.config.stride_px
        side = -(-min(options.side, HEAVY.get(name, options.side)) // stride) * stride
        row: dict[str, Any] = {"network": name, "engine": engine, "precision": precision, "side_px": side}
        rows.append(row)
        try:
            engines.append((row, Engine(network, place(options.device, precision, engine))))
        except WsisegError as error:
            row["error"] = str(error)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for row, ready in engines:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ready.run([image])  # the first run compiles
        row["added_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        row["ms"] = float("inf")
    for _ in range(1 if name in HEAVY else options.repeat):
        for row, ready in engines:
            start = time.perf_counter()
            ready.run([image])
            row["ms"] = min(row["ms"], 1e3 * (time.perf_counter() - start))
            row["mpx_per_s"] = side**2 / 1e3 / row["ms"]
    return rows


def measure_default(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the shipped model with its decoder, on drawn tissue."""
    import torch

    from wsiseg.errors import WsisegError
    from wsiseg.models.engine.speed import measure_speed
    from wsiseg.models.registry import DEFAULT_MODEL, load_segmenter

    torch.set_num_threads(options.threads)
    rows = []
    for engine, precision in engines_of(options):
        row = {"network": f"{DEFAULT_MODEL} + decoder", "engine": engine, "precision": precision}
        try:
            segmenter = load_segmenter(DEFAULT_MODEL, device=options.device, precision=precision, engine=engine)
            row |= measure_speed(segmenter, options.side, options.repeat).to_dict()
        except WsisegError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


def in_processes(name: str) -> list[dict[str, Any]]:
    """Rows of one network: times from one process, memory from one process an engine."""
    rows = in_a_process(name, [])
    for row in rows:
        if "ms" in row:
            alone = ["--engines", row["engine"], "--precisions", row["precision"], "--repeat", "0"]
            (first,) = in_a_process(name, alone)
            row["added_mib"] = first.get("added_mib")
    return rows


def in_a_process(name: str, changes: list[str]) -> list[dict[str, Any]]:
    """Rows of one network, measured by this program started again."""
    command = [sys.executable, __file__, *sys.argv[1:], *changes, "--one", name]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["killed"]
        return [{"network": name, "error": lines[-1]}]
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def show(row: dict[str, Any]) -> str:
    head = f"| {row['network']} | {row.get('engine', '')} {row.get('precision', '')} |"
    if "error" in row:
        return f"{head} {row['error']} |"
    memory = f"{row['added_mib']:.0f}" if row.get("added_mib") is not None else ""
    return f"{head} {row['side_px']} | {row['ms']:.0f} | {row['mpx_per_s']:.2f} | {memory} |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--names", nargs="+", choices=ROWS, default=list(ROWS))
    arguments.add_argument("--engines", nargs="+", choices=["torch", "openvino"], default=["torch", "openvino"])
    arguments.add_argument("--precisions", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    arguments.add_argument("--side", type=int, default=1088, help="side of the image, pixels")
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--decode", action="store_true", help="the shipped model with its decoder")
    arguments.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    rows: list[dict[str, Any]] = []
    if not options.json:
        print("| network | engine | side, px | ms | Mpx/s | added, MiB |\n|---|---|---|---|---|---|")
    for name in ["default"] if options.decode else options.names:
        found = measure_default(options) if options.decode else in_processes(name)
        rows += found
        if not options.json:
            print("\n".join(show(row) for row in found), flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
