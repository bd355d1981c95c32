"""Do the intervals of a slide's share of bad patches cover? Simulated cohorts whose shares are known.

    python benchmarks/judge_slides.py rendered.parquet monuseg.parquet

The tables are those of `judge_cases.py`, of which images of the split `train`, by which the judge's width was
chosen, have no part. A slide's share of bad patches is one of the rubric's bounds, 0, or far beyond them; so many
of its patches are drawn from the table's bad cases and the others from its good ones, and the shipped judge says of
those that are judged what it would say of them. `narrow` is the interval without the common error. Nominal: .95.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from wsiseg.evaluate.judged import BadLimits
from wsiseg.qc.judge import load_judge
from wsiseg.qc.share import share_interval

SHARES = (0.0, 1 / 30, 1 / 15, 2 / 15, 3 / 15, 0.35, 0.5)
SIZES = ((60, 60), (600, 150))  # patches of a slide, and how many of them are judged


def read_judged(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """P(bad) by the judge and whether it is true, of the parts of a table's fields, or of whole ones."""
    cases = pd.read_parquet(path)
    cases = cases[cases.split != "train"]
    parts = cases[cases.part > 0]
    cases = parts if len(parts) else cases
    return load_judge().judge(cases)["p_bad"], BadLimits().bad(cases.aji, cases.f1).to_numpy()


def coverage(
    p_bad: npt.NDArray[np.float64], bad: npt.NDArray[np.bool_], placed: int, judged: int, shift: float, slides: int
) -> dict[str, float]:
    """How many intervals hold the true share, their mean width, and on which side the others miss it."""
    rng, found = np.random.default_rng(1), []
    good, poor = np.flatnonzero(~bad), np.flatnonzero(bad)
    for _ in range(slides):
        count = int(rng.binomial(placed, rng.choice(SHARES)))
        chosen = rng.permutation(np.concatenate([rng.choice(poor, count), rng.choice(good, placed - count)]))
        low, high = share_interval(p_bad[chosen[:judged]], placed, shift)
        found.append((low, high, count / placed))
    low, high, true = np.array(found).T
    inside = (low <= true) & (true <= high)
    return {"cover": inside.mean(), "width": (high - low).mean(), "too high": (true < low).mean()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="tables of cases")
    parser.add_argument("--slides", type=int, default=400, help="of each kind (400)")
    options = parser.parse_args()
    rows = []
    for path in options.tables:
        p_bad, bad = read_judged(path)
        for placed, judged in SIZES:
            for name, shift in (("judge", load_judge().shift), ("narrow", 0.0)):
                row = coverage(p_bad, bad, placed, judged, shift, options.slides)
                rows.append({"table": path.stem, "interval": name, "patches": placed, "judged": judged, **row})
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
