"""A slide's edge: mirrored pixels, nuclei cut off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.core.geometry import Lattice, Scale, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.tiles.borders import cut_at_edges, mirror_beyond


def squares(*corners: tuple[float, float, float]) -> Nuclei:
    rings = [np.array([[x, y], [x, y + a], [x + a, y + a], [x + a, y]], dtype=float) for x, y, a in corners]
    offsets = np.arange(0, 4 * len(rings) + 1, 4)
    return Nuclei(np.concatenate(rings), offsets, {"score": np.arange(len(rings), dtype=np.float32)})


def on(width: float, height: float) -> Lattice:
    return Lattice(Scale(1.0), width, height, 1.0)


def window_of(lattice: np.ndarray, window: Window) -> np.ndarray:
    """The pixels of a window, white beyond."""
    out = np.full((window.height, window.width, 3), 255, np.uint8)
    common = window.intersection(Window(0, 0, lattice.shape[1], lattice.shape[0]))
    out[common.within(window)] = lattice[common.within(Window(0, 0, lattice.shape[1], lattice.shape[0]))]
    return out


@given(
    x=st.integers(-8, 20),
    y=st.integers(-8, 20),
    w=st.integers(9, 40),
    h=st.integers(9, 40),
    part=st.sampled_from([0.0, 0.4]),
)
def test_every_window_sees_the_same_mirrored_slide(x: int, y: int, w: int, h: int, part: float) -> None:
    lattice = np.random.default_rng(3).integers(0, 255, (30, 25, 3)).astype(np.uint8)
    # Eight pixels of mirror image are what any window may ask for here; a window must hold their originals.
    window = Window(x, y, min(w, 33 - x), min(h, 38 - y)).intersection(Window(-8, -8, 41, 46))
    if window.x1 < 9 or window.y1 < 9 or window.x > 16 or window.y > 21:
        return
    if window.x1 > 25 and window.x > 50 - window.x1:
        return
    if window.y1 > 30 and window.y > 60 - window.y1:
        return
    whole = np.pad(lattice, ((8, 8), (8, 8), (0, 0)), mode="symmetric")
    got = mirror_beyond(window_of(lattice, window), window, on(25 + part, 30 + part))
    np.testing.assert_array_equal(got, whole[window.y + 8 : window.y1 + 8, window.x + 8 : window.x1 + 8])


def test_an_image_on_the_slide_is_left_alone() -> None:
    image = np.zeros((5, 5, 3), np.uint8)
    assert mirror_beyond(image, Window(2, 2, 5, 5), on(7.0, 7.0)) is image


def test_a_slide_smaller_than_its_halo_is_continued_somehow() -> None:
    window = Window(-10, -10, 24, 24)
    image = window_of(np.full((4, 4, 3), 7, np.uint8), window)
    assert (mirror_beyond(image, window, on(4.0, 4.0)) == 7).all()


def test_nuclei_end_where_the_slide_ends() -> None:
    nuclei = squares((10, 10, 6), (-3, 20, 6), (47, 97, 6), (-20, 0, 6), (49.5, 0, 6))
    cut = cut_at_edges(nuclei, on(50.0, 100.0))
    assert cut.columns["score"].tolist() == [0, 1, 2]  # the last has 3 µm² on the slide, the fourth nothing
    np.testing.assert_allclose(cut.areas(), [36, 18, 9])
    assert cut.bounds().min() >= 0
    np.testing.assert_allclose(cut.bounds().max(axis=0)[2:], [50, 100])


def test_of_a_divided_nucleus_the_largest_part_stays() -> None:
    ring = np.array([[-4, 0], [4, 0], [4, 3], [-2, 3], [-2, 9], [6, 9], [6, 11], [-4, 11]], dtype=float)
    cut = cut_at_edges(Nuclei(ring, np.array([0, 8])), on(50.0, 50.0))
    assert len(cut) == 1
    assert cut.areas()[0] == pytest.approx(12)


def test_nothing_found_is_nothing_cut() -> None:
    assert len(cut_at_edges(Nuclei.empty(), on(5.0, 5.0))) == 0
