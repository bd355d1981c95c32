"""What the events of a run amount to."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from wsiseg.run.board import Board
from wsiseg.run.events import Begun, Note, SlideEnded, StageStarted, Started, TilesDone


def record(status: str, grade: str = "Good", nuclei: int = 0) -> Any:
    return SimpleNamespace(
        status=status, nuclei=nuclei, grade=SimpleNamespace(grade=grade), error=SimpleNamespace(message="no image")
    )


def test_a_board_counts_what_is_counted_from_the_beginning_once() -> None:
    clock = SimpleNamespace(now=0.0)
    board = Board(lambda: clock.now)
    board.hear(Started(3))
    board.hear(Begun("a", 4))
    board.hear(TilesDone("a", 1, 4, nuclei=10, computed=0))  # of an earlier run
    clock.now = 2.0
    board.hear(TilesDone("a", 2, 4, 25, 1, failed=0, pixels=4_000_000, seconds={"read": 1.0}))
    board.hear(Begun("b", 2))
    board.hear(StageStarted("b", "stitch-row"))  # beside its tiles
    clock.now = 4.0
    board.hear(TilesDone("a", 3, 4, 25, 2, failed=1, pixels=8_000_000, seconds={"read": 1.5, "infer": 3.0}))
    board.hear(TilesDone("b", 1, 2, 5, 1, pixels=2_000_000, seconds={"read": 0.5}))
    shown = board.shown()
    assert (shown["tiles_done"], shown["tiles_total"], shown["tiles_failed"], shown["nuclei"]) == (4, 6, 1, 30)
    assert shown["seconds"] == {"read": 2.0, "infer": 3.0}
    assert shown["mpx_s"] == pytest.approx(2.5)
    assert shown["mpx_s_mean"] == pytest.approx(2.5)
    clock.now = 104.0
    board.hear(TilesDone("b", 2, 2, 5, 2, pixels=4_000_000, seconds={"read": 0.5}))
    assert board.shown()["mpx_s"] == pytest.approx(0.02)
    board.hear(StageStarted("b", "draw-thumbnail"))
    assert [row["outcome"] for row in board.shown()["rows"]] == ["tiles", "draw-thumbnail"]
    board.hear(SlideEnded("b", record("partial", nuclei=4)))
    board.hear(SlideEnded("c", record("failed")))
    board.hear(Note("a", "something"))
    shown = board.shown()
    assert (shown["slides"], shown["slides_ended"]) == (3, 2)
    assert shown["statuses"] == {"partial": 1, "failed": 1}
    assert shown["grades"] == {"Good": 1}
    assert [(row["slide"], row["outcome"]) for row in shown["rows"]] == [
        ("a", "tiles"),
        ("c", "failed: no image"),
        ("b", "Good, partial"),
    ]
    assert json.loads(json.dumps(shown)) == shown


def test_a_board_stays_small_and_begins_again() -> None:
    board = Board()
    board.hear(Started(10_000))
    for number in range(10_000):
        board.hear(Begun(str(number), 1))
        board.hear(TilesDone(str(number), 1, 1, 1, 1))
        board.hear(SlideEnded(str(number), record("complete")))
    assert board.shown()["slides_ended"] == 10_000
    assert len(json.dumps(board.shown())) < 10_000
    board.hear(Started(1))
    assert board.shown()["tiles_total"] == 0
