"""Scores: worked by hand, against brute force, at the empty ends, and fast enough for many images."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg import metrics
from wsiseg.nuclei import Nuclei


def by_hand() -> tuple[np.ndarray, np.ndarray]:
    """Three true objects; the first exact, the second half covered, the third missed; one false."""
    truth = np.zeros((10, 20), dtype=np.int32)
    pred = np.zeros_like(truth)
    truth[0:4, 0:5] = 7  # 20 pixels
    pred[0:4, 0:5] = 3
    truth[0:4, 8:12] = 9  # 16 pixels, of which 8 are found
    pred[0:4, 10:12] = 5
    truth[6:8, 0:5] = 100000  # 10 pixels, missed
    pred[6:8, 10:15] = 1  # 10 pixels, false
    return truth, pred


def test_scores_worked_by_hand() -> None:
    scores = metrics.evaluate(*by_hand())
    assert scores.dice == pytest.approx(2 * 28 / (46 + 38))
    assert scores.iou == pytest.approx(28 / (46 + 38 - 28))
    assert scores.dice2 == pytest.approx(2 * 28 / (40 + 24))
    # IoU of the second pair is 8 / 16 = 0.5, which is not above 0.5.
    assert (scores.precision, scores.recall) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert scores.pq == pytest.approx(1 / 3)
    # (20 + 8) / (20 + 16 + missed 10 + false 10)
    assert scores.aji == pytest.approx(28 / 56)
    assert scores.aji_plus == pytest.approx(28 / 56)


def test_aji_reuses_a_prediction_and_aji_plus_does_not() -> None:
    truth = np.array([[1, 1, 1, 2, 2, 2]])
    pred = np.array([[4, 4, 4, 4, 4, 4]])
    overlap = metrics.label_overlap(truth, pred)
    assert metrics.aji(overlap) == pytest.approx(6 / 12)  # both take it: (3 + 3) / (6 + 6)
    assert metrics.aji_plus(overlap) == pytest.approx(3 / 9)  # one takes it, the other is missed


def test_assignment_is_not_greedy() -> None:
    """The best single pair must be given up where that gains more in total."""
    truth = np.array([[1] * 4 + [1] * 2 + [2] * 2 + [0] * 2 + [0] * 4])
    pred = np.array([[1] * 4 + [2] * 2 + [2] * 2 + [2] * 2 + [0] * 4])
    overlap = metrics.label_overlap(truth, pred)
    brute = _best_assignment(_dense_iou(truth, pred))
    assert metrics._one_to_one(overlap).tolist()
    assert overlap.iou[metrics._one_to_one(overlap)].sum() == pytest.approx(brute)


@pytest.mark.parametrize(("truth", "pred", "value"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0)])
def test_empty_sides(truth: int, pred: int, value: float) -> None:
    scores = metrics.evaluate(np.full((3, 3), truth), np.full((3, 3), pred))
    assert set(scores.to_dict().values()) == {value}


def test_disjoint_objects_score_zero() -> None:
    scores = metrics.evaluate(np.array([[1, 0]]), np.array([[0, 1]]))
    assert set(scores.to_dict().values()) == {0.0}


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        metrics.evaluate(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="negative"):
        metrics.evaluate(np.array([[-1]]), np.array([[1]]))


maps = hnp.arrays(np.int32, (6, 7), elements=st.integers(0, 4))


@settings(max_examples=150, deadline=None)
@given(truth=maps, pred=maps)
def test_against_brute_force(truth: np.ndarray, pred: np.ndarray) -> None:
    scores = metrics.evaluate(truth, pred)
    expected = _brute(truth, pred)
    for name, value in expected.items():
        assert getattr(scores, name) == pytest.approx(value), name


@settings(max_examples=60, deadline=None)
@given(truth=maps, pred=maps, threshold=st.sampled_from([0.1, 0.25, 0.5, 0.75]))
def test_detection_against_brute_force(truth: np.ndarray, pred: np.ndarray, threshold: float) -> None:
    found = metrics.detection(metrics.label_overlap(truth, pred), threshold)
    table = _dense_iou(truth, pred)
    table = np.where(table > threshold, table, 0)
    pairs = _assignment(table)
    assert found.tp == sum(table[i, j] > 0 for i, j in pairs)
    assert found.tp + found.fn == table.shape[0]
    assert found.tp + found.fp == table.shape[1]


@settings(max_examples=50, deadline=None)
@given(truth=maps, pred=maps, seed=st.integers(0, 99))
def test_labels_are_only_names(truth: np.ndarray, pred: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = np.concatenate([[0], rng.choice(10**6, 4, replace=False) + 1])
    renamed = metrics.evaluate(names[truth], pred).to_dict()
    assert renamed == pytest.approx(metrics.evaluate(truth, pred).to_dict())


def test_polygons_agree_with_pixels() -> None:
    rng = np.random.default_rng(3)
    boxes = [(x, y) for x in range(0, 200, 20) for y in range(0, 200, 20)]
    moved = [(x + int(rng.integers(0, 9)), y + int(rng.integers(0, 9))) for x, y in boxes][:-7]
    truth, pred = _squares(boxes, 10), _squares(moved, 10)
    found = metrics.match_polygons(truth, pred, 0.3)
    labels = metrics.detection(metrics.label_overlap(_paint(boxes, 10), _paint(moved, 10)), 0.3)
    assert (found.tp, found.fp, found.fn) == (labels.tp, labels.fp, labels.fn)
    assert found.sq == pytest.approx(labels.sq)
    assert 0 < found.tp < len(moved)


def test_polygon_sets_may_be_empty() -> None:
    some = _squares([(0, 0)], 4)
    assert metrics.match_polygons(Nuclei.empty(), Nuclei.empty()).f1 == 1.0
    assert metrics.match_polygons(some, Nuclei.empty()).f1 == 0.0
    assert metrics.match_polygons(Nuclei.empty(), some).fp == 1


def test_a_large_image_is_quick() -> None:
    rng = np.random.default_rng(0)
    truth, pred = (np.kron(rng.permutation(2500).reshape(50, 50), np.ones((20, 20), int)) for _ in range(2))
    pred = np.roll(pred, (5, 7), axis=(0, 1))
    metrics.evaluate(truth, pred)
    start = time.perf_counter()
    metrics.evaluate(truth, pred)
    assert time.perf_counter() - start < 2.0  # 0.2 s on a quiet core; the test's machine may be busy


def _squares(corners: list[tuple[int, int]], side: int) -> Nuclei:
    ring = np.array([[0, 0], [side, 0], [side, side], [0, side]], dtype=float)
    vertices = np.concatenate([ring + corner for corner in corners])
    return Nuclei(vertices, np.arange(len(corners) + 1, dtype=np.int64) * 4)


def _paint(corners: list[tuple[int, int]], side: int) -> np.ndarray:
    image = np.zeros((240, 240), dtype=np.int32)
    for n, (x, y) in enumerate(corners):
        image[y : y + side, x : x + side] = n + 1
    return image


def _dense_iou(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    ts, ps = (np.setdiff1d(np.unique(a), [0]) for a in (truth, pred))
    table = np.zeros((len(ts), len(ps)))
    for (i, t), (j, p) in itertools.product(enumerate(ts), enumerate(ps)):
        table[i, j] = ((truth == t) & (pred == p)).sum() / ((truth == t) | (pred == p)).sum()
    return table


def _assignment(table: np.ndarray) -> list[tuple[int, int]]:
    """Every way to pair rows with columns, the best one."""
    if table.shape[0] > table.shape[1]:
        return [(i, j) for j, i in _assignment(table.T)]
    best, pairs = -1.0, []
    for columns in itertools.permutations(range(table.shape[1]), table.shape[0]):
        total = sum(table[i, j] for i, j in enumerate(columns))
        if total > best + 1e-12:
            best, pairs = total, list(enumerate(columns))
    return [(i, j) for i, j in pairs if table[i, j] > 0]


def _best_assignment(table: np.ndarray) -> float:
    return sum(table[i, j] for i, j in _assignment(table))


def _brute(truth: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    ts, ps = (np.setdiff1d(np.unique(a), [0]) for a in (truth, pred))
    names = ("dice", "iou", "dice2", "aji", "f1", "pq")
    if len(ts) == 0 or len(ps) == 0:
        return dict.fromkeys(names, float(len(ts) == len(ps)))
    table = _dense_iou(truth, pred)
    both, either = ((truth > 0) & (pred > 0)).sum(), ((truth > 0) | (pred > 0)).sum()
    pairs = [(t, p) for t in ts for p in ps if ((truth == t) & (pred == p)).any()]
    inter = sum(((truth == t) & (pred == p)).sum() for t, p in pairs)
    sizes = sum((truth == t).sum() + (pred == p).sum() for t, p in pairs)
    numerator, denominator, used = 0, 0, set()
    for i, t in enumerate(ts):
        if table[i].max() == 0:
            denominator += (truth == t).sum()
            continue
        j = int(table[i].argmax())
        numerator += ((truth == t) & (pred == ps[j])).sum()
        denominator += ((truth == t) | (pred == ps[j])).sum()
        used.add(j)
    denominator += sum((pred == p).sum() for j, p in enumerate(ps) if j not in used)
    matched = table[table > 0.5]
    f1 = len(matched) / ((len(ts) + len(ps)) / 2)
    return {
        "dice": 2 * both / ((truth > 0).sum() + (pred > 0).sum()),
        "iou": both / either,
        "dice2": 2 * inter / sizes if pairs else 0.0,
        "aji": numerator / denominator,
        "f1": f1,
        "pq": f1 * (matched.mean() if len(matched) else 0.0),
    }
