"""The second opinion: what agreement and its kinds are, and that a patch's place decides nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.core.geometry import Box, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.models.resident import resident_segmenter
from wsiseg.qc.opinion import (
    KINDS,
    MARGIN_UM,
    OPINION,
    OPINION_MPP,
    WINDOW_UM,
    Seen,
    compare,
    error_map,
    opinion_choice,
    second_opinion,
    seen_window,
)
from wsiseg.slide import open_slide
from wsiseg.testing import write_slide

Labels = npt.NDArray[np.int32]
SCORE = np.full(9, 0.9, dtype=np.float32)


def said_of(
    own: Labels, opinion: Labels, score: npt.NDArray[np.float32], wanted: npt.NDArray[np.bool_]
) -> dict[str, float]:
    height, width = own.shape
    return compare(Seen(Box(0, 0, width, height), own, opinion, score, wanted))


def boxes(*corners: tuple[int, int, int, int]) -> Labels:
    """Labels 1 … N of rectangles y0, y1, x0, x1 in an image of 60²."""
    labels = np.zeros((60, 60), dtype=np.int32)
    for name, (y0, y1, x0, x1) in enumerate(corners, start=1):
        labels[y0:y1, x0:x1] = name
    return labels


ONE, TWO = (10, 20, 10, 20), (10, 20, 30, 40)


@pytest.mark.parametrize(
    ("own", "opinion", "kind", "share"),
    [
        (boxes(ONE), boxes(ONE, TWO), "missed", 0.5),
        (boxes(ONE, TWO), boxes(ONE), "false", 0.5),
        (boxes((10, 20, 10, 40)), boxes(ONE, TWO), "merged", 1.0),
        (boxes(ONE, (10, 20, 20, 30)), boxes((10, 20, 10, 30)), "split", 1.0),
        (boxes((10, 20, 10, 25)), boxes(ONE), "outline", 1 / 3),
    ],
)
def test_each_kind_of_disagreement_has_its_share(own: Labels, opinion: Labels, kind: str, share: float) -> None:
    said = said_of(own, opinion, SCORE, np.ones(own.shape, dtype=bool))
    assert said[f"share_{kind}"] == pytest.approx(share)
    assert all(said[f"share_{other}"] == 0 for other in KINDS if other != kind)
    assert said["agreement"] < 1
    where = error_map(own, opinion, np.ones(own.shape, dtype=bool))
    assert set(np.unique(where)) == {0, KINDS.index(kind) + 1}
    assert (where > 0).sum() == pytest.approx(share * ((own > 0) | (opinion > 0)).sum())


def test_the_same_outlines_agree_whatever_their_numbers_are() -> None:
    said = said_of(boxes(ONE, TWO), boxes(TWO, ONE), SCORE, np.ones((60, 60), dtype=bool))
    assert said == {
        "agreement": 1.0,
        **{f"share_{kind}": 0.0 for kind in KINDS},
        "opinion_score": pytest.approx(0.9),
    }


def test_what_lies_outside_the_tissue_does_not_count() -> None:
    wanted = np.ones((60, 60), dtype=bool)
    wanted[:, 25:] = False
    assert said_of(boxes(ONE), boxes(ONE, TWO), SCORE, wanted)["agreement"] == 1.0


def test_where_neither_finds_a_nucleus_nothing_is_said() -> None:
    said = said_of(boxes(), boxes(), SCORE, np.ones((60, 60), dtype=bool))
    assert set(said) == set(OPINION)
    assert np.isnan(list(said.values())).all()
    alone = said_of(boxes(), boxes(ONE), SCORE, np.ones((60, 60), dtype=bool))
    assert (alone["agreement"], alone["share_missed"]) == (0.0, 1.0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_shares_are_shares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, opinion = (np.kron(rng.integers(0, 8, (12, 12)), np.ones((5, 5))).astype(np.int32) for _ in range(2))
    said = said_of(own, opinion, SCORE, rng.random((60, 60)) < 0.9)
    assert all(0 <= said[name] <= 1 for name in OPINION)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 900), st.integers(1, 900))
def test_the_middle_of_a_patch_lies_in_it(x: int, y: int, width: int, height: int) -> None:
    patch = Window(x, y, width, height)
    seen = seen_window(patch)
    assert seen.intersection(patch) == seen
    assert seen.width == min(width, round(WINDOW_UM / OPINION_MPP))


def test_the_network_finds_drawn_nuclei_in_the_view_and_a_window_at_the_border_is_continued(tmp_path: Path) -> None:
    truth = write_slide(tmp_path / "s.svs", width=1024, height=1024, layout="dense", seed=3)
    segmenter = resident_segmenter(opinion_choice("cpu", None))
    with open_slide(tmp_path / "s.svs") as slide:
        scale = slide.scale(OPINION_MPP)
        whole = Window(0, 0, *slide.lattice(scale).whole)
        image = slide.read_window(whole, scale)
    drawn = truth.nuclei
    small = Nuclei(scale.from_level0(drawn.vertices), drawn.offsets)
    labels = rasterize(small, np.arange(1, len(small) + 1), whole.shape)
    margin = round(MARGIN_UM / OPINION_MPP)
    for window in (Window(100, 90, 150, 160), Window(0, 0, 140, 150), Window(whole.x1 - 130, 100, 130, 120)):
        read = window.pad(margin).intersection(whole)
        found, score = second_opinion(segmenter, image[read.within(whole)], read, window)
        assert found.shape == window.shape
        assert len(score) >= found.max() > 10
        said = said_of(labels[window.within(whole)], found, score, np.ones(window.shape, dtype=bool))
        assert said["agreement"] > 0.6
        moved = np.roll(labels, 8, axis=1)[window.within(whole)]
        assert said_of(moved, found, score, np.ones(window.shape, dtype=bool))["agreement"] < 0.5


def test_an_opinion_does_not_depend_on_the_threads_that_torch_has(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    write_slide(tmp_path / "s.svs", width=1024, height=1024, layout="dense", seed=6)
    segmenter, window = resident_segmenter(opinion_choice("cpu", None)), Window(60, 60, 213, 213)
    with open_slide(tmp_path / "s.svs") as slide:
        read = window.pad(round(MARGIN_UM / OPINION_MPP))
        image = slide.read_window(read, slide.scale(OPINION_MPP))
    before = torch.get_num_threads()
    try:
        said = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            said.append(second_opinion(segmenter, image, read, window))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for labels, score in said[1:]:
        assert np.array_equal(labels, said[0][0])
        assert np.array_equal(score, said[0][1])
