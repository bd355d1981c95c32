"""HistomicsTK's own command, `NucleiDetection`, with its defaults, in an environment that has HistomicsTK.

    python benchmarks/peers/histomicstk_nuclei.py SLIDE OUT.anot --workers 2

Colour normalisation, deconvolution and Al-Kofahi's method in tiles of 1024² at 20x on a Dask cluster of processes,
outlines of nuclei with overlaps removed. Imports nothing of wsiseg. Prints ``{"nuclei": N}``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    command = [sys.executable, "-m", "histomicstk.cli.NucleiDetection.NucleiDetection"]
    command += [str(options.slide), str(options.out), "--num_workers", str(options.workers)]
    # Without these two it takes the texts in its description for a style and a frame.
    subprocess.run([*command, "--style", "", "--frame", ""], check=True, stdout=sys.stderr)
    print(json.dumps({"nuclei": len(json.loads(options.out.read_text())["elements"])}))


if __name__ == "__main__":
    main()
