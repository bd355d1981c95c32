"""The file of nuclei is written beside the decisions: what goes wrong there ends the slide all the same."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import EnvironmentFault
from wsiseg.results.nuclei import NucleiWriter
from wsiseg.testing import write_slide
from wsiseg.testing.runs import run


def test_a_disk_that_gives_out_while_nuclei_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = tmp_path / "slide.svs"
    write_slide(slide, width=2048, height=2048, layout="dense", seed=3)
    run([slide], tmp_path / "whole")

    def full(writer: NucleiWriter, nuclei: Nuclei) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(NucleiWriter, "write", full)
        with pytest.raises(EnvironmentFault, match="disk is full"):
            run([slide], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("nuclei.parquet"))
    run([slide], tmp_path / "out")  # goes on from there
    whole, resumed = ((tmp_path / name / "slide" / "nuclei.parquet").read_bytes() for name in ("whole", "out"))
    assert whole == resumed
