"""Counts by minor axis."""

from __future__ import annotations

import numpy as np
import pytest

from wsiseg.core.overlap import label_overlap
from wsiseg.errors import UsageError
from wsiseg.evaluate.compare import evaluate_sets
from wsiseg.evaluate.widths import add_bins, minor_axes, width_bins
from wsiseg.interop.snow import write_image


def ellipses(*each: tuple[float, float, float, float, float], shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Labels of ellipses (x, y, semi-major, semi-minor, angle)."""
    labels = np.zeros(shape, dtype=np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for n, (cx, cy, a, b, angle) in enumerate(each, 1):
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        labels[(u / a) ** 2 + (v / b) ** 2 <= 1] = n
    return labels


def test_the_axis_of_an_ellipse_whatever_its_angle() -> None:
    labels = ellipses((40, 40, 20, 6, 0.0), (110, 60, 24, 9, 0.7))
    assert minor_axes(labels, 0.25) == pytest.approx([3.0, 4.5], rel=0.03)
    assert minor_axes(labels * 7, 0.5) == pytest.approx([6.0, 9.0], rel=0.03)


def test_one_pixel_has_an_extent_and_an_empty_image_no_objects() -> None:
    one = np.zeros((4, 4), dtype=np.int32)
    assert len(minor_axes(one, 0.25)) == 0
    one[2, 2] = 9
    assert minor_axes(one, 1.0) == pytest.approx([4 / np.sqrt(12)])


def test_counts_fall_into_the_bins_of_their_own_widths() -> None:
    # µm at 0.25: 2.0 found, 2.0 missed, 3.0 touched but not matched, 10 found
    thin, missed, bad, large = (
        (30, 15, 20, 4, 0.0),
        (30, 40, 20, 4, 0.0),
        (30, 70, 20, 6, 0.0),
        (110, 60, 24, 20, 0.0),
    )
    truth = ellipses(thin, missed, bad, large)
    pred = ellipses(thin, (60, 70, 20, 10, 0.0), large)
    bins = width_bins(truth, pred, label_overlap(truth, pred), 0.25)
    assert [(b.true, b.matched, b.untouched) for b in bins] == [(2, 1, 1), (1, 0, 0), (0, 0, 0), (1, 1, 0)]
    assert [(b.found, b.correct) for b in bins] == [(1, 1), (0, 0), (0, 0), (2, 1)]
    assert (bins[0].recall, bins[0].untouched_share, bins[2].recall, bins[3].precision) == (0.5, 0.5, None, 0.5)
    both = add_bins([bins, (), bins])
    assert [b.true for b in both] == [4, 2, 0, 2]
    assert both[3].high_um is None


def test_folders_are_counted_on_request(tmp_path) -> None:
    labels = ellipses((40, 40, 20, 4, 0.3), (110, 60, 24, 20, 0.7)).astype(np.uint8)
    for side in ("truth", "pred"):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            write_image(tmp_path / side / f"{name}.png", labels)
    plain = evaluate_sets(tmp_path / "truth", tmp_path / "pred")
    assert plain.widths == ()
    counted = evaluate_sets(tmp_path / "truth", tmp_path / "pred", width_mpp=0.25)
    assert [b.true for b in counted.widths] == [2, 0, 0, 2]
    assert counted.summary == plain.summary
    assert counted.to_dict()["widths"][0]["matched"] == 2
    with pytest.raises(UsageError, match="--by-width"):
        evaluate_sets(tmp_path / "truth", tmp_path / "pred", width_mpp=0.0)
