"""The lines of other programs' tiles: found where they cut nuclei, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.results.notes import seam_notes
from wsiseg.stitch.cuts import NO_SEAMS, CutLines, audit_cuts

SIDE, PITCH = 4000, 500
WHOLE = Box(0, 0, SIDE, SIDE)


@pytest.fixture(scope="module")
def discs() -> Nuclei:
    """Discs that keep apart all over the slide, whatever lines there are."""
    rng = np.random.default_rng(0)
    cells = np.stack(np.meshgrid(np.arange(0, SIDE, 47), np.arange(0, SIDE, 47)), axis=-1).reshape(-1, 2)
    centres = cells + rng.uniform(16, 31, cells.shape)
    return Nuclei.from_geometry(shapely.buffer(shapely.points(centres), rng.uniform(6, 15, len(cells))))


def cut(nuclei: Nuclei, x: float, y: float, gap: float = 0.0) -> Nuclei:
    """The pieces of nuclei in tiles with a corner at x, y, which end ``gap`` before their right and lower edge."""
    polygons, pieces = nuclei.geometry(), []
    tree = shapely.STRtree(polygons)
    for top in np.arange(y % PITCH - PITCH, SIDE, PITCH):
        for left in np.arange(x % PITCH - PITCH, SIDE, PITCH):
            tile = shapely.box(left, top, left + PITCH - gap, top + PITCH - gap)
            parts = shapely.get_parts(shapely.intersection(polygons[tree.query(tile)], tile))
            pieces.append(parts[shapely.area(parts) > 10])
    return Nuclei.from_geometry(np.concatenate(pieces))


@pytest.mark.parametrize(("x", "y", "gap"), [(0, 0, 0), (1, 1, 0), (1, 1, 1), (123, 77, 0)])
def test_cut_nuclei_are_found_on_the_lines_that_cut_them(discs: Nuclei, x: int, y: int, gap: float) -> None:
    seams = audit_cuts([cut(discs, x, y, gap)], CutLines(PITCH, x, y), WHOLE, 40.0)
    assert seams.straight_edge_ratio is not None
    assert seams.straight_edge_ratio > 4
    assert seams.density_ratio is not None
    assert seams.density_ratio > 1.1  # of one nucleus there are two
    assert "cut at the seams" in seam_notes(seams)[0]


def test_whole_nuclei_and_other_lines_show_nothing(discs: Nuclei) -> None:
    for nuclei, lines in ((discs, CutLines(PITCH, 1, 1)), (cut(discs, 0, 0), CutLines(PITCH, 100, 60))):
        seams = audit_cuts([nuclei], lines, WHOLE, 40.0)
        assert seams.straight_edge_ratio is not None
        assert seams.straight_edge_ratio < 2
        assert seam_notes(seams) == []
    assert seam_notes(NO_SEAMS) == []


def test_the_audit_does_not_depend_on_the_parts(discs: Nuclei) -> None:
    lines, nuclei = CutLines(PITCH, 1, 1), cut(discs, 1, 1)
    parts = [nuclei.take(rows) for rows in np.array_split(np.random.default_rng(1).permutation(len(nuclei)), 7)]
    assert audit_cuts(parts, lines, WHOLE, 40.0) == audit_cuts([nuclei], lines, WHOLE, 40.0)


def test_the_slides_edge_is_no_seam(discs: Nuclei) -> None:
    box = shapely.box(0, 0, SIDE, SIDE)
    beyond = shapely.intersection(discs.translate(-25, -25).geometry(), box)
    nuclei = Nuclei.from_geometry(beyond[shapely.area(beyond) > 10])
    seams = audit_cuts([nuclei], CutLines(PITCH), WHOLE, 40.0)
    assert seams.straight_edge_ratio is not None
    assert seams.straight_edge_ratio < 2
