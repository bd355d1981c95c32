"""The judge: its arithmetic, what it does with missing evidence, and the numbers that ship."""

from __future__ import annotations

import numpy as np
import pytest

from wsiseg.qc.evidence import EVIDENCE, measure_evidence
from wsiseg.qc.judge import ASPECTS, JUDGEMENT, Judge, load_judge
from wsiseg.qc.opinion import OPINION

TWO = Judge(
    version="t",
    card={},
    evidence=("solidity", "missed", "agreement"),
    typical=(0.97, 0.0, -1.0),
    intercept=0.1,
    slope=0.5,
    usual=0.8,
    good=0.8,
    # solidity > .9, then on either side missed > .2; and a stump that is repeated below.
    feature=((0, 1, 1), (1, 0, 0)),
    threshold=((0.9, 0.2, 0.2), (0.5, 0.0, 0.0)),
    value=((-0.2, -0.3, 0.2, 0.0), (0.01, 0.01, -0.1, -0.1)),
    below=0.2,
    above=0.1,
    steepness=20.0,
    even=0.5,
    shift=0.4,
)


def test_trees_are_walked_as_they_are_written() -> None:
    said = TWO.judge(
        {
            "solidity": np.array([0.95, 0.95, 0.8, 0.8]),
            "missed": np.array([0.0, 0.6, 0.0, 0.3]),
            "agreement": np.full(4, 0.8),
        }
    )
    assert said["expected_aji"] == pytest.approx([0.71, 0.40, 0.31, 0.21])
    assert said["aji_low"] == pytest.approx([0.51, 0.20, 0.11, 0.01])
    assert said["aji_high"] == pytest.approx([0.81, 0.50, 0.41, 0.31])
    assert (np.diff(said["p_bad"]) > 0).all()
    assert said["p_bad"][1] == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_missing_evidence_is_taken_as_typical_and_no_patches_are_no_judgement() -> None:
    said = TWO.judge(
        {
            "solidity": np.array([np.nan, 0.97]),
            "missed": np.array([np.nan, 0.0]),
            "agreement": np.array([np.nan, 0.8]),
        }
    )
    assert said["expected_aji"][0] == said["expected_aji"][1]
    none = TWO.judge({name: np.empty(0) for name in TWO.evidence})
    assert {name: len(none[name]) for name in JUDGEMENT} == dict.fromkeys(JUDGEMENT, 0)


def test_the_weakest_aspect_is_the_one_whose_mending_would_raise_most() -> None:
    columns = {
        "solidity": np.array([0.8, 0.95, 0.95]),
        "missed": np.array([0.0, 0.6, 0.0]),
        "agreement": np.array([0.8, 0.8, 0.3]),
    }
    assert TWO.weakest(columns) == ["shapes", "between", "disagreement"]


def test_less_agreement_is_a_lower_aji() -> None:
    columns = {"solidity": np.full(2, 0.95), "missed": np.zeros(2), "agreement": np.array([0.4, 0.8])}
    assert TWO.judge(columns)["expected_aji"] == pytest.approx([0.51, 0.71])


def test_the_judge_that_ships_knows_its_evidence_and_has_a_card() -> None:
    judge = load_judge()
    assert set(judge.evidence) <= {*EVIDENCE, *OPINION}
    assert {name for names in ASPECTS.values() for name in names} <= {*EVIDENCE, *OPINION}
    assert judge.slope > 0
    assert {"fitted on", "licence", "made by", "bad"} <= set(judge.card)
    assert judge.below > 0 < judge.above
    assert np.isfinite(np.array([*judge.typical, judge.intercept, judge.shift])).all()


def test_worse_outlines_are_judged_worse() -> None:
    """Drawn discs on a pale ground: outlined, outlined beside, and a third of them."""
    rng = np.random.default_rng(3)
    image = np.full((256, 256, 3), (225, 180, 210), dtype=np.uint8)
    labels = np.zeros((256, 256), dtype=np.int32)
    disc = np.hypot(*np.mgrid[-3:4, -3:4]) <= 3.2
    for name, (y, x) in enumerate(
        np.mgrid[10:246:16, 10:246:16].reshape(2, -1).T + rng.integers(-3, 4, (225, 2)), 1
    ):
        labels[y - 3 : y + 4, x - 3 : x + 4][disc] = name
    image[labels > 0] = (110, 80, 160)
    image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    everywhere = np.ones(labels.shape, dtype=bool)

    def p_bad(outlined: np.ndarray) -> float:
        count = int(outlined.max())
        measured = measure_evidence(image, outlined, everywhere, {}, count, 1.0) | dict.fromkeys(OPINION, np.nan)
        return float(load_judge().judge({name: np.array([value]) for name, value in measured.items()})["p_bad"][0])

    good = p_bad(labels)
    assert p_bad(np.roll(labels, (7, 7), (0, 1))) > good
    assert p_bad(np.where(labels % 3 == 0, labels, 0)) > good
