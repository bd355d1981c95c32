"""How long the command line takes to answer.

    python benchmarks/start.py [--runs 11] [--json]

Whole processes of `wsiseg --help` and `import wsiseg` against `python -c pass` of the same interpreter, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "wsiseg --help": [sys.executable, "-m", "wsiseg_cli", "--help"],
    "wsiseg segment --help": [sys.executable, "-m", "wsiseg_cli", "segment", "--help"],
    "import wsiseg": [sys.executable, "-c", "import wsiseg"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs + 1):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}
    if options.json:
        print(json.dumps(medians, indent=1))
        return
    for name, value in medians.items():
        print(f"{name:<24}{value * 1000:6.0f} ms")


if __name__ == "__main__":
    main()
