"""Whole runs of wsiseg against other programs on the same slide: time, processor time, memory, nuclei.

    python benchmarks/peers/compare.py                          map-overlap, which needs nothing more
    python benchmarks/peers/compare.py --peers histomicstk --install
    python benchmarks/peers/compare.py --side 8192 --rounds 5   a larger drawn slide
    python benchmarks/peers/compare.py --slide mine.svs         one of yours

Peers are the scripts beside this file, each a program of its own. `tiatoolbox` and `histomicstk` have their own
environments; nothing is downloaded without `--install`, which says first how much it is. wsiseg and a peer take
turns, and ratios are medians over the rounds: on a busy machine pairs say more than seconds. Memory is the sum of
what all processes hold at a time (RSS: what several share counts for each), processor time that of all processes.

wsiseg's run is `wsiseg segment`: besides nuclei it makes outlines, artefacts, a label map, a grade and a report.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from wsiseg.testing import write_slide

HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wsiseg" / "peers"
HOVERNET = "hovernet"
"""Stands for a file of random weights that both programs read."""


@dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes
    ----------
    script : str
    model : str
        What wsiseg runs against it.
    installs : tuple of tuple of str
        Arguments of `pip install`, one call after the other; () for what runs in wsiseg's own environment.
    size : str
        What that takes, for the user to know.
    """

    script: str
    model: str
    installs: tuple[tuple[str, ...], ...] = ()
    size: str = ""


PEERS = {
    "map-overlap": Peer("map_overlap.py", "unet-0.5"),
    "tiatoolbox": Peer(
        "tiatoolbox_hovernet.py", HOVERNET, (("tiatoolbox==2.1.3",),), "several GB: its torch comes with CUDA"
    ),
    # Its slide readers and its server need libraries that pip cannot build everywhere; its detection does not.
    "histomicstk": Peer(
        "histomicstk_nuclei.py",
        "classical",
        (
            (
                "ctk-cli", "dask[dataframe]<2024.11", "distributed", "girder-client", "imageio", "large-image",
                "large-image-source-openslide", "matplotlib", "nimfa", "numpy", "opencv-python-headless",
                "openslide-bin", "pandas", "pillow", "scikit-image", "scikit-learn", "scipy", "shapely",
                "sqlalchemy",
            ),
            ("--no-deps", "histomicstk==1.4.0", "girder-slicer-cli-web"),
        ),
        "about 1.1 GB on disk",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What a run took.

    Attributes
    ----------
    wall_s, cpu_s : float
    peak_mib : float
        Of all its processes at a time.
    nuclei : int
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    nuclei: int = 0


COSTS = {"wall_s": "wall", "cpu_s": "CPU", "peak_mib": "peak memory"}


def watch(command: list[str], environment: dict[str, str] | None = None, output: IO[str] | None = None) -> Measured:
    """Run a command and sum over its processes, ten times a second.

    Raises
    ------
    SystemExit
        It failed.
    """
    before = _reaped_seconds()
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = psutil.Popen(command, env=environment, stdout=output or subprocess.DEVNULL, stderr=errors)
        used: dict[int, float] = {}
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _sample(process, used))
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read()[-2000:]}")
    # Neither is all: samples miss a process's last moments, the other one those that nobody has waited for.
    return Measured(seconds, max(sum(used.values()), _reaped_seconds() - before), peak)


def _sample(process: psutil.Process, used: dict[int, float]) -> float:
    """Note the processor seconds of each process of a tree; what they hold together, in MiB."""
    held = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for member in family:
        try:
            times = member.cpu_times()
            used[member.pid] = times.user + times.system
            held += member.memory_info().rss
        except psutil.Error:
            continue
    return held / 2**20


def _reaped_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_wsiseg(slide: Path, model: str, workers: int, folder: Path) -> Measured:
    out = folder / "wsiseg"
    command = [sys.executable, "-m", "wsiseg_cli", "segment", str(slide), "-o", str(out), "-m", model]
    measured = watch([*command, "-w", str(workers), "--dashboard-address", "127.0.0.1:0"])
    (record,) = out.glob("*/slide.json")
    return Measured(**{**asdict(measured), "nuclei": json.loads(record.read_text())["nuclei"]})


