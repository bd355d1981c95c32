"""What is stated beforehand against what is so afterwards; nothing is left of the trial."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from wsiseg.errors import SlideError
from wsiseg.results.record import SegmentedRecord
from wsiseg.run.estimate import estimate_slide
from wsiseg.testing import write_slide
from wsiseg.testing.runs import CLASSICAL, run
from wsiseg.tiles.request import SegmentOptions


def test_an_estimate_is_of_the_run_that_follows(tmp_path: Path) -> None:
    slide = tmp_path / "s.svs"
    write_slide(slide, width=1024, height=768, layout="dense", seed=4)
    found = estimate_slide(slide, SegmentOptions(CLASSICAL, tile=256), device="cpu", workers=2)
    (record,) = run([slide], tmp_path / "out", tile=256)[0].records
    assert isinstance(record, SegmentedRecord)
    assert (found.tiles, found.tile_px) == (record.tiles.done, 256)
    assert found.tissue_mm2 == record.tissue_mm2
    assert found.mpp == record.specification["mpp_effective"]
    assert 0 < found.seconds_low < found.seconds < found.seconds_high
    assert sum(found.activities.values()) == pytest.approx(1.0)
    assert 100 < found.memory_mib < 20_000
    assert 0.3 < found.disk_mib / (sum(note["bytes"] for note in record.files.values()) / 2**20) < 30


def test_an_estimate_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide, temporary = tmp_path / "s.svs", tmp_path / "temporary"
    write_slide(slide, width=512, height=512, layout="dense", seed=4)
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    estimate_slide(slide, SegmentOptions(CLASSICAL), device="cpu", workers=1)
    assert not list(temporary.iterdir())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["s.svs"]


def test_where_there_is_no_tile_none_is_tried(tmp_path: Path) -> None:
    Image.new("RGB", (600, 600), (255, 255, 255)).save(tmp_path / "glass.png")
    nothing = estimate_slide(tmp_path / "glass.png", SegmentOptions(CLASSICAL, mpp=0.5), device="cpu", workers=2)
    assert (nothing.tiles, nothing.tile_s, nothing.activities) == (0, 0.0, {})


def test_what_is_no_slide_has_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_bytes(b"not a slide")
    with pytest.raises(SlideError):
        estimate_slide(tmp_path / "bad.svs", SegmentOptions(CLASSICAL), device="cpu", workers=1)
