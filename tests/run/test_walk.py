"""The design page's two walks are the ones that a slide and a tile take."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import wsiseg
from wsiseg.qc.judge import load_judge
from wsiseg.testing import write_slide
from wsiseg.tiles import work

PACKAGE = str(Path(wsiseg.__file__).parent) + os.sep


@contextmanager
def entered(modules: list[str]) -> Iterator[None]:
    """Note the modules of the package in the order in which a function of theirs is first called."""

    known: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # Bodies of modules and classes, and comprehensions in them, run when they are imported, whoever is first.
        body = code.co_name.startswith("<") or not code.co_flags & inspect.CO_OPTIMIZED
        if event != "call" or body or code.co_filename in known:
            return
        known.add(code.co_filename)
        if code.co_filename.startswith(PACKAGE):
            modules.append(code.co_filename.removeprefix(PACKAGE).removesuffix(".py"))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What a slide of one tile enters, and its tile."""
    folder = tmp_path_factory.mktemp("walk")
    load_judge.cache_clear()  # it is entered where a slide first asks for it, whatever tests did before
    write_slide(folder / "a.svs", width=768, height=768, seed=1)
    slide: list[str] = []
    tile: list[str] = []
    segment_tile: Callable[..., Any] = work._segment_tile

    def of_a_tile(*arguments: Any) -> Any:
        with entered(tile):
            return segment_tile(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_segment_tile", of_a_tile)
        with entered(slide):
            wsiseg.segment(folder / "a.svs", folder / "out", workers=0, progress=False)
    return {"slide": slide, "tile": tile}


@pytest.mark.parametrize("whose", ["slide", "tile"])
def test_the_walk_on_the_page_is_the_walk(whose: str, walks: dict[str, list[str]], repository: Path) -> None:
    page = (repository / "docs" / "design.md").read_text("utf-8")
    block = re.search(rf"\*\*The walk of one {whose}\*\*.*?\n\n((?:    .*\n)+)", page)
    assert block is not None
    said = [name.strip() for name in block[1].replace("\n", " ").split("→")]
    assert len(set(said)) == len(said)
    assert [name for name in walks[whose] if name in said] == said
