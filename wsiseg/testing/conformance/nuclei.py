"""What is true of nuclei wherever they come from; the suites of decoders, segmenters and formats share it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy.spatial import cKDTree

from wsiseg.core.nuclei import Nuclei


def check_polygons(nuclei: Nuclei, width: int, height: int) -> None:
    """Simple polygons with an area, in finite coordinates, inside an image of ``width`` × ``height`` pixels."""
    assert np.isfinite(nuclei.vertices).all()
    assert (np.diff(nuclei.offsets) >= 3).all()
    assert shapely.is_valid(nuclei.geometry()).all()
    assert (nuclei.areas() > 0).all()
    assert (nuclei.vertices >= 0).all()
    assert (nuclei.vertices <= (width, height)).all()


def check_scores(nuclei: Nuclei) -> None:
    """One ``score`` a nucleus, a probability."""
    check_probabilities(nuclei.columns["score"])


def check_probabilities(values: npt.NDArray[Any]) -> None:
    """float32, from 0 to 1."""
    assert values.dtype == np.float32
    assert ((values >= 0) & (values <= 1)).all()


def check_equal(one: Nuclei, other: Nuclei) -> None:
    """The same nuclei in the same order with the same columns, bit for bit."""
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.vertices, other.vertices)
    assert list(one.columns) == list(other.columns)
    for name, column in one.columns.items():
        assert column.dtype == other.columns[name].dtype
        np.testing.assert_array_equal(column, other.columns[name])


def far_inside(nuclei: Nuclei, box: tuple[float, float, float, float], margin: float) -> Nuclei:
    """Those at least ``margin`` inside of x0, y0, x1, y1."""
    bounds = nuclei.bounds()
    low, high = np.array(box[:2]) + margin, np.array(box[2:]) - margin
    return nuclei.take((bounds[:, :2] >= low).all(axis=1) & (bounds[:, 2:] <= high).all(axis=1))


def check_found(nuclei: Nuclei, among: Nuclei, moved_px: float) -> None:
    """Each of ``nuclei`` is one of ``among``: a centroid within ``moved_px``, and an area to a twentieth."""
    if len(nuclei) == 0:
        return
    distance, nearest = cKDTree(among.centroids()).query(nuclei.centroids())
    assert distance.max() <= moved_px
    np.testing.assert_allclose(among.areas()[nearest], nuclei.areas(), rtol=0.05)
