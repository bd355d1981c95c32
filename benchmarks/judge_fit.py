"""Fits the judge of outlines (`wsiseg/qc/judge.json`) and measures it beside its baselines.

    pip install scikit-learn
    python benchmarks/judge_fit.py --fit rendered.parquet dsb.parquet --measure monuseg.parquet -o judge.json

The tables are those of `judge_cases.py`. What ships is fitted on `--fit` alone. Of `--measure` the images of the
split `train` choose the width of the intervals and say how far cohorts differ (`shift`); all others only report.
Baselines: the mean score of the nuclei (ranks only), the best constant of the measured cases themselves, and the
gross check.

The candidates that were compared: isotonic on the mean score; ridge regression and boosted trees without a second
opinion; trees with it; a line over its agreement; and the line with half of what trees make of what it leaves,
which is kept (`--candidates` prints all of them on the choosing images).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import spearmanr
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold

from wsiseg.evaluate.judged import MIN_TRUE, BadLimits
from wsiseg.evaluate.pixels import auc
from wsiseg.evaluate.prediction import calibration_error
from wsiseg.qc.evidence import EVIDENCE
from wsiseg.qc.judge import Judge
from wsiseg.qc.opinion import OPINION

DEPTH, TREES, RATE = 3, 150, 0.06
SHRUNK = 0.5  # so much of what the trees say counts: of 0, .35, .5, .65 and 1 the best on the choosing images
IMAGE_FAULTS = ("blur", "scale", "stain", "fade", "deep", "jpeg")
SCORES = ("score_mean", "score_low", "score_weak")
NAMES = (*(name for name in EVIDENCE if name != "blue_green"), *OPINION)
NONE = -1.0  # stands for a score or an opinion that is not there
Floats = npt.NDArray[np.float64]
Predict = Callable[[pd.DataFrame], Floats]


def read_cases(path: Path) -> pd.DataFrame:
    """A table of cases that can be judged, with what is bad and of which kind a fault is."""
    cases = pd.read_parquet(path)
    cases["cohort"] = path.stem
    cases["bad"] = BadLimits().bad(cases.aji, cases.f1)
    cases["range"] = np.where(
        cases.fault == "", "natural", np.where(cases.fault.isin(IMAGE_FAULTS), "image", "outlines")
    )
    return cases[(cases.true_nuclei >= MIN_TRUE) & (cases.nuclei >= MIN_TRUE)].reset_index(drop=True)


def typical(cases: pd.DataFrame, names: Sequence[str]) -> Floats:
    """What stands for missing evidence: the better half's median; of scores and opinions a value that none has."""
    good = cases[cases.aji >= cases.aji.median()]
    middle = good[list(names)].median()
    middle[[name for name in names if name in (*SCORES, *OPINION)]] = NONE
    return middle.to_numpy()


def as_any_has_it(cases: pd.DataFrame) -> pd.DataFrame:
    """Every case as it is, as if its segmenter gave no scores, and as if there were no opinion."""
    blind = [cases.assign(**dict.fromkeys(names, np.nan)) for names in (SCORES, OPINION)]
    return pd.concat([cases, *blind], ignore_index=True)


def filled(cases: pd.DataFrame, names: Sequence[str], middle: Floats) -> Floats:
    values = cases[list(names)].to_numpy(np.float64)
    return np.where(np.isfinite(values), values, middle)


@dataclass(frozen=True)
class Line:
    """Expected AJI by agreement alone; ``usual`` stands for a missing one, ``good`` is the better half's median."""

    intercept: float
    slope: float
    usual: float
    good: float

    def __call__(self, cases: pd.DataFrame) -> Floats:
        return self.intercept + self.slope * cases.agreement.fillna(self.usual).to_numpy(np.float64)


def fit_line(cases: pd.DataFrame) -> Line:
    known = cases[np.isfinite(cases.agreement)]
    slope, intercept = np.polyfit(known.agreement, known.aji, 1)
    better = known[known.aji >= known.aji.median()]
    return Line(float(intercept), float(slope), float(known.agreement.mean()), float(better.agreement.median()))


