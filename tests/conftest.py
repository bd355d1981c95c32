"""Slides that several test files share, and the real data where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiseg.testing import Truth, write_slide

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_slides() -> Path:
    """The folder of real slides; its tests are skipped where it is absent."""
    folder = SHARED / "slides"
    if not folder.is_dir():
        pytest.skip("the real slides are not beside this checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """A synthetic slide of 3072² pixels with touching nuclei on every multiple of 1024, and its truth."""
    path = tmp_path_factory.mktemp("drawn") / "drawn.svs"
    return path, write_slide(path, width=3072, height=3072, layout="seams", seed=3)
