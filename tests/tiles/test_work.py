"""What a tile reads: as much as its nuclei need, and they are those of the whole tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.plan import SlidePlan
from wsiseg.testing import write_slide
from wsiseg.testing.runs import run
from wsiseg.tiles import work
from wsiseg.tissue import Tissue


@pytest.mark.parametrize("roi", [None, (700, 400, 500, 300)])
def test_a_tile_that_reads_less_where_there_is_no_tissue_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roi: tuple[int, int, int, int] | None
) -> None:
    slide = tmp_path / "drawn.svs"
    write_slide(slide, width=2000, height=1600, layout="tissue", seed=2)
    read_window, areas = work.read_window, {"whole": 0, "wanted": 0}

    def whole_and_wanted(plan: SlidePlan, tissue: Tissue, tile: int) -> work.Window:
        areas["whole"] += plan.grid.read(tile).area
        areas["wanted"] += read_window(plan, tissue, tile).area
        return plan.grid.read(tile)

    assert run([slide], tmp_path / "wanted", tile=512, roi=roi)[0].exit_code == 0
    monkeypatch.setattr(work, "read_window", whole_and_wanted)
    assert run([slide], tmp_path / "whole", tile=512, roi=roi)[0].exit_code == 0
    wanted, whole = (read_nuclei(tmp_path / name / "drawn" / "nuclei.parquet") for name in ("wanted", "whole"))
    assert len(whole) > 20
    assert np.array_equal(wanted.offsets, whole.offsets)
    assert np.array_equal(wanted.vertices, whole.vertices)
    for name, column in whole.columns.items():
        np.testing.assert_allclose(wanted.columns[name], column, rtol=1e-5, atol=1e-6)
    assert areas["wanted"] < areas["whole"]