def fit_line_and_trees(cases: pd.DataFrame) -> tuple[Predict, Line, GradientBoostingRegressor, Floats]:
    """A line over the agreement, and half of what trees make of what it leaves."""
    line, middle = fit_line(cases), typical(cases, NAMES)
    every = as_any_has_it(cases)
    model = grow(every, every.aji - line(every), NAMES, middle)

    def predict(other: pd.DataFrame) -> Floats:
        return np.clip(line(other) + SHRUNK * model.predict(filled(other, NAMES, middle)), 0, 1)

    return predict, line, model, middle


def fit_trees(cases: pd.DataFrame, names: Sequence[str] = NAMES) -> Predict:
    """Trees alone."""
    middle = typical(cases, names)
    every = as_any_has_it(cases)
    model = grow(every, every.aji, names, middle)
    return lambda other: np.clip(model.predict(filled(other, names, middle)), 0, 1)


def grow(cases: pd.DataFrame, wanted: pd.Series, names: Sequence[str], middle: Floats) -> GradientBoostingRegressor:
    return GradientBoostingRegressor(
        n_estimators=TREES,
        max_depth=DEPTH,
        learning_rate=RATE,
        subsample=0.6,
        min_samples_leaf=30,
        max_features=0.5,
        random_state=0,
    ).fit(filled(cases, names, middle), wanted)


def fit_ridge(cases: pd.DataFrame, names: Sequence[str] = NAMES) -> Predict:
    middle = typical(cases, names)
    values = filled(cases, names, middle)
    spread = (np.quantile(values, 0.84, axis=0) - np.quantile(values, 0.16, axis=0)) / 2 + 1e-6

    def steps(some: pd.DataFrame) -> Floats:
        return np.clip((filled(some, names, middle) - middle) / spread, -3, 3)

    model = Ridge(10).fit(steps(cases), cases.aji)
    return lambda other: np.clip(model.predict(steps(other)), 0, 1)


def fit_score(cases: pd.DataFrame) -> Predict:
    model = IsotonicRegression(out_of_bounds="clip").fit(cases.score_mean, cases.aji)
    return lambda other: np.asarray(model.predict(other.score_mean))


def held_out(cases: pd.DataFrame, fit: Callable[[pd.DataFrame], Predict]) -> Floats:
    """What is expected of each case by a fit without its image."""
    out = np.empty(len(cases))
    for rest, fold in GroupKFold(5).split(cases, groups=cases.image):
        out[fold] = fit(cases.iloc[rest])(cases.iloc[fold])
    return out


def fit_bad(expected: Floats, bad: npt.ArrayLike) -> tuple[float, float]:
    """Steepness and the expected AJI at which a patch is as probably bad as not."""
    model = LogisticRegression(C=100).fit(expected[:, None], np.asarray(bad))
    steepness = -float(model.coef_[0, 0])
    return steepness, float(model.intercept_[0]) / steepness


def export(line: Line, model: GradientBoostingRegressor) -> dict[str, Any]:
    """Trees as complete ones of DEPTH: a leaf that comes early is repeated below."""
    feature, threshold, value = [], [], []
    for (regressor,) in model.estimators_:
        tree = regressor.tree_
        nodes = [0]
        features: list[int] = []
        thresholds: list[float] = []
        for _ in range(DEPTH):
            below = []
            for node in nodes:
                leaf = tree.children_left[node] < 0
                features.append(0 if leaf else int(tree.feature[node]))
                thresholds.append(0.0 if leaf else float(np.float32(tree.threshold[node])))
                below += [node, node] if leaf else [tree.children_left[node], tree.children_right[node]]
            nodes = below
        feature.append(features)
        threshold.append(thresholds)
        value.append([round(SHRUNK * RATE * float(tree.value[node, 0, 0]), 6) for node in nodes])
    return {
        "feature": feature,
        "threshold": threshold,
        "value": value,
        "intercept": line.intercept + SHRUNK * float(model.init_.constant_[0, 0]),
        "slope": line.slope,
        "usual": line.usual,
        "good": line.good,
    }


