"""The tissue that a slide's tasks share."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from wsiseg.core.sealed import read_sealed, write_sealed
from wsiseg.errors import DamagedFile
from wsiseg.results.tissuefile import load_tissue, save_tissue
from wsiseg.slide import open_slide
from wsiseg.testing import write_slide
from wsiseg.tissue import find_tissue


def test_what_another_version_wrote_is_damage(tmp_path: Path) -> None:
    """A run that was begun before an update begins again; it does not fail."""
    write_slide(tmp_path / "s.svs", width=512, height=512, layout="dense", seed=1)
    with open_slide(tmp_path / "s.svs") as slide:
        tissue = find_tissue(slide)
    save_tissue(tmp_path / "t.npz", tissue)
    assert (load_tissue(tmp_path / "t.npz").mask == tissue.mask).all()
    with np.load(io.BytesIO(read_sealed(tmp_path / "t.npz"))) as file:
        arrays = {name: file[name] for name in file.files if name != "core"}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_sealed(tmp_path / "t.npz", buffer.getvalue())
    with pytest.raises(DamagedFile, match="of another version"):
        load_tissue(tmp_path / "t.npz")
