"""Scores: worked by hand, against brute force, at the empty ends, and fast enough for many images."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg import evaluate as metrics
from wsiseg.core.nuclei import Nuclei


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
    # 28 of 46 + 38 - 28 foreground pixels agree, and 200 - 56 background pixels
    assert scores.accuracy == pytest.approx((28 + 144) / 200)
    assert scores.pixel_precision == pytest.approx(28 / 38)
    assert scores.pixel_recall == pytest.approx(28 / 46)
    # Truth: Dice 1, 2·8 / 24, 0 weighted by 20, 16, 10; prediction: the same pairs weighted by 20, 8, 10.
    truth_side = (20 * 1 + 16 * 2 / 3) / 46
    assert scores.object_dice == pytest.approx((truth_side + (20 * 1 + 8 * 2 / 3) / 38) / 2)


def test_object_f1_falls_with_the_threshold() -> None:
    overlap = metrics.label_overlap(*by_hand())
    expected = {0.3: 4 / 6, 0.5: 2 / 6, 0.99: 2 / 6}
    assert metrics.object_f1(overlap, list(expected)) == pytest.approx(expected)


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
    assert metrics.one_to_one(overlap).tolist()
    assert overlap.iou[metrics.one_to_one(overlap)].sum() == pytest.approx(brute)


@pytest.mark.parametrize(("truth", "pred", "value"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0)])
def test_empty_sides(truth: int, pred: int, value: float) -> None:
    scores = metrics.evaluate(np.full((3, 3), truth), np.full((3, 3), pred))
    assert set(scores.to_dict().values()) == {value}


def test_accuracy_does_not_depend_on_who_is_empty() -> None:
    """It is the one score that emptiness does not decide: most of a slide is background."""
    truth = np.zeros((10, 10), dtype=int)
    truth[0, :3] = 1
    assert metrics.evaluate(truth, np.zeros_like(truth)).accuracy == pytest.approx(0.97)
    assert metrics.evaluate(np.zeros((0, 5), int), np.zeros((0, 5), int)).accuracy == 1.0


def test_object_dice_takes_the_better_of_two_that_share_equally_much() -> None:
    truth = np.array([[1, 1, 1, 1, 0, 0, 0, 0]])
    pred = np.array([[3, 3, 2, 2, 2, 2, 2, 2]])
    # Truth: 2·2 / (4 + 2); prediction 3: the same, weight 2; prediction 2: 2·2 / (4 + 6), weight 6.
    expected = (4 / 6 + (2 * 4 / 6 + 6 * 4 / 10) / 8) / 2
    assert metrics.evaluate(truth, pred).object_dice == pytest.approx(expected)


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


@settings(max_examples=100, deadline=None)
@given(truth=maps, pred=maps)
def test_assignment_in_groups_is_the_best_of_all(truth: np.ndarray, pred: np.ndarray) -> None:
    overlap = metrics.label_overlap(truth, pred)
    rows = metrics.one_to_one(overlap)
    assert len(np.unique(overlap.truth[rows])) == len(np.unique(overlap.pred[rows])) == len(rows)
    assert overlap.iou[rows].sum() == pytest.approx(_best_assignment(_dense_iou(truth, pred)))


def test_assignment_is_the_same_however_many_groups_are_solved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    truth, pred = (np.kron(rng.permutation(400).reshape(20, 20), np.ones((6, 6), int)) for _ in range(2))
    truth[:, ::31] = 0
    truth[::29] = 0
    overlap = metrics.label_overlap(truth, np.roll(pred, (2, 3), axis=(0, 1)))
    at_once = metrics.one_to_one(overlap)
    monkeypatch.setattr("wsiseg.evaluate.matching._SOLVED_AT_ONCE", 1)
    assert overlap.iou[metrics.one_to_one(overlap)].sum() == pytest.approx(overlap.iou[at_once].sum())


values = hnp.arrays(np.float32, (4, 5), elements=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))


@settings(max_examples=100, deadline=None)
@given(truth=hnp.arrays(bool, (4, 5)), probability=values)
def test_auc_against_every_pair_of_pixels(truth: np.ndarray, probability: np.ndarray) -> None:
    area = metrics.auc(truth, probability)
    if truth.all() or not truth.any():
        assert area is None
        return
    inside, outside = probability[truth][:, None], probability[~truth][None]
    assert area == pytest.approx(((inside > outside) + 0.5 * (inside == outside)).mean())


def test_auc_of_a_saturated_map_is_no_accident_of_order() -> None:
    truth = np.arange(100).reshape(10, 10) >= 50
    assert metrics.auc(truth, np.full((10, 10), 255, np.uint8)) == 0.5
    assert metrics.auc(truth, truth.astype(np.uint8)) == 1.0
    assert metrics.auc(truth, ~truth) == 0.0
    with pytest.raises(ValueError, match="not numbers"):
        metrics.auc(truth, np.full((10, 10), np.nan))
    with pytest.raises(ValueError, match="shape"):
        metrics.auc(truth, np.zeros((10, 9)))


def test_average_hausdorff_worked_by_hand() -> None:
    truth, pred = np.zeros((20, 30), int), np.zeros((20, 30), int)
    truth[4:7, 5] = 1
    pred[4:7, 9] = 1  # four to the right: every distance is 4
    assert metrics.average_hausdorff(truth, pred) == 4
    pred[15, 9] = 2  # its nearest is (6, 5)
    back = (4 + 4 + 4 + np.hypot(9, 4)) / 4
    assert metrics.average_hausdorff(truth, pred) == pytest.approx((4 + back) / 2)
    nothing = np.zeros_like(truth)
    assert metrics.average_hausdorff(nothing, nothing) == 0
    assert metrics.average_hausdorff(truth, nothing) == pytest.approx(np.hypot(20, 30))
    assert metrics.average_hausdorff(nothing, truth) == pytest.approx(np.hypot(20, 30))


@settings(max_examples=100, deadline=None)
@given(truth=hnp.arrays(bool, (5, 6)), pred=hnp.arrays(bool, (5, 6)))
def test_average_hausdorff_against_every_pair_of_points(truth: np.ndarray, pred: np.ndarray) -> None:
    first, second = _edge(truth), _edge(pred)
    distance = metrics.average_hausdorff(truth, pred)
    assert distance == metrics.average_hausdorff(pred, truth)
    if not first or not second:
        assert distance == (np.hypot(5, 6) if first or second else 0)
        return
    table = np.array([[np.hypot(a - c, b - d) for c, d in second] for a, b in first])
    assert distance == pytest.approx((table.min(axis=1).mean() + table.min(axis=0).mean()) / 2)


def test_summary_of_few_images() -> None:
    assert metrics.summarize([]) == metrics.Summary(0, None, None, None, None)
    assert metrics.summarize([None, 0.5]) == metrics.Summary(1, 0.5, None, None, None)
    same = metrics.summarize([0.25, 0.25, 0.25])
    assert (same.mean, same.sd, same.low, same.high) == (0.25, 0.0, 0.25, 0.25)


def test_interval_is_the_exact_bootstrap_distribution() -> None:
    """Of two values the resampled mean is the low one, the middle or the high one: ¼, ½, ¼."""
    summary = metrics.summarize([0.0, 1.0], confidence=0.44)
    assert (summary.low, summary.high) == (0.5, 0.5)
    assert summary.sd == pytest.approx(np.sqrt(0.5))
    wide = metrics.summarize([0.0, 1.0], confidence=0.56)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_interval_holds_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    summaries = [metrics.summarize(list(rng.normal(0.5, 0.1, 30))) for _ in range(100)]
    held = sum(s.low <= 0.5 <= s.high for s in summaries if s.low is not None and s.high is not None)
    assert 86 <= held <= 99
    again = list(rng.random(12))
    assert metrics.summarize(again) == metrics.summarize(again)
    assert metrics.summarize(again, seed=1) != metrics.summarize(again)


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


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), far=st.sampled_from([0.0, 1e5]), stray=st.booleans())
def test_polygon_overlaps_against_shapely(seed: int, far: float, stray: bool) -> None:
    """Every pair that shares area is found, whatever the sizes and wherever the polygons lie."""
    rng = np.random.default_rng(seed)
    truth, pred = _stars(rng, int(rng.integers(1, 30)), far), _stars(rng, int(rng.integers(1, 30)), far)
    if stray:  # one enormous polygon and one far away must neither break the grid nor hide the others
        square = _squares([(0, 0)], 4000)
        truth = Nuclei.concatenate([truth, square.translate(far, far)])
        pred = Nuclei.concatenate([pred, square.translate(far - 1e6, far)])
    table = shapely.area(shapely.intersection(truth.geometry()[:, None], pred.geometry()[None]))
    overlap = metrics.polygon_overlap(truth, pred)
    got = np.zeros_like(table)
    got[overlap.truth, overlap.pred] = overlap.shared
    assert len(overlap.truth) == np.count_nonzero(got)
    np.testing.assert_allclose(got, table, atol=1e-6)
    full, pruned = metrics.detection(overlap, 0.4), metrics.match_polygons(truth, pred, 0.4)
    assert (full.tp, full.fp, full.fn) == (pruned.tp, pruned.fp, pruned.fn)


def test_polygons_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    truth, pred = _stars(rng, 60, 0.0), _stars(rng, 60, 0.0)
    whole = metrics.polygon_overlap(truth, pred)
    monkeypatch.setattr("wsiseg.core.overlap._BLOCK", 7)
    parts = metrics.polygon_overlap(truth, pred)
    assert len(whole.truth) > 7
    np.testing.assert_array_equal(whole.shared, parts.shared)


def test_polygons_have_every_score_but_accuracy() -> None:
    rng = np.random.default_rng(3)
    boxes = [(x, y) for x in range(0, 200, 20) for y in range(0, 200, 20)]
    moved = [(x + int(rng.integers(0, 9)), y + int(rng.integers(0, 9))) for x, y in boxes][:-7]
    truth, pred = _squares(boxes, 10), _squares(moved, 10)
    drawn = metrics.evaluate(_paint(boxes, 10), _paint(moved, 10)).to_dict()
    exact = metrics.score(metrics.polygon_overlap(truth, pred)).to_dict()
    assert exact.pop("accuracy") is None
    known = metrics.score(metrics.polygon_overlap(truth, pred, total=240.0**2)).to_dict()
    assert known == pytest.approx(drawn)
    drawn.pop("accuracy")
    assert exact == pytest.approx(drawn)


def test_polygons_without_area_are_no_error() -> None:
    line = Nuclei(np.array([[0.0, 0], [5, 5], [9, 9]]), np.array([0, 3]))
    assert metrics.score(metrics.polygon_overlap(line, line)).dice == 0.0


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


def _stars(rng: np.random.Generator, count: int, far: float) -> Nuclei:
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radius = rng.uniform(2, 30, (count, 1)) * rng.uniform(0.5, 1.0, (count, 12))
    centre = rng.uniform(0, 200, (count, 1, 2)) + far
    vertices = centre + radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return Nuclei(vertices.reshape(-1, 2), np.arange(count + 1, dtype=np.int64) * 12)


def _edge(mask: np.ndarray) -> list[tuple[int, int]]:
    padded = np.pad(mask, 1)
    points = []
    for i, j in np.argwhere(mask):
        beside = padded[i, j + 1], padded[i + 2, j + 1], padded[i + 1, j], padded[i + 1, j + 2]
        if not all(beside):
            points.append((i, j))
    return points


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
    names = (
        "dice",
        "iou",
        "dice2",
        "aji",
        "aji_plus",
        "f1",
        "pq",
        "pixel_precision",
        "pixel_recall",
        "object_dice",
    )
    accuracy = {"accuracy": ((truth > 0) == (pred > 0)).mean()}
    if len(ts) == 0 or len(ps) == 0:
        return dict.fromkeys(names, float(len(ts) == len(ps))) | accuracy
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
    return accuracy | {
        "aji_plus": _brute_aji_plus(truth, pred, ts, ps, table),
        "pixel_precision": both / (pred > 0).sum(),
        "pixel_recall": both / (truth > 0).sum(),
        "object_dice": (_one_side(truth, pred) + _one_side(pred, truth)) / 2,
        "dice": 2 * both / ((truth > 0).sum() + (pred > 0).sum()),
        "iou": both / either,
        "dice2": 2 * inter / sizes if pairs else 0.0,
        "aji": numerator / denominator,
        "f1": f1,
        "pq": f1 * (matched.mean() if len(matched) else 0.0),
    }


def _one_side(own: np.ndarray, other: np.ndarray) -> float:
    """The object Dice of one side as its definition reads."""
    total = 0.0
    for t in np.setdiff1d(np.unique(own), [0]):
        best = (0, 0.0)
        for p in np.setdiff1d(np.unique(other[own == t]), [0]):
            shared = int(((own == t) & (other == p)).sum())
            best = max(best, (shared, 2 * shared / ((own == t).sum() + (other == p).sum())))
        total += (own == t).sum() / (own > 0).sum() * best[1]
    return total


def _brute_aji_plus(
    truth: np.ndarray, pred: np.ndarray, ts: np.ndarray, ps: np.ndarray, table: np.ndarray
) -> float:
    """The score of the pairing taken, which must be one of the best: several may have the same total IoU."""
    overlap = metrics.label_overlap(truth, pred)
    rows = metrics.one_to_one(overlap)
    pairs = list(zip(overlap.truth[rows].tolist(), overlap.pred[rows].tolist(), strict=True))
    assert sum(table[i, j] for i, j in pairs) == pytest.approx(_best_assignment(table))
    shared = sum(((truth == ts[i]) & (pred == ps[j])).sum() for i, j in pairs)
    union = sum(((truth == ts[i]) | (pred == ps[j])).sum() for i, j in pairs)
    missed = sum((truth == t).sum() for i, t in enumerate(ts) if i not in {i for i, _ in pairs})
    unused = sum((pred == p).sum() for j, p in enumerate(ps) if j not in {j for _, j in pairs})
    return float(shared / (union + missed + unused))
