"""Microns per pixel that nuclei contradict."""

from __future__ import annotations

import numpy as np
import pytest

from wsiseg.qc.scale import scale_notes


@pytest.mark.parametrize(
    ("area", "said"),
    [(28.0, ""), (15.0, ""), (55.0, ""), (112.0, "2.0 times too large"), (7.0, "2.0 times too small")],
)
def test_nuclei_of_no_tissue_question_the_scale(area: float, said: str) -> None:
    verdicts = {"nuclei": np.array([80.0, 80.0, 0.0]), "area_log": np.log([area, area, np.nan])}
    notes = scale_notes(verdicts)
    assert len(notes) == bool(said)
    assert all(said in note and "microns per pixel are probably wrong" in note for note in notes)


def test_few_nuclei_question_nothing() -> None:
    assert scale_notes({"nuclei": np.array([99.0]), "area_log": np.log([200.0])}) == []
    assert scale_notes({"reason": np.array([], dtype=str)}) == []


def test_patches_count_by_their_nuclei() -> None:
    one_dense = {"nuclei": np.array([500.0, 6.0, 6.0, 6.0]), "area_log": np.log([30.0, 150.0, 150.0, 150.0])}
    assert scale_notes(one_dense) == []