def fit_judge(cases: pd.DataFrame, choosing: pd.DataFrame, version: str) -> Judge:
    """The judge on ``cases``; ``choosing`` widens its intervals and says how far cohorts differ."""
    _, line, model, middle = fit_line_and_trees(cases)
    expected = held_out(cases, lambda some: fit_line_and_trees(some)[0])
    # A run's patches are as they are: with the faults P(bad) is too high on natural cases (ECE .11 instead of .06).
    as_they_are = (cases.range == "natural").to_numpy()
    steepness, even = fit_bad(expected[as_they_are], cases.bad[as_they_are])
    plain = {
        "version": version, "evidence": NAMES, "typical": middle.tolist(), **export(line, model),
        "steepness": steepness, "even": even, "shift": 0.0, "below": 0.0, "above": 0.0,
        "card": {
            "fitted on": "; ".join(f"{name}: {len(group)} cases" for name, group in cases.groupby("cohort")),
            "licence": "MIT; rendered cases on textures of TCGA (BSD-3 repository), dsb2018 CC0",
            "made by": "benchmarks/judge_cases.py and benchmarks/judge_fit.py",
            "bad": f"AJI < {BadLimits().aji:.2f} or F1 at IoU 0.5 < {BadLimits().f1:.2f}",
        },
    }  # fmt: skip
    judge = msgspec.convert(plain, Judge)
    natural = choosing[choosing.range == "natural"]
    low, high = np.quantile(cases.aji - expected, [0.05, 0.95])
    said = judge.judge(natural)
    error = natural.aji.to_numpy() - said["expected_aji"]
    wide = next(w for w in np.arange(0.5, 4.0, 0.05) if np.mean((error >= w * low) & (error <= w * high)) >= 0.9)
    shift = common_error(natural, said["p_bad"])
    return msgspec.convert(
        {**plain, "below": float(-wide * low), "above": float(wide * high), "shift": shift}, Judge
    )


