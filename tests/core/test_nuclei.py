"""Nuclei as columns: moments and bounds against shapely, selection and round trips, and none at all."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.core.geometry import Box, Scale
from wsiseg.core.nuclei import Nuclei


def stars(seed: int, count: int, where: float = 0.0) -> Nuclei:
    """Simple polygons of 3 to 40 corners around places within 1000 of ``where``, either way round."""
    rng = np.random.default_rng(seed)
    rings = []
    for _ in range(count):
        corners = int(rng.integers(3, 41))
        # One corner in each equal part of the circle: simple, and its inside holds the middle.
        angle = (np.arange(corners) + rng.uniform(0, 0.9, corners)) * 2 * np.pi / corners
        ring = rng.uniform(2, 9, (corners, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        rings.append((ring + where + rng.uniform(0, 1000, 2))[:: rng.choice([1, -1])])
    offsets = np.cumsum([0, *map(len, rings)]).astype(np.int64)
    columns = {"score": rng.random(count).astype(np.float32), "tile": rng.integers(0, 99, count)}
    return Nuclei(np.concatenate([*rings, np.empty((0, 2))]), offsets, columns)


def same(a: Nuclei, b: Nuclei) -> None:
    np.testing.assert_array_equal(a.vertices, b.vertices)
    np.testing.assert_array_equal(a.offsets, b.offsets)
    assert list(a.columns) == list(b.columns)
    for name in a.columns:
        assert a.columns[name].dtype == b.columns[name].dtype
        np.testing.assert_array_equal(a.columns[name], b.columns[name])


many = given(seed=st.integers(0, 10_000), count=st.integers(0, 30))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 30), where=st.sampled_from([0.0, 2e5, -3e3]))
def test_areas_centroids_and_bounds_are_those_of_shapely(seed: int, count: int, where: float) -> None:
    nuclei = stars(seed, count, where)
    polygons = nuclei.geometry()
    np.testing.assert_allclose(nuclei.areas(), shapely.area(polygons), rtol=1e-9)
    # Shapely loses digits far from the origin: ask it near.
    near = shapely.transform(polygons, lambda xy: xy - where)
    expected = shapely.get_coordinates(shapely.centroid(near)).reshape(-1, 2) + where
    np.testing.assert_allclose(nuclei.centroids(), expected, atol=1e-6)
    np.testing.assert_array_equal(nuclei.bounds(), shapely.bounds(polygons).reshape(-1, 4))


def test_moments_do_not_lose_digits_far_from_the_origin() -> None:
    nuclei = stars(1, 50)
    shift = 2.0**20  # exact: the vertices are on a lattice of 2^-10
    nuclei = Nuclei(np.round(nuclei.vertices * 1024) / 1024, nuclei.offsets)
    far = nuclei.translate(shift, -shift)
    np.testing.assert_array_equal(far.areas(), nuclei.areas())
    np.testing.assert_allclose(far.centroids() - [shift, -shift], nuclei.centroids(), atol=1e-9)


def test_a_ring_without_area_has_a_centroid_all_the_same() -> None:
    flat = Nuclei(np.array([[3.0, 4], [5, 4], [4, 4], [7.0, 8]]), np.array([0, 3, 4]))
    assert flat.areas().tolist() == [0, 0]
    assert flat.centroids().tolist() == [[3, 4], [7, 8]]
    assert flat.bounds().tolist() == [[3, 4, 5, 4], [7, 8, 7, 8]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 30), data=st.data())
def test_take_is_the_selection_one_by_one(seed: int, count: int, data: st.DataObject) -> None:
    nuclei = stars(seed, count)
    index = data.draw(st.lists(st.integers(0, count - 1), max_size=40)) if count else []
    taken = nuclei.take(index)
    assert len(taken) == len(index)
    for place, n in enumerate(index):
        ring = nuclei.vertices[nuclei.offsets[n] : nuclei.offsets[n + 1]]
        np.testing.assert_array_equal(taken.vertices[taken.offsets[place] : taken.offsets[place + 1]], ring)
        assert taken.columns["tile"][place] == nuclei.columns["tile"][n]
    mask = np.isin(np.arange(count), index)
    same(nuclei.take(mask), nuclei.take(np.flatnonzero(mask)))


@many
@settings(max_examples=30, deadline=None)
def test_pieces_joined_are_the_whole(seed: int, count: int) -> None:
    nuclei = stars(seed, count)
    cut = seed % (count + 1)
    pieces = [nuclei.take(np.arange(cut)), nuclei.take([]), nuclei.take(np.arange(cut, count))]
    same(Nuclei.concatenate(pieces), nuclei)


@many
@settings(max_examples=30, deadline=None)
def test_arrow_and_shapely_round_trips(seed: int, count: int) -> None:
    nuclei = stars(seed, count)
    table = nuclei.to_arrow()
    same(Nuclei.from_arrow(table), nuclei)
    same(Nuclei.from_arrow(table.slice(count // 3)), nuclei.take(np.arange(count // 3, count)))
    same(Nuclei.from_geometry(nuclei.geometry(), nuclei.columns), nuclei)


def test_take_counts_negative_indices_from_the_end_and_refuses_others() -> None:
    nuclei = stars(2, 5)
    same(nuclei.take([-1, 0]), nuclei.take([4, 0]))
    for wrong in ([5], [-6], np.ones(4, dtype=bool)):
        with pytest.raises(IndexError):
            nuclei.take(wrong)


def test_vertices_of_any_memory_layout_give_the_same() -> None:
    nuclei = stars(3, 7)
    for vertices in (np.asfortranarray(nuclei.vertices), np.repeat(nuclei.vertices, 2, axis=0)[::2]):
        other = Nuclei(vertices, nuclei.offsets, nuclei.columns)
        assert not other.vertices.flags.c_contiguous
        same(other.take([6, 1]), nuclei.take([6, 1]))
        np.testing.assert_array_equal(other.centroids(), nuclei.centroids())
        np.testing.assert_array_equal(other.bounds(), nuclei.bounds())
    locked = nuclei.vertices.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(Nuclei(locked, nuclei.offsets).areas(), nuclei.areas())


def test_no_nuclei() -> None:
    none = Nuclei.empty({"score": np.empty(3, dtype=np.float32)})
    assert len(none) == len(none.geometry()) == 0
    assert none.areas().shape == (0,)
    assert none.centroids().shape == (0, 2)
    assert none.bounds().shape == (0, 4)
    assert none.within(Box(0, 0, 1, 1)).shape == (0,)
    assert none.columns["score"].dtype == np.float32
    same(none.take([]), none)
    same(none.take(np.empty(0, dtype=bool)), none)
    same(Nuclei.concatenate([none, none]), none)
    same(Nuclei.from_arrow(none.to_arrow()), none)
    assert len(Nuclei.concatenate([])) == len(Nuclei.from_geometry([])) == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="partition"):
        Nuclei(np.zeros((4, 2)), np.array([0, 3]))
    with pytest.raises(ValueError, match="'score' has 2 rows"):
        Nuclei(np.zeros((3, 2)), np.array([0, 3]), {"score": np.zeros(2)})
    with pytest.raises(ValueError, match="different columns"):
        Nuclei.concatenate([stars(1, 2), Nuclei.empty()])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), downsample=st.floats(0.5, 8))
def test_moving_and_scaling_move_what_is_measured(seed: int, downsample: float) -> None:
    nuclei = stars(seed, 6)
    moved = nuclei.translate(5, -3).scale(Scale(downsample))
    np.testing.assert_allclose(moved.centroids(), (nuclei.centroids() + np.array([5, -3])) * downsample, rtol=1e-9)
    np.testing.assert_allclose(moved.areas(), nuclei.areas() * downsample**2, rtol=1e-8)
    box = Box(200, 200, 600, 600)
    inside = [box.x0 <= b[0] and box.y0 <= b[1] and b[2] <= box.x1 and b[3] <= box.y1 for b in nuclei.bounds()]
    assert nuclei.within(box).tolist() == inside
