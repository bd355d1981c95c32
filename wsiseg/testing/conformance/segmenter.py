"""What every segmenter must pass (:class:`wsiseg.models.base.Segmenter`).

Each check takes the segmenter and an image of its scale with nuclei in it, of a side that leaves room between the
margins on both sides. A segmenter conforms when each of :data:`CHECKS` returns for it.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wsiseg.core.nuclei import Nuclei
from wsiseg.models.base import Image, Segmenter
from wsiseg.testing.conformance.nuclei import (
    check_equal,
    check_found,
    check_polygons,
    check_probabilities,
    check_scores,
    far_inside,
)

_MOVED_PX = 0.5  # a margin that was measured lets through what moves an outline by less than a pixel


def check_attributes(segmenter: Segmenter, image: Image) -> None:
    """A name, and sizes that tiles can be laid out by."""
    assert isinstance(segmenter, Segmenter)
    assert segmenter.name
    assert math.isfinite(segmenter.mpp)
    assert segmenter.mpp > 0
    assert segmenter.stride_px >= 1
    assert segmenter.margin_px >= 0
    assert math.isfinite(segmenter.max_diameter_um)
    assert segmenter.max_diameter_um > 0


def check_describe(segmenter: Segmenter, image: Image) -> None:
    """JSON with the name, the scale and the licence, and the same after work as before it.

    Names of types, where it has any, are texts of which no two are alike.
    """
    before = json.dumps(segmenter.describe(), allow_nan=False)
    told = json.loads(before)
    assert told["name"] == segmenter.name
    assert told["mpp"] == segmenter.mpp
    assert told["licence"]
    types = told.get("types", ["none", "some"])
    assert len(types) >= 2
    assert all(isinstance(name, str) and name for name in types)
    assert len(set(types)) == len(types)
    _nuclei(segmenter, image)
    assert json.dumps(segmenter.describe(), allow_nan=False) == before


def check_calibration(segmenter: Segmenter, image: Image) -> None:
    """Finite numbers by name from images that are gone through once; the same images give the same numbers.

    A slide may have no tissue, and so no image: that is no error, and its calibration serves like any other.
    """
    found = segmenter.calibrate(iter([image, image]))
    assert all(isinstance(name, str) and math.isfinite(value) for name, value in found.items())
    assert json.loads(json.dumps(found)) == found
    assert segmenter.calibrate([image, image]) == found
    assert len(segmenter.segment([image], segmenter.calibrate(iter(())))) == 1


def check_nuclei(segmenter: Segmenter, image: Image) -> None:
    """Polygons inside the image, none longer than the segmenter says, with scores and, as described, types."""
    nuclei = _nuclei(segmenter, image)
    assert len(nuclei), "the image has no nuclei: nothing is checked"
    check_polygons(nuclei, image.shape[1], image.shape[0])
    check_scores(nuclei)
    _check_types(segmenter, nuclei)
    bounds = nuclei.bounds()
    assert ((bounds[:, 2:] - bounds[:, :2]) * segmenter.mpp <= segmenter.max_diameter_um).all()


def check_nothing(segmenter: Segmenter, image: Image) -> None:
    """No images, no results; an image of glass gives an answer with the columns that every answer has."""
    calibration = segmenter.calibrate([image])
    assert segmenter.segment([], calibration) == []
    (nuclei,) = segmenter.segment([np.full_like(image, 245)], calibration)
    assert set(nuclei.columns) == set(_nuclei(segmenter, image).columns)
    check_scores(nuclei)
    _check_types(segmenter, nuclei)


def check_determinism(segmenter: Segmenter, image: Image) -> None:
    """The same image gives the same nuclei, bit for bit, again and beside another one, and is left as it was."""
    before, calibration = image.copy(), segmenter.calibrate([image])
    (alone,) = segmenter.segment([image], calibration)
    beside = segmenter.segment([image[::-1].copy(), image], calibration)
    np.testing.assert_array_equal(image, before)
    assert len(beside) == 2
    check_equal(beside[1], alone)


def check_threads(segmenter: Segmenter, image: Image) -> None:
    """Two threads at once get what one gets."""
    calibration = segmenter.calibrate([image])
    (alone,) = segmenter.segment([image], calibration)
    with ThreadPoolExecutor(2) as pool:
        for (found,) in pool.map(lambda one: segmenter.segment([one], calibration), [image, image]):
            check_equal(found, alone)


def check_margin(segmenter: Segmenter, image: Image) -> None:
    """What lies farther than the margin from a nucleus has no influence on it.

    So a window that begins elsewhere, by multiples of the stride, finds the same nuclei where it sees as much.
    """
    stride, margin = segmenter.stride_px, segmenter.margin_px
    step = -(-(margin // 4 + 1) // stride) * stride
    height, width = image.shape[:2]
    assert min(height, width) > step + 2 * margin + segmenter.max_diameter_um / segmenter.mpp, "too small an image"
    calibration = segmenter.calibrate([image])
    whole, part = segmenter.segment([image, image[step:, step:].copy()], calibration)
    seen = (float(step), float(step), float(width), float(height))
    part = part.translate(step, step)
    expected = far_inside(whole, seen, margin + 1)
    assert len(expected), "no nucleus is far enough inside: nothing is checked"
    check_found(expected, part, _MOVED_PX)
    check_found(far_inside(part, seen, margin + 1), whole, _MOVED_PX)


CHECKS = (
    check_attributes,
    check_describe,
    check_calibration,
    check_nuclei,
    check_nothing,
    check_determinism,
    check_threads,
    check_margin,
)


def _nuclei(segmenter: Segmenter, image: Image) -> Nuclei:
    (nuclei,) = segmenter.segment([image], segmenter.calibrate([image]))
    return nuclei


def _check_types(segmenter: Segmenter, nuclei: Nuclei) -> None:
    names = segmenter.describe().get("types", ())
    assert ("type" in nuclei.columns) == ("type_prob" in nuclei.columns) == bool(names)
    if names:
        assert nuclei.columns["type"].dtype == np.int16
        assert set(nuclei.columns["type"].tolist()) <= set(range(len(names)))
        check_probabilities(nuclei.columns["type_prob"])