def common_error(cases: pd.DataFrame, p_bad: Floats) -> float:
    """Standard deviation, over slides, of what P(bad) is off by in common, in log odds.

    The most likely one where the patches of an image, as one model outlines them, share a normal error.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    odds, bad = logit(np.clip(p_bad, 1e-6, 1 - 1e-6)), cases.bad.to_numpy()
    patches = (cases.part > 0).to_numpy()
    groups = cases.groupby(["image", "model"]).groups.values()
    slides = [np.flatnonzero(patches & cases.index.isin(group)) for group in groups]

    def likelihood(deviation: float) -> float:
        p = expit(odds[:, None] + deviation * nodes)
        chance = np.where(bad[:, None], p, 1 - p)
        return float(sum(np.log(weights @ chance[slide].prod(axis=0)) for slide in slides))

    return max(np.arange(0.1, 3.0, 0.05).round(2).tolist(), key=likelihood)


def rows(cases: pd.DataFrame, judge: Judge) -> list[dict[str, Any]]:
    """The judge beside its baselines on one set of cases."""
    said, bad = judge.judge(cases), cases.bad.to_numpy()
    expected, aji = said["expected_aji"], cases.aji.to_numpy()
    inside = np.mean((aji >= said["aji_low"]) & (aji <= said["aji_high"]))
    score = cases.score_mean.to_numpy(np.float64)
    gross = (cases.verdict != "").to_numpy()  # asked of whole fields alone
    check = [{"by": "old check", "auroc": auc(bad, gross.astype(float)), "p_bad": gross.mean()}]
    return [
        {
            "by": "judge", "rho": spearmanr(expected, aji)[0], "auroc": auc(bad, said["p_bad"]),
            "mae": np.abs(expected - aji).mean(), "bias": (expected - aji).mean(),
            "ece": calibration_error(said["p_bad"], bad), "cover": inside, "p_bad": said["p_bad"].mean(),
        },
        {"by": "mean score", "rho": spearmanr(score, aji)[0], "auroc": auc(bad, -score)},
        {"by": "constant", "mae": np.abs(aji - np.median(aji)).mean(), "ece": 0.0, "p_bad": bad.mean()},
        *(check if (cases.part == 0).all() else []),
    ]  # fmt: skip


def report(cases: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """Every range, split, size and model."""
    out = []
    for kind in ("natural", "image", "outlines"):
        for split in ("train", "test"):
            for size in ("field", "128 µm"):
                chosen = cases[
                    (cases.range == kind)
                    & cases.split.str.startswith(split)
                    & ((cases.part == 0) == (size == "field"))
                ]
                models = [*sorted(chosen.model.unique())] if kind == "natural" else []
                for model in ("all", *models):
                    part = chosen if model == "all" else chosen[chosen.model == model]
                    if len(part) < 8:
                        continue
                    about = {
                        "range": kind,
                        "split": split,
                        "size": size,
                        "model": model,
                        "n": len(part),
                        "bad": int(part.bad.sum()),
                    }
                    out += [{**about, **row} for row in rows(part, judge)]
    return pd.DataFrame(out)


def candidates(cases: pd.DataFrame, choosing: pd.DataFrame) -> pd.DataFrame:
    """Every candidate on the choosing images."""
    alone = tuple(name for name in NAMES if name not in OPINION)
    blind = dict.fromkeys(SCORES, np.nan)
    fits: dict[str, Predict] = {
        "isotonic on mean score": fit_score(cases[cases.range != "outlines"]),
        "ridge, no opinion": fit_ridge(cases, alone), "trees, no opinion": fit_trees(cases, alone),
        "trees": fit_trees(cases), "trees of opinion and score": fit_trees(cases, (*OPINION, *SCORES)),
        "line": fit_line(cases), "line and trees": fit_line_and_trees(cases)[0],
        "line and trees, score hidden": lambda other: fit_line_and_trees(cases)[0](other.assign(**blind)),
    }  # fmt: skip
    out = []
    for name, predict in fits.items():
        steepness, even = fit_bad(predict(cases), cases.bad)
        for kind, part in choosing.groupby("range"):
            expected, bad = predict(part), part.bad.to_numpy()
            p = 1 / (1 + np.exp(-steepness * (even - expected)))
            out.append({
                "by": name, "range": kind, "n": len(part), "rho": spearmanr(expected, part.aji)[0],
                "auroc": auc(bad, p), "ece": calibration_error(p, bad),
                "mae": np.abs(expected - part.aji).mean(), "bias": (expected - part.aji).mean(),
            })  # fmt: skip
    return pd.DataFrame(out).sort_values(["range", "by"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, nargs="+", required=True, help="tables of cases to fit on")
    parser.add_argument("--measure", type=Path, required=True, help="table of cases to choose by and to report on")
    parser.add_argument("-o", "--out", type=Path, help="the judge, .json")
    parser.add_argument("--version", default="judge 2", help="its name and number (judge 2)")
    parser.add_argument("--candidates", action="store_true", help="compare the candidates on the choosing images")
    options = parser.parse_args()
    cases = pd.concat([read_cases(path) for path in options.fit], ignore_index=True)
    measured = read_cases(options.measure)
    choosing = measured[measured.split == "train"]
    if options.candidates:
        print(candidates(cases, choosing).round(3).to_string(index=False))
    judge = fit_judge(cases, choosing, options.version)
    print(report(measured, judge).round(3).to_string(index=False, na_rep=""))
    print({name: round(getattr(judge, name), 3) for name in ("below", "above", "steepness", "even", "shift")})
    if options.out:
        options.out.write_text(json.dumps(json.loads(msgspec.json.encode(judge)), indent=None) + "\n")


if __name__ == "__main__":
    main()