def run_peer(peer: Peer, python: Path, slide: Path, model: str, workers: int, folder: Path) -> Measured:
    own = os.environ if not peer.installs else {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [str(python), str(HERE / peer.script), str(slide), str(folder / "peer"), "--workers", str(workers)]
    weights = ["--weights", model] if peer.model == HOVERNET else []
    with tempfile.TemporaryFile("w+") as output:
        measured = watch([*command, *weights], dict(own), output)
        output.seek(0)
        said = json.loads(output.read().splitlines()[-1])
    return Measured(**{**asdict(measured), "nuclei": said["nuclei"]})


def environment_of(name: str, environments: Path, install: bool) -> Path:
    """The Python that runs a peer; with ``install`` its environment is made where it is not there.

    Raises
    ------
    SystemExit
        It is not there, and nobody asked for it.
    """
    peer = PEERS[name]
    if not peer.installs:
        return Path(sys.executable)
    home = environments / name
    python, complete = home / "bin" / "python", home / "complete"
    if not complete.exists():
        if not install:
            raise SystemExit(f"{name} is not installed in {home}. With --install it is downloaded ({peer.size}).")
        print(f"installing {name} into {home} ({peer.size})", file=sys.stderr)
        venv.create(home, with_pip=True)
        for packages in peer.installs:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr)
        complete.touch()
    return python


def write_hovernet(path: Path) -> None:
    """A state dict of HoVer-Net ("fast", six types) with random weights and the published names."""
    import torch

    from wsiseg.models.networks import build_network

    torch.manual_seed(0)
    torch.save(build_network("hovernet-fast", {"types": 6}).state_dict(), path)


def compare(peer: Peer, python: Path, slide: Path, workers: int, rounds: int) -> list[tuple[Measured, Measured]]:
    """(wsiseg, peer) of each round; who begins changes."""
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        model = peer.model
        if model == HOVERNET:
            model = str(Path(name) / "hovernet.tar")
            write_hovernet(Path(model))
        for number in range(rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            if number % 2:
                other = run_peer(peer, python, slide, model, workers, folder)
                ours = run_wsiseg(slide, model, workers, folder)
            else:
                ours = run_wsiseg(slide, model, workers, folder)
                other = run_peer(peer, python, slide, model, workers, folder)
            pairs.append((ours, other))
    return pairs


def table(name: str, model: str, pairs: list[tuple[Measured, Measured]]) -> str:
    """Medians in Markdown, the medians of the pairs' ratios, and in words where the peer is better."""
    lines = ["| | wall, s | CPU, s | peak, MiB | nuclei |", "|---|---|---|---|---|"]
    for who, position in ((f"wsiseg, {model}", 0), (name, 1)):
        wall, cpu, peak, nuclei = (
            statistics.median(getattr(pair[position], cost) for pair in pairs) for cost in (*COSTS, "nuclei")
        )
        lines.append(f"| {who} | {wall:.1f} | {cpu:.1f} | {peak:.0f} | {nuclei:.0f} |")
    ratios = {
        cost: statistics.median(getattr(other, cost) / getattr(ours, cost) for ours, other in pairs)
        for cost in COSTS
    }
    lines.append(f"| {name} / wsiseg | " + " | ".join(f"{ratio:.2f}" for ratio in ratios.values()) + " | |")
    better = [f"{COSTS[cost]} ({ratio:.2f} of wsiseg's)" for cost, ratio in ratios.items() if ratio < 1]
    verdict = f"**{name} is better in {', '.join(better)}.**" if better else f"{name} is better in none of these."
    return "\n".join([*lines, "", verdict])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=sorted(PEERS), default=["map-overlap"])
    parser.add_argument("--slide", type=Path, help="of 0.25 µm a pixel; by default one is drawn")
    parser.add_argument("--side", type=int, default=4096, help="of the drawn slide")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of both programs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--install", action="store_true", help="make the environments of peers that lack one")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pythons = {name: environment_of(name, options.environments, options.install) for name in options.peers}
    with tempfile.TemporaryDirectory() as folder:
        slide, drawn = options.slide, None
        if slide is None:
            slide = Path(folder) / "slide.svs"
            drawn = len(write_slide(slide, width=options.side, height=options.side, layout="dense").nuclei)
        found: dict[str, Any] = {}
        for name, python in pythons.items():
            peer = PEERS[name]
            pairs = compare(peer, python, slide, options.workers, options.rounds)
            found[name] = [{"wsiseg": asdict(ours), "peer": asdict(other)} for ours, other in pairs]
            if not options.json:
                what = slide.name if drawn is None else f"{options.side}² drawn pixels, {drawn} nuclei"
                print(f"{what}; {options.workers} workers, {options.rounds} rounds\n")
                print(table(name, peer.model, pairs), end="\n\n", flush=True)
    if options.json:
        print(json.dumps({"drawn_nuclei": drawn, "pairs": found}, indent=1))


if __name__ == "__main__":
    main()
