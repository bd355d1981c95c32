"""The area of outlines that cross: right where it is affordable, refused where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from wsiseg.core import union
from wsiseg.core.union import TooIntricate, covered_area


def area(*polygons: shapely.Geometry) -> float:
    covered = covered_area(np.array(polygons, dtype=object))
    assert covered.is_valid
    assert covered.geom_type in ("Polygon", "MultiPolygon")
    return float(covered.area)


def scribble(corners: int, seed: int = 0) -> shapely.Polygon:
    return shapely.Polygon(np.random.default_rng(seed).random((corners, 2)) * 1000)


def test_outlines_that_cross_are_split_and_holes_stay_holes() -> None:
    assert area(shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])) == pytest.approx(50)
    square = [(0, 0), (10, 0), (10, 10), (0, 10)]
    beside, across = [(20, 0), (30, 0), (30, 10)], [(5, 5), (15, 5), (15, 8), (5, 8)]
    assert area(shapely.Polygon(square, [beside])) == pytest.approx(100)
    assert area(shapely.Polygon(square, [across])) == pytest.approx(85)
    crossing = [[(2, 2), (6, 2), (6, 6), (2, 6)], [(4, 4), (8, 4), (8, 8), (4, 8)]]
    assert area(shapely.Polygon(square, crossing)) == pytest.approx(100 - 28)
    line = covered_area(np.array([shapely.Polygon([(0, 0), (1, 1), (2, 2)])], dtype=object))
    assert line.is_empty


def test_an_outline_with_many_crossings_is_what_a_geometry_library_makes_of_it() -> None:
    drawn = scribble(60)
    assert area(drawn) == pytest.approx(shapely.make_valid(drawn).area)


def test_overlapping_areas_are_joined_whichever_way_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    centres = np.random.default_rng(1).random((301, 2)) * 1000
    discs = shapely.buffer(shapely.points(centres), 40)
    at_once = area(*discs)
    assert at_once == pytest.approx(shapely.union_all(discs).area)
    monkeypatch.setattr(union, "MOST_CROSSINGS", 1000)  # all together have some 3,500
    assert area(*discs) == pytest.approx(at_once)


def test_neighbours_that_share_edges_are_no_crossings() -> None:
    assert area(*(shapely.box(i, j, i + 1, j + 1) for i in range(40) for j in range(40))) == pytest.approx(1600)


def test_many_corners_without_crossings_are_affordable() -> None:
    turn = np.linspace(0, 2 * np.pi, 200_001)[:-1]
    assert area(shapely.Polygon(np.c_[np.cos(turn), np.sin(turn)] * 1000)) == pytest.approx(np.pi * 1e6, rel=1e-6)


@pytest.mark.parametrize("corners", [1500, 6000, 50_000])
def test_a_scribble_is_refused(corners: int) -> None:
    with pytest.raises(TooIntricate, match="more than 20,000"):
        area(scribble(corners))


def test_bars_that_make_a_grid_of_holes_are_refused() -> None:
    bars = [shapely.box(0, 2 * i, 2000, 2 * i + 1) for i in range(1000)]
    with pytest.raises(TooIntricate):
        area(*bars, *(shapely.box(2 * i, 0, 2 * i + 1, 2000) for i in range(1000)))


def test_edges_on_one_line_or_through_one_point_are_refused() -> None:
    there_and_back = np.c_[np.tile([0.0, 100.0], 3000) + np.arange(6000) * 0.001, np.zeros(6000)]
    turn = np.linspace(0, 6, 3000)
    spikes = np.stack([0 * turn, np.cos(turn), np.cos(turn + 1e-4), 0 * turn, np.sin(turn), np.sin(turn + 1e-4)], 1)
    for ring in (np.vstack([there_and_back, [[50, 50]]]), spikes.reshape(-1, 2, 3).swapaxes(1, 2).reshape(-1, 2)):
        with pytest.raises(TooIntricate):
            area(shapely.Polygon(ring))
