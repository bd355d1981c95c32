"""How good a patch's outlines are expected to be: a line over the agreement with a second opinion, and trees.

The numbers are those of ``judge.json``, whose card says what they were fitted on; how the judge does on cohorts
that had no part in it is in ``docs/quality.md``. Fitted by ``benchmarks/judge_fit.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import FloatArray
from wsiseg.core.typed import as_typed
from wsiseg.qc.evidence import EVIDENCE
from wsiseg.qc.opinion import OPINION

Columns = Mapping[str, npt.NDArray[np.generic]]

JUDGEMENT = ("expected_aji", "aji_low", "aji_high", "p_bad")
"""What a judge says of a patch."""
ASPECTS = {
    "shapes": ("area_log", "area_spread", "small", "large", "eccentricity", "thin", "solidity", "ragged"),
    "crowded": ("touching", "per_mm2", "covered"),
    "pale": ("contrast", "rim", "level", "level_spread", "texture", "unlike", "redness", "red_share", "pink"),
    "between": ("between", "missed"),
    "disagreement": OPINION,
    "image": ("detail", "stain_h", "stain_e", "stain_spread"),
}
"""Evidence by what it is about: the names of why a patch is bad."""


@dataclass(frozen=True)
class Judge:
    """Evidence to the expected AJI, and from there to how probable it is that a patch is bad.

    The expected AJI is a line over ``agreement``, to which boosted trees over all evidence add.

    Attributes
    ----------
    version : str
        Name and number; raised with every change.
    card : mapping of str to str
        What it was fitted on, and the licences.
    evidence : tuple of str
        The K names of :data:`wsiseg.qc.evidence.EVIDENCE` and :data:`wsiseg.qc.opinion.OPINION` that it asks for.
    typical : tuple of float
        Of each, what good outlines have; stands for what is missing.
    intercept, slope : float
        Of the line.
    usual : float
        The agreement that stands for a missing one in the line.
    good : float
        The agreement of good outlines.
    feature, threshold, value : tuples of tuples
        Of each of T complete binary trees of one depth D: what its 2^D - 1 inner nodes ask for (places in
        ``evidence``), level by level; above which value they go right; and what its 2^D leaves add.
    below, above : float
        From the expected AJI to the ends of its 90% interval.
    steepness, even : float
        P(bad) is the logistic function of ``steepness`` · (``even`` - expected AJI).
    shift : float
        Standard deviation, between cohorts, of the error that all patches of a cohort have in common, in log odds
        of P(bad).
    """

    version: str
    card: Mapping[str, str]
    evidence: tuple[str, ...]
    typical: tuple[float, ...]
    intercept: float
    slope: float
    usual: float
    good: float
    feature: tuple[tuple[int, ...], ...]
    threshold: tuple[tuple[float, ...], ...]
    value: tuple[tuple[float, ...], ...]
    below: float
    above: float
    steepness: float
    even: float
    shift: float

    def judge(self, columns: Columns) -> dict[str, FloatArray]:
        """:data:`JUDGEMENT` of P patches by their evidence, columns (P,)."""
        expected = self._expected(self._values(columns))
        return {
            "expected_aji": expected,
            "aji_low": np.clip(expected - self.below, 0.0, 1.0),
            "aji_high": np.clip(expected + self.above, 0.0, 1.0),
            "p_bad": 1 / (1 + np.exp(-self.steepness * (self.even - expected))),
        }

    def weakest(self, columns: Columns) -> list[str]:
        """The one of :data:`ASPECTS` of each patch that, were it as good outlines have it, raised the AJI most."""
        values, raised = self._values(columns), []
        for names in ASPECTS.values():
            places = [self.evidence.index(name) for name in names if name in self.evidence]
            mended = values.copy()
            mended[:, places] = np.array(self.typical)[places]
            if names == OPINION:  # whose typical values say that there is none
                agreement = self.evidence.index("agreement")
                mended[:, agreement] = np.maximum(values[:, agreement], self.good)
            raised.append(self._expected(mended))
        aspects = list(ASPECTS)
        return [aspects[k] for k in np.argmax(raised, axis=0).tolist()]

    def _values(self, columns: Columns) -> FloatArray:
        values = np.column_stack([np.asarray(columns[name], np.float64) for name in self.evidence])
        return np.where(np.isfinite(values), values, np.array(self.typical))

    def _expected(self, values: FloatArray) -> FloatArray:
        feature, threshold, leaf = self._trees
        node = np.zeros((len(values), len(feature)), dtype=np.int64)
        trees, rows = np.arange(len(feature)), np.arange(len(values))[:, None]
        inner = feature.shape[1]
        while inner and node.size and node.flat[0] < inner:
            right = values[rows, feature[trees, node]] > threshold[trees, node]
            node = 2 * node + 1 + right
        agreement = values[:, self.evidence.index("agreement")]
        line = self.intercept + self.slope * np.where(agreement >= 0, agreement, self.usual)
        return np.clip(line + leaf[trees, node - inner].sum(axis=1), 0.0, 1.0)

    @property
    def _trees(self) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
        return np.array(self.feature, np.int64), np.array(self.threshold), np.array(self.value)


@lru_cache(maxsize=1)
def load_judge() -> Judge:
    """The judge of this version."""
    content = files("wsiseg.qc").joinpath("judge.json").read_bytes()
    judge = as_typed(json.loads(content), Judge)
    if unknown := set(judge.evidence) - {*EVIDENCE, *OPINION}:
        raise ValueError(f"judge.json asks for evidence that is not measured: {sorted(unknown)}")
    return judge
